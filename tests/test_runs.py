"""Runs on disk: damage is found and never used, a new run is there before the old one goes."""

import json
import os
import shlex
import subprocess
import sys
import threading

import h5py
import pytest
from helpers import flips, make_features
from made_runs import made_up, make_run, rewrite

from analysis.cli import app as analyze
from data import command, folders, lock, runs
from data.errors import DamageWarning, RequestError
from featurize.cli import app as featurize
from probes.cli import app as probe

NAMES = ["a", "b", "c"]


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path, *made_up(NAMES, multilabel=True, rows=40), NAMES)


def same_or_refused(run, whole, read):
    """Whether reading a run after damage gives what it gave before, or is refused in one line."""
    try:
        return read(runs.read_run(run.folder)) == whole
    except RequestError as error:
        return "\n" not in str(error)


def test_no_changed_byte_of_a_record_goes_unnoticed(run):
    file = run.folder / "run.json"
    for changed in flips(file.read_bytes(), 400):
        file.write_bytes(changed)
        assert same_or_refused(run, run.record, lambda found: found.record)


def test_no_changed_byte_of_predictions_goes_unnoticed(run):
    def read(found):
        one = found.predictions("test")
        return one.ids, one.labels.tobytes(), one.scores.tobytes()

    whole, file = read(run), run.folder / "predictions.h5"
    for changed in flips(file.read_bytes(), 200):
        file.write_bytes(changed)
        with pytest.raises(RequestError, match="predictions.h5"):
            read(runs.read_run(run.folder))
        assert runs.intact(run.folder) is None
    assert whole


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r.update(kind=3), "kind is a number"),
        (lambda r: r.pop("seed"), "it has no seed"),
        (lambda r: r.update(class_names=["a", "b"]), "per_class.half is not of its class_names"),
        (lambda r: r["features"].pop("dataset"), "features has no dataset"),
        (lambda r: r["metrics"].update(test=[]), "metrics.test is a list"),
        (lambda r: r["per_class"]["half"][1].update(threshold="0.5"), r"per_class.half\[1\].threshold is a text"),
    ],
)
def test_a_malformed_record_is_one_line_even_with_a_right_checksum(run, change, words):
    change(run.record)
    rewrite(run)
    with pytest.raises(RequestError, match=words):
        runs.read_run(run.folder)


def test_one_damaged_run_leaves_the_others_in_the_tables(tmp_path, run, capsys):
    bad = make_run(tmp_path, *made_up(NAMES, multilabel=True, rows=40), NAMES, kind="knn")
    (bad.folder / "run.json").write_text("{")
    with pytest.warns(DamageWarning, match="left out: .*knn"):
        assert [one.kind for one in runs.find_runs(tmp_path)] == [run.kind]
    assert command.run(analyze, ["table", "--out", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert told.err.count("warning: left out: ") == 1 and "wrote" not in told.err.partition("warning")[2]
    assert list(tmp_path.rglob("table/*.csv"))


def test_verify_finds_a_damaged_file_of_a_run_and_goes_on(tmp_path, run, capsys):
    other = make_run(tmp_path, *made_up(NAMES, multilabel=True, rows=40), NAMES, kind="knn")
    make_run(tmp_path, *made_up(NAMES, multilabel=True, rows=40), NAMES, kind="rf")
    apps = (probe, featurize)
    assert [command.run(app, ["verify", "--out", str(tmp_path)]) for app in apps] == [0, 0]
    assert capsys.readouterr().out.count("3 of 3 runs") == 2
    (run.folder / "model.skops").write_bytes(b"x")
    (other.folder / "run.json").unlink()
    assert [command.run(app, ["verify", "--out", str(tmp_path)]) for app in apps] == [1, 1]
    told = capsys.readouterr().out
    assert "model.skops does not match the checksum in run.json" in told
    assert f"no run at {other.folder}" in told and told.count("1 of 3 runs") == 2


def test_a_run_of_the_first_version_is_readable_and_unverified(run, capsys):
    """It kept no checksums, and the model's in predictions.h5."""
    with h5py.File(run.folder / "predictions.h5", "r+") as file:
        file.attrs["model_sha256"] = run.checksums["model.skops"]
    del run.record["checksums"]
    (run.folder / "run.json").write_text(json.dumps(run.record | {"schema": 1}))
    old = runs.read_run(run.folder)
    assert old.predictions("test").scores.shape == (40, 3) and runs.intact(run.folder)
    assert command.run(probe, ["verify", str(run.folder)]) == 0
    assert "unverified" in capsys.readouterr().out
    (run.folder / "predictions.h5").write_bytes(b"x")
    assert command.run(probe, ["verify", str(run.folder)]) == 1


def test_predictions_are_read_once_and_again_where_the_file_changed(run):
    one, other = runs.read_run(run.folder).predictions("test"), runs.read_run(run.folder).predictions("test")
    assert one is other, "opened once, whoever asks"
    with pytest.raises(ValueError, match="read-only"):
        one.scores[0] = 0
    file = run.folder / "predictions.h5"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(RequestError, match="predictions.h5"):
        runs.read_run(run.folder).predictions("test")


def test_a_run_records_the_command_that_made_it(tmp_path, capsys):
    make_features(tmp_path, multilabel=False, rows=(40, 20, 20), dim=4)
    words = ["--kind", "prior", "--out", str(tmp_path)]
    assert command.run(probe, words) == 0
    (made,) = runs.find_runs(tmp_path)
    assert made.command == shlex.join(["probe", *words])
    capsys.readouterr()
    assert command.run(probe, shlex.split(made.command)[1:]) == 0
    assert f"reused {made.folder}" in capsys.readouterr().err
    assert make_run(tmp_path / "python", *made_up(NAMES, multilabel=True, rows=40), NAMES).command is None


# ------------------------------------------------------------------------------------- one step, two writers


def fill(folder, text):
    with folders.published_folder(folder) as new:
        (new / "a").write_text(text)
        (new / "b").write_text(text)


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_whole_and_nothing_is_left(tmp_path, can_exchange, monkeypatch):
    if not can_exchange:
        monkeypatch.setattr(folders, "exchange", lambda *_: False)
    fill(tmp_path / "run", "old")
    with pytest.raises(ZeroDivisionError), folders.published_folder(tmp_path / "run") as new:
        (new / "a").write_text("new")
        raise ZeroDivisionError
    assert (tmp_path / "run/a").read_text() == "old"
    fill(tmp_path / "run", "new")
    assert (tmp_path / "run/a").read_text() == (tmp_path / "run/b").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_readers_find_a_whole_folder_while_two_writers_replace_it(tmp_path):
    folder = tmp_path / "run"
    fill(folder, "0")
    stop = threading.Event()

    def write(text):
        while not stop.is_set():
            fill(folder, text)

    writers = [threading.Thread(target=write, args=(text,)) for text in "12"]
    for writer in writers:
        writer.start()
    found = []
    for _ in range(2000):
        handle = os.open(folder, os.O_RDONLY)  # what a reader has opened stays what it was, or is gone as a whole
        try:
            with open(os.open("a", os.O_RDONLY, dir_fd=handle)) as file:
                found.append(file.read())
        except FileNotFoundError:
            pass  # the old one, removed after the new one took its name
        finally:
            os.close(handle)
    stop.set()
    for writer in writers:
        writer.join()
    assert set(found) <= set("012") and len(found) > 100
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_a_dead_process_left_is_removed_and_an_old_folder_gets_its_name_back(tmp_path):
    script = "import os; print(os.getpid())"
    dead = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    for kind in ("tmp", "old"):
        left = tmp_path / f".run.{kind}-{dead}-0123@{lock.place()}"
        left.mkdir()
        (left / "a").write_text(kind)
    mine = tmp_path / f".run.tmp-{os.getpid()}-0123@{lock.place()}"
    mine.mkdir()
    folders.clear_left(tmp_path / "run")
    assert sorted(path.name for path in tmp_path.iterdir()) == [mine.name, "run"]
    assert (tmp_path / "run/a").read_text() == "old"
