"""Channels of images as other collections store them: GEO-Bench's and torchgeo's copies of the same datasets."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from data.bands import BAND_SETS, SENTINEL1, SENTINEL2, Band

REFLECTANCE = 10_000.0  # digital numbers of Sentinel-2 are 10,000 times the reflectance


class Channel(NamedTuple):
    """One channel of an image; its values times `factor` are in the band's usual unit."""

    band: Band
    factor: float = 1.0


def sentinel2(*names: str, factor: float = 1.0) -> tuple[Channel, ...]:
    """Channels of Sentinel-2."""
    return tuple(Channel(SENTINEL2[name], factor) for name in names)


def other(*names: str, gsd_m: float | None = None) -> tuple[Channel, ...]:
    """Channels without a wavelength."""
    return tuple(Channel(Band(name, "other", None, gsd_m)) for name in names)


def in_unit(values: Shaped[np.ndarray, "height width"], factor: float) -> Shaped[np.ndarray, "height width"]:
    """Values in the band's usual unit, float32; as they are where the factor is 1."""
    return values if factor == 1 else (values.astype(np.float64) * factor).astype(np.float32)


S2_12 = sentinel2(*BAND_SETS["s2-12"])
VV_VH = (Channel(SENTINEL1["VV"]), Channel(SENTINEL1["VH"]))
# So2Sat (doi:10.1109/MGRS.2020.2964708): complex and Lee-filtered radar, none of it in dB; reflectance.
SO2SAT_RADAR = other(
    "VH_real", "VH_imag", "VV_real", "VV_imag", "VH_lee", "VV_lee", "VH_lee_real", "VV_lee_imag", gsd_m=10
)
SO2SAT = sentinel2(*BAND_SETS["s2-10"], factor=REFLECTANCE)
# TreeSatAI (doi:10.5194/essd-15-681-2023): 20 cm color-infrared pictures of 8 bits; Sentinel-1 in dB.
AERIAL = (
    Channel(Band("nir", "other", 0.83, 0.2)),
    Channel(Band("green", "other", 0.56, 0.2, "green")),
    Channel(Band("blue", "other", 0.49, 0.2, "blue")),
    Channel(Band("red", "other", 0.665, 0.2, "red")),
)
TREE_SAT_RADAR = (*VV_VH, *other("VV_VH_ratio", gsd_m=10))
TREE_SAT_OPTICAL = sentinel2("B02", "B03", "B04", "B08", "B05", "B06", "B07", "B8A", "B11", "B12", "B01", "B09")
# Landsat 8 (USGS): center wavelengths; ForestNet's pictures are pansharpened to 15 m and stretched to 8 bits.
LANDSAT = (
    Channel(Band("blue", "other", 0.482, 15, "blue")),
    Channel(Band("green", "other", 0.561, 15, "green")),
    Channel(Band("red", "other", 0.655, 15, "red")),
    Channel(Band("nir", "other", 0.865, 15)),
    Channel(Band("swir1", "other", 1.609, 15)),
    Channel(Band("swir2", "other", 2.201, 15)),
)
