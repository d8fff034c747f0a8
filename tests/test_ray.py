"""Ray workers make the same file as one process, although one of them is killed at its work."""

import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import h5py
import numpy as np
import pytest

from data import command, store
from featurize.cli import app

if importlib.util.find_spec("ray") is None:  # not imported here: it reads the surroundings when it is
    pytest.skip("the extra [ray] is not installed", allow_module_level=True)

FLAGS = ["--model", "stats", "--dataset", "simulated", "--split", "val", "--bands", "B04,B08", "--workers", "0"]
FLAGS += ["--limit", "160", "--part-rows", "8"]
SURROUNDINGS = {"RAY_AUTH_MODE": "disabled", "RAY_raylet_start_wait_time_s": "240", "RAY_USAGE_STATS_ENABLED": "0"}
# Ray waits only 15 seconds for each of these to choose a port (ray-project/ray issue 65983): so they are chosen here.
AGENTS = ["metrics-export-port", "dashboard-agent-grpc-port", "dashboard-agent-listen-port", "runtime-env-agent-port"]


@pytest.fixture
def cluster(monkeypatch):
    """Address of a Ray cluster of this machine alone."""
    for name, value in SURROUNDINGS.items():
        monkeypatch.setenv(name, value)
    port, *agents = free_ports(5)
    folder = tempfile.mkdtemp(prefix="ray")  # short: names of sockets may not be long
    words = ["start", "--head", "--block", "--port", str(port), "--num-cpus", "2", "--include-dashboard", "false"]
    for name, number in zip(AGENTS, agents, strict=True):
        words += [f"--{name}", str(number)]
    log = Path(folder) / "head.txt"
    with log.open("w") as output:
        head = subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", *words, "--temp-dir", folder],
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        wait_until(lambda: "Ray runtime started" in log.read_text() or head.poll() is not None, 120)
        if "Ray runtime started" not in log.read_text():
            pytest.skip(f"Ray does not start on this machine: {log.read_text()[-300:]}")
        yield f"127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(head.pid, signal.SIGKILL)
        head.wait()
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def wait_until(happened, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.02)


def arrays(out: Path) -> dict[str, np.ndarray]:
    (file,) = out.rglob("val.h5")
    with h5py.File(file) as source:
        return {name: source[name][:] for name in ("features", "labels", "ids")}


def workers() -> list[int]:
    found = subprocess.run(["pgrep", "-f", "^ray::Worker"], capture_output=True, text=True)
    return [int(pid) for pid in found.stdout.split()]


def test_two_workers_of_which_one_is_killed_make_the_file_of_one_process(tmp_path, cluster, capsys):
    assert command.run(app, [*FLAGS, "--out", str(tmp_path / "alone")]) == 0
    ours, killed, done = set(workers()), [], threading.Event()  # of other clusters on this machine, if any

    def kill_one() -> None:
        wait_until(lambda: list(tmp_path.rglob("journal-ray-*.jsonl")) or done.is_set(), 240)
        if done.is_set():
            return
        killed.append((set(workers()) - ours).pop())
        os.kill(killed[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one)
    killer.start()
    ray = ["--engine", "ray", "--ray-address", cluster, "--ray-workers", "2"]
    code = command.run(app, [*FLAGS, "--out", str(tmp_path / "many"), *ray])
    done.set()
    killer.join()
    assert code == 0 and killed, capsys.readouterr().err
    made, alone = arrays(tmp_path / "many"), arrays(tmp_path / "alone")
    for name in ("features", "labels", "ids"):
        assert made[name].tobytes() == alone[name].tobytes(), name
    (folder,) = (tmp_path / "many").glob("features/*/*")
    assert [path.name for path in folder.iterdir()] == ["val.h5"]
    assert store.read_features(folder / "val.h5").environment["device"] == "cpu (Ray)"


def test_an_address_where_no_cluster_is_is_one_clear_line(tmp_path, capsys, monkeypatch):
    import ray

    def refuse(**_):
        raise ConnectionError("Failed to connect\nto Ray")

    monkeypatch.setattr(ray, "init", refuse)
    words = [*FLAGS, "--out", str(tmp_path), "--engine", "ray"]
    assert command.run(app, [*words, "--ray-address", "10.0.0.1:6379"]) == 2
    err = capsys.readouterr().err
    assert "--ray-address 10.0.0.1:6379: no Ray cluster answers there" in err and err.count("\n") == 1
    assert command.run(app, words) == 2
    assert "Ray cannot start a cluster here (Failed to connect to Ray)" in capsys.readouterr().err
