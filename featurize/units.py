"""Native values in other units than the dataset's statistics: a factor, a Sentinel-2 offset, power for decibels."""

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


def check_against_statistics(look: Look) -> None:
    """Raise a RequestError where native values are in other units than the statistics of the dataset.

    Dark or bright scenes pass: only a difference that one factor, one offset or linear radar power explains is refused.
    """
    if look.method == "none":
        return
    for sensor in dict.fromkeys(band.sensor for band in look.bands):
        channels = [c for c in look.channels(sensor) if _usable(look, c)]
        if not channels:
            continue
        for check in (_power, _fractions, _factor, _offset):
            if problem := check(look, sensor, channels):
                raise RequestError(f"{look.where}: {problem}; {_measured(look, channels)}; {mend(look)}")


def mend(look: Look) -> str:
    """What to do."""
    return (
        f"bring the values to the units of {look.dataset.name}'s statistics, or read the images with --dataset folder, "
        "which measures its own"
    )


def _usable(look: Look, channel: int) -> bool:
    statistic = look.dataset.statistics.get(look.bands[channel].name)
    return statistic is not None and statistic.std > 0


def _statistics(look: Look, channels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    found = [look.dataset.statistics[look.bands[channel].name] for channel in channels]
    return np.array([one.mean for one in found]), np.array([one.std for one in found])


def _seen(look: Look, channels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    native = look.native[:, channels].astype(np.float64)
    return native.mean(axis=(0, 2)), native.std(axis=(0, 2))


def _measured(look: Look, channels: list[int]) -> str:
    """The z-score of the band that is farthest out, with what is expected."""
    mean, std = _statistics(look, channels)
    seen, spread = _seen(look, channels)
    scores, stds = (seen - mean) / std, spread / std
    worst = int(np.abs(scores).argmax())
    native = look.native[:, channels[worst]]
    return (
        f"measured over {len(look.ids)} images: {look.bands[channels[worst]].name} from {native.min():g} to "
        f"{native.max():g}, its z-score has mean {scores[worst]:.3g} and std {stds[worst]:.3g} where |mean| < {MEAN:g} "
        f"and std {STD[0]:g} to {STD[1]:g} are usual"
    )


def _unusual(look: Look, channels: list[int]) -> bool:
    """Whether the z-scores of most of these bands are outside the usual."""
    mean, std = _statistics(look, channels)
    seen, spread = _seen(look, channels)
    outside = (np.abs((seen - mean) / std) > MEAN) | (spread / std < STD[0]) | (spread / std > STD[1])
    return bool(outside.mean() > 0.5)


def _power(look: Look, sensor: str, channels: list[int]) -> str | None:
    mean, _ = _statistics(look, channels)
    if sensor != "S1" or look.native[:, channels].min() < 0 or not (mean < 0).all():
        return None
    names = ", ".join(look.bands[channel].name for channel in channels)
    return f"values of {names} are all positive, like linear power, and the statistics are decibels (10 log10 of power)"


def _fractions(look: Look, sensor: str, channels: list[int]) -> str | None:
    mean, _ = _statistics(look, channels)
    native = look.native[:, channels]
    whole = all(look.whole[channel] for channel in channels)
    if sensor != "RGB" or whole or native.max() > 1 or native.min() < 0 or not (mean > 2).all():
        return None
    names = ", ".join(look.bands[channel].name for channel in channels)
    return f"values of {names} are fractions (0 to 1), and the statistics are of 8-bit values (0 to 255)"


def _factor(look: Look, sensor: str, channels: list[int]) -> str | None:
    """Most bands too small by the same factor, in mean and in std."""
    if sensor == "S1" or len(channels) < LEAST_BANDS or not _unusual(look, channels):
        return None
    mean, std = _statistics(look, channels)
    seen, spread = _seen(look, channels)
    if (seen <= 0).any() or (spread <= 0).any():
        keep = (seen > 0) & (spread > 0)
        mean, std, seen, spread = mean[keep], std[keep], seen[keep], spread[keep]
        if len(seen) < LEAST_BANDS:
            return None
    factors = mean / seen
    factor = float(np.median(factors))
    agree = (np.abs(np.log(factors / factor)) < np.log(2)).mean() >= AGREEING
    wide = 1 / 3 < float(np.median(std / spread)) / factor < 3
    if factor < LEAST_FACTOR or not agree or not wide:
        return None
    eight = " (8-bit pictures?)" if sensor == "S2" and 20 < look.native[:, channels].max() <= 255 else ""
    words = f"{float(f'{factor:.3g}'):,g}"
    return f"values of {len(channels)} {sensor} bands are about {words} times smaller than its statistics{eight}"


def _offset(look: Look, sensor: str, channels: list[int]) -> str | None:
    """Sentinel-2 digital numbers with the offset of baseline 04.00 beside statistics without it."""
    if sensor != "S2" or len(channels) < LEAST_BANDS:
        return None
    mean, std = _statistics(look, channels)
    if mean.max() < 20:  # statistics of reflectance, not of digital numbers
        return None
    seen, _ = _seen(look, channels)
    raised = seen - mean
    agree = (np.abs(raised - OFFSET) < 0.4 * OFFSET).mean() >= AGREEING
    darkest = min(float(np.percentile(look.native[:, channel], 1)) for channel in channels)
    better = np.abs(raised - OFFSET).sum() < np.abs(raised).sum()
    if not (agree and better and DARKEST[0] <= darkest <= DARKEST[1]):
        return None
    return (
        f"values of the {len(channels)} Sentinel-2 bands are about {np.median(raised):,.0f} above its statistics and "
        f"none is dark ({darkest:,.0f} and more): products since baseline 04.00 have an offset of 1,000; subtract it"
    )
