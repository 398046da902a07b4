"""Anomaly detection on tables: -L_K of a VAE beside k nearest neighbours, Gaussian mixtures and an isolation forest.

    OMP_NUM_THREADS=1 python benchmarks/anomaly.py DATA [SET ...] [--methods M ...] [--seeds N] [--json FILE]

DATA is a folder of the classical sets of ADBench (Han et al. 2022), NAME.npz with X (N, D) and y (N,), 1 for an
anomaly. Training rows are the first half of the normal ones, in their order; the test has the other half, and all
anomalies; the columns are standardised by the training rows (Livernoche et al. 2024). No row is repeated, as ADBench's
own loader repeats those of sets below 1,000, so that test rows are copies of training rows there. AUROC in per cent,
the mean over seeds, one setting for all sets.
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from allegory.estimators import VAEOutliers


def split(path):
    """Training rows, test rows, and which of these are anomalies."""
    stored = np.load(path)
    normal, anomalies = (stored["X"][stored["y"] == label] for label in (0, 1))
    half = len(normal) // 2
    scaler = StandardScaler().fit(normal[:half])
    test = np.concatenate([normal[half:], anomalies])
    labels = np.arange(len(test)) >= len(normal) - half
    return scaler.transform(normal[:half]), scaler.transform(test), labels


def neighbours(train, test, seed):
    return NearestNeighbors(n_neighbors=5).fit(train).kneighbors(test)[0].mean(1)


def mixture(components, covariance):
    def score(train, test, seed):
        mixture = GaussianMixture(components, covariance_type=covariance, random_state=seed)
        return -mixture.fit(train).score_samples(test)

    return score


def forest(train, test, seed):
    return -IsolationForest(random_state=seed).fit(train).score_samples(test)


def ours(train, test, seed):
    return -VAEOutliers(contamination=None, random_state=seed).fit(train).score_samples(test)


METHODS = {
    "5-NN": neighbours,
    "GMM 5 full": mixture(5, "full"),
    "GMM 10 diag": mixture(10, "diag"),
    "forest": forest,
    "VAE": ours,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("sets", nargs="*")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # of mixtures that have not converged
    paths = sorted(path for path in arguments.data.glob("*.npz") if path.stem in arguments.sets or not arguments.sets)
    names, results = arguments.methods, {}
    print(f"{'':18}{'rows':>6}{'columns':>9}" + "".join(f"{name:>14}" for name in names), flush=True)
    for path in paths:
        train, test, labels = split(path)
        results[path.stem] = found = {name: {"auroc": [], "seconds": []} for name in names}
        for name in names:
            for seed in range(arguments.seeds):
                start = time.process_time()
                found[name]["auroc"].append(100 * roc_auc_score(labels, METHODS[name](train, test, seed)))
                found[name]["seconds"].append(time.process_time() - start)
        sizes = f"{path.stem:18}{len(train):6}{train.shape[1]:9}"
        print(sizes + "".join(f"{np.mean(found[name]['auroc']):14.1f}" for name in names), flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1))
    auroc = {name: np.mean([found[name]["auroc"] for found in results.values()], 0) for name in names}  # (seeds,)
    seconds = {name: np.sum([found[name]["seconds"] for found in results.values()]) for name in names}
    print(f"{'mean':33}" + "".join(f"{auroc[name].mean():14.2f}" for name in names))
    print(
        f"{'lowest and highest of the seeds':33}"
        + "".join(f"{f'{auroc[name].min():.2f} {auroc[name].max():.2f}':>14}" for name in names)
    )
    print(f"{'CPU seconds in all':33}" + "".join(f"{seconds[name]:14.0f}" for name in names))


if __name__ == "__main__":
    main()
