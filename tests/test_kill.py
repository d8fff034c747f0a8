"""Featurizing killed at any moment and started again ends as if nothing had happened."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py

from data import store

KILLS = 10


def featurize(out: Path, *extra: str) -> subprocess.Popen:
    command = [
        sys.executable, "-m", "featurize", "--model", "stats", "--dataset", "simulated", "--split", "train",
        "--bands", "B02,B03,B04,B08", "--limit", "600", "--part-rows", "32", "--batch-size", "16", "--out", str(out),
        *extra,
    ]  # fmt: skip
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def only_file(out: Path) -> Path:
    (file,) = out.rglob("train.h5")
    return file


def test_ten_kills_at_random_moments_change_no_byte(tmp_path):
    start = time.monotonic()
    whole = featurize(tmp_path / "whole", "--workers", "0")
    assert whole.wait() == 0, whole.communicate()[0]
    seconds = time.monotonic() - start
    rng, kills, partial = random.Random(0), 0, 0
    for turn in range(KILLS):
        process = featurize(tmp_path / "killed", "--workers", str(turn % 2))
        time.sleep(rng.uniform(0.05, 0.8) * seconds)
        if process.poll() is None:
            kills += 1
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        partial += bool(list(tmp_path.glob("killed/**/part-*.h5")))
        for published in (tmp_path / "killed").rglob("train.h5"):
            assert store.verify(published) == [], "a file under the final name must be whole"
    last = featurize(tmp_path / "killed", "--workers", "0")
    output, _ = last.communicate()
    assert last.returncode == 0, output
    assert kills >= 3 and partial >= 1, f"only {kills} kills hit a running process, {partial} left parts behind"
    with h5py.File(only_file(tmp_path / "whole")) as one, h5py.File(only_file(tmp_path / "killed")) as other:
        for name in ("features", "labels", "ids"):
            assert one[name][:].tobytes() == other[name][:].tobytes(), name
    leftovers = [path.name for path in only_file(tmp_path / "killed").parent.iterdir()]
    assert leftovers == ["train.h5"], leftovers


def test_an_interrupt_says_how_to_go_on(tmp_path):
    process = featurize(tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("part-*.h5")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate()
    assert process.returncode == 130 and "the same command goes on from here" in output
    assert "Traceback" not in output
    again = featurize(tmp_path)
    assert "kept from before" in again.communicate()[0] and again.returncode == 0
