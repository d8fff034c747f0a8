"""Guards against silent nonsense: pixels that, once scaled, are not what the encoder was made for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.bands import Band
from data.dataset import EODataset, limited
from data.errors import RequestError
from data.registry import MODELS
from featurize.encoder import Encoder

IMAGES, PIXELS = 32, 32  # looked at: images spread evenly over the split, pixels a side of each
FEW = 8  # below so many images a band may well be flat: a calm sea, a field of snow
# Share of a band's pixels at its lowest or highest value that leaves nothing to tell images apart by.
STUCK = 0.98
# Scalings that take their numbers from the data, or none: native units do not matter to them.
RELATIVE = ("zscore", "stretch", "none")


@dataclass(frozen=True)
class Look:
    """What was seen of a split.

    Args:
        where: dataset and split, for messages.
        ids: of the images looked at.
        bands: C bands.
        native: (N, C, P) float32, as the dataset gives them.
        scaled: (N, C, P) float32, as the encoder gets them.
    """

    where: str
    ids: list[str]
    bands: tuple[Band, ...]
    native: np.ndarray
    scaled: np.ndarray

    @property
    def few(self) -> bool:
        """Whether these are too few images to call a band flat."""
        return len(self.ids) < FEW


def check_inputs(dataset: EODataset, encoder: Encoder) -> None:
    """Look at some images of a split before all of them are embedded.

    Raises:
        RequestError: NaN, a band that never changes or is clipped away, native values in other units than the
            scaling takes, or scaled values far outside what the encoder expects; with the numbers and what mends it.
    """
    look = look_at(dataset, encoder)
    if look is None:
        return
    check_numbers(look)
    check_flat(look, encoder)
    check_units(look, encoder)
    check_scale(look, encoder)


def look_at(dataset: EODataset, encoder: Encoder) -> Look | None:
    """Read some images, on a coarse grid of their pixels; None where none can be read."""
    some, ids, images = limited(dataset, IMAGES), [], []
    for row in range(len(some)):
        try:
            pixels = some.read(row, encoder.request.bands)
        except RequestError:
            continue  # the run itself stops there and names it, with the parts before it kept
        ids.append(some.ids[row])
        images.append(np.stack([_grid(band) for band in pixels]))
    if not images:
        return None
    native = np.stack(images)
    with torch.inference_mode():
        scaled = encoder.normalization(torch.from_numpy(native)).numpy()
    flat = (len(ids), native.shape[1], -1)
    where = f"{dataset.name} {dataset.split}"
    return Look(where, ids, encoder.request.bands, native.reshape(flat), scaled.reshape(flat))


def _grid(band: np.ndarray) -> np.ndarray:
    """Pixels at evenly spread rows and columns, so that bands of all resolutions lie on each other."""
    rows, columns = (np.linspace(0, side - 1, PIXELS).round().astype(int) for side in band.shape)
    return band[np.ix_(rows, columns)].astype(np.float32)


def check_numbers(look: Look) -> None:
    """Raise a RequestError that counts NaN and infinities and names the first image that has one."""
    wrong = ~np.isfinite(look.native).all(axis=2)  # (N, C)
    if wrong.any():
        image, band = np.argwhere(wrong)[0]
        share = 1 - np.isfinite(look.native[:, band]).mean()
        raise RequestError(
            f"{look.where}: {wrong.any(axis=1).sum()} of {len(look.ids)} images looked at hold NaN or infinity, "
            f"{share:.1%} of the pixels of {look.bands[band].name}, first in '{look.ids[image]}'; fill or remove them, "
            "or leave the band out with --bands"
        )


def check_flat(look: Look, encoder: Encoder) -> None:
    """Raise a RequestError for bands of which nearly every pixel has one value, before or after scaling."""
    stuck = []
    for channel, band in enumerate(look.bands):
        native, scaled = look.native[:, channel], look.scaled[:, channel]
        share, value = _most_at_an_end(native)
        clipped, _ = _most_at_an_end(scaled)
        if share >= STUCK:
            stuck.append((band.name, f"{share:.0%} of {band.name} is {value:g}", "leave it out with --bands"))
        elif clipped >= STUCK:
            span = f"{native.min():g} to {native.max():g}"
            told = (
                f"--normalize {encoder.normalization.method} clips {clipped:.0%} of {band.name} ({span}) to one value"
            )
            stuck.append((band.name, told, mending(encoder)))
    if stuck and (not look.few or len(stuck) == len(look.bands)):
        _, told, mend = stuck[0]
        others = f" (so {', '.join(name for name, _, _ in stuck[1:])})" if len(stuck) > 1 else ""
        raise RequestError(f"{look.where}: {told}{others} in {len(look.ids)} images looked at; {mend}")


def _most_at_an_end(values: np.ndarray) -> tuple[float, float]:
    """Larger share of values at their lowest or highest, and that value."""
    ends = [(float((values == end).mean()), float(end)) for end in (values.min(), values.max())]
    return max(ends)


def check_units(look: Look, encoder: Encoder) -> None:
    """Raise a RequestError where a scaling with numbers of its own meets values in other units than it takes.

    Digital numbers (reflectance x 10,000) reach beyond 255 somewhere, 8-bit values beyond 1, and decibels below 0.
    """
    if encoder.normalization.method in RELATIVE:
        return
    taken = {
        "digital numbers": ("reflectance x 10,000", 20.0 if look.few else 255.0),
        "8-bit values": ("0 to 255", 1.0),
    }
    for kind, (meaning, least) in taken.items():
        channels = [c for c, band in enumerate(look.bands) if _unit(band) == kind]
        if channels and (highest := look.native[:, channels].max()) <= least:
            low, names = look.native[:, channels].min(), ", ".join(look.bands[c].name for c in channels)
            raise RequestError(
                f"{look.where}: {names} hold values from {low:g} to {highest:g} in {len(look.ids)} images looked at, "
                f"but --normalize {encoder.normalization.method} takes {kind} ({meaning}); {mending(encoder)}"
            )
    radar = [c for c, band in enumerate(look.bands) if _unit(band) == "decibels"]
    if radar and (low := look.native[:, radar].min()) >= 0:
        names = ", ".join(look.bands[c].name for c in radar)
        raise RequestError(
            f"{look.where}: {names} hold values from {low:g} to {look.native[:, radar].max():g}, none below 0, but "
            f"--normalize {encoder.normalization.method} takes decibels (10 log10 of power); {mending(encoder)}"
        )


def _unit(band: Band) -> str | None:
    kinds = {"S2": "digital numbers", "RGB": "8-bit values", "S1": "decibels"}
    return kinds.get(band.sensor, "digital numbers" if band.colour else None)


def check_scale(look: Look, encoder: Encoder) -> None:
    """Raise a RequestError where most bands, once scaled, are far outside what the encoder expects."""
    expected = encoder.expects
    if expected is None:
        return
    means, deviations = look.scaled.mean(axis=(0, 2), dtype=np.float64), look.scaled.std(axis=(0, 2), dtype=np.float64)
    least = 0.0 if look.few else expected.deviation[0]
    outside = (np.abs(means) > expected.mean) | (deviations < least) | (deviations > expected.deviation[1])
    if outside.mean() <= 0.5:
        return
    worst = int(np.argmax(outside))
    native = look.native[:, worst]
    raise RequestError(
        f"{look.where}: scaled by --normalize {encoder.normalization.method}, {look.bands[worst].name} has mean "
        f"{means[worst]:.3g} and deviation {deviations[worst]:.3g} ({outside.sum()} of {len(outside)} bands are far "
        f"out; {len(look.ids)} images looked at, native values {native.min():g} to {native.max():g}), but "
        f"{encoder.name} expects a mean within {expected.mean:g} of 0 and a deviation of {expected.deviation[0]:g} to "
        f"{expected.deviation[1]:g}; {mending(encoder)}"
    )


def mending(encoder: Encoder) -> str:
    """What to do about values that do not fit the scaling."""
    method, known = encoder.normalization.method, MODELS.card(encoder.name)["normalize"]
    others = [name for name in preferred(known) if name != method]
    if others:
        return f"use --normalize {others[0]}"
    return f"{encoder.name} has no other scaling: bring the values to the units that it takes"


def preferred(known: Sequence[str]) -> list[str]:
    """Scalings worth proposing: the dataset's own statistics fit any units."""
    return [name for name in ("zscore", "stretch", *known) if name in known and name != "none"]
