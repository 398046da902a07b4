r"""Models sharded over processes, for models too large for one of them (FSDP: Zhao et al. 2023).

Each of N processes keeps an N-th of every network's weights, and of their gradient, average and moments. A network is
gathered when it runs, forward and backward, and freed afterwards. In units of the weights a process holds

    6 / N    weights, gradient, average, best weights and two moments
    5 / N    all but the gradient, as of the beginning of the epoch, to go back to
    1        in bfloat16, half of it: the rounded weights are kept from the forward to the backward pass; and at the
             start, on the CPU, where every process has the whole model before it is sharded

and the largest network. While saving, the first process holds five times the whole in the CPU's memory, in several
copies.

The networks of conditionals, the steps of the bottom-up pass and the states, which map tensors to tensors, are sharded,
each as one unit. Other modules with weights, such as a prior, or a decoder that is not a `Conditional`, are replicated
in all processes.
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
    """Shards every network of these VAEs in place, on "cpu" or on this process's "cuda" device."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device, (processes.world_size(),))
    for model in models:
        for network in list(_shardable_networks(model)):
            fully_shard(network, mesh=mesh, reshard_after_forward=True)
        model.to(device)


def param_groups(parameters: list[nn.Parameter]) -> list[dict[str, Any]]:
    """Sharded and other parameters, as separate groups: an optimizer step cannot take both at once."""
    parts = [[p for p in parameters if _is_sharded(p)], [p for p in parameters if not _is_sharded(p)]]
    return [{"params": part} for part in parts if part]


@torch.no_grad()  # a view of the local part, to be written to
def to_local(x: Any) -> Tensor:
    """The local part of a sharded tensor; any other tensor unchanged."""
    return x.to_local() if _is_sharded(x) else x


def reduce_gradients(gradients: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    """The local parts of the gradients, and () the norm of the whole; gradients that are not sharded are first
    averaged over all processes, as the others have been.
    """
    parts = [to_local(g) for g in gradients if _is_sharded(g)]
    rest = [processes.all_reduce(g).div_(processes.world_size()) for g in gradients if not _is_sharded(g)]
    return parts + rest, (processes.all_reduce(_squared_norm(parts)) + _squared_norm(rest)).sqrt()


def full_tensors(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Every tensor, whole, in the first process; sharded ones are moved to the CPU, one after the other. The other
    processes get nothing, but have to call it.
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
    """Whether x is sharded; checked without importing the distributed tensors."""
    return hasattr(x, "to_local")


def _squared_norm(tensors: list[Tensor]) -> Tensor:
    """() the squared norm, in float64."""
    if not tensors:
        return torch.zeros((), dtype=torch.float64)
    return torch.stack(torch._foreach_norm(tensors, 2, torch.float64)).square().sum()


def _shardable_networks(model: VAE) -> Iterator[nn.Module]:
    """The modules that map tensors to tensors and have weights, each once."""
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
