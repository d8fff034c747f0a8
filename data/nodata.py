"""Pixels of a dataset that are no measurements: counted, then refused or filled with the bands' means (`--nodata`)."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from data.bands import Band
from data.command import progress
from data.dataset import EODataset, Statistic
from data.declared import Values, filled
from data.errors import RequestError

MEND = "fill them with the bands' means by --nodata fill, take them as stored by --nodata keep, or leave them out"


def record(bands: Sequence[Band], statistics: dict[str, Statistic], counts: dict[str, int]) -> dict[str, Any]:
    """What an identity says of filled pixels: how many there were, and the values they got."""
    return counts | {"filled_with": {band.name: statistics[band.name].mean for band in bands}}


def settled(dataset: EODataset, how: str, rows: Sequence[int]) -> dict[str, Any] | None:
    """Count the pixels without a measurement in some samples and refuse them, or say how they are filled.

    Args:
        dataset: one split.
        how: ``refuse`` or ``fill``.
        rows: the samples that may have such pixels.

    Returns:
        See `record`; None where there are no such pixels.

    Raises:
        RequestError: there are, and `how` is ``refuse``.
    """
    found, values, total, empty = [], 0, 0, 0
    with progress("looking for nodata", len(rows), "images") as advance:
        for row in rows:
            read = dataset.read_values(row, dataset.bands)
            total += sum(one.pixels.size for one in read)
            invalid = [one.invalid for one in read if one.invalid is not None]
            if invalid:
                found.append(dataset.ids[row])
                values += sum(int(one.sum()) for one in invalid)
                empty += any(one.all() for one in invalid)
            advance(1)
    if not found:
        return None
    whole = f", {empty:,} of them with at least one band entirely nodata" if empty else ""
    told = (
        f"{dataset.name} {dataset.split}: {len(found):,} of {len(dataset):,} images hold nodata{whole}, {values:,} "
        f"values ({values / total:.1%} of those in images that declare it), first '{found[0]}'"
    )
    if how == "refuse":
        raise RequestError(f"{told}; {MEND}")
    print(f"{told}; filled with the bands' means", file=sys.stderr)
    return record(dataset.bands, dataset.statistics, {"images": len(found), "values": values})


def pixels_of(
    values: Sequence[Values], bands: Sequence[Band], how: str, statistics: dict[str, Statistic], name: str
) -> list[np.ndarray]:
    """Pixels of one sample by `how`: ``refuse``, ``fill`` or ``keep``.

    Raises:
        RequestError: pixels without a measurement that are refused.
    """
    if how == "fill":
        return [filled(one, statistics[band.name].mean) for one, band in zip(values, bands, strict=True)]
    lacking = sum(int(one.invalid.sum()) for one in values if one.invalid is not None)
    if lacking and how == "refuse":
        raise RequestError(
            f"{name} holds {lacking:,} values that are no measurements (nodata, NaN or infinity); {MEND}"
        )
    return [one.pixels for one in values]
