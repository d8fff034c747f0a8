"""Commands in forked processes, which start in a moment and may be killed or given faults: for tests of faults.

Run as a program this file is the process that forks itself for each command; `Forks` is how a test talks to it.
With the argument ``all`` it serves `probe` and `analyze` too.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from contextlib import contextmanager
from pathlib import Path

import shapes

# What a command does to files, as Python reports it, and what the tests' own stages report.
FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree")
STAGE = "featurize.stage"
# Calls on open files, which Python does not report by itself.
ON_HANDLES = ("fsync", "posix_fallocate", "pread", "preadv", "pwrite")
HANDLE = "faults.handle"
COMMANDS = {"featurize": "featurize.cli", "probe": "probes.cli", "analyze": "analysis.cli"}


class Forks:
    """Starts commands and waits for them.

    Args:
        server: this file, run as a program.
        scratch: an empty folder.
    """

    def __init__(self, server: subprocess.Popen, scratch: Path) -> None:
        self.server, self.scratch = server, scratch

    def start(
        self,
        words: list[str],
        *,
        die_at: int = 0,
        under: Path | str | None = None,
        fault: int = 0,
        cwd: Path | None = None,
        **surroundings: str,
    ) -> int:
        """Start a command; its process number.

        Args:
            words: of the command line, with or without ``featurize`` at the beginning.
            die_at: which boundary to die at, counted from 1; 0 for none.
            under: files below this folder count as boundaries.
            fault: error number of what happens there in place of death; calls on open files count too.
            cwd: working directory.
            surroundings: environment variables.
        """
        settings = {"folder": str(self.scratch), "die_at": die_at, "under": str(under), "surroundings": surroundings}
        return self._ask({"words": words, "fault": fault, "cwd": str(cwd) if cwd else None} | settings)

    def wait(self, pid: int) -> tuple[int, str]:
        """Exit code of a command, negative for a signal, and what it wrote."""
        return self._ask({"wait": pid}), (self.scratch / str(pid)).read_text()

    def run(self, words: list[str], **settings) -> tuple[int, str]:
        """Start a command and wait for it."""
        return self.wait(self.start(words, **settings))

    def _ask(self, request: dict) -> int:
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return int(self.server.stdout.readline())


@contextmanager
def forks(scratch: Path, *more: str):
    """A `Forks` while it is needed."""
    command = [sys.executable, __file__, *more]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}  # a pool of threads does not survive a fork
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings
    ) as server:
        yield Forks(server, scratch)
        server.stdin.close()


def serve() -> None:
    """Answer requests on standard input: to start a command with its process number, to wait for one with its code."""
    shapes.install()
    import data.packed  # noqa: F401 - imported once, for all
    import featurize.cli
    import featurize.engines.torchrun
    import featurize.models.stats  # noqa: F401

    if "all" in sys.argv:
        prepare_all(views="views" in sys.argv)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        if "wait" in request:
            _, status = os.waitpid(request["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        elif not (answer := os.fork()):
            answers.close()
            carry_out(**request)
        print(answer, file=answers, flush=True)


OF_PROBES = ("probes.fit", "probes.kinds.linear", "probes.prediction", "probes.sweep", "pyarrow.parquet", "skops.io")
OF_VIEWS = ("analysis.views.report", "matplotlib.pyplot", "seaborn", "sklearn.decomposition", "umap")


def prepare_all(*, views: bool) -> None:
    """Import what probes, and views, use; they import it once they run."""
    os.environ["MPLBACKEND"] = "Agg"
    for name in (*OF_PROBES, *(OF_VIEWS if views else ())):
        importlib.import_module(name)


def carry_out(
    words: list[str],
    folder: str,
    die_at: int,
    under: str,
    surroundings: dict[str, str],
    fault: int = 0,
    cwd: str | None = None,
) -> None:
    """Run a command in this process and end it; the last line written counts the boundaries."""
    os.environ.update(surroundings)
    written = os.open(Path(folder) / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(written, 1)
    os.dup2(written, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if cwd:
        os.chdir(cwd)
    count, lock, own = [0], threading.Lock(), os.getpid()
    counted = {HANDLE} if fault else {HANDLE, STAGE}

    def heard(event: str, about: tuple) -> None:
        if event in counted or (event in FILE_EVENTS and str(about[0]).startswith(under) and os.getpid() == own):
            with lock:
                count[0] += 1
                if count[0] != die_at:
                    return
            if not fault:
                os.kill(own, signal.SIGKILL)
            raise OSError(fault, os.strerror(fault))

    tell_of_stages()
    tell_of_handles()
    name, words = (words[0], words[1:]) if words[0] in COMMANDS else ("featurize", words)
    app = importlib.import_module(COMMANDS[name]).app
    sys.addaudithook(heard)

    from data import command

    try:
        code = command.run(app, words)
    except BaseException:
        traceback.print_exc()
        code = 1
    print("boundaries", count[0], flush=True)
    os._exit(code)


def tell_of_stages() -> None:
    """Report the end of reading, embedding and taking over each batch, and of writing each part."""
    from data import store
    from featurize import pipeline, reading

    def told(function):
        def telling(*args, **kwargs):
            result = function(*args, **kwargs)
            sys.audit(STAGE)
            return result

        return telling

    reading.collate = told(reading.collate)
    pipeline.Embedder.embed = told(pipeline.Embedder.embed)
    pipeline._Assembly.take = told(pipeline._Assembly.take)
    store.PartWriter.write_part = told(store.PartWriter.write_part)


def tell_of_handles() -> None:
    """Report calls on open files."""

    def told(function):
        def telling(*args):
            sys.audit(HANDLE)
            return function(*args)

        return telling

    for name in ON_HANDLES:
        setattr(os, name, told(getattr(os, name)))


if __name__ == "__main__":
    serve()
