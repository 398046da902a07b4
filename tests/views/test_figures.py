"""Pictures show the values of their images."""

import numpy as np
import pytest
import torch
from PIL import Image

import allegory as al
from allegory.views.figures import save_pictures, save_sheet, sheet


def test_samples_are_a_picture():
    images = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    found = al.views.picture(images, columns=2)
    assert (found.size, found.getpixel((30, 30)), found.getpixel((130, 30))) == ((198, 100), (0,) * 3, (255,) * 3)
    assert al.views.picture(images * 0).getpixel((30, 30)) == (0,) * 3  # one value alone
    with pytest.raises(ValueError, match=r"got shape \(5, 12\), wanted \(N, H, W\)"):
        al.views.picture(torch.zeros(5, 12))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_picture(wrong, tmp_path):
    """It was black."""
    images = torch.rand(5, 1, 4, 4)
    images[2, 0, 1, 1] = images[4, 0, 0, 0] = wrong
    with pytest.raises(
        ValueError, match=r"^images: 2 of 5 have values that are NaN or infinite, the first of them image 2"
    ):
        al.views.picture(images)
    with pytest.raises(ValueError, match=r"new.png: images: 2 of 5"):
        save_sheet(tmp_path / "new.png", images, 2, 0, 1)
    assert not (tmp_path / "new.png").exists()
    if wrong != wrong:  # in a report it is seen
        shown = sheet(images, 5, 0, 1)
        assert (shown == torch.tensor([255, 0, 255], dtype=torch.uint8)).all(-1).sum() == 2


def test_a_picture_takes_what_has_values():
    wanted = al.views.picture(torch.eye(4).expand(2, 4, 4)).tobytes()
    assert al.views.picture(np.stack([np.eye(4)] * 2)).tobytes() == wanted
    assert al.views.picture(torch.eye(4).expand(2, 4, 4) > 0).tobytes() == wanted
    assert al.views.picture(torch.eye(4).expand(2, 4, 4).clone().requires_grad_()).tobytes() == wanted
    for images in (torch.zeros(0, 4, 4), 3.0):
        with pytest.raises(ValueError, match="images: got shape"):
            al.views.picture(images)
    with pytest.raises(ValueError, match="low=1, high=0: wanted low"):
        al.views.picture(torch.eye(4)[None], low=1, high=0)
    with pytest.raises(ValueError, match="columns=0"):
        al.views.picture(torch.eye(4)[None], columns=0)


def test_gaps_of_originals_are_shown_and_no_others(tmp_path):
    x = torch.arange(48.0).view(3, 1, 4, 4)
    x[1:, 0, 0, 0] = torch.nan
    model = al.architectures.mlp((1, 4, 4), "poisson", [1], [2], data=x)
    for path in save_pictures(tmp_path, model, x):
        pixels = np.asarray(Image.open(path)).reshape(-1, 3)
        assert (pixels == [255, 0, 255]).all(1).any() == (path.name == "reconstructions.png")
    gaps = x.isnan()
    al.views.picture(x, gaps=gaps)
    with pytest.raises(ValueError, match="2 of 3 have values that are NaN or infinite"):
        al.views.picture(x, gaps=~gaps)
