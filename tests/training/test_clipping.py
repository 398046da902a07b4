"""Clipping by the running median of the gradient's norm."""

import math
from itertools import groupby

import pytest
import torch

from allegory.training.clipping import MAX_SKIPS, clip_scale, gradient_norm, initial_norms


def test_a_gradient_is_clipped_by_the_running_median_and_skips_are_bounded():
    norms, scales = torch.zeros(3), []
    for norm in [1.0] * 60 + [20.0, 500.0, 500.0, 1.0] + [500.0] * 5 + [1.0] * 3:
        scales.append(clip_scale(torch.tensor(norm), norms, clip=10.0, skip=100.0)[0].item())
    assert scales[:60] == [1.0] * 60
    assert scales[60] == pytest.approx(10 / 20, rel=0.05)
    assert scales[61:64] == [0.0, 0.0, 1.0]
    assert scales[64:67] == [0.0] * 3  # three in a row, and then it moves on
    assert scales[67] == pytest.approx(10 / 500, rel=0.2)
    assert scales[68] == 0.0
    assert scales[-1] == 1.0


def test_a_new_scale_of_the_gradient_is_followed():
    norms = torch.zeros(3)
    for _ in range(50):
        clip_scale(torch.tensor(1.0), norms, clip=10.0, skip=100.0)
    scales = [clip_scale(torch.tensor(1e4), norms, clip=10.0, skip=100.0)[0].item() for _ in range(600)]
    assert scales[-1] == 1.0
    assert max(len(list(run)) for skipped, run in groupby(scales, key=lambda s: s == 0) if skipped) == MAX_SKIPS


def test_a_burst_whose_square_is_no_float32_is_a_burst_and_no_failure():
    gradients = [torch.full((3, 4), 1e25, dtype=torch.float32), torch.full((2,), -1e25, dtype=torch.float32)]
    assert gradient_norm(gradients).item() == pytest.approx(math.sqrt(14) * 1e25)
    assert gradient_norm([torch.zeros(2), torch.tensor([torch.inf])]).item() == torch.inf


def test_what_is_remembered_stays_on_its_device_and_does_not_wait():
    norms = initial_norms(torch.device("meta"))
    scale, burst = clip_scale(torch.zeros((), device="meta", dtype=torch.float64), norms, clip=2.0, skip=100.0)
    assert scale.device == burst.device == norms.device == torch.device("meta")
