"""Calibration: maps the scores of a fitted probe to probabilities, fitted on val.

- ``platt``: per class, a sigmoid of the log odds of the score (Platt 1999; as scikit-learn's
  ``CalibratedClassifierCV`` does with a decision function). A sigmoid of the probabilities themselves, as in version
  0.1, cannot even leave good scores unchanged.
- ``isotonic``: per class, isotonic regression.
- ``temperature``: one temperature for all classes that divides the log odds (multi-label) or the log probabilities
  (single-label, where no decision changes; Guo et al. 2017).

For the first two, single-label rows are normalized to sum to 1, and a class with fewer than `MIN_SAMPLES` positives or
negatives on val is left unchanged.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer, Num
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, logit, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from probes.probabilities import probability_metrics
from probes.scores import score_block
from probes.shapes import Scores, Truth

MIN_SAMPLES = 5
# Scores of forests and neighbors are often exactly 0 or 1, with infinite log odds. All scores are first moved inward
# by this share, which keeps their order. Platt's sigmoid needs more, or the zeros of a forest decide the slope alone:
# of 1e-6 to 1e-2, 1e-3 had the lowest log loss on test of EuroSAT and of mosaics.
SOFTENED, SOFTENED_LESS = 1e-3, 1e-6
LARGEST_TEMPERATURE = 100.0


class Calibrated(ClassifierMixin, BaseEstimator):
    """A fitted probe with calibrated scores.

    Args:
        probe: fitted, with ``predict_proba`` and ``classes_``.
        maps: for each of K classes two arrays: slope and offset of the log odds; for isotonic, scores and probabilities
            to interpolate between; for temperature, its inverse (the same for all) and an offset of 0. Empty arrays
            leave a class unchanged.
        method: ``log-odds`` (of ``platt``), ``isotonic`` or ``temperature``; ``platt`` in models of version 0.1, whose
            slopes and offsets apply to probabilities.
        multilabel: whether the columns are independent labels.
    """

    def __init__(self, probe: Any, maps: Any, method: str, multilabel: bool) -> None:
        self.probe, self.maps, self.method, self.multilabel = probe, maps, method, multilabel

    @property
    def classes_(self) -> Integer[np.ndarray, " classes"]:
        """All class numbers: the columns of the result of `apply`."""
        return np.arange(len(self.maps))

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict_proba(self, features: Num[np.ndarray, "samples dim"]) -> Scores:
        """Probabilities of features as they are stored."""
        return self.apply(score_block(self.probe, features, len(self.maps), self.multilabel))

    def apply(self, scores: Scores) -> Scores:
        """Calibrated scores, float32."""
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


def log_odds(scores: Float[np.ndarray, "*shape"], softened: float = SOFTENED) -> Float64[np.ndarray, "*shape"]:
    """Log odds of scores moved inward by a share: finite and in the order of the scores."""
    inside = softened + (1 - 2 * softened) * scores.astype(np.float64)
    return np.log(inside) - np.log1p(-inside)


def calibrate(probe: Any, truth: Truth, scores: Scores, *, method: str, multilabel: bool) -> Calibrated:
    """Fit the maps of a fitted probe on val; `method` is one of `probes.flags.METHODS`."""
    if method == "temperature":
        inverse = 1 / fit_temperature(truth, scores, multilabel=multilabel)
        maps = [[np.array([inverse]), np.zeros(1)] for _ in range(truth.shape[1])]
        return Calibrated(probe, maps, method, multilabel)
    maps = [_fit_map(truth[:, k], scores[:, k].astype(np.float64), method) for k in range(truth.shape[1])]
    return Calibrated(probe, maps, "log-odds" if method == "platt" else method, multilabel)


def fit_temperature(truth: Truth, scores: Scores, *, multilabel: bool) -> float:
    """The temperature with the lowest log loss, from 0.01 to 100; above 1 for overconfident scores."""
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
    if min(positives, negatives) < MIN_SAMPLES:
        return [np.zeros(0), np.zeros(0)]
    if method == "isotonic":
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, truth)
        return [fitted.X_thresholds_, fitted.y_thresholds_]
    # Platt 1999: the target of a positive is (n+ + 1) / (n+ + 2), not 1, of a negative 1 / (n- + 2); each sample occurs
    # twice, as a positive and as a negative, with these weights.
    likely = np.where(truth, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    given = log_odds(scores)
    middle, spread = given.mean(), given.std()
    if spread < 1e-9:  # all scores are equal: their mean
        return [np.zeros(1), np.array([logit(likely.mean())])]
    twice, labels = np.tile((given - middle) / spread, 2)[:, None], np.repeat([1, 0], len(scores))
    fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    fitted.fit(twice, labels, sample_weight=np.concatenate([likely, 1 - likely]))
    slope = np.asarray(fitted.coef_[0]) / spread
    return [slope, np.asarray(fitted.intercept_) - slope * middle]


def calibrate_run(
    probe: Any,
    truth: dict[str, Bool[np.ndarray, "_ classes"]],
    scores: dict[str, Float[np.ndarray, "_ classes"]],
    names: list[str],
    *,
    method: str | None,
    multilabel: bool,
) -> tuple[Any, dict[str, Float[np.ndarray, "_ classes"]], dict[str, Any] | None]:
    """Calibrate a probe on val, for a run: the probe, its scores, and ``calibration`` of the record.

    The record has ``method``, `probability_metrics` by split ``before`` and ``after`` (the maps were fitted on val, so
    only test is evidence), ``left_as_they_are`` (classes) and ``temperature`` (None for other methods). Truth and
    scores are by split (``val``, ``test``); without a method nothing changes.
    """
    if method is None:
        return probe, scores, None
    calibrated = calibrate(probe, truth["val"], scores["val"], method=method, multilabel=multilabel)
    mapped = {split: calibrated.apply(values) for split, values in scores.items()}
    before, after = (
        {split: probability_metrics(truth[split], values[split], multilabel=multilabel) for split in values}
        for values in (scores, mapped)
    )
    recorded = {
        "method": method,
        "before": before,
        "after": after,
        "left_as_they_are": [name for name, (one, _) in zip(names, calibrated.maps, strict=True) if not len(one)],
        "temperature": float(1 / calibrated.maps[0][0][0]) if method == "temperature" else None,
    }
    return calibrated, mapped, recorded
