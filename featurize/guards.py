"""Guards against silent errors: pixels that, once scaled, are outside what the encoder was trained for."""

from collections.abc import Iterator

import numpy as np

from data.command import warn
from data.dataset import EODataset
from data.errors import RequestError
from featurize import units
from featurize.card import MODELS
from featurize.encoder import FrozenModel
from featurize.look import Look, look_at

# Shares of a band's pixels that leave nothing to distinguish images by. Real sensors' dark bands (short-wave infrared
# over water) have a few percent of noise, saturated ones have none.
ALL_ALIKE, SATURATED = 0.999, 0.98
FROM_DATA = ("zscore", "stretch")  # scalings by the dataset's statistics: native units do not matter to them
# With few images bounds are this much wider: fresh snow is 25 standard deviations above the mean of EuroSAT's blue.
LEEWAY = 12.0


def check_inputs(dataset: EODataset, encoder: FrozenModel) -> None:
    """Look at some images of a split before all of them are embedded.

    Findings that a handful of images cannot prove, such as a band that is constant in all of them, are warnings then.

    Raises:
        RequestError: NaN, a band that never changes or is clipped away, native values in other units than the
            scaling takes, or scaled values far outside what the encoder expects.
    """
    look = look_at(dataset, encoder)
    if look is None:
        return
    check_numbers(look)
    check_units(look)
    units.check_against_statistics(look)
    check_flat(look)
    check_scale(look)


def check_numbers(look: Look) -> None:
    """Raise a RequestError that counts NaN and infinities and names the first image that has one."""
    wrong = ~np.ma.filled(np.isfinite(look.native), True).all(axis=2)  # (N, C)
    if wrong.any():
        image, band = np.argwhere(wrong)[0]
        share = 1 - np.isfinite(look.native[:, band]).mean()
        raise RequestError(
            f"{look.where}: {wrong.any(axis=1).sum()} of {len(look.ids)} images sampled hold NaN or infinity, "
            f"{share:.1%} of the pixels of {look.bands[band].name}, first in '{look.ids[image]}'; fill them (--nodata "
            "fill, where the dataset has it) or remove them, or leave the band out with --bands"
        )


# ------------------------------------------------------------------------------------------------- units


def check_units(look: Look) -> None:
    """Raise a RequestError if a scaling with fixed constants is given values in other units than it expects."""
    if look.method in (*FROM_DATA, "none"):
        return
    for channels, finding, takes in _wrong_units(look):
        low, high = look.native[:, channels].min(), look.native[:, channels].max()
        names = ", ".join(look.bands[channel].name for channel in channels)
        raise RequestError(
            f"{look.where}: {finding} of {names} from {low:g} to {high:g} in {len(look.ids)} images sampled, but "
            f"--normalize {look.method} takes {takes}; {remedy(look)}"
        )


def _wrong_units(look: Look) -> Iterator[tuple[list[int], str, str]]:
    """Indices of bands, what their values are, and what they should be.

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
    stuck = [(band.name, *finding) for channel, band in enumerate(look.bands) if (finding := _stuck(look, channel))]
    if stuck:
        _, finding, fix = stuck[0]
        others = f" (so {', '.join(name for name, _, _ in stuck[1:])})" if len(stuck) > 1 else ""
        refuse(look, f"{look.where}: {finding}{others} in {len(look.ids)} images sampled; {fix}")


def _stuck(look: Look, channel: int) -> tuple[str, str] | None:
    """What is wrong with a band that never changes or is clipped away, and what to do about it."""
    native, scaled, name = look.native[:, channel], look.scaled[:, channel], look.bands[channel].name
    low, high = native.min(), native.max()
    lowest, highest = float((native == low).mean()), float((native == high).mean())
    if lowest >= ALL_ALIKE or highest >= SATURATED:
        value, share = (low, lowest) if lowest >= ALL_ALIKE else (high, highest)
        return f"{share:.1%} of {name} is {value:g}", "leave it out with --bands"
    clipped = max(float((scaled == end).mean()) for end in (scaled.min(), scaled.max()))
    if look.encoder.normalization.clip and clipped >= SATURATED > max(lowest, highest):
        finding = f"--normalize {look.method} clips {clipped:.1%} of {name} ({low:g} to {high:g}) to one value"
        return finding, remedy(look)
    return None


def check_scale(look: Look) -> None:
    """Raise a RequestError where most bands of a sensor, once scaled, are far outside what the encoder expects."""
    expected = look.encoder.expects
    if expected is None:
        return
    means, stds = look.scaled.mean(axis=(0, 2), dtype=np.float64), look.scaled.std(axis=(0, 2), dtype=np.float64)
    leeway = LEEWAY if look.few else 1.0
    # Images alike in few bands of a fixed scaling are a calm sea; a z-score so flat has statistics of other units.
    low = 0.0 if look.few or look.method not in FROM_DATA else expected.std[0]
    high = expected.std[1] * leeway
    outside = (np.abs(means) > expected.mean * leeway) | (stds < low) | (stds > high)
    for sensor in dict.fromkeys(band.sensor for band in look.bands):
        channels = look.channels(sensor)
        if outside[channels].mean() <= 0.5:
            continue
        worst = next(channel for channel in channels if outside[channel])
        native = look.native[:, worst]
        raise RequestError(
            f"{look.where}: scaled by --normalize {look.method}, {look.bands[worst].name} has mean {means[worst]:.3g} "
            f"and std {stds[worst]:.3g} ({outside.sum()} of {len(outside)} bands are out of range; "
            f"{len(look.ids)} images sampled, native values {native.min():g} to {native.max():g}), but "
            f"{look.encoder.name} expects a mean within {expected.mean:g} of 0 and a std of "
            f"{expected.std[0]:g} to {expected.std[1]:g}; {remedy(look)}"
        )


def refuse(look: Look, message: str) -> None:
    """Raise a RequestError; with few images, where it may be chance, only warn."""
    if not look.few:
        raise RequestError(message)
    warn("featurize", message)


def remedy(look: Look) -> str:
    """What to do about values that do not fit the scaling."""
    if look.method in FROM_DATA:
        return units.remedy(look)
    known = MODELS.card(look.encoder.name).normalize
    others = [name for name in ("zscore", "stretch", *known) if name in known and name not in ("none", look.method)]
    if others:
        return f"use --normalize {others[0]}"
    return f"{look.encoder.name} has no other scaling: convert the values to the units that it takes"
