"""A lock file that names host and process: needs no file locking, which fails on network disks."""

import errno
import json
import os
import secrets
import socket
from contextlib import suppress
from pathlib import Path
from typing import Self

from data.errors import RequestError
from data.files import canonical_json, explained


class Lock:
    """Held from `acquire` to `release`, or inside a with block.

    Args:
        path: the lock file, ``<what is locked>.lock``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock; a lock left by a dead process of this host is taken over.

        Raises:
            RequestError: a living process, or one of another host, holds it.
        """
        mine = self._own_name()
        owner = {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid()), "name": mine.name}
        self.text = canonical_json(owner)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            mine.write_text(self.text)
            for _ in range(3):
                if self._claim(mine):
                    self._clear()
                    return
                self._remove_if_dead()
        except OSError as error:
            raise explained(error, self.path) from error
        finally:
            mine.unlink(missing_ok=True)
        raise RequestError(f"{self.path} keeps coming back: another process is writing this split; wait for it")

    def release(self) -> None:
        """Give the lock back, if it is still ours."""
        with suppress(FileNotFoundError):
            if self.path.read_text() == self.text:
                self.path.unlink()

    def _claim(self, mine: Path) -> bool:
        try:
            os.link(mine, self.path)  # fails if it exists, and appears with its content or not at all
            return True
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
        with suppress(FileExistsError), self.path.open("x") as file:  # a disk without links, such as exFAT
            file.write(self.text)
            return True
        return False

    def _own_name(self) -> Path:
        """A name beside the lock that nobody else takes; it says whose it is."""
        return self.path.with_name(f"{self.path.name}.{os.getpid()}-{secrets.token_hex(8)}@{socket.gethostname()}")

    def _clear(self) -> None:
        """Remove such names that processes of this host were killed with."""
        for left in self.path.parent.glob(f"{self.path.name}.*-*@{socket.gethostname()}"):
            pid = int(left.name.removeprefix(f"{self.path.name}.").partition("-")[0])
            if _started(pid) is None:
                left.unlink(missing_ok=True)

    def _remove_if_dead(self) -> None:
        try:
            text = self.path.read_text()
            owner = json.loads(text)
        except FileNotFoundError:
            return
        except json.JSONDecodeError as error:
            raise RequestError(f"{self.path} is not readable as a lock; delete it if nothing is writing") from error
        here = owner["host"] == socket.gethostname()
        if not here or (_started(owner["pid"]) or None) == owner["started"]:
            raise RequestError(
                f"{self.path.with_suffix('.h5')} is being written by process {owner['pid']} on {owner['host']}; "
                f"wait for it, or delete {self.path} if that process is dead"
            )
        stale = self._own_name()
        with suppress(FileNotFoundError):  # another process that found it dead was faster
            self.path.rename(stale)
            if stale.read_text() != text:  # ... and has taken the lock since: put its lock back
                with suppress(FileExistsError):
                    os.link(stale, self.path)
            stale.unlink()


def _started(pid: int) -> str | None:
    """When a process started, which tells it from a later one with the same number; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except (FileNotFoundError, ProcessLookupError):
        pass
    if Path("/proc/self/stat").exists():
        return None
    try:  # no /proc (macOS): a living process is all that can be known
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "alive"
