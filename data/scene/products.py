"""Scenes found at a path: a raster, a folder of single-band rasters, a Sentinel-2 product, a STAC item, or many."""

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import numpy as np
import rasterio
from rasterio.enums import MaskFlags

from data.bands import KNOWN, RGB, SENTINEL2, Band, band_of_file, declared_bands, known_band
from data.errors import RequestError
from data.scene.raster import BLOCK_SIDE, BandFile, Scene, opened

RASTERS = (".tif", ".tiff", ".vrt", ".jp2")
SIDECAR = "dataset.json"  # names the bands of rasters beside it, as in `data.sources.folder`
SCL = re.compile(r"(^|[_.-])SCL(_\d+m)?$", re.IGNORECASE)
# Order of ``band_id`` in the metadata of Sentinel-2 products (ESA, Sentinel-2 Products Specification Document).
BAND_IDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
# STAC's common names of Sentinel-2 bands (electro-optical extension 1.1).
COMMON_NAMES = {
    "coastal": "B01", "blue": "B02", "green": "B03", "red": "B04", "rededge1": "B05", "rededge2": "B06",
    "rededge3": "B07", "rededge071": "B05", "rededge075": "B06", "rededge078": "B07", "nir": "B08", "nir08": "B8A",
    "nir09": "B09", "cirrus": "B10", "swir16": "B11", "swir22": "B12",
}  # fmt: skip


def find_scenes(root: Path) -> list[Scene]:
    """The scenes at a path, sorted by name.

    Args:
        root: a raster (GeoTIFF, VRT, JPEG 2000), a folder of single-band rasters, a Sentinel-2 product folder
            (``.SAFE``), a STAC item (``.json``), or a folder that holds several of these.

    Raises:
        RequestError: nothing there, no georeference, bands that are not known, or grids that do not fit together.
    """
    if not root.exists():
        raise RequestError(f"no scene at {root}; name a raster, a .SAFE folder, a STAC item or a folder of them")
    if (alone := _one(root)) is not None:
        return [alone]
    found = [scene for path in sorted(root.iterdir()) if (scene := _one(path)) is not None]
    if not found:
        raise RequestError(
            f"no scene in {root}; expected rasters ({', '.join(RASTERS)}), .SAFE folders, STAC items (.json) or "
            "folders of single-band rasters"
        )
    names = [scene.name for scene in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise RequestError(f"{root} contains two scenes with the name {twice[0]}; rename or move one")
    if len({scene.bands for scene in found}) > 1:
        other = next(scene for scene in found if scene.bands != found[0].bands)
        raise RequestError(
            f"{other.name} has the bands {_names(other.bands)}, {found[0].name} has {_names(found[0].bands)}; all "
            "scenes must have the same bands"
        )
    return found


def _one(path: Path) -> Scene | None:
    """The one scene at a path; None where there is none, or several."""
    if path.name.startswith("."):
        return None
    if path.is_dir():
        if metadata := sorted(path.glob("MTD_MSIL*.xml")):
            return _safe(path, metadata[0])
        return _band_folder(path)
    if path.suffix.lower() in RASTERS:
        return _raster(path)
    return _stac(path) if path.suffix.lower() == ".json" and path.name != SIDECAR else None


# ------------------------------------------------------------------------------------------- kinds of scenes


def _raster(path: Path) -> Scene:
    with opened(path) as source:
        count, names, dtype = source.count, list(source.descriptions), source.dtypes[0]
    bands: list[Band | None] = [known_band(name) for name in names]
    if declared := declared_bands(path.parent / SIDECAR):
        bands = [*declared]
    elif not any(bands) and count == 3 and dtype == "uint8":
        bands = list(RGB.values())
    elif count == 1 and bands == [None]:
        bands = [band_of_file(path.name)]
    if len(bands) != count or None in bands or len(set(bands)) < count:
        shown = ", ".join(name or "unnamed" for name in names)
        raise RequestError(
            f"the bands of {path} are not known ({count} of {dtype}: {shown}); name them in the raster's band "
            f'descriptions, or in {SIDECAR} beside it: {{"bands": ["B02", "B03", ...]}}'
        )
    return _scene(path.stem, [BandFile(band, path, n) for n, band in enumerate(bands, 1) if band is not None])


def _band_folder(folder: Path) -> Scene | None:
    """A folder whose rasters are each of one band and of different ones; None for any other folder."""
    rasters = [path for path in sorted(folder.iterdir()) if path.suffix.lower() in RASTERS]
    files, scl = _by_band(path for path in rasters)
    if not files or len(files) + (scl is not None) < len(rasters):
        return None
    for file in files:
        with opened(file.path) as source:
            if source.count != 1:
                return None
    return _scene(folder.name, files, scl=scl)


def _by_band(paths: Iterable[Path]) -> tuple[list[BandFile], Path | None]:
    """One file for each band that their names end in, the finest of several, and the scene classification."""
    found: dict[str, tuple[float, BandFile]] = {}
    classification = None
    for path in paths:
        if SCL.search(path.stem):
            classification = path
        elif band := band_of_file(path.name):
            resolution = re.search(r"_(\d+)m$", path.stem)
            rank = float(resolution[1]) if resolution else 0.0
            if band.name not in found or rank < found[band.name][0]:
                found[band.name] = (rank, BandFile(band, path))
    order = list(KNOWN)
    return sorted((file for _, file in found.values()), key=lambda file: order.index(file.band.name)), classification


def _safe(folder: Path, metadata: Path) -> Scene:
    """A Sentinel-2 Level-1C or Level-2A product."""
    try:
        root = ET.parse(metadata).getroot()
    except (ET.ParseError, OSError) as error:
        raise RequestError(f"cannot read {metadata} ({error}); restore the product") from error
    offsets = {
        BAND_IDS[int(node.get("band_id", -1))]: round(float(node.text or 0))
        for node in root.iter()
        if node.tag.rpartition("}")[2] in ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")
    }
    rasters = [path for path in sorted(folder.glob("GRANULE/*/IMG_DATA/**/*")) if path.suffix.lower() in RASTERS]
    files, scl = _by_band(path for path in rasters if "_TCI" not in path.name)
    if not files:
        raise RequestError(f"{folder} holds no rasters in GRANULE/*/IMG_DATA; restore the product")
    shifted = [
        BandFile(file.band, file.path, offset=offsets.get(file.band.name, 0), nodata=0) for file in files
    ]  # 0 is no data in every Sentinel-2 product
    return _scene(folder.name.removesuffix(".SAFE"), shifted, scl=scl)


def _stac(path: Path) -> Scene | None:
    """A STAC item whose assets are local files; None for other JSON."""
    try:
        item = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise RequestError(f"cannot read {path} ({error}); restore it, or move it away") from error
    if not isinstance(item, dict) or not isinstance(item.get("assets"), dict):
        return None
    files: dict[str, BandFile] = {}
    scl = None
    for key, asset in item["assets"].items():
        if key.lower() == "scl":
            scl = _href(path, asset)
        elif (band := _asset_band(key, asset)) and band.name not in files:
            files[band.name] = BandFile(band, _href(path, asset), offset=_asset_offset(asset))
    if not files:
        raise RequestError(f"{path}: no asset is of a known band; assets need eo:bands or keys such as B02 or blue")
    order = list(KNOWN)
    return _scene(
        str(item.get("id") or path.stem), sorted(files.values(), key=lambda f: order.index(f.band.name)), scl=scl
    )


def _asset_band(key: str, asset: dict[str, Any]) -> Band | None:
    described = asset.get("eo:bands") or asset.get("bands") or []
    if len(described) > 1:
        return None  # a picture, such as the thumbnail
    names = [described[0].get("name"), described[0].get("common_name")] if described else []
    names += [described[0].get("eo:common_name")] if described else []
    for name in (*names, key):
        band = known_band(name)
        if band is not None and band.sensor != "RGB":
            return band
        if str(name).lower() in COMMON_NAMES:
            return SENTINEL2[COMMON_NAMES[str(name).lower()]]
    return None


def _asset_offset(asset: dict[str, Any]) -> int:
    """The offset in digital numbers that an asset's scale and offset amount to."""
    about = next(iter(asset.get("raster:bands") or asset.get("bands") or []), {})
    scale, offset = about.get("scale", about.get("raster:scale")), about.get("offset", about.get("raster:offset"))
    return round(offset / scale) if scale and offset else 0


def _href(item: Path, asset: dict[str, Any]) -> Path:
    href = str(asset.get("href", ""))
    address = urlparse(href)
    if address.scheme not in ("", "file"):
        raise RequestError(f"{item}: {href} is not a local file; download the assets and name local files in href")
    return (item.parent / unquote(address.path if address.scheme else href)).resolve()


# ------------------------------------------------------------------------------------------- one grid


@dataclass(frozen=True)
class _Grid:
    path: Path
    crs: Any
    transform: rasterio.Affine
    height: int
    width: int
    block: tuple[int, int]
    lacking: bool


def _scene(name: str, files: Sequence[BandFile], *, scl: Path | None = None) -> Scene:
    """Check that files fit together, and take the finest grid.

    Raises:
        RequestError: a file without georeference, or of another coordinate reference system.
    """
    grids = {path: _grid(path) for path in dict.fromkeys([file.path for file in files] + ([scl] if scl else []))}
    finest = min(grids.values(), key=lambda grid: abs(grid.transform.determinant))
    for grid in grids.values():
        if grid.crs != finest.crs:
            raise RequestError(
                f"{grid.path} is in {_crs_text(grid.crs)}, {finest.path} in {_crs_text(finest.crs)}; reproject one "
                "of them first, for instance with gdalwarp -t_srs"
            )
    corner = finest.transform @ (finest.width, finest.height)
    rows, columns = (max(BLOCK_SIDE, side) for side in finest.block)
    return Scene(
        name=name,
        files=tuple(files),
        crs=_crs_text(finest.crs),
        transform=tuple(finest.transform)[:6],  # type: ignore[arg-type]  # six of nine
        height=finest.height,
        width=finest.width,
        block=(1, finest.width) if finest.block[1] >= finest.width else (rows, columns),
        scl=scl,
        lacking=scl is not None
        or any(grid.lacking for grid in grids.values())
        or any(file.nodata is not None for file in files)
        or not all(np.allclose(grid.transform @ (grid.width, grid.height), corner) for grid in grids.values()),
    )


def _grid(path: Path) -> _Grid:
    with opened(path) as source:
        if source.crs is None or source.transform.is_identity:
            raise RequestError(
                f"{path} has no georeference (coordinate reference system and transform); add it, for instance with "
                "gdal_translate -a_srs EPSG:32632 -a_ullr ULX ULY LRX LRY"
            )
        if source.dtypes[0].startswith("complex"):
            raise RequestError(f"{path} holds complex numbers; save their amplitude, or decibels")
        masked = any(flags == [MaskFlags.per_dataset] for flags in source.mask_flag_enums)
        declared = any(value is not None for value in source.nodatavals)
        floats = np.dtype(source.dtypes[0]).kind == "f"
        about = (path, source.crs, source.transform, source.height, source.width, source.block_shapes[0])
        return _Grid(*about, masked or declared or floats)


def _crs_text(crs: Any) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.to_wkt()


def _names(bands: Sequence[Band]) -> str:
    return ", ".join(band.name for band in bands)
