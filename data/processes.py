"""Which processes are alive, and names of files that say which process they belong to.

A process number means a process only within one process namespace of one boot of one machine, its place: two
containers may share host name and process numbers.
"""

import glob
import hashlib
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

UNKNOWN_START = "alive"  # of a process that runs, where the system does not say since when


@cache
def place() -> str:
    """Digest of host name, boot and process namespace: where process numbers mean the same processes."""
    boot, namespace = "", ""
    with suppress(OSError):  # absent on macOS, where there is one namespace
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256("\n".join((socket.gethostname(), boot, namespace)).encode()).hexdigest()[:16]


def started(pid: int) -> str | None:
    """When a process of this place started, to distinguish it from later ones with the same number; None if absent.

    Where /proc is missing (macOS) or hides other users' processes (``hidepid``), only whether it runs is known.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        pass
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):  # no such process, or no process number
        return None
    except PermissionError:  # another user's
        pass
    return UNKNOWN_START


def own_name(path: Path, kind: str) -> Path:
    """A name beside `path` that no other process takes: ``NAME.KIND-PID-RANDOM@PLACE``."""
    return path.with_name(f"{path.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}@{place()}")


def names_of_dead(folder: Path, kind: str, *, of: str | None = None) -> Iterator[Path]:
    """Names given by `own_name` to processes of this place that are dead.

    Args:
        folder: where they are.
        kind: see `own_name`.
        of: name of the path that they are beside; None means any.
    """
    for left in sorted(folder.glob(f"{'*' if of is None else glob.escape(of)}.{kind}-*@{place()}")):
        pid = left.name.rpartition(f".{kind}-")[2].partition("-")[0]
        if pid.isdecimal() and started(int(pid)) is None:
            yield left
