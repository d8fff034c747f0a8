"""How raw band values are scaled for a model; the only place that scales pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from data.bands import Band
from data.dataset import Statistic
from data.errors import RequestError, unknown

# Mean and standard deviation of ImageNet's pixels in [0, 1] (torchvision's models, transformers' processors).
IMAGENET = {"red": (0.485, 0.229), "green": (0.456, 0.224), "blue": (0.406, 0.225)}
# Digital numbers (reflectance x 10,000) taken as white: EuroSAT's own JPEGs are clipped at 2750 (Helber et al. 2019).
RGB_WHITE_DN = 2750.0
# SatlasPretrain (Bastani et al. 2023, its Normalization.md) divides 16-bit Sentinel-2 by 8160 and clips to [0, 1].
SATLAS_WHITE_DN = 8160.0
REFLECTANCE_DN = 10_000.0
METHODS = ("zscore", "stretch", "imagenet", "satlas", "reflectance", "ssl4eo", "none")
# Means and standard deviations of SSL4EO-S12 (Wang et al. 2023, arXiv:2211.07044): Level-1C digital numbers and dB,
# as in the transforms of torchgeo's weights trained on it.
SSL4EO_S12 = {
    "B01": (1612.9, 791.0),
    "B02": (1397.6, 854.3),
    "B03": (1322.3, 878.7),
    "B04": (1373.1, 1144.9),
    "B05": (1561.0, 1127.5),
    "B06": (2108.4, 1164.2),
    "B07": (2390.7, 1276.0),
    "B08": (2318.7, 1249.5),
    "B8A": (2581.0, 1345.9),
    "B09": (837.7, 577.5),
    "B10": (22.0, 47.5),
    "B11": (2195.2, 1340.0),
    "B12": (1537.4, 1142.9),
    "VV": (-12.59, 5.26),
    "VH": (-20.26, 5.91),
}


@dataclass(frozen=True)
class Normalization:
    """A value v becomes (u - mean) / std with u = (v - low) / unit, clipped to [0, 1] where `clip` is set.

    Args:
        method: see `make_normalization`, or a model's own name for its scaling.
        unit: by band, in the band's native units.
        mean: by band, after dividing by the unit.
        std: by band, after dividing by the unit.
        clip: whether u is clipped.
        low: by band, in its native units; None is 0.
    """

    method: str
    unit: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    clip: bool = False
    low: tuple[float, ...] | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Scale images of shape (B, C, H, W); those that need no scaling are returned as they are."""
        like = images.dtype, images.device
        if self.low:
            images = images - _column(self.low, *like)
        if set(self.unit) != {1.0}:
            images = images / _column(self.unit, *like)
        if self.clip:
            images = images.clamp(0.0, 1.0)
        if any(self.mean):
            images = images - _column(self.mean, *like)
        return images / _column(self.std, *like) if set(self.std) != {1.0} else images

    def changes_nothing(self) -> bool:
        """Whether a scaling other than ``none`` leaves values almost unchanged."""
        as_they_are = not self.clip and not any(self.low or ()) and all(unit == 1.0 for unit in self.unit)
        still = all(abs(mean) < 0.05 for mean in self.mean) and all(abs(std - 1.0) < 0.05 for std in self.std)
        return self.method != "none" and as_they_are and still

    def describe(self) -> dict[str, Any]:
        """The numbers, for the identity."""
        numbers = {key: value for key, value in asdict(self).items() if value is not None}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in numbers.items()}


@lru_cache(maxsize=64)
def _column(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values as (C, 1, 1), made once: a copy to a GPU waits for all queued work."""
    return torch.tensor(values, dtype=dtype, device=device)[:, None, None]


def unscaled(bands: Sequence[Band], method: str = "none") -> Normalization:
    """Values as they are; `method` names a model's own scaling, done in the model."""
    ones, zeros = (1.0,) * len(bands), (0.0,) * len(bands)
    return Normalization(method, unit=ones, mean=zeros, std=ones)


def picture_normalization(
    method: str, bands: Sequence[Band], published: Mapping[str, tuple[float, float]]
) -> Normalization:
    """Pixels brought to [0, 1], 8-bit pictures by 255 and reflectance by its white, then standardized per colour.

    Args:
        method: ``imagenet``, or ``own`` for what a model was published with.
        bands: red, green and blue ones.
        published: mean and standard deviation of pixels in [0, 1], by colour.

    Raises:
        RequestError: other bands.
    """
    off = [band.name for band in bands if band.colour not in published]
    if off:
        raise RequestError(f"--normalize {method} is for red, green and blue, not {', '.join(off)}; use zscore")
    unit = tuple(255.0 if band.sensor == "RGB" else RGB_WHITE_DN for band in bands)
    pairs = [published[str(band.colour)] for band in bands]
    return Normalization(method, unit, tuple(m for m, _ in pairs), tuple(s for _, s in pairs), clip=True)


def make_normalization(method: str, bands: Sequence[Band], statistics: Mapping[str, Statistic]) -> Normalization:
    """The scaling of that name for these bands.

    Args:
        method: ``zscore`` (the dataset's mean and standard deviation per band), ``stretch`` (mean - 2 std
            becomes 0, mean + 2 std becomes 1, beyond is clipped), ``imagenet`` (red, green, blue only), ``satlas``,
            ``reflectance`` (Sentinel-2 digital numbers / 10,000), ``ssl4eo`` (a z-score with the numbers of
            SSL4EO-S12, in place of the dataset's) or ``none``.
        bands: C bands.
        statistics: the dataset's, by band name, in native units.

    Raises:
        RequestError: the method does not fit the bands, or a band's statistics are missing or zero.
    """
    if method == "none":
        return unscaled(bands)
    if method in ("zscore", "stretch"):
        absent = [band.name for band in bands if band.name not in statistics or not statistics[band.name].std > 0]
        if absent:
            raise RequestError(
                f"--normalize {method}: no usable mean and standard deviation for {', '.join(absent)}; "
                "leave the band out or choose another --normalize"
            )
        pairs = [(statistics[band.name].mean, statistics[band.name].std) for band in bands]
        return standardized(method, pairs) if method == "zscore" else stretched(method, pairs, clip=True)
    if method == "ssl4eo":
        absent = [band.name for band in bands if band.name not in SSL4EO_S12]
        if absent:
            raise RequestError(f"--normalize ssl4eo has no numbers for {', '.join(absent)}; use zscore")
        return standardized(method, [SSL4EO_S12[band.name] for band in bands])
    if method == "reflectance":
        off = [band.name for band in bands if band.sensor != "S2"]
        if off:
            raise RequestError(f"--normalize reflectance is for Sentinel-2 bands, not {', '.join(off)}; use zscore")
        ones, zeros = (1.0,) * len(bands), (0.0,) * len(bands)
        return Normalization(method, (REFLECTANCE_DN,) * len(bands), zeros, ones)
    if method == "imagenet":
        return picture_normalization("imagenet", bands, IMAGENET)
    if method == "satlas":
        off = [band.name for band in bands if band.sensor == "S1"]
        if off:
            raise RequestError(f"--normalize satlas has no scaling for {', '.join(off)} in dB; use zscore")
        unit = tuple(255.0 if band.sensor == "RGB" else SATLAS_WHITE_DN for band in bands)
        return Normalization("satlas", unit, (0.0,) * len(bands), (1.0,) * len(bands), clip=True)
    raise unknown("normalization", method, METHODS)


def standardized(method: str, numbers: Sequence[tuple[float, float]]) -> Normalization:
    """A z-score with a mean and a standard deviation for each band, in its native units."""
    ones = (1.0,) * len(numbers)
    return Normalization(method, ones, tuple(mean for mean, _ in numbers), tuple(std for _, std in numbers))


def stretched(method: str, numbers: Sequence[tuple[float, float]], *, clip: bool) -> Normalization:
    """Two standard deviations below the mean become 0, two above it 1, for each band."""
    ones, zeros = (1.0,) * len(numbers), (0.0,) * len(numbers)
    low = tuple(mean - 2 * std for mean, std in numbers)
    return Normalization(method, tuple(4 * std for _, std in numbers), zeros, ones, clip, low)
