"""Random forest: 100 trees on unscaled features, depth and leaf size chosen on val."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Integer, Num
from sklearn.ensemble import RandomForestClassifier

from data.command import progress
from probes.card import ProbeCard

CARD = ProbeCard(parallel_fit=True, class_weights=("single-label",), limits={"min_samples_leaf": (1,)})

TREES = 100
# With more training rows, each tree is grown on so many of them, drawn with replacement: of 237,871 x 768 a minute
# then grows 80 trees and not 16, for a higher mAP (`probe_rf` in tests/bench/results). A multi-label forest stores K
# counts per node, so leaves are larger, too: full trees of 270,000 rows and 19 classes would take 10 GB.
LARGE = 20_000
TREES_PER_STEP = 4  # and thread


def candidates(rows: int) -> list[dict[str, Any]]:
    """Hyper-parameters to try, the smallest trees first; above `LARGE` training rows, other ones."""
    leaves, part = ((10, 1), {}) if rows <= LARGE else ((50, 10), {"max_samples": LARGE})
    return [
        {"n_estimators": TREES, "max_depth": depth, "min_samples_leaf": leaf} | part
        for depth in (8, None)
        for leaf in leaves
    ]


def build(params: dict[str, Any], *, seed: int, multilabel: bool, n_jobs: int) -> RandomForestClassifier:
    """An unfitted estimator: one forest for all classes or labels."""
    return RandomForestClassifier(**params, max_features="sqrt", random_state=seed, n_jobs=n_jobs)


def fit(
    forest: RandomForestClassifier,
    features: Num[np.ndarray, "samples dim"],
    labels: Integer[np.ndarray, "samples classes"] | Integer[np.ndarray, " samples"],
    *,
    label: str,
    out_of_time: Callable[[], bool],
    **weights: Any,
) -> dict[str, Any]:
    """Fit a forest, a large one a few trees at a time: the same forest, unless the time budget ends before.

    The trees of one step are always grown; ``weights`` are ``sample_weight`` or nothing.

    Returns:
        ``trees``, the number grown, if the time budget ended.
    """
    if forest.max_samples:  # folds may have fewer rows, and scikit-learn before 1.9 refuses to draw more than there are
        forest.set_params(max_samples=min(forest.max_samples, len(features)))
    trees = forest.n_estimators
    step = TREES_PER_STEP * max(1, forest.n_jobs or 1) if len(features) > LARGE else trees
    with progress(label, trees, "trees") as advance:
        for start in range(0, trees, step):
            count = min(start + step, trees)
            forest.set_params(n_estimators=count, warm_start=True).fit(features, labels, **weights)
            advance(count - start)
            if out_of_time():
                break
    grown = len(forest.estimators_)
    forest.set_params(n_estimators=grown, warm_start=False)
    return {"trees": grown} if grown < trees else {}
