"""Pixels without a measurement: counted, then refused or filled with the bands' means (`--nodata`)."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.bands import Band
from data.cached import array_for, keep_array
from data.command import progress, say
from data.dataset import EODataset, Statistic
from data.declared import FIX
from data.errors import RequestError


def record(bands: Sequence[Band], statistics: dict[str, Statistic], counts: dict[str, int]) -> dict[str, Any]:
    """Record of filled pixels in an identity: their number, and the values they were filled with."""
    return counts | {"filled_with": {band.name: statistics[band.name].mean for band in bands}}


class Count(NamedTuple):
    """Pixels without a measurement in the samples that may have some."""

    images: int = 0  # samples that have some
    values: int = 0  # how many there are
    total: int = 0  # values examined
    empty: int = 0  # samples with at least one band entirely nodata
    first: int = -1  # index of the first such sample


def settled(
    dataset: EODataset, how: str, rows: Sequence[int], index: tuple[Path, str] | None = None
) -> dict[str, Any] | None:
    """Count the pixels without a measurement in some samples, and refuse them or record how they are filled.

    Returns:
        See `record`; None if there are no such pixels.
    """
    kept = array_for(index[0], "count", digest=index[1]) if index else None
    if kept is not None and kept.shape == (len(Count._fields),) and kept.dtype == np.int64:
        count = Count(*kept.tolist())
    else:
        count = _counted(dataset, rows)
        if index:
            with suppress(OSError, RequestError):
                keep_array(index[0], "count", np.array(count, np.int64), digest=index[1])
    if not count.images:
        return None
    whole = f", {count.empty:,} of them with at least one band entirely nodata" if count.empty else ""
    summary = (
        f"{dataset.name} {dataset.split}: {count.images:,} of {len(dataset):,} images hold nodata{whole}, "
        f"{count.values:,} values ({count.values / count.total:.1%} of those in images that declare it), first "
        f"'{dataset.ids[count.first]}'"
    )
    if how == "refuse":
        raise RequestError(f"{summary}; {FIX}")
    say(f"{summary}; filled with the bands' means")
    return record(dataset.bands, dataset.statistics, {"images": count.images, "values": count.values})


def _counted(dataset: EODataset, rows: Sequence[int]) -> Count:
    count = Count()
    with progress("counting nodata", len(rows), "images") as advance:
        for row in rows:
            read = dataset.read_values(row, dataset.bands)
            count = count._replace(total=count.total + sum(one.pixels.size for one in read))
            invalid = [one.invalid for one in read if one.invalid is not None]
            if invalid:
                count = count._replace(
                    images=count.images + 1,
                    values=count.values + sum(int(one.sum()) for one in invalid),
                    empty=count.empty + any(one.all() for one in invalid),
                    first=count.first if count.images else row,
                )
            advance(1)
    return count
