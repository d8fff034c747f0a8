"""Shared by the three commands: one-line errors, exit codes, signals, notes and progress."""

import io
import json
import os
import shlex
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.asked import running
from data.errors import DamageWarning, RequestError
from data.files import explained
from data.paths import check_local

if TYPE_CHECKING:
    from cyclopts import App

PLAIN_LINE_EVERY_S = 30
OURS = tuple(str(Path(__file__).parents[1] / name) for name in ("data", "featurize", "probes", "analysis"))
_live: list[Any] = []  # the display on the terminal, once per bar: a second display would overwrite it
SHELL_FLAGS = ("--quiet", "--json")  # of every command
shell_flags: list[str] = []  # those given, for processes that carry out the same command
_facts: list[dict[str, Any]] = []
_voice = {"quiet": False, "python": False}  # see `speaking`


def new_app(name: str, help_text: str) -> "App":
    """A cyclopts application with plain-text help and shell completion; `run` reports its errors."""
    from cyclopts import App, Parameter  # deferred: processes that check or read files only use `say` and `progress`

    app = App(
        name=name,
        help=help_text,
        help_epilogue="Every command also takes --quiet (print warnings and errors only) and --json (print one line of "
        "JSON in place of results).",
        help_format="plaintext",
        version=_version,
        version_flags=["--version"],
        suppress_keyboard_interrupt=False,  # `run` says how to resume
        default_parameter=Parameter(negative_iterable=(), show_env_var=False, validator=check_path),
    )
    app.register_install_completion_command("install-completion", help="Install completion for bash, zsh or fish.")
    return app


def _version() -> str:
    from importlib.metadata import version  # deferred: only --version needs it

    return version("frozen-earth")


def run(app: "App", arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 the work found something wrong, 2 a wrong request.

    Args:
        app: the application.
        arguments: words of the command line; None means the process's own.
    """
    words = sys.argv[1:] if arguments is None else arguments
    given, started = [word for word in words if word not in SHELL_FLAGS], time.monotonic()
    if len(given) == len(words):
        return _run(app, given)
    shell_flags[:], _facts[:] = [word for word in words if word in SHELL_FLAGS], []
    try:
        with speaking(quiet="--quiet" in words), redirect_stdout(io.StringIO()):
            code = _run(app, given)
        if "--json" in shell_flags and os.environ.get("RANK", "0") == "0":
            about = {"command": shlex.join([app.name[0], *given]), "exit_code": code}
            print(json.dumps(about | {"seconds": round(time.monotonic() - started, 2), "results": _facts}, default=str))
    finally:
        shell_flags.clear()
    return code


def record(**facts: Any) -> None:
    """Keep what a command made, for --json."""
    _facts.append(facts)


def _run(app: "App", given: Sequence[str]) -> int:
    from cyclopts import CycloptsError  # deferred, see `new_app`

    name = app.name[0]
    try:
        check_working_folder()
        with terminable(), running([name, *given]), damage_reported(name) as damage:
            result = app(given, exit_on_error=False, print_error=False, result_action="return_value")
        return result if isinstance(result, int) and result else int(bool(damage))
    except RequestError as error:
        message = " ".join(str(error).split())
    except CycloptsError as error:
        message = f"{' '.join(str(error).split())} See {name} --help"
    except KeyboardInterrupt as how:
        return stopped(name, how, "run the same command again to resume")
    except BrokenPipeError:  # the reader of the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python writes once more as it ends
        return 0
    except OSError as error:  # a full or failing disk, a path that is no folder, may not be written, does not exist...
        if not isinstance(known := explained(error, Path("a file")), RequestError):
            raise
        message = str(known)
    print(f"{name}: {message}", file=sys.stderr)
    record(error=message)
    return 2


def check_working_folder() -> None:
    """Raise a RequestError if the working directory no longer exists: libraries fail there with unclear errors."""
    try:
        os.getcwd()
    except OSError as error:
        raise RequestError("the working directory no longer exists; change to one that does (cd)") from error


def check_path(_: object, value: object) -> None:
    """Validator of every flag of every command: see `data.paths.check_local`."""
    for one in vars(value).values() if is_dataclass(value) else [value]:  # a group of flags comes as a whole
        if isinstance(one, Path):
            check_local(one)


@contextmanager
def damage_reported(name: str) -> Iterator[list[str]]:
    """Print each `DamageWarning` once, as a line; yields the list of them."""
    damage: list[str] = []
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if not issubclass(category, DamageWarning):
            usual(message, category, *place, **more)
        elif (line := " ".join(str(message).split())) not in damage:
            damage.append(line)
            print(f"{name}: warning: {line}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", DamageWarning)
        warnings.showwarning = show
        yield damage


def confirmed(question: str) -> bool:
    """Ask the user at the terminal.

    Raises:
        RequestError: there is no terminal.
    """
    try:
        return not shell_flags and input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError as error:
        raise RequestError("there is no terminal to answer on; give --yes") from error


class Terminated(KeyboardInterrupt):
    """Raised on SIGTERM, which clusters send before SIGKILL."""


@contextmanager
def terminable() -> Iterator[None]:
    """Handle SIGTERM like an interrupt: release locks, leave nothing half-written."""

    def end(*_: object) -> None:
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def leave_interrupts_to_the_parent() -> None:
    """For worker processes: Ctrl-C reaches the whole process group, and the parent ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def stopped(name: str, how: KeyboardInterrupt, message: str) -> int:
    """Report that a command was stopped; returns the exit code of the signal."""
    print(f"\n{name}: stopped; {message}", file=sys.stderr)
    return 128 + (signal.SIGTERM if isinstance(how, Terminated) else signal.SIGINT)


@contextmanager
def speaking(*, quiet: bool, python: bool = False) -> Iterator[None]:
    """How `say`, `note`, `warn` and `progress` behave in this block.

    Args:
        quiet: nothing is printed but warnings.
        python: a Python function was called, not a command: warnings are Python's, and progress bars are drawn
            even if standard error is not a terminal.
    """
    before = dict(_voice)
    _voice.update(quiet=quiet or _voice["quiet"], python=python or _voice["python"])
    try:
        yield
    finally:
        _voice.update(before)


def say(line: str, *, result: bool = False) -> None:
    """Print a line: a message to standard error, or a result to standard output."""
    if not _voice["quiet"]:
        print(line, file=sys.stdout if result else sys.stderr, flush=True)


def warn(program: str, text: str) -> None:
    """Print a warning of a command; of a Python function, issue it."""
    if _voice["python"]:
        warnings.warn(text, skip_file_prefixes=OURS)  # which shows the user's own line
    else:
        print(f"{program}: warning: {text}", file=sys.stderr, flush=True)


@cache  # each note once per process: a dataset is opened once per split
def note(text: str) -> None:
    """Print a note to standard error."""
    say(f"note: {text}")


@contextmanager
def progress(label: str, total: int, unit: str) -> Iterator[Callable[..., Any]]:
    """Show progress, rate and time left on standard error; yields ``advance(count, bottleneck=None)``.

    On a terminal a rich bar, below that of a step it is part of; elsewhere a plain line every 30 s. More units than
    expected raise the total.
    """
    if _voice["quiet"]:
        yield lambda count, bottleneck=None: None
        return
    if sys.stderr.isatty():
        with _bar(label, total, unit) as bar:
            yield bar
        return
    if _voice["python"]:  # a notebook
        from tqdm import tqdm  # deferred: only here

        with tqdm(total=total, desc=label, unit=f" {unit}", file=sys.stderr) as plain:
            yield lambda count, bottleneck=None: plain.update(count)
        return
    start = last = time.monotonic()
    done = 0

    def advance(count: int, bottleneck: str | None = None) -> None:
        nonlocal last, done
        done += count
        now = time.monotonic()
        if now - last >= PLAIN_LINE_EVERY_S and done:
            last = now
            rate = done / (now - start)
            left = max(total - done, 0) / rate
            slowest = f", bottleneck: {bottleneck}" if bottleneck else ""
            line = f"{label}: {done:,}/{max(total, done):,} {unit}, {rate:.1f} {unit}/s, {left:.0f} s left{slowest}"
            print(line, file=sys.stderr, flush=True)

    yield advance


@contextmanager
def _bar(label: str, total: int, unit: str) -> Iterator[Callable[..., None]]:
    from rich.console import Console  # deferred: rich costs start-up time that --help need not pay
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    rate = TextColumn("{task.fields[rate]:.1f} {task.fields[unit]}/s")
    slowest = TextColumn("{task.fields[slowest]}")
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn(), slowest
    )  # fmt: skip
    start, done = time.monotonic(), 0
    with nullcontext(_live[0]) if _live else Progress(*columns, console=Console(stderr=True)) as bar:
        _live.append(bar)
        task = bar.add_task(label, total=total, rate=0.0, unit=unit, slowest="")

        def advance(count: int, bottleneck: str | None = None) -> None:
            nonlocal done
            done += count
            slowest = f"bottleneck: {bottleneck}" if bottleneck else ""
            rate = done / max(time.monotonic() - start, 1e-6)
            bar.update(task, advance=count, total=max(total, done), rate=rate, slowest=slowest)

        try:
            yield advance
        finally:
            _live.pop()
            if _live:
                bar.remove_task(task)
