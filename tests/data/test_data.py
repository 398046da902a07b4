"""What the built-in sets hold, what a user's file becomes, what is refused and in which words."""

import functools
import gzip
import hashlib
import io
import logging
import socket
import struct
import threading
import zipfile
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from allegory.data import binarize, builtin, cave, choose_likelihood, splits, to_binary
from allegory.tabular import Schema

SHARED = Path(__file__).parents[3] / "shared" / "data"
real = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the real files in ../shared/data")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache of each test's own: the user's is never touched."""
    monkeypatch.setenv("ALLEGORY_DATA", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return tmp_path / "cache"


@pytest.fixture
def shared(monkeypatch):
    monkeypatch.setenv("ALLEGORY_DATA", str(SHARED))


@pytest.fixture
def server(tmp_path):
    """A web server of the folder `root`; `asked` lists the paths that were asked for."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    root = tmp_path / "web"
    root.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(root))) as web:
        thread = threading.Thread(target=web.serve_forever, args=(0.01,))
        thread.start()
        web.root, web.asked, web.url = root, asked, f"http://127.0.0.1:{web.server_port}/"
        yield web
        web.shutdown()
        thread.join()


@pytest.fixture
def dead_url():
    """An address where nobody answers."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{unheard.getsockname()[1]}/"


@pytest.fixture
def stub(monkeypatch):
    """Replace fields of a row of the table."""

    def replace(name, **fields):
        table = [row._replace(**fields) if row.name == name else row for row in builtin.BUILTIN]
        monkeypatch.setattr(builtin, "BUILTIN", tuple(table))
        return next(row for row in table if row.name == name)

    return replace


@functools.lru_cache(maxsize=2)
def loaded(name, dynamic=False):
    """A real set, loaded once for all tests; to be used with `shared` only."""
    return splits.load(name, dynamic=dynamic)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def refusal(call, *args, **kwargs):
    """The one line in which a ValueError says why."""
    with pytest.raises(ValueError, match=r"^[^\n]+\Z") as caught:
        call(*args, **kwargs)
    return str(caught.value)


def save(path, array):
    np.save(path, array)
    return path


def draw_image(path, values, **options):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path, **options)
    return path


# The built-in sets.


@real
@pytest.mark.parametrize("row", [row for row in builtin.BUILTIN if row.name != "cave"])
def test_a_builtin_has_the_shape_and_splits_of_its_row(shared, row):
    d = loaded(row.name)
    assert (d.name, d.dynamic, d.event_shape) == (row.name, False, row.shape)
    for x, count in zip((d.train, d.valid, d.test), row.splits, strict=True):
        assert x.shape == (count, *row.shape)
        assert x.dtype == torch.float32


def test_digits_are_all_there_once_in_17_levels():
    from sklearn.datasets import load_digits

    d = splits.load("digits")
    x = torch.cat([d.train, d.valid, d.test]).flatten(1).numpy()
    theirs = load_digits().images.reshape(-1, 64)
    assert np.array_equal(x[np.lexsort(x.T)], theirs[np.lexsort(theirs.T)])
    assert x.max() == 16
    assert not np.array_equal(x, theirs)  # shuffled: digits come from 43 writers, in turn
    assert choose_likelihood(d.train)[0] == "categorical"


def test_builtin_splits_ignore_the_seed_and_repeat():
    a, b = splits.load("digits", seed=0), splits.load("digits", seed=1)
    assert torch.equal(a.train, b.train)
    assert torch.equal(a.test, b.test)
    assert torch.equal(splits.read("digits"), a.test)


def test_cave_splits_are_different_drawings_and_not_those_of_the_default_seed(monkeypatch):
    draw, asked = cave.draw, []

    def few(count, resolution, seed):
        asked.append((count, resolution, seed))
        return draw(4, resolution=resolution, seed=seed)

    monkeypatch.setattr(cave, "draw", few)
    d = splits.load("cave")
    assert [count for count, _, _ in asked] == [50_000, 10_000, 10_000]
    assert len({seed for *_, seed in asked} | {0}) == 4
    assert d.event_shape == (1, 28, 28)
    assert d.train.dtype == torch.float32
    images = [d.train, d.valid, d.test, draw(4).images]
    assert all(not torch.equal(a, b) for i, a in enumerate(images) for b in images[:i])
    assert choose_likelihood(d.train)[0] == "bernoulli"


@real
def test_mnist_is_mnist(shared):
    d = loaded("mnist")
    x = torch.cat([d.train, d.valid]) / 255
    assert x.mean() == pytest.approx(0.1307, abs=5e-5)
    assert x.double().std() == pytest.approx(0.3081, abs=5e-5)
    raw = torch.cat([d.train, d.valid]).to(torch.uint8).numpy().tobytes()
    header = struct.pack(">4i", 2051, 60000, 28, 28)
    assert hashlib.md5(header + raw).hexdigest() == "6bbc9ace898e44ae57da46a324031adb"
    assert choose_likelihood(d.train)[0] == "discretized_logistic"


@real
def test_fashion_mnist_is_fashion_mnist(shared):
    d = loaded("fashion-mnist")
    labels = np.frombuffer(
        gzip.decompress((SHARED / "fashion_mnist/t10k-labels-idx1-ubyte.gz").read_bytes()),
        np.uint8,
        offset=8,
    )
    trousers, bags = d.test[labels == 1].mean(0)[0], d.test[labels == 8].mean(0)[0]
    # Upright trousers leave a gap between the legs at the bottom; a bag fills its lower half.
    assert trousers[24, 13:15].mean() < 0.5 * trousers[5, 13:15].mean()
    assert bags[16:24, 4:24].mean() > 100


@real
def test_binarized_mnist_has_the_fractions_of_ones_and_is_sorted_by_digit(shared):
    d = loaded("binarized-mnist")
    for x, ones in ((d.train, 0.13056), (d.valid, 0.13113), (d.test, 0.13251)):
        assert x.mean().item() == pytest.approx(ones, abs=5e-6)
        assert ((x == 0) | (x == 1)).all()
    labels = np.frombuffer(
        gzip.decompress((SHARED / "mnist/t10k-labels-idx1-ubyte.gz").read_bytes()),
        np.uint8,
        offset=8,
    )
    grey = loaded("mnist").test[torch.from_numpy(np.argsort(labels, kind="stable"))]
    assert (labels == 0).sum() == 980
    assert d.test[grey == 0].sum() == 0  # pixel by pixel the binarisation of these very images
    assert d.test[grey == 255].mean() == 1


@real
def test_omniglot_is_split_by_drawer(shared):
    d = loaded("omniglot")
    with np.load(SHARED / "omniglot/omniglot_28x28.npz") as z:
        images, drawer, alphabet = z["images"], z["drawer"], z["alphabet_names"][z["alphabet"]]

    def bag(x):
        return sorted(np.asarray(x, np.uint8).reshape(-1, 784).view("S784").ravel().tolist())

    assert bag(torch.cat([d.train, d.valid])) == bag(images[drawer <= 15])
    held_out = (drawer > 15) & ~((drawer == 20) & (alphabet == "Glagolitic"))
    assert np.array_equal(d.test[:, 0].numpy(), images[held_out])
    assert d.train.mean() / 255 == pytest.approx(0.0805, abs=1e-3)
    # Not the first or last alphabets, but some of all: the means agree where an alphabet's do not.
    assert d.valid.mean() == pytest.approx(d.train.mean().item(), rel=0.02)


@real
@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "omniglot"])
def test_dynamic_binarises_valid_then_test_once_by_seed_777(shared, name):
    d, grey = loaded(name, dynamic=True), loaded(name)
    assert d.dynamic
    assert torch.equal(d.train, grey.train / 255)
    held = np.concatenate([grey.valid.numpy(), grey.test.numpy()]) / np.float32(255)
    drawn = np.random.RandomState(777).binomial(1, held)
    assert np.array_equal(torch.cat([d.valid, d.test]).numpy(), drawn)
    assert d.test.dtype == torch.float32
    assert torch.equal(splits.read(name, dynamic=True), d.test)


@pytest.mark.parametrize("name", ["digits", "cave", "binarized-mnist"])
def test_dynamic_is_refused_where_it_means_nothing(name, tmp_path):
    assert "mnist, fashion-mnist, omniglot only" in refusal(splits.load, name, dynamic=True)
    path = save(tmp_path / "x.npy", np.random.default_rng(0).random((9, 4)))
    assert "mnist, fashion-mnist, omniglot only" in refusal(splits.load, path, dynamic=True)
    assert "mnist, fashion-mnist, omniglot only" in refusal(splits.read, path, dynamic=True)


@real
def test_the_shared_cache_is_only_read(shared):
    def state():
        return {path: path.stat().st_mtime_ns for path in SHARED.rglob("*")}

    before = state()
    for name in ("mnist", "fashion-mnist", "binarized-mnist", "omniglot"):
        assert builtin.cached(name)
        splits.load(name)
    assert state() == before


@real
def test_checksums_of_the_table_are_those_of_the_readme():
    readme = (SHARED / "README.md").read_text()
    for row in builtin.BUILTIN:
        for file, checksum in row.files:
            assert file in readme
            assert checksum in readme or row.name == "omniglot"
    rows = {row.name: row for row in builtin.BUILTIN}
    for name in ("mnist", "fashion-mnist"):
        files = [rows[name].folder.name + "/" + file for file, _ in rows[name].files]
        assert rows[name].size == sum((SHARED / file).stat().st_size for file in files)
    assert rows["binarized-mnist"].size == 70_000 * 784 * 2


def test_the_table():
    assert [row.name for row in builtin.BUILTIN if row.embedded] == ["digits", "cave"]
    assert builtin.cached("digits")
    assert not builtin.cached("mnist")
    assert not builtin.cached("omniglot")
    for row in builtin.BUILTIN:
        assert row.licence
        assert row.source
        assert sum(row.splits)
        assert row.embedded == (row.size == 0)
    assert "did you mean 'mnist'" in refusal(builtin.cached, "mnits")


def test_cache_folder(monkeypatch, tmp_path):
    row = next(row for row in builtin.BUILTIN if row.name == "fashion-mnist")
    assert row.folder == tmp_path / "cache" / "fashion_mnist"
    monkeypatch.setenv("ALLEGORY_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    assert row.folder.parent.name == "allegory"
    assert row.folder != Path("fashion_mnist")


# Downloads.


def idx(images):
    header = struct.pack(">4i", 2051, *images.shape)
    return gzip.compress(header + images.tobytes())


@pytest.fixture
def tiny_mnist(server, stub):
    """mnist with 5 + 2 and 3 images, on the server alone."""
    images = np.random.RandomState(0).randint(0, 256, (10, 28, 28), np.uint8)
    contents = {"train.gz": idx(images[:7]), "test.gz": idx(images[7:])}
    for file, content in contents.items():
        (server.root / file).write_bytes(content)
    files = tuple((file, sha256(content)) for file, content in contents.items())
    stub("mnist", urls=(server.url,), files=files, splits=(5, 2, 3))
    return images


def test_download_once(tiny_mnist, server, cache, capfd, caplog):
    caplog.set_level(logging.DEBUG, logger="pooch")
    for _ in range(2):
        d = splits.load("mnist")
        x = torch.cat([d.train, d.valid, d.test])[:, 0].numpy()
        assert np.array_equal(x, tiny_mnist)
        assert len(d.valid) == 2
    assert [line for line in server.asked if line != "/"] == ["/train.gz", "/test.gz"]
    assert builtin.cached("mnist")
    assert sorted(file.name for file in (cache / "mnist").iterdir()) == ["test.gz", "train.gz"]
    assert (cache / "mnist/train.gz").stat().st_mode & 0o044  # others may share the cache
    assert capfd.readouterr() == ("", "")


def test_download_goes_on_to_the_next_address(tiny_mnist, server, stub, dead_url, tmp_path):
    (server.root / "bad").mkdir()
    for file in ("train.gz", "test.gz"):
        (server.root / "bad" / file).write_bytes(b"<html>please log in</html>")
    urls = (dead_url, server.url + "absent/", server.url + "bad/", server.url)
    stub("mnist", urls=urls)
    assert len(splits.load("mnist").train) == 5
    assert "/bad/train.gz" in server.asked


def test_no_network_says_which_file_to_put_where(tiny_mnist, server, stub, dead_url, cache):
    stub("mnist", urls=(dead_url, server.url + "absent/"))
    message = refusal(splits.load, "mnist")
    assert "ConnectionError" in message
    assert "HTTPError" in message
    assert "fetch train.gz, test.gz by hand" in message
    assert dead_url in message
    assert str(cache / "mnist") in message
    assert list((cache / "mnist").iterdir()) == []
    # Done as told, it works.
    for file in ("train.gz", "test.gz"):
        (cache / "mnist" / file).write_bytes((server.root / file).read_bytes())
    assert len(splits.load("mnist").test) == 3


def test_wrong_content_is_not_kept(tiny_mnist, server, cache):
    (server.root / "train.gz").write_bytes(b"another")
    assert "wrong checksum" in refusal(splits.load, "mnist")
    assert list((cache / "mnist").iterdir()) == []


def test_damaged_file_is_named_with_both_checksums(tiny_mnist, server, cache):
    splits.load("mnist")
    asked = len(server.asked)
    path = cache / "mnist" / "test.gz"
    good = path.read_bytes()
    path.write_bytes(good[:-1])
    message = refusal(splits.load, "mnist")
    assert str(path) in message
    assert sha256(good) in message
    assert sha256(good[:-1]) in message
    assert "delete it" in message
    assert len(server.asked) == asked
    path.unlink()
    assert len(splits.load("mnist").test) == 3


def test_a_cache_that_cannot_be_written_to(tiny_mnist, monkeypatch, tmp_path):
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("ALLEGORY_DATA", str(file))
    message = refusal(splits.load, "mnist")
    assert str(file / "mnist") in message
    assert "ALLEGORY_DATA" in message
    monkeypatch.setenv("ALLEGORY_DATA", str(tmp_path))
    monkeypatch.setattr(builtin.os, "access", lambda *args: False)
    assert "Permission denied" in refusal(splits.load, "mnist")


@pytest.fixture
def tiny_binarized(server, stub):
    """binarized-mnist with 4, 2 and 3 images, as text on the server."""
    bits = np.random.RandomState(0).randint(0, 2, (9, 784))
    splits = dict(zip(("train", "valid", "test"), np.split(bits, [4, 6]), strict=True))
    files = []
    for split, rows in splits.items():
        text = "".join(" ".join(map(str, row)) + "\n" for row in rows).encode()
        (server.root / f"{split}.amat").write_bytes(text)
        files.append((f"{split}.amat", sha256(text)))
    arrays = {split: np.packbits(x.astype(np.uint8), axis=1) for split, x in splits.items()}
    packed = ("binarized_mnist.npz", builtin._digest(arrays))
    stub("binarized-mnist", urls=(server.url,), files=tuple(files), packed=packed)
    return bits


def test_amat_files_are_packed_and_go(tiny_binarized, server, cache):
    for _ in range(2):
        d = splits.load("binarized-mnist")
        x = torch.cat([d.train, d.valid, d.test]).flatten(1).numpy()
        assert np.array_equal(x, tiny_binarized)
        assert (len(d.train), len(d.test)) == (4, 3)
    assert len([line for line in server.asked if line != "/"]) == 3
    assert [file.name for file in cache.rglob("*.*")] == ["binarized_mnist.npz"]


def test_amat_files_put_there_by_hand_stay(tiny_binarized, server, stub, dead_url, cache):
    stub("binarized-mnist", urls=(dead_url,))
    (cache / "binarized_mnist").mkdir(parents=True)
    for path in server.root.iterdir():
        (cache / "binarized_mnist" / path.name).write_bytes(path.read_bytes())
    assert not builtin.cached("binarized-mnist")
    assert len(splits.load("binarized-mnist").train) == 4
    assert builtin.cached("binarized-mnist")
    assert len(list((cache / "binarized_mnist").iterdir())) == 4


def test_packing_is_whole_or_not_at_all(tiny_binarized, cache, monkeypatch):
    def killed(stream, **arrays):
        stream.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", killed)
        with pytest.raises(KeyboardInterrupt):
            splits.load("binarized-mnist")
    assert not any(file.name.startswith("binarized") for file in cache.rglob("*.*"))
    assert len(splits.load("binarized-mnist").train) == 4


def test_packed_arrays_are_checked(tiny_binarized, stub, cache):
    path = cache / "binarized_mnist" / "binarized_mnist.npz"
    splits.load("binarized-mnist")
    with np.load(path) as z:
        arrays = dict(z)
    np.savez(path, **arrays)  # another file, the same content
    splits.load("binarized-mnist")
    arrays["test"][0, 0] ^= 1
    np.savez(path, **arrays)
    message = refusal(splits.load, "binarized-mnist")
    assert str(path) in message
    assert "sha256" in message
    assert "delete it" in message
    path.write_bytes(path.read_bytes()[:-100])
    message = refusal(splits.load, "binarized-mnist")
    assert f"{path}: cannot be read" in message
    assert "delete it" in message
    path.unlink()
    row = stub("binarized-mnist", packed=("binarized_mnist.npz", 64 * "0"))
    assert "report it" in refusal(splits.load, "binarized-mnist")
    assert not (row.folder / row.packed[0]).exists()


def test_omniglot_is_rendered_by_exact_area_average(server, stub, cache):
    random = np.random.RandomState(0)
    shown = []
    files = []
    for evaluation, (stem, alphabets) in enumerate(
        {"images_background": ["Greek", "Braille"], "images_evaluation": ["Glagolitic"]}.items()
    ):
        with zipfile.ZipFile(server.root / f"{stem}.zip", "w") as archive:
            archive.writestr(f"{stem}/", "")
            archive.writestr(f"{stem}/.DS_Store", "")
            for name in alphabets:
                for character in (1, 2):
                    for drawer in (20, 3, 16):
                        paper = random.rand(105, 105) < 0.8
                        buffer = io.BytesIO()
                        Image.fromarray(paper).save(buffer, "png")
                        identity = 700 + 10 * evaluation + character
                        file = f"{stem}/{name}/character{character:02}/{identity:04}_{drawer:02}.png"
                        archive.writestr(file, buffer.getvalue())
                        shown.append((evaluation, name, character, drawer, identity, paper))
        content = (server.root / f"{stem}.zip").read_bytes()
        files.append((f"{stem}.zip", sha256(content)))
    shown.sort(key=lambda row: row[:4])
    images = []
    for *_, paper in shown:
        # Each original pixel as 4 x 4 small ones, each new pixel the mean of 15 x 15 of them.
        fine = np.kron(~paper, np.ones((4, 4)))
        images.append(np.rint(fine.reshape(28, 15, 28, 15).mean((1, 3)) * 255))
    names = ["Braille", "Greek", "Glagolitic"]
    arrays = {
        "images": np.array(images, np.uint8),
        "evaluation": np.array([row[0] for row in shown], bool),
        "alphabet": np.array([names.index(row[1]) for row in shown], np.uint8),
        "character": np.array([row[2] for row in shown], np.uint8),
        "character_id": np.array([row[4] for row in shown], np.uint16),
        "drawer": np.array([row[3] for row in shown], np.uint8),
        "alphabet_names": np.array(names),
    }
    packed = ("omniglot_28x28.npz", builtin._digest(arrays))
    stub("omniglot", urls=(server.url,), files=tuple(files), packed=packed, splits=(4, 2, 10))
    d = splits.load("omniglot")
    assert (len(d.train), len(d.valid), len(d.test)) == (4, 2, 10)
    assert [file.name for file in cache.rglob("*.*")] == ["omniglot_28x28.npz"]
    with np.load(cache / "omniglot" / "omniglot_28x28.npz") as z:
        for name, array in arrays.items():
            assert np.array_equal(z[name], array), name
    if SHARED.is_dir():
        with np.load(SHARED / "omniglot" / "omniglot_28x28.npz") as z:
            assert set(z) == set(arrays)
            for name, array in arrays.items():
                assert z[name].dtype.kind == array.dtype.kind
                assert z[name].dtype == array.dtype or array.dtype.kind == "U"


# The user's files.


def test_npy_is_shuffled_and_split_80_10_10_by_seed(tmp_path):
    x = np.arange(200.0).reshape(100, 2)
    path = save(tmp_path / "x.npy", x)
    d = splits.load(path, seed=3)
    assert (len(d.train), len(d.valid), len(d.test)) == (80, 10, 10)
    assert d.event_shape == (2,)
    assert d.train.dtype == torch.float32
    assert d.name == str(path)
    rows = torch.cat([d.train, d.valid, d.test])
    assert not torch.equal(rows, torch.from_numpy(x).float())
    assert torch.equal(rows[rows[:, 0].argsort()], torch.from_numpy(x).float())
    assert torch.equal(splits.load(str(path), seed=3).test, d.test)
    assert not torch.equal(splits.load(path, seed=4).test, d.test)
    assert torch.equal(splits.read(path), torch.from_numpy(x).float())


@pytest.mark.parametrize("count", [3, 4, 5, 9, 14, 15, 25])
def test_each_split_has_an_example(tmp_path, count):
    d = splits.load(save(tmp_path / "x.npy", np.arange(count)[:, None]))
    sizes = len(d.train), len(d.valid), len(d.test)
    assert sum(sizes) == count
    assert sizes[1] == sizes[2] == max(1, round(count / 10))
    assert sorted(torch.cat([d.train, d.valid, d.test]).ravel().tolist()) == list(range(count))


def test_npz_with_three_splits_is_taken_as_it_is(tmp_path):
    x = np.random.default_rng(0).random((12, 2, 3))
    np.savez(tmp_path / "x.npz", test=x[9:], valid=x[7:9], train=np.asfortranarray(x[:7]))
    d = splits.load(tmp_path / "x.npz")
    assert d.train.is_contiguous()
    assert torch.equal(torch.cat([d.train, d.valid, d.test]), torch.from_numpy(x).float())
    assert (len(d.train), len(d.valid), len(d.test)) == (7, 2, 3)
    assert torch.equal(splits.read(tmp_path / "x.npz"), torch.from_numpy(x).float())


def test_npz_with_two_splits_gives_a_tenth_of_train_to_valid(tmp_path):
    x = np.arange(50.0)[:, None]
    np.savez(tmp_path / "x.npz", train=x[:40], test=x[40:])
    d = splits.load(tmp_path / "x.npz", seed=1)
    assert (len(d.train), len(d.valid), len(d.test)) == (36, 4, 10)
    assert torch.equal(d.test.double(), torch.from_numpy(x[40:]))
    assert sorted(torch.cat([d.train, d.valid]).ravel().tolist()) == list(range(40))
    assert not torch.equal(splits.load(tmp_path / "x.npz", seed=2).valid, d.valid)


def test_npz_with_one_array_is_split_like_npy(tmp_path):
    x = np.random.default_rng(0).random((30, 4))
    np.savez_compressed(tmp_path / "x.npz", anything=x)
    a, b = splits.load(tmp_path / "x.npz"), splits.load(save(tmp_path / "x.npy", x))
    assert torch.equal(a.train, b.train)
    assert torch.equal(a.test, b.test)


@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "<i8", ">i4", "f2", "<f4", ">f8", "g"])
def test_values_stay_in_the_users_units(tmp_path, dtype):
    x = np.asfortranarray((np.random.default_rng(0).random((9, 3, 2)) * 100).astype(dtype))
    read = splits.read(save(tmp_path / "x.npy", x))
    assert np.array_equal(read.numpy(), x.astype(np.float32))
    assert read.is_contiguous()


def test_whole_numbers_survive_up_to_the_limit_of_float32(tmp_path):
    x = np.array([[2**24], [-(2**24)], [2**24 - 1]])
    assert splits.read(save(tmp_path / "x.npy", x)).ravel().tolist() == x.ravel().tolist()


def test_a_folder_of_grey_images_is_read_in_the_order_of_names(tmp_path):
    x = np.random.RandomState(0).randint(0, 256, (6, 5, 4), np.uint8)
    names = ["b.PNG", "a.bmp", "d.png", "c.gif", "e.webp", "f.png"]
    for name, image in zip(names, x, strict=True):
        draw_image(tmp_path / "scans" / name, image, **({"lossless": True} if "w" in name else {}))
    (tmp_path / "scans" / "notes.txt").write_text("not an image")
    (tmp_path / "scans" / "._a.png").write_text("not an image")
    with pytest.warns(UserWarning, match=r"scans: 6 images taken; left out: 1 \.txt$"):
        read = splits.read(str(tmp_path / "scans"))
    assert np.array_equal(read.numpy(), x[[1, 0, 3, 2, 4, 5], None])
    (tmp_path / "scans" / "notes.txt").unlink()
    d = splits.load(tmp_path / "scans")
    assert d.event_shape == (1, 5, 4)
    assert (len(d.train), len(d.test)) == (4, 1)


def test_a_folder_with_colour_is_colour(tmp_path):
    x = np.random.RandomState(0).randint(0, 256, (5, 6, 3), np.uint8)
    draw_image(tmp_path / "scans" / "a.png", x)
    draw_image(tmp_path / "scans" / "b.png", x[..., 0])
    read = splits.read(tmp_path / "scans").numpy()
    assert np.array_equal(read[0], x.transpose(2, 0, 1))
    assert np.array_equal(read[1], np.stack(3 * [x[..., 0]]))


def test_one_bit_palette_and_turned_images(tmp_path):
    bits = np.random.RandomState(0).rand(4, 6) < 0.5
    folder = tmp_path / "scans"
    folder.mkdir()
    Image.fromarray(bits).save(folder / "a.png")
    Image.fromarray(bits).convert("P").save(folder / "b.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: to be shown turned to the right
    Image.fromarray(np.rot90(bits)).save(folder / "c.png", exif=exif)
    read = splits.read(folder)
    assert np.array_equal(read.numpy(), np.stack(3 * [bits])[:, None] * 255)
    assert choose_likelihood(read)[0] == "bernoulli"
    assert torch.equal(to_binary(read)[0, 0].bool(), torch.from_numpy(bits))


def write(path, content):
    path.write_bytes(content)
    return path


def folder_of(path, *images):
    for i, image in enumerate(images):
        draw_image(path / f"{i}.png", image)
    path.mkdir(exist_ok=True)
    return path


def npz(path, cut=0, **arrays):
    np.savez(path, **arrays)
    return write(path, path.read_bytes()[: -cut or None])


def with_bad(*bad):
    x = np.zeros((4, 2, 3))
    for row, value in bad:
        x[row, 1, 2] = value
    return x


def damaged_image(path):
    draw_image(path / "a.png", np.random.default_rng(0).random((30, 30)) * 255)
    write(path / "a.png", (path / "a.png").read_bytes()[:300])
    return path


def transparent_image(path):
    path.mkdir()
    Image.new("RGBA", (3, 3), (9, 9, 9, 100)).save(path / "a.png")
    return path


def deep_image(path):
    path.mkdir()
    Image.fromarray(np.full((3, 3), 1000, np.int32)).save(path / "a.tif")
    return path


ok = np.zeros((5, 2))
MISTAKES = {
    "missing file": (lambda p: p / "no.npy", "no.npy: no such file or folder; wanted"),
    "missing folder": (lambda p: f"{p}/scans", "scans: no such file or folder; wanted"),
    "file as folder": (lambda p: write(p / "x", b"") / "y.npy", "y.npy: cannot be read"),
    "text": (lambda p: write(p / "x.npy", b"1 2 3\n4 5 6\n"), "x.npy: cannot be read (not a numpy"),
    "nothing": (lambda p: write(p / "x.npy", b""), "x.npy: cannot be read (not a numpy file)"),
    "csv": (
        lambda p: write(p / "x.csv", b"1,2\n3,4\n"),
        "x.csv: its first line has numbers alone, 1, 2, where the names of the columns are wanted",
    ),
    "pickle": (lambda p: write(p / "x.npy", b"\x80\x04N."), "not a numpy file"),
    "objects": (
        lambda p: save(p / "x.npy", np.array([[{}], [1]], object)),
        "Python objects, which are never loaded",
    ),
    "objects in npz": (
        lambda p: npz(p / "x.npz", train=ok, test=np.array([[{}], [1]], object)),
        "Python objects, which are never loaded",
    ),
    "cut npy": (
        lambda p: write(save(p / "x.npy", ok), (p / "x.npy").read_bytes()[:-9]),
        "cannot be",
    ),
    "cut header": (
        lambda p: write(save(p / "x.npy", ok), (p / "x.npy").read_bytes()[:40]),
        "cannot",
    ),
    "cut npz": (lambda p: npz(p / "x.npz", cut=50, train=ok, test=ok), "x.npz: cannot be read"),
    "flipped npz": (
        lambda p: write(p / "x.npz", npz(p / "x.npz", x=ok).read_bytes().replace(8 * b"\0", 8 * b"\1")),
        "x.npz: cannot be read",
    ),
    "empty npz": (lambda p: npz(p / "x.npz"), "0 arrays (none); wanted train, valid, test"),
    "other names": (lambda p: npz(p / "x.npz", a=ok, b=ok), "2 arrays (a, b); wanted train"),
    "two arrays for one split": (
        lambda p: npz(p / "x.npz", train=ok, val=ok, valid=ok, test=ok),
        "x.npz: val and valid mean one split; wanted one of them",
    ),
    "no test": (lambda p: npz(p / "x.npz", train=ok, valid=ok), "2 arrays (train, valid)"),
    "no rows": (lambda p: save(p / "x.npy", np.zeros((0, 4))), "empty, shape (0, 4)"),
    "no columns": (lambda p: save(p / "x.npy", np.zeros((4, 0))), "empty, shape (4, 0)"),
    "empty split": (
        lambda p: npz(p / "x.npz", train=ok, valid=ok[:0], test=ok),
        "x.npz, valid: empty, shape (0, 2)",
    ),
    "infinity": (
        lambda p: save(p / "x.npy", with_bad((2, np.nan), (3, np.inf))),
        "x.npy: infinity in 1 of 24 values, the first in row 3, index 1, 2;",
    ),
    "infinity in a split": (
        lambda p: npz(p / "x.npz", train=ok, test=np.array([[0, 1], [2, -np.inf]])),
        "x.npz, test: infinity in 1 of 4 values, the first in row 1, column 1;",
    ),
    "no axis": (lambda p: save(p / "x.npy", np.float64(3)), "shape (); wanted (examples, values"),
    "one axis": (lambda p: save(p / "x.npy", np.zeros(7)), "shape (7,); wanted (examples, values"),
    "one axis, what to do": (lambda p: save(p / "x.npy", np.zeros(7)), "reshape it to (7, 1)"),
    "event shapes": (
        lambda p: npz(p / "x.npz", train=ok, valid=ok, test=np.zeros((5, 3))),
        "shape (2,) in train, (3,) in test",
    ),
    "complex": (lambda p: save(p / "x.npy", ok + 1j), "values of type complex128; wanted real"),
    "strings": (lambda p: save(p / "x.npy", ok.astype(str)), "values of type <U32; wanted real"),
    "dates": (lambda p: save(p / "x.npy", ok.astype("M8[s]")), "values of type datetime64[s]"),
    "records": (lambda p: save(p / "x.npy", np.zeros((3, 2), "f4,i4")), "wanted real numbers"),
    "large integers": (
        lambda p: save(p / "x.npy", np.array([[2**24 + 1], [0], [0]])),
        "which float32 cannot hold (limit 1.67772e+07); rescale",
    ),
    "very negative integers": (
        lambda p: save(p / "x.npy", np.array([[-(2**63)], [0], [0]])),
        "which float32 cannot hold",
    ),
    "large reals": (
        lambda p: save(p / "x.npy", np.array([[-1e39], [0], [0]])),
        "up to 1e+39, which float32 cannot hold (limit 3.40282e+38)",
    ),
    "one example": (
        lambda p: save(p / "x.npy", ok[:1]),
        "cannot split 1 example in 3; wanted more",
    ),
    "two examples": (lambda p: save(p / "x.npy", ok[:2]), "cannot split 2 examples in 3"),
    "one to train": (
        lambda p: npz(p / "x.npz", train=ok[:1], test=ok),
        "x.npz, train: cannot split 1 example in 2",
    ),
    "no images": (lambda p: folder_of(p / "scans"), "scans: no images in this folder"),
    "sizes": (
        lambda p: folder_of(p / "scans", np.zeros((4, 6)), np.zeros((4, 6)), np.zeros((5, 6))),
        "images of different sizes: 2 of 6 x 4 (0.png, ...), 1 of 6 x 5 (2.png); wanted one size: --size 6,4",
    ),
    "text as image": (
        lambda p: write(folder_of(p / "scans") / "a.png", b"text").parent,
        "a.png: cannot be read",
    ),
    "cut image": (lambda p: damaged_image(p / "scans"), "a.png: cannot be read"),
    "transparent": (lambda p: transparent_image(p / "scans"), "a.png: cannot be read (some of its"),
    "32 bits": (lambda p: deep_image(p / "scans"), "not whole numbers of 8 or 16 bits, mode I: save them as .npy"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(tmp_path, mistake):
    build, told = MISTAKES[mistake]
    source = build(tmp_path)
    message = refusal(splits.load, source)
    assert told in message
    assert str(tmp_path) in message
    if "split" not in told:
        assert refusal(splits.read, source) == message


def test_no_permission_to_read(tmp_path, monkeypatch):
    path = save(tmp_path / "x.npy", ok)

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied", str(path))

    for method in ("open", "stat"):  # root may read all, so chmod would not do
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, refuse)
            message = refusal(splits.load, path)
        assert message.startswith(f"{path}: cannot be read (Permission denied)")


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("mnits", "'mnist'"), ("MNIST", "'mnist'"), ("binarised-mnist", "'binarized-mnist'")],
)
def test_unknown_name_gets_the_nearest(name, nearest):
    for call in (splits.load, splits.read, functools.partial(splits.load, dynamic=True)):
        message = refusal(call, name)
        assert f"unknown data {name!r}: did you mean {nearest}?" in message
        assert all(row.name in message for row in builtin.BUILTIN)
    assert "did you mean" not in refusal(splits.load, "qqqqqq")


def test_a_folder_of_a_builtin_name_is_reached_by_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / "digits", *np.zeros((3, 2, 2)))
    folder_of(tmp_path / "scans", *np.zeros((3, 2, 2)))
    assert splits.load("digits").event_shape == (1, 8, 8)
    for source in ("./digits/", Path("digits"), "scans"):
        assert splits.load(source).event_shape in {(1, 2, 2), (1, 8, 8)}
    assert splits.load(Path("digits")).event_shape == (1, 2, 2)
    assert splits.load("scans").event_shape == (1, 2, 2)


# Values.


def test_binarize_draws_anew_with_the_right_mean():
    torch.manual_seed(0)
    grey = torch.tensor([0.0, 0.1, 0.5, 1.0]).expand(20_000, 4)
    a, b = binarize(grey), binarize(grey)
    assert set(a.unique().tolist()) == {0, 1}
    assert not torch.equal(a, b)
    assert a.dtype == grey.dtype
    assert a.shape == grey.shape
    assert torch.allclose(a.mean(0), grey[0], atol=0.015)
    assert (a[:, 0] == 0).all()
    assert (a[:, 3] == 1).all()


@pytest.mark.parametrize(
    ("values", "name", "why"),
    [
        ([0, 1], "bernoulli", "0 and 1"),
        ([0, 0], "bernoulli", "0 and 1"),
        ([0, 255], "bernoulli", "0 and 255, taken as 0 and 1"),
        ([-1, 1], "bernoulli", "-1 and 1"),
        ([0.25, 0.75], "bernoulli", "0.25 and 0.75"),
        ([0, 1, 2], "categorical", "3 levels"),
        ([0, 1, 16], "categorical", "17 levels"),
        ([3, 4, 31], "categorical", "32 levels"),
        ([0, 1, 32], "discretized_logistic", "0..32"),
        ([7, 8, 255], "discretized_logistic", "7..255"),
        ([0, 1, 256], "negative_binomial", "whole numbers 0..256 that vary as counts do"),
        ([0, 1, 4095], "negative_binomial", "whole numbers 0..4,095"),
        ([1950, 1980, 2023], "normal", "whole numbers 1,950..2,023, which vary less than counts do"),
        ([-1, 0, 1], "categorical", "-1..1, 3 levels"),
        ([-1, 0, 31], "normal", "whole numbers -1..31; add 1 to score them as levels"),
        ([-1, 0.5, 1], "normal", "-1 to 1"),
        ([-500, 0, 300], "normal", "whole numbers -500..300"),
        ([0, 0.5, 1], "normal", "0 to 1"),
        ([0, 0.5, 2], "normal", "0 to 2"),
        ([0.3, 0.3], "normal", "0.3 to 0.3"),
    ],
)
def test_choose_likelihood(values, name, why):
    x = torch.tensor(values, dtype=torch.float32)[:, None, None]
    chosen, reason = choose_likelihood(x)
    assert chosen == name
    assert why in reason
    assert "\n" not in reason
    assert "255: multiply" not in reason
    gaps = torch.cat([torch.full_like(x[:1], torch.nan), x])
    assert choose_likelihood(gaps)[0] == name


def test_vectors_of_whole_numbers_that_are_no_levels_are_columns():
    rng = np.random.default_rng(0)
    normal = rng.normal(size=(400, 3))
    sets = {
        "reads": (np.where(rng.random((400, 6)) < 0.8, 0, rng.negative_binomial(1, 0.002, (400, 6))), "6 count"),
        "years": (rng.integers(1950, 2024, (400, 2)), "2 count"),
        "cents": (rng.lognormal(2, 0.3, (400, 2)).round(2), "2 positive"),
        "rain": (np.where(rng.random((400, 1)) < 0.7, 0, rng.gamma(1, 6, (400, 1))), "1 positive"),
        "a flag": (np.c_[normal, rng.integers(0, 2, 400)], "3 real, 1 binary"),
        "grey / 127.5 - 1": (rng.integers(0, 256, (400, 2)) / 127.5 - 1, "2 real"),
        "a constant": (np.c_[normal, np.ones(400)], "3 real, 1 constant"),
    }
    for name, (x, kinds) in sets.items():
        chosen, why = choose_likelihood(torch.from_numpy(np.asarray(x, np.float32)))
        assert (chosen, why.split(": ")[-1]) == ("columns", kinds), name
    assert choose_likelihood(torch.from_numpy(normal))[0] == "normal"
    assert choose_likelihood(torch.randint(0, 40, (400, 3)).float())[0] == "discretized_logistic"
    counts = "for counts ask for poisson or negative_binomial"
    assert counts in choose_likelihood(torch.tensor([[0.0], [1.0], [7.0]]))[1]
    assert choose_likelihood(torch.randn(20, 300).round(decimals=2))[0] == "normal"  # too many


def test_values_with_digits_to_spare_are_taken(tmp_path):
    x = np.random.default_rng(0).normal(size=(300, 4)) * [1, 1e6, 1, 1e-8] + [0, 1e9, 1e3, 0]
    x[:, 2] = np.where(x[:, 2] > 1e3, 0.1, 0.0)  # not representable, and two values all the same
    np.save(tmp_path / "x.npy", x)
    assert splits.read(tmp_path / "x.npy").shape == (300, 4)


def test_choose_likelihood_sees_grey_levels_divided_by_255():
    levels = torch.arange(256.0)[:, None, None]
    assert "multiply by 255" in choose_likelihood(levels / 255)[1]
    assert "multiply by 255" not in choose_likelihood(levels / 300)[1]
    assert "multiply by 255" in choose_likelihood((levels / 255).half().float())[1]
    assert "multiply by 127.5" in choose_likelihood((levels / 127.5 - 1).half().float())[1]
    assert "multiply by 255" not in choose_likelihood(torch.rand(levels.shape).half().float())[1]
    assert "add 1 and multiply by 127.5" in choose_likelihood(levels / 127.5 - 1)[1]
    assert "multiply" not in choose_likelihood(levels / 130 - 1)[1]


def test_to_binary():
    x = torch.tensor([[0.0, 255.0], [255.0, 255.0]])
    assert to_binary(x).tolist() == [[0, 1], [1, 1]]
    assert to_binary(x).dtype == x.dtype
    assert to_binary(torch.tensor([-1.0, 1.0])).tolist() == [0, 1]
    for constant in (torch.zeros(3), torch.ones(3)):
        assert torch.equal(to_binary(constant), constant)
    assert to_binary(x[1], values=(0, 255)).tolist() == [1, 1]
    assert to_binary(x, values=(255, 0)).tolist() == [[1, 0], [0, 0]]
    assert "a value 7 in row 1; wanted only 0 and 255" in refusal(to_binary, torch.tensor([0.0, 7.0, 255.0]))


def test_data_shows_its_sizes_and_not_its_values():
    d = splits.Data("ours", torch.zeros(8, 2), torch.zeros(1, 2), torch.zeros(1, 2), dynamic=True)
    assert repr(d) == "Data('ours', event_shape=(2,), train=8, valid=1, test=1, dynamic=True)"
    with pytest.raises(AttributeError):
        d.name = "theirs"


def test_importing_is_light():
    import subprocess
    import sys

    code = (
        "import sys, torch; before = set(sys.modules); import allegory.data;"
        "print(sorted({m.split('.')[0] for m in set(sys.modules) - before}"
        " & {'pooch', 'PIL', 'sklearn', 'requests', 'matplotlib'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch):
    def fails(name):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("ALLEGORY_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", fails)
    assert not builtin.cached("mnist")
    with pytest.raises(ValueError, match="mnist: this user has no home to keep it in; set ALLEGORY_DATA"):
        splits.load("mnist")


def test_what_was_said_to_stand_for_gaps_and_is_nowhere_is_told(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 2))
    np.save(tmp_path / "x.npy", x)
    np.savetxt(tmp_path / "x.csv", x, "%.2f", ",", header="a,b", comments="")
    for name in ("x.npy", "x.csv"):
        with pytest.warns(UserWarning, match="gaps=-99: no value is that, and none is missing"):
            splits.load(tmp_path / name, gaps=[-99])


def test_float32_has_the_numbers_that_stand_for_gaps_only_rounded():
    x = np.arange(12, dtype=np.float32)
    for code in (-999.9, 1e20):
        x[3:5] = code
        assert Schema.infer({"a": x}, gaps=[code]).columns[0].gaps == 2


def test_vectors_of_real_numbers_are_columns_where_that_is_asked_for(tmp_path):
    x = np.random.default_rng(0).normal(size=(60, 2))
    np.save(tmp_path / "x.npy", x)
    data = splits.load(tmp_path / "x.npy")
    assert data.choose_likelihood()[0] == "normal"
    scored, about = data.scored_as("columns")
    assert [column.kind for column in scored.schema.columns] == ["real", "real"]
    assert about["likelihood"] == "columns"
