"""Patches of windows as samples of their own, from features that hold all patch tokens of a window in a row."""

from collections.abc import Sequence
from dataclasses import replace
from math import gcd
from typing import Any

import numpy as np

from data.scene.grid import SceneGrid, grids_of
from data.store import FeatureSet


class PatchRows:
    """(N g², D) features of patches, read from (N, g² D) features of windows on demand.

    Args:
        windows: in memory or on disk.
        patches: g, patches along a window's side.
    """

    def __init__(self, windows: Any, patches: int) -> None:
        self.windows, self.each = windows, patches**2
        self.shape = (windows.shape[0] * self.each, windows.shape[1] // self.each)
        self.dtype = windows.dtype

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        start, stop, step = rows.indices(len(self))
        first, last = start // self.each, -(-stop // self.each)
        found = self.windows[first:last].reshape(-1, self.shape[1])
        return found[start - first * self.each : stop - first * self.each : step]


def patches_of(features: FeatureSet) -> int:
    """Patches along a window's side; 1 where a window has one embedding."""
    return features.identity["encoder"].get("settings", {}).get("patches", 1)


def sample_grids(features: FeatureSet) -> list[SceneGrid]:
    """The grids of the samples that `by_patch` gives: of patches, or of windows where these are the samples."""
    grids, patches = grids_of(features.identity["dataset"]["provenance"]), patches_of(features)
    side = grids[0].tile // patches if grids else 0
    return grids if patches == 1 else [replace(one, tile=side, stride=gcd(side, one.stride)) for one in grids]


def by_patch(features: FeatureSet) -> FeatureSet:
    """Each patch as a sample, named after its window and counted row by row; windows without patches as they are."""
    patches = patches_of(features)
    if patches == 1:
        return features
    grids: Sequence[SceneGrid] = sample_grids(features)
    assert features.footprint is not None
    steps = np.stack(np.meshgrid(*[np.arange(patches) * grids[0].tile] * 2, indexing="ij"), axis=-1).reshape(-1, 2)
    offsets = np.insert(steps, 0, 0, axis=1)
    footprint = (features.footprint[:, None] + offsets).reshape(-1, 3).astype(np.int32)
    lonlat = np.concatenate(
        [grid.lonlat(footprint[footprint[:, 0] == number, 1:]) for number, grid in enumerate(grids)]
    )
    return replace(
        features,
        features=PatchRows(features.features, patches),  # type: ignore[arg-type]  # read as an array is
        labels=np.repeat(features.labels, patches**2),
        ids=[f"{name}/{number}" for name in features.ids for number in range(patches**2)],
        lonlat=lonlat,
        footprint=footprint,
    )
