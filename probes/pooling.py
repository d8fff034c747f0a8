"""Intervals of runs and of means over runs that differ only in their seed: over test samples and over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from data.errors import RequestError
from data.files import canonical_json
from data.runs import Predictions, Run
from probes import intervals, jackknife, metrics, spatial
from probes.intervals import Interval
from probes.jackknife import Estimate
from probes.scores import decide
from probes.shapes import Scores, Truth
from probes.spatial import Units


@dataclass(frozen=True)
class Judged:
    """Truth, decisions under one rule, and scores of a run on some samples."""

    truth: Truth
    decided: Truth
    scores: Scores


@dataclass(frozen=True)
class Pooled:
    """Means over seeds, of runs with the same settings, under one rule and on the same test samples.

    Args:
        runs: S runs that differ only in their seed.
        estimates: by metric, the mean over the runs on all samples and without each unit.
        seed_variance: by metric, the variance of the mean over seeds: the variance between runs over S; 0 for one run.
        reasons: by metric, why there is no interval, or None.
        units: the independent units.
    """

    runs: tuple[Run, ...]
    estimates: dict[str, Estimate]
    seed_variance: dict[str, float]
    reasons: dict[str, str | None]
    units: Units

    def interval(self, metric: str) -> Interval:
        """The 95% interval of a mean over seeds: over the test samples and over the seeds."""
        if reason := self.reasons[metric]:
            return Interval(None, None, self.units.by, self.units.count, reason=reason)
        estimate, extra = self.estimates[metric], self.seed_variance[metric]
        return intervals.of_estimate(metric, estimate, self.units, runs=len(self.runs), extra_variance=extra)

    def less(self, other: "Pooled", metric: str) -> intervals.Difference:
        """The paired difference of a metric, this one minus the other."""
        extra = self.seed_variance[metric] + other.seed_variance[metric]
        return intervals.difference(self.estimates[metric] - other.estimates[metric], self.units, extra_variance=extra)


def groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs grouped by settings: runs of a group differ only in their seed, and were scored on the same test samples."""
    found: dict[tuple[str, str, str, str], list[Run]] = {}
    for run in runs:
        setting = canonical_json({"arguments": run.record.get("arguments"), "features": run.record["features"]})
        found.setdefault((run.dataset, run.encoder, run.kind, setting), []).append(run)
    return list(found.values())


def of_run(run: Run, split: str, rule: str) -> dict[str, Interval]:
    """The intervals of one run, by metric; empty for a split that has none.

    Runs of version 0.1 recorded intervals with too low coverage; theirs are computed again from the predictions, and
    are missing if these cannot be read.
    """
    recorded = run.record.get("intervals", {}).get(split, {}).get(rule, {})
    if all(isinstance(one, dict) for one in recorded.values()):
        return {
            name: Interval(None if one["interval"] is None else (one["interval"][0], one["interval"][1]),
                           one["method"], one["by"], one["units"], one["reason"])
            for name, one in recorded.items()
        }  # fmt: skip
    try:
        given = run.predictions(split)
        judged, units = judge(run, given, rule), units_of(run, given.lonlat, len(given.ids))
    except RequestError:
        return {}
    return intervals.intervals(
        judged.truth, judged.decided, judged.scores, units, run.class_names, multilabel=run.multilabel
    )


def test_of(runs: Sequence[Run], rule: str) -> tuple[list[Judged], Units]:
    """Runs with the same settings on all of test, and the independent units there.

    Raises:
        RequestError: predictions cannot be read, or are of different samples.
    """
    given = [run.predictions("test") for run in runs]
    for run, one in zip(runs, given, strict=True):
        if one.ids != given[0].ids:
            raise RequestError(f"{run.folder} and {runs[0].folder} have different test samples; run the probes again")
    judged = [judge(run, one, rule) for run, one in zip(runs, given, strict=True)]
    return judged, units_of(runs[0], given[0].lonlat, len(given[0].ids))


def units_of(run: Run, lonlat: Float[np.ndarray, "samples 2"] | None, samples: int) -> Units:
    """The independent units of test samples: cells as large as those of the run's own intervals, or images.

    A run of ``--protocol map`` recorded the size of its blocks; others have cells of `probes.spatial.DEGREES`.
    """
    return spatial.units(lonlat, samples, run.record.get("interval_units", {}).get("degrees", spatial.DEGREES))


def judge(run: Run, given: Predictions, rule: str) -> Judged:
    """Truth, decisions and scores of a run, from its predictions for a split or some of their rows."""
    truth = metrics.label_matrix(given.labels, len(run.class_names))
    return Judged(truth, decide(given.scores, thresholds_of(run, rule)), given.scores)


def thresholds_of(run: Run, rule: str) -> Float64[np.ndarray, " classes"] | None:
    """Thresholds that a run recorded for a decision rule; None for the argmax."""
    if not run.multilabel:
        return None
    return np.array([values["threshold"] for values in run.record["per_class"][rule]], np.float64)


def pool(runs: Sequence[Run], judged: Sequence[Judged], units: Units, *, only: str | None = None) -> Pooled:
    """Means over runs with the same settings (see `groups`), scored on the same samples; `only` one metric, or all."""
    names, multilabel = runs[0].class_names, runs[0].multilabel
    # Other metrics need no scores, which is faster.
    ranked = only is None or only.startswith("map_") or only in intervals.LOSSES
    each = [
        jackknife.estimates(one.truth, one.decided, one.scores if ranked else None, units, multilabel=multilabel)
        for one in judged
    ]
    means, between, reasons = {}, {}, {}
    for metric in each[0] if only is None else (only,):
        members = [one[metric] for one in each]
        values = np.array([one.value for one in members])
        means[metric] = Estimate(float(values.mean()), np.mean([one.left_out for one in members], axis=0))
        between[metric] = float(values.var(ddof=1) / len(values)) if len(values) > 1 else 0.0
        found = (intervals.why_none(metric, one.truth, one.decided, units, names) for one in judged)
        reasons[metric] = next(filter(None, found), None)
    return Pooled(tuple(runs), means, between, reasons, units)
