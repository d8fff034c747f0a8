"""The pixel grid of a scene and the windows that are cut from it."""

from dataclasses import asdict, dataclass
from functools import cached_property
from math import gcd
from typing import Any

import numpy as np
from affine import Affine

EDGES = ("drop", "pad")


@dataclass(frozen=True)
class SceneGrid:
    """One scene's georeference, and the windows laid over it.

    Args:
        name: unique among the scenes of a dataset.
        crs: coordinate reference system, as ``EPSG:32632`` or WKT.
        transform: (a, b, c, d, e, f) of the affine transform from pixels to coordinates.
        height: pixels.
        width: pixels.
        tile: side of a window in pixels.
        stride: pixels from one window to the next.
        edge: ``drop`` leaves out windows that reach beyond the scene, ``pad`` keeps them.
    """

    name: str
    crs: str
    transform: tuple[float, float, float, float, float, float]
    height: int
    width: int
    tile: int
    stride: int
    edge: str = "drop"

    def record(self) -> dict[str, Any]:
        """JSON-able description, of which `grids_of` makes the grid again."""
        return asdict(self) | {"transform": list(self.transform)}

    @cached_property
    def affine(self) -> Affine:
        """Pixels (column, row) to coordinates."""
        return Affine(*self.transform)

    @property
    def cell(self) -> int:
        """Side in pixels of the largest squares that every window consists of: a map's finest resolution."""
        return gcd(self.tile, self.stride)

    @property
    def cells(self) -> tuple[int, int]:
        """Rows and columns of cells, those at the lower and right edge perhaps in part beyond the scene."""
        return -(-self.height // self.cell), -(-self.width // self.cell)

    @property
    def cell_affine(self) -> Affine:
        """Cells (column, row) to coordinates."""
        return self.affine @ Affine.scale(self.cell)

    def starts(self, length: int) -> np.ndarray:
        """First pixels of the windows along one axis."""
        last = length - self.tile if self.edge == "drop" else length - 1
        return np.arange(0, last + 1, self.stride, dtype=np.int32)

    def windows(self, block: tuple[int, int] | None = None) -> np.ndarray:
        """(N, 2) int32 first row and column of every window, row by row.

        Args:
            block: rows and columns of pixels; windows that start in one follow each other, row by row.
        """
        rows, columns = self.starts(self.height), self.starts(self.width)
        found = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).reshape(-1, 2)
        down, right = (found // (block or (self.height, self.width))).T
        return found[np.lexsort((right, down))]

    def per_window(self, cells: np.ndarray, windows: np.ndarray) -> np.ndarray:
        """Sums over each window's cells.

        Args:
            cells: (h, w) numbers, see `cells`.
            windows: (N, 2), see `windows`.

        Returns:
            (N,) int64.
        """
        sums = np.zeros((cells.shape[0] + 1, cells.shape[1] + 1), np.int64)
        sums[1:, 1:] = cells.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
        top, left = (windows // self.cell).T
        bottom = np.minimum(top + self.tile // self.cell, cells.shape[0])
        right = np.minimum(left + self.tile // self.cell, cells.shape[1])
        return sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]

    def centres(self, windows: np.ndarray) -> np.ndarray:
        """(N, 2) x and y of the windows' centers, (N, 2), in the scene's coordinates."""
        rows, columns = windows.T + self.tile / 2
        x, y = self.affine @ (columns, rows)
        return np.column_stack([x, y]).astype(np.float64)

    def lonlat(self, windows: np.ndarray) -> np.ndarray:
        """(N, 2) WGS 84 degrees of the windows' centers, (N, 2)."""
        return transformed(self.centres(windows), self.crs, "EPSG:4326")

    def boxes(self, windows: np.ndarray) -> np.ndarray:
        """(N,) shapely squares of the windows, (N, 2), in WGS 84 degrees."""
        import shapely  # deferred: only for geometries

        corners = windows[:, None] + self.tile * np.array([(0, 0), (0, 1), (1, 1), (1, 0)])
        rows, columns = corners.reshape(-1, 2).T
        x, y = self.affine @ (columns, rows)  # type: ignore[operator]  # arrays are multiplied too
        lonlat = transformed(np.column_stack([x, y]), self.crs, "EPSG:4326")
        return np.asarray(shapely.polygons(lonlat.reshape(-1, 4, 2)))

    def pixels(self, lonlat_or_xy: np.ndarray, crs: str) -> np.ndarray:
        """(N, 2) fractional row and column of points.

        Args:
            lonlat_or_xy: (N, 2) x and y, or longitude and latitude.
            crs: their coordinate reference system.
        """
        x, y = transformed(lonlat_or_xy, crs, self.crs).T
        columns, rows = ~self.affine @ (x, y)
        return np.column_stack([rows, columns])


def transformed(points: np.ndarray, source: Any, target: str) -> np.ndarray:
    """(N, 2) x and y of points, (N, 2), in another coordinate reference system; inf where there is no such place."""
    import pyproj  # deferred: a sixth of a second

    change = pyproj.Transformer.from_crs(source, target, always_xy=True).transform
    return np.column_stack(change(points[:, 0], points[:, 1]))


def grids_of(provenance: dict[str, Any]) -> list[SceneGrid]:
    """The grids of a scene dataset, from the provenance that its features record."""
    return [SceneGrid(**record | {"transform": tuple(record["transform"])}) for record in provenance.get("scenes", ())]
