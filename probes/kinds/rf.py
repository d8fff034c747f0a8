"""Random forest: 100 trees on the features as they are, depth and leaf size chosen on val."""

from typing import Any

from sklearn.ensemble import RandomForestClassifier

CARD = {
    "title": "random forest",
    "tunes": "max_depth, min_samples_leaf",
    "parallel": "estimator",
    "balanced": ("single-label",),
}

TREES = 100
# A multi-label forest keeps K counts a node: full trees of 270,000 rows and 19 classes would take 10 GB.
LARGE = 20_000


def candidates(rows: int) -> list[dict[str, Any]]:
    """Hyper-parameters to try, the smallest trees first.

    Args:
        rows: training rows; above `LARGE`, leaves are larger.
    """
    leaves = (10, 1) if rows <= LARGE else (50, 10)
    return [
        {"n_estimators": TREES, "max_depth": depth, "min_samples_leaf": leaf} for depth in (8, None) for leaf in leaves
    ]


def build(params: dict[str, Any], *, seed: int, multilabel: bool, n_jobs: int) -> RandomForestClassifier:
    """An unfitted estimator: one forest for all classes or labels."""
    return RandomForestClassifier(**params, max_features="sqrt", random_state=seed, n_jobs=n_jobs)
