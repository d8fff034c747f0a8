"""Rasters with an embedding per pixel, AlphaEarth's and TESSERA's: sampled at points, or pooled over polygons.

Sources of the formats: the annual embeddings of AlphaEarth Foundations (64 bands; int8 v stands for
sign(v) (v / 127.5)^2, -128 for no data) and the tiles of geotessera (128 channels: GeoTIFF, or int8 ``.npy`` times the
pixels' ``_scales.npy``, with the georeference of a GeoTIFF of the same name).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from data.command import progress
from data.errors import RequestError
from data.scene.shapes import read_vector
from data.store.exchange.embeddings import BLOCK_ROWS, IDS, Embeddings, ToLonlat

DIMENSIONS = {"alphaearth": 64, "tessera": 128}
POOLINGS = ("mean", "mean+std+min+max")
SUFFIXES = (".tif", ".tiff", ".vrt", ".npy")
BLOCK_PIXELS = 2**17  # read at a time


@dataclass(frozen=True, kw_only=True)
class RasterEmbeddings(Embeddings):
    """Vectors sampled from rasters; see `Embeddings`.

    Args:
        vectors: (N, D); NaN where a place has no pixel with a measurement.
        places: N points or polygons, WGS 84.
    """

    vectors: Float32[np.ndarray, "samples dim"]
    places: Shaped[np.ndarray, " samples"]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """See `Embeddings.blocks`."""
        for start in range(0, self.rows, BLOCK_ROWS):
            yield start, self.vectors[start : start + BLOCK_ROWS]

    def digest(self) -> str:
        """See `Embeddings.digest`; of the vectors, as rasters may be of many gigabytes."""
        return hashlib.sha256(np.ascontiguousarray(self.vectors)).hexdigest()

    @property
    def shapes(self) -> tuple[Shaped[np.ndarray, " samples"], ToLonlat]:
        """See `Embeddings.shapes`."""
        return self.places, np.asarray


def open_rasters(path: Path, product: str, at: Path | None, pooling: str | None) -> RasterEmbeddings:
    """Sample rasters of embeddings at points, or pool them over polygons.

    Args:
        path: a raster, or a folder of them.
        product: ``alphaearth`` or ``tessera``.
        at: points or polygons (GeoPackage, GeoJSON, shapefile, GeoParquet, or a CSV with lon and lat); their columns
            become the columns of the set.
        pooling: of `POOLINGS`, for polygons; None means the mean.

    Raises:
        RequestError: no raster of this product, no places, or places that cannot be pooled as asked.
    """
    import shapely  # deferred: only for geometries

    if at is None:
        raise RequestError(f"--format {product} needs --at: a file of the points to sample or the polygons to pool")
    if pooling not in (None, *POOLINGS):
        raise RequestError(f"unknown --pooling '{pooling}'; choose from {', '.join(POOLINGS)}")
    frame = read_vector(at)
    if frame.crs is None:
        raise RequestError(
            f"{at} has no coordinate reference system; write it with one, for instance with ogr2ogr -a_srs"
        )
    frame = frame[frame.geometry.notna() & ~frame.geometry.is_empty].reset_index(drop=True)
    if not len(frame):
        raise RequestError(f"{at} has no geometries")
    kinds = shapely.get_type_id(np.array(frame.geometry))
    points = kinds == shapely.GeometryType.POINT
    if not np.isin(kinds, (0, 3, 6)).all():
        raise RequestError(f"{at} has geometries other than points and polygons; remove them")
    if points.any() and pooling == POOLINGS[1]:
        raise RequestError(f"--pooling {pooling} needs polygons, and {at} has points: one pixel has no spread")
    rasters = [_open(file, product) for file in _files(path)]
    if not rasters:
        raise RequestError(f"{path} has no raster of embeddings: {', '.join(SUFFIXES)}")
    pooled = _Pool(len(frame), DIMENSIONS[product])
    with progress(f"reading {product}", len(rasters), "rasters") as advance:
        for raster in rasters:
            pooled.add(raster, np.array(frame.geometry.to_crs(raster.crs)))
            advance(1)
    vectors = pooled.result(pooling or "mean")
    columns = frame.drop(columns=frame.geometry.name)
    return RasterEmbeddings(
        file=path, rows=len(frame), dim=vectors.shape[1], dtype="float32", columns=columns,
        id_column=next((name for name in IDS if name in columns), None), lonlat_columns=(), model=product,
        metadata={"at": at.name, "rasters": sorted(raster.file.name for raster in rasters)},
        pooling="pixel" if points.all() else pooling or "mean", vectors=vectors,
        places=np.array(frame.geometry.to_crs("OGC:CRS84")),
    )  # fmt: skip


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise RequestError(f"nothing at {path}; give a raster of embeddings, or a folder of them")
    found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
    arrays = {file.stem for file in found if file.suffix == ".npy"}  # a GeoTIFF of that name is their georeference
    vrts = {file.stem for file in found if file.suffix == ".vrt"}  # turns a bottom-up GeoTIFF of that name around
    return [
        file
        for file in found
        if (file.suffix == ".npy" and not file.stem.endswith("_scales"))
        or file.suffix == ".vrt"
        or (file.suffix not in (".npy", ".vrt") and file.stem not in arrays | vrts)
    ]


@dataclass(frozen=True)
class _Raster:
    """A raster with D values per pixel.

    Args:
        file: for messages.
        crs: coordinate reference system.
        transform: affine, from (column, row) to coordinates.
        shape: rows and columns.
        read: (slice of rows, slice of columns) to (D, h, w) float32, NaN without a measurement.
    """

    file: Path
    crs: Any
    transform: Any
    shape: tuple[int, int]
    read: Any


def _open(file: Path, product: str) -> _Raster:
    import rasterio  # deferred: only for rasters
    from rasterio.errors import RasterioIOError
    from rasterio.windows import Window

    wanted = DIMENSIONS[product]
    try:
        if file.suffix == ".npy":
            return _open_tessera(file, product)
        source = rasterio.open(file)
    except (RasterioIOError, OSError, ValueError) as error:
        raise RequestError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
    if source.count != wanted or source.crs is None:
        what = f"{source.count} bands" if source.count != wanted else "no georeference"
        raise RequestError(f"--format {product}: {file} has {what}; expected {wanted} georeferenced bands")

    def read(rows: slice, columns: slice) -> np.ndarray:
        values = source.read(window=Window.from_slices(rows, columns), masked=True)
        pixels = values.astype(np.float32).filled(np.nan)
        if values.dtype == np.int8:
            pixels[values.data == -128] = np.nan  # also where the file does not declare it
            pixels = np.sign(pixels) * np.square(pixels / np.float32(127.5))
        return pixels

    return _Raster(file, source.crs, source.transform, source.shape, read)


def _open_tessera(file: Path, product: str) -> _Raster:
    """A tile as geotessera downloads it."""
    import rasterio

    scales_file = file.with_name(f"{file.stem}_scales.npy")
    beside = (file.parent, *(up / "landmasks" for up in file.parents[:3]))
    found = [folder / f"{file.stem}{suffix}" for folder in beside for suffix in (".tiff", ".tif")]
    place = next((one for one in found if one.is_file()), None)
    if product != "tessera" or not scales_file.is_file() or place is None:
        raise RequestError(
            f"--format {product}: {file} is no TESSERA tile with {file.stem}_scales.npy and {file.stem}.tiff beside it"
        )
    values, scales = (np.load(one, mmap_mode="r", allow_pickle=False) for one in (file, scales_file))
    with rasterio.open(place) as source:
        crs, transform, shape = source.crs, source.transform, source.shape
    if values.ndim != 3 or values.shape != (*shape, DIMENSIONS[product]) or scales.shape != shape:
        raise RequestError(
            f"{file} is {values.shape}, its scales {scales.shape} and its georeference {shape}: not a tile"
        )

    def read(rows: slice, columns: slice) -> np.ndarray:
        return np.moveaxis(values[rows, columns] * scales[rows, columns, None].astype(np.float32), -1, 0)

    return _Raster(file, crs, transform, shape, read)


class _Pool:
    """Count, sum, sum of squares, minimum and maximum of the pixels of N places, over all rasters.

    A pixel that two tiles share is counted in both.
    """

    def __init__(self, places: int, dim: int) -> None:
        self.count = np.zeros((places, 1))
        self.sum, self.squares = np.zeros((places, dim)), np.zeros((places, dim))
        self.least, self.most = np.full((places, dim), np.inf), np.full((places, dim), -np.inf)

    def add(self, raster: _Raster, shapes: np.ndarray) -> None:
        """Add the pixels of a raster whose centers are in the shapes, (N,), in its coordinates."""
        import shapely

        bounds = shapely.bounds(shapes)
        columns, rows = ~raster.transform @ (bounds[:, [0, 2]].T, bounds[:, [1, 3]].T)
        first = np.floor(np.column_stack([rows.min(axis=0), columns.min(axis=0)])).clip(0)
        last = np.floor(np.column_stack([rows.max(axis=0), columns.max(axis=0)])) + 1
        last = np.minimum(last, raster.shape)
        here = np.flatnonzero((first < last).all(axis=1))
        for place in here[np.lexsort(first[here].T[::-1])]:  # neighbors in turn, as blocks of the file are cached
            top, left = map(int, first[place])
            bottom, right = map(int, last[place])
            step = max(1, BLOCK_PIXELS // (right - left))
            for start in range(top, bottom, step):
                part = slice(start, min(start + step, bottom)), slice(left, right)
                self._add(place, raster.read(*part)[:, _within(shapes[place], raster, *part)])

    def _add(self, place: int, pixels: Float32[np.ndarray, "dim pixels"]) -> None:
        pixels = pixels[:, np.isfinite(pixels).all(axis=0)].astype(np.float64)
        if pixels.shape[1]:
            self.count[place] += pixels.shape[1]
            self.sum[place] += pixels.sum(axis=1)
            self.squares[place] += np.square(pixels).sum(axis=1)
            self.least[place] = np.minimum(self.least[place], pixels.min(axis=1))
            self.most[place] = np.maximum(self.most[place], pixels.max(axis=1))

    def result(self, pooling: str) -> Float32[np.ndarray, "samples dim"]:
        """(N, D) or (N, 4 D) float32; NaN for a place without a pixel."""
        with np.errstate(invalid="ignore"):
            mean = self.sum / self.count
            if pooling == "mean":
                return mean.astype(np.float32)
            std = np.sqrt((self.squares / self.count - mean**2).clip(0))
        return np.hstack([mean, std, self.least, self.most]).astype(np.float32)


def _within(shape: Any, raster: _Raster, rows: slice, columns: slice) -> np.ndarray:
    """(h, w) whether pixels' centers are in a polygon; the pixel of a point, and of a polygon smaller than a pixel."""
    import shapely

    grid = np.meshgrid(np.arange(columns.start, columns.stop) + 0.5, np.arange(rows.start, rows.stop) + 0.5)
    inside = shapely.contains_xy(shape, *(raster.transform @ tuple(grid)))
    if inside.any() or shape.area > abs(raster.transform.determinant):
        return inside
    point = shapely.centroid(shape)
    column, row = ~raster.transform @ (point.x, point.y)
    return (np.floor(grid[0]) == np.floor(column)) & (np.floor(grid[1]) == np.floor(row))
