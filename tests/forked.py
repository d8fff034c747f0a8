"""Featurize commands in forked processes, which start in a moment and may be killed at any point: for tests of faults.

Run as a program this file is the process that forks itself for each command; `Forks` is how a test talks to it.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

# What a command does to files, as Python reports it, and what the tests' own stages report.
FILE_EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.rmtree")
STAGE = "featurize.stage"


class Forks:
    """Starts commands and waits for them.

    Args:
        server: this file, run as a program.
        scratch: an empty folder.
    """

    def __init__(self, server: subprocess.Popen, scratch: Path) -> None:
        self.server, self.scratch = server, scratch

    def start(self, words: list[str], *, die_at: int = 0, under: Path | None = None, **surroundings: str) -> int:
        """Start a command; its process number.

        Args:
            words: of the command line.
            die_at: which boundary to die at, counted from 1; 0 for none.
            under: files below this folder count as boundaries.
            surroundings: environment variables.
        """
        settings = {"folder": str(self.scratch), "die_at": die_at, "under": str(under), "surroundings": surroundings}
        return self._ask({"words": words} | settings)

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
def forks(scratch: Path):
    """A `Forks` while it is needed."""
    command = [sys.executable, __file__]
    surroundings = os.environ | {"OMP_NUM_THREADS": "1"}  # a pool of threads does not survive a fork
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings
    ) as server:
        yield Forks(server, scratch)
        server.stdin.close()


def serve() -> None:
    """Answer requests on standard input: to start a command with its process number, to wait for one with its code."""
    import data.packed  # noqa: F401 - imported once, for all
    import featurize.cli
    import featurize.engines.torchrun
    import featurize.models.stats  # noqa: F401

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


def carry_out(words: list[str], folder: str, die_at: int, under: str, surroundings: dict[str, str]) -> None:
    """Run a command in this process and end it; the last line written counts the boundaries."""
    os.environ.update(surroundings)
    written = os.open(Path(folder) / str(os.getpid()), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(written, 1)
    os.dup2(written, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    count, lock = [0], threading.Lock()

    def heard(event: str, about: tuple) -> None:
        if event == STAGE or (event in FILE_EVENTS and str(about[0]).startswith(under)):
            with lock:
                count[0] += 1
                if count[0] == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

    tell_of_stages()
    sys.addaudithook(heard)

    from data import command
    from featurize.cli import app

    code = command.run(app, words)
    print("boundaries", count[0], flush=True)
    os._exit(code)


def tell_of_stages() -> None:
    """Report the end of reading, embedding and taking over each batch, and of writing each part."""
    from data import store
    from featurize import pipeline

    def told(function):
        def telling(*args, **kwargs):
            result = function(*args, **kwargs)
            sys.audit(STAGE)
            return result

        return telling

    pipeline.collate = told(pipeline.collate)
    pipeline.Embedder.embed = told(pipeline.Embedder.embed)
    pipeline._Assembly.take = told(pipeline._Assembly.take)
    store.PartWriter.write_part = told(store.PartWriter.write_part)


if __name__ == "__main__":
    serve()
