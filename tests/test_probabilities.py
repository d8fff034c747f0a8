"""Log loss, Brier score and calibration error, held to scikit-learn's, torchmetrics' and hand-worked values."""

import numpy as np
import pytest
import torch
from sklearn.calibration import calibration_curve
from sklearn.metrics import brier_score_loss
from sklearn.metrics import log_loss as sklearn_log_loss
from torchmetrics.classification import BinaryCalibrationError, MulticlassCalibrationError

from probes.probabilities import brier, ece, error_of, log_loss, probability_metrics, reliability


def _single(rows=500, classes=6):
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((rows, classes)) * 2
    labels = np.where(rng.random(rows) < 0.6, logits.argmax(axis=1), rng.integers(classes, size=rows))
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return labels, labels[:, None] == np.arange(classes), scores.astype(np.float32)


def _multi(rows=500, classes=4):
    rng = np.random.default_rng(2)
    scores = rng.random((rows, classes)).astype(np.float32)
    scores[:20] = 0
    return rng.random((rows, classes)) < scores**2, scores


def test_single_label_equals_scikit_learn_and_torchmetrics():
    labels, truth, scores = _single()
    assert log_loss(truth, scores, multilabel=False) == pytest.approx(sklearn_log_loss(labels, scores), rel=1e-5)
    assert brier(truth, scores, multilabel=False) == pytest.approx(brier_score_loss(labels, scores), rel=1e-5)
    peer = MulticlassCalibrationError(num_classes=6, n_bins=15, norm="l1")
    theirs = peer(torch.from_numpy(scores), torch.from_numpy(labels)).item()
    assert ece(truth, scores, multilabel=False) == pytest.approx(theirs, abs=1e-5)


def test_multi_label_is_the_mean_of_scikit_learns_and_torchmetrics_by_class():
    truth, scores = _multi()
    each = [(truth[:, k].astype(int), scores[:, k]) for k in range(4)]
    mine = probability_metrics(truth, scores, multilabel=True)
    assert mine["log_loss"] == pytest.approx(np.mean([sklearn_log_loss(t, s) for t, s in each]), rel=1e-5)
    assert mine["brier"] == pytest.approx(np.mean([brier_score_loss(t, s) for t, s in each]), rel=1e-5)
    peer = BinaryCalibrationError(n_bins=15, norm="l1")
    theirs = [peer(torch.from_numpy(s), torch.from_numpy(t)).item() for t, s in each]
    assert mine["ece"] == pytest.approx(np.mean(theirs), abs=1e-5)


def test_a_reliability_table_equals_scikit_learns_curve():
    truth, scores = _multi()
    table = reliability(truth[:, 0], scores[:, 0])
    frequency, confidence = calibration_curve(truth[:, 0], scores[:, 0], n_bins=15)
    used = table["count"] > 0
    np.testing.assert_allclose(table["frequency"][used], frequency)
    np.testing.assert_allclose(table["confidence"][used], confidence)
    assert table["count"].sum() == 500 and len(table["low"]) == 15


def test_values_by_hand():
    """Two classes, four samples; confidences .9 (right), .8 (wrong), .6 (right), .6 (wrong).

    Bins of a tenth: |1 - .9| / 4 + |0 - .8| / 4 + 2 * |.5 - .6| / 4 = .025 + .2 + .05. Brier: .02, 1.28, .32, .72 over
    4. Log loss: -(ln .9 + ln .2 + ln .6 + ln .4) / 4.
    """
    truth = np.array([[1, 0], [0, 1], [1, 0], [0, 1]], bool)
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]])
    assert ece(truth, scores, multilabel=False, bins=10) == pytest.approx(0.275)
    assert brier(truth, scores, multilabel=False) == pytest.approx(2.34 / 4)
    expected = -np.log([0.9, 0.2, 0.6, 0.4]).mean()
    assert log_loss(truth, scores, multilabel=False) == pytest.approx(expected)


def test_a_bin_is_closed_on_the_right_and_a_score_of_zero_has_one():
    table = reliability(np.array([True, False, True]), np.array([0.0, 0.2, 1.0]), bins=5)
    assert table["count"].tolist() == [2, 0, 0, 0, 1]
    assert error_of(table) == pytest.approx((2 * abs(0.1 - 0.5) + 0) / 3)


def test_a_score_of_zero_for_the_truth_costs_sixteen_nats_not_infinity():
    truth, scores = np.array([[True, False]]), np.array([[0.0, 1.0]])
    assert log_loss(truth, scores, multilabel=False) == pytest.approx(-np.log(np.finfo(np.float32).eps))
