"""Fits each candidate of a probe kind on train, evaluates it on val and keeps the best.

A kind lists hyper-parameters (`candidates`) and either builds a scikit-learn estimator for one of them (`build`) or,
where candidates share work, fits all of them itself (`search`).
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import joblib
import numpy as np
from jaxtyping import Bool, Num
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_sample_weight

from data.command import progress
from probes import oversample, selection
from probes.card import PROBES
from probes.inputs import BLOCK_ROWS, blocks
from probes.scores import score
from probes.settings import Settings, selection_metric
from probes.shapes import Decisions, Scores, Truth


@dataclass(frozen=True)
class Trial:
    """One candidate, fitted on train and evaluated on val.

    Args:
        params: the candidate.
        estimator: fitted, with ``predict_proba`` and ``classes_``; takes features as they are stored.
        scores: (N, K) on val; None where only part of val was scored: the rest is scored if this candidate is chosen.
        value: selection metric on val, None where undefined.
        log_loss: on val; breaks ties.
        converged: whether the fit converged.
        fit_s: seconds to fit.
        score_s: seconds to score val.
        history: what else a run records if this candidate is chosen, such as losses per epoch.
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

    def without_model(self) -> "Trial":
        """The same without estimator and scores, which are large."""
        return replace(self, estimator=None, scores=None)


@dataclass(frozen=True)
class FitTask:
    """All that a kind needs to fit its candidates.

    Args:
        kind: probe kind.
        candidates: hyper-parameters to try, the simplest first.
        val: (M, D) features to evaluate on, in memory or on disk; None evaluates nothing.
        train: (N, D) training features, a copy that the kind may change in place: float32, or the stored type if the
            kind's card says so. With augmented views (`Settings.views`), all images come first, then all of each view.
        labels: of these rows, (N, K) uint8 or (N,) int64.
        val_truth: (M, K).
        seed: random seed.
        settings: see `Settings`.
        n_jobs: threads; they do not change the result.
        class_names: K names, for messages; empty where unknown.
        weights: (D,) factors on standardized features, so that each of several joined encoders has the same weight.
        log: receives one line per candidate.
    """

    kind: str
    candidates: list[dict[str, Any]]
    val: Any
    train: Num[np.ndarray, "samples dim"]
    labels: Decisions
    val_truth: Bool[np.ndarray, "val_samples classes"]
    seed: int
    settings: Settings
    n_jobs: int
    class_names: tuple[str, ...] = ()
    weights: np.ndarray | None = None
    log: Callable[[str], None] | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def multilabel(self) -> bool:
        """Whether a sample may have several classes."""
        return self.labels.ndim == 2

    @property
    def targets(self) -> Decisions:
        """Labels as scikit-learn takes them: (N, K), or (N,) for one label or for class numbers."""
        return self.labels.ravel() if self.classes == 1 else self.labels

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
        """Whether the time budget is spent."""
        budget = self.settings.budget_s
        return budget is not None and time.perf_counter() - self.started > budget

    def scaler(self) -> StandardScaler:
        """Mean and standard deviation of train, computed block by block."""
        scaler = StandardScaler(copy=False)
        for block in blocks(self.train):
            scaler.partial_fit(block.astype(np.float32, copy=False))
        if self.weights is not None:
            scaler.scale_ = scaler.scale_ / self.weights
        return scaler

    def standardise(self, *, center: bool = False) -> StandardScaler:
        """Z-score train in place, block by block; returns the fitted scaler.

        Args:
            center: with ``--no-standardize``, still subtract the mean; otherwise features stay as they are and the
                scaler does nothing.
        """
        scaler = self.scaler()
        if self.settings.standardise is False:
            scaler.set_params(with_std=False, with_mean=center)
            scaler.scale_ = scaler.var_ = None
            scaler.mean_ = scaler.mean_ if center else None
        for start in range(0, len(self.train), BLOCK_ROWS):
            block = self.train[start : start + BLOCK_ROWS]
            block[:] = scaler.transform(block)
        return scaler.set_params(copy=True)

    def evaluate(
        self,
        params: dict[str, Any],
        estimator: Any,
        *,
        fit_s: float,
        converged: bool = True,
        label: str | None = None,
        **history: Any,
    ) -> Trial:
        """Score val, if there is one, with a fitted estimator; a label shows progress."""
        if self.val is None:
            return Trial(params, estimator, None, None, float("nan"), converged, fit_s, 0.0, history)
        start = time.perf_counter()
        scores = self.score(estimator, self.val, label)
        value, log_loss = self.judge(self.val_truth, scores)
        score_s = time.perf_counter() - start
        return Trial(params, estimator, scores, value, log_loss, converged, fit_s, score_s, history)

    def score(self, estimator: Any, features: Any, label: str | None = None) -> Scores:
        """Scores of features (N, D), in memory or on disk; a label shows progress."""
        about: dict[str, Any] = {"classes": self.classes, "multilabel": self.multilabel, "label": label}
        return score(estimator, features, n_jobs=self.threads, **about)

    def judge(self, truth: Truth, scores: Scores) -> selection.Judgement:
        """The selection metric and the log loss of scores."""
        return selection.judge(truth, scores, self.metric, multilabel=self.multilabel, beta=self.settings.beta)

    def better(self, one: Trial, other: Trial) -> bool:
        """Whether a candidate is better than another on val."""
        return selection.better(one, other, self.metric, tie_breaker=self.settings.tie_breaker)

    def log_trial(self, trial: Trial, number: int, split: str = "val") -> None:
        """Write one line about a candidate, if a log is wanted."""
        if self.log is not None:
            value = "undefined" if trial.value is None else f"{trial.value:.4f}"
            position = f"{self.kind} {number}/{max(len(self.candidates), number)}"
            seconds = trial.fit_s + trial.score_s
            self.log(f"{position}: {words(trial.params)}: {split} {self.metric} {value}, {seconds:.1f} s")


@dataclass(frozen=True)
class SearchResult:
    """The outcome of a search.

    Args:
        best: the chosen candidate, with its estimator and its scores on val.
        tried: all candidates tried, without estimators and scores.
        skipped: number of candidates not tried because the time budget was spent.
    """

    best: Trial
    tried: list[Trial]
    skipped: int


def search(task: FitTask) -> SearchResult:
    """Try the candidates and choose the best on val; among equals the first, which is the simplest."""
    task, oversampled = with_synthetic_samples(task)
    one_by_one = hasattr(PROBES.load(task.kind), "search")  # other kinds check the time budget in `_each`
    best: Trial | None = None
    tried: list[Trial] = []
    total = len(task.candidates)
    with progress(task.kind, total, "candidates") as advance:
        for trial in trials(task):
            if best is None or task.better(trial, best):
                best = trial
            tried.append(trial.without_model())
            task.log_trial(trial, len(tried))
            advance(1)
            if task.out_of_time and one_by_one:
                break
    skipped = max(total - len(tried), 0) if task.out_of_time else 0
    assert best is not None, f"{task.kind} lists no candidates"
    if best.scores is None:
        whole = task.evaluate(best.params, best.estimator, fit_s=best.fit_s, label=f"{task.kind} on val")
        best = replace(best, scores=whole.scores, score_s=whole.score_s)
    if oversampled:
        best = replace(best, history=best.history | {"oversampled": oversampled})
    return SearchResult(best, tried, skipped)


def with_synthetic_samples(task: FitTask) -> tuple[FitTask, dict[str, Any] | None]:
    """The task with oversampled training rows if requested, and what a run records about them."""
    if task.settings.oversample is None:
        return task, None
    names = list(task.class_names or (f"number {k}" for k in range(task.classes)))
    train, labels, recorded = oversample.smote(task.train, task.labels, names, seed=task.seed)
    return replace(task, train=train, labels=labels), recorded


def trials(task: FitTask) -> Iterator[Trial]:
    """Every candidate, fitted and evaluated."""
    module = PROBES.load(task.kind)
    return module.search(task) if hasattr(module, "search") else _each(task, module)


def fit_again(task: FitTask, params: dict[str, Any]) -> Trial:
    """One candidate fitted on all samples of the task, not evaluated."""
    task, oversampled = with_synthetic_samples(task)
    settings = replace(task.settings, extend=False, budget_s=None)
    nothing = np.zeros((0, task.classes), bool)
    last = next(iter(trials(replace(task, candidates=[params], val=None, val_truth=nothing, settings=settings))))
    return replace(last, history=last.history | {"oversampled": oversampled}) if oversampled else last


def words(params: dict[str, Any]) -> str:
    """A candidate as text, such as ``C=0.1``."""
    return " ".join(f"{name}={value}" for name, value in params.items())


def _each(task: FitTask, module: Any) -> Iterator[Trial]:
    """Fit candidates that share no work: one per thread, or in turn where each uses all threads."""
    scaler = task.standardise() if module.CARD.standardize == "train" else None
    in_turn = module.CARD.parallel_fit
    weights = {"sample_weight": compute_sample_weight("balanced", task.labels)} if task.settings.balanced else {}

    def run(number: int, params: dict[str, Any]) -> Trial | None:
        if number and task.out_of_time:
            return None
        start = time.perf_counter()
        n_jobs = task.threads if in_turn else 1
        estimator = module.build(params, seed=task.seed, multilabel=task.multilabel, n_jobs=n_jobs)
        history = {}
        if hasattr(module, "fit"):  # checks the time budget within a fit, too
            label = f"{task.kind} {number + 1}/{len(task.candidates)}"
            limits = {"label": label, "out_of_time": lambda: task.out_of_time}
            history = module.fit(estimator, task.train, task.targets, **limits, **weights)
        else:
            estimator.fit(task.train, task.targets, **weights)
        fit_s = time.perf_counter() - start
        # A forest's threads add up votes in the order in which they finish, which changes the last digit.
        estimator.set_params(**{name: None for name in estimator.get_params() if name.endswith("n_jobs")})
        whole = Pipeline([("scale", scaler), ("model", estimator)]) if scaler else estimator
        return task.evaluate(params, whole, fit_s=fit_s, converged=_converged(params, estimator), **history)

    with ThreadPoolExecutor(1 if in_turn else task.threads) as pool:
        # `map` keeps no result that it has given: a forest that was not chosen must not stay in memory.
        for trial in pool.map(run, range(len(task.candidates)), task.candidates):
            if trial:
                yield trial


def _converged(params: dict[str, Any], estimator: Any) -> bool:
    """Whether a fit ended before its iteration limit; one with a fixed number of epochs always counts as converged."""
    return "epochs" in params or np.max(getattr(estimator, "n_iter_", 0)) < getattr(estimator, "max_iter", 1)


def on_device(device: str, *arrays: np.ndarray) -> list[Any]:
    """The arrays unchanged for ``cpu``, otherwise as torch tensors on that device."""
    if device == "cpu":
        return list(arrays)
    import torch  # deferred: only for a GPU

    return [torch.from_numpy(array).to(device) for array in arrays]
