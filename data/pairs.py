"""Several models on several datasets: each pair in turn, and a table of what was made, reused and failed."""

import itertools
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from data.asked import running_one
from data.errors import DiskError, RequestError

NAMED = r"[\w.:/-]+="  # how a value for one name begins


def several(*given: str | None) -> bool:
    """Whether a flag names more than one, such as ``dofa,dinov2``."""
    return any("," in names for names in given if names)


def names_in(given: str | None) -> list[str | None]:
    """Names of a comma-separated list, each once; a flag that is not given is one name, None."""
    if given is None:
        return [None]
    names = list(dict.fromkeys(name.strip() for name in given.split(",")))
    if "" in names:
        raise RequestError(f"'{given}': a name is missing next to a comma")
    return [*names]


def own_values(flag: str, names: str | None, given: dict[str, str | None]) -> dict[str | None, dict[str, str | None]]:
    """Values of other flags for each name in a list: ``small`` applies to all, ``dinov2=small,dofa=base`` by name.

    Args:
        flag: that of the list, ``--model`` or ``--dataset``.
        names: the list, comma-separated.
        given: values by field, such as ``variant``.

    Raises:
        RequestError: a value is for a name that is not in the list, or a name has two.
    """
    found = {name: dict(given) for name in names_in(names)}
    for field, value in given.items():
        if not value or not re.match(NAMED, value):
            continue
        shown, parts = f"--{field.replace('_', '-')} {value}", re.split(rf",(?={NAMED})", value)
        each = dict(part.split("=", 1) for part in parts)
        if others := [name for name in each if name not in found]:
            raise RequestError(f"{shown}: {others[0]} is not in {flag} {names}; name those, or give one value for all")
        if len(each) < len(parts):
            raise RequestError(f"{shown}: a name has two values; give one for each")
        for name, values in found.items():
            values[field] = each.get(str(name))
    return found


def run_pairs(
    program: str,
    model: str | None,
    dataset: str | None,
    work: Callable[[str | None, str | None], int | None],
    written: Callable[[], list[Path]],
) -> int:
    """Run one command for every pair of model and dataset; a pair that fails does not stop the others.

    Args:
        program: name of the command, for messages.
        model: comma-separated models.
        dataset: comma-separated datasets.
        work: makes one pair; returns None or an exit code.
        written: the finished files of all pairs, to see which are new.

    Returns:
        1 if any pair failed, else 0.

    Raises:
        RequestError: a list has an empty name.
        DiskError: the disk is full or fails, which would also stop the next pair.
    """
    pairs = [(one, other) for other, one in itertools.product(names_in(dataset), names_in(model))]
    rows, failed = [], 0
    for number, (one, other) in enumerate(pairs, 1):
        print(f"{program}: {number} of {len(pairs)}: {one or 'its model'} on {other or 'its dataset'}", file=sys.stderr)
        before, start, why = _times(written()), time.perf_counter(), ""
        try:
            with running_one({"--model": one, "--dataset": other}):
                code = work(one, other)
            why = f"exit code {code}" if code else ""
        except DiskError:
            raise
        except RequestError as error:
            why = " ".join(str(error).split())
            print(f"{program}: {one or ''} {other or ''}: {why}", file=sys.stderr)
        new = sum(before.get(file) != changed for file, changed in _times(written()).items())
        failed += bool(why)
        outcome = f"failed: {why}" if why else f"made, {new} files" if new else "reused"
        rows.append([one or "", other or "", outcome, f"{time.perf_counter() - start:.1f}"])

    from tabulate import tabulate  # deferred, as help pages import this module

    print(tabulate(rows, headers=["model", "dataset", "result", "seconds"], disable_numparse=True, maxcolwidths=90))
    return 1 if failed else 0


def _times(files: list[Path]) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in files}
