"""Scores of any scikit-learn estimator as one (N, K) array, and the thresholds that turn them into decisions."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from data.command import progress
from probes.inputs import BLOCK_ROWS
from probes.metrics import confusion_counts, f_beta, one_hot

HALF = 0.5
# On data of which no constant was chosen (`docs/results/thresholds.md`) 3 has the highest mean of 0, 3, 10 and 30. On
# real pixels 10 is ahead by 0.002; it loses up to 0.07 where scores of classes are unlike (forests, rare classes).
SHRINKAGE = 3
_SURE = 1e-4  # a threshold of 0 or 1 is drawn as if it were this far from it


def score(
    estimator: Any,
    features: Any,
    *,
    classes: int,
    multilabel: bool,
    n_jobs: int = 1,
    rows: int = BLOCK_ROWS,
    label: str | None = None,
) -> np.ndarray:
    """Probability of each class for each sample, whatever form the estimator gives it in.

    Multi-label forests and neighbours give a list of K arrays, (N, 2), or (N, 1) for a class that was constant
    in train; networks give (N, K); single-label estimators give a column for each class they saw in train. A
    class that has no column scores 0.

    Args:
        estimator: fitted, with ``predict_proba`` and ``classes_``.
        features: (N, D), in memory or on disk.
        classes: K.
        multilabel: whether the columns are independent labels.
        n_jobs: blocks of rows scored at a time.
        rows: of a block; it decides the last digit, `n_jobs` does not.
        label: what is being scored, to show progress; None shows none.

    Returns:
        (N, K) float32, as stored with a run: decisions made later from the file equal those made now.
    """
    result = np.zeros((len(features), classes), np.float32)

    def fill(start: int) -> int:
        block = np.asarray(features[start : start + rows], np.float32)
        result[start : start + rows] = score_block(estimator, block, classes, multilabel)
        return len(block)

    # One BLAS thread, else the last digit would depend on the number of cores.
    shown = progress(label, len(features), "samples") if label else nullcontext(lambda count: None)
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(n_jobs) as pool, shown as advance:
        for count in pool.map(fill, range(0, len(features), rows)):
            advance(count)
    return result


def score_block(estimator: Any, features: np.ndarray, classes: int, multilabel: bool) -> np.ndarray:
    """As `score`, of features (B, D) at once."""
    given = estimator.predict_proba(features)
    if isinstance(given, list):
        columns = [_probability_of_one(p, seen) for p, seen in zip(given, estimator.classes_, strict=True)]
        return np.stack(columns, axis=1).astype(np.float32)
    return in_columns(given, estimator.classes_, classes=classes, multilabel=multilabel)


def in_columns(given: np.ndarray, seen: np.ndarray, *, classes: int, multilabel: bool) -> np.ndarray:
    """(N, K) float32 of probabilities (N, number of classes in train); a class that train never shows scores 0.

    Args:
        given: probabilities.
        seen: class numbers of their columns.
        classes: K.
        multilabel: whether the columns are independent labels; a single one is told by the numbers 0 and 1.
    """
    if multilabel and classes == 1:
        return _probability_of_one(given, seen)[:, None].astype(np.float32)
    result = np.zeros((len(given), classes), np.float32)
    result[:, np.asarray(seen, int)] = given
    return result


def _probability_of_one(given: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """(N,) probability of label 1 from one label's (N, number of values seen in train)."""
    at = np.flatnonzero(np.asarray(seen) == 1)
    return given[:, at[0]] if len(at) else np.zeros(len(given))


def half_thresholds(classes: int) -> np.ndarray:
    """The 0.5 rule for K classes."""
    return np.full(classes, HALF)


def best_thresholds(truth: np.ndarray, scores: np.ndarray, *, beta: float = 2) -> np.ndarray:
    """For each class, the threshold with the highest F-beta on these samples.

    Candidates are the midpoints between neighbouring distinct scores, and 0, which calls every sample. Of equals
    the highest wins: the fewest samples called. A class without positives keeps 0.5.

    Args:
        truth: (N, K) booleans, of val.
        scores: (N, K), not negative.
        beta: 2 weighs recall over precision.

    Returns:
        (K,) float64; a sample is called where its score reaches the threshold.
    """
    thresholds = half_thresholds(truth.shape[1])
    for k in np.flatnonzero(truth.any(axis=0)):
        order = np.argsort(-scores[:, k], kind="stable")
        ranked = scores[order, k].astype(np.float64)
        tp = np.cumsum(truth[order, k])
        called = np.arange(1, len(ranked) + 1)
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal scores are called together
        candidates = np.append((ranked[ends[:-1]] + ranked[ends[:-1] + 1]) / 2, 0.0)
        values = f_beta(tp[ends], called[ends] - tp[ends], tp[-1] - tp[ends], beta)
        thresholds[k] = candidates[np.argmax(values)]
    return thresholds


def shrunk_thresholds(
    truth: np.ndarray, scores: np.ndarray, *, beta: float = 2, shrinkage: float = SHRINKAGE
) -> tuple[np.ndarray, float, np.ndarray]:
    """Thresholds for F-beta that generalise: a class's own optimum, drawn towards one that all classes share.

    The optimum of a class with a handful of positives is mostly chance. The shared threshold is the one among the
    classes' own optima that gives the highest macro F-beta when used for all. A class with n positives keeps
    n / (n + `shrinkage`) of its own optimum's distance from it, in log odds. A class without positives keeps 0.5. Where
    0.5 for all gives a higher macro F-beta on these samples, it is taken: it was not fitted to them, so that elsewhere
    it is expected to be ahead by more.

    Args:
        truth: (N, K) booleans, of val.
        scores: (N, K), not negative.
        beta: 2 weighs recall over precision.
        shrinkage: positives at which a class keeps half of the distance; 0 keeps all of it.

    Returns:
        Thresholds (K,), the shared one, and the classes' own optima (K,).
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


def shrink(own: np.ndarray, shared: float, positives: np.ndarray, *, shrinkage: float) -> np.ndarray:
    """Thresholds (K,) between the classes' own optima (K,) and the shared one, see `shrunk_thresholds`.

    Args:
        own: thresholds of the classes.
        shared: threshold of all of them.
        positives: (K,) on val.
        shrinkage: positives at which a class keeps half of the distance.
    """
    keep = positives / np.maximum(positives + shrinkage, 1)
    odds, goal = (np.log(t / (1 - t)) for t in (own.clip(_SURE, 1 - _SURE), np.clip(shared, _SURE, 1 - _SURE)))
    drawn = 1 / (1 + np.exp(-(keep * odds + (1 - keep) * goal)))
    return np.where((positives > 0) & (own != shared), drawn, own)


def decide(scores: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
    """Decisions from scores.

    Args:
        scores: (N, K).
        thresholds: (K,): a class is called where its score reaches its threshold. None: the highest score is
            called and nothing else (single-label); of equals the first.

    Returns:
        (N, K) booleans.
    """
    if thresholds is None:
        return one_hot(scores.argmax(axis=1), scores.shape[1])
    # float64: a midpoint between two float32 neighbours would be rounded onto one of them
    return scores.astype(np.float64) >= np.asarray(thresholds, np.float64)
