"""Mosaic real EuroSAT tiles into a georeferenced scene of 13 bands with its true map, and label some of it.

    python -m tests.bench.scene_mosaic --out DIR [--zip EuroSATallBands.zip] [--tiles 32] [--points 50]

writes scene.tif (13 bands, uint16), truth.tif (class numbers), points.gpkg, polygons.gpkg, labels.tif and a Level-2A
product (``.SAFE``). Classes lie in regions of several tiles; tiles are turned where there are fewer of a class than
places for it. copies.npy says which places show the same tile, unseen.npy which show a tile that no point lies on, at
this place or another.
"""

import argparse
import json
import zipfile
from pathlib import Path

import numpy as np
import rasterio
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from data.nomenclature import EUROSAT_CLASSES as CLASSES
from data.sources.eurosat import NAMES
from tests.bench.pairs import SHARED

SIDE = 64  # pixels of a tile
TILES = 33  # along a side: 2,112 pixels, which 20 m and 60 m bands divide
TRANSFORM = from_origin(600_000, 5_400_000, 10, 10)
PROFILE = {
    "driver": "GTiff", "crs": "EPSG:32632", "transform": TRANSFORM, "tiled": True, "blockxsize": 256,
    "blockysize": 256, "compress": "deflate",
}  # fmt: skip


def class_map(tiles: int, seed: int) -> np.ndarray:
    """(tiles, tiles) class numbers in regions: each place has the class of the nearest of some random centers."""
    rng = np.random.default_rng(seed)
    centres = rng.uniform(0, tiles, (8 * len(CLASSES), 2))
    owners = rng.permutation(np.arange(len(centres)) % len(CLASSES))
    places = np.stack(np.meshgrid(*[np.arange(tiles) + 0.5] * 2, indexing="ij"), axis=-1)
    return owners[np.linalg.norm(places[:, :, None] - centres, axis=-1).argmin(axis=-1)]


def make_mosaic(archive: Path, folder: Path, *, tiles: int = TILES, seed: int = 0) -> np.ndarray:
    """Write the scene and its true map; returns the class of each place, (tiles, tiles)."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, classes = np.random.default_rng(seed), class_map(tiles, seed)
    pixels = np.zeros((len(NAMES), tiles * SIDE, tiles * SIDE), np.uint16)
    shown = np.zeros((tiles, tiles), int)
    with zipfile.ZipFile(archive) as source:
        files = sorted(name for name in source.namelist() if name.endswith(".tif"))
        for number, name in enumerate(CLASSES):
            own = rng.permutation([file for file in files if f"/{name}/" in file])
            for count, (row, column) in enumerate(np.argwhere(classes == number)):
                file = own[count % len(own)]
                with MemoryFile(source.read(file)) as memory, memory.open() as tile:
                    image = tile.read()
                image = np.rot90(image, count // len(own), axes=(1, 2))
                pixels[:, row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE] = image
                shown[row, column] = files.index(file)
    size = {"height": tiles * SIDE, "width": tiles * SIDE}
    with rasterio.open(folder / "scene.tif", "w", count=len(NAMES), dtype="uint16", **size, **PROFILE) as target:
        target.write(pixels)
        for band, name in enumerate(NAMES, 1):
            target.set_band_description(band, name)
    truth = np.kron(classes + 1, np.ones((SIDE, SIDE), np.uint8)).astype(np.uint8)
    with rasterio.open(folder / "truth.tif", "w", count=1, dtype="uint8", nodata=0, **size, **PROFILE) as target:
        target.write(truth, 1)
    np.save(folder / "copies.npy", shown)
    return classes


def label_points(folder: Path, classes: np.ndarray, *, count: int = 50, seed: int = 0) -> Path:
    """Write points.gpkg: as many points of each class, in the middle half of places drawn at random."""
    import geopandas

    rng = np.random.default_rng([seed, 1])
    chosen = []
    for number in range(len(CLASSES)):
        places = np.argwhere(classes == number)
        chosen.append(places[rng.choice(len(places), count // len(CLASSES), replace=False)])
    places = np.concatenate(chosen)
    shown = np.load(folder / "copies.npy")
    np.save(folder / "unseen.npy", ~np.isin(shown, shown[tuple(places.T)]))
    pixels = (places + rng.uniform(0.25, 0.75, places.shape)) * SIDE
    x, y = TRANSFORM @ (pixels[:, 1], pixels[:, 0])
    names = [CLASSES[k] for k in classes[places[:, 0], places[:, 1]]]
    frame = geopandas.GeoDataFrame({"class": names}, geometry=geopandas.points_from_xy(x, y), crs="EPSG:32632")
    frame.to_crs("EPSG:4326").to_file(folder / "points.gpkg")
    return folder / "points.gpkg"


def label_areas(folder: Path, *, pixels: int = 40) -> None:
    """Write polygons.gpkg, squares around the points, and labels.tif, the same as a raster of class numbers."""
    import geopandas
    from rasterio.features import rasterize

    frame = geopandas.read_file(folder / "points.gpkg").to_crs("EPSG:32632")
    frame["geometry"] = frame.buffer(pixels * 10 / 2, cap_style="square")
    frame.to_file(folder / "polygons.gpkg")
    with rasterio.open(folder / "scene.tif") as scene:
        shape = scene.shape
    burnt = [(one, CLASSES.index(name) + 1) for one, name in zip(frame.geometry, frame["class"], strict=True)]
    raster = rasterize(burnt, shape, transform=TRANSFORM, dtype="uint8")
    size = {"height": shape[0], "width": shape[1]}
    with rasterio.open(folder / "labels.tif", "w", count=1, dtype="uint8", nodata=0, **size, **PROFILE) as target:
        target.write(raster, 1)
        target.update_tags(class_names=json.dumps({str(n): name for n, name in enumerate(CLASSES, 1)}))


def make_product(folder: Path) -> Path:
    """Write the scene as a Level-2A product: JPEG 2000 at 10, 20 and 60 m, offset 1000, a cloud in one corner."""
    product = folder / "S2A_MSIL2A_20230601T103031_N0509_R108_T32UPU_20230601T150000.SAFE"
    images = product / "GRANULE" / "L2A_T32UPU" / "IMG_DATA"
    with rasterio.open(folder / "scene.tif") as scene:
        bands = {name: scene.read(number) for number, name in enumerate(NAMES, 1) if name != "B10"}
    scl = np.full(next(iter(bands.values())).shape, 4, np.uint16)
    scl[: 3 * SIDE, : 3 * SIDE] = 9
    for name, pixels in (bands | {"SCL": scl}).items():
        metres = {"B01": 60, "B09": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10}.get(name, 20)
        step = metres // 10
        side = pixels.shape[0] // step
        coarse = pixels.reshape(side, step, side, step).mean(axis=(1, 3)).round().astype(np.uint16)
        stored = coarse.astype(np.uint8) if name == "SCL" else coarse + np.uint16(1000)
        file = images / f"R{metres}m" / f"T32UPU_20230601T103031_{name}_{metres}m.jp2"
        file.parent.mkdir(parents=True, exist_ok=True)
        about = {"crs": "EPSG:32632", "transform": TRANSFORM @ TRANSFORM.scale(step), "dtype": stored.dtype.name}
        size = {"count": 1, "height": side, "width": side, "QUALITY": "100", "REVERSIBLE": "YES"}
        with rasterio.open(file, "w", driver="JP2OpenJPEG", **about, **size) as target:
            target.write(stored, 1)
    offsets = "".join(f'<BOA_ADD_OFFSET band_id="{n}">-1000</BOA_ADD_OFFSET>' for n in range(13))
    (product / "MTD_MSIL2A.xml").write_text(
        f'<n1:Level-2A_User_Product xmlns:n1="x">{offsets}</n1:Level-2A_User_Product>'
    )
    return product


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--zip", type=Path, default=SHARED / "data" / "eurosat-ms" / "EuroSATallBands.zip")
    parser.add_argument("--tiles", type=int, default=TILES)
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    classes = make_mosaic(given.zip, given.out, tiles=given.tiles, seed=given.seed)
    label_points(given.out, classes, count=given.points, seed=given.seed)
    label_areas(given.out)
    make_product(given.out)


if __name__ == "__main__":
    main()
