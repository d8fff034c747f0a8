"""The parts of a run's record (``run.json``): warnings, metrics, intervals, rows per class, versions.

Each function makes one part from what was fitted and scored; `probes.fit.run_probe` puts them together.
"""

import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import numpy as np

from data import store
from probes import intervals, metrics, spatial
from probes.grid import at_edge
from probes.probabilities import probability_metrics
from probes.scores import HALF
from probes.search import SearchResult, words
from probes.settings import Settings

PACKAGES = ("frozen-earth", "joblib", "numpy", "scikit-learn", "scipy", "skops")


def data_warnings(splits: dict[str, store.FeatureSet], truth: dict[str, np.ndarray]) -> list[str]:
    """What a reader of the numbers should know about the samples.

    Args:
        splits: see `probes.inputs.read_splits`.
        truth: by split, (N, K) booleans of the rows in use.
    """
    found = []
    ids = {split: set(set_.ids) for split, set_ in splits.items()}
    for one, other in (("val", "train"), ("test", "train"), ("test", "val")):
        if one in ids and other in ids and (both := len(ids[one] & ids[other])):
            found.append(f"{both} of {len(ids[one])} {one} ids are also in {other}: {one} metrics are too good")
    effects = {
        "train": "nothing was learned of it, and it scores at or near 0",
        "val": "its threshold stays 0.5",
        "test": "it counts as 0 in macro precision, recall and F, and has no average precision",
    }
    names = splits["train"].class_names
    for split, effect in effects.items():
        found += [
            f"class '{names[k]}' does not occur in {split}: {effect}" for k in np.flatnonzero(~truth[split].any(0))
        ]
    if splits["train"].multilabel:
        always = np.flatnonzero(truth["train"].all(axis=0))
        found += [f"class '{names[k]}' is on every train sample: there is nothing to learn" for k in always]
    return found


def chosen_on(folds: np.ndarray | None, val: store.FeatureSet | None, lonlat: np.ndarray | None) -> dict[str, Any]:
    """The record's ``chosen_on``: what chose the candidate, the thresholds and the calibration.

    Without folds it is val, scored by the fit on train alone, also where the final fit is on train and val. With folds
    it is every sample of train and val, scored by the fit that has not seen its fold; ``val`` of the run are these
    out-of-fold scores.

    Args:
        folds: (N,) fold of each sample, or None.
        val: None where there is none.
        lonlat: (N, 2) locations of these samples, or None.
    """
    if folds is None:
        return {"samples": "val"}
    cells = spatial.cells(lonlat)
    return {
        "samples": "train" if val is None else "train and val",
        "folds": np.bincount(folds).tolist(),
        "cells": None if cells is None else int(cells.max()) + 1,
    }


def beside_protocol(settings: Settings, features: dict[str, Any]) -> dict[str, Any]:
    """Flags that no protocol fixes and that change what is fitted or scored, as given.

    Args:
        settings: see `probes.settings.Settings`.
        features: of the record.
    """
    resplit = features["splits"]["train"].get("resplit") or {}
    return {
        "split-by": resplit.get("by"),
        "budget": None if settings.budget_s is None else f"{settings.budget_s:g}s",
        "val": None if settings.shots is None else settings.val,
    }


def search_warnings(found: SearchResult, budget_s: float | None, natural: dict[str, Sequence[Any]]) -> list[str]:
    """What a reader should know about the candidates: fits that stopped early, edges of a grid, what was skipped.

    Args:
        found: how the search ended.
        budget_s: see `probes.settings.Settings`.
        natural: see `probes.grid.at_edge`.
    """
    tried = found.tried
    lines = [f"{words(t.params)} stopped before it converged" for t in tried if not t.converged]
    lines += at_edge(found.best, tried, natural)
    lines += [
        f"{words(t.params)}: the budget ended with {t.history['trees']} trees" for t in tried if "trees" in t.history
    ]
    if found.skipped:
        lines.append(
            f"the budget of {budget_s:g} s ended with {found.skipped} of {found.skipped + len(tried)} candidates "
            "untried; a faster machine would try more and might choose another"
        )
    return lines


def threshold_warnings(thresholds: dict[str, Any] | None, tuned: np.ndarray | None) -> list[str]:
    """Thresholds that could not be tuned: on val 0.5 was better than any that shrinking gave.

    Args:
        thresholds: of the record; None for single-label runs.
        tuned: (K,) of the ``tuned`` rule.
    """
    if thresholds is None or tuned is None or not (tuned == HALF).all() or set(thresholds["own"]) == {HALF}:
        return []
    return [f"shrunk thresholds have a lower F{thresholds['beta']:g} on val than 0.5: the tuned rule keeps 0.5"]


def metrics_of(
    truth: np.ndarray, decided: np.ndarray, scores: np.ndarray, *, multilabel: bool
) -> dict[str, float | None]:
    """The metrics of one split under one rule.

    Args:
        truth: (N, K) booleans.
        decided: (N, K) booleans.
        scores: (N, K).
        multilabel: whether the columns are independent labels.
    """
    about_scores = probability_metrics(truth, scores, multilabel=multilabel)
    if multilabel:
        return metrics.multilabel_metrics(truth, decided, scores) | about_scores
    return metrics.single_label_metrics(truth.argmax(axis=1), decided.argmax(axis=1), truth.shape[1]) | about_scores


def interval_parts(
    truth: np.ndarray,
    decisions: dict[str, np.ndarray],
    scores: np.ndarray,
    lonlat: np.ndarray | None,
    names: Sequence[str],
    *,
    multilabel: bool,
) -> dict[str, Any]:
    """The record's ``intervals`` of test, by rule and metric, and ``interval_units``: what was taken as independent.

    Args:
        truth: (N, K) booleans.
        decisions: by rule, (N, K) booleans.
        scores: (N, K).
        lonlat: (N, 2) degrees, or None.
        names: K class names.
        multilabel: whether the columns are independent labels.
    """
    units = spatial.units(lonlat, len(truth))
    found = {
        rule: {
            name: one.as_record()
            for name, one in intervals.intervals(truth, decided, scores, units, names, multilabel=multilabel).items()
        }
        for rule, decided in decisions.items()
    }
    about = {"level": intervals.LEVEL, "by": units.by, "count": units.count, "effective": units.effective}
    if units.by == "cell":
        about["degrees"] = spatial.DEGREES
    return {"intervals": {"test": found}, "interval_units": about}


def interval_warnings(truth: np.ndarray, lonlat: np.ndarray | None, names: Sequence[str]) -> list[str]:
    """Classes with few positives in test, and few spatial cells.

    Args:
        truth: (N, K) booleans, of test.
        lonlat: (N, 2) degrees, or None.
        names: K class names.
    """
    cells = spatial.units(lonlat, len(truth)).warning
    return [*intervals.support_warnings(truth, names), *([cells] if cells else [])]


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
