"""Altered views of training images, made from raw values: quarter turns, flips and, where it makes sense, color.

A view's alteration follows from the image's id and the view's number alone, so neither the batch size nor the
order nor a kill changes it. View 0 is the image itself. The first seven altered views of an image show it in its
seven other symmetries of a square, each once, in an order of its own.

Color is altered by factors drawn from 1 - STRENGTH to 1 + STRENGTH:

- ``RGB`` (8-bit pictures): brightness; contrast (about the image's mean luma) and saturation (about each pixel's
  luma) where red, green and blue are all read.
- ``S2`` (reflectance): one brightness factor for all bands, which leaves the ratios of bands as they are.
- ``S1`` (decibels of radar) and ``other``: none.

Results are rounded and clipped to the type of the raw values, as a file of them would be.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Shaped

from data.bands import Band
from data.dataset import Derived, EODataset
from data.declared import as_type

Pixels = Shaped[np.ndarray, "_ _"]  # of one band
SYMMETRIES = 8
STRENGTH = 0.2
SEED = 0
LUMA = {"red": 0.299, "green": 0.587, "blue": 0.114}  # ITU-R BT.601


class View(Derived):
    """One altered view of every image of another dataset, in that dataset's order and under its ids."""

    def __init__(self, whole: EODataset, view: int) -> None:
        super().__init__(whole)
        self.view, self.altered = view, describe(view)

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`."""
        return self.whole.files(index, bands)

    def read(self, index: int, bands: Sequence[Band]) -> list[Pixels]:
        """See `EODataset.read`; bands keep their types and resolutions."""
        return alter(self.whole.read(index, bands), bands, self.ids[index], self.view)


def describe(view: int) -> dict[str, Any]:
    """What decides the values of a view, for the identity of its features."""
    return {"view": view, "geometry": "turns and flips", "colour": STRENGTH, "seed": SEED}


def alter(pixels: Sequence[Pixels], bands: Sequence[Band], name: str, view: int) -> list[Pixels]:
    """One view of one image."""
    if view == 0:
        return list(pixels)
    others = _generator(name, "symmetries").permutation(np.arange(1, SYMMETRIES))
    symmetry = [*others, 0][(view - 1) % SYMMETRIES]
    return recolour([turn(band, symmetry) for band in pixels], bands, _generator(name, view))


def turn(pixels: Pixels, symmetry: int) -> Pixels:
    """A symmetry of the square: ``symmetry % 4`` quarter turns counterclockwise, from 4 on of the mirror image.

    Args:
        pixels: (H, W); an odd number of turns makes it (W, H).
        symmetry: 0 (as it is) to 7.
    """
    if symmetry >= SYMMETRIES // 2:
        pixels = pixels[:, ::-1]  # left and right swapped
    return np.ascontiguousarray(np.rot90(pixels, symmetry % 4))


def recolour(pixels: Sequence[Pixels], bands: Sequence[Band], rng: np.random.Generator) -> list[Pixels]:
    """Brightness, contrast and saturation by sensor, see the head of this file."""
    brightness, contrast, saturation = rng.uniform(1 - STRENGTH, 1 + STRENGTH, 3)
    altered = [p * brightness if band.sensor in ("RGB", "S2") else p for p, band in zip(pixels, bands, strict=True)]
    places = {band.colour: at for at, band in enumerate(bands) if band.sensor == "RGB"}
    if places.keys() >= LUMA.keys():
        grey = np.sum([weight * altered[places[colour]] for colour, weight in LUMA.items()], axis=0)
        for at in (places[colour] for colour in LUMA):
            vivid = grey + saturation * (altered[at] - grey)
            altered[at] = grey.mean() + contrast * (vivid - grey.mean())
    return [as_type(new, old.dtype) for new, old in zip(altered, pixels, strict=True)]


def _generator(*words: str | int) -> np.random.Generator:
    """A generator that follows from these words alone, the same on every machine."""
    text = "\n".join(map(str, (SEED, *words)))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "big"))
