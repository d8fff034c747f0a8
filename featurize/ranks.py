"""Several processes of one run: files say what each makes and whether the others are alive.

All processes see the same output folder. In ``features/.run-<token>`` each of them holds a lock with a heartbeat, the
first writes one numbered assignment per split, and a process that cannot continue leaves the reason. Each process makes
``parts[rank::count]`` of an assignment; the journals of the parts folder show what is done.
"""

import json
import shutil
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from data import paths, store
from data.errors import RequestError
from data.files import short_hash, write_text
from data.lock import Lock
from featurize.engines.local import make_task
from featurize.job import Job
from featurize.pipeline import embed_parts
from featurize.runtime import Runtime
from featurize.stages import Meter
from featurize.task import Task

START_S = 600.0  # how long processes wait for each other at the start
POLL_S = 0.1
CHECK_S = 5.0  # how often a process looks whether the others are alive


@dataclass(frozen=True)
class Assignment:
    """What all processes make together of one split; JSON-able."""

    target: tuple[str, int]  # split and view
    file: str  # the feature file
    part_rows: int  # images per part
    plan: str | None  # digest of the plan that they are made under
    parts: list[int]  # still to be made
    identity: dict[str, Any]  # of the features, which must be the same in all processes

    @classmethod
    def of(cls, task: Task, writer: store.PartWriter, parts: Sequence[int]) -> Self:
        """The assignment to make these parts."""
        target = (task.dataset.split, (task.dataset.altered or {}).get("view", 0))
        return cls(target, str(writer.file), writer.part_rows, writer.plan_sha256, list(parts), task.identity)

    def make(self, job: Job, runtime: Runtime, name: str, parts: Sequence[int], meter: Meter) -> None:
        """Make some of the parts in this process."""
        task = make_task(job, runtime, *self.target)
        if fields := store.differing_fields(self.identity, task.identity):
            raise RequestError(
                f"{name} on {socket.gethostname()} differs from the first process in {', '.join(fields)}; give all "
                "processes the same weights, data and hardware, or set --precision"
            )
        settings = {"part_rows": self.part_rows, "writer": name, "plan": self.plan}
        embed_parts(task, store.PartWriter(Path(self.file), **task.shape, **settings), parts, meter)


class DidNotStartError(RequestError):
    """A process of the run was waited for in vain."""


class RunEndedError(Exception):
    """The first process has ended: there is nothing left to do."""


class Ranks:
    """One process among those of a run; use as a context manager.

    Args:
        out: output folder of the run.
        token: the same in all processes of a run, and in no other run at the same time.
        rank: number of this process; 0 plans the parts and joins them.
        world: number of processes.

    Raises:
        RequestError: on entering and later, another process failed, died or did not start.
    """

    def __init__(self, out: Path, token: str, rank: int, world: int) -> None:
        self.folder, self.rank, self.world, self.name = paths.ranks_folder(out, token), rank, world, f"rank-{rank}"
        self.lock, self.first = Lock(self._lock_file(rank), what=self._lock_file(rank)), self._lock_file(0)
        self.session = self.folder  # of the first process: what an earlier one of this token left does not count
        self.started, self.checked = time.monotonic(), 0.0

    def __enter__(self) -> Self:
        self.lock.acquire()
        try:
            if self.rank == 0:
                self._remove_dead()
                for folder in self.folder.parent.glob(".run-*"):  # of runs whose processes were all killed
                    locks = list(folder.glob("rank-*.lock"))
                    if folder != self.folder and locks and all(map(self.lock.outlived, locks)):
                        shutil.rmtree(folder, ignore_errors=True)
                self.session = self._session_of(self.lock.text)
                self.session.mkdir()
            else:
                self._find_session()
                write_text(self.session / f"{self.name}.here", "")
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        with suppress(OSError, RequestError):
            if isinstance(error, RequestError):
                write_text(self.session / f"{self.name}.failed", str(error))
            elif isinstance(error, KeyboardInterrupt):
                write_text(self.session / f"{self.name}.stopped", "")
            elif error is not None and not isinstance(error, RunEndedError):
                text = f"{self.name} on {socket.gethostname()} failed: {error!r}; finished parts are kept"
                write_text(self.session / f"{self.name}.failed", text)
        self._leave()

    def work(self, task: Task, writer: store.PartWriter, parts: Sequence[int], meter: Meter) -> None:
        """Make parts together with the other processes; see `featurize.pipeline.embed_parts`. For the first process.

        Raises:
            RequestError: a process failed, died or did not start.
            KeyboardInterrupt: a process was interrupted.
        """
        number = len(list(self.session.glob("*.json")))
        write_text(self.session / f"{number}.json", json.dumps(asdict(Assignment.of(task, writer, parts))))

        def shown(images: int, bottleneck: str | None) -> None:
            self.check()
            meter.shown(images * self.world, bottleneck)  # the other processes are assumed to keep pace

        embed_parts(task, writer, parts[:: self.world], Meter(shown, meter.seconds))
        while missing := set(parts) - writer.recorded():  # by the journals
            self.check()
            if any(self.session.glob("*.stopped")):
                raise KeyboardInterrupt
            self._check_start(rank for rank in range(1, self.world) if missing & {*parts[rank :: self.world]})
            time.sleep(POLL_S)

    def wait_for_start(self) -> None:
        """Wait for processes that start so late that all is done: they must not look for this one in vain."""
        while not self._check_start(range(1, self.world)):
            self.check()
            time.sleep(POLL_S)

    def follow(self, job: Job, runtime: Runtime) -> None:
        """Make this process's share of every assignment. For all processes but the first.

        Raises:
            RunEndedError: the first process has ended.
        """
        for number in count():
            while not (file := self.session / f"{number}.json").exists():
                self.check()
                time.sleep(POLL_S)
            assignment = Assignment(**json.loads(file.read_text(encoding="utf-8")))
            share = assignment.parts[self.rank :: self.world]
            assignment.make(job, runtime, self.name, share, Meter(lambda *_: self.check()))

    def check(self) -> None:
        """Raise where this run cannot go on.

        Raises:
            RequestError: a process failed or died.
            RunEndedError: the first process has ended.
        """
        if self.rank and self._session_of(_text(self.first)) != self.session:
            raise RunEndedError
        if time.monotonic() - self.checked < CHECK_S:
            return
        self.checked = time.monotonic()
        self.lock.check()
        for mark in self.session.glob("*.failed"):
            raise RequestError(mark.read_text(encoding="utf-8"))
        for rank in range(self.world):
            if rank != self.rank and self.lock.outlived(self._lock_file(rank)):
                raise RequestError(f"the process of rank {rank} died; finished parts are kept: run the command again")

    def _check_start(self, ranks: Iterable[int]) -> bool:
        """Whether these ranks have started; a RequestError once there was time enough for it."""
        late = [rank for rank in ranks if not (self.session / f"rank-{rank}.here").exists()]
        if late and time.monotonic() - self.started > START_S:
            raise _did_not_start(late[0])
        return not late

    def _find_session(self) -> None:
        """Wait for the first process."""
        while not (text := _text(self.first)) or self.lock.outlived(self.first) or not self._session_of(text).is_dir():
            if time.monotonic() - self.started > START_S:
                raise _did_not_start(0)
            time.sleep(POLL_S)
        self.session = self._session_of(text)

    def _session_of(self, text: str) -> Path:
        """Folder of the run whose first process holds a lock of this text."""
        return self.folder / short_hash(text)

    def _lock_file(self, rank: int) -> Path:
        return self.folder / f"rank-{rank}.lock"

    def _leave(self) -> None:
        with suppress(OSError):
            self._remove_dead()
        self.lock.release()
        if not any(self.folder.glob("*.lock")):  # the last one out
            shutil.rmtree(self.folder, ignore_errors=True)

    def _remove_dead(self) -> None:
        """Remove locks of dead processes, which would keep the folder, or look like deaths in the next run."""
        for lock in self.folder.glob("rank-*.lock"):
            if lock != self.lock.path and self.lock.outlived(lock):
                lock.unlink(missing_ok=True)


def _text(file: Path) -> str:
    """A file's text; empty where there is none."""
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def _did_not_start(rank: int) -> DidNotStartError:
    return DidNotStartError(
        f"the process of rank {rank} did not start within {START_S:.0f} s; finished parts are kept: start all ranks"
    )
