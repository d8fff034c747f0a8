"""Class-frequency baseline: predicts the class frequencies of train for every sample."""

from typing import Any

import numpy as np
from jaxtyping import Float, Num
from sklearn.base import BaseEstimator, ClassifierMixin

from probes.card import ProbeCard
from probes.shapes import Decisions

CARD = ProbeCard(parallel_fit=True)


class Prior(ClassifierMixin, BaseEstimator):
    """The class frequencies of train as the probabilities of every sample."""

    def fit(self, features: Num[np.ndarray, "samples dim"], labels: Decisions) -> "Prior":
        """Count multi-label rows of 0 and 1, or class numbers."""
        self.n_features_in_, self.multilabel_ = features.shape[1], labels.ndim == 2
        if self.multilabel_:
            self.classes_, self.shares_ = np.arange(labels.shape[1]), labels.mean(axis=0)
        else:
            self.classes_, counts = np.unique(labels, return_counts=True)
            self.shares_ = counts / len(labels)
        return self

    def predict_proba(self, features: Num[np.ndarray, "samples dim"]) -> Float[np.ndarray, "samples classes"]:
        """The class frequencies, for each row."""
        return np.tile(self.shares_, (len(features), 1))

    def predict(self, features: Num[np.ndarray, "samples dim"]) -> Decisions:
        """Multi-label rows, or class numbers."""
        scores = self.predict_proba(features)
        return (scores >= 0.5).astype(np.uint8) if self.multilabel_ else self.classes_[scores.argmax(axis=1)]


def candidates(rows: int) -> list[dict[str, Any]]:
    """One candidate without hyper-parameters."""
    return [{}]


def build(params: dict[str, Any], *, seed: int, multilabel: bool, n_jobs: int) -> Prior:
    """An unfitted estimator."""
    return Prior()
