"""Outlines of the world's countries: Natural Earth, 1:110m (public domain), packed by tests/write_coastline.py."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32

FILE = Path(__file__).with_name("coastline.npz")


def outlines() -> Float32[np.ndarray, "points 2"]:
    """Longitude and latitude in degrees of the countries' outlines, (N, 2) float32, NaN after each ring."""
    with np.load(FILE) as kept:
        points, ends = kept["hundredths"].astype(np.float32) / 100, np.cumsum(kept["lengths"])
    return np.insert(points, ends, np.nan, axis=0)
