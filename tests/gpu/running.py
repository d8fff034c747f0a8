"""Checks by name, each run in a forked process that ends with it or with its time."""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

CHECKS: dict[str, "Check"] = {}


@dataclass(frozen=True)
class Check:
    """A function of the machine that returns what it measured and raises AssertionError where something is wrong.

    Args:
        function: the check.
        seconds: it may take.
    """

    function: Callable[[Any], dict[str, Any]]
    seconds: float


def check(seconds: float) -> Callable[[Callable], Callable]:
    """Register a check, in the order of the file."""

    def register(function: Callable) -> Callable:
        CHECKS[function.__name__] = Check(function, seconds)
        return function

    return register


def run(function: Callable, *arguments: Any, seconds: float) -> tuple[dict[str, Any], set[str]]:
    """Run a function in a process of its own, so that what fails, hangs or fills the memory ends there.

    Returns:
        What it returned, with ``ok`` and ``seconds``, or ``error``; and the packages it had imported.
    """
    context = multiprocessing.get_context("fork")  # all is imported already; the parent itself never touches a GPU
    mine, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, function, arguments))
    start = time.perf_counter()
    process.start()
    theirs.close()
    result, packages = {"error": "out of time"}, set()
    try:
        if mine.poll(max(0.0, seconds)):
            result, packages = mine.recv()
            process.join(5)  # it is about to end by itself
    except EOFError:
        process.join()
        result = {"error": f"ended with exit code {process.exitcode}"}
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid or 0, signal.SIGKILL)  # and whatever it started
        process.join()
    return {"ok": "error" not in result, "seconds": round(time.perf_counter() - start, 2), **result}, packages


def _work(answers: Any, function: Callable, arguments: tuple) -> None:
    os.setsid()
    try:
        result = function(*arguments)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        result = {"error": f"{type(error).__name__}: {error}"[:2000], "where": f"{where.filename}:{where.lineno}"}
    answers.send((result, {name.partition(".")[0] for name in sys.modules}))


def _fails() -> None:
    raise ValueError("as it should")


@check(seconds=30)
def runner(machine: Any) -> dict[str, Any]:
    """What runs the checks reports one that fails, one that dies and one that hangs."""
    failed, died, hung = run(_fails, seconds=9), run(os._exit, 3, seconds=9), run(time.sleep, 60, seconds=0.2)
    errors = [result["error"] for result, _ in (failed, died, hung)]
    assert errors == ["ValueError: as it should", "ended with exit code 3", "out of time"], errors
    return {"errors": errors}
