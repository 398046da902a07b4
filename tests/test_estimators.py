"""The estimators, as scikit-learn's own checks see them, and what these do not look at."""

import copy
import pickle
import random

import numpy as np
import pandas
import polars
import pytest
import torch
from scipy import sparse
from scipy.stats import multivariate_normal, norm
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from allegory.estimators import VAEDensity, VAEDetector, VAEImputer, VAELatents, VAEOutliers
from allegory.evaluation import fill, log_likelihood

SHORT = {"max_iter": 2, "hidden": (8,)}
ALL = [VAEDensity, VAELatents, VAEImputer, VAEOutliers]
IRIS = load_iris().data
RNG = np.random.default_rng


@parametrize_with_checks([kind(**SHORT) for kind in ALL])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([kind() for kind in ALL])
def test_scikit_learns_checks_as_it_is(estimator, check):
    check(estimator)


def people(n=60, seed=0):
    rng = RNG(seed)
    town = rng.choice(["Rom", "Ulm", "Wien"], n)
    frame = {
        "town": town,
        "age": rng.integers(18, 80, n),
        "height": rng.normal(170, 10, n) + 10 * (town == "Ulm"),
        "member": rng.random(n) < 0.5,
    }
    return pandas.DataFrame(frame)


def with_gaps(frame):
    frame = frame.copy()
    frame["town"] = frame["town"].astype(object)
    frame.loc[3, "town"] = None
    frame.loc[5, "height"] = np.nan
    return frame


@pytest.mark.parametrize("kind", [VAEDensity, VAELatents, VAEOutliers])
def test_before_any_update_a_score_is_that_of_independent_normals(kind):
    X = RNG(0).normal(size=(50, 3)) * [1.0, 10.0, 0.1] + [5.0, 0.0, -2.0]
    one = {"n_fits": 1} if kind is VAEDensity else {}  # its further fits begin as a factor analysis
    fitted = kind(max_iter=1, learning_rate=1e-12, validation_fraction=0.0, random_state=0, **one).fit(X)
    expected = norm(X.mean(0), X.std(0)).logpdf(X).sum(1)
    np.testing.assert_allclose(fitted._score(fitted._read(X)), expected, atol=1e-6)


def test_a_normal_law_is_learned_to_its_entropy():
    covariance = np.array([[1.0, 0.9], [0.9, 1.0]])
    law = multivariate_normal([0, 0], covariance)
    X, held = law.rvs(2000, random_state=0), law.rvs(2000, random_state=1)
    density = VAEDensity(latent=1, hidden=(16,), max_iter=600, random_state=0).fit(X)
    truth = law.logpdf(held).mean()
    assert truth - 0.05 < density.score(held) < truth + 0.05
    drawn = density.sample(2000, random_state=3)
    np.testing.assert_allclose(np.cov(drawn.T), covariance, atol=0.12)


@pytest.mark.parametrize("kind", ALL)
def test_fitting_touches_no_global_state_and_depends_on_its_seed_alone(kind):
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    torch.set_default_dtype(torch.float32)  # as users have it
    first = kind(**SHORT, random_state=1).fit(IRIS)
    assert torch.get_default_dtype() == torch.float32
    torch.set_default_dtype(torch.float64)
    second = kind(**SHORT, random_state=np.random.RandomState(1)).fit(IRIS)
    other = kind(**SHORT, random_state=2).fit(IRIS)
    a, b, c = (fitted._score(fitted._read(IRIS)) for fitted in (first, second, other))
    np.testing.assert_array_equal(a, b)
    assert np.abs(a - c).max() > 1e-6
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.filterwarnings("ignore:for .* the effective sample size")  # of 20 particles and two updates
def test_a_row_is_scored_and_filled_in_the_same_way_whatever_stands_beside_it():
    X = IRIS.copy()
    X[RNG(0).random(X.shape) < 0.2] = np.nan
    X[7] = X[3]
    density = VAEDensity(**SHORT, random_state=0).fit(X)
    scores = density.score_samples(X)
    np.testing.assert_allclose(scores[::-1], density.score_samples(X[::-1]), atol=1e-9)
    np.testing.assert_allclose(scores[3:4], density.score_samples(X[3:4]), atol=1e-9)
    assert scores[7] == pytest.approx(scores[3], abs=1e-9)
    for estimate in ("mean", "median", "mode"):
        imputer = VAEImputer(**SHORT, estimate=estimate, samples=20, random_state=0).fit(X)
        filled = imputer.transform(X)
        np.testing.assert_allclose(filled[[7, 3]], imputer.transform(X[[7, 3]]), atol=1e-9)
        np.testing.assert_allclose(filled[7], filled[3], atol=1e-9)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda fitted: pickle.loads(pickle.dumps(fitted))])
def test_a_copy_scores_a_frame_to_the_bit(kind, copied):
    frame = with_gaps(people())
    fitted = kind(**SHORT, random_state=0).fit(frame)
    again = copied(fitted)
    assert b"torch" not in pickle.dumps(fitted)
    np.testing.assert_array_equal(again._score(again._read(frame)), fitted._score(fitted._read(frame)))


def test_several_fits_are_one_mixture_that_has_learned_from_all_rows(monkeypatch):
    from allegory.estimators import estimator

    held, train = [], estimator.train
    monkeypatch.setattr(
        estimator,
        "train",
        lambda *given, valid, **settings: held.append(valid) or train(*given, valid=valid, **settings),
    )
    one, several = (VAEDensity(max_iter=60, n_fits=n, random_state=0).fit(IRIS) for n in (1, 3))
    assert len({tuple(row) for part in held[1:] for row in part.tolist()}) > 2 * len(held[0])
    x = several._read(IRIS)
    each = [log_likelihood(model, x, 100, seed=several._seed).numpy() for model in several.models_]
    np.testing.assert_array_equal(each[0], one.score_samples(IRIS))
    np.testing.assert_allclose(np.exp(several.score_samples(IRIS)), np.mean(np.exp(each), 0))
    assert several.n_iter_ == 3 * one.n_iter_
    drawn = several.sample(3000)
    np.testing.assert_allclose(drawn.mean(0), IRIS.mean(0), atol=0.3)
    assert several.sample(1).shape == (1, 4)


def test_a_value_that_only_a_row_held_out_has_gives_the_column_its_unit():
    X = np.column_stack([RNG(0).normal(size=60), np.zeros(60)])
    X[:5, 1] = 1.0
    scores = [VAEDensity(**SHORT, n_fits=1, random_state=seed).fit(X).score_samples(X) for seed in range(5)]
    assert np.min(scores) > -30


def test_latents_go_into_frames_and_come_back():
    latents = VAELatents(latent=2, **SHORT, random_state=0)
    names = ["vaelatents0", "vaelatents1"]
    plain = latents.fit_transform(IRIS)
    for library, frame in (("pandas", pandas.DataFrame), ("polars", polars.DataFrame)):
        found = (
            clone(latents).set_output(transform=library).fit_transform(frame(dict(zip("abcd", IRIS.T, strict=True))))
        )
        assert isinstance(found, frame)
        assert list(found.columns) == names
    assert latents.get_feature_names_out().tolist() == names
    back = latents.inverse_transform(plain)
    assert back.shape == IRIS.shape
    frame = with_gaps(people())
    found = latents.fit(frame)
    assert found.inverse_transform(found.transform(frame)).dtypes["age"] == frame.dtypes["age"]
    with pytest.raises(ValueError, match="Z has 3 columns, wanted latents of width 2"):
        found.inverse_transform(np.zeros((4, 3)))
    chain = VAELatents(latent=(3, 2), **SHORT, random_state=0).fit(IRIS)
    assert chain.transform(IRIS).shape == (150, 3)


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_a_frame_is_filled_in_its_own_types(library):
    frame = with_gaps(people())
    frame = polars.from_pandas(frame) if library == "polars" else frame
    imputer = VAEImputer(**SHORT, samples=20, random_state=0)
    for found in (imputer.fit_transform(frame), clone(imputer).set_output(transform=library).fit_transform(frame)):
        assert type(found) is type(frame)
        assert list(found.columns) == list(frame.columns)
        rows = found.to_dicts() if library == "polars" else found.to_dict("records")
        before = frame.to_dicts() if library == "polars" else frame.to_dict("records")
        assert rows[3]["town"] in ("Rom", "Ulm", "Wien")
        assert 100 < rows[5]["height"] < 250
        for i, (new, old) in enumerate(zip(rows, before, strict=True)):
            assert {k: v for k, v in new.items() if (i, k) not in ((3, "town"), (5, "height"))} == {
                k: v for k, v in old.items() if (i, k) not in ((3, "town"), (5, "height"))
            }
    assert imputer.get_feature_names_out().tolist() == list(frame.columns)
    other = "polars" if library == "pandas" else "pandas"
    assert type(clone(imputer).set_output(transform=other).fit_transform(frame)).__module__.startswith(other)


def test_gaps_are_filled_better_than_by_means_and_draws_are_as_wide_as_the_truth():
    law = multivariate_normal([0, 100], [[1.0, 4.5], [4.5, 25.0]])
    X = law.rvs(1500, random_state=0)
    gappy = X.copy()
    gaps = RNG(1).random(len(X)) < 0.3
    gappy[gaps, 1] = np.nan
    imputer = VAEImputer(latent=1, hidden=(16,), max_iter=500, random_state=0).fit(gappy)
    filled = imputer.transform(gappy)
    np.testing.assert_array_equal(filled[~gaps], X[~gaps])
    expected = 100 + 4.5 * X[gaps, 0]
    assert np.sqrt(((filled[gaps, 1] - expected) ** 2).mean()) < 1.0
    draws = imputer.draw(gappy, n_draws=20)
    residuals = np.stack(draws)[:, gaps, 1] - expected
    assert 0.85 < residuals.std() / np.sqrt(25 - 4.5**2) < 1.15
    assert len({draw[gaps, 1].tobytes() for draw in draws}) == 20
    np.testing.assert_array_equal(imputer.draw(gappy, 1)[0], imputer.draw(gappy, 1)[0])
    imputer.set_params(samples=1)  # twenty draws are of more particles than one
    within = np.stack(imputer.draw(gappy, n_draws=20))[:, gaps, 1].var(0, ddof=1).mean()
    assert 0.85 < within / (25 - 4.5**2) < 1.15


def test_each_estimate_is_that_of_its_loss():
    frame = with_gaps(people())
    frame["size"] = pandas.Categorical(RNG(2).choice(["S", "M", "L"], 60), categories=["S", "M", "L"], ordered=True)
    frame.loc[9, "size"] = None
    wanted = {"mean": ("mode", "mean", "median"), "median": ("mode", "median", "median"), "mode": ("mode",) * 3}
    for estimate, (town, height, size) in wanted.items():
        imputer = VAEImputer(**SHORT, estimate=estimate, samples=30, random_state=0).fit(frame)
        x = imputer._read(frame)
        each = [town, estimate, height, "mode", size]
        expected = imputer.schema_.decode(fill(imputer.model_, x, each, 30, imputer._seed), frame)
        pandas.testing.assert_frame_equal(imputer.transform(frame), expected)


def test_a_pipeline_and_a_search_over_settings():
    search = GridSearchCV(VAEDensity(hidden=(16,), max_iter=40, random_state=0), {"latent": [1, 3]}, cv=2)
    search.fit(IRIS)
    scores = search.cv_results_["mean_test_score"]
    assert np.isfinite(scores).all()
    assert search.best_score_ == max(scores)
    assert search.score(IRIS) == pytest.approx(search.best_estimator_.score_samples(IRIS).mean())
    pipeline = make_pipeline(StandardScaler(), VAEOutliers(**SHORT, random_state=0)).fit(IRIS)
    assert set(pipeline.predict([IRIS[0], [99.0] * 4])) == {1, -1}
    filled = make_pipeline(VAEImputer(**SHORT), VAELatents(latent=2, **SHORT)).fit_transform(IRIS)
    assert filled.shape == (150, 2)


def test_what_a_constant_column_has_never_shown_costs_the_logarithm_of_the_rows():
    X = np.column_stack([RNG(0).normal(size=99), np.full(99, 3.0)])
    outliers = VAEOutliers(max_iter=1, learning_rate=1e-12, validation_fraction=0.0, random_state=0).fit(X)
    same, other = outliers.score_samples([[0.1, 3.0], [0.1, 4.0]])
    assert same - other == pytest.approx(np.log(99.5 / 0.5), abs=1e-6)


def test_a_number_that_no_row_had_is_less_likely_and_never_impossible():
    X = RNG(0).integers(0, 5, size=(200, 2)).astype(float)
    outliers = VAEOutliers(max_iter=100, random_state=0).fit(X)
    seen, beyond, below = outliers.score_samples([[2.0, 2.0], [2.0, 40.0], [2.0, -40.0]])
    assert np.isfinite([beyond, below]).all()
    assert max(beyond, below) < seen - 5
    half = np.vstack([X, [[2.5, np.nan]]])
    between = outliers.score_samples([[2.5, 2.0], [2.0, 2.0]])
    assert between[0] == between[1]  # in the interval of 2, by which it is taken
    filled = VAEImputer(**SHORT, random_state=0).fit(X).transform(half)
    assert filled[-1, 0] == 2.5


def test_values_that_come_again_and_again_have_a_mass_and_others_a_density():
    rng = RNG(0)
    spike = np.where(rng.random(300) < 0.7, 0.0, rng.normal(size=300))
    two = rng.choice([-np.pi, np.e], 300)
    schema = VAEDensity(**SHORT).fit(np.column_stack([spike, two, rng.normal(size=300)])).schema_
    assert [column.resolution is None for column in schema.columns] == [False, False, True]
    assert schema.columns[1].resolution == pytest.approx(np.pi + np.e)
    fitted = VAEDensity(max_iter=150, random_state=0).fit(np.column_stack([spike, two]))
    assert fitted.score_samples(np.column_stack([spike, two])).max() <= 0


def test_the_share_of_outliers_is_as_asked_for_and_none_where_all_are_normal():
    for share in (0.02, 0.1, 0.5):
        labels = VAEOutliers(**SHORT, contamination=share, random_state=0).fit_predict(IRIS[:, :3] + 0.0)
        assert (labels == -1).mean() == pytest.approx(share, abs=0.02)
    assert (VAEOutliers(**SHORT, contamination=None, random_state=0).fit_predict(IRIS) == 1).all()


def test_the_names_of_pyod_say_the_same():
    outliers = VAEOutliers(**SHORT, random_state=0).fit(IRIS)
    detector = VAEDetector(**SHORT, random_state=0).fit(IRIS)
    np.testing.assert_array_equal(detector.decision_scores_, -outliers.score_samples(IRIS))
    np.testing.assert_array_equal(detector.labels_ == 1, outliers.predict(IRIS) == -1)
    np.testing.assert_array_equal(detector.predict(IRIS), detector.fit_predict(IRIS))
    shares = detector.predict_proba(IRIS)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert shares[detector.decision_scores_.argmax()].tolist() == [0.0, 1.0]


def test_a_frame_may_be_fitted_and_a_matrix_scored_and_the_other_way_round():
    named = pandas.DataFrame(IRIS, columns=list("abcd"))
    fitted = VAEDensity(**SHORT, random_state=0).fit(named)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        scores = fitted.score_samples(IRIS)
    np.testing.assert_array_equal(scores, fitted.score_samples(named))
    fitted = VAEDensity(**SHORT, random_state=0).fit(IRIS)
    with pytest.warns(UserWarning, match="fitted without feature names"):
        np.testing.assert_array_equal(fitted.score_samples(named), fitted.score_samples(IRIS))


def test_kinds_of_columns_can_be_said():
    frame = people()
    fitted = VAEDensity(**SHORT, columns={"age": "ordinal"}).fit(frame)
    assert fitted.schema_.columns[1].kind == "ordinal"
    again = VAEDensity(**SHORT, columns=fitted.schema_).fit(frame)
    assert again.schema_ == fitted.schema_
    matrix = VAEDensity(**SHORT, columns={0: "categorical"}).fit(RNG(0).integers(0, 3, (60, 2)))
    assert [column.kind for column in matrix.schema_.columns] == ["categorical", "real"]


@pytest.mark.parametrize(
    ("kind", "settings", "X", "message"),
    [
        (VAEDensity, {}, [[1.0, 2.0]], "1 sample"),
        (VAEDensity, {}, pandas.DataFrame({"a": [1.0]}), "n_samples=1"),
        (VAEDensity, {}, [[1.0, np.inf], [2.0, 3.0]], "infinity"),
        (VAEDensity, {}, [["a", "b"], ["c", "d"]], "not compatible with arrays of bytes"),
        (VAEDensity, {"max_iter": 0}, IRIS, "max_iter=0: wanted a whole number of updates"),
        (VAEDensity, {"validation_fraction": 1.0}, IRIS, "validation_fraction=1.0: wanted at least 0"),
        (VAEOutliers, {"n_fits": 0}, IRIS, "n_fits=0: wanted a whole number of models"),
        (VAEDensity, {"latent": 0}, IRIS, "latent=\\[0\\]: wanted positive whole numbers"),
        (VAEOutliers, {"contamination": 0.6}, IRIS, "contamination=0.6: wanted a share"),
        (VAEImputer, {"estimate": "zero"}, IRIS, "estimate='zero': wanted 'mean'"),
        (VAEImputer, {}, np.array([[np.nan, 1.0], [np.nan, 2.0], [np.nan, 4.0]]), "column 0 has no value"),
        (VAEDensity, {}, np.full((9, 2), np.nan), "every column of the table"),
        (VAEDensity, {}, pandas.DataFrame({"id": range(100)}), "only tell the rows apart: .* columns takes a Schema"),
    ],
)
def test_what_cannot_be_fitted_is_said(kind, settings, X, message):
    with pytest.raises(ValueError, match=message):
        kind(**{**SHORT, **settings}).fit(X)


def test_sparse_input_is_refused():
    with pytest.raises(TypeError, match="dense data is required"):
        VAEDensity(**SHORT).fit(sparse.csr_array(IRIS))


@pytest.mark.parametrize("gaps", [False, True])
def test_gaps_are_trained_on_the_importance_weighted_bound(gaps, monkeypatch):
    from allegory.estimators import estimator

    seen = {}

    def noted(*arguments, objective, samples, **settings):
        seen.update(objective=objective.__name__, samples=samples)
        return al_fit(*arguments, objective=objective, samples=samples, **settings)

    al_fit = estimator.train
    monkeypatch.setattr(estimator, "train", noted)
    x = IRIS.copy()
    if gaps:
        x[::7, 2] = np.nan
    VAEDensity(**SHORT, random_state=0).fit(x)
    assert seen == ({"objective": "iwae", "samples": 5} if gaps else {"objective": "elbo", "samples": 1})


def test_a_gap_may_say_something():
    """The large values of a column are missing: filled in above the limit, in a matrix and in a frame."""
    rng = RNG(0)
    z = rng.normal(size=(300, 1))
    X = z + 0.3 * rng.normal(size=(300, 2))
    gone = X[:, 0] > 0.5
    X[gone, 0] = np.nan
    settings = {"latent": 1, "hidden": (16,), "max_iter": 60, "random_state": 0, "samples": 200}
    imputer = VAEImputer(missing_above={0: 0.5}, **settings).fit(X)
    assert (imputer.transform(X)[gone, 0] > 0.5).all()
    frame = pandas.DataFrame(X, columns=["a", "b"])
    density = VAEDensity(missing_above={"a": None}, **settings).fit(frame)
    again = pickle.loads(pickle.dumps(density))
    assert (again.score_samples(frame) == density.score_samples(frame)).all()
    drawn = VAEDensity(indicators=True, **settings).fit(frame).sample(200)
    assert 0.1 < drawn["a"].isna().mean() < 0.7
    assert not drawn["b"].isna().any()
    with pytest.raises(ValueError, match="columns is a whole Schema, which says what gaps mean"):
        VAEDensity(columns=imputer.schema_, indicators=True).fit(X)
    with pytest.raises(ValueError, match="column 1 has no gaps"):
        VAEOutliers(missing_above={1: 3.0}).fit(X)


def test_the_fits_of_a_density_begin_in_two_ways():
    kinds = {VAEDensity: [False, True], VAEOutliers: [False, False]}
    for kind, wanted in kinds.items():
        models = kind(n_fits=2, random_state=0, **SHORT).fit(IRIS).models_
        assert [model.config.get("factors", False) for model in models] == wanted


def test_a_frame_without_names_is_the_matrix_it_was_made_from():
    X = RNG(0).integers(0, 5, (30, 3))
    frame = pandas.DataFrame(X)
    scores = [VAEDensity(random_state=0, **SHORT).fit(x).score_samples(x) for x in (X, frame)]
    assert (scores[0] == scores[1]).all()
    named = VAEDensity(random_state=0, **SHORT).fit(frame.rename(columns="x{}".format))
    assert list(named.feature_names_in_) == ["x0", "x1", "x2"]
    assert named.schema_.container == "pandas"


def test_a_fit_keeps_rows_to_learn_from_and_draws_one_row_or_more():
    X = np.random.default_rng(0).normal(size=(30, 2))
    density = VAEDensity(1, (4,), n_fits=1, max_iter=2, validation_fraction=0.99, random_state=0).fit(X)
    assert np.isfinite(density.score(X))
    with pytest.raises(ValueError, match="n_samples=0: wanted at least 1, a whole number"):
        density.sample(0)
