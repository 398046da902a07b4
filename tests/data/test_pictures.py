"""Folders of images: every bit, every file, in an order that people expect; what is not taken is said."""

import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import allegory as al
from allegory.command import main
from allegory.data import file_names, load, parts, read, to_binary
from allegory.data.pictures import read_image


def write_png(path, pixels):
    """A PNG of 16 bits per channel, (H, W, C) uint16: written by hand, since Pillow writes grey ones alone."""
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2]]
    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")]
    packed = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(packed))


def write_tiff(path, pixels, order="<"):
    """An uncompressed TIFF of 16 bits per channel, (H, W, C) uint16, in either byte order."""
    height, width, channels = pixels.shape
    data = pixels.astype(order + "u2").tobytes()
    bits = struct.pack(order + f"{channels}H", *[16] * channels)
    tags = [
        (256, 3, 1, width), (257, 3, 1, height), (258, 3, channels, 0), (259, 3, 1, 1),
        (262, 3, 1, 2 if channels > 2 else 1), (273, 4, 1, 0), (277, 3, 1, channels), (278, 3, 1, height),
        (279, 4, 1, len(data)),
    ]  # fmt: skip
    if channels == 4:
        tags.append((338, 3, 1, 2))
    start = 8 + 2 + 12 * len(tags) + 4
    values = {258: 16 if channels == 1 else start, 273: start + len(bits)}
    body = struct.pack(order + "H", len(tags))
    for tag, kind, count, value in tags:
        short = kind == 3 and not (tag == 258 and channels > 1)
        form = order + ("HHIHH" if short else "HHII")
        body += struct.pack(form, tag, kind, count, values.get(tag, value), *([0] if short else []))
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    path.write_bytes(head + body + struct.pack(order + "I", 0) + bits + data)


def draw(path, value=0, size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(value)
    Image.fromarray(rng.integers(0, 256, size[::-1]).astype(np.uint8)).save(
        path, format="jpeg" if "jf" in path.suffix else None
    )


def deep(channels, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 65536, (5, 7, channels)).astype(np.uint16)
    if channels in (2, 4):
        pixels[..., -1] = 65535
    return pixels


WRITERS = {
    "png": write_png,
    "tif": write_tiff,
    "tiff": lambda path, pixels: write_tiff(path, pixels, ">"),
}


@pytest.mark.parametrize(
    ("ending", "channels"), [*(("png", c) for c in (1, 2, 3, 4)), *((e, c) for e in ("tif", "tiff") for c in (1, 3, 4))]
)
def test_sixteen_bits_stay_sixteen_bits(ending, channels, tmp_path):
    pixels = deep(channels)
    WRITERS[ending](tmp_path / f"a.{ending}", pixels)
    colours = pixels[..., :1] if channels < 3 else pixels[..., :3]
    assert np.array_equal(read_image(tmp_path / f"a.{ending}"), np.broadcast_to(colours, (5, 7, 3)))
    x = read(tmp_path)
    assert np.array_equal(x[0].numpy(), colours.transpose(2, 0, 1).astype(np.float32))


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_compressed_tiffs_keep_their_bits(compression, tmp_path):
    pixels = deep(1)[..., 0]
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression)
    assert np.array_equal(read(tmp_path)[0, 0].numpy(), pixels)


def test_deep_images_that_stay_on_disk_keep_their_bits(tmp_path, monkeypatch):
    for i in range(10):
        write_png(tmp_path / f"{i}.png", deep(3, i))
    inside = load(tmp_path)
    monkeypatch.setattr(parts, "MAX_IN_MEMORY", 100)
    stored = load(tmp_path)
    assert not isinstance(stored.train, torch.Tensor)
    for split in ("train", "valid", "test"):
        assert torch.equal(getattr(stored, split)[:], getattr(inside, split))


def test_depths_are_not_mixed_and_transparency_is_refused(tmp_path):
    write_png(tmp_path / "a.png", deep(3))
    draw(tmp_path / "b.png", size=(7, 5))
    with pytest.raises(
        ValueError, match=r"different depth: 1 of 7 x 5, 16 bits \(a.png\), 1 of 7 x 5, 8 bits \(b.png\)"
    ):
        read(tmp_path)
    (tmp_path / "b.png").unlink()
    pixels = deep(4)
    pixels[0, 0, 3] = 65534
    write_png(tmp_path / "a.png", pixels)
    with pytest.raises(ValueError, match="some of its pixels are transparent"):
        read(tmp_path)


def test_all_images_of_a_folder_are_taken_and_the_rest_is_counted(tmp_path):
    names = ["10.png", "2.png", "1.jfif", "b/3.tif", "b/20.tiff", "a/x/7.bmp"]
    for i, name in enumerate(names):
        draw(tmp_path / name, i)
    for name in ("notes.txt", "b/notes.txt", "b/README", ".hidden.png", ".cache/1.png", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("no image")
    with pytest.warns(UserWarning, match=r"6 images taken; left out: (2 .txt, 1 without an ending|1 without.*2 .txt)$"):
        x = read(tmp_path)
    ordered = ["1.jfif", "2.png", "10.png", "a/x/7.bmp", "b/3.tif", "b/20.tiff"]
    assert file_names(tmp_path) == ordered
    for row, name in zip(x, ordered, strict=True):
        assert np.array_equal(row[0].numpy(), np.asarray(Image.open(tmp_path / name)))


def test_frames_that_are_not_taken_are_counted(tmp_path):
    pages = [Image.fromarray(np.full((4, 4), i, np.uint8)) for i in range(3)]
    pages[0].save(tmp_path / "stack.tif", save_all=True, append_images=pages[1:])
    draw(tmp_path / "z.png", size=(4, 4))
    with pytest.warns(UserWarning, match="1 with several frames or pages, of which the first was taken"):
        assert read(tmp_path)[0].unique().tolist() == [0]


def test_links_that_lead_round_in_a_circle(tmp_path):
    draw(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "again").symlink_to(tmp_path / "images")
    (tmp_path / "linked").symlink_to(tmp_path / "images")
    assert len(read(tmp_path / "images")) == 1
    assert len(read(tmp_path)) == 1


def test_folders_named_as_splits_are_the_splits(tmp_path):
    for split, count in {"train": 6, "val": 2, "test": 3}.items():
        for i in range(count):
            draw(tmp_path / split / f"label{i % 2}" / f"{i}.png", len(split) * 10 + i)
    data = load(tmp_path)
    assert (len(data.train), len(data.valid), len(data.test)) == (6, 2, 3)
    assert data.row_names("valid") == ["val/label0/0.png", "val/label1/1.png"]
    assert torch.equal(torch.cat([data.train, data.valid, data.test]), read(tmp_path))
    assert file_names(tmp_path) == data.row_names("train") + data.row_names("valid") + data.row_names("test")
    (tmp_path / "val").rename(tmp_path / "other")
    with pytest.raises(ValueError, match="it holds other, test, train; wanted the folders train, valid, test"):
        load(tmp_path)
    (tmp_path / "other").rename(tmp_path / "train" / "other")
    data = load(tmp_path)
    assert (len(data.train), len(data.valid), len(data.test)) == (7, 1, 3)
    assert all(name.startswith("test/") for name in data.row_names("test"))


def test_every_damaged_file_is_named_at_once(tmp_path):
    for i in range(5):
        draw(tmp_path / f"{i}.png", i, (30, 30))
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:300])
    (tmp_path / "3.png").write_text("<html>")
    with pytest.raises(
        ValueError, match=r"2 of 5 images cannot be read: 1\.png \(.*\), 3\.png \(.*\); repair them"
    ) as told:
        read(tmp_path)
    assert "\n" not in str(told.value)


def test_sizes_that_differ_are_counted_or_made_one(tmp_path):
    rng = np.random.default_rng(0)
    wide = np.repeat(np.repeat(rng.integers(0, 256, (6, 10)), 4, 0), 4, 1).astype(np.uint8)
    Image.fromarray(wide).save(tmp_path / "a.png")  # 40 x 24
    draw(tmp_path / "b.png", size=(10, 6))
    with pytest.raises(
        ValueError, match=r"1 of 40 x 24 \(a.png\), 1 of 10 x 6 \(b.png\); wanted one size: --size 40,24"
    ):
        read(tmp_path)
    x = read(tmp_path, size=(10, 6))
    assert x.shape == (2, 1, 6, 10)
    assert np.array_equal(x[1, 0].numpy(), np.asarray(Image.open(tmp_path / "b.png")))  # it has that size already
    assert read(tmp_path, size=[6]).shape == (2, 1, 6, 6)
    data = Image.fromarray(np.full((9, 20), 77, np.uint8))
    data.save(tmp_path / "a.png")
    assert read(tmp_path, size=[5])[0].unique().tolist() == [77]


def test_deep_images_are_scaled_in_their_own_units(tmp_path):
    write_png(tmp_path / "a.png", np.full((6, 8, 3), 40_000, np.uint16))
    assert read(tmp_path, size=[4]).unique().tolist() == [40_000]


def test_nothing_is_said_where_all_is_taken(tmp_path):
    for i in range(4):
        draw(tmp_path / f"{i}.png", i)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(tmp_path)


@pytest.fixture
def in_folder(tmp_path, monkeypatch):
    torch.set_default_dtype(torch.float32)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def coloured(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(value).integers(0, 256, (8, 8, 3)).astype(np.uint8)).save(path)


@pytest.mark.filterwarnings("ignore")
def test_a_run_on_coloured_images_reads_grey_ones_and_one_on_grey_says_which_is_coloured(in_folder, capsys):
    for i in range(12):
        coloured(in_folder / "colour" / f"{i}.png", i)
        draw(in_folder / "grey" / f"{i}.png", i)
    for kind in ("colour", "grey"):
        words = ["train", kind, "--out", f"run-{kind}", "--epochs", "1", "--hidden", "8", "--latent", "2"]
        assert main(words) == 0
    assert main(["encode", "run-colour", "grey", "--out", "z.npz"]) == 0
    x = al.Run("run-colour").read("grey")
    assert x.shape == (12, 3, 8, 8)
    assert torch.equal(x[:, :1].expand(-1, 3, -1, -1), x)
    assert np.load("z.npz")["z1_mean"].shape == (12, 2)
    capsys.readouterr()
    assert main(["encode", "run-grey", "colour", "--out", "y.npz"]) == 2
    assert "12 of 12 images are coloured, the first 0.png; wanted grey ones" in capsys.readouterr().err


def test_images_that_stay_on_disk_are_named_in_messages(tmp_path, monkeypatch):
    for i in range(10):
        draw(tmp_path / f"scan{i}.png", i)
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(tmp_path / "scan4.png")
    monkeypatch.setattr(parts, "MAX_IN_MEMORY", 100)
    data = load(tmp_path)
    assert not isinstance(data.train, torch.Tensor)
    split = next(split for split in ("train", "valid", "test") if "scan4.png" in data.row_names(split))
    with pytest.raises(ValueError, match=r"in row scan\d\.png, index 0, 0, \d; wanted only 77 and 78"):
        to_binary(getattr(data, split), (77.0, 78.0))
    model = al.architectures.mlp((1, 8, 8), "bernoulli", [2], [4]).float()
    with pytest.raises(ValueError, match=r"the first is \d+ in row scan\d\.png, index 0, 0, 0"):
        model.check(getattr(data, split))


def test_what_a_folder_without_images_holds_is_said(tmp_path):
    for i in range(3):
        np.save(tmp_path / f"{i}.npy", np.zeros((2, 2)))
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"but 3 \.npy, 1 broken links; wanted .*, np\.stack of the arrays"):
        read(tmp_path)


@pytest.mark.parametrize("eight_first", [True, False])
def test_images_of_other_bits_than_a_run_was_trained_on_are_told_so(tmp_path, eight_first):
    for i in range(12):
        draw(tmp_path / "eight" / f"{i}.png", i)
        pixels = 257 * np.asarray(Image.open(tmp_path / "eight" / f"{i}.png")).astype(np.uint16)
        (tmp_path / "sixteen").mkdir(exist_ok=True)
        write_png(tmp_path / "sixteen" / f"{i}.png", pixels[..., None])
    first, other = ("eight", "sixteen") if eight_first else ("sixteen", "eight")
    data, about = load(tmp_path / first).scored_as("normal")
    model = al.architectures.mlp(data.event_shape, "normal", [2], [4], data=data.train)
    run = al.Run(al.save(model, tmp_path / "run", about={"data": about}))
    found, known = ("16", "8") if eight_first else ("8", "16")
    change = "divided" if eight_first else "multiplied"
    with pytest.warns(
        UserWarning, match=rf"images are of {found} bits .* of the training data of {known}, .* {change}"
    ):
        run.read(tmp_path / other)
    run.read(tmp_path / first)  # of which nothing is said
