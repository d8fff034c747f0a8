"""Fit on train, choose on val, score test, write a run.

A probe kind (`probes/kinds`) lists hyper-parameters and fits them (`probes/search.py`); everything else is here and
is the same for all kinds. Val, or out-of-fold scores of train and val (`probes/folds.py`), choose the hyper-parameters
(by accuracy, ``map_macro`` for multi-label or the metric asked for; log loss decides between equals), the calibration
and the per-class thresholds. Where that is asked for, or with folds, the chosen candidate is fitted once more on train
and val. Test is scored once, at the end.

Besides what the run contract asks for, a record has ``thresholds`` (how the tuned ones came about), ``calibration``
(see `probes.calibration.calibrate_run`; None without), ``chosen_on``, ``fitted_on``, ``protocol`` and
``protocol_differences``, and ``interval_units`` (what the intervals take as independent: images, or spatial cells where
locations are known).
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from data import paths, runs, store
from data.registry import PROBES
from data.rules import RULES
from probes import inputs, metrics, protocols, record, spatial
from probes.calibration import calibrate_run
from probes.folds import assign, cross_validate
from probes.models import save_model
from probes.oversample import warnings_of
from probes.scores import SHRINKAGE, decide, half_thresholds, score, shrunk_thresholds
from probes.search import Job, fit_again, search
from probes.settings import DEFAULT, Settings, candidates_of, check_settings, recorded, selection_metric
from probes.subsets import subset


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
        val_rows: rows of val to choose on, None for all.
        folds: fold of each sample of train, then val, that is in use; None chooses on val.
    """

    kind: str
    seed: int
    settings: Settings
    features: dict[str, Any]
    multilabel: bool
    rows: np.ndarray | None
    candidates: list[dict[str, Any]]
    folder: Path
    val_rows: np.ndarray | None = None
    folds: np.ndarray | None = None

    @property
    def metric(self) -> str:
        """The metric on val that chooses among the candidates."""
        return selection_metric(self.settings, self.multilabel)

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings that decide the result, as recorded."""
        return recorded(self.multilabel, self.settings, self.candidates)


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
    classes = len(train.class_names)
    rows = subset(train.labels, classes, seed=seed, fraction=settings.fraction, shots=settings.shots)
    matched = settings.shots if settings.val == "matched" else None
    val_rows = subset(splits["val"].labels, classes, seed=seed, shots=matched) if "val" in splits else None
    if rows is not None:
        inputs.check_classes(train.labels[rows], len(train.class_names), f"the subset of {len(rows)} train samples")
    candidates = candidates_of(kind, len(train.labels) if rows is None else len(rows), settings)
    if store.is_fused(train.identity):
        candidates = inputs.for_joined(candidates, settings.standardise)
    name = runs.run_name(kind, features, recorded(train.multilabel, settings, candidates), seed)
    folder = paths.run_folder(out, store.dataset_slug(train.identity), store.encoder_slug(train.identity), name)
    folds = None if settings.folds is None else _folds(splits, rows, val_rows, settings.folds, seed)
    return Plan(kind, seed, settings, features, train.multilabel, rows, candidates, folder, val_rows, folds)


def _folds(
    splits: dict[str, store.FeatureSet], rows: np.ndarray | None, val_rows: np.ndarray | None, count: int, seed: int
) -> np.ndarray:
    """The fold of each sample in use, train before val; see `probes.folds.assign`."""
    parts = [(splits["train"], rows)] + ([(splits["val"], val_rows)] if "val" in splits else [])
    taken = [(part, slice(None) if chosen is None else chosen) for part, chosen in parts]
    labels = np.concatenate([part.labels[chosen] for part, chosen in taken])
    places = [None if part.lonlat is None else part.lonlat[chosen] for part, chosen in taken]
    located = [place for place in places if place is not None]
    names = list(splits["train"].class_names)
    cells = spatial.cells(np.concatenate(located)) if len(located) == len(places) else None
    return assign(metrics.label_matrix(labels, len(names)), count, names, seed=seed, cells=cells)


def finished(plan: Plan) -> runs.Run | None:
    """The run that this plan would make, if it is there with the same identity."""
    run = runs.intact(plan.folder)  # a damaged one is fitted again
    expected = {"kind": plan.kind, "seed": plan.seed, "features": plan.features, "arguments": plan.arguments}
    return run if run and all(run.record.get(key) == value for key, value in expected.items()) else None


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
    if plan.val_rows is not None:
        splits = splits | {"val": inputs.only_rows(splits["val"], plan.val_rows)}
    train, val = splits["train"], splits.get("val")
    pool = None  # train and val together: to choose by folds, or to fit once more
    if plan.folds is not None or plan.settings.refit:
        pool = inputs.joined(train, plan.rows, val)
    if plan.folds is not None:
        assert pool is not None
        splits = splits | {"val": pool}  # the samples that choose
    labels = {split: set_.labels for split, set_ in splits.items()}
    if plan.rows is not None:
        labels["train"] = labels["train"][plan.rows]
    truth = {split: metrics.label_matrix(labels[split], len(names)) for split in labels}
    views = [train.features, *(view.features for view in train.views)]
    dtype = train.features.dtype if PROBES.load(plan.kind).CARD.get("as_stored") else np.float32
    learnt = pool.features.astype(dtype) if plan.folds is not None and pool else None
    job = Job(
        kind=plan.kind,
        candidates=plan.candidates,
        val=splits["val"].features,
        train=inputs.in_memory(views, plan.rows, dtype=dtype) if learnt is None else learnt,
        labels=np.concatenate([labels["train"]] * len(views)) if learnt is None else labels["val"],
        val_truth=truth["val"],
        seed=plan.seed,
        settings=plan.settings,
        n_jobs=n_jobs,
        class_names=tuple(names),
        weights=store.block_weights(train.identity),
    )
    # One BLAS thread: its threads wait for each other more than they gain at these sizes, and the sums they
    # split would make the last digit depend on the number of cores.
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told below, for the candidate concerned
        found = search(job, report) if plan.folds is None else cross_validate(job, plan.folds, report)
        best, threads, searched = found.best, job.threads, time.perf_counter()
        estimator = best.estimator
        if pool is not None:
            job = replace(job, train=pool.features.astype(dtype), labels=pool.labels)
            last = fit_again(job, best.params)
            estimator = last.estimator
            curves = {name: value for name, value in best.history.items() if name == "curves"}  # of what chose
            best = replace(best, history=curves | last.history)
            report(f"{plan.kind}: fitted on {len(pool.labels)} samples of train and val, {last.fit_s:.1f} s")
    refitted = time.perf_counter()

    test_scores = score(
        estimator,
        splits["test"].features,
        classes=len(names),
        multilabel=plan.multilabel,
        n_jobs=threads,
        label=f"{plan.kind} on test",
    )
    scored = time.perf_counter()
    assert best.scores is not None
    scores = {"val": best.scores, "test": test_scores}
    estimator, scores, calibration = calibrate_run(
        estimator, truth, scores, names, method=plan.settings.calibrate, multilabel=plan.multilabel
    )
    rules, thresholds = _rules(truth["val"], scores["val"], plan)
    decisions = {rule: {split: decide(scores[split], rules[rule]) for split in scores} for rule in RULES}
    own = {split: set_ for split, set_ in splits.items() if split != "val" or plan.folds is None}
    told = record.data_warnings(own, truth)
    told += record.interval_warnings(truth["test"], splits["test"].lonlat, names)
    told += warnings_of(best.history.get("oversampled"))
    told += record.threshold_warnings(thresholds, rules["tuned"])
    told += record.search_warnings(found, plan.settings.budget_s, PROBES.card(plan.kind).get("natural", {}))
    content = {
        "dataset": plan.folder.parent.parent.name,
        "encoder": plan.folder.parent.name,
        "kind": plan.kind,
        "seed": plan.seed,
        "protocol": plan.settings.protocol,
        "protocol_differences": protocols.get(plan.settings.protocol).differences(
            plan.kind, plan.features["encoder"], record.beside_protocol(plan.settings, plan.features)
        ),
        "arguments": plan.arguments,
        "multilabel": plan.multilabel,
        "class_names": names,
        "features": plan.features,
        "rows": {split: len(labels[split]) for split in labels},
        "chosen_on": record.chosen_on(plan.folds, val, splits["val"].lonlat),
        "fitted_on": {"splits": ["train"], "rows": len(labels["train"])}
        if pool is None
        else {"splits": ["train"] if val is None else ["train", "val"], "rows": len(pool.labels)},
        "dim": train.features.shape[1],
        "chosen": best.params,
        "candidates": [t.params | {plan.metric: t.value, "log_loss": t.log_loss} for t in found.tried],
        "warnings": told,
        "metrics": {
            split: {
                rule: record.metrics_of(truth[split], decisions[rule][split], scores[split], multilabel=plan.multilabel)
                for rule in RULES
            }
            for split in scores
        },
        **record.interval_parts(
            truth["test"],
            {rule: decisions[rule]["test"] for rule in RULES},
            scores["test"],
            splits["test"].lonlat,
            names,
            multilabel=plan.multilabel,
        ),
        "per_class": {
            rule: metrics.class_rows(names, truth["test"], decisions[rule]["test"], scores["test"], rules[rule])
            for rule in RULES
        },
        "thresholds": thresholds,
        "calibration": calibration,
        "history": best.history,
        "seconds": {
            "fit": best.fit_s,
            "score": best.score_s + scored - refitted,
            "search": searched - start,
            "refit": refitted - searched,
            "total": time.perf_counter() - start,
        },
        "versions": record.versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    places = (train.lonlat, plan.rows) if pool is None else (pool.lonlat, None)  # of what was learned from
    predictions = {
        split: runs.Predictions(
            splits[split].ids, labels[split], scores[split], splits[split].lonlat,
            spatial.distance_to_train(splits[split].lonlat, *places),
        )
        for split in scores
    }  # fmt: skip
    return runs.write_run(plan.folder, content, predictions, lambda path: save_model(estimator, path))


def _rules(
    val_truth: np.ndarray, val_scores: np.ndarray, plan: Plan
) -> tuple[dict[str, np.ndarray | None], dict[str, Any] | None]:
    """Thresholds by rule, where None is the argmax, and how the tuned ones came about.

    A single-label sample gets exactly one class, which a threshold cannot promise: both rules are the same there.
    """
    if not plan.multilabel:
        return {"half": None, "tuned": None}, None
    tuned, shared, own = shrunk_thresholds(val_truth, val_scores, beta=plan.settings.beta)
    told = {"beta": plan.settings.beta, "shrinkage": SHRINKAGE, "shared": shared, "own": own.tolist()}
    return {"half": half_thresholds(val_truth.shape[1]), "tuned": tuned}, told
