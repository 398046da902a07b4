"""The built-in data sets: their sources and their splits.

They are embedded, or drawn, or downloaded once, checked against their sha256 and cached in `ALLEGORY_DATA`, else in the
user's cache.

Protocols, train / valid / test. Numbers under different protocols never share a table.

    digits           1,197 / 300 / 300          grey levels 0..16. There is no split in the
                                                literature: this one is random, and fixed.
    cave             50,000 / 10,000 / 10,000   shadows, 0 or 1, drawn with three fixed seeds.
    mnist            50,000 / 10,000 / 10,000   grey levels 0..255; valid is the last 10,000 of the
                                                training images.
    fashion-mnist    50,000 / 10,000 / 10,000   the same.
    binarized-mnist  50,000 / 10,000 / 10,000   0 or 1: the binarisation of Salakhutdinov & Murray
                                                2008 in the split of Larochelle & Murray 2011. Test
                                                is sorted by digit: its first rows are all zeros.
    omniglot         23,000 / 1,345 / 8,070     grey levels 0..255; the sizes and drawers of Burda
                                                et al. 2016, but the exact area average of the
                                                original drawings and NOT Burda's rendering: numbers are
                                                not comparable with published OMNIGLOT ones.

`dynamic=True` (mnist, fashion-mnist, omniglot) is the protocol of Tomczak & Welling 2018: train holds grey / 255,
binarised each time an image is drawn; valid, then test, are binarised once by numpy's
RandomState(777).

Shapes: N = examples; images are (N, C, H, W) float32, C, H, W = channels, height, width.
"""

from __future__ import annotations

import difflib
import errno
import gzip
import hashlib
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from allegory.data.files import read_arrays
from allegory.data.parts import naming_errors
from allegory.data.stored import Stored
from allegory.runtime.storage import atomic_path, check_regular

__all__ = ["BUILTIN", "Builtin", "cached", "find", "load_splits", "shuffle_and_cut", "shuffled"]

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

Splits = tuple[Tensor, Tensor, Tensor]  # train, valid, test


class Builtin(NamedTuple):
    """A row of the table of built-in sets."""

    name: str
    shape: tuple[int, ...]
    splits: tuple[int, int, int]  # train, valid, test
    licence: str
    source: str
    size: int = 0  # bytes to download
    dynamic: bool = False  # whether load(name, dynamic=True) is defined
    urls: tuple[str, ...] = ()  # tried in this order, each followed by a file's name
    files: tuple[tuple[str, str], ...] = ()  # the downloads: name, sha256
    packed: tuple[str, str] | None = None  # the file kept instead: name, sha256 of its arrays

    @property
    def embedded(self) -> bool:
        """Whether it needs no download."""
        return not self.files

    @property
    def folder(self) -> Path:
        """The folder of its files: in `ALLEGORY_DATA` if that is set, else in the user's cache."""
        import pooch

        try:
            cache = Path(os.environ.get("ALLEGORY_DATA") or pooch.os_cache("allegory")).expanduser()
        except RuntimeError:  # neither HOME nor an entry of this user
            raise ValueError(
                f"{self.name}: this user has no home to keep it in; set ALLEGORY_DATA to a folder"
            ) from None
        return cache / self.name.replace("-", "_")


_MNIST_LICENCE = "not stated by its authors; commonly given as CC BY-SA 3.0"
BUILTIN = (
    Builtin(
        name="digits",
        shape=(1, 8, 8),
        splits=(1197, 300, 300),
        licence="CC BY 4.0 (UCI repository)",
        source="Alpaydin & Kaynak 1998, as in scikit-learn",
    ),
    Builtin(
        name="cave",
        shape=(1, 28, 28),
        splits=(50_000, 10_000, 10_000),
        licence="that of allegory",
        source="allegory.data.cave, drawn on the fly",
    ),
    Builtin(
        name="mnist",
        shape=(1, 28, 28),
        splits=(50_000, 10_000, 10_000),
        licence=_MNIST_LICENCE,
        source="LeCun, Cortes & Burges 1998",
        size=11_561_299,
        dynamic=True,
        urls=(
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "http://yann.lecun.com/exdb/mnist/",
        ),
        files=(
            ("train-images-idx3-ubyte.gz", "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"),
            ("t10k-images-idx3-ubyte.gz", "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"),
        ),
    ),
    Builtin(
        name="fashion-mnist",
        shape=(1, 28, 28),
        splits=(50_000, 10_000, 10_000),
        licence="MIT",
        source="Xiao, Rasul & Vollgraf 2017",
        size=30_843_982,
        dynamic=True,
        urls=(
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        files=(
            ("train-images-idx3-ubyte.gz", "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            ("t10k-images-idx3-ubyte.gz", "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
        ),
    ),
    Builtin(
        name="binarized-mnist",
        shape=(1, 28, 28),
        splits=(50_000, 10_000, 10_000),
        licence=_MNIST_LICENCE,
        source="Salakhutdinov & Murray 2008, Larochelle & Murray 2011",
        size=109_760_000,
        urls=("http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/",),
        files=(
            ("binarized_mnist_train.amat", "ad693b29f94c14277b095f5238ddefbbdaaae0939789dd2f4f0205278cee3e4d"),
            ("binarized_mnist_valid.amat", "1de3d397c40fe8eeb33dafd4099a1f665ec01e96d9be234aaeeac8a34930e2e2"),
            ("binarized_mnist_test.amat", "e6687bfea3f820c174f33b7865140b2a2dd2930ef786f35d45795fc193b5ab2c"),
        ),
        packed=("binarized_mnist.npz", "6d1f4b43487acc5d9757aa44c153f794acc688a66a8608cb44eda9c01de30854"),
    ),
    Builtin(
        name="omniglot",
        shape=(1, 28, 28),
        splits=(23_000, 1_345, 8_070),
        licence="MIT",
        source="Lake, Salakhutdinov & Tenenbaum 2015",
        size=15_927_098,
        dynamic=True,
        urls=(
            "https://raw.githubusercontent.com/brendenlake/omniglot/master/python/",
            "https://github.com/brendenlake/omniglot/raw/master/python/",
        ),
        files=(
            ("images_background.zip", "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"),
            ("images_evaluation.zip", "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"),
        ),
        packed=("omniglot_28x28.npz", "029c5cb362efd62368e207983b84aead2bdbd1a3fde126d8524a8d546ce35709"),
    ),
)
"""The built-in data sets; a row adds one."""


def cached(name: str) -> bool:
    """Whether `load(name)` needs no download: it is embedded, or its files are in the cache folder.

    Raises ValueError where `name` is not built in.

    >>> cached("digits")
    True
    """
    row = find(name)
    files = [row.packed] if row.packed else row.files
    try:
        return all((row.folder / file).exists() for file, _ in files)
    except (ValueError, OSError):  # no such folder, or one that cannot be looked into
        return False


def find(name: str) -> Builtin:
    """The row of a built-in set. Raises ValueError, with the nearest known name, if `name` is not built in."""
    for row in BUILTIN:
        if row.name == name:
            return row
    names = [row.name for row in BUILTIN]
    nearest = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f"did you mean {nearest[0]!r}? " if nearest else ""
    raise ValueError(f"unknown data {name!r}: {hint}built in are {', '.join(names)}; or give a path to your own")


def load_splits(row: Builtin, dynamic: bool) -> Splits:
    """Train, valid, test of a built-in set, each (N, C, H, W); see `allegory.data.load`."""
    match row.name:
        case "digits":
            splits = _digits(row)
        case "cave":
            splits = _cave(row)
        case "binarized-mnist":
            splits = _binarized_mnist(row)
        case "omniglot":
            splits = _omniglot(row)
        case _:
            splits = _idx_images(row)
    return _binarize_once(*splits) if dynamic else splits


def _digits(row: Builtin) -> Splits:
    from sklearn.datasets import load_digits

    x = torch.from_numpy(load_digits().images).float().unsqueeze(1)
    train, valid, test = shuffle_and_cut(x, row.splits, seed=0)
    return train, valid, test


def _cave(row: Builtin) -> Splits:
    from allegory.data import cave

    # The allegory begins at 514a of the Republic. Seed 0, the default of `draw`, is left to the user.
    train, valid, test = (
        cave.draw(count, resolution=row.shape[-1], seed=seed).images
        for count, seed in zip(row.splits, (514, 515, 516), strict=True)
    )
    return train, valid, test


def _idx_images(row: Builtin) -> Splits:
    import numpy as np

    images = []
    for path in _fetch(row):
        raw = np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=16)
        images.append(torch.from_numpy(raw.astype(np.float32)).view(-1, *row.shape))
    train, test = images
    return train[: row.splits[0]], train[row.splits[0] :], test


def _binarized_mnist(row: Builtin) -> Splits:
    import numpy as np

    arrays = _load_packed(row, _pack_amat)
    train, valid, test = (
        torch.from_numpy(np.unpackbits(arrays[split], axis=1)).float().view(-1, *row.shape)
        for split in ("train", "valid", "test")
    )
    return train, valid, test


def _omniglot(row: Builtin) -> Splits:
    arrays = _load_packed(row, _render_omniglot)
    images = torch.from_numpy(arrays["images"]).unsqueeze(1).float()
    drawer = torch.from_numpy(arrays["drawer"])
    glagolitic = torch.from_numpy(arrays["alphabet_names"][arrays["alphabet"]] == "Glagolitic")
    first = drawer <= 15
    train, valid = shuffle_and_cut(images[first], row.splits[:2], seed=0)
    return train, valid, images[~first & ~(glagolitic & (drawer == 20))]


def _binarize_once(train: Tensor, valid: Tensor, test: Tensor) -> Splits:
    """Grey levels 0..255 -> train in [0, 1]; valid, then test, drawn once from one stream."""
    import numpy as np

    draw = np.random.RandomState(777).binomial
    valid, test = (torch.from_numpy(draw(1, (x / 255).numpy())).float() for x in (valid, test))
    return train / 255, valid, test


def _pack_amat(*paths: Path) -> dict[str, Array]:
    """Text files of train, valid, test, a line per image, "0 1 ..." -> bits, (N, 98) uint8 each."""
    import numpy as np

    arrays = {}
    for split, path in zip(("train", "valid", "test"), paths, strict=True):
        text = np.frombuffer(path.read_bytes(), np.uint8).reshape(-1, 2 * 784)
        arrays[split] = np.packbits(text[:, ::2] == ord("1"), axis=1)
    return arrays


def _render_omniglot(*paths: Path) -> dict[str, Array]:
    """Zip files of the 105 x 105 drawings (background, evaluation) -> (N, 28, 28) uint8, ink 255.

    A pixel is the exact area average over its 3.75 x 3.75 square: with s its ink in sixteenths of
    an original pixel, 0 <= s <= 225, it is 255 s / 225 = 17 s / 15, rounded; ties cannot occur.
    Rows are sorted by set, alphabet, character, drawer, which are returned as well.
    """
    import numpy as np
    from PIL import Image

    # (28, 105): how many quarters of an original pixel fall into each new one, along one side.
    quarters = np.kron(np.eye(28), np.ones((1, 15))) @ np.kron(np.eye(105), np.ones((4, 1)))
    quarters = quarters.astype(np.float32)
    images: list[Array] = []
    facts: list[tuple[int, ...]] = []
    alphabets: list[str] = []
    for evaluation, path in enumerate(paths):
        with zipfile.ZipFile(path) as archive:
            # images_background/Greek/character01/0394_01.png: the last is character_id, drawer.
            for name in sorted(archive.namelist()):
                folders, _, file = name.rpartition("/")
                if not (name.startswith(path.stem) and file.endswith(".png")):
                    continue
                _, alphabet, character = folders.split("/")
                if alphabet not in alphabets:
                    alphabets.append(alphabet)
                numbers = (
                    character.removeprefix("character"),
                    *file.removesuffix(".png").split("_"),
                )
                facts.append((evaluation, alphabets.index(alphabet), *map(int, numbers)))
                with archive.open(name) as stream:
                    ink = np.asarray(Image.open(stream).convert("L")) == 0
                s = (quarters @ ink @ quarters.T).astype(np.int64)
                images.append(((34 * s + 15) // 30).astype(np.uint8))
    columns = np.array(facts).T
    return {
        "images": np.stack(images),
        "evaluation": columns[0].astype(bool),
        "alphabet": columns[1].astype(np.uint8),
        "character": columns[2].astype(np.uint8),
        "character_id": columns[3].astype(np.uint16),
        "drawer": columns[4].astype(np.uint8),
        "alphabet_names": np.array(alphabets),
    }


# The cache.

_REDOWNLOAD = "delete it to have it downloaded again, or put a good copy there"


def _fetch(row: Builtin) -> list[Path]:
    """The original files of a set, downloaded if missing, with verified checksums."""
    for file, sha256 in row.files:
        path = row.folder / file
        if not path.exists():
            _download(row, path, sha256)
        elif (found := _sha256(path)) != sha256:
            raise ValueError(_damage_message(path, found, sha256))
    return [row.folder / file for file, _ in row.files]


def _download(row: Builtin, path: Path, sha256: str) -> None:
    import pooch

    _make_folder(path)
    failures = []
    for url in row.urls:
        try:
            with atomic_path(path) as part:
                # pooch.retrieve would log, and leave a file that only its owner may read.
                pooch.HTTPDownloader(chunk_size=2**16)(url + path.name, str(part), None)
                if _sha256(part) != sha256:
                    raise ValueError("wrong checksum")
            return
        except (OSError, ValueError) as error:
            reason = type(error).__name__ if isinstance(error, OSError) else error
            failures.append(f"{reason} at {url}")
    missing = [file for file, _ in row.files if not (row.folder / file).exists()]
    raise ValueError(
        f"{row.name}: cannot download {path.name} ({'; '.join(failures)}); "
        f"fetch {', '.join(missing)} by hand from {row.urls[0]} and put them into {row.folder}"
    )


def _load_packed(row: Builtin, pack: Callable[..., dict[str, Array]]) -> dict[str, Array]:
    """The arrays that are cached in place of a set's original files; made if missing."""
    import numpy as np

    assert row.packed
    path, sha256 = row.folder / row.packed[0], row.packed[1]
    if path.exists():
        arrays = read_arrays(path, advice=_REDOWNLOAD)
        if (found := _digest(arrays)) != sha256:
            raise ValueError(_damage_message(path, found, sha256))
        return arrays
    _make_folder(path)
    ours = [row.folder / file for file, _ in row.files if not (row.folder / file).exists()]
    arrays = pack(*_fetch(row))
    if (found := _digest(arrays)) != sha256:
        raise ValueError(
            f"{row.name}: its files are intact, but the arrays made of them have sha256 {found}, "
            f"expected {sha256}; this is a bug in allegory, please report it"
        )
    with atomic_path(path) as part, part.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]
    for download in ours:
        download.unlink()
    return arrays


def _sha256(path: Path) -> str:
    check_regular(path)
    with naming_errors(path, _REDOWNLOAD), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _digest(arrays: dict[str, Array]) -> str:
    """sha256 of arrays with their names, dtypes and shapes; that of a file would depend on its zlib."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()


def _damage_message(path: Path, found: str, expected: str) -> str:
    return f"{path}: damaged, its content has sha256 {found}, expected {expected}; {_REDOWNLOAD}"


def _make_folder(path: Path) -> None:
    """Makes sure that the folder of `path` exists and is writable."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise ValueError(
            f"{folder}: cannot be written to ({error.strerror}), and {path.name} is not in it; "
            f"put it there, or set ALLEGORY_DATA to a folder that can be written to"
        ) from error


def shuffle_and_cut(x: Any, sizes: Sequence[int], seed: int) -> list[Tensor]:
    """Parts of x of these sizes, with its examples in a random order that depends only on `seed`."""
    take: Any = x.subset if isinstance(x, Stored) else x.__getitem__
    return [take(rows) for rows in torch.split(shuffled(len(x), seed), list(sizes))]


def shuffled(count: int, seed: int) -> Tensor:
    """(count,) a random order that depends only on `seed`."""
    import numpy as np

    # The stream of RandomState is frozen: the same split with every version of numpy and torch.
    return torch.from_numpy(np.random.RandomState(seed).permutation(count))
