"""Reading JPEG, PNG and TIFF files: band arrays, and headers without the pixels.

Plain TIFFs are read from their bytes (`data.tiff`), pictures by Pillow, all others by GDAL through rasterio; the same
reader takes header and pixels. What a file declares about its values is applied by `data.declared`.
"""

import io
import logging
import mmap
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Shaped
from PIL import Image
from rasterio._err import CPLE_BaseError  # what damage raises that rasterio does not wrap
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from data import tiff, tiff_limits
from data.bands import Band
from data.declared import Declared, Header, Values, declare, honoured, pixels_by
from data.errors import RequestError
from data.tiff import pixels_of, plain_tiff

FAILURES = (RasterioError, CPLE_BaseError, OSError, SyntaxError, ValueError, Image.DecompressionBombError)
PICTURES = (".jpg", ".jpeg", ".png")
SUFFIXES = (*PICTURES, ".tif", ".tiff")
ONE_READ = 2**16  # bytes; every file of BigEarthNet is smaller
LARGEST_PLAIN = 2**26  # bytes; GDAL reads larger files by parts
SIDECARS = (".aux.xml", ".msk")  # where GDAL stores metadata and a mask beside a file

logging.getLogger("rasterio").addHandler(logging.NullHandler())  # errors are reported once, by an exception


def read_header(path: Path, *, alpha: bool = False) -> Header:
    """Read a file's header.

    Args:
        path: a JPEG, PNG or TIFF file.
        alpha: count the fourth channel of an RGBA picture as a band.

    Raises:
        RequestError: the file is absent, damaged, of another kind, or of values that are not read.
    """
    try:
        start = _first_bytes(path)
        if tiff.is_tiff(start):
            return _tiff_header(path)
        if _is_deep_png(start):
            with _opened(path) as source:
                return _gdal_header(source)
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            bands = len(_mode(image, alpha=alpha))
            return Header(bands, "uint8", (None,) * bands)
    except FAILURES as error:
        raise _unreadable(path, error) from error


def read_values(
    path: Path | str,
    indices: Sequence[int],
    *,
    count: int,
    bands: Sequence[Band] | None = None,
    alpha: bool = False,
    beside: bool = False,
) -> list[Values]:
    """Read some bands of a file, with masks of pixels without a measurement.

    Args:
        path: a JPEG, PNG or TIFF file.
        indices: which bands, counted from 0.
        count: how many bands the file must have.
        bands: the bands, if known: they decide the unit of values with a declared scale.
        alpha: as for `read_header`. Otherwise the alpha channel must be opaque and is left out, and a palette
            is looked up.
        beside: whether one of `SIDECARS` lies beside a TIFF, in which GDAL keeps more of what is declared. Checking
            at each read is slow on network disks: a dataset checks once, and those published as archives without
            them (EuroSAT, BigEarthNet) do not check.

    Returns:
        Pixels (H, W) for each index, in the file's own type or, where it declares a scale or offset, in float32.

    Raises:
        RequestError: the file is absent, damaged or of another kind, has another number of bands, or is partly
            transparent.
    """
    stored, declared, masks = _stored(path, indices, count, alpha, beside)
    return _honoured(stored, declared, masks, indices, bands)


def read_bands(
    path: Path | str,
    indices: Sequence[int],
    *,
    count: int,
    bands: Sequence[Band] | None = None,
    nodata: str = "refuse",
    fill: Sequence[float] = (),
) -> list[Shaped[np.ndarray, "_ _"]]:
    """As `read_values`, with pixels that have no measurement refused, filled, or kept as stored."""
    stored, declared, masks = _stored(path, indices, count, alpha=False, beside=False)
    if nodata == "keep" and (declared is None or not declared.scaled):
        return stored
    if declared is None and stored and stored[0].dtype.kind != "f":
        return stored  # nothing declared: the fast path of nearly all files
    return pixels_by(nodata, _honoured(stored, declared, masks, indices, bands), fill, path)


Stored = tuple[list[np.ndarray], Declared | None, Sequence[np.ndarray | None]]


def _stored(path: Path | str, indices: Sequence[int], count: int, alpha: bool, beside: bool) -> Stored:
    """Stored values of some bands, what the file declares of them, and its own masks."""
    declared = None
    try:
        data = _contents(path)
        if not beside and (plain := plain_tiff(data)):
            pixels, declared = pixels_of(data, plain), plain.declared
        elif tiff.is_tiff(data) or _is_deep_png(data):
            return _through_gdal(path, indices, count)
        else:
            pixels = _picture(data, alpha=alpha)
    except FAILURES as error:
        raise _unreadable(path, error) from error
    if pixels.shape[2] != count:
        raise _other_count(path, pixels.shape[2], count)
    stored = [pixels[:, :, index].copy() for index in indices]  # copies: writable and aligned
    return stored, declared, ()


def _honoured(
    stored: Sequence[np.ndarray],
    declared: Declared | None,
    masks: Sequence[np.ndarray | None],
    indices: Sequence[int],
    bands: Sequence[Band] | None,
) -> list[Values]:
    none = (None,) * len(indices)
    return [
        honoured(pixels, declared, index, band=band, mask=mask)
        for pixels, index, band, mask in zip(stored, indices, bands or none, masks or none, strict=True)
    ]


def _unreadable(path: Path | str, error: Exception) -> RequestError:
    """Any failure to read a file as one RequestError that names it."""
    if isinstance(error, FileNotFoundError):
        return RequestError(f"no file {path}; it is listed but missing: restore it or remove it from the list")
    why = str(error).removesuffix(".").replace(f" {str(path)!r}", "")  # the path is named already
    return RequestError(f"cannot read {path} ({why}); restore, replace or remove it")


def _contents(path: Path | str) -> bytes:
    """All bytes of a file, or the first ones of a TIFF too large for `data.tiff`; file objects take twice as long."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(handle, ONE_READ)
        if len(data) == ONE_READ:
            if tiff.is_tiff(data) and os.fstat(handle).st_size > LARGEST_PLAIN:
                return data[:8]
            with open(handle, "rb", closefd=False) as rest:
                data += rest.read()
    finally:
        os.close(handle)
    return data


def _first_bytes(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(26)


def _is_deep_png(start: bytes) -> bool:
    # Pillow quietly reduces 16-bit color to 8 bits; byte 24 of a PNG is its bit depth
    return start[:8] == b"\x89PNG\r\n\x1a\n" and start[24:25] == b"\x10"


# --- pictures


def _mode(image: Image.Image, *, alpha: bool) -> str:
    """The mode to read a picture in: one letter per band."""
    if image.mode in ("1", "L"):
        return "L"
    if image.mode in ("RGB", "P"):
        return "RGB"
    if image.mode == "RGBA":
        return "RGBA" if alpha else "RGB"
    raise ValueError(f"its color mode {image.mode} is not supported; save it as RGB")


def _picture(data: bytes, *, alpha: bool) -> np.ndarray:
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
        mode = _mode(image, alpha=alpha)
        if mode == "RGB" and image.mode != "RGB":  # a palette, or a fourth channel that is dropped
            image = image.convert("RGBA")
            if image.getchannel("A").getextrema() != (255, 255):
                raise ValueError("it is partly transparent; save it as RGB")
        pixels = np.asarray(image if image.mode == mode else image.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[:, :, None]


# --- TIFF


def has_sidecar(path: Path | str) -> bool:
    """Whether metadata or a mask of a TIFF is stored in a file beside it."""
    return any(os.path.exists(f"{path}{suffix}") for suffix in SIDECARS)


def _tiff_header(path: Path) -> Header:
    header = place = None
    beside = has_sidecar(path)
    if path.stat().st_size <= LARGEST_PLAIN and not beside:
        with _mapped(path) as data:
            header, place = tiff.header_of(data), tiff.place_of(data)
    if header and place:
        return replace(header, crs=place[0], centre=place[1])
    with _opened(path) as source:
        found = replace(_gdal_header(source), beside=beside)
    return replace(header, crs=found.crs, centre=found.centre) if header else found


@contextmanager
def _mapped(path: Path | str) -> Iterator[mmap.mmap]:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield data


@contextmanager
def _opened(path: Path) -> Iterator[rasterio.DatasetReader]:
    """A file opened by GDAL."""
    deep, allowed = _is_deep_png(_first_bytes(path)), tiff_limits.ALWAYS_ALLOWED
    if not deep:
        with _mapped(path) as data:
            allowed = tiff_limits.check_sizes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, driver="PNG" if deep else "GTiff", sharing=False) as source:
            _check_kind(source, allowed)
            yield source


def _check_kind(source: rasterio.DatasetReader, allowed: int) -> None:
    if len(set(source.dtypes)) > 1:
        raise ValueError(f"its bands differ in type: {', '.join(source.dtypes)}")
    kind = source.dtypes[0]
    if kind.startswith("complex"):
        raise ValueError(f"its values are complex numbers ({kind}), which no model takes; save amplitudes or decibels")
    if len(source.subdatasets) > 1:
        raise ValueError(
            f"it holds {len(source.subdatasets)} images (pages); save one image per file, with several bands"
        )
    if source.colorinterp[0] == ColorInterp.palette:
        raise ValueError("its values are palette indices, not measurements; save it as RGB")
    size = os.path.getsize(source.name)
    tiff_limits.check_declared(source.width, source.height, source.count, np.dtype(kind).itemsize, size, allowed)


def _gdal_header(source: rasterio.DatasetReader) -> Header:
    header = Header(source.count, source.dtypes[0], tuple(source.descriptions), declared=_gdal_declared(source))
    if source.crs is None or source.transform.is_identity:
        return header
    return replace(header, crs=source.crs.to_wkt(), centre=source.transform @ (source.width / 2, source.height / 2))


def _gdal_declared(source: rasterio.DatasetReader) -> Declared | None:
    # the alpha of a TIFF is a band like others: GDAL calls the near infrared of four 8-bit bands so
    masked = any(flags == [MaskFlags.per_dataset] for flags in source.mask_flag_enums)
    return declare(np.dtype(source.dtypes[0]), source.nodatavals, source.scales, source.offsets, masked=masked)


def _through_gdal(path: Path | str, indices: Sequence[int], count: int) -> Stored:
    with _opened(Path(path)) as source:
        if source.count != count:
            raise _other_count(path, source.count, count)
        declared = _gdal_declared(source)
        bands = [index + 1 for index in indices]
        masks: Sequence[np.ndarray | None] = ()
        if declared and declared.masked:
            masks = [mask == 0 for mask in source.read_masks(bands)]
        return list(source.read(bands)), declared, masks


def _other_count(path: Path | str, count: int, expected: int) -> RequestError:
    return RequestError(f"{path} has {count} bands, {expected} were expected; replace or remove it")
