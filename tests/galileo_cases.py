"""Pixels on which Galileo is compared with its authors' code, and what that code made of them.

galileo_authors.npz holds (N, 128) for each case, written by `python -m tests.bench --only galileo_parity` with
https://github.com/nasaharvest/galileo (MIT License, Copyright (c) 2024 Presto Authors) and its nano weights.
"""

import io
import zipfile
from pathlib import Path

import numpy as np
import rasterio

from data.bands import BAND_SETS, SENTINEL1
from data.sources.eurosat import NAMES

VECTORS = Path(__file__).with_name("galileo_authors.npz")
S2 = BAND_SETS["s2-10"]
BOTH = ("VV", "VH", *S2)
# Cases of made-up pixels: bands and side.
MADE = {
    "S2, 64 px": (S2, 64),
    "S1 + S2, 32 px": (BOTH, 32),
    "S1, 30 px": (("VV", "VH"), 30),
    "RGB, 25 px": (("B02", "B03", "B04"), 25),
    "S2, 7 px": (S2, 7),
}
REAL = {"S2 tiles": S2, "S1 + S2 tiles": BOTH}
SIDE, RADAR_SIDE = 64, 120


def made(bands: tuple[str, ...], side: int, count: int = 2) -> np.ndarray:
    """(N, C, H, W) that any program can make again: dB from -25 to 0, digital numbers from 200 to 4,000."""
    place = np.arange(count * len(bands) * side * side, dtype=np.float64).reshape(count, len(bands), side, side)
    share = (place * 0.7548776662466927) % 1
    radar = np.array([name in SENTINEL1 for name in bands]).reshape(1, -1, 1, 1)
    return np.where(radar, -25 + 25 * share, 200 + 3800 * share).astype(np.float32)


def tile_names(shared: Path) -> list[str]:
    """All real 13-band EuroSAT tiles, sorted."""
    with _archive(shared) as archive:
        return sorted(Path(name).stem for name in archive.namelist() if name.endswith(".tif"))


def first_of_each_class(names: list[str]) -> list[str]:
    """The tiles whose vectors are kept."""
    return [*{name.rpartition("_")[0]: name for name in reversed(names)}.values()][::-1]


def tiles(shared: Path, names: list[str], bands: tuple[str, ...]) -> np.ndarray:
    """(N, C, 64, 64) as the files hold them; Sentinel-1 is a window of a real patch of another place."""
    made, numbers = [], [NAMES.index(band) + 1 for band in S2]
    with _archive(shared) as archive:
        places = {Path(name).stem: name for name in archive.namelist()}
        for name in names:
            with rasterio.open(io.BytesIO(archive.read(places[name]))) as tile:
                optical = tile.read(numbers).astype(np.float32)
            made.append(optical if bands == S2 else np.concatenate([radar_window(shared, name), optical]))
    return np.stack(made)


def radar_window(shared: Path, name: str) -> np.ndarray:
    """(2, 64, 64) VV and VH in decibels, of one of the four real Sentinel-1 patches, drawn by a tile's name."""
    files = sorted((shared / "data").glob("bigearthnet-v*/**/*_VV.tif"))
    rng = np.random.default_rng(list(name.encode()))
    vv, (row, column) = files[rng.integers(len(files))], rng.integers(0, RADAR_SIDE - SIDE, 2)
    bands = []
    for file in (vv, vv.with_name(vv.name.replace("_VV.tif", "_VH.tif"))):
        with rasterio.open(file) as opened:
            bands.append(opened.read(1)[row : row + SIDE, column : column + SIDE])
    return np.stack(bands)


def _archive(shared: Path) -> zipfile.ZipFile:
    return zipfile.ZipFile(shared / "data" / "eurosat-ms" / "EuroSATallBands.zip")
