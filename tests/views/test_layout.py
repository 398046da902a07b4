"""Files are named, folders are not."""

import pytest

from allegory.views.layout import without_folders


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("no file /home/ada/x.npy; restore it", "no file x.npy; restore it"),
        ("'/home/ada/x.npy' is gone.", "'x.npy' is gone."),
        ("put mnist.gz into ~/.cache/allegory.", "put mnist.gz into allegory."),
        (r"C:\Users\Ada\x.npy is gone", "x.npy is gone"),
        ("in /srv, and in (/srv/data)", "in srv, and in (data)"),
        ("train / valid / test, 3/4, p(x)/q(z), https://example.org/a/b", None),
        ("0..255 / 16, lr=1e-3/2", None),
    ],
)
def test_a_path_is_its_name(text, wanted):
    assert without_folders(text) == (text if wanted is None else wanted)


def test_known_paths_may_have_spaces_and_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = f"my data/x 1.npy, {tmp_path}/my data/x 1.npy"
    assert without_folders(text, "my data/x 1.npy", None, "digits") == "x 1.npy, x 1.npy"
