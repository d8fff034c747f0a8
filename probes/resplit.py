"""New splits of a feature set by location, with a buffer between them.

Nearby samples are correlated, so random splits overestimate how well a probe works elsewhere (Roberts et al. 2017, doi
10.1111/ecog.02881). All samples are pooled and split again, in the ratio of the original splits:

- ``cells``: cells of `probes.spatial.DEGREES` with all their samples, in random order to the split that lacks most.
- ``region``: the same with at most `REGIONS` regions, k-means clusters of the locations on the globe.
- ``longitude``: train in the west, then val, and test in the east.

Samples of train closer than the buffer to one of val or test are dropped, as are those of val closer to one of test.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer

from data.dataset import SPLITS
from data.errors import RequestError, unknown
from data.store import FeatureSet, sample_digests
from probes import spatial

WAYS = ("cells", "longitude", "region")
REGIONS = 30
TRIES, CLOSE = 50, 0.01  # orders to try, until every split has its share to 1% of all samples


def resplit(splits: dict[str, FeatureSet], by: str, *, buffer_km: float = 0, seed: int = 0) -> dict[str, FeatureSet]:
    """The same samples in new splits; their identity records how they were made, and so does the run's folder.

    Args:
        splits: see `probes.inputs.read_splits`, without views.
        by: one of `WAYS`.
        buffer_km: great-circle distance below which samples of different splits are not both kept.
        seed: of the order of cells, and of the clusters of regions.

    Returns:
        By split, with features in memory. ``identity["split"]["resplit"]`` holds ``by``, ``buffer_km``, ``seed`` and
        ``dropped``, the number of samples dropped for the buffer.

    Raises:
        RequestError: unknown method; a sample without location, or in two splits; a split would have no samples left.
    """
    if by not in WAYS:
        raise unknown("way to split", by, WAYS)
    if not 0 <= buffer_km < np.inf:
        raise RequestError(f"--buffer-km {buffer_km:g}: must be 0 or more")
    present = [name for name in SPLITS if name in splits]  # with --folds, val may be missing
    sets = [splits[name] for name in present]
    lonlat = _locations(sets, by)
    ids = [name for one in sets for name in one.ids]
    if repeated := len(ids) - len(set(ids)):
        raise RequestError(f"--split-by {by}: {repeated} ids are in more than one split; see analyze audit")
    shares = np.array([len(one.ids) for one in sets]) / len(ids)
    drawn = draw(lonlat, shares, by, seed)
    kept = ~crowded(lonlat, drawn, buffer_km)
    rows = [np.flatnonzero((drawn == number) & kept) for number in range(len(present))]
    if empty := [name for name, chosen in zip(present, rows, strict=True) if not len(chosen)]:
        where = f" and --buffer-km {buffer_km:g}" if buffer_km else ""
        raise RequestError(
            f"--split-by {by}{where}: no sample is left for {' and '.join(empty)}; choose another --split-by or a "
            "smaller buffer"
        )
    how = {"by": by, "buffer_km": float(buffer_km), "seed": seed, "dropped": int((~kept).sum())}
    features = np.concatenate([np.asarray(one.features[:]) for one in sets])
    labels = np.concatenate([one.labels for one in sets])
    found = {}
    for name, one, chosen in zip(present, sets, rows, strict=True):
        about = [ids[row] for row in chosen], labels[chosen], lonlat[chosen]
        split = {"name": name, "rows": len(chosen), **sample_digests(*about), "resplit": how}
        rest = {"identity": one.identity | {"split": split}, "features_sha256": None}
        found[name] = replace(one, features=features[chosen], ids=about[0], labels=about[1], lonlat=about[2], **rest)
    return found


def draw(
    lonlat: Float[np.ndarray, "samples 2"], shares: Float64[np.ndarray, " splits"], by: str, seed: int
) -> Integer[np.ndarray, " samples"]:
    """The number of the split of each sample; `shares` are those of the samples that each split should get."""
    if by == "longitude":
        limits = np.quantile(lonlat[:, 0], np.cumsum(shares)[:-1])
        return np.searchsorted(limits, lonlat[:, 0], side="left")
    numbers = spatial.cells(lonlat) if by == "cells" else regions(lonlat, seed)
    assert numbers is not None
    sizes, wanted, rng = np.bincount(numbers), shares * len(lonlat), np.random.default_rng(seed)
    best, nearest = None, np.inf
    for _ in range(TRIES):
        split_of, given = np.empty(len(sizes), int), np.zeros(len(shares))
        for place in rng.permutation(len(sizes)):
            split_of[place] = np.argmax((wanted - given) / wanted)
            given[split_of[place]] += sizes[place]
        off = float(np.abs(given - wanted).max() / len(lonlat))
        if off < nearest:
            best, nearest = split_of, off
        if nearest < CLOSE:
            break
    assert best is not None
    return best[numbers]


def regions(lonlat: Float[np.ndarray, "samples 2"], seed: int) -> Integer[np.ndarray, " samples"]:
    """The number of the region of each sample: k-means on the globe, at most `REGIONS` clusters."""
    from sklearn.cluster import KMeans  # deferred: only used here

    points = spatial.on_globe(lonlat)
    count = min(REGIONS, len(np.unique(points, axis=0)))
    found = KMeans(count, n_init=3, random_state=seed).fit_predict(points)  # type: ignore[arg-type]  # scikit-learn accepts numbers
    return np.unique(found, return_inverse=True)[1]


def crowded(
    lonlat: Float[np.ndarray, "samples 2"], drawn: Integer[np.ndarray, " samples"], buffer_km: float
) -> Bool[np.ndarray, " samples"]:
    """Whether each sample is closer than the buffer to one of a later split (train before val before test)."""
    found = np.zeros(len(lonlat), bool)
    if not buffer_km:
        return found
    for number in range(int(drawn.max())):
        mine = np.flatnonzero(drawn == number)
        later = drawn > number
        if len(mine) and later.any():
            found[mine] = spatial.nearest_km(lonlat[mine], lonlat[later]) < buffer_km
    return found


def _locations(sets: list[FeatureSet], by: str) -> np.ndarray:
    for one in sets:
        if one.lonlat is None:
            raise RequestError(
                f"--split-by {by}: {one.file} has no locations; featurize a dataset with georeferenced files"
            )
        if missing := int((~np.isfinite(one.lonlat).all(axis=1)).sum()):
            raise RequestError(f"--split-by {by}: {missing} of {len(one.ids)} samples in {one.file} have no location")
    return np.concatenate([one.lonlat for one in sets if one.lonlat is not None])
