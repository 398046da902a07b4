r"""The options of the command `allegory`: what can be asked of it, and one line for what cannot."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from allegory.version import __version__

__all__ = ["EPOCHS", "parser"]

EPOCHS = 100
LIKELIHOODS = (  # those of allegory.architectures, which waits for torch
    "auto", "normal", "normal_shared", "normal_per_dimension", "normal_optimal", "student_t", "bernoulli",
    "categorical", "discretized_logistic", "discretized_logistic_mixture", "continuous_bernoulli", "poisson",
    "negative_binomial",
)  # fmt: skip


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command = self._subparsers._group_actions[0].choices[options.command]  # type: ignore[union-attr, index]
            known = [flag for action in command._actions for flag in action.option_strings]
            command.error(f"unknown argument {unknown[0]!r}{_nearest(unknown[0], known)}")
        return options

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            names = [str(choice) for choice in action.choices]
            wanted = ", ".join(names)
            raise argparse.ArgumentError(action, f"got {value!r}{_nearest(str(value), names)}; wanted one of {wanted}")


def _nearest(name: str, known: Sequence[str]) -> str:
    match = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {match[0]!r}?" if match else ""


def parser(commands: Mapping[str, Callable[..., None]]) -> argparse.ArgumentParser:
    """What each command can be asked, with the first line of its docstring as its help.

    Args:
        commands: the functions, by name.
    """
    root = _Parser(prog="allegory", description="Variational autoencoders of any depth, in nats.", allow_abbrev=False)
    root.add_argument("--version", action="version", version=_version())
    subparsers = root.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)

    def add(name: str) -> argparse.ArgumentParser:
        summary = (commands[name].__doc__ or "").split("\n")[0]
        return subparsers.add_parser(name, help=summary, description=summary, allow_abbrev=False)

    p = add("train")
    p.add_argument("data", metavar="DATA", help="a built-in name (see datasets), .npy, .npz, or a folder of images")
    p.add_argument("--out", metavar="RUN", help="the run directory to write (default: runs/DATA-date-time)")
    p.add_argument("--levels", type=_natural, metavar="T", help="levels of latents (default: as --latent has, or 1)")
    p.add_argument(
        "--latent",
        type=_widths,
        metavar="D1,D2,..",
        help="width of z_1,..,z_T (default: 40, halved; conv: channels, 4 each below 32)",
    )
    p.add_argument("--architecture", choices=("mlp", "conv"), help="perceptrons (default), or a ladder of convolutions")
    p.add_argument("--hidden", type=_widths, metavar="H1,H2,..", help="hidden layers of each network (default 300,300)")
    p.add_argument("--block", choices=("plain", "gated", "residual"), help="what a hidden layer is (default plain)")
    p.add_argument("--top-down", action="store_const", const=True, help="infer as a ladder does, from the top down")
    p.add_argument("--all-above", action="store_const", const=False, dest="markov",
                   help="p(z_t) sees all levels above it, not z_{t+1} alone (conv: the default)")  # fmt: skip
    p.add_argument("--markov", action="store_const", const=True, help="p(z_t) sees z_{t+1} alone (mlp: the default)")
    p.add_argument("--channels", type=_natural, metavar="C", help="conv: width of the ladder (default 64)")
    p.add_argument("--scales", type=_widths, metavar="F1,F2,..", help="conv: how much coarser than x each level is")
    p.add_argument("--stem", type=_natural, metavar="F", help="conv: how much coarser than x the finest blocks are")
    p.add_argument("--blocks", type=_natural, metavar="N", help="conv: residual blocks a level (default 2)")
    p.add_argument("--checkpointed", action="store_const", const=True, help="conv: less memory, a third more time")
    p.add_argument("--prior", choices=("standard", "mixture", "vamp", "flow"), help="p(z_T) (default standard)")
    p.add_argument("--components", type=_natural, metavar="K", help="of a mixture or a VampPrior (default 500)")
    likelihood = f"of p(x | z_1): {', '.join(LIKELIHOODS)} (default auto: by the values)"
    p.add_argument("--likelihood", choices=LIKELIHOODS, metavar="NAME", help=likelihood)
    names = ("elbo", "iwae", "dreg", "stl", "renyi")
    p.add_argument("--objective", choices=names, help="what to maximise (default elbo)")
    p.add_argument("--beta", type=_weights, metavar="B", help="weight of the KL, or B1,B2,.. a level (default 1)")
    p.add_argument("--free-bits", type=_positive, metavar="NATS", help="that each level has free of charge")
    p.add_argument("--alpha", type=_finite, metavar="A", help="of renyi (default 0.5)")
    p.add_argument("--samples", type=_natural, metavar="S", help="particles an example (default 1)")
    p.add_argument("--epochs", type=_natural, metavar="N", help=f"passes through the data (default {EPOCHS})")
    p.add_argument("--minutes", type=_above_zero, metavar="M", help="wall-clock budget, instead or as well")
    p.add_argument("--batch-size", type=_natural, metavar="B", help="examples a step (default 128)")
    p.add_argument("--seed", type=_whole, help="of the split, the weights and the noise (default 0)")
    p.add_argument("--resume", action="store_true", help="go on from RUN's last checkpoint, with its settings")
    p.add_argument("--dynamic", action="store_const", const=True, help="binarise anew at each draw (mnists, omniglot)")
    p.add_argument("--lr", type=_above_zero, help="learning rate, annealed to 0 by a cosine (default 0.001)")
    p.add_argument("--lr-warmup", type=_whole, metavar="STEPS", help="steps to reach it (default 100)")
    p.add_argument("--kl-warmup", type=_whole, metavar="STEPS", help="steps until beta = 1 (default 0; T > 1: <= 2000)")
    p.add_argument("--weight-decay", type=float, metavar="W", help="of AdamW (default 0)")
    p.add_argument("--dropout", type=_fraction, metavar="P", help="in every hidden layer (default 0)")
    p.add_argument("--activation", metavar="NAME", help="a class of torch.nn (default SiLU)")
    p.add_argument("--ema", type=_fraction, metavar="E", help="memory of the averaged weights (default 0.999)")
    p.add_argument("--patience", type=_natural, metavar="N", help="epochs without progress until it stops (default 50)")
    p.add_argument("--precision", choices=("auto", "float32", "bfloat16"),
                   help="of the networks in training (default auto: bfloat16 where that is faster)")  # fmt: skip
    p.add_argument("--compile", action=argparse.BooleanOptionalAction,
                   help="compile the training (default: if it is long enough to pay)")  # fmt: skip
    p.add_argument("--shard", action="store_true", help="under torchrun: shard the model over the processes")
    p.add_argument("--checkpoint-seconds", type=float, metavar="S", help="between checkpoints (default 10)")
    p.add_argument("--tensorboard", action="store_true", help="metrics for TensorBoard, too, into RUN/tensorboard")
    p.add_argument("--wandb", action="store_true",
                   help="metrics for Weights & Biases, too; WANDB_PROJECT names the project (or allegory)")  # fmt: skip
    _add_device(p)

    p = add("evaluate")
    p.add_argument("run", metavar="RUN")
    p.add_argument("--split", choices=("train", "valid", "test"), default="test")
    p.add_argument("--importance-samples", type=_natural, default=1000, metavar="K", help="of L_K (default 1000)")
    p.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="of the networks")
    p.add_argument("--curve", action="store_true", help="L_K for K = 1, 2, 5, 10, ..., too")
    p.add_argument("--ais", action="store_true", help="check by annealed importance sampling; takes minutes")
    p.add_argument("--ais-examples", type=_natural, metavar="N", help="random ones, for it (default 100)")
    p.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    _add_device(p)

    p = add("diagnose")
    p.add_argument("run", metavar="RUN")
    p.add_argument("--split", choices=("train", "valid", "test"), default="test")
    p.add_argument("--examples", type=_natural, default=1000, metavar="N", help="random ones to look at (default 1000)")
    p.add_argument("--json", action="store_true", dest="as_json", help="print one JSON object")
    _add_device(p)

    p = add("report")
    p.add_argument("run", metavar="RUN")
    p.add_argument("--out", metavar="FILE", help="the page (default: RUN/report.html)")
    p.add_argument("--split", choices=("train", "valid", "test"), default="test")
    p.add_argument("--examples", type=_several, default=500, metavar="N", help="random ones to look at (default 500)")
    p.add_argument("--importance-samples", type=_natural, default=200, metavar="K", help="of L_K (default 200)")
    _add_device(p)

    p = add("sample")
    p.add_argument("run", metavar="RUN")
    p.add_argument("--count", type=int, default=64, metavar="N", help="default 64")
    p.add_argument("--out", required=True, metavar="FILE", help=".npz (samples, means) or .png (means)")
    p.add_argument("--temperature", type=_positive, default=1.0, metavar="T",
                   help="what the deviations of all latents are multiplied by (default 1)")  # fmt: skip
    p.add_argument("--seed", type=_whole, default=0, help="of the noise (default 0)")
    _add_device(p)

    p = add("reconstruct")
    p.add_argument("run", metavar="RUN")
    p.add_argument("--out", required=True, metavar="FILE", help=".npz (originals, reconstructions) or .png")
    p.add_argument("--split", choices=("train", "valid", "test"), default="test")
    p.add_argument("--count", type=int, default=32, metavar="N", help="examples, drawn at random (default 32)")
    p.add_argument("--seed", type=_whole, default=0, help="of the noise (default 0)")
    _add_device(p)

    p = add("encode")
    p.add_argument("run", metavar="RUN")
    p.add_argument("data", metavar="DATA", help="a path, all of it; or a built-in name, its test split")
    p.add_argument("--out", required=True, metavar="FILE.npz", help="z1_mean, z1_std, ... of every level")
    p.add_argument("--seed", type=_whole, default=0, help="of the noise (default 0)")
    _add_device(p)

    p = add("runs")
    p.add_argument("folder", metavar="DIR", nargs="?", default="runs", help="in which they are, however deep (runs)")
    p.add_argument("--json", action="store_true", dest="as_json", help="print a JSON list")

    add("datasets")
    p = add("completion")
    p.add_argument("shell", choices=("bash", "zsh", "tcsh"))

    p = add("demo")
    p.add_argument("--out", metavar="DIR", help="where to write (default: a new folder allegory-demo)")
    return root


def _add_device(p: argparse.ArgumentParser) -> None:
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 (default auto)")


def _version() -> str:
    return __version__


def _number(text: str, kind: Any, holds: Any, wanted: str) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not holds(value):
        raise argparse.ArgumentTypeError(f"got {text!r}, wanted {wanted}")
    return value


def _natural(text: str) -> int:
    return _number(text, int, lambda v: v >= 1, "a whole number, 1 or more")


def _several(text: str) -> int:
    return _number(text, int, lambda v: v >= 2, "a whole number, 2 or more")


def _whole(text: str) -> int:
    return _number(text, int, lambda v: 0 <= v < 2**32, "a whole number, 0 or more")


def _above_zero(text: str) -> float:
    return _number(text, float, lambda v: 0 < v < math.inf, "a number above zero")


def _finite(text: str) -> float:
    return _number(text, float, math.isfinite, "a number")


def _positive(text: str) -> float:
    return _number(text, float, lambda v: 0 <= v < math.inf, "a number, 0 or more")


def _weights(text: str) -> tuple[float, ...]:
    return tuple(_positive(part) for part in text.split(","))


def _fraction(text: str) -> float:
    return _number(text, float, lambda v: 0 <= v < 1, "a number from 0 to below 1")


def _widths(text: str) -> tuple[int, ...]:
    return tuple(_natural(part) for part in text.split(","))
