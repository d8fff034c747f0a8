"""Whether the images that features were made from are still the same."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from data import store
from data.command import progress
from data.errors import RequestError
from data.files import short_hash, write_text
from data.paths import user_cache
from data.seen import PIXELS, STAMP, checksum, stamps
from featurize.task import Task

SAMPLED = 16  # images that are read again although their files have the same sizes and times


def check_unchanged(task: Task, file: Path, *, same_times: bool) -> str | None:
    """Compare the images of a dataset with those that a feature file was made from.

    Images whose files changed in size or time since, or that had no files of their own then, are read again, and so
    are a few others.

    Args:
        task: the same split, as it is now.
        file: the feature file.
        same_times: a digest in the identity shows that all files have the sizes and times they had.

    Returns:
        A note if files changed in size or time but not in their pixels; None if nothing changed or nothing is known,
        as for features of v0.1 and for images without files of their own.

    Raises:
        RequestError: an image has other pixels.
    """
    recorded = store.read_sources(file)
    if recorded is None or len(recorded) != len(task.dataset) or (now := stamps(task.dataset, task.bands)) is None:
        return None
    known, touched = recorded[:, PIXELS] != 0, _touched(recorded, now, same_times=same_times)
    moved, others = np.flatnonzero(touched), np.flatnonzero(known & ~touched)
    sampled = np.unique(np.linspace(0, len(others) - 1, SAMPLED).round().astype(int)) if len(others) else []
    _compare(task, file, recorded, others[sampled])
    if not len(moved):
        return None
    same = [store.digest_array(recorded[known]), store.digest_array(now[known]), [band.name for band in task.bands]]
    found_before = user_cache() / "sources" / f"{short_hash(same, 32)}.txt"
    if not found_before.exists():
        _compare(task, file, recorded, moved)
        with suppress(OSError, RequestError):  # a home that is not writable: the images are read again next time
            write_text(found_before, "the pixels of these files are the same as before their times changed\n")
    many = f"{len(moved):,} images"
    return f"file sizes or times of {many} changed since the features were made, but the pixels are identical"


def check_rows(task: Task, file: Path, rows: Sequence[int]) -> None:
    """Raise a RequestError if any of these images has other pixels than the features were made from."""
    recorded = store.read_sources(file)
    if recorded is not None and len(recorded) == len(task.dataset):
        _compare(task, file, recorded, [row for row in rows if recorded[row, PIXELS]])


def changed_parts(task: Task, writer: store.PartWriter, done: Sequence[int], *, same_times: bool) -> list[int]:
    """Finished parts of an interrupted run that must be made again, as their images changed since.

    Args:
        task: the split, as it is now.
        writer: of the split.
        done: finished parts.
        same_times: see `check_unchanged`. If a digest of the times differs, parts that do not record what they were
            made from are made again.
    """
    if not done or (now := stamps(task.dataset, task.bands)) is None:
        return []
    recorded = {part: writer.sources(part) for part in done}
    touched = {
        part: np.flatnonzero(_touched(found, now[slice(*writer.bounds(part))], same_times=same_times))
        for part, found in recorded.items()
    }
    unknown = task.dataset.digest_of_times and not same_times
    changed = []
    with progress(
        f"comparing images of finished parts, {task.dataset.split}", sum(map(len, touched.values())), "images"
    ) as advance:
        for part, rows in touched.items():
            first, sums = writer.bounds(part)[0], recorded[part][:, PIXELS]
            if unknown and not sums.all():
                changed.append(part)
                continue
            for row in map(int, rows):
                if checksum(task.dataset.read(first + row, task.bands)) != int(sums[row]):
                    changed.append(part)
                    break
                advance(1)
    return changed


def _touched(recorded: np.ndarray, now: np.ndarray, *, same_times: bool) -> np.ndarray:
    """(N,) whether an image must be read to check that it is unchanged; an unknown image cannot be compared.

    Args:
        recorded: (N, 2), see `data.seen`.
        now: (N,) stamps.
        same_times: files of images without a recorded stamp, as of packed ones, are known not to have changed.
    """
    unstamped = recorded[:, STAMP] == 0
    return (recorded[:, PIXELS] != 0) & np.where(unstamped, not same_times, recorded[:, STAMP] != now)


def _compare(task: Task, file: Path, recorded: np.ndarray, rows: Sequence[int] | np.ndarray) -> None:
    dataset, changed = task.dataset, []
    with progress(
        f"comparing {dataset.name} {dataset.split} with its features' images", len(rows), "images"
    ) as advance:
        for row in map(int, rows):
            if checksum(dataset.read(row, task.bands)) != int(recorded[row, PIXELS]):
                changed.append(dataset.ids[row])
            advance(1)
    if changed:
        raise RequestError(
            f"{len(changed):,} images changed since {file} was made, first '{changed[0]}'; use --overwrite to "
            "recompute its features, or restore the images"
        )
