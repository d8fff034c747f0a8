"""Calibration, held to scikit-learn's."""

import numpy as np
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier
from sklearn.frozen import FrozenEstimator

from probes import calibration
from probes.flags import METHODS
from probes.scores import score

RNG = np.random.default_rng(0)
X = RNG.standard_normal((400, 4)).astype(np.float32)
LABELS = (X[:, :3] + RNG.standard_normal((400, 3)) > [0.0, 0.5, 1.5]).astype(np.uint8)
PEER = {"platt": "sigmoid", "isotonic": "isotonic"}


@pytest.mark.parametrize("method", METHODS)
def test_a_label_is_calibrated_as_scikit_learn_does(method):
    train, val = slice(0, 150), slice(150, 400)
    for k in range(2):
        forest = RandomForestClassifier(20, random_state=0).fit(X[train], LABELS[train, k])
        peer = CalibratedClassifierCV(FrozenEstimator(forest), method=PEER[method]).fit(X[val], LABELS[val, k])
        scores = forest.predict_proba(X[val])[:, 1:]
        ours = calibration.calibrate(forest, LABELS[val, k : k + 1] == 1, scores, method=method, multilabel=True)
        np.testing.assert_allclose(ours.apply(scores)[:, 0], peer.predict_proba(X[val])[:, 1], atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_classes_that_exclude_each_other_are_calibrated_as_scikit_learn_does(method):
    labels = LABELS[:, 0] + LABELS[:, 1]
    forest = RandomForestClassifier(20, random_state=0).fit(X[:150], labels[:150])
    peer = CalibratedClassifierCV(FrozenEstimator(forest), method=PEER[method]).fit(X[150:], labels[150:])
    truth = labels[150:, None] == np.arange(3)
    given = forest.predict_proba(X[150:]).astype(np.float32)
    ours = calibration.calibrate(forest, truth, given, method=method, multilabel=False)
    np.testing.assert_allclose(ours.apply(given), peer.predict_proba(X[150:]), atol=1e-4)
    np.testing.assert_array_equal(score(ours, X[150:], classes=3, multilabel=False), ours.apply(given))


def test_calibrated_scores_fit_better_and_a_class_with_few_samples_is_left_alone():
    truth = LABELS[150:] == 1
    truth[:, 2] = False
    truth[: calibration.LEAST - 1, 2] = True
    probe = RandomForestClassifier(20, random_state=0).fit(X[:150], LABELS[:150])
    scores = score(probe, X[150:], classes=3, multilabel=True) ** 3  # far too low
    for method in METHODS:
        mapped = calibration.calibrate(probe, truth, scores, method=method, multilabel=True).apply(scores)
        assert calibration.brier(truth[:, :2], mapped[:, :2]) < 0.8 * calibration.brier(truth[:, :2], scores[:, :2])
        np.testing.assert_array_equal(mapped[:, 2], scores[:, 2])
