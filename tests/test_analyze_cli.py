"""The analyze command: quick help, one-line errors, and files where it says they are."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import make_features
from made_runs import made_up, make_run

from analysis import cli, projection
from analysis.card import VIEWS
from data import command

PROJECT = Path(__file__).parent.parent
HEAVY = ("torch", "sklearn", "matplotlib", "umap", "pandas", "seaborn", "scipy")
NAMES = ["Arable land", "Pastures"]


@pytest.fixture
def out(tmp_path):
    labels, scores = made_up(NAMES, multilabel=True, rows=50, shares=np.array([0.5, 0.3]))
    make_run(tmp_path, labels, scores, NAMES)
    return tmp_path


def analyze(*words):
    return command.run(cli.new_app(), [str(word) for word in words])


@pytest.mark.parametrize("page", [[], *([name] for name in VIEWS.names())], ids=lambda page: page[0] if page else "all")
def test_help_imports_nothing_heavy(page):
    code = (
        "import sys; from analysis import cli\n"
        f"try: cli.app({[*page, '--help']})\nexcept SystemExit: pass\n"
        f"print('HEAVY', sorted(set(sys.modules) & set({HEAVY})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, check=True)
    assert done.stdout.endswith("HEAVY []\n") and "Usage: analyze" in done.stdout


def test_help_lists_every_view_with_its_first_line(capsys):
    analyze("--help")
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for name in VIEWS.names():
        assert f"{name} " in text and " ".join(VIEWS.summary(name).split()[:4]) in text


@pytest.mark.parametrize("view", ["table", "f2", "classes", "confusion"])
def test_a_view_prints_the_files_it_wrote(view, out, capsys):
    assert analyze(view, "--out", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines and all(str(out / "analysis" / view) in line for line in lines)
    assert {file.suffix for file in (out / "analysis" / view).iterdir()} >= {".png", ".svg", ".csv"}


def test_one_rule_draws_one_rule(out, capsys):
    assert analyze("classes", "--out", out, "--rule", "tuned") == 0
    names = [file.name for file in (out / "analysis" / "classes").glob("*.png")]
    assert len(names) == 1 and names[0].endswith("__tuned.png")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["umpa"], 'Did you mean "umap"?'),
        (["f2", "--model", "nothing"], "probe runs under"),
        (["f2", "--rule", "hal"], 'Did you mean "half"?'),
        (["table", "--neighbors", "5"], "--neighbors"),
        (["umap"], "make them with featurize"),
        (["umap", "--points", "0"], "--points must be at least 1"),
        (["umap", "--seed", "-1"], "--seed -1: must be from 0"),
        (["umap", "--features", "somewhere", "--model", "stats"], "drop --model and --dataset"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(words, message, out, capsys):
    where = [] if words == ["umpa"] else ["--out", out]
    assert analyze(*words, *where) == 2
    error = capsys.readouterr().err
    assert error.startswith("analyze: ") and error.count("\n") == 1 and message in error


def test_several_feature_sets_are_listed(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(projection, "project", lambda features, **_: features[:, :2])  # umap itself takes long to start
    for model in ("stats", "rcf"):
        make_features(tmp_path, multilabel=True, rows=(20, 20, 20), model=model)
    assert analyze("umap", "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert "--model, --dataset or --features" in error and "rcf_s2-12" in error
    assert analyze("umap", "--out", tmp_path, "--model", "rcf") == 0


def test_report_prints_the_page(out, capsys):
    assert analyze("report", "--out", out) == 0
    assert capsys.readouterr().out == f"{out / 'report' / 'index.html'}\n"
