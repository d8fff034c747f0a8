"""The parts of a run's record (``run.json``): warnings, metrics, intervals, versions.

Each function makes one part; `probes.fit.run_probe` puts them together.
"""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib import metadata
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from data import store
from probes import intervals, metrics, spatial
from probes.grid import at_edge
from probes.probabilities import probability_metrics
from probes.scores import HALF
from probes.search import SearchResult, words
from probes.settings import Settings
from probes.shapes import Scores, Truth

PACKAGES = ("frozen-earth", "joblib", "numpy", "scikit-learn", "scipy", "skops")


def data_warnings(splits: dict[str, store.FeatureSet], truth: dict[str, Bool[np.ndarray, "_ classes"]]) -> list[str]:
    """Samples that are in two splits, and classes that are missing from a split (of the rows in use) or constant."""
    lines = []
    ids = {split: set(features.ids) for split, features in splits.items()}
    for one, other in (("val", "train"), ("test", "train"), ("test", "val")):
        if one in ids and other in ids and (both := len(ids[one] & ids[other])):
            lines.append(f"{both} of {len(ids[one])} {one} ids are also in {other}: {one} metrics are overestimated")
    effects = {
        "train": "the probe cannot learn it and scores it at or near 0",
        "val": "its threshold stays 0.5",
        "test": "it counts as 0 in macro precision, recall and F, and has no average precision",
    }
    names = splits["train"].class_names
    for split, effect in effects.items():
        lines += [
            f"class '{names[k]}' does not occur in {split}: {effect}" for k in np.flatnonzero(~truth[split].any(0))
        ]
    if splits["train"].multilabel:
        always = np.flatnonzero(truth["train"].all(axis=0))
        lines += [f"every train sample has class '{names[k]}': the probe cannot learn it" for k in always]
    return lines


def chosen_on(
    folds: Integer[np.ndarray, " samples"] | None,
    val: store.FeatureSet | None,
    lonlat: Float[np.ndarray, "samples 2"] | None,
) -> dict[str, Any]:
    """``chosen_on`` of the record: the samples that chose the candidate, the thresholds and the calibration.

    Without folds they are val, scored by the fit on train alone, also if the final fit is on train and val. With folds
    they are all samples of train and val, each scored by the fit that has not seen its fold; ``val`` of the run are
    these out-of-fold scores; ``cells`` counts the spatial cells that they lie in.
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
    """Flags that no protocol sets and that change what is fitted or scored, as given (``features``: of the record)."""
    resplit = features["splits"]["train"].get("resplit") or {}
    return {
        "split-by": resplit.get("by"),
        "budget": None if settings.budget_s is None else f"{settings.budget_s:g}s",
        "val": None if settings.shots is None else settings.val,
    }


def search_warnings(found: SearchResult, budget_s: float | None, natural: Mapping[str, Sequence[Any]]) -> list[str]:
    """Fits that stopped early, the best candidate at the edge of its grid, and candidates that were skipped."""
    tried = found.tried
    cut_short = [t for t in tried if "trees" in t.history]
    lines = [f"{words(t.params)} stopped before it converged" for t in tried if not t.converged]
    lines += at_edge(found.best, tried, natural)
    lines += [f"{words(t.params)}: {t.history['trees']} trees when the budget ended" for t in cut_short]
    if found.skipped:
        lines.append(
            f"{found.skipped} of {found.skipped + len(tried)} candidates were skipped when the budget of "
            f"{budget_s:g} s ended; a faster machine would try more and might choose another one"
        )
    return lines


def threshold_warnings(thresholds: dict[str, Any] | None, tuned: Float[np.ndarray, " classes"] | None) -> list[str]:
    """Thresholds of the ``tuned`` rule that stay at 0.5, because shrunk ones had a lower F-beta on val."""
    if thresholds is None or tuned is None or not (tuned == HALF).all() or set(thresholds["own"]) == {HALF}:
        return []
    return [f"tuned thresholds have a lower F{thresholds['beta']:g} on val than 0.5: the tuned rule uses 0.5"]


def metrics_of(truth: Truth, decided: Truth, scores: Scores, *, multilabel: bool) -> dict[str, float | None]:
    """The metrics of one split under one decision rule."""
    of_scores = probability_metrics(truth, scores, multilabel=multilabel)
    if multilabel:
        return metrics.multilabel_metrics(truth, decided, scores) | of_scores
    return metrics.single_label_metrics(truth.argmax(axis=1), decided.argmax(axis=1), truth.shape[1]) | of_scores


def interval_parts(
    truth: Truth,
    decisions: dict[str, Truth],
    scores: Scores,
    units: spatial.Units,
    names: Sequence[str],
    *,
    multilabel: bool,
) -> dict[str, Any]:
    """``intervals`` of test in the record, by rule and metric, and ``interval_units``: the independent units."""
    by_rule = {
        rule: {
            name: asdict(one)
            for name, one in intervals.intervals(truth, decided, scores, units, names, multilabel=multilabel).items()
        }
        for rule, decided in decisions.items()
    }
    about = {"level": intervals.LEVEL, "by": units.by, "count": units.count, "effective": units.effective}
    if units.by == "cell":
        about["degrees"] = units.degrees
    return {"intervals": {"test": by_rule}, "interval_units": about}


def versions() -> dict[str, str | None]:
    """Versions of Python and of the packages that decide a result."""
    return {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
