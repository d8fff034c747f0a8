"""Where samples lie, for a bootstrap that draws whole neighbourhoods.

Neighbouring images resemble each other, so that drawing images one by one takes N of them for N pieces of evidence
and gives intervals that are too narrow. Drawing cells of a grid, each with all its images, keeps neighbours together
(block bootstrap, Künsch 1989). A cell is `DEGREES` of latitude high, 28 km: wider than the fields, towns and forests
that neighbours share, while a country still has hundreds of cells.
"""

import numpy as np

DEGREES = 0.25
LEAST_CELLS = 10  # with fewer to draw from, an interval says nothing


def cells(lonlat: np.ndarray | None, degrees: float = DEGREES) -> np.ndarray | None:
    """Number of each sample's cell, from 0; None where a location is unknown or there are fewer than `LEAST_CELLS`.

    Args:
        lonlat: (N, 2) degrees, or None.
        degrees: height of a cell; it is about as wide as high, whatever the latitude.

    Returns:
        (N,) or None.
    """
    if lonlat is None or not np.isfinite(lonlat).all():
        return None
    row = np.floor(lonlat[:, 1] / degrees)
    shrink = np.cos(np.radians((row + 0.5) * degrees).clip(-1.5, 1.5))
    column = np.floor(lonlat[:, 0] * shrink / degrees)
    _, numbers = np.unique(np.stack([row, column], axis=1), axis=0, return_inverse=True)
    return numbers.ravel() if len(numbers) and numbers.max() + 1 >= LEAST_CELLS else None
