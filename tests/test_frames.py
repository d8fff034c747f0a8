"""Runs as tidy tables: every number arrives where it belongs, unchanged."""

import numpy as np
import pandas as pd
import pytest
from helpers import encoder_identity, make_features
from made_runs import made_up, make_run

from analysis import frames
from data.runs import find_runs
from probes import fit, inputs

NAMES = ["Arable land", "Pastures", "Marine waters"]


@pytest.fixture
def run(tmp_path):
    labels, scores = made_up(NAMES, multilabel=True, rows=80, shares=np.array([0.5, 0.3, 0.05]))
    return make_run(tmp_path, labels, scores, NAMES, simulated=True, thresholds=[0.3, 0.3, 0.3])


def test_metrics_have_a_row_each_with_their_interval(run):
    frame = frames.metrics_frame([run])
    metrics = run.record["metrics"]
    assert len(frame) == sum(len(values) for rules in metrics.values() for values in rules.values())
    row = frame[(frame["split"] == "test") & (frame["rule"] == "tuned") & (frame["metric"] == "f2_macro")].iloc[0]
    assert row["value"] == metrics["test"]["tuned"]["f2_macro"]
    recorded = run.record["intervals"]["test"]["tuned"]
    assert recorded["f2_macro"]["interval"] is None and np.isnan(row["low"])
    assert row["reason"] == "class 'Marine waters' has 6 positives in test, fewer than 10"
    micro = frame[(frame["split"] == "test") & (frame["rule"] == "tuned") & (frame["metric"] == "f2_micro")].iloc[0]
    assert [micro["low"], micro["high"]] == recorded["f2_micro"]["interval"] and micro["by"] == "by image"
    assert row["simulated"] and row["multilabel"] and row["kind"] == "linear"


def test_a_metric_without_interval_or_value_is_nan(run):
    run.record["metrics"]["test"]["half"]["map_macro"] = None
    frame = frames.metrics_frame([run])
    assert frame[frame["split"] == "val"]["low"].isna().all()
    assert np.isnan(frame[(frame["split"] == "test") & (frame["metric"] == "map_macro")]["value"].iloc[0])


def test_per_class_rows_equal_the_record_and_keep_class_order(run):
    frame = frames.per_class_frame([run])
    half = frame[frame["rule"] == "half"]
    assert list(half["class"]) == NAMES
    for row, recorded in zip(half.to_dict("records"), run.record["per_class"]["half"], strict=True):
        for key in ("tp", "fp", "tn", "fn", "support", *frames.RATES):
            assert row[key] == recorded[key]


def test_runs_of_the_probe_command_fit_the_frames(tmp_path):
    for multilabel in (True, False):
        folder = make_features(tmp_path, multilabel=multilabel, dataset=f"multi-{multilabel}")
        splits = inputs.read_splits(folder)
        fit.run_probe(fit.plan_probe("knn", splits, tmp_path, seed=0), splits, n_jobs=1)
    runs = find_runs(tmp_path)
    frame = frames.metrics_frame(runs)
    for multilabel in (True, False):
        assert set(frame[frame["multilabel"] == multilabel]["metric"]) == set(frames.metric_names(multilabel))
    assert frame["value"].notna().all()
    classes = frames.per_class_frame(runs)
    assert set(frames.COUNTS + frames.RATES + ["ap", "threshold", "support"]) <= set(classes.columns)
    assert len(classes) == 2 * 2 * 5


def test_a_single_label_run_is_shown_once_whatever_the_rule(tmp_path):
    labels, scores = made_up(NAMES, multilabel=False, rows=60)
    frame = frames.metrics_frame([make_run(tmp_path, labels, scores, NAMES)])
    for rules in (["half"], ["tuned"], ["half", "tuned"]):
        assert set(frames.under_rules(frame, rules)["rule"]) == {"half"}


def test_encoders_alike_in_words_are_told_apart_by_their_hash(tmp_path):
    labels, scores = made_up(NAMES, multilabel=True, rows=60)
    plain, other = encoder_identity("dofa"), encoder_identity("dofa", interpolation="bicubic")
    runs = [make_run(tmp_path, labels, scores, NAMES, encoder=encoder) for encoder in (plain, other)]
    words = frames.encoder_labels(runs)
    assert len(set(words.values())) == 2
    assert all(text.startswith("dofa, s2-12, native size, mean, ") for text in words.values())
    assert set(frames.encoder_labels(runs[:1]).values()) == {"dofa, s2-12, native size, mean"}


def test_runs_of_one_kind_are_told_apart_by_what_was_asked_of_them(tmp_path):
    labels, scores = made_up(NAMES, multilabel=True, rows=60)
    runs = [make_run(tmp_path, labels, scores, NAMES, seed=seed) for seed in (0, 1)]
    assert list(frames.run_labels(runs).values()) == ["linear, seed 0", "linear, seed 1"]
    assert set(frames.run_labels(runs[:1]).values()) == {"linear"}
    one, other = runs
    asked = {"shots": None, "fraction": None, "balanced": False, "beta": 2, "options": {}}
    for ours, theirs, words in (
        ({}, {"shots": 5}, "linear, 5 shots"),
        ({}, {"fraction": 0.1, "balanced": True}, "linear, 0.1 of train, balanced"),
        ({"beta": 1.0}, {"beta": 2.0}, "linear, beta 2.0"),
        ({}, {"options": {"epochs": 3}}, "linear, epochs 3"),
    ):
        one.record.update(arguments=asked | ours, seed=0)
        other.record.update(arguments=asked | theirs, seed=0)
        assert list(frames.run_labels(runs).values())[1] == words
    other.record["arguments"] = one.record["arguments"]
    assert list(frames.run_labels(runs).values()) == [run.folder.name for run in runs]


def test_random_weights_are_named():
    encoder = encoder_identity("dofa", variant="base", weights={"source": "random", "sha256": None}, image_size=224)
    assert frames.model_words(encoder) == "dofa base random weights, s2-12, 224 px, mean"


def test_intervals_of_version_0_1_are_made_anew_from_predictions(run):
    new = frames.metrics_frame([run])
    for rules in run.record["intervals"].values():
        for metrics in rules.values():
            metrics.update({name: [0.1, 0.2] for name in metrics})  # percentile intervals, as version 0.1 kept them
    run.record["cell_intervals"] = {"test": None}
    pd.testing.assert_frame_equal(frames.metrics_frame([run]), new)
    (run.folder / "predictions.h5").unlink()
    lost = frames.metrics_frame([run])
    assert lost["low"].isna().all() and (lost["reason"] == "").all() and lost["value"].equals(new["value"])
