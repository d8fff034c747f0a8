"""Whether bands hold what their names say: their statistics and correlations against what sensors measure."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from data.bands import Band
from data.dataset import EODataset, limited

SAMPLES = 200  # images that are looked at
# Mean of one Sentinel-2 band over that of another, with bounds that are wide for any land cover. For comparison the
# means of EuroSAT (Level-1C), SSL4EO-S12 (Level-1C) and BigEarthNet v2 (Level-2A): B8A/B08 1.13, 1.11, 1.02; B12/B11
# 0.62, 0.70, 0.64; B09/B8A 0.28, 0.32, 1.00; B10/B02 0.011, 0.016, absent.
RATIOS = {
    ("B03", "B02"): (0.4, 2.5),
    ("B04", "B03"): (0.3, 2.5),
    ("B07", "B06"): (0.7, 2.0),
    ("B8A", "B08"): (0.6, 1.6),
    ("B09", "B8A"): (0.08, 1.5),
    ("B10", "B02"): (0.0, 0.35),
    ("B12", "B11"): (0.2, 1.4),
}
# Bands of neighboring wavelengths, whose pixels go together wherever they are measured.
NEIGHBOURS = (("B02", "B03"), ("B03", "B04"), ("B06", "B07"), ("B08", "B8A"), ("B11", "B12"))
LEAST_CORRELATION = 0.8
FEW_VALUES = 256  # block means of four images; fewer may all be of one land cover
EIGHT_BITS, DIGITAL = 255, 1000
CIRRUS_MEAN = 60.0  # B10 sees the upper atmosphere only; 12 in EuroSAT, 22 in SSL4EO-S12
DECIBELS = (-45.0, 5.0)


class Mismatch(NamedTuple):
    """A band that does not look like what its name says: what was measured, and what was expected."""

    band: str
    reason: str


class Summary(NamedTuple):
    """Pixels of one band over some images; the grid has the same few block means of every image, all joined."""

    mean: float
    largest: float
    grid: Float64[np.ndarray, " values"]


def mismatches(dataset: EODataset, bands: Sequence[Band]) -> list[Mismatch]:
    """Compare the Sentinel-1 and Sentinel-2 bands of evenly spread images of a split with each other.

    Raises:
        RequestError: an image cannot be read.
    """
    known = [band for band in bands if band.sensor in ("S1", "S2")]
    if not known:
        return []
    some = limited(dataset, min(SAMPLES, len(dataset)))
    found: dict[str, list[Summary]] = {band.name: [] for band in known}
    for row in range(len(some)):
        read = [pixels.astype(np.float64) for pixels in some.read(row, known)]
        side = min(8, *(min(pixels.shape) for pixels in read))
        for band, pixels in zip(known, read, strict=True):
            height, width = (extent // side for extent in pixels.shape)  # of a block; what is left over is dropped
            blocks = pixels[: height * side, : width * side].reshape(side, height, side, width).mean(axis=(1, 3))
            found[band.name].append(Summary(float(pixels.mean()), float(pixels.max()), blocks.ravel()))
    joined = {}
    for name, parts in found.items():
        means, largest, grids = zip(*parts, strict=True)
        joined[name] = Summary(float(np.mean(means)), max(largest), np.concatenate(grids))
    optical = {band.name: joined[band.name] for band in known if band.sensor == "S2"}
    radar = {band.name: joined[band.name] for band in known if band.sensor == "S1"}
    return [*_optical(optical), *_radar(radar)]


def _optical(bands: Mapping[str, Summary]) -> Iterator[Mismatch]:
    if bands and all(band.largest < 20 for band in bands.values()):
        first = next(iter(bands))
        yield Mismatch(first, f"largest value {bands[first].largest:.3g}: reflectance, digital numbers were expected")
        return
    deep = any(band.largest > DIGITAL for band in bands.values())
    for name, band in bands.items():
        if deep and band.largest <= EIGHT_BITS and (name != "B10" or band.mean > CIRRUS_MEAN):
            yield Mismatch(name, f"mean {band.mean:,.0f}, maximum {band.largest:,.0f}: 8 bits among digital numbers")
    for (name, other), (low, high) in RATIOS.items():
        if name in bands and other in bands and bands[other].mean > 0:
            ratio = bands[name].mean / bands[other].mean
            if not low <= ratio <= high:
                yield Mismatch(
                    name,
                    f"mean {bands[name].mean:,.0f} is {ratio:.2g} times that of {other}; expected {low:g} to {high:g}",
                )
    for name, other in NEIGHBOURS:
        together = _correlation(bands[name], bands[other]) if {name, other} <= bands.keys() else None
        if together is not None and together < LEAST_CORRELATION:
            yield Mismatch(other, f"correlation {together:.2f} with {name}; expected at least {LEAST_CORRELATION:g}")


def _radar(bands: Mapping[str, Summary]) -> Iterator[Mismatch]:
    low, high = DECIBELS
    for name, band in bands.items():
        if not low <= band.mean <= high:
            yield Mismatch(name, f"mean {band.mean:.3g}: no decibels; expected {low:g} to {high:g}")
    if {"VV", "VH"} <= bands.keys() and bands["VV"].mean < bands["VH"].mean:
        means = f"{bands['VV'].mean:.1f} dB, VH {bands['VH'].mean:.1f} dB"
        yield Mismatch("VV", f"mean {means}: VV was expected to be higher; they may be swapped")


def _correlation(one: Summary, other: Summary) -> float | None:
    """Pearson's correlation of block means; None where a band is constant or there are few values."""
    if len(one.grid) < FEW_VALUES or not (one.grid.std() > 0 and other.grid.std() > 0):
        return None
    return float(np.corrcoef(one.grid, other.grid)[0, 1])
