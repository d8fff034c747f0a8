"""Faults: damage of every kind in every file that is kept, and what each command makes of it."""

import contextlib
import io
import multiprocessing
import os
import tempfile
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.bench import fault_exchange, fault_targets

# Faults by target where it is not `USUAL`: together more than 5,000.
USUAL = 200
COUNTS = {"features": 600, "packed": 300, "run.json": 450, "predictions.h5": 350, "plan and journal": 250}
LIMIT_S = 180.0
OUTCOMES = ("refused", "harmless", "mended", "another", "silent", "traceback", "died", "hung")
TARGETS = fault_targets.TARGETS | fault_exchange.TARGETS


def bench_faults() -> dict:
    """Outcomes of injected faults by kind of file: refused in one line, harmless (what is read is what was written),
    mended (made again), another (a foreign file without checksums is read as it is, and the identity differs), and
    what must not occur: silent (another value), traceback, died (the interpreter), hung.

    Names of targets in FAULTS_ONLY, separated by commas, restrict it; FAULTS sets a number of faults for each.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        context = multiprocessing.get_context("fork")
        making = context.Process(target=_quiet, args=(_make, root))  # torch's threads stay in there
        making.start()
        making.join()
        assert making.exitcode == 0, "the files to damage could not be made"
        counts: dict[str, Counter] = defaultdict(Counter)
        worst: list[str] = []
        contained = 0
        only = [name.strip() for name in os.environ.get("FAULTS_ONLY", "").split(",") if name.strip()]
        for target in TARGETS:
            if only and target not in only:
                continue
            count = int(os.environ.get("FAULTS", COUNTS.get(target, USUAL)))
            for outcome, told in _all(context, root, target, count):
                counts[target][outcome] += 1
                contained += "HDF5 ends" in told or "does not come to an end" in told
                if outcome in OUTCOMES[4:]:
                    worst.append(f"{target}: {outcome}: {told}"[:400])
    total = sum((counts[target] for target in counts), Counter())
    return {
        "faults": sum(total.values()),
        "outcomes": {name: total[name] for name in OUTCOMES},
        "ended_or_hung_hdf5_in_the_child": contained,
        "by_target": {target: {name: counts[target][name] for name in OUTCOMES} for target in counts},
        "worst": worst[:20],
        "seconds": round(time.monotonic() - started),
    }


def _all(context: Any, root: Path, target: str, count: int) -> Iterator[tuple[str, str]]:
    """The outcome of every fault; a worker that ends or hangs is a fault's outcome, and another takes the next."""
    at = 0
    while at < count:
        mine, theirs = context.Pipe()
        worker = context.Process(target=_work, args=(theirs, root, target, at, count))
        worker.start()
        theirs.close()
        try:
            while at < count:
                if not mine.poll(LIMIT_S):
                    yield "hung", f"fault {at}"
                    at += 1
                    break
                yield mine.recv()
                at += 1
        except EOFError:
            worker.join()
            yield "died", f"fault {at}, exit code {worker.exitcode}"
            at += 1
        worker.kill()
        worker.join()


def _work(answers: Any, root: Path, target: str, first: int, count: int) -> None:
    from data.store import child

    child.PATIENCE_S = 20.0
    kind = TARGETS[target](root, root / f"faults {target}")
    for number in range(first, count):
        try:
            answers.send(_quiet(kind.fault, number))
        except Exception:
            answers.send(("traceback", f"fault {number}: {traceback.format_exc()[-300:]}"))


def _quiet(function: Callable, *arguments: Any) -> Any:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return function(*arguments)


def _make(root: Path) -> None:
    fault_targets.make(root)
    fault_exchange.make(root)
