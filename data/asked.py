"""The command that makes a result again, recorded with features and runs.

Runs and imported features record the command as it was given. Other features record the flags by name, paths made
absolute, so that one split of a set can be made again from any folder.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_current: list[list[str]] = []


@contextmanager
def running(words: Sequence[str]) -> Iterator[None]:
    """Let `current_command` return this command while it runs."""
    _current.append(list(words))
    try:
        yield
    finally:
        _current.pop()


@contextmanager
def running_one(values: dict[str, str | None]) -> Iterator[None]:
    """Let `current_command` return the command with one value of each flag that was given a list.

    Args:
        values: by flag, such as ``--model``; None leaves the flag as it is.
    """
    words = list(_current[-1]) if _current else []
    for flag, value in values.items():
        for at, word in enumerate(words):
            if value is not None and word == flag:
                words[at + 1 : at + 2] = [value]
            elif value is not None and word.startswith(f"{flag}="):
                words[at] = f"{flag}={value}"
    if not words:
        yield
        return
    with running(words):
        yield


def current_command() -> str | None:
    """The command that this process carries out, as it was given; None where its Python function was called."""
    return shlex.join(_current[-1]) if _current else None


def current_words() -> list[str]:
    """The flags of the command that this process carries out."""
    return _current[-1][1:] if _current else []


def recorded_flag(environment: Mapping[str, Any], group: str, name: str) -> Any:
    """A flag that featurize recorded with features; None where it was not given, or none are recorded."""
    asked = environment.get("asked")
    return asked.get(group, {}).get(name) if isinstance(asked, dict) else None


def recorded_command(asked: Any, identity: dict[str, Any], folder: Path, split: str) -> str | None:
    """A whole featurize command, to be given as it is; None where no flags were recorded.

    Args:
        asked: what `featurize.job.Job.asked` recorded, ``model`` and ``data`` flags by name.
        identity: of the features, for the precision that was chosen.
        folder: of the features, ``out/features/<dataset>/<encoder>``.
        split: train, val, test or all.
    """
    if not isinstance(asked, dict) or not all(isinstance(asked.get(group), dict) for group in ("model", "data")):
        return None
    from data.flags import ANY  # deferred: processes that check or read files need no flags

    first = {"model": asked["model"].get("model")}  # then the dataset, as one would write it
    flags = first | asked["data"] | asked["model"] | {"split": split, "precision": identity["encoder"].get("precision")}
    if len(folder.parents) > 2:
        flags["out"] = str(folder.parents[2])
    set_ = {flag: value for flag, value in flags.items() if value is not False and value != getattr(ANY, flag, None)}
    return shlex.join(["featurize", *words_of(set_)])


def words_of(given: Mapping[str, Any]) -> list[str]:
    """Flags as on a command line: lists are joined by commas, None is not given."""
    words = []
    for name, value in given.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif value is not None:
            several = isinstance(value, Sequence) and not isinstance(value, str)
            text = ",".join(map(str, value)) if several else str(value)
            words += [f"--{flag}={text}"] if text.startswith("-") else [f"--{flag}", text]
    return words
