r"""A run for others: its model card, which says in words what the model is and how it was evaluated, and pushing it.

    push(run, "user/name")      then      al.load("hf://user/name"), al.Run("hf://user/name")

A likelihood without its protocol is no number: the card has K, the split, how many examples, how they were split and
read, the checksum of the data, the baseline, and on what the weights were chosen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from allegory.evaluation.bounds import Evaluation
from allegory.sharing.hub import check_name, upload
from allegory.version import __version__
from allegory.views.runs import Run

__all__ = ["model_card", "push"]


def push(run: Run | str | Path, name: str, split: str = "test", samples: int = 1000, private: bool = False) -> str:
    """Evaluates a run, and writes it to the Hugging Face Hub with a model card that has the numbers and their protocol.

    The categories of a table's columns and the bounds of its numbers are in config.json, and so are public.

    Args:
        run: the run, or its directory.
        name: the repository, "user/name"; it is made where there is none.
        split: what is evaluated, "train", "valid" or "test".
        samples: K of L_K.
        private: whether a new repository is private.

    Returns:
        The address of the repository.

    Raises:
        ValueError: as `Run.evaluate`; no such name, no permission, no connection; huggingface_hub is not installed
            (pip install "allegory[hub]").
    """
    check_name(name)
    opened = run if isinstance(run, Run) else Run(run)
    found = opened.evaluate(split, samples)
    return upload(opened.path, name, model_card(opened, found, name, split), private)


def model_card(run: Run, found: Evaluation, name: str, split: str = "test") -> str:
    """README.md of a repository.

    Args:
        run: of the model.
        found: its evaluation.
        name: the repository, "user/name".
        split: what was evaluated.
    """
    line, k = run.summary, found.importance_samples
    rates = " ".join(f"{rate:.2f}" for rate in found.kl_per_level)
    model = run.config["model"]
    rows = [
        (f"negative log-likelihood, -L_{k}", f"{found.nll:.3f}", f"{found.nll_stderr:.3f}"),
        ("-ELBO", f"{-found.elbo:.3f}", f"{found.elbo_stderr:.3f}"),
        ("-reconstruction", f"{-found.reconstruction:.3f}", ""),
        ("rates, level 1 first", rates, ""),
        ("bits per dimension", f"{found.bits_per_dim:.4f}", ""),
        (f"effective sample size of {k}", f"{found.effective_sample_size:.1f}", ""),
    ]
    if found.baseline_nll is not None:
        rows.insert(1, ("baseline: independent elements", f"{found.baseline_nll:.3f}", ""))
    table = "\n".join(f"| {what} | {value} | {error} |" for what, value, error in rows)
    worse = "\nThat is worse than independent elements.\n" if found.worse_than_baseline else ""
    levels = len(line.latent) or len(found.kl_per_level)
    described = "" if model is None else f"\n```json\n{json.dumps(model)}\n```\n"
    return f"""---
library_name: allegory
tags:
- variational-autoencoder
- density-estimation
- allegory
---

# {name}

A variational autoencoder of {levels} level{"s" if levels > 1 else ""}{f", {line.model}" if line.model else ""}, by \
allegory {__version__}.

```python
import allegory as al

model = al.load("hf://{name}")
```
{described}
## Evaluation

Nats per example, over {found.examples:,} examples of the {split} split. -L_{k} is the importance-weighted bound of \
{k:,} particles, an upper bound on the negative log-likelihood in expectation; it falls as K grows.

| | value | standard error |
| --- | ---: | ---: |
{table}
{worse}
## Protocol

{_protocol(run, split)}
"""


def _protocol(run: Run, split: str) -> str:
    about: Any = run.config.get("data")
    if not run.knows_its_data:
        return "The run does not record its data: whether these examples were used in training is not known."
    counts = dict(zip(("train", "valid", "test"), about.get("examples") or (), strict=False))
    parts = ", ".join(f"{count:,} for {'validation' if part == 'valid' else part}" for part, count in counts.items())
    chosen = {
        "test": "The test split was used neither in training nor in choosing the weights.",
        "valid": "The weights were chosen on this very split, so that the numbers flatter.",
        "train": "The model was trained on this very split, so that the numbers flatter.",
    }
    source = str(about["source"]).replace("\\", "/").rstrip("/").rpartition("/")[2]
    split_how = f"split {about['split']}, seed {about['seed']}" if about.get("split") else "in its own splits"
    lines = [
        f"* Data: {source}, {split_how}: {parts}.",
        f"* SHA-256 of the values: `{about['checksum']}`.",
        f"* Likelihood: {about.get('likelihood', 'custom')}.",
        f"* {chosen[split]}",
    ]
    if about["dynamic"]:
        lines.append("* Grey levels are binarised anew each time in training; other splits are binarised once.")
    if run.reading:
        lines.append(f"* How the model reads: {run.reading}.")
    if about.get("given"):
        lines.append("* Conditional: log p(x | c), of what is given with each example.")
    return "\n".join(lines)
