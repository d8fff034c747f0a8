"""Linear probe: logistic regression on z-scored features, C from 1e-6 to 1e4 chosen on val."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Num
from scipy.special import expit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin

from probes import logistic
from probes.card import ProbeCard
from probes.grid import Walk, log_grid
from probes.search import FitTask, Trial, on_device
from probes.shapes import Decisions

CARD = ProbeCard(standardize="train", class_weights=("single-label", "multi-label"), gpu=True)

# The best C on val varies over four decades within these ten (torchgeo-bench); two values per decade.
C_VALUES = log_grid(1e-6, 1e4, 21)
C_BOUNDS = (1e-8, 1e6)  # the path continues up to here while val still rises at the edge


class LinearProbe(ClassifierMixin, BaseEstimator):
    """A fitted linear probe with its scaler.

    Args:
        coef: (L, D) float32, of z-scores; L is K, or 1 where two classes exclude each other.
        intercept: (L,); infinite for a label that occurs in train never or always.
        mean: (D,) of train.
        scale: (D,) of train.
        classes: class numbers that occur in train; all of them for a multi-label probe.
        multilabel: whether the columns are independent labels.
    """

    def __init__(self, coef: Any, intercept: Any, mean: Any, scale: Any, classes: Any, multilabel: bool) -> None:
        self.coef, self.intercept = coef, intercept
        self.mean, self.scale = mean, scale
        self.classes, self.multilabel = classes, multilabel

    @property
    def classes_(self) -> Integer[np.ndarray, " classes"]:
        """Class numbers of the columns."""
        return self.classes

    @property
    def n_features_in_(self) -> int:
        """D."""
        return len(self.mean)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, features: Num[np.ndarray, "samples dim"]) -> Float[np.ndarray, "samples classes"]:
        """Probabilities, one column per class in `classes_`, of features as they are stored."""
        logits = (np.asarray(features, np.float32) - self.mean) / self.scale @ self.coef.T + self.intercept
        if self.multilabel:
            return expit(logits)
        if logits.shape[1] == 1:
            return np.hstack([expit(-logits), expit(logits)])
        return softmax(logits, axis=1)

    def predict(self, features: Num[np.ndarray, "samples dim"]) -> Decisions:
        """Multi-label rows, or class numbers."""
        scores = self.predict_proba(features)
        return (scores >= 0.5).astype(np.uint8) if self.multilabel else self.classes[scores.argmax(axis=1)]


def candidates(rows: int, *, c_values: Sequence[float] | None = None) -> list[dict[str, Any]]:
    """Hyper-parameters to try, the simplest (most regularized) first: ascending C, `C_VALUES` unless given."""
    return [{"C": c} for c in (c_values or C_VALUES)]


def search(task: FitTask) -> Iterator[Trial]:
    """Fit all labels together along the path of C, each from the one before (`probes.logistic`).

    Without standardization, features are still centered: that moves only the intercept, which is not penalized.
    """
    start = time.perf_counter()
    multilabel = task.multilabel and task.classes > 1
    classes, targets = _targets(task.labels)
    share = targets.mean(axis=0)
    learnt = (share > 0) & (share < 1)
    exclusive = not multilabel and targets.shape[1] > 1
    weights = None
    if task.settings.balanced:  # scikit-learn's class_weight="balanced", of each label or among the classes
        if exclusive:
            weights = np.stack([1 / (len(classes) * share)] * 2)
        else:
            weights = np.stack([0.5 / (1 - share[learnt]), 0.5 / share[learnt]])
    scaler = task.standardise(center=True)
    train, targets = on_device(task.settings.device, task.train, np.ascontiguousarray(targets[:, learnt]))
    walk = Walk([params["C"] for params in task.candidates], C_BOUNDS if task.settings.extend else None, task.better)
    path = logistic.solve_path(
        train,
        targets,
        walk,
        exclusive=exclusive,
        weights=weights,
        threads=task.threads,
        out_of_time=lambda: task.out_of_time,
    )
    mean = np.asarray(scaler.mean_, np.float32)
    scale = np.ones_like(mean) if scaler.scale_ is None else np.asarray(scaler.scale_, np.float32)
    for solution in path:
        coef = np.zeros((len(share), train.shape[1]), np.float32)
        intercept = np.where(share == 0, -np.inf, np.inf).astype(np.float32)
        coef[learnt], intercept[learnt] = solution.coef, solution.intercept
        probe = LinearProbe(coef, intercept, mean, scale, classes, multilabel)
        fit_s, converged = time.perf_counter() - start, bool(solution.converged.all())
        trial = task.evaluate({"C": walk.tried[-1]}, probe, fit_s=fit_s, converged=converged)
        walk.tell(trial)
        yield trial
        start = time.perf_counter()


def _targets(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class numbers in train, and targets of 0 and 1 (N, L); of two classes only the second, whose logit decides."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        return np.arange(labels.shape[1]), labels.astype(np.float32)
    classes = np.unique(labels)
    targets = (labels.reshape(-1, 1) == classes).astype(np.float32)
    return classes, targets[:, 1:] if len(classes) == 2 else targets
