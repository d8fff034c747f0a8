"""Quality of scores as probabilities: log loss, Brier score and expected calibration error.

Single-label scores are one distribution over the classes per sample; multi-label scores are one independent
probability per class.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Num

from probes.shapes import Scores, Truth

NAMES = ("log_loss", "brier", "ece")
BINS = 15  # Guo et al. 2017, and torchgeo-bench
LEAST_PROBABILITY = float(np.finfo(np.float32).eps)  # as scikit-learn's log_loss clips float32: a score of 0 counts 16


def probability_metrics(truth: Truth, scores: Scores, *, multilabel: bool) -> dict[str, float]:
    """`log_loss`, `brier` and `ece` by name."""
    return {one.__name__: one(truth, scores, multilabel=multilabel) for one in (log_loss, brier, ece)}


def log_loss(truth: Truth, scores: Scores, *, multilabel: bool) -> float:
    """Mean negative log likelihood in nats, of scores clipped to 1.2e-7 from 0 and 1.

    Mean over samples, or for multi-label over decisions (every class of every sample).
    """
    return float(log_losses(truth, scores, multilabel=multilabel).mean())


def log_losses(truth: Truth, scores: Scores, *, multilabel: bool) -> Float64[np.ndarray, " samples"]:
    """Log loss of each sample."""
    p = np.clip(scores.astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    if not multilabel:
        return -np.log(p[truth])
    return -np.where(truth, np.log(p), np.log1p(-p)).mean(axis=1)


def brier(truth: Truth, scores: Scores, *, multilabel: bool) -> float:
    """Mean squared difference between probability and truth; 0 is best.

    Single-label: summed over the classes of a sample, 0 to 2 (Brier 1950; scikit-learn's with ``scale_by_half=False``).
    Multi-label: mean over the classes, 0 to 1.
    """
    return float(briers(truth, scores, multilabel=multilabel).mean())


def briers(truth: Truth, scores: Scores, *, multilabel: bool) -> Float64[np.ndarray, " samples"]:
    """Brier score of each sample."""
    squares = (scores.astype(np.float64) - truth) ** 2
    return squares.mean(axis=1) if multilabel else squares.sum(axis=1)


def ece(truth: Truth, scores: Scores, *, multilabel: bool, bins: int = BINS) -> float:
    """Expected calibration error: mean |confidence - frequency| over equal-width bins, weighted by samples.

    Single-label: of the top score against the accuracy of the argmax (Guo et al. 2017). Multi-label: of each class's
    probability against its frequency, averaged over the classes (classwise, Kull et al. 2019).
    """
    pairs = zip(truth.T, scores.T, strict=True) if multilabel else [top_label(truth, scores)]
    return float(np.mean([error_of(reliability(hits, confidence, bins=bins)) for hits, confidence in pairs]))


def error_of(table: dict[str, Num[np.ndarray, " bins"]]) -> float:
    """Expected calibration error of one `reliability` table."""
    used = table["count"] > 0
    gaps = np.abs(table["confidence"][used] - table["frequency"][used])
    return float((table["count"][used] * gaps).sum() / table["count"].sum())


def reliability(
    hits: Bool[np.ndarray, " samples"], confidence: Float[np.ndarray, " samples"], *, bins: int = BINS
) -> dict[str, Num[np.ndarray, " bins"]]:
    """A reliability diagram as numbers: whether predictions of some confidence are correct.

    Bins of 0 to 1 have equal widths and are closed on the right.

    Returns:
        By bin ``low``, ``high``, ``count``, and the means ``confidence`` and ``frequency`` (NaN in an empty bin).
    """
    edges = np.linspace(0, 1, bins + 1)
    confidence = confidence.astype(np.float64)
    index = np.searchsorted(edges[1:-1], confidence, side="left")
    count = np.bincount(index, minlength=bins)
    sums: dict[str, Any] = {"confidence": confidence, "frequency": hits.astype(np.float64)}
    means = {
        name: np.divide(np.bincount(index, values, bins), count, out=np.full(bins, np.nan), where=count > 0)
        for name, values in sums.items()
    }
    return {"low": edges[:-1], "high": edges[1:], "count": count, **means}


def top_label(truth: Truth, scores: Scores) -> tuple[Bool[np.ndarray, " samples"], Float[np.ndarray, " samples"]]:
    """Whether the argmax is correct, and its score."""
    chosen = scores.argmax(axis=1)[:, None]
    return np.take_along_axis(truth, chosen, 1)[:, 0], np.take_along_axis(scores, chosen, 1)[:, 0]
