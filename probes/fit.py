"""Fit on train, choose on val, score test, write a run.

A probe kind (`probes/kinds`) lists hyper-parameters and builds a scikit-learn estimator; everything else is here
and is the same for all kinds. Val chooses the hyper-parameters (accuracy, or ``map_macro`` for multi-label: it
judges the scores, whatever the threshold) and the per-class thresholds; test is scored once, at the end.
"""

import platform
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import joblib
import numpy as np
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from data import paths, runs, store
from data.dataset import SPLITS
from data.errors import RequestError
from data.registry import PROBES
from probes import metrics
from probes.scores import best_thresholds, decide, half_thresholds, score

BETA = 2
RULES = ("half", "tuned")
PACKAGES = ("frozen-earth", "joblib", "numpy", "scikit-learn", "scipy", "skops")
# What a saved probe may hold beyond skops' own list of harmless types; anything else in a file is refused.
TRUSTED_TYPES = ("sklearn.neural_network._stochastic_optimizers.AdamOptimizer", "sklearn.tree._tree.Tree")


@dataclass(frozen=True)
class Plan:
    """One probe to run: all that decides its result, hence its folder.

    Args:
        kind: probe kind.
        seed: random seed.
        features: shared identity and, under ``splits``, what is particular to each split.
        multilabel: whether a sample may have several classes.
        candidates: hyper-parameters to try, the simplest first.
        folder: where the run goes.
    """

    kind: str
    seed: int
    features: dict[str, Any]
    multilabel: bool
    candidates: list[dict[str, Any]]
    folder: Path

    @property
    def metric(self) -> str:
        """The metric on val that chooses among the candidates."""
        return _selection_metric(self.multilabel)

    @property
    def arguments(self) -> dict[str, Any]:
        """The settings that decide the result, as recorded."""
        return _arguments(self.multilabel, self.candidates)


@dataclass(frozen=True)
class Trial:
    """One candidate, fitted on train and scored on val."""

    params: dict[str, Any]
    estimator: Any
    scores: np.ndarray
    value: float | None
    converged: bool
    fit_s: float
    score_s: float


# ------------------------------------------------------------------------------------------------ inputs


def read_splits(folder: Path) -> dict[str, store.FeatureSet]:
    """The three splits of a feature folder, checked.

    Args:
        folder: holds ``train.h5``, ``val.h5`` and ``test.h5``.

    Raises:
        RequestError: a split is absent or damaged; the splits differ in what they should share; rows do not
            line up; values are not finite; train has a single class.
    """
    present = store.splits_in(folder)
    if not present:
        raise RequestError(f"no features in {folder}; make them with featurize")
    if absent := [split for split in SPLITS if split not in present]:
        identity, _ = store.read_identity(paths.feature_file(folder, present[0]))
        raise RequestError(f"no {' and '.join(absent)} features in {folder}; run: {_featurize(identity, absent)}")
    splits = {split: store.read_features(paths.feature_file(folder, split)) for split in SPLITS}
    train = splits["train"]
    for split, features in splits.items():
        _check(split, features)
        if fields := store.differing_fields(_shared(features.identity), _shared(train.identity)):
            raise RequestError(
                f"{features.file} and {train.file} differ in {', '.join(fields)}; make them with the same settings"
            )
        if features.features.shape[1] != train.features.shape[1]:
            raise RequestError(
                f"{features.file} has {features.features.shape[1]} features a row, {train.file} has "
                f"{train.features.shape[1]}; run featurize --overwrite"
            )
    constant = (train.labels == train.labels[:1]).all()
    if constant and (not train.multilabel or len(train.class_names) == 1):
        raise RequestError(f"{train.file} has samples of one class only; a probe needs at least two to tell apart")
    return splits


def _check(split: str, features: store.FeatureSet) -> None:
    """Raise unless rows line up and every value can be used."""
    file, classes = features.file, len(features.class_names)
    verify = f"see featurize verify {file}"
    if (name := features.identity["split"]["name"]) != split:
        raise RequestError(f"{file} holds split '{name}'; rename it back or run featurize again")
    counts = {"features": len(features.features), "labels": len(features.labels), "ids": len(features.ids)}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{count} {noun}" for noun, count in counts.items())
        raise RequestError(f"{file} has {told}: rows do not line up; {verify}")
    bad = int((~np.isfinite(features.features).all(axis=1)).sum())
    if bad:
        raise RequestError(f"{file}: {bad} of {len(features.features)} rows hold NaN or infinity; {verify}")
    if features.multilabel and features.labels.shape[1] != classes:
        raise RequestError(f"{file} has {features.labels.shape[1]} label columns for {classes} classes; {verify}")
    top = 1 if features.multilabel else classes - 1
    if features.labels.min() < 0 or features.labels.max() > top:
        raise RequestError(f"{file} has labels outside 0 ... {top}; {verify}")


def _shared(identity: dict[str, Any]) -> dict[str, Any]:
    return {key: identity[key] for key in ("schema", "dataset", "encoder")}


def _featurize(identity: dict[str, Any], absent: list[str]) -> str:
    """The command that makes absent splits like the one that is there."""
    encoder, dataset = identity["encoder"], identity["dataset"]
    words = {
        "model": encoder["name"],
        "variant": encoder["variant"],
        "dataset": dataset["name"],
        "dataset-variant": dataset["variant"],
        "limit": dataset["limit"],
        "split": absent[0] if len(absent) == 1 else "all",
    }
    flags = " ".join(f"--{flag} {value}" for flag, value in words.items() if value is not None)
    return f"featurize {flags} (and any other flags as for {identity['split']['name']})"


# --------------------------------------------------------------------------------------------------- run


def plan_probe(kind: str, splits: dict[str, store.FeatureSet], out: Path, *, seed: int) -> Plan:
    """What will be done, and the folder that follows from it.

    Raises:
        RequestError: no such kind.
    """
    train = splits["train"]
    parts = {
        name: set_.identity["split"]
        | {"features_sha256": store.digest_array(set_.features)}  # an encoder may be mended
        for name, set_ in splits.items()
    }
    features = _shared(train.identity) | {"splits": parts}
    candidates = PROBES.load(kind).candidates(len(train.features))
    name = runs.run_name(kind, features, _arguments(train.multilabel, candidates), seed)
    folder = paths.run_folder(out, store.dataset_slug(train.identity), store.encoder_slug(train.identity), name)
    return Plan(kind, seed, features, train.multilabel, candidates, folder)


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
        splits: see `read_splits`.
        n_jobs: trees or candidates fitted at a time, -1 for one a core; does not change the result.
        report: is told a line for each candidate.
    """
    start = time.perf_counter()
    names = list(splits["train"].class_names)
    arrays = {split: set_.features.astype(np.float32) for split, set_ in splits.items()}
    truth = {split: _truth(set_) for split, set_ in splits.items()}
    best, tried = _search(plan, arrays, splits["train"].labels, truth, n_jobs=n_jobs, report=report)
    searched = time.perf_counter()

    test_scores = score(best.estimator, arrays["test"], classes=len(names), multilabel=plan.multilabel)
    scored = time.perf_counter()
    scores = {"val": best.scores, "test": test_scores}
    rules = _rules(truth["val"], best.scores, multilabel=plan.multilabel)
    decisions = {rule: {split: decide(scores[split], rules[rule]) for split in scores} for rule in RULES}
    record = {
        "dataset": plan.folder.parent.parent.name,
        "encoder": plan.folder.parent.name,
        "kind": plan.kind,
        "seed": plan.seed,
        "arguments": plan.arguments,
        "multilabel": plan.multilabel,
        "class_names": names,
        "features": plan.features,
        "rows": {split: len(set_.features) for split, set_ in splits.items()},
        "chosen": best.params,
        "candidates": [trial.params | {plan.metric: trial.value} for trial in tried],
        "warnings": _warnings(splits, truth) + [_unconverged(trial) for trial in tried if not trial.converged],
        "metrics": {
            split: {rule: _metrics(truth[split], decisions[rule][split], scores[split], plan) for rule in RULES}
            for split in scores
        },
        "intervals": {"test": _intervals(truth["test"], {r: decisions[r]["test"] for r in RULES}, test_scores, plan)},
        "bootstrap": {
            "level": 0.95,
            "by": "image",
            "resamples": metrics.RESAMPLES,
            "map_resamples": metrics.AP_RESAMPLES,
        },
        "per_class": {
            rule: metrics.class_rows(names, truth["test"], decisions[rule]["test"], test_scores, rules[rule])
            for rule in RULES
        },
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
        split: runs.Predictions(ids=splits[split].ids, labels=splits[split].labels, scores=scores[split])
        for split in scores
    }
    return runs.write_run(plan.folder, record, predictions, lambda path: save_model(best.estimator, path))


def _search(
    plan: Plan,
    arrays: dict[str, np.ndarray],
    labels: np.ndarray,
    truth: dict[str, np.ndarray],
    *,
    n_jobs: int,
    report: Callable[[str], None],
) -> tuple[Trial, list[Trial]]:
    """The best candidate on val (of equals the first, the simplest) and all of them without their models."""
    module = PROBES.load(plan.kind)
    inside = module.CARD["parallel"] == "estimator"  # forests share out their trees; the others one candidate a core
    best: Trial | None = None
    tried = []
    # One BLAS thread: its threads wait for each other more than they gain at these sizes, and the sums they
    # split would make the last digit depend on the number of cores.
    with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # told below from n_iter_, for the candidate concerned
        pool = joblib.Parallel(n_jobs=1 if inside else n_jobs, backend="threading", return_as="generator")
        work = (
            joblib.delayed(_try)(plan, module, params, arrays, labels, truth["val"], n_jobs if inside else 1)
            for params in plan.candidates
        )
        trials = cast(Iterator[Trial], pool(work))
        for number, trial in enumerate(trials, 1):
            told = " ".join(f"{name}={value}" for name, value in trial.params.items())
            value = "undefined" if trial.value is None else f"{trial.value:.4f}"
            report(
                f"{plan.kind} {number}/{len(plan.candidates)}: {told}: val {plan.metric} {value}, {trial.fit_s:.1f} s"
            )
            if best is None or (trial.value is not None and (best.value is None or trial.value > best.value)):
                best = trial
            tried.append(Trial(**{**vars(trial), "estimator": None, "scores": None}))
    assert best is not None, f"{plan.kind} lists no candidates"
    return best, tried


def _try(
    plan: Plan,
    module: Any,
    params: dict[str, Any],
    arrays: dict[str, np.ndarray],
    labels: np.ndarray,
    val_truth: np.ndarray,
    n_jobs: int,
) -> Trial:
    classes = val_truth.shape[1]
    estimator = module.build(params, seed=plan.seed, multilabel=plan.multilabel, n_jobs=n_jobs)
    start = time.perf_counter()
    estimator.fit(arrays["train"], labels.ravel() if classes == 1 else labels)
    fitted = time.perf_counter()
    # A forest's threads add up votes in the order they finish, which changes the last digit: score on one.
    estimator.set_params(**{name: None for name in estimator.get_params() if name.endswith("n_jobs")})
    scores = score(estimator, arrays["val"], classes=classes, multilabel=plan.multilabel)
    value = _metrics(val_truth, decide(scores, None), scores, plan)[plan.metric]
    final = estimator[-1] if hasattr(estimator, "steps") else estimator
    reached = "epochs" not in params and hasattr(final, "n_iter_") and np.max(final.n_iter_) >= final.max_iter
    return Trial(params, estimator, scores, value, not reached, fitted - start, time.perf_counter() - fitted)


# --------------------------------------------------------------------------------------------- judgement


def _truth(features: store.FeatureSet) -> np.ndarray:
    if features.multilabel:
        return features.labels.astype(bool)
    return metrics.one_hot(features.labels, len(features.class_names))


def _rules(val_truth: np.ndarray, val_scores: np.ndarray, *, multilabel: bool) -> dict[str, np.ndarray | None]:
    """Thresholds by rule; None is the highest score.

    A single-label sample gets exactly one class, which a threshold cannot promise: both rules are the same there.
    """
    if not multilabel:
        return {"half": None, "tuned": None}
    return {"half": half_thresholds(val_truth.shape[1]), "tuned": best_thresholds(val_truth, val_scores, beta=BETA)}


def _metrics(truth: np.ndarray, decided: np.ndarray, scores: np.ndarray, plan: Plan) -> dict[str, float | None]:
    if plan.multilabel:
        return metrics.multilabel_metrics(truth, decided, scores)
    return metrics.single_label_metrics(truth.argmax(axis=1), decided.argmax(axis=1), truth.shape[1])


def _intervals(
    truth: np.ndarray, decisions: dict[str, np.ndarray], scores: np.ndarray, plan: Plan
) -> dict[str, dict[str, list[float]]]:
    """Bootstrap intervals of test by rule and metric; the same images are drawn for every rule."""
    names = metrics.MULTILABEL if plan.multilabel else metrics.SINGLE_LABEL
    ranking = metrics.bootstrap_average_precision(truth, scores, seed=plan.seed) if plan.multilabel else {}
    return {
        rule: metrics.bootstrap_counts(truth, decided, names=names, seed=plan.seed) | ranking
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
        "train": "it scores 0 everywhere",
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


def _unconverged(trial: Trial) -> str:
    told = " ".join(f"{name}={value}" for name, value in trial.params.items())
    return f"{told} stopped at its iteration limit before it converged"


def _selection_metric(multilabel: bool) -> str:
    return "map_macro" if multilabel else "accuracy"


def _arguments(multilabel: bool, candidates: list[dict[str, Any]]) -> dict[str, Any]:
    return {"selection": _selection_metric(multilabel), "beta": BETA, "candidates": candidates}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# ------------------------------------------------------------------------------------------------- model


def save_model(estimator: Any, path: Path) -> None:
    """Write a fitted estimator as a skops file, which runs no code on loading."""
    import skops.io  # deferred: it imports all of scikit-learn and torch, seconds that a reused run need not pay

    skops.io.dump(estimator, path, compression=zipfile.ZIP_DEFLATED, compresslevel=1)


def load_model(path: Path) -> Any:
    """Read a fitted estimator; a file that holds any type not known to be harmless is refused.

    Raises:
        RequestError: absent, or it holds other types, or a tree that would lead out of its own memory.
    """
    if not path.exists():
        raise RequestError(f"no model at {path}; run the probe again")
    import skops.io  # deferred, see `save_model`

    if foreign := sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED_TYPES)):
        raise RequestError(f"{path} holds types that no probe writes ({', '.join(foreign)}); it is not loaded")
    model = skops.io.load(path, trusted=list(TRUSTED_TYPES))
    for member in getattr(model, "estimators_", []):
        if not _sound(member.tree_, model.n_features_in_):
            raise RequestError(f"{path}: a tree is not sound; it is not used. Run the probe again")
    return model


def _sound(tree: Any, features: int) -> bool:
    """Whether every step through a tree stays inside it: scikit-learn itself follows nodes without looking."""
    inner = np.flatnonzero(tree.children_left != -1)
    children = np.stack([tree.children_left[inner], tree.children_right[inner]])
    asked = tree.feature[inner]
    forward = (children > inner).all() and (children < tree.node_count).all()  # forward: no circles either
    return bool(forward and (asked >= 0).all() and (asked < features).all())
