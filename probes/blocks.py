"""Spatial blocks of labeled windows, and scores of each window by a probe that has not seen its surroundings.

Windows next to each other resemble each other, so that random splits overrate a map (Roberts et al. 2017, doi
10.1111/ecog.02881). With few labels, a test split of some blocks says next to nothing. So every label trains the map,
and its accuracy is that of nested cross-validation: the blocks are divided into folds; for each, hyper-parameters are
chosen and a probe is fitted on the other folds, without windows within a buffer of it, and scores it.
"""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Integer

from data.errors import RequestError
from probes import spatial
from probes.folds import cross_validate
from probes.metrics import label_matrix
from probes.sampling import stratified_folds
from probes.scores import score
from probes.search import FitTask, fit_again

FOLDS = 5
LEAST_BLOCKS = 25
KM_PER_DEGREE = float(np.pi * spatial.EARTH_KM / 180)


@dataclass(frozen=True)
class Blocks:
    """How labeled windows are divided.

    Args:
        folds: (N,) fold of each, from 0.
        block_km: side of a block.
        buffer_km: distance between centers below which a window does not train the probe that scores another.
        count: blocks with labels.
    """

    folds: np.ndarray
    block_km: float
    buffer_km: float
    count: int

    @property
    def degrees(self) -> float:
        """Height of a block."""
        return self.block_km / KM_PER_DEGREE


def divide_blocks(
    lonlat: Float[np.ndarray, "samples 2"],
    labels: Integer[np.ndarray, " samples"],
    *,
    tile_km: float,
    buffer_km: float | None = None,
    seed: int = 0,
) -> Blocks:
    """Divide labeled windows into folds of whole blocks, stratified by class.

    Blocks are the largest of 2, 4, 8 ... windows of which `LEAST_BLOCKS` have labels.

    Args:
        lonlat: centers in degrees.
        labels: class numbers.
        tile_km: side of a window on the ground.
        buffer_km: None means two windows, so that one fits between windows of different folds.
        seed: breaks ties.

    Raises:
        RequestError: the labels are too few, or too close together, to be divided.
    """
    buffer_km = 2 * tile_km if buffer_km is None else buffer_km
    block_km, cells = _block_size(lonlat, tile_km)
    count, truth = int(cells.max()) + 1, label_matrix(labels, int(labels.max()) + 1)
    folds = stratified_folds(truth, min(FOLDS, count), seed=seed, cells=cells) if count > 1 else cells
    blocks = Blocks(np.unique(folds, return_inverse=True)[1], block_km, buffer_km, count)
    trained = [
        part
        for fold in range(int(blocks.folds.max()) + 1)
        for part in _inner(labels, lonlat, blocks.folds, fold, buffer_km)
    ]
    if count < 3 or any(len(np.unique(part)) < 2 for part in trained):
        raise RequestError(
            f"{len(labels)} labeled windows in {count} blocks of {block_km:.2g} km are too few to evaluate a map: "
            "without some blocks only one class is left; label more windows, farther apart, or lower --buffer-km"
        )
    return blocks


def _inner(labels: np.ndarray, lonlat: np.ndarray, folds: np.ndarray, fold: int, buffer_km: float) -> list[np.ndarray]:
    """Labels that train the probes of one fold: those that choose, and the one that scores it."""
    keep = training_rows(lonlat, folds, fold, buffer_km)
    others = np.unique(folds[keep])
    return [labels[keep], *(labels[keep & (folds != other)] for other in others)]


def _block_size(lonlat: np.ndarray, tile_km: float) -> tuple[float, np.ndarray]:
    """Side of the largest blocks that leave enough of them, and each window's block."""
    extent = float(np.ptp(lonlat, axis=0).max()) * KM_PER_DEGREE
    for power in range(max(1, int(np.log2(max(extent / tile_km, 2)))), 0, -1):
        block_km = tile_km * 2**power
        cells = spatial.cells(lonlat, block_km / KM_PER_DEGREE)
        assert cells is not None
        if cells.max() + 1 >= LEAST_BLOCKS or power == 1:
            return block_km, cells
    raise AssertionError


def training_rows(lonlat: np.ndarray, folds: np.ndarray, fold: int, buffer_km: float) -> np.ndarray:
    """(N,) booleans: windows of other folds that are not within the buffer of one of this fold."""
    held_out = folds == fold
    return ~held_out & (spatial.nearest_km(lonlat, lonlat[held_out]) >= buffer_km)


def held_out_scores(
    task: FitTask, folds: Integer[np.ndarray, " samples"], lonlat: Float[np.ndarray, "samples 2"], buffer_km: float
) -> Float32[np.ndarray, "samples classes"]:
    """Probabilities of every sample by a probe that was chosen and fitted without its fold and the buffer around it.

    Args:
        task: its ``train`` holds all samples.
        folds: fold of each sample.
        lonlat: locations in degrees.
        buffer_km: see `Blocks`.
    """
    result = np.zeros((len(folds), task.classes), np.float32)
    quiet = replace(task, log=None)
    for fold in range(int(folds.max()) + 1):
        keep = training_rows(lonlat, folds, fold, buffer_km)
        part = replace(quiet, train=task.train[keep], labels=task.labels[keep])
        inner = np.unique(folds[keep], return_inverse=True)[1]
        estimator = fit_again(part, cross_validate(part, inner).best.params).estimator
        held_out = folds == fold
        result[held_out] = score(estimator, task.train[held_out], classes=task.classes, multilabel=False)
    return result
