"""How much of each window of a scene is measured: nodata, masks, clouds and what lies beyond the edge are not."""

import numpy as np

from data.command import progress
from data.scene.grid import SceneGrid
from data.scene.raster import Scene

STRIP_ROWS = 256  # read at a time, about: 70 MB of twelve bands of 10,980 pixels


def invalid_pixels(scene: Scene, grid: SceneGrid, windows: np.ndarray) -> np.ndarray:
    """Pixels of each window that lack a measurement in at least one band; reads the scene once, strip by strip.

    Args:
        scene: the scene.
        grid: its grid.
        windows: (N, 2) first row and column.

    Returns:
        (N,) int64.
    """
    valid = _valid_by_strips(scene, grid) if scene.lacking else _inside(grid)
    return grid.tile**2 - grid.per_window(valid, windows)


def _inside(grid: SceneGrid) -> np.ndarray:
    """Pixels of each cell that are inside the scene, (h, w)."""
    along = [
        np.clip(length - np.arange(count) * grid.cell, 0, grid.cell)
        for length, count in zip((grid.height, grid.width), grid.cells, strict=True)
    ]
    return np.outer(*along)


def _valid_by_strips(scene: Scene, grid: SceneGrid) -> np.ndarray:
    """Pixels of each cell that are measured in all bands, (h, w)."""
    rows, columns = grid.cells
    cell, counts = grid.cell, np.zeros((rows, columns), np.int64)
    step = max(1, STRIP_ROWS // cell)
    with progress(f"checking for missing pixels in {scene.name}", rows, "rows of cells") as advance:
        for first in range(0, rows, step):
            last = min(first + step, rows)
            valid = np.ones(((last - first) * cell, columns * cell), bool)
            for band in scene.bands:
                invalid = scene.read((first * cell, last * cell), (0, columns * cell), [band])[0].invalid
                if invalid is not None:
                    valid &= ~invalid
            counts[first:last] = valid.reshape(last - first, cell, columns, cell).sum(axis=(1, 3))
            advance(last - first)
    return counts
