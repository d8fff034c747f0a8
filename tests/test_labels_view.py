"""Planted wrong labels are found; ranks are those of the samples that remain."""

import importlib.util

import numpy as np
import pytest
from helpers import make_split
from made_runs import make_run

from analysis import cli, samples
from analysis.contract import ViewRequest, run_view
from analysis.views import labels as view
from data import command, store
from data.errors import RequestError
from data.runs import find_runs
from probes.out_of_fold import out_of_fold

NAMES = ["water", "forest", "crop"]


def _sets(folder, *, multilabel, rows=(120, 40, 60), seed=0):
    """Three classes (or labels) that features tell apart, with 6 labels of test changed; returns their ids too."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((3, 8)) * 3
    planted = set()
    for split, count in zip(("train", "val", "test"), rows, strict=True):
        truth = rng.random((count, 3)) < 0.4 if multilabel else np.eye(3, dtype=bool)[np.arange(count) % 3]
        features = (truth @ directions + rng.standard_normal((count, 8)) * 0.7).astype(np.float32)
        given = truth.copy()
        if split == "test":
            changed = rng.choice(count, 6, replace=False)
            given[changed] = ~truth[changed] if multilabel else np.roll(truth[changed], 1, axis=1)
            planted = {f"test-{row:05d}" for row in changed}
        labels = given.astype(np.uint8) if multilabel else given.argmax(axis=1)
        make_split(folder / f"{split}.h5", labels, features, NAMES, simulated=True)
    return [store.read_features(folder / f"{split}.h5") for split in ("train", "val", "test")], planted


@pytest.mark.parametrize("multilabel", [True, False], ids=["multi-label", "single-label"])
def test_planted_labels_come_first(multilabel, tmp_path):
    sets, planted = _sets(tmp_path, multilabel=multilabel)
    frame = view.compute(sets)
    assert len(frame) == 220 and set(frame["id"][:6]) == planted and frame["suspected"][:6].all()
    assert frame["suspected"].sum() <= 12 and (frame["given"] != frame["suggested"])[:6].all()
    assert frame["quality"].between(0, 1).all()


def test_every_sample_is_scored_by_a_probe_that_has_not_seen_it():
    """Features are random numbers, with as many of them as samples: a probe that saw a sample would know its label."""
    rng = np.random.default_rng(0)
    truth = np.eye(2, dtype=bool)[rng.integers(0, 2, 100)]
    scores, *_ = out_of_fold(rng.standard_normal((100, 100)), truth, multilabel=False)
    assert 0.3 < (scores.argmax(axis=1) == truth.argmax(axis=1)).mean() < 0.7


def test_folds_have_the_classes_shares_also_where_classes_are_of_one_size():
    """Classes of one size come in turns in the stratified order: every fifth row of it is of the same two classes."""
    truth = np.eye(10, dtype=bool)[np.arange(600) % 10]
    features = truth + 0.1 * np.random.default_rng(0).standard_normal((600, 10))
    scores, *_ = out_of_fold(features, truth, multilabel=False)
    assert (scores.argmax(axis=1) == truth.argmax(axis=1)).all()


def test_a_class_of_one_sample_is_not_checked_and_two_classes_need_two_samples_each(tmp_path):
    def compute(labels):
        features = np.random.default_rng(0).standard_normal((len(labels), 4)).astype(np.float32)
        make_split(tmp_path / "train.h5", labels, features, NAMES, simulated=True)
        return view.compute([store.read_features(tmp_path / "train.h5")])

    with pytest.raises(RequestError, match="20 labeled samples, 1 classes with at least 2"):
        compute(np.array([1, *[0] * 19]))
    frame = compute(np.array([2, *[0] * 12, *[1] * 12]))
    single = frame[frame["given"] == "crop"]
    assert single["quality"].isna().all() and not single["suspected"].any() and frame["quality"].notna().sum() == 24


def test_neighbours_do_not_vouch_for_each_other():
    """Every cell has its own features, unlike any other's: only a neighbor could say what a sample is."""
    cells = np.repeat(np.arange(50), 8)
    truth = np.eye(2, dtype=bool)[cells % 2]
    features = np.random.default_rng(0).standard_normal((50, 60))[cells]
    right = [
        (out_of_fold(features, truth, multilabel=False, cells=given)[0].argmax(axis=1) == truth.argmax(axis=1))
        for given in (None, cells)
    ]
    assert right[0].mean() > 0.95 and right[1].mean() < 0.7


def test_a_fold_that_leaves_nothing_to_learn_is_skipped():
    truth = np.eye(2, dtype=bool)[np.repeat([0, 1], 10)]
    scores, learnt = out_of_fold(
        np.random.default_rng(0).random((20, 3)), truth, folds=2, multilabel=False, cells=np.repeat([0, 1], 10)
    )
    assert not learnt.any() and (scores == truth[:, ::-1]).all()


def test_ranks_with_and_without_suspected_samples_by_hand(tmp_path):
    """One probe is wrong on the first 80 of 400 samples, the other on the last 40; without the first 80 it turns."""
    labels = np.arange(400) % 2
    for kind, wrong in (("linear", slice(0, 80)), ("rf", slice(360, 400))):
        scores = np.eye(2, dtype=np.float32)[labels]
        scores[wrong] = scores[wrong][:, ::-1]
        runs = [make_run(tmp_path, labels, scores, ["a", "b"], kind=kind, seed=seed) for seed in (0, 1)]
    runs = find_runs(tmp_path)
    assert len(runs) == 4
    frame = view.ranks(runs, {*(f"test-{number}" for number in range(80)), "elsewhere"})
    assert len(frame) == 2 and (frame["seeds"] == 2).all(), "seeds are one row"
    frame = frame.set_index("kind")
    assert frame["value"].to_dict() == {"rf": 0.9, "linear": 0.8} and (frame["left_out"] == 80).all()
    assert frame["value_without"].to_dict() == {"rf": 0.875, "linear": 1.0}
    assert frame["rank"].to_dict() == {"rf": 1, "linear": 2}
    assert frame["rank_without"].to_dict() == {"rf": 2, "linear": 1}


def test_ranks_tie_where_the_difference_may_be_chance(tmp_path):
    labels = np.arange(20) % 2
    for kind, wrong in (("linear", [0, 1]), ("rf", [2])):
        scores = np.eye(2, dtype=np.float32)[labels]
        scores[wrong] = scores[wrong][:, ::-1]
        make_run(tmp_path, labels, scores, ["a", "b"], kind=kind)
    frame = view.ranks(find_runs(tmp_path), {"test-0", "test-1"})
    assert set(frame["rank"]) == {1} and set(frame["rank_without"]) == {1}


def test_the_view_writes_images_and_tables_that_say_simulated(tmp_path, monkeypatch):
    _sets(tmp_path / "features", multilabel=False)
    monkeypatch.setattr(samples, "open_samples", lambda *_, ids, **__: dict.fromkeys(ids))
    monkeypatch.setattr(samples, "picture", lambda *_: np.full((8, 8, 3), 128, np.uint8))
    request = ViewRequest(out=tmp_path, features=tmp_path / "features", split="test")
    (output,) = run_view("labels", request, count=4)
    assert {".png", ".svg", ".csv", ".md", ".tex"} == {file.suffix for file in output.files}
    assert "simulated" in output.file("md").read_text() and "of 60 labels suspected in test" in output.summary


def test_without_images_the_table_is_written_and_says_so(tmp_path):
    _sets(tmp_path / "features", multilabel=True)
    (output,) = run_view("labels", ViewRequest(out=tmp_path, features=tmp_path / "features", split="all"))
    assert output.file("csv") and output.file("png") is None and "no images" in output.summary


def test_a_wrong_request_is_one_line(tmp_path, capsys, monkeypatch):
    _sets(tmp_path / "features", multilabel=False)
    words = ["labels", "--features", str(tmp_path / "features"), "--out", str(tmp_path)]
    assert command.run(cli.new_app(), [*words, "--folds", "1"]) == 2
    assert "--folds at least 2" in capsys.readouterr().err
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(view, "find_spec", lambda name: None if name == "cleanlab" else find_spec(name))
    assert command.run(cli.new_app(), words) == 2
    printed = capsys.readouterr().err
    assert "pip install 'frozen-earth[labels]'" in printed and len(printed.splitlines()) == 1
