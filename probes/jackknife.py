"""Every metric with one unit left out at a time: the jackknife (Quenouille 1956, Tukey 1958; by groups: Wolter 2007).

A unit is an image, or a spatial cell with all its images (`probes.spatial.Units`). The metrics of the remaining samples
are exact, without refitting or resampling: metrics of counts from total sums minus those of the unit, average precision
from cumulative sums over the ranking. There are two approximations: micro average precision by image, and average
precision with more than `EXACT_CELLS` cells, add up the changes from leaving out each label of the unit alone.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64

from probes import metrics, probabilities
from probes.shapes import Scores, Truth
from probes.spatial import Units

EXACT_CELLS = 500
WEIGHT = 1.5  # from 1, which covers up to 100%, to 3: 89% where 30 cells hold 3% errors (coverage.md)
_BLOCK_ENTRIES = 1_000_000  # of the largest array: bounds the memory


@dataclass(frozen=True)
class Estimate:
    """A metric on all samples, and without each unit.

    Args:
        value: on all samples; NaN where undefined.
        left_out: without unit u.
    """

    value: float
    left_out: Float64[np.ndarray, " units"]

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The paired difference, of two runs on the same samples."""
        return Estimate(self.value - other.value, self.left_out - other.left_out)

    @property
    def variance(self) -> float:
        """(U - 1) / U times the sum of squared distances from the mean; NaN for a single unit."""
        count = len(self.left_out)
        if count < 2:
            return float("nan")
        return float((count - 1) / count * ((self.left_out - self.left_out.mean()) ** 2).sum())

    @property
    def bias(self) -> float:
        """The jackknife estimate of the bias (Quenouille 1956)."""
        return float((len(self.left_out) - 1) * (self.left_out.mean() - self.value))

    @property
    def effective(self) -> float:
        """Effective number of units, `WEIGHT` (sum c)² / sum c² of their parts c of the variance; NaN if all are 0.

        The ratio is a third of the units if their changes are normal, and lower if few units have the errors.
        """
        shares = (self.left_out - self.left_out.mean()) ** 2
        return WEIGHT * float(shares.sum() ** 2 / (shares**2).sum()) if shares.any() else float("nan")


def estimates(
    truth: Truth, decided: Truth, scores: Scores | None, units: Units, *, multilabel: bool
) -> dict[str, Estimate]:
    """Every metric of the run contract that follows from decisions and scores.

    Without scores, average precision, log loss and Brier score are left out.
    """
    names = metrics.MULTILABEL if multilabel else metrics.SINGLE_LABEL
    found = of_counts(truth, decided, units)
    if multilabel and scores is not None:
        found |= of_rankings(truth, scores, units)
    found = {name: found[name] for name in names if name in found}
    if scores is None:
        return found
    losses = probabilities.log_losses(truth, scores, multilabel=multilabel)
    briers = probabilities.briers(truth, scores, multilabel=multilabel)
    return found | {"log_loss": of_mean(losses, units), "brier": of_mean(briers, units)}


def of_mean(values: Float[np.ndarray, " samples"], units: Units) -> Estimate:
    """The mean over samples."""
    sums, counts = np.bincount(units.numbers, values), np.bincount(units.numbers)
    return Estimate(float(values.mean()), (values.sum() - sums) / np.maximum(len(values) - counts, 1))


def of_counts(truth: Truth, decided: Truth, units: Units) -> dict[str, Estimate]:
    """The metrics that follow from TP, FP and FN, and subset accuracy."""
    sums = _unit_sums(truth, decided, units)
    totals = sums.sum(axis=0)
    occurs = truth.any(axis=0)
    value = {name: float(one[0]) for name, one in metrics.from_sums(totals[None], occurs=occurs).items()}
    left_out: dict[str, list[np.ndarray]] = {name: [] for name in value}
    rows = max(1, _BLOCK_ENTRIES // sums.shape[1])
    for start in range(0, len(sums), rows):
        for name, one in metrics.from_sums(totals - sums[start : start + rows], occurs=occurs).items():
            left_out[name].append(one)
    return {name: Estimate(value[name], np.concatenate(parts)) for name, parts in left_out.items()}


def of_rankings(truth: Truth, scores: Scores, units: Units) -> dict[str, Estimate]:
    """``map_macro`` and ``map_micro``; a class whose positives are all left out counts as 0."""
    shown = np.flatnonzero(truth.any(axis=0))
    if not len(shown):
        nothing = Estimate(float("nan"), np.full(units.count, np.nan))
        return {"map_macro": nothing, "map_micro": nothing}
    each = [average_precision(truth[:, k], scores[:, k], units) for k in shown]
    macro = Estimate(
        float(np.mean([one.value for one in each])), np.sum([one.left_out for one in each], axis=0) / len(each)
    )
    labels = Units(np.repeat(units.numbers, truth.shape[1]), "cell")  # a unit is all the labels of its images
    return {"map_macro": macro, "map_micro": average_precision(truth.ravel(), scores.ravel(), labels)}


def average_precision(
    truth: Bool[np.ndarray, " samples"], scores: Float[np.ndarray, " samples"], units: Units
) -> Estimate:
    """Average precision as `metrics.average_precision`, of one class with at least one positive."""
    order = np.argsort(-scores, kind="stable")
    positive, (first, last) = truth[order], _runs(scores[order])
    tp, predicted = np.cumsum(positive)[last].astype(np.float64), last + 1.0
    value = float((tp / predicted)[positive].mean())
    if units.by == "image" or units.count > EXACT_CELLS:
        alone = _without_each(positive, tp, predicted, first)
        if units.by == "image":
            left_out = np.empty(len(alone))
            left_out[order] = alone
        else:
            left_out = value + np.bincount(units.numbers[order], alone - value, minlength=units.count)
        return Estimate(value, left_out)
    at = np.flatnonzero(positive)
    gone = _without_groups(positive, units.numbers[order], last[at], tp[at], predicted[at], units.count)
    return Estimate(value, gone)


def _runs(ranked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First and last row of the run of equal scores that a row lies in; they are predicted together."""
    new = np.append(True, ranked[1:] != ranked[:-1])
    starts, run = np.flatnonzero(new), np.cumsum(new) - 1
    return starts[run], np.append(starts[1:], len(ranked))[run] - 1


def _without_each(positive: np.ndarray, tp: np.ndarray, predicted: np.ndarray, start: np.ndarray) -> np.ndarray:
    """(N,) average precision without each row, rows by falling score; ``start`` is the first row of a row's run.

    Without row j, positives ranked as high as j or lower have one fewer predicted positive, and one fewer TP if j is
    positive.
    """
    others = np.maximum(predicted - 1, 1)

    def tail(one: np.ndarray | float) -> np.ndarray:
        return np.append(np.cumsum((positive * one / others)[::-1])[::-1], 0.0)[start]

    summed = np.append(0.0, np.cumsum(positive * tp / predicted))[start]  # in place: arrays of all labels are large
    summed += tail(tp)
    summed -= positive * tail(1.0)
    summed -= positive * (tp - 1) / others  # what j itself would add to the tail: it is gone
    remaining = positive.sum() - positive
    return np.where(remaining > 0, summed / np.maximum(remaining, 1), 0.0)


def _without_groups(
    positive: np.ndarray, unit: np.ndarray, ends: np.ndarray, tp: np.ndarray, predicted: np.ndarray, count: int
) -> np.ndarray:
    """(U,) average precision without each unit.

    Rows (N,) by falling score are positive or not, and belong to a unit. Of each positive (P,): the last row of its
    run, TP up to there, and rows up to there.
    """
    width, result = len(ends), np.zeros(count)
    first = np.searchsorted(ends, np.arange(len(unit)))  # the first positive whose run a row lies in or before
    of_positive, total = unit[positive], float(len(ends))
    rows = max(1, _BLOCK_ENTRIES // width)
    for start in range(0, count, rows):
        units = min(rows, count - start)
        inside = (unit >= start) & (unit < start + units) & (first < width)
        at = (unit[inside] - start) * width + first[inside]
        gone, gone_tp = (
            np.bincount(at, weights, units * width).reshape(units, width).cumsum(axis=1)
            for weights in (np.ones(len(at)), positive[inside].astype(np.float64))
        )
        kept = of_positive != np.arange(start, start + units)[:, None]
        gained = (kept * metrics.ratio(tp - gone_tp, predicted - gone)).sum(axis=1)
        result[start : start + units] = metrics.ratio(gained, total - gone_tp[:, -1])
    return result


def _unit_sums(truth: np.ndarray, decided: np.ndarray, units: Units) -> np.ndarray:
    """(U, 3 K + 2) float64: TP, FP and FN of every class, rows that are all right, and rows, of each unit."""
    exact = (truth == decided).all(axis=1, keepdims=True)
    each = np.hstack([truth & decided, ~truth & decided, truth & ~decided, exact, np.ones_like(exact)])
    if units.by == "image":
        return each.astype(np.float64)
    order = np.argsort(units.numbers, kind="stable")
    starts = np.flatnonzero(np.diff(units.numbers[order], prepend=-1))
    return np.add.reduceat(each[order].astype(np.float64), starts, axis=0)
