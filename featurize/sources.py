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


def check_unchanged(file: Path, dataset: EODataset, bands: Sequence[Band]) -> str | None:
    """Compare the images of a dataset with those that a feature file was made from.

    Files with other sizes or times than then are read again, and so are a few others.

    Args:
        file: the feature file.
        dataset: the same split, as it is now.
        bands: those that the features are of.

    Returns:
        A note where files have other times but the same pixels; None where nothing changed or nothing is known, as of
        features of v0.1 and of images that have no files of their own.

    Raises:
        RequestError: an image has other pixels.
    """
    recorded = store.read_sources(file)
    if recorded is None or len(recorded) != len(dataset) or (now := stamps(dataset, bands)) is None:
        return None
    known = (recorded != 0).all(axis=1)
    moved = np.flatnonzero(known & (recorded[:, STAMP] != now))
    others = np.flatnonzero(known & (recorded[:, STAMP] == now))
    spread = others[np.unique(np.linspace(0, len(others) - 1, LOOKED_AT).round().astype(int))] if len(others) else []
    _compare(file, dataset, bands, recorded, spread)
    if not len(moved):
        return None
    same = [store.digest_array(recorded[known]), store.digest_array(now[known]), [band.name for band in bands]]
    found_before = user_cache() / "sources" / f"{short_hash(same, 32)}.txt"
    if not found_before.exists():
        _compare(file, dataset, bands, recorded, moved)
        _keep(found_before)
    return f"{len(moved):,} images have files of other sizes or times than then, and the same pixels"


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


def changed_parts(writer: store.PartWriter, dataset: EODataset, bands: Sequence[Band]) -> list[int]:
    """Finished parts of an interrupted run that were made from files of other sizes or times than there are now."""
    done = sorted(set(range(-(-writer.rows // writer.part_rows))) - set(writer.missing()))
    if not done or (now := stamps(dataset, bands)) is None:
        return []
    changed = []
    for part in done:
        start, stop = writer.bounds(part)
        recorded = writer.sources(part)
        known = recorded[:, STAMP] != 0
        if (recorded[known, STAMP] != now[start:stop][known]).any():
            changed.append(part)
    return changed
