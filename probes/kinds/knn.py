"""Nearest neighbours: k, Euclidean or cosine distance and z-scoring chosen on val."""

from typing import Any

from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

CARD = {"title": "kNN", "tunes": "k, distance, z-scoring", "parallel": "estimator"}

K_VALUES = (1, 3, 5, 10, 20, 50)


def candidates(rows: int) -> list[dict[str, Any]]:
    """Hyper-parameters to try: plain distances before scaled ones, smooth (large k) before rough.

    Args:
        rows: training rows; k cannot exceed them.
    """
    return [
        {"k": k, "distance": distance, "zscore": zscore}
        for zscore in (False, True)  # z-scoring hurts as often as it helps: report which
        for distance in ("euclidean", "cosine")
        for k in sorted(K_VALUES, reverse=True)
        if k <= rows
    ]


def build(params: dict[str, Any], *, seed: int, multilabel: bool, n_jobs: int) -> Pipeline:
    """An unfitted estimator; cosine distance is the Euclidean one between rows of length 1, which is faster."""
    return make_pipeline(
        StandardScaler() if params["zscore"] else "passthrough",
        Normalizer() if params["distance"] == "cosine" else "passthrough",
        KNeighborsClassifier(params["k"], algorithm="brute", n_jobs=n_jobs),
    )
