"""The linear probe with more features than samples, beside scikit-learn's logistic regression on the same features."""

import resource
import time
from multiprocessing import get_context

import numpy as np
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from probes import logistic

ROWS, CLASSES = 300, 10
C_VALUES = tuple(float(f"{c:.3g}") for c in np.logspace(-4, 2, 12))


def bench_wide() -> dict:
    """Twelve values of C on 300 samples of 5,000 and 20,000 features: seconds, peak memory, distance to the optimum.

    `ours` is the whole path on 5,000 features; `peer` is scikit-learn's lbfgs to tolerance 1e-8, each C from scratch.
    """
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        narrow, wide = (pool.apply(_measure, (dim, dim == 5000)) for dim in (5000, 20000))
    return {
        "unit": "s",
        "ours": narrow["seconds"],
        "peer": narrow["peer_seconds"],
        "ratio": round(narrow["peer_seconds"] / narrow["seconds"], 2),
        "peak_gb": {"5000": narrow["peak_gb"], "20000": wide["peak_gb"]},
        "seconds_20000": wide["seconds"],
        "converged": narrow["converged"] and wide["converged"],
        "largest_difference_of_probabilities": narrow["difference"],
    }


def _measure(dim: int, peer: bool) -> dict:
    rng = np.random.default_rng(0)
    spread = np.arange(1, dim + 1) ** -0.5
    labels = rng.permutation(np.arange(ROWS) % CLASSES)
    signal = (rng.standard_normal((CLASSES, dim)) * spread * 0.3)[labels]
    features = StandardScaler().fit_transform(rng.standard_normal((ROWS, dim)) * spread + signal).astype(np.float32)
    targets = np.eye(CLASSES, dtype=np.float32)[labels]
    with threadpool_limits(1):
        start = time.perf_counter()
        path = list(logistic.solve_path(features, targets, C_VALUES, exclusive=True))
        found = {
            "seconds": round(time.perf_counter() - start, 2),
            "peak_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
            "converged": all(solution.converged.all() for solution in path),
        }
        if peer:
            differences, start = [], time.perf_counter()
            for c, solution in zip(C_VALUES, path, strict=True):
                theirs = LogisticRegression(C=c, tol=1e-8, max_iter=10_000).fit(features.astype(np.float64), labels)
                ours = softmax(features @ solution.coef.T + solution.intercept, axis=1)
                differences.append(np.abs(theirs.predict_proba(features) - ours).max())
            found |= {"peer_seconds": round(time.perf_counter() - start, 2), "difference": float(max(differences))}
    return found
