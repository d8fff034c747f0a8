"""A lock file with a heartbeat, for disks that have no file locks (many network disks).

The file says who holds the lock. A holder of this machine, boot and process namespace is looked up in the process
table. Of any other, only the heartbeat is visible: the holder touches the file every `BEAT_S` seconds, and counts as
dead after `DEAD_AFTER_S` without.

The package filelock (4.2: `SoftFileLease`) is not used: a process killed between creating its lock and writing its
record leaves a lock that is never freed; a holder that died on another machine is replaced only by a process that has
watched its lock for the whole of `DEAD_AFTER_S`; and the lock of version 0.1, whose holder may live, is replaced after
two seconds.
"""

import errno
import glob
import json
import os
import socket
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from data.command import say
from data.errors import RequestError
from data.files import canonical_json, explained
from data.processes import UNKNOWN_START, names_of_dead, own_name, place, started

BEAT_S = 15.0
DEAD_AFTER_S = 300.0
POLL_S = 1.0  # between two looks at a lock that is waited for
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # of a disk without hard links, such as exFAT


class HeldError(RequestError):
    """Another process holds the lock."""


@dataclass(frozen=True)
class _Owner:
    """The content of a lock file."""

    host: str
    place: str
    pid: int
    started: str
    name: str = ""  # differs from lock to lock of one process

    @classmethod
    def read(cls, text: str) -> "_Owner | None":
        """None where the file is damaged, or of v0.1, which does not say in which container the process is."""
        try:
            owner = cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError):
            return None
        texts = (owner.host, owner.place, owner.started, owner.name)
        return owner if all(isinstance(one, str) for one in texts) and type(owner.pid) is int else None

    def is_dead(self, silent_s: float) -> bool:
        """Whether the process is gone, by the process table or, from elsewhere, by its silence."""
        if self.place != place():
            return silent_s > DEAD_AFTER_S
        now = started(self.pid)
        return now is None or (now != self.started and UNKNOWN_START not in (now, self.started))


class Lock:
    """Held from `acquire` to `release`, or inside a with block.

    Args:
        path: the lock file, ``<what is locked>.lock``.
        what: what is locked, for messages; None means the HDF5 file of that name.
        wait: wait for another holder; it is an error otherwise.
    """

    def __init__(self, path: Path, *, what: Path | None = None, wait: bool = False) -> None:
        self.path, self.what, self.wait = path, what or path.with_suffix(".h5"), wait
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock; the lock of a dead process is taken over.

        Raises:
            HeldError: another process holds it, and `wait` is off.
            RequestError: the file is not a lock, or it cannot be written.
        """
        reported = False
        while True:
            try:
                return self._try()
            except HeldError as error:
                if not self.wait:
                    raise
                if not reported:
                    say(f"waiting: {error}")
                reported = True
                time.sleep(POLL_S)

    def _try(self) -> None:
        mine = own_name(self.path, "try")
        owner = _Owner(socket.gethostname(), place(), os.getpid(), str(started(os.getpid())), mine.name)
        self.text = canonical_json(asdict(owner))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            mine.write_text(self.text)  # whole before it takes the lock's name
            for _ in range(3):
                if _link(mine, self.path):
                    self._clear(mine)
                    self._ended = threading.Event()
                    threading.Thread(target=self._beat, args=(self._ended,), daemon=True).start()
                    return
                self._remove_if_dead(mine)
        except OSError as error:
            raise explained(error, self.path) from error
        finally:
            with suppress(OSError):
                mine.unlink(missing_ok=True)
        raise HeldError(f"{self.path} is taken again and again: other processes are writing {self.what}")

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        self._ended.set()
        with suppress(OSError):  # gone, or the disk fails: the lock ends with this process's heartbeat
            if self.is_held():
                self.path.unlink()

    def is_held(self) -> bool:
        """Whether the lock is still ours; a process that was suspended for long may have lost it."""
        try:
            return self.path.read_text(errors="replace") == self.text
        except FileNotFoundError:
            return False

    def outlived(self, other: Path) -> bool:
        """Whether the process that holds another lock on the same disk is dead; False where there is no such lock."""
        try:
            owner = _Owner.read(other.read_text(errors="replace"))
            return owner is not None and owner.is_dead(_silent_s(other, self.path))
        except FileNotFoundError:
            return False

    def check(self) -> None:
        """Raise a RequestError unless the lock is still ours."""
        if not self.is_held():
            raise RequestError(
                f"{self.path} was taken over by another process, because this one sent no heartbeat for "
                f"{DEAD_AFTER_S:.0f} s; wait for that one"
            )

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT_S):
            with suppress(OSError):  # a disk that does not answer for a moment
                if not self.is_held():
                    return
                os.utime(self.path)

    def _clear(self, mine: Path) -> None:
        """Remove names that dead processes left while they were taking this lock."""
        dead = set(names_of_dead(self.path.parent, "try", of=self.path.name))
        for left in self.path.parent.glob(f"{glob.escape(self.path.name)}.try-*"):
            with suppress(OSError):
                if left in dead or (not left.name.endswith(place()) and _silent_s(left, mine) > DEAD_AFTER_S):
                    left.unlink(missing_ok=True)

    def _remove_if_dead(self, mine: Path) -> None:
        """Remove a dead process's lock."""
        try:
            text = self.path.read_text(errors="replace")
            silent_s = max(_silent_s(self.path, mine), 0.0)
        except FileNotFoundError:
            return
        owner = _Owner.read(text)
        if owner is None:
            raise RequestError(
                f"{self.path} is not readable as a lock of this version; nothing has touched it for {silent_s:.0f} s: "
                "delete it if no other process is writing there"
            )
        if not owner.is_dead(silent_s):
            if owner.place == place():
                raise HeldError(f"{self.what} is being written by process {owner.pid} on this machine; wait for it")
            raise HeldError(
                f"{self.what} is being written by process {owner.pid} on {owner.host}, last seen {silent_s:.0f} s ago; "
                f"wait for it. If it is dead, try again in {DEAD_AFTER_S - silent_s:.0f} s, or delete {self.path}"
            )
        stale = own_name(self.path, "try")
        with suppress(FileNotFoundError):  # another process that found it dead was faster
            self.path.rename(stale)
            if stale.read_text(errors="replace") != text:  # ... and has taken the lock since: put its lock back
                _link(stale, self.path)
            stale.unlink()


def left_beside(path: Path) -> bool:
    """Whether there is a lock, or what a process killed while taking it left; taking the lock clears both."""
    return any(path.parent.glob(f"{glob.escape(path.name)}*"))


def _link(source: Path, target: Path) -> bool:
    """Give a file a second name unless that is taken; makes a copy if the disk has no hard links."""
    try:
        os.link(source, target)  # the name appears with its content, or not at all
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        try:
            with target.open("x") as file:
                file.write(source.read_text())
        except FileExistsError:
            return False
    return True


def _silent_s(file: Path, mine: Path) -> float:
    """Seconds since a file was touched, by the clock of its disk, which may differ from that of this machine."""
    os.utime(mine)
    return mine.stat().st_mtime - file.stat().st_mtime
