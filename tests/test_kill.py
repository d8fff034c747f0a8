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


def wait_until_at_work(process: subprocess.Popen, out: Path) -> None:
    """Return once the process has planned its parts, or has ended."""
    while process.poll() is None and not list(out.rglob("plan.json")):
        time.sleep(0.005)


def test_ten_kills_at_random_moments_change_no_byte(tmp_path):
    whole = featurize(tmp_path / "whole", "--workers", "0")
    wait_until_at_work(whole, tmp_path / "whole")
    start = time.monotonic()
    assert whole.wait() == 0, whole.communicate()[0]
    seconds = time.monotonic() - start

    rng, killed, hits, partial = random.Random(0), tmp_path / "killed", 0, 0
    for turn in range(4 * KILLS):
        process = featurize(killed, "--workers", str(turn % 2))
        while process.poll() is None and not list(killed.rglob("train.lock")):  # resuming: the plan is there already
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.4) * seconds)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            hits += 1
        process.communicate()
        partial += bool(list(killed.rglob("part-*.h5")))
        for published in killed.rglob("train.h5"):
            assert store.verify(published) == [], "a file under the final name must be whole"
            published.unlink()  # finished before it was hit: begin again
        if hits == KILLS:
            break
    last = featurize(killed, "--workers", "0")
    output, _ = last.communicate()
    assert last.returncode == 0, output
    assert hits == KILLS and partial >= KILLS // 2, f"{hits} kills, {partial} left parts behind"
    with h5py.File(only_file(tmp_path / "whole")) as one, h5py.File(only_file(killed)) as other:
        for name in ("features", "labels", "ids"):
            assert one[name][:].tobytes() == other[name][:].tobytes(), name
    leftovers = [path.name for path in only_file(killed).parent.iterdir()]
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
