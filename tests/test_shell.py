"""Comfort in the shell: --dry-run, --json, --quiet, lists of what is stored, pruning, completion, sorted tables."""

import json
import os
import subprocess

import numpy as np
import pandas as pd
import pytest

from analysis import projection
from analysis.cli import app as analyze
from analysis.views.table import sorted_by
from data import command, paths, store
from data.stored import left_over
from featurize.cli import app as featurize
from probes.cli import app as probe

STATS = ["--model", "stats", "--dataset", "simulated", "--bands", "rgb", "--limit", "8", "--part-rows", "4"]


@pytest.fixture
def out(tmp_path, monkeypatch):
    """A working folder with features of a few simulated images."""
    monkeypatch.chdir(tmp_path)
    assert command.run(featurize, [*STATS, "--split", "train", "--quiet"]) == 0
    return tmp_path / "runs"


def said(capsys, app, *words):
    """The parsed line of --json."""
    capsys.readouterr()
    code = command.run(app, [*words, "--json"])
    (line,) = capsys.readouterr().out.splitlines()
    found = json.loads(line)
    assert found["exit_code"] == code
    return found


def test_a_dry_run_forecasts_what_the_run_then_does(out, capsys):
    assert capsys.readouterr().out == "", "quiet"
    forecast = said(capsys, featurize, *STATS, "--dry-run")["results"]
    assert [one["todo"] for one in forecast] == [0, 8, 8]
    assert forecast[1]["seconds"] > 0 and forecast[1]["size_bytes"] == 8 * 12 * 4
    assert len(list(out.rglob("*.h5"))) == 1, "nothing was written"
    made = said(capsys, featurize, *STATS)
    assert [one["file"] for one in made["results"]] == [one["file"] for one in forecast]
    assert [one["embedded"] for one in made["results"]] == [0, 8, 8]
    assert made["command"] == f"featurize {' '.join(STATS)}"
    run = said(capsys, probe, "--kind", "prior")["results"][0]
    assert json.loads((out.parent / run["run"] / "run.json").read_text())["metrics"]["test"] == run["test"]


def test_errors_are_in_the_line_of_json_too(capsys):
    found = said(capsys, featurize, "--model", "statz")
    assert found["exit_code"] == 2 and "did you mean 'stats'" in found["results"][0]["error"]


def test_what_is_stored_is_listed_and_what_is_left_over_goes_when_asked(out, capsys, monkeypatch):
    (file,) = out.rglob("train.h5")
    parts, layout = paths.parts_folder(file.with_name("val.h5")), paths.layout_cache(out) / "umap-1.npz"
    for path in (parts / "part.h5", layout):
        path.parent.mkdir(parents=True)
        path.write_bytes(bytes(2000))
    assert command.run(featurize, ["list", "--out", "runs"]) == 0
    assert "train 8, val unfinished" in (told := capsys.readouterr().out) and "12" in told
    monkeypatch.setattr("builtins.input", lambda _: "n")
    assert command.run(featurize, ["prune"]) == 0 and parts.exists() and layout.exists()
    assert "2.0 kB" in capsys.readouterr().out
    assert {one["deleted"] for one in said(capsys, featurize, "prune", "--yes")["results"]} == {
        str(path.relative_to(out.parent)) for path in (parts, layout)
    }
    assert not parts.exists() and not layout.exists() and file.exists()


def test_projections_of_features_that_are_there_are_kept(out, monkeypatch):
    monkeypatch.setattr(projection, "_compute", lambda features, **_: np.zeros((len(features), 2), np.float32))
    (file,) = out.rglob("train.h5")
    cache, features = paths.layout_cache(out), store.read_features(file)
    settings = {"neighbors": 3, "min_dist": 0.1, "cache": cache, "seed": 0}
    for seed, sources in enumerate(([features.features_sha256], ["0" * 64], [])):
        projection.project(features.features, **settings | {"seed": seed}, sources=sources)
    (gone,) = left_over(out)
    with np.load(gone) as kept:
        assert kept["sources"].tolist() == ["0" * 64]
    file.unlink()
    np.savez(cache / "umap-other.npz", identity='{"versions": {"no-such-package": "1.0"}}')
    assert len(left_over(out)) == 3  # one does not say what it is of


def test_nobody_to_ask_is_an_error(out, capsys, monkeypatch):
    paths.layout_cache(out).mkdir(parents=True)
    (paths.layout_cache(out) / "umap-1.npz").touch()
    monkeypatch.setattr("builtins.input", lambda _: (_ for _ in ()).throw(EOFError))
    assert command.run(featurize, ["prune"]) == 2 and "--yes" in capsys.readouterr().err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_flags_and_subcommands(shell, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / f"completion.{shell}"
    words = ["install-completion", "--shell", shell, "--output", str(file)]
    assert command.run(analyze, words) == 0, capsys.readouterr()
    assert "confusion" in (text := file.read_text()) and "neighbors" in text
    assert "__complete" in text, "values are asked for"
    if shell == "bash":
        script = f'. {file}; COMP_WORDS=(analyze conf); COMP_CWORD=1; _analyze; echo "${{COMPREPLY[@]}}"'
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, env=os.environ)
        assert done.stdout.split() == ["confusion"]


@pytest.mark.parametrize(
    ("app", "words", "value"),
    [
        (featurize, ["--model", "dofa,di"], "dofa,dinov2"),
        (featurize, ["bench", "--dataset", "eu"], "eurosat-rgb"),
        (probe, ["--kind", "l"], "all"),
        (probe, ["--model", "s"], "stats"),
        (analyze, ["f2", "--dataset", ""], "simulated"),
    ],
)
def test_completion_knows_values(app, words, value, out, capsys):
    app(["__complete", *words], exit_on_error=False, result_action="return_value")
    assert value in capsys.readouterr().out.split()


def test_tables_are_sorted_best_first():
    rows = [("a", "half", "brier", 0.3), ("b", "half", "brier", 0.1), ("c", "half", "f1", np.nan)]
    frame = pd.DataFrame(rows, columns=["run", "rule", "metric", "value"]).assign(
        dataset="d", encoder="e", split="test"
    )
    assert list(sorted_by(frame, "brier")["run"]) == ["b", "a", "c"]
    frame.loc[:1, "metric"] = "f1"
    assert list(sorted_by(frame, "f1")["run"]) == ["a", "b", "c"]
