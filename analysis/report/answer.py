"""The answer that opens the report: the best run, its lead over the baselines, ties, weak classes and warnings."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import figures, frames, ranking
from analysis.contract import Table, noted
from analysis.views import compare
from data.runs import Run
from probes import pooling

WEAKEST = 3  # classes
MOST_TIED = 5  # runs named; all are in the ranking
NEAR_KM, NEAR_SHARE = 1.0, 0.05  # to a training sample, and of the test samples: what is warned of
CLASS_METRIC = {True: "f2", False: "recall"}
BASELINES = {
    "stats": lambda run: run.record["features"]["encoder"]["name"] == "stats" and run.kind != "prior",
    "prior": lambda run: run.kind == "prior",
}


@dataclass(frozen=True)
class Answer:
    """The result of one dataset's runs.

    Args:
        where: the dataset and, where it is not its own, the split.
        best: the run with the highest metric.
        title: the best run.
        sentence: its metric.
        lead: the gap to the baselines and the ties, in sentences.
        table: the best run, the best of each baseline, and what is tied with the best.
        weakest: the best run's classes with the lowest F2, or recall for single-label data.
        warnings: of the best run, and of what would make its metrics optimistic.
        ranked: all runs, best first.
    """

    where: str
    best: Run
    title: str
    sentence: str
    lead: str
    table: Table
    weakest: str
    warnings: list[str]
    ranked: Table


def answers(runs: Sequence[Run], rule: str, failures: list[str]) -> list[Answer]:
    """An answer for every dataset, and for every split of it that runs were tested on, multi-label runs under one rule.

    `failures` takes a line for each dataset whose runs cannot be compared.
    """
    found = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        with noted(failures, f"{dataset}, comparison"):
            frame, pairs, contenders = _ranked([run for run in runs if run.dataset == dataset], rule)
            members: Any = frame.groupby("test_split", sort=False)
            for split, part in members:
                members_runs = [contenders[row].run for row in part.index]
                found.append(_answer(part, pairs.loc[pairs["test_split"] == split], members_runs))
    return found


def _ranked(runs: Sequence[Run], rule: str) -> tuple[pd.DataFrame, pd.DataFrame, list[ranking.Contender]]:
    """By the headline metric; by F2 micro where too few positives leave F2 macro without intervals."""
    found = ranking.rankings(runs, (rule,))
    if runs[0].multilabel and bool(np.isnan(found[0]["low"].to_numpy(float)).all()):
        found = ranking.rankings(runs, (rule,), metric="f2_micro")
    return found


def _answer(frame: pd.DataFrame, pairs: pd.DataFrame, runs: list[Run]) -> Answer:
    rows, best = frame.to_dict("records"), runs[0]
    names, first, metric = [ranking.name_of(row) for row in rows], rows[0], frames.metric_of(frame)
    because, headline = "", ranking.HEADLINE[best.multilabel]
    if first["metric"] != headline:
        because = f" {frames.MULTILABEL_METRICS[headline]} has no interval, so runs are ranked by {metric}."
    gaps = {row["b"]: row for row in pairs.loc[pairs["a"] == names[0]].to_dict("records")}
    shown, lead = {0: "Best"}, []
    for baseline, is_one in BASELINES.items():
        at = next((at for at, run in enumerate(runs) if is_one(run)), None)
        if at is None:
            lead.append(f"There is no run of the baseline {baseline} to compare it with.")
        elif at == 0:
            lead.append(f"This is a run of the baseline {baseline}: no other run is better.")
            if other := next((at for at, run in enumerate(runs) if run.encoder != best.encoder), None):
                shown[other] = "Best other encoder"
        else:
            shown[at] = f"Baseline {baseline}"
            lead.append(_gap_words(gaps[names[at]], baseline))
    tied = [at for at, row in enumerate(rows) if row["tied"] and at]
    shown |= {at: f"{shown[at]}, tied" if at in shown else "Tied with the best" for at in tied[:MOST_TIED]}
    if len(rows) > 1:
        others = f"{len(rows) - 1} other run{'s' * (len(rows) > 2)}"
        lead.append(f"Not significantly different from it: {len(tied)} of {others}.")
    values = {at: _value(rows[at], runs[at]) for at in shown}
    cells = [[what, names[at], values[at], _gap(gaps[names[at]]) if at else ""] for at, what in shown.items()]
    words = frames.rule_words(first["rule"], first["multilabel"])
    return Answer(
        where=frames.with_split(best.dataset, first["test_split"]),
        best=best,
        title=f"Best: {first['probe']} on {first['model']}",
        sentence=f"{metric} {values[0]} on {int(first['samples']):,} test samples, {words}; in brackets: "
        f"{frames.interval_words(frame)}.{because}",
        lead=" ".join(lead),
        table=Table(["Role", "Run", metric, "Best minus this run"], cells),
        weakest=_weakest(best, first["rule"]),
        warnings=_warnings(first, best),
        ranked=compare.readable(frame),
    )


def _value(row: dict[str, Any], run: Run) -> str:
    """The value with its interval, which is the recorded one where the row is of one run on all its test samples."""
    metric, rule = row["metric"], row["rule"]
    if row["seeds"] == 1 and row["samples"] == run.record["features"]["splits"]["test"]["rows"]:
        row = row | frames.interval_columns(pooling.of_run(run, "test", rule).get(metric))
    low, high = (np.nan if row[bound] is None else row[bound] for bound in ("low", "high"))
    return figures.with_interval(row["value"], low, high)


def _gap(pair: dict[str, Any]) -> str:
    return figures.with_interval(pair["difference"], pair["low"], pair["high"])


def _gap_words(pair: dict[str, Any], baseline: str) -> str:
    tested = "not testable" if np.isnan(pair["p"]) else "significant" if pair["significant"] else "not significant"
    return f"It is {_gap(pair)} better than {baseline} ({tested})."


def _weakest(run: Run, rule: str) -> str:
    """The classes that the run recognizes worst, of those that occur in test."""
    metric, frame = CLASS_METRIC[run.multilabel], frames.per_class_frame([run])
    frame = frame.loc[(frame["rule"] == rule) & (frame["support"] > 0)].sort_values(metric, kind="stable")
    return "; ".join(
        f"{row['class']} ({metric.capitalize()} {figures.number(row[metric])}, {row['support']:,} positives)"
        for row in frame.head(WEAKEST).to_dict("records")
    )


def _warnings(row: dict[str, Any], best: Run) -> list[str]:
    lines = ["simulated data: not a result on real imagery"] if best.simulated else []
    lines += [row["reason"]] * bool(row["reason"]) + [row["few_cells"]] * bool(row["few_cells"])
    km = best.predictions("test").train_km
    if km is not None and (near := float((km < NEAR_KM).mean())) >= NEAR_SHARE:
        lines.append(
            f"{near:.0%} of test samples lie within {NEAR_KM:g} km of a training sample, which makes metrics "
            "too optimistic for other places; probe --split-by cells keeps them apart"
        )
    return list(dict.fromkeys([*lines, *best.record["warnings"]]))
