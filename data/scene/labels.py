"""Labels of a scene's windows, from points, polygons, a raster or a table of coordinates; any reference system.

A point labels the window whose center is nearest. Of polygons and rasters a window takes the class that covers most of
it, if that covers at least ``--min-cover`` of it.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.command import note
from data.errors import RequestError
from data.files import write_text
from data.scene.grid import SceneGrid
from data.scene.raster import opened
from data.scene.shapes import Shapes, read_shapes

RASTERS = (".tif", ".tiff", ".vrt")
MIN_COVER = 0.5
STRIP_CELLS = 16  # rows of cells that polygons and rasters are counted in at a time


@dataclass(frozen=True)
class LabelSource:
    """Where labels are.

    Args:
        path: a vector file, a CSV with lon and lat, or a raster of class numbers.
        field: column of the class; None takes the first of `data.scene.shapes.FIELDS` that is there.
        min_cover: share of a window that polygons or a raster must cover with its class.
    """

    path: Path
    field: str | None = None
    min_cover: float = MIN_COVER


@dataclass(frozen=True)
class WindowLabels:
    """Classes of windows.

    Args:
        labels: (N,) int64 class numbers, -1 where unlabeled.
        class_names: K names, sorted.
        notes: what a reader should know, such as labels outside the scene.
    """

    labels: np.ndarray
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def label_windows(source: LabelSource, grids: Sequence[SceneGrid], footprint: np.ndarray) -> WindowLabels:
    """Look up the class of every window.

    Args:
        source: where the labels are.
        grids: S scenes.
        footprint: (N, 3) scene, row and column of the first pixel of each window.

    Raises:
        RequestError: a file that cannot be read, has no such field or no reference system; no label in any window.
    """
    if not 0 < source.min_cover <= 1:
        raise RequestError(f"--min-cover {source.min_cover:g}: must be above 0 and at most 1, such as 0.5")
    if not source.path.exists():
        raise RequestError(f"no labels at {source.path}; give a vector file, a CSV with lon and lat, or a raster")
    if source.path.suffix.lower() in RASTERS:
        return _from_raster(source, grids, footprint)
    import shapely  # deferred: only for vectors

    shapes = read_shapes(source.path, source.field)
    kinds = set(shapely.get_type_id(shapes.geometries).tolist())
    if kinds <= {0, 4}:  # points
        return _from_points(source, shapes, grids, footprint)
    if kinds <= {3, 6}:  # polygons
        return _from_polygons(source, shapes, grids, footprint)
    raise RequestError(f"{source.path} mixes points, lines and polygons; give points or polygons in one file")


# ------------------------------------------------------------------------------------------- windows


def _from_points(
    source: LabelSource, shapes: Shapes, grids: Sequence[SceneGrid], footprint: np.ndarray
) -> WindowLabels:
    import shapely

    names = tuple(sorted(set(shapes.classes)))
    owner = np.repeat(np.arange(len(shapes.classes)), shapely.get_num_geometries(shapes.geometries))
    points = shapely.get_coordinates(shapes.geometries)
    votes = np.zeros((len(footprint), len(names)), np.int64)
    inside = np.zeros(len(shapes.classes), bool)
    for number, grid in enumerate(grids):
        rows = np.flatnonzero(footprint[:, 0] == number)
        if not len(rows):
            continue
        found = nearest_windows(grid, footprint[rows, 1:], grid.pixels(points, shapes.crs))
        for point in np.flatnonzero((found >= 0) & ~inside[owner]):
            votes[rows[found[point]], names.index(shapes.classes[owner[point]])] += 1
        inside[owner[found >= 0]] = True
    return _decided(source, votes, names, ~inside)


def nearest_windows(grid: SceneGrid, windows: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Row of the window that contains each point and whose center is nearest; -1 where none does.

    Args:
        grid: of the scene.
        windows: (N, 2) first row and column.
        pixels: (M, 2) fractional row and column.
    """
    from scipy.spatial import KDTree  # deferred: only for points

    found, somewhere = np.full(len(pixels), -1), np.isfinite(pixels).all(axis=1)
    edge = 1e-6  # a point on the edge between two windows lies in the lower or right one
    distance, nearest = KDTree(windows + grid.tile / 2).query(pixels[somewhere] + edge, p=np.inf)
    found[somewhere] = np.where(distance <= grid.tile / 2, nearest, -1)
    return found


def _from_polygons(
    source: LabelSource, shapes: Shapes, grids: Sequence[SceneGrid], footprint: np.ndarray
) -> WindowLabels:
    import geopandas
    from rasterio.features import rasterize

    names = tuple(sorted(set(shapes.classes)))
    numbers = [names.index(name) + 1 for name in shapes.classes]
    pixels = np.zeros((len(footprint), len(names)), np.int64)
    for number, grid in enumerate(grids):
        frame = geopandas.GeoSeries(list(shapes.geometries), crs=shapes.crs).to_crs(grid.crs)
        tree, windows = frame.sindex, footprint[:, 0] == number

        def strip(first: int, last: int, grid: SceneGrid = grid, frame: Any = frame, tree: Any = tree) -> np.ndarray:
            shape = ((last - first) * grid.cell, grid.cells[1] * grid.cell)
            transform = grid.affine @ grid.affine.translation(0, first * grid.cell)
            corners = [transform @ place for place in ((0, 0), (shape[1], 0), (0, shape[0]), shape[::-1])]
            (x, y), (far_x, far_y) = np.min(corners, axis=0), np.max(corners, axis=0)
            hit = sorted(tree.intersection((x, y, far_x, far_y)))
            if not len(hit):
                return np.zeros(shape, np.uint16)
            burnt = [(frame.iloc[one], numbers[one]) for one in hit]
            return rasterize(burnt, out_shape=shape, transform=transform, dtype="uint16")

        pixels[windows] = _counted(grid, footprint[windows, 1:], strip, len(names))
    return _covered(source, pixels, names, grids[0].tile)


def _from_raster(source: LabelSource, grids: Sequence[SceneGrid], footprint: np.ndarray) -> WindowLabels:
    from rasterio.vrt import WarpedVRT
    from rasterio.windows import Window

    with opened(source.path) as raster:
        if raster.crs is None:
            raise RequestError(f"{source.path} has no coordinate reference system; add it with gdal_translate -a_srs")
        if np.dtype(raster.dtypes[0]).kind not in "iu":
            raise RequestError(f"{source.path} holds {raster.dtypes[0]}; a raster of labels holds whole class numbers")
        nodata, tags = raster.nodata, raster.tags()
        found = {int(v) for _, window in raster.block_windows(1) for v in np.unique(raster.read(1, window=window))}
        values = sorted(found - {nodata})
        if len(values) > 1000 or not values:
            raise RequestError(f"{source.path} holds {len(values)} values; a raster of labels holds class numbers")
        known = json.loads(tags.get("class_names", "{}"))
        names = tuple(str(known.get(str(value), value)) for value in values)
        absent = nodata if nodata is not None else _unused(values, raster.dtypes[0], source.path)
        pixels = np.zeros((len(footprint), len(names)), np.int64)
        for number, grid in enumerate(grids):
            windows = footprint[:, 0] == number
            shape = {"width": grid.cells[1] * grid.cell, "height": grid.cells[0] * grid.cell}
            with WarpedVRT(raster, crs=grid.crs, transform=grid.affine, nodata=absent, **shape) as warped:

                def strip(first: int, last: int, grid: SceneGrid = grid, warped: Any = warped) -> np.ndarray:
                    rows = slice(first * grid.cell, last * grid.cell)
                    stored = warped.read(1, window=Window.from_slices(rows, (0, warped.width)))
                    where = np.searchsorted(values, stored).clip(0, len(values) - 1)
                    return np.where(np.array(values)[where] == stored, where + 1, 0).astype(np.uint16)

                pixels[windows] = _counted(grid, footprint[windows, 1:], strip, len(names))
    return _covered(source, pixels, names, grids[0].tile)


def _unused(values: Sequence[int], dtype: str, path: Path) -> int:
    """A number that stands for no label."""
    limits = np.iinfo(dtype)
    free = next((one for one in (limits.max, limits.min, *range(256)) if one not in values), None)
    if free is None:
        raise RequestError(f"{path} uses all values of {dtype} as classes; set its nodata value")
    return free


def _counted(grid: SceneGrid, windows: np.ndarray, strip: Any, classes: int) -> np.ndarray:
    """(N, K) pixels of each class in each window, counted strip by strip.

    Args:
        grid: of the scene.
        windows: (N, 2).
        strip: gives (rows, columns) class numbers from 1, 0 for none, of some rows of cells.
        classes: K.
    """
    rows, columns = grid.cells
    cells = np.zeros((classes, rows, columns), np.int32)
    for first in range(0, rows, STRIP_CELLS):
        last = min(first + STRIP_CELLS, rows)
        found = strip(first, last)
        if not found.any():
            continue
        blocks = found.reshape(last - first, grid.cell, columns, grid.cell)
        for number in np.unique(found[found > 0]):
            cells[number - 1, first:last] = (blocks == number).sum(axis=(1, 3))
    return np.column_stack([grid.per_window(of_one, windows) for of_one in cells])


def _covered(source: LabelSource, pixels: np.ndarray, names: tuple[str, ...], tile: int) -> WindowLabels:
    enough = np.where(pixels >= source.min_cover * tile**2, pixels, 0)
    if not enough.any() and pixels.any():
        best = pixels.max() / tile**2
        raise RequestError(
            f"{source.path}: no class covers {source.min_cover:.0%} of a window (at most {best:.0%}); "
            "lower --min-cover or --tile"
        )
    return _decided(source, enough, names)


def _decided(source: LabelSource, votes: np.ndarray, names: tuple[str, ...], outside: Any = ()) -> WindowLabels:
    """The class with most votes, (N, K); none for a tie. `outside` marks points that lie in no window."""
    if not votes.any():
        raise RequestError(
            f"{source.path}: no label lies in a window of the scene; check that both cover the same area"
        )
    ranked = np.sort(votes, axis=1)
    tied = (ranked[:, -1] > 0) & (ranked[:, -1] == ranked[:, -2]) if len(names) > 1 else np.zeros(len(votes), bool)
    labels = np.where(votes.any(axis=1) & ~tied, votes.argmax(axis=1), -1).astype(np.int64)
    notes = []
    if any(outside):
        notes.append(f"{sum(outside):,} of {len(outside):,} labeled points lie in no window and are not used")
    if tied.any():
        notes.append(f"{tied.sum():,} windows have a tie between two classes and stay unlabeled")
    used = np.unique(labels[labels >= 0])
    if len(used) < 2:
        only = f"only {names[used[0]]}" if len(used) else "none"
        raise RequestError(f"{source.path} labels windows with {only}; add labels of another class: a map needs two")
    kept = {int(old): new for new, old in enumerate(used)}
    if absent := [name for k, name in enumerate(names) if k not in kept]:
        notes.append(f"no window has the label {', '.join(absent)}")
    labels = np.array([kept.get(int(label), -1) for label in labels], np.int64)
    return WindowLabels(labels, tuple(names[int(k)] for k in used), tuple(notes))


# ------------------------------------------------------------------------------------------- which labels


def remember(file: Path, source: LabelSource, labels: WindowLabels) -> None:
    """Record where a scene's labels are, for the probes; and report what they label."""
    record = {"path": str(source.path.resolve()), "field": source.field, "min_cover": source.min_cover}
    write_text(file, json.dumps(record, indent=1))
    counts = np.bincount(labels.labels[labels.labels >= 0], minlength=len(labels.class_names))
    shown = ", ".join(f"{name} {count:,}" for name, count in zip(labels.class_names, counts, strict=True))
    note(f"{counts.sum():,} of {len(labels.labels):,} windows are labeled: {shown}")
    for line in labels.notes:
        note(line)


def remembered(file: Path) -> LabelSource:
    """The labels that `remember` recorded.

    Raises:
        RequestError: none were named.
    """
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        return LabelSource(Path(record["path"]), record["field"], float(record["min_cover"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(
            "no labels are known for this scene; give featurize --labels points.gpkg --label-field class again: "
            "features that exist are reused"
        ) from error
