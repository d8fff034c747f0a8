"""Out-of-fold probabilities of logistic regression: each sample is scored by a probe that has not seen it."""

import numpy as np
from jaxtyping import Integer, Num
from scipy.special import expit, softmax
from threadpoolctl import threadpool_limits

from probes import logistic
from probes.probabilities import log_loss
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
    scores = [np.zeros(truth.shape) for _ in C_VALUES]
    learnt_of = np.zeros(truth.shape, bool)
    with threadpool_limits(1, user_api="blas"):
        for number in range(folds):
            held = fold == number
            shown = truth[~held]
            learnt = shown.any(axis=0) & ~shown.all(axis=0)
            learnt_of[held] = learnt
            for result in scores:
                result[held] = shown.all(axis=0)
            if not learnt.any() or not held.any():
                continue
            train = features[~held].astype(np.float32)
            mean, std = train.mean(axis=0), train.std(axis=0)
            scale = np.where(std > 0, std, 1).astype(np.float32)
            train, test = (train - mean) / scale, (features[held].astype(np.float32) - mean) / scale
            targets = np.ascontiguousarray(shown[:, learnt], np.float32)
            path = logistic.solve_path(train, targets, C_VALUES, exclusive=not multilabel)
            for result, solution in zip(scores, path, strict=True):
                logits = test @ solution.coef.T + solution.intercept
                result[np.ix_(held, learnt)] = expit(logits) if multilabel else softmax(logits, axis=1)
    losses = [log_loss(truth, values, multilabel=multilabel) for values in scores]
    return scores[int(np.argmin(losses))], learnt_of
