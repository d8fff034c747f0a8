"""How much features vary: collapsed ones say next to nothing about the images."""

from typing import Any

import numpy as np

RANK_ROWS = 1024  # looked at: enough for a rank of a few, few enough to take a fraction of a second
# Features of images that differ have more directions than this (measured: 5 of image statistics, 14 to 86 of models).
LEAST_RANK = 3.0
RANK_MEANS_LITTLE = 16  # below so many samples or dimensions: the rank is at most their number


def collapse(features: Any) -> str | None:
    """Why features (N, D), in memory or on disk, say next to nothing about the images, or None.

    Either no dimension varies by more than a thousandth of the features' size (the least that float16 tells apart),
    or nearly all that varies lies in one or two directions.
    """
    some = spread_rows(features)
    if len(some) < 2:
        return None
    size, deviation = np.sqrt(np.square(some).mean()), some.std(axis=0).max()
    if deviation <= 1e-3 * size:
        return f"no dimension varies (largest deviation {deviation:.2g}, values of size {size:.2g})"
    rank = effective_rank(features)
    if rank < LEAST_RANK and min(some.shape) >= RANK_MEANS_LITTLE:
        return f"they vary in {rank:.1f} of {some.shape[1]:,} directions (effective rank)"
    return None


def effective_rank(features: Any) -> float:
    """Number of directions in which features vary: exp of the entropy of the singular values' shares of their sum.

    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality" (EUSIPCO), of the features
    less their mean. It is n where n directions carry equal deviation, and 0 where nothing varies. Singular values as
    small as those of the rounding to the type of the features do not count.

    Args:
        features: (N, D), in memory or on disk; at most `RANK_ROWS` rows of them, evenly spread, are looked at.
    """
    some = spread_rows(features)
    centred = some - some.mean(axis=0)
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    values = np.sqrt(np.linalg.eigvalsh(gram).clip(0.0))  # the singular values
    # A matrix of independent errors of deviation e has singular values up to e (sqrt N + sqrt D); that of rounding is
    # the step between neighbouring numbers / sqrt 12.
    step = np.finfo(features.dtype).eps * np.sqrt(np.square(some).mean())
    values = values[values > step / np.sqrt(12) * sum(np.sqrt(some.shape))]
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(values) else 0.0


def spread_rows(features: Any) -> np.ndarray:
    """At most `RANK_ROWS` rows, spread evenly over features (N, D), as float64."""
    return features[:: max(1, -(-len(features) // RANK_ROWS))].astype(np.float64)
