"""Guards against silent nonsense: pixels that, once scaled, are not what the encoder was made for."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch

from data.bands import Band
from data.dataset import EODataset, limited
from data.declared import as_type
from data.errors import RequestError
from featurize.card import MODELS
from featurize.encoder import Encoder
from featurize.units import check_against_statistics

IMAGES, PIXELS = 16, 32  # looked at: images spread evenly over the split, pixels a side of each
FEW = 8  # below so many images a band may well be flat or far out: a calm sea, a field of snow
# Shares of a band's pixels that leave nothing to tell images apart by. Real sensors' dark bands (short-wave infrared
# over water) have a few per cent of noise, saturated ones have none.
ALL_ALIKE, SATURATED = 0.999, 0.98
FROM_DATA = ("zscore", "stretch")  # scalings by the dataset's statistics: native units do not matter to them
# With few images bounds are this much wider: fresh snow is 25 deviations above the mean of EuroSAT's blue.
LEEWAY = 12.0


@dataclass(frozen=True)
class Look:
    """What was seen of a split.

    Args:
        dataset: the split.
        encoder: with the scaling.
        ids: of the N images looked at.
        native: (N, C, P) float32, as the dataset gives them; masked where it filled nodata.
        scaled: (N, C, P) float32, as the encoder gets them; masked likewise.
        whole: for each of the C bands, whether its native type is a whole number's.
    """

    dataset: EODataset
    encoder: Encoder
    ids: list[str]
    native: np.ndarray
    scaled: np.ndarray
    whole: list[bool]

    @property
    def bands(self) -> tuple[Band, ...]:
        """The C bands."""
        return self.encoder.request.bands

    @property
    def method(self) -> str:
        """The scaling."""
        return self.encoder.normalization.method

    @property
    def few(self) -> bool:
        """Whether these are too few images to call a band flat or far out."""
        return len(self.ids) < FEW

    @property
    def where(self) -> str:
        """What the messages call it."""
        return f"{self.dataset.name} {self.dataset.split}"

    def channels(self, sensor: str) -> list[int]:
        """Places of the bands of one sensor."""
        return [channel for channel, band in enumerate(self.bands) if band.sensor == sensor]


def check_inputs(dataset: EODataset, encoder: Encoder) -> None:
    """Look at some images of a split before all of them are embedded.

    What cannot be told from a handful of images, such as a band that is flat over all of them, is a warning there.

    Raises:
        RequestError: NaN, a band that never changes or is clipped away, native values in other units than the
            scaling takes, or scaled values far outside what the encoder expects; with the numbers and what mends it.
    """
    look = look_at(dataset, encoder)
    if look is None:
        return
    check_numbers(look)
    check_units(look)
    check_against_statistics(look)
    check_flat(look)
    check_scale(look)


def look_at(dataset: EODataset, encoder: Encoder) -> Look | None:
    """Read some images, on a coarse grid of their pixels; None where none can be read."""
    some, ids, images, whole, masks = limited(dataset, IMAGES), [], [], [], []
    fills = dataset.nodata["filled_with"] if dataset.nodata else {}
    for row in range(len(some)):
        try:
            pixels = some.read(row, encoder.request.bands)
        except RequestError:
            continue  # the run itself stops there and names it, with the parts before it kept
        ids.append(some.ids[row])
        images.append(np.stack([_grid(band) for band in pixels]))
        whole = [band.dtype.kind in "iu" for band in pixels]
        if fills:
            named = zip(encoder.request.bands, pixels, strict=True)
            given = [band == as_type(fills[about.name], band.dtype) for about, band in named]
            masks.append(np.stack([_grid(band) > 0 for band in given]))
    if not images:
        return None
    native = np.stack(images)
    with torch.inference_mode():
        scaled = encoder.normalization(torch.from_numpy(native)).numpy()
    flat = (*native.shape[:2], -1)
    look = Look(dataset, encoder, ids, native.reshape(flat), scaled.reshape(flat), whole)
    return _without(np.stack(masks).reshape(flat), look) if masks else look


def _without(filled: np.ndarray, look: Look) -> Look:
    """The same without the pixels that the dataset filled, (N, C, P) bool.

    Raises:
        RequestError: a band has no other.
    """
    names = [band.name for band, among in zip(look.bands, filled.swapaxes(0, 1), strict=True) if among.all()]
    if names:
        raise RequestError(
            f"{look.where}: every pixel of {', '.join(names)} in {len(look.ids)} images looked at is nodata; leave "
            "it out with --bands"
        )
    native, scaled = (np.ma.masked_array(values, filled) for values in (look.native, look.scaled))
    return replace(look, native=native, scaled=scaled)


def _grid(band: np.ndarray) -> np.ndarray:
    """Pixels at evenly spread rows and columns, so that bands of all resolutions lie on each other."""
    rows, columns = (np.linspace(0, side - 1, PIXELS).round().astype(int) for side in band.shape)
    return band[np.ix_(rows, columns)].astype(np.float32)


def check_numbers(look: Look) -> None:
    """Raise a RequestError that counts NaN and infinities and names the first image that has one."""
    wrong = ~np.ma.filled(np.isfinite(look.native), True).all(axis=2)  # (N, C)
    if wrong.any():
        image, band = np.argwhere(wrong)[0]
        share = 1 - np.isfinite(look.native[:, band]).mean()
        raise RequestError(
            f"{look.where}: {wrong.any(axis=1).sum()} of {len(look.ids)} images looked at hold NaN or infinity, "
            f"{share:.1%} of the pixels of {look.bands[band].name}, first in '{look.ids[image]}'; fill them (--nodata "
            "fill, where the dataset has it) or remove them, or leave the band out with --bands"
        )


# ------------------------------------------------------------------------------------------------- units


def check_units(look: Look) -> None:
    """Raise a RequestError where a scaling with numbers of its own meets values in other units than it takes."""
    if look.method in (*FROM_DATA, "none"):
        return
    for channels, told, takes in _wrong_units(look):
        low, high = look.native[:, channels].min(), look.native[:, channels].max()
        names = ", ".join(look.bands[channel].name for channel in channels)
        raise RequestError(
            f"{look.where}: {told} of {names} from {low:g} to {high:g} in {len(look.ids)} images looked at, but "
            f"--normalize {look.method} takes {takes}; {mending(look)}"
        )


def _wrong_units(look: Look) -> Iterator[tuple[list[int], str, str]]:
    """Places of bands, what their values are, and what they should be.

    Even dark water has digital numbers above 20; reflectance and 8-bit pictures brought to [0, 1] stay below.
    """
    if optical := look.channels("S2"):
        takes = "digital numbers (reflectance x 10,000)"
        if look.native[:, optical].max() <= 20 and look.native[:, optical].max() > look.native[:, optical].min():
            yield optical, "small values", takes
    if pictures := look.channels("RGB"):
        takes = "8-bit values (0 to 255)"
        high = look.native[:, pictures].max()
        if high > 255:
            yield pictures, "values beyond 8 bits", takes
        if high <= 1 and not all(look.whole[channel] for channel in pictures):
            yield pictures, "fractions", takes
    if (radar := look.channels("S1")) and look.native[:, radar].min() >= 0:
        yield radar, "values", "decibels (10 log10 of power), some of them below 0"


# ------------------------------------------------------------------------------------------- flat, far out


def check_flat(look: Look) -> None:
    """Raise a RequestError for bands of which nearly every pixel has one value, before or after scaling."""
    stuck = [(band.name, *told) for channel, band in enumerate(look.bands) if (told := _stuck(look, channel))]
    if stuck:
        _, told, mend = stuck[0]
        others = f" (so {', '.join(name for name, _, _ in stuck[1:])})" if len(stuck) > 1 else ""
        refuse(look, f"{look.where}: {told}{others} in {len(look.ids)} images looked at; {mend}")


def _stuck(look: Look, channel: int) -> tuple[str, str] | None:
    """What is wrong with a band that never changes or is clipped away, and what mends it."""
    native, scaled, name = look.native[:, channel], look.scaled[:, channel], look.bands[channel].name
    low, high = native.min(), native.max()
    lowest, highest = float((native == low).mean()), float((native == high).mean())
    if lowest >= ALL_ALIKE or highest >= SATURATED:
        value, share = (low, lowest) if lowest >= ALL_ALIKE else (high, highest)
        return f"{share:.1%} of {name} is {value:g}", "leave it out with --bands"
    clipped = max(float((scaled == end).mean()) for end in (scaled.min(), scaled.max()))
    if look.encoder.normalization.clip and clipped >= SATURATED > max(lowest, highest):
        told = f"--normalize {look.method} clips {clipped:.1%} of {name} ({low:g} to {high:g}) to one value"
        return told, mending(look)
    return None


def check_scale(look: Look) -> None:
    """Raise a RequestError where most bands of a sensor, once scaled, are far outside what the encoder expects."""
    expected = look.encoder.expects
    if expected is None:
        return
    means, deviations = look.scaled.mean(axis=(0, 2), dtype=np.float64), look.scaled.std(axis=(0, 2), dtype=np.float64)
    leeway = LEEWAY if look.few else 1.0
    # Images alike in few bands of a fixed scaling are a calm sea; a z-score so flat has statistics of other units.
    low = 0.0 if look.few or look.method not in FROM_DATA else expected.deviation[0]
    high = expected.deviation[1] * leeway
    outside = (np.abs(means) > expected.mean * leeway) | (deviations < low) | (deviations > high)
    for sensor in dict.fromkeys(band.sensor for band in look.bands):
        channels = look.channels(sensor)
        if outside[channels].mean() <= 0.5:
            continue
        worst = next(channel for channel in channels if outside[channel])
        native = look.native[:, worst]
        raise RequestError(
            f"{look.where}: scaled by --normalize {look.method}, {look.bands[worst].name} has mean {means[worst]:.3g} "
            f"and deviation {deviations[worst]:.3g} ({outside.sum()} of {len(outside)} bands are far out; "
            f"{len(look.ids)} images looked at, native values {native.min():g} to {native.max():g}), but "
            f"{look.encoder.name} expects a mean within {expected.mean:g} of 0 and a deviation of "
            f"{expected.deviation[0]:g} to {expected.deviation[1]:g}; {mending(look)}"
        )


def refuse(look: Look, message: str) -> None:
    """Raise a RequestError; with few images, where chance may look so, only warn."""
    if not look.few:
        raise RequestError(message)
    print(f"featurize: warning: {message}", file=sys.stderr)


def mending(look: Look) -> str:
    """What to do about values that do not fit the scaling."""
    if look.method in FROM_DATA:
        return (
            f"the values are in other units than the statistics of {look.dataset.name}: bring them to those, or read "
            "the images with --dataset folder, which measures its own"
        )
    known = MODELS.card(look.encoder.name).normalize
    others = [name for name in ("zscore", "stretch", *known) if name in known and name not in ("none", look.method)]
    if others:
        return f"use --normalize {others[0]}"
    return f"{look.encoder.name} has no other scaling: bring the values to the units that it takes"
