r"""Several processes that train or evaluate together, as `torchrun` starts them. In a single process all of this is a
no-op.

Every process has the whole model and all data, and takes its share of each batch. Averages over examples are sums over
all processes, divided by the number of all examples: not a mean of means. Decisions that depend on a clock or a signal
are made together, so that no process waits for another forever.
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
    """The number of processes."""
    return dist.get_world_size() if _initialized() else 1


def rank() -> int:
    """The index of this process; 0 writes files and prints."""
    return dist.get_rank() if _initialized() else 0


def local_rows(rows: Tensor) -> Tensor:
    """The rows of (N, *) for this process, every world_size-th one; the parts differ by at most one row."""
    return rows[rank() :: world_size()]


def all_reduce(x: Tensor) -> Tensor:
    """The sum of x over all processes, in place."""
    if world_size() > 1:
        dist.all_reduce(x)
    return x


def global_mean(x: Tensor) -> Tensor:
    """(*, 1) the mean of (*, B) over the B of all processes, differentiable. A process without examples has a dummy
    one, which is counted here.
    """
    if world_size() == 1:
        return x.mean(-1, keepdim=True)
    from torch.distributed.nn.functional import all_reduce

    return all_reduce(x.sum(-1, keepdim=True)) / all_reduce(x.new_tensor(x.shape[-1]))


def all_reduce_max(*numbers: float) -> list[float]:
    """The elementwise maximum of the numbers over all processes, on which they then agree."""
    if world_size() == 1:
        return list(numbers)
    largest = torch.tensor(numbers, dtype=torch.float64)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return largest.tolist()


def broadcast(function: Callable[[], Any]) -> Any:
    """The result of function() in the first process, in all of them; a ValueError is raised in all, too."""
    if world_size() == 1:
        return function()
    outcome: list[Any] = [None, None]  # result, error message
    if rank() == 0:
        try:
            outcome[0] = function()
        except ValueError as error:
            outcome[1] = str(error)
    dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        failure = ValueError(outcome[1])
        failure.add_note(BROADCAST)
        raise failure
    return outcome[0]


def all_gather(value: Any) -> list[Any]:
    """The values of all processes, in all of them, by rank."""
    values = [value] * world_size()
    if world_size() > 1:
        dist.all_gather_object(values, value)
    return values


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the process group that `torchrun` started, and leaves it at the end: gloo for CPUs, nccl for GPUs."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or _initialized():
        yield
        return
    import torch.distributed.nn.functional  # imported later, its default arguments would keep the group alive

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        yield
        signal.signal(signal.SIGTERM, terminated)  # a training that lost a process leaves its own handler
    finally:
        gc.collect()  # frees the last references to the group: its threads must not outlive the interpreter
        dist.destroy_process_group()
        time.sleep(0.1)  # where torch still holds it (a mesh), lets its threads release their last tensors


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()
