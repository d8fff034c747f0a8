"""Locks between containers, on disks that fail and on disks without file locks; paths that are addresses."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import h5py
import pytest

from analysis.cli import app as analyze
from data import command, lock, processes, store
from data.errors import RequestError
from data.files import write_text
from data.lock import Lock
from featurize.cli import app as featurize
from probes.cli import app as probe

ELSEWHERE = {"host": "node-1", "place": "another container", "pid": os.getpid(), "started": "1"}


def left_lock(folder, owner=ELSEWHERE, *, silent_s=0.0):
    file = folder / "train.lock"
    file.write_text(owner if isinstance(owner, str) else json.dumps(owner))
    then = time.time() - silent_s
    os.utime(file, (then, then))
    return file


def test_a_holder_in_another_container_with_our_host_name_and_number_is_not_taken_for_dead(tmp_path, monkeypatch):
    """Process numbers of another namespace say nothing about processes here."""
    holder = Lock(tmp_path / "train.lock")
    with monkeypatch.context() as there:
        there.setattr(lock, "place", lambda: "the other container")
        there.setattr(lock, "started", lambda _: "12345")
        holder.acquire()
    with pytest.raises(RequestError, match="last seen 0 s ago"):
        Lock(tmp_path / "train.lock").acquire()
    assert holder.is_held()


def test_a_holder_elsewhere_is_dead_once_its_heartbeat_has_stopped(tmp_path):
    file = left_lock(tmp_path, silent_s=lock.DEAD_AFTER_S - 20)
    with pytest.raises(RequestError, match=r"being written by process \d+ on node-1, last seen 2[78]\d s ago"):
        Lock(file).acquire()
    left_lock(tmp_path, silent_s=lock.DEAD_AFTER_S + 20)
    with Lock(file):
        assert json.loads(file.read_text())["place"] == lock.place()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_beats_and_a_lost_one_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_S", 0.01)
    held = Lock(tmp_path / "train.lock")
    with held:
        os.utime(held.path, (0, 0))
        deadline = time.monotonic() + 10
        while not held.path.stat().st_mtime and time.monotonic() < deadline:
            time.sleep(0.01)
        assert held.path.stat().st_mtime > 0
        held.check()
        left_lock(tmp_path)
        with pytest.raises(RequestError, match="taken over"):
            held.check()
    assert held.path.exists(), "another's lock must stay"


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '{"host": 1}', json.dumps(ELSEWHERE | {"pid": "x"}), "\0" * 40, "[" * 20000,
     json.dumps({"host": "v0.1", "pid": 1, "started": "1"})],
)  # fmt: skip
def test_a_damaged_lock_is_one_line(tmp_path, text):
    file = left_lock(tmp_path, text)
    with pytest.raises(RequestError, match="not readable as a lock"):
        Lock(file).acquire()
    assert [path.name for path in tmp_path.iterdir()] == ["train.lock"]


@pytest.mark.parametrize("hidden", [FileNotFoundError, PermissionError])
def test_a_process_that_proc_hides_is_not_taken_for_dead(tmp_path, monkeypatch, hidden):
    """As of another user where /proc is mounted with hidepid."""
    holder = Lock(tmp_path / "train.lock")
    holder.acquire()
    read_text = Path.read_text

    def hiding(path, *about, **more):
        if str(path).startswith("/proc/") and path.name == "stat":
            raise hidden(errno.ENOENT, "hidden")
        return read_text(path, *about, **more)

    def another_users(pid, _):
        raise PermissionError if pid == os.getpid() else ProcessLookupError

    monkeypatch.setattr(Path, "read_text", hiding)
    monkeypatch.setattr(os, "kill", another_users)
    with pytest.raises(RequestError, match=f"being written by process {os.getpid()} on this machine"):
        Lock(tmp_path / "train.lock").acquire()
    assert processes.started(os.getpid()) and processes.started(4194305) is None


@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS, errno.EACCES])
def test_a_disk_that_fails_under_a_lock_is_one_line(tmp_path, monkeypatch, code):
    def failing(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", failing)
    with pytest.raises(RequestError, match=os.strerror(code).lower()):
        Lock(tmp_path / "train.lock").acquire()
    assert list(tmp_path.iterdir()) == []


def test_names_of_dead_processes_beside_a_lock_are_cleared(tmp_path):
    """Also where the name of what is locked is a pattern to glob, and where strangers' files look alike."""
    path = tmp_path / "p[1].lock"
    for name in ("try-4194305-ab@" + lock.place(), "try-7-ab@elsewhere", "x-ab@y"):
        (tmp_path / f"p[1].lock.{name}").write_text("")
    os.utime(tmp_path / "p[1].lock.try-7-ab@elsewhere", (0, 0))
    with Lock(path):
        assert {file.name for file in tmp_path.iterdir()} == {"p[1].lock", "p[1].lock.x-ab@y"}


def test_a_lock_that_waits_takes_its_turn(tmp_path, monkeypatch, capsys):
    """As two commands that unpack the same archive."""
    monkeypatch.setattr(lock, "POLL_S", 0.01)
    first, done = Lock(tmp_path / "a.lock", what=tmp_path / "a"), []

    def second():
        with Lock(tmp_path / "a.lock", what=tmp_path / "a", wait=True):
            done.append(first.is_held())

    with first:
        waiting = threading.Thread(target=second)
        waiting.start()
        while f"process {os.getpid()}" not in capsys.readouterr().err:
            time.sleep(0.01)
        assert not done
    waiting.join(60)
    assert done == [False] and list(tmp_path.iterdir()) == []


def test_features_are_read_and_written_on_a_disk_without_file_locks(tmp_path):
    """HDF5's own locks stay off, whatever another process holds: our lock protects what is written."""
    file = tmp_path / "f.h5"
    h5py.File(file, "w").close()
    holding = "import sys, h5py; f = h5py.File(sys.argv[1], 'r+', locking=True); print(flush=True); sys.stdin.read()"
    command_line = [sys.executable, "-c", holding, str(file)]
    with subprocess.Popen(command_line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout and child.stdout.readline() == "\n"
        with pytest.raises(OSError, match="unable to lock"):
            h5py.File(file, "r", locking=True)
        with store.open_hdf5(file) as source:
            assert list(source) == []
        child.communicate()
    with store.reserved(tmp_path / "g.h5", 10):
        subprocess.run(
            [sys.executable, "-c", "import sys, h5py; h5py.File(sys.argv[1], 'r+', locking=True)", tmp_path / "g.h5"],
            check=True,
        )


@pytest.mark.parametrize(
    "app, words",
    [
        (featurize, "--model stats --dataset simulated --out s3://bucket/x"),
        (featurize, "--model stats --dataset simulated --cache-dir s3://bucket/x"),
        (featurize, "pack --to gs://bucket/p.h5"),
        (featurize, "verify s3://bucket/x"),
        (probe, "--kind rf --out s3://bucket/x"),
        (probe, "predict a b --to https://host/x.csv"),
        (analyze, "table --out s3://bucket/x"),
        (analyze, "report --folder s3://bucket/x"),
    ],
)
def test_an_address_is_no_folder(app, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command.run(app, words.split()) == 2
    error = capsys.readouterr().err
    assert "://" in error and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_a_failed_removal_left_beside_a_lock_goes_with_the_next_reuse(tmp_path):
    (tmp_path / f"train.lock.try-4194305-ab@{lock.place()}").write_text("")
    store.tidy(tmp_path / "train.h5")
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_file_of_a_dead_process_that_cannot_be_removed_does_not_stop_a_write(tmp_path):
    left = tmp_path / f"other.json.tmp-4194305-ab@{lock.place()}"
    left.mkdir()  # cannot be unlinked, whoever asks
    write_text(tmp_path / "mine.json", "{}")
    assert (tmp_path / "mine.json").read_text() == "{}" and left.exists()
