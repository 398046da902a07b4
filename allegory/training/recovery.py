r"""Recovery: a step never synchronises, so a loss that is not finite is found at the end of the epoch.

If one was not finite, or a weight is not after a step, or if a gradient was above `skip` times the median for the
fourth time in a row (the training has diverged, which is as bad as NaN), the epoch is run again step by step to find
out where, the weights go back to the average as it was when the epoch began, the learning rate is halved, and the noise
is drawn anew. An epoch that fails for the sixth time is an error; after five restarts in all, gradients that are merely
large are followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from allegory.runtime import processes
from allegory.runtime.precision import autocast
from allegory.training.batches import Batches
from allegory.training.budget import Budget
from allegory.training.clipping import MAX_SKIPS
from allegory.training.state import Snapshot, State
from allegory.training.step import Step

__all__ = ["MAX_RESTARTS", "Recovery"]

MAX_RESTARTS = 5
"""How many times an epoch is run again, and how many times in all for what is merely large."""


class Recovery:
    """Detects a failed epoch, and goes back to its beginning.

    Args:
        state: of the training.
        step: of the training.
        batches: of the epoch that is run again.
        budget: of the training.
        samples, precision: of the passes that search for the failure.
        rows: (N,) what the user calls the rows of the data; by default their numbers.
    """

    def __init__(
        self,
        state: State,
        step: Step,
        batches: Batches,
        budget: Budget,
        samples: int,
        precision: str,
        rows: Sequence[Any] | None = None,
    ) -> None:
        self.state, self.step, self.batches, self.budget = state, step, batches, budget
        self.samples, self.precision, self.rows = samples, precision, rows
        self.snapshot: Snapshot | None = None

    def take_snapshot(self) -> None:
        """Keeps the state at the beginning of an epoch; not during a series of skips, when it may already be bad."""
        if self.snapshot is None or self.state.norms[-1] == 0:
            self.snapshot = None  # frees the old one first
            self.snapshot = self.state.capture()

    def failed(self) -> bool:
        """Whether this epoch has to be undone."""
        totals = self.state.all_totals()
        finite, bursts = bool(torch.isfinite(totals).all()), totals[-1].item()
        finite = self.state.has_finite_weights() and finite
        return not finite or (bursts > 0 and self.state.position.restarts < MAX_RESTARTS)

    def restart(self, seconds: float) -> str:
        """Restores the remembered state, with half the learning rate; returns a line that says what went wrong.

        Args:
            seconds: spent so far.

        Raises:
            FloatingPointError: it failed too often.
        """
        assert self.snapshot is not None
        state, now = self.state, self.state.position
        changed = dict(restarts=now.restarts + 1, failures=now.failures + 1, lr_scale=now.lr_scale / 2)
        finite, epoch = bool(torch.isfinite(state.all_totals()).all()), now.epoch + 1
        finite = state.has_finite_weights() and finite
        state.restore(self.snapshot)
        where = f"epoch {epoch}, {self._find_failure(finite, seconds)}"
        state.restore(self.snapshot)
        if changed["failures"] > MAX_RESTARTS:
            raise FloatingPointError(
                f"{where}; {MAX_RESTARTS} restarts from the last good weights at half the learning rate each did not "
                "help; check those rows, lower lr, or raise lr_warmup"
            )
        with torch.no_grad():  # the average barely contains the last few steps, which may have caused this
            torch._foreach_copy_(state.parameters, state.averages)
        vars(now).update(changed)
        torch.manual_seed(int(torch.randint(2**62, ())) + now.restarts)  # other noise than that which failed
        return f"{where}; going back to the start of the epoch, with the learning rate times {now.lr_scale:g}"

    def _find_failure(self, finite: bool, seconds: float) -> str:
        """Runs the epoch again, checks every step, and names the first failure."""
        state, now, device = self.state, self.state.position, self.state.totals.device
        large = f"the gradient was above {self.step.skip:g} times its usual size, {MAX_SKIPS + 1} times in a row"
        for batch in self.batches.epoch(now.epoch, now.batch):
            rows = batch.rows
            mine = processes.local_rows(rows)
            with torch.random.fork_rng(), torch.no_grad(), autocast(device, self.precision):
                trace = state.model(batch.x, samples=self.samples, given=batch.given)
                terms = {"log p(x | z_1)": trace.log_px}
                terms |= {f"the rate of level {t}": rate for t, rate in enumerate(trace.kl, start=1)}
            for name, term in terms.items():
                found = mine[~torch.isfinite(term).all(0)[: len(mine)].to(mine.device)].tolist()
                bad = sorted(row for part in processes.all_gather(found) for row in part)
                if bad:
                    where = f"{len(bad)} of {len(rows)} rows, {self._list(bad)}"
                    return f"step {now.step + 1}: {name} is not finite in {where}"
            self.step(batch, self.budget.done(now, seconds))
            if not bool(torch.isfinite(state.all_totals()).all()):
                return f"step {now.step}: the bound was finite, but its gradient was not"
            if not state.has_finite_weights():
                return f"step {now.step}: bound and gradient were finite, but the weights after the step are not"
            if self.failed():
                return f"step {now.step}: {large}"
        return f"{large}, but not when the epoch was run again" if finite else "the failure did not occur again"

    def _list(self, rows: list[int]) -> str:
        called = [row if self.rows is None else self.rows[row] for row in rows[:5]]
        return f"examples {', '.join(map(str, called))}{', ...' if len(rows) > 5 else ''}"
