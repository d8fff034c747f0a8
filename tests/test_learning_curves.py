"""Learning curves pool the seeds of each size of train."""

import numpy as np
import pytest
from made_runs import EUROSAT, made_up, make_run

from analysis import figures, learning
from analysis.contract import ViewRequest, run_view
from data.errors import RequestError
from data.runs import Run


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two kinds x three sizes x three seeds of made-up scores whose skill grows with the shots."""
    out, made = tmp_path_factory.mktemp("out"), []
    for kind in ("knn", "linear"):
        for number, count in enumerate((1, 10, None)):
            for seed in range(3):
                labels, scores = made_up(
                    EUROSAT, multilabel=False, rows=200, skill=1.0 + number, seed=10 * seed + number
                )
                run = make_run(out, labels, scores, EUROSAT, kind=kind, seed=100 * number + seed, simulated=True)
                arguments = {"shots": count, "fraction": None, "balanced": False}
                rows = {"train": (count or 50) * 10, "val": 200, "test": 200}
                shared = (made[0] if made else run).record["features"]  # the same samples and labels
                made.append(Run(run.folder, run.record | {"arguments": arguments, "rows": rows, "features": shared}))
    return made


def test_a_size_is_the_mean_of_its_seeds(runs):
    frame = learning.headline(learning.compute(runs))
    assert frame["curve"].tolist() == ["knn"] * 3 + ["linear"] * 3 and (frame["seeds"] == 3).all()
    assert frame["train_rows"].tolist() == [10, 100, 500] * 2
    values = [
        run.record["metrics"]["test"]["half"]["accuracy"]
        for run in runs
        if run.kind == "knn" and run.record["arguments"]["shots"] == 10
    ]
    row = frame.iloc[1]
    assert row["mean"] == pytest.approx(np.mean(values)) and row["low"] < row["mean"] < row["high"]
    header, rows = learning.readable(frame)
    assert rows[0][2:5] == ["1 per class", "10", "3"] and rows[2][2] == "all" and "Accuracy" in header[-1]


def test_other_settings_are_another_curve_and_one_size_is_none(runs):
    one = [run for run in runs if run.kind == "knn"]
    other = [Run(run.folder, run.record | {"arguments": run.record["arguments"] | {"balanced": True}}) for run in one]
    frame = learning.compute([*one, *other])
    assert list(dict.fromkeys(frame["curve"])) == ["knn, settings 1", "knn, settings 2"]
    assert learning.compute([run for run in one if run.record["arguments"]["shots"] == 1]).empty


def test_other_splits_are_another_curve(runs):
    one = [run for run in runs if run.kind == "knn"]
    features = one[0].record["features"]
    test = features["splits"]["test"] | {"resplit": {"by": "cells", "buffer_km": 0.0, "seed": 0, "dropped": 0}}
    elsewhere = features | {"splits": features["splits"] | {"test": test}}
    other = [Run(run.folder, run.record | {"features": elsewhere}) for run in one]
    frame = learning.headline(learning.compute([*one, *other]))
    assert frame["curve"].tolist() == ["knn, settings 1"] * 3 + ["knn, settings 2"] * 3 and (frame["seeds"] == 3).all()


def test_runs_chosen_on_matched_and_on_all_of_val_are_two_curves_that_share_the_whole_of_train(runs):
    whole = [run for run in runs if run.kind == "knn" and run.record["arguments"]["shots"] is None]
    cut = [run for run in runs if run.kind == "knn" and run.record["arguments"]["shots"]]
    matched = [Run(run.folder, run.record | {"arguments": run.record["arguments"] | {"val": "matched"}}) for run in cut]
    frame = learning.headline(learning.compute([*matched, *whole]))
    assert frame["curve"].tolist() == ["knn"] * 3 and frame["train_rows"].tolist() == [10, 100, 500]
    frame = learning.headline(learning.compute([*matched, *cut, *whole]))
    assert frame["train_rows"].tolist() == [10, 100, 500] * 2 and (frame["seeds"] == 3).all()


def test_a_seed_counts_once(runs):
    one = [run for run in runs if run.kind == "knn"]
    twin = Run(one[0].folder.with_name("knn-again"), one[0].record)
    with pytest.raises(RequestError, match="same seed") as error:
        learning.compute([*one, twin])
    assert "knn-again" in str(error.value) and str(one[0].folder) in str(error.value)


def test_the_view_writes_the_curves(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "LEAST_DPI", 60)
    (output,) = run_view("curves", ViewRequest(out=tmp_path, runs=tuple(runs)))
    assert {".png", ".svg", ".csv", ".md", ".tex"} == {file.suffix for file in output.files}
    assert "simulated" in output.file("md").read_text() and len(output.tables[0][1]) == 6


def test_without_curves_of_either_sort_the_request_says_how_to_make_some(runs, tmp_path):
    whole = [run for run in runs if run.record["arguments"]["shots"] is None]
    with pytest.raises(RequestError, match="probe --kind head or probe sweep"):
        run_view("curves", ViewRequest(out=tmp_path, runs=tuple(whole)))
