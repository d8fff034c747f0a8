"""What can be taken as independent evidence: images, or spatial cells with all the images in them.

Neighbouring images resemble each other, so that taking images one by one counts N images as N pieces of evidence and
gives intervals that are too narrow. Where locations are known, cells of a grid are taken instead, each with all its
images (block jackknife, Künsch 1989). A cell is `DEGREES` of latitude high, 28 km: wider than the fields, towns and
forests that neighbours share, while a country still has hundreds of cells.
"""

from dataclasses import dataclass

import numpy as np

DEGREES = 0.25
LEAST = 10  # with fewer images or cells there is no interval
EARTH_KM = 6371.0088  # mean radius (IUGG)
FEW_CELLS = 30  # with fewer cells an interval comes with a warning


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
        """Number of units of equal size that are worth as much: (sum n)² / sum n² (Kish 1965)."""
        sizes = np.bincount(self.numbers).astype(np.float64)
        return float(sizes.sum() ** 2 / (sizes**2).sum()) if len(sizes) else 0.0

    @property
    def words(self) -> str:
        """How intervals are made, such as ``by image`` or ``by 43 spatial cells``."""
        return "by image" if self.by == "image" else f"by {self.count:,} spatial cells"

    @property
    def warning(self) -> str | None:
        """What a reader should know where there are few cells; None otherwise."""
        if self.by == "image" or self.count >= FEW_CELLS:
            return None
        place = f"{self.count} spatial cells of {self.degrees:.3g} degrees"
        return f"test lies in {place}: intervals by cell need at least {FEW_CELLS}"


def units(lonlat: np.ndarray | None, samples: int, degrees: float = DEGREES) -> Units:
    """Spatial cells where every location is known, else images.

    Args:
        lonlat: (N, 2) degrees, or None.
        samples: N.
        degrees: height of a cell.
    """
    numbers = cells(lonlat, degrees)
    return Units(np.arange(samples), "image") if numbers is None else Units(numbers, "cell", degrees)


def cells(lonlat: np.ndarray | None, degrees: float = DEGREES) -> np.ndarray | None:
    """Number of each sample's cell, from 0; None where a location is unknown.

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
    return numbers.ravel()


def nearest_km(of: np.ndarray, among: np.ndarray) -> np.ndarray:
    """(M,) great-circle distance in km from each place to the nearest of others, on a sphere.

    Args:
        of: (M, 2) longitude and latitude in degrees.
        among: (N, 2) likewise.
    """
    from scipy.spatial import KDTree  # deferred: most callers need cells only, and it imports much of scipy

    chord, _ = KDTree(on_globe(among)).query(on_globe(of))
    return 2 * EARTH_KM * np.arcsin(np.clip(chord / 2, 0, 1))


def on_globe(lonlat: np.ndarray) -> np.ndarray:
    """(N, 3) points of the unit sphere."""
    lon, lat = np.radians(lonlat).T
    return np.column_stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)])


def distance_to_train(
    lonlat: np.ndarray | None, train: np.ndarray | None, rows: np.ndarray | None = None
) -> np.ndarray | None:
    """(M,) float32 km from each sample to the nearest one of train; None where a location is unknown.

    Args:
        lonlat: (M, 2) degrees of the samples, or None.
        train: (N, 2) degrees, or None.
        rows: those of train in use; None for all.
    """
    if lonlat is None or train is None:
        return None
    train = train if rows is None else train[rows]
    if not (np.isfinite(lonlat).all() and np.isfinite(train).all() and len(train)):
        return None
    return nearest_km(lonlat, train).astype(np.float32)
