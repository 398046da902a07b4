"""Several threads give what each gives alone, and leave nothing switched."""

import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.distributions import Distribution

import allegory as al


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
