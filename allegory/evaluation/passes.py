r"""Passes: how N examples with K particles each go through a model, some pairs (example, particle) at a time.

Everything runs without gradients, in eval mode, in passes of about `pairs` pairs, so that memory does not grow with K
or N. By default a pass makes about a million numbers for p(x | z_1), which still fit into a cache; compiled, which goes
over them once, four times as many. Where q is normal, the noise of an example depends only on torch's seed and on its
position among the examples: a result does not depend on `pairs`.

Within `al.together()` each process takes its share of the examples, and all get the whole result.

Shapes: S particles per pass, B examples per pass, N examples, K particles in all, T levels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from allegory.model import VAE, check_is_vae
from allegory.runtime import processes
from allegory.runtime.memory import caching
from allegory.runtime.modes import eval_mode, no_validation
from allegory.runtime.precision import autocast
from allegory.runtime.threads import one_at_a_time

__all__ = ["Noise", "Particles", "check_scored", "evaluating", "pairs_per_pass", "run_passes"]

Noise = tuple[int, Sequence[Tensor | None]]  # S, and the noise of S particles for `VAE.forward`


@contextmanager
def evaluating(model: nn.Module, precision: str = "float32") -> Iterator[None]:
    """No gradients, eval mode, no argument validation; restores the mode of every part afterwards."""
    device = next(model.parameters(), torch.empty(0)).device
    with one_at_a_time(), eval_mode(model), torch.no_grad(), no_validation(), caching(), autocast(device, precision):
        yield


def check_scored(model: VAE, x: Tensor, samples: int) -> None:
    """Checks what is to be scored: K, and that x fits the model; and that all processes were given the same."""
    check_is_vae(model)
    if not hasattr(samples, "__index__") or not 1 <= samples < 2**31:
        raise ValueError(f"samples={samples}: wanted K >= 1 particles, a whole number below 2^31")
    processes.check_same("an evaluation", samples=samples, x=getattr(x, "rows", x), model=model)
    model.check(x)


def pairs_per_pass(model: VAE, x: Tensor) -> int:
    """How many (example, particle) pairs of x: (N, *event) to take in one pass, given the numbers that p(x | z_1)
    needs; where these are few, the hidden layers are the limit.
    """
    size = getattr(getattr(model.decoders[0], "family", None), "size", 1)
    return max(100, min(2**14, 2**20 // (size * math.prod(x.shape[1:]))))


class Particles:
    """K particles for each of N examples: how many a pass takes, and their noise.

    Args:
        model: any VAE, in eval mode.
        x: (N, *event) data.
        samples: K.
        pairs: (example, particle) pairs per pass.
        compile: whether a pass is compiled.
    """

    PAIRS_PER_GENERATOR = 64  # pairs that share a generator: seeding one takes as long as drawing a thousand numbers

    def __init__(self, model: VAE, x: Tensor, samples: int, pairs: int | None, compile: bool = False) -> None:
        limit = pairs_per_pass(model, x)
        pairs = pairs or limit * (4 if compile else 1)
        self.size = math.ceil(samples / math.ceil(samples / limit))
        self.passes = [min(self.size, samples - start) for start in range(0, samples, self.size)]
        self.block = max(1, self.PAIRS_PER_GENERATOR // self.size)
        self.rows = max(1, pairs // (self.size * self.block)) * self.block
        self.chunk = max(1, pairs // self.rows)  # particles at a time, for the rows of a pass
        seed = int(torch.randint(2**62, ()))
        self.device, self.seed = x.device, processes.broadcast(lambda: seed)
        self.shapes = [(q.event_shape, q.mean.dtype) if _is_normal(q) else None for q in model.encode(x[:1])]

    def noise(self, start: int, count: int) -> Iterator[Noise]:
        """The noise of each pass, for the examples from `start` on, a multiple of the block."""
        blocks = range(start // self.block, math.ceil((start + count) / self.block))
        generators = [torch.Generator(self.device).manual_seed(self.seed + i) for i in blocks]

        def draw(particles: int, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
            size = (particles, self.block, *shape)
            parts = [torch.randn(size, generator=g, dtype=dtype, device=self.device) for g in generators]
            return torch.cat(parts, 1)[:, :count]

        for particles in self.passes:
            drawn = [None if shape is None else draw(particles, *shape) for shape in self.shapes]
            for part in range(0, particles, self.chunk):
                noises = [None if noise is None else noise[part : part + self.chunk] for noise in drawn]
                yield min(self.chunk, particles - part), noises


def _is_normal(q: Distribution) -> bool:
    """Whether its draws are mu + sigma eps."""
    law = type(q.base_dist if isinstance(q, Independent) else q)
    return issubclass(law, Normal) and law.rsample is Normal.rsample


def run_passes(
    x: Tensor, particles: Particles, score: Callable[[Tensor, Iterator[Noise]], tuple[Tensor, ...]], summed: int = 0
) -> tuple[Tensor, ...]:
    """Calls `score` on some rows of x at a time and gathers the results, (B, *) each, as (N, *); the last `summed` of
    them are summed over x instead. Several processes take the rows in turn.

    Results are written into preallocated tensors: small results kept from one pass to the next would be allocated in
    the large blocks that a pass frees, the next pass would need new blocks, and memory would grow with N.
    """
    whole: list[Tensor] = []
    starts = processes.local_rows(torch.arange(0, len(x), particles.rows)).tolist()
    for start in starts or [0]:  # a process without rows needs the shapes of the results, too
        rows = x[start : start + particles.rows]
        with torch.random.fork_rng([x.device] if x.device.type == "cuda" else []):
            torch.manual_seed(particles.seed + start)  # for what does not use the given noise
            parts = score(rows, particles.noise(start, len(rows)))
        each = len(parts) - summed
        if not whole:
            whole = [part.new_zeros(len(x), *part.shape[1:]) for part in parts[:each]]
            whole += [torch.zeros_like(part) for part in parts[each:]]
        if starts:
            for all_rows, part in zip(whole[:each], parts[:each], strict=True):
                all_rows[start : start + len(rows)] = part
            for sums, part in zip(whole[each:], parts[each:], strict=True):
                sums += part
    return tuple(map(processes.all_reduce, whole))
