r"""The options of the command `allegory`, each described once: its name, the values it takes, its default, and what it
belongs to. The help, the checks, the settings of a resumed run and the command line in a report are all derived from
this table.
"""

from __future__ import annotations

import csv
import difflib
import math
import reprlib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click
from click.shell_completion import CompletionItem

__all__ = [
    "COMPRESS",
    "DECOMPRESS",
    "DEFAULTS",
    "DEMO",
    "DIAGNOSE",
    "ENCODE",
    "EVALUATE",
    "EXPORT",
    "FILE",
    "FOLDER",
    "IMPUTE",
    "PUSH",
    "RECONSTRUCT",
    "REPORT",
    "RUNS",
    "SAMPLE",
    "SCORE",
    "TABLES",
    "TRAIN",
    "TRAINING",
    "Choice",
    "Command",
    "Names",
    "Number",
    "Option",
    "PathOrName",
    "check_stored",
    "command_line",
    "limits",
    "names",
    "nearest",
    "pairs",
    "setting",
    "settings",
    "with_argument",
    "with_options",
    "written",
]  # fmt: skip

EPOCHS = 100
SHORTENED = reprlib.Repr()
SHORTENED.maxstring = 60
ARCHITECTURES = ("mlp", "conv")
LIKELIHOODS = (  # those of allegory.architectures, which waits for torch; and one for each column
    "auto", "normal", "normal_shared", "normal_per_dimension", "normal_optimal", "student_t", "bernoulli",
    "categorical", "discretized_logistic", "discretized_logistic_mixture", "continuous_bernoulli", "poisson",
    "negative_binomial", "columns",
)  # fmt: skip
SPLIT_WAYS = ("random", "ordered", "groups")  # as allegory.data.cutting.SPLITS
OBJECTIVES = ("elbo", "iwae", "dreg", "stl", "renyi", "loo", "vimco")
LATENT_FAMILIES = ("normal", "bernoulli", "one_hot")  # as allegory.architectures.LATENT_FAMILIES
PRIORS = ("standard", "mixture", "vamp", "flow", "diffusion")
SPLITS = ("train", "valid", "test")
GRAPHS = ("encode", "decode", "generate", "score")  # as allegory.sharing.graph.WHAT
KINDS = (  # of columns, as allegory.tabular.columns.KINDS
    "real", "positive", "count", "binary", "categorical", "ordinal", "datetime", "constant",
)  # fmt: skip
TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".pq")


class Command(click.Command):
    """A command whose usage errors know which command they belong to."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Reads the arguments, without running the command."""
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.UsageError as error:
            error.ctx = error.ctx or click.Context(self, parent=parent, info_name=info_name)
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, those of a training in groups."""
        names = {name: title for title, group in GROUPS.items() for name in group} if self.name == "train" else {}
        sections: dict[str, list[tuple[str, str]]] = {title: [] for title in GROUPS if names}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None:
                sections.setdefault(names.get(param.name or "", "Options"), []).append(record)
        for title, records in sections.items():
            with formatter.section(title):
                formatter.write_dl(records)


class Number(click.ParamType):
    """A number that satisfies a condition, or several separated by commas."""

    def __init__(
        self, kind: Callable[[str], Any], holds: Callable[[Any], bool], wanted: str, several: bool = False
    ) -> None:
        self.kind, self.holds, self.wanted, self.several, self.name = kind, holds, wanted, several, "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number, or the tuple of numbers."""
        if not isinstance(value, str):
            return value
        numbers = tuple(self._number(part, param, ctx) for part in (value.split(",") if self.several else [value]))
        return numbers if self.several else numbers[0]

    def _number(self, text: str, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = self.kind(text)
        except ValueError:
            number = None
        if number is None or not self.holds(number):
            self.fail(f"got {SHORTENED.repr(text)}, wanted {self.wanted}", param, ctx)
        return number


class Choice(click.Choice):
    """One of several names; for an unknown name the error suggests the nearest."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name, if it is one of them."""
        if value not in self.choices:
            names = [str(choice) for choice in self.choices]
            self.fail(
                f"got {SHORTENED.repr(value)}{nearest(str(value), names)}; wanted one of {', '.join(names)}", param, ctx
            )
        return value


class PathOrName(click.ParamType):
    """A path, or a name; a shell completes it with existing files or folders ("file" or "dir")."""

    def __init__(self, name: str) -> None:
        self.name = name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name; an empty one, as of a variable of the shell that is not set, would mean the current folder."""
        if value == "":
            self.fail("got '', wanted a name", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Leaves the files or folders to the shell."""
        return [CompletionItem(incomplete, type=self.name)]


class Names(click.ParamType):
    """Names separated by commas; in quotes those that have commas. With `values` each has one: NAME=VALUE."""

    name = "names"

    def __init__(self, values: Sequence[str] = (), free: bool = False) -> None:
        self.values, self.pairs = values, bool(values) or free

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text, once it was looked at; `names` and `pairs` read it."""
        if not isinstance(value, str):
            return value
        if not value.strip() or any(not part for part in names(value)):
            self.fail(f"got {SHORTENED.repr(value)}, wanted names, separated by commas", param, ctx)
        for part in names(value) if self.pairs else ():
            left, equals, right = part.rpartition("=")
            if not equals or not left or (self.values and right not in self.values):
                known = f", one of {', '.join(self.values)}" if self.values else ""
                close = nearest(right, self.values) if equals else ""
                self.fail(f"got {SHORTENED.repr(part)}{close}; wanted NAME=VALUE{known}", param, ctx)
        return value


def names(text: str | None) -> list[str]:
    """The names in a list with commas.

    >>> names('age,"city, state"')
    ['age', 'city, state']
    """
    return [] if not text else [part.strip() for part in next(csv.reader([text], skipinitialspace=True))]


def pairs(text: str | None) -> dict[str, str]:
    """The values of names.

    >>> pairs("zip=categorical,age=count")
    {'zip': 'categorical', 'age': 'count'}
    """
    found = [part.rpartition("=") for part in names(text)]
    return {name.strip(): value.strip() for name, _, value in found}


def limits(text: str | None) -> dict[str, str | None]:
    """The limits of columns, None of those without one.

    >>> limits("glucose=300,income")
    {'glucose': '300', 'income': None}
    """
    found = [part.rpartition("=") if "=" in part else (part, "", "") for part in names(text)]
    return {name.strip(): value.strip() or None for name, _, value in found}


LARGEST = 2**31 - 1  # beyond it no width, count or number of steps has a meaning
NATURAL = Number(int, lambda v: 1 <= v <= LARGEST, f"a whole number, 1 or more, up to {LARGEST:,}")
DEPTH = Number(int, lambda v: 1 <= v <= 10_000, "a whole number, 1 or more, up to 10,000")
SEVERAL = Number(int, lambda v: 2 <= v <= LARGEST, f"a whole number, 2 or more, up to {LARGEST:,}")
WHOLE = Number(int, lambda v: 0 <= v < 2**32, f"a whole number, 0 or more, up to {2**32 - 1:,}")
ABOVE_ZERO = Number(float, lambda v: 0 < v < math.inf, "a number above zero")
POSITIVE = Number(float, lambda v: 0 <= v < math.inf, "a number, 0 or more")
FINITE = Number(float, math.isfinite, "a number")
FRACTION = Number(float, lambda v: 0 <= v < 1, "a number from 0 to below 1")
WIDTHS = Number(int, NATURAL.holds, NATURAL.wanted, several=True)
CHANNELS = Number(int, WHOLE.holds, WHOLE.wanted, several=True)
WEIGHTS = Number(float, POSITIVE.holds, POSITIVE.wanted, several=True)
FILE, FOLDER = PathOrName("file"), PathOrName("dir")
DEPENDS = object()  # stands for a default that depends on other options


@dataclass(frozen=True)
class Option:
    """One option.

    Attributes:
        name: of the setting; the flag is --name.
        kind: the type of its value; None for a switch.
        default: if it is not given; DEPENDS where it depends on the architecture or the data.
        help: one line, without the default.
        metavar: the name of its value in the help.
        of: what it belongs to, another option and its values: ("architecture", ("conv",)).
        shown: how the help shows the default, if not as it is; "" for not at all.
        off: the flag that switches a switch off.
        required: whether it has to be given.
    """

    name: str
    kind: click.ParamType | None
    default: Any
    help: str
    metavar: str | None = None
    of: tuple[str, tuple[str, ...]] | None = None
    shown: str | None = None
    off: str = ""
    required: bool = False

    @property
    def flag(self) -> str:
        """The flag as it is typed: --name."""
        return "--" + self.name.replace("_", "-")

    @property
    def described(self) -> str:
        """The line of the help."""
        owner = f"{' and '.join(self.of[1])}: " if self.of and self.of[0] == "architecture" else ""
        shown = self.shown
        if shown is None:
            several = isinstance(self.default, tuple | list)
            shown = ",".join(map(str, self.default)) if several else "" if self.default is None else str(self.default)
            shown = "" if self.kind is None or self.required else shown
        return f"{owner}{self.help}{f' (default: {shown})' if shown else ''}"

    def as_click(self, default: Any) -> Callable[[Any], Any]:
        """The decorator of click."""
        flags = f"{self.flag}/{self.off}" if self.off else self.flag
        more: dict[str, Any] = {"is_flag": True} if self.kind is None else {"type": self.kind, "metavar": self.metavar}
        more |= {"required": True} if self.required else {"default": default}
        if isinstance(self.kind, Names):
            more |= {"multiple": True, "callback": lambda ctx, param, value: ",".join(value) if value else default}
        return click.option(flags, self.name, help=self.described, **more)

    def words(self, value: Any) -> list[str]:
        """The words to type for a value."""
        if self.kind is None:
            return [self.flag] if value else [self.off] if self.off else []
        return [self.flag, written(value)]


MLP, CONV = ("architecture", ("mlp",)), ("architecture", ("conv",))

TRAINING = (
    Option("levels", DEPTH, DEPENDS, "levels of latents", "T", shown="as many as --latent has, or 1; conv: 2"),
    Option("latent", CHANNELS, DEPENDS, "width of z_1,..,z_T; conv: channels, 0 of a block without", "D1,D2,..",
           shown="40, halved at each level; conv: 4 per level, 32 at the top"),
    Option("architecture", Choice(ARCHITECTURES), "mlp", "perceptrons, or a ladder of convolutions",
           shown="mlp; conv for up to 10,000 pictures of 16 x 16 pixels or more"),
    Option("hidden", WIDTHS, (300, 300), "widths of the hidden layers of each network", "H1,H2,..", MLP,
           shown="300,300; 1000,1000 for up to 10,000 examples of 256 numbers or more"),
    Option("block", Choice(("plain", "gated", "residual")), "plain", "type of hidden layer", of=MLP),
    Option("latent_family", Choice(LATENT_FAMILIES), "normal", "z_t: normal, or discrete, bits or categories", of=MLP),
    Option("latent_categories", SEVERAL, 8, "categories of each latent", "K", ("latent_family", ("one_hot",))),
    Option("top_down", None, False, "top-down posterior, a ladder", of=MLP),
    Option("set_features", NATURAL, None, "read the columns of a table as a set, of so many features each", "F", MLP),
    Option("factors", None, False, "begin a table as a factor analysis of its numbers", of=MLP),
    Option("markov", None, DEPENDS, "whether p(z_t | ...) sees only z_{t+1}, or all levels above", off="--all-above",
           shown="mlp: --markov, conv: --all-above"),
    Option("channels", NATURAL, 64, "channels of the ladder", "C", CONV, shown="64; for up to 10,000 pictures 32"),
    Option("scales", WIDTHS, None, "downsampling factor of each level", "F1,F2,..", CONV, shown="powers of two"),
    Option("stem", NATURAL, None, "downsampling factor of the finest blocks", "F", CONV, shown="4 at most"),
    Option("blocks", DEPTH, 2, "residual blocks per level", "N", CONV, shown="2; for up to 10,000 pictures 1"),
    Option("posterior_blocks", WHOLE, 1, "residual blocks of each posterior; 0 makes deep ladders cheaper", "N", CONV),
    Option("any_size", None, False, "nothing belongs to a place, so that compress and encode take images of any size",
           of=CONV),
    Option("checkpointed", None, False, "activation checkpointing: less memory, a third more time", of=CONV),
    Option("prior", Choice(PRIORS), "standard", "p(z_T)"),
    Option("components", NATURAL, 500, "components of a mixture or a VampPrior", "K", ("prior", ("mixture", "vamp"))),
    Option("prior_levels", NATURAL, 10, "levels of a prior by diffusion", "N", ("prior", ("diffusion",))),
    Option("likelihood", Choice(LIKELIHOODS), "auto", f"family of p(x | z_1): {', '.join(LIKELIHOODS)}", "NAME",
           shown="auto, by the values"),
    Option("objective", Choice(OBJECTIVES), "elbo", "objective to maximise"),
    Option("beta", WEIGHTS, 1.0, "weight of the KL, or B1,B2,.. for each level", "B", shown="1"),
    Option("free_bits", POSITIVE, None, "nats per level that are not penalised", "NATS", ("objective", ("elbo",))),
    Option("alpha", FINITE, None, "order of the Renyi bound", "A", ("objective", ("renyi",)), shown="0.5"),
    Option("samples", NATURAL, 1, "particles per example", "S"),
    Option("epochs", NATURAL, None, "passes through the data", "N", shown=f"{EPOCHS}, unless --minutes is given"),
    Option("minutes", ABOVE_ZERO, None, "wall-clock budget, instead of or besides --epochs", "M"),
    Option("batch_size", NATURAL, 128, "examples per step", "B"),
    Option("seed", WHOLE, 0, "seed of the weights and the noise", "N"),
    Option("split", Choice(SPLIT_WAYS), "random", "how to split data without splits: at random, by order, or by group"),
    Option("split_seed", WHOLE, 0, "seed of the split", "N"),
    Option("array", PathOrName("name"), None, "the array of a .npz file to use", "NAME"),
    Option("given", Names(), None, "train p(x | c): c are these columns of a table or arrays of a .npz file, labels or "
           "numbers; or 'folder', the sub-folders of images", "NAME,.."),
    Option("exposure", PathOrName("name"), None, "the column or array that counts are in proportion to, such as reads "
           "of a cell, or person-years; it is given, too", "NAME"),
    Option("column", Names(KINDS), None, f"kinds of columns, where they are not what was found: {', '.join(KINDS)}",
           "NAME=KIND,.."),
    Option("drop", Names(), None, "columns of a table to leave out, such as ids", "NAME,.."),
    Option("gaps", Names(), None, "what stands for a missing value, besides empty fields and NaN", "CODE,.."),
    Option("missing_above", Names(), None, "numbers that are missing because they are large: a gap is a value above "
           "the limit; without one, above a limit that is learned", "NAME=LIMIT,.."),
    Option("missing_below", Names(), None, "the same of small ones", "NAME=LIMIT,.."),
    Option("indicators", Names(), None, "columns whose gaps are data, too, so that samples have gaps", "all|NAME,.."),
    Option("delimiter", PathOrName("name"), None, "between the fields of a CSV file", "C", shown="as found"),
    Option("encoding", PathOrName("name"), None, "of a CSV file", "NAME", shown="as found"),
    Option("decimal", Choice((".", ",")), None, "the decimal point of a CSV file", shown="as found"),
    Option("header", None, None, "whether the first line of a CSV file has names", off="--no-header", shown="as found"),
    Option("size", WIDTHS, None, "scale and crop the images of a folder to this width and height", "W,H"),
    Option("dynamic", None, False, "binarise each time an image is drawn (mnist, fashion-mnist, omniglot)"),
    Option("lr", ABOVE_ZERO, 1e-3, "learning rate, annealed to 0 by a cosine", "RATE",
           shown="0.001; conv, for up to 10,000 pictures: 0.002"),
    Option("lr_warmup", WHOLE, None, "warm-up steps of the learning rate", "STEPS",
           shown="a tenth of the training, at most 100"),
    Option("kl_warmup", WHOLE, None, "steps until the KL has its full weight", "STEPS",
           shown="0; with several levels a tenth of the training, at most 2000; with --minutes at most a quarter"),
    Option("weight_decay", FINITE, 0.0, "weight decay of AdamW", "W",
           shown="0; for up to 10,000 examples of 256 numbers or more 1, conv: 0.1"),
    Option("dropout", FRACTION, 0.0, "dropout in every hidden layer", "P", shown="0"),
    Option("activation", PathOrName("name"), DEPENDS, "a class of torch.nn", "NAME", shown="SiLU; conv: GELU"),
    Option("ema", FRACTION, 0.999, "decay of the averaged weights", "E"),
    Option("patience", NATURAL, 50, "epochs without improvement before the rate falls to zero, in as many", "N"),
    Option("precision", Choice(("auto", "float32", "bfloat16")), "auto", "precision of the networks in training",
           shown="auto: bfloat16 if measured to be faster"),
    Option("compile", None, None, "compile the training step", off="--no-compile", shown="if measured to pay"),
    Option("checkpoint_seconds", FINITE, 10.0, "seconds between checkpoints", "S", shown="10"),
)  # fmt: skip
"""The settings of a training, which are stored in its run."""

GROUPS = {
    "The run": ("out", "resume", "seed", "device", "shard", "tensorboard", "wandb", "checkpoint_seconds"),
    "The model": (
        "levels", "latent", "latent_family", "latent_categories", "architecture", "hidden", "block", "top_down",
        "set_features", "factors", "markov", "channels", "scales", "stem", "blocks", "posterior_blocks",
        "any_size", "checkpointed", "prior", "components", "prior_levels", "dropout", "activation",
    ),
    "The data and the objective": (
        "split", "split_seed", "array", "given", "exposure", "size", "dynamic", "likelihood", "objective", "beta",
        "free_bits", "alpha", "samples", "kl_warmup",
    ),
    "A table": (
        "column", "drop", "gaps", "missing_above", "missing_below", "indicators", "delimiter", "encoding", "decimal",
        "header",
    ),
    "The training": (
        "epochs", "minutes", "batch_size", "lr", "lr_warmup", "weight_decay", "ema", "patience", "precision", "compile",
    ),
}  # fmt: skip
"""The groups of the options of a training in its help."""

DEVICE = Option("device", PathOrName("name"), "auto", "auto, cpu, cuda, cuda:1, ...", "NAME")
DATA = Option("data", FILE, None, "the data of the run, if it does not record them or they have moved", "DATA")
SPLIT = Option("split", Choice(SPLITS), "test", "train, valid (which the weights were chosen on) or test (unseen)")
JSON = Option("json", None, False, "print JSON")
SEED = Option("seed", WHOLE, 0, "seed of the selection and the noise", "N")

TRAIN = (
    Option("out", FOLDER, None, "the run directory to write", "RUN", shown="runs/DATA-date-time"),
    Option("resume", None, False, "continue from RUN's last checkpoint, with its settings"),
    *TRAINING,
    Option("shard", None, False, "under torchrun: shard the model over the processes"),
    Option("tensorboard", None, False, "also write metrics for TensorBoard, to RUN/tensorboard"),
    Option("wandb", None, False, "also send metrics to Weights & Biases; WANDB_PROJECT names the project"),
    DEVICE,
)
EVALUATE = (
    SPLIT,
    Option("importance_samples", NATURAL, 1000, "K of L_K", "K"),
    Option("precision", Choice(("auto", "float32", "bfloat16")), "float32", "precision of the networks; auto measures"),
    Option("curve", None, False, "also print -L_K for K = 1, 2, 5, 10, ..."),
    Option("ais", None, False, "check with annealed importance sampling; takes minutes"),
    Option("ais_examples", NATURAL, None, "number of random examples for --ais", "N", shown="100"),
    DATA, JSON, DEVICE,
)  # fmt: skip
DIAGNOSE = (SPLIT, Option("examples", NATURAL, 1000, "number of random examples", "N"), DATA, JSON, DEVICE)
REPORT = (
    Option("out", FILE, None, "the page to write", "FILE", shown="RUN/report.html"),
    SPLIT,
    Option("examples", SEVERAL, 500, "number of random examples", "N"),
    Option("importance_samples", NATURAL, None, "K of L_K", "K", shown="200; of a diffusion of many levels fewer"),
    DATA, DEVICE,
)  # fmt: skip
SAMPLE = (
    Option("count", NATURAL, 64, "number of samples", "N"),
    Option("out", FILE, None, ".npz (samples, means) or .png (means); of a table .csv or .parquet", "FILE",
           required=True),
    Option("temperature", POSITIVE, 1.0, "factor on the standard deviations of all latents", "T", shown="1"),
    Option("given", Names(), None, "what all samples have: NAME=VALUE, NAME>=VALUE or NAME<VALUE of what the model is "
           "given or, in a table, of any column; NAME=? for a gap", "NAME=VALUE,..",
           shown="what is given is that of random training examples"),
    Option("importance_samples", NATURAL, None, "particles, for --given of a table's columns", "K",
           shown="10000, or 1000 for each row"),
    SEED, DEVICE,
)  # fmt: skip
RECONSTRUCT = (
    Option("out", FILE, None, ".npz (originals, reconstructions) or .png", "FILE", required=True),
    SPLIT,
    Option("count", NATURAL, 32, "number of random examples", "N"),
    DATA, SEED, DEVICE,
)  # fmt: skip
PARTICLES = Option("importance_samples", NATURAL, 1000, "particles for each row", "K")
STRICT = Option("strict", None, False, "refuse values that the training data do not have")
IMPUTE = (
    Option("out", FILE, None, "the table to write, .csv or .parquet", "FILE", required=True),
    Option("draws", NATURAL, None, "write M tables, each a draw of what is missing", "M", shown="one, of best values"),
    Option("point", Choice(("best", "mean", "median", "mode")), None, "the best value of a number",
           shown="best: the median"),
    PARTICLES,
    Option("method", Choice(("sir", "gibbs")), "sir", "of draws: importance resampling, or Metropolis within Gibbs"),
    Option("given", Names(), None, "what is known of gaps: NAME>=VALUE, NAME<VALUE or NAME=VALUE; NAME=? leaves them",
           "NAME>=VALUE,.."),
    Option("copies", None, False, "rows of DATA that are seen to come again fill each other's gaps first"),
    STRICT, SEED, DEVICE,
)  # fmt: skip
SCORE = (
    Option("out", FILE, None, "the table to write, .csv or .parquet", "FILE", required=True),
    Option("cells", None, False, "score each cell, too, given the rest of its row"),
    PARTICLES, STRICT, SEED, DEVICE,
)  # fmt: skip
ENCODE = (
    Option("out", FILE, None, ".npz: z1_mean, z1_std, ... of every level; names of a folder's files; of a table also "
           ".csv or .parquet", "FILE", required=True),
    Option("array", PathOrName("name"), None, "the array of a .npz file to use", "NAME"),
    SEED, DEVICE,
)  # fmt: skip
COMPRESS = (
    Option("out", FILE, None, "the file to write", "FILE", required=True),
    Option("array", PathOrName("name"), None, "the array of a .npz file to use", "NAME"),
    Option("resolution", ABOVE_ZERO, None, "of numbers that have a density: the step between them", "R",
           shown="the data's own smallest step"),
    Option("jobs", NATURAL, 1, "processes", "N"),
    Option("verify", None, True, "decode all of it before it counts", off="--no-verify", shown="--verify"),
    JSON,
)  # fmt: skip
DECOMPRESS = (
    Option("out", FILE, None, "the data to write: a table .csv, .csv.gz or .parquet; else .npy or .npz", "DATA",
           required=True),
    Option("jobs", NATURAL, 1, "processes", "N"),
)  # fmt: skip
EXPORT = (
    Option("out", FILE, None, "the graph to write, .onnx", "FILE", required=True),
    Option("what", Choice(GRAPHS), "encode", f"what it computes: {', '.join(GRAPHS)}"),
)
PUSH = (
    SPLIT,
    Option("importance_samples", NATURAL, 1000, "K of L_K", "K"),
    Option("private", None, False, "where the repository is new: for you alone"),
    DATA, DEVICE,
)  # fmt: skip
RUNS = (JSON,)
DEMO = (
    Option("out", FOLDER, None, "folder to write to", "DIR", shown="a new folder, allegory-demo"),
    Option("table", None, False, "on a table with gaps, instead of pictures"),
)

BY_NAME = {option.name: option for option in TRAINING}
DEFAULTS: dict[str, Any] = {
    option.name: option.default
    for option in TRAINING
    if option.default is not DEPENDS and option.of not in (MLP, CONV)  # which have their own
}
"""The settings of a training where none are given."""


def with_argument(name: str, kind: click.ParamType, metavar: str, default: Any = None) -> Callable[[Any], Any]:
    """A positional argument; required, unless it has a default."""
    more: dict[str, Any] = {} if default is None else {"default": default, "required": False}
    return click.argument(name, type=kind, metavar=metavar, **more)


def with_options(options: Sequence[Option], given: bool = False) -> Callable[[Any], Any]:
    """The options of a command.

    Args:
        options: of the table.
        given: whether an option that is not given is None, instead of its default.
    """

    def decorate(function: Any) -> Any:
        function = click.help_option("-h", "--help", help="show this message and exit")(function)
        for option in reversed(options):
            function = option.as_click(None if given else option.default)(function)
        return function

    return decorate


def settings(stored: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The settings of the command line, else those of the resumed run, else the defaults.

    Args:
        stored: the settings of a run, or nothing.
        given: by name.

    Raises:
        ValueError: settings that contradict each other.
    """
    chosen = {**DEFAULTS, **stored, **given}
    for option in TRAINING:
        name, value = option.name, chosen.get(option.name)
        is_set = name in given or (name in stored and value != option.default)
        if option.of and is_set and value is not None and setting(option.of[0], chosen) not in option.of[1]:
            flag, owners = BY_NAME[option.of[0]].flag, " and ".join(option.of[1])
            words = " ".join(option.words(value))
            raise ValueError(f"{words} applies only to {flag} {owners}, not to {setting(option.of[0], chosen)}")
    if "latent" not in given and "levels" not in given and stored:
        given = stored
    chosen["latent"] = _latent(given.get("levels"), given.get("latent"), chosen["architecture"])
    if isinstance(chosen["beta"], tuple | list) and len(chosen["beta"]) == 1:
        chosen["beta"] = chosen["beta"][0]
    chosen["levels"] = len(chosen["latent"])
    if chosen["epochs"] is None and chosen["minutes"] is None:
        chosen["epochs"] = EPOCHS
    return {key: list(value) if isinstance(value, tuple) else value for key, value in chosen.items()}


def setting(name: str, chosen: dict[str, Any]) -> Any:
    """One of the settings; where it is that of an architecture, which `settings` leaves to it, its default.

    >>> setting("latent_family", {}), setting("samples", {"samples": 5})
    ('normal', 5)
    """
    return chosen.get(name, BY_NAME[name].default)


def check_stored(stored: Any, where: str) -> dict[str, Any]:
    """The settings of a run, as `settings` returned them, each of which has to be what could be typed.

    Args:
        stored: from its config.json.
        where: the file, in messages.

    Raises:
        ValueError: a value of another type, or out of its range.

    >>> check_stored({"samples": "x"}, "run/config.json")
    Traceback (most recent call last):
    ValueError: run/config.json, command: samples is 'x', wanted a whole number, 1 or more, up to 2,147,483,647
    """
    for option in TRAINING:
        value = stored.get(option.name)
        wanted, holds = _stored_kind(option.kind)
        may_lack = option.default in (None, DEPENDS) or option.name not in stored
        if not (value is None and may_lack) and not holds(value):
            raise ValueError(f"{where}, command: {option.name} is {reprlib.repr(value)}, wanted {wanted}")
    return stored


def _stored_kind(kind: click.ParamType | None) -> tuple[str, Callable[[Any], bool]]:
    """What the value of an option is in a run's JSON, in words and as a condition."""
    if kind is None:
        return "true or false", lambda v: isinstance(v, bool)
    if isinstance(kind, Choice):
        return "one of " + ", ".join(map(str, kind.choices)), lambda v: v in kind.choices
    if not isinstance(kind, Number):
        return "a string", lambda v: isinstance(v, str)
    types = (int,) if kind.kind is int else (int, float)

    def holds(value: Any) -> bool:
        if isinstance(value, list) != kind.several and not (kind.several and types != (int,)):  # one beta is a number
            return False
        return all(type(v) in types and kind.holds(v) for v in (value if isinstance(value, list) else [value]))

    return kind.wanted, holds


def command_line(source: str, chosen: dict[str, Any]) -> str:
    """The command that trains with these settings.

    Args:
        source: the data.
        chosen: as `settings` returns them, and config.json of a run stores them.

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
    """A value as it would be typed."""
    if isinstance(value, list | tuple):
        return ",".join(map(written, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def nearest(name: str, known: Sequence[str]) -> str:
    """The known name that may have been meant, as a phrase."""
    match = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {match[0]!r}?" if match else ""


def _latent(levels: int | None, latent: Sequence[int] | None, architecture: str) -> tuple[int, ...]:
    from allegory.architectures import default_latent

    if latent is None:
        return default_latent(levels, architecture)
    if levels is not None and len(latent) != levels:
        example = written([max(2, latent[0] >> t) for t in range(levels)])
        raise ValueError(
            f"--latent {written(latent)} gives {len(latent)} of the {levels} widths that --levels {levels} needs; "
            f"wanted one per level, such as --latent {example}"
        )
    return tuple(latent)
