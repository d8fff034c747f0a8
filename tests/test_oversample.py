"""Synthetic samples of rare classes: between neighbors of their class, in train alone."""

import json
import sys

import numpy as np
import pytest
from helpers import make_split
from imblearn.over_sampling import SMOTE

from data import command, paths, runs
from data.errors import RequestError
from probes import oversample
from probes.cli import app
from probes.kinds import knn

NAMES = ["many", "few", "two"]


def _rows(counts=(40, 10, 2), dim=3, seed=0):
    labels = np.repeat(np.arange(len(counts)), counts)
    features = np.random.default_rng(seed).standard_normal((len(labels), dim)) + 3 * labels[:, None]
    return (features * [1, 1, 1000]).astype(np.float32), labels


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Three classes of 40, 10 and 2 training samples, and two label columns of the same."""
    out = tmp_path_factory.mktemp("out")
    for dataset in ("one", "many"):
        for split in ("train", "val", "test"):
            features, labels = _rows(seed=len(split))
            if dataset == "many":
                labels = (labels[:, None] == [0, 1]).astype(np.uint8)
            names = NAMES if dataset == "one" else NAMES[:2]
            make_split(out / dataset / f"{split}.h5", labels, features, names)
    return out


def test_every_class_gets_as_many_as_the_largest_by_samples_between_its_own():
    features, labels = _rows()
    more, of_class, told = oversample.smote(features, labels, NAMES, seed=0)
    assert np.bincount(of_class).tolist() == [40, 40, 40] and more.dtype == np.float32
    np.testing.assert_array_equal(more[:52], features)
    assert told["synthetic"] == {"few": 30, "two": 38} and told["fewer_neighbours"] == {"two": 1}
    one, other = features[50:]  # the two samples of the last class: all synthetic ones lie on the line between them
    share = (more[of_class == 2][2:] - one) / (other - one)
    assert ((share >= -1e-3) & (share <= 1 + 1e-3)).all()
    np.testing.assert_allclose(share, np.tile(share[:, :1], 3), atol=1e-3)
    assert "class 'two' has 2 training samples" in oversample.warnings_of(told)[0]


def test_neighbours_are_those_of_imbalanced_learn_on_one_scale():
    features, labels = _rows(counts=(30, 12))
    more, _, _ = oversample.smote(features, labels, NAMES[:2], seed=3)
    scale = features.std(axis=0, dtype=np.float64)
    theirs, _ = SMOTE(k_neighbors=5, random_state=3).fit_resample((features / scale).astype(np.float32), labels)
    np.testing.assert_allclose(more, theirs * scale, rtol=1e-5, atol=1e-3)


def test_a_class_of_one_sample_and_absent_classes():
    features, labels = _rows(counts=(5, 1))
    with pytest.raises(RequestError, match="class 'few' has a single training sample"):
        oversample.smote(features, labels, NAMES, seed=0)
    _, of_class, told = oversample.smote(*_rows(counts=(5, 5)), NAMES, seed=0)  # none of the third: nothing to make
    assert len(of_class) == 10 and told["synthetic"] == {}


def test_a_run_learns_from_synthetic_samples_and_is_judged_on_real_ones(out, tmp_path, monkeypatch):
    few = [{"k": k, "distance": "euclidean", "zscore": False} for k in (3, 1)]
    monkeypatch.setattr(knn, "candidates", lambda rows: few)
    words = ["--kind", "knn", "--features", str(out / "one"), "--out", str(tmp_path)]
    assert command.run(app, words) == 0 and command.run(app, [*words, "--oversample", "smote"]) == 0
    plain, more = sorted(map(runs.read_run, paths.run_folders(tmp_path)), key=lambda run: len(run.record["history"]))
    assert "oversample" not in plain.record["arguments"] and more.record["arguments"]["oversample"] == "smote"
    assert more.record["history"]["oversampled"]["synthetic"] == {"few": 30, "two": 38}
    assert more.record["rows"] == plain.record["rows"] == {"train": 52, "val": 52, "test": 52}
    assert len(more.predictions("val").ids) == 52 and any("SMOTE" in line for line in more.record["warnings"])
    json.dumps(more.record)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--oversample", "smoote"), "unknown oversampling 'smoote'; choose from smote"),
        (("--oversample", "smote", "--features", "many"), "--balanced"),
    ],
)
def test_a_wrong_request_is_one_line(words, told, out, tmp_path, capsys):
    given = [str(out / word) if word == "many" else word for word in words]
    more = [] if "--features" in given else ["--features", str(out / "one")]
    assert command.run(app, ["--kind", "linear", "--out", str(tmp_path), *given, *more]) == 2
    printed = capsys.readouterr().err
    assert told in printed and len(printed.splitlines()) == 1


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(oversample, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'frozen-earth\[imbalance\]'"):
        oversample.check("smote", multilabel=False, views=1)
    assert "imblearn" in sys.modules  # of this test: the module itself imports it only when asked
