"""Train, val and test by spatial blocks that fit the labels of a scene, with a buffer between them.

Windows next to each other resemble each other, so that random splits overrate a map (Roberts et al. 2017, doi
10.1111/ecog.02881). Blocks are the largest of 2, 4, 8 ... windows that leave at least `LEAST_BLOCKS` of them with
labels; each goes to one split as a whole. With few labels chance decides which classes a split has, so that many
draws are made by the seed, and the one is taken that has most classes in every split and the shares asked for.
"""

from dataclasses import dataclass

import numpy as np

from data.dataset import SPLITS
from data.errors import RequestError
from probes import spatial
from probes.resplit import crowded

SHARES = (0.6, 0.2, 0.2)
LEAST_BLOCKS = 25
DRAWS = 200
KM_PER_DEGREE = np.pi * spatial.EARTH_KM / 180
MISSING = {"train": 3.0, "val": 1.0, "test": 1.0}  # cost of a split that lacks a class


@dataclass(frozen=True)
class Blocks:
    """A division of labelled windows.

    Args:
        splits: (N,) 0, 1, 2 for train, val and test; -1 for windows that the buffer costs.
        block_km: side of a block.
        buffer_km: distance between centres below which windows of two splits are not both kept.
        count: blocks with labels.
    """

    splits: np.ndarray
    block_km: float
    buffer_km: float
    count: int

    @property
    def degrees(self) -> float:
        """Height of a block."""
        return float(self.block_km / KM_PER_DEGREE)


def divide_blocks(
    lonlat: np.ndarray, labels: np.ndarray, *, tile_km: float, buffer_km: float | None = None, seed: int = 0
) -> Blocks:
    """Divide labelled windows.

    Args:
        lonlat: (N, 2) degrees of their centres.
        labels: (N,) class numbers.
        tile_km: side of a window on the ground.
        buffer_km: None means two windows, so that one fits between windows of different splits.
        seed: of the draws.

    Raises:
        RequestError: the labels are too few, or too close together, to be divided.
    """
    buffer_km = 2 * tile_km if buffer_km is None else buffer_km
    block_km, cells = _block_size(lonlat, tile_km)
    count, classes = int(cells.max()) + 1, int(labels.max()) + 1
    rng, best, lowest = np.random.default_rng(seed), None, np.inf
    for _ in range(DRAWS if count >= len(SPLITS) else 0):
        drawn = _draw(cells, count, rng)
        drawn = np.where(crowded(lonlat, drawn, buffer_km), -1, drawn)
        cost = _cost(drawn, labels, classes)
        if cost < lowest:
            best, lowest = drawn, cost
    if best is None or not all((best == number).any() for number in range(len(SPLITS))):
        raise RequestError(
            f"{len(labels)} labelled windows in {count} blocks of {block_km:.2g} km cannot be divided into train, val "
            f"and test with {buffer_km:.2g} km between them; label windows farther apart, or give a smaller --buffer-km"
        )
    return Blocks(best, block_km, buffer_km, count)


def _block_size(lonlat: np.ndarray, tile_km: float) -> tuple[float, np.ndarray]:
    """Side of the largest blocks that leave enough of them, and each window's block."""
    extent = float(np.ptp(lonlat, axis=0).max()) * KM_PER_DEGREE
    steps = max(1, int(np.log2(max(extent / tile_km, 2))))
    for power in range(steps, 0, -1):
        block_km = tile_km * 2**power
        cells = spatial.cells(lonlat, block_km / KM_PER_DEGREE)
        assert cells is not None
        if cells.max() + 1 >= LEAST_BLOCKS or power == 1:
            return block_km, cells
    raise AssertionError


def _draw(cells: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Blocks in random order, each to the split that lacks most."""
    sizes, wanted = np.bincount(cells), np.array(SHARES) * len(cells)
    given, of_block = np.zeros(len(SPLITS)), np.empty(count, int)
    for block in rng.permutation(count):
        of_block[block] = np.argmax((wanted - given) / wanted)
        given[of_block[block]] += sizes[block]
    return of_block[cells]


def _cost(drawn: np.ndarray, labels: np.ndarray, classes: int) -> float:
    """How far a draw is from one with all classes in all splits, the shares asked for and nothing dropped."""
    cost = float((drawn < 0).mean())
    for number, (split, share) in enumerate(zip(SPLITS, SHARES, strict=True)):
        here = labels[drawn == number]
        cost += abs(len(here) / len(labels) - share) + MISSING[split] * (classes - len(np.unique(here))) / classes
    return cost
