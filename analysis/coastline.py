"""Outlines of the world's countries for maps, from a file that comes with a package: no network, no file of ours."""

import importlib.util
import struct
from pathlib import Path

import numpy as np

PACKAGE = "pyogrio"  # comes with torchgeo; its tests' files hold Natural Earth's 1:110m countries (public domain)
FILE = Path("tests", "fixtures", "naturalearth_lowres", "naturalearth_lowres.shp")
POLYGON = 5


def outlines() -> np.ndarray | None:
    """Outlines of the countries.

    Returns:
        (N, 2) float32 longitude and latitude in degrees, a row of NaN after each ring; None where the file is absent.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if not spec or not spec.submodule_search_locations:
        return None
    file = Path(next(iter(spec.submodule_search_locations))) / FILE
    return read_rings(file.read_bytes()) if file.is_file() else None


def read_rings(content: bytes) -> np.ndarray:
    """The rings of a shapefile of polygons, each ended by a row of NaN.

    Source: ESRI Shapefile Technical Description (July 1998), pages 2 to 9: a header of 100 bytes, then records of a
    big-endian header (number, length in 16-bit words) and a little-endian polygon: type, box, how many parts, how many
    points, the parts' first points, the points.

    Args:
        content: of the ``.shp`` file.

    Raises:
        ValueError: it holds something other than polygons.
    """
    rings, position = [], 100
    while position < len(content):
        (words,) = struct.unpack_from(">i", content, position + 4)
        record = content[position + 8 : position + 8 + 2 * words]
        (kind,) = struct.unpack_from("<i", record)
        if kind != POLYGON:
            raise ValueError(f"a shape of type {kind}, not a polygon ({POLYGON})")
        parts, count = struct.unpack_from("<ii", record, 36)
        starts = np.frombuffer(record, "<i4", parts, 44)
        points = np.frombuffer(record, "<f8", 2 * count, 44 + 4 * parts).reshape(count, 2)
        for ring in np.split(points, starts[1:]):
            rings += [ring.astype(np.float32), np.full((1, 2), np.nan, np.float32)]
        position += 8 + 2 * words
    return np.concatenate(rings)
