"""allegory train: trains a model and writes its run."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from allegory.command import console
from allegory.command.options import (
    BY_NAME,
    FILE,
    TRAIN,
    Command,
    check_stored,
    limits,
    names,
    pairs,
    setting,
    settings,
    with_argument,
    with_options,
    written,
)

__all__ = ["train"]

FIT = (
    "epochs", "minutes", "samples", "batch_size", "lr", "lr_warmup", "kl_warmup", "beta", "weight_decay", "ema",
    "patience", "seed", "precision", "checkpoint_seconds",
)  # fmt: skip
COPIES = 10  # of the weights: the best, the average, gradients, moments, and what they were when the epoch began
REMARKED_ROWS = 200_000  # of a table
READING = ("dynamic", "split", "array", "size", "given", "exposure")
MODEL = {  # the settings that each architecture takes
    "mlp": (
        "latent", "dropout", "markov", "prior", "components", "activation", "hidden", "block", "top_down",
        "set_features", "factors", "latent_family", "latent_categories", "prior_levels",
    ),
    "conv": (
        "latent", "dropout", "markov", "prior", "components", "activation", "scales", "stem", "channels", "blocks",
        "posterior_blocks", "any_size", "checkpointed",
    ),
}  # fmt: skip


@click.command(cls=Command)
@with_argument("data", FILE, "DATA")
@with_options(TRAIN, given=True)
def train(
    data: str,
    out: str | None,
    resume: bool | None,
    device: str | None,
    shard: bool | None,
    tensorboard: bool | None,
    wandb: bool | None,
    **flags: Any,
) -> None:
    """Trains a model on DATA and writes a run directory.

    DATA is a built-in name (see allegory datasets), a .npy or .npz file, a table (.csv, .parquet), or a folder of
    images.

    \b
    Examples:
      allegory train digits --levels 2 --out runs/digits
      allegory train mine.npz --minutes 10 --objective iwae --samples 5
      allegory train people.csv --drop id --column zip=categorical --gaps "?,-999"
      allegory train blood.csv --missing-above glucose=300

    In Python, fit has other defaults: no warm-ups, no early stopping, float32, and no compilation.
    """  # noqa: D301  click reads the backspace
    import torch

    from allegory import architectures, fit
    from allegory.data.cutting import has_gaps
    from allegory.data.recoding import binarize
    from allegory.data.splits import load_together
    from allegory.missingness import gap_columns, of_what
    from allegory.runtime import processes
    from allegory.training.checkpoint import load
    from allegory.training.directory import CONFIG, check_unoccupied
    from allegory.views.figures import save_pictures

    console.imports_done(data)
    where = console.device(device or "auto")
    named = out is not None
    if out is None:
        if resume:
            raise ValueError("--resume continues a run; name it: --out RUN")
        out = processes.broadcast(lambda: _unused_name(f"runs/{Path(data).stem or 'data'}"))
    if not resume and os.path.isdir(data) and Path(os.path.realpath(data)) in Path(os.path.realpath(out)).parents:
        raise ValueError(f"--out {out} is in {data}, whose images are the data: those of the run would be among them")
    stored: Any = {}
    if resume and (Path(out) / CONFIG).exists():
        stored = _stored_settings(out)
    elif not resume:
        processes.broadcast(lambda: check_unoccupied(out))  # before anything is read or built
    chosen = {key: value for key, value in flags.items() if value is not None}
    options = settings(stored, chosen)
    reading = {key: options[key] for key in READING} | {"given": names(options["given"])}
    with console.naming_flags():
        source = load_together(data, seed=options["split_seed"], **reading, **_said_of_table(options))
    if chosen.get("split_seed") and (source.place is None or options["split"] == "ordered"):
        why = f"{data} is built in and has its own splits" if source.place is None else "--split ordered draws nothing"
        raise ValueError(f"--split-seed {chosen['split_seed']}: {why}; wanted it for a path that is split at random")
    options = _for_table(options, {*stored, *chosen}, source)
    options = options if stored else _for_small_set(options, {*chosen}, source)
    options = _for_latents(options, {*stored, *chosen})
    trackers = _trackers(Path(out), bool(tensorboard), bool(wandb), {"data": data, **options})
    objective = _objective(options)
    if not named:
        console.say(f"writing the run to {out}")
    if not isinstance(source.train, torch.Tensor):
        numbers = math.prod(source.train.shape)
        console.say(f"{data}: the {numbers:,} values of the training split stay on disk and are read as they are drawn")
    examples, about = source.scored_as(_likelihood(options["likelihood"], source))
    for line in _remarks(examples, about["likelihood"]):
        console.say(console.as_flags(line))
    build: Any = {"mlp": architectures.mlp, "conv": architectures.conv}[options["architecture"]]
    parts = {key: options[key] for key in MODEL[options["architecture"]] if key in options}
    exposed = examples.exposure is not None
    if exposed and options["architecture"] != "mlp":
        raise ValueError(f"--exposure {options['exposure']} applies only to --architecture mlp")
    likelihood = about["likelihood"] if examples.schema is None else examples.schema.family(exposed)
    gaps = examples.schema is None and any(map(has_gaps, (examples.train, examples.valid, examples.test)))
    parts |= {"event_shape": examples.event_shape, "likelihood": likelihood, "gaps": gaps or None}
    parts |= {"categories": about["categories"], "lowest": about.get("lowest")}
    if examples.given is not None:
        console.say(f"the model is of x given {examples.given.described()}")
        if exposed and examples.schema is not None:
            counts = [str(column.name) for column in examples.schema.modelled if column.kind == "count"]
            console.say(f"counts in proportion to it, as negative binomials: {', '.join(counts)}")
        parts |= {"given": examples.given.shape} | ({"exposure": examples.exposure} if exposed else {})
    if told := gap_columns(likelihood):
        console.say(of_what(told.values()))
    _check_memory(build, parts)
    of_each = {split: examples.given_with(split) for split in ("train", "valid")}
    parts |= {"given_data": next(iter(of_each["train"]), None)}
    torch.manual_seed(options["seed"])
    model = build(**parts, data=examples.head, row_names=examples.row_names("train"), offset=examples.offset)
    model = model if shard else model.to(where)
    options = _with_warmups(options, model.levels, len(examples.train))
    console.say(f"{model!r}, on {where}")
    if model.config.get("padded"):
        size = " x ".join(map(str, examples.event_shape[1:]))
        console.say(f"{size} are padded for the convolutions; the likelihood is of the {size} alone")
    _check(model, examples, where, fits=None if options["likelihood"] == "auto" else source.choose_likelihood())
    with _explained(data, out):
        record = fit(
            model,
            examples.train,
            valid=examples.valid,
            given=of_each["train"],
            valid_given=of_each["valid"],
            objective=objective,
            transform=binarize if examples.dynamic else None,
            out=out,
            resume=bool(resume),
            about={"data": about, "command": options},
            progress=True,
            tracker=trackers,
            shard=where.type if shard else None,
            row_names=examples.row_names("train"),
            compile="auto" if options["compile"] is None else options["compile"],
            **{key: options[key] for key in FIT},
        )
    if processes.rank() > 0:
        return
    save_pictures(out, load(out) if shard else model, examples.valid, of_each["valid"])
    _print_record(record, out, options)
    print(f"next: allegory evaluate {out}")


def _said_of_table(options: dict[str, Any]) -> dict[str, Any]:
    """What `load` is told of a table."""
    gaps = [_as_number(code) for code in names(options["gaps"])]
    delimiter = {"tab": "\t", "\\t": "\t"}.get(options["delimiter"], options["delimiter"])
    said = {"columns": pairs(options["column"]), "drop": names(options["drop"]), "gaps": gaps, "delimiter": delimiter}
    said |= {key: limits(options[key]) for key in ("missing_above", "missing_below")}
    indicators = names(options["indicators"])
    said["indicators"] = True if indicators == ["all"] else indicators
    said |= {key: options[key] for key in ("encoding", "decimal", "header")}
    return {key: value for key, value in said.items() if value or value is False}


def _as_number(text: str) -> Any:
    """A number, where it is one."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _for_table(options: dict[str, Any], chosen: set[str], source: Any) -> dict[str, Any]:
    """The settings; of a table those that were not chosen are its own.

    Args:
        options: of all settings.
        chosen: which were given, or stored.
        source: the data.
    """
    from allegory.data.tables import is_table
    from allegory.training.defaults import table_settings

    if not is_table(source.name):
        return options
    if options["architecture"] != "mlp":
        raise ValueError(f"--architecture {options['architecture']} is for images; {source.name} is a table")
    own = table_settings(bool(source.train.isnan().any()))
    kept = {"latent"} if "levels" in chosen else set()
    kept |= {"objective", "samples"} if chosen & {"objective", "samples", "beta", "free_bits", "alpha"} else set()
    options = {**options, **{key: value for key, value in own.items() if key not in chosen | kept}}
    return {**options, "levels": len(options["latent"])}


def _for_small_set(options: dict[str, Any], given: set[str], source: Any) -> dict[str, Any]:
    """The settings; of few large examples those that were not given go by their number and shape. Who gives widths, or
    what perceptrons alone have, gets perceptrons.

    Args:
        options: of all settings.
        given: which were given.
        source: the data.
    """
    from allegory.architectures import default_latent
    from allegory.training.defaults import small_set_settings

    examples, *shape = source.train.shape
    of_perceptrons = {"architecture", "latent", "exposure"} | set(MODEL["mlp"]) - set(MODEL["conv"])
    fixed = given & of_perceptrons or options["prior"] == "diffusion"
    own = small_set_settings(examples, shape, options["architecture"] if fixed else None)
    if own and own["architecture"] != options["architecture"]:
        latent = default_latent(options["levels"] if "levels" in given else None, own["architecture"])
        options = options | {"latent": list(latent), "levels": len(latent)}
    own = {key: value for key, value in own.items() if key not in given and value != options.get(key)}
    if own:
        words = ", ".join(" ".join(BY_NAME[key].words(value)) for key, value in own.items())
        console.say(f"few examples, {examples:,} of {math.prod(shape):,} numbers: {words}")
    side = math.isqrt(math.prod(shape))
    if own and len(shape) == 1 and side**2 == shape[0]:
        console.say(f"if they are pictures, give them as (N, {side}, {side}): convolutions learn more from few")
    return options | own


def _for_latents(options: dict[str, Any], chosen: set[str]) -> dict[str, Any]:
    """The settings; those that were not chosen are of the latents' family, or of an objective that takes the score.

    Args:
        options: of all settings.
        chosen: which were given, or stored.
    """
    from allegory.training.defaults import latent_settings

    family = setting("latent_family", options)
    own = latent_settings(family)
    if options["objective"] in ("loo", "vimco") and "objective" in chosen:
        return options if "samples" in chosen else {**options, "samples": latent_settings("bernoulli")["samples"]}
    if not own or chosen & {"objective", "free_bits", "alpha"}:
        return options
    options = {**options, **{key: value for key, value in own.items() if key not in chosen}}
    console.say(f"{family} latents: the objective is {options['objective']}, with {options['samples']} particles")
    return options


def _remarks(examples: Any, likelihood: str) -> list[str]:
    """What there is to say of the data, before a training; of a table its schema, too."""
    from allegory import tabular
    from allegory.data import remarks

    if examples.schema is None:
        return remarks(examples.with_offset(examples.head), likelihood)
    console.say(str(examples.schema))
    return tabular.remarks(examples.train[:REMARKED_ROWS], examples.schema)


def _check_memory(build: Any, parts: dict[str, Any]) -> None:
    """Counts the parameters, before there are any: a system that gives out more memory than it has would kill this."""
    import torch

    from allegory.runtime.memory import available

    try:
        with torch.device("meta"):
            numbers = sum(p.numel() for p in build(**parts).parameters())
    except (NotImplementedError, ValueError):  # a part that looks at numbers, or what is refused when it is built
        return
    needed = COPIES * numbers * torch.get_default_dtype().itemsize
    if needed > available():
        raise ValueError(
            f"the model has {numbers:,} parameters, which take about {needed / 2**30:,.0f} GiB to train, of "
            f"{available() / 2**30:,.1f} GiB of memory; wanted fewer or smaller levels or layers"
        )


def _unused_name(name: str) -> str:
    """The name with the date and the time; with a number, too, where another training has begun in this second."""
    name += time.strftime("-%Y%m%d-%H%M%S")
    names = (name, *(f"{name}-{i}" for i in range(2, 10_000)))
    return next(name for name in names if not os.path.lexists(name))


def _check(model: Any, examples: Any, where: Any, fits: tuple[str, str] | None) -> None:
    """Checks that the model can score all splits, before it is trained on one of them.

    Args:
        model: to be trained.
        examples: the data.
        where: the device.
        fits: where a likelihood was asked for, the one that fits the values, and why.
    """
    for split in ("valid", "test") if examples.dynamic else ("train", "valid", "test"):
        try:
            x = getattr(examples, split).to(where)
            given = tuple(c.to(where) for c in examples.given_with(split))
            model.check(x, f"{examples.name}, {split}", examples.row_names(split), given)
        except ValueError as error:
            advice = f"; the data have {fits[1]}, which --likelihood {fits[0]} takes" if fits else ""
            raise ValueError(f"{str(error).rstrip('.')}{advice}") from None


def _likelihood(name: str, examples: Any) -> str:
    """The likelihood; "auto" is resolved from the values, and the choice printed."""
    if name == "auto" and examples.schema is not None:
        return "columns"
    if name == "auto":
        name, why = examples.choose_likelihood()
        console.say(f"likelihood: {name}, because the data have {why}")
        if name == "normal":
            console.say("each element is standardised for the networks; densities are in the data's own units")
    return name


def _objective(options: dict[str, Any]) -> Any:
    """What to maximise, with its own settings."""
    from allegory import objectives

    name = options["objective"]
    if name in ("iwae", "dreg", "renyi") and options["samples"] == 1:
        console.say(f"{name} with one particle is the ELBO; use more, such as --samples 5")
    if options["free_bits"] is not None:
        return functools.partial(objectives.free_bits, nats=options["free_bits"])
    if options["alpha"] is not None:
        return functools.partial(objectives.renyi, alpha=options["alpha"])
    return getattr(objectives, name)


def _trackers(out: Path, tensorboard: bool, wandb: bool, config: dict[str, Any]) -> list[Any]:
    """The trackers to call after each epoch."""
    from allegory.training import trackers

    chosen = [trackers.tensorboard(out / "tensorboard")] if tensorboard else []
    return chosen + ([trackers.wandb(out, name=out.name, config=config)] if wandb else [])


def _stored_settings(out: str) -> dict[str, Any]:
    """The settings of the run that is resumed, checked."""
    from allegory.training.directory import CONFIG, read_config

    config = read_config(out)
    stored, recorded = config.get("command"), config.get("data")
    if not isinstance(stored, dict):
        raise ValueError(f"{out} was not trained by `allegory train`; resume it with the code that trained it")
    recorded_seed = recorded.get("seed", 0) if isinstance(recorded, dict) else 0
    stored.setdefault("split_seed", recorded_seed)  # up to 0.2 the seed of the training was that of the split, too
    return check_stored(stored, f"{Path(out) / CONFIG}")


def _with_warmups(options: dict[str, Any], levels: int, examples: int) -> dict[str, Any]:
    """The settings; warm-ups that were not given are chosen by the size of the training."""
    from allegory.training.defaults import kl_warmup_steps, lr_warmup_steps

    sizes = examples, options["batch_size"], options["epochs"]
    kl_warmup, lr_warmup = options["kl_warmup"], options["lr_warmup"]
    return options | {
        "kl_warmup": kl_warmup_steps(levels, *sizes) if kl_warmup is None else kl_warmup,
        "lr_warmup": lr_warmup_steps(*sizes) if lr_warmup is None else lr_warmup,
    }


@contextlib.contextmanager
def _explained(data: str, out: str) -> Iterator[None]:
    """Says how to resume a training that was stopped, or that lost one of its processes."""
    from allegory.runtime import processes
    from allegory.training.directory import LAST

    try:
        yield
    except KeyboardInterrupt:
        if (Path(out) / LAST).exists():
            console.say(f"stopped; a checkpoint is in {out}; resume with: allegory train {data} --out {out} --resume")
        raise
    except RuntimeError as error:
        if processes.world_size() == 1 or not any(word in str(error) for word in ("Connection", "gloo", "NCCL")):
            raise
        reason = str(error).split("] ", 1)[-1].split(". ")[0]
        raise ValueError(
            f"another process of this training has died ({reason}), and may have printed why; {out} keeps the last "
            "checkpoint: run the same command with --resume"
        ) from None


def _print_record(record: Any, out: str, options: dict[str, Any]) -> None:
    """How the training went, and what it has reached."""
    print(f"{out}: {record.passes:g} epochs, {record.seconds:.0f} s, stopped by {record.stopped}")
    if record.best_epoch is None:
        print("the warm-up had not ended, so these are the last weights; train longer")
    else:
        print(f"validation bound {record.best_bound:.2f} nats per example, in epoch {round(record.best_epoch, 2):g}")
    if record.best_objective is not None:
        print(f"chosen by the objective at beta = {written(options['beta'])}, {record.best_objective:.2f}")
    bound = record.history[-1]["bound"] if record.best_bound is None else record.best_bound
    if record.baseline is not None:
        less = f"the bound, {bound:.2f}, is worse than " if bound < record.baseline else ""
        print(f"{less}the baseline of independent elements: {record.baseline:.2f}")
