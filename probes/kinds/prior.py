"""Class-frequency baseline: predicts the class frequencies of train for every sample."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin

from probes.card import ProbeCard

CARD = ProbeCard(parallel_fit=True)


class Prior(ClassifierMixin, BaseEstimator):
    """The same probabilities for every sample: shares of the training samples."""

    def fit(self, features: np.ndarray, labels: np.ndarray) -> "Prior":
        """Count labels (N, K) of 0 and 1, or class numbers (N,)."""
        self.n_features_in_, self.multilabel_ = features.shape[1], labels.ndim == 2
        if self.multilabel_:
            self.classes_, self.shares_ = np.arange(labels.shape[1]), labels.mean(axis=0)
        else:
            self.classes_, counts = np.unique(labels, return_counts=True)
            self.shares_ = counts / len(labels)
        return self

    def predict_proba(self, features: np.ndarray) -> np.ndarray:
        """The shares for features (N, D): (N, number of classes)."""
        return np.tile(self.shares_, (len(features), 1))

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Labels (N, K), or class numbers (N,)."""
        scores = self.predict_proba(features)
        return (scores >= 0.5).astype(np.uint8) if self.multilabel_ else self.classes_[scores.argmax(axis=1)]


def candidates(rows: int) -> list[dict[str, Any]]:
    """Nothing to choose: one candidate without settings.

    Args:
        rows: training rows; does not matter here.
    """
    return [{}]


def build(params: dict[str, Any], *, seed: int, multilabel: bool, n_jobs: int) -> Prior:
    """An unfitted estimator."""
    return Prior()
