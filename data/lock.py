"""A lock file with a heartbeat, for disks that have no file locks (many network disks).

The file says who holds the lock: machine, boot, process namespace, process. A process of the same boot and namespace
is looked up in the process table. Of any other, in another container or on another machine, only its heartbeat is
visible: the holder touches the file every `BEAT_S` seconds, and is dead after `DEAD_AFTER_S` without. Libraries such
as filelock have neither: their soft lock compares host name and process number, which two containers may share.
"""

import errno
import glob
import json
import os
import secrets
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self

from data.errors import RequestError
from data.files import canonical_json, explained, short_hash

BEAT_S = 15.0
DEAD_AFTER_S = 300.0
UNKNOWN_START = "alive"  # of a process that runs, where the system does not say since when
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)  # of a disk without hard links, such as exFAT


class Lock:
    """Held from `acquire` to `release`, or inside a with block.

    Args:
        path: the lock file, ``<what is locked>.lock``.
        what: is locked, for messages; None means the HDF5 file of that name.
    """

    def __init__(self, path: Path, *, what: Path | None = None) -> None:
        self.path, self.what = path, what or path.with_suffix(".h5")
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock; the lock of a dead process is taken over.

        Raises:
            RequestError: another process holds it, the file is no lock, or it cannot be written.
        """
        mine = self._own_name()
        owner = {"host": socket.gethostname(), "place": place(), "pid": os.getpid(), "started": _started(os.getpid())}
        self.text = canonical_json(owner | {"name": mine.name})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            mine.write_text(self.text)
            for _ in range(3):
                if self._claim(mine):
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
        raise RequestError(f"{self.path} keeps coming back: another process is writing this split; wait for it")

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        self._ended.set()
        with suppress(OSError):  # gone, or a disk that fails: the lock dies with this process's heartbeat
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
            owner, silent_s = _owner(other.read_text(errors="replace")), _silent_s(other, self.path)
        except FileNotFoundError:
            return False
        if owner is None:
            return False
        here = owner["place"] == place()
        return not _is_same(_started(owner["pid"]), owner["started"]) if here else silent_s > DEAD_AFTER_S

    def check(self) -> None:
        """Raise a RequestError unless the lock is still ours."""
        if not self.is_held():
            raise RequestError(
                f"{self.path} was taken over by another process, as this one gave no sign of life for "
                f"{DEAD_AFTER_S:.0f} s; wait for that one"
            )

    def _beat(self, ended: threading.Event) -> None:
        while not ended.wait(BEAT_S):
            with suppress(OSError):  # a disk that does not answer for a moment
                if not self.is_held():
                    return
                os.utime(self.path)

    def _claim(self, mine: Path) -> bool:
        try:
            os.link(mine, self.path)  # fails if it exists, and appears with its content or not at all
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
        with suppress(FileExistsError), self.path.open("x") as file:
            file.write(self.text)
            return True
        return False

    def _own_name(self) -> Path:
        """A name beside the lock that nobody else takes; it says whose it is."""
        return self.path.with_name(f"{self.path.name}.{os.getpid()}-{secrets.token_hex(8)}@{place()}")

    def _clear(self, mine: Path) -> None:
        """Remove such names that dead processes left."""
        for left in self.path.parent.glob(f"{glob.escape(self.path.name)}.*-*@*"):
            pid, _, rest = left.name.removeprefix(f"{self.path.name}.").partition("-")
            with suppress(OSError):
                if left == mine or not pid.isdecimal():
                    continue
                here = rest.endswith(f"@{place()}")
                if _started(int(pid)) is None if here else _silent_s(left, mine) > DEAD_AFTER_S:
                    left.unlink(missing_ok=True)

    def _remove_if_dead(self, mine: Path) -> None:
        """Remove a dead process's lock.

        Raises:
            RequestError: its process lives or may live, or the file is no lock.
        """
        try:
            text = self.path.read_text(errors="replace")
            silent_s = _silent_s(self.path, mine)
        except FileNotFoundError:
            return
        if (owner := _owner(text)) is None:
            raise RequestError(
                f"{self.path} is not readable as a lock of this version; nothing has touched it for {silent_s:.0f} s: "
                "delete it if no other process is writing there"
            )
        here = owner["place"] == place()
        if here and _is_same(_started(owner["pid"]), owner["started"]):
            raise RequestError(f"{self.what} is being written by process {owner['pid']} on this machine; wait for it")
        if not here and silent_s <= DEAD_AFTER_S:
            raise RequestError(
                f"{self.what} is being written by process {owner['pid']} on {owner['host']}, last seen "
                f"{max(silent_s, 0):.0f} s ago; wait for it. If it is dead, try again in "
                f"{DEAD_AFTER_S - silent_s:.0f} s, or delete {self.path}"
            )
        stale = self._own_name()
        with suppress(FileNotFoundError):  # another process that found it dead was faster
            self.path.rename(stale)
            if stale.read_text(errors="replace") != text:  # ... and has taken the lock since: put its lock back
                self._put_back(stale)
            stale.unlink()

    def _put_back(self, stale: Path) -> None:
        try:
            os.link(stale, self.path)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            with suppress(FileExistsError), self.path.open("x") as file:
                file.write(stale.read_text())


def left_beside(path: Path) -> bool:
    """Whether a lock, or what a process that was stopped while taking it left, is there; to take it clears both."""
    return any(path.parent.glob(f"{glob.escape(path.name)}*"))


@cache
def place() -> str:
    """Where process numbers mean the same processes: this machine since it started, in this process namespace."""
    boot, namespace = "", ""
    with suppress(OSError):  # absent on macOS, where there is one namespace
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return short_hash([socket.gethostname(), boot, namespace], 16)


def is_alive(pid: int) -> bool:
    """Whether a process of this place runs."""
    return _started(pid) is not None


def _owner(text: str) -> Mapping[str, Any] | None:
    """What a lock says of its holder; None where it is damaged, or of v0.1, which cannot be told from another's."""
    try:
        owner = json.loads(text)
        fits = (
            isinstance(owner["place"], str)
            and isinstance(owner["host"], str)
            and isinstance(owner["started"], str)
            and type(owner["pid"]) is int
            and 0 < owner["pid"] < 2**31
        )
        return owner if fits else None
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _silent_s(file: Path, mine: Path) -> float:
    """Seconds since a file was touched, by the clock of its disk, which may be another than this machine's."""
    os.utime(mine)
    return mine.stat().st_mtime - file.stat().st_mtime


def _is_same(found: str | None, recorded: str) -> bool:
    """Whether a process that runs may be the one that was recorded."""
    return found is not None and (found == recorded or UNKNOWN_START in (found, recorded))


def _started(pid: int) -> str | None:
    """When a process started, which tells it from a later one with the same number; None if there is none.

    Where /proc is missing (macOS) or hides other users' processes (``hidepid``), only whether it runs is known.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # no such process, or no number of one
        return None
    except PermissionError:  # another user's
        pass
    return UNKNOWN_START
