"""Fit on train, choose on val, score test, write a run.

A probe kind (`probes/kinds`) lists hyper-parameters and fits them (`probes/search.py`); everything else is here and
is the same for all kinds. Val, or out-of-fold scores of train and val (`probes/folds.py`), choose the hyper-parameters
(by accuracy, ``map_macro`` for multi-label data, or the metric given; log loss breaks ties), the calibration and the
per-class thresholds. With ``refit`` or folds, the chosen candidate is fitted once more on train and val. Test is scored
once, at the end.

Besides the fields of the run contract, a record has ``thresholds`` (how the tuned ones came about), ``calibration``
(see `probes.calibration.calibrate_run`; None without), ``chosen_on``, ``fitted_on``, ``protocol``,
``protocol_differences``, and ``interval_units`` (what the intervals treat as independent: images, or spatial cells
where locations are known).
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
from data.rules import RULES
from probes import inputs, intervals, metrics, protocols, record, spatial
from probes.blocks import held_out_scores
from probes.calibration import calibrate_run
from probes.card import PROBES
from probes.folds import cross_validate
from probes.models import save_model
from probes.oversample import warnings_of
from probes.sampling import checked_folds, subset
from probes.scores import SHRINKAGE, decide, half_thresholds, shrunk_thresholds
from probes.search import FitTask, SearchResult, fit_again, search
from probes.settings import DEFAULT, Settings, candidates_of, check_settings, recorded, selection_metric
from probes.shapes import Scores, Truth


@dataclass(frozen=True)
class RunPlan:
    """One probe to fit: all that decides its result, and so its folder.

    Args:
        kind: probe kind.
        seed: random seed.
        settings: see `probes.settings.Settings`.
        features: identity that the splits share and, under ``splits``, what is particular to each of them.
        multilabel: whether a sample may have several classes.
        rows: rows of train to learn from, None for all.
        candidates: hyper-parameters to try, the simplest first.
        folder: of the run.
        val_rows: rows of val to choose on, None for all.
        folds: fold of each sample in use, train before val; None chooses on val.
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
    def blocks(self) -> dict[str, Any] | None:
        """How labeled windows of a scene are divided (`probes.maps`); None for other samples."""
        return self.features["splits"]["train"].get("blocks")

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings that decide the result, as recorded."""
        return recorded(self.multilabel, self.settings, self.candidates)


def plan_probe(
    kind: str, splits: dict[str, store.FeatureSet], out: Path, *, seed: int, settings: Settings = DEFAULT
) -> RunPlan:
    """What will be fitted, and the folder that follows from it.

    Raises:
        RequestError: unknown kind, train has only one class left, or a setting does not apply to this kind or these
            labels.
    """
    train = splits["train"]
    check_settings(kind, settings, train.multilabel)
    assert len(train.views) == settings.views - 1, "read_splits must get the same number of views"
    features = inputs.shared(train.identity) | {
        "splits": {name: inputs.split_identity(features) for name, features in splits.items()}
    }
    classes = len(train.class_names)
    rows = subset(train.labels, classes, seed=seed, fraction=settings.fraction, shots=settings.shots)
    matched = settings.shots if settings.val == "matched" else None
    val_rows = subset(splits["val"].labels, classes, seed=seed, shots=matched) if "val" in splits else None
    if rows is not None:
        inputs.check_classes(train.labels[rows], classes, f"the subset of {len(rows)} train samples")
    candidates = candidates_of(kind, len(train.labels) if rows is None else len(rows), settings)
    if store.is_fused(train.identity):
        candidates = inputs.for_fused(candidates, settings.standardise)
    name = runs.run_name(kind, features, recorded(train.multilabel, settings, candidates), seed)
    folder = paths.run_folder(out, store.dataset_slug(train.identity), store.encoder_slug(train.identity), name)
    if blocks := train.identity["split"].get("blocks"):
        folds = np.array(blocks["folds"])
    else:
        folds = None if settings.folds is None else _folds(splits, rows, val_rows, settings.folds, seed)
    return RunPlan(kind, seed, settings, features, train.multilabel, rows, candidates, folder, val_rows, folds)


def _folds(
    splits: dict[str, store.FeatureSet], rows: np.ndarray | None, val_rows: np.ndarray | None, count: int, seed: int
) -> np.ndarray:
    """The fold of each sample in use, train before val; see `probes.sampling.checked_folds`."""
    parts = [(splits["train"], rows)] + ([(splits["val"], val_rows)] if "val" in splits else [])
    taken = [(part, slice(None) if chosen is None else chosen) for part, chosen in parts]
    labels = np.concatenate([part.labels[chosen] for part, chosen in taken])
    lonlat = [part.lonlat[chosen] for part, chosen in taken if part.lonlat is not None]
    names = list(splits["train"].class_names)
    cells = spatial.cells(np.concatenate(lonlat)) if len(lonlat) == len(parts) else None
    return checked_folds(metrics.label_matrix(labels, len(names)), count, names, seed=seed, cells=cells)


def finished(plan: RunPlan) -> runs.Run | None:
    """The run of this plan, if it exists with the same identity."""
    run = runs.intact(plan.folder)  # a damaged one is fitted again
    expected = {"kind": plan.kind, "seed": plan.seed, "features": plan.features, "arguments": plan.arguments}
    return run if run and all(run.record.get(key) == value for key, value in expected.items()) else None


@dataclass(frozen=True)
class Samples:
    """The samples of a run as they are used.

    Args:
        splits: with ``val`` as the samples that choose: those of val in use or, with folds, the pool.
        labels: of these splits; of train only the rows to learn from.
        truth: the same as (N, K) booleans.
        own_val: the samples of val in use; None if there is no val.
        pool: train and val in use together, to choose by folds or to fit once more; None if not needed.
    """

    splits: dict[str, store.FeatureSet]
    labels: dict[str, np.ndarray]
    truth: dict[str, np.ndarray]
    own_val: store.FeatureSet | None
    pool: store.FeatureSet | None


def run_probe(
    plan: RunPlan,
    splits: dict[str, store.FeatureSet],
    *,
    n_jobs: int = -1,
    log: Callable[[str], None] | None = None,
) -> runs.Run:
    """Fit every candidate on train, keep the best on val, score test and write the run.

    Args:
        plan: see `plan_probe`.
        splits: see `probes.inputs.read_splits`.
        n_jobs: threads, -1 for one per core; they do not change the result.
        log: receives one line per candidate.
    """
    start = time.perf_counter()
    samples = _samples(plan, splits)
    task = _task(plan, samples, n_jobs, log)
    # One BLAS thread: its threads wait for each other more than they gain at these sizes, and the sums they
    # split would make the last digit depend on the number of cores.
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # reported below, for the candidate concerned
        estimator, result, seconds = _fit(plan, samples, task)
        if not plan.blocks:
            # Frees train before the intervals need memory.
            task = replace(task, train=task.train[:0].copy(), labels=task.labels[:0])
        scoring = time.perf_counter()
        test = samples.splits["test"]
        if plan.blocks:  # of a map, whose samples also train it: by probes that have not seen their blocks
            assert test.lonlat is not None and plan.folds is not None
            test_scores = held_out_scores(task, plan.folds, test.lonlat, plan.blocks["buffer_km"])
        else:
            test_scores = task.score(estimator, test.features, f"{plan.kind} on test")
        seconds["score"] += time.perf_counter() - scoring
    assert result.best.scores is not None
    estimator, scores, calibration = calibrate_run(
        estimator,
        samples.truth,
        {"val": result.best.scores, "test": test_scores},
        list(task.class_names),
        method=plan.settings.calibrate,
        multilabel=plan.multilabel,
    )
    content = _request(plan, samples) | _results(plan, samples, result, scores) | {"calibration": calibration}
    content["seconds"] = seconds | {"total": time.perf_counter() - start}
    learnt: Any = (samples.splits["train"].lonlat, plan.rows) if samples.pool is None else (samples.pool.lonlat, None)
    learnt = (None, None) if plan.blocks else learnt  # of a map, train is the samples themselves
    predictions = {}
    for split, one in scores.items():
        ids, lonlat = samples.splits[split].ids, samples.splits[split].lonlat
        train_km = spatial.distance_to_train(lonlat, *learnt)
        predictions[split] = runs.Predictions(ids, samples.labels[split], one, lonlat, train_km)
    return runs.write_run(plan.folder, content, predictions, lambda path: save_model(estimator, path))


def _samples(plan: RunPlan, splits: dict[str, store.FeatureSet]) -> Samples:
    if plan.val_rows is not None:
        splits = splits | {"val": inputs.only_rows(splits["val"], plan.val_rows)}
    own_val = splits.get("val")
    both = plan.folds is not None or plan.settings.refit
    pool = inputs.train_and_val(splits["train"], plan.rows, own_val) if both else None
    if plan.folds is not None and pool is not None:
        splits = splits | {"val": pool}
    labels = {split: features.labels for split, features in splits.items()}
    if plan.rows is not None:
        labels["train"] = labels["train"][plan.rows]
    classes = len(splits["train"].class_names)
    truth = {split: metrics.label_matrix(values, classes) for split, values in labels.items()}
    return Samples(splits, labels, truth, own_val, pool)


def _stored_dtype(plan: RunPlan, samples: Samples) -> Any:
    """The type in which the kind takes features."""
    return samples.splits["train"].features.dtype if PROBES.card(plan.kind).stored_dtype else np.float32


def _task(plan: RunPlan, samples: Samples, n_jobs: int, log: Callable[[str], None] | None) -> FitTask:
    """The search on train, or on the pool by folds."""
    train, dtype = samples.splits["train"], _stored_dtype(plan, samples)
    if plan.folds is not None and samples.pool is not None:
        features, labels = samples.pool.features.astype(dtype), samples.labels["val"]
    else:
        views = [train.features, *(view.features for view in train.views)]
        features = inputs.in_memory(views, plan.rows, dtype=dtype)
        labels = np.concatenate([samples.labels["train"]] * len(views))
    return FitTask(
        kind=plan.kind,
        candidates=plan.candidates,
        val=samples.splits["val"].features,
        train=features,
        labels=labels,
        val_truth=samples.truth["val"],
        seed=plan.seed,
        settings=plan.settings,
        n_jobs=n_jobs,
        class_names=tuple(train.class_names),
        weights=store.block_weights(train.identity),
        log=log,
    )


def _fit(plan: RunPlan, samples: Samples, task: FitTask) -> tuple[Any, SearchResult, dict[str, float]]:
    """Search, then fit the chosen candidate once more on the pool, if there is one: estimator, result and seconds."""
    start = time.perf_counter()
    result = search(task) if plan.folds is None else cross_validate(task, plan.folds)
    searched, best = time.perf_counter(), result.best
    seconds = {"fit": best.fit_s, "score": best.score_s, "search": searched - start, "refit": 0.0}
    if samples.pool is None:
        return best.estimator, result, seconds
    pool = samples.pool.features.astype(_stored_dtype(plan, samples))
    last = fit_again(replace(task, train=pool, labels=samples.pool.labels), best.params)
    curves = {name: value for name, value in best.history.items() if name == "curves"}  # of the search
    result = replace(result, best=replace(best, history=curves | last.history))
    return last.estimator, result, seconds | {"refit": time.perf_counter() - searched}


def _request(plan: RunPlan, samples: Samples) -> dict[str, Any]:
    """The part of the record that was known before anything was fitted."""
    protocol, encoder = protocols.get(plan.settings.protocol), plan.features["encoder"]
    learnt = len(samples.labels["train"]) if samples.pool is None else len(samples.pool.labels)
    train_only = samples.pool is None or samples.own_val is None
    return {
        "dataset": plan.folder.parent.parent.name,
        "encoder": plan.folder.parent.name,
        "kind": plan.kind,
        "seed": plan.seed,
        "protocol": plan.settings.protocol,
        "protocol_differences": protocol.differences(
            plan.kind, encoder, record.beside_protocol(plan.settings, plan.features)
        ),
        "arguments": plan.arguments,
        "multilabel": plan.multilabel,
        "class_names": list(samples.splits["train"].class_names),
        "features": plan.features,
        "rows": {split: len(labels) for split, labels in samples.labels.items()},
        "chosen_on": record.chosen_on(plan.folds, samples.own_val, samples.splits["val"].lonlat),
        "fitted_on": {"splits": ["train"] if train_only else ["train", "val"], "rows": learnt},
        "dim": samples.splits["train"].features.shape[1],
    }


def _results(plan: RunPlan, samples: Samples, result: SearchResult, scores: dict[str, np.ndarray]) -> dict[str, Any]:
    """The part of the record that says what was chosen and how good it is."""
    names, truth, best = list(samples.splits["train"].class_names), samples.truth, result.best
    metric = selection_metric(plan.settings, plan.multilabel)
    degrees = plan.blocks["degrees"] if plan.blocks else spatial.DEGREES
    units = spatial.units(samples.splits["test"].lonlat, len(truth["test"]), degrees)
    rules, thresholds = _rules(truth["val"], scores["val"], plan)
    decisions = {rule: {split: decide(scores[split], rules[rule]) for split in scores} for rule in RULES}
    test = {rule: decided["test"] for rule, decided in decisions.items()}
    own = {split: features for split, features in samples.splits.items() if split != "val" or plan.folds is None}
    if plan.blocks:
        own = {"train": own["train"]}  # test is the same samples
    return {
        "chosen": best.params,
        "candidates": [t.params | {metric: t.value, "log_loss": t.log_loss} for t in result.tried],
        "warnings": [
            *record.data_warnings(own, truth),
            *intervals.support_warnings(truth["test"], names),
            *([units.warning] if units.warning else []),
            *warnings_of(best.history.get("oversampled")),
            *record.threshold_warnings(thresholds, rules["tuned"]),
            *record.search_warnings(result, plan.settings.budget_s, PROBES.card(plan.kind).limits),
        ],
        "metrics": {
            split: {
                rule: record.metrics_of(truth[split], decisions[rule][split], scores[split], multilabel=plan.multilabel)
                for rule in RULES
            }
            for split in scores
        },
        **record.interval_parts(truth["test"], test, scores["test"], units, names, multilabel=plan.multilabel),
        "per_class": {
            rule: metrics.class_rows(names, truth["test"], test[rule], scores["test"], rules[rule]) for rule in RULES
        },
        "thresholds": thresholds,
        "history": best.history,
        "versions": record.versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _rules(
    val_truth: Truth, val_scores: Scores, plan: RunPlan
) -> tuple[dict[str, np.ndarray | None], dict[str, Any] | None]:
    """Thresholds by rule, where None is the argmax, and how the tuned ones came about.

    A single-label sample gets exactly one class, which thresholds cannot guarantee: there, both rules are the argmax.
    """
    if not plan.multilabel:
        return {"half": None, "tuned": None}, None
    tuned, shared, own = shrunk_thresholds(val_truth, val_scores, beta=plan.settings.beta)
    thresholds = {"beta": plan.settings.beta, "shrinkage": SHRINKAGE, "shared": shared, "own": own.tolist()}
    return {"half": half_thresholds(val_truth.shape[1]), "tuned": tuned}, thresholds
