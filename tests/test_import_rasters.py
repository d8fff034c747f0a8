"""Rasters with an embedding per pixel, sampled at points and pooled over polygons, against numpy and rasterio."""

import geopandas
import numpy as np
import pytest
import rasterio
import shapely

from data import store
from data.errors import RequestError
from data.flags import ImportFlags
from data.store.exchange.importing import import_features

SIDE = 40
CRS = "EPSG:32632"
PLACE = rasterio.transform.from_origin(500_000, 5_300_000, 10, 10)


@pytest.fixture
def codes():
    return np.random.default_rng(0).integers(-127, 128, (64, SIDE, SIDE), np.int8)


def write_raster(file, values, place=PLACE, **more):
    file.parent.mkdir(parents=True, exist_ok=True)
    profile = {"driver": "GTiff", "count": len(values), "height": values.shape[1], "width": values.shape[2]}
    with rasterio.open(file, "w", dtype=values.dtype, crs=CRS, transform=place, **profile, **more) as target:
        target.write(values)
    return file


def write_places(file, rows, columns, radius=0, **more):
    """Points at pixels' centers, or squares around them."""
    x, y = PLACE @ (np.array(columns) + 0.5, np.array(rows) + 0.5)
    shapes = shapely.points(x, y) if not radius else shapely.box(x - radius, y - radius, x + radius, y + radius)
    names = [f"p{k}" for k in range(len(shapes))]
    frame = geopandas.GeoDataFrame({"id": names, **more}, geometry=shapes, crs=CRS).to_crs("EPSG:4326")
    frame.to_file(file, driver="GPKG")
    return file


def imported(tmp_path, file, product, at, **more):
    flags = ImportFlags(name=f"mine-{len(list(tmp_path.glob('out-*')))}", format=product, at=at, **more)
    out = tmp_path / f"out-{flags.name}"
    return {path.stem: store.read_features(path) for path in import_features(file, flags, out)}


def dequantized(codes):
    values = codes.astype(np.float64)
    return np.sign(values) * (values / 127.5) ** 2


def test_alphaearth_at_points_is_each_pixels_dequantized_vector(tmp_path, codes):
    raster = write_raster(tmp_path / "aef.tif", codes, nodata=-128)
    rows, columns = [0, 5, 39, 17], [0, 31, 39, 2]
    at = write_places(tmp_path / "points.gpkg", rows, columns, label=["a", "b", "a", "b"], split=["train"] * 4)
    found = imported(tmp_path, raster, "alphaearth", at)["train"]
    assert found.ids == ["p0", "p1", "p2", "p3"] and found.class_names == ("a", "b")
    assert found.identity["encoder"]["name"] == "alphaearth" and found.identity["encoder"]["pooling"] == "pixel"
    np.testing.assert_allclose(found.features, dequantized(codes)[:, rows, columns].T, rtol=1e-6)
    places = geopandas.read_file(at).geometry
    np.testing.assert_allclose(found.lonlat, np.column_stack([places.x, places.y]))


def test_a_bottom_up_raster_and_two_tiles_give_the_same_vectors(tmp_path, codes):
    at = write_places(tmp_path / "squares.gpkg", [10, 20, 30], [8, 20, 33], radius=42)
    whole = imported(tmp_path, write_raster(tmp_path / "one" / "a.tif", codes), "alphaearth", at)["test"].features
    up = PLACE @ rasterio.Affine(1, 0, 0, 0, -1, SIDE)
    flipped = write_raster(tmp_path / "two" / "a.tif", codes[:, ::-1], up)
    np.testing.assert_allclose(imported(tmp_path, flipped, "alphaearth", at)["test"].features, whole, rtol=1e-6)
    for side, part in enumerate((codes[:, :, :19], codes[:, :, 19:])):  # the middle square lies in both
        write_raster(tmp_path / "three" / f"{side}.tif", part, PLACE @ rasterio.Affine.translation(19 * side, 0))
    tiled = imported(tmp_path, tmp_path / "three", "alphaearth", at)["test"].features
    np.testing.assert_allclose(tiled, whole, rtol=1e-6)


def test_polygons_are_pooled_over_the_pixels_with_their_centre_inside(tmp_path, codes):
    codes[:, 12, 10] = -128  # no data
    raster = write_raster(tmp_path / "aef.tif", codes)
    at = write_places(tmp_path / "squares.gpkg", [12, 25], [10, 30], radius=24)  # 5 x 5 pixels
    found = imported(tmp_path, raster, "alphaearth", at, pooling="mean+std+min+max")["test"]
    for row, (y, x) in enumerate(((12, 10), (25, 30))):
        pixels = dequantized(codes)[:, y - 2 : y + 3, x - 2 : x + 3].reshape(64, -1)
        pixels = pixels[:, codes[0, y - 2 : y + 3, x - 2 : x + 3].ravel() != -128]
        assert pixels.shape[1] == (24 if row == 0 else 25)
        wanted = np.hstack([pixels.mean(axis=1), pixels.std(axis=1), pixels.min(axis=1), pixels.max(axis=1)])
        np.testing.assert_allclose(found.features[row], wanted, rtol=1e-5, atol=1e-6)
    assert found.identity["encoder"]["pooling"] == "mean+std+min+max"
    stored = store.read_geometries(found)
    assert shapely.equals_exact(stored, np.array(geopandas.read_file(at).geometry), 1e-9).all()


def test_a_tessera_tile_is_its_array_times_its_scales(tmp_path):
    rng = np.random.default_rng(1)
    values, scales = rng.integers(-127, 128, (SIDE, SIDE, 128), np.int8), rng.random((SIDE, SIDE), np.float32)
    folder, name = tmp_path / "2024" / "grid_9.05_47.85", "grid_9.05_47.85"
    folder.mkdir(parents=True)
    np.save(folder / f"{name}.npy", values)
    np.save(folder / f"{name}_scales.npy", scales)
    write_raster(tmp_path / "landmasks" / f"{name}.tiff", np.ones((1, SIDE, SIDE), np.uint8))
    at = write_places(tmp_path / "points.gpkg", [3, 8], [30, 1])
    found = imported(tmp_path, folder, "tessera", at)["test"].features
    np.testing.assert_allclose(found, (values * scales[..., None])[[3, 8], [30, 1]], rtol=1e-6)
    tiff = write_raster(tmp_path / "grid_9.05_47.85_2024.tiff", np.moveaxis(values * scales[..., None], -1, 0))
    np.testing.assert_allclose(imported(tmp_path, tiff, "tessera", at)["test"].features, found, rtol=1e-6)


def test_what_cannot_be_sampled_is_counted_or_refused(tmp_path, codes):
    raster = write_raster(tmp_path / "aef.tif", codes)
    at = write_places(tmp_path / "points.gpkg", [3, 400, 7], [3, 4, 900])
    with pytest.raises(RequestError, match="2 with NaN.*--drop"):
        imported(tmp_path, raster, "alphaearth", at)
    assert imported(tmp_path, raster, "alphaearth", at, drop=True)["test"].ids == ["p0"]
    for product, file, places, more, said in (
        ("tessera", raster, at, {}, "64 bands; expected 128"),
        ("alphaearth", raster, None, {}, "--at"),
        ("alphaearth", raster, at, {"pooling": "mean+std+min+max"}, "needs polygons"),
        ("alphaearth", raster, at, {"pooling": "median"}, "choose from mean"),
        ("alphaearth", tmp_path / "gone", at, {}, "nothing at"),
        ("alphaearth", raster, raster, {}, "cannot read"),
        (None, raster, at, {}, "--format alphaearth and tessera"),
    ):
        with pytest.raises(RequestError, match=said):
            imported(tmp_path, file, product, places, **more)
