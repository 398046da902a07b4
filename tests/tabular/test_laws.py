"""The family of a schema: its masses sum to one, its units do not matter, and a model of it begins at the marginals."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import allegory as al
from allegory.gaps import log_prob_elements
from allegory.tabular import Schema
from allegory.tabular.columns import column_from_json
from allegory.tabular.likelihood import choose_law

R = np.random.default_rng(0)
N = 400
WORDS = np.array(["Rom", "Ulm", "Köln"], object)[np.arange(N) % 3]
GAPPY = np.where(np.arange(N) % 4, "mm", None)
FRAME = {
    "town": WORDS,
    "yes": np.arange(N) % 2 == 0,
    "age": R.integers(17, 91, N),
    "hours": np.where(np.arange(N) % 3, 40, R.integers(1, 99, N)),
    "euro": np.where(np.arange(N) % 4, R.lognormal(7, 1, N).round(2), 0.0),
    "tenth": np.where(np.arange(N) % 2, 0.1, R.lognormal(0, 1, N).round(1)),
    "x": R.normal(size=N),
    "day": np.datetime64("2021-01-01") + R.integers(0, 300, N),
    "grade": R.integers(0, 6, N),
    "unit": GAPPY,
    "same": np.full(N, 7),
}


def law_at_the_marginals(schema, x):
    model = al.architectures.mlp((x.shape[1],), schema.family(), latent=[2], hidden=[4], data=x)
    return model.generate(1)


def test_one_law_a_column_in_the_order_of_x():
    schema = Schema.infer(FRAME)
    family = schema.family()
    x = schema.encode(FRAME)
    law = family(torch.zeros(family.size))
    elements = log_prob_elements(law, x)
    assert elements.shape == x.shape
    assert bool(elements.isfinite().all())
    assert "same" not in schema.names
    at = {name: i for i, name in enumerate(schema.names)}
    assert elements[:, at["town"]].tolist() == pytest.approx([-math.log(4)] * N)
    assert elements[:, at["unit"]].tolist() == [0.0] * N
    discrete = [name for name in schema.names if name != "x"]
    assert elements[:, [at[name] for name in discrete]].max() <= 0


def test_the_masses_of_all_cells_of_a_table_sum_to_one():
    frame = {"n": np.r_[R.integers(0, 40, 380), np.full(20, 40)], "town": WORDS, "yes": np.arange(N) % 2}
    schema = Schema.infer(frame).with_column("n", high=40.0)
    family = schema.family().double()
    torch.manual_seed(0)
    law = family(torch.randn(family.size, dtype=torch.float64))
    cells = torch.cartesian_prod(torch.arange(41.0), torch.arange(4.0), torch.arange(2.0)).double()
    assert law.log_prob(cells).exp().sum().item() == pytest.approx(1, abs=1e-6)


def test_cents_and_euros_have_the_same_nats():
    euros = np.where(np.arange(N) % 4, R.lognormal(7, 1, N).round(2), 0.0)
    nats = []
    for values in (euros, np.rint(euros * 100)):
        schema = Schema.infer({"price": values})
        x = schema.encode({"price": values})
        nats.append(law_at_the_marginals(schema, x).log_prob(x).mean().item())
    assert nats[0] == pytest.approx(nats[1], abs=1e-4)


def test_a_model_begins_at_frequencies_and_what_was_never_seen_has_a_probability():
    schema = Schema.infer({"town": WORDS, "tenth": FRAME["tenth"]})
    x = schema.encode({"town": WORDS, "tenth": FRAME["tenth"]})
    law = law_at_the_marginals(schema, x)
    with pytest.warns(UserWarning, match="never seen"):
        new = schema.encode({"town": ["Bonn", "Rom"], "tenth": [0.1, 0.1]})
    elements = log_prob_elements(law, new)[..., 0].flatten()
    assert elements[0].item() == pytest.approx(math.log(0.5 / (N + 2)), abs=1e-3)
    assert elements[1].item() == pytest.approx(math.log(134.5 / (N + 2)), abs=1e-3)
    share = (FRAME["tenth"] == 0.1).mean()
    assert log_prob_elements(law, new)[..., 1].flatten()[0].item() == pytest.approx(math.log(share), abs=0.05)


def test_draws_are_rows_of_the_table():
    schema = Schema.infer(FRAME)
    x = schema.encode(FRAME)
    torch.manual_seed(0)
    model = al.architectures.mlp((x.shape[1],), schema.family(), latent=[2], hidden=[4], data=x)
    drawn = schema.decode(model.sample(2000))
    assert drawn["age"].dtype == FRAME["age"].dtype
    assert drawn["age"].min() >= 0
    assert (drawn["hours"] == 40).mean() == pytest.approx((FRAME["hours"] == 40).mean(), abs=0.05)
    assert (drawn["euro"] == 0).mean() == pytest.approx((FRAME["euro"] == 0).mean(), abs=0.05)
    assert set(drawn["town"]) - {None} == set(WORDS)
    assert drawn["day"].dtype == "M8[D]"
    np.testing.assert_array_equal(drawn["euro"], np.round(drawn["euro"], 2))
    assert set(drawn["same"]) == {7}


def test_nothing_is_said_of_a_table_without_a_column_to_model():
    with pytest.raises(ValueError, match="every column of the table is the same throughout, or missing"):
        Schema.infer({"a": np.zeros(5), "b": np.full(5, np.nan)}).family()


LAWS = {
    "normal": (R.normal(size=5000), None, None, "normal"),
    "Cauchy": (R.standard_cauchy(5000), None, None, "student_t"),
    "one wild": (np.r_[R.normal(size=5000), 1e9], None, None, "student_t"),
    "rounded": (R.normal(50, 5, 5000).round(1), 0.1, 0.0, "logistic"),
    "skewed": (R.lognormal(3, 1.5, 5000).round(1), 0.1, 0.0, "log logistic"),
    "negative": (R.normal(0, 5, 5000).round(1), 0.1, None, "logistic"),
    "one value": (np.full(100, 3.0), 1.0, 0.0, "logistic"),
}


@pytest.mark.parametrize("name", LAWS)
def test_the_law_that_fits_is_chosen(name):
    values, step, low, wanted = LAWS[name]
    x, counts = np.unique(values, return_counts=True)
    assert choose_law(x, counts, step, low, ()) == wanted


def test_skewed_positive_numbers_are_log_normal_where_that_is_likelier():
    rng = np.random.default_rng(0)
    skewed, even = np.exp(rng.normal(3, 1.2, 2000)), rng.normal(100, 5, 2000)
    some = np.where(rng.random(2000) < 0.3, 0, skewed)
    columns = {
        column.name: column for column in Schema.infer({"a": skewed, "b": even, "c": some, "d": -skewed}).columns
    }
    assert [columns[name].law for name in "abc"] == ["log normal", "normal", "log normal"]
    assert columns["d"].law in ("normal", "student_t")
    assert columns["c"].points == (0.0,)
    assert column_from_json(columns["a"].to_json(), "") == columns["a"]


def test_a_log_normal_column_is_scored_as_by_scipy_and_drawn_positive():
    rng = np.random.default_rng(0)
    frame = {
        "price": np.exp(rng.normal(3, 1.2, 400)),
        "rest": np.where(rng.random(400) < 0.3, 0, rng.gamma(0.4, 9, 400)),
    }
    frame["price"][::7] = np.nan
    schema = Schema.infer(frame, columns={"rest": "positive"})
    x = schema.encode(frame)
    model = al.architectures.mlp((2,), schema.family(), [2], [8], data=x).double().eval()
    begun = model.generate(1)
    price = frame["price"][np.isfinite(frame["price"])]
    sigma = np.log(price).std()
    exact = stats.lognorm(sigma, scale=np.exp(np.log(price).mean())).logpdf(price)
    row = torch.stack([torch.tensor(price), torch.full((len(price),), torch.nan)], 1)
    np.testing.assert_allclose(begun.log_prob(row).detach().numpy().mean(), exact.mean(), atol=5e-3)
    rebuilt = al.architectures.build(model.config)
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(rebuilt.double().eval().generate(1).log_prob(row), begun.log_prob(row))
    drawn = model.sample(500)
    assert bool((drawn >= 0).all())
    between = torch.tensor([[5.0, 0.0]]), torch.tensor([[6.0, torch.inf]])
    filled = al.impute(model, x, draws=2, samples=50, between=between)
    assert bool(((filled[:, x[:, 0].isnan(), 0] >= 5) & (filled[:, x[:, 0].isnan(), 0] <= 6)).all())
    with pytest.raises(ValueError, match=r"support|above 0|positive"):
        al.log_likelihood(model, torch.tensor([[0.0, 1.0]], dtype=torch.float64), 2)
