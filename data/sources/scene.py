"""Your own satellite scene: windows of a raster, a Sentinel-2 product or a folder of them, for maps.

``--data-root`` names a GeoTIFF, a VRT, a folder of single-band rasters (``B02.tif``, ``scene_B8A_20m.tif``), a
Sentinel-2 product (``.SAFE``, Level-1C or Level-2A), a STAC item (``.json``) with local assets, or a folder that holds
several of these, which must have the same bands. Rasters need a georeference and names for their bands: band
descriptions, or a file ``dataset.json`` beside them as for ``folder``.

Windows of ``--tile`` pixels are cut every ``--stride`` pixels of the finest band; coarser bands have each value
repeated on that grid. Rasters are read window by window. Windows with less than ``--min-valid`` of their pixels
measured are left out; nodata, masks, NaN, and clouds and shadows by a scene classification (``SCL``) are no
measurements, and are filled with the band's mean. ``--edge pad`` keeps windows that reach beyond the scene. The offset
of Sentinel-2 products since processing baseline 04.00 is removed: EuroSAT and BigEarthNet have none.

All windows are one split, ``test``, without labels: they are embedded once. ``--labels`` names points, polygons, a
raster or a table (see `data.scene.labels`) that ``probe --protocol map`` looks up each time it runs, so that labels may
be added without embedding anything again.
"""

import hashlib
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from data.bands import Band
from data.cached import array_for, keep_array
from data.dataset import EODataset, measured_statistics
from data.declared import Values, filled
from data.errors import RequestError
from data.files import short_hash
from data.flags import DatasetRequest
from data.nodata import record
from data.paths import user_cache
from data.registry import DatasetCard
from data.scene.grid import EDGES, SceneGrid
from data.scene.products import find_scenes
from data.scene.raster import Scene, close_readers
from data.scene.validity import invalid_pixels
from data.seen import stamp_of

CARD = DatasetCard(
    title="Your own scene",
    classes="yours",
    labels="single-label, from --labels",
    bands="those of the raster; Sentinel-2 products: 12 or 13 bands, digital numbers without offset",
    license="yours",
    citation="none",
    options=("tile", "stride", "min_valid", "edge"),
    splits=("test",),
    source="--data-root SCENE: a GeoTIFF, VRT, .SAFE folder, STAC item, folder of single-band rasters, or many",
)

TILE, MIN_VALID, EDGE = 64, 0.8, "drop"
CELLS = 10**7  # of a map, at most: 80 MB per class while its windows are averaged
STATISTICS_WINDOWS = 200  # evenly spread, from which the bands' statistics are measured


def open_dataset(request: DatasetRequest) -> dict[str, EODataset]:
    """Open the windows of all scenes.

    Raises:
        RequestError: no scene, no georeference, unknown bands, a window larger than a scene, or no valid window.
    """
    options = request.options
    if other := [split for split in request.splits if split != "test"]:
        raise RequestError(f"--split {other[0]}: all windows of a scene are in one split; use --split test or all")
    if options.download:
        raise RequestError("--download: your own scene cannot be downloaded; pass its path as --data-root")
    close_readers()  # a mask may have changed since, which the raster's own size and time do not show
    scenes = find_scenes(request.root)
    grids = [_grid(scene, request) for scene in scenes]
    windows = [grid.windows(scene.block) for grid, scene in zip(grids, scenes, strict=True)]
    digest = _digest(scenes)
    invalid = _invalid_pixels(scenes, grids, windows, digest, options.cache_dir or user_cache())
    footprint = np.concatenate(
        [np.insert(of_one, 0, number, axis=1) for number, of_one in enumerate(windows)], dtype=np.int32
    )
    tile, least = grids[0].tile, MIN_VALID if request.options.min_valid is None else request.options.min_valid
    kept = invalid <= (1 - least) * tile**2
    if not kept.any():
        best = 1 - invalid.min() / tile**2
        fix = (
            "lower --min-valid or --tile, or use another scene" if best else "all is nodata or cloud; use another scene"
        )
        raise RequestError(
            f"{request.root}: none of {len(kept):,} windows has {least:.0%} valid pixels (the best has {best:.0%}); "
            f"{fix}"
        )
    return {"test": Windows(request.root, scenes, grids, footprint[kept], invalid[kept], digest, min_valid=least)}


class Windows(EODataset):
    """Windows of one or more scenes.

    Args:
        root: what the scenes were found at.
        scenes: S scenes.
        grids: one for each.
        footprint: (N, 3) int32 scene, row and column of the first pixel.
        invalid: (N,) pixels of each window that are no measurements.
        digest: of the files' names, sizes and times.
        min_valid: see ``--min-valid``.
    """

    digest_of_times = True

    def __init__(
        self,
        root: Path,
        scenes: Sequence[Scene],
        grids: Sequence[SceneGrid],
        footprint: np.ndarray,
        invalid: np.ndarray,
        digest: str,
        *,
        min_valid: float,
    ) -> None:
        self.scenes, self.grids, self.where = list(scenes), list(grids), str(root)
        lonlat = [grid.lonlat(footprint[footprint[:, 0] == number, 1:]) for number, grid in enumerate(grids)]
        names = [f"{grid.name}/" if len(grids) > 1 else "" for grid in grids]
        about = {"min_valid": min_valid, "scenes": [grid.record() for grid in grids]}
        super().__init__(
            name="scene",
            variant=re.sub(r"[^A-Za-z0-9_]+", "-", root.resolve().name.removesuffix(root.suffix)).strip("-") or None,
            split="test",
            ids=[f"{names[scene]}r{row:05d}_c{column:05d}" for scene, row, column in footprint.tolist()],
            labels=np.full(len(footprint), -1, np.int64),
            class_names=(),
            bands=scenes[0].bands,
            statistics={},
            lonlat=np.concatenate(lonlat),
            provenance=about,
            files_digest=digest,
        )
        self.footprint = footprint
        stamps = np.array([stamp_of([path.stat() for path in scene.paths]) for scene in scenes], np.uint64)
        self.looked = stamps[footprint[:, 0]]
        self.statistics = measured_statistics(self, samples=STATISTICS_WINDOWS)
        if (lacking := invalid > 0).any():
            counts = {"images": int(lacking.sum()), "values": int(invalid.sum())}
            self.nodata = record(self.bands, self.statistics, counts)

    def read(self, index: int, bands: Sequence[Band]) -> list[np.ndarray]:
        """See `EODataset.read`; all bands on the finest grid."""
        return self._filled(self.read_values(index, bands), bands)

    def read_values(self, index: int, bands: Sequence[Band]) -> list[Values]:
        """See `EODataset.read_values`."""
        scene, row, column = map(int, self._footprint[index])
        tile = self.grids[scene].tile
        return self.scenes[scene].read((row, row + tile), (column, column + tile), bands)

    def read_stacks(self, rows: Sequence[int], bands: Sequence[Band]) -> list[tuple[list[int], np.ndarray]]:
        """See `EODataset.read_stacks`: windows of one block (see `Scene.block`) are read together."""
        places, tile = self._footprint[list(rows)], self.grids[0].tile
        blocks = np.array([self.scenes[scene].block for scene in places[:, 0]])
        groups, member = np.unique(
            np.column_stack([places[:, 0], places[:, 1:] // blocks]), axis=0, return_inverse=True
        )
        stack: np.ndarray | None = None
        for number, scene in enumerate(groups[:, 0]):
            here = np.flatnonzero(member == number)
            (top, left), (bottom, right) = places[here, 1:].min(axis=0), places[here, 1:].max(axis=0) + tile
            read = self.scenes[scene].read((int(top), int(bottom)), (int(left), int(right)), bands)
            pixels = np.stack(self._filled(read, bands))
            if stack is None:
                stack = np.empty((len(rows), len(bands), tile, tile), pixels.dtype)
            for place in here:
                row, column = places[place, 1:] - (top, left)
                stack[place] = pixels[:, row : row + tile, column : column + tile]
        assert stack is not None
        return [(list(range(len(bands))), stack)]

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`: those of the whole scene."""
        return [str(path) for path in self.scenes[int(self._footprint[index, 0])].paths]

    @property
    def _footprint(self) -> np.ndarray:
        assert self.footprint is not None
        return self.footprint

    def _filled(self, values: Sequence[Values], bands: Sequence[Band]) -> list[np.ndarray]:
        return [filled(one, self.statistics[band.name].mean) for one, band in zip(values, bands, strict=True)]


def _grid(scene: Scene, request: DatasetRequest) -> SceneGrid:
    """The grid of windows asked for.

    Raises:
        RequestError: a size that is not possible.
    """
    tile = TILE if request.options.tile is None else request.options.tile
    stride = tile if request.options.stride is None else request.options.stride
    edge = request.options.edge or EDGE
    for flag, value in (("tile", tile), ("stride", stride)):
        if value < 1:
            raise RequestError(f"--{flag} {value}: must be at least 1")
    if stride > tile:
        raise RequestError(f"--stride {stride}: at most --tile {tile}, so that windows cover the scene")
    if request.options.min_valid is not None and not 0 < request.options.min_valid <= 1:
        raise RequestError(f"--min-valid {request.options.min_valid:g}: must be above 0 and at most 1, such as 0.8")
    if edge not in EDGES:
        raise RequestError(f"--edge {edge}: use {' or '.join(EDGES)}")
    if tile > min(scene.height, scene.width):
        raise RequestError(
            f"--tile {tile} is larger than {scene.name}, which has {scene.height} x {scene.width} pixels; use at most "
            f"{min(scene.height, scene.width)}"
        )
    grid = SceneGrid(scene.name, scene.crs, scene.transform, scene.height, scene.width, tile, stride, edge)
    if np.prod(grid.cells) > CELLS:
        raise RequestError(
            f"--tile {tile} --stride {stride}: a map of {scene.name} would have {grid.cells[0]:,} x {grid.cells[1]:,} "
            f"pixels of {grid.cell} x {grid.cell} (the largest square that divides both), which does not fit into "
            f"memory; choose a stride that divides --tile, such as {max(1, tile // 2)}"
        )
    return grid


def _digest(scenes: Sequence[Scene]) -> str:
    """sha256 over names, sizes and times of all files."""
    digest = hashlib.sha256()
    for scene in scenes:
        for path in scene.paths:
            about = path.stat()
            digest.update(f"{scene.name}/{path.name}\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _invalid_pixels(
    scenes: Sequence[Scene], grids: Sequence[SceneGrid], windows: Sequence[np.ndarray], digest: str, cache: Path
) -> np.ndarray:
    """Pixels without a measurement in each window of all scenes, (N,); kept by what they depend on."""
    key = short_hash([digest, [grid.record() for grid in grids]], 64)
    index = cache / f"scene-valid-{key[:16]}.npz"
    found = array_for(index, "invalid", digest=key)
    if found is None or len(found) != sum(map(len, windows)):
        of_each = zip(scenes, grids, windows, strict=True)
        found = np.concatenate([invalid_pixels(scene, grid, of_one) for scene, grid, of_one in of_each])
        if any(scene.lacking for scene in scenes):
            with suppress(OSError, RequestError):  # a cache that is not writable: counted again next time
                keep_array(index, "invalid", found, digest=key)
    return found
