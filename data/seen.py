"""What features were made from: a stamp and a checksum of every image, taken as it is first read.

A stamp is of the sizes and times of the files that an image is read from; reading them all again takes minutes, looking
at their times does not. A checksum is of the pixels, so that files with new times and the same content, such as those
of a clone or a copy, are known to be the same. Both are 64-bit XXH3 hashes; 0 stands for what is not known.
"""

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import batched

import numpy as np
from jaxtyping import Shaped, UInt64
from xxhash import xxh3_64_intdigest

from data.bands import Band
from data.dataset import EODataset
from data.errors import RequestError

STAMP, PIXELS = 0, 1  # columns of the array ``sources`` (N, 2) uint64
THREADS = 16  # looking at files waits for the disk
AT_ONCE = 1024


def stamp_of(about: Iterable[os.stat_result]) -> int:
    """Stamp of an image from what is known of its files, in their order; 0 where there are none."""
    line = ";".join(f"{one.st_size} {one.st_mtime_ns}" for one in about)
    return xxh3_64_intdigest(line.encode()) if line else 0


def stamp(dataset: EODataset, index: int, bands: Sequence[Band]) -> int:
    """Stamp of an image as it is on disk now.

    Raises:
        RequestError: a file is absent.
    """
    try:
        return stamp_of([os.stat(file) for file in dataset.files(index, bands)])
    except FileNotFoundError as error:
        raise RequestError(f"no file {error.filename}; it was there before: restore it") from error


def stamps(dataset: EODataset, bands: Sequence[Band]) -> UInt64[np.ndarray, " samples"] | None:
    """Stamps of all images, (N,) uint64; None where they are read from no files of their own.

    Those that the dataset was opened with, where it has looked at all files then.
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
    """Raise a RequestError for an image that was replaced after the dataset had been opened.

    Args:
        dataset: one split; without stamps of its opening nothing can be said.
        rows: b indices.
        found: their b stamps now.
    """
    if dataset.looked is None:
        return
    for row, now in zip(rows, found, strict=True):
        if dataset.looked[row] != now:
            raise RequestError(f"'{dataset.ids[row]}' was replaced while it was read; give the command again")


def checksum(images: Sequence[Shaped[np.ndarray, "_ _"]]) -> int:
    """Checksum of an image's bands, each (H, W), whatever resolution or order of bytes they have."""
    sums = [xxh3_64_intdigest(np.ascontiguousarray(image, image.dtype.newbyteorder("<"))) for image in images]
    return xxh3_64_intdigest(np.array(sums, "<u8"))


def stack_checksums(stacks: Sequence[tuple[list[int], Shaped[np.ndarray, "batch _ _ _"]]]) -> list[int]:
    """Checksums of images that were read together, as `checksum` has them.

    Args:
        stacks: see `EODataset.read_stacks`.
    """
    channels = {channel: pixels[:, place] for places, pixels in stacks for place, channel in enumerate(places)}
    rows = len(stacks[0][1])
    return [checksum([channels[channel][row] for channel in sorted(channels)]) for row in range(rows)]
