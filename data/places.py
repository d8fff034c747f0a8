"""Locations of images: WGS 84 longitude and latitude, or none if the declared ones are not on Earth."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Float64

from data import command
from data.scene.grid import transformed

if TYPE_CHECKING:
    from data.images import Header

_warned: set[str] = set()


def lonlat_of(headers: Sequence["Header"], *, where: str = "") -> Float64[np.ndarray, "samples 2"] | None:
    """WGS 84 longitude and latitude of image centers.

    Returns:
        (N, 2) float64 degrees; None if any file has no location, or, with one warning per command, if its coordinate
        system or transform gives none on Earth.
    """
    if not headers or any(header.crs is None for header in headers):
        return None
    from pyproj.exceptions import ProjError  # deferred: a sixth of a second, which packed files need not pay

    systems = np.array([header.crs for header in headers])
    centres = np.array([header.centre for header in headers], dtype=np.float64)
    lonlat = np.empty_like(centres)
    for system in np.unique(systems):
        here = systems == system
        try:
            lonlat[here] = transformed(centres[here], str(system), "EPSG:4326")
        except ProjError:  # no such code, an engineering system, another planet
            name = str(system).partition('"')[2].partition('"')[0] or system  # of WKT, or a code
            warn(where, f"the coordinate system of {here.sum():,} images is not terrestrial: {name}")
            return None
    return on_earth(lonlat, where=where)


def on_earth(
    lonlat: Float[np.ndarray, "samples 2"] | None, *, where: str = ""
) -> Float64[np.ndarray, "samples 2"] | None:
    """Locations with longitudes wrapped to [-180, 180]; None, with one warning per command, if any is not on Earth."""
    if lonlat is None:
        return None
    lonlat = np.asarray(lonlat, dtype=np.float64)
    wrong = ~np.isfinite(lonlat).all(axis=1) | ~(np.abs(lonlat[:, 1]) <= 90)
    if wrong.any():
        lon, lat = lonlat[wrong][0]
        warn(where, f"{wrong.sum():,} of {len(lonlat):,} images are not on Earth, first lon {lon:g}, lat {lat:g}")
        return None
    over = np.abs(lonlat[:, 0]) > 180
    if over.any():
        lonlat = lonlat.copy()
        lonlat[over, 0] = (lonlat[over, 0] + 180) % 360 - 180
    return lonlat


def warn(where: str, why: str) -> None:
    """Report once per command that a dataset has no locations, even if several splits, views or files cause it."""
    if where in _warned or os.environ.get("RANK", "0") != "0":
        return
    _warned.add(where)
    command.warn(where or "images", f"no locations: {why}; models that need locations will refuse these images")
