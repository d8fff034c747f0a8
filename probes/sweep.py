"""Many runs of the same features told together: several seeds, learning curves; each run is on disk by itself.

The two tables of a sweep, ``runs.csv`` (a row a run and rule) and ``summary.csv`` (mean and interval over seeds),
go to a folder named after what was asked for, so that the same request writes the same files.
"""

import csv
import io
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scipy.stats import t

from data import paths
from data.files import short_hash, write_text
from data.runs import Run
from probes import metrics, probabilities

METRICS = tuple(dict.fromkeys((*metrics.MULTILABEL, *metrics.SINGLE_LABEL, *probabilities.NAMES)))
ABOUT = ("kind", "shots", "fraction", "rule")  # what runs of one group share; they differ in seed


def rows(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """A row a run and rule: what was asked for, rows of train, test metrics, and the run's folder.

    Single-label runs have one rule, told as ``argmax``.

    Returns:
        ``dataset encoder simulated kind shots fraction rule seed train_rows val_rows``, all metrics, ``run``.
        ``shots`` and ``fraction`` are None where train was not cut by them.
    """
    found = []
    for run in runs:
        arguments = run.record["arguments"]
        for rule in ("half", "tuned") if run.multilabel else ("half",):
            found.append(
                {
                    "dataset": run.dataset,
                    "encoder": run.encoder,
                    "simulated": run.simulated,
                    "kind": run.kind,
                    "shots": arguments.get("shots"),
                    "fraction": arguments.get("fraction"),
                    "rule": rule if run.multilabel else "argmax",
                    "seed": run.record["seed"],
                    "train_rows": run.record["rows"]["train"],
                    "val_rows": run.record["rows"]["val"],
                    **run.record["metrics"]["test"][rule],
                    "run": run.folder.name,
                }
            )
    return found


def summary(table: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of several seeds pooled: mean, standard deviation and interval of every metric, in the order of the runs.

    Args:
        table: see `rows`.

    Returns:
        A row per group and metric: ``dataset encoder simulated kind shots fraction rule train_rows val_rows metric
        seeds mean std low high min max``. ``train_rows`` and ``val_rows`` are means, ``seeds`` counts the runs in which
        the metric is defined, ``std`` is that of a sample (divided by n - 1), ``low`` and ``high`` bound the 95 %
        interval of the mean over seeds (Student's t; it covers what seeds change, such as the samples drawn, not the
        choice of test samples), ``min`` and ``max`` are the least and the greatest value. One seed has neither ``std``
        nor interval.
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in table:
        groups.setdefault(tuple(row[name] for name in ABOUT), []).append(row)
    found = []
    for members in groups.values():
        about = {name: members[0][name] for name in ("dataset", "encoder", "simulated", *ABOUT)}
        for split in ("train_rows", "val_rows"):
            about[split] = statistics.fmean(row[split] for row in members)
        for metric in (name for name in METRICS if name in members[0]):
            values = [row[metric] for row in members if row[metric] is not None]
            found.append(about | {"metric": metric} | _moments(values))
    return found


def write(out: Path, runs: Sequence[Run]) -> Path:
    """Write ``runs.csv`` and ``summary.csv`` of runs of one feature set; returns their folder."""
    table = rows(runs)
    kinds = "+".join(dict.fromkeys(run.kind for run in runs))
    name = f"{kinds}-{short_hash([run.folder.name for run in runs])}"
    folder = paths.sweep_folder(out, runs[0].dataset, runs[0].encoder, name)
    for file, content in (("runs.csv", table), ("summary.csv", summary(table))):
        write_text(folder / file, _csv(content))
    return folder


def _moments(values: list[float]) -> dict[str, Any]:
    found: dict[str, Any] = dict.fromkeys(("mean", "std", "low", "high", "min", "max"))
    if values:
        found |= {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}
    if len(values) > 1:
        std = statistics.stdev(values)
        half = float(t.ppf(0.975, len(values) - 1)) * std / len(values) ** 0.5
        found |= {"std": std, "low": found["mean"] - half, "high": found["mean"] + half}
    return {"seeds": len(values), **found}


def _csv(table: Sequence[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return buffer.getvalue()
