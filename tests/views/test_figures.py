"""Pictures show the values of their images."""

import pytest
import torch

import allegory as al


def test_samples_are_a_picture():
    images = torch.stack([torch.zeros(1, 4, 4), torch.ones(1, 4, 4)])
    found = al.views.picture(images, columns=2)
    assert (found.size, found.getpixel((30, 30)), found.getpixel((130, 30))) == ((198, 100), (0,) * 3, (255,) * 3)
    assert al.views.picture(images * 0).getpixel((30, 30)) == (0,) * 3  # one value alone
    with pytest.raises(ValueError, match=r"got shape \(5, 12\), wanted \(N, H, W\)"):
        al.views.picture(torch.zeros(5, 12))
