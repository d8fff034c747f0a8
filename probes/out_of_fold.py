"""Out-of-fold probabilities of logistic regression: each sample is scored by a probe that has not seen it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer, Num
from scipy.special import expit, softmax
from threadpoolctl import threadpool_limits

from probes import logistic
from probes.probabilities import log_losses
from probes.sampling import stratified_folds
from probes.shapes import Scores, Truth

C_VALUES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def out_of_fold(
    features: Num[np.ndarray, "samples dim"],
    truth: Truth,
    *,
    folds: int = 5,
    seed: int = 0,
    multilabel: bool,
    cells: Integer[np.ndarray, " samples"] | None = None,
) -> tuple[Scores, Truth]:
    """Probabilities from stratified folds, at the C with the lowest log loss over all of them.

    Each fold is scored by a fit on the others; ``cells`` are groups that stay in one fold, None for single samples.

    Returns:
        Scores, and whether the training part for the sample's fold had both positives and negatives of the class;
        otherwise the class scores 0 (or 1 if all were positive), which says nothing about the sample.
    """
    fold = stratified_folds(truth, folds, seed=seed, cells=cells)
    parts, losses = [], np.zeros((len(C_VALUES), len(truth)))
    with threadpool_limits(1, user_api="blas"):
        for number in range(folds):
            held = fold == number
            part = _fit(features[~held], truth[~held], multilabel)
            for c in range(len(C_VALUES)):  # scored again below: scores at every C would be most of the memory
                losses[c, held] = log_losses(truth[held], part.scores(features[held], c), multilabel=multilabel)
            parts.append(part)
        best = int(np.argmin(losses.mean(axis=1)))
        scores, learnt = np.zeros(truth.shape), np.zeros(truth.shape, bool)
        for number, part in enumerate(parts):
            held = fold == number
            scores[held], learnt[held] = part.scores(features[held], best), part.learnt
    return scores, learnt


@dataclass(frozen=True)
class _Part:
    """Fits at every C on all folds but one; ``learnt`` classes have positives and negatives, others are constant."""

    mean: np.ndarray
    scale: np.ndarray
    constant: np.ndarray
    learnt: np.ndarray
    path: list[logistic.Solution]
    multilabel: bool

    def scores(self, features: np.ndarray, c: int) -> np.ndarray:
        result = np.tile(self.constant.astype(np.float64), (len(features), 1))
        if self.path and len(features):
            solution = self.path[c]
            logits = (features.astype(np.float32) - self.mean) / self.scale @ solution.coef.T + solution.intercept
            result[:, self.learnt] = expit(logits) if self.multilabel else softmax(logits, axis=1)
        return result


def _fit(features: np.ndarray, shown: np.ndarray, multilabel: bool) -> _Part:
    """Fit new features, which are changed in place where they are float32."""
    learnt, train = shown.any(axis=0) & ~shown.all(axis=0), features.astype(np.float32, copy=False)
    mean = train.mean(axis=0)
    # Some columns at a time, as NumPy copies what it is given.
    std = np.concatenate([train[:, first : first + 64].std(axis=0) for first in range(0, train.shape[1], 64)])
    scale = np.where(std > 0, std, 1).astype(np.float32)
    train -= mean
    train /= scale
    targets, path = np.ascontiguousarray(shown[:, learnt], np.float32), []
    if learnt.any():
        path = list(logistic.solve_path(train, targets, C_VALUES, exclusive=not multilabel))
    return _Part(mean, scale, shown.all(axis=0), learnt, path, multilabel)
