"""Batches of raw samples, read in worker processes or here, in order."""

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from data.bands import Band
from data.dataset import EODataset
from data.errors import RequestError
from data.workers import LostWorkerError, in_order
from featurize.batches import Batch, collate
from featurize.stages import Busy

Stacks = list[tuple[list[int], np.ndarray]]


@dataclass(frozen=True)
class _Reader:
    """Reads the samples from one row to another.

    Args:
        dataset: one split.
        bands: which.
    """

    dataset: EODataset
    bands: Sequence[Band]

    def __call__(self, rows: tuple[int, int]) -> tuple[float, list[tuple[list[int], Stacks]]]:
        """Seconds it took, and the arrays of each `Batch`: tensors would not come back through shared memory."""
        start = time.perf_counter()
        wanted = range(*rows)
        stacks = self.dataset.read_stacks(wanted, self.bands)
        if stacks is not None:
            read = [(list(range(len(wanted))), list(stacks))]
        else:
            batches = collate([self.dataset.read(row, self.bands) for row in wanted])
            read = [
                (batch.rows, [(channels, pixels.numpy()) for channels, pixels in batch.stacks]) for batch in batches
            ]
        return time.perf_counter() - start, read


def read_batches(
    dataset: EODataset, bands: Sequence[Band], ranges: Sequence[tuple[int, int, int]], workers: int, busy: Busy
) -> Generator[list[Batch]]:
    """Read the rows of each (part, start, stop), in order, in worker processes or in this thread.

    Raises:
        RequestError: a sample cannot be read, or a worker process was killed.
    """
    rows = [(start, stop) for _, start, stop in ranges]
    size = 0
    if workers and rows:
        largest = max(stop - start for start, stop in rows)
        size = largest * sum(pixels.nbytes for pixels in dataset.read(rows[0][0], bands))
    try:
        for seconds, read in in_order(_Reader(dataset, bands), rows, workers=workers, result_bytes=size):
            busy.seconds["read"] += seconds / max(1, workers)
            yield [
                Batch(of, [(channels, torch.from_numpy(array)) for channels, array in stacks]) for of, stacks in read
            ]
    except LostWorkerError as error:
        raise RequestError(f"{error}; finished parts are kept") from error
