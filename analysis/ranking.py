"""Runs of one dataset against each other: values, intervals, paired differences, ranks that tie by significance."""

from collections.abc import Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd

from analysis import frames
from analysis.studies import protocol
from data.errors import RequestError
from data.runs import Predictions, Run
from probes import intervals, metrics, pooling
from probes.intervals import Interval
from probes.pooling import Pooled

HEADLINE = {True: "f2_macro", False: "accuracy"}
PAIR_VALUES = ["difference", "low", "high", "p", "p_holm", "significant"]
LEVEL = 0.05
RANK = "Rank: 1 plus the number of runs that are significantly better."
COMPARED = "Significant: p of the paired difference below 0.05 after Holm's correction for all pairs of the dataset."


@dataclass(frozen=True)
class Contender:
    """Runs that differ only in their seed under one rule: means over them on the test samples that all share."""

    rule: str
    metric: str
    pooled: Pooled

    @property
    def run(self) -> Run:
        """The one that stands for all."""
        return self.pooled.runs[0]

    @property
    def value(self) -> float:
        """The metric on all shared samples, a mean over seeds."""
        return self.pooled.estimates[self.metric].value

    @property
    def interval(self) -> Interval:
        """Its 95% interval."""
        return self.pooled.interval(self.metric)


def rankings(
    runs: Sequence[Run], rules: Sequence[str], *, metric: str = "", without: Set[str] = frozenset()
) -> tuple[pd.DataFrame, pd.DataFrame, list[Contender]]:
    """Values, intervals and ranks of every setting, and every pair.

    Args:
        runs: of any datasets; those of one dataset and test split (`frames.split_words`) are ranked together, each
            rule by itself. Runs that differ only in their seed are taken together before they are ranked.
        rules: see `ViewRequest.rules`; single-label runs have one.
        metric: a name of the run contract; datasets that do not have it are left out. Default: see `HEADLINE`.
        without: ids of test samples to leave out.

    Returns:
        A row per dataset x rule x setting, best first: the columns of `frames.run_columns`, then ``probe seeds rule
        metric samples value low high by reason few_cells rank tied published``. ``rank`` is 1 plus the
        number of settings that are significantly better; ``tied`` says that it does not differ significantly from
        the best; ``published`` is `protocol.matching`; ``few_cells`` is a warning
        or empty. A row per pair of them, the better first: ``dataset rule test_split a b difference low high p p_holm
        significant simulated``. And the contenders, in the order of the rows.

    Raises:
        RequestError: runs of one dataset share no test samples, or predictions do not agree with their run.
    """
    rows, pairs, all_contenders = [], [], []
    datasets = list(dict.fromkeys(run.dataset for run in runs))
    groups = dict.fromkeys((run.dataset, frames.split_words(run)) for run in runs)
    for key in sorted(groups, key=lambda group: (datasets.index(group[0]), group[1] != frames.ORIGINAL)):
        members = [run for run in runs if (run.dataset, frames.split_words(run)) == key]
        multilabel = members[0].multilabel
        chosen = metric or HEADLINE[multilabel]
        if chosen not in frames.metric_names(multilabel):
            continue
        for rule in rules if multilabel else ("half",):
            contenders, shared = _contend(members, rule, chosen, without)
            contenders, ranked, of_rule = _ranked(contenders)
            rows += [row | {"metric": chosen, "samples": shared} for row in ranked]
            pairs += of_rule
            all_contenders += contenders
    numbers = dict.fromkeys(("value", "low", "high"), "float64")
    frame = frames.with_names(pd.DataFrame(rows).astype(numbers), [group[0] for group in pooling.groups(runs)])
    frame["probe"] = [frames.seeds_words(*row) for row in zip(frame["probe"], frame["seeds"], strict=True)]
    names = {(row["dataset"], row["encoder"], row["run"]): name_of(row) for row in frame.to_dict("records")}
    table = pd.DataFrame(pairs, columns=["dataset", "rule", "test_split", "a", "b", *PAIR_VALUES, "simulated"])
    return frame, table.assign(**{side: [names[key] for key in table[side]] for side in ("a", "b")}), all_contenders


def worded(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame of `rankings` for a file: published numbers as text, and in ``protocol`` how each one differs."""
    return frame.assign(
        published=["; ".join(match.words() for match in found) for found in frame["published"]],
        protocol=[
            " | ".join(f"{match.published.value:.3f}: {'; '.join(match.differences)}" for match in found)
            for found in frame["published"]
        ],
    )


def name_of(row: dict[str, Any]) -> str:
    """Model and probe of a row, as they are shown."""
    return f"{row['model']}; {row['probe']}"


def _contend(runs: Sequence[Run], rule: str, metric: str, without: Set[str]) -> tuple[list[Contender], int]:
    predictions = {run.folder: run.predictions("test") for run in runs}
    sets = [set(one.ids) for one in predictions.values()]
    shared = [name for name in next(iter(predictions.values())).ids if all(name in ids for ids in sets)]
    if not shared:
        raise RequestError(f"the runs on {runs[0].dataset} share no test samples; {_advice(runs, sets)}")
    if not (shared := [name for name in shared if name not in without]):
        raise RequestError(f"all test samples that the runs on {runs[0].dataset} share would be excluded")
    judged, lonlat, first = {}, None, None
    for run in runs:
        given = predictions[run.folder]
        whole = pooling.judge(run, given, rule)
        tp, fp, _, fn = metrics.confusion_counts(whole.truth, whole.decided)
        recorded = [(c["tp"], c["fp"], c["fn"]) for c in run.record["per_class"][rule]]
        if [tuple(map(int, counts)) for counts in zip(tp, fp, fn, strict=True)] != recorded:
            raise RequestError(f"{run.folder}: predictions.h5 does not agree with run.json; run the probe again")
        row_of = {name: row for row, name in enumerate(given.ids)}
        part = _rows(given, [row_of[name] for name in shared])
        judged[run.folder] = one = pooling.judge(run, part, rule)
        lonlat = part.lonlat if lonlat is None else lonlat
        first = one.truth if first is None else first
        if one.truth.shape != first.shape or (one.truth != first).any():
            raise RequestError(
                f"{run.folder} and {runs[0].folder} differ in the labels of the same test samples; compare runs of one "
                "version of the data"
            )
    units = pooling.units_of(runs[0], lonlat, len(shared))
    pooled = [
        pooling.pool(group, [judged[run.folder] for run in group], units, only=metric) for group in pooling.groups(runs)
    ]
    return [Contender(rule, metric, one) for one in pooled], len(shared)


def _advice(runs: Sequence[Run], sets: Sequence[Set[str]]) -> str:
    """How to choose runs that do share test samples."""
    for flag, of_run in (("--kind", lambda run: run.kind), ("--model", lambda run: run.encoder)):
        by: dict[str, list[Set[str]]] = {}
        for run, ids in zip(runs, sets, strict=True):
            by.setdefault(of_run(run), []).append(ids)
        if len(by) > 1 and all(set.intersection(*map(set, group)) for group in by.values()):
            return f"choose some with {flag}: {', '.join(by)}"
    first = [run.folder.name for run, ids in zip(runs, sets, strict=True) if not ids & sets[0]]
    return (
        f"{', '.join(first) or 'some'} of them share no samples with {runs[0].folder.name}: move the runs of one "
        "version of the data to another folder and name it with --out"
    )


def _rows(given: Predictions, rows: list[int]) -> Predictions:
    lonlat = None if given.lonlat is None else given.lonlat[rows]
    return Predictions([given.ids[row] for row in rows], given.labels[rows], given.scores[rows], lonlat)


def _ranked(contenders: list[Contender]) -> tuple[list[Contender], list[dict[str, Any]], list[dict[str, Any]]]:
    sign = -1 if contenders[0].metric in frames.LOWER_IS_BETTER else 1
    contenders = sorted(contenders, key=lambda one: -sign * np.nan_to_num(one.value, nan=-sign * np.inf))
    metric = contenders[0].metric
    of_pairs = [
        (i, j, one.pooled.less(other.pooled, metric)) for (i, one), (j, other) in combinations(enumerate(contenders), 2)
    ]
    corrected = intervals.holm([difference.p for _, _, difference in of_pairs])
    better = np.zeros(len(contenders), int)  # how many are significantly better
    tied = np.ones(len(contenders), bool)
    pairs = []
    for (i, j, difference), p_holm in zip(of_pairs, corrected, strict=True):
        significant = bool(p_holm < LEVEL)  # not where it is NaN
        better[j] += significant
        if i == 0:
            tied[j] = not significant
        low, high = difference.interval or (np.nan, np.nan)
        a, b = ((c.run.dataset, c.run.encoder, c.run.folder.name) for c in (contenders[i], contenders[j]))
        split = frames.split_words(contenders[i].run)
        about = {"dataset": a[0], "rule": contenders[i].rule, "test_split": split, "a": a, "b": b}
        values = (difference.value, low, high, difference.p, p_holm, significant)
        pairs.append(about | dict(zip(PAIR_VALUES, values, strict=True)) | {"simulated": contenders[i].run.simulated})
    rows = [
        frames.run_columns(one.run)
        | {"seeds": len(one.pooled.runs), "rule": one.rule, "value": one.value}
        | frames.interval_columns(one.interval)
        | {"few_cells": one.pooled.units.warning or "", "rank": 1 + int(better[row]), "tied": bool(tied[row])}
        | {"published": tuple(protocol.matching(one.run.record, metric))}
        for row, one in enumerate(contenders)
    ]
    return contenders, rows, pairs
