"""Filling mixed tables, on the masks of HI-VAE: adult, wine and breast, 20 % of the cells hidden completely at random.

    OMP_NUM_THREADS=1 python benchmarks/hivae.py DATA [SET ...] [--masks 0 1 ...] [--json FILE]
    OMP_NUM_THREADS=1 python benchmarks/hivae.py DATA [SET ...] --choose

DATA has a folder for each set with the files of Nazabal et al. 2020, data.csv and data_types.csv, and masks.npz, whose
`missing20` holds their ten masks, packed bits of the given `shape`. Learned from what is visible, all rows; scored on
what is hidden, and is not missing in the set itself:

    number      root of the mean square / (largest - smallest of the column)         positive, count, real
    category    share of wrong ones
    ordinal     mean |difference of places| / number of categories
    all         mean over all columns of their errors
    nats        log P(x_hidden | x_visible) of a row, summed over rows / number of hidden cells; numbers are masses in
                their own units, so that these are probabilities

    marginal    each column alone: mean, most frequent category, median
    ice         chained equations: Bayesian ridge and logistic regression, ROUNDS rounds (van Buuren & Oudshoorn 1999)
    forest      the same with random forests (missForest, Stekhoven & Bühlmann 2012)
    allegory    `VAEImputer`; the mean of numbers, the likeliest category, the median of ordered ones

In the chained equations a category is its indicators where it predicts, and one class where it is predicted; ordered
ones are numbers, rounded. scikit-learn's IterativeImputer would predict an indicator from those beside it, of the same
gap, and is not used. Of long tables each equation sees MOST random rows, and nats are of as many. With
--choose a tenth of what is visible in the first mask is hidden, too, and each of CANDIDATES is scored on that alone.
Units, resolutions and edges of the columns are of what is visible, categories are those that the set declares.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import pandas
import torch
from sides import machine
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import BayesianRidge, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import allegory as al
from allegory.estimators import VAEImputer

SETS = ("adult", "wine", "breast")
KINDS = {"real": "real", "pos": "positive", "count": "count", "cat": "categorical", "ordinal": "ordinal"}
ROUNDS, MOST, PARTICLES = 4, 5000, 500
FOREST = {"n_estimators": 50, "min_samples_leaf": 5}
OURS = {"latent": 16, "hidden": (128, 128)}
CANDIDATES = {
    "forest": [{**FOREST, "min_samples_leaf": leaf} for leaf in (1, 5)],
    "allegory": [
        {"latent": 8, "hidden": (128, 128), "dropout": 0.1},
        {"latent": 16, "hidden": (64, 64)},
        OURS,
    ],
}


def read(folder):
    """(N, D) codes and numbers, the kinds of the columns, their categories, and (10, N, D) what is hidden."""
    x = np.genfromtxt(folder / "data.csv", delimiter=",")
    types = pandas.read_csv(folder / "data_types.csv")
    stored = np.load(folder / "masks.npz")
    shape = stored["shape"]
    masks = np.unpackbits(stored["missing20"], axis=1, count=shape.prod()).reshape(-1, *shape).astype(bool)
    kinds, classes = types["type"].map(KINDS).tolist(), types["nclass"].fillna(0).astype(int).tolist()
    coded = np.array(classes) > 0
    x[:, coded] -= 1
    assert all(((x[:, j] >= 0) & (x[:, j] < classes[j]) | np.isnan(x[:, j])).all() for j in np.flatnonzero(coded))
    return x, kinds, classes, masks


def marginal(x, kinds, classes, seed):
    """X: (N, D) with each gap filled."""
    filled = x.copy()
    for j, kind in enumerate(kinds):
        seen = x[~np.isnan(x[:, j]), j]
        if kind == "categorical":
            value = np.bincount(seen.astype(int)).argmax()
        else:
            value = np.median(seen) if kind == "ordinal" else seen.mean()
        filled[np.isnan(x[:, j]), j] = value
    return filled


def chained(regressor, classifier):
    """A function like `marginal`: from there, each column in turn is predicted from all others, the fullest first."""

    def fill(x, kinds, classes, seed):
        missing, filled, rng = np.isnan(x), marginal(x, kinds, classes, seed), np.random.default_rng(seed)

        def predictors(j):
            columns = [
                np.eye(classes[d])[filled[:, d].astype(int)] if kind == "categorical" else filled[:, d, None]
                for d, kind in enumerate(kinds)
                if d != j
            ]
            return np.concatenate(columns, 1)

        for _ in range(ROUNDS):
            for j in missing.sum(0).argsort(kind="stable"):
                gaps, rows = missing[:, j], np.flatnonzero(~missing[:, j])
                if not gaps.any():
                    continue
                rows = rng.permutation(rows)[:MOST]
                inputs, model = predictors(j), (classifier if kinds[j] == "categorical" else regressor)(seed)
                filled[gaps, j] = model.fit(inputs[rows], x[rows, j]).predict(inputs[gaps])
                if kinds[j] == "ordinal":
                    filled[gaps, j] = filled[gaps, j].round().clip(0, classes[j] - 1)
        return filled

    return fill


ice = chained(
    lambda seed: make_pipeline(StandardScaler(), BayesianRidge()),
    lambda seed: make_pipeline(StandardScaler(), LogisticRegression(max_iter=200)),
)


def forest(settings):
    settings = {**settings, "max_features": "sqrt"}
    return chained(
        lambda seed: RandomForestRegressor(**settings, random_state=seed),
        lambda seed: RandomForestClassifier(**settings, random_state=seed),
    )


def allegory(settings):
    """A function like `marginal`, that also returns the nats of what is hidden, (2,): independent columns, and ours."""

    def fill(x, kinds, classes, seed, truth):
        frame, hidden = table(x, kinds, classes), np.isnan(x) & ~np.isnan(truth)
        said = {name: kind for name, kind in zip(frame.columns, kinds, strict=True) if kind in KINDS.values()}
        imputer = VAEImputer(**settings, columns=said, random_state=seed).fit(frame)
        filled = codes(imputer.transform(frame))
        rows = imputer.schema_.encode(table(truth, kinds, classes))
        of, known = torch.from_numpy(hidden), torch.from_numpy(~np.isnan(x))
        law = independent(imputer, torch.where(known, rows, torch.nan))
        some = torch.from_numpy(np.random.default_rng(seed).permutation(len(x))[:MOST])
        rows, of, known = rows[some], of[some], known[some]
        ours = al.log_conditional(imputer.model_, rows, of=of, given=known, samples=PARTICLES).values.sum()
        return filled, np.array([law.log_prob_elements(rows)[of].sum().item(), ours.item()]) / of.sum().item()

    return fill


def independent(imputer, visible):
    """p(x) of independent columns, each at its likeliest law: what a model is before it is trained, whatever z."""
    with torch.no_grad():
        return imputer._build(visible, 0, factors=False).generate(1)


def table(x, kinds, classes):
    """A frame of the numbers and codes x: (N, D); all categories are known."""
    columns = {}
    for j, kind in enumerate(kinds):
        if classes[j]:
            levels = pandas.CategoricalDtype(range(classes[j]), ordered=kind == "ordinal")
            columns[f"c{j}"] = pandas.array(x[:, j], dtype="Int64").astype(levels)
        else:
            columns[f"c{j}"] = x[:, j]
    return pandas.DataFrame(columns)


def codes(frame):
    return frame.astype(float).to_numpy()


def errors(truth, filled, hidden, kinds, classes):
    """(D,) of each column."""
    found = []
    for j, kind in enumerate(kinds):
        at, whole = hidden[:, j], truth[~np.isnan(truth[:, j]), j]
        off = filled[at, j] - truth[at, j]
        if kind == "categorical":
            found.append((off != 0).mean())
        elif kind == "ordinal":
            found.append(np.abs(off).mean() / classes[j])
        else:
            found.append(np.sqrt((off**2).mean()) / np.ptp(whole))
    return np.array(found)


def summary(each, kinds):
    """Errors by sort of column, and over all; NaN where there is none."""
    sort = np.array(["category" if k == "categorical" else "ordinal" if k == "ordinal" else "number" for k in kinds])
    sorts = {name: each[sort == name].mean() if (sort == name).any() else np.nan for name in NAMES[:3]}
    return {**sorts, "all": each.mean()}


NAMES = ("number", "category", "ordinal", "all", "nats")
METHODS = {"marginal": marginal, "ice": ice, "forest": forest(FOREST), "allegory": allegory(OURS)}


def scored(method, ours, x, hidden, kinds, classes, seed):
    """The errors of one way to fill, its nats, and the processor's seconds."""
    hidden, began = hidden & ~np.isnan(x), time.process_time()
    visible = np.where(hidden, np.nan, x)
    nats = None
    if ours:
        filled, nats = method(visible, kinds, classes, seed, np.where(hidden | ~np.isnan(visible), x, np.nan))
    else:
        filled = method(visible, kinds, classes, seed)
    assert not np.isnan(filled).any()
    found = summary(errors(x, filled, hidden, kinds, classes), kinds)
    return found, nats, time.process_time() - began


def choose(x, kinds, classes, masks, name):
    """Prints the errors of all candidates where a tenth of what is visible is hidden, too."""
    more = ~masks[0] & (np.random.default_rng(0).random(x.shape) < 0.1)
    seen = np.where(masks[0], np.nan, x)
    for label, settings in CANDIDATES.items():
        for each in settings:
            ours = label == "allegory"
            method = allegory(each) if ours else forest(each)
            found, nats, seconds = scored(method, ours, seen, more, kinds, classes, 0)
            numbers = ", ".join(f"{key} {value:.4f}" for key, value in found.items())
            told = f", nats {nats[1]:.4f} (marginal {nats[0]:.4f})" if ours else ""
            print(f"{name}: {label} {each}: {numbers}{told}, {seconds:.0f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("sets", nargs="*", default=SETS)
    parser.add_argument("--masks", type=int, nargs="*", default=range(10), help="which of the ten")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of regressions that have not converged, and of few effective samples
    print(", ".join(f"{key} {value}" for key, value in machine().items()), flush=True)
    results = {}
    for name in arguments.sets:
        x, kinds, classes, masks = read(arguments.data / name)
        if arguments.choose:
            choose(x, kinds, classes, masks, name)
            continue
        for method in arguments.methods:
            found = []
            for seed in arguments.masks:
                ours = method == "allegory"
                each, nats, seconds = scored(METHODS[method], ours, x, masks[seed], kinds, classes, seed)
                if ours:
                    each["nats"], each["marginal nats"] = nats[1], nats[0]
                found.append({**each, "seconds": seconds})
                print(name, method, seed, {key: round(float(value), 4) for key, value in found[-1].items()}, flush=True)
            results[f"{name} {method}"] = found
            told = {key: f"{np.mean(v):.4f} ± {np.std(v):.4f}" for key in found[0] if (v := [f[key] for f in found])}
            print(name, method, told, flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
