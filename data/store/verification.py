"""Verification of feature files and of unfinished splits: findings, one line each."""

from pathlib import Path

from data.errors import RequestError
from data.files import explained
from data.store.contained import answer
from data.store.plan import SIZES, DamagedPlan, read_plan
from data.store.writer import PartWriter


def verify(file: Path) -> list[str]:
    """What is wrong with a feature file, one line per finding; empty when all is well.

    Checks checksums of every array, row counts, unique ids, labels in range, NaN and infinities, and features
    that have collapsed.
    """
    return verified(file)[0]


def verified(file: Path) -> tuple[list[str], str]:
    """As `verify`, with the effective rank of sound features, in words."""
    try:
        found = answer(file, "verify")
    except OSError as error:
        return [f"{file}: unreadable ({explained(error, file)})"], ""
    except RequestError as error:
        return [str(error)], ""
    if why := found.get("problem"):
        return [f"{file}: unreadable ({why})" if found.get("unreadable") else f"{file}: {why}"], ""
    if problems := [f"{file}: {problem}" for problem in found["problems"]]:
        return problems, ""
    return [], f"effective rank {found['effective_rank']:.1f} of {found['dim']:,}"


def verify_parts(folder: Path) -> tuple[str, list[str]]:
    """State of a split that is not finished, and what is wrong with its parts.

    Args:
        folder: of the parts, ``<split>.parts``.

    Returns:
        A line that says how many parts are done, and a line a finding.
    """
    try:
        plan = read_plan(folder)
    except DamagedPlan as error:
        return f"{folder}: unfinished", [f"{error}; its featurize command keeps the parts that its journal knows"]
    if plan is None:
        return f"{folder}: unfinished, nothing done", []
    writer = PartWriter(folder.with_suffix(".h5"), **{name: plan[name] for name in SIZES})
    count, missing = writer.parts_in_all, writer.missing()
    damaged = sorted(writer.recorded() & set(missing))
    state = (
        f"{folder}: unfinished, {count - len(missing)} of {count} parts done; its featurize command goes on from here"
    )
    return state, [f"{folder}: part {part} does not match the journal; it will be made again" for part in damaged]
