"""Several threads give what each gives alone, and leave nothing switched."""

import os
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.distributions import Distribution

import allegory as al
from allegory.runtime import threads


@pytest.fixture(autouse=True)
def _nothing_is_said(monkeypatch):
    """Beside other work a training may take long."""
    monkeypatch.setattr(threads, "SILENT_SECONDS", 600.0)


@pytest.fixture
def trials():
    """Models to train, with data and seed; all are built before the first is trained."""
    x = (torch.rand(64, 6) < 0.5).double()

    def build():
        return [al.architectures.mlp((6,), "bernoulli", [2], [8], dropout=0.1).double() for _ in range(4)]

    def train(number, model):
        bound = al.fit(model, x, valid=x[:20], epochs=6, batch_size=8, seed=number).history[-1]["bound"]
        torch_wide = al.log_likelihood(model, x[:3], samples=2).shape
        return bound, tuple(torch_wide)

    return build, train


def test_trainings_in_threads_give_what_they_give_alone_and_leave_nothing_behind(trials):
    build, train = trials
    torch.manual_seed(1)
    alone = [train(number, model) for number, model in enumerate(build())]
    torch.manual_seed(1)
    models = build()
    Distribution.set_default_validate_args(True)
    filters = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(train, range(4), models))
    assert together == alone
    assert Distribution._validate_args is True
    assert warnings.filters == filters


def test_a_training_waits_for_another_and_scores_in_its_own_thread(trials):
    build, train = trials
    first, second = build()[:2]
    order, started = [], threading.Event()

    def watch(line):
        started.set()
        train(1, second)  # in the same thread nothing waits
        order.append(line["epoch"])

    x = (torch.rand(16, 6) < 0.5).double()
    one = threading.Thread(target=lambda: al.fit(first, x, epochs=3, tracker=watch))
    one.start()
    assert started.wait(60)
    al.log_likelihood(second, x, samples=2)
    assert order == [1, 2, 3]
    one.join()


def test_who_waits_for_another_thread_says_so(trials, monkeypatch):
    monkeypatch.setattr(threads, "SILENT_SECONDS", 0.05)
    build, _ = trials
    first, second = build()[:2]
    x = (torch.rand(16, 6) < 0.5).double()
    started, told = threading.Event(), threading.Event()

    def watch(line):
        started.set()
        assert told.wait(60)

    one = threading.Thread(target=lambda: al.fit(first, x, epochs=1, tracker=watch), name="training")
    one.start()
    assert started.wait(60)
    monkeypatch.setattr(threads.warnings, "warn", lambda *said, **more: told.set() or found.extend(said))
    found = []
    assert al.log_likelihood(second, x, samples=2).shape == (16,)
    one.join()
    assert "waits for thread training, which trains or scores" in found[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork beside threads
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_process_forked_while_a_thread_trains_does_not_wait_for_it(trials):
    first = trials[0]()[0]
    x = (torch.rand(16, 6) < 0.5).double()
    started, done = threading.Event(), threading.Event()

    def watch(line):
        started.set()
        assert done.wait(60)

    one = threading.Thread(target=lambda: al.fit(first, x, epochs=1, tracker=watch))
    one.start()
    assert started.wait(60)
    child = os.fork()
    if child == 0:
        free = threads._lock.acquire(blocking=False)
        os._exit(0 if free else 1)
    done.set()
    one.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
