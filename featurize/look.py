"""Native and scaled values of some images of a split, before all of them are embedded."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float32

from data.bands import Band
from data.dataset import EODataset, limited
from data.declared import as_type
from data.errors import RequestError
from featurize.encoder import FrozenModel

IMAGES, PIXELS = 16, 32  # sampled: images spread evenly over the split, pixels per side of each
FEW = 8  # with fewer images a band may be constant or out of range by chance: a calm sea, a field of snow


@dataclass(frozen=True)
class Look:
    """The sampled images of a split."""

    dataset: EODataset  # the split
    encoder: FrozenModel  # with the scaling
    ids: list[str]  # of the N images sampled
    native: Float32[np.ndarray, "images bands pixels"]  # as the dataset gives them; masked where nodata was filled
    scaled: Float32[np.ndarray, "images bands pixels"]  # as the encoder gets them; masked likewise
    whole: list[bool]  # for each of the C bands, whether its native type is a whole number's

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
        """Whether these are too few images to call a band flat or out of range."""
        return len(self.ids) < FEW

    @property
    def where(self) -> str:
        """Its name in messages."""
        return f"{self.dataset.name} {self.dataset.split}"

    def channels(self, sensor: str) -> list[int]:
        """Indices of the bands of one sensor."""
        return [channel for channel, band in enumerate(self.bands) if band.sensor == sensor]


def look_at(dataset: EODataset, encoder: FrozenModel) -> Look | None:
    """Read some images, on a coarse grid of their pixels; None if none can be read."""
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
    """The same without filled nodata pixels, (N, C, P) bool."""
    names = [band.name for band, among in zip(look.bands, filled.swapaxes(0, 1), strict=True) if among.all()]
    if names:
        raise RequestError(
            f"{look.where}: every pixel of {', '.join(names)} in {len(look.ids)} images sampled is nodata; leave "
            "it out with --bands"
        )
    native, scaled = (np.ma.masked_array(values, filled) for values in (look.native, look.scaled))
    return replace(look, native=native, scaled=scaled)


def _grid(band: np.ndarray) -> np.ndarray:
    """Pixels at evenly spread rows and columns, so that bands of all resolutions lie on each other."""
    rows, columns = (np.linspace(0, side - 1, PIXELS).round().astype(int) for side in band.shape)
    return band[np.ix_(rows, columns)].astype(np.float32)
