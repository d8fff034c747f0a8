"""UMAP of features: computed once, cached by its identity, the same for every figure that shows it."""

import time
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from data.cached import arrays_in
from data.command import say
from data.errors import RequestError
from data.files import canonical_json, published, short_hash
from data.store import digest_array

SMALLEST = 5
PCA_DIM = 50
EXACT_UP_TO = 60_000  # samples; beyond, comparing all pairs costs more than compiling the approximate search
SPECTRAL_UP_TO = 20_000  # samples; beyond, the eigenvectors of the graph take minutes
DECIDING = ("umap-learn", "pynndescent", "numba", "scikit-learn", "numpy", "scipy")


def project(
    features: Float[np.ndarray, "samples dim"],
    *,
    neighbors: int,
    min_dist: float,
    seed: int,
    cache: Path,
    fast: bool = False,
    fit_on: int = 0,
    sources: Sequence[str] = (),
) -> Float32[np.ndarray, "samples 2"]:
    """Two UMAP coordinates per sample; those cached for the same features, settings and versions are used again.

    PCA to 50 dimensions, nearest neighbors (exact to 60,000 samples, then approximate, by nearest-neighbor descent),
    then UMAP.

    Args:
        features: (N, D).
        neighbors: UMAP's n_neighbors; large values show global structure, small ones local structure.
        min_dist: UMAP's minimum distance between points.
        seed: of PCA, neighbors and UMAP, which then place points one after the other, so that the same call gives
            the same layout.
        cache: folder of cached projections.
        fast: use all cores: faster, but not reproducible.
        fit_on: fit on so many samples, chosen by `seed`, and transform the others; 0 fits on all.
        sources: digests of the feature files, kept with the projection: `data.stored` finds those whose files are gone.

    Returns:
        (N, 2) float32.

    Raises:
        RequestError: too few samples, or features that are not finite.
    """
    if len(features) < SMALLEST:
        raise RequestError(f"UMAP needs at least {SMALLEST} samples, found {len(features)}; featurize more")
    if fit_on and fit_on < SMALLEST:
        raise RequestError(f"--fit-on {fit_on}: UMAP needs at least {SMALLEST} samples to fit on")
    settings: dict[str, Any] = {"neighbors": neighbors, "min_dist": min_dist, "seed": seed, "fast": fast}
    settings["fit_on"] = fit_on if fit_on < len(features) else 0
    identity = settings | {
        "features_sha256": digest_array(features),
        "shape": list(features.shape),
        "pca": PCA_DIM,
        "versions": {name: version(name) for name in DECIDING},
    }
    file = cache / f"umap-{short_hash(identity, 16)}.npz"
    if kept := arrays_in(file, "points", key="identity", value=canonical_json(identity)):
        say(f"umap: using the cached projection in {file}")
        return kept[0]
    if file.exists():
        say(f"umap: {file} is damaged; computing it again")
    start = time.monotonic()
    say(f"umap: projecting {len(features):,} x {features.shape[1]} features ...")
    points = _compute(features, **settings)
    with published(file) as temporary, temporary.open("wb") as target:
        np.savez(target, points=points, identity=canonical_json(identity), sources=np.array(sources, dtype=str))
    say(f"umap: done in {time.monotonic() - start:.1f} s, cached in {file}")
    return points


def _compute(
    features: np.ndarray, *, neighbors: int, min_dist: float, seed: int, fast: bool, fit_on: int
) -> np.ndarray:
    import umap  # deferred: it takes seconds to import, and a cached projection does not need it
    from sklearn.decomposition import PCA

    if not np.isfinite(features).all():
        raise RequestError("the features hold NaN or infinity; see featurize verify")
    values = features.astype(np.float32)
    if min(values.shape) > PCA_DIM:
        values = PCA(PCA_DIM, random_state=seed).fit_transform(values)
    fitted = np.arange(len(values))
    if fit_on:
        fitted = np.sort(np.random.default_rng(seed).choice(len(values), fit_on, replace=False))
    start = "spectral" if len(fitted) <= SPECTRAL_UP_TO else "pca"
    if len(fitted) <= 4 * SMALLEST:
        start = "random"  # too few for the spectral start, which wants many more points than dimensions
    neighbors = min(neighbors, len(fitted) - 1)
    reducer = umap.UMAP(
        n_neighbors=neighbors,
        min_dist=min_dist,
        random_state=None if fast else seed,
        transform_seed=seed,
        n_jobs=-1 if fast else 1,
        init=start,
        precomputed_knn=_neighbours(values[fitted], neighbors, seed=seed, fast=fast, for_others=bool(fit_on)),
        force_approximation_algorithm=True,  # else it drops these neighbors below 4,096 samples
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="precomputed_knn.* is not an NNDescent object")
        points = np.empty((len(values), 2), np.float32)
        points[fitted] = reducer.fit_transform(values[fitted])
    if fit_on:
        others = np.setdiff1d(np.arange(len(values)), fitted)
        points[others] = reducer.transform(values[others])
    return points


def _neighbours(values: np.ndarray, count: int, *, seed: int, fast: bool, for_others: bool) -> tuple[Any, Any, Any]:
    """Indices (N, count) and distances (N, count) of nearest neighbors, each sample its own first, and the index.

    An index is needed only if it will be asked for neighbors of other samples; otherwise it may be None.
    """
    if len(values) <= EXACT_UP_TO and not for_others:
        from sklearn.neighbors import NearestNeighbors  # deferred: as umap

        search = NearestNeighbors(n_neighbors=count, algorithm="brute", n_jobs=-1).fit(values)
        distances, indices = search.kneighbors(values)
        return indices, distances, None
    from pynndescent import NNDescent  # deferred: as umap

    index = NNDescent(
        values,
        n_neighbors=count,
        n_trees=min(64, 5 + round(len(values) ** 0.5 / 20)),  # these three as umap-learn sets them
        n_iters=max(5, round(np.log2(len(values)))),
        max_candidates=60,
        random_state=seed,
        n_jobs=-1 if fast else 1,
    )
    assert index.neighbor_graph is not None  # made by the constructor
    return *index.neighbor_graph, index
