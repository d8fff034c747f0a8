"""Native values in other units than the dataset's statistics: a factor, a Sentinel-2 offset, power for decibels."""

from typing import NamedTuple

import numpy as np

from data.errors import RequestError
from featurize.look import Look

# What a z-score by the dataset's own statistics gives: size of a band's mean, smallest and largest std.
MEAN, STD = 2.0, (0.2, 4.0)
LEAST_BANDS = 3  # fewer cannot distinguish a factor from dark or bright ground
# Bands that must agree on a factor or an offset. Dark ground is darker in some bands than in others (water: by 1.2 in
# blue, by 50 in short-wave infrared); a factor is the same in all.
AGREEING = 0.7
LEAST_FACTOR = 4.0
# Processing baseline 04.00 (January 2022) adds 1,000 to Sentinel-2 digital numbers (ESA, Sentinel-2 Products
# Specification Document, RADIO_ADD_OFFSET and BOA_ADD_OFFSET).
OFFSET = 1000.0
DARKEST = (900.0, 1600.0)  # where the darkest pixels of the darkest band are then; without it they are below 700


class Compared(NamedTuple):
    """Bands of one sensor: their statistics, and what was seen, each (C,)."""

    look: Look
    sensor: str
    channels: list[int]
    mean: np.ndarray
    std: np.ndarray
    seen: np.ndarray  # means
    spread: np.ndarray  # standard deviations

    @property
    def native(self) -> np.ndarray:
        """Values as the dataset gives them."""
        return self.look.native[:, self.channels]

    @property
    def names(self) -> str:
        """Of the bands."""
        return ", ".join(self.look.bands[channel].name for channel in self.channels)


def check_against_statistics(look: Look) -> None:
    """Raise a RequestError where native values are in other units than the statistics of the dataset.

    Dark or bright scenes pass: only a difference that one factor, one offset or linear radar power explains is refused.
    """
    if look.method == "none":
        return
    for sensor in dict.fromkeys(band.sensor for band in look.bands):
        known = {channel: look.dataset.statistics.get(look.bands[channel].name) for channel in look.channels(sensor)}
        used = {channel: statistic for channel, statistic in known.items() if statistic and statistic.std > 0}
        if not used:
            continue
        mean, std = np.array([(statistic.mean, statistic.std) for statistic in used.values()]).T
        native = look.native[:, list(used)].astype(np.float64)
        bands = Compared(look, sensor, list(used), mean, std, native.mean(axis=(0, 2)), native.std(axis=(0, 2)))
        for check in (_power, _fractions, _factor, _offset):
            if problem := check(bands):
                raise RequestError(f"{look.where}: {problem}; {_measured(bands)}; {remedy(look)}")


def remedy(look: Look) -> str:
    """What to do."""
    return (
        f"convert the values to the units of {look.dataset.name}'s statistics, or read the images with --dataset "
        "folder, which measures its own"
    )


def _measured(bands: Compared) -> str:
    """The z-score of the band that is farthest out, with what is expected."""
    scores, stds = (bands.seen - bands.mean) / bands.std, bands.spread / bands.std
    worst = int(np.abs(scores).argmax())
    native = bands.native[:, worst]
    return (
        f"measured over {len(bands.look.ids)} images: {bands.look.bands[bands.channels[worst]].name} from "
        f"{native.min():g} to {native.max():g}, its z-score has mean {scores[worst]:.3g} and std {stds[worst]:.3g} "
        f"where |mean| < {MEAN:g} and std {STD[0]:g} to {STD[1]:g} are usual"
    )


def _power(bands: Compared) -> str | None:
    if bands.sensor != "S1" or bands.native.min() < 0 or not (bands.mean < 0).all():
        return None
    return (
        f"values of {bands.names} are all positive, like linear power, and the statistics are decibels (10 log10 of "
        "power)"
    )


def _fractions(bands: Compared) -> str | None:
    native, whole = bands.native, all(bands.look.whole[channel] for channel in bands.channels)
    if bands.sensor != "RGB" or whole or native.max() > 1 or native.min() < 0 or not (bands.mean > 2).all():
        return None
    return f"values of {bands.names} are fractions (0 to 1), and the statistics are of 8-bit values (0 to 255)"


def _factor(bands: Compared) -> str | None:
    """Most bands too small by the same factor, in mean and in std."""
    _, sensor, channels, mean, std, seen, spread = bands
    unusual = (np.abs((seen - mean) / std) > MEAN) | (spread / std < STD[0]) | (spread / std > STD[1])
    keep = (seen > 0) & (spread > 0)
    if sensor == "S1" or min(len(channels), keep.sum()) < LEAST_BANDS or unusual.mean() <= 0.5:
        return None
    factors = mean[keep] / seen[keep]
    factor = float(np.median(factors))
    agree = (np.abs(np.log(factors / factor)) < np.log(2)).mean() >= AGREEING
    wide = 1 / 3 < float(np.median(std[keep] / spread[keep])) / factor < 3
    if factor < LEAST_FACTOR or not agree or not wide:
        return None
    eight = " (8-bit pictures?)" if sensor == "S2" and 20 < bands.native.max() <= 255 else ""
    words = f"{float(f'{factor:.3g}'):,g}"
    return f"values of {len(channels)} {sensor} bands are about {words} times smaller than its statistics{eight}"


def _offset(bands: Compared) -> str | None:
    """Sentinel-2 digital numbers with the offset of baseline 04.00 beside statistics without it."""
    few = bands.sensor != "S2" or len(bands.channels) < LEAST_BANDS
    if few or bands.mean.max() < 20:  # statistics of reflectance, not of digital numbers
        return None
    raised = bands.seen - bands.mean
    agree = (np.abs(raised - OFFSET) < 0.4 * OFFSET).mean() >= AGREEING
    darkest = min(float(np.percentile(bands.look.native[:, channel], 1)) for channel in bands.channels)
    better = np.abs(raised - OFFSET).sum() < np.abs(raised).sum()
    if not (agree and better and DARKEST[0] <= darkest <= DARKEST[1]):
        return None
    return (
        f"values of the {len(bands.channels)} Sentinel-2 bands are about {np.median(raised):,.0f} above its statistics "
        f"and none is dark ({darkest:,.0f} and more): products since baseline 04.00 have an offset of 1,000; subtract "
        "it"
    )
