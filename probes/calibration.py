"""Calibration: scores of a fitted probe mapped to probabilities, on val.

- ``platt``: a sigmoid of the score's log odds for each class (Platt 1999; as scikit-learn's ``CalibratedClassifierCV``
  does with a decision function). Of the probabilities themselves, as version 0.1 did, a sigmoid cannot even leave good
  scores as they are.
- ``isotonic``: isotonic regression for each class.
- ``temperature``: one temperature for all classes that divides the log odds (multi-label) or the log probabilities
  (single-label), by which no decision of a single-label probe changes (Guo et al. 2017).

For the first two, single-label rows are made to sum to 1, and a class with fewer than `LEAST` positives or negatives
on val is left as it is.
"""

from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from probes.probabilities import probability_metrics
from probes.scores import score_block

LEAST = 5
# Scores of forests and neighbours are often exactly 0 or 1, whose log odds are infinite. All scores are drawn in by
# this share first, which keeps their order. Platt's sigmoid needs more of it, or a forest's zeros decide the slope
# alone: of 1e-6 to 1e-2, 1e-3 had the least log loss on test of EuroSAT and of mosaics.
SOFTENED, SOFTENED_LESS = 1e-3, 1e-6
LARGEST_TEMPERATURE = 100.0


class Calibrated(ClassifierMixin, BaseEstimator):
    """A fitted probe whose scores are mapped.

    Args:
        probe: fitted, with ``predict_proba`` and ``classes_``.
        maps: for each of K classes two arrays: a slope and an offset of the log odds; for isotonic, scores and
            probabilities between which lines run; for temperature, one over the temperature (the same for all) and an
            offset of 0. Two empty ones leave a class as it is.
        method: ``log-odds`` (what ``platt`` makes), ``isotonic`` or ``temperature``; ``platt`` in models of version
            0.1, whose slopes and offsets are of the probabilities.
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
        if self.method == "temperature" and not self.multilabel:
            return softmax(_log(mapped) * self.maps[0][0], axis=1).astype(np.float32)
        for k, (one, other) in enumerate(self.maps):
            if not len(one):
                continue
            if self.method == "isotonic":
                mapped[:, k] = np.interp(mapped[:, k], one, other)
            else:
                softened = SOFTENED_LESS if self.method == "temperature" else SOFTENED
                given = mapped[:, k] if self.method == "platt" else log_odds(mapped[:, k], softened)
                mapped[:, k] = expit(one[0] * given + other[0])
        if not self.multilabel:
            total = mapped.sum(axis=1, keepdims=True)
            mapped = np.divide(mapped, total, out=np.full_like(mapped, 1 / len(self.maps)), where=total > 0)
        return mapped.astype(np.float32)


def log_odds(scores: np.ndarray, softened: float = SOFTENED) -> np.ndarray:
    """Log odds of scores of any shape, drawn in by a share: finite and in the order of the scores."""
    inside = softened + (1 - 2 * softened) * scores.astype(np.float64)
    return np.log(inside) - np.log1p(-inside)


def calibrate(probe: Any, truth: np.ndarray, scores: np.ndarray, *, method: str, multilabel: bool) -> Calibrated:
    """Fit the maps on val.

    Args:
        probe: fitted.
        truth: (N, K) booleans.
        scores: (N, K) of the probe.
        method: one of `probes.flags.METHODS`.
        multilabel: whether the columns are independent labels.
    """
    if method == "temperature":
        inverse = 1 / fit_temperature(truth, scores, multilabel=multilabel)
        maps = [[np.array([inverse]), np.zeros(1)] for _ in range(truth.shape[1])]
        return Calibrated(probe, maps, method, multilabel)
    maps = [_fit_map(truth[:, k], scores[:, k].astype(np.float64), method) for k in range(truth.shape[1])]
    return Calibrated(probe, maps, "log-odds" if method == "platt" else method, multilabel)


def fit_temperature(truth: np.ndarray, scores: np.ndarray, *, multilabel: bool) -> float:
    """The temperature with the least log loss, from 0.01 to 100; above 1 where scores are too sure.

    Args:
        truth: (N, K) booleans.
        scores: (N, K) probabilities.
        multilabel: whether the columns are independent labels.
    """
    given = log_odds(scores, SOFTENED_LESS) if multilabel else _log(scores)

    def loss(log_temperature: float) -> float:
        scaled = given * np.exp(-log_temperature)
        if multilabel:
            return float(np.logaddexp(0, np.where(truth, -scaled, scaled)).mean())
        return float(-log_softmax(scaled, axis=1)[truth].mean())

    bound = np.log(LARGEST_TEMPERATURE)
    found: Any = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def _log(scores: np.ndarray) -> np.ndarray:
    """Log of scores (N, K), finite and in the order of the scores."""
    return np.log(SOFTENED_LESS + (1 - SOFTENED_LESS) * scores.astype(np.float64))


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
    given = log_odds(scores)
    middle, spread = given.mean(), given.std()
    if spread < 1e-9:  # nothing to tell apart: the mean
        return [np.zeros(1), np.array([logit(likely.mean())])]
    twice, labels = np.tile((given - middle) / spread, 2)[:, None], np.repeat([1, 0], len(scores))
    fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    fitted.fit(twice, labels, sample_weight=np.concatenate([likely, 1 - likely]))
    slope = np.asarray(fitted.coef_[0]) / spread
    return [slope, np.asarray(fitted.intercept_) - slope * middle]


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

    The record has ``method``, `probability_metrics` by split ``before`` and ``after`` (val is what the maps were fitted
    on: only test is evidence), ``left_as_they_are`` (classes) and ``temperature`` (None for other methods).

    Args:
        probe: fitted.
        truth: by split, (N, K) booleans.
        scores: by split (``val``, ``test``), (N, K) of the probe.
        names: K class names.
        method: one of `probes.flags.METHODS`; None leaves probe and scores as they are and records None.
        multilabel: whether the columns are independent labels.
    """
    if method is None:
        return probe, scores, None
    calibrated = calibrate(probe, truth["val"], scores["val"], method=method, multilabel=multilabel)
    mapped = {split: calibrated.apply(values) for split, values in scores.items()}
    before, after = (
        {split: probability_metrics(truth[split], values[split], multilabel=multilabel) for split in values}
        for values in (scores, mapped)
    )
    told = {
        "method": method,
        "before": before,
        "after": after,
        "left_as_they_are": [name for name, (one, _) in zip(names, calibrated.maps, strict=True) if not len(one)],
        "temperature": float(1 / calibrated.maps[0][0][0]) if method == "temperature" else None,
    }
    return calibrated, mapped, told
