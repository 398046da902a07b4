"""What runs in an environment of XGBoost's own for two_samples.py: tells rows from real ones, and learns incomes.

    python xgboost_worker.py REAL.csv ROWS.csv TEST.csv SEED [causes]

Its code asks for pip install xgboost sdmetrics. Prints a line of JSON:

    c2st      1 - max(0, 2 AUC - 1), the mean over three folds, of XGBoost with its defaults that tells ROWS from REAL:
              the class of sdmetrics, which codes categories as zeros and ones
    shape     the mean over columns of 1 less the distance of Kolmogorov and Smirnov, or total variation: sdmetrics
    trend     the mean over pairs of columns of 1 less the distance of correlations, or of tables of counts: sdmetrics
    auc       of XGBoost that learns the last column of eight ninths of ROWS, on TEST; of 36 settings it has the one of
              the best AUC on the other ninth
    cpu       seconds
    causes    where they are asked for, of each column its share of the gain of an XGBoost that tells ROWS from REAL,
              c2st of that column alone, and c2st without it
"""

import json
import sys
import time
import warnings

import numpy as np
import pandas as pd
from sdmetrics.reports.single_table._properties import ColumnPairTrends, ColumnShapes
from sdmetrics.single_table.detection.sklearn import ScikitLearnClassifierDetectionMetric
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import ParameterGrid
from sklearn.preprocessing import OneHotEncoder
from xgboost import XGBClassifier

GRID = {"n_estimators": [10, 50, 100], "min_child_weight": [1, 10], "max_depth": [5, 10, 20], "gamma": [0.0, 1.0]}


class XGBoostDetection(ScikitLearnClassifierDetectionMetric):
    """Of sdmetrics' other detections this differs in the classifier."""

    @staticmethod
    def _get_classifier():
        return XGBClassifier(eval_metric="logloss", enable_categorical=True, random_state=0)


def gains(real, rows):
    """Of each column the share of the gain, over all its zeros and ones."""
    both = pd.concat([real, rows], ignore_index=True)
    both = both.astype({name: "category" for name in both if both[name].dtype.kind not in "if"})
    model = XGBoostDetection._get_classifier().fit(both, np.arange(len(both)) < len(real))
    gain = model.get_booster().get_score(importance_type="total_gain")
    return {name: gain.get(name, 0.0) / sum(gain.values()) for name in real}


def without(name, real, rows, seed):
    """C2ST of a column alone, and of all others."""
    return told_apart(real[[name]], rows[[name]], seed), told_apart(*(t.drop(columns=name) for t in (real, rows)), seed)


def metadata_of(frame):
    kinds = {name: "numerical" if frame[name].dtype.kind in "if" else "categorical" for name in frame}
    return {"columns": {name: {"sdtype": kind} for name, kind in kinds.items()}}


def told_apart(real, rows, seed):
    np.random.seed(seed)  # noqa: NPY002  sdmetrics draws the folds from it
    return XGBoostDetection.compute(real.copy(), rows.copy(), metadata_of(real))


def quality(real, rows):
    """Of all pairs: what `QualityReport` returns leaves pairs out that hardly depend on each other."""
    return [properties().get_score(real, rows, metadata_of(real)) for properties in (ColumnShapes, ColumnPairTrends)]


def learned(rows, test, seed):
    *inputs, label = rows
    numbers = [name for name in inputs if rows[name].dtype.kind in "if"]
    words = [name for name in inputs if name not in numbers]
    encoder = OneHotEncoder(sparse_output=False, handle_unknown="ignore").fit(rows[words])
    x, x_test = (np.concatenate([frame[numbers], encoder.transform(frame[words])], 1) for frame in (rows, test))
    positive = sorted(test[label].unique())[-1]
    y, y_test = rows[label] == positive, test[label] == positive
    order = np.random.RandomState(seed).permutation(len(rows))
    chosen, rest = np.split(order, [len(rows) // 9])
    best = -np.inf
    for setting in ParameterGrid(GRID):
        model = XGBClassifier(**setting, tree_method="hist", random_state=seed).fit(x[rest], y[rest])
        score = roc_auc_score(y[chosen], model.predict_proba(x[chosen])[:, 1])
        if score > best:
            best, auc = score, roc_auc_score(y_test, model.predict_proba(x_test)[:, 1])
    return auc


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    real, rows, test = (pd.read_csv(path, keep_default_na=False) for path in sys.argv[1:4])
    seed = int(sys.argv[4])
    found = {"c2st": told_apart(real, rows, seed)}
    found["shape"], found["trend"] = quality(real, rows)
    if sys.argv[5:] == ["causes"]:
        found["causes"] = {name: (share, *without(name, real, rows, seed)) for name, share in gains(real, rows).items()}
    found["auc"] = learned(rows, test, seed)
    print(json.dumps({**found, "cpu": time.process_time()}))
