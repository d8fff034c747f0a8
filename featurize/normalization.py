"""How raw band values are scaled for a model; the only place that scales pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from data.bands import Band
from data.dataset import Statistic
from data.errors import RequestError, unknown

# Mean and deviation of ImageNet's pixels in [0, 1], red green blue (torchvision's models, transformers' processors).
IMAGENET = {"red": (0.485, 0.229), "green": (0.456, 0.224), "blue": (0.406, 0.225)}
# Digital numbers (reflectance x 10,000) taken as white: EuroSAT's own JPEGs are clipped at 2750 (Helber et al. 2019).
RGB_WHITE_DN = 2750.0
# SatlasPretrain (Bastani et al. 2023, its Normalization.md) divides 16-bit Sentinel-2 by 8160 and clips to [0, 1].
SATLAS_WHITE_DN = 8160.0


@dataclass(frozen=True)
class Normalization:
    """A value v becomes (u - mean) / std with u = v / unit, clipped to [0, 1] where `clip` is set.

    Args:
        method: ``zscore``, ``imagenet``, ``satlas``, ``none``, or a model's own name for its scaling.
        unit: by band, in the band's native units.
        mean: by band, after dividing by the unit.
        std: by band, after dividing by the unit.
        clip: whether u is clipped.
    """

    method: str
    unit: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    clip: bool = False

    def __call__(self, images: Tensor) -> Tensor:
        """Scale images of shape (B, C, H, W)."""

        def column(values: Sequence[float]) -> Tensor:
            return torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]

        images = images / column(self.unit)
        if self.clip:
            images = images.clamp(0.0, 1.0)
        return (images - column(self.mean)) / column(self.std)

    def describe(self) -> dict[str, Any]:
        """The numbers, for the identity."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def unscaled(bands: Sequence[Band], method: str = "none") -> Normalization:
    """Values as they are; `method` names a model's own scaling, done in the model."""
    ones, zeros = (1.0,) * len(bands), (0.0,) * len(bands)
    return Normalization(method, unit=ones, mean=zeros, std=ones)


def make_normalization(method: str, bands: Sequence[Band], statistics: Mapping[str, Statistic]) -> Normalization:
    """The scaling of that name for these bands.

    Args:
        method: ``zscore`` (the dataset's mean and deviation a band), ``imagenet`` (red, green, blue only),
            ``satlas`` or ``none``.
        bands: C bands.
        statistics: the dataset's, by band name, in native units.

    Raises:
        RequestError: the method does not fit the bands, or a band's statistics are absent or zero.
    """
    if method == "none":
        return unscaled(bands)
    if method == "zscore":
        absent = [band.name for band in bands if band.name not in statistics or not statistics[band.name].std > 0]
        if absent:
            raise RequestError(
                f"--normalize zscore: no usable mean and deviation of {', '.join(absent)}; "
                "leave the band out or choose another --normalize"
            )
        chosen = [statistics[band.name] for band in bands]
        return Normalization("zscore", (1.0,) * len(bands), tuple(s.mean for s in chosen), tuple(s.std for s in chosen))
    if method == "imagenet":
        off = [band.name for band in bands if band.colour not in IMAGENET]
        if off:
            raise RequestError(f"--normalize imagenet is for red, green and blue, not {', '.join(off)}; use zscore")
        unit = tuple(255.0 if band.sensor == "RGB" else RGB_WHITE_DN for band in bands)
        pairs = [IMAGENET[str(band.colour)] for band in bands]
        return Normalization("imagenet", unit, tuple(m for m, _ in pairs), tuple(s for _, s in pairs), clip=True)
    if method == "satlas":
        off = [band.name for band in bands if band.sensor == "S1"]
        if off:
            raise RequestError(f"--normalize satlas has no scaling for {', '.join(off)} in dB; use zscore")
        unit = tuple(255.0 if band.sensor == "RGB" else SATLAS_WHITE_DN for band in bands)
        return Normalization("satlas", unit, (0.0,) * len(bands), (1.0,) * len(bands), clip=True)
    raise unknown("normalization", method, ["zscore", "imagenet", "satlas", "none"])
