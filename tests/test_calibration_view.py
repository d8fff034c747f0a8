"""Reliability diagrams hold the numbers that the metrics are made of."""

import numpy as np
import pytest
from made_runs import made_up, make_run

from analysis.contract import ViewRequest, run_view
from analysis.views import calibration
from data import runs


def test_single_label_bins_by_hand(tmp_path):
    """Scores .9 (right), .8 (wrong), .6 (right), .6 (wrong): ECE of 15 bins (.1 + .8 + 2 * .1) / 4."""
    labels = np.array([0, 1, 0, 1])
    scores = np.array([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.6, 0.4]], np.float32)
    run = make_run(tmp_path, labels, scores, ["a", "b"])
    frame = calibration.compute(run)
    used = frame[frame["count"] > 0]
    assert used["count"].tolist() == [2, 1, 1] and used["frequency"].tolist() == [0.5, 0, 1]
    assert frame["ece"].iloc[0] == pytest.approx(0.275, abs=1e-6) and set(frame["class"]) == {"argmax"}
    header, rows = calibration.readable(frame)
    assert len(rows) == 15 and rows[9][1:] == ["2", "0.600", "0.500"] and "Accuracy" in header
    assert "ECE 0.275" in calibration.summary(run) and "Brier score 0.585" in calibration.summary(run)


def test_multi_label_runs_have_every_class_and_the_run_its_mean(tmp_path):
    names = [f"class {k}" for k in range(5)]
    labels, scores = made_up(names, multilabel=True, rows=200)
    run = make_run(tmp_path, labels, scores, names)
    frame = calibration.compute(run)
    assert list(dict.fromkeys(frame["class"])) == names and len(frame) == 5 * 15
    assert frame.groupby("class")["count"].sum().tolist() == [200] * 5
    mean = frame.groupby("class")["ece"].first().mean()
    assert f"ECE {mean:.3f}" in calibration.summary(run)
    _, rows = calibration.readable(frame)
    assert [row[0] for row in rows] == names and rows[0][1] == str(labels[:, 0].sum())


def test_a_calibrated_run_says_what_was_before(tmp_path):
    names = ["a", "b"]
    labels, scores = made_up(names, multilabel=True, rows=50)
    run = make_run(tmp_path, labels, scores, names)
    before = {"log_loss": 0.5, "brier": 0.25, "ece": 0.125}
    changed = runs.Run(run.folder, run.record | {"calibration": {"before": {"test": before}}})
    assert "ECE 0.125 before, " in calibration.summary(changed)
    (output,) = run_view("calibration", ViewRequest(out=tmp_path))
    assert output.file("csv") and "before" not in output.summary
