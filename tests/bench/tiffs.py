"""TIFFs of every kind and damage, read here and by rasterio: the same pixels or a clear refusal, in bounded time."""

import itertools
import logging
import random
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import from_origin

from data.errors import RequestError
from data.images import read_header, read_values
from data.places import lonlat_of

SUFFIXES = (".tif", ".tiff")
COMPRESSIONS = ("none", "deflate", "lzw", "packbits", "zstd", "lzma", "lerc")
TILINGS = {"strips": {}, "rows": {"blockysize": 5}, "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16}}
TYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "uint64", "float32", "float64")
PREDICTORS = (1, 2, 3)
ORDERS = ("LITTLE", "BIG")
PREDICTED = ("deflate", "lzw", "zstd", "lzma")
# Variants of the kinds that a mutation is made of: all that the reader of bytes takes, and some that GDAL reads.
MUTATED = (
    {},
    {"interleave": "band"},
    {"compress": "deflate"},
    {"compress": "deflate", "predictor": 2, "blockysize": 3},
    {"ENDIANNESS": "BIG", "blockysize": 3},
    {"nodata": 0, "blockysize": 3},
    {"compress": "lzw", "predictor": 2},
    {"tiled": True, "blockxsize": 16, "blockysize": 16},
    {"BIGTIFF": "YES"},
    {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "deflate", "interleave": "band"},
)
# What reading a file of a few kilobytes may take, on a machine that does other things too.
MOST_SECONDS, MOST_MB = 5.0, 256.0


@dataclass
class Tally:
    """What was read, and what it took."""

    same: int = 0
    refused: int = 0
    disagreements: list[str] = field(default_factory=list)
    reasons: Counter = field(default_factory=Counter)
    longest_s: float = 0.0
    largest_mb: float = 0.0
    by_bytes: int = 0

    def add(self, path: Path, told: str, *, may_refuse: bool) -> None:
        """Read one file both ways and compare pixels, type, names, nodata, scale, offset and place."""
        ours, seconds, megabytes = _measured(path)
        self.longest_s, self.largest_mb = max(self.longest_s, seconds), max(self.largest_mb, megabytes)
        if isinstance(ours, RequestError):
            self.refused += 1
            self.reasons[_reason(str(ours))] += 1
            if not may_refuse:
                self.disagreements.append(f"{told}: refused: {ours}")
            return
        if (difference := _difference(path, *ours)) is not None:
            self.disagreements.append(f"{told}: {difference}")
        else:
            self.same += 1

    def told(self) -> dict:
        """The figures."""
        return {
            "same": self.same,
            "refused": self.refused,
            "disagreements": len(self.disagreements),
            "longest_s": round(self.longest_s, 3),
            "largest_mb": round(self.largest_mb, 1),
            "refusals": dict(self.reasons.most_common(12)),
            "first_disagreements": self.disagreements[:5],
        }


def _measured(path: Path) -> tuple:
    """(header, values) or the refusal, seconds, and the most memory in MB beyond what there was."""
    before, start = _reset_peak(), time.perf_counter()
    try:
        header = read_header(path)
        found = header, read_values(path, range(header.count), count=header.count)
    except RequestError as error:
        found = error
    return found, time.perf_counter() - start, max(0.0, _peak() - before)


def _reset_peak() -> float:
    with suppress(OSError):  # not Linux: no figure
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> float:
    """Most memory of this process since the last reset, in MB; 0 where that is not told."""
    try:
        return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1000
    except (OSError, IndexError):
        return 0.0


def _reason(text: str) -> str:
    """A refusal without its numbers and names, for counting."""
    inside = text.partition("(")[2].rpartition(")")[0] or text
    words = [word for word in inside.split() if not any(letter.isdigit() or letter == "/" for letter in word)]
    return " ".join(words[:9])


def _difference(path: Path, header, values) -> str | None:
    """In what the two readings differ."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            with rasterio.open(path, driver="GTiff", sharing=False) as source:
                if (source.count, source.dtypes[0]) != (header.count, header.dtype):
                    return f"{header.count} of {header.dtype}, rasterio {source.count} of {source.dtypes[0]}"
                theirs = source.read()
                invalid = np.ma.getmaskarray(source.read(masked=True))
                about = tuple(source.descriptions), source.scales, source.offsets
                alpha = source.colorinterp[-1].name == "alpha"
                place, bare = _place_of(source), source.crs is None
        except (rasterio.errors.RasterioError, CPLE_BaseError, ValueError, MemoryError) as error:
            return f"read here, but rasterio says {error}"
    declared = header.declared
    scales = (declared.scale, declared.offset) if declared else ((1.0,) * header.count, (0.0,) * header.count)
    if (tuple(header.names), *scales) != about:
        return f"names and scales {header.names} {scales}, rasterio {about}"
    for index, one in enumerate(values):
        measured = theirs[index]
        if declared and declared.scaled:
            measured = (measured.astype(np.float64) * declared.scale[index] + declared.offset[index]).astype(np.float32)
        if not np.array_equal(one.pixels, measured, equal_nan=measured.dtype.kind == "f"):
            return f"other pixels in band {index}"
        nothing = np.zeros(measured.shape, bool) if one.invalid is None else one.invalid
        mask = invalid[index] | (~np.isfinite(theirs[index]) if theirs.dtype.kind == "f" else False)
        if not alpha and not np.array_equal(nothing, mask):
            return f"other pixels without a measurement in band {index}"
    ours = lonlat_of([header])
    if (place is None and bare and ours is not None) or (
        place is not None and (ours is None or not np.allclose(ours[0], place, atol=1e-6))
    ):
        return f"place {ours}, rasterio {place}"
    return None


def _place_of(source) -> tuple[float, float] | None:
    """Longitude and latitude of the center as rasterio gives them; None where there is no such place on Earth."""
    from rasterio.warp import transform

    if source.crs is None or source.transform.is_identity:
        return None
    try:
        x, y = source.transform @ (source.width / 2, source.height / 2)
        (lon,), (lat,) = transform(source.crs, "EPSG:4326", [x], [y])
    except (rasterio.errors.RasterioError, CPLE_BaseError, ValueError):
        return None
    return (lon, lat) if np.isfinite([lon, lat]).all() and abs(lat) <= 90 and abs(lon) <= 180 else None


# ------------------------------------------------------------------------------------------------ inputs


def shared_tiffs(root: Path) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of every TIFF below a folder, also inside zip archives."""
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in SUFFIXES:
            yield str(path.relative_to(root)), path.read_bytes()
        elif path.suffix.lower() == ".zip":
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.lower().endswith(SUFFIXES):
                        yield f"{path.relative_to(root)}/{name}", archive.read(name)


def written(pixels: np.ndarray, **options) -> bytes | None:
    """A TIFF as GDAL writes it; None where it does not write such a one."""
    count, height, width = pixels.shape
    about = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype}
    place = {"crs": CRS.from_epsg(32633), "transform": from_origin(500_000, 5_000_000, 10, 10)}
    try:
        with rasterio.MemoryFile() as memory:
            with memory.open(**about, **place, **options) as target:
                target.write(pixels)
            return memory.read()
    except (rasterio.errors.RasterioError, ValueError):
        return None


def variants(step: int = 1) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of TIFFs of every compression, tiling, interleaving, type, predictor and byte order.

    Args:
        step: only every so many-th of them.
    """
    rng = np.random.default_rng(0)
    every = itertools.product(TYPES, COMPRESSIONS, TILINGS, ("pixel", "band"), PREDICTORS, ORDERS, (1, 3))
    for kind, compression, tiling, interleave, predictor, order, count in itertools.islice(
        filter(_is_written, every), 0, None, step
    ):
        options = {"interleave": interleave, "ENDIANNESS": order, **TILINGS[tiling]}
        options |= {} if compression == "none" else {"compress": compression}
        options |= {} if predictor == 1 else {"predictor": predictor}
        top = 3000 if np.dtype(kind).itemsize > 1 else 100
        content = written(rng.integers(0, top, (count, 23, 17)).astype(kind), **options)
        if content is not None:
            yield f"{kind} {count} {compression} {tiling} {interleave} {predictor} {order}", content


def _is_written(variant: tuple) -> bool:
    """Whether GDAL has such a variant: predictors are for some compressions, and the third for floats."""
    kind, compression, _, _, predictor, order, _ = variant
    if predictor > 1 and (compression not in PREDICTED or (predictor == 3) != kind.startswith("float")):
        return False
    return (compression, order) != ("lerc", "BIG")


def mutations(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Small TIFFs of several kinds with one byte changed, at places and to values drawn at random.

    Half of the places are in the first 600 bytes, where directories lie.
    """
    rng, pixels = random.Random(seed), np.random.default_rng(seed).integers(0, 3000, (3, 8, 8)).astype(np.uint16)
    whole = [content for options in MUTATED if (content := written(pixels, **options)) is not None]
    for number in range(count):
        base = whole[number % len(whole)]
        at = rng.randrange(min(600, len(base))) if number % 2 else rng.randrange(len(base))
        value = base[at] ^ rng.randrange(1, 256)
        yield f"kind {number % len(whole)} byte {at} to {value}", base[:at] + bytes([value]) + base[at + 1 :]


def differential(files: Iterator[tuple[str, bytes]], *, may_refuse: bool) -> Tally:
    """Read files both ways."""
    tally = Tally()
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.tif"
        for name, content in files:
            path.write_bytes(content)
            tally.add(path, name, may_refuse=may_refuse)
    return tally
