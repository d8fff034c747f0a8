"""Worker processes that are killed, cannot start or find no room: an error or the same results, never a hang."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data import command, workers
from data.errors import RequestError
from data.workers import LostWorkerError, in_order

PROJECT = Path(__file__).parent.parent


def arrays(number):
    return number, [(np.full((number % 3, 2), number, np.uint16), np.arange(number, dtype=np.float32))]


@pytest.mark.parametrize("result_bytes", [0, 40, 4000], ids=["no room", "room for some", "room for all"])
@pytest.mark.parametrize("count", [0, 1, 3, 21])
def test_results_come_in_order_and_are_the_same_in_any_number_of_processes(count, result_bytes):
    made = list(in_order(arrays, range(20), workers=count, result_bytes=result_bytes))
    assert [number for number, _ in made] == list(range(20))
    for number, [(pixels, values)] in made:
        assert np.array_equal(pixels, arrays(number)[1][0][0])
        assert np.array_equal(values, arrays(number)[1][0][1])
        assert pixels.flags.writeable


def test_work_is_done_in_the_worker_processes():
    pids = set(in_order(lambda _: os.getpid(), range(8), workers=2))
    assert len(pids) == 2 and os.getpid() not in pids


@pytest.mark.parametrize("error", [RequestError("no file x"), OSError(errno.EFBIG, "File too large", "x")])
def test_errors_of_the_work_are_raised_as_they_are(error):
    def fail(number):
        if number == 3:
            raise error
        return number

    results = in_order(fail, range(6), workers=2)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(type(error), match=str(error).replace("[", "\\[")):
        next(results)


@pytest.mark.parametrize("count", [0, 1])
def test_an_allocation_that_fails_is_one_line(count):
    """By numpy, whose own kind of MemoryError holds a shape and a type."""
    with pytest.raises(RequestError, match=r"too little memory .*2\.00 EiB.*--workers"):
        list(in_order(lambda _: np.empty(2**61, np.uint8), range(2), workers=count))


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(RuntimeError, match="in a reader process: Traceback(.|\n)*ZeroDivisionError"):
        list(in_order(lambda number: 1 // number, range(3), workers=1))


@pytest.mark.timeout(30)
@pytest.mark.parametrize("moment", ["at work", "while it sends"])
def test_a_killed_worker_is_an_error_at_once(moment):
    def work(number):
        if number == 3 and moment == "at work":
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 3:  # a large message, and the kill arrives while it is being written
            subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -9 {os.getpid()}"])
            return np.zeros(50_000_000, np.uint8)
        return number

    started = time.monotonic()
    results = in_order(work, range(8), workers=2)
    seen = [next(results) for _ in range(2)]
    time.sleep(0.5)
    with pytest.raises(LostWorkerError, match="a reader process was killed"):
        list(results)
    assert seen == [0, 1] and time.monotonic() - started < 10


@pytest.mark.timeout(30)
def test_a_stuck_worker_is_an_error():
    with pytest.raises(LostWorkerError, match="has not answered"):
        list(in_order(lambda _: time.sleep(1000), range(3), workers=1, patience_s=0.5))


@pytest.fixture(autouse=True)
def notes_again():
    command.note.cache_clear()


@pytest.mark.timeout(30)
def test_workers_that_cannot_start_are_done_without(monkeypatch, capsys):
    def no_more(self):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(multiprocessing.get_context("fork").Process, "start", no_more)
    assert list(in_order(lambda number: number, range(5), workers=2)) == list(range(5))
    assert "reading without worker processes" in capsys.readouterr().err


@pytest.mark.timeout(30)
def test_workers_that_never_say_a_word_are_done_without(monkeypatch, capsys):
    monkeypatch.setattr(workers, "START_S", 0.5)
    monkeypatch.setattr(workers, "_serve", lambda *_: time.sleep(1000))
    assert list(in_order(lambda number: number, range(5), workers=2)) == list(range(5))
    assert "a process does not start" in capsys.readouterr().err


def test_results_that_nobody_draws_leave_no_process():
    results = in_order(lambda _: os.getpid(), range(100), workers=2)
    pid = next(results)
    results.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# --- what containers restrict

LIMITED = """
import resource, sys
import numpy as np
from data.workers import in_order
if len(sys.argv) > 1:
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
made = list(in_order(lambda number: np.full(5_000_000, number, np.uint8), range(8), workers=3, result_bytes=5_000_000))
print([int(one[-1]) for one in made])
"""


def limited(*words, wrap="exec", **environment):
    """What the program prints; a watchdog ends it after a minute."""
    command = ["bash", "-c", f'{wrap} "$@"', "bash", sys.executable, "-c", LIMITED, *words]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=PROJECT, env=os.environ | environment, timeout=60
    )


def test_long_names_of_the_temporary_folder_do_not_matter(tmp_path):
    folder = tmp_path / ("x" * 150)
    folder.mkdir()
    assert limited(TMPDIR=str(folder)).stdout == f"{list(range(8))}\n"


@pytest.mark.parametrize("files", [6, 9, 12, 16, 24])
def test_few_file_descriptors_do_not_matter(files):
    done = limited(str(files))
    assert done.stdout == f"{list(range(8))}\n", done.stderr


@pytest.mark.parametrize("options", ["size=64k", "size=8m", "ro"])
def test_shared_memory_that_is_small_or_read_only_does_not_matter(options):
    inside = f"mount -t tmpfs -o {options} tmpfs /dev/shm && exec"
    if subprocess.run(["unshare", "-m", "bash", "-c", f"{inside} true"], capture_output=True).returncode:
        pytest.skip("mounting is not allowed here")
    done = limited(wrap=f"exec unshare -m bash -c '{inside} \"$@\"' bash")
    assert done.stdout == f"{list(range(8))}\n", done.stderr
