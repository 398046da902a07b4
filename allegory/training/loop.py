r"""Training: one loop that maximises an objective over batches of a tensor.

    for every epoch, until the budget is spent:
        for every batch x_b, in random order:
            theta   <- AdamW(theta, gradient of -mean_b objective(model(x_b), beta)), clipped        `step`, `clipping`
            average <- average + (1 - ema)(theta - average)                                          `averaging`
            a checkpoint, if one is due                                                              `state`
        if the epoch failed (NaN, or a burst): back to its beginning, at half the learning rate      `recovery`
        the bound of the *averaged* weights on the validation set; are they the best?                `validation`
        if it has not risen for long: back to the best weights, and anneal from there                `budget`

    learning rate   lr * min(1, step / lr_warmup) * cosine from 1 to lr_final over the budget        `schedule`
    KL weight       beta * min(1, step / kl_warmup), in steps, so that it does not depend on the size of the data
                    With a budget in minutes both warm-ups end within a quarter of it, however few steps that is

    AdamW           beta_1 = 0.9, beta_2 = 0.99 (as Kingma et al. 2021): the second moment averages over about a hundred
                    steps, so that one burst does not slow down thousands of later ones

Validation picks the best weights and ends the training, never before both warm-ups have ended. A step never waits for
the device: whether a loss was finite is checked at the end of an epoch and before a checkpoint.

Under `torchrun`, or wherever torch.distributed is initialised (with gloo for tensors on the CPU), all processes call
`fit` with the same data and arguments, which is checked: each takes its share of every batch, the gradient is that of
the whole batch, and the first one writes the run. They agree on the time after every step, which synchronises them.
With `shard` each holds only a part of the model, see `allegory.training.sharding`.

Of several threads one trains at a time: torch's generator and the checks of its distributions belong to the process.
What another thread does with that generator in the meantime (torch.manual_seed, building a model) is not kept apart.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allegory.given import Given
from allegory.model import VAE
from allegory.objectives import elbo
from allegory.runtime import processes
from allegory.runtime.memory import caching
from allegory.runtime.modes import frozen_parts, no_validation, train_mode
from allegory.runtime.progress import Progress
from allegory.runtime.threads import one_at_a_time
from allegory.trace import Trace
from allegory.training import arguments, directory, sharding
from allegory.training.averaging import average_buffers
from allegory.training.batches import Batches
from allegory.training.budget import Budget
from allegory.training.clock import Clock, caught_signals
from allegory.training.fused import FusedStep
from allegory.training.identity import describe_inputs
from allegory.training.recovery import Recovery
from allegory.training.schedule import Schedule
from allegory.training.state import Record, State
from allegory.training.step import Step, model_score, score_function
from allegory.training.trackers import Tracker, Trackers
from allegory.training.validation import validate, warn_if_not_finite

__all__ = ["fit"]


@one_at_a_time()
@processes.together()
def fit(
    model: VAE,
    data: Tensor,
    *,
    valid: Tensor | None = None,
    given: Given = None,
    valid_given: Given = None,
    transform: Callable[[Tensor], Tensor] | None = None,
    objective: Callable[[Trace, Any], Tensor] = elbo,
    samples: int = 1,
    beta: float | Sequence[float] | Schedule = 1.0,
    kl_warmup: int = 0,
    epochs: int | None = None,
    minutes: float | None = None,
    patience: int | None = None,
    batch_size: int = 128,
    lr: float | Schedule = 1e-3,
    lr_warmup: int = 0,
    lr_final: float = 0.0,
    weight_decay: float = 0.0,
    clip: float = 2.0,
    skip: float = 100.0,
    ema: float = 0.999,
    seed: int = 0,
    precision: str = "float32",
    compile: bool | str = False,
    shard: str | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    about: dict[str, Any] | None = None,
    checkpoint_seconds: float = 10.0,
    progress: bool | None = None,
    tracker: Tracker | Sequence[Tracker] = (),
    row_names: Sequence[Any] | None = None,
) -> Record:
    """Trains `model` in place and leaves it in eval mode with the best weights.

    Args:
        model: any VAE; it is trained in place, on its own device. A part that is frozen, in eval mode and without a
            parameter that is learned, stays in eval mode: its dropout is off, and its batch statistics stay.
        data: (N, *event) training data; a tensor, or `allegory.data.stored.Stored`, which streams from disk.
        valid: (M, *event) data that determine the best weights and early stopping. Without them the last averaged
            weights are kept. Of a diffusion the bound is an unbiased estimate, of one random level of each example.
        given, valid_given: c of a conditional model p(x | c), (N, *context) and (M, *context), or several of each, in
            memory.
        transform: applied to every batch as it is drawn, such as `data.binarize`; what is given stays as it is.
        objective: (trace, beta) -> (B,) nats, to be maximised; one of `allegory.objectives`, one with other
            settings (functools.partial(free_bits, nats=1.0)), or your own function.
        samples: S, particles per example.
        beta: weight of the KL; a number, or one for each level, level 1 first, or a schedule, (step, done) -> one of
            these, see `allegory.training.schedule`. The validation bound is at beta = 1; where beta is not 1, the
            weights are chosen by the objective at the full beta (of a function, at its last value).
        kl_warmup: steps until the KL has its full weight; with minutes, at most a quarter of the budget.
        epochs, minutes: the budget, whichever ends first; one of them is needed. An epoch that the minutes cut off does
            not count: when the training is resumed it goes on where it was.
        patience: epochs without a better validation bound after which the training goes back to the best weights, the
            rest of the schedules is gone through in as many epochs, and it ends; without valid it has no effect.
        batch_size: examples per step; the last batch of an epoch may be smaller.
        lr, lr_warmup, lr_final: learning rate, steps to reach it, fraction of it at the end of the budget; or lr alone,
            a schedule, (step, done) -> number.
        weight_decay: of AdamW; 0 is Adam.
        clip, skip: a gradient's norm is scaled down to clip times its running median; a gradient above skip times the
            median counts as zero, and the fourth in a row restarts the epoch.
        ema: the averaged weights keep this fraction of themselves per step; 0 uses the weights as they are.
        seed: of the order of the data, the noise of the latents and dropout. torch's global generator is left alone.
        precision: "float32", or "bfloat16" for the matrix products of the networks while training; densities, weights
            and validation stay in float32. Faster on a machine with bfloat16 instructions, much slower on others:
            "auto" measures, and uses bfloat16 where it pays and x is Bernoulli or categorical. For TF32 on a GPU call
            torch.set_float32_matmul_precision("high") first, and leave this at "float32".
        compile: whether to compile the objective (torch.compile): up to half a minute at the start, minutes for wide
            tables and deep ladders, then faster. The noise is drawn in another order, so the numbers differ from those
            of an uncompiled run. "auto" times a step, and compiles where the training is long enough for it to pay.
        shard: "cpu" or "cuda": each of several processes keeps only its part of the model, on that device, for models
            too large for one. The model stays sharded, so out is required: load the whole model from the run. Not
            compiled.
        out: a run directory to write; see `allegory.training.directory`. The first of several processes writes it.
        resume: continue from out's last checkpoint, if there is one, as if the run had not been interrupted.
        about: JSON to store in out's config.json.
        checkpoint_seconds: how often to write a checkpoint.
        progress: whether to show a progress bar: in a notebook below the cell, else on standard error. By default only
            in a notebook.
        tracker: called in the first process with each epoch's line of the history, such as those of
            `allegory.training.trackers`; or several. One that raises is not called again, and a warning is issued.
        row_names: (N,) what messages call the rows of data, such as `Data.row_names`; by default their numbers.

    Returns:
        A record of the training, with a history of one entry per epoch. Ctrl-C, too, leaves the model with the best
        weights so far.

    Raises:
        ValueError: data the model cannot score, or an invalid setting.
        FloatingPointError: the loss became NaN or infinite again and again, at ever lower learning rates.

    >>> record = al.fit(model, x, epochs=2, batch_size=4)
    >>> record.epoch, record.stopped
    (2, 'epochs')
    """
    settings: dict[str, Any] = dict(
        samples=samples, epochs=epochs, minutes=minutes, batch_size=batch_size, lr=lr, lr_warmup=lr_warmup,
        lr_final=lr_final, kl_warmup=kl_warmup, beta=beta, weight_decay=weight_decay, clip=clip, skip=skip,
        ema=ema, patience=patience, precision=precision, compile=compile, seed=seed, objective=objective,
    )  # fmt: skip
    plan = arguments.plan(model, data, valid, transform, settings, shard, out, resume, row_names, given, valid_given)
    settings |= arguments.as_json(settings) | dict(precision=plan.precision, compile=plan.compile)
    average, frozen = _copy_for_average(model, shard), frozen_parts(model)
    schedules = {name: value for name, value in (("lr", lr), ("beta", beta)) if callable(value)}
    inputs = functools.partial(
        describe_inputs, model, data, valid, transform, objective, schedules, plan.given, plan.valid_given
    )
    data, valid = _to_device_of(model, data), _to_device_of(model, valid)
    batches = Batches(data, batch_size, seed, transform, plan.given)
    budget = Budget(epochs, minutes, patience, len(batches))
    state = State(model, average, plan.lr(0, 0.0), weight_decay, plan.baseline)
    score = score_function(model, objective, samples, plan.held, plan.precision, plan.compile, parallel=not shard)
    of_model = model_score(model, objective, samples, precision=plan.precision)
    fused = FusedStep(state, of_model, min(batch_size, len(data)), clip, skip, plan.fuse)
    step = Step(state, score, plan.lr, plan.beta, clip, skip, ema, sharded=bool(shard), fused=fused)
    recovery = Recovery(state, step, batches, budget, samples, plan.precision, row_names)
    trackers = Trackers(tracker)
    now, view = state.position, Progress(progress, epochs, minutes, len(batches))

    opened = directory.open_run(out, resume, model, settings, about, inputs)
    with opened as (run, config), _training_context(state, run) as signals, view as bar:
        state.begin(seed, run if resume else None)
        directory.write_config(run, config)
        bar.note(*plan.notes, *plan.note_on_schedules(now, budget))
        clock = Clock(now.seconds, checkpoint_seconds if run is not None else None, signals)
        while not budget.over(now, clock.seconds):
            recovery.take_snapshot()
            train_mode(model, frozen)
            for batch in batches.epoch(now.epoch, now.batch):
                step(batch, budget.done(now, clock.seconds))
                clock.update()
                bar.step(now, clock.seconds, lambda: state.running_bound(batch_size))
                out_of_time = budget.over(now, clock.seconds) == "minutes"
                if (clock.save_due or clock.stop_requested or out_of_time) and recovery.failed():
                    break
                if clock.save_due or clock.stop_requested:
                    state.save(run, clock)
                if clock.stop_requested:
                    raise KeyboardInterrupt
                if out_of_time:
                    break
            if recovery.failed():
                bar.say(recovery.restart(clock.seconds))
            else:
                done = budget.done(now, clock.seconds)
                line = state.end_epoch(len(data), batch_size, None if callable(beta) else plan.warmed(now.step, done))
                if valid is not None:
                    average_buffers(average, model)
                    line |= validate(average, valid, plan.bound, samples, seed, plan.full_beta, plan.valid_given)
                    state.keep_if_best(line, plan.is_warm(now.step, done))
                    if budget.stalled(now):
                        bar.say(state.go_back_to_best(done))
                now.history.append(line)
                bar.epoch(line, now)
                trackers(line)
            clock.update()
        now.stopped = budget.over(now, clock.seconds)
        average_buffers(average, model)
        if valid is None:
            warn_if_not_finite(average, batches)
        state.save(run, clock)
    return Record(**{key: getattr(now, key) for key in Record.__dataclass_fields__})


def _to_device_of(model: VAE, x: Any) -> Any:
    x = x.detach() if isinstance(x, Tensor) else x  # what made it is not trained
    return None if x is None else x.to(next(model.parameters()).device)


def _copy_for_average(model: VAE, shard: str | None) -> VAE:
    """A copy of the model for the average of its weights; the same in all processes, and sharded if the model is."""
    if processes.world_size() > 1:
        model.load_state_dict(processes.broadcast(model.state_dict))
    average = copy.deepcopy(model).requires_grad_(False)
    if shard:
        sharding.shard(shard, model, average)
    return average


@contextmanager
def _training_context(state: State, run: Path | None) -> Iterator[list[int]]:
    """The context of the loop: a forked torch generator, and signals collected if there is a run to save; at the end,
    even after Ctrl-C, the model has the weights to use.
    """
    with torch.random.fork_rng(), warnings.catch_warnings(), no_validation(), caching(), torch.enable_grad():
        warnings.filterwarnings("ignore", "The .grad attribute")  # the compiler reads it, and does not need it
        warnings.filterwarnings("ignore", "FSDP2-wrapped module")  # about in-place changes of a view; there are none
        try:
            with caught_signals(run is not None) as signals:
                yield signals
        except KeyboardInterrupt:
            state.load_best()
            raise
        state.load_best()
