"""From labeled windows of a scene to a run, and from a run to a map of classes and probabilities."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from data import paths, store
from data.command import note, progress
from data.errors import RequestError
from data.runs import Run
from data.scene.grid import SceneGrid, grids_of
from data.scene.labels import label_windows, remembered
from data.scene.patches import by_patch, sample_grids
from probes import inputs, spatial
from probes.blocks import divide_blocks
from probes.models import load_model
from probes.scores import score

ROWS = 8 * inputs.BLOCK_ROWS  # scored at a time


def map_splits(folder: Path, *, buffer_km: float | None, seed: int) -> dict[str, store.FeatureSet]:
    """The labeled windows of a scene, as train and as test; labels are looked up now, where they are recorded.

    Args:
        folder: features of a scene.
        buffer_km: see `probes.blocks.divide_blocks`.
        seed: of the folds.

    Returns:
        The same samples twice, in memory: all train the map, and each is scored by a probe that has not seen its block
        (see `probes.blocks`). ``identity["split"]`` has ``labels``, where they are from, and ``blocks``, the folds.

    Raises:
        RequestError: no scene, no labels, or labels that cannot be divided.
    """
    features = scene_features(folder)
    source = remembered(paths.labels_beside(folder))
    assert features.footprint is not None and features.lonlat is not None
    found = label_windows(source, sample_grids(features), features.footprint)
    for line in found.notes:
        note(line)
    rows = np.flatnonzero(found.labels >= 0)
    blocks = divide_blocks(
        features.lonlat[rows], found.labels[rows], tile_km=ground_km(features), buffer_km=buffer_km, seed=seed
    )
    labelled = replace(features, labels=found.labels, class_names=found.class_names, features_sha256=None)
    part = replace(inputs.only_rows(labelled, rows), footprint=None)
    about = {
        "labels": asdict(source) | {"path": source.path.name, "class_names": list(found.class_names)},
        "blocks": {
            "block_km": round(blocks.block_km, 6), "buffer_km": round(blocks.buffer_km, 6), "degrees": blocks.degrees,
            "seed": seed, "count": blocks.count, "folds": blocks.folds.tolist(),
        },
    }  # fmt: skip
    divided = f"{int(blocks.folds.max()) + 1} folds of {blocks.count} blocks of {blocks.block_km:.2g} km"
    note(f"{len(rows):,} labeled windows in {divided}; a buffer of {blocks.buffer_km:.2g} km around each test fold")
    split = {"rows": len(part.ids)} | store.sample_digests(part.ids, part.labels, part.lonlat) | about
    return {
        name: replace(part, identity=part.identity | {"split": {"name": name} | split}) for name in ("train", "test")
    }


def scene_features(folder: Path) -> store.FeatureSet:
    """The features of all windows of a scene, or of all patches of all windows, left on disk.

    Raises:
        RequestError: the features are not of a scene.
    """
    file = paths.feature_file(folder, "test")
    features = store.read_features(file, lazy=True) if file.exists() else None
    if features is None or features.footprint is None:
        raise RequestError(f"{folder} holds no windows of a scene; a map needs features of --dataset scene")
    return by_patch(features)


def ground_km(features: store.FeatureSet) -> float:
    """Side of a window on the ground; what the model saw of a patch's surroundings, too."""
    grid = grids_of(features.identity["dataset"]["provenance"])[0]
    lonlat = grid.lonlat(np.array([[0, 0], [0, grid.tile]]))
    return float(spatial.nearest_km(lonlat[:1], lonlat[1:])[0])


# ------------------------------------------------------------------------------------------- maps


@dataclass(frozen=True)
class SceneMap:
    """The map of one scene on its cells.

    Args:
        grid: of the scene.
        probability: (K, h, w) float32, averaged over the windows that cover a cell; NaN where none does.
        class_names: K names.
    """

    grid: SceneGrid
    probability: np.ndarray
    class_names: tuple[str, ...]

    @property
    def classes(self) -> np.ndarray:
        """(h, w) uint8 class numbers from 1, 0 where there is no window; of equals the first."""
        covered = np.isfinite(self.probability[0])
        best = np.where(covered, self.probability, 0).argmax(axis=0) + 1
        return np.where(covered, best, 0).astype(np.uint8)


def features_of(run: Run) -> store.FeatureSet:
    """The windows that a run's map is made of.

    Raises:
        RequestError: the run is of no scene, or its features are gone or of another encoder.
    """
    provenance = run.record["features"]["dataset"]["provenance"]
    if not grids_of(provenance):
        raise RequestError(
            f"{run.folder} was trained on {run.dataset}, which is not a scene; a map needs a run of --dataset scene"
        )
    folder = paths.feature_folder(run.folder.resolve().parents[3], run.dataset, run.encoder)
    features = scene_features(folder)
    trained, given = run.record["features"], features.identity
    if fields := store.differing_fields(trained["encoder"], given["encoder"], "encoder."):
        raise RequestError(
            f"{features.file} differs in {', '.join(fields)} from the features that {run.folder} was trained on"
        )
    inputs.check_rows(features, labelled=False)
    return features


def scene_maps(run: Run, features: store.FeatureSet, *, n_jobs: int = 1) -> Iterator[SceneMap]:
    """The map of one scene after another; one is in memory at a time, and a block of its windows' features.

    Args:
        run: a finished run.
        features: see `features_of`.
        n_jobs: blocks of rows scored at a time.
    """
    model = load_model(run.folder / "model.skops", sha256=run.model_sha256)
    names = tuple(run.class_names)
    assert features.footprint is not None
    with progress(f"{run.kind} on {run.dataset}", len(features.ids), "windows") as advance:
        for number, grid in enumerate(sample_grids(features)):
            rows = np.flatnonzero(features.footprint[:, 0] == number)
            first, last = (int(rows[0]), int(rows[-1]) + 1) if len(rows) else (0, 0)
            sums = np.zeros((len(names), *grid.cells))
            counts = np.zeros(grid.cells, np.int32)
            for start in range(first, last, ROWS):
                block = slice(start, min(start + ROWS, last))
                scores = score(
                    model, features.features[block], classes=len(names), multilabel=run.multilabel, n_jobs=n_jobs
                )
                spread(grid, features.footprint[block, 1:], scores, sums, counts)
                advance(len(scores))
            with np.errstate(invalid="ignore", divide="ignore"):
                yield SceneMap(grid, (sums / counts).astype(np.float32), names)


def spread(grid: SceneGrid, windows: np.ndarray, scores: np.ndarray, sums: np.ndarray, counts: np.ndarray) -> None:
    """Add the scores of windows to all cells that they cover.

    Args:
        grid: of the scene.
        windows: (N, 2) first row and column.
        scores: (N, K).
        sums: (K, h, w), changed.
        counts: (h, w) windows over each cell, changed.
    """
    side = grid.tile // grid.cell
    rows, columns = (windows // grid.cell).T
    for down in range(side):
        for right in range(side):
            inside = (rows + down < grid.cells[0]) & (columns + right < grid.cells[1])
            at = (rows[inside] + down, columns[inside] + right)
            for of_class, score_of in zip(sums, scores[inside].T, strict=True):
                np.add.at(of_class, at, score_of)  # patches of overlapping windows may coincide
            np.add.at(counts, at, 1)
