"""Summaries of many runs on the same features: several seeds, learning curves; each run is on disk by itself.

The two tables of a sweep, ``runs.csv`` (one row per run and rule) and ``summary.csv`` (mean and interval over seeds),
go to a folder named after the runs, so that the same request writes the same files.
"""

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data import paths
from data.files import short_hash, write_text
from data.rules import rule_name, rules_of
from data.runs import Run
from probes import metrics, pooling, probabilities
from probes.intervals import NO_ECE

METRICS = tuple(dict.fromkeys((*metrics.MULTILABEL, *metrics.SINGLE_LABEL, *probabilities.NAMES)))
GROUP = ("kind", "shots", "fraction", "rule")  # what the runs of a group share; they differ in seed


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row per run and rule: its settings, rows of train and val, test metrics, and the run's folder.

    Single-label runs have one rule, ``argmax``.

    Returns:
        ``dataset encoder simulated kind shots fraction rule seed train_rows val_rows``, all metrics, ``run``.
        ``shots`` and ``fraction`` are None where train was not cut by them.
    """
    return [
        {
            "dataset": run.dataset,
            "encoder": run.encoder,
            "simulated": run.simulated,
            "kind": run.kind,
            "shots": run.record["arguments"].get("shots"),
            "fraction": run.record["arguments"].get("fraction"),
            "rule": rule_name(rule, run.multilabel),
            "seed": run.record["seed"],
            "train_rows": run.record["rows"]["train"],
            "val_rows": run.record["rows"]["val"],
            **run.record["metrics"]["test"][rule],
            "run": run.folder.name,
        }
        for run in runs
        for rule in rules_of(run.multilabel)
    ]


def summary(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Runs of several seeds pooled: mean, standard deviation and interval of every metric, in the order of the runs.

    Returns:
        A row per group and metric: ``dataset encoder simulated kind shots fraction rule train_rows val_rows metric
        seeds mean std low high min max by reason``. ``train_rows`` and ``val_rows`` are means, ``seeds`` counts the
        runs in which the metric is defined, ``std`` is the sample standard deviation (n - 1; None for one seed),
        ``low`` and ``high`` bound the 95% interval of the mean (`probes.pooling.Pooled.interval`: over the test
        samples, ``by`` image or spatial cell, and over the seeds). ``reason`` says why there is no interval.

    Raises:
        RequestError: predictions cannot be read, or are of different samples.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        asked = run.record["arguments"]
        groups.setdefault((run.kind, asked.get("shots"), asked.get("fraction")), []).append(run)
    found = []
    for group in groups.values():
        table = rows(group)
        for rule in dict.fromkeys(row["rule"] for row in table):
            members = [row for row in table if row["rule"] == rule]
            about = {name: members[0][name] for name in ("dataset", "encoder", "simulated", *GROUP)}
            for split in ("train_rows", "val_rows"):
                about[split] = statistics.fmean(row[split] for row in members)
            pooled = pooling.pool(group, *pooling.test_of(group, "half" if rule == "argmax" else rule))
            for metric in (name for name in METRICS if name in members[0]):
                values = [row[metric] for row in members]
                found.append(about | {"metric": metric} | _moments(values) | _interval(pooled, metric, values))
    return found


def write(out: Path, runs: Sequence[Run], summary_rows: Sequence[dict[str, Any]]) -> Path:
    """Write ``runs.csv`` and ``summary.csv`` of runs of one feature set; returns their folder."""
    kinds = "+".join(dict.fromkeys(run.kind for run in runs))
    name = f"{kinds}-{short_hash([run.folder.name for run in runs])}"
    folder = paths.sweep_folder(out, runs[0].dataset, runs[0].encoder, name)
    for file, content in (("runs.csv", rows(runs)), ("summary.csv", summary_rows)):
        write_text(folder / file, _csv(content))
    return folder


def _moments(given: Sequence[float | None]) -> dict[str, Any]:
    values = [value for value in given if value is not None]
    found: dict[str, Any] = dict.fromkeys(("mean", "std", "low", "high", "min", "max"))
    if values:
        found |= {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}
    if len(values) > 1:
        found["std"] = statistics.stdev(values)
    return {"seeds": len(values), **found}


def _interval(pooled: pooling.Pooled, metric: str, values: Sequence[float | None]) -> dict[str, Any]:
    by = pooled.units.words
    if metric not in pooled.estimates:
        return {"by": by, "reason": NO_ECE}
    if None in values:
        return {"by": by, "reason": "undefined for some seeds"}
    one = pooled.interval(metric)
    low, high = one.interval or (None, None)
    return {"low": low, "high": high, "by": by, "reason": one.reason or ""}


def _csv(table: Sequence[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()
