"""The `probe` command: light to start, clear when wrong, and what it prints."""

import json
import subprocess
import sys

import pytest
from helpers import make_features

from data import command, paths
from probes.cli import app

HEAVY = ("numpy", "sklearn", "torch", "pandas", "h5py", "skops", "matplotlib", "scipy")


def _probe(*words):
    return command.run(app, [str(word) for word in words])


def _modules_after(code):
    told = f"{code}\nimport sys; print('\\n' + '\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_help_and_list_import_nothing_heavy():
    for words in (["--help"], ["list"]):
        loaded = _modules_after(f"from data import command; from probes.cli import app; command.run(app, {words})")
        assert "probes.cli" in loaded and not loaded & set(HEAVY)


def test_the_import_guard_can_fail():
    assert "sklearn" in _modules_after("import probes.cli, probes.fit") & set(HEAVY)


def test_list_names_every_kind_with_its_docstring(capsys):
    assert _probe("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["head", "knn", "linear", "mlp", "prior", "rf"]
    assert "C chosen on val" in lines[2]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    make_features(out, multilabel=True, rows=(60, 30, 30), dataset="many", simulated=True)
    make_features(out, multilabel=False, rows=(60, 30, 30), dataset="one")
    return out


def test_a_run_prints_test_metrics_says_simulated_and_is_reused(out, capsys):
    words = ("--kind", "linear,knn", "--dataset", "many", "--out", out)
    assert _probe(*words) == 0
    printed = capsys.readouterr()
    assert "on many (simulated data), 30 test samples" in printed.out and "f2_macro" in printed.out
    assert "linear 12/12: C=100.0: val map_macro" in printed.err
    folders = [folder for folder in paths.run_folders(out) if folder.parent.parent.name == "many"]
    assert sorted(folder.name.split("-")[0] for folder in folders) == ["knn", "linear"]
    assert printed.out.splitlines()[-2:] == [str(f) for f in sorted(folders, reverse=True)]
    before = [(folder / "run.json").read_bytes() for folder in folders]

    assert _probe(*words) == 0
    again = capsys.readouterr()
    assert again.out == printed.out and again.err.count("reused ") == 2 and "12/12" not in again.err
    assert before == [(folder / "run.json").read_bytes() for folder in folders]

    assert _probe(*words, "--overwrite") == 0
    assert "reused" not in capsys.readouterr().err


def test_features_may_be_named_by_folder_and_results_go_elsewhere(out, tmp_path, capsys):
    folder = next(folder for folder in paths.feature_folders(out) if folder.parent.name == "one")
    assert _probe("--kind", "knn", "--features", folder, "--out", tmp_path, "--seed", 4) == 0
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "argmax" in printed and "simulated" not in printed
    (run,) = paths.run_folders(tmp_path)
    assert run.parent.name == folder.name and json.loads((run / "run.json").read_text())["seed"] == 4


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--kind", "liner"), "unknown probe 'liner'; choose from head, knn, linear, mlp, prior, rf (did you mean 'linear'?)"),
        (("--kind", "rf"), "2 feature sets fit; choose with --model, --dataset or --features"),
        (("--kind", "rf", "--model", "dofa"), "no features for --model dofa under"),
        (("--kind", "rf", "--model", "stats", "--features", "x"), "drop --model and --dataset"),
        (("--kind", "rf", "--features", "x"), "no features in x; make them with featurize"),
        (("--kind", "rf", "--seed", "5000000000"), "--seed 5000000000: must be from 0 to"),
        (("--kind", "rf", "--n-jobs", "0"), "--n-jobs 0: give a number"),
        ((), "requires an argument"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(words, told, out, capsys):
    assert _probe(*words, "--out", out) == 2
    printed = capsys.readouterr()
    assert told in printed.err and printed.err.startswith("probe: ") and len(printed.err.splitlines()) == 1
