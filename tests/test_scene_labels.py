"""Labels of a scene's windows: points, polygons, rasters and tables in any reference system, and bad ones."""

import geopandas
import numpy as np
import pandas as pd
import pytest
import shapely
from made_scene import CRS, NAMES, TRANSFORM, make_points, make_truth, write_raster

from data.errors import RequestError
from data.scene.grid import SceneGrid
from data.scene.labels import LabelSource, label_windows, nearest_windows


def grid_of(side=256, tile=64, stride=32, name="scene"):
    return SceneGrid(name, CRS, tuple(TRANSFORM)[:6], side, side, tile, stride)


def windows_of(*grids):
    parts = [np.insert(grid.windows(), 0, number, axis=1) for number, grid in enumerate(grids)]
    return np.concatenate(parts).astype(np.int32)


def labelled(path, field=None, min_cover=0.5, grid=None):
    grid = grid or grid_of()
    return label_windows(LabelSource(path, field, min_cover), [grid], windows_of(grid))


def points(path, pixels, classes, crs="EPSG:4326", column="class"):
    rows, columns = np.array(pixels, float).T
    x, y = TRANSFORM @ (columns, rows)
    frame = geopandas.GeoDataFrame({column: classes}, geometry=geopandas.points_from_xy(x, y), crs=CRS)
    frame = frame.to_crs(crs) if crs else frame.set_crs(None, allow_override=True)
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_file(path)
    return path


@pytest.mark.parametrize("name", ["p.gpkg", "p.geojson", "p.shp", "p.parquet"])
@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3035"])
def test_a_point_labels_the_window_whose_centre_is_nearest(tmp_path, name, crs):
    if name == "p.geojson" and crs != "EPSG:4326":
        pytest.skip("GeoJSON is in WGS 84")
    file = points(tmp_path / name, [(32, 32), (70, 100), (250, 250)], ["water", "forest", "field"], crs)
    found = labelled(file)
    assert found.class_names == ("field", "forest", "water")
    footprint = windows_of(grid_of())
    named = {tuple(footprint[row, 1:]): found.class_names[k] for row, k in enumerate(found.labels) if k >= 0}
    assert named == {(0, 0): "water", (32, 64): "forest", (192, 192): "field"}


def test_a_point_on_an_edge_lies_in_the_lower_right_window_and_none_beyond_the_last():
    grid = grid_of(tile=64, stride=64)
    pixels = np.array([[0, 0], [64, 0], [64, 64], [63.9, 64], [256, 10], [10, 256], [-0.1, 5], [np.inf, 5]])
    assert nearest_windows(grid, grid.windows(), pixels).tolist() == [0, 4, 5, 1, -1, -1, -1, -1]


def test_tables_with_lon_and_lat_and_rows_still_to_be_labelled(tmp_path):
    grid = grid_of()
    lon, lat = grid.lonlat(np.array([[0, 0], [64, 64], [128, 128]])).T
    table = pd.DataFrame({"lon": lon, "lat": lat, "kind": [3, None, 7]})
    table.to_csv(tmp_path / "labels.csv", index=False)
    found = labelled(tmp_path / "labels.csv", "kind")
    assert found.class_names == ("3", "7")
    assert (found.labels >= 0).sum() == 2


def test_polygons_and_rasters_label_what_they_cover(tmp_path):
    truth = make_truth(256, block=64)
    raster = write_raster(tmp_path / "labels.tif", (truth + 1)[None].astype(np.uint8), nodata=0)
    outlines, classes = [], []
    for row in range(0, 256, 64):
        for column in range(0, 256, 64):
            left, top = TRANSFORM @ (column, row)
            outlines.append(shapely.box(left, top - 640, left + 640, top))
            classes.append(NAMES[truth[row, column]])
    polygons = geopandas.GeoDataFrame({"class": classes}, geometry=outlines, crs=CRS)
    polygons.to_file(tmp_path / "polygons.gpkg")
    for file, names in ((raster, ("1", "2", "3")), (tmp_path / "polygons.gpkg", tuple(sorted(NAMES)))):
        found = labelled(file, min_cover=0.6)
        assert found.class_names == names
        for row, (_, top, left) in enumerate(windows_of(grid_of())):
            counts = np.bincount(truth[top : top + 64, left : left + 64].ravel(), minlength=3)
            expected = counts.argmax() if counts.max() >= 0.6 * 64**2 else -1
            if expected >= 0:
                expected = expected if names[0] == "1" else sorted(NAMES).index(NAMES[expected])
            assert found.labels[row] == expected
    with pytest.raises(RequestError, match="--min-cover"):
        labelled(tmp_path / "polygons.gpkg", min_cover=1.0, grid=grid_of(tile=96, stride=96))


def test_labels_of_several_scenes_go_to_the_scene_they_lie_in(tmp_path):
    west = grid_of(128, name="west")
    east = SceneGrid("east", CRS, tuple(TRANSFORM @ TRANSFORM.translation(256, 0))[:6], 128, 128, 64, 32)
    file = points(tmp_path / "p.gpkg", [(40, 40), (40, 256 + 40), (900, 900)], ["water", "field", "field"])
    footprint = windows_of(west, east)
    found = label_windows(LabelSource(file), [west, east], footprint)
    assert footprint[found.labels >= 0, 0].tolist() == [0, 1]
    assert "1 of 3" in found.notes[0]


def test_bad_labels_are_one_clear_error(tmp_path):
    truth = make_truth(256)
    good = make_points(tmp_path / "good.gpkg", truth)
    away = points(tmp_path / "away.gpkg", [(9000, 9000), (9100, 9100)], ["water", "field"])
    nowhere = points(tmp_path / "nowhere.gpkg", [(32, 32), (64, 64)], ["water", "field"], crs=None)
    single = points(tmp_path / "single.gpkg", [(32, 32), (96, 96)], ["water", "water"])
    empty = points(tmp_path / "empty.gpkg", [(32, 32), (96, 96)], [None, None])
    (tmp_path / "bad.gpkg").write_bytes(good.read_bytes()[:2000])
    (tmp_path / "bad.csv").write_text("x,y,class\n1,2,water\n")
    (tmp_path / "far.csv").write_text("lon,lat,class\n1000,2,water\n")
    cases = [
        (tmp_path / "absent.gpkg", None, r"absent\.gpkg"),
        (good, "kind", "kind.*class"),
        (away, None, r"away\.gpkg"),
        (nowhere, None, "coordinate reference system"),
        (single, None, "only water.*another class"),
        (empty, None, "class"),
        (tmp_path / "bad.gpkg", None, r"bad\.gpkg"),
        (tmp_path / "bad.csv", None, "lon and lat"),
        (tmp_path / "far.csv", None, "row 2"),
    ]
    for file, field, pattern in cases:
        with pytest.raises(RequestError, match=pattern):
            labelled(file, field)
