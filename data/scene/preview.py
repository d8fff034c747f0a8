"""A small picture of a whole scene."""

import numpy as np
from jaxtyping import UInt8
from rasterio.enums import Resampling

from data.bands import shown_bands
from data.scene.raster import Scene, opened

SIDE = 900  # pixels of the longer side
STRETCH = (2, 98)  # percentiles that become black and white


def preview(scene: Scene) -> UInt8[np.ndarray, "height width 3"]:
    """True color, or the first band as gray, stretched from its 2nd to its 98th percentile; white where no data is.

    Args:
        scene: the scene; only a decimated version is read.

    Raises:
        RequestError: a file cannot be read.
    """
    shrink = min(1.0, SIDE / max(scene.height, scene.width))
    shape = (max(1, round(scene.height * shrink)), max(1, round(scene.width * shrink)))
    planes = []
    for band in shown_bands(scene.bands):
        file = next(one for one in scene.files if one.band == band)
        with opened(file.path, scene) as source:
            plane = source.read(file.index, out_shape=shape, masked=True, resampling=Resampling.nearest)
        missing = np.ma.getmaskarray(plane) | ~np.isfinite(plane.data.astype(float)) | (plane.data == file.nodata)
        values = plane.data.astype(np.float64)
        low, high = np.percentile(values[~missing], STRETCH) if not missing.all() else (0.0, 1.0)
        planes.append(np.where(missing, 255, (values - low) / max(high - low, 1e-9) * 255))
    return np.stack(planes * (3 // len(planes)), axis=-1).clip(0, 255).astype(np.uint8)
