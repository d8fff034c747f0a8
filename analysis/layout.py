"""A UMAP layout of features: computed once, kept by its identity, the same for every picture that shows it."""

import sys
import time
import warnings
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import umap
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from data.errors import RequestError
from data.files import canonical_json, published, short_hash
from data.store import digest_array

SMALLEST = 5
PCA_DIM = 50
DECIDING = ("umap-learn", "numba", "scikit-learn", "numpy", "scipy")


def layout(features: np.ndarray, *, neighbors: int, min_dist: float, seed: int, cache: Path) -> np.ndarray:
    """Places of samples in the plane; a layout kept for the same features, settings and versions is used again.

    Args:
        features: (N, D).
        neighbors: UMAP's neighbourhood size; large values show the whole, small ones the detail.
        min_dist: how closely UMAP may pack points.
        seed: of PCA and UMAP, which then runs on one core, so that the same call gives the same layout.
        cache: folder of kept layouts.

    Returns:
        (N, 2) float32.

    Raises:
        RequestError: too few samples, or features that are not finite.
    """
    if len(features) < SMALLEST:
        raise RequestError(f"UMAP needs at least {SMALLEST} samples, there are {len(features)}; featurize more")
    identity = {
        "features_sha256": digest_array(features),
        "shape": list(features.shape),
        "pca": PCA_DIM,
        "search": "exact",
        "neighbors": neighbors,
        "min_dist": min_dist,
        "seed": seed,
        "versions": {name: version(name) for name in DECIDING},
    }
    file = cache / f"umap-{short_hash(identity, 16)}.npz"
    if (kept := _read(file, identity)) is not None:
        print(f"umap: using the layout in {file}", file=sys.stderr)
        return kept
    start = time.monotonic()
    print(f"umap: laying out {len(features):,} x {features.shape[1]} features ...", file=sys.stderr)
    points = _compute(features, neighbors=neighbors, min_dist=min_dist, seed=seed)
    with published(file) as temporary, temporary.open("wb") as target:
        np.savez(target, points=points, identity=canonical_json(identity))
    print(f"umap: done in {time.monotonic() - start:.1f} s, kept in {file}", file=sys.stderr)
    return points


def _compute(features: np.ndarray, *, neighbors: int, min_dist: float, seed: int) -> np.ndarray:
    values = features.astype(np.float32)
    if not np.isfinite(values).all():
        raise RequestError("the features hold NaN or infinity; see featurize verify")
    if min(values.shape) > PCA_DIM:
        values = PCA(PCA_DIM, random_state=seed).fit_transform(values)
    few = len(values) <= 4 * SMALLEST  # too few for the spectral start, which wants many more points than dimensions
    neighbors = min(neighbors, len(values) - 1)
    # Exact neighbours: quickly found in so few dimensions, while UMAP's own search has to be compiled first.
    distances, indices = NearestNeighbors(n_neighbors=neighbors, algorithm="brute").fit(values).kneighbors(values)
    reducer = umap.UMAP(
        n_neighbors=neighbors,
        min_dist=min_dist,
        random_state=seed,
        n_jobs=1,
        init="random" if few else "spectral",
        precomputed_knn=(indices, distances, None),
        force_approximation_algorithm=True,  # else it drops these neighbours below 4,096 samples
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="precomputed_knn.* is not an NNDescent object")
        return np.asarray(reducer.fit_transform(values), dtype=np.float32)


def _read(file: Path, identity: dict[str, Any]) -> np.ndarray | None:
    """The layout in a file, if the file is whole and was made for this very identity."""
    try:
        with np.load(file, allow_pickle=False) as kept:
            return kept["points"] if str(kept["identity"]) == canonical_json(identity) else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        print(f"umap: {file} is damaged; computing it again", file=sys.stderr)
        return None
