"""Reading JPEG, PNG and TIFF files into band arrays, and what their headers tell without the pixels.

Plain TIFFs, as EuroSAT and BigEarthNet are stored (in strips, not compressed or by deflate), are read straight from
their bytes: GDAL spends a millisecond on opening a file of a few kilobytes. All others go through rasterio.
"""

import io
import itertools
import mmap
import os
import struct
import warnings
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from data.errors import RequestError

FAILURES = (RasterioError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)
SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
ONE_READ = 2**16  # bytes; every file of BigEarthNet is smaller


@dataclass(frozen=True)
class Header:
    """What a file says about itself before its pixels are read.

    Args:
        count: number of bands.
        dtype: numpy name of the pixels' type.
        names: the bands' names where the file gives them, else None for each.
        crs: coordinate reference system as pyproj takes it, None if the file has none.
        centre: x and y of the image's centre in that system.
    """

    count: int
    dtype: str
    names: tuple[str | None, ...]
    crs: str | None = None
    centre: tuple[float, float] | None = None


def read_header(path: Path, *, alpha: bool = False) -> Header:
    """Read a file's header.

    Args:
        path: a JPEG, PNG or TIFF file.
        alpha: count the fourth channel of an RGBA picture as a band.

    Raises:
        RequestError: the file is absent, damaged, or of another kind.
    """
    try:
        start = _first_bytes(path)
        if _is_tiff(start):
            return _plain_header(path) or _rasterio_header(path)
        if _is_deep_png(start):
            return _rasterio_header(path)
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            bands = len(_mode(image, alpha=alpha))
            return Header(bands, "uint8", (None,) * bands)
    except FAILURES as error:
        raise _unreadable(path, error) from error


def read_bands(path: Path | str, indices: Sequence[int], *, count: int, alpha: bool = False) -> list[np.ndarray]:
    """Read some bands of a file.

    Args:
        path: a JPEG, PNG or TIFF file.
        indices: which bands, counted from 0.
        count: how many bands the file must have.
        alpha: as for `read_header`. Otherwise the alpha channel must be opaque and is left out, and a palette
            is looked up.

    Returns:
        A (H, W) array for each index, in the file's own type.

    Raises:
        RequestError: the file is absent, damaged or of another kind, has another number of bands, or is partly
            transparent.
    """
    try:
        data = _contents(path)
        if not _is_tiff(data) and not _is_deep_png(data):
            pixels = _picture(data, alpha=alpha)
        elif (pixels := _plain_pixels(data)) is None:
            with _opened(Path(path)) as source:
                _check_count(path, source.count, count)
                return list(source.read([index + 1 for index in indices]))
    except FAILURES as error:
        raise _unreadable(path, error) from error
    _check_count(path, pixels.shape[2], count)
    return [np.array(pixels[:, :, index], order="C") for index in indices]  # copies: writable and aligned


def _unreadable(path: Path | str, error: Exception) -> RequestError:
    """Any way in which a file cannot be read as one RequestError that names it."""
    if isinstance(error, FileNotFoundError):
        return RequestError(f"no file {path}; it is listed but absent: restore it or drop it from the list")
    why = str(error).removesuffix(".").replace(f" {str(path)!r}", "")  # the path is named already
    return RequestError(f"cannot read {path} ({why}); restore, replace or remove it")


def _contents(path: Path | str) -> bytes:
    """All bytes of a file; Python's own file objects take twice as long to open one."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(handle, ONE_READ)
        if len(data) == ONE_READ:
            with open(handle, "rb", closefd=False) as rest:
                data += rest.read()
    finally:
        os.close(handle)
    return data


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(26)


def _is_tiff(start: bytes) -> bool:
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def _is_deep_png(start: bytes) -> bool:
    # Pillow quietly reduces 16-bit colour to 8 bits; byte 24 of a PNG is its bit depth
    return start[:8] == b"\x89PNG\r\n\x1a\n" and start[24:25] == b"\x10"


# --- pictures


def _mode(image: Image.Image, *, alpha: bool) -> str:
    """The mode to read a picture in: one letter a band."""
    if image.mode in ("1", "L"):
        return "L"
    if image.mode in ("RGB", "P"):
        return "RGB"
    if image.mode == "RGBA":
        return "RGBA" if alpha else "RGB"
    raise ValueError(f"its colour mode {image.mode} is not supported; save it as RGB")


def _picture(data: bytes, *, alpha: bool) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
        mode = _mode(image, alpha=alpha)
        if mode == "RGB" and image.mode != "RGB":  # a palette, or a fourth channel that is left out
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema() != (255, 255):
                raise ValueError("it is partly transparent, and transparent pixels have no value; save it as RGB")
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


# --- TIFF through rasterio


@contextmanager
def _opened(path: Path) -> Iterator[rasterio.DatasetReader]:
    driver = "PNG" if _is_deep_png(_first_bytes(path)) else "GTiff"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, driver=driver, sharing=False) as source:
            yield source


def _rasterio_header(path: Path) -> Header:
    with _opened(path) as source:
        if len(set(source.dtypes)) > 1:
            raise ValueError(f"its bands differ in type: {', '.join(source.dtypes)}")
        header = Header(source.count, source.dtypes[0], tuple(source.descriptions))
        if source.crs is None or source.transform.is_identity:
            return header
        to = source.transform
        column, row = source.width / 2, source.height / 2
        centre = (to.a * column + to.b * row + to.c, to.d * column + to.e * row + to.f)
        return replace(header, crs=source.crs.to_wkt(), centre=centre)


def _check_count(path: Path | str, count: int, expected: int) -> None:
    if count != expected:
        raise RequestError(f"{path} has {count} bands, {expected} were expected; replace or remove it")


# --- plain TIFF (Adobe, TIFF revision 6.0, 1992; OGC 19-008r4, GeoTIFF 1.1)

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, SAMPLES = 256, 257, 258, 259, 262, 273, 277
STRIP_ROWS, LENGTHS, PLANAR, PREDICTOR, TILE_WIDTH, SAMPLE_FORMAT = 278, 279, 284, 317, 322, 339
DECIDING = (BITS, OFFSETS, LENGTHS, SAMPLE_FORMAT)  # tags with a list, which may lie outside the directory
DEFLATE = (8, 32946)  # Adobe's number and the older one
PIXEL_SCALE, TIEPOINT, MATRIX, GEO_KEYS, GDAL_METADATA = 33550, 33922, 34264, 34735, 42112
FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d"}
KINDS = {1: "u", 2: "i", 3: "f"}
MODEL_TYPE, RASTER_TYPE, GEOGRAPHIC, PROJECTED = 1024, 1025, 2048, 3072
USER_DEFINED = 32767


@dataclass(frozen=True)
class _Strips:
    """Where the pixels of a plain TIFF lie.

    Args:
        dtype: of a value, in the file's byte order.
        shape: height, width, bands.
        planar: whether each band is stored on its own.
        deflated: whether each strip is compressed.
        differences: whether a row holds differences from pixel to pixel.
        pieces: first place, place after the last, and rows of each strip; strips that follow one another and are
            not compressed are one.
        learnt_from: places and bytes that said all this: another file with these has its pixels there too.
    """

    dtype: np.dtype
    shape: tuple[int, int, int]
    planar: bool
    deflated: bool
    differences: bool
    pieces: tuple[tuple[int, int, int], ...]
    learnt_from: tuple[tuple[int, bytes], ...]


# Parsing the tags takes longer than all else, and the files of a dataset differ in little but their pixels: what the
# tags said is kept by the files' size.
_KNOWN_STRIPS: dict[int, _Strips] = {}
KEEP_STRIPS = 1000


def _directory(data: bytes | mmap.mmap) -> tuple[str, int, int] | None:
    """Byte order, and first and last place, of a classic TIFF's first directory; None where there is none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return None
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    if start + 2 > len(data):
        return None
    (entries,) = struct.unpack_from(f"{order}H", data, start)
    stop = start + 2 + 12 * entries
    return None if stop > len(data) else (order, start, stop)


def _tags(data: bytes | mmap.mmap) -> tuple[str, dict[int, tuple], dict[int, tuple[str, int]]] | None:
    """Byte order, values of the tags, and their layouts and places, of a classic TIFF's first image.

    None where it is a BigTIFF or not well formed.
    """
    if (found := _directory(data)) is None:
        return None
    order, start, stop = found
    tags, places = {}, {}
    try:
        for entry in range(start + 2, stop, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
            if kind not in FORMATS or number == 0:
                continue
            layout = f"{order}{number}{FORMATS[kind]}"
            small = struct.calcsize(layout) <= 4
            at = entry + 8 if small else struct.unpack_from(f"{order}I", data, entry + 8)[0]
            tags[tag], places[tag] = struct.unpack_from(layout, data, at), (layout, at)
    except struct.error:
        return None
    return order, tags, places


def _pixel_type(order: str, tags: dict[int, tuple]) -> np.dtype | None:
    bits, kinds = set(tags.get(BITS, (1,))), set(tags.get(SAMPLE_FORMAT, (1,)))
    if len(bits) > 1 or len(kinds) > 1 or not bits < {8, 16, 32, 64} or not kinds <= set(KINDS):
        return None
    name = f"{KINDS[kinds.pop()]}{bits.pop() // 8}"
    return np.dtype(order + name) if name != "f1" else None


def _plain_pixels(data: bytes) -> np.ndarray | None:
    """(H, W, C) pixels of a TIFF in strips, uncompressed or deflated; None for any other, whole or damaged.

    Raises:
        ValueError: a compressed strip is damaged; GDAL may return its pixels nonetheless.
    """
    if (strips := _strips(data)) is None:
        return None
    height, width, count = strips.shape
    first, stop, _ = strips.pieces[0]
    if len(strips.pieces) == 1 and not strips.deflated:
        values = np.frombuffer(data, strips.dtype, height * width * count, first)
    else:
        joined = b"".join(_piece(data[first:stop], strips, rows) for first, stop, rows in strips.pieces)
        if len(joined) != height * width * count * strips.dtype.itemsize:
            return None  # some programs fill the last strip up
        values = np.frombuffer(joined, strips.dtype)
    if strips.dtype.byteorder == ">":
        values = values.astype(strips.dtype.newbyteorder("="))
    if not strips.planar:
        values = values.reshape(height, width, count)
        return values.cumsum(axis=1, dtype=values.dtype) if strips.differences else values  # wraps around, as it must
    values = values.reshape(count, height, width)
    return np.moveaxis(values.cumsum(axis=2, dtype=values.dtype) if strips.differences else values, 0, -1)


def _piece(stored: bytes, strips: _Strips, rows: int) -> bytes:
    """The values of a strip; one byte more than expected where there are more.

    Raises:
        ValueError: it is damaged.
    """
    if not strips.deflated:
        return stored
    size = rows * strips.shape[1] * (1 if strips.planar else strips.shape[2]) * strips.dtype.itemsize
    stream = zlib.decompressobj()
    try:
        values = stream.decompress(stored, size + 1)  # to its end, where its checksum is
    except zlib.error as error:
        raise ValueError(f"a compressed strip is damaged: {error}") from error
    if len(values) < size or (len(values) == size and not stream.eof):
        raise ValueError("a compressed strip is cut short")
    return values


def _strips(data: bytes) -> _Strips | None:
    known = _KNOWN_STRIPS.get(len(data))
    if known:
        for at, value in known.learnt_from:
            if not data.startswith(value, at):
                break
        else:
            return known
    learnt = _learn_strips(data)
    if learnt:
        if len(_KNOWN_STRIPS) >= KEEP_STRIPS:
            _KNOWN_STRIPS.clear()
        _KNOWN_STRIPS[len(data)] = learnt
    return learnt


def _learn_strips(data: bytes) -> _Strips | None:
    if (found := _tags(data)) is None or not {WIDTH, HEIGHT, OFFSETS, LENGTHS} <= found[1].keys():
        return None
    order, tags, places = found
    dtype = _pixel_type(order, tags)
    compression, predictor = tags.get(COMPRESSION, (1,))[0], tags.get(PREDICTOR, (1,))[0]
    deflated, differences = compression in DEFLATE, predictor == 2
    height, width, count = tags[HEIGHT][0], tags[WIDTH][0], tags.get(SAMPLES, (1,))[0]
    planar = tags.get(PLANAR, (1,)) == (2,)
    strange = (
        dtype is None
        or (not deflated and (compression, predictor) != (1, 1))
        or predictor not in (1, 2)
        or (differences and dtype.kind == "f")
        or TILE_WIDTH in tags
        or tags.get(PHOTOMETRIC, (1,)) not in ((1,), (2,))
        or height * width * count == 0
    )
    if strange or dtype is None:
        return None
    rows = min(tags.get(STRIP_ROWS, (height,))[0], height) or height
    strip_rows = [min(rows, height - top) for top in range(0, height, rows)] * (count if planar else 1)
    if not len(strip_rows) == len(tags[OFFSETS]) == len(tags[LENGTHS]):
        return None
    pieces = [(start, start + size, n) for start, size, n in zip(tags[OFFSETS], tags[LENGTHS], strip_rows, strict=True)]
    if max(stop for _, stop, _ in pieces) > len(data):
        raise ValueError(f"it is cut short: {len(data)} bytes, of which its pixels end at {max(p[1] for p in pieces)}")
    if not deflated:
        row_bytes = width * dtype.itemsize * (1 if planar else count)
        if any(stop - start != n * row_bytes for start, stop, n in pieces):
            return None
        if all(one[1] == other[0] for one, other in itertools.pairwise(pieces)):
            pieces = [(pieces[0][0], pieces[-1][1], sum(strip_rows))]
    _, start, stop = _directory(data) or ("", 0, 0)
    lists = [(at, struct.calcsize(layout)) for tag, (layout, at) in places.items() if tag in DECIDING]
    outside = [(at, size) for at, size in lists if size > 4]  # the others are in the directory itself
    return _Strips(
        dtype=dtype,
        shape=(height, width, count),
        planar=planar,
        deflated=deflated,
        differences=differences,
        pieces=tuple(pieces),
        learnt_from=tuple((at, data[at : at + size]) for at, size in [(0, 8), (start, stop - start), *outside]),
    )


def _plain_header(path: Path) -> Header | None:
    """Header of a classic TIFF; None where only GDAL can tell."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if (found := _tags(data)) is None:
            return None
    order, tags, _ = found
    dtype = _pixel_type(order, tags)
    if dtype is None or WIDTH not in tags or HEIGHT not in tags:
        return None
    count = tags.get(SAMPLES, (1,))[0]
    names = _band_names(tags, count)
    if GEO_KEYS not in tags:
        return Header(count, dtype.newbyteorder("=").name, names)
    keys = {key: value for key, where, _, value in _fours(tags[GEO_KEYS][4:]) if where == 0}
    code = keys.get({1: PROJECTED, 2: GEOGRAPHIC}.get(keys.get(MODEL_TYPE, 0), 0), USER_DEFINED)
    if code == USER_DEFINED or PIXEL_SCALE not in tags or len(tags.get(TIEPOINT, ())) != 6 or MATRIX in tags:
        return None
    column, row, _, x, y, _ = tags[TIEPOINT]
    half = 0.5 if keys.get(RASTER_TYPE) == 2 else 0.0  # the tie point is a pixel's centre, not its corner
    step_x, step_y, _ = tags[PIXEL_SCALE]
    centre = (
        x + (tags[WIDTH][0] / 2 - column - half) * step_x,
        y - (tags[HEIGHT][0] / 2 - row - half) * step_y,
    )
    return Header(count, dtype.newbyteorder("=").name, names, f"EPSG:{code}", centre)


def _fours(values: tuple[int, ...]) -> Iterator[tuple[int, int, int, int]]:
    return zip(values[0::4], values[1::4], values[2::4], values[3::4], strict=False)


def _band_names(tags: dict[int, tuple], count: int) -> tuple[str | None, ...]:
    names: list[str | None] = [None] * count
    if GDAL_METADATA in tags:
        for item in ElementTree.fromstring(tags[GDAL_METADATA][0].rstrip(b"\0").decode("utf-8", "replace")):
            sample = item.get("sample")
            if item.get("role") == "description" and sample and int(sample) < count:
                names[int(sample)] = item.text
    return tuple(names)
