"""How raw band values are scaled for a model; the only place that scales pixels."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data import store
from data.bands import Band
from data.dataset import Statistic
from data.errors import RequestError, unknown
from featurize.shapes import Images

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
    """A value v becomes (u - mean) / std with u = (v - low) / unit, clipped to [0, 1] where `clip` is set."""

    method: str  # see `make_normalization`, or a model's own name for its scaling
    unit: tuple[float, ...]  # by band, in the band's native units
    mean: tuple[float, ...]  # by band, after dividing by the unit
    std: tuple[float, ...]  # by band, after dividing by the unit
    clip: bool = False  # whether u is clipped
    low: tuple[float, ...] | None = None  # by band, in its native units; None is 0

    def __call__(self, images: Images) -> Images:
        """Scale images; those that need no scaling are returned as they are."""
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


def recorded_normalization(features: Path | str, encoder: Mapping[str, Any]) -> Normalization:
    """The scaling that a feature set was made with, for an encoder that scales the same bands in the same way.

    Args:
        features: a feature file, or the folder of a set.
        encoder: its identity.

    Raises:
        RequestError: no such features, or of another model, other bands or another scaling.
    """
    path = Path(features)
    file = next(iter(sorted(path.glob("*.h5"))), path / "train.h5") if path.is_dir() else path
    found = store.read_identity(file)[0]["encoder"]
    off = [field for field in ("name", "variant", "bands") if found.get(field) != encoder[field]]
    numbers: dict[str, Any] = found["normalization"]
    if off or numbers["method"] != encoder["normalization"]["method"]:
        fields = ", ".join(off or ["normalization.method"])
        raise RequestError(f"--normalize-like {file}: it was made with another {fields}; give the same settings here")
    frozen: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in numbers.items()}
    return Normalization(**frozen)


@lru_cache(maxsize=64)
def _column(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Values as (C, 1, 1), made once: a copy to a GPU waits for all queued work."""
    return torch.tensor(values, dtype=dtype, device=device)[:, None, None]


Numbers = float | Sequence[float]  # one for all bands, or one for each


def scaled(
    method: str,
    bands: Sequence[Band],
    *,
    unit: Numbers = 1.0,
    mean: Numbers = 0.0,
    std: Numbers = 1.0,
    clip: bool = False,
    low: Sequence[float] | None = None,
) -> Normalization:
    """A `Normalization` of these bands; by default values as they are, where `method` names a model's own scaling."""
    each = [(float(n),) * len(bands) if isinstance(n, int | float) else tuple(n) for n in (unit, mean, std)]
    return Normalization(method, *each, clip=clip, low=None if low is None else tuple(low))


def picture_normalization(
    method: str, bands: Sequence[Band], published: Mapping[str, tuple[float, float]]
) -> Normalization:
    """Pixels brought to [0, 1], 8-bit pictures by 255 and reflectance by its white, then standardized per color.

    Args:
        method: ``imagenet``, or ``own`` for what a model was published with.
        bands: red, green and blue ones.
        published: mean and standard deviation of pixels in [0, 1], by color.
    """
    _refuse(method, "is for red, green and blue, not", [b.name for b in bands if b.colour not in published])
    mean, std = zip(*(published[str(band.colour)] for band in bands), strict=True)
    return scaled(method, bands, unit=_unit_interval(bands, RGB_WHITE_DN), mean=mean, std=std, clip=True)


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
        return scaled(method, bands)
    if method in ("zscore", "stretch"):
        absent = [band.name for band in bands if band.name not in statistics or not statistics[band.name].std > 0]
        if absent:
            raise RequestError(
                f"--normalize {method}: no usable mean and standard deviation for {', '.join(absent)}; "
                "leave the band out or choose another --normalize"
            )
        pairs = [(statistics[band.name].mean, statistics[band.name].std) for band in bands]
        return standardized(method, bands, pairs) if method == "zscore" else stretched(method, bands, pairs, clip=True)
    if method == "ssl4eo":
        _refuse(method, "has no numbers for", [band.name for band in bands if band.name not in SSL4EO_S12])
        return standardized(method, bands, [SSL4EO_S12[band.name] for band in bands])
    if method == "reflectance":
        _refuse(method, "is for Sentinel-2 bands, not", [band.name for band in bands if band.sensor != "S2"])
        return scaled(method, bands, unit=REFLECTANCE_DN)
    if method == "imagenet":
        return picture_normalization("imagenet", bands, IMAGENET)
    if method == "satlas":
        _refuse(method, "has no scaling for decibels, of", [band.name for band in bands if band.sensor == "S1"])
        return scaled(method, bands, unit=_unit_interval(bands, SATLAS_WHITE_DN), clip=True)
    raise unknown("normalization", method, METHODS)


def _refuse(method: str, why: str, off: Sequence[str]) -> None:
    if off:
        raise RequestError(f"--normalize {method} {why} {', '.join(off)}; use zscore")


def _unit_interval(bands: Sequence[Band], white_dn: float) -> list[float]:
    """What brings 8-bit pictures, and digital numbers up to white, to [0, 1]."""
    return [255.0 if band.sensor == "RGB" else white_dn for band in bands]


def standardized(method: str, bands: Sequence[Band], numbers: Sequence[tuple[float, float]]) -> Normalization:
    """A z-score with a mean and a standard deviation for each band, in its native units."""
    return scaled(method, bands, mean=[mean for mean, _ in numbers], std=[std for _, std in numbers])


def stretched(
    method: str, bands: Sequence[Band], numbers: Sequence[tuple[float, float]], *, clip: bool
) -> Normalization:
    """Two standard deviations below the mean become 0, two above it 1, for each band."""
    low = [mean - 2 * std for mean, std in numbers]
    return scaled(method, bands, unit=[4 * std for _, std in numbers], clip=clip, low=low)
