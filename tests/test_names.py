"""Names from data and strangers' records never choose a place; nothing is deleted or replaced that was not ours."""

import errno
import os
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import TinyDataset, encoder_identity, make_features
from made_runs import made_up, make_run, rewrite

from analysis.cli import app as analyze
from data import cached, command, paths, runs, store
from data.errors import RequestError
from data.folders import clear_left, exchange, published_folder
from featurize.cli import app as featurize
from probes.cli import app as probe


def a_run(out, *, multilabel):
    return make_run(out, *made_up(["a", "b"], multilabel=multilabel, rows=60), ["a", "b"])


HOSTILE = ["../../x", "/etc/x", "..", ".", "a/b", "a\\b", "C:x", "a\nb", "a\0b", "", ".hidden", 3, None, ["a"]]


@pytest.mark.parametrize("name", HOSTILE, ids=repr)
def test_recorded_names_are_no_paths(name, tmp_path):
    with pytest.raises(RequestError, match="encoder"):
        paths.check_name(name, "encoder")
    if isinstance(name, str):
        safe = paths.slug(name)
        assert (tmp_path / safe).parent == tmp_path and safe not in ("", ".", "..")
        with pytest.raises(RequestError):
            paths.feature_folder(tmp_path, name, "x")


def test_slugs_of_known_names_stay_and_long_ones_fit_a_disk():
    for name in ("dofa-base_s2-12_224_mean", "timm-vit_base.dino", "B04,B08", "Ödland-2", "a=b+c"):
        assert paths.slug(name) == name
    assert paths.slug("timm:hf_hub/x y") == "timm-hf_hub-x-y"
    one, other = (paths.slug("ä" * 300 + end) for end in "xy")
    assert one != other and len(one.encode()) <= paths.LONGEST


def test_bands_and_datasets_of_strangers_name_folders_below_out(tmp_path):
    encoder = encoder_identity(bands_name="../../../evil", name="../m")
    identity = store.make_identity(TinyDataset("train", np.zeros(3, np.int64), ["a"], name="../../d"), encoder)
    folder = paths.feature_folder(tmp_path, store.dataset_slug(identity), store.encoder_slug(identity))
    assert (
        folder.resolve().is_relative_to(paths.feature_root(tmp_path).resolve())
        and len(folder.parts) == len(tmp_path.parts) + 3
    )


@pytest.mark.parametrize("key", ["dataset", "encoder", "kind"])
@pytest.mark.parametrize("view", ["f2", "confusion", "report"])
def test_a_hostile_run_writes_nothing(tmp_path, key, view, capsys):
    out = tmp_path / "out"
    run = a_run(out, multilabel=True)
    run.record[key] = "../../../evil"
    rewrite(run)
    before = sorted(tmp_path.rglob("*"))
    assert command.run(analyze, [view, "--out", str(out)]) == 2
    warning, error = capsys.readouterr().err.splitlines()
    assert "../../../evil" in warning and error.startswith("analyze: ")
    assert [path for path in sorted(tmp_path.rglob("*")) if path.suffix != ".lock"] == before


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\0", ""])
def test_an_id_is_one_line(name):
    with pytest.raises(RequestError, match=re.escape(repr(name))):
        TinyDataset("train", np.zeros(2, np.int64), ["c"], ids=["x", name])


def test_a_comparison_replaces_only_a_comparison(tmp_path, capsys):
    run = a_run(tmp_path, multilabel=False)
    words = ["compare", str(run.folder), str(run.folder), "--to"]
    features = make_features(tmp_path, multilabel=False) / "train.h5"
    for target in (features, run.folder / "run.json"):
        content = target.read_bytes()
        assert command.run(probe, [*words, str(target)]) == 2
        assert target.read_bytes() == content and capsys.readouterr().err.count("\n") == 1
    for _ in range(2):
        assert command.run(probe, [*words, str(tmp_path / "c.json")]) == 0, capsys.readouterr().err


def test_packing_replaces_no_features(tmp_path, capsys):
    features = make_features(tmp_path, multilabel=False) / "train.h5"
    content = features.read_bytes()
    words = "pack --dataset simulated --limit 4 --split train --bands B04 --workers 0 --overwrite --to"
    assert command.run(featurize, [*words.split(), str(features)]) == 2
    assert features.read_bytes() == content and features.name in capsys.readouterr().err


# ------------------------------------------------------------------------------------------- folders


def filled(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def replace(folder, **files):
    with published_folder(folder, ours=lambda _: ["index"]) as new:
        filled(new, **files)


@pytest.mark.parametrize("swap", [True, False])
def test_a_folder_is_replaced_at_once_and_strangers_files_are_kept(tmp_path, monkeypatch, swap, capsys):
    if not swap:
        monkeypatch.setattr("data.folders.exchange", lambda *_: False)
    folder = filled(tmp_path / "report", index="old", notes="mine")
    replace(folder, index="new")
    kept = tmp_path / "report.old-1"
    assert [path.name for path in kept.iterdir()] == ["notes"] and str(kept) in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["index"] and (folder / "index").read_text() == "new"
    replace(folder, index="newer")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report", "report.old-1"]


def test_what_a_failing_disk_leaves_of_a_replaced_folder_goes_with_the_next_run(tmp_path, monkeypatch):
    folder = filled(tmp_path / "report", index="old")

    def fail(path, missing_ok=False):
        raise OSError(errno.EIO, "Input/output error", str(path))

    with monkeypatch.context() as failing:
        failing.setattr(Path, "unlink", fail)
        replace(folder, index="new")
    (left,) = {path.name for path in tmp_path.iterdir()} - {"report"}
    left_by_the_dead = tmp_path / left.replace(str(os.getpid()), "4194303")
    (tmp_path / left).rename(left_by_the_dead)
    clear_left(folder, ours=lambda _: ["index"])
    assert [path.name for path in tmp_path.iterdir()] == ["report"] and (folder / "index").read_text() == "new"


@pytest.mark.parametrize("swap", [True, False])
@pytest.mark.parametrize("at", ["exchange", "_discard"])
def test_a_kill_at_any_step_of_a_replacement_loses_no_strangers_file(tmp_path, monkeypatch, swap, at):
    """A process forked from this one dies before or after the new folder takes the old one's name."""
    folder = filled(tmp_path / "report", index="old", notes="mine")
    if not (pid := os.fork()):
        if not swap:
            monkeypatch.setattr("data.folders.exchange", lambda *_: False)
        monkeypatch.setattr(f"data.folders.{at}", lambda *_: os._exit(9))
        replace(folder, index="new")
        os._exit(0)
    assert os.waitpid(pid, 0)[1] >> 8 == 9
    clear_left(folder, ours=lambda _: ["index"])
    assert (folder / "index").read_text() in ("old", "new")
    assert [path.read_text() for path in tmp_path.rglob("notes")] == ["mine"]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_exchange_is_the_operating_systems(tmp_path):
    one, other = filled(tmp_path / "one", a="1"), filled(tmp_path / "other", b="2")
    assert exchange(one, other) and (one / "b").exists() and (other / "a").exists()


def test_a_report_deletes_nothing_that_it_did_not_write(tmp_path, capsys):
    run = a_run(tmp_path / "out", multilabel=False)
    words = ["report", "--out", str(tmp_path / "out"), "--kind", run.kind, "--pictures", "0"]
    assert command.run(analyze, words) == 0, capsys.readouterr().err
    folder = paths.report_folder(tmp_path / "out")
    (folder / "figures" / "mine.png").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert command.run(analyze, words) == 2
    assert "mine.png" in capsys.readouterr().err.splitlines()[-1]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (folder / "figures" / "mine.png").unlink()
    (folder / "files.json").unlink()  # a report of v0.1 has none
    assert command.run(analyze, words) == 0
    assert [path.name for path in folder.parent.iterdir() if "report" in path.name] == ["report"]


# -------------------------------------------------------------------------------------------- caches


@pytest.mark.parametrize("damage", [b"", b"PK\3\4", b"\x93NUMPY\1\0v\0" + b"{" * 200, None, "cut", "flip"])
def test_a_damaged_or_empty_cache_is_made_again(tmp_path, damage):
    file = tmp_path / "c.npz"
    np.savez(file, key=np.array("id"), a=np.arange(9))
    (kept,) = cached.arrays_in(file, "a", key="key", value="id") or [None]
    assert kept is not None and kept.tolist() == list(range(9))
    assert cached.arrays_in(file, "a", key="key", value="other") is None
    content = bytearray(file.read_bytes())
    if damage is None:
        file.unlink()
        file.mkdir()
    elif damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flip":
        place = content.index(np.arange(9).tobytes())
        content[place] ^= 1
        file.write_bytes(content)
    else:
        file.write_bytes(damage)
    assert cached.arrays_in(file, "a", key="key", value="id") is None


def test_runs_that_are_sound_are_read(tmp_path):
    run = a_run(tmp_path, multilabel=True)
    assert runs.read_run(run.folder).encoder == run.encoder
