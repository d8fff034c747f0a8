"""Small georeferenced scenes with a known land-cover map, and labels on them."""

import numpy as np
import rasterio
from rasterio.transform import from_origin

NAMES = ("water", "forest", "field")
SIGNATURES = {"B02": (500, 300, 900), "B03": (450, 500, 1000), "B04": (300, 350, 1300), "B08": (200, 3200, 2300)}
CRS, ORIGIN, PIXEL_M = "EPSG:32632", (500_000, 5_500_000), 10
TRANSFORM = from_origin(*ORIGIN, PIXEL_M, PIXEL_M)


def make_truth(side=256, *, block=64, seed=0):
    """(side, side) class numbers, in blocks."""
    rng = np.random.default_rng(seed)
    count = -(-side // block)
    blocks = rng.permutation(np.arange(count**2) % len(NAMES)).reshape(count, count)
    return np.kron(blocks, np.ones((block, block), int))[:side, :side]


def make_pixels(truth, *, seed=0):
    """(4, H, W) uint16 digital numbers of `SIGNATURES`, with noise."""
    rng = np.random.default_rng(seed)
    clean = np.array(list(SIGNATURES.values()))[:, truth]
    return (clean * (1 + 0.05 * rng.standard_normal(clean.shape))).round().clip(1).astype(np.uint16)


def write_raster(path, pixels, *, names=None, crs=CRS, transform=TRANSFORM, driver="GTiff", **more):
    """Write (C, H, W) pixels; return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    about = {"count": count, "height": height, "width": width, "dtype": pixels.dtype.name, "crs": crs}
    with rasterio.open(path, "w", driver=driver, transform=transform, **about, **more) as target:
        target.write(pixels)
        for number, name in enumerate(names or (), 1):
            target.set_band_description(number, name)
    return path


def make_scene(folder, *, side=256, seed=0, **more):
    """Write scene.tif and return it with its truth."""
    truth = make_truth(side, seed=seed)
    pixels = make_pixels(truth, seed=seed)
    return write_raster(folder / "scene.tif", pixels, names=list(SIGNATURES), **more), truth


def make_points(path, truth, count=40, *, seed=0, crs="EPSG:4326", classes=None, field="class"):
    """Write labeled points spread over a scene; return the path."""
    import geopandas

    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(0, len(truth), (2, count))
    x, y = TRANSFORM @ (columns + 0.5, rows + 0.5)
    named = classes or [NAMES[k] for k in truth[rows, columns]]
    frame = geopandas.GeoDataFrame({field: named}, geometry=geopandas.points_from_xy(x, y), crs=CRS).to_crs(crs)
    frame.to_file(path)
    return path
