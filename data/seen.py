"""What features were made from: a stamp and a checksum of every image, taken as it is first read.

A stamp is a hash of the sizes and times of an image's files: comparing times is fast, reading all images again takes
minutes. A checksum is a hash of the pixels: it shows that files with new times, such as copies, have the same content.
Both are 64-bit XXH3 hashes; 0 means unknown.
"""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import batched

import numpy as np
from jaxtyping import Shaped, UInt64
from xxhash import xxh3_64_intdigest

from data.bands import Band
from data.dataset import EODataset
from data.errors import RequestError

STAMP, PIXELS = 0, 1  # columns of the array ``sources`` (N, 2) uint64
THREADS = 16  # reading file times waits for the disk
AT_ONCE = 1024


def stamp_of(about: Iterable[os.stat_result]) -> int:
    """Stamp of an image from the status of its files, in order; 0 if it has none."""
    line = ";".join(f"{one.st_size} {one.st_mtime_ns}" for one in about)
    return xxh3_64_intdigest(line.encode()) if line else 0


def times_digest(abouts: Mapping[str, os.stat_result]) -> str:
    """sha256 of the names, sizes and times of files: features of changed images are not reused."""
    lines = (f"{name} {about.st_size} {about.st_mtime_ns}" for name, about in abouts.items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def stamp(dataset: EODataset, index: int, bands: Sequence[Band]) -> int:
    """Stamp of an image as it is on disk now."""
    try:
        return stamp_of([os.stat(file) for file in dataset.files(index, bands)])
    except FileNotFoundError as error:
        raise RequestError(f"no file {error.filename}; it existed before: restore it") from error


def stamps(dataset: EODataset, bands: Sequence[Band]) -> UInt64[np.ndarray, " samples"] | None:
    """Stamps of all images, (N,) uint64; None if they have no files of their own.

    Those taken when the dataset was opened, if it read the status of all files then.
    """
    if dataset.looked is not None:
        return dataset.looked
    if not dataset.files(0, bands):
        return None

    def some(rows: tuple[int, ...]) -> list[int]:
        return [stamp(dataset, row, bands) for row in rows]

    with ThreadPoolExecutor(THREADS) as pool:
        found = [one for part in pool.map(some, batched(range(len(dataset)), AT_ONCE)) for one in part]
    return np.array(found, np.uint64)


def check_looked(dataset: EODataset, rows: Sequence[int], found: Sequence[int] | UInt64[np.ndarray, " batch"]) -> None:
    """Raise a RequestError for an image that was replaced after the dataset had been opened."""
    if dataset.looked is None:
        return
    for row, now in zip(rows, found, strict=True):
        if dataset.looked[row] != now:
            raise RequestError(f"'{dataset.ids[row]}' was replaced while it was read; run the command again")


def checksum(images: Sequence[Shaped[np.ndarray, "_ _"]]) -> int:
    """Checksum of an image's bands, each (H, W), whatever resolution or order of bytes they have."""
    sums = [xxh3_64_intdigest(np.ascontiguousarray(image, image.dtype.newbyteorder("<"))) for image in images]
    return xxh3_64_intdigest(np.array(sums, "<u8"))


def stack_checksums(stacks: Sequence[tuple[list[int], Shaped[np.ndarray, "batch _ _ _"]]]) -> list[int]:
    """Checksums of images that were read together, as `checksum` has them."""
    channels = {channel: pixels[:, place] for places, pixels in stacks for place, channel in enumerate(places)}
    rows = len(stacks[0][1])
    return [checksum([channels[channel][row] for channel in sorted(channels)]) for row in range(rows)]
