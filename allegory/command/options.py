r"""The options of the command `allegory`, each described once: its name, what it takes, its default, and what it
belongs to. The help, what is refused, what a run is resumed with and the line that a report quotes are read from here.
"""

from __future__ import annotations

import difflib
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import CompletionItem

__all__ = [
    "DEFAULTS", "DEMO", "DIAGNOSE", "ENCODE", "EVALUATE", "FILE", "FOLDER", "RECONSTRUCT", "REPORT", "RUNS",
    "SAMPLE", "TRAIN", "TRAINING", "Choice", "Command", "Number", "Option", "Place", "asks", "command_line", "nearest",
    "settings", "takes", "written",
]  # fmt: skip

EPOCHS = 100
ARCHITECTURES = ("mlp", "conv")
LIKELIHOODS = (  # those of allegory.architectures, which waits for torch
    "auto", "normal", "normal_shared", "normal_per_dimension", "normal_optimal", "student_t", "bernoulli",
    "categorical", "discretized_logistic", "discretized_logistic_mixture", "continuous_bernoulli", "poisson",
    "negative_binomial",
)  # fmt: skip
OBJECTIVES = ("elbo", "iwae", "dreg", "stl", "renyi")
PRIORS = ("standard", "mixture", "vamp", "flow")
SPLITS = ("train", "valid", "test")


class Command(click.Command):
    """A command whose every mistake knows where it was made."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Reads the arguments, without running the command."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            error.ctx = error.ctx or click.Context(self, parent=parent, info_name=info_name)
            raise


class Number(click.ParamType):
    """A number with a condition, or several with commas between."""

    def __init__(
        self, kind: Callable[[str], Any], holds: Callable[[Any], bool], wanted: str, many: bool = False
    ) -> None:
        self.kind, self.holds, self.wanted, self.many, self.name = kind, holds, wanted, many, "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the tuple of numbers."""
        if not isinstance(value, str):
            return value
        numbers = tuple(self._number(part, param, ctx) for part in (value.split(",") if self.many else [value]))
        return numbers if self.many else numbers[0]

    def _number(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = self.kind(text)
        except ValueError:
            number = None
        if number is None or not self.holds(number):
            self.fail(f"got {text!r}, wanted {self.wanted}", param, ctx)
        return number


class Choice(click.Choice):
    """One of some names; of what is none of them the nearest is named."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name, if it is one of them."""
        if value not in self.choices:
            names = [str(choice) for choice in self.choices]
            self.fail(f"got {value!r}{nearest(str(value), names)}; wanted one of {', '.join(names)}", param, ctx)
        return value


class Place(click.ParamType):
    """A path, or a name; a shell completes it by what is there, "file" or "dir"."""

    def __init__(self, name: str) -> None:
        self.name = name

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leaves the files or folders to the shell."""
        return [CompletionItem(incomplete, type=self.name)]


NATURAL = Number(int, lambda v: v >= 1, "a whole number, 1 or more")
SEVERAL = Number(int, lambda v: v >= 2, "a whole number, 2 or more")
WHOLE = Number(int, lambda v: 0 <= v < 2**32, "a whole number, 0 or more")
ABOVE_ZERO = Number(float, lambda v: 0 < v < math.inf, "a number above zero")
POSITIVE = Number(float, lambda v: 0 <= v < math.inf, "a number, 0 or more")
FINITE = Number(float, math.isfinite, "a number")
FRACTION = Number(float, lambda v: 0 <= v < 1, "a number from 0 to below 1")
WIDTHS = Number(int, NATURAL.holds, NATURAL.wanted, many=True)
WEIGHTS = Number(float, POSITIVE.holds, POSITIVE.wanted, many=True)
FILE, FOLDER = Place("file"), Place("dir")
DEPENDS = object()  # the default of what depends on something else


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: of the setting; the flag is --name.
        kind: what it takes; None for a switch.
        default: if it is not given; DEPENDS where that is for the architecture or the data to say.
        help: one line, without the default.
        metavar: what its value is called.
        of: what it belongs to, another option and the values of that: ("architecture", ("conv",)).
        said: how the help says the default, by default as it is; "" for nothing.
        off: the flag that says no, of a switch.
        required: whether it has to be given.
    """

    name: str
    kind: click.ParamType | None
    default: Any
    help: str
    metavar: str | None = None
    of: tuple[str, tuple[str, ...]] | None = None
    said: str | None = None
    off: str = ""
    required: bool = False

    @property
    def flag(self) -> str:
        """What is typed for it: --name."""
        return "--" + self.name.replace("_", "-")

    @property
    def described(self) -> str:
        """The line of the help."""
        owner = f"{' and '.join(self.of[1])}: " if self.of and self.of[0] == "architecture" else ""
        said = self.said
        if said is None:
            many = isinstance(self.default, tuple | list)
            said = ",".join(map(str, self.default)) if many else "" if self.default is None else str(self.default)
            said = "" if self.kind is None or self.required else said
        return f"{owner}{self.help}{f' (default: {said})' if said else ''}"

    def as_click(self, default: Any) -> Callable[[Any], Any]:
        """The decorator of click."""
        flags = f"{self.flag}/{self.off}" if self.off else self.flag
        more: dict[str, Any] = {"is_flag": True} if self.kind is None else {"type": self.kind, "metavar": self.metavar}
        more |= {"required": True} if self.required else {"default": default}
        return click.option(flags, self.name, help=self.described, **more)

    def words(self, value: Any) -> list[str]:
        """How a value is typed."""
        if self.kind is None:
            return [self.flag] if value else [self.off] if self.off else []
        return [self.flag, written(value)]


MLP, CONV = ("architecture", ("mlp",)), ("architecture", ("conv",))

TRAINING = (
    Option("levels", NATURAL, DEPENDS, "levels of latents", "T", said="as --latent has, or 1; conv: 2"),
    Option("latent", WIDTHS, DEPENDS, "width of z_1,..,z_T; conv: channels", "D1,D2,..",
           said="40, halved from level to level; conv: 4 a level, 32 at the top"),
    Option("architecture", Choice(ARCHITECTURES), "mlp", "perceptrons, or a ladder of convolutions"),
    Option("hidden", WIDTHS, (300, 300), "hidden layers of each network", "H1,H2,..", MLP),
    Option("block", Choice(("plain", "gated", "residual")), "plain", "what a hidden layer is", of=MLP),
    Option("top_down", None, False, "infer as a ladder does, from the top down", of=MLP),
    Option("markov", None, DEPENDS, "whether p(z_t) sees z_{t+1} alone, or all levels above it", off="--all-above",
           said="mlp: --markov, conv: --all-above"),
    Option("channels", NATURAL, 64, "width of the ladder", "C", CONV),
    Option("scales", WIDTHS, None, "how much coarser than x each level is", "F1,F2,..", CONV, said="powers of two"),
    Option("stem", NATURAL, None, "how much coarser than x the finest blocks are", "F", CONV, said="4 at most"),
    Option("blocks", NATURAL, 2, "residual blocks a level", "N", CONV),
    Option("checkpointed", None, False, "less memory, a third more time", of=CONV),
    Option("prior", Choice(PRIORS), "standard", "p(z_T)"),
    Option("components", NATURAL, 500, "components of a mixture or a VampPrior", "K", ("prior", ("mixture", "vamp"))),
    Option("likelihood", Choice(LIKELIHOODS), "auto", f"family of p(x | z_1): {', '.join(LIKELIHOODS)}", "NAME",
           said="auto, by the values"),
    Option("objective", Choice(OBJECTIVES), "elbo", "what is maximised"),
    Option("beta", WEIGHTS, 1.0, "weight of the KL, or B1,B2,.. for each level", "B", said="1"),
    Option("free_bits", POSITIVE, None, "nats that each level has free of charge", "NATS", ("objective", ("elbo",))),
    Option("alpha", FINITE, None, "order of the Renyi bound", "A", ("objective", ("renyi",)), said="0.5"),
    Option("samples", NATURAL, 1, "particles per example", "S"),
    Option("epochs", NATURAL, None, "passes through the data", "N", said=f"{EPOCHS}, unless there are --minutes"),
    Option("minutes", ABOVE_ZERO, None, "wall-clock budget, instead or as well", "M"),
    Option("batch_size", NATURAL, 128, "examples per step", "B"),
    Option("seed", WHOLE, 0, "seed of the split, the weights and the noise", "N"),
    Option("dynamic", None, False, "binarise anew at each draw (mnist, fashion-mnist, omniglot)"),
    Option("lr", ABOVE_ZERO, 1e-3, "learning rate, annealed to 0 by a cosine", "RATE"),
    Option("lr_warmup", WHOLE, 100, "steps to reach it", "STEPS"),
    Option("kl_warmup", WHOLE, None, "steps until beta has its whole weight", "STEPS",
           said="0; of several levels a tenth of the training, at most 2000"),
    Option("weight_decay", FINITE, 0.0, "of AdamW", "W", said="0"),
    Option("dropout", FRACTION, 0.0, "in every hidden layer", "P", said="0"),
    Option("activation", Place("name"), DEPENDS, "a class of torch.nn", "NAME", said="SiLU; conv: GELU"),
    Option("ema", FRACTION, 0.999, "memory of the averaged weights", "E"),
    Option("patience", NATURAL, 50, "epochs without progress until it stops", "N"),
    Option("precision", Choice(("auto", "float32", "bfloat16")), "auto", "of the networks in training",
           said="auto, bfloat16 where that is faster, measured"),
    Option("compile", None, None, "compile the training", off="--no-compile", said="if that pays, measured"),
    Option("checkpoint_seconds", FINITE, 10.0, "seconds between checkpoints", "S", said="10"),
)  # fmt: skip
"""The settings of a training, which its run remembers."""

DEVICE = Option("device", Place("name"), "auto", "auto, cpu, cuda, cuda:1, ...", "NAME")
DATA = Option("data", FILE, None, "what the run was trained on, where it does not say, or where that has moved", "DATA")
SPLIT = Option("split", Choice(SPLITS), "test", "which examples")
JSON = Option("json", None, False, "print JSON")
SEED = Option("seed", WHOLE, 0, "seed of the choice and the noise", "N")

TRAIN = (
    Option("out", FOLDER, None, "the run directory to write", "RUN", said="runs/DATA-date-time"),
    Option("resume", None, False, "go on from RUN's last checkpoint, with its settings"),
    *TRAINING,
    Option("shard", None, False, "under torchrun: shard the model over the processes"),
    Option("tensorboard", None, False, "metrics for TensorBoard, too, into RUN/tensorboard"),
    Option("wandb", None, False, "metrics for Weights & Biases, too; WANDB_PROJECT names the project (or allegory)"),
    DEVICE,
)
EVALUATE = (
    SPLIT,
    Option("importance_samples", NATURAL, 1000, "K of L_K", "K"),
    Option("precision", Choice(("auto", "float32", "bfloat16")), "float32", "of the networks; auto measures"),
    Option("curve", None, False, "L_K for K = 1, 2, 5, 10, ..., too"),
    Option("ais", None, False, "check by annealed importance sampling; takes minutes"),
    Option("ais_examples", NATURAL, None, "how many random examples for it", "N", said="100"),
    DATA, JSON, DEVICE,
)  # fmt: skip
DIAGNOSE = (SPLIT, Option("examples", NATURAL, 1000, "how many random examples", "N"), DATA, JSON, DEVICE)
REPORT = (
    Option("out", FILE, None, "the page", "FILE", said="RUN/report.html"),
    SPLIT,
    Option("examples", SEVERAL, 500, "how many random examples", "N"),
    Option("importance_samples", NATURAL, 200, "K of L_K", "K"),
    DATA, DEVICE,
)  # fmt: skip
SAMPLE = (
    Option("count", NATURAL, 64, "how many", "N"),
    Option("out", FILE, None, ".npz (samples, means) or .png (means)", "FILE", required=True),
    Option("temperature", POSITIVE, 1.0, "what the deviations of all latents are multiplied by", "T", said="1"),
    SEED, DEVICE,
)  # fmt: skip
RECONSTRUCT = (
    Option("out", FILE, None, ".npz (originals, reconstructions) or .png", "FILE", required=True),
    SPLIT,
    Option("count", NATURAL, 32, "how many random examples", "N"),
    DATA, SEED, DEVICE,
)  # fmt: skip
ENCODE = (Option("out", FILE, None, "z1_mean, z1_std, ... of every level", "FILE.npz", required=True), SEED, DEVICE)
RUNS = (JSON,)
DEMO = (Option("out", FOLDER, None, "where to write", "DIR", said="a new folder allegory-demo"),)

BY_NAME = {option.name: option for option in TRAINING}
DEFAULTS: dict[str, Any] = {
    option.name: option.default
    for option in TRAINING
    if option.default is not DEPENDS and option.of not in (MLP, CONV)  # which have their own
}
"""What a training does where nothing is said."""


def takes(name: str, kind: click.ParamType, metavar: str, default: Any = None) -> Callable[[Any], Any]:
    """What stands without a flag; needed, unless there is a default."""
    more: dict[str, Any] = {} if default is None else {"default": default, "required": False}
    return click.argument(name, type=kind, metavar=metavar, **more)


def asks(options: Sequence[Option], given: bool = False) -> Callable[[Any], Any]:
    """The options of a command.

    Args:
        options: of the table.
        given: whether what is not given is None, instead of its default.
    """

    def decorate(function: Any) -> Any:
        function = click.help_option("-h", "--help", help="show this message and exit")(function)
        for option in reversed(options):
            function = option.as_click(None if given else option.default)(function)
        return function

    return decorate


def settings(stored: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """What was said on the command line, else what the run says that is resumed, else the default.

    Args:
        stored: the settings of a run, or nothing.
        given: by name.

    Raises:
        ValueError: what does not go together.
    """
    chosen = {**DEFAULTS, **stored, **given}
    for option in TRAINING:
        name, value = option.name, chosen.get(option.name)
        said = name in given or (name in stored and value != option.default)
        if option.of and said and value is not None and chosen[option.of[0]] not in option.of[1]:
            flag, owners = BY_NAME[option.of[0]].flag, " and ".join(option.of[1])
            words = " ".join(option.words(value))
            raise ValueError(f"{words} is of {flag} {owners}, not of {chosen[option.of[0]]}")
    if "latent" not in given and "levels" not in given and stored:
        given = stored
    chosen["latent"] = _latent(given.get("levels"), given.get("latent"), chosen["architecture"])
    if isinstance(chosen["beta"], tuple | list) and len(chosen["beta"]) == 1:
        chosen["beta"] = chosen["beta"][0]
    chosen["levels"] = len(chosen["latent"])
    if chosen["epochs"] is None and chosen["minutes"] is None:
        chosen["epochs"] = EPOCHS
    return {key: list(value) if isinstance(value, tuple) else value for key, value in chosen.items()}


def command_line(source: str, chosen: dict[str, Any]) -> str:
    """The command that trains with these settings.

    Args:
        source: the data.
        chosen: as `settings` gives them, and config.json of a run keeps them.

    >>> command_line("digits", settings({}, {"levels": 2, "seed": 3}))
    'allegory train digits --latent 40,20 --epochs 100 --seed 3'
    """
    words = ["allegory", "train", source]
    for option in TRAINING:
        value = chosen.get(option.name)
        if value is not None and option.name != "levels" and value != DEFAULTS.get(option.name):
            words += option.words(value)  # --latent has the levels
    return shlex.join(words)


def written(value: Any) -> str:
    """A value as it is typed."""
    if isinstance(value, list | tuple):
        return ",".join(map(written, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def nearest(name: str, known: Sequence[str]) -> str:
    """Of some names the one that may have been meant, in words."""
    match = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {match[0]!r}?" if match else ""


def _latent(levels: int | None, latent: Sequence[int] | None, architecture: str) -> tuple[int, ...]:
    from allegory.architectures import default_latent

    if latent is None:
        return default_latent(levels, architecture)
    if levels is not None and len(latent) != levels:
        example = written([max(2, latent[0] >> t) for t in range(levels)])
        raise ValueError(
            f"--latent {written(latent)} gives {len(latent)} of the widths that --levels {levels} needs; "
            f"wanted one for each level, such as --latent {example}"
        )
    return tuple(latent)
