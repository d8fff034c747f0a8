"""Calibration: scores of a fitted probe mapped, class by class, so that they fit how often val shows the class.

Platt's sigmoid or isotonic regression, to the result of scikit-learn's ``CalibratedClassifierCV`` on a frozen
estimator (one class against the rest; single-label rows are made to sum to 1). That class refuses a label with fewer
samples than folds; here a class with fewer than `LEAST` positives or negatives on val is left as it is.
"""

from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from probes.scores import score_block

LEAST = 5


class Calibrated(ClassifierMixin, BaseEstimator):
    """A fitted probe whose scores are mapped.

    Args:
        probe: fitted, with ``predict_proba`` and ``classes_``.
        maps: for each of K classes two arrays: for Platt a slope and an offset, p = 1 / (1 + exp(-slope s - offset));
            for isotonic scores and probabilities between which lines run; two empty ones leave a class as it is.
        method: ``platt`` or ``isotonic``.
        multilabel: whether the columns are independent labels.
    """

    def __init__(self, probe: Any, maps: Any, method: str, multilabel: bool) -> None:
        self.probe, self.maps, self.method, self.multilabel = probe, maps, method, multilabel

    @property
    def classes_(self) -> np.ndarray:
        """All class numbers: the columns of what `apply` returns."""
        return np.arange(len(self.maps))

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """Probabilities of features (N, D) as they are on disk: (N, K)."""
        return self.apply(score_block(self.probe, features, len(self.maps), self.multilabel))

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Scores (N, K) of the probe, mapped: (N, K) float32."""
        mapped = scores.astype(np.float64)
        for k, (one, other) in enumerate(self.maps):
            if len(one):
                s = mapped[:, k]
                mapped[:, k] = expit(one[0] * s + other[0]) if self.method == "platt" else np.interp(s, one, other)
        if not self.multilabel:
            total = mapped.sum(axis=1, keepdims=True)
            mapped = np.divide(mapped, total, out=np.full_like(mapped, 1 / len(self.maps)), where=total > 0)
        return mapped.astype(np.float32)


def calibrate(probe: Any, truth: np.ndarray, scores: np.ndarray, *, method: str, multilabel: bool) -> Calibrated:
    """Fit the maps on val.

    Args:
        probe: fitted.
        truth: (N, K) booleans.
        scores: (N, K) of the probe.
        method: ``platt`` or ``isotonic``.
        multilabel: whether the columns are independent labels.
    """
    maps = [_fit_map(truth[:, k], scores[:, k].astype(np.float64), method) for k in range(truth.shape[1])]
    return Calibrated(probe, maps, method, multilabel)


def _fit_map(truth: np.ndarray, scores: np.ndarray, method: str) -> list[np.ndarray]:
    """The map of one class, from truth (N,) and scores (N,) float64."""
    positives, negatives = int(truth.sum()), int((~truth).sum())
    if min(positives, negatives) < LEAST:
        return [np.zeros(0), np.zeros(0)]
    if method == "isotonic":
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, truth)
        return [fitted.X_thresholds_, fitted.y_thresholds_]
    # Platt 1999: a positive counts as (n+ + 1) / (n+ + 2), not as 1, a negative as 1 / (n- + 2); each sample is there
    # twice, as a positive and as a negative, weighted accordingly.
    likely = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    twice, labels = np.tile(scores, 2)[:, None], np.repeat([1, 0], len(scores))
    fitted = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8)
    fitted.fit(twice, labels, sample_weight=np.concatenate([likely, 1 - likely]))
    return [np.asarray(fitted.coef_[0]), np.asarray(fitted.intercept_)]


def calibrate_run(
    probe: Any,
    truth: dict[str, np.ndarray],
    scores: dict[str, np.ndarray],
    names: list[str],
    *,
    method: str | None,
    multilabel: bool,
) -> tuple[Any, dict[str, np.ndarray], dict[str, Any] | None]:
    """Calibrate a probe on val, for a run: the probe, its scores, and the record's ``calibration``.

    Args:
        probe: fitted.
        truth: by split, (N, K) booleans.
        scores: by split (``val``, ``test``), (N, K) of the probe.
        names: K class names.
        method: ``platt`` or ``isotonic``; None leaves probe and scores as they are and records None.
        multilabel: whether the columns are independent labels.
    """
    if method is None:
        return probe, scores, None
    told: dict[str, Any] = {
        "method": method,
        "brier_before": {split: brier(truth[split], scores[split]) for split in scores},
    }
    calibrated = calibrate(probe, truth["val"], scores["val"], method=method, multilabel=multilabel)
    scores = {split: calibrated.apply(values) for split, values in scores.items()}
    told["brier"] = {split: brier(truth[split], scores[split]) for split in scores}
    told["left_as_they_are"] = [name for name, (one, _) in zip(names, calibrated.maps, strict=True) if not len(one)]
    return calibrated, scores, told


def brier(truth: np.ndarray, scores: np.ndarray) -> float:
    """Mean squared difference of score and truth over every class of every sample; 0 is best."""
    return float(((scores - truth) ** 2).mean())
