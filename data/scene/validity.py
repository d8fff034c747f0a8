"""The valid pixels of each window of a scene: not nodata, masked, cloudy or beyond the edge."""

from itertools import product

import numpy as np

from data.command import progress
from data.scene.grid import SceneGrid
from data.scene.raster import BLOCK_SIDE, Scene


def invalid_pixels(scene: Scene, grid: SceneGrid, windows: np.ndarray) -> np.ndarray:
    """Pixels of each window that lack a measurement in at least one band; reads the scene once, block by block.

    Args:
        scene: the scene.
        grid: its grid.
        windows: (N, 2) first row and column.

    Returns:
        (N,) int64.
    """
    valid = _valid_by_blocks(scene, grid) if scene.lacking else _inside(grid)
    return grid.tile**2 - grid.per_window(valid, windows)


def _inside(grid: SceneGrid) -> np.ndarray:
    """Pixels of each cell that are inside the scene, (h, w)."""
    along = [
        np.clip(length - np.arange(count) * grid.cell, 0, grid.cell)
        for length, count in zip((grid.height, grid.width), grid.cells, strict=True)
    ]
    return np.outer(*along)


def _valid_by_blocks(scene: Scene, grid: SceneGrid) -> np.ndarray:
    """Pixels of each cell that are measured in all bands, (h, w)."""
    counts = np.zeros(grid.cells, np.int64)
    cell, (rows, columns) = grid.cell, grid.cells
    down, right = (max(1, max(side, BLOCK_SIDE) // cell) for side in scene.block)
    with progress(f"checking for missing pixels in {scene.name}", counts.size, "cells") as advance:
        for top, left in product(range(0, rows, down), range(0, columns, right)):
            bottom, end = min(top + down, rows), min(left + right, columns)
            valid = np.ones(((bottom - top) * cell, (end - left) * cell), bool)
            for band in scene.bands:
                invalid = scene.read((top * cell, bottom * cell), (left * cell, end * cell), [band])[0].invalid
                if invalid is not None:
                    valid &= ~invalid
            cells = valid.reshape(bottom - top, cell, end - left, cell).sum(axis=(1, 3))
            counts[top:bottom, left:end] = cells
            advance(cells.size)
    return counts
