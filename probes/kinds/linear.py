"""Linear probe: logistic regression on z-scored features, C chosen on val over 1e-4 ... 1e2."""

from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

CARD = {"title": "linear probe", "tunes": "C", "parallel": "candidates", "zscored": True}

# Val-best C ranges over four decades; about 12 values suffice (torchgeo-bench).
C_VALUES = tuple(float(f"{c:.3g}") for c in np.logspace(-4, 2, 12))
MAX_ITERATIONS = 1000


def candidates(rows: int) -> list[dict[str, Any]]:
    """Hyper-parameters to try, the simplest (most regularised) first.

    Args:
        rows: training rows; does not matter here.
    """
    return [{"C": c} for c in C_VALUES]


def build(params: dict[str, Any], *, seed: int, multilabel: bool, n_jobs: int) -> Any:
    """An unfitted estimator.

    Multi-label: a network without hidden layer is the joint L2 logistic regression of all labels, one matrix
    product a step instead of K fits; scikit-learn divides both its loss and its penalty by N, so alpha = 1 / C.
    """
    if multilabel:
        return MLPClassifier(
            hidden_layer_sizes=(),
            solver="lbfgs",
            alpha=1 / params["C"],
            max_iter=MAX_ITERATIONS,
            random_state=seed,
        )
    return LogisticRegression(C=params["C"], max_iter=MAX_ITERATIONS)
