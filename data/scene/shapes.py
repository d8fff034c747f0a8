"""Labeled points and polygons, read from vector files and tables of coordinates."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import RequestError, unknown

FIELDS = ("class", "label", "class_name", "landcover", "land_cover")  # tried in this order
PLACES = (("lon", "lat"), ("longitude", "latitude"))


@dataclass(frozen=True)
class Shapes:
    """Labeled geometries.

    Args:
        geometries: (M,) shapely points or polygons.
        classes: M names.
        crs: coordinate reference system.
    """

    geometries: np.ndarray
    classes: list[str]
    crs: str


def read_shapes(path: Path, field: str | None) -> Shapes:
    """Geometries and classes of a vector file or a CSV; rows without a class, to be labeled later, are left out.

    Raises:
        RequestError: see `label_windows`.
    """
    frame = read_vector(path)
    columns = [str(name) for name in frame.columns if name != frame.geometry.name]
    column = field or next((name for name in FIELDS if name in columns), None)
    if column is None:
        raise RequestError(f"{path}: name the column of the class with --label-field; it has {', '.join(columns)}")
    if column not in columns:
        raise unknown(f"--label-field of {path}", column, columns)
    if frame.crs is None:
        raise RequestError(
            f"{path} has no coordinate reference system; write it with one, for instance with ogr2ogr -a_srs EPSG:4326"
        )
    classes = [_class_name(value) for value in frame[column]]
    keep = [row for row, name in enumerate(classes) if name and frame.geometry.iloc[row] is not None]
    if not keep:
        raise RequestError(f"{path}: no row has a class in {column}; fill it in")
    geometries = np.array(frame.geometry.values, dtype=object)[keep]
    return Shapes(geometries, [classes[row] for row in keep], frame.crs.to_wkt())


def read_vector(path: Path) -> Any:
    """A vector file, or a CSV with lon and lat, as a GeoDataFrame.

    Raises:
        RequestError: it cannot be read, or has no geometries.
    """
    import geopandas  # deferred, as pandas is: seconds
    import pandas as pd

    try:
        if path.suffix.lower() == ".csv":
            frame: Any = _located(path, pd.read_csv(path))
        elif path.suffix.lower() in (".parquet", ".geoparquet", ".gpq"):
            frame = geopandas.read_parquet(path)
        else:
            frame = geopandas.read_file(path, engine="pyogrio")
    except RequestError:
        raise
    except Exception as error:  # of several libraries, all about this file
        raise RequestError(
            f"cannot read {path} ({' '.join(str(error).split())}); give GeoPackage, GeoJSON, a shapefile, "
            "GeoParquet, a raster, or a CSV with lon and lat"
        ) from error
    if getattr(frame, "_geometry_column_name", None) not in frame:
        raise RequestError(f"{path} has no geometries; it has the columns {', '.join(map(str, frame.columns))}")
    return frame


def _located(path: Path, table: Any) -> Any:
    """A table with points of its longitudes and latitudes."""
    import geopandas

    lower = {str(name).lower(): name for name in table.columns}
    found = next((pair for pair in PLACES if all(name in lower for name in pair)), None)
    if found is None:
        raise RequestError(f"{path} needs the columns lon and lat (WGS 84 degrees); it has {', '.join(lower.values())}")
    lon, lat = (table[lower[name]].astype(float) for name in found)
    if not (lon.abs().le(180) & lat.abs().le(90)).all():
        row = int(np.argmin((lon.abs().le(180) & lat.abs().le(90)).to_numpy()))
        raise RequestError(f"{path}, row {row + 2}: lon {lon[row]:g}, lat {lat[row]:g} is not in WGS 84 degrees")
    return geopandas.GeoDataFrame(table, geometry=geopandas.points_from_xy(lon, lat), crs="EPSG:4326")


def _class_name(value: Any) -> str:
    """A cell as a class name; empty for none."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # integers with an empty cell among them
    return str(value).strip()
