r"""Models that are sharded over processes, for what one of them cannot hold (FSDP: Zhao et al. 2023).

Each of N processes keeps an N-th of every network's weights, of their gradient, average and moments. A network is
gathered when it runs, forward and backward, and let go after it. In units of the weights a process holds

    6 / N    weights, gradient, average, best weights and two moments
    5 / N    all but the gradient, as it was when the epoch began, to go back to
    1        in bfloat16, half of it: the rounded weights are kept from the forward to the backward pass; and at the
             start, on the CPU, where every process has the whole model before it is sharded

and the largest network. While the first process saves, it has five of the whole in the CPU's memory, several times.

What is sharded are the networks of conditionals, the steps of a pass up and the states, which map tensors to tensors,
each as a whole. What else has weights, such as a prior, or a decoder that is no `Conditional`, is whole in all
processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from allegory.conditional import Conditional
from allegory.ladder import TopDown
from allegory.networks import Climb
from allegory.runtime import processes

if TYPE_CHECKING:
    from allegory.model import VAE

__all__ = ["distribute", "full_tensors", "param_groups", "reduce_gradients", "shard", "to_local"]


def shard(device: str, *models: VAE) -> None:
    """Leaves of every network of these VAEs this process's part, in place, on "cpu" or on its "cuda" device."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device, (processes.world_size(),))
    for model in models:
        for network in list(_shardable_networks(model)):
            fully_shard(network, mesh=mesh, reshard_after_forward=True)
        model.to(device)


def param_groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    """What is sharded and what is not, apart: no step of an optimizer takes both at once."""
    parts = [[p for p in parameters if _is_sharded(p)], [p for p in parameters if not _is_sharded(p)]]
    return [{"params": part} for part in parts if part]


@torch.no_grad()  # a view of what it holds, to be written to
def to_local(x: Any) -> Tensor:
    """What this process has of a sharded tensor; any other tensor as it is."""
    return x.to_local() if _is_sharded(x) else x


def reduce_gradients(gradients: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """What this process has of the gradients, and () the norm of the whole; what is not sharded is averaged over all
    processes first, as what is has been.
    """
    parts = [to_local(g) for g in gradients if _is_sharded(g)]
    rest = [processes.all_reduce(g).div_(processes.world_size()) for g in gradients if not _is_sharded(g)]
    return parts + rest, (processes.all_reduce(_squared_norm(parts)) + _squared_norm(rest)).sqrt()


def full_tensors(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """The whole of every tensor, in the first process; what is sharded is brought to the CPU, one after the other. The
    others get nothing, but have to call it.
    """
    first: dict[str, Tensor] = {}
    for key, x in tensors.items():
        full = x.full_tensor().cpu() if _is_sharded(x) else x
        if processes.rank() == 0:
            first[key] = full
    return first


def distribute(x: Tensor, like: Any) -> Tensor:
    """A whole tensor, sharded as `like` is."""
    if not _is_sharded(like):
        return x
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x.to(like.device), like.device_mesh, like.placements)


def _is_sharded(x: Any) -> bool:
    """Whether this process has a part of x alone; asked without importing what makes such tensors."""
    return hasattr(x, "to_local")


def _squared_norm(tensors: list[Tensor]) -> Tensor:
    """() the square of their norm, in float64."""
    if not tensors:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack(torch._foreach_norm(tensors, 2, torch.float64)).square().sum()


def _shardable_networks(model: VAE) -> Iterator[nn.Module]:
    """What maps tensors to tensors and has weights, each once."""
    maps = [part.network for part in model.modules() if isinstance(part, Conditional)]
    if isinstance(model.encoders, TopDown):
        up = model.encoders.network
        maps += up if isinstance(up, Climb) else [up]
    maps += model.states or ()
    inner = {id(part) for network in maps for part in network.modules() if part is not network}
    seen: set[int] = set()
    for network in dict.fromkeys(maps):
        ids = {id(p) for p in network.parameters()}
        if ids and id(network) not in inner:
            if ids & seen:
                raise ValueError(
                    "shard: two networks share a parameter, so that neither can be sharded; share none, or all"
                )
            seen |= ids
            yield network
