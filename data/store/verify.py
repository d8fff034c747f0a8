"""Verification of feature files and of unfinished splits, and what is sound of a damaged file kept for its repair."""

from dataclasses import dataclass
from pathlib import Path

from data import paths
from data.errors import RequestError
from data.files import explained
from data.problems import Kind, Problem
from data.store.child import Damaged, answer, inspected
from data.store.plan import PLAN_FILE, SIZES, DamagedPlan, read_plan
from data.store.reader import open_hdf5, read_identity
from data.store.writer import FeatureWriter, PartWriter, tidy


@dataclass(frozen=True)
class VerifiedFeatures:
    """Result of `verify_features`."""

    file: Path  # the feature file
    problems: tuple[Problem, ...]  # what is wrong; empty for a sound file
    effective_rank: float | None = None  # of the features of a sound file, see `data.store.collapse`
    dim: int | None = None  # D of a sound file


def verify_features(file: Path) -> VerifiedFeatures:
    """Find what is wrong with a feature file.

    Checks the checksum of every array, row counts, unique ids, labels in range, NaN and infinities, and whether the
    features have collapsed.
    """
    try:
        found = answer(file, "verify")
    except (OSError, RequestError) as error:  # of the disk, or no answer in time
        why = explained(error, file) if isinstance(error, OSError) else error
        return VerifiedFeatures(file, (Problem(Kind.UNREADABLE, file, str(why)),))
    problems = [found["problem"]] if "problem" in found else found["problems"]
    problems = tuple(Problem(Kind(one["kind"]), file, f"{file}: {one['text']}") for one in problems)
    return VerifiedFeatures(file, problems, found.get("effective_rank"), found.get("dim"))


@dataclass(frozen=True)
class UnfinishedSplit:
    """Result of `verify_parts`."""

    folder: Path  # of the parts
    problems: tuple[Problem, ...] = ()  # damaged parts, or a damaged plan
    done: int | None = None  # parts that are finished and sound; None where the plan is damaged or nothing is done
    parts: int | None = None  # parts in all; None likewise

    def __str__(self) -> str:
        if self.done is None:
            return f"{self.folder}: unfinished{'' if self.problems else ', nothing done'}"
        return f"{self.folder}: unfinished, {self.done} of {self.parts} parts done; run its featurize command to resume"


def verify_parts(folder: Path) -> UnfinishedSplit:
    """Find damaged parts of a split that is not finished."""
    try:
        plan = read_plan(folder)
    except DamagedPlan as error:
        text = f"{error}; its featurize command keeps the parts that are in the journal"
        return UnfinishedSplit(folder, (Problem(Kind.DAMAGED, folder / PLAN_FILE, text),))
    if plan is None:
        return UnfinishedSplit(folder)
    writer = PartWriter(folder.with_suffix(".h5"), **{name: plan[name] for name in SIZES})
    count, missing = writer.parts_in_all, writer.missing()
    damaged = sorted(writer.recorded() & set(missing))
    text = f"{folder}: part {{}} does not match the journal; it will be recomputed"
    problems = tuple(Problem(Kind.DAMAGED, folder, text.format(part)) for part in damaged)
    return UnfinishedSplit(folder, problems, count - len(missing), count)


def salvage(file: Path) -> tuple[int, int]:
    """Keep the sound rows of a damaged feature file as finished parts, so that featurize makes only the rest again.

    HDF5's checksum of each chunk shows which rows are sound; the damaged file stays until it is replaced. Parts of the
    same identity that are finished already, such as those of a repair that was killed, are kept.

    Returns:
        Rows kept, and rows in all.

    Raises:
        RequestError: the file does not even say what it holds, or another process is writing it.
    """
    try:
        found = inspected(file, "sound")
    except Damaged as error:
        again = "run its featurize command again with --overwrite"
        raise Damaged(f"{error}; it is too damaged to repair: {again}") from error
    rows, sound = found["rows"], {tuple(bounds) for bounds in found["sound"]}
    size = {"rows": rows, "dim": found["dim"], "dtype": found["dtype"], "part_rows": found["step"]}
    with FeatureWriter(file, found["identity"], **size, overwrite=True) as writer, open_hdf5(file) as source:
        known = found["sources"] and "sources" in source  # a damaged record of the images counts as none
        for part in writer.missing():
            start, stop = writer.bounds(part)
            if any(first <= start and stop <= last for first, last in sound):
                made_from = source["sources"][start:stop] if known else None
                writer.write_part(part, source["features"][start:stop], made_from)  # read by the child without harm
        return rows - sum(stop - start for start, stop in map(writer.bounds, writer.missing())), rows


def clear_finished(file: Path) -> None:
    """Remove the lock and the parts that a repair left beside a sound file, where it was killed after publishing it.

    Parts of another identity stay: they belong to a featurize command that is to replace the file.
    """
    try:
        plan = read_plan(paths.parts_folder(file))
        if plan is None or plan["identity"] == read_identity(file)[0]:
            tidy(file)
    except DamagedPlan:
        return
