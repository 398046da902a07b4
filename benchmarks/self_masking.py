"""Imputation of values that are missing because they are large: not-MIWAE's protocol, red wine, white wine, concrete.

    OMP_NUM_THREADS=1 python benchmarks/self_masking.py WINE CONCRETE [SET ...] [--censored | --told] [--json FILE]

WINE is a CSV file of 13 columns, of which the last is the colour, 1 for red and 2 for white, and the one before it, the
quality, is not used; CONCRETE has the 8 inputs and the strength of UCI's concrete, separated by white space. In the
first D / 2 columns, rounded down, each value above the mean is hidden. Columns are standardised by the complete data,
as Ipsen, Mattei & Frellsen (2021) do, so that the hidden values have a part in the units, and the limit, the mean, is
0. The error is the root mean square over the hidden cells, in these units; the model is fitted to the rows that it
fills, a tenth of which only chooses the weights. One setting for all sets, in `ours`.

That the limit is the mean of the whole column tells more than a limit does: with n_o values seen and n_h hidden, the
mean of those hidden is limit + sum_o (limit - x) / n_h, exactly. Each filling is also scored at that mean, its values'
distances from the limit multiplied, in each column, by one number (a ratio estimate, as at known totals in surveys,
Deville & Saerndal 1992); of other data that mean is not known, and the lines are apart. --censored leaves out the other
mechanisms; --told scores, in their place, gradient boosting that is told of what is hidden in four fifths of the rows,
and fills the rest: how far a method could come.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer
from sklearn.linear_model import BayesianRidge
from sklearn.model_selection import KFold, cross_val_predict

import allegory as al

STEPS = 500  # of 128 rows


def censored(family):
    return al.families.missing_above(family, 0.0)


MECHANISMS = {
    "censored at the mean": censored,
    "self-masking, learned": al.families.self_masking,
    "no mechanism": lambda family: family,
}


def sets(wine, concrete):
    """(N, D) each set."""
    wine = np.genfromtxt(wine, delimiter=",")
    red, white = (wine[wine[:, 12] == colour, :11] for colour in (1, 2))
    return {"red wine": red, "white wine": white, "concrete": np.genfromtxt(concrete)}


def hide(complete):
    """The standardised rows, with and without what is hidden, and which cells that is."""
    x = (complete - complete.mean(0)) / complete.std(0)
    hidden = x > 0
    hidden[:, x.shape[1] // 2 :] = False
    return x, np.where(hidden, np.nan, x), hidden


def ours(x, mechanism, seed):
    """(N, D) the rows filled, by the mean of what is missing given the rest; and the bound on the held-out tenth."""
    columns, half = x.shape[1], x.shape[1] // 2
    law = al.families.normal
    family = al.families.columns([mechanism(law) if d < half else law for d in range(columns)])
    torch.manual_seed(seed)
    x = torch.from_numpy(x).float()
    order = torch.randperm(len(x))
    valid, train = x[order[: len(x) // 10]], x[order[len(x) // 10 :]]
    model = al.architectures.mlp((columns,), family, latent=[4], hidden=[64, 64], data=train)
    epochs = round(STEPS * 128 / len(train))
    record = al.fit(
        model, train, valid=valid, objective=al.iwae, samples=5, epochs=epochs, lr=1e-2, ema=0.99, seed=seed,
        progress=False,
    )  # fmt: skip
    return al.fill(model, x, samples=200, seed=seed).numpy(), record.best_bound


def at_known_mean(filled, gappy):
    """(N, D) with the distances from the limit, 0, scaled so that each column has its mean, 0, too."""
    hidden = np.isnan(gappy)
    wanted, found = -np.nansum(gappy, 0), np.where(hidden, filled, 0).sum(0)
    return np.where(hidden, filled * wanted / np.where(hidden.any(0), found, 1), filled)


def told_of_others(gappy, x):
    """(N, D) each hidden value as foretold by what is seen of its row, learned from the hidden ones of other rows."""
    filled, hidden = gappy.copy(), np.isnan(gappy)
    for d in np.flatnonzero(hidden.any(0)):
        rows = np.flatnonzero(hidden[:, d])
        boosting = HistGradientBoostingRegressor(max_iter=100, learning_rate=0.05, min_samples_leaf=10)
        folds = KFold(5, shuffle=True, random_state=0)
        filled[rows, d] = cross_val_predict(boosting, np.delete(gappy, d, 1)[rows], x[rows, d], cv=folds)
    return filled


def by_mean(x, observed_mean):
    return np.where(np.isnan(x), observed_mean, x)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wine", type=Path)
    parser.add_argument("concrete", type=Path)
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--censored", action="store_true", help="no other mechanism")
    parser.add_argument("--told", action="store_true", help="what could be learned from the hidden values; no model")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of an imputer that has not converged, and of few effective samples
    torch.set_num_threads(1)
    results = {}
    for name, complete in sets(arguments.wine, arguments.concrete).items():
        if arguments.sets and name.split()[0] not in arguments.sets:
            continue
        x, gappy, hidden = hide(complete)

        def error(filled, x=x, hidden=hidden):
            return float(np.sqrt(np.mean((filled - x)[hidden] ** 2)))

        found = {"mean of what is there": [error(by_mean(gappy, np.nanmean(gappy, 0)))]}
        constant = by_mean(gappy, np.sqrt(2 / np.pi))
        found["0.8 above the limit, for all"] = [error(constant)]
        found["the same at the known mean"] = [error(at_known_mean(constant, gappy))]
        ridge = IterativeImputer(BayesianRidge(), max_iter=30, random_state=0)
        found["IterativeImputer(BayesianRidge)"] = [error(ridge.fit_transform(gappy))]
        if arguments.told:
            found["told of other rows"] = [error(told_of_others(gappy, x))]
        print(f"{name}: {len(x)} rows, {x.shape[1]} columns, {hidden.sum()} hidden cells", flush=True)
        for method, errors in found.items():
            print(f"  {method:32} {errors[0]:.3f}", flush=True)
        for method, mechanism in MECHANISMS.items():
            if arguments.told or (arguments.censored and mechanism is not censored):
                continue
            began, errors, calibrated, bounds = time.process_time(), [], [], []
            for seed in range(arguments.seeds):
                filled, bound = ours(gappy, mechanism, seed)
                errors.append(error(filled))
                calibrated.append(error(at_known_mean(filled, gappy)))
                bounds.append(bound)
            found[method] = errors
            lines = {method: errors}
            if mechanism is censored:
                found[f"{method}, at the known mean"] = lines["  at the known mean"] = calibrated
            minutes = (time.process_time() - began) / 60
            told = f"bound {np.mean(bounds):.2f}  {minutes:.1f} minutes of a core"
            for label, each in lines.items():
                numbers = " ".join(f"{one:.3f}" for one in each)
                print(f"  {label:32} {np.mean(each):.3f}  ({numbers})  {told}", flush=True)
        results[name] = found
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
