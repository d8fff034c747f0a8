"""The one error that means 'the request was wrong' (commands print it as one line and exit with 2), and a warning."""

import difflib
from collections.abc import Iterable


class DamageWarning(UserWarning):
    """Something damaged was excluded from the result: commands print it and end with exit code 1."""


class RequestError(Exception):
    """A request that cannot be met: the message says what was wrong, what was expected and how to fix it."""


class DiskError(RequestError):
    """The disk is full or fails. Code that notes other errors and continues lets this one through."""


def unknown(noun: str, name: str, choices: Iterable[str]) -> RequestError:
    """Word the error for a name that is not among the choices, with the nearest one suggested."""
    choices = sorted(choices)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return RequestError(f"unknown {noun} '{name}'; choose from {', '.join(choices)}{hint}")
