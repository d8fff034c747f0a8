"""Batches of raw samples, read in worker processes or here, in order."""

import time
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt64

from data.bands import Band
from data.dataset import EODataset
from data.errors import RequestError
from data.files import explained
from data.seen import STAMP, check_looked, checksum, stack_checksums, stamp
from data.workers import LostWorkerError, in_order
from featurize.batches import Batch, collate
from featurize.stages import Meter

Stacks = list[tuple[list[int], np.ndarray]]


def _read(
    dataset: EODataset, bands: Sequence[Band], rows: tuple[int, int]
) -> tuple[float, list[tuple[list[int], Stacks]], np.ndarray]:
    """Seconds it took, the arrays of each `Batch`, and what they were read from, (b, 2) uint64 (`data.seen`).

    Arrays, as tensors would not come back through shared memory.
    """
    start, wanted = time.perf_counter(), range(*rows)
    try:
        stamps = [stamp(dataset, row, bands) for row in wanted]  # before the pixels: see `data.seen`
        read, sums = _read_arrays(dataset, bands, wanted)
    except OSError as error:
        raise RequestError(str(explained(error, Path(dataset.where)))) from error
    seen = np.column_stack([np.array(stamps, np.uint64), np.array(sums, np.uint64)])
    check_looked(dataset, wanted, seen[:, STAMP])
    return time.perf_counter() - start, read, seen


def _read_arrays(
    dataset: EODataset, bands: Sequence[Band], rows: range
) -> tuple[list[tuple[list[int], Stacks]], list[int]]:
    stacks = dataset.read_stacks(rows, bands)
    if stacks is not None:
        return [(list(range(len(rows))), list(stacks))], stack_checksums(stacks)
    samples = [dataset.read(row, bands) for row in rows]
    batches = collate(samples)
    read = [(batch.rows, [(channels, pixels.numpy()) for channels, pixels in batch.stacks]) for batch in batches]
    return read, [checksum(sample) for sample in samples]


def read_batches(
    dataset: EODataset,
    bands: Sequence[Band],
    ranges: Sequence[tuple[int, int, int]],
    workers: int,
    meter: Meter,
    seen: dict[int, UInt64[np.ndarray, "batch 2"]] | None = None,
) -> Generator[list[Batch]]:
    """Read the rows of each (part, start, stop), in order, in worker processes or in this thread.

    What they were read from (see `data.seen`) goes into `seen` by start, where it is given.
    """
    rows = [(start, stop) for _, start, stop in ranges]
    size = 0
    if workers and rows:
        largest = max(stop - start for start, stop in rows)
        size = largest * sum(pixels.nbytes for pixels in dataset.read(rows[0][0], bands))
    try:
        batches = in_order(partial(_read, dataset, bands), rows, workers=workers, result_bytes=size)
        for (start, _), (seconds, read, made_from) in zip(rows, batches, strict=True):
            meter.seconds["read"] += seconds / max(1, workers)
            if seen is not None:
                seen[start] = made_from
            yield [
                Batch(of, [(channels, torch.from_numpy(array)) for channels, array in stacks]) for of, stacks in read
            ]
    except LostWorkerError as error:
        raise RequestError(f"{error}; finished parts are kept") from error
