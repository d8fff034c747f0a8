"""Scores of any scikit-learn estimator as one array, and the thresholds that turn scores into decisions."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Integer, Num, Shaped
from threadpoolctl import threadpool_limits

from data.command import progress
from probes.inputs import BLOCK_ROWS
from probes.metrics import confusion_counts, f_beta, one_hot
from probes.shapes import Scores, Truth

HALF = 0.5
# Of 0, 3, 10 and 30, 3 has the highest mean on data on which no constant was tuned (`docs/results/thresholds.md`).
# On real pixels 10 is better by 0.002, but worse by up to 0.07 where classes differ in their scores (forests).
SHRINKAGE = 3
_CLIP = 1e-4  # thresholds are clipped to this distance from 0 and 1 to shrink them


def score(
    estimator: Any,
    features: Any,
    *,
    classes: int,
    multilabel: bool,
    n_jobs: int = 1,
    rows: int = BLOCK_ROWS,
    label: str | None = None,
) -> Float32[np.ndarray, "samples {classes}"]:
    """Probability of each class for each sample, whatever the format of the estimator's output.

    Multi-label forests return a list of K arrays, (N, 2), or (N, 1) for a class that was constant in train; networks
    return (N, K); single-label estimators return one column for each class in train. A class without a column scores 0.

    Args:
        estimator: fitted, with ``predict_proba`` and ``classes_``.
        features: (N, D), in memory or on disk.
        classes: K.
        multilabel: see `probes.shapes`.
        n_jobs: blocks of rows scored in parallel.
        rows: of a block; they affect the last digit, `n_jobs` does not.
        label: what is being scored, for a progress line; None shows none.

    Returns:
        float32, as stored with a run: decisions made later from the file equal those made now.
    """
    result = np.zeros((len(features), classes), np.float32)

    def fill(start: int) -> int:
        block = np.asarray(features[start : start + rows], np.float32)
        result[start : start + rows] = score_block(estimator, block, classes, multilabel)
        return len(block)

    # One BLAS thread: otherwise the last digit would depend on the number of cores.
    shown = progress(label, len(features), "samples") if label else nullcontext(lambda count: None)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_jobs) as pool, shown as advance:
        for count in pool.map(fill, range(0, len(features), rows)):
            advance(count)
    return result


def score_block(
    estimator: Any, features: Num[np.ndarray, "samples dim"], classes: int, multilabel: bool
) -> Float32[np.ndarray, "samples {classes}"]:
    """As `score`, for one block of rows."""
    given = estimator.predict_proba(features)
    if isinstance(given, list):
        columns = [_probability_of_one(p, seen) for p, seen in zip(given, estimator.classes_, strict=True)]
        return np.stack(columns, axis=1).astype(np.float32)
    return in_columns(given, estimator.classes_, classes=classes, multilabel=multilabel)


def in_columns(
    given: Float[np.ndarray, "samples seen"], seen: Shaped[np.ndarray, " seen"], *, classes: int, multilabel: bool
) -> Float32[np.ndarray, "samples {classes}"]:
    """Probabilities of the classes `seen` in train as one column per class; a class that is not in train scores 0.

    If there is a single label, its columns are the values 0 and 1.
    """
    if multilabel and classes == 1:
        return _probability_of_one(given, seen)[:, None].astype(np.float32)
    result = np.zeros((len(given), classes), np.float32)
    result[:, np.asarray(seen, int)] = given
    return result


def _probability_of_one(given: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Probability of label 1 (N,), from the probabilities of the values that the label has in train."""
    at = np.flatnonzero(np.asarray(seen) == 1)
    return given[:, at[0]] if len(at) else np.zeros(len(given))


def half_thresholds(classes: int) -> Float64[np.ndarray, " {classes}"]:
    """A threshold of 0.5 for every class."""
    return np.full(classes, HALF)


def best_thresholds(truth: Truth, scores: Scores, *, beta: float = 2) -> Float64[np.ndarray, " classes"]:
    """For each class, the threshold with the highest F-beta on these samples.

    Candidates are the midpoints between adjacent distinct scores, and 0, which predicts every sample positive. Of equal
    candidates the highest is chosen. A class without positives keeps 0.5. A sample is predicted positive if its score,
    which is not negative, reaches the threshold.
    """
    thresholds = half_thresholds(truth.shape[1])
    for k in np.flatnonzero(truth.any(axis=0)):
        order = np.argsort(-scores[:, k], kind="stable")
        ranked = scores[order, k].astype(np.float64)
        tp = np.cumsum(truth[order, k])
        predicted = np.arange(1, len(ranked) + 1)
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal scores are predicted together
        candidates = np.append((ranked[ends[:-1]] + ranked[ends[:-1] + 1]) / 2, 0.0)
        values = f_beta(tp[ends], predicted[ends] - tp[ends], tp[-1] - tp[ends], beta)
        thresholds[k] = candidates[np.argmax(values)]
    return thresholds


def shrunk_thresholds(
    truth: Truth, scores: Scores, *, beta: float = 2, shrinkage: float = SHRINKAGE
) -> tuple[Float64[np.ndarray, " classes"], float, Float64[np.ndarray, " classes"]]:
    """Thresholds for F-beta that generalize: per-class optima shrunk toward a shared threshold, more for rarer classes.

    The optimum of a class with few positives is mostly chance. The shared threshold is the one among the per-class
    optima with the highest macro F-beta when used for all classes. A class with n positives keeps n / (n + `shrinkage`)
    of the distance of its optimum from it, in log odds. A class without positives keeps 0.5. If 0.5 for all classes has
    a higher macro F-beta on these samples, it is used: it was not fitted to them, so elsewhere its lead is expected to
    be larger.

    Returns:
        Thresholds, the shared one, and the per-class optima.
    """
    own = best_thresholds(truth, scores, beta=beta)
    positives = truth.sum(axis=0)
    shown = np.flatnonzero(positives)
    if not len(shown):
        return own, HALF, own

    def macro(thresholds: np.ndarray) -> float:
        tp, fp, _, fn = confusion_counts(truth[:, shown], decide(scores[:, shown], thresholds[shown]))
        return float(f_beta(tp, fp, fn, beta).mean())

    shared = max(np.unique(own[shown]).tolist(), key=lambda threshold: macro(np.full(len(own), threshold)))
    drawn, half = shrink(own, shared, positives, shrinkage=shrinkage), half_thresholds(len(own))
    return half if macro(half) > macro(drawn) else drawn, shared, own


def shrink(
    own: Float64[np.ndarray, " classes"], shared: float, positives: Integer[np.ndarray, " classes"], *, shrinkage: float
) -> Float64[np.ndarray, " classes"]:
    """Thresholds between the per-class optima (`own`) and the shared one, see `shrunk_thresholds`."""
    keep = positives / np.maximum(positives + shrinkage, 1)
    odds, goal = (np.log(t / (1 - t)) for t in (own.clip(_CLIP, 1 - _CLIP), np.clip(shared, _CLIP, 1 - _CLIP)))
    drawn = 1 / (1 + np.exp(-(keep * odds + (1 - keep) * goal)))
    return np.where((positives > 0) & (own != shared), drawn, own)


def decide(scores: Scores, thresholds: Float64[np.ndarray, " classes"] | None) -> Truth:
    """Decisions: classes whose score reaches their threshold; without thresholds the argmax, the first of equals."""
    if thresholds is None:
        return one_hot(scores.argmax(axis=1), scores.shape[1])
    # float64: a midpoint between two float32 neighbors would be rounded onto one of them
    return scores.astype(np.float64) >= np.asarray(thresholds, np.float64)
