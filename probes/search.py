"""Candidates of a probe kind, each fitted on train and judged on val; the best one is kept.

A kind lists hyper-parameters (`candidates`) and either builds a scikit-learn estimator for one of them (`build`) or,
where candidates share work, fits them all itself (`search`).
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import joblib
import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from data.registry import PROBES
from probes import oversample, selection
from probes.inputs import BLOCK_ROWS, blocks
from probes.scores import score
from probes.settings import Settings, selection_metric


@dataclass(frozen=True)
class Trial:
    """One candidate, fitted on train and judged on val.

    Args:
        params: the candidate.
        estimator: fitted, with ``predict_proba`` and ``classes_``; takes features as they are on disk.
        scores: (N, K) on val; None where only a part of val was judged: all of it is scored if this one is chosen.
        value: the metric that chooses, None where undefined.
        log_loss: on val; it decides between equals.
        converged: whether the fit ended by itself.
        fit_s: seconds to fit.
        score_s: seconds to score val.
        history: what else the run should record of it if it is chosen, such as losses by epoch.
    """

    params: dict[str, Any]
    estimator: Any
    scores: np.ndarray | None
    value: float | None
    log_loss: float
    converged: bool
    fit_s: float
    score_s: float
    history: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """What a kind gets to fit its candidates.

    Args:
        kind: probe kind.
        candidates: hyper-parameters to try, the simplest first.
        val: (M, D) features to choose on, in memory or on disk; None where nothing is chosen.
        train: (N, D) float32, those rows; the kind's own copy, which it may change in place. With several views
            (`Settings.views`) first all rows of the images themselves, then all of the next view. In the type that
            is on disk if the kind's card says ``as_stored``.
        labels: (N, K) uint8 or (N,) int64 of those rows.
        val_truth: (M, K) booleans.
        seed: random seed.
        settings: see `Settings`.
        n_jobs: threads; must not change the result.
        class_names: K names, for messages; empty where they are not known.
        weights: (D,) factors on standardized features, of joined ones, so that every encoder counts alike.
    """

    kind: str
    candidates: list[dict[str, Any]]
    val: Any
    train: np.ndarray
    labels: np.ndarray
    val_truth: np.ndarray
    seed: int
    settings: Settings
    n_jobs: int
    class_names: tuple[str, ...] = ()
    weights: np.ndarray | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def multilabel(self) -> bool:
        """Whether a sample may have several classes."""
        return self.labels.ndim == 2

    @property
    def metric(self) -> str:
        """The metric on val that chooses."""
        return selection_metric(self.settings, self.multilabel)

    @property
    def classes(self) -> int:
        """K."""
        return self.val_truth.shape[1]

    @property
    def threads(self) -> int:
        """`n_jobs` as a number of threads."""
        return joblib.effective_n_jobs(self.n_jobs)

    @property
    def out_of_time(self) -> bool:
        """Whether the budget is spent."""
        budget = self.settings.budget_s
        return budget is not None and time.perf_counter() - self.started > budget

    def scaler(self) -> StandardScaler:
        """Means and deviations of train, from one block after another."""
        scaler = StandardScaler(copy=False)
        for block in blocks(self.train):
            scaler.partial_fit(block.astype(np.float32, copy=False))
        if self.weights is not None:
            scaler.scale_ = scaler.scale_ / self.weights
        return scaler

    def standardise(self, *, centre: bool = False) -> StandardScaler:
        """Turn train into z-scores in place, block by block; returns the fitted scaler.

        Args:
            centre: where features are not to be standardised, subtract their means at least; else they stay as they
                are and the scaler does nothing.
        """
        scaler = self.scaler()
        if self.settings.standardise is False:
            scaler.set_params(with_std=False, with_mean=centre)
            scaler.scale_ = scaler.var_ = None
            scaler.mean_ = scaler.mean_ if centre else None
        for start in range(0, len(self.train), BLOCK_ROWS):
            block = self.train[start : start + BLOCK_ROWS]
            block[:] = scaler.transform(block)
        return scaler.set_params(copy=True)

    def judge(
        self,
        params: dict[str, Any],
        estimator: Any,
        *,
        fit_s: float,
        converged: bool = True,
        label: str | None = None,
        **history: Any,
    ):
        """Score val, if there is one, with a fitted estimator: a `Trial`; with a label, shows progress."""
        if self.val is None:
            return Trial(params, estimator, None, None, float("nan"), converged, fit_s, 0.0, history)
        start = time.perf_counter()
        scores = score(
            estimator,
            self.val,
            classes=self.classes,
            multilabel=self.multilabel,
            n_jobs=self.threads,
            label=label,
        )
        said = self.judgement(self.val_truth, scores)
        return Trial(params, estimator, scores, *said, converged, fit_s, time.perf_counter() - start, history)

    def judgement(self, truth: np.ndarray, scores: np.ndarray) -> selection.Judgement:
        """What the metric that chooses says of scores (M, K)."""
        return selection.judge(truth, scores, self.metric, multilabel=self.multilabel, beta=self.settings.beta)

    def better(self, one: "Trial", other: "Trial") -> bool:
        """Whether a candidate beats another on val."""
        return selection.better(one, other, self.metric, tie_breaker=self.settings.tie_breaker)


@dataclass(frozen=True)
class Found:
    """What a search ended with.

    Args:
        best: the candidate chosen, with its estimator and its scores on val.
        tried: all that were tried, without estimators and scores.
        skipped: candidates left untried because the budget ended.
    """

    best: Trial
    tried: list[Trial]
    skipped: int


def search(job: Job, report: Callable[[str], None]) -> Found:
    """Try the candidates; the best on val is chosen, of full equals the first, the simplest."""
    job, oversampled = with_synthetic_samples(job)
    one_by_one = hasattr(PROBES.load(job.kind), "search")  # else the time is minded there
    best: Trial | None = None
    tried: list[Trial] = []
    total = len(job.candidates)
    for trial in trials(job):
        if best is None or job.better(trial, best):
            best = trial
        tried.append(replace(trial, estimator=None, scores=None))
        value = "undefined" if trial.value is None else f"{trial.value:.4f}"
        spent = f"{trial.fit_s + trial.score_s:.1f} s"
        of = max(total, len(tried))
        line = f"{job.kind} {len(tried)}/{of}: {words(trial.params)}: val {job.metric} {value}, {spent}"
        report(line + _time_left(job, len(tried)))
        if job.out_of_time and one_by_one:
            break
    skipped = max(total - len(tried), 0) if job.out_of_time else 0
    assert best is not None, f"{job.kind} lists no candidates"
    if best.scores is None:
        whole = job.judge(best.params, best.estimator, fit_s=best.fit_s, label=f"{job.kind} on val")
        best = replace(best, scores=whole.scores, score_s=whole.score_s)
    if oversampled:
        best = replace(best, history=best.history | {"oversampled": oversampled})
    return Found(best, tried, skipped)


def with_synthetic_samples(job: Job) -> tuple[Job, dict[str, Any] | None]:
    """The job with oversampled training rows where that is asked for, and what a run records of them."""
    if job.settings.oversample is None:
        return job, None
    names = list(job.class_names or (f"number {k}" for k in range(job.classes)))
    train, labels, told = oversample.smote(job.train, job.labels, names, seed=job.seed)
    return replace(job, train=train, labels=labels), told


def trials(job: Job) -> Iterator[Trial]:
    """Every candidate, fitted and judged."""
    module = PROBES.load(job.kind)
    return module.search(job) if hasattr(module, "search") else _each(job, module)


def fit_again(job: Job, params: dict[str, Any]) -> Trial:
    """One candidate fitted on all of the job's samples; nothing is judged."""
    job, oversampled = with_synthetic_samples(job)
    settings = replace(job.settings, extend=False, budget_s=None)
    nothing = np.zeros((0, job.classes), bool)
    last = next(iter(trials(replace(job, candidates=[params], val=None, val_truth=nothing, settings=settings))))
    return replace(last, history=last.history | {"oversampled": oversampled}) if oversampled else last


def words(params: dict[str, Any]) -> str:
    """A candidate as a line shows it."""
    return " ".join(f"{name}={value}" for name, value in params.items())


def _time_left(job: Job, done: int) -> str:
    left = len(job.candidates) - done
    if left <= 0:
        return ""
    spent = time.perf_counter() - job.started
    expected = spent / done * left
    if job.settings.budget_s is not None:
        expected = max(min(expected, job.settings.budget_s - spent), 0.0)
    return f", about {expected:.0f} s left" if expected >= 1 else ""


def _each(job: Job, module: Any) -> Iterator[Trial]:
    """Fit candidates that share no work: one a thread, or in turn where each uses all threads itself."""
    card = module.CARD
    scaler = job.standardise() if card.get("zscored") else None
    inside = card["parallel"] == "estimator"
    labels = job.labels.ravel() if job.classes == 1 else job.labels
    weights = {"sample_weight": class_weights(job.labels, job.classes)} if job.settings.balanced else {}

    def run(number: int, params: dict[str, Any]) -> Trial | None:
        if number and job.out_of_time:
            return None
        start = time.perf_counter()
        n_jobs = job.threads if inside else 1
        estimator = module.build(params, seed=job.seed, multilabel=job.multilabel, n_jobs=n_jobs)
        history = {}
        if hasattr(module, "fit"):  # which minds the time within a fit too
            label = f"{job.kind} {number + 1}/{len(job.candidates)}"
            told = {"label": label, "out_of_time": lambda: job.out_of_time}
            history = module.fit(estimator, job.train, labels, **told, **weights)
        else:
            estimator.fit(job.train, labels, **weights)
        fit_s = time.perf_counter() - start
        # A forest's threads add up votes in the order they finish, which changes the last digit: one thread a block.
        estimator.set_params(**{name: None for name in estimator.get_params() if name.endswith("n_jobs")})
        whole = Pipeline([("scale", scaler), ("model", estimator)]) if scaler else estimator
        return job.judge(params, whole, fit_s=fit_s, converged=_converged(params, estimator), **history)

    with ThreadPoolExecutor(1 if inside else job.threads) as pool:
        tasks = [pool.submit(run, number, params) for number, params in enumerate(job.candidates)]
        try:
            while tasks:
                if trial := tasks.pop(0).result():  # let go of: a forest that lost must not stay in memory
                    yield trial
        finally:
            for task in tasks:
                task.cancel()


def _converged(params: dict[str, Any], estimator: Any) -> bool:
    """Whether a fit ended by itself; one of a given number of epochs always has."""
    return "epochs" in params or np.max(getattr(estimator, "n_iter_", 0)) < getattr(estimator, "max_iter", 1)


def on_device(device: str, *arrays: np.ndarray) -> list[Any]:
    """The arrays as they are for ``cpu``, else as torch tensors on that device."""
    if device == "cpu":
        return list(arrays)
    import torch  # deferred: only for a GPU

    return [torch.from_numpy(array).to(device) for array in arrays]


def class_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """(N,) weights of single-label samples by which every class in train counts the same; their mean is 1."""
    counts = np.bincount(labels, minlength=classes)
    return len(labels) / (np.count_nonzero(counts) * counts[labels])
