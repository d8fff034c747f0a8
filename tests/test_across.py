"""Models across datasets: normalized scores, interquartile means, Friedman's and Nemenyi's tests, stable ranks."""

import numpy as np
import pytest
from helpers import encoder_identity
from made_runs import make_run, rewrite
from scipy import stats

from analysis import across
from analysis.contract import ViewRequest, run_view
from analysis.ranking import rankings
from data.runs import find_runs

# share of 100 samples that each kind gets right, by dataset
RIGHT = {
    "one": {"rf": 90, "linear": 80, "knn": 70},
    "two": {"rf": 95, "linear": 90, "knn": 55},
    "three": {"rf": 60, "linear": 65, "knn": 50},
    "four": {"rf": 88, "linear": 80, "knn": 60},
}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("out")
    labels = np.arange(100) % 2
    for number, (dataset, kinds) in enumerate(RIGHT.items()):
        for kind, right in kinds.items():
            hit = np.random.default_rng(number).permutation(100) < right  # those right on fewer are so on some of these
            scores = np.eye(2, dtype=np.float32)[np.where(hit, labels, 1 - labels)]
            make_run(folder, labels, scores, ["a", "b"], kind=kind, dataset=dataset)
    return folder


@pytest.fixture(scope="module")
def found(out):
    frame, _, contenders = rankings(find_runs(out), ("half",))
    return across.compute(frame, contenders, "half", resamples=2000, seed=0)


def by_kind(frame):
    return frame.rename(index=lambda name: name.split("; ")[1])


def test_scores_are_normalised_within_a_dataset_and_means_leave_out_the_outer_quarters(found):
    scores = by_kind(found.scores)
    assert scores["one"].to_dict() == pytest.approx({"rf": 1.0, "linear": 0.5, "knn": 0.0})
    assert scores["two"].to_dict() == pytest.approx({"rf": 1.0, "linear": 0.875, "knn": 0.0})
    assert scores["three"].to_dict() == pytest.approx({"rf": 2 / 3, "linear": 1.0, "knn": 0.0})
    table = by_kind(found.table.set_index("name"))
    # linear: .5, .714, .875, 1 without the lowest and highest
    assert table["iqm"].to_dict() == pytest.approx({"rf": 1.0, "linear": (20 / 28 + 0.875) / 2, "knn": 0.0})
    assert across.interquartile_mean(np.array([0.0, 1.0, 5.0])) == 2
    assert list(table.index) == ["rf", "linear", "knn"]
    assert (table["low"] <= table["iqm"]).all() and (table["iqm"] <= table["high"]).all()


def test_friedman_and_nemenyi_by_hand(found):
    # ranks of rf, linear, knn: 1 2 3, 1 2 3, 2 1 3, 1 2 3; sums 5, 7, 12
    # chi squared = 12 / (4 * 3 * 4) * (25 + 49 + 144) - 3 * 4 * 4 = 6.5, 2 degrees of freedom: p = exp(-3.25)
    assert found.friedman == pytest.approx((6.5, np.exp(-3.25)))
    # mean ranks 1.25 and 3 differ by 1.75; standard error sqrt(3 * 4 / (6 * 4)); q = 1.75 / se * sqrt 2
    q = 1.75 / np.sqrt(0.5) * np.sqrt(2)
    p = by_kind(found.nemenyi).rename(columns=lambda name: name.split("; ")[1])
    assert p.loc["rf", "knn"] == pytest.approx(stats.studentized_range.sf(q, 3, np.inf), abs=1e-3)


def test_the_last_stays_last_whichever_dataset_is_left_out(found):
    table = by_kind(found.table.set_index("name"))
    assert table.loc["knn", ["lowest_rank", "highest_rank", "rank_low", "rank_high"]].tolist() == [3, 3, 3, 3]
    assert table["first"].sum() >= 1 and table.loc["rf", "first"] > table.loc["linear", "first"]


def _made(folder, dataset, kind, right, **more):
    labels = np.arange(100) % 2
    scores = np.eye(2, dtype=np.float32)[np.where(np.arange(100) < right, labels, 1 - labels)]
    return make_run(folder, labels, scores, ["a", "b"], kind=kind, dataset=dataset, **more)


def _across(folder):
    frame, _, contenders = rankings(find_runs(folder), ("half",))
    return across.compute(frame, contenders, "half", resamples=1000, seed=0)


def test_runs_are_matched_by_what_they_are_not_by_what_they_are_called(tmp_path):
    for dataset, number in (("one", 1.0), ("two", 2.0)):
        scaled = {"method": "zscore", "mean": [number] * 12, "std": [number] * 12}  # the dataset's own
        encoder = encoder_identity("stats", normalization=scaled)
        balanced = {"balanced": number == 2}  # alone of its kind on each, so shown as linear on both
        _made(tmp_path, dataset, "linear", 90, encoder=encoder, arguments=balanced)
        for kind, right in (("rf", 80), ("knn", 70)):
            _made(tmp_path, dataset, kind, right, encoder=encoder, arguments={"candidates": [{"k": number}]})
    _made(tmp_path, "two", "rf", 60, encoder=encoder, arguments={"balanced": True})  # the other is now called otherwise
    found = _across(tmp_path)
    assert [name.split("; ")[1].split(",")[0] for name in found.scores.index] == ["rf", "knn"]
    assert sum("linear" in name for name in found.left_out) == 2 and len(found.left_out) == 3
    assert len(set(found.left_out)) == 3
    output = run_view("compare", ViewRequest(out=tmp_path, folder=tmp_path / "to", rule="half"))[-1]
    assert all(name in output.caption for name in found.left_out) and "linear (one)" in output.caption


def test_where_nothing_matches_the_table_says_so(tmp_path):
    for dataset, balanced in (("one", True), ("two", False)):
        for kind in ("rf", "linear"):
            _made(tmp_path, dataset, kind, 80, arguments={"balanced": balanced})
    assert _across(tmp_path) is None
    output = run_view("compare", ViewRequest(out=tmp_path, folder=tmp_path / "to", rule="half"))[-1]
    assert across.NOTHING in output.caption and output.summary == across.NOTHING


def test_each_way_to_split_is_summed_up_by_itself(tmp_path):
    for dataset in ("one", "two"):
        for kind, right in (("rf", 80), ("knn", 70)):
            _made(tmp_path, dataset, kind, right)
            run = _made(tmp_path, dataset, kind, right - 10, arguments={"beta": 1.0})
            run.record["features"]["splits"]["test"]["resplit"] = {"by": "cells", "buffer_km": 0.0, "seed": 4}
            rewrite(run)
    outputs = run_view("compare", ViewRequest(out=tmp_path, folder=tmp_path / "to", rule="half"))[-2:]
    assert [output.title.partition(", split by ")[2] for output in outputs] == ["", "cells"]
    assert all(len(output.tables[0][1]) == 2 for output in outputs)


def test_resamples_of_a_dataset_spread_as_the_standard_error_of_its_metric(out):
    frame, _, contenders = rankings(find_runs(out, dataset="one"), ("half",))
    drawn = across._resampled(contenders, 4000, np.random.default_rng(0))
    for column, value in zip(drawn.T, frame["value"], strict=True):
        assert column.mean() == pytest.approx(value, abs=0.003)
        assert column.std() == pytest.approx(np.sqrt(value * (1 - value) / 100), rel=0.06)


def test_the_command_writes_the_table_the_diagram_and_the_pairs(out, tmp_path):
    output = run_view("compare", ViewRequest(out=out, folder=tmp_path, rule="half"))[-1]
    assert {file.suffix for file in output.files} == {".png", ".svg", ".csv", ".md", ".tex"}
    header, rows = output.tables[0]
    assert header[-4:] == ["IQM", "First", "Rank, 95%", "Rank, leave one dataset out"] and len(rows) == 3
    assert "Friedman" in output.caption and any(file.name.endswith("__nemenyi.csv") for file in output.files)


def test_seeds_are_pooled_before_they_are_ranked(tmp_path):
    labels = np.arange(200) % 2
    for seed, right in enumerate((150, 160, 170)):
        hit = np.random.default_rng(seed).permutation(200) < right
        scores = np.eye(2, dtype=np.float32)[np.where(hit, labels, 1 - labels)]
        make_run(tmp_path, labels, scores, ["a", "b"], kind="rf", seed=seed)
    make_run(tmp_path, labels, np.eye(2, dtype=np.float32)[labels], ["a", "b"], kind="linear")
    frame, pairs, _ = rankings(find_runs(tmp_path), ("half",))
    assert frame["probe"].tolist() == ["linear", "rf, mean of 3 seeds"] and frame["seeds"].tolist() == [1, 3]
    assert frame["value"].tolist() == pytest.approx([1, 0.8]) and len(pairs) == 1
    # samples: each is right in 0 to 3 of 3 runs; seeds: .75, .80, .85 have a variance of .0025, over 3
    table = run_view("table", ViewRequest(out=tmp_path, rule="half"))[0].tables[0][1]
    assert [row[1] for row in table] == ["linear", "rf, mean of 3 seeds"]
    low, high = frame.loc[1, "low"], frame.loc[1, "high"]
    assert high - low > 2 * 1.96 * np.sqrt(0.0025 / 3)
