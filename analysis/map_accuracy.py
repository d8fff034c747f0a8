"""Accuracy of a map and area of its classes, estimated from a reference sample, with standard errors.

Sources: Olofsson et al. 2014, Remote Sensing of Environment 148, 42-57 (doi:10.1016/j.rse.2014.02.015), where strata
are the map's classes; Stehman 2014, International Journal of Remote Sensing 35, 4923-4939
(doi:10.1080/01431161.2014.930207), where they are not. Both are the same estimators: a sum over strata of stratum
means, and ratios of two such sums. A simple random sample is one stratum.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

DRAWS = 10_000
Z95 = 1.96  # quantile .975 of the normal distribution, to the digits that the papers use


@dataclass(frozen=True)
class Estimate:
    """Values with their standard errors.

    Args:
        value: one number, or (K,) by class; NaN where undefined.
        se: standard errors of the same shape.
    """

    value: np.ndarray
    se: np.ndarray

    @property
    def half_width(self) -> np.ndarray:
        """Half the width of the 95% interval, by the normal distribution."""
        return Z95 * self.se

    def scaled(self, factor: float) -> "Estimate":
        """In another unit."""
        return Estimate(self.value * factor, self.se * factor)


@dataclass(frozen=True)
class MapAccuracy:
    """What a reference sample says of a map.

    Args:
        classes: K names; order of everything below.
        matrix: (K, K) estimated shares of the total area: rows are the map, columns the reference.
        overall: share of the area that is mapped right.
        users: of what is mapped as a class, the share that is it (precision).
        producers: of what is a class, the share that is mapped as it (recall).
        area: share of the area that is the class by the reference: error-adjusted area.
        area_interval: (K, 2) 95% interval of `area`.
        samples: n.
    """

    classes: tuple[str, ...]
    matrix: Float[np.ndarray, "classes classes"]
    overall: Estimate
    users: Estimate
    producers: Estimate
    area: Estimate
    area_interval: Float[np.ndarray, "classes 2"]
    samples: int


def estimate(
    mapped: Sequence[str],
    reference: Sequence[str],
    *,
    strata: Sequence[str] | None = None,
    sizes: Mapping[str, float] | None = None,
    classes: Sequence[str] | None = None,
    finite: bool = False,
) -> MapAccuracy:
    """Estimate accuracy and area.

    Args:
        mapped: n classes of the map at the sample's places.
        reference: n classes in truth.
        strata: n strata that the sample was drawn from; None means one, a simple random sample.
        sizes: area or number of pixels of each stratum, in any unit; not needed for a simple random sample.
        classes: names and order; None means all that occur, sorted.
        finite: correct for the share of each stratum that was sampled; `sizes` must then be numbers of sampling units.

    Raises:
        ValueError: lengths differ, a stratum has no size or fewer than two samples, or a class is not listed.
    """
    strata = ["all"] * len(mapped) if strata is None else strata
    if not len(mapped) == len(reference) == len(strata):
        raise ValueError(f"{len(mapped)} mapped, {len(reference)} reference and {len(strata)} strata: lengths differ")
    sizes = {"all": 1.0} if sizes is None else dict(sizes)
    names = tuple(sorted({*mapped, *reference}) if classes is None else classes)
    if foreign := sorted({*mapped, *reference} - set(names)):
        raise ValueError(f"classes {', '.join(foreign)} of the sample are not among {', '.join(names)}")
    counts = dict(Counter(strata))
    if unknown := sorted(counts.keys() - sizes.keys()):
        raise ValueError(f"no size for stratum {', '.join(unknown)}; sizes are given for {', '.join(map(str, sizes))}")
    if empty := sorted(name for name, size in sizes.items() if size > 0 and counts.get(name, 0) < 2):
        raise ValueError(f"stratum {', '.join(empty)} has fewer than 2 samples: no standard error can be estimated")
    total = sum(sizes[name] for name in counts)
    stratum_of = np.array(strata, object)
    parts = [
        _Stratum(stratum_of == name, sizes[name] / total, 1 - n / sizes[name] if finite else 1.0)
        for name, n in counts.items()
    ]

    m, r = (np.array([[value == name for name in names] for value in column]) for column in (mapped, reference))
    both = m & r
    overall = _mean(parts, both.any(axis=1, keepdims=True))
    return MapAccuracy(
        classes=names,
        matrix=np.stack([_mean(parts, m[:, [k]] & r).value for k in range(len(names))]),
        overall=Estimate(overall.value[0], overall.se[0]),
        users=_ratio(parts, both, m),
        producers=_ratio(parts, both, r),
        area=_mean(parts, r),
        area_interval=_posterior_interval(parts, r),
        samples=len(mapped),
    )


@dataclass(frozen=True)
class _Stratum:
    """Rows of a stratum (n,) booleans, its share of the area, and the finite-population correction."""

    rows: np.ndarray
    share: float
    left: float


def _mean(strata: Sequence[_Stratum], values: np.ndarray) -> Estimate:
    """Stratified mean of (n, K) values (Stehman 2014, equations 3 and 25)."""
    values = values.astype(np.float64)
    mean = sum(s.share * values[s.rows].mean(axis=0) for s in strata)
    variance = sum(s.share**2 * s.left * values[s.rows].var(axis=0, ddof=1) / s.rows.sum() for s in strata)
    return Estimate(np.asarray(mean), np.sqrt(variance))


def _posterior_interval(strata: Sequence[_Stratum], values: np.ndarray) -> np.ndarray:
    """(K, 2) 95% interval of the stratified mean of (n, K) booleans, from draws of each stratum's share."""
    rng, total = np.random.default_rng(0), np.zeros((DRAWS, values.shape[1]))
    for s in strata:
        found, n = values[s.rows].sum(axis=0), s.rows.sum()
        mean = found / n  # a finite stratum is uncertain only as far as it was not sampled
        total += s.share * (mean + np.sqrt(s.left) * (rng.beta(found + 0.5, n - found + 0.5, total.shape) - mean))
    return np.percentile(total, [2.5, 97.5], axis=0).T


def _ratio(strata: Sequence[_Stratum], part: np.ndarray, whole: np.ndarray) -> Estimate:
    """Ratio of two stratified means (Stehman 2014, equations 27 and 28); NaN where the whole is 0."""
    above, below = _mean(strata, part).value, _mean(strata, whole).value
    undefined = below == 0
    below = np.where(undefined, np.nan, below)
    ratio = above / below
    residual = part - np.nan_to_num(ratio) * whole
    return Estimate(ratio, np.where(undefined, np.nan, _mean(strata, residual).se / below))


def sample_size(shares: Sequence[float], users: Sequence[float], *, se: float) -> int:
    """Samples that give the overall accuracy a standard error (Olofsson et al. 2014, equation 13).

    Args:
        shares: (K,) shares of the map's classes in its area; they add up to 1.
        users: (K,) expected user's accuracies.
        se: the standard error wanted, such as 0.01.
    """
    weights, accuracy = np.asarray(shares, float), np.asarray(users, float)
    return int(np.ceil((weights @ np.sqrt(accuracy * (1 - accuracy)) / se) ** 2 - 1e-9))


def allocate(total: int, shares: Sequence[float], *, least: int) -> Int[np.ndarray, " classes"]:
    """Samples per class: at least so many each, the rest by area (Olofsson et al. 2014, section 5.1.2).

    Args:
        total: n.
        shares: (K,) shares of the map's classes in its area.
        least: samples of the smallest classes.

    Returns:
        (K,) whole numbers; more than `total` where the least of all classes is.
    """
    share = np.array(shares, float)
    few = np.zeros(len(share), bool)
    while True:
        rest = max(total - least * few.sum(), 0)
        given = np.where(few, least, rest * share / max(share[~few].sum(), 1e-12))
        below = ~few & (given < least)
        if not below.any():
            return np.round(given).astype(int)
        few |= below
