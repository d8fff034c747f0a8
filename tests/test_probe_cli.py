"""The `probe` command: light to start, clear when wrong, and what it prints."""

import json
import subprocess
import sys

import pytest
from helpers import make_features

from data import command, paths
from probes.cli import app
from probes.flags import seconds

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
    lines = capsys.readouterr().out.partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines] == ["head", "knn", "linear", "mlp", "prior", "rf"]
    assert "chosen on val" in lines[2] and "C " in lines[2]


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
    lines = [line for line in printed.err.splitlines() if not line.startswith("warning: ")]
    assert len(lines) == 2 and lines[0].startswith("linear: C=0.316 ") and "val map_macro" in lines[0]
    folders = [folder for folder in paths.run_folders(out) if folder.parent.parent.name == "many"]
    assert sorted(folder.name.split("-")[0] for folder in folders) == ["knn", "linear"]
    assert printed.out.splitlines()[-2:] == [str(f) for f in sorted(folders, reverse=True)]
    before = [(folder / "run.json").read_bytes() for folder in folders]

    assert _probe(*words) == 0
    again = capsys.readouterr()
    assert again.out == printed.out and again.err.count("reused ") == 2
    assert before == [(folder / "run.json").read_bytes() for folder in folders]

    assert _probe(*words, "--overwrite", "--verbose") == 0
    again = capsys.readouterr().err
    assert "reused" not in again and "linear 12/21: C=0.316: val map_macro" in again


def test_features_may_be_named_by_folder_and_results_go_elsewhere(out, tmp_path, capsys, monkeypatch):
    folder = next(folder for folder in paths.feature_folders(out) if folder.parent.name == "one")
    assert _probe("--kind", "knn", "--features", folder, "--out", tmp_path, "--seed", 4) == 0
    printed = capsys.readouterr().out
    assert "accuracy" in printed and "argmax" in printed and "simulated" not in printed
    (run,) = paths.run_folders(tmp_path)
    assert run.parent.name == folder.name and json.loads((run / "run.json").read_text())["seed"] == 4
    monkeypatch.chdir(folder.parent)
    assert _probe("--kind", "knn", "--features", folder.name, "--out", tmp_path, "--seed", 4) == 0
    assert "reused" in capsys.readouterr().err, "a name in the working directory is the same folder"


def test_a_gpu_that_is_not_there_is_one_line_and_exit_code_2(out, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert _probe("--kind", "linear", "--dataset", "many", "--device", "cuda", "--out", out) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("probe: --device cuda: ")


@pytest.mark.parametrize(("budget", "wanted"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("600", 600), (None, None)])
def test_budgets_are_read_with_their_unit(budget, wanted):
    assert seconds(budget) == wanted


def test_decision_flags_reach_the_run(out, tmp_path, capsys):
    folder = next(folder for folder in paths.feature_folders(out) if folder.parent.name == "many")
    words = ("--beta", "1", "--balanced", "--calibrate", "platt", "--budget", "10m", "--device", "cpu")
    assert _probe("--kind", "linear", "--features", folder, "--out", tmp_path, *words) == 0
    (run,) = paths.run_folders(tmp_path)
    given = json.loads((run / "run.json").read_text())["arguments"]
    wanted = {"beta": 1, "balanced": True, "calibrate": "platt", "budget_s": 600, "device": "cpu"}
    assert wanted.items() <= given.items()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("--kind", "liner"),
            "unknown probe 'liner'; choose from head, knn, linear, mlp, prior, rf (did you mean 'linear'?)",
        ),
        (("--kind", "rf"), "--model, --dataset or --features"),
        (("--kind", "rf", "--model", "dofa"), "no features for --model dofa under"),
        (("--kind", "rf", "--model", "stats", "--features", "x"), "drop --model and --dataset"),
        (("--kind", "rf", "--features", "x"), "no features in x; make them with featurize"),
        (("--kind", "rf", "--seed", "5000000000"), "--seed 5000000000: must be from 0 to"),
        (("--kind", "rf", "--n-jobs", "0"), "--n-jobs 0: give a number"),
        (("--kind", "rf", "--budget", "10x"), "--budget 10x: give a time above 0, such as 90s, 10m or 1h"),
        (("--kind", "rf", "--budget", "0m"), "--budget 0m: give a time above 0"),
        (("--kind", "rf", "--beta", "0"), "--beta 0: must be above 0"),
        (
            ("--kind", "rf", "--calibrate", "plat"),
            "unknown calibration 'plat'; choose from isotonic, platt, temperature (did you mean 'platt'?)",
        ),
        (("--kind", "knn", "--device", "gpu"), "--device gpu: give cpu, cuda or cuda:1"),
        ((), "--kind is missing; give --kind linear"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(words, told, out, capsys):
    assert _probe(*words, "--out", out) == 2
    printed = capsys.readouterr()
    assert told in printed.err and printed.err.startswith("probe: ") and len(printed.err.splitlines()) == 1
