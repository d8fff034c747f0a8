"""Python functions that take the flags of a command: one list of names, types, defaults and descriptions for both."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any, get_type_hints

from cyclopts import App, CycloptsError

from data.asked import running, words_of
from data.command import speaking
from data.errors import RequestError
from data.files import explained


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What Python functions take besides the flags of their command.

    Args:
        progress: Show progress and notes, as the command does.
    """

    progress: bool = False


def taking[**P, R](app: App, flags: Callable[P, Any]) -> Callable[[Callable[[Any], R]], Callable[P, R]]:
    """Turn a function of a flags dataclass into one that takes each flag as a parameter.

    They are read as on the command line, so that values, errors and the recorded command are the same.

    Args:
        app: the command.
        flags: the dataclass of flags of the command, with `Shown` as a further base.
    """

    def decorate(function: Callable[[Any], R]) -> Callable[P, R]:
        signature, hints = inspect.signature(flags), get_type_hints(flags)

        @wraps(function)
        def call(*args: Any, **given: Any) -> R:
            given = signature.bind(*args, **given).arguments
            progress = given.pop("progress", False)
            words = words_of(given)
            with working([app.name[0], *words], progress=progress):
                return function(parsed(app, words)["flags"])

        returns = inspect.signature(function).return_annotation
        parameters = [one.replace(annotation=hints[one.name]) for one in signature.parameters.values()]
        call.__signature__ = inspect.Signature(parameters, return_annotation=returns)  # type: ignore[attr-defined]
        call.__annotations__ = hints | {"return": returns}
        call.__doc__ = _with_arguments(function.__doc__ or "", flags)
        return call  # type: ignore[return-value]

    return decorate


@contextmanager
def working(words: Sequence[str], *, progress: bool) -> Iterator[None]:
    """Do a command's work in this process: quietly unless asked, errors as exceptions with the same text.

    Args:
        words: the command, which is recorded with what it makes.
        progress: print what the command prints.

    Raises:
        RequestError: the request is wrong, the disk is full or a path is no folder.
    """
    try:
        with speaking(quiet=not progress, python=True), running(words):
            yield
    except OSError as error:
        if isinstance(known := explained(error, Path("a file")), RequestError):
            raise known from error
        raise


def parsed(app: App, words: Sequence[str]) -> dict[str, Any]:
    """What a command's function is called with.

    Raises:
        RequestError: an unknown flag, or a value of another type.
    """
    try:
        _, bound, _ = app.parse_args(list(words), exit_on_error=False, print_error=False)
    except CycloptsError as error:
        raise RequestError(" ".join(str(error).split())) from error
    return bound.arguments


def _with_arguments(docstring: str, flags: Any) -> str:
    """A function's docstring with the descriptions of its flags, from the dataclasses that declare them."""
    before, marker, after = inspect.cleandoc(docstring).partition("\n\nReturns:\n")
    described = [
        inspect.cleandoc(one.__doc__).partition("Args:\n")[2]
        for one in reversed(flags.__mro__)
        if "__dataclass_fields__" in vars(one)
    ]
    return "\n".join([before, "", "Args:", *(text.rstrip() for text in described if text)]) + marker + after
