"""Several seeds and learning curves: a run each on disk, their means and deviations, tables that repeat."""

import csv
import json
import re

import numpy as np
import pytest
from helpers import make_features
from made_runs import make_run

from data import command, paths, runs
from probes import sweep
from probes.card import PROBES
from probes.cli import app


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    make_features(out, multilabel=True, rows=(60, 30, 30), dataset="many", simulated=True)
    make_features(out, multilabel=False, rows=(60, 30, 30), dataset="one")
    return out


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Two candidates of knn: the search is the same, only shorter."""
    few = [{"k": k, "distance": "euclidean", "zscore": False} for k in (3, 1)]
    monkeypatch.setattr(PROBES.load("knn"), "candidates", lambda rows: few)


def _probe(*words):
    return command.run(app, [str(word) for word in words])


def _tables(folder):
    return [list(csv.DictReader((folder / name).open())) for name in ("runs.csv", "summary.csv")]


def _run(out, kind, seed, right, *, shots=None, multilabel=False, lonlat=None, **metrics):
    """A run on 100 test samples of two classes in turn, of which it has the first `right` right."""
    labels = np.arange(100) % 2
    decided = np.where(np.arange(100) < right, labels, 1 - labels)
    scores = np.eye(2, dtype=np.float32)[decided]
    arguments = {"shots": shots, "fraction": None}
    labels = np.eye(2, dtype=np.uint8)[labels] if multilabel else labels
    run = make_run(out, labels, scores, ["a", "b"], kind=kind, seed=seed, arguments=arguments, lonlat=lonlat)
    for rule in ("half", "tuned"):
        run.record["metrics"]["test"][rule] |= metrics
    return runs.Run(run.folder, run.record | {"rows": {"train": 10 + seed, "val": 5, "test": 100}})


def test_mean_and_interval_by_hand(tmp_path):
    """Accuracies 0.5, 0.6, 0.7: mean 0.6, std sqrt((0.01 + 0 + 0.01) / 2) = 0.1, variance of the mean 0.01 / 3.

    A test sample is right in all three runs (50), two (10), one (10) or none (30): variance of the mean over samples
    (50 + 10 * 4 / 9 + 10 / 9 - 100 * 0.36) / 99 / 100 = 0.001975. Both together 0.005309, as of 0.24 / 0.005309 = 45.2
    samples; Wilson's interval of 0.6 and 45.2 with t of 99 = 1.984: 0.5920 +- 0.1389.
    """
    made = [_run(tmp_path, "knn", seed, right) for seed, right in enumerate((50, 60, 70))]
    found = {(row["kind"], row["metric"]): row for row in sweep.summary([*made, _run(tmp_path, "rf", 0, 25)])}
    one = found["knn", "accuracy"]
    assert (one["mean"], one["std"], one["low"], one["high"]) == pytest.approx((0.6, 0.1, 0.4531, 0.7309), abs=1e-4)
    assert (one["min"], one["max"], one["seeds"], one["train_rows"], one["rule"]) == (0.5, 0.7, 3, 11, "argmax")
    assert one["by"] == "by image" and one["reason"] == ""
    single = found["rf", "accuracy"]
    assert single["mean"] == 0.25 and single["std"] is None and single["low"] < 0.25 < single["high"]


def test_intervals_are_shares_and_are_made_by_cells_where_places_are_known(tmp_path):
    lonlat = np.stack([np.repeat(np.arange(20.0), 5) + 0.1, np.full(100, 0.1)], axis=1)
    made = [_run(tmp_path, "knn", seed, right, lonlat=lonlat) for seed, right in enumerate((10, 99, 100))]
    one = next(row for row in sweep.summary(made) if row["metric"] == "accuracy")
    assert one["by"] == "by 20 spatial cells" and 0 <= one["low"] < one["mean"] < one["high"] <= 1


def test_runs_are_grouped_by_kind_part_of_train_and_rule(tmp_path):
    made = [_run(tmp_path, "knn", seed, 50, shots=shots, multilabel=True) for shots in (1, None) for seed in (0, 1)]
    table = sweep.rows(made)
    assert len(table) == 8 and {row["rule"] for row in table} == {"half", "tuned"}
    assert [row["run"] for row in table[::2]] == [run.folder.name for run in made]
    groups = [(row["shots"], row["rule"]) for row in sweep.summary(made) if row["metric"] == "f2_macro"]
    assert groups == [(1, "half"), (1, "tuned"), (None, "half"), (None, "tuned")]


def test_an_undefined_metric_is_left_out_of_the_mean_and_counted(tmp_path):
    made = [_run(tmp_path, "knn", seed, 50, multilabel=True, map_macro=v) for seed, v in enumerate((0.5, None, 0.7))]
    row = next(row for row in sweep.summary(made) if row["metric"] == "map_macro")
    assert (row["mean"], row["seeds"], row["low"]) == (pytest.approx(0.6), 2, None)
    assert row["reason"] == "undefined for some seeds"
    row = next(row for row in sweep.summary(made[1:2]) if row["metric"] == "map_macro")
    assert (row["mean"], row["seeds"]) == (None, 0)


def test_several_seeds_are_a_run_each_told_together_and_reused(out, capsys):
    words = ("--kind", "head,knn", "--dataset", "many", "--out", out, "--epochs", 2, "--seeds", 3, "--seed", 4)
    assert _probe(*words) == 0
    printed = capsys.readouterr()
    assert re.search("3 seeds.*4 to 6.*95% interval.*by image", printed.out)
    assert "(simulated data)" in printed.out
    made = [runs.read_run(folder) for folder in paths.run_folders(out) if folder.parent.parent.name == "many"]
    assert sorted((run.kind, run.record["seed"]) for run in made) == [
        (k, s) for k in ("head", "knn") for s in (4, 5, 6)
    ]
    folder = paths.Path(printed.out.splitlines()[-1])
    table, told = _tables(folder)
    assert len(table) == 12
    for row in table:
        run = next(run for run in made if run.folder.name == row["run"])
        assert (row["kind"], int(row["seed"])) == (run.kind, run.record["seed"])
        assert float(row["f2_macro"]) == run.record["metrics"]["test"][row["rule"]]["f2_macro"]
    values = [float(row["map_macro"]) for row in table if (row["kind"], row["rule"]) == ("head", "half")]
    (one,) = (row for row in told if (row["kind"], row["rule"], row["metric"]) == ("head", "half", "map_macro"))
    assert float(one["mean"]) == pytest.approx(sum(values) / 3) and min(values) < max(values)
    if one["low"]:
        assert f"{float(one['mean']):.3f} [{float(one['low']):.3f}, {float(one['high']):.3f}]" in printed.out
    else:
        assert "positives in test" in one["reason"]
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert _probe(*words) == 0
    again = capsys.readouterr()
    assert again.out == printed.out and again.err.count("reused ") == 6
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_a_sweep_is_a_learning_curve_of_runs_that_are_reused(out, capsys):
    words = ("sweep", "--kind", "knn", "--dataset", "one", "--out", out, "--shots", "1,3,all,3", "--seeds", 2)
    assert _probe(*words) == 0
    printed = capsys.readouterr()
    table, told = _tables(paths.Path(printed.out.splitlines()[-1]))
    parts = [(row["shots"], int(row["seed"]), int(row["train_rows"])) for row in table]
    assert parts == [("1", 0, 5), ("1", 1, 5), ("3", 0, 15), ("3", 1, 15), ("", 0, 60), ("", 1, 60)]
    assert [line.split()[1:4] for line in printed.out.splitlines()[4:6]] == [
        ["1", "per", "class"],
        ["3", "per", "class"],
    ]
    assert {row["seeds"] for row in told} == {"2"}
    # a longer curve later fits only what is new
    assert _probe(*words[:-3], "1,3,5,all", "--seeds", 2) == 0
    assert capsys.readouterr().err.count("reused ") == 6
    # and one point of it is the run that probe itself makes
    assert _probe("--kind", "knn", "--dataset", "one", "--out", out, "--shots", 3, "--seed", 1) == 0
    assert capsys.readouterr().err.count("reused ") == 1


def test_shots_cut_val_to_as_many_per_class_unless_all_is_asked_for(out):
    base = ("--kind", "knn", "--dataset", "one", "--out", out, "--shots", 2, "--seed", 8)
    assert _probe(*base) == 0 and _probe(*base, "--val", "all") == 0
    made = [runs.read_run(folder) for folder in paths.run_folders(out)]
    cut, whole = sorted((run for run in made if run.record["seed"] == 8), key=lambda run: run.record["rows"]["val"])
    assert cut.record["rows"] == {"train": 10, "val": 10, "test": 30} and cut.record["arguments"]["val"] == "matched"
    assert whole.record["rows"]["val"] == 30 and "val" not in whole.record["arguments"]
    assert cut.folder != whole.folder and sorted(np.bincount(cut.predictions("val").labels)) == [2] * 5
    assert set(cut.predictions("val").ids) < set(whole.predictions("val").ids)


def test_flags_of_the_head_and_of_parts_reach_the_run(out, tmp_path, capsys):
    flags = ("--learning-rate", 0.01, "--batch-size", 8, "--epochs", 2)
    words = ("--kind", "head,knn", "--dataset", "one", "--out", out, "--train-fraction", 0.5, *flags)
    assert _probe(*words) == 0
    folders = [paths.Path(line) for line in capsys.readouterr().out.splitlines()[-2:]]
    head, knn = (json.loads((folder / "run.json").read_text()) for folder in folders)
    assert head["arguments"]["options"] == {"learning_rate": 0.01, "batch_size": 8, "epochs": 2}
    assert head["chosen"] | {"epoch": 0} == {"epoch": 0, "learning_rate": 0.01, "batch_size": 8}
    assert len(head["history"]["curves"]) == 2
    assert knn["arguments"]["options"] == {}  # the head's flags make no other run of knn
    assert head["rows"]["train"] == knn["rows"]["train"] == 30
    assert _probe("--kind", "knn", "--dataset", "one", "--out", out, "--train-fraction", 0.5) == 0
    assert "reused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (("--seeds", 0), ["--seeds 0", "1"]),
        (("--seed", 2**32 - 2, "--seeds", 3), ["--seed 4294967294", "--seeds 3", "4294967295"]),
        (("--shots", 0), ["--shots 0", "1"]),
        (("--train-fraction", 0), ["--train-fraction 0"]),
        (("--train-fraction", 1.5), ["--train-fraction 1.5"]),
        (("--train-fraction", 0.5, "--shots", 3), ["--train-fraction", "--shots"]),
        (("--epochs", 3), ["--epochs 3", "head"]),
        (("--augment", 0), ["--augment 0", "1"]),
        (("--augment", 2), ["view 1"]),
        (("--shots", 3, "--val", "non"), ["'non'", "all, matched"]),
        (("sweep", "--shots", "1,x"), ["--shots x", "1,5,10,all"]),
        (("sweep", "--shots", "0"), ["--shots 0", "1,5,10,all"]),
        (("sweep", "--shots", "1,"), ["--shots", "1,5,10,all"]),
    ],
)
def test_a_wrong_request_is_one_line(words, facts, out, capsys):
    assert _probe(*words, "--kind", "knn", "--dataset", "one", "--out", out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("probe: ") and [fact for fact in facts if fact not in line] == []


@pytest.mark.parametrize("flag", ["--learning-rate", "--batch-size", "--epochs"])
def test_numbers_of_the_head_are_above_zero(flag, out, capsys):
    assert _probe("--kind", "head", "--dataset", "one", "--out", out, flag, 0) == 2
    assert f"{flag} 0: must be above 0" in capsys.readouterr().err
