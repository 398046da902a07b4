r"""Several processes that train or evaluate together, as `torchrun` starts them. In a single process all of this is a
no-op, and so it is where torch.distributed is initialised and nobody has asked for it: each process then works alone.

    with al.together():              every process, with the same model and data
        al.evaluate(model, x)        each scores its share of x, and all get the whole result

`fit` and the command ask for it themselves. What all of them have to be given alike is compared first.

Every process has the whole model and all data, and takes its share of each batch. Averages over examples are sums over
all processes, divided by the number of all examples: not a mean of means. Decisions that depend on a clock or a signal
are made together, so that no process waits for another forever.
"""

from __future__ import annotations

import gc
import hashlib
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = [
    "all_gather",
    "all_reduce",
    "all_reduce_max",
    "broadcast",
    "check_same",
    "global_mean",
    "local_rows",
    "process_group",
    "rank",
    "together",
    "world_size",
]


BROADCAST_NOTE = "broadcast to all processes"
APART = "with al.together(False)"
SILENT_SECONDS, MISSING_SECONDS = 5.0, 600.0  # of waiting for the others: until that is said, and is an error
nesting = alone = 0  # of `together`, and of its opposite


@contextmanager
def together(on: bool = True) -> Iterator[None]:
    """All processes of torch.distributed do the same, with the same arguments, and each takes its share: what is called
    inside scores as `torchrun -m allegory evaluate` does. Outside, each process scores what it has, alone.

    Args:
        on: False for the opposite: inside each process works alone, in `fit`, too, which else all have to call.

    >>> with al.together():
    ...     bounds = al.log_likelihood(model, x, samples=10)
    """
    global nesting, alone
    nesting, alone = nesting + on, alone + (not on)
    try:
        yield
    finally:
        nesting, alone = nesting - on, alone - (not on)


def world_size() -> int:
    """The number of processes that work together."""
    return dist.get_world_size() if _together() else 1


def rank() -> int:
    """The index of this process; 0 writes files and prints."""
    return dist.get_rank() if _together() else 0


def check_same(what: str, /, **given: Any) -> None:
    """Waits for the processes that work together, and compares what they were given.

    Args:
        what: all of them have to call.
        given: what has to be the same in all of them, by name: tensors, modules, anything with a repr.

    Raises:
        ValueError: in all of them, something differs; in those that are here, another one is not.
    """
    if world_size() == 1:
        return
    _meet(what)
    found = all_gather({name: _fingerprint(value) for name, value in given.items()})
    for name in given:
        if len({each[name] for each in found}) > 1:
            failure = ValueError(
                f"{name} is not the same in the {world_size()} processes, which share out one and the same work: give "
                f"all of them the same; to let each do its own, {APART}"
            )
            failure.add_note(BROADCAST_NOTE)
            raise failure


def _meet(what: str) -> None:
    """Waits until all processes are here. A collective operation would wait for half an hour for one that never comes,
    or exchange something with whatever it does instead; the store of the process group tells which one is missing.
    """
    store, me = dist.distributed_c10d._get_default_store(), dist.get_rank()
    meeting = store.add(f"allegory/{me}", 1)
    keys = [f"allegory/{process}/{meeting}" for process in range(world_size())]
    store.set(keys[me], what)
    began, said = time.monotonic(), False
    while not store.check(keys):
        waited = time.monotonic() - began
        if waited > MISSING_SECONDS or (waited > SILENT_SECONDS and not said):
            missing = ", ".join(str(process) for process, key in enumerate(keys) if not store.check([key]))
            line = (
                f"process {me} waits in {what} for process {missing} of {len(keys)}: all of them have to call it, "
                f"with the same arguments; to let one do it alone, {APART}; for one that is only late, "
                "torch.distributed.barrier() waits"
            )
            if waited > MISSING_SECONDS:
                store.delete_key(keys[me])
                store.add(f"allegory/{me}", -1)
                raise ValueError(line.replace(" waits ", f" has waited {waited:.0f} seconds "))
            warnings.warn(line, stacklevel=5)
            said = True
        time.sleep(min(0.05, 0.001 + waited / 10))
    called = [store.get(key).decode() for key in keys]
    if len(set(called)) > 1:
        each = ", ".join(f"{name} in process {process}" for process, name in enumerate(called))
        raise ValueError(f"the processes do not do the same: {each}; let all call the same, or each alone, {APART}")


def _fingerprint(value: Any) -> str:
    if isinstance(value, nn.Module):
        return " ".join(f"{name} {_fingerprint(x)}" for name, x in value.state_dict().items())
    if isinstance(value, tuple | list):
        return f"{type(value).__name__} {[_fingerprint(part) for part in value]}"
    if not isinstance(value, Tensor):
        return repr(value)
    shape = f"{tuple(value.shape)} {value.dtype}"
    if hasattr(value, "to_local") or not value.numel():  # a sharded tensor is refused later
        return shape
    numbers = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
    return f"{shape} {hashlib.blake2b(numbers.data).hexdigest()}"


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
        failure.add_note(BROADCAST_NOTE)
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
        with together():
            yield
        return
    import torch.distributed.nn.functional  # imported later, its default arguments would keep the group alive

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    terminated = signal.getsignal(signal.SIGTERM)
    try:
        with together():
            yield
        signal.signal(signal.SIGTERM, terminated)  # a training that lost a process leaves its own handler
    finally:
        gc.collect()  # frees the last references to the group: its threads must not outlive the interpreter
        dist.destroy_process_group()
        time.sleep(0.1)  # where torch still holds it (a mesh), lets its threads release their last tensors


def _together() -> bool:
    return bool(nesting) and not alone and _initialized()


def _initialized() -> bool:
    return dist.is_available() and dist.is_initialized()
