r"""The command `allegory`: train, evaluate, diagnose, report, sample, reconstruct, encode, runs, datasets, completion,
demo.

Results go to standard output, progress and remarks to standard error. Exit 0; 2 with one line that says what came,
what was wanted and what to do; 130 after Ctrl-C.

`torchrun --nproc-per-node N -m allegory train ...`, or evaluate, does the same in N processes; the first one speaks.
"""

from __future__ import annotations

import functools
import json
import math
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from allegory.command.options import EPOCHS, parser

__all__ = ["main"]

FIT = (
    "epochs", "minutes", "samples", "batch_size", "lr", "lr_warmup", "kl_warmup", "beta", "weight_decay", "ema",
    "patience", "seed", "precision", "compile", "checkpoint_seconds",
)  # fmt: skip
WORTH_COMPILING = 20_000  # steps
BOTH = ("latent", "dropout", "markov", "prior", "components")
ONLY = {  # what belongs to one architecture
    "mlp": ("hidden", "activation", "block", "top_down"),
    "conv": ("scales", "stem", "channels", "blocks", "checkpointed"),
}
DEFAULTS: dict[str, Any] = dict(
    likelihood="auto", architecture="mlp", objective="elbo", dropout=0.0, prior="standard", components=500,
    free_bits=None, alpha=None, dynamic=False, beta=1.0, epochs=None, minutes=None, samples=1, batch_size=128, lr=1e-3,
    lr_warmup=100, kl_warmup=None, weight_decay=0.0, ema=0.999, patience=50, seed=0, precision="auto", compile=None,
    checkpoint_seconds=10.0,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command with the given arguments, sys.argv's by default, and returns its exit code."""
    warnings.showwarning = _show_warning
    try:
        options = vars(parser(COMMANDS).parse_args(arguments))
        _run(options.pop("command"), options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        _say("allegory: stopped")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (ValueError, FloatingPointError) as error:
        line, rank = " ".join(str(error).split()), os.environ.get("RANK", "0")
        if rank == "0":
            _say(f"allegory: {line}")
        elif not getattr(error, "__notes__", []):  # what all were told, the first one says
            print(f"allegory, process {rank}: {line}", file=sys.stderr)
        return 2
    except (MemoryError, RuntimeError) as error:
        if "alloc" not in str(error) and "out of memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        detail = " ".join(str(error).split()).removeprefix("[enforce fail at alloc_cpu.cpp:127] ")
        print(f"allegory: not enough memory ({detail}); a smaller model, batch or K needs less", file=sys.stderr)
        return 2
    return 0


def _run(command: str, options: dict[str, Any]) -> None:
    """Runs a command, in the processes that torchrun started where there are such."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return COMMANDS[command](**options)
    if command not in ("train", "evaluate"):
        raise ValueError(f"{command} works in one process; torchrun is for train and evaluate")
    from allegory.runtime import processes

    with processes.process_group():
        COMMANDS[command](**options)
    return None


def train(
    data: str, out: str | None, resume: bool, device: str, shard: bool, tensorboard: bool, wandb: bool,
    **flags: Any,
) -> None:  # fmt: skip
    """Trains a model on DATA and writes a run directory."""
    import torch

    from allegory import architectures, fit, load
    from allegory.data.splits import binarize
    from allegory.runtime import processes
    from allegory.training import checkpoint

    where = _device(device)
    if out is None:
        if resume:
            raise ValueError("--resume goes on with a run; say which: --out RUN")
        out = processes.broadcast(lambda: f"runs/{Path(data).stem or 'data'}-{time.strftime('%Y%m%d-%H%M%S')}")
        _say(f"the run goes to {out}")
    stored: Any = {}
    if resume and (Path(out) / checkpoint.CONFIG).exists():
        stored = checkpoint.read_config(out).get("command")
        if not isinstance(stored, dict):
            raise ValueError(f"{out} was not trained by `allegory train`; resume it from where it was trained")
    options = _settings(stored, {key: value for key, value in flags.items() if value is not None})
    trackers = _trackers(Path(out), tensorboard, wandb, {"data": data, **options})
    examples, about = _load(data, options["dynamic"], options["seed"], options["likelihood"])
    objective = _objective(options["objective"], options["free_bits"], options["alpha"])
    if options["objective"] in ("iwae", "dreg", "renyi") and options["samples"] == 1:
        _say(f"{options['objective']} of one particle is the ELBO; --samples 5 makes the difference")
    torch.manual_seed(options["seed"])
    build: Any = {"mlp": architectures.mlp, "conv": architectures.conv}[options["architecture"]]
    parts = {key: options[key] for key in (*BOTH, *ONLY[options["architecture"]]) if key in options}
    x = examples.train
    some = x if isinstance(x, torch.Tensor) else x[: max(1, 2**26 // math.prod(x.shape[1:]))]
    parts |= dict(categories=about["categories"], data=some)
    model = build(examples.event_shape, about["likelihood"], **parts)
    model = model if shard else model.to(where)
    if options["kl_warmup"] is None:
        steps = math.ceil(len(examples.train) / options["batch_size"]) * (options["epochs"] or EPOCHS)
        options["kl_warmup"] = 0 if model.levels == 1 else min(2000, steps // 10)
    options["compile"] = False if shard and options["compile"] is None else options["compile"]
    options |= _fast(options, about["likelihood"], len(examples.train), where)
    _say(f"{model!r}, on {where}")
    try:
        record = fit(
            model,
            examples.train,
            valid=examples.valid,
            objective=objective,
            transform=binarize if examples.dynamic else None,
            out=out,
            resume=resume,
            about={"data": about, "command": options},
            progress=True,
            tracker=trackers,
            shard=where.type if shard else None,
            **{key: options[key] for key in FIT},
        )
    except KeyboardInterrupt:
        if (Path(out) / checkpoint.LAST).exists():
            _say(f"stopped; a checkpoint is in {out}; go on with: allegory train {data} --out {out} --resume")
        raise
    except RuntimeError as error:
        if processes.world_size() == 1 or not any(word in str(error) for word in ("Connection", "gloo", "NCCL")):
            raise
        reason = str(error).split("] ", 1)[-1].split(". ")[0]
        raise ValueError(
            f"another process of this training is gone ({reason}); if it has not said why, {out} keeps the last "
            "checkpoint: go on with the same command and --resume"
        ) from None
    if processes.rank() > 0:
        return
    _pictures(load(out) if shard else model, examples, Path(out))
    print(f"{out}: {record.epoch} epochs, {record.seconds:.0f} s, stopped by {record.stopped}")
    if record.best_bound is None:
        print("the warm-up had not ended, so these are the last weights; train longer")
    else:
        print(f"validation bound {record.best_bound:.2f} nats an example, in epoch {record.best_epoch}")
    print(f"next: allegory evaluate {out}")


def _settings(stored: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What was said on the command line, else what the run says that is resumed, else the default."""
    options = {**DEFAULTS, **stored, **given}
    for architecture, names in ONLY.items():
        strange = [name for name in names if name in options and architecture != options["architecture"]]
        if strange:
            flag = "--" + strange[0].replace("_", "-")
            raise ValueError(f"{flag} is of --architecture {architecture}, not of {options['architecture']}")
    if "components" in given and options["prior"] not in ("mixture", "vamp"):
        count = given["components"]
        raise ValueError(f"--components {count} is of --prior mixture and vamp, not of {options['prior']}")
    if "latent" not in given and "levels" not in given and stored:
        given = stored
    options["latent"] = _latent(given.get("levels"), given.get("latent"), options["architecture"])
    if isinstance(options["beta"], tuple | list) and len(options["beta"]) == 1:
        options["beta"] = options["beta"][0]
    options["levels"] = len(options["latent"])
    if options["epochs"] is None and options["minutes"] is None:
        options["epochs"] = EPOCHS
    return {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}


def _trackers(out: Path, tensorboard: bool, wandb: bool, config: dict[str, Any]) -> list[Any]:
    """What is told of each epoch."""
    from allegory.training import trackers

    told = [trackers.tensorboard(out / "tensorboard")] if tensorboard else []
    return told + ([trackers.wandb(out, name=out.name, config=config)] if wandb else [])


def _fast(options: dict[str, Any], likelihood: str, count: int, device: Any) -> dict[str, Any]:
    """The precision, and whether to compile, where the user has left it open."""
    from allegory.runtime import processes
    from allegory.runtime.compilation import has_compiler
    from allegory.runtime.precision import bfloat16_speedup

    precision, compile = options["precision"], options["compile"]
    if precision == "auto":
        # A density may be narrower than what bfloat16 resolves; probabilities are not.
        gain = (
            processes.broadcast(lambda: bfloat16_speedup(device)) if likelihood in ("bernoulli", "categorical") else 0.0
        )
        precision = "bfloat16" if gain > 1.5 else "float32"
        if gain > 1.5:
            _say(f"precision: bfloat16 in the networks, {gain:.1f} times as fast here; densities stay in float32")
    if compile is None:
        steps = math.ceil(count / options["batch_size"]) * (options["epochs"] or math.inf)
        long = steps >= WORTH_COMPILING and (options["minutes"] is None or options["minutes"] >= 5)
        compile = long and processes.broadcast(lambda: has_compiler(device))
        if compile:
            _say("compiled: up to half a minute at the start, and then each step is faster")
    return dict(precision=precision, compile=compile)


def _objective(name: str, free_bits: float | None, alpha: float | None) -> Any:
    """What to maximise, with its own settings."""
    from allegory import objectives

    if free_bits is not None:
        if name != "elbo":
            raise ValueError(f"--free-bits {free_bits:g} changes the elbo; it does not go with --objective {name}")
        return functools.partial(objectives.free_bits, nats=free_bits)
    if alpha is not None and name != "renyi":
        raise ValueError(f"--alpha {alpha:g} is of --objective renyi, not of {name}")
    return functools.partial(objectives.renyi, alpha=alpha) if alpha is not None else getattr(objectives, name)


def evaluate(
    run: str, split: str, importance_samples: int, precision: str, curve: bool, ais: bool, ais_examples: int | None,
    as_json: bool, device: str,
) -> None:  # fmt: skip
    """Prints the likelihood of a split, with its error, and its parts."""
    import torch

    import allegory
    from allegory.runtime import processes
    from allegory.runtime.compilation import has_compiler

    if ais_examples is not None and not ais:
        raise ValueError(f"--ais-examples {ais_examples} is of --ais; say both")
    where = _device(device)
    model, examples, _ = _open_run(run)
    torch.manual_seed(0)
    model, x = model.to(where), getattr(examples, split).to(where)
    long = len(x) * importance_samples >= 2_000_000
    settings: Any = dict(samples=importance_samples, precision=precision, compile=long and has_compiler(where))
    result = allegory.evaluate(model, x, **settings)
    values: dict[str, Any] = {"split": split, "precision": precision, **result.as_dict()}
    if curve:
        torch.manual_seed(0)
        values["curve"] = allegory.bound_curve(model, x, **settings)
    if ais:
        values["ais"] = _annealed(model, x, ais_examples or 100, importance_samples)
    if processes.rank() > 0:
        return
    if as_json:
        print(json.dumps(_without_nan(values)))
        return
    from rich.markup import escape
    from rich.table import Table

    from allegory.views.terminal import show

    table = Table(title=f"{escape(run)}, {split}, {result.examples:,} examples, nats an example")
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_column("standard error", justify="right")
    k = importance_samples
    table.add_row(f"negative log-likelihood, -L_{k}", f"{result.nll:.3f}", f"{result.nll_stderr:.3f}")
    table.add_row("ELBO", f"{result.elbo:.3f}", f"{result.elbo_stderr:.3f}")
    table.add_row("  reconstruction", f"{result.reconstruction:.3f}", "")
    for t, (rate, active) in enumerate(zip(result.kl_per_level, result.active_units, strict=True), start=1):
        table.add_row(f"  rate of level {t}", f"{rate:.3f}", "")
        table.add_row(f"  active units of level {t}", str(active), "")
    table.add_row("bits a dimension", f"{result.bits_per_dim:.4f}", "")
    table.add_row(f"effective sample size of {k}", f"{result.effective_sample_size:.1f}", "")
    for k, bound, error in values.get("curve", []):
        table.add_row(f"-L_{k}", f"{-bound:.3f}", f"{error:.3f}")
    if ais:
        found = values["ais"]
        name = f"of {found['examples']:,} examples: annealed"
        table.add_row(name, f"{found['nll']:.3f}", f"{found['nll_stderr']:.3f}")
        table.add_row(f"  -L_{importance_samples} of the same", f"{found['nll_bound']:.3f}", "")
        table.add_row("  -L less annealed", f"{found['difference']:.3f}", f"{found['difference_stderr']:.3f}")
    show(table)
    print(f"next: allegory diagnose {run}")


def _annealed(model: Any, x: Any, count: int, samples: int) -> dict[str, Any]:
    """Annealed importance sampling beside L_K, on examples drawn at random."""
    import torch

    import allegory

    rows = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count].sort().values.to(x.device)
    torch.manual_seed(0)
    found = allegory.ais(model, x[rows])
    nll, bound = -found.log_likelihood, -allegory.log_likelihood(model, x[rows], samples=samples)
    error = lambda v: (v.std() / math.sqrt(len(v))).item() if len(v) > 1 else math.nan  # noqa: E731
    return dict(
        examples=len(rows),
        nll=nll.mean().item(),
        nll_stderr=error(nll),
        nll_bound=bound.mean().item(),
        difference=(bound - nll).mean().item(),
        difference_stderr=error(bound - nll),
        effective_sample_size=found.effective_sample_size.mean().item(),
        acceptance=found.acceptance.mean().item(),
    )


def diagnose(run: str, split: str, examples: int, as_json: bool, device: str) -> None:
    """Says which levels of a model work, which have collapsed, and what to try."""
    import torch

    import allegory

    where = _device(device)
    model, data, _ = _open_run(run)
    torch.manual_seed(0)
    x, train = _some(data, split, examples, where), _some(data, "train", examples, where)
    found = allegory.diagnose(model.to(where), x, train)
    if as_json:
        print(json.dumps(_without_nan({"split": split, **found.as_dict()})))
        return
    from rich.markup import escape
    from rich.table import Table

    from allegory.views.terminal import show

    table = Table(title=f"{escape(run)}, {found.evaluation.examples:,} examples of {split}, nats an example")
    for column in ("level", "rate", "active units", "information", "brings", "verdict"):
        table.add_column(column, justify="left" if column == "verdict" else "right")
    for level in found.levels:
        table.add_row(
            str(level.level), f"{level.rate:.2f}", f"{level.active_units} of {level.units}",
            f"{level.information:.2f}", f"{level.loss:.2f}", level.verdict,
        )  # fmt: skip
    show(table)
    for line in found.verdict:
        print(line)
    print(f"next: allegory report {run}")


def report(run: str, out: str | None, split: str, examples: int, importance_samples: int, device: str) -> None:
    """Writes one self-contained page of a run: curves, likelihoods, samples, what each level does, the diagnosis."""
    import torch

    from allegory.training.checkpoint import read_config
    from allegory.views.page import report as write

    config, where = read_config(run), _device(device)
    command, about = config.get("command"), config.get("data") or {}
    x, train, missing = None, None, ""
    torch.manual_seed(0)
    try:
        data, _ = _open_data(run)
        x, train = _some(data, split, examples, where), _some(data, "train", examples, where)
    except ValueError as error:
        missing = " ".join(str(error).split())
    path = write(
        run,
        x,
        out=out,
        train=train,
        samples=importance_samples,
        split=split,
        command=_spoken(str(about.get("source", "")), command) if isinstance(command, dict) else "",
        missing=missing,
        device=where,
    )
    if missing:
        _say(f"allegory: what needs data is left out: {missing}")
    print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, to be opened in a browser")
    print(f"next: allegory sample {run} --out samples.png")


def _some(data: Any, split: str, count: int, device: Any) -> Any:
    """Examples of a split at random, binarised where they are to be."""
    import torch

    from allegory.data.splits import binarize

    x = getattr(data, split)
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count]].to(device)
    return binarize(x) if data.dynamic and split == "train" else x


def _spoken(source: str, options: dict[str, Any]) -> str:
    """The command that trains with these settings."""
    import argparse
    import shlex

    (commands,) = [a for a in parser(COMMANDS)._actions if isinstance(a, argparse._SubParsersAction)]
    words = ["allegory", "train", source]
    for action in commands.choices["train"]._actions:
        value, flags = options.get(action.dest), action.option_strings
        if value is None or not flags or action.dest == "levels" or value == DEFAULTS.get(action.dest):
            continue  # --latent has the levels
        if isinstance(action, argparse.BooleanOptionalAction):
            words.append(flags[0] if value else flags[1])
        elif action.nargs == 0:
            words += [flags[0]] if value == action.const else []
        else:
            words += [flags[0], ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return shlex.join(words)


def sample(run: str, count: int, out: str, device: str, seed: int, temperature: float) -> None:
    """Draws examples from the model: `samples`, and the means of p(x | z_1) they were drawn from."""
    import torch

    from allegory import load
    from allegory.training.checkpoint import read_config
    from allegory.views.figures import expected

    _check_out(out)
    if count < 1:
        raise ValueError(f"--count {count}: wanted at least 1")
    about = read_config(run).get("data") or {}  # a run of Python's has none, and needs none
    model = load(run).to(_device(device))
    torch.manual_seed(seed)
    with torch.no_grad():
        law = model.generate(count, temperature)
        mean = expected(law)
        _write(out, {"samples": law.sample(), "means": mean}, mean, about, columns=max(1, math.isqrt(count)))
    print(f"{out}: {count} samples")


def reconstruct(run: str, out: str, split: str, count: int, device: str, seed: int) -> None:
    """Writes `originals` beside `reconstructions`, the means of p(x | z_1) with z_1 ~ q(z_1 | x)."""
    import torch

    from allegory.views.figures import expected

    _check_out(out)
    if count < 1:
        raise ValueError(f"--count {count}: wanted at least 1")
    where = _device(device)
    model, examples, about = _open_run(run)
    order = torch.randperm(len(getattr(examples, split)), generator=torch.Generator().manual_seed(seed))[:count]
    x = getattr(examples, split)[order]
    torch.manual_seed(seed)
    with torch.no_grad():
        again = expected(model.to(where).reconstruct(x.to(where))).cpu()
    pairs = torch.stack([x, again], 1).flatten(0, 1)
    _write(out, {"originals": x, "reconstructions": again, "rows": order}, pairs, about, columns=8)
    print(f"{out}: {len(x)} pairs of {split}, original and reconstruction")


def encode(run: str, data: str, out: str, device: str, seed: int) -> None:
    """Writes mean and standard deviation of the latents of every example of DATA, in its order."""
    import torch

    from allegory import load
    from allegory.data.splits import read, to_binary
    from allegory.evaluation.bounds import posterior_moments

    if Path(out).suffix != ".npz":
        raise ValueError(f"--out {out}: wanted a name that ends in .npz")
    about = _about(run)
    where = _device(device)
    x = read(data, dynamic=about["dynamic"] and data == about["source"])
    if tuple(x.shape[1:]) != tuple(about["event_shape"]):
        raise ValueError(f"{data} has examples of shape {tuple(x.shape[1:])}, {run} was trained on "
                         f"{tuple(about['event_shape'])}")  # fmt: skip
    if about["two_values"]:
        x = to_binary(x, tuple(about["two_values"]))
    torch.manual_seed(seed)
    arrays: dict[str, torch.Tensor] = {}
    for t, (mean, spread) in enumerate(posterior_moments(load(run).to(where), x.to(where)), start=1):
        arrays |= {f"z{t}_mean": mean, f"z{t}_std": spread}
    _write(out, arrays, None, about, columns=1)
    print(f"{out}: {len(x)} examples; {', '.join(f'{key} {tuple(value.shape)}' for key, value in arrays.items())}")


def runs(folder: str, as_json: bool) -> None:
    """Lists and compares the runs in a folder: what was trained on what, and what it came to."""
    from allegory.views.runs import find, summary

    found = []
    for path in find(folder):
        try:
            found.append(summary(path))
        except ValueError as error:
            _say(f"allegory: left out: {error}")
    found.sort(key=lambda run: (run.data, math.inf if run.bound is None else -run.bound))
    if as_json:
        print(json.dumps(_without_nan([run.as_dict() for run in found])))
        return
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    from allegory.views.terminal import show

    table = Table(
        title=f"runs in {escape(folder)}, nats an example on the validation data", box=box.SIMPLE, pad_edge=False
    )
    table.add_column("run", overflow="fold")
    for column in ("data", "model", "objective"):
        table.add_column(column)
    for column in ("epochs", "minutes", "bound", "rates, level 1 first"):
        table.add_column(column, justify="right", no_wrap=column != "rates, level 1 first")
    for run in found:
        model = " ".join(filter(None, [*run.model.split()[:1], ",".join(map(str, run.latent))]))
        table.add_row(
            escape(os.path.relpath(run.path, folder)), escape(Path(run.data).name), model, escape(run.objective),
            f"{run.epochs}" if run.stopped else f"{run.epochs}..", f"{run.minutes:.1f}",
            "" if run.bound is None else f"{run.bound:.2f}", " ".join(f"{rate:.1f}" for rate in run.kl_per_level),
        )  # fmt: skip
    show(table)
    if any(not run.stopped for run in found):
        print("..: not finished, go on with --resume; or still going on")


def datasets() -> None:
    """Lists what is built in."""
    from rich.table import Table

    from allegory.data.builtin import BUILTIN, cached
    from allegory.views.terminal import show

    table = Table(title="built-in data sets")
    for column in ("name", "shape", "train / valid / test", "download", "cached"):
        table.add_column(column, no_wrap=True)
    for row in BUILTIN:
        size = "embedded" if row.embedded else f"{row.size / 1e6:.1f} MB"
        splits = " / ".join(f"{n:,}" for n in row.splits)
        table.add_row(row.name, "x".join(map(str, row.shape)), splits, size, "yes" if cached(row.name) else "no")
    show(table)
    for row in BUILTIN:
        print(f"{row.name}: {row.source}. Licence: {row.licence}.")


def completion(shell: str) -> None:
    """Prints what teaches a shell to complete allegory's words: eval "$(allegory completion bash)", or zsh."""
    import argparse

    import shtab

    root = parser(COMMANDS)
    (commands,) = [action for action in root._actions if isinstance(action, argparse._SubParsersAction)]
    for command in commands.choices.values():
        for action in command._actions:
            if action.metavar in ("RUN", "DIR"):
                action.complete = shtab.DIRECTORY
            elif action.metavar in ("DATA", "FILE", "FILE.npz"):
                action.complete = shtab.FILE
    print(shtab.complete(root, shell))


def demo(out: str | None) -> None:
    """Trains a hierarchical VAE on embedded data and shows what it is worth."""
    from allegory.command.demo import run

    run(out)


def _without_nan(value: Any) -> Any:
    """JSON has no NaN; the standard error of one example is null."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(part) for part in value]
    return None if value != value else value


def _latent(levels: int | None, latent: Sequence[int] | None, architecture: str) -> tuple[int, ...]:
    if latent is None and architecture == "conv":
        return (*[4] * ((levels or 2) - 1), 32)
    if latent is None:
        return tuple(max(2, 40 >> t) for t in range(levels or 1))
    if levels is not None and len(latent) != levels:
        example = ",".join(str(max(2, latent[0] >> t)) for t in range(levels))
        raise ValueError(
            f"--latent {','.join(map(str, latent))} gives {len(latent)} of the widths that --levels {levels} needs; "
            f"wanted one for each level, such as --latent {example}"
        )
    return tuple(latent)


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"--device {name}: wanted auto, cpu, or cuda where this machine has it") from None
    return device


def _likelihood(name: str, examples: Any) -> tuple[str, int | None]:
    """The likelihood by name, or by what the values are; and the number of categories."""
    from allegory.data.splits import choose_likelihood

    x = examples.valid if examples.dynamic else examples.train
    if name == "auto":
        name, why = choose_likelihood(x)
        _say(f"likelihood: {name}, because the data have {why}")
        if name == "normal":
            _say("each element is standardised for the networks; densities are in the data's own units")
    if name != "categorical":
        return name, None
    return name, int(max(part.max().item() for part in (examples.train, examples.valid, examples.test))) + 1


def _load(source: str, dynamic: bool, seed: int, likelihood: str) -> tuple[Any, dict[str, Any]]:
    """The data, and what the run has to remember of them."""
    import torch

    from allegory.data.splits import describe, two_values

    examples = _load_once(source, dynamic, seed)
    if not isinstance(examples.train, torch.Tensor):
        numbers = math.prod(examples.train.shape)
        _say(f"{source}: its {numbers:,} numbers for training stay there, and are read as they are drawn")
    likelihood, categories = _likelihood(likelihood, examples)
    values = two_values(examples.train) if likelihood == "bernoulli" and not dynamic else None
    examples = _as_bits(examples, values)
    return examples, describe(examples, likelihood, categories, values, seed)


def _load_once(source: str, dynamic: bool, seed: int) -> Any:
    """The data; of several processes the first one downloads."""
    from allegory.data.splits import load
    from allegory.runtime import processes

    if processes.world_size() > 1:
        processes.broadcast(lambda: bool(load(source, dynamic=dynamic, seed=seed)))
    return load(source, dynamic=dynamic, seed=seed)


def _as_bits(examples: Any, two_values: Any) -> Any:
    """Two values, whatever they are called, as 0 and 1."""
    from dataclasses import replace

    from allegory.data.splits import to_binary

    if two_values is None or list(two_values) == [0.0, 1.0]:
        return examples
    parts = {}
    for split in ("train", "valid", "test"):
        try:
            parts[split] = to_binary(getattr(examples, split), tuple(two_values))
        except ValueError as error:
            raise ValueError(f"{examples.name}, {split}: {error}") from None
    return replace(examples, **parts)


def _about(run: str) -> dict[str, Any]:
    """What a run remembers of its data."""
    from allegory.training.checkpoint import read_config

    about = read_config(run).get("data")
    if not about:
        raise ValueError(f"{run} was not trained by the command and does not say on what data; use it from Python")
    missing = {"source", "dynamic", "seed", "event_shape", "two_values", "range", "checksum"} - about.keys()
    if missing:
        raise ValueError(f"{run}: its config.json does not say the data's {', '.join(sorted(missing))}; train again")
    return about


def _open_run(run: str) -> tuple[Any, Any, dict[str, Any]]:
    """Model, data and memory of a run; the data must still be the same."""
    from allegory import load

    _about(run)
    model = load(run)
    return model, *_open_data(run)


def _open_data(run: str) -> tuple[Any, dict[str, Any]]:
    """Data and memory of a run; the data must still be the same."""
    from allegory.data.splits import checksum

    about = _about(run)
    examples = _load_once(about["source"], about["dynamic"], about["seed"])
    if list(examples.event_shape) != about["event_shape"]:
        raise ValueError(
            f"{about['source']} has examples of shape {tuple(examples.event_shape)}, {run} was trained on "
            f"{tuple(about['event_shape'])}"
        )
    examples = _as_bits(examples, about["two_values"])
    if checksum(examples) != about["checksum"]:
        raise ValueError(
            f"{about['source']} has changed since {run} was trained on it, so its test split may hold examples the "
            "model was trained on; restore the file, or train again"
        )
    return examples, about


def _pictures(model: Any, examples: Any, out: Path) -> None:
    """samples.png and reconstructions.png in the run, where the data are images."""
    import torch

    from allegory.views.figures import are_images, expected, save_sheet

    if not are_images(tuple(examples.event_shape)):
        return
    low, high = examples.valid.min().item(), examples.valid.max().item()
    x = examples.valid[:32]
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        again = expected(model.reconstruct(x.to(next(model.parameters()).device))).cpu()
        save_sheet(out / "samples.png", expected(model.generate(64)), 8, low, high)
    save_sheet(out / "reconstructions.png", torch.stack([x, again], 1).flatten(0, 1), 8, low, high)


def _check_out(out: str) -> None:
    if Path(out).suffix not in (".npz", ".png"):
        raise ValueError(f"--out {out}: wanted a name that ends in .npz or .png")


def _write(out: str, arrays: dict[str, Any], picture: Any, about: dict[str, Any], columns: int) -> None:
    import io

    import numpy as np

    from allegory.runtime.storage import write_atomically
    from allegory.views.figures import save_sheet

    if Path(out).suffix == ".png":
        save_sheet(out, picture, columns, *about.get("range", (picture.min().item(), picture.max().item())))
        return
    file = io.BytesIO()
    np.savez_compressed(file, **{key: value.cpu().numpy() for key, value in arrays.items()})
    write_atomically(Path(out), file.getvalue())


def _say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":  # torchrun's number of this process
        print(text, file=sys.stderr, flush=True)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _say(f"allegory: warning: {message}")


COMMANDS: dict[str, Callable[..., None]] = {
    command.__name__: command
    for command in (train, evaluate, diagnose, report, sample, reconstruct, encode, runs, datasets, completion, demo)
}
