"""Protocols by name, refitting on train and val, and folds: what they fix, what they record, what they refuse."""

import json

import numpy as np
import pytest
from helpers import fit_run, make_features, make_split
from sklearn.linear_model import LogisticRegression

from data import command, runs
from data.errors import RequestError
from probes import cli, inputs, protocols, sampling
from probes.settings import Settings


@pytest.fixture(scope="module", params=[True, False], ids=["multi-label", "single-label"])
def features(request, tmp_path_factory):
    return make_features(tmp_path_factory.mktemp("runs"), multilabel=request.param, rows=(120, 60, 60), dim=4)


def _records(out):
    return [run.record for run in runs.find_runs(out)]


def _run(words, features, out):
    return command.run(cli.app, [*words, "--features", str(features), "--out", str(out)])


def test_torchgeo_bench_is_its_own_recipe(features, tmp_path, capsys):
    assert _run(["--protocol", "torchgeo-bench"], features, tmp_path) == 0
    linear, knn = sorted(_records(tmp_path), key=lambda record: record["kind"], reverse=True)
    assert (linear["kind"], knn["kind"]) == ("linear", "knn") and linear["protocol"] == "torchgeo-bench"
    grid = [each["C"] for each in linear["candidates"]]
    np.testing.assert_allclose(grid, np.logspace(-6, 4, 40), rtol=1e-9)
    assert linear["arguments"]["selection"] == ("map_micro" if linear["multilabel"] else "accuracy")
    assert linear["fitted_on"] == {"splits": ["train", "val"], "rows": 180}
    assert knn["chosen"] == {"k": 5, "distance": "euclidean", "zscore": False}
    assert knn["fitted_on"] == {"splits": ["train"], "rows": 120}, "its neighbors come from train alone"
    assert "features made with image_size None, the protocol's with 224" in linear["protocol_differences"]
    if linear["multilabel"]:
        return
    splits = inputs.read_splits(features)
    x, y = (
        np.concatenate([splits["train"].features[:], splits["val"].features[:]]).astype(float),
        np.concatenate([splits["train"].labels, splits["val"].labels]),
    )
    peer = LogisticRegression(C=linear["chosen"]["C"], tol=1e-8, max_iter=5000).fit(x, y)  # raw features
    (run,) = runs.find_runs(tmp_path, kind="linear")
    expected = peer.predict_proba(splits["test"].features[:].astype(float))
    np.testing.assert_allclose(run.predictions("test").scores, expected, atol=5e-3)


@pytest.mark.parametrize("name", [name for name in protocols.PROTOCOLS if name != "map"])  # see test_maps
def test_every_protocol_runs_records_its_name_and_is_listed_with_its_source(name, tmp_path, capsys):
    folder = make_features(tmp_path, multilabel=False, classes=3, rows=(90, 60, 40), dim=6)
    own = protocols.get(name)
    kinds = [] if own.kinds else ["--kind", "prior"]
    seeds = [] if own.seeds else ["--seeds", "1"]
    assert _run(["--protocol", name, *kinds, *seeds], folder, tmp_path) == 0
    records = _records(tmp_path)
    assert {record["protocol"] for record in records} == {name}
    assert len(records) == (own.seeds or 1) * max(len(own.kinds), 1)
    if own.shots:
        assert {record["rows"]["train"] for record in records} == {3 * own.shots}
    if own.epochs:
        assert len(records[0]["candidates"]) == own.epochs
    assert command.run(cli.app, ["list"]) == 0
    assert own.citation in capsys.readouterr().out


def test_a_curve_by_protocol_takes_its_parts(tmp_path):
    folder = make_features(tmp_path, multilabel=False, classes=3, rows=(400, 60, 40), dim=6)
    words = ["sweep", "--protocol", "geo-bench", "--kind", "prior", "--seeds", "1"]
    assert _run(words, folder, tmp_path) == 0
    assert [record["arguments"]["fraction"] for record in _records(tmp_path)] == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert _run([*words, "--shots", "5"], folder, tmp_path) == 2


@pytest.mark.parametrize(
    ("words", "facts"),
    [
        (["--protocol", "torchgeo-bensh"], ["'torchgeo-bensh'", "'torchgeo-bench'"]),
        (["--protocol", "torchgeo-bench", "--kind", "rf,knn"], ["--kind", "knn, linear", "rf"]),
        (["--protocol", "torchgeo-bench", "--no-refit"], ["--no-refit", "--refit"]),
        (["--protocol", "torchgeo-bench", "--standardize"], ["--standardize", "--no-standardize"]),
        (["--protocol", "torchgeo-bench", "--balanced"], ["--balanced"]),
        (["--protocol", "torchgeo-bench", "--shots", "5"], ["--shots 5"]),
        (["--protocol", "seminar", "--train-fraction", "0.5"], ["--train-fraction 0.5"]),
        (["--protocol", "geo-bench", "--kind", "rf", "--shots", "5"], ["--shots 5"]),
        (["sweep", "--protocol", "torchgeo-bench", "--shots", "5"], ["--shots", "torchgeo-bench"]),
        (["--kind", "knn", "--val", "all"], ["--val all", "--shots"]),
        (["sweep", "--kind", "knn", "--train-fractions", "0.5", "--val", "all"], ["--val all", "--shots"]),
        (["--protocol", "torchgeo-bench", "--folds", "3"], ["--folds 3"]),
        (["--protocol", "mieb", "--shots", "5"], ["--shots 5", "--shots 16"]),
        (["--protocol", "mieb", "--seeds", "2"], ["--seeds 2", "--seeds 5"]),
        (["--protocol", "class-project", "--epochs", "3"], ["--epochs 3", "--epochs 10"]),
        (["--protocol", "torchgeo-bench", "--select", "f1_macro"], ["--select f1_macro"]),
        (["--select", "f1_makro", "--kind", "rf"], ["'f1_makro'"]),
        (["--no-standardize", "--kind", "rf"], ["--no-standardize", "rf", "head, knn, linear, mlp"]),
        (["--kind", "knn", "--folds", "1"], ["--folds 1", "2"]),
        (["--kind", "knn", "--folds", "2", "--budget", "9s"], ["--folds", "--budget"]),
        ([], ["--kind", "linear"]),
    ],
)
def test_a_conflict_is_one_line_that_names_the_flags(words, facts, features, tmp_path, capsys):
    assert _run(words, features, tmp_path / "out") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert [fact for fact in facts if fact not in lines[0]] == []
    assert not (tmp_path / "out").exists()


def test_what_is_beside_the_protocol_is_recorded(tmp_path):
    rng = np.random.default_rng(0)
    for split, rows in (("train", 60), ("val", 30), ("test", 30)):
        places = rng.uniform(0, 5, (rows, 2))
        make_split(tmp_path / f"{split}.h5", np.arange(rows) % 2, rng.random((rows, 3), np.float32), ["a", "b"],
                   lonlat=places)  # fmt: skip
    words = ["--protocol", "seminar", "--kind", "linear", "--split-by", "cells", "--budget", "90s"]
    assert _run(words, tmp_path, tmp_path / "out") == 0
    (record,) = _records(tmp_path / "out")
    assert record["protocol_differences"][-2:] == [
        "--split-by cells: not part of the protocol", "--budget 90s: not part of the protocol",
    ]  # fmt: skip


def test_a_sweep_by_a_protocol_without_parts_learns_from_all(tmp_path):
    folder = make_features(tmp_path, multilabel=False, classes=3, rows=(60, 30, 30), dim=4)
    assert _run(["sweep", "--protocol", "torchgeo-bench", "--kind", "knn", "--seeds", "1"], folder, tmp_path) == 0
    assert [record["rows"]["train"] for record in _records(tmp_path)] == [60]


def test_with_folds_the_record_has_curves_and_synthetic_samples_of_the_final_fit(tmp_path):
    rng, names = np.random.default_rng(0), ["common", "rare"]
    for split, rows in (("train", 40), ("val", 20), ("test", 20)):
        labels = (np.arange(rows) % 20 < 2).astype(np.int64)
        make_split(tmp_path / f"{split}.h5", labels, rng.random((rows, 3), np.float32), names)
    splits = inputs.read_splits(tmp_path)
    settings = Settings(folds=2, oversample="smote", options={"epochs": 3})
    record = fit_run("head", splits, tmp_path / "out", settings=settings).record
    curves = record["history"]["curves"]
    assert [each["epoch"] for each in curves] == [1, 2, 3] and all(each["val_loss"] > 0 for each in curves)
    # 54 common, 6 rare in train and val together, of which 48 more are made
    assert record["history"]["oversampled"]["synthetic"] == {"rare": 48}
    assert not any("SMOTE drew" in line for line in record["warnings"])
    again = fit_run("knn", splits, tmp_path / "out", settings=Settings(refit=True, oversample="smote")).record
    assert again["history"]["oversampled"]["synthetic"] == {"rare": 48}, "not of the fit on train that chose"


@pytest.mark.parametrize("kind", ["linear", "knn", "mlp"])
def test_a_refit_learns_from_val_too_but_val_is_scored_by_the_fit_on_train(kind, features, tmp_path):
    splits = inputs.read_splits(features)
    plain = fit_run(kind, splits, tmp_path, settings=Settings())
    again = fit_run(kind, splits, tmp_path, settings=Settings(refit=True))
    assert plain.folder != again.folder and plain.record["chosen"] == again.record["chosen"]
    assert again.record["fitted_on"] == {"splits": ["train", "val"], "rows": 180}
    np.testing.assert_array_equal(plain.predictions("val").scores, again.predictions("val").scores)
    assert (plain.predictions("test").scores != again.predictions("test").scores).any()
    for rule in ("half", "tuned"):
        one, two = (run.record["per_class"][rule] for run in (plain, again))
        assert [row["threshold"] for row in one] == [row["threshold"] for row in two]


@pytest.mark.parametrize("kind", ["linear", "knn", "rf"])
def test_folds_choose_by_scores_of_samples_that_the_fit_has_not_seen(kind, features, tmp_path):
    splits = inputs.read_splits(features)
    run = fit_run(kind, splits, tmp_path, settings=Settings(folds=4))
    record = run.record
    assert record["chosen_on"]["samples"] == "train and val" and record["chosen_on"]["folds"] == [45] * 4
    assert record["fitted_on"]["rows"] == 180
    out_of_fold = run.predictions("val")
    assert out_of_fold.ids == [*splits["train"].ids, *splits["val"].ids]
    chosen = [each for each in record["candidates"] if record["chosen"].items() <= each.items()]
    metric = record["arguments"]["selection"]
    assert record["metrics"]["val"]["half"][metric] == pytest.approx(chosen[0][metric])
    assert not any("ids are also in" in line for line in record["warnings"])
    assert json.loads((run.folder / "run.json").read_text())["arguments"]["folds"] == 4


def test_without_val_folds_of_train_choose(tmp_path, capsys):
    folder = make_features(tmp_path, multilabel=True, rows=(120, 60, 60))
    (folder / "val.h5").unlink()
    assert _run(["--kind", "linear"], folder, tmp_path) == 2
    assert "or give --folds 5 to choose by folds of train" in capsys.readouterr().err
    assert _run(["--kind", "linear", "--folds", "5"], folder, tmp_path) == 0
    assert "out-of-fold map_macro" in capsys.readouterr().err
    (record,) = _records(tmp_path)
    assert record["chosen_on"]["samples"] == "train" and record["fitted_on"] == {"splits": ["train"], "rows": 120}


def test_folds_are_stratified_for_every_label():
    rng = np.random.default_rng(0)
    shown = rng.random((400, 6)) < np.linspace(0.5, 0.03, 6)
    given = sampling.checked_folds(shown, 5, list("abcdef"), seed=0)
    sizes = np.bincount(given)
    assert sizes.min() >= 75 and sizes.max() <= 85
    for k in range(6):
        each = np.bincount(given[shown[:, k]], minlength=5)
        assert each.max() - each.min() <= 3


def test_folds_keep_cells_whole():
    rng = np.random.default_rng(0)
    cells = rng.integers(40, size=500)
    shown = np.eye(3, dtype=bool)[rng.integers(3, size=500)]
    given = sampling.checked_folds(shown, 4, list("abc"), seed=0, cells=cells)
    assert all(len(set(given[cells == cell])) == 1 for cell in range(40))
    assert np.bincount(given).min() > 90


def test_more_folds_than_a_class_has_samples_is_one_line(tmp_path, capsys):
    names = ["common", "rare"]
    for split, rows in (("train", 30), ("val", 10), ("test", 10)):
        labels = np.zeros(rows, np.int64)
        labels[:2] = 1
        make_split(tmp_path / f"{split}.h5", labels, np.random.default_rng(0).random((rows, 3), np.float32), names)
    assert _run(["--kind", "linear", "--folds", "5"], tmp_path, tmp_path / "out") == 2
    assert "--folds 5: class 'rare' has 4 samples; give at most 4 folds" in capsys.readouterr().err
    cells = np.zeros(40, int)
    with pytest.raises(RequestError, match="in 1 spatial cells"):
        sampling.checked_folds(np.ones((40, 1), bool), 2, ["a"], seed=0, cells=cells)
