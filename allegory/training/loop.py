r"""Training: one loop that maximises an objective over batches of a tensor.

    theta   <- AdamW(theta, gradient of -mean_b objective(model(x_b), beta))
    average <- average + (1 - ema)(theta - average)

    learning rate   lr * min(1, step / lr_warmup) * cosine from 1 to lr_final over the budget
    KL weight       beta * min(1, step / kl_warmup), in steps, so that it does not depend on the size of the data

    AdamW           beta_1 = 0.9, beta_2 = 0.99 (as Kingma et al. 2021): it remembers the gradient's size for a hundred
                    steps, so that one burst does not slow down the next thousands

    gradient        scaled down to clip times the running median of its norm; left out above skip times it, three times
                    in a row at most

What counts is the bound at beta = 1 of the *averaged* weights on the validation set, with the same noise each epoch:
it picks the best weights and stops the training, never before both warm-ups have ended.

A step waits for nothing: sums stay on the device, and whether a loss was finite is asked at the end of an epoch and
before a checkpoint. If it was not, or if a gradient was above skip times the median for the fourth time in a row (the
training has left the place where it was, and what it would go on with is as bad as NaN), the epoch is run again step by
step to say where, the weights go back to the average as it was when the epoch began, and the learning rate is halved.
An epoch that fails for the sixth time is an error; after five restarts in all, what is merely large is followed.

Started by `torchrun`, or wherever torch.distributed is initialised (with gloo for what is on the CPU), all processes
call `fit` with the same arguments: each takes its share of every batch, the gradient is that of the whole batch, and
the first one writes the run. They agree on the time after every step, which waits for it. With `shard` each holds a
part of the model alone, see `allegory.training.sharding`.
"""

from __future__ import annotations

import copy
import functools
import json
import math
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from allegory.data.stored import Stored
from allegory.evaluation.bounds import evaluating, pairs_per_pass
from allegory.model import VAE, Trace
from allegory.objectives import elbo
from allegory.runtime import processes
from allegory.runtime.compilation import compile_or_warn
from allegory.runtime.memory import caching
from allegory.runtime.precision import autocast
from allegory.runtime.progress import Progress
from allegory.runtime.storage import write_atomically
from allegory.runtime.validation import no_validation
from allegory.training import checkpoint, sharding

__all__ = ["Record", "fit"]

RESTARTS = 5
SKIPS = 3  # in a row
SETTLED, TINY = 100, 1e-30  # how often moments are looked at, in steps, and below what they are cleared
RANDOM = ("random", "random_cuda")


@dataclass(repr=False)
class Record:
    """What happened in a training.

    Attributes:
        history: one dictionary an epoch: epoch, step, lr, beta, the mean objective over the epoch (train), the
            gradient's norm (gradient_norm), how many gradients were scaled down and left out (clipped,
            skipped), and on the validation set, at beta = 1, the objective (bound), the ELBO
            and its parts (elbo, reconstruction, kl_per_level), nats an example.
        epoch, step: finished epochs and updates.
        best_bound, best_epoch: the best validation bound and its epoch; None without validation data.
        stopped: why it ended: "epochs", "minutes" or "patience".
        seconds: wall-clock time, over all resumed parts.
        restarts: epochs that were undone and run again at half the learning rate.
    """

    history: list[dict[str, Any]] = field(default_factory=list)
    epoch: int = 0
    step: int = 0
    best_bound: float | None = None
    best_epoch: int | None = None
    stopped: str = ""
    seconds: float = 0.0
    restarts: int = 0

    def __repr__(self) -> str:
        parts = [f"{self.epoch} epochs", f"{self.step:,} steps", f"{self.seconds:.0f} s"]
        parts += [f"stopped by {self.stopped}"] if self.stopped else []
        if self.best_bound is not None:
            parts.append(f"best bound {self.best_bound:.2f} in epoch {self.best_epoch}")
        parts += [f"{self.restarts} restart{'s' * (self.restarts > 1)}"] if self.restarts else []
        return f"Record({', '.join(parts)})"


def fit(
    model: VAE,
    data: Tensor,
    *,
    valid: Tensor | None = None,
    objective: Callable[[Trace, Any], Tensor] = elbo,
    samples: int = 1,
    epochs: int | None = None,
    minutes: float | None = None,
    batch_size: int = 128,
    lr: float = 1e-3,
    lr_warmup: int = 0,
    lr_final: float = 0.0,
    kl_warmup: int = 0,
    beta: float | Sequence[float] = 1.0,
    weight_decay: float = 0.0,
    clip: float = 2.0,
    skip: float = 100.0,
    ema: float = 0.999,
    patience: int | None = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    precision: str = "float32",
    compile: bool = False,
    shard: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resume: bool = False,
    about: dict[str, Any] | None = None,
    checkpoint_seconds: float = 10.0,
    progress: bool | None = None,
    tracker: Callable[[dict[str, Any]], None] | Sequence[Callable[[dict[str, Any]], None]] = (),
) -> Record:
    """Trains `model` in place and leaves it in eval mode with the best weights.

    Args:
        model: any VAE; it is trained where it is, on its own device.
        data: (N, *event) training data; a tensor, or `allegory.data.stored.Stored`, which reads as it is drawn.
        valid: (M, *event) data that choose the best weights and stop the training. Without them the last averaged
            weights are kept.
        objective: (trace, beta) -> (B,) nats, to be maximised; one of `allegory.objectives`, such a one with other
            settings (functools.partial(free_bits, nats=1.0)), or a function of yours.
        samples: S, particles an example.
        epochs, minutes: the budget, whichever ends first; one of them is needed.
        batch_size: examples a step; the last batch of an epoch may be smaller.
        lr, lr_warmup, lr_final: learning rate, steps to reach it, fraction of it at the end of the budget.
        kl_warmup: steps until the KL has its whole weight.
        beta: that weight; a number, or one for each level, level 1 first. Whatever it is, validation is at beta = 1.
        weight_decay: of AdamW; 0 is Adam.
        clip, skip: a gradient's norm is scaled down to clip times its running median; a gradient above skip times the
            median counts as zero, and the fourth in a row sends the training back to the start of the epoch.
        ema: the averaged weights keep this fraction of themselves a step; 0 uses the weights as they are.
        patience: epochs without a better validation bound before the training stops; without valid it never does.
        transform: applied to every batch as it is drawn, such as `data.binarize`.
        precision: "float32", or "bfloat16" for the matrix products of the networks while training; densities, weights
            and validation stay as they are. Faster where the machine has bfloat16 instructions, slower where not. For
            TF32 on a GPU call torch.set_float32_matmul_precision("high") before, and leave this at "float32".
        compile: whether to compile the objective (torch.compile): up to half a minute at the start, then faster. The
            noise is drawn in another order, so the numbers differ from those of an disable_compile run.
        shard: "cpu" or "cuda": each of several processes keeps its part of the model alone, there, for what one cannot
            hold. The model stays sharded, so that out is needed: read the run for a whole one. Not compiled.
        seed: of the order of the data, the noise of the latents and dropout. torch's global generator is left alone.
        out: a run directory to write; see `allegory.training.checkpoint`. Of several processes the first writes it.
        resume: go on from out's last checkpoint, if there is one, as if nothing had happened.
        about: JSON to keep in out's config.json.
        checkpoint_seconds: how often to write a checkpoint.
        progress: whether to show a bar: in a notebook below the cell, else on standard error. By default in a notebook
            alone.
        tracker: called in the first process with each epoch's line of the history, such as those of
            `allegory.training.trackers`; or several. One that raises is not called again; a warning says so.

    Returns:
        What happened, an entry an epoch. Ctrl-C leaves the model with the best weights so far, too.

    Raises:
        ValueError: data the model cannot score, or a setting that makes no sense.
        FloatingPointError: the loss kept becoming NaN or infinite, at ever lower learning rates.

    >>> record = al.fit(model, x, epochs=2, batch_size=4)
    >>> record.epoch, record.stopped
    (2, 'epochs')
    """
    _check_settings(epochs, minutes, batch_size, samples, lr, lr_final, ema, clip, skip, patience)
    weights = _check_beta(beta, model.levels)
    _check_data(model, data, valid, transform)
    settings = dict(
        samples=samples, epochs=epochs, minutes=minutes, batch_size=batch_size, lr=lr, lr_warmup=lr_warmup,
        lr_final=lr_final, kl_warmup=kl_warmup, beta=beta, weight_decay=weight_decay, clip=clip, skip=skip,
        ema=ema, patience=patience, precision=precision, compile=compile, seed=seed, objective=_name(objective),
    )  # fmt: skip
    plain = getattr(objective, "func", objective)
    held, measured = getattr(plain, "held", False), getattr(plain, "bound", objective)
    if shard:
        _check_shard(shard, compile, held, objective, out)
    if held or getattr(objective, "__module__", None) != elbo.__module__:
        _check_objective(model, objective, held, data, transform, samples, weights)
    if processes.world_size() > 1:
        model.load_state_dict(processes.broadcast(model.state_dict))
    average = copy.deepcopy(model).requires_grad_(False)
    if shard:
        sharding.shard(shard, model, average)
    device = next(model.parameters()).device
    autocast(device, precision)  # asks whether there is such a precision
    data = data.to(device)
    valid = None if valid is None else valid.to(device)
    weights = weights.to(device) if isinstance(weights, Tensor) else weights
    learned = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        sharding.param_groups(learned), lr, betas=(0.9, 0.99), weight_decay=weight_decay, fused=True
    )
    state = _State(model, average, learned, optimizer)
    parameters = [sharding.to_local(p) for p in learned]
    both = zip(average.parameters(), model.parameters(), strict=True)
    averages = [sharding.to_local(mean) for mean, p in both if p.requires_grad]
    run = processes.broadcast(lambda: _open_run(out, resume, model, settings, about))
    trackers = [] if processes.rank() > 0 else [tracker] if callable(tracker) else list(tracker)
    now = state.position
    steps = math.ceil(len(data) / batch_size)
    saved = origin = time.monotonic()
    spent = 0.0  # seconds, as all processes see it

    def over() -> str:
        """Why the training is over, or nothing."""
        if minutes is not None and spent >= 60 * minutes:
            return "minutes"
        if epochs is not None and now.epoch >= epochs:
            return "epochs"
        if patience is not None and now.best_epoch is not None and now.epoch - now.best_epoch >= patience:
            return "patience"
        return ""

    def look() -> tuple[bool, bool]:
        """Looks at the clock, and whether a checkpoint is due and a stop is asked for: as all processes see it."""
        nonlocal spent
        moment = time.monotonic()
        due = run is not None and moment - saved > checkpoint_seconds
        spent, any_due, any_stop = processes.all_reduce_max(moment - origin, due, bool(interrupted))
        return any_due > 0, any_stop > 0

    def schedule() -> tuple[float, Any]:
        """The learning rate and beta of the next step."""
        done = 0.0 if minutes is None else spent / (60 * minutes)
        done = done if epochs is None else max(done, now.step / (epochs * steps))
        cosine = lr_final + (1 - lr_final) * (1 + math.cos(math.pi * min(1.0, done))) / 2
        rate = lr * now.lr_scale * min(1.0, (now.step + 1) / max(1, lr_warmup)) * cosine
        return rate, weights * min(1.0, (now.step + 1) / max(1, kl_warmup))

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of this epoch that are still to do, in an order that depends on seed and epoch alone: their rows,
        and the examples of which this process has its share; where it has none, one that it will not count.
        """
        chance = torch.Generator().manual_seed(seed * 1_000_003 + now.epoch)
        source: Any = data if isinstance(data, Stored) else None
        order = source.shuffled(chance, batch_size) if source else torch.randperm(len(data), generator=chance)
        todo = (order if source else order.to(device)).split(batch_size)[now.batch :]
        shares = [mine if len(mine := processes.local_rows(rows)) else rows[:1] for rows in todo]
        examples = source.ahead(shares) if source else (data.index_select(0, rows) for rows in shares)
        return zip(todo, examples, strict=True)

    def draw(x: Tensor) -> Tensor:
        return x if transform is None else transform(x)

    def score(x: Tensor, beta: float | Tensor) -> Tensor:
        """(B,) the objective, nats."""
        with autocast(device, precision):
            trace = model(x, samples=samples, held=held)
        return objective(trace, beta)

    if compile:
        score.__code__ = score.__code__.replace()  # its own: of one piece of code torch keeps eight graphs, and no more
        score = compile_or_warn(score, device)
    if processes.world_size() > 1 and not shard:
        score = DistributedDataParallel(_Scored(model, score), static_graph=True)

    def update(rows: Tensor, x: Tensor) -> None:
        """One step of gradient ascent."""
        now.lr, beta = schedule()
        for group in state.optimizer.param_groups:
            group["lr"] = now.lr
        bound = score(draw(x), torch.as_tensor(beta) if compile else beta)
        bound = bound if len(processes.local_rows(rows)) else 0 * bound
        for p in learned:
            p.grad = None
        (-bound.sum() * processes.world_size() / len(rows)).backward()  # the processes' gradients are averaged
        gradients = [p.grad for p in learned if p.grad is not None]
        gradients, norm = sharding.reduce_gradients(gradients) if shard else (gradients, _norm(gradients))
        scale, burst = _clip(norm, state.norms, clip, skip)
        torch._foreach_mul_(gradients, scale.to(gradients[0].dtype))
        state.optimizer.step()
        if now.step % SETTLED == 0:
            settle()
        keep = min(ema, (1 + now.step) / (10 + now.step))
        torch._foreach_lerp_(averages, parameters, 1 - keep)
        one = torch.ones_like(norm)
        state.totals += torch.stack([bound.detach().sum(), norm, one, scale < 1, scale == 0, burst])
        now.step, now.batch = now.step + 1, now.batch + 1

    def settle() -> None:
        """Clears moments that nothing moves any more, of units that have fallen silent: on their way to zero they
        become subnormal, and with such numbers some processors take a hundred times as long. As small as they are
        (AdamW adds 1e-8 to the root of the second), they move no weight.
        """
        for moments in state.optimizer.state.values():
            for key in ("exp_avg", "exp_avg_sq"):
                moment = sharding.to_local(moments[key])
                torch.hardshrink(moment, lambd=TINY, out=moment)

    def lost() -> bool:
        """Whether what this epoch did is to be undone."""
        totals = state.all_totals()
        finite, bursts = bool(torch.isfinite(totals).all()), totals[-1].item()
        return not finite or (bursts > 0 and now.restarts < RESTARTS)

    def finish_epoch() -> dict[str, Any]:
        """The epoch's line of metrics; remembers the best weights."""
        bound, norm, count, clipped, skipped, _ = state.all_totals().tolist()
        beta = min(1.0, now.step / max(1, kl_warmup))
        now.epoch, now.batch, now.failures = now.epoch + 1, 0, 0
        state.totals.zero_()
        line = dict(epoch=now.epoch, step=now.step, lr=now.lr, beta=beta)
        line |= dict(train=bound / min(len(data), count * batch_size), gradient_norm=norm / count)
        line |= dict(clipped=int(clipped - skipped), skipped=int(skipped))
        if valid is not None:
            state.average_buffers()
            line |= _validate(state.average, valid, measured, samples, seed)
            warm = now.step >= max(lr_warmup, kl_warmup)
            if warm and (now.best_bound is None or line["bound"] > now.best_bound):
                now.best_bound, now.best_epoch = line["bound"], now.epoch
                state.best = _clone(state.average.state_dict())
        now.history.append(line)
        return line

    def tell(line: dict[str, Any]) -> None:
        """Tells the trackers, and goes on without one that fails."""
        for track in list(trackers):
            try:
                with torch.random.fork_rng():  # it may draw
                    track(copy.deepcopy(line))
            except Exception as error:
                trackers.remove(track)
                warnings.warn(
                    f"the tracker failed in epoch {line['epoch']} and is not called again in this training, which goes "
                    f"on: {type(error).__name__}: {error}",
                    stacklevel=3,
                )

    def where_lost(finite: bool) -> str:
        """Runs the epoch again, looking at every step, and names what went wrong first."""
        large = f"the gradient was above {skip:g} times its usual size, {SKIPS + 1} times in a row"
        for rows, x in batches():
            mine = processes.local_rows(rows)
            with torch.random.fork_rng(), torch.no_grad(), autocast(device, precision):
                trace = model(draw(x), samples=samples)
                terms = {"log p(x | z_1)": trace.log_px}
                terms |= {f"the rate of level {t}": rate for t, rate in enumerate(trace.kl, start=1)}
            for name, term in terms.items():
                found = mine[~torch.isfinite(term).all(0)[: len(mine)].to(mine.device)].tolist()
                bad = sorted(row for part in processes.all_gather(found) for row in part)
                if bad:
                    return f"step {now.step + 1}: {name} is not finite in {len(bad)} of {len(rows)} rows, {_some(bad)}"
            update(rows, x)
            if not bool(torch.isfinite(state.all_totals()).all()):
                return f"step {now.step}: the bound was finite, its gradient was not"
            if lost():
                return f"step {now.step}: {large}"
        return f"{large}, but not when the epoch was run again" if finite else "it could not be found again"

    def recover(good: _Snapshot) -> None:
        """Back to the start of the epoch, with half the learning rate."""
        kept = dict(restarts=now.restarts + 1, failures=now.failures + 1, lr_scale=now.lr_scale / 2)
        finite, epoch = bool(torch.isfinite(state.all_totals()).all()), now.epoch + 1
        state.restore(good)
        where = f"epoch {epoch}, {where_lost(finite)}"
        state.restore(good)
        if kept["failures"] > RESTARTS:
            raise FloatingPointError(
                f"{where}; {RESTARTS} restarts from the last good weights at half the learning rate each did not help; "
                "look at those rows, lower lr, or raise lr_warmup"
            )
        with torch.no_grad():  # the average has not seen the last few steps, which may have led here
            torch._foreach_copy_(parameters, averages)
        vars(now).update(kept)
        bar.say(f"{where}; going back to the start of the epoch, with the learning rate times {now.lr_scale:g}")

    def save() -> None:
        nonlocal saved
        now.seconds = spent
        if run is not None:
            state.save(run)
        saved = time.monotonic()

    def leave() -> None:
        """The model as it is left: with the weights to use."""
        model.load_state_dict(state.weights())
        model.eval()

    with (
        torch.random.fork_rng(),
        warnings.catch_warnings(),
        no_validation(),
        caching(),
        _left(leave),
        _stoppable(run is not None) as interrupted,
        Progress(progress if processes.rank() == 0 else False, epochs, minutes, steps) as bar,
    ):
        warnings.filterwarnings("ignore", "The .grad attribute")  # the compiler looks, and needs none
        warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # of what is done in place to a view; nothing is
        torch.manual_seed(_own(seed))
        if run is not None and resume and processes.broadcast((run / checkpoint.LAST).exists):
            state.load(run, seed)
        saved = time.monotonic()
        origin = saved - now.seconds
        look()
        good: _Snapshot | None = None
        while not over():
            if good is None or state.norms[-1] == 0:  # amid skips it may be too late
                good = None  # not two at once
                good = state.capture()
            model.train()
            for rows, x in batches():
                update(rows, x)
                due, stop = look()
                bar.step(now, spent)
                if due or stop or over() == "minutes":
                    if lost():
                        break
                    if due or stop:
                        save()
                    if stop:
                        raise KeyboardInterrupt
                    if over() == "minutes":
                        break
            if lost():
                recover(good)
            else:
                line = finish_epoch()
                bar.epoch(line, now)
                tell(line)
            look()
        now.stopped = over()
        state.average_buffers()
        save()
    leave()
    return Record(**{key: getattr(now, key) for key in Record.__dataclass_fields__})


@dataclass(repr=False)
class _Position(Record):
    """Where the loop stands: the record so far, the batches done in this epoch, and what restarts have changed."""

    batch: int = 0
    lr: float = 0.0
    lr_scale: float = 1.0
    failures: int = 0  # in this epoch


_Snapshot = tuple[dict[str, Tensor], dict[str, Any]]


class _State:
    """All that `fit` needs to go on as if nothing had happened: weights, their average, the best ones, the moments of
    the optimizer, the random state, the sums of the epoch and the position.
    """

    def __init__(self, model: VAE, average: VAE, learned: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        self.model, self.average, self.learned, self.optimizer = model, average, learned, optimizer
        self.best: dict[str, Tensor] = {}
        self.position = _Position()
        device = next(model.parameters()).device
        # Of this epoch: the sum of this process's bounds; that of the gradient's norm; steps, clipped, skipped, bursts.
        # NaN once is NaN for good.
        self.totals = torch.zeros(6, dtype=torch.float64, device=device)
        # Of the gradient norms: the running median of their logarithms, how many there were, skips in a row.
        self.norms = torch.zeros(3, dtype=torch.float64, device=device)

    def average_buffers(self) -> None:
        """Buffers are taken as they are, and where each process has its own, their mean."""
        for average, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
            average.copy_(buffer)
            if average.is_floating_point():
                processes.all_reduce(average).div_(processes.world_size())

    def all_totals(self) -> Tensor:
        """The totals, with the bounds of all processes."""
        totals = self.totals.clone()
        processes.all_reduce(totals[:1])
        return totals

    def weights(self) -> dict[str, Tensor]:
        """The weights to use."""
        return self.best or self.average.state_dict()

    def capture(self) -> _Snapshot:
        tensors = {"totals": self.totals, "norms": self.norms, "random": torch.get_rng_state()}
        if self.totals.is_cuda:
            tensors["random_cuda"] = torch.cuda.get_rng_state(self.totals.device)
        parts = {"model": self.model.state_dict(), "average": self.average.state_dict(), "best": self.best}
        for part, weights in parts.items():
            tensors |= {f"{part}/{key}": value for key, value in weights.items()}
        for i, p in enumerate(self.learned):
            tensors |= {f"optimizer/{i}/{key}": value for key, value in self.optimizer.state.get(p, {}).items()}
        return _clone(tensors), {**vars(self.position), "history": list(self.position.history)}

    def restore(self, snapshot: _Snapshot) -> None:
        tensors, position = snapshot
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "best": {}, "optimizer": {}}
        for key, value in tensors.items():
            if "/" in key:
                part, name = key.split("/", 1)
                parts[part][name] = value
        self.model.load_state_dict(parts["model"])
        self.average.load_state_dict(parts["average"])
        self.best = _clone(parts["best"])
        self.optimizer.state.clear()
        for name, value in parts["optimizer"].items():
            i, key = name.split("/")
            p = self.learned[int(i)]
            if value.dim() and value.shape != p.shape:
                raise ValueError(f"moments of shape {tuple(value.shape)} for a parameter of {tuple(p.shape)}")
            self.optimizer.state[p][key] = value.to(p.device, copy=True)
        self.totals.copy_(tensors["totals"])
        self.norms.copy_(tensors["norms"])
        torch.set_rng_state(tensors["random"].cpu())
        if self.totals.is_cuda:
            torch.cuda.set_rng_state(tensors["random_cuda"].cpu(), self.totals.device)
        for key, value in position.items():
            setattr(self.position, key, list(value) if key == "history" else value)

    def save(self, run: Path) -> None:
        """The position last, so that neither the weights to use nor the metrics are ever older."""
        tensors, position = self.capture()
        for key in filter(tensors.__contains__, RANDOM):  # every process has its own
            tensors[key] = torch.stack(processes.all_gather(tensors[key].cpu()))
        tensors["totals"] = self.all_totals()
        tensors = sharding.full_tensors(tensors)
        if processes.rank() == 0:
            part = "best/" if self.best else "average/"
            weights = {key.removeprefix(part): value for key, value in tensors.items() if key.startswith(part)}
            checkpoint.write_tensors(run / checkpoint.WEIGHTS, weights, {})
            lines = "".join(json.dumps(line) + "\n" for line in position["history"])
            write_atomically(run / checkpoint.METRICS, lines.encode())
            checkpoint.write_tensors(run / checkpoint.LAST, tensors, position)
        processes.all_reduce_max(0.0)  # the others wait until it is there

    def load(self, run: Path, seed: int) -> None:
        tensors, position = processes.broadcast(lambda: checkpoint.read_tensors(run / checkpoint.LAST))
        try:
            self._take_own(tensors, seed + position["step"])
            self._shard(tensors)
            self.restore((tensors, position))
        except (RuntimeError, KeyError, IndexError, ValueError) as error:
            detail = " ".join(str(error).split())
            raise ValueError(f"{run / checkpoint.LAST} does not fit this model: {detail}") from None

    def _take_own(self, tensors: dict[str, Tensor], seed: int) -> None:
        """Leaves of the randomness of all processes this one's; new noise where they are not as many as they were."""
        for key in filter(tensors.__contains__, RANDOM):
            states = torch.atleast_2d(tensors[key])
            if len(states) == processes.world_size():
                tensors[key] = states[processes.rank()].clone()  # torch reads no views
            else:
                torch.manual_seed(_own(seed))
                device = self.totals.device
                tensors[key] = torch.get_rng_state() if key == "random" else torch.cuda.get_rng_state(device)
        if processes.rank() > 0:
            tensors["totals"][0] = 0

    def _shard(self, tensors: dict[str, Tensor]) -> None:
        """Shards what was saved whole as the model is, if it is."""
        parts = {"model": self.model.state_dict(), "average": self.average.state_dict()}
        parts["best"] = parts["average"]
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            if part == "optimizer" and value.dim():
                tensors[key] = sharding.distribute(value, self.learned[int(name.split("/")[0])])
            elif part in parts and name in parts[part]:
                tensors[key] = sharding.distribute(value, parts[part][name])


class _Scored(nn.Module):
    """(B,) the objective, as DistributedDataParallel wants it: from a module that has the parameters."""

    def __init__(self, model: VAE, score: Callable[..., Tensor]) -> None:
        super().__init__()
        self.model, self.score = model, score

    def forward(self, x: Tensor, beta: float | Tensor) -> Tensor:
        return self.score(x, beta)


def _own(seed: int) -> int:
    """A seed for each process; the first one's is that of a process alone."""
    return seed + 10_000_019 * processes.rank()


def _validate(
    model: VAE, valid: Tensor, objective: Callable[[Trace, Any], Tensor], samples: int, seed: int
) -> dict[str, Any]:
    """The objective at beta = 1, the ELBO and its parts, averaged over the validation set. The noise is that of seed
    and of the place in the set, in however many processes.
    """
    sums = torch.zeros(2 + model.levels, dtype=torch.float64, device=valid.device)
    rows = max(1, pairs_per_pass(model, valid) // samples)
    starts = torch.arange(0, len(valid), rows)
    mine = processes.local_rows(starts).tolist()
    with evaluating(model), torch.random.fork_rng():
        for turn in range(math.ceil(len(starts) / processes.world_size())):  # as often in every process
            start = mine[turn] if turn < len(mine) else 0
            torch.manual_seed(seed + start)
            trace = model(valid[start : start + rows], samples=samples)
            terms = torch.cat([objective(trace, 1.0)[None], torch.cat([trace.log_px[None], trace.kl]).mean(1)])
            if turn < len(mine):
                sums += terms.sum(1).double()
    bound, reconstruction, *rates = (processes.all_reduce(sums) / len(valid)).tolist()
    return dict(bound=bound, elbo=reconstruction - sum(rates), reconstruction=reconstruction, kl_per_level=rates)


def _name(objective: Any) -> str:
    """What the run remembers of the objective; of a functools.partial its settings, too."""
    if isinstance(objective, functools.partial):
        return f"{_name(objective.func)}({', '.join(f'{key}={value}' for key, value in objective.keywords.items())})"
    return getattr(objective, "__name__", type(objective).__name__)


def _norm(gradients: list[Tensor]) -> Tensor:
    """() the norm of all gradients side by side, in float64: in float32 its square overflows at 2e19, which a burst
    reaches while every gradient is still finite.
    """
    if gradients[0].is_cpu:  # where float64 takes a copy of all gradients, and looking costs nothing
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients))).double()
        if torch.isfinite(norm):
            return norm
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, torch.float64)))


def _clip(norm: Tensor, norms: Tensor, clip: float, skip: float) -> tuple[Tensor, Tensor]:
    """() what to multiply the gradient with, and () whether it should have been left out but too many were; on its
    device. Moves the running median and the count of skips.

    The median of log norm goes up or down by the same small step whichever side a new one is on, so that no single
    gradient, however large, moves it far.
    """
    median, seen, skips = norms.unbind()
    logarithm = norm.clamp(min=1e-30).log()
    median = torch.where(seen == 0, logarithm, median + torch.sign(logarithm - median) / (seen + 1).clamp(max=50))
    ratio = norm / median.exp()
    large = ratio > skip
    skipped = large & (skips < SKIPS)
    norms.copy_(torch.stack([median, seen + 1, torch.where(skipped, skips + 1, 0)]))
    return torch.where(skipped, 0.0, (clip / ratio).clamp(max=1)), large & ~skipped


def _clone(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in tensors.items()}


def _some(rows: list[int]) -> str:
    return f"examples {', '.join(map(str, rows[:5]))}{', ...' if len(rows) > 5 else ''}"


@contextmanager
def _left(leave: Callable[[], None]) -> Iterator[None]:
    """What was reached is not lost with Ctrl-C either."""
    try:
        yield
    except KeyboardInterrupt:
        leave()
        raise


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _stoppable(active: bool) -> Iterator[list[int]]:
    """Collects Ctrl-C and SIGTERM in a list instead of tearing a step apart; a second one does, in a process alone."""
    caught: list[int] = []
    if not active or threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def handle(number: int, frame: Any) -> None:
        if caught and processes.world_size() == 1:  # torchrun passes on what the terminal has sent already
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    except RuntimeError:
        if processes.world_size() > 1:  # torchrun ends all as soon as one has died: the others still say why
            del before[signal.SIGTERM]
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _open_run(
    out: str | Path | None, resume: bool, model: VAE, settings: dict[str, Any], about: dict[str, Any] | None
) -> Path | None:
    if out is None:
        if resume:
            raise ValueError("resume=True needs out, the run directory to go on with")
        return None
    run = Path(out)
    config = dict(
        format=checkpoint.FORMAT,
        **checkpoint.versions(),
        model=getattr(model, "config", None),
        fit=settings,
        **(about or {}),
    )
    if resume and (run / checkpoint.CONFIG).exists():
        _check_same(run, checkpoint.read_config(run), config)
        checkpoint.sweep(run)
    else:
        checkpoint.new_run(run)
    checkpoint.write_json(run / checkpoint.CONFIG, config)
    return run


def _check_same(run: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """A resumed run keeps its settings; only its budget may grow."""
    budget = ("epochs", "minutes", "patience")
    pairs = [(key, before.get(key), now[key]) for key in now if key not in ("allegory", "torch", "fit", "command")]
    pairs += [(key, before["fit"].get(key), value) for key, value in now["fit"].items() if key not in budget]
    for key, old, new in pairs:
        if json.loads(json.dumps(new)) != old:
            raise ValueError(
                f"{run} was trained with {key} = {old}, not {new}; resume with the same settings (only "
                f"{', '.join(budget)} may change), or train into a new directory"
            )


def _check_settings(
    epochs: int | None, minutes: float | None, batch_size: int, samples: int, lr: float, lr_final: float, ema: float,
    clip: float, skip: float, patience: int | None,
) -> None:  # fmt: skip
    if epochs is None and minutes is None:
        raise ValueError("fit needs a budget: epochs, minutes, or both")
    positive = dict(
        epochs=epochs,
        minutes=minutes,
        batch_size=batch_size,
        samples=samples,
        lr=lr,
        clip=clip,
        skip=skip,
        patience=patience,
    )
    for name, value in positive.items():
        if value is not None and not value > 0:
            raise ValueError(f"{name}={value}: wanted a number above zero")
    if not lr_final >= 0:
        raise ValueError(f"lr_final={lr_final}: wanted the fraction of lr at the end, at least 0")
    if not 0 <= ema < 1:
        raise ValueError(f"ema={ema}: wanted the fraction kept a step, at least 0 and below 1")


def _check_objective(
    model: VAE,
    objective: Any,
    held: bool,
    data: Tensor,
    transform: Callable[[Tensor], Tensor] | None,
    samples: int,
    beta: Any,
) -> None:
    """What an objective of a user's, or with conditions or settings, says of this model, before a run is made."""
    with _seeded(0):
        x = data[:2] if transform is None else transform(data[:2])
        trial, device = copy.deepcopy(model).train(), next(model.parameters()).device
        beta = beta.to(device) if isinstance(beta, Tensor) else beta
        bound = objective(trial(x.to(device), samples=samples, held=held), beta)
    if not isinstance(bound, Tensor) or bound.shape != x.shape[:1]:
        raise ValueError(
            f"objective {_name(objective)}: got {tuple(bound.shape) if isinstance(bound, Tensor) else bound!r} for "
            f"{len(x)} examples, wanted (B,), nats an example; average over the particles, not over the examples"
        )


def _check_beta(beta: float | Sequence[float], levels: int) -> Any:
    """A number, or a tensor of one for each level."""
    values = [beta] if isinstance(beta, int | float) else list(beta)
    if any(not value >= 0 for value in values) or (not isinstance(beta, int | float) and len(values) != levels):
        raise ValueError(f"beta={beta}: wanted a number, at least 0, or one for each of {levels} levels")
    return beta if isinstance(beta, int | float) else torch.tensor(values)


def _check_shard(shard: str, compile: bool, held: bool, objective: Any, out: Any) -> None:
    if shard not in ("cpu", "cuda"):
        raise ValueError(f"shard={shard!r}: wanted 'cpu' or 'cuda', where the parts of the model are to be")
    if out is None:
        raise ValueError("shard: wanted out, a run directory, since the model itself stays sharded")
    if compile:
        raise ValueError("shard: a model that is sharded is not compiled; leave out one of the two")
    if held:
        raise ValueError(
            f"shard: {_name(objective)} holds the posterior's weights, which are sharded; use elbo or iwae"
        )
    if processes.world_size() == 1:
        raise ValueError("shard: there is one process, which has to hold the whole model; start several by torchrun")


def _check_data(model: VAE, data: Tensor, valid: Tensor | None, transform: Callable[[Tensor], Tensor] | None) -> None:
    """Everything about the data is asked here, once; the loop does not look again."""
    for name, x in {"training": data, "validation": valid}.items():
        if x is not None and not isinstance(x, Tensor | Stored):
            raise ValueError(f"{name} data: got {type(x).__name__}, wanted a tensor, such as torch.from_numpy gives")
    if data.dim() < 1 or len(data) < 2:
        raise ValueError(f"training data: got shape {tuple(data.shape)}, wanted at least two examples, (N, *event)")
    device = next(model.parameters()).device
    with _seeded(0), torch.no_grad():
        if transform is None:
            model.check(data.to(device), "training data")
        else:
            for part in [data] if isinstance(data, Tensor) else (part for _, part in data.pieces()):
                model.check(transform(part).to(device), "training data")
        if valid is not None:
            model.check(valid.to(device), "validation data")
