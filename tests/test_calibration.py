"""Calibration, held to scikit-learn's."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator

from probes import calibration
from probes.flags import METHODS
from probes.models import load_model, save_model
from probes.probabilities import brier, log_loss
from probes.scores import score

RNG = np.random.default_rng(0)
X = RNG.standard_normal((400, 4)).astype(np.float32)
LABELS = (X[:, :3] + RNG.standard_normal((400, 3)) > [0.0, 0.5, 1.5]).astype(np.uint8)
PEER = {"platt": "sigmoid", "isotonic": "isotonic", "temperature": "temperature"}
TRAIN, VAL = slice(0, 150), slice(150, 400)


class LogOdds(ClassifierMixin, BaseEstimator):
    """A fitted forest with a decision function, of which scikit-learn calibrates and not of the probabilities."""

    def __init__(self, forest):
        self.forest, self.classes_ = forest, forest.classes_

    def __sklearn_is_fitted__(self):
        return True

    def fit(self, features, labels):
        raise NotImplementedError("it is fitted")

    def predict(self, features):
        return self.forest.predict(features)

    def decision_function(self, features):
        scores = self.forest.predict_proba(features)
        return calibration.log_odds(scores[:, 1]) if scores.shape[1] == 2 else calibration.log_odds(scores)


def _peer(forest, method, labels):
    probe = LogOdds(forest) if method == "platt" else forest
    return CalibratedClassifierCV(FrozenEstimator(probe), method=PEER[method]).fit(X[VAL], labels[VAL])


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_a_label_is_calibrated_as_scikit_learn_does(method):
    for k in range(2):
        forest = RandomForestClassifier(20, random_state=0).fit(X[TRAIN], LABELS[TRAIN, k])
        scores = forest.predict_proba(X[VAL])[:, 1:]
        ours = calibration.calibrate(forest, LABELS[VAL, k : k + 1] == 1, scores, method=method, multilabel=True)
        theirs = _peer(forest, method, LABELS[:, k]).predict_proba(X[VAL])[:, 1]
        np.testing.assert_allclose(ours.apply(scores)[:, 0], theirs, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_classes_that_exclude_each_other_are_calibrated_as_scikit_learn_does(method):
    labels = LABELS[:, 0] + LABELS[:, 1]
    forest = RandomForestClassifier(20, min_samples_leaf=5, random_state=0).fit(X[TRAIN], labels[TRAIN])
    truth = labels[VAL, None] == np.arange(3)
    given = forest.predict_proba(X[VAL]).astype(np.float32)
    ours = calibration.calibrate(forest, truth, given, method=method, multilabel=False)
    np.testing.assert_allclose(ours.apply(given), _peer(forest, method, labels).predict_proba(X[VAL]), atol=1e-4)
    np.testing.assert_array_equal(score(ours, X[VAL], classes=3, multilabel=False), ours.apply(given))


def test_platt_leaves_calibrated_scores_almost_as_they_are():
    """Of probabilities it could not: a sigmoid of p is no straight line, whatever its slope."""
    rng = np.random.default_rng(0)
    scores = rng.random((20000, 1))
    truth = rng.random((20000, 1)) < scores
    mapped = calibration.calibrate(None, truth, scores, method="platt", multilabel=True).apply(scores)
    assert np.abs(mapped - scores).max() < 0.015


@pytest.mark.parametrize("multilabel", [True, False])
def test_a_temperature_is_found_again(multilabel):
    """Log odds, or log probabilities, three times too large: a temperature of 3."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((20000, 4)) * 1.5
    if multilabel:
        truth = rng.random(logits.shape) < 1 / (1 + np.exp(-logits))
        scores = 1 / (1 + np.exp(-3 * logits))
    else:
        share = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        truth = np.eye(4, dtype=bool)[[rng.choice(4, p=row) for row in share]]
        scores = share**3 / (share**3).sum(axis=1, keepdims=True)
    assert calibration.fit_temperature(truth, scores, multilabel=multilabel) == pytest.approx(3, abs=0.15)
    ours = calibration.calibrate(None, truth, scores, method="temperature", multilabel=multilabel).apply(scores)
    assert log_loss(truth, ours, multilabel=multilabel) < 0.8 * log_loss(truth, scores, multilabel=multilabel)
    if not multilabel:
        np.testing.assert_array_equal(ours.argmax(axis=1), scores.argmax(axis=1))


def test_calibrated_scores_fit_better_and_a_class_with_few_samples_is_left_alone():
    truth = LABELS[VAL] == 1
    truth[:, 2] = False
    truth[: calibration.MIN_SAMPLES - 1, 2] = True
    probe = RandomForestClassifier(20, random_state=0).fit(X[TRAIN], LABELS[TRAIN])
    scores = score(probe, X[VAL], classes=3, multilabel=True) ** 3  # far too low
    for method in METHODS:
        mapped = calibration.calibrate(probe, truth, scores, method=method, multilabel=True).apply(scores)
        after, before = (brier(truth[:, :2], s[:, :2], multilabel=True) for s in (mapped, scores))
        assert after < (0.95 if method == "temperature" else 0.8) * before  # one number for all cannot do as much
        if method != "temperature":
            np.testing.assert_array_equal(mapped[:, 2], scores[:, 2])


@pytest.mark.parametrize("method", METHODS)
def test_equal_scores_stay_equal_and_greater_ones_greater_or_equal(method):
    scores = np.array([[0.0], [1e-6], [0.2], [0.2], [0.999999], [1.0]] * 10)
    truth = np.array([[0], [0], [1], [0], [1], [1]] * 10, bool)
    mapped = calibration.calibrate(None, truth, scores, method=method, multilabel=True).apply(scores)[:6, 0]
    assert np.isfinite(mapped).all() and (np.diff(mapped) >= 0).all() and mapped[2] == mapped[3]


def test_constant_scores_become_the_share_of_positives(recwarn):
    truth = np.arange(100)[:, None] < 30
    mapped = calibration.calibrate(None, truth, np.full((100, 1), 0.9), method="platt", multilabel=True)
    assert mapped.apply(np.full((2, 1), 0.9))[:, 0] == pytest.approx(0.3, abs=0.01) and not len(recwarn)


def test_a_model_calibrated_by_version_0_1_still_scores_as_it_did(tmp_path):
    """Its Platt maps are slopes and offsets of the probabilities: sigmoid(2 * 0.5 - 1) = 0.5."""
    probe = RandomForestClassifier(5, random_state=0).fit(X, LABELS[:, :2])
    old = calibration.Calibrated(probe, [[np.array([2.0]), np.array([-1.0])]] * 2, "platt", True)
    save_model(old, tmp_path / "model.skops")
    again = load_model(tmp_path / "model.skops")
    np.testing.assert_allclose(again.apply(np.array([[0.5, 0.0]])), [[0.5, 1 / (1 + np.exp(1))]], rtol=1e-6)
