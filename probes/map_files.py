"""Maps as files: class and probability rasters (Cloud Optimized GeoTIFF), a mosaic of several, or polygons."""

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import rasterio
import rasterio.shutil
from joblib import effective_n_jobs
from rasterio.enums import ColorInterp
from rasterio.io import MemoryFile

from data.checksums import published_signed
from data.errors import RequestError
from data.files import published, write_text
from data.folders import published_folder
from data.runs import Run
from data.scene.grid import grids_of
from probes.map_polygons import write_polygons
from probes.maps import SceneMap, features_of, scene_maps

SUFFIXES = (".tif", ".vrt", ".gpkg", ".geojson", ".parquet")
NODATA = 0  # of the class raster; classes count from 1
BLOCK = 256
# Okabe and Ito's palette for color-blind readers, then paler and darker ones: https://jfly.uni-koeln.de/color.
COLOURS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66),
    (110, 110, 110), (102, 61, 20), (136, 204, 136), (170, 68, 153), (17, 119, 51), (136, 34, 85), (221, 204, 119),
    (51, 34, 136), (170, 221, 221), (190, 190, 190), (255, 175, 175), (80, 80, 0), (0, 80, 80),
)  # fmt: skip


def colour(number: int) -> tuple[int, int, int]:
    """Red, green and blue of a class, counted from 0."""
    return COLOURS[number % len(COLOURS)]


def map_run(run: Run, to: Path, *, n_jobs: int = -1) -> list[Path]:
    """Map all windows of the scenes that a run was trained on; returns the files written.

    Args:
        run: a finished run.
        to: see `write_maps`.
        n_jobs: blocks of windows scored at a time, -1 for one per core.

    Raises:
        RequestError: see `write_maps` and `probes.maps.features_of`.
    """
    if to.suffix not in SUFFIXES:
        raise RequestError(f"--to {to}: the name of a map must end in {', '.join(SUFFIXES)}")
    features = features_of(run)
    scenes = len(grids_of(features.identity["dataset"]["provenance"]))
    return write_maps(scene_maps(run, features, n_jobs=effective_n_jobs(n_jobs)), to, scenes=scenes)


def write_maps(maps: Iterable[SceneMap], to: Path, *, scenes: int) -> list[Path]:
    """Write the maps of all scenes.

    Args:
        maps: one for each scene.
        to: ``.tif`` of one scene, with the probabilities in ``<name>-probability.tif`` beside it; ``.vrt``, a mosaic of
            the scenes' rasters in a folder of that name; or ``.gpkg``, ``.geojson`` and ``.parquet``, polygons.
        scenes: how many there are.

    Returns:
        The files written.

    Raises:
        RequestError: several scenes in one raster, or a full disk.
    """
    if to.suffix == ".tif":
        if scenes > 1:
            raise RequestError(f"--to {to}: there are {scenes} scenes; give a name that ends in .vrt for a mosaic")
        return write_rasters(next(iter(maps)), to)
    if to.suffix == ".vrt":
        return _write_mosaic(maps, to)
    return [write_polygons(maps, to)]


def write_rasters(one: SceneMap, to: Path) -> list[Path]:
    """Write a class raster and, beside it, the probabilities.

    The class raster is uint8, 0 where there is no data, with a color table and, in the tag ``class_names``, the names
    by number. The probabilities are float32, NaN where there is no data, a band for each class.
    """
    if len(one.class_names) > 255:
        raise RequestError(f"--to {to}: {len(one.class_names)} classes; a class raster holds at most 255")
    names = {str(number): name for number, name in enumerate(one.class_names, 1)}
    probability = to.with_name(f"{to.stem}-probability.tif")
    table = {number: (*colour(number - 1), 255) for number in range(1, len(one.class_names) + 1)}
    with published(probability) as temporary:
        shown = one.probability
        _cog(temporary, one, shown, nodata=float("nan"), names=one.class_names, resampling="AVERAGE")
    with published_signed(to, [probability]) as temporary:
        shown = one.classes[None]
        _cog(temporary, one, shown, nodata=NODATA, names=("class",), resampling="MODE", table=table, tags=names)
    return [to, probability]


def _cog(
    to: Path,
    one: SceneMap,
    pixels: np.ndarray,
    *,
    nodata: float,
    names: Sequence[str],
    resampling: str,
    table: dict[int, tuple[int, int, int, int]] | None = None,
    tags: dict[str, str] | None = None,
) -> None:
    count, height, width = pixels.shape
    about: dict[str, Any] = {
        "driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype.name,
        "crs": one.grid.crs, "transform": one.grid.cell_affine, "nodata": nodata,
    }  # fmt: skip
    with MemoryFile() as memory:
        with memory.open(**about) as source:
            source.write(pixels)
            for number, name in enumerate(names, 1):
                source.set_band_description(number, name)
            if tags:
                source.update_tags(class_names=json.dumps(tags, ensure_ascii=False))
            if table:
                source.colorinterp = [ColorInterp.palette]
                source.write_colormap(1, table)
        with memory.open() as source, MemoryFile() as packed:  # not GDAL itself: what it raises of a full disk varies
            rasterio.shutil.copy(
                source, packed.name, driver="COG", compress="DEFLATE", blocksize=BLOCK, overview_resampling=resampling,
                overviews="IGNORE_EXISTING",
            )  # fmt: skip
            to.write_bytes(packed.getbuffer())


# ------------------------------------------------------------------------------------------- mosaics


def _write_mosaic(maps: Iterable[SceneMap], to: Path) -> list[Path]:
    """A raster for each scene in the folder named like the mosaic, and virtual rasters that show all as one."""
    folder, parts, systems = to.with_suffix(""), [], set()
    with published_folder(folder) as temporary:
        for one in maps:
            write_rasters(one, temporary / f"{one.grid.name}.tif")
            parts.append(f"{one.grid.name}.tif")
            systems.add(one.grid.crs)
        if len(systems) > 1:
            raise RequestError(
                f"--to {to}: the scenes are in {' and '.join(sorted(systems))}; a mosaic needs one reference system: "
                "write polygons (.gpkg), or map the scenes of each system separately"
            )
    rasters = [[folder / f"{Path(part).stem}{suffix}.tif" for part in parts] for suffix in ("", "-probability")]
    probability = to.with_name(f"{to.stem}-probability.vrt")
    write_text(probability, virtual_raster(rasters[1], probability))
    with published_signed(to, [probability, *rasters[0], *rasters[1]]) as temporary:
        temporary.write_text(virtual_raster(rasters[0], to), encoding="utf-8")
    return [to, probability, folder]


def virtual_raster(files: Sequence[Path], beside: Path) -> str:
    """GDAL's VRT of rasters on one grid; where they overlap, the last one with data is shown."""
    with ExitStack() as stack:
        opened = [stack.enter_context(rasterio.open(file)) for file in files]
        first = opened[0]
        left, top = min(one.bounds.left for one in opened), max(one.bounds.top for one in opened)
        right, bottom = max(one.bounds.right for one in opened), min(one.bounds.bottom for one in opened)
        step_x, step_y = first.transform.a, -first.transform.e
        width, height = round((right - left) / step_x), round((top - bottom) / step_y)
        kind = {"uint8": "Byte", "float32": "Float32"}[first.dtypes[0]]
        names, bands = [file.relative_to(beside.parent).as_posix() for file in files], []
        for band in range(1, first.count + 1):
            sources = "".join(
                f'<ComplexSource><SourceFilename relativeToVRT="1">{escape(name)}</SourceFilename>'
                f"<SourceBand>{band}</SourceBand>"
                f'<SrcRect xOff="0" yOff="0" xSize="{one.width}" ySize="{one.height}"/>'
                f'<DstRect xOff="{(one.bounds.left - left) / step_x:.6f}" yOff="{(top - one.bounds.top) / step_y:.6f}" '
                f'xSize="{one.width}" ySize="{one.height}"/><NODATA>{first.nodata:g}</NODATA></ComplexSource>'
                for name, one in zip(names, opened, strict=True)
            )
            colours = ""
            if first.colorinterp[0] == ColorInterp.palette:
                table = first.colormap(1)
                entries = "".join('<Entry c1="{}" c2="{}" c3="{}" c4="{}"/>'.format(*table[n]) for n in range(256))
                colours = f"<ColorInterp>Palette</ColorInterp><ColorTable>{entries}</ColorTable>"
            description = escape(first.descriptions[band - 1] or "")
            bands.append(
                f'<VRTRasterBand dataType="{kind}" band="{band}"><Description>{description}</Description>'
                f"<NoDataValue>{first.nodata:g}</NoDataValue>{colours}{sources}</VRTRasterBand>"
            )
        known = {key: value for key, value in first.tags().items() if key != "AREA_OR_POINT"}
        tags = "".join(f"<MDI key={quoteattr(key)}>{escape(value)}</MDI>" for key, value in known.items())
        return (
            f'<VRTDataset rasterXSize="{width}" rasterYSize="{height}"><SRS>{escape(first.crs.to_wkt())}</SRS>'
            f"<GeoTransform>{left!r}, {step_x!r}, 0.0, {top!r}, 0.0, {-step_y!r}</GeoTransform>"
            f"<Metadata>{tags}</Metadata>{''.join(bands)}</VRTDataset>"
        )
