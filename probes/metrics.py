"""Metrics of the run contract: F-beta, hamming, precision, recall, AP, confusion counts, bootstrap. Numpy only.

Conventions, the same everywhere in this project:

- A ratio whose denominator is zero is 0 (scikit-learn's ``zero_division=0``), so a class that never occurs and
  is never predicted counts as 0 in a macro mean over all K classes.
- Average precision of a class without positives is undefined (NaN here, null in JSON); ``map_macro`` is the
  mean over the classes that have one. Balanced accuracy is the mean recall over the classes that occur.
- Micro values pool the counts of all classes.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

MULTILABEL = (
    "f2_macro",
    "f2_micro",
    "f1_macro",
    "f1_micro",
    "precision_macro",
    "precision_micro",
    "recall_macro",
    "recall_micro",
    "hamming_loss",
    "subset_accuracy",
    "map_macro",
    "map_micro",
)
SINGLE_LABEL = ("accuracy", "balanced_accuracy", "f1_macro", "precision_macro", "recall_macro", "f2_macro")
RESAMPLES = 1000
AP_RESAMPLES = 200  # average precision needs a walk through the ranking for every resample; the rest only sums
_CHUNK_CELLS = 8_000_000  # cells of the largest array of the bootstrap: bounds its memory


def one_hot(labels: np.ndarray, classes: int) -> np.ndarray:
    """(N,) class numbers as (N, K) booleans."""
    return labels[:, None] == np.arange(classes)


def label_matrix(labels: np.ndarray, classes: int) -> np.ndarray:
    """Labels (N, K), or class numbers (N,), as (N, K) booleans."""
    return labels.astype(bool) if labels.ndim == 2 else one_hot(labels, classes)


def confusion_counts(truth: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, ...]:
    """TP, FP, TN, FN, each (K,), of (N, K) booleans."""
    tp, fp, fn = ((a & b).sum(axis=0) for a, b in ((truth, predicted), (~truth, predicted), (truth, ~predicted)))
    return tp, fp, len(truth) - tp - fp - fn, fn


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Part over whole, 0 where the whole is 0; shapes as given."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def precision(tp: np.ndarray, fp: np.ndarray) -> np.ndarray:
    """TP / (TP + FP)."""
    return ratio(tp, tp + fp)


def recall(tp: np.ndarray, fn: np.ndarray) -> np.ndarray:
    """TP / (TP + FN)."""
    return ratio(tp, tp + fn)


def specificity(tn: np.ndarray, fp: np.ndarray) -> np.ndarray:
    """TN / (TN + FP)."""
    return ratio(tn, tn + fp)


def f_beta(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, beta: float) -> np.ndarray:
    """(1 + b²) TP / ((1 + b²) TP + b² FN + FP); beta 2 weighs recall four times (van Rijsbergen 1979)."""
    gain = (1 + beta**2) * np.asarray(tp, np.float64)
    return ratio(gain, gain + beta**2 * np.asarray(fn, np.float64) + fp)


def average_precision(truth: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Average precision, a step function over the distinct scores, as scikit-learn's.

    Args:
        truth: (N, K) booleans.
        scores: (N, K).

    Returns:
        (K,), NaN for a class without positives.
    """
    ones = np.ones((1, len(truth)))
    return np.array([ranking.average_precision(ones)[0] for ranking in _each(truth, scores)])


class _Ranking:
    """Samples by falling score, sorted once: average precision for any weighting of them.

    Args:
        truth: (N, K) booleans; all classes are ranked together.
        scores: (N, K).
    """

    def __init__(self, truth: np.ndarray, scores: np.ndarray) -> None:
        truth, scores, classes = truth.ravel(), scores.ravel(), truth.shape[1]
        order = np.argsort(-scores, kind="stable")
        self.rows = order // classes
        ranked = scores[order]
        # Rows of equal score are called together, so precision is read where a run of ties ends.
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        self.positives = np.flatnonzero(truth[order])
        self.at = ends[np.searchsorted(ends, self.positives)]  # for each positive, the end of its run
        self.last_positive_called = np.searchsorted(self.positives, self.at, side="right") - 1

    def average_precision(self, weights: np.ndarray) -> np.ndarray:
        """AP for B weightings (B, N), how often each row was drawn: (B,), NaN where no positive was drawn."""
        if not len(self.positives):
            return np.full(len(weights), np.nan)
        weights = weights[:, self.rows]
        drawn = weights[:, self.positives]
        found, called = np.cumsum(drawn, axis=1), np.cumsum(weights, axis=1)
        gained = (drawn * ratio(found[:, self.last_positive_called], called[:, self.at])).sum(axis=1)
        total = found[:, -1]
        return np.divide(gained, total, out=np.full(len(weights), np.nan), where=total > 0)


def _each(truth: np.ndarray, scores: np.ndarray) -> list[_Ranking]:
    """Rankings of the single classes, of (N, K)."""
    return [_Ranking(truth[:, [k]], scores[:, [k]]) for k in range(truth.shape[1])]


def multilabel_metrics(truth: np.ndarray, predicted: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """All metrics of a multi-label run; None where undefined.

    Args:
        truth: (N, K) booleans.
        predicted: (N, K) booleans.
        scores: (N, K), only for average precision.
    """
    tp, fp, _, fn = (count[None] for count in confusion_counts(truth, predicted))
    correct = (truth == predicted).all(axis=1).mean(keepdims=True)
    values = _from_counts(tp, fp, fn, rows=len(truth)) | {"subset_accuracy": correct}
    values["map_macro"] = _defined_mean(average_precision(truth, scores)[None])
    values["map_micro"] = average_precision(truth.reshape(-1, 1), scores.reshape(-1, 1))
    return {name: _number(values[name][0]) for name in MULTILABEL}


def single_label_metrics(labels: np.ndarray, predicted: np.ndarray, classes: int) -> dict[str, float | None]:
    """All metrics of a single-label run.

    Args:
        labels: (N,) class numbers.
        predicted: (N,) class numbers.
        classes: K.
    """
    counts = confusion_counts(one_hot(labels, classes), one_hot(predicted, classes))
    tp, fp, _, fn = (count[None] for count in counts)
    values = _from_counts(tp, fp, fn, rows=len(labels))
    return {name: _number(values[name][0]) for name in SINGLE_LABEL}


def class_rows(
    names: list[str],
    truth: np.ndarray,
    predicted: np.ndarray,
    scores: np.ndarray,
    thresholds: np.ndarray | None,
) -> list[dict[str, Any]]:
    """One row a class, in class order: one-vs-rest counts and what follows from them.

    Args:
        names: K class names.
        truth: (N, K) booleans.
        predicted: (N, K) booleans.
        scores: (N, K).
        thresholds: (K,), or None where the highest score decides.
    """
    tp, fp, tn, fn = confusion_counts(truth, predicted)
    columns = {
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
        "precision": precision(tp, fp),
        "recall": recall(tp, fn),
        "specificity": specificity(tn, fp),
        "f1": f_beta(tp, fp, fn, 1),
        "f2": f_beta(tp, fp, fn, 2),
        "ap": average_precision(truth, scores),
        "support": tp + fn,
    }
    return [
        {"name": name}
        | {column: _number(values[k]) for column, values in columns.items()}
        | {"threshold": None if thresholds is None else float(thresholds[k])}
        for k, name in enumerate(names)
    ]


# --------------------------------------------------------------------------------------------- bootstrap


def bootstrap_counts(
    truth: np.ndarray,
    predicted: np.ndarray,
    *,
    names: tuple[str, ...],
    seed: int,
    resamples: int = RESAMPLES,
    groups: np.ndarray | None = None,
) -> dict[str, list[float]]:
    """Percentile bootstrap, 95 %, of the metrics that follow from counts.

    Args:
        truth: (N, K) booleans.
        predicted: (N, K) booleans.
        names: the metrics wanted; average precision is skipped, see `bootstrap_average_precision`.
        seed: the same seed draws the same images, whatever the decisions.
        resamples: B.
        groups: (N,) numbers of groups, from 0, which are drawn whole, such as `probes.spatial.cells`; None draws
            image by image.

    Returns:
        By metric, low and high.
    """
    values = resampled_counts(truth, predicted, names=names, seed=seed, resamples=resamples, groups=groups)
    return {name: interval(samples) for name, samples in values.items()}


def resampled_counts(
    truth: np.ndarray,
    predicted: np.ndarray,
    *,
    names: tuple[str, ...],
    seed: int,
    resamples: int = RESAMPLES,
    groups: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """As `bootstrap_counts`, with the (B,) values themselves: those of two runs of one seed are pairs."""
    # Sums over a resample are one matrix product of "how often drawn" with each image's contribution; float32
    # holds these integers exactly up to 16 million images.
    exact = (truth == predicted).all(axis=1, keepdims=True)
    each = np.hstack([truth & predicted, ~truth & predicted, truth & ~predicted, exact, np.ones_like(exact)])
    each = each.astype(np.float32) if groups is None else _group_sums(each, groups)
    sums = np.vstack([drawn @ each for drawn in _draws(len(each), resamples, seed)]).astype(np.float64)
    tp, fp, fn = np.split(sums[:, :-2], 3, axis=1)
    rows = sums[:, -1]
    values = _from_counts(tp, fp, fn, rows=rows) | {"subset_accuracy": sums[:, -2] / rows}
    return {name: values[name] for name in names if name in values}


def _group_sums(each: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(G, M) float32 sums of the rows (N, M) of each group."""
    order = np.argsort(groups, kind="stable")
    starts = np.flatnonzero(np.diff(groups[order], prepend=-1))
    return np.add.reduceat(each[order].astype(np.float32), starts, axis=0)


def bootstrap_average_precision(
    truth: np.ndarray,
    scores: np.ndarray,
    *,
    seed: int,
    resamples: int = AP_RESAMPLES,
    groups: np.ndarray | None = None,
) -> dict[str, list[float]]:
    """As `bootstrap_counts` for ``map_macro`` and ``map_micro``; a metric without any positive is left out."""
    values = resampled_average_precision(truth, scores, seed=seed, resamples=resamples, groups=groups)
    return {name: interval(v[~np.isnan(v)]) for name, v in values.items() if not np.isnan(v).all()}


def resampled_average_precision(
    truth: np.ndarray,
    scores: np.ndarray,
    *,
    seed: int,
    resamples: int = AP_RESAMPLES,
    groups: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """As `bootstrap_average_precision`, with the (B,) values themselves; NaN where no positive was drawn."""
    macro, micro = [], []
    rows, classes = truth.shape
    rankings, whole = _each(truth, scores), _Ranking(truth, scores)
    units = rows if groups is None else int(groups.max()) + 1
    for drawn in _draws(units, resamples, seed, cells=rows * classes):
        drawn = drawn if groups is None else drawn[:, groups]
        each = [ranking.average_precision(drawn) for ranking in rankings]
        macro.append(_defined_mean(np.stack(each, axis=1)))
        micro.append(whole.average_precision(drawn))
    return {"map_macro": np.concatenate(macro), "map_micro": np.concatenate(micro)}


def _draws(rows: int, resamples: int, seed: int, *, cells: int | None = None) -> Iterator[np.ndarray]:
    """(B, N) float32 blocks: how often each unit is in each resample. Blocks do not change what is drawn."""
    rng = np.random.default_rng(seed)
    block = max(1, _CHUNK_CELLS // (cells or rows))
    for start in range(0, resamples, block):
        count = min(block, resamples - start)
        yield np.stack([np.bincount(rng.integers(rows, size=rows), minlength=rows) for _ in range(count)]).astype(
            np.float32
        )


def _from_counts(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, *, rows: int | np.ndarray) -> dict[str, np.ndarray]:
    """Every metric that follows from (B, K) counts, each (B,); subset accuracy does not, hence is absent."""
    classes = tp.shape[1]
    occurs = (tp + fn) > 0
    values = {}
    for scope, (t, p, n) in {
        "macro": (tp, fp, fn),
        "micro": tuple(count.sum(axis=1, keepdims=True) for count in (tp, fp, fn)),
    }.items():
        values[f"f2_{scope}"] = f_beta(t, p, n, 2).mean(axis=1)
        values[f"f1_{scope}"] = f_beta(t, p, n, 1).mean(axis=1)
        values[f"precision_{scope}"] = precision(t, p).mean(axis=1)
        values[f"recall_{scope}"] = recall(t, n).mean(axis=1)
    values["hamming_loss"] = (fp + fn).sum(axis=1) / (rows * classes)
    values["accuracy"] = tp.sum(axis=1) / rows
    values["balanced_accuracy"] = recall(tp, fn).sum(axis=1) / np.maximum(occurs.sum(axis=1), 1)
    return values


def _defined_mean(values: np.ndarray) -> np.ndarray:
    """Mean of each row of (B, K) over its entries that are not NaN; NaN if there are none."""
    defined = ~np.isnan(values)
    count = defined.sum(axis=1)
    total = np.where(defined, values, 0).sum(axis=1)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def interval(values: np.ndarray) -> list[float]:
    """Percentile interval, 95 %, of (B,) values."""
    low, high = np.percentile(values, [2.5, 97.5])
    return [float(low), float(high)]


def _number(value: np.generic) -> float | int | None:
    """A JSON number; NaN becomes None."""
    plain = value.item()
    return None if plain != plain else plain
