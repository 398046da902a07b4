r"""Several processes that train or score together, as `torchrun` starts them. In a process alone nothing here does
anything.

Every process has the whole model and all data, and takes its share of each batch. What is averaged over examples is a
sum over the processes' sums, divided by the number of all examples: not a mean of means. What is decided by a clock or
a signal is decided together, lest one process waits for another for ever.
"""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = [
    "all_gather",
    "all_reduce",
    "all_reduce_max",
    "broadcast",
    "global_mean",
    "local_rows",
    "process_group",
    "rank",
    "world_size",
]


BROADCAST = "broadcast to all processes"


def world_size() -> int:
    """How many processes work together."""
    return dist.get_world_size() if _initialized() else 1


def rank() -> int:
    """Which of them this is; 0 writes and speaks."""
    return dist.get_rank() if _initialized() else 0


def local_rows(rows: Tensor) -> Tensor:
    """The part of this process of (N, *), every count-th row; the parts differ by at most one row."""
    return rows[rank() :: world_size()]


def all_reduce(x: Tensor) -> Tensor:
    """The sum of all processes' x, written into x."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def global_mean(x: Tensor) -> Tensor:
    """(*, 1) the mean of (*, B) over the B of all processes, with its gradient. A process without examples has one that
    counts here.
    """
    if world_size() == 1:
        return x.mean(-1, keepdim=True)
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x.sum(-1, keepdim=True)) / all_reduce(x.new_tensor(x.shape[-1]))


def all_reduce_max(*numbers: float) -> list[float]:
    """The largest of all processes' numbers, one by one: what they then agree on."""
    if world_size() == 1:
        return list(numbers)
    largest = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.tolist()


def broadcast(function: Callable[[], Any]) -> Any:
    """What function() gives in the first process, in all of them; a ValueError, too."""
    if world_size() == 1:
        return function()
    said: list[Any] = [None, None]
    if rank() == 0:
        try:
            said[0] = function()
        except ValueError as error:
            said[1] = str(error)
    dist.broadcast_object_list(said)
    if said[1] is not None:
        mistake = ValueError(said[1])
        mistake.add_note(BROADCAST)
        raise mistake
    return said[0]


def all_gather(value: Any) -> list[Any]:
    """Every process's value, in all of them, by rank."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the processes that `torchrun` started, and leaves them: gloo between CPUs, nccl between GPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _initialized():
        yield
        return
    import torch.distributed.nn.functional  # imported later, its defaults would keep the group for ever

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        yield
        signal.signal(signal.SIGTERM, terminated)  # a training that lost a process leaves its own
    finally:
        gc.collect()  # if nobody else holds the group, its threads end with it: they must not outlive the interpreter
        dist.destroy_process_group()
        time.sleep(0.1)  # where torch holds it (a mesh), they let go of their last tensors now


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()
