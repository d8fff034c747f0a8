"""Fit on train, choose on val, score test, write a run.

A probe kind (`probes/kinds`) lists hyper-parameters and fits them (`probes/search.py`); everything else is here and
is the same for all kinds. Val chooses the hyper-parameters (accuracy, or ``map_macro`` for multi-label: it judges
the scores, whatever the threshold), the calibration and the per-class thresholds; test is scored once, at the end.

Besides what the run contract asks for, a record has ``thresholds`` (how the tuned ones came about), ``calibration``
(method and Brier scores before and after, None without) and ``cell_intervals`` (as ``intervals``, by spatial cell).
"""

import platform
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from data import paths, runs, store
from data.errors import RequestError
from data.registry import PROBES
from probes import inputs, metrics, spatial
from probes.calibration import brier, calibrate
from probes.models import save_model
from probes.scores import SHRINKAGE, decide, half_thresholds, score, shrunk_thresholds
from probes.search import Job, Settings, search, selection_metric, words

DEFAULT = Settings()
RULES = ("half", "tuned")
PACKAGES = ("frozen-earth", "joblib", "numpy", "scikit-learn", "scipy", "skops")


@dataclass(frozen=True)
class Plan:
    """One probe to run: all that decides its result, hence its folder.

    Args:
        kind: probe kind.
        seed: random seed.
        settings: see `probes.search.Settings`.
        features: shared identity and, under ``splits``, what is particular to each split.
        multilabel: whether a sample may have several classes.
        rows: rows of train to learn from, None for all.
        candidates: hyper-parameters to try, the simplest first.
        folder: where the run goes.
    """

    kind: str
    seed: int
    settings: Settings
    features: dict[str, Any]
    multilabel: bool
    rows: np.ndarray | None
    candidates: list[dict[str, Any]]
    folder: Path

    @property
    def metric(self) -> str:
        """The metric on val that chooses among the candidates."""
        return selection_metric(self.multilabel)

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings that decide the result, as recorded."""
        return _arguments(self.multilabel, self.settings, self.candidates)


def fit_run(
    kind: str,
    splits: dict[str, store.FeatureSet],
    out: Path,
    *,
    seed: int = 0,
    settings: Settings = DEFAULT,
    n_jobs: int = -1,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> runs.Run:
    """The run of this request: the one on disk where there is one, else a new one.

    Args:
        kind: probe kind.
        splits: see `probes.inputs.read_splits`.
        out: output folder.
        seed: random seed.
        settings: see `probes.search.Settings`.
        n_jobs: threads, -1 for one a core; does not change the result.
        overwrite: fit again where the run exists.
        report: is told a line for each candidate, or that the run was reused.

    Raises:
        RequestError: as `plan_probe`; or the disk is full.
    """
    plan = plan_probe(kind, splits, out, seed=seed, settings=settings)
    if not overwrite and (run := finished(plan)):
        report(f"reused {run.folder}")
        return run
    return run_probe(plan, splits, n_jobs=n_jobs, report=report)


def plan_probe(
    kind: str, splits: dict[str, store.FeatureSet], out: Path, *, seed: int, settings: Settings = DEFAULT
) -> Plan:
    """What will be done, and the folder that follows from it.

    Raises:
        RequestError: no such kind, train would be left with one class, or a setting is not for this kind or these
            labels.
    """
    train = splits["train"]
    check_settings(kind, settings, train.multilabel)
    assert len(train.views) == settings.views - 1, "read_splits must be told the number of views"
    features = inputs.shared(train.identity) | {
        "splits": {name: inputs.split_identity(features) for name, features in splits.items()}
    }
    rows = inputs.subset(
        train.labels, len(train.class_names), seed=seed, fraction=settings.fraction, shots=settings.shots
    )
    if rows is not None:
        inputs.check_classes(train.labels[rows], len(train.class_names), f"the subset of {len(rows)} train samples")
    candidates = PROBES.load(kind).candidates(len(train.labels) if rows is None else len(rows), **settings.options)
    name = runs.run_name(kind, features, _arguments(train.multilabel, settings, candidates), seed)
    folder = paths.run_folder(out, store.dataset_slug(train.identity), store.encoder_slug(train.identity), name)
    return Plan(kind, seed, settings, features, train.multilabel, rows, candidates, folder)


def finished(plan: Plan) -> runs.Run | None:
    """The run that this plan would make, if it is there with the same identity."""
    if not all((plan.folder / name).exists() for name in runs.FILES):
        return None
    run = runs.read_run(plan.folder)
    expected = {"kind": plan.kind, "seed": plan.seed, "features": plan.features, "arguments": plan.arguments}
    return run if all(run.record.get(key) == value for key, value in expected.items()) else None


def run_probe(
    plan: Plan,
    splits: dict[str, store.FeatureSet],
    *,
    n_jobs: int = -1,
    report: Callable[[str], None] = lambda line: None,
) -> runs.Run:
    """Fit every candidate on train, keep the best on val, score test and write the run.

    Args:
        plan: see `plan_probe`.
        splits: see `probes.inputs.read_splits`.
        n_jobs: threads, -1 for one a core; does not change the result.
        report: is told a line for each candidate.
    """
    start = time.perf_counter()
    names = list(splits["train"].class_names)
    labels = {split: set_.labels for split, set_ in splits.items()}
    if plan.rows is not None:
        labels["train"] = labels["train"][plan.rows]
    truth = {split: metrics.label_matrix(labels[split], len(names)) for split in labels}
    train = splits["train"]
    views = [train.features, *(view.features for view in train.views)]
    as_stored = PROBES.load(plan.kind).CARD.get("as_stored")
    job = Job(
        kind=plan.kind,
        candidates=plan.candidates,
        splits={split: set_ for split, set_ in splits.items() if split != "test"},
        rows=plan.rows,
        train=inputs.in_memory(views, plan.rows, dtype=train.features.dtype if as_stored else np.float32),
        labels=np.concatenate([labels["train"]] * len(views)),
        val_truth=truth["val"],
        seed=plan.seed,
        settings=plan.settings,
        n_jobs=n_jobs,
    )
    # One BLAS thread: its threads wait for each other more than they gain at these sizes, and the sums they
    # split would make the last digit depend on the number of cores.
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told below, for the candidate concerned
        best, tried = search(job, report)
    searched = time.perf_counter()

    test_scores = score(
        best.estimator,
        splits["test"].features,
        classes=len(names),
        multilabel=plan.multilabel,
        n_jobs=job.threads,
        label=f"{plan.kind} on test",
    )
    scored = time.perf_counter()
    assert best.scores is not None
    estimator, scores = best.estimator, {"val": best.scores, "test": test_scores}
    calibration = None
    if method := plan.settings.calibrate:
        calibration = {
            "method": method,
            "brier_before": {split: brier(truth[split], scores[split]) for split in scores},
        }
        estimator = calibrate(estimator, truth["val"], best.scores, method=method, multilabel=plan.multilabel)
        scores = {split: estimator.apply(values) for split, values in scores.items()}
        calibration["brier"] = {split: brier(truth[split], scores[split]) for split in scores}
        calibration["left_as_they_are"] = [
            name for name, (one, _) in zip(names, estimator.maps, strict=True) if not len(one)
        ]
    rules, thresholds = _rules(truth["val"], scores["val"], plan)
    decisions = {rule: {split: decide(scores[split], rules[rule]) for split in scores} for rule in RULES}
    called, cells = {rule: decisions[rule]["test"] for rule in RULES}, spatial.cells(splits["test"].lonlat)
    told = _warnings(splits, truth)
    told += [f"{words(t.params)} stopped before it converged" for t in tried if not t.converged]
    told += [
        f"{words(t.params)}: the budget ended with {t.history['trees']} trees" for t in tried if "trees" in t.history
    ]
    if untried := len(plan.candidates) - len(tried):
        told.append(
            f"the budget of {plan.settings.budget_s:g} s ended with {untried} of {len(plan.candidates)} candidates "
            "untried; a faster machine would try more and might choose another"
        )
    record = {
        "dataset": plan.folder.parent.parent.name,
        "encoder": plan.folder.parent.name,
        "kind": plan.kind,
        "seed": plan.seed,
        "arguments": plan.arguments,
        "multilabel": plan.multilabel,
        "class_names": names,
        "features": plan.features,
        "rows": {split: len(labels[split]) for split in labels},
        "dim": train.features.shape[1],
        "chosen": best.params,
        "candidates": [trial.params | {plan.metric: trial.value} for trial in tried],
        "warnings": told,
        "metrics": {
            split: {rule: _metrics(truth[split], decisions[rule][split], scores[split], plan) for rule in RULES}
            for split in scores
        },
        "intervals": {"test": _intervals(truth["test"], called, scores["test"], plan)},
        "cell_intervals": {
            "test": None if cells is None else _intervals(truth["test"], called, scores["test"], plan, cells)
        },
        "bootstrap": {
            "level": 0.95,
            "by": "image",
            "resamples": metrics.RESAMPLES,
            "map_resamples": metrics.AP_RESAMPLES,
            "cells": None if cells is None else {"degrees": spatial.DEGREES, "count": int(cells.max()) + 1},
        },
        "per_class": {
            rule: metrics.class_rows(names, truth["test"], decisions[rule]["test"], scores["test"], rules[rule])
            for rule in RULES
        },
        "thresholds": thresholds,
        "calibration": calibration,
        "history": best.history,
        "seconds": {
            "fit": best.fit_s,
            "score": best.score_s + scored - searched,
            "search": searched - start,
            "total": time.perf_counter() - start,
        },
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    predictions = {
        split: runs.Predictions(splits[split].ids, labels[split], scores[split], splits[split].lonlat)
        for split in scores
    }
    return runs.write_run(plan.folder, record, predictions, lambda path: save_model(estimator, path))


def check_settings(kind: str, settings: Settings, multilabel: bool) -> None:
    """Raise a RequestError for a setting that a kind of probe does not have."""
    labels = "multi-label" if multilabel else "single-label"
    able = [name for name in PROBES.names() if labels in PROBES.card(name).get("balanced", ())]
    if settings.balanced and kind not in able:
        raise RequestError(f"--balanced: {kind} cannot weigh {labels} classes; kinds that can: {', '.join(able)}")
    able = [name for name in PROBES.names() if PROBES.card(name).get("device")]
    if settings.device != "cpu" and kind not in able:
        raise RequestError(f"--device {settings.device}: {kind} runs on the CPU; kinds for a GPU: {', '.join(able)}")
    if settings.beta != DEFAULT.beta and not multilabel:
        raise RequestError(
            f"--beta {settings.beta:g}: each sample has one class here, the highest score; no thresholds"
        )


# --------------------------------------------------------------------------------------------- judgement


def _rules(
    val_truth: np.ndarray, val_scores: np.ndarray, plan: Plan
) -> tuple[dict[str, np.ndarray | None], dict[str, Any] | None]:
    """Thresholds by rule, where None is the highest score, and how the tuned ones came about.

    A single-label sample gets exactly one class, which a threshold cannot promise: both rules are the same there.
    """
    if not plan.multilabel:
        return {"half": None, "tuned": None}, None
    tuned, shared, own = shrunk_thresholds(val_truth, val_scores, beta=plan.settings.beta)
    told = {"beta": plan.settings.beta, "shrinkage": SHRINKAGE, "shared": shared, "own": own.tolist()}
    return {"half": half_thresholds(val_truth.shape[1]), "tuned": tuned}, told


def _metrics(truth: np.ndarray, decided: np.ndarray, scores: np.ndarray, plan: Plan) -> dict[str, float | None]:
    if plan.multilabel:
        return metrics.multilabel_metrics(truth, decided, scores)
    return metrics.single_label_metrics(truth.argmax(axis=1), decided.argmax(axis=1), truth.shape[1])


def _intervals(
    truth: np.ndarray,
    decisions: dict[str, np.ndarray],
    scores: np.ndarray,
    plan: Plan,
    groups: np.ndarray | None = None,
) -> dict[str, dict[str, list[float]]]:
    """Bootstrap intervals of test by rule and metric; the same images, or groups of them, are drawn for every rule."""
    names = metrics.MULTILABEL if plan.multilabel else metrics.SINGLE_LABEL
    drawing = {"seed": plan.seed, "groups": groups}
    ranking = metrics.bootstrap_average_precision(truth, scores, **drawing) if plan.multilabel else {}
    return {
        rule: metrics.bootstrap_counts(truth, decided, names=names, **drawing) | ranking
        for rule, decided in decisions.items()
    }


def _warnings(splits: dict[str, store.FeatureSet], truth: dict[str, np.ndarray]) -> list[str]:
    """What a reader of the numbers should know."""
    found = []
    ids = {split: set(set_.ids) for split, set_ in splits.items()}
    for one, other in (("val", "train"), ("test", "train"), ("test", "val")):
        if both := len(ids[one] & ids[other]):
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


def _arguments(multilabel: bool, settings: Settings, candidates: list[dict[str, Any]]) -> dict[str, Any]:
    rule = {"shrinkage": SHRINKAGE} if multilabel else {}
    return {"selection": selection_metric(multilabel), **asdict(settings), **rule, "candidates": candidates}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
