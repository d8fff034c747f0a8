"""Runs of several settings in one output folder: every view tells them apart, and none fails."""

import errno

import pytest
from helpers import make_features

from analysis import cli as analyze
from analysis import frames
from data import command
from data.files import explained
from data.runs import find_runs
from probes import cli as probe


def _probe(out, features, *words):
    return command.run(probe.app, [*words, "--features", str(features), "--out", str(out)])


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A run of the default protocol, and one of torchgeo-bench, which sets lists of candidates."""
    out = tmp_path_factory.mktemp("out")
    features = make_features(out, multilabel=False, classes=3, rows=(60, 30, 30), dim=4)
    assert _probe(out, features, "--kind", "linear") == 0
    assert _probe(out, features, "--kind", "linear", "--protocol", "torchgeo-bench") == 0
    return out


def test_runs_of_two_protocols_are_named_by_the_protocol(out):
    assert sorted(frames.run_labels(find_runs(out)).values()) == ["linear", "linear, torchgeo-bench protocol"]


@pytest.mark.parametrize("view", ["table", "compare", "report"])
def test_views_take_runs_of_two_protocols(out, view, tmp_path):
    words = [view, "--out", str(out), "--folder", str(tmp_path / view)]
    assert command.run(analyze.app, words) == 0
    assert "linear, torchgeo-bench protocol" in "".join(
        file.read_text() for ending in ("md", "html") for file in (tmp_path / view).rglob(f"*.{ending}")
    )


def test_a_disk_that_fails_in_one_view_keeps_the_report_that_was_there(out, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "report"
    words = ["report", "--out", str(out), "--folder", str(folder), "--pictures", "0"]
    assert command.run(analyze.app, words) == 0
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full(name, *_, **__):
        raise explained(OSError(errno.ENOSPC, "No space left on device"), folder / name)

    monkeypatch.setattr("analysis.contract.run_view", full)
    capsys.readouterr()
    assert command.run(analyze.app, words) == 2 and str(folder) in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_settings_are_named_in_words(out):
    one, other = find_runs(out)
    for settings, words in (
        ({"select": "f1_macro"}, "selected by f1_macro"),
        ({"folds": 5}, "5 folds"),
        ({"refit": True}, "refitted on train and val"),
        ({"standardise": False}, "not standardized"),
        ({"standardise": True}, "standardized"),
        ({"options": {"c_values": [0.1, 1.0]}}, "c_values 2 values"),
    ):
        one.record["arguments"] = {"protocol": "default"}
        other.record["arguments"] = {"protocol": "default"} | settings
        assert list(frames.run_labels([one, other]).values()) == ["linear", f"linear, {words}"]
