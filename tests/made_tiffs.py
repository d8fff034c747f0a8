"""Small GeoTIFFs and folders of them, for tests of reading."""

import numpy as np
import pandas as pd
import rasterio
from opening import open_split
from rasterio.crs import CRS
from rasterio.transform import from_origin

from data.sources import folder


def open_folder(root, split="train", **more):
    return open_split(folder, split, root, **more)


def write_tif(path, pixels, *, names=None, crs="EPSG:32633", corner=(500_000, 5_000_000, 10, 10), tags=None, **options):
    """A TIFF of (C, H, W) pixels; `tags` are set as attributes of rasterio's open file, such as ``scales``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    located = {"crs": CRS.from_string(crs), "transform": from_origin(*corner)} if crs else {}
    count, height, width = pixels.shape
    profile = {"driver": "GTiff", "width": width, "height": height, "count": count, "dtype": pixels.dtype}
    with rasterio.open(path, "w", **profile, **located, **options) as target:
        target.write(pixels)
        if names:
            target.descriptions = names
        for name, value in (tags or {}).items():
            setattr(target, name, value)


def constant(*values, dtype=np.uint16, size=16):
    return np.broadcast_to(np.array(values, dtype)[:, None, None], (len(values), size, size))


def write_table(root, rows):
    root.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(root / "labels.csv", index=False)
