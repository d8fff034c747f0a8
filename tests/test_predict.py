"""A finished run on other features: the table it writes, and the features and models it refuses."""

import io
import json
import zipfile

import h5py
import numpy as np
import pandas as pd
import pytest
from helpers import TinyDataset, encoder_identity, fit_run, make_features, make_split
from made_runs import rewrite

from data import command, runs, store
from data.errors import RequestError
from data.store.exchange.export import export
from probes import inputs, prediction
from probes.card import PROBES
from probes.cli import app
from probes.models import load_model

NAMES = [f"class {k}" for k in range(5)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("features")
    return {
        True: make_features(out, multilabel=True, dataset="many", rows=(80, 40, 40)),
        False: make_features(out, multilabel=False, dataset="one", rows=(80, 40, 40), dtype="float16"),
    }


@pytest.fixture(scope="module")
def made(folders, tmp_path_factory):
    """A finished linear run of each kind of labels."""
    out = tmp_path_factory.mktemp("runs")
    return {
        multilabel: fit_run("knn" if multilabel else "head", inputs.read_splits(folder), out, n_jobs=1)
        for multilabel, folder in folders.items()
    }


def _predict(*words):
    return command.run(app, ["predict", *map(str, words)])


@pytest.mark.parametrize("kind", PROBES.names())
@pytest.mark.parametrize("multilabel", [True, False], ids=["multi-label", "single-label"])
def test_predicting_the_test_split_repeats_the_runs_own_scores_and_decisions(
    kind, multilabel, folders, tmp_path, monkeypatch
):
    module = PROBES.load(kind)
    few = module.candidates(80)[:1]
    monkeypatch.setattr(module, "candidates", lambda rows: few)
    run = fit_run(kind, inputs.read_splits(folders[multilabel]), tmp_path, n_jobs=1)
    told = prediction.predict(run, folders[multilabel] / "test.h5", tmp_path / "a.parquet", n_jobs=2)
    assert told == (40, [])
    table = pd.read_parquet(tmp_path / "a.parquet")
    wanted = run.predictions("test")
    assert list(table["id"]) == wanted.ids
    scores = table[[f"score: {name}" for name in NAMES]].to_numpy()
    assert scores.dtype == np.float32
    np.testing.assert_array_equal(scores, wanted.scores)
    called = np.array(
        [[name in cell.split(";") for name in NAMES] for cell in table["labels" if multilabel else "label"]]
    )
    tp = [(called[:, k] & truth).sum() for k, truth in enumerate(_truth(wanted.labels).T)]
    assert tp == [row["tp"] for row in run.record["per_class"]["tuned"]]
    assert called.sum() == sum(row["tp"] + row["fp"] for row in run.record["per_class"]["tuned"])


def _truth(labels):
    return labels.astype(bool) if labels.ndim == 2 else labels[:, None] == np.arange(5)


def test_a_csv_holds_the_same_as_a_parquet_file_and_reads_back_exactly(made, folders, tmp_path):
    run, file = made[True], folders[True] / "test.h5"
    prediction.predict(run, file, tmp_path / "a.parquet")
    prediction.predict(run, file, tmp_path / "a.csv")
    one, other = pd.read_parquet(tmp_path / "a.parquet"), pd.read_csv(tmp_path / "a.csv", keep_default_na=False)
    assert list(other.columns) == ["id", "labels", *(f"score: {name}" for name in NAMES)]
    pd.testing.assert_frame_equal(one, other.astype(one.dtypes.to_dict()))


def test_a_rule_decides_by_its_thresholds(made, folders, tmp_path):
    """The half rule calls what scores at least 0.5, the tuned one what reaches the threshold that the run recorded."""
    for rule in ("half", "tuned"):
        prediction.predict(made[True], folders[True] / "test.h5", tmp_path / "a.parquet", rule=rule)
        table = pd.read_parquet(tmp_path / "a.parquet")
        limits = [row["threshold"] for row in made[True].record["per_class"][rule]]
        for cells, *scores in table.drop(columns="id").itertuples(index=False):
            called = [name for name, score, limit in zip(NAMES, scores, limits, strict=True) if score >= limit]
            assert cells == ";".join(called)
        assert (set(limits) == {0.5}) is (rule == "half")


def test_blocks_and_threads_do_not_change_the_table(made, folders, tmp_path, monkeypatch):
    prediction.predict(made[False], folders[False] / "test.h5", tmp_path / "whole.csv")
    monkeypatch.setattr(prediction, "BLOCK_ROWS", 7)
    prediction.predict(made[False], folders[False] / "test.h5", tmp_path / "blocks.csv", n_jobs=3)
    whole, blocks = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("whole", "blocks"))
    assert list(whole["label"]) == list(blocks["label"])
    np.testing.assert_allclose(whole.iloc[:, 2:], blocks.iloc[:, 2:], rtol=1e-5)


def test_the_command_writes_a_table_and_never_over_another_unasked(made, folders, tmp_path, capsys):
    words = (made[False].folder, folders[False] / "val.h5", "--to", tmp_path / "a.csv")
    assert _predict(*words) == 0
    printed = capsys.readouterr()
    assert printed.out == f"wrote {tmp_path / 'a.csv'} (40 samples, 5 classes, argmax)\n"
    assert "its val split" in printed.err
    assert _predict(*words) == 2
    assert "a.csv exists; give --overwrite to replace it" in capsys.readouterr().err
    assert _predict(*words, "--overwrite") == 0


# -------------------------------------------------------------------------------------- refused features


def _file(folder, *, encoder=None, dataset="many", seed=0, features=None, labels=None, names=NAMES, split="test"):
    features = np.arange(96, dtype=np.float32).reshape(6, 16) if features is None else features
    labels = np.eye(6, len(names), dtype=np.uint8)[: len(features)] if labels is None else labels
    folder.mkdir(exist_ok=True)
    return make_split(folder / f"{split}.h5", labels, features, names, encoder=encoder, dataset=dataset, seed=seed)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"weights": {"source": "none", "sha256": "1" * 64}}, "encoder.weights.sha256"),
        ({"normalization": {"method": "zscore", "mean": [1.0] * 12, "std": [1.0] * 12}}, "encoder.normalization.mean"),
        ({"image_size": 224}, "encoder.image_size"),
        ({"precision": "bf16"}, "encoder.precision"),
        ({"name": "rcf"}, "encoder.name"),
    ],
)
def test_features_of_another_encoder_are_refused_by_the_fields_that_differ(change, field, made, tmp_path):
    file = _file(tmp_path, encoder=encoder_identity(**change))
    for other in (False, True):  # --other-dataset does not excuse it
        with pytest.raises(RequestError, match=f" {field} .*run featurize"):
            prediction.predict(made[True], file, tmp_path / "a.csv", other_dataset=other)
    assert [f.name for f in tmp_path.iterdir()] == ["test.h5"]


def test_features_of_another_dataset_are_taken_only_where_that_is_meant(made, tmp_path, capsys):
    """Its class names do not matter: the run calls its own classes."""
    file = _file(tmp_path, dataset="elsewhere", seed=4, labels=np.arange(6) % 3, names=["x", "y", "z"])
    words = (made[True].folder, file, "--to", tmp_path / "a.csv")
    assert _predict(*words) == 2
    error = capsys.readouterr().err
    assert " dataset.class_names, dataset.name, dataset.provenance.seed " in error
    assert "--other-dataset" in error and error.count("\n") == 1
    assert _predict(*words, "--other-dataset") == 0
    assert " dataset.class_names, dataset.name" in capsys.readouterr().err
    assert [c for c in pd.read_csv(tmp_path / "a.csv").columns if c.startswith("score")] == [
        f"score: {name}" for name in NAMES
    ]


def test_another_limit_and_another_split_are_welcome(made, tmp_path):
    source = TinyDataset("train", np.eye(5, dtype=np.uint8), NAMES, name="many", ids=list("abcde"))
    identity = store.make_identity(source, encoder_identity(), limit=5)
    with store.FeatureWriter(tmp_path / "train.h5", identity, rows=5, dim=16, dtype="float32") as writer:
        writer.write_part(0, np.random.default_rng(0).random((5, 16)))
        file = writer.finish(source, {})
    assert prediction.predict(made[True], file, tmp_path / "a.csv") == (5, [])
    assert list(pd.read_csv(tmp_path / "a.csv")["id"]) == list("abcde")


def test_nan_damaged_labels_and_another_width_are_refused(made, tmp_path):
    bad = np.ones((6, 16), np.float32)
    bad[2, 3] = np.nan
    cases = {
        "1 of 6 rows hold NaN or infinity": _file(tmp_path / "a", features=bad),
        "has 7 features per row": _file(tmp_path / "b", features=np.ones((6, 7), np.float32)),
        "checksum of 'labels' does not match": _file(tmp_path / "c"),
    }
    with h5py.File(cases["checksum of 'labels' does not match"], "r+") as file:
        short = file["labels"][:-1]
        del file["labels"]
        file["labels"] = short
    for told, file in cases.items():
        with pytest.raises(RequestError, match=told):
            prediction.predict(made[True], file, tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()
    with pytest.raises(RequestError, match="no feature file at"):
        prediction.predict(made[True], tmp_path / "absent.h5", tmp_path / "a.csv")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--to", "a.txt"), "--to a.txt: the name must end in .csv or .parquet"),
        (("--to", "a.csv", "--rule", "best"), "unknown rule 'best'; choose from half, tuned"),
        (("--to", "a.csv", "--n-jobs", "0"), "--n-jobs 0"),
        ((), "requires an argument"),
    ],
)
def test_a_wrong_request_is_one_line(words, told, made, folders, capsys):
    assert _predict(made[True].folder, folders[True] / "test.h5", *words) == 2
    error = capsys.readouterr().err
    assert told in error and len(error.splitlines()) == 1


# ---------------------------------------------------------------------------------------- refused models


@pytest.fixture
def run(folders, tmp_path):
    return fit_run("knn", inputs.read_splits(folders[True]), tmp_path, n_jobs=1)


def test_a_model_file_that_was_changed_is_refused(run, folders, tmp_path):
    """A file of harmless types that another fit wrote, and a file with one changed byte."""
    file = run.folder / "model.skops"
    good = file.read_bytes()
    other = fit_run("linear", inputs.read_splits(folders[True]), tmp_path, n_jobs=1).folder / "model.skops"
    for content in (other.read_bytes(), good[:-30] + bytes([good[-30] ^ 1]) + good[-29:], b""):
        file.write_bytes(content)
        with pytest.raises(RequestError, match="model.skops is not the model that the run wrote; it is not loaded"):
            prediction.predict(run, folders[True] / "test.h5", tmp_path / "a.csv")
    file.write_bytes(good)
    prediction.predict(run, folders[True] / "test.h5", tmp_path / "a.csv")
    file.unlink()
    with pytest.raises(RequestError, match="no model at"):
        prediction.predict(run, folders[True] / "test.h5", tmp_path / "a.csv")


def test_a_model_file_that_would_run_code_is_refused_even_with_its_checksum(run, folders, tmp_path):
    """The checksum can be forged by whoever forges the model; the list of types cannot."""
    file = run.folder / "model.skops"
    buffer = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "schema.json":
                schema = json.loads(content)
                schema["__class__"], schema["__module__"] = "Popen", "subprocess"
                content = json.dumps(schema).encode()
            new.writestr(name, content)
    file.write_bytes(buffer.getvalue())
    rewrite(run)
    run = runs.read_run(run.folder)
    with pytest.raises(RequestError, match=r"holds types that no probe writes \(subprocess.Popen\)"):
        prediction.predict(run, folders[True] / "test.h5", tmp_path / "a.csv")


@pytest.mark.parametrize("content", [b"", b"not a zip", None])
def test_a_damaged_model_file_is_one_clear_error(run, content, tmp_path):
    """Without a checksum too; None: an archive without a schema."""
    file = tmp_path / "model.skops"
    if content is None:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("other.txt", "nothing")
    else:
        file.write_bytes(content)
    with pytest.raises(RequestError, match=r"model.skops is damaged \("):
        load_model(file)


def test_a_run_without_its_checksum_or_its_record_is_refused(run, folders, tmp_path):
    (run.folder / "run.json").write_text(json.dumps({**run.record, "checksums": {"run.json": "0" * 64}}))
    with pytest.raises(RequestError, match="run.json does not match its checksum; fit it again"):
        runs.read_run(run.folder)
    with pytest.raises(RequestError, match="no run at"):
        runs.read_run(tmp_path / "nowhere")


def test_images_without_labels_are_scored_and_not_fitted_on(made, tmp_path):
    rng = np.random.default_rng(0)
    file = make_split(
        tmp_path / "test.h5", np.full(7, -1), rng.standard_normal((7, 16)).astype(np.float16), [], dataset="mine",
        encoder=made[False].record["features"]["encoder"],
    )  # fmt: skip
    rows, told = prediction.predict(made[False], file, tmp_path / "a.csv", other_dataset=True)
    assert rows == 7
    assert any("dataset.name" in line for line in told)
    assert set(pd.read_csv(tmp_path / "a.csv")["label"]) <= set(NAMES)
    with pytest.raises(RequestError, match="7 of 7 images have no label.*probe predict"):
        inputs.check_rows(store.read_features(file))
    exported = pd.read_parquet(export(file, "parquet")[0])
    assert set(exported["label"]) == {-1}
    assert exported["class"].isna().all()
