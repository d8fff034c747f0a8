"""K-fold cross-validation: settings chosen, and thresholds set, on scores of samples that a fit has not seen.

Folds are stratified, multi-label too, by iterative stratification (Sechidis et al. 2011) of whole groups: spatial cells
where locations are known, else single samples.
"""

from collections.abc import Callable
from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np

from data.command import progress
from data.errors import RequestError
from probes import metrics
from probes.search import Found, Job, Trial, trials, with_synthetic_samples, words


def assign(
    shown: np.ndarray, count: int, class_names: list[str], *, seed: int, cells: np.ndarray | None = None
) -> np.ndarray:
    """The fold of each sample, from 0.

    Args:
        shown: (N, K) booleans.
        count: how many folds.
        class_names: K names, for messages.
        seed: decides between equals.
        cells: (N,) groups that stay together; None for single samples.

    Returns:
        (N,), see `divide`.

    Raises:
        RequestError: more folds than a class has samples, or than there are cells.
    """
    sizes = shown.sum(axis=0)
    occurring = np.flatnonzero(sizes)
    rarest = occurring[sizes[occurring].argmin()]
    if sizes[rarest] < count:
        raise RequestError(
            f"--folds {count}: class '{class_names[rarest]}' has {sizes[rarest]} samples; give at most "
            f"{sizes[rarest]} folds" + ("" if sizes[rarest] > 1 else ", which needs at least 2: drop the flag")
        )
    return divide(shown, count, seed=seed, cells=cells)


def divide(shown: np.ndarray, count: int, *, seed: int, cells: np.ndarray | None = None) -> np.ndarray:
    """As `assign`, also where a class has fewer samples than there are folds.

    The class with the fewest samples left comes first; its largest group goes to the fold that lacks most of the class.

    Raises:
        RequestError: more folds than there are cells.
    """
    groups = np.arange(len(shown)) if cells is None else cells
    units = int(groups.max()) + 1
    if units < count:
        raise RequestError(f"--folds {count}: the samples lie in {units} spatial cells, which stay together; give less")
    order = np.random.default_rng(seed).permutation(units)  # between equals
    table = np.zeros((units, shown.shape[1] + 1), np.int64)  # the last column counts samples
    np.add.at(table, np.argsort(order)[groups], np.hstack([shown, np.ones((len(shown), 1), bool)]))
    lacking = np.tile(table.sum(axis=0) / count, (count, 1))
    fold = np.full(units, -1)
    while (left := np.flatnonzero(fold < 0)).size:
        sums = table[left].sum(axis=0)
        column = min((k for k in range(len(sums)) if sums[k]), key=lambda k: (k == len(sums) - 1, sums[k]))
        for unit in left[np.argsort(-table[left, column], kind="stable")]:
            if not table[unit, column]:
                break
            best = max(range(count), key=lambda f: (lacking[f, column], lacking[f, -1], -f))
            fold[unit] = best
            lacking[best] -= table[unit]
    return fold[np.argsort(order)][groups]


def cross_validate(job: Job, folds: np.ndarray, report: Callable[[str], None]) -> Found:
    """Try every candidate on each fold; the best by all out-of-fold scores together is chosen.

    Args:
        job: its ``train`` holds all samples.
        folds: (N,) fold of each sample.
        report: is told a line for each candidate.

    Returns:
        ``best.scores`` are (N, K), out of fold, in the order of ``train``; there is no estimator.
    """
    truth = metrics.label_matrix(job.labels, job.classes)
    scores: list[np.ndarray] = []
    tried: list[list[Trial]] = []
    count = int(folds.max()) + 1
    settings = replace(job.settings, extend=False)
    with progress(f"{job.kind} folds", count, "folds") as advance:
        for fold in range(count):
            held = folds == fold
            part = replace(
                job,
                train=job.train[~held],
                labels=job.labels[~held],
                val=job.train[held],
                val_truth=truth[held],
                settings=settings,
            )
            part, _ = with_synthetic_samples(part)
            for number, trial in enumerate(trials(part)):
                if trial.scores is None:
                    trial = replace(trial, scores=part.judge(trial.params, trial.estimator, fit_s=trial.fit_s).scores)
                if number == len(scores):
                    scores.append(np.zeros(truth.shape, np.float32))
                    tried.append([])
                assert trial.scores is not None
                scores[number][held] = trial.scores
                tried[number].append(replace(trial, estimator=None, scores=None))
            advance(1)
    best, whole = 0, []
    for number, (each, parts) in enumerate(zip(scores, tried, strict=True)):
        said = job.judgement(truth, each)
        converged, fit_s, score_s = (
            all(t.converged for t in parts),
            *(sum(s) for s in zip(*((t.fit_s, t.score_s) for t in parts), strict=True)),
        )
        history = mean_curves([trial.history for trial in parts])
        whole.append(Trial(parts[0].params, None, None, *said, converged, fit_s, score_s, history))
        if job.better(whole[number], whole[best]):
            best = number
        value = "undefined" if said.value is None else f"{said.value:.4f}"
        report(f"{job.kind} {number + 1}/{len(scores)}: {words(parts[0].params)}: out-of-fold {job.metric} {value}")
    return Found(replace(whole[best], scores=scores[best]), whole, 0)


def mean_curves(histories: list[dict[str, Any]]) -> dict[str, Any]:
    """Epochs of the folds as one: the mean over folds of what each recorded; nothing where a fold recorded none.

    Args:
        histories: see `probes.search.Trial`.
    """
    if not all(one.get("curves") for one in histories):
        return {}
    epochs = zip(*(one["curves"] for one in histories), strict=True)
    return {
        "curves": [
            {name: fmean(of[name] for of in each) for name in each[0]} | {"epoch": each[0]["epoch"]} for each in epochs
        ]
    }
