"""K-fold cross-validation: each candidate is evaluated on out-of-fold scores of all samples together."""

from dataclasses import replace
from statistics import fmean
from typing import Any

import numpy as np
from jaxtyping import Integer

from data.command import progress
from probes.metrics import label_matrix
from probes.search import FitTask, SearchResult, Trial, trials, with_synthetic_samples


def cross_validate(task: FitTask, folds: Integer[np.ndarray, " samples"]) -> SearchResult:
    """Try every candidate on each fold; the best by all out-of-fold scores together is chosen.

    Returns:
        ``best.scores`` are out of fold, in the order of ``train``; there is no estimator.
    """
    truth = label_matrix(task.labels, task.classes)
    scores: list[np.ndarray] = []  # by candidate
    by_fold: list[list[Trial]] = []
    count, settings = int(folds.max()) + 1, replace(task.settings, extend=False)
    with progress(f"{task.kind} folds", count, "folds") as advance:
        for fold in range(count):
            held_out = folds == fold
            part = replace(
                task,
                train=task.train[~held_out],
                labels=task.labels[~held_out],
                val=task.train[held_out],
                val_truth=truth[held_out],
                settings=settings,
            )
            part, _ = with_synthetic_samples(part)
            for number, trial in enumerate(trials(part)):
                if trial.scores is None:
                    trial = part.evaluate(trial.params, trial.estimator, fit_s=trial.fit_s)
                if number == len(scores):
                    scores.append(np.zeros(truth.shape, np.float32))
                    by_fold.append([])
                assert trial.scores is not None
                scores[number][held_out] = trial.scores
                by_fold[number].append(trial.without_model())
            advance(1)
    best, tried = None, []
    for out_of_fold, parts in zip(scores, by_fold, strict=True):
        value, log_loss = task.judge(truth, out_of_fold)
        trial = Trial(
            parts[0].params, None, out_of_fold, value, log_loss,
            converged=all(part.converged for part in parts),
            fit_s=sum(part.fit_s for part in parts),
            score_s=sum(part.score_s for part in parts),
            history=mean_curves([part.history for part in parts]),
        )  # fmt: skip
        tried.append(trial.without_model())
        task.log_trial(trial, len(tried), "out-of-fold")
        if best is None or task.better(trial, best):
            best = trial
    assert best is not None, f"{task.kind} lists no candidates"
    return SearchResult(best, tried, 0)


def mean_curves(histories: list[dict[str, Any]]) -> dict[str, Any]:
    """Learning curves per epoch, averaged over the folds; empty where a fold has none."""
    if not all(one.get("curves") for one in histories):
        return {}
    epochs = zip(*(one["curves"] for one in histories), strict=True)
    return {
        "curves": [
            {name: fmean(of[name] for of in each) for name in each[0]} | {"epoch": each[0]["epoch"]} for each in epochs
        ]
    }
