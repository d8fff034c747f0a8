"""Joined features of several encoders: rows by id, equal weight, run, prediction, and what is refused."""

import csv
import json

import numpy as np
import pytest
from helpers import encoder_identity, make_split

from analysis import cli as analyze_cli
from data import command, paths, store
from data.runs import find_runs
from featurize.cli import app as featurize
from probes.cli import app

NAMES = ["a", "b", "c"]
COUNTS = {"train": 60, "val": 30, "test": 30}


def make_set(out, model, *, dim, seed, order=None, drop=0, flip=False, dataset="simulated", scale=1.0):
    """Features of one encoder: the class in some directions, and noise; `order` shuffles the rows, ids with them."""
    rng, encoder = np.random.default_rng(seed), encoder_identity(model)
    directions = rng.standard_normal((3, dim))
    folder = None
    for split, count in COUNTS.items():
        labels = np.arange(count) % 3
        features = (directions[labels] + rng.standard_normal((count, dim))) * scale
        rows = np.arange(count) if order is None else np.random.default_rng(order).permutation(count)
        rows = rows[: count - drop]
        ids = [f"{split}-{row:03d}" for row in rows]
        labels = labels[rows] if not flip else (labels[rows] + 1) % 3
        about = {"ids": ids, "encoder": encoder, "dataset": dataset}
        if folder is None:
            made = make_split(
                out / "first" / f"{model}.h5", labels, features[rows].astype(np.float32), NAMES, split=split, **about
            )
            folder = paths.feature_folder(out, dataset, store.encoder_slug(store.read_identity(made)[0]))
        make_split(folder / f"{split}.h5", labels, features[rows].astype(np.float32), NAMES, **about)
    return folder


def probe(*words):
    return command.run(app, [str(word) for word in words])


@pytest.fixture
def out(tmp_path):
    make_set(tmp_path, "dinov2", dim=8, seed=0)
    make_set(tmp_path, "resnet", dim=24, seed=1, order=5, scale=1000.0)
    return tmp_path


def test_rows_are_joined_by_id_whatever_their_order(out):
    folder = store.fused_folder(out, "dinov2+resnet")
    one = store.read_features(store.find_features(out, model="dinov2") / "val.h5")
    two = store.read_features(store.find_features(out, model="resnet") / "val.h5")
    both = store.read_features(folder / "val.h5")
    assert both.ids == one.ids != two.ids and (both.labels == one.labels).all()
    place = [two.ids.index(name) for name in one.ids]
    assert (both.features == np.hstack([one.features, two.features[place]])).all()
    assert store.verify_features(folder / "val.h5").problems == ()
    assert both.identity["encoder"]["parts"] == [one.identity["encoder"], two.identity["encoder"]]
    assert "dinov2+resnet" in folder.name


def test_it_is_made_once_and_again_only_when_a_part_has_changed(out):
    file = store.fused_folder(out, "dinov2+resnet") / "test.h5"
    made = file.stat().st_mtime_ns
    store.fused_folder(out, "dinov2+resnet")
    assert file.stat().st_mtime_ns == made
    part = store.find_features(out, model="resnet") / "test.h5"
    old = store.read_features(part)
    part.unlink()
    make_split(part, old.labels, old.features + 1, NAMES, ids=old.ids, encoder=old.identity["encoder"])
    store.fused_folder(out, "dinov2+resnet")
    assert file.stat().st_mtime_ns > made
    assert store.read_features(file).features[0, 8] == pytest.approx(old.features[old.ids.index("test-000"), 0] + 1)


def test_every_encoder_counts_alike_in_what_a_probe_sees(out):
    from probes import inputs
    from probes.search import FitTask
    from probes.settings import Settings

    splits = inputs.read_splits(store.fused_folder(out, "dinov2+resnet"))
    train = inputs.in_memory([splits["train"].features])
    job = FitTask(
        kind="linear", candidates=[], val=splits["val"].features, train=train, labels=splits["train"].labels,
        val_truth=np.ones((30, 3), bool), seed=0, settings=Settings(), n_jobs=1,
        weights=store.block_weights(splits["train"].identity),
    )  # fmt: skip
    job.standardise()
    blocks = job.train[:, :8].var(axis=0).sum(), job.train[:, 8:].var(axis=0).sum()
    assert blocks == pytest.approx((16, 16), rel=1e-4)  # 8 and 24 dimensions: the mean of both


@pytest.mark.parametrize("kind", ["knn", "linear", "rf", "mlp", "head"])
def test_every_kind_runs_predicts_and_beats_neither_less_than_its_parts(out, kind, tmp_path):
    assert probe("--kind", kind, "--model", "dinov2+resnet", "--out", out, "--n-jobs", "1") == 0
    (run,) = find_runs(out)
    encoder = run.record["features"]["encoder"]
    assert [part["name"] for part in encoder["parts"]] == ["dinov2", "resnet"] and run.encoder.startswith(
        "dinov2+resnet"
    )
    assert len(run.record["features"]["splits"]["test"]["parts"]) == 2
    if kind == "knn":
        assert run.record["chosen"]["zscore"] is True
    files = [store.find_features(out, model=name) / "test.h5" for name in ("resnet", "dinov2")]
    table = tmp_path / "scores.csv"
    assert probe("predict", run.folder, *files, "--to", table, "--n-jobs", "1") == 0
    with table.open() as lines:
        rows = list(csv.DictReader(lines))
    kept = run.predictions("test")
    assert [row["id"] for row in rows] == kept.ids
    assert np.allclose([[float(row[f"score: {name}"]) for name in NAMES] for row in rows], kept.scores, atol=1e-5)


def test_tables_report_and_umap_find_it_by_its_name(out, capsys):
    for model in ("dinov2", "dinov2+resnet"):
        assert probe("--kind", "knn", "--model", model, "--out", out, "--n-jobs", "1") == 0
    analyze = analyze_cli.new_app()
    assert command.run(analyze, ["table", "--out", str(out)]) == 0
    text = next(out.glob("analysis/table/*.md")).read_text()
    assert "dinov2+resnet" in text
    assert command.run(analyze, ["umap", "--model", "dinov2+resnet", "--out", str(out)]) == 0
    assert list(out.glob("analysis/umap/*dinov2+resnet*.png"))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"drop": 2}, "2 of 60 ids are not in"),
        ({"flip": True}, "labels of 60 samples differ"),
        ({"dataset": "other"}, "no features for --model resnet --dataset simulated"),
    ],
)
def test_sets_that_do_not_fit_are_one_clear_line(change, told, tmp_path, capsys):
    make_set(tmp_path, "dinov2", dim=8, seed=0)
    make_set(tmp_path, "resnet", dim=8, seed=1, **change)
    words = ["--kind", "knn", "--model", "dinov2+resnet", "--out", tmp_path]
    words += ["--dataset", "simulated"] if "dataset" in change else []
    assert probe(*words) == 2
    error = capsys.readouterr().err
    assert told in error and error.count("\n") == 1
    assert not list(tmp_path.glob("features/*/dinov2+resnet*/*.h5"))


def test_unknown_encoders_and_wrong_files_are_one_clear_line(out, capsys):
    assert probe("--kind", "knn", "--model", "dinov2+resnext", "--out", out) == 2
    assert "no features of 'resnext'" in capsys.readouterr().err
    assert probe("--kind", "knn", "--model", "dinov2+dinov2", "--out", out) == 2
    assert "named twice" in capsys.readouterr().err
    assert probe("--kind", "knn", "--model", "dinov2+resnet", "--out", out, "--n-jobs", "1") == 0
    capsys.readouterr()
    (run,) = find_runs(out)
    one = store.find_features(out, model="dinov2") / "test.h5"
    assert probe("predict", run.folder, one, "--to", out / "a.csv") == 2
    assert "dinov2, resnet" in capsys.readouterr().err
    assert probe("predict", run.folder, one, one, "--to", out / "a.csv") == 2
    assert "2 feature files (of dinov2, dinov2)" in capsys.readouterr().err
    assert not (out / "a.csv").exists()
    assert json.loads((run.folder / "run.json").read_text())["features"]["encoder"]["settings"]["dims"] == [8, 24]


def test_altered_views_are_joined_too(tmp_path, capsys):
    data = ["--dataset", "simulated", "--limit", "24", "--augment", "2", "--out", str(tmp_path)]
    assert command.run(featurize, ["--model", "stats", *data]) == 0
    assert command.run(featurize, ["--model", "rcf", "--variant", "gaussian", "--image-size", "16", *data]) == 0
    assert probe("--kind", "head", "--model", "stats+rcf", "--augment", "2", "--out", tmp_path, "--n-jobs", "1") == 0
    (run,) = find_runs(tmp_path)
    (view,) = run.record["features"]["splits"]["train"]["views"]
    assert len(view["parts"]) == 2 and view["parts"] != run.record["features"]["splits"]["train"]["parts"]
    assert run.simulated
