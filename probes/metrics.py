"""Metrics of the run contract: F-beta, hamming, precision, recall, AP, confusion counts. Numpy only.

Conventions, the same everywhere in this project:

- A ratio whose denominator is zero is 0 (scikit-learn's ``zero_division=0``), so a class that never occurs and
  is never predicted counts as 0 in a macro mean over all K classes.
- Average precision of a class without positives is undefined (NaN here, null in JSON); ``map_macro`` is the
  mean over the classes that have one. Balanced accuracy is the mean recall over the classes that occur.
- Micro values pool the counts of all classes.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer, Num

from probes.shapes import Counts, Rates, Scores, Truth

RATES = ("f2", "f1", "precision", "recall")
MULTILABEL = (
    *(f"{rate}_{scope}" for rate in RATES for scope in ("macro", "micro")),
    *("hamming_loss", "subset_accuracy", "map_macro", "map_micro"),
    *(f"{rate}_macro_occurring" for rate in RATES),
)
SINGLE_LABEL = (
    "accuracy",
    "balanced_accuracy",
    "f1_macro",
    "precision_macro",
    "recall_macro",
    "f2_macro",
    "f1_macro_occurring",
    "precision_macro_occurring",
    "f2_macro_occurring",
)


def one_hot(labels: Integer[np.ndarray, " samples"], classes: int) -> Bool[np.ndarray, "samples {classes}"]:
    """Class numbers as booleans, one column per class."""
    return labels[:, None] == np.arange(classes)


def label_matrix(
    labels: Num[np.ndarray, "samples {classes}"] | Integer[np.ndarray, " samples"], classes: int
) -> Bool[np.ndarray, "samples {classes}"]:
    """Multi-label rows, or class numbers, as booleans with one column per class."""
    return labels.astype(bool) if labels.ndim == 2 else one_hot(labels, classes)


def confusion_counts(truth: Truth, predicted: Truth) -> tuple[Integer[np.ndarray, " classes"], ...]:
    """TP, FP, TN and FN per class."""
    tp, fp, fn = ((a & b).sum(axis=0) for a, b in ((truth, predicted), (~truth, predicted), (truth, ~predicted)))
    return tp, fp, len(truth) - tp - fp - fn, fn


def ratio(part: Counts, whole: Counts) -> Rates:
    """Part over whole, 0 where the whole is 0; shapes as given."""
    part, whole = np.broadcast_arrays(np.asarray(part, np.float64), np.asarray(whole, np.float64))
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def precision(tp: Counts, fp: Counts) -> Rates:
    """TP / (TP + FP)."""
    return ratio(tp, tp + fp)


def recall(tp: Counts, fn: Counts) -> Rates:
    """TP / (TP + FN)."""
    return ratio(tp, tp + fn)


def specificity(tn: Counts, fp: Counts) -> Rates:
    """TN / (TN + FP)."""
    return ratio(tn, tn + fp)


def f_beta(tp: Counts, fp: Counts, fn: Counts, beta: float) -> Rates:
    """(1 + b²) TP / ((1 + b²) TP + b² FN + FP); beta 2 weighs recall four times (van Rijsbergen 1979)."""
    gain = (1 + beta**2) * np.asarray(tp, np.float64)
    return ratio(gain, gain + beta**2 * np.asarray(fn, np.float64) + fp)


def average_precision(truth: Truth, scores: Scores) -> Float64[np.ndarray, " classes"]:
    """Average precision, a step function over the distinct scores, as scikit-learn's; NaN without positives."""
    found = np.full(truth.shape[1], np.nan)
    for k in np.flatnonzero(truth.any(axis=0)):
        order = np.argsort(-scores[:, k], kind="stable")
        ranked = scores[order, k]
        ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # equal scores are predicted together
        tp = np.cumsum(truth[order, k])[ends]
        found[k] = (np.diff(tp, prepend=0) * tp / (ends + 1)).sum() / tp[-1]
    return found


def multilabel_metrics(truth: Truth, predicted: Truth, scores: Scores) -> dict[str, float | None]:
    """All metrics of a multi-label run; None where undefined. Only average precision needs the scores."""
    values = from_sums(_sums(truth, predicted))
    each = average_precision(truth, scores)
    defined = each[~np.isnan(each)]
    values["map_macro"] = np.array([defined.mean() if len(defined) else np.nan])
    values["map_micro"] = average_precision(truth.reshape(-1, 1), scores.reshape(-1, 1))
    return {name: number(values[name][0]) for name in MULTILABEL}


def single_label_metrics(
    labels: Integer[np.ndarray, " samples"], predicted: Integer[np.ndarray, " samples"], classes: int
) -> dict[str, float | None]:
    """All metrics of a single-label run."""
    values = from_sums(_sums(one_hot(labels, classes), one_hot(predicted, classes)))
    return {name: number(values[name][0]) for name in SINGLE_LABEL}


def class_rows(
    names: list[str], truth: Truth, predicted: Truth, scores: Scores, thresholds: Float[np.ndarray, " classes"] | None
) -> list[dict[str, Any]]:
    """One row per class, in class order: one-vs-rest counts and what follows from them; no thresholds: argmax."""
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
        | {column: number(values[k]) for column, values in columns.items()}
        | {"threshold": None if thresholds is None else float(thresholds[k])}
        for k, name in enumerate(names)
    ]


def _sums(truth: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """(1, 3 K + 2), as `from_sums` takes them, of (N, K) booleans."""
    tp, fp, _, fn = confusion_counts(truth, predicted)
    return np.concatenate([tp, fp, fn, [(truth == predicted).all(axis=1).sum(), len(truth)]])[None]


def from_sums(
    sums: Num[np.ndarray, "resamples sums"], *, occurs: Bool[np.ndarray, " classes"] | None = None
) -> dict[str, Num[np.ndarray, " resamples"]]:
    """Every metric that follows from counts, of each resample.

    Args:
        sums: 3 per class and 2: TP, FP and FN of every class, rows that are all right, and rows.
        occurs: the classes to count as occurring; None takes those with positives, in each resample.
    """
    tp, fp, fn = np.split(np.asarray(sums[:, :-2], np.float64), 3, axis=1)
    right, rows = sums[:, -2], np.maximum(sums[:, -1], 1)
    occurring = (tp + fn) > 0 if occurs is None else np.broadcast_to(occurs, tp.shape)
    values = {}
    for scope, (t, p, n) in {
        "macro": (tp, fp, fn),
        "micro": tuple(count.sum(axis=1, keepdims=True) for count in (tp, fp, fn)),
    }.items():
        by_class = {
            "f2": f_beta(t, p, n, 2),
            "f1": f_beta(t, p, n, 1),
            "precision": precision(t, p),
            "recall": recall(t, n),
        }
        for name, each in by_class.items():
            values[f"{name}_{scope}"] = each.mean(axis=1)
            if scope == "macro":
                values[f"{name}_macro_occurring"] = ratio((each * occurring).sum(axis=1), occurring.sum(axis=1))
    values["hamming_loss"] = (fp + fn).sum(axis=1) / (rows * tp.shape[1])
    values["accuracy"] = tp.sum(axis=1) / rows
    values["subset_accuracy"] = right / rows
    values["balanced_accuracy"] = values["recall_macro_occurring"]
    return values


def number(value: float | np.generic) -> float | int | None:
    """A JSON number; NaN becomes None."""
    plain = value.item() if isinstance(value, np.generic) else value
    return None if plain != plain else plain
