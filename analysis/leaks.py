"""What two splits share but should not: locations, scenes, pixels, rows; arrays in, arrays out."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Shaped, UInt64
from scipy.spatial import KDTree

from data.bands import Band
from data.dataset import EODataset
from probes.spatial import on_globe

# A square that is turned against north by less than 5 degrees overlaps its neighbor by less than 1% in our reckoning.
OVERLAP = 0.05
SAME_PLACE = 0.95
BLOCK = 4096  # samples compared at once
# Sentinel-2 products as BigEarthNet names them, v2 with the MGRS tile and v1 without: scene, tile, column, row.
SCENE = re.compile(r"(S2[A-D]_MSIL[12][AC]_\d{8}T\d+(?:_N\d{4}_R\d{3}_T([0-9A-Z]{5}))?)_(\d+)_(\d+)")
# WGS 84 (NIMA TR8350.2): semi-major axis in meters, and eccentricity squared.
AXIS_M, ECCENTRICITY2 = 6_378_137.0, 6.69437999014e-3


@dataclass(frozen=True)
class Nearness:
    """For each of M samples what N others cover of it.

    Args:
        share: (M,) of the footprint that the most overlapping other covers; 0 where none does.
        covered_by: (M,) index of that one.
        touches: (M,) whether a footprint lies less than half a side away, overlapping ones included.
    """

    share: Float[np.ndarray, " samples"]
    covered_by: Int[np.ndarray, " samples"]
    touches: Bool[np.ndarray, " samples"]


def nearness(
    of: Float[np.ndarray, "samples 2"], among: Float[np.ndarray, "others 2"], size_m: tuple[float, float] | None
) -> Nearness:
    """How near samples are to others, footprints taken as rectangles along north and east.

    Args:
        of: (M, 2) longitude and latitude of centers in degrees.
        among: (N, 2) likewise.
        size_m: width and height of a footprint; None where unknown: then only centers within a meter overlap.
    """
    width, height = size_m or (1.0, 1.0)
    tree, points = KDTree(AXIS_M * on_globe(among)), AXIS_M * on_globe(of)
    share, covered_by, touches = np.zeros(len(of)), np.zeros(len(of), int), np.zeros(len(of), bool)
    radius = 1.5 * np.hypot(width, height) * 1.01  # the sphere is not the ellipsoid
    for start in range(0, len(of), BLOCK):
        near = KDTree(points[start : start + BLOCK]).sparse_distance_matrix(tree, radius, output_type="ndarray")
        mine, other = near["i"] + start, near["j"]
        east, north = _offsets_m(of[mine], among[other])
        beside, above = np.abs(east) / width, np.abs(north) / height
        shared = np.clip(1 - beside, 0, None) * np.clip(1 - above, 0, None)
        touches[mine[(np.maximum(beside, above) < 1.5) & bool(size_m)]] = True
        order = np.argsort(shared)  # the largest is written last
        share[mine[order]], covered_by[mine[order]] = shared[order], other[order]
    return Nearness(share, covered_by, touches)


def _offsets_m(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Meters east and north from one to a place nearby, by the ellipsoid's radii of curvature."""
    lat = np.radians((one[:, 1] + other[:, 1]) / 2)
    flattened = 1 - ECCENTRICITY2 * np.sin(lat) ** 2
    across = AXIS_M / np.sqrt(flattened)
    along = AXIS_M * (1 - ECCENTRICITY2) / flattened**1.5
    lon = (other[:, 0] - one[:, 0] + 180) % 360 - 180
    return np.radians(lon) * across * np.cos(lat), np.radians(other[:, 1] - one[:, 1]) * along


def footprint_m(dataset: EODataset, bands: Sequence[Band]) -> tuple[float, float] | None:
    """Width and height of a patch in meters, from its finest band; None where no band has a sampling distance."""
    images = zip(dataset.read(0, bands), bands, strict=True)
    known = [(-image.size, band.gsd_m, image.shape) for image, band in images if band.gsd_m]
    if not known:
        return None
    _, gsd_m, (height, width) = min(known)
    return width * gsd_m, height * gsd_m


def scenes(ids: Sequence[str]) -> dict[str, list[str]] | None:
    """Scene, tile and place of samples with Sentinel-2 product names, such as BigEarthNet's.

    Returns:
        By ``scene``, and where names have a tile by ``tile`` and ``cell`` (tile, column and row: the place on the
        ground), N words each; None where any id is no such name.
    """
    words: dict[str, list[str]] = {"scene": [], "tile": [], "cell": []}
    known: dict[str, str] = {}  # few scenes: one string each, not one per sample
    for name in ids:
        match = SCENE.fullmatch(name)
        if not match:
            return None
        scene, tile, column, row = match.groups()
        words["scene"].append(known.setdefault(scene, scene))
        if tile:
            words["tile"].append(known.setdefault(tile, tile))
            words["cell"].append(f"{tile}_{column}_{row}")
    return words if len(words["tile"]) == len(ids) else {"scene": words["scene"]}


class Pixels(NamedTuple):
    """Digests of the bands of a split's samples, and whether each band of a sample has one value only."""

    digests: UInt64[np.ndarray, " samples"]
    blank: Bool[np.ndarray, " samples"]


def hash_pixels(dataset: EODataset, bands: Sequence[Band], advance: Callable[[int], None]) -> Pixels:
    """Read every sample of a split once, one at a time, and `advance` after each.

    Raises:
        RequestError: a sample cannot be read.
    """
    digests, blank = np.empty(len(dataset), np.uint64), np.empty(len(dataset), bool)
    for row in range(len(dataset)):
        images = dataset.read(row, bands)
        digest = hashlib.blake2b(digest_size=8)  # half a million samples: two collide once in 100 million times
        for image in images:
            digest.update(f"{image.shape}{image.dtype.str}".encode())
            digest.update(np.ascontiguousarray(image))
        digests[row] = int.from_bytes(digest.digest(), "little")
        blank[row] = all((image == image.flat[0]).all() for image in images)
        advance(1)
    return Pixels(digests, blank)


def hash_rows(values: Shaped[np.ndarray, "samples dim"]) -> UInt64[np.ndarray, " samples"]:
    """(N,) uint64 digests of the rows of an array; equal rows have equal digests."""
    digests = (hashlib.blake2b(row, digest_size=8).digest() for row in np.ascontiguousarray(values))
    return np.array([int.from_bytes(digest, "little") for digest in digests], np.uint64)
