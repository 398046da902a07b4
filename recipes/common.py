"""What the recipes share: images deformed a little, every test image scored once, and one JSON object that says what
was reached, and how.
"""

import json
import os
import platform
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

import allegory as al
from allegory.evaluation import choose_speed
from allegory.training import Record


def machine() -> str:
    """Where this runs."""
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{platform.machine()}, {threads}, torch {torch.__version__}"


def deformed(x: torch.Tensor) -> torch.Tensor:
    """(B, C, H, W), half of them turned (by 4 degrees), stretched (by 5 %) and sheared (by 0.1) at random about their
    centre. Every pixel is one of x, so that binary images stay binary.

    A transform for `fit`: a decoder that never sees an image twice does not learn it by heart. What it learns then is
    not quite the data, so that the last epochs go without.
    """
    turn, *stretch, shear = torch.tensor([0.07, 0.05, 0.05, 0.1])[:, None] * torch.randn(4, len(x))
    right, down = (s.exp() for s in stretch)
    rotation = torch.stack([turn.cos(), -turn.sin(), turn.sin(), turn.cos()], -1).unflatten(-1, (2, 2))
    scale = torch.stack([right, shear, torch.zeros_like(shear), down], -1).unflatten(-1, (2, 2))
    which = torch.rand(len(x), 1, 1) < 0.5
    matrix = F.pad(torch.where(which, rotation @ scale, torch.eye(2)), (0, 1)).to(x)
    grid = F.affine_grid(matrix, list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", align_corners=False)


def reached(
    model: al.VAE,
    records: Sequence[Record],
    test: torch.Tensor,
    precision: str = "float32",
    samples: int = 1000,
    compile: bool | str = False,
    **about: Any,
) -> None:
    """Prints L_K of `test` and what led to it; the minutes of the processor are those of the process until then.

    Args:
        model: trained.
        records: what `fit` gave, each time; the last one chose the weights.
        test: (N, *event), scored once.
        precision: of the networks while scoring; "auto" is written as what it chose.
        samples: K.
        compile: whether to compile what scores.
        about: what else the recipe says of itself, the seed above all.
    """
    trained = time.process_time()
    precision, compile, _ = choose_speed(model, test, samples, precision, compile)
    torch.manual_seed(0)
    result = al.evaluate(model, test, samples=samples, precision=precision, compile=compile)
    print(
        json.dumps(
            {
                **about,
                "machine": machine(),
                "parameters": sum(p.numel() for p in model.parameters()),
                "epochs": sum(record.epoch for record in records),
                "steps": sum(record.step for record in records),
                "minutes": round(sum(record.seconds for record in records) / 60, 1),
                "cpu_minutes": round(trained / 60, 1),
                "best_epoch": records[-1].best_epoch,
                "validation_bound": records[-1].best_bound,
                "scored_in": precision,
                "test": result.as_dict(),
            },
            indent=1,
        )
    )
