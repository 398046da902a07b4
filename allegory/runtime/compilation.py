r"""Compilation: torch.compile if there is a compiler, the uncompiled function if there is none."""

from __future__ import annotations

import functools
import math
import os
import shutil
import time
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, ParamSpec, TypeVar

import torch

from allegory.runtime.messages import first_line

__all__ = ["choose_compile", "compile_or_warn", "compile_seconds", "disable_compile", "has_compiler", "time_call"]

WORTHWHILE_SECONDS = 120.0  # seconds of training from which on compiling may be worth its cost
TIMES_ITS_COST = 4.0  # that the work has to take: a quarter of it is gained, or more
COMPILE_SECONDS, SECONDS_PER_OPERATION = 5.0, 0.1  # 67 operations took 12 s, 551 took 61, 1,113 took 121 (one core)

P = ParamSpec("P")
R = TypeVar("R")


def has_compiler(device: torch.device) -> bool:
    """Whether `torch.compile` has what it needs: a C++ compiler or, for a GPU, triton."""
    if device.type == "cuda":
        return find_spec("triton") is not None
    return any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++", "c++") if name)


def compile_or_warn(function: Callable[..., Any], device: torch.device) -> Callable[..., Any]:
    """The function, compiled; or uncompiled, with a warning, where that is impossible."""
    if not has_compiler(device):
        warnings.warn("there is no compiler on this machine, so nothing is compiled", stacklevel=3)
        return function
    now = torch.compile(function, dynamic=False)

    def call(*arguments: Any) -> Any:
        nonlocal now
        try:
            return now(*arguments)
        except Exception as error:
            found = function(*arguments)  # raises the same error, if it is not the compiler's
            now = function
            warnings.warn(
                f"torch.compile fails on this machine, so nothing is compiled: {first_line(error)}", stacklevel=2
            )
            return found

    return call


def disable_compile(function: Callable[P, R]) -> Callable[P, R]:
    """A function that `torch.compile` does not trace. torch's own decorator imports the compiler immediately, which
    takes as long as importing torch.
    """

    @functools.wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        return torch.compiler.disable(function)(*arguments, **named)

    return call


def time_call(function: Callable[[], Any], device: torch.device, stop_below: float = 0.0) -> float:
    """Seconds that a call takes: the least of four, or of as many as fit into two seconds.

    Args:
        function: called at least once.
        device: where it computes.
        stop_below: a call that takes less ends the measurement: nothing shorter makes a difference.
    """
    best, began = math.inf, time.perf_counter()
    for _ in range(4):
        start = time.perf_counter()
        function()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - start)
        if best < stop_below or time.perf_counter() - began > 2:
            break
    return best


def compile_seconds(loss: torch.Tensor) -> float:
    """About how long `torch.compile` takes on a core for what gave this loss, by the size of its graph.

    >>> round(compile_seconds(al.elbo(model(x)).sum()), -1)
    20.0
    """
    seen, ahead = set(), [loss.grad_fn]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in seen:
            seen.add(node)
            ahead += [inner for inner, _ in node.next_functions]
    return COMPILE_SECONDS + SECONDS_PER_OPERATION * len(seen)


def choose_compile(
    requested: bool | str,
    device: torch.device,
    expected_seconds: Callable[[], float],
    worthwhile: float = WORTHWHILE_SECONDS,
    cost: float = 15.0,
) -> tuple[bool, str]:
    """Whether to compile, and a line that explains the choice if it was left open.

    Args:
        requested: True, False, or "auto" for whichever is likely to finish sooner.
        device: where to run.
        expected_seconds: measures how long the work will take uncompiled.
        worthwhile: the number of seconds below which nothing is worth compiling.
        cost: about how many seconds compiling takes.

    >>> choose_compile("auto", torch.device("cpu"), lambda: 3.0)
    (False, '')
    """
    if requested != "auto":
        return bool(requested), ""
    if not has_compiler(device):
        return False, ""
    seconds = expected_seconds()
    if seconds < max(worthwhile, TIMES_ITS_COST * cost):
        return False, ""
    takes = "half a minute" if cost < 45 else "a minute" if cost <= 60 else f"{math.ceil(cost / 60)} minutes"
    without = f"{seconds / 60:.0f} minutes"
    return True, f"compiled: that takes up to {takes}, and without it this would take about {without}"
