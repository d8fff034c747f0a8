"""Two runs on the same test samples: paired bootstrap differences, and McNemar's test for single-label runs.

Both runs are judged on the same resamples, so that what makes a sample hard for both cancels out: differences much
smaller than the runs' own intervals can be told from chance.
"""

from typing import Any

import numpy as np
from scipy.stats import binomtest

from data.errors import RequestError
from data.runs import Predictions, Run
from probes import metrics, spatial
from probes.predict import thresholds_of
from probes.scores import decide


def compare(
    one: Run, other: Run, *, rule: str = "tuned", other_rule: str | None = None, seed: int = 0
) -> dict[str, Any]:
    """How much better the second run is, on test.

    Args:
        one: the first run.
        other: the second run, perhaps the same one under another rule.
        rule: ``tuned`` or ``half``; single-label runs call the highest score under both.
        other_rule: of the second run; None for the same.
        seed: of the bootstrap.

    Returns:
        ``samples``, ``cells`` (None where locations are unknown), ``metrics``: by name ``one``, ``other``,
        ``difference`` (other - one), ``interval`` by image and ``cell_interval`` by spatial cell (95 %, None where
        undefined); and ``mcnemar`` (None for multi-label runs), see `mcnemar`.

    Raises:
        RequestError: other classes, other test samples or other labels; a run without predictions.
    """
    if one.class_names != other.class_names or one.multilabel != other.multilabel:
        raise RequestError(f"{one.folder} and {other.folder} are of other classes; compare runs of one dataset")
    first, second = one.predictions("test"), _in_order(one, other)
    truth = metrics.label_matrix(first.labels, len(one.class_names))
    if not np.array_equal(truth, metrics.label_matrix(second.labels, len(one.class_names))):
        raise RequestError(
            f"{one.folder} and {other.folder} differ in the labels of test samples; run the probes again"
        )
    decided = [
        decide(predictions.scores, thresholds_of(run, name))
        for run, predictions, name in ((one, first, rule), (other, second, other_rule or rule))
    ]
    scores = [first.scores, second.scores]
    groups = {"interval": None, "cell_interval": spatial.cells(first.lonlat)}
    values = [_values(truth, d, s, multilabel=one.multilabel) for d, s in zip(decided, scores, strict=True)]
    found: dict[str, Any] = {
        name: {
            "one": values[0][name],
            "other": values[1][name],
            "difference": None if values[0][name] is None else values[1][name] - values[0][name],
            "interval": None,
            "cell_interval": None,
        }
        for name in values[0]
    }
    for kind, numbers in groups.items():
        if kind == "cell_interval" and numbers is None:
            continue
        samples = [
            metrics.resampled_counts(truth, d, names=tuple(found), seed=seed, groups=numbers)
            | (metrics.resampled_average_precision(truth, s, seed=seed, groups=numbers) if one.multilabel else {})
            for d, s in zip(decided, scores, strict=True)
        ]
        for name, drawn in samples[0].items():
            differences = samples[1][name] - drawn
            if (defined := differences[~np.isnan(differences)]).size:
                found[name][kind] = metrics.interval(defined)
    cells = groups["cell_interval"]
    return {
        "samples": len(truth),
        "cells": None if cells is None else int(cells.max()) + 1,
        "metrics": found,
        "mcnemar": None if one.multilabel else mcnemar(*((d & truth).any(axis=1) for d in decided)),
    }


def mcnemar(one: np.ndarray, other: np.ndarray) -> dict[str, float | int]:
    """McNemar's test, exact: whether two classifiers are right equally often.

    Under that hypothesis a sample that only one of them gets right is as likely to be either's, so that the number of
    one's is binomial with a half (McNemar 1947).

    Args:
        one: (N,) booleans, whether the first is right.
        other: (N,) booleans, whether the second is right.

    Returns:
        ``only_one`` and ``only_other``, samples that only one gets right, and ``p``, two-sided.
    """
    only_one, only_other = int((one & ~other).sum()), int((~one & other).sum())
    discordant = only_one + only_other
    p = float(binomtest(only_one, discordant).pvalue) if discordant else 1.0
    return {"only_one": only_one, "only_other": only_other, "p": p}


def _in_order(one: Run, other: Run) -> Predictions:
    """The second run's predictions of test in the order of the first one's samples."""
    wanted, given = one.predictions("test").ids, other.predictions("test")
    row = {name: number for number, name in enumerate(given.ids)}
    if row.keys() != set(wanted):
        raise RequestError(
            f"{one.folder} and {other.folder} were tested on other samples: {len(wanted)} and {len(given.ids)}, "
            f"{len(row.keys() & set(wanted))} of them shared; compare runs of one test split"
        )
    rows = [row[name] for name in wanted]
    return Predictions(ids=wanted, labels=given.labels[rows], scores=given.scores[rows])


def _values(truth: np.ndarray, decided: np.ndarray, scores: np.ndarray, *, multilabel: bool) -> dict[str, Any]:
    if multilabel:
        return metrics.multilabel_metrics(truth, decided, scores)
    return metrics.single_label_metrics(truth.argmax(axis=1), decided.argmax(axis=1), truth.shape[1])
