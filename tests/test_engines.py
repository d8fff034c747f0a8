"""Several processes make the same file as one, and nothing is lost when one of them dies."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from data import command
from featurize.cli import app

FLAGS = ["--model", "stats", "--dataset", "simulated", "--split", "val", "--bands", "B04,B08", "--workers", "0"]


def start(out: Path, *extra: str, limit: int = 60) -> subprocess.Popen:
    words = [sys.executable, "-m", "featurize", *FLAGS, "--limit", str(limit), "--part-rows", "8", "--out", str(out)]
    return subprocess.Popen([*words, *extra], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(out: Path, *extra: str, **settings) -> str:
    process = start(out, *extra, **settings)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def arrays(out: Path) -> dict[str, np.ndarray]:
    (file,) = out.rglob("val.h5")
    with h5py.File(file) as source:
        return {name: source[name][:] for name in ("features", "labels", "ids")}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process makes."""
    out = tmp_path_factory.mktemp("alone")
    run(out)
    return arrays(out)


def assert_same(out: Path, alone: dict[str, np.ndarray]) -> None:
    made = arrays(out)
    np.testing.assert_allclose(made["features"], alone["features"], atol=1e-6)
    for name in ("labels", "ids"):
        np.testing.assert_array_equal(made[name], alone[name])


def test_two_ranks_make_the_file_of_one_process(tmp_path, alone):
    output = run(tmp_path, "--device", "cpu,cpu")
    assert output.count("wrote ") == 1, "only the first rank reports"
    assert_same(tmp_path, alone)
    (folder,) = tmp_path.glob("features/*/*")
    assert [path.name for path in folder.iterdir()] == ["val.h5"]


def test_torchrun_starts_the_ranks_itself(tmp_path, alone):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "featurize"]
    words += [*FLAGS, "--limit", "60", "--part-rows", "8", "--out", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path, alone)


def test_a_rank_that_dies_is_one_clear_line_and_its_finished_parts_stay(tmp_path):
    first = start(tmp_path, "--device", "cpu,cpu", limit=400)
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("journal-rank-1.jsonl")) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    children = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True).stdout.split()
    ranks = {
        re.search(r"\x00?RANK=(\d)", Path(f"/proc/{pid}/environ").read_text()).group(1): int(pid) for pid in children
    }
    os.kill(ranks["1"], signal.SIGKILL)
    output, _ = first.communicate()
    assert first.returncode == 2 and "rank died; finished parts are kept" in output and "Traceback" not in output
    assert "kept from before" in run(tmp_path, limit=400)


@pytest.mark.parametrize("words, message", [
    (["--engine", "torchrun"], "GPUs here; name several devices"),
    (["--engine", "slurm"], "unknown engine 'slurm'; choose from local, ray, torchrun"),
    (["--engine", "ray", "--device", "cpu,cpu"], "goes with --engine torchrun"),
    (["--ray-address", "auto"], "goes with --engine ray"),
])  # fmt: skip
def test_a_wrong_engine_is_one_clear_line(tmp_path, capsys, words, message):
    assert command.run(app, [*FLAGS, "--out", str(tmp_path), *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1, err
