"""What an image file declares about its values, and how every reader applies it.

- Pixels declared as nodata, masked by the file's own mask, or not finite are not measurements: they are masked here and
  excluded from statistics and guards; `--nodata` decides whether they are refused, filled, or kept as stored.
- Scale and offset are applied: the values are then what was measured. Sentinel-2 bands are digital numbers in this
  program, reflectance x 10,000, so a declared scale that gives reflectance is brought to those: stored values of
  processing baseline 04.00, with scale 0.0001 and offset -0.1, lose the 1,000 that were added to them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Shaped

from data.bands import Band
from data.errors import RequestError

NODATA = ("refuse", "fill", "keep")
FIX = "use --nodata fill (the bands' means) or --nodata keep (values as stored), or remove these images"
REFLECTANCE_DN = 10_000.0
# Scales up to here give reflectance from integers; 1 keeps digital numbers.
REFLECTANCE_SCALE = 0.001


@dataclass(frozen=True)
class Declared:
    """What a file declares about its values, by band."""

    nodata: tuple[float | int | None, ...]  # the stored value that marks nodata, or None
    scale: tuple[float, ...]  # the measured value is stored value x scale + offset
    offset: tuple[float, ...]  # see scale
    masked: bool = False  # whether the file contains a mask

    @property
    def scaled(self) -> bool:
        """Whether stored values differ from measured ones."""
        return any(scale != 1 for scale in self.scale) or any(self.offset)

    @property
    def lacks(self) -> bool:
        """Whether some pixels may be declared nodata."""
        return self.masked or any(value is not None for value in self.nodata)


@dataclass(frozen=True)
class Header:
    """What a file's header says."""

    count: int  # number of bands
    dtype: str  # numpy name of the stored values' type
    names: tuple[str | None, ...]  # the bands' names where the file gives them, else None for each
    crs: str | None = None  # coordinate reference system as pyproj takes it, None if the file has none
    centre: tuple[float, float] | None = None  # x and y of the image's center in that system
    declared: Declared | None = None  # None if nothing is declared about the values
    beside: bool = False  # whether a file beside it (see `data.images.SIDECARS`) declares more, or is a mask

    @property
    def read_as(self) -> str:
        """Name of the type in which the values are read."""
        return "float32" if self.declared and self.declared.scaled else self.dtype


class Values(NamedTuple):
    """Pixels of one band."""

    pixels: Shaped[np.ndarray, "height width"]  # (H, W) measured values
    # (H, W) bool, true where there is no measurement; None if all pixels are measured
    invalid: Bool[np.ndarray, "height width"] | None


def declare(
    dtype: np.dtype,
    nodata: Sequence[float | int | None],
    scale: Sequence[float],
    offset: Sequence[float],
    *,
    masked: bool = False,
) -> Declared | None:
    """What a file declares; None if it has no effect."""
    declared = Declared(tuple(_possible(value, dtype) for value in nodata), tuple(scale), tuple(offset), masked)
    return declared if declared.scaled or declared.lacks else None


def _possible(value: float | int | None, dtype: np.dtype) -> float | int | None:
    """A nodata value; None if the type cannot hold it."""
    if value is None or dtype.kind == "f":
        return value
    limits = np.iinfo(dtype)
    return int(value) if np.isfinite(value) and value == int(value) and limits.min <= value <= limits.max else None


def honoured(
    stored: Shaped[np.ndarray, "height width"],
    declared: Declared | None,
    index: int,
    *,
    band: Band | None,
    mask: Bool[np.ndarray, "height width"] | None = None,
) -> Values:
    """Measured values (float32 where a scale or offset is applied), and a mask of pixels without one.

    Args:
        stored: (H, W) values of one band, as the file has them.
        declared: what the file declares.
        index: which of its bands this is.
        band: the band, if known: it decides the unit.
        mask: (H, W) bool, true where the file's own mask excludes pixels.
    """
    if declared is None and stored.dtype.kind != "f":
        return Values(stored, None)
    invalid = mask
    if stored.dtype.kind == "f" and not (finite := np.isfinite(stored)).all():
        invalid = ~finite if invalid is None else invalid | ~finite
    if declared is None:
        return Values(stored, invalid)
    nodata = declared.nodata[index]
    if nodata is not None and nodata == nodata:  # NaN is found above
        none = stored == stored.dtype.type(nodata)
        invalid = none if invalid is None else invalid | none
    if invalid is not None and not invalid.any():
        invalid = None
    if not declared.scaled:
        return Values(stored, invalid)
    scale, offset = declared.scale[index], declared.offset[index]
    if band is not None and band.sensor == "S2" and 0 < scale <= REFLECTANCE_SCALE:
        scale, offset = scale * REFLECTANCE_DN, offset * REFLECTANCE_DN
    return Values((stored.astype(np.float64) * scale + offset).astype(np.float32), invalid)


def pixels_by(
    nodata: str, values: Sequence[Values], fill: Sequence[float], name: object
) -> list[Shaped[np.ndarray, "_ _"]]:
    """Pixels of one sample with those without a measurement refused, filled, or kept as stored."""
    if nodata == "fill":
        return [filled(one, value) for one, value in zip(values, fill, strict=True)]
    lacking = sum(int(one.invalid.sum()) for one in values if one.invalid is not None)
    if lacking and nodata == "refuse":
        total = sum(one.pixels.size for one in values)
        raise RequestError(
            f"{name} holds {lacking:,} values of {total:,} without a measurement (nodata, masked, or not finite); {FIX}"
        )
    return [one.pixels for one in values]


def filled(values: Values, fill: float) -> Shaped[np.ndarray, "_ _"]:
    """Pixels with one value, rounded to their type, where there is no measurement."""
    pixels, invalid = values
    if invalid is None:
        return pixels
    return np.where(invalid, as_type(fill, pixels.dtype), pixels)


def as_type(values: Shaped[np.ndarray, "..."] | float, dtype: np.dtype) -> Shaped[np.ndarray, "..."]:
    """Values rounded and clipped to a type."""
    if dtype.kind == "f":
        return np.asarray(values, dtype)
    limits = np.iinfo(dtype)
    return np.asarray(np.rint(values).clip(limits.min, limits.max), dtype)
