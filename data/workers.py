"""Worker processes that return results in order; one that fails to start, send or survive never causes a hang.

Needs no semaphores, no ``/dev/shm`` and no sockets in ``TMPDIR``, which containers restrict: each worker has its own
pipe, and forked workers return arrays through memory mapped before the fork. A worker that dies closes its pipe, so
that its death is noticed at once.
"""

import mmap
import multiprocessing
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from data.command import leave_interrupts_to_the_parent, note
from data.errors import RequestError

OUTSTANDING = 2  # items requested from each worker: one in progress, one ready
START_S = 60.0  # time limit for a worker to start
ANSWER_S = 900.0  # time limit for one item; beyond it a worker is stuck


class LostWorkerError(RequestError):
    """A worker process died, or does not answer."""


TOO_LITTLE_MEMORY = "too little memory to read a batch of images ({}); use fewer --workers or a smaller --batch-size"
KILLED = "a reader process was killed, perhaps by lack of memory; use fewer --workers, or --workers 0"


def in_order[T, R](
    work: Callable[[T], R],
    items: Sequence[T],
    *,
    workers: int,
    result_bytes: int = 0,
    patience_s: float = ANSWER_S,
) -> Generator[R]:
    """Results of `work` for every item, in order, from worker processes or, if none can start, from this one.

    Args:
        work: called with an item; its exceptions are raised here, a RequestError or OSError unchanged.
        items: inputs.
        workers: number of processes; 0 means this process.
        result_bytes: approximate size of the arrays of one result; larger ones are sent more slowly.
        patience_s: time limit for one item.

    Raises:
        LostWorkerError: a worker was killed, or is stuck.
        RequestError: there was too little memory, in a worker or here.
    """
    pool: list[_Worker] = []
    try:
        pool = _start(work, items, min(workers, len(items)), result_bytes)
        if not pool:
            yield from map(work, items)
            return
        ahead = OUTSTANDING * len(pool)
        for number in range(min(ahead, len(items))):
            pool[number % len(pool)].ask(number)
        for number in range(len(items)):
            result = pool[number % len(pool)].answer(patience_s)
            if number + ahead < len(items):
                pool[number % len(pool)].ask(number + ahead)
            yield result
    except MemoryError as error:
        raise RequestError(TOO_LITTLE_MEMORY.format(error or "an allocation failed")) from error
    finally:
        _stop(pool)


class _Worker:
    """One worker process, seen from the process that asks."""

    def __init__(self, ours: Connection, theirs: Connection, memory: mmap.mmap | None, slot: int) -> None:
        self.ours, self.theirs, self.memory, self.slot = ours, theirs, memory, slot
        self.process: Any = None

    def ask(self, number: int) -> None:
        """Ask for the result of one item."""
        try:
            self.ours.send_bytes(str(number).encode())
        except OSError as error:
            raise LostWorkerError(KILLED) from error

    def answer(self, patience_s: float) -> Any:
        """The result of the item asked for first."""
        try:
            if not self.ours.poll(patience_s):
                minutes = patience_s / 60
                raise LostWorkerError(
                    f"a reader process has not answered for {minutes:.0f} minutes; check the disk of the data, or use "
                    "--workers 0"
                )
            kind, packed, places = pickle.loads(self.ours.recv_bytes())
        except (EOFError, OSError) as error:
            raise LostWorkerError(KILLED) from error
        if kind == "raised":
            error, trace = packed
            raise error or RuntimeError(f"in a reader process: {trace}")
        arrays = [np.frombuffer(self.memory, np.uint8, size, start) for start, size in places]  # type: ignore[arg-type]
        return pickle.loads(packed, buffers=[array.copy() for array in arrays])  # the worker writes there again


def _start(work: Callable, items: Sequence, count: int, result_bytes: int) -> list[_Worker]:
    """Workers that have said that they are ready; none, with a note, where not all can be had."""
    if count < 1:
        return []
    forks = sys.platform == "linux" and multiprocessing.get_start_method() == "fork"
    context = multiprocessing.get_context("fork" if forks else None)
    pool: list[_Worker] = []
    try:
        slot = -(-int(result_bytes * 1.1) // mmap.PAGESIZE) * mmap.PAGESIZE if forks else 0
        for _ in range(count):
            memory = mmap.mmap(-1, OUTSTANDING * slot) if slot else None
            pool.append(_Worker(*context.Pipe(), memory, slot))
        for worker in pool:
            others = [end for other in pool for end in (other.ours, other.theirs) if end is not worker.theirs]
            arguments = (work, items, worker.theirs, others if forks else [], worker.memory, worker.slot)
            worker.process = context.Process(target=_serve, args=arguments, daemon=True)
            worker.process.start()
        for worker in pool:
            worker.theirs.close()  # else its death would not close the pipe
        for worker in pool:
            if not worker.ours.poll(START_S) or worker.ours.recv_bytes() != b"ready":
                raise OSError("a process does not start")
    except (OSError, EOFError, RuntimeError, ValueError) as error:  # no processes, descriptors, threads or memory left
        note(f"reading without worker processes, as none can be started ({error})")
        _stop(pool)
        return []
    return pool


def _stop(pool: Sequence[_Worker]) -> None:
    for worker in pool:
        worker.ours.close()  # a worker that waits for more ends by itself
        worker.theirs.close()
    for worker in pool:
        if worker.process is not None and worker.process.pid:
            worker.process.join(1)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def _serve(
    work: Callable, items: Sequence, pipe: Connection, others: Sequence[Connection], memory: mmap.mmap | None, slot: int
) -> None:
    """What a worker process does until its pipe is closed."""
    for end in others:
        end.close()
    leave_interrupts_to_the_parent()
    with suppress(OSError, EOFError):  # the process that asks is gone
        pipe.send_bytes(b"ready")
        turn = 0
        while True:
            number = int(pipe.recv_bytes())
            try:
                message = _packed(work(items[number]), memory, slot * (turn % OUTSTANDING), slot)
            except Exception as error:  # raised in the process that asks
                known = error if isinstance(error, RequestError | OSError) else None
                if isinstance(error, MemoryError):  # some kinds do not survive pickling
                    known = MemoryError(str(error))
                message = pickle.dumps(("raised", (known, "".join(traceback.format_exception(error))), []))
            pipe.send_bytes(message)
            turn += 1
    os._exit(0)  # nothing of the parent's is to be cleaned up here


def _packed(result: Any, memory: mmap.mmap | None, start: int, slot: int) -> bytes:
    """A result as a message; its arrays lie in shared memory if they fit there."""
    buffers: list[pickle.PickleBuffer] = []
    packed = pickle.dumps(result, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    aligned = [-(-view.nbytes // 64) * 64 for view in views]
    if memory is None or sum(aligned) > slot:
        return pickle.dumps(("done", pickle.dumps(result, protocol=5), []))
    places = []
    for view, size in zip(views, aligned, strict=True):
        memory[start : start + view.nbytes] = view
        places.append((start, view.nbytes))
        start += size
    return pickle.dumps(("done", packed, places))
