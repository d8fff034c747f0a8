"""Independent units of a test set: images, or spatial cells with all their images.

Neighboring images are correlated, so treating N images as independent gives intervals that are too narrow. Where
locations are known, cells of a grid are the units, each with all its images (block jackknife, Künsch 1989). A cell is
`DEGREES` of latitude high, 28 km: wider than the fields, towns and forests that neighbors share, while a country still
has hundreds of cells.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32, Float64, Integer

DEGREES = 0.25
LEAST = 10  # there is no interval with fewer images or cells
EARTH_KM = 6371.0088  # mean radius (IUGG)
FEW_CELLS = 30  # an interval with fewer cells comes with a warning


@dataclass(frozen=True)
class Units:
    """The independent units of a split.

    Args:
        numbers: (N,) unit of each sample, from 0.
        by: ``image`` or ``cell``.
        degrees: height of a cell.
    """

    numbers: np.ndarray
    by: str
    degrees: float = DEGREES

    @property
    def count(self) -> int:
        """U, the number of units."""
        return int(self.numbers.max()) + 1 if len(self.numbers) else 0

    @property
    def effective(self) -> float:
        """Effective number of units, those of equal size with the same variance: (sum n)² / sum n² (Kish 1965)."""
        sizes = np.bincount(self.numbers).astype(np.float64)
        return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(sizes) else 0.0

    @property
    def words(self) -> str:
        """How intervals are made, such as ``by image`` or ``by 43 spatial cells``."""
        return "by image" if self.by == "image" else f"by {self.count:,} spatial cells"

    @property
    def warning(self) -> str | None:
        """A warning if there are few cells; otherwise None."""
        if self.by == "image" or self.count >= FEW_CELLS:
            return None
        place = f"{self.count} spatial cells of {self.degrees:.3g} degrees"
        return f"test lies in {place}: intervals by cell need at least {FEW_CELLS}"


def units(lonlat: Float[np.ndarray, "{samples} 2"] | None, samples: int, degrees: float = DEGREES) -> Units:
    """Spatial cells if every location (in degrees) is known, otherwise images; `degrees` is the height of a cell."""
    numbers = cells(lonlat, degrees)
    return Units(np.arange(samples), "image") if numbers is None else Units(numbers, "cell", degrees)


def cells(
    lonlat: Float[np.ndarray, "samples 2"] | None, degrees: float = DEGREES
) -> Integer[np.ndarray, " samples"] | None:
    """Number of each sample's cell, from 0; None if a location is unknown.

    A cell is so many degrees of latitude high; its width is about the same at every latitude.
    """
    if lonlat is None or not np.isfinite(lonlat).all():
        return None
    row = np.floor(lonlat[:, 1] / degrees)
    shrink = np.cos(np.radians((row + 0.5) * degrees).clip(-1.5, 1.5))
    column = np.floor(lonlat[:, 0] * shrink / degrees)
    _, numbers = np.unique(np.stack([row, column], axis=1), axis=0, return_inverse=True)
    return numbers.ravel()


def nearest_km(
    of: Float[np.ndarray, "samples 2"], among: Float[np.ndarray, "others 2"]
) -> Float64[np.ndarray, " samples"]:
    """Great-circle distance in km from each location (longitude, latitude) to the nearest of others, on a sphere."""
    from scipy.spatial import KDTree  # deferred: most callers need cells only, and it imports much of scipy

    chord, _ = KDTree(on_globe(among)).query(on_globe(of))
    return 2 * EARTH_KM * np.arcsin(np.clip(chord / 2, 0, 1))


def on_globe(lonlat: Float[np.ndarray, "samples 2"]) -> Float[np.ndarray, "samples 3"]:
    """Points on the unit sphere, from degrees."""
    lon, lat = np.radians(lonlat).T
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def distance_to_train(
    lonlat: Float[np.ndarray, "samples 2"] | None,
    train: Float[np.ndarray, "train 2"] | None,
    rows: Integer[np.ndarray, " rows"] | None = None,
) -> Float32[np.ndarray, " samples"] | None:
    """Distance in km from each sample to the nearest one of train, or of its rows; None if a location is unknown."""
    if lonlat is None or train is None:
        return None
    train = train if rows is None else train[rows]
    if not (np.isfinite(lonlat).all() and np.isfinite(train).all() and len(train)):
        return None
    return nearest_km(lonlat, train).astype(np.float32)
