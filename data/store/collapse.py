"""Collapsed features: detected by how little they vary."""

from typing import Any

import numpy as np
from jaxtyping import Float64

RANK_ROWS = 1024  # enough for a small rank, few enough to take a fraction of a second
# Share of the variance beyond two directions. One direction with 1% noise has 1e-4; features of real images have at
# least 0.03, and 0.1 with every dimension scaled (image statistics of EuroSAT RGB; tests/bench: `guards`).
LITTLE, LITTLE_SCALED = 1e-3, 0.1
RANK_MEANS_LITTLE = 16  # below so many samples or dimensions: the rank is at most their number


def collapse(features: Any) -> str | None:
    """Describe how features (N, D), in memory or on disk, have collapsed; None if they have not.

    Either no dimension varies by more than a thousandth of the features' magnitude (the resolution of float16), or
    nearly all of their variance lies in one or two directions, both unscaled and with every dimension scaled to std 1:
    one dimension of larger values than the others is no collapse.
    """
    some = spread_rows(features)
    if len(some) < 2:
        return None
    size, std = np.sqrt(np.square(some).mean()), some.std(axis=0)
    if std.max() <= 1e-3 * size:
        return f"no dimension varies (largest std {std.max():.2g}, values of size {size:.2g})"
    if min(some.shape) < RANK_MEANS_LITTLE:
        return None
    rounding = _rounding(features, some)
    beyond = _beyond_two(some, rounding)
    telling = std > 2 * np.sqrt(rounding)  # the others are rounding alone
    scaled = _beyond_two(some[:, telling] / std[telling], rounding[telling] / std[telling] ** 2)
    if beyond > LITTLE or scaled > LITTLE_SCALED:
        return None
    return (
        f"{1 - max(beyond, 0.0):.3%} of their variance in {some.shape[1]:,} dimensions lies in two directions "
        f"({1 - max(scaled, 0.0):.1%} with dimensions scaled to std 1)"
    )


def _rounding(features: Any, some: np.ndarray) -> np.ndarray:
    """Variance (D,) that rounding to the type of the features adds: squared spacing of numbers / 12."""
    steps = np.spacing(np.abs(some).astype(features.dtype)).astype(np.float64)
    return np.square(steps).mean(axis=0) / 12


def _beyond_two(some: np.ndarray, rounding: np.ndarray) -> float:
    """Share of the variance outside the two directions of largest variance, without that of rounding."""
    centred = some - some.mean(axis=0)
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    values = np.linalg.eigvalsh(gram).clip(0.0)
    return float(values[:-2].sum() - len(some) * rounding.sum()) / float(values.sum()) if values.sum() else 0.0


def effective_rank(features: Any) -> float:
    """Number of directions in which features vary: exp of the entropy of the singular values' shares of their sum.

    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality" (EUSIPCO), of the
    centered features. It is n if n directions have equal standard deviation, and 0 if nothing varies.
    Singular values as small as those of rounding to the type of the features do not count.

    Args:
        features: (N, D), in memory or on disk; at most `RANK_ROWS` rows, evenly spread, are used.
    """
    some = spread_rows(features)
    centred = some - some.mean(axis=0)
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    values = np.sqrt(np.linalg.eigvalsh(gram).clip(0.0))  # the singular values
    # A matrix of independent errors of standard deviation e has singular values up to e (sqrt N + sqrt D); rounding has
    # the spacing of numbers / sqrt 12.
    step = np.finfo(features.dtype).eps * np.sqrt(np.square(some).mean())
    values = values[values > step / np.sqrt(12) * sum(np.sqrt(some.shape))]
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(values) else 0.0


def spread_rows(features: Any) -> Float64[np.ndarray, "samples dim"]:
    """At most `RANK_ROWS` rows, spread evenly over features (N, D), as float64."""
    return features[:: max(1, -(-len(features) // RANK_ROWS))].astype(np.float64)
