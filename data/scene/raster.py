"""One scene as files of bands on one pixel grid, read window by window."""

import atexit
import os
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # what damage raises that rasterio does not wrap
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from data.bands import Band
from data.declared import Declared, Values, declare, honoured
from data.errors import RequestError

CACHE_BYTES = 2**26  # of decoded blocks, per process: windows are read block by block, see `Scene.block`
BLOCK_SIDE = 512  # pixels, at least, of what is read together
FILES_OPEN = 64
# Sentinel-2 scene classification (Level-2A product format): no data, saturated, cloud shadow, clouds, cirrus.
SCL_INVALID = (0, 1, 3, 8, 9, 10)


@dataclass(frozen=True)
class BandFile:
    """Where one band of a scene is.

    Args:
        band: what it is.
        path: the raster.
        index: of the band in the raster, from 1.
        offset: added to the stored values that are measurements, which stay at least 0: the offset of Sentinel-2
            products since processing baseline 04.00.
        nodata: a stored value that is no measurement although the raster does not say so.
    """

    band: Band
    path: Path
    index: int = 1
    offset: int = 0
    nodata: int | None = None


@dataclass(frozen=True)
class Scene:
    """Bands on the pixel grid of the finest of them.

    Args:
        name: unique among the scenes of a dataset.
        files: one for each band.
        crs: coordinate reference system.
        transform: of the finest grid, as (a, b, c, d, e, f).
        height: pixels of the finest grid.
        width: pixels of the finest grid.
        block: rows and columns of pixels whose windows are read one after another, so that the file's blocks are
            decoded once: one row where these are as wide as the scene.
        scl: raster of the Sentinel-2 scene classification, whose clouds and shadows are no measurements.
        lacking: whether some pixels may be no measurements.
    """

    name: str
    files: tuple[BandFile, ...]
    crs: str
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int
    block: tuple[int, int]
    scl: Path | None = None
    lacking: bool = False

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands, in the scene's order."""
        return tuple(file.band for file in self.files)

    @cached_property
    def paths(self) -> list[Path]:
        """Every file that is read, each once, sorted: rasters, masks beside them, and what VRTs refer to."""
        rasters = {file.path for file in self.files} | ({self.scl} if self.scl else set())
        return sorted({path for raster in rasters for path in _files_of(raster)})

    def read(self, rows: tuple[int, int], columns: tuple[int, int], bands: Sequence[Band]) -> list[Values]:
        """Read some bands of a window; those of coarser files have each value repeated on the finest grid.

        Args:
            rows: first row and the row after the last, which may be beyond the scene: no measurement there.
            columns: likewise.
            bands: which.

        Returns:
            (H, W) pixels for each band, and where they are no measurements.

        Raises:
            RequestError: a file cannot be read.
        """
        by_name = {file.band.name: file for file in self.files}
        values = [self._read_band(by_name[band.name], rows, columns) for band in bands]
        if self.scl is None:
            return values
        stored = self._read_stored(self.scl, 1, rows, columns)[0]
        cloudy = np.isin(stored, SCL_INVALID)
        return [Values(one.pixels, cloudy if one.invalid is None else cloudy | one.invalid) for one in values]

    def _read_band(self, file: BandFile, rows: tuple[int, int], columns: tuple[int, int]) -> Values:
        stored, outside, declared, mask = self._read_stored(file.path, file.index, rows, columns)
        pixels, invalid = honoured(stored, declared, 0, band=file.band)
        zero = stored == file.nodata if file.nodata is not None else None
        for more in (mask, outside, zero):
            if more is not None and more.any():
                invalid = more if invalid is None else invalid | more
        return Values(shifted(pixels, file.offset) if file.offset else pixels, invalid)

    def _read_stored(
        self, path: Path, index: int, rows: tuple[int, int], columns: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray | None, Declared | None, np.ndarray | None]:
        """Stored values on the finest grid, where that is outside the scene, what is declared, and the file's mask."""
        inside_rows, inside_columns = (min(rows[1], self.height), min(columns[1], self.width))
        with opened(path, self) as source:
            take_rows, first_row = _taken(rows[0], inside_rows, self.height, source.height)
            take_columns, first_column = _taken(columns[0], inside_columns, self.width, source.width)
            window = Window(first_column, first_row, take_columns[-1] + 1, take_rows[-1] + 1)  # type: ignore[call-arg]  # attrs
            stored = source.read(index, window=window)[np.ix_(take_rows, take_columns)]
            about = ([values[index - 1]] for values in (source.nodatavals, source.scales, source.offsets))
            declared, mask = declare(np.dtype(source.dtypes[index - 1]), *about), None
            if source.mask_flag_enums[index - 1] == [MaskFlags.per_dataset]:
                mask = source.read_masks(index, window=window)[np.ix_(take_rows, take_columns)] == 0
        short = (rows[1] - inside_rows, columns[1] - inside_columns)
        if not any(short):
            return stored, None, declared, mask
        pad = ((0, short[0]), (0, short[1]))
        outside = np.pad(np.zeros(stored.shape, bool), pad, constant_values=True)
        mask = None if mask is None else np.pad(mask, pad, constant_values=True)
        return np.pad(stored, pad), outside, declared, mask


def _files_of(raster: Path) -> set[Path]:
    """A raster, what GDAL reads with it (masks, metadata, the sources of a VRT), and what it reads with those."""
    found, waiting = {raster}, [raster]
    while waiting:
        with opened(waiting.pop()) as source:
            new = {path for path in map(Path, source.files) if path.is_file()} - found
        found |= new
        waiting += [path for path in new if path.suffix.lower() in (".tif", ".tiff", ".vrt", ".jp2")]
    return found


def _taken(start: int, stop: int, fine: int, coarse: int) -> tuple[np.ndarray, int]:
    """Which of the coarse pixels read lie under the fine pixels from `start` to `stop`, and the first one read."""
    places = np.arange(start, stop) * coarse // fine
    return places - places[0], int(places[0])


def shifted(pixels: np.ndarray, offset: int) -> np.ndarray:
    """Digital numbers with an offset added, at least 0, in their own type."""
    if pixels.dtype.kind == "f":
        return np.maximum(pixels + pixels.dtype.type(offset), 0)
    return np.maximum(pixels.astype(np.int32) + offset, 0).astype(pixels.dtype)


# ------------------------------------------------------------------------------------------- open files

_local = threading.local()  # GDAL's readers belong to one thread; they keep decoded blocks as long as they are open


@atexit.register
def close_readers() -> None:
    """Close what this thread has open; GDAL reports errors where Python closes its readers as it ends."""
    while readers := getattr(_local, "readers", None):
        readers.popitem()[1].close()


@contextmanager
def opened(path: Path, scene: Scene | None = None) -> Iterator["rasterio.DatasetReader | WarpedVRT"]:
    """A raster, kept open for the next window; on the scene's grid where its own differs in more than resolution.

    Raises:
        RequestError: it cannot be read.
    """
    if getattr(_local, "process", None) != os.getpid():  # readers of a parent process cannot be used here
        _local.readers, _local.process = OrderedDict(), os.getpid()
    readers: OrderedDict[tuple, rasterio.DatasetReader | WarpedVRT] = _local.readers
    try:
        with rasterio.Env(GDAL_CACHEMAX=CACHE_BYTES):
            about = path.stat()
            key = (str(path), about.st_mtime_ns, about.st_size, scene.transform if scene else None)
            if key not in readers:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", NotGeoreferencedWarning)  # an error says so, where it matters
                    source = rasterio.open(path)
                readers[key] = source if scene is None or _same_place(source, scene) else _regridded(source, scene)
                if len(readers) > FILES_OPEN:
                    readers.popitem(last=False)[1].close()
            readers.move_to_end(key)
            yield readers[key]
    except (RasterioError, CPLE_BaseError, OSError, ValueError) as error:
        why = str(error.__cause__ or error).removesuffix(".")  # rasterio refers to what GDAL said
        raise RequestError(f"cannot read {path} ({why}); restore or replace it, or move it away") from error


def _same_place(source: rasterio.DatasetReader, scene: Scene) -> bool:
    """Whether a raster covers exactly the scene, at whatever resolution."""
    a, b, _, d, e, _ = scene.transform
    corners, wanted = (
        [rasterio.Affine(*grid.transform[:6]) @ place for place in ((0, 0), (0, grid.height), (grid.width, 0))]
        for grid in (source, scene)
    )
    return bool(np.abs(np.subtract(corners, wanted)).max() < 0.01 * max(abs(a), abs(b), abs(d), abs(e)))


def _regridded(source: rasterio.DatasetReader, scene: Scene) -> WarpedVRT:
    """A raster whose grid does not fit the scene's, by nearest neighbor on that."""
    return WarpedVRT(
        source,
        crs=scene.crs,
        transform=rasterio.Affine(*scene.transform),
        width=scene.width,
        height=scene.height,
        nodata=source.nodata if source.nodata is not None else 0,
    )
