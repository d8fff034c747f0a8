"""Maps as polygons: neighboring cells of one class, with its mean probability."""

import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data.checksums import published_signed
from data.errors import DiskError
from data.files import published
from probes.maps import SceneMap


def write_polygons(maps: Iterable[SceneMap], to: Path) -> Path:
    """Write the polygons of all scenes into one file; in WGS 84 where the scenes' reference systems differ.

    Args:
        maps: one for each scene.
        to: ``.gpkg``, ``.geojson`` (always WGS 84) or ``.parquet`` (GeoParquet).
    """
    import geopandas  # deferred, as pandas is: only for vectors
    import pandas as pd

    frames = [polygons(one) for one in maps]
    alike = len({one.crs for one in frames}) == 1 and to.suffix != ".geojson"
    target: Any = frames[0].crs if alike else "EPSG:4326"
    whole = geopandas.GeoDataFrame(pd.concat([one.to_crs(target) for one in frames], ignore_index=True), crs=target)
    write_vector(whole, to, publish=published_signed)
    return to


def polygons(one: SceneMap) -> Any:
    """A GeoDataFrame with the class, its mean probability, the scene and the outline of each group of cells."""
    import geopandas
    import shapely
    from rasterio.features import rasterize, shapes

    classes, transform = one.classes, one.grid.cell_affine
    found = [
        (shapely.geometry.shape(outline), int(value))
        for outline, value in shapes(classes, mask=classes > 0, transform=transform)
    ]
    numbered = [(outline, number) for number, (outline, _) in enumerate(found, 1)]
    group = np.asarray(rasterize(numbered, classes.shape, transform=transform, dtype="int32")).ravel()
    best = np.nan_to_num(one.probability.max(axis=0)).ravel()
    size = np.bincount(group, minlength=len(found) + 1)[1:]
    total = np.bincount(group, best, minlength=len(found) + 1)[1:]
    columns = {
        "class": [one.class_names[value - 1] for _, value in found],
        "probability": (total / np.maximum(size, 1)).round(4),
        "scene": [one.grid.name] * len(found),
    }
    return geopandas.GeoDataFrame(columns, geometry=[outline for outline, _ in found], crs=one.grid.crs)


def write_vector(frame: Any, to: Path, *, publish: Callable = published) -> None:
    """Publish a GeoDataFrame in one rename, in the format that the name ends in; CSV has lon and lat."""
    with tempfile.TemporaryDirectory() as folder:  # GDAL's drivers write files beside their own
        inner = Path(folder, to.name)
        if to.suffix == ".parquet":
            frame.to_parquet(inner)
        elif to.suffix == ".csv":
            points = frame.to_crs("EPSG:4326").geometry
            frame.drop(columns="geometry").assign(lon=points.x.round(7), lat=points.y.round(7)).to_csv(
                inner, index=False
            )
        else:
            try:
                frame.to_file(inner, engine="pyogrio")
            except RuntimeError as error:  # pyogrio's, of GDAL
                why = " ".join(str(error).split())
                raise DiskError(f"no space left to write {to} in {folder}, or GDAL failed ({why})") from error
        with publish(to) as temporary:
            shutil.copyfile(inner, temporary)
