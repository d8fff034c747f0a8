"""Fast reading of plain GeoTIFFs from their bytes: GDAL takes a millisecond to open a file of a few kilobytes.

Plain files are like those of EuroSAT, BigEarthNet and GDAL's defaults: one image in strips, uncompressed or deflated,
with only the tags known here. Header and pixels come from one reading of the tags (`plain_tiff`). It returns None for
any other file, sound or damaged: GDAL then reads it. (Adobe, TIFF revision 6.0, 1992; OGC 19-008r4, GeoTIFF
1.1; GDAL's tags 42112 and 42113.)
"""

import itertools
import mmap
import struct
import xml.etree.ElementTree as ElementTree
import zlib
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped

from data.declared import Declared, Header, declare

Bytes = bytes | mmap.mmap

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, SAMPLES = 256, 257, 258, 259, 262, 273, 277
SUBFILE, FILL_ORDER, ORIENTATION, STRIP_ROWS, LENGTHS, PLANAR, PREDICTOR = 254, 266, 274, 278, 279, 284, 317
EXTRA, SAMPLE_FORMAT = 338, 339
PIXEL_SCALE, TIEPOINT, MATRIX, GEO_KEYS, GEO_NUMBERS, GEO_WORDS = 33550, 33922, 34264, 34735, 34736, 34737
GDAL_METADATA, GDAL_NODATA = 42112, 42113
NUMBERS = (3, 4)  # unsigned short and long
KINDS_OF = {
    **dict.fromkeys((SUBFILE, WIDTH, HEIGHT, OFFSETS, STRIP_ROWS, LENGTHS), NUMBERS),
    **dict.fromkeys((BITS, COMPRESSION, PHOTOMETRIC, FILL_ORDER, ORIENTATION, SAMPLES, PLANAR, PREDICTOR), (3,)),
    **dict.fromkeys((EXTRA, SAMPLE_FORMAT, GEO_KEYS), (3,)),
    **dict.fromkeys((PIXEL_SCALE, TIEPOINT, MATRIX, GEO_NUMBERS), (12,)),
    **dict.fromkeys((GEO_WORDS, GDAL_METADATA, GDAL_NODATA), (2,)),
}
# They do not affect the pixels: names, dates, programs, print resolution.
IGNORED = {269, 270, 271, 272, 282, 283, 296, 305, 306, 315, 33432}
ONE = {SUBFILE: 0, FILL_ORDER: 1, ORIENTATION: 1}  # the only supported value
NEEDED = {WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, OFFSETS, LENGTHS}
DECIDING = (BITS, OFFSETS, LENGTHS, SAMPLE_FORMAT, GDAL_METADATA, GDAL_NODATA)  # may lie outside the directory
DEFLATE = (8, 32946)  # Adobe's number and the older one
FORMATS = {1: "B", 2: "s", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 11: "f", 12: "d", 16: "Q"}
TYPES = {(1, 8): "u1", (1, 16): "u2", (1, 32): "u4", (1, 64): "u8", (2, 8): "i1", (2, 16): "i2", (2, 32): "i4",
         (2, 64): "i8", (3, 32): "f4", (3, 64): "f8"}  # fmt: skip
MODEL_TYPE, RASTER_TYPE, GEOGRAPHIC, PROJECTED = 1024, 1025, 2048, 3072
LARGEST_CODE = 32766  # of EPSG's in GeoTIFF; 32767 is user-defined, and beyond are ESRI's
# Geo keys that do not change the location: citations, and units in degrees (9102) and meters (9001).
GEO_IGNORED, GEO_UNITS = {1026, 2049, 2057, 2059, 3073}, {2054: 9102, 3076: 9001}


@dataclass(frozen=True)
class PlainTiff:
    """What the tags of a plain TIFF declare."""

    dtype: np.dtype  # of a value, in the file's byte order
    shape: tuple[int, int, int]  # height, width, bands
    planar: bool  # whether each band is stored separately
    deflated: bool  # whether each strip is compressed
    differences: bool  # whether a row holds differences from pixel to pixel
    # start, stop and rows of each strip; consecutive uncompressed strips are merged
    pieces: tuple[tuple[int, int, int], ...]
    names: tuple[str | None, ...]  # band names, None for unnamed bands
    declared: Declared | None  # what the file declares about its values
    # start, stop and the bytes there that all of this was read from: a file with the same bytes has the same layout
    learnt_from: tuple[tuple[int, int, bytes], ...]


# Parsing the tags takes most of the time, and the files of a dataset differ in little but their pixels: parsed tags
# are cached by file size.
_KNOWN: dict[int, PlainTiff] = {}
KEEP = 1000


def is_tiff(start: bytes) -> bool:
    """Whether a file with these first bytes is a TIFF."""
    return start[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def plain_tiff(data: Bytes) -> PlainTiff | None:
    """PlainTiff of a plain TIFF; None where GDAL has to read it.

    Raises:
        ValueError: it is cut short.
    """
    known = _KNOWN.get(len(data))
    if known:
        for start, stop, value in known.learnt_from:
            if data[start:stop] != value:
                break
        else:
            return known
    learnt = _learn(data)
    if learnt:
        if len(_KNOWN) >= KEEP:
            _KNOWN.clear()
        _KNOWN[len(data)] = learnt
    return learnt


def pixels_of(data: bytes, layout: PlainTiff) -> Shaped[np.ndarray, "height width bands"]:
    """(H, W, C) stored values of a plain TIFF.

    Raises:
        ValueError: a compressed strip is damaged; GDAL might still return its pixels.
    """
    height, width, count = layout.shape
    first, stop, _ = layout.pieces[0]
    if len(layout.pieces) == 1 and not layout.deflated:
        values = np.frombuffer(data, layout.dtype, height * width * count, first)
    else:
        joined = b"".join(_piece(data[first:stop], layout, rows) for first, stop, rows in layout.pieces)
        values = np.frombuffer(joined, layout.dtype)
    if layout.dtype.byteorder == ">":
        values = values.astype(layout.dtype.newbyteorder("="))
    if not layout.planar:
        values = values.reshape(height, width, count)
        return values.cumsum(axis=1, dtype=values.dtype) if layout.differences else values  # wraps around, as it must
    values = values.reshape(count, height, width)
    return np.moveaxis(values.cumsum(axis=2, dtype=values.dtype) if layout.differences else values, 0, -1)


def _piece(stored: bytes, layout: PlainTiff, rows: int) -> bytes:
    """The values of a strip."""
    if not layout.deflated:
        return stored
    size = rows * layout.shape[1] * (1 if layout.planar else layout.shape[2]) * layout.dtype.itemsize
    stream = zlib.decompressobj()
    try:
        values = stream.decompress(stored, size + 1)  # to its end, where its checksum is
    except zlib.error as error:
        raise ValueError(f"a compressed strip is damaged: {error}") from error
    if len(values) < size or (len(values) == size and not stream.eof):
        raise ValueError("a compressed strip is cut short")
    return values[:size]  # some programs fill the last strip up


# ------------------------------------------------------------------------------------------------ tags


def _learn(data: Bytes) -> PlainTiff | None:
    if (found := _tags(data)) is None or not found[1].keys() >= NEEDED:
        return None
    order, tags, places, (start, stop) = found
    height, width, count = tags[HEIGHT][0], tags[WIDTH][0], tags.get(SAMPLES, (1,))[0]
    dtype = _pixel_type(order, tags, count)
    compression, predictor = tags[COMPRESSION], tags.get(PREDICTOR, (1,))
    deflated, differences = compression[0] in DEFLATE, predictor == (2,)
    planar = tags.get(PLANAR, (1,)) == (2,)
    strange = (
        dtype is None
        or any(tags.get(tag, (value,)) != (value,) for tag, value in ONE.items())
        or any(len(tags.get(tag, (1,))) != 1 for tag in (WIDTH, HEIGHT, COMPRESSION, SAMPLES, STRIP_ROWS))
        or not (deflated or (compression, predictor) == ((1,), (1,)))
        or predictor not in ((1,), (2,))
        or (differences and dtype.kind == "f")
        or tags.get(PLANAR, (1,)) not in ((1,), (2,))
        or tags[PHOTOMETRIC] not in ((1,), (2,))
        or (tags[PHOTOMETRIC] == (2,) and count < 3)
        or not {0, 1, 2}.issuperset(tags.get(EXTRA, ()))
        or height * width * count == 0
    )
    if strange or dtype is None:
        return None
    rows = min(tags.get(STRIP_ROWS, (height,))[0], height)
    planes = count if planar else 1
    if not rows or not -(-height // rows) * planes == len(tags[OFFSETS]) == len(tags[LENGTHS]):
        return None  # before a damaged height makes a huge list
    strip_rows = [min(rows, height - top) for top in range(0, height, rows)] * planes
    pieces = [(first, first + size, n) for first, size, n in zip(tags[OFFSETS], tags[LENGTHS], strip_rows, strict=True)]
    if not all(tags[LENGTHS]):
        return None  # a strip was never written
    if max(stop for _, stop, _ in pieces) > len(data):
        raise ValueError(f"it is cut short: {len(data)} bytes, of which its pixels end at {max(p[1] for p in pieces)}")
    if not deflated:
        row_bytes = width * dtype.itemsize * (count // planes)
        if any(stop - start != n * row_bytes for start, stop, n in pieces):
            return None
        if all(one[1] == other[0] for one, other in itertools.pairwise(pieces)):
            pieces = [(pieces[0][0], pieces[-1][1], sum(strip_rows))]
    declared = _declared(tags, count, dtype)
    if declared is None:
        return None
    lists = [(at, struct.calcsize(layout)) for tag, (layout, at) in places.items() if tag in DECIDING]
    outside = [(at, at + size) for at, size in lists if size > 4]  # the others are in the directory itself
    return PlainTiff(
        dtype=dtype,
        shape=(height, width, count),
        planar=planar,
        deflated=deflated,
        differences=differences,
        pieces=tuple(pieces),
        names=declared[0],
        declared=declared[1],
        learnt_from=tuple(
            (first, last, data[first:last]) for first, last in _joined([(0, 8), (start, stop), *outside])
        ),
    )


def _joined(stretches: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Stretches with adjacent ones merged: each costs one comparison per file read."""
    joined: list[tuple[int, int]] = []
    for start, stop in sorted(stretches):
        if joined and start <= joined[-1][1]:
            first, last = joined.pop()
            start, stop = first, max(stop, last)
        joined.append((start, stop))
    return joined


def _tags(data: Bytes) -> tuple[str, dict[int, tuple], dict[int, tuple[str, int]], tuple[int, int]] | None:
    """Byte order, values of the known tags, their formats and offsets, and the directory, of a classic TIFF's image.

    None where it is a BigTIFF, holds several images, is malformed, or has a tag that is not known here.
    """
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None or len(data) < 8:
        return None
    tags, places, last = {}, {}, 0
    try:
        (start,) = struct.unpack_from(f"{order}I", data, 4)
        (entries,) = struct.unpack_from(f"{order}H", data, start)
        stop = start + 2 + 12 * entries
        if struct.unpack_from(f"{order}I", data, stop) != (0,):  # where the next image is
            return None
        for entry in range(start + 2, stop, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
            if tag <= last:  # out of order, or twice
                return None
            last = tag
            if tag in IGNORED:
                continue
            if kind not in KINDS_OF.get(tag, ()) or number == 0:
                return None
            layout = f"{order}{number}{FORMATS[kind]}"
            small = struct.calcsize(layout) <= 4
            at = entry + 8 if small else struct.unpack_from(f"{order}I", data, entry + 8)[0]
            tags[tag], places[tag] = struct.unpack_from(layout, data, at), (layout, at)
    except struct.error:
        return None
    return order, tags, places, (start, stop + 4)


def _pixel_type(order: str, tags: dict[int, tuple], count: int) -> np.dtype | None:
    """Type of the values, if all bands have the same and the tags give it for each."""
    bits, forms = tags[BITS], tags.get(SAMPLE_FORMAT, (1,) * count)
    if not count == len(bits) == len(forms) or len(set(bits)) > 1 or len(set(forms)) > 1:
        return None
    name = TYPES.get((forms[0], bits[0]))
    return np.dtype(order + name) if name else None


def _declared(
    tags: dict[int, tuple], count: int, dtype: np.dtype
) -> tuple[tuple[str | None, ...], Declared | None] | None:
    """Band names and what is declared about their values; None if only GDAL can read it."""
    names: list[str | None] = [None] * count
    scale, offset, nodata = [1.0] * count, [0.0] * count, None
    try:
        if GDAL_METADATA in tags:
            text = tags[GDAL_METADATA][0].rstrip(b"\0").decode()
            if "<!" in text:
                return None
            for item in ElementTree.fromstring(text):
                sample, role = item.get("sample"), item.get("role")
                if sample is None or role not in ("description", "scale", "offset"):
                    continue
                if not (sample.isascii() and sample.isdecimal() and int(sample) < count) or item.get("domain"):
                    return None
                if role == "description":
                    names[int(sample)] = item.text
                else:
                    (scale if role == "scale" else offset)[int(sample)] = float(item.text or "")
        if GDAL_NODATA in tags:
            nodata = _number(tags[GDAL_NODATA][0], dtype)
    except (ElementTree.ParseError, ValueError):
        return None
    if not all(map(np.isfinite, [*scale, *offset])):
        return None
    return tuple(names), declare(dtype, [nodata] * count, scale, offset)


def _number(text: bytes, dtype: np.dtype) -> float | int:
    """A nodata value as GDAL writes it."""
    word = text.partition(b"\0")[0].decode("ascii").strip()
    if "_" in word:
        raise ValueError(word)
    return int(word) if dtype.itemsize == 8 and dtype.kind != "f" else float(word)


# ------------------------------------------------------------------------------------------------ header


def header_of(data: Bytes) -> Header | None:
    """Header of a plain TIFF, without its location; None if GDAL has to read it."""
    if (layout := plain_tiff(data)) is None:
        return None
    kind = layout.dtype.newbyteorder("=").name
    return Header(layout.shape[2], kind, layout.names, declared=layout.declared)


def place_of(data: Bytes) -> tuple[str | None, tuple[float, float] | None] | None:
    """Coordinate system and center of a plain TIFF, both None if it has none; None if only GDAL can read them."""
    if (found := _tags(data)) is None:
        return None
    tags = found[1]
    if GEO_KEYS not in tags:
        return None, None
    if (keys := _geo_keys(tags)) is None:
        return None
    name = {1: PROJECTED, 2: GEOGRAPHIC}.get(keys.pop(MODEL_TYPE, None) or 0)
    code, raster = keys.pop(name, None) if name else None, keys.pop(RASTER_TYPE, 1)
    strange = [key for key, value in keys.items() if key not in GEO_IGNORED and GEO_UNITS.get(key) != value]
    if strange or code is None or not 1024 <= code <= LARGEST_CODE or raster not in (1, 2):
        return None
    if len(tags.get(PIXEL_SCALE, ())) != 3 or len(tags.get(TIEPOINT, ())) != 6 or MATRIX in tags:
        return None
    column, row, _, x, y, _ = tags[TIEPOINT]
    half = 0.5 if raster == 2 else 0.0  # the tie point is a pixel's center, not its corner
    step_x, step_y, _ = tags[PIXEL_SCALE]
    return f"EPSG:{code}", (
        x + (tags[WIDTH][0] / 2 - column - half) * step_x,
        y - (tags[HEIGHT][0] / 2 - row - half) * step_y,
    )


def _geo_keys(tags: dict[int, tuple]) -> dict[int, int | None] | None:
    """Values of the geo keys, None for strings and numbers stored elsewhere; None if they are malformed."""
    values = tags[GEO_KEYS]
    if values[:2] != (1, 1) or values[2] > 1 or len(values) != 4 + 4 * values[3]:
        return None
    room = {GEO_WORDS: len(tags.get(GEO_WORDS, (b"",))[0]), GEO_NUMBERS: len(tags.get(GEO_NUMBERS, ()))}
    keys: dict[int, int | None] = {}
    for key, where, count, value in zip(values[4::4], values[5::4], values[6::4], values[7::4], strict=True):
        if keys and key <= max(keys):
            return None
        if where == 0 and count != 1 or where and value + count > room.get(where, 0):
            return None
        keys[key] = None if where else value
    return keys
