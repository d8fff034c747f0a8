"""Several processes make the same file as one, and nothing is lost when one of them dies."""

import json
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

from data import command, paths
from data.errors import RequestError
from data.flags import DataFlags
from data.processes import place, started
from featurize.cli import app
from featurize.engines import ray, torchrun
from featurize.flags import ModelFlags, RunFlags
from featurize.job import Job
from featurize.ranks import Assignment, Ranks

FLAGS = ["--model", "stats", "--dataset", "simulated", "--split", "val", "--bands", "B04,B08", "--workers", "0"]
FLAGS += ["--limit", "200", "--part-rows", "8"]


def words(out: Path, *extra: str) -> list[str]:
    return [*FLAGS, "--out", str(out), *extra]


def arrays(out: Path) -> dict[str, np.ndarray]:
    (file,) = out.rglob("val.h5")
    with h5py.File(file) as source:
        return {name: source[name][:] for name in ("features", "labels", "ids")}


@pytest.fixture(scope="module")
def alone(fork, tmp_path_factory):
    """What one process makes."""
    out = tmp_path_factory.mktemp("alone")
    code, output = fork.run(words(out))
    assert code == 0, output
    return arrays(out)


def assert_same(out: Path, alone: dict[str, np.ndarray]) -> None:
    made = arrays(out)
    for name in ("features", "labels", "ids"):
        assert made[name].tobytes() == alone[name].tobytes(), name
    assert [path.name for path in out.glob("features/*/*/*")] == ["val.h5"]
    assert [path.name for path in out.glob("features/.*")] == [], "the ranks' folder is gone"


def start_ranks(fork, out: Path, world: int = 2, **environment: str) -> list[int]:
    """Ranks as Slurm or a person would start them."""
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "WORLD_SIZE": str(world)} | environment
    return [fork.start(words(out), RANK=str(rank), LOCAL_RANK=str(rank), **where) for rank in range(world)]


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_make_the_file_of_one_process(tmp_path, fork, alone, world):
    (first, said), *others = (fork.wait(rank) for rank in start_ranks(fork, tmp_path, world))
    assert first == 0 and all(code == 0 for code, _ in others), said + str(others)
    assert said.count("wrote ") == 1 and not any("wrote" in output for _, output in others), "only the first reports"
    assert_same(tmp_path, alone)


def test_a_second_run_of_ranks_reuses_the_file(tmp_path, fork, alone):
    for done in ("wrote", "reused"):
        outcomes = [fork.wait(rank) for rank in start_ranks(fork, tmp_path)]
        assert [code for code, _ in outcomes] == [0, 0] and f"{done} {tmp_path}" in outcomes[0][1], outcomes
    assert_same(tmp_path, alone)


def test_ranks_resume_although_another_run_of_the_same_name_was_killed(tmp_path, fork, alone):
    """By hand, each run has the same address and port: what the killed one left must not count."""
    ranks = start_ranks(fork, tmp_path)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("part-*.h5"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    for pid in ranks:
        os.kill(pid, signal.SIGKILL)
    assert all(fork.wait(pid)[0] == -signal.SIGKILL for pid in ranks)
    assert list(tmp_path.glob("features/.run-*/rank-*.lock"))
    outcomes = [fork.wait(rank) for rank in start_ranks(fork, tmp_path)]
    assert [code for code, _ in outcomes] == [0, 0] and "already done" in outcomes[0][1], outcomes
    assert_same(tmp_path, alone)


def test_a_rank_that_would_make_other_features_says_what_differs(tmp_path, fork):
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "WORLD_SIZE": "2"}
    scaling = {"0": "none", "1": "zscore"}
    ranks = [
        fork.start(words(tmp_path, "--normalize", scaling[rank]), RANK=rank, LOCAL_RANK=rank, **where)
        for rank in ("0", "1")
    ]
    (first, said), (second, _) = (fork.wait(rank) for rank in ranks)
    assert (
        (first, second) == (2, 2) and "rank-1" in said and "encoder.normalization" in said and "Traceback" not in said
    )


def test_torchrun_starts_the_ranks_itself(tmp_path, alone):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run([*command, "-m", "featurize", *words(tmp_path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert_same(tmp_path, alone)


def test_a_rank_that_dies_is_one_clear_line_and_its_finished_parts_stay(tmp_path, fork, alone):
    command = [sys.executable, "-m", "featurize", *words(tmp_path, "--device", "cpu,cpu")]
    first = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.rglob("journal-rank-1.jsonl")) and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    children = subprocess.run(["pgrep", "-P", str(first.pid)], capture_output=True, text=True).stdout.split()
    ranks = {
        re.search(r"\x00?RANK=(\d)", Path(f"/proc/{pid}/environ").read_text()).group(1): int(pid) for pid in children
    }
    os.kill(ranks["1"], signal.SIGKILL)
    output, _ = first.communicate()
    assert first.returncode == 2 and "Traceback" not in output
    assert re.search("rank 1 died.*finished parts are kept", output), output
    code, output = fork.run(words(tmp_path))
    assert code == 0 and "already done" in output, output
    assert_same(tmp_path, alone)


def process(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code])


def test_a_rank_that_dies_does_not_keep_the_first_waiting_and_is_named(monkeypatch):
    """However the first rank takes it: here it ends as one does that was interrupted."""
    monkeypatch.setattr(torchrun, "GRACE_S", 0.3)
    ranks = [process("import signal, time; signal.signal(signal.SIGINT, lambda *_: exit(130)); time.sleep(60)")]
    time.sleep(0.3)
    ranks.append(process("raise SystemExit(7)"))
    with pytest.raises(RequestError, match=r"rank 1 died \(exit code 7\); finished parts are kept"):
        torchrun.wait_for(ranks)
    assert ranks[0].returncode == 130


def test_a_first_rank_that_is_killed_is_named():
    killed, told = "import os; os.kill(os.getpid(), 9)", "import time; time.sleep(0.5); raise SystemExit(2)"
    ranks = [process(killed), process(told)]
    with pytest.raises(RequestError, match=r"rank 0 died \(exit code -9\)"):
        torchrun.wait_for(ranks)


def test_a_rank_that_was_interrupted_has_not_died():
    ranks = [process("import time; time.sleep(0.5); raise SystemExit(130)"), process("raise SystemExit(143)")]
    ranks[1].wait()
    assert torchrun.wait_for(ranks) == 130


def test_a_rank_that_starts_after_the_first_has_failed_does_not_wait_for_it_long(monkeypatch):
    monkeypatch.setattr(torchrun, "ALONE_S", 0.3)
    late = process("import signal, time; signal.signal(signal.SIGINT, lambda *_: exit(130)); time.sleep(300)")
    time.sleep(0.3)
    assert torchrun.wait_for([process("raise SystemExit(2)"), late]) == 2


def test_folders_of_runs_whose_processes_were_all_killed_are_removed(tmp_path):
    dead, other = paths.ranks_folder(tmp_path, "dead"), paths.ranks_folder(tmp_path, "other")
    owner = {"host": "here", "place": place(), "pid": 4194303, "started": "1", "name": "a"}
    for folder, pids in ((dead, [4194303, 4194302]), (other, [4194303, os.getpid()])):
        folder.mkdir(parents=True)
        for rank, pid in enumerate(pids):
            born = str(started(pid)) if pid == os.getpid() else "1"
            (folder / f"rank-{rank}.lock").write_text(json.dumps(owner | {"pid": pid, "started": born}))
    with Ranks(tmp_path, "mine", 0, 1):
        assert not dead.exists() and other.exists()


def test_a_rank_without_a_world_is_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert command.run(app, words(tmp_path, "--engine", "torchrun")) == 2
    assert "name several devices" in capsys.readouterr().err


IMPATIENT = """
import sys
from data import command
from featurize import ranks
from featurize.cli import app
ranks.START_S = 1.0
sys.exit(command.run(app, sys.argv[1:]))
"""


@pytest.mark.parametrize("rank, other", [("0", 1), ("1", 0)])
def test_a_rank_that_does_not_start_is_not_waited_for_forever(tmp_path, rank, other):
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, *words(tmp_path)],
        env=os.environ | {"WORLD_SIZE": "2", "RANK": rank, "LOCAL_RANK": rank}, capture_output=True, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert f"rank {other} did not start" in done.stderr
    assert not list(tmp_path.glob("features/.run-*"))


@pytest.mark.parametrize("machines, count, gpus, each", [
    ([{"CPU": 2}], 2, 0, 1),
    ([{"CPU": 5}, {"CPU": 5}], 3, 0, 2),  # 3 each would leave no place for the third
    ([{"CPU": 16, "GPU": 2}, {"CPU": 4, "GPU": 2}], 4, 1, 2),
    ([{"CPU": 2}], 3, 0, None),
    ([{"CPU": 8, "GPU": 1}, {"CPU": 64}], 2, 1, None),
])  # fmt: skip
def test_every_ray_worker_finds_a_place_or_none_is_started(machines, count, gpus, each):
    if each is None:
        with pytest.raises(RequestError, match=f"--ray-workers {count}: the machines of the cluster have"):
            ray.processors_each(machines, count, gpus=gpus)
    else:
        assert ray.processors_each(machines, count, gpus=gpus) == each


def test_the_first_rank_ends_by_itself_when_another_has_ended_well():
    assert torchrun.wait_for([process("import time; time.sleep(0.5)"), process("")]) == 0


def test_a_ray_worker_that_cannot_open_the_data_says_why_and_does_not_die(tmp_path):
    data = DataFlags(dataset="eurosat-rgb", data_root=tmp_path / "nowhere", split="test")
    worker = ray.Worker(Job(model=ModelFlags(model="stats"), data=data, run=RunFlags()), "ray-1")
    settings, problem = worker.settings()
    assert settings == {} and "nowhere" in problem
    assignment = Assignment(("test", 0), str(tmp_path / "test.h5"), 8, None, [0], {})
    assert worker.make(assignment, [0]) == ({}, problem) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("extra, message", [
    (["--engine", "torchrun"], "GPUs here; name several devices"),
    (["--engine", "slurm"], "unknown engine 'slurm'; choose from local, ray, torchrun"),
    (["--engine", "ray", "--device", "cpu,cpu"], "requires --engine torchrun"),
    (["--ray-address", "auto"], "requires --engine ray"),
])  # fmt: skip
def test_a_wrong_engine_is_one_clear_line(tmp_path, capsys, extra, message):
    assert command.run(app, words(tmp_path, *extra)) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1, err
