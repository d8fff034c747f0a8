"""HDF5 files examined in a child process: damage can crash or hang the HDF5 library, which must not end the command.

One child serves a command; it is started at the first question. Its answers hold until the file changes.
"""

import atexit
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from data.errors import RequestError
from data.problems import Kind

PATIENCE_S = 60.0  # without a sign of life; any working disk opens a file, or reads 4 MB, in less
MEMORY = 8 * 2**30  # bytes of address space; blocks are a thousandth of that
ROOT = Path(__file__).resolve().parents[2]
COMMAND = "import sys; sys.path.insert(0, {root!r}); from data.store.checks import serve; serve({memory})"

Signature = tuple[int, int, int, int]


class Damaged(RequestError):
    """A file that is not what was written."""


def inspected(file: Path, wanted: str) -> dict[str, Any]:
    """What a file holds, after checking that it is safe to read (see `data.store.checks.inspect`).

    Raises:
        Damaged: it cannot be used; the message names the file and says why.
        RequestError: nothing was read for `PATIENCE_S`.
        OSError: from the operating system.
    """
    found = answer(file, wanted)
    if problem := found.get("problem"):
        raise Damaged(f"{file} is damaged or not a file of this kind: {problem['text']}")
    return found


def answer(file: Path, wanted: str) -> dict[str, Any]:
    """As `inspected`, but what is wrong is under ``problem``, a dict of ``kind`` and ``text``."""
    key = (str(file.absolute()), signature(file), wanted)
    if key not in _known:
        found = _child.ask(str(file.absolute()), wanted)
        if code := found.get("os_error"):
            raise OSError(*code, str(file))
        if len(_known) > 1000:
            _known.clear()
        _known[key] = found
    return _known[key]


def signature(file: Path) -> Signature:
    """Changes when the file does."""
    found = file.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


_known: dict[tuple[str, Signature, str], dict[str, Any]] = {}


class _Child:
    """The process, and questions to it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    def ask(self, file: str, wanted: str) -> dict[str, Any]:
        """Ask, and wait for the answer or the end of the child."""
        with self._lock:
            process = self._running()
            try:
                return self._ask(process, {"file": file, "wanted": wanted})
            except BaseException:  # an interrupt: an answer on its way must not be taken for the next one
                self.stop()
                raise

    def _ask(self, process: "subprocess.Popen[bytes]", question: dict[str, str]) -> dict[str, Any]:
        assert process.stdin is not None and process.stdout is not None
        with suppress(BrokenPipeError):  # reported below
            process.stdin.write(json.dumps(question).encode() + b"\n")
            process.stdin.flush()
        text = b""
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while True:
                if not selector.select(PATIENCE_S):
                    self.stop()
                    raise RequestError(  # perhaps the disk's fault: not remembered
                        f"{question['file']} cannot be read: no block was read for {PATIENCE_S:.0f} s; "
                        "check the disk and try again; if it is fine, the file is damaged: verify a copy "
                        "on another disk"
                    )
                read = os.read(process.stdout.fileno(), 2**16)
                if not read:
                    return {"problem": {"kind": Kind.UNREADABLE, "text": self._ended(process)}}
                text += read
                while b"\n" in text:
                    line, text = text.split(b"\n", 1)
                    if line != b".":
                        return json.loads(line)

    def _running(self) -> "subprocess.Popen[bytes]":
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            command = COMMAND.format(root=str(ROOT), memory=MEMORY)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            )
            self._owner = os.getpid()
        return self._process

    def _ended(self, process: "subprocess.Popen[bytes]") -> str:
        code = process.wait()
        self._process = None
        if code < 0:
            with suppress(ValueError):
                return f"HDF5 crashes with {signal.Signals(-code).name} while reading it"
        return f"HDF5 exits while reading it (exit code {code})"

    def stop(self) -> None:
        """End the process, if this process has started one."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe:
                    with suppress(OSError):
                        pipe.close()


def start() -> None:
    """Start the child before the first question: it imports h5py while this process imports something else."""
    with _child._lock:
        _child._running()


_child = _Child()
atexit.register(_child.stop)
