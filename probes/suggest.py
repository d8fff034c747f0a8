"""Windows of a scene to label next: those that a probe is least sure of, unlike each other and what is labeled.

A window's value is one minus its margin, the difference of its two highest probabilities (Settles 2009, section 3.1),
times its distance in standardized features to the nearest window that is labeled or chosen (as in the greedy k-center
of Sener and Savarese 2018, arXiv:1708.00489). The window of highest value is taken, then the next.
"""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from joblib import effective_n_jobs
from scipy.spatial import KDTree

from data import paths
from data.command import note
from data.errors import RequestError
from data.runs import Run
from data.scene.labels import label_windows, remembered
from data.scene.patches import sample_grids
from probes import inputs
from probes.map_polygons import write_vector
from probes.maps import features_of
from probes.models import load_model
from probes.scores import score

LABELLED = 500  # windows that distances are taken from, evenly spread, where more are labeled
SUFFIXES = (".gpkg", ".geojson", ".parquet", ".csv")


def suggest(run: Run, to: Path, *, count: int = 20, n_jobs: int = -1) -> int:
    """Write the centers of windows to label next, with an empty column for the class to fill in.

    Args:
        run: a run of ``--protocol map``.
        to: ``.gpkg``, ``.geojson``, ``.parquet`` or ``.csv``.
        count: how many.
        n_jobs: blocks of windows scored at a time, -1 for one per core.

    Returns:
        How many were written: fewer where few windows are free.

    Raises:
        RequestError: a run of no scene, a count below 1, another kind of file, or every window is labeled.
    """
    if count < 1:
        raise RequestError(f"--count {count}: must be at least 1")
    if to.suffix not in SUFFIXES:
        raise RequestError(f"--to {to}: the name must end in {', '.join(SUFFIXES)}")
    features = features_of(run)
    assert features.footprint is not None and features.lonlat is not None
    source = remembered(paths.labels_file(run.folder.resolve().parents[3], run.dataset))
    grids = sample_grids(features)
    labelled = label_windows(source, grids, features.footprint).labels >= 0
    model = load_model(run.folder / "model.skops", sha256=run.model_sha256)
    scores = score(
        model, features.features, classes=len(run.class_names), multilabel=False, n_jobs=effective_n_jobs(n_jobs)
    )
    values = inputs.in_memory([features.features])
    chosen = choose(values, scores, features.footprint, labelled, count=count, tile=grids[0].tile)
    if not len(chosen):
        raise RequestError(f"{features.file}: every window is labeled, or overlaps one that is; nothing to suggest")
    if len(chosen) < count:
        note(f"only {len(chosen)} windows do not overlap with labeled ones")
    write_vector(_table(run, source.field or "class", features, scores, chosen), to)
    return len(chosen)


def _table(run: Run, field: str, features: Any, scores: np.ndarray, chosen: np.ndarray) -> Any:
    """A GeoDataFrame of points, the most valuable first."""
    import geopandas  # deferred: only to write

    ordered = np.sort(scores[chosen], axis=1)
    lon, lat = features.lonlat[chosen].T
    columns = {
        field: [None] * len(chosen),
        "predicted": [run.class_names[k] for k in scores[chosen].argmax(axis=1)],
        "margin": (ordered[:, -1] - ordered[:, -2]).astype(float).round(4),
        "window": [features.ids[row] for row in chosen],
        "rank": np.arange(1, len(chosen) + 1),
    }
    return geopandas.GeoDataFrame(columns, geometry=geopandas.points_from_xy(lon, lat), crs="EPSG:4326")


def choose(
    features: Float[np.ndarray, "samples dim"],
    scores: Float[np.ndarray, "samples classes"],
    footprint: Int[np.ndarray, "samples 3"],
    labelled: Bool[np.ndarray, " samples"],
    *,
    count: int,
    tile: int,
) -> Int[np.ndarray, " chosen"]:
    """Rows to label next, none of which overlaps another or a labeled one.

    Args:
        features: of all windows.
        scores: probabilities of all windows.
        footprint: scene, row and column of all windows.
        labelled: which are labeled.
        count: how many, at most.
        tile: side of a window in pixels.
    """
    ordered = np.sort(scores, axis=1)
    doubt = 1 - (ordered[:, -1] - ordered[:, -2]).astype(np.float64)
    std = features.std(axis=0)
    scaled = ((features - features.mean(axis=0)) / np.where(std > 0, std, 1)).astype(np.float32)
    known = np.flatnonzero(labelled)
    free = _apart(footprint, known, tile)
    nearest = np.full(len(features), np.inf, np.float32)
    for row in known[:: max(1, len(known) // LABELLED)]:
        np.minimum(nearest, np.linalg.norm(scaled - scaled[row], axis=1), out=nearest)
    chosen: list[int] = []
    while len(chosen) < count and free.any():
        value = np.where(free, doubt * np.where(np.isfinite(nearest), nearest, 1.0), -1.0)
        chosen.append(int(value.argmax()))
        np.minimum(nearest, np.linalg.norm(scaled - scaled[chosen[-1]], axis=1), out=nearest)
        free &= _apart(footprint, np.array(chosen[-1:]), tile)
    return np.array(chosen, np.int64)


def _apart(footprint: np.ndarray, rows: np.ndarray, tile: int) -> np.ndarray:
    """(N,) whether a window overlaps none of some others."""
    if not len(rows):
        return np.ones(len(footprint), bool)
    far = footprint.astype(np.float64) * [1e9, 1, 1]  # scenes are far from each other
    distance, _ = KDTree(far[rows]).query(far, p=np.inf)
    return distance >= tile
