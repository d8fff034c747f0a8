"""95% intervals of test metrics, how each was made, and why there is none; paired differences and their p values.

The methods reach their nominal coverage in simulations with BigEarthNet's class frequencies
(`docs/results/coverage.md`, written by ``python -m tests.bench --only coverage``). The percentile bootstrap covers 18
to 75% there.

- ``wilson``: the Wilson score interval (Wilson 1927), for proportions of independent images: accuracy and subset
  accuracy.
- ``jackknife``: the same interval with the effective sample size value (1 - value) / variance, where the variance is
  the jackknife's (`probes.jackknife`), and a quantile of Student's t (Korn and Graubard 1998, Dean and Pagano 2015);
  for average precision around the bias-corrected value, because it is too high with few positives; for log loss and
  Brier score the value plus or minus t standard errors. Units are images or spatial cells (`probes.spatial.Units`); the
  effective number of cells is lower if their sizes or errors are unequal.

There is no interval if `why_none` finds a reason, such as a class with fewer than `LEAST_POSITIVES` positives.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special  # not scipy.stats, which takes half a second to import

from probes import jackknife
from probes.jackknife import Estimate
from probes.shapes import Scores, Truth
from probes.spatial import LEAST, Units

LEVEL = 0.95
LEAST_POSITIVES = 10
SHARES = ("accuracy", "subset_accuracy")  # proportions of images
LOSSES = ("log_loss", "brier")  # means over samples, possibly above 1
NO_ECE = "the binned calibration error is biased upwards in small samples; no interval with correct coverage is known"


@dataclass(frozen=True)
class Interval:
    """The 95% interval of one metric, as in ``run.json``.

    Args:
        interval: low and high, or None.
        method: ``wilson`` or ``jackknife``; None without an interval.
        by: ``image`` or ``cell``.
        units: number of them.
        reason: why there is no interval; None if there is one.
    """

    interval: tuple[float, float] | None
    method: str | None
    by: str
    units: int
    reason: str | None = None


@dataclass(frozen=True)
class Difference:
    """A paired difference of a metric, of two runs on the same samples.

    Args:
        value: of the difference; NaN where undefined.
        interval: 95%, or None.
        p: two-sided p-value for equality; 1 if they do not differ on any unit.
    """

    value: float
    interval: tuple[float, float] | None
    p: float


def wilson(share: float, size: float, quantile: float | None = None) -> tuple[float, float]:
    """Wilson score interval (Wilson 1927, JASA 22, 209-212) of a share of `size` samples, or effective samples.

    The quantile is that of the statistic; None is the normal 97.5%.
    """
    z2 = float(special.ndtri((1 + LEVEL) / 2) if quantile is None else quantile) ** 2
    middle = (share + z2 / (2 * size)) / (1 + z2 / size)
    half = np.sqrt(z2 * share * (1 - share) / size + z2**2 / (4 * size**2)) / (1 + z2 / size)
    return max(0.0, min(float(middle - half), share)), min(1.0, max(float(middle + half), share))  # but for rounding


def degrees_of_freedom(estimate: Estimate, units: Units) -> float:
    """Of Student's t: units minus 1; for cells their effective number, by size or by share of the variance.

    Errors concentrated in a few cells make the variance as uncertain as if there were only these cells.
    """
    count = units.count if units.by == "image" else float(np.fmin(units.effective, estimate.effective))
    return max(count - 1, 1)


def quantile(estimate: Estimate, units: Units) -> float:
    """97.5% of Student's t."""
    return float(special.stdtrit(degrees_of_freedom(estimate, units), (1 + LEVEL) / 2))


def around(metric: str, estimate: Estimate, units: Units, *, extra_variance: float = 0.0) -> tuple[float, float]:
    """The ``jackknife`` interval of a metric; `extra_variance` is that of another source, such as seeds."""
    variance = estimate.variance + extra_variance
    if metric in LOSSES:
        half = quantile(estimate, units) * float(np.sqrt(variance))
        return max(0.0, estimate.value - half), estimate.value + half
    # Average precision is too high with few positives.
    value = estimate.value - estimate.bias if metric.startswith("map_") else estimate.value
    value = min(max(value, 0.0), 1.0)
    spread = value * (1 - value)
    # If no unit changes anything, the variance is unknown rather than 0: take the number of units as sample size.
    size = min(spread / variance, 1e12) if variance > 0 and spread > 0 else units.effective
    return wilson(value, size, quantile(estimate, units))


def of_estimate(
    metric: str, estimate: Estimate, units: Units, *, runs: int = 1, extra_variance: float = 0.0
) -> Interval:
    """The interval of a metric of one run, or of its mean over several; `extra_variance` as in `around`."""
    about = {"by": units.by, "units": units.count}
    if metric in SHARES and units.by == "image" and runs == 1:
        return Interval(wilson(estimate.value, units.count), "wilson", **about)
    return Interval(around(metric, estimate, units, extra_variance=extra_variance), "jackknife", **about)


def intervals(
    truth: Truth, decided: Truth, scores: Scores, units: Units, names: Sequence[str], *, multilabel: bool
) -> dict[str, Interval]:
    """The interval of every metric of `probes.jackknife.estimates`, or the reason why there is none."""
    found = {}
    for metric, estimate in jackknife.estimates(truth, decided, scores, units, multilabel=multilabel).items():
        about = {"by": units.by, "units": units.count}
        if reason := why_none(metric, truth, decided, units, names):
            found[metric] = Interval(None, None, **about, reason=reason)
        else:
            found[metric] = of_estimate(metric, estimate, units)
    return found | {"ece": Interval(None, None, units.by, units.count, reason=NO_ECE)}


def why_none(metric: str, truth: Truth, decided: Truth, units: Units, names: Sequence[str]) -> str | None:
    """Why a metric has no interval; None if it has one."""
    if units.by == "cell" and units.count < LEAST:
        return f"test lies in {units.count} spatial cells, fewer than {LEAST}"
    if metric in SHARES:
        return None
    if units.count < LEAST:
        return f"test has {units.count} samples, fewer than {LEAST}"
    positives, predicted = truth.sum(axis=0), decided.sum(axis=0)
    if "macro" in metric or metric == "balanced_accuracy":
        if metric.endswith("_occurring") or metric == "balanced_accuracy":
            occurs = positives > 0
            positives, predicted, names = positives[occurs], predicted[occurs], np.array(names)[occurs].tolist()
        if reason := _too_few(positives, "positives in test", names):
            return reason
        return _too_few(predicted, "predicted positives", names) if metric.startswith("precision") else None
    if metric.startswith("hamming") or metric in LOSSES:
        return None
    if positives.sum() < LEAST_POSITIVES:
        return f"test has {positives.sum()} positives, fewer than {LEAST_POSITIVES}"
    if metric.startswith("precision") and predicted.sum() < LEAST_POSITIVES:
        return f"{predicted.sum()} predicted positives, fewer than {LEAST_POSITIVES}"
    return None


def _too_few(counts: np.ndarray, noun: str, names: Sequence[str]) -> str | None:
    """Which classes have fewer than `LEAST_POSITIVES`; None if there are none."""
    few = np.flatnonzero(counts < LEAST_POSITIVES)
    if not len(counts):
        return "no class occurs in test"
    if not len(few):
        return None
    least = few[np.argmin(counts[few])]
    count = f"{counts[least]} {noun}"
    if len(few) == 1:
        return f"class '{names[least]}' has {count}, fewer than {LEAST_POSITIVES}"
    return f"{len(few)} classes have fewer than {LEAST_POSITIVES} {noun}; '{names[least]}' has {counts[least]}"


def difference(estimate: Estimate, units: Units, *, extra_variance: float = 0.0) -> Difference:
    """Interval and p value of a paired difference, by Student's t; `extra_variance` as in `around`."""
    error = np.sqrt(estimate.variance + extra_variance)
    if units.count < LEAST or not error > 0:
        return Difference(estimate.value, None, float("nan") if units.count < LEAST else 1.0)
    half = quantile(estimate, units) * error
    p = 2 * float(special.stdtr(degrees_of_freedom(estimate, units), -abs(estimate.value) / error))
    return Difference(estimate.value, (estimate.value - half, estimate.value + half), p)


def holm(p: Sequence[float]) -> list[float]:
    """P-values with Holm's correction for multiple tests (Holm 1979): the family-wise error rate at 0.05 stays 5%.

    The smallest of m is multiplied by m, the next by m - 1 and so on, and none may be below the previous one. NaN is
    kept.
    """
    values = np.asarray(p, np.float64)
    corrected = values.copy()
    tested = np.flatnonzero(~np.isnan(values))
    order = tested[np.argsort(values[tested], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(values[order] * factors), 1) if len(order) else []
    return corrected.tolist()


def support_warnings(truth: Truth, names: Sequence[str]) -> list[str]:
    """A warning that names the classes with few positives in test; empty if there are none."""
    counts = truth.sum(axis=0)
    few = [f"'{names[k]}' {counts[k]}" for k in range(len(counts)) if 0 < counts[k] < LEAST_POSITIVES]
    few_words = f"fewer than {LEAST_POSITIVES} positives in test ({', '.join(few)})"
    return [f"{few_words}: macro averages depend on a few samples and have no interval"] if few else []
