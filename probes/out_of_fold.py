"""Out-of-fold probabilities of logistic regression: each sample is scored by a probe that has not seen it."""

import numpy as np
from scipy.special import expit, softmax
from threadpoolctl import threadpool_limits

from probes import logistic
from probes.probabilities import log_loss
from probes.subsets import stratified_order

C_VALUES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


def out_of_fold(
    features: np.ndarray, truth: np.ndarray, *, folds: int = 5, seed: int = 0, multilabel: bool
) -> tuple[np.ndarray, float]:
    """Probabilities from stratified folds, at the C with the least log loss over all of them.

    Args:
        features: (N, D).
        truth: (N, K) booleans.
        folds: parts; each is scored by what is learned of the others.
        seed: of the division.
        multilabel: whether the columns are independent labels.

    Returns:
        (N, K) float64, and the C chosen. A class without positives (or negatives) in a fold's training part scores 0
        (or 1) there.
    """
    fold = np.empty(len(features), int)
    # Stretches of the order, not every fifth row of it: classes of one size come in turns there.
    fold[stratified_order(truth, seed=seed)] = np.arange(len(features)) * folds // len(features)
    scores = [np.zeros(truth.shape) for _ in C_VALUES]
    with threadpool_limits(1, user_api="blas"):
        for number in range(folds):
            held = fold == number
            train = features[~held].astype(np.float32)
            mean, std = train.mean(axis=0), train.std(axis=0)
            scale = np.where(std > 0, std, 1).astype(np.float32)
            train, test = (train - mean) / scale, (features[held].astype(np.float32) - mean) / scale
            shown = truth[~held]
            learnt = shown.any(axis=0) & ~shown.all(axis=0)
            targets = np.ascontiguousarray(shown[:, learnt], np.float32)
            path = logistic.solve_path(train, targets, C_VALUES, exclusive=not multilabel)
            for result, solution in zip(scores, path, strict=True):
                logits = test @ solution.coef.T + solution.intercept
                part = np.tile(shown.all(axis=0).astype(float), (held.sum(), 1))
                part[:, learnt] = expit(logits) if multilabel else softmax(logits, axis=1)
                result[held] = part
    losses = [log_loss(truth, values, multilabel=multilabel) for values in scores]
    best = int(np.argmin(losses))
    return scores[best], C_VALUES[best]
