"""What the headers of a user's files say before their pixels are read.

Sizes and times come from the directories. Only TIFFs declare nodata, scales and locations: their headers are read once
and kept in the cache folder. JPEG and PNG files are checked when their pixels are read.
"""

import hashlib
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64, UInt64

from data.cached import array_for, keep_array
from data.class_folders import Directories
from data.command import progress
from data.declared import Header
from data.errors import RequestError
from data.files import short_hash
from data.images import SIDECARS, read_header
from data.listing import Listing
from data.places import lonlat_of
from data.seen import stamp_of
from data.sources._folder_layout import BandLayout, check_like, files_of

VERSION = 1  # of the cache: raise when other facts are taken from headers
WORTH_KEEPING = 1000  # files whose headers take a noticeable time to read
LON, LAT, LACKS, FLOATS, SCALED = range(5)  # columns of the facts


@dataclass(frozen=True)
class Inspection:
    """What was found in N samples."""

    digest: str  # sha256 of the files' names, sizes and times
    stamps: UInt64[np.ndarray, " samples"]  # (N,) uint64 of the files, see `data.seen`
    # files with one of `data.images.SIDECARS`, and these files' sizes and times
    beside: dict[str, list[tuple[int, int]]]
    lonlat: Float64[np.ndarray, "samples 2"] | None  # (N, 2) degrees, or None
    lacks: Bool[np.ndarray, " samples"]  # (N,) bool, whether a file declares pixels without a measurement
    floats: Bool[np.ndarray, " samples"]  # (N,) bool, whether a file has floats, which may be NaN
    scaled: bool  # whether a file declares a scale or offset, which is applied


def inspect(listed: Directories, listing: Listing, layout: BandLayout, *, cache: Path) -> Inspection:
    """Look at every file: all must be like the first."""
    root, digest, stamps = str(listed.root), hashlib.sha256(), np.empty(len(listing.paths), np.uint64)
    beside: dict[str, list[tuple[int, int]]] = {}
    headed: list[tuple[int, list[str]]] = []  # rows of samples with headers to read, and their files
    for row, relative in enumerate(listing.paths):
        files = _files(listed, relative, layout)
        abouts = {path: _status(listed, path) for path in files}
        stamps[row] = stamp_of(abouts[path] for path in sorted(files))
        for path, about in abouts.items():
            digest.update(f"{path}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
        if not layout.is_picture(relative):
            headed.append((row, files))
            for path in files:
                if sidecars := _sidecars(listed, path):
                    beside[f"{root}/{path}"] = sidecars
    facts, lonlat = np.zeros((len(listing.paths), 5)), None
    if headed:
        about = repr((layout.bands, layout.header, layout.alpha))
        key = short_hash([VERSION, digest.hexdigest(), sorted(beside.items()), about], 64)
        facts = _facts(listed.root, headed, len(facts), layout, cache / f"folder-headers-{key[:16]}.npz", key)
        lonlat = facts[:, :2] if np.isfinite(facts).all() else None
    return Inspection(
        digest=digest.hexdigest(),
        stamps=stamps,
        beside=beside,
        lonlat=lonlat,
        lacks=facts[:, LACKS] > 0,
        floats=facts[:, FLOATS] > 0,
        scaled=bool(facts[:, SCALED].any()),
    )


def _files(listed: Directories, relative: str, layout: BandLayout) -> list[str]:
    """Files of a sample, relative to the folder, in the bands' order, as in the digest of v0.1."""
    if layout.header is not None:
        return [relative]
    folder = listed.root / relative
    if not folder.is_dir():
        raise RequestError(f"{folder} is a file but {layout.first} a folder of bands; use one kind only")
    return [f"{relative}/{file.name}" for file in files_of(folder, layout, listed[relative]).values()]


def _status(listed: Directories, path: str) -> os.stat_result:
    folder, name = os.path.split(path)
    try:
        return listed[folder][name].stat()
    except (KeyError, FileNotFoundError) as error:
        raise RequestError(f"no file {listed.root / path}; restore it or remove it from the list") from error


def _sidecars(listed: Directories, path: str) -> list[tuple[int, int]]:
    """Sizes and times of the files in which GDAL keeps more about a TIFF."""
    folder, name = os.path.split(path)
    entries = [listed[folder].get(f"{name}{suffix}") for suffix in SIDECARS]
    return [(about.st_size, about.st_mtime_ns) for about in (entry.stat() for entry in entries if entry)]


def _facts(
    root: Path, headed: Sequence[tuple[int, list[str]]], rows: int, layout: BandLayout, index: Path, key: str
) -> np.ndarray:
    """(N, 5) location, and whether a sample lacks measurements, has floats, is scaled; NaN where there is no location.

    Kept in `index` for many files, unless a location was refused: the reason is to be printed each time.
    """
    kept = array_for(index, "facts", digest=key)
    if kept is not None and kept.shape == (rows, 5):
        return kept
    facts, headers = np.zeros((rows, 5)), []
    with progress("reading headers", len(headed), "images") as advance:
        for row, files in headed:
            found = [read_header(root / file, alpha=layout.alpha) for file in files]
            if layout.header is not None:
                check_like(root / files[0], found[0], layout)
            headers.append(found[0])
            facts[row, LACKS:] = _declared(found)
            advance(1)
    lonlat = lonlat_of(headers, where="folder") if len(headers) == rows else None
    facts[:, :2] = np.nan if lonlat is None else lonlat
    if len(headed) >= WORTH_KEEPING and (lonlat is not None or any(header.crs is None for header in headers)):
        with suppress(OSError, RequestError):
            keep_array(index, "facts", facts, digest=key)
    return facts


def _declared(headers: Sequence[Header]) -> tuple[bool, bool, bool]:
    declared = [header.declared for header in headers if header.declared]
    floats = any(np.dtype(header.dtype).kind == "f" for header in headers)
    return any(one.lacks for one in declared), floats, any(one.scaled for one in declared)
