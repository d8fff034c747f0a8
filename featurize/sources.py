"""Whether the images that features were made from are still the same."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from data import store
from data.bands import Band
from data.command import progress
from data.dataset import EODataset
from data.errors import RequestError
from data.files import short_hash, write_text
from data.paths import user_cache
from data.seen import PIXELS, STAMP, checksum, stamps

LOOKED_AT = 16  # images that are read again although their files have the same sizes and times


def check_unchanged(file: Path, dataset: EODataset, bands: Sequence[Band], *, same_times: bool) -> str | None:
    """Compare the images of a dataset with those that a feature file was made from.

    Images whose files changed in size or time since, or had no files of their own then, are read again, and so are a
    few others.

    Args:
        file: the feature file.
        dataset: the same split, as it is now.
        bands: those that the features are of.
        same_times: a digest in the identity shows that all files have the sizes and times they had.

    Returns:
        A note where files changed in size or time but not in their pixels; None where nothing changed or nothing is
        known, as of features of v0.1 and of images that have no files of their own.

    Raises:
        RequestError: an image has other pixels.
    """
    recorded = store.read_sources(file)
    if recorded is None or len(recorded) != len(dataset) or (now := stamps(dataset, bands)) is None:
        return None
    known, touched = recorded[:, PIXELS] != 0, _touched(recorded, now, same_times=same_times)
    moved, others = np.flatnonzero(touched), np.flatnonzero(known & ~touched)
    spread = others[np.unique(np.linspace(0, len(others) - 1, LOOKED_AT).round().astype(int))] if len(others) else []
    _compare(file, dataset, bands, recorded, spread)
    if not len(moved):
        return None
    same = [store.digest_array(recorded[known]), store.digest_array(now[known]), [band.name for band in bands]]
    found_before = user_cache() / "sources" / f"{short_hash(same, 32)}.txt"
    if not found_before.exists():
        _compare(file, dataset, bands, recorded, moved)
        _keep(found_before)
    many = f"{len(moved):,} images"
    return f"file sizes or times of {many} changed since the features were made, but the pixels are identical"


def _touched(recorded: np.ndarray, now: np.ndarray, *, same_times: bool) -> np.ndarray:
    """(N,) whether an image must be read to know that it is the same; one that nothing is known of cannot be compared.

    Args:
        recorded: (N, 2), see `data.seen`.
        now: (N,) stamps.
        same_times: files of images without a recorded stamp, as of packed ones, are known not to have changed.
    """
    unstamped = recorded[:, STAMP] == 0
    return (recorded[:, PIXELS] != 0) & np.where(unstamped, not same_times, recorded[:, STAMP] != now)


def _keep(mark: Path) -> None:
    with suppress(OSError, RequestError):  # a home that cannot be written: the images are read again the next time
        write_text(mark, "these files have the pixels that they had under their earlier times\n")


def check_rows(file: Path, dataset: EODataset, bands: Sequence[Band], rows: Sequence[int]) -> None:
    """Raise a RequestError where any of these images has other pixels than the features were made from."""
    recorded = store.read_sources(file)
    if recorded is not None and len(recorded) == len(dataset):
        _compare(file, dataset, bands, recorded, [row for row in rows if recorded[row, PIXELS]])


def _compare(
    file: Path, dataset: EODataset, bands: Sequence[Band], recorded: np.ndarray, rows: Sequence[int] | np.ndarray
) -> None:
    changed = []
    with progress(
        f"comparing {dataset.name} {dataset.split} with what its features were made from", len(rows), "images"
    ) as advance:
        for row in map(int, rows):
            if checksum(dataset.read(row, bands)) != int(recorded[row, PIXELS]):
                changed.append(dataset.ids[row])
            advance(1)
    if changed:
        raise RequestError(
            f"{len(changed):,} images changed since {file} was made, first '{changed[0]}'; use --overwrite to make its "
            "features anew, or restore the images"
        )


def changed_parts(
    writer: store.PartWriter, done: Sequence[int], dataset: EODataset, bands: Sequence[Band], *, same_times: bool
) -> list[int]:
    """Finished parts of an interrupted run that must be made again, as their images changed since.

    Args:
        writer: of the split.
        done: finished parts.
        dataset: the split, as it is now.
        bands: which are read.
        same_times: see `check_unchanged`. Where a digest of the times differs, parts that do not say what they were
            made from are made again.
    """
    if not done or (now := stamps(dataset, bands)) is None:
        return []
    recorded = {part: writer.sources(part) for part in done}
    touched = {
        part: _touched(found, now[slice(*writer.bounds(part))], same_times=same_times)
        for part, found in recorded.items()
    }
    unknown = dataset.digest_of_times and not same_times
    changed = []
    with progress(
        f"comparing {dataset.name} {dataset.split} with what its parts were made from",
        sum(int(rows.sum()) for rows in touched.values()),
        "images",
    ) as advance:
        for part, rows in touched.items():
            first, sums = writer.bounds(part)[0], recorded[part][:, PIXELS]
            if unknown and not sums.all():
                changed.append(part)
                continue
            for row in map(int, np.flatnonzero(rows)):
                if checksum(dataset.read(first + row, bands)) != int(sums[row]):
                    changed.append(part)
                    break
                advance(1)
    return changed
