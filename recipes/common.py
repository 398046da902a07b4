"""What the recipes share: every test image scored once, and one JSON object that says what was reached, and how."""

import json
import os
import platform
from typing import Any

import torch

import allegory as al
from allegory.train import Record


def machine() -> str:
    """Where this runs."""
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return f"{platform.machine()}, {threads}, torch {torch.__version__}"


def reached(
    model: al.VAE,
    record: Record,
    test: torch.Tensor,
    precision: str = "float32",
    samples: int = 1000,
    **about: Any,
) -> None:
    """Prints L_K of `test` and what led to it.

    Args:
        model: trained.
        record: what `fit` gave.
        test: (N, *event), scored once.
        precision: of the networks while scoring.
        samples: K.
        about: what else the recipe says of itself, the seed above all.
    """
    torch.manual_seed(0)
    result = al.evaluate(model, test, samples=samples, precision=precision)
    print(
        json.dumps(
            {
                **about,
                "machine": machine(),
                "parameters": sum(p.numel() for p in model.parameters()),
                "epochs": record.epoch,
                "steps": record.step,
                "minutes": round(record.seconds / 60, 1),
                "best_epoch": record.best_epoch,
                "validation_bound": record.best_bound,
                "scored_in": precision,
                "test": result.as_dict(),
            },
            indent=1,
        )
    )
