"""From a few labels to a map: featurize, probe, predict on small scenes with a known answer."""

import json
import resource
import shutil
import subprocess

import numpy as np
import pytest
import rasterio
from made_scene import (
    NAMES,
    SIGNATURES,
    TRANSFORM,
    make_pixels,
    make_points,
    make_scene,
    make_truth,
    write_raster,
)

from data import command, paths, runs, store
from data.scene.grid import SceneGrid
from featurize.cli import app as featurize
from probes.cli import app as probe
from probes.map_files import colour, write_maps
from probes.maps import SceneMap


def run_all(folder, *labels, tile=32, stride=16, kind="linear", root=None, model="stats"):
    """The first two commands; returns the run."""
    out = folder / "runs"
    where = ["--data-root", str(root or folder / "scene.tif"), "--tile", str(tile), "--stride", str(stride)]
    made = ["--model", model, "--dataset", "scene", *where, "--labels", *map(str, labels), "--out", str(out)]
    assert command.run(featurize, [*made, "--device", "cpu"]) == 0
    assert command.run(probe, ["--kind", kind, "--protocol", "map", "--out", str(out)]) == 0
    return runs.read_run(max(paths.run_folders(out), key=lambda folder: (folder / "run.json").stat().st_mtime_ns))


def predict(run, to, *more):
    return command.run(probe, ["predict", str(run.folder), "--to", str(to), *more])


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A scene with its truth, 60 points and a run on them."""
    folder = tmp_path_factory.mktemp("mapped")
    _, truth = make_scene(folder, side=512)
    make_points(folder / "points.gpkg", truth, 60)
    run = run_all(folder, folder / "points.gpkg", kind="knn")
    assert predict(run, folder / "map.tif") == 0
    return folder, truth, run


def test_every_cell_is_the_mean_over_the_windows_on_it(mapped):
    folder, _, run = mapped
    features = store.read_features(folder / "runs" / "features" / run.dataset / run.encoder / "test.h5")
    from probes.models import load_model

    scores = load_model(run.folder / "model.skops", sha256=run.model_sha256).predict_proba(features.features)
    with rasterio.open(folder / "map-probability.tif") as source:
        probability = source.read()
        assert source.descriptions == tuple(run.class_names)
    for row in range(0, 32, 5):
        for column in range(32):
            on_it = [
                score
                for score, (_, top, left) in zip(scores, features.footprint, strict=True)
                if top <= row * 16 < top + 32 and left <= column * 16 < left + 32
            ]
            assert np.allclose(probability[:, row, column], np.mean(on_it, axis=0), atol=1e-6)


def test_the_map_is_right_georeferenced_and_explains_itself(mapped):
    folder, truth, run = mapped
    with rasterio.open(folder / "map.tif") as source:
        classes = source.read(1)
        assert source.crs.to_epsg() == 32632
        assert source.transform == TRANSFORM @ TRANSFORM.scale(16)
        assert (source.nodata, source.dtypes[0]) == (0, "uint8")
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        names = json.loads(source.tags()["class_names"])
        assert list(names.values()) == run.class_names
        assert len({source.colormap(1)[k] for k in (1, 2, 3)}) == 3
    numbers = np.array([NAMES.index(names[str(k)]) for k in (1, 2, 3)])
    assert (numbers[classes - 1] == truth[8::16, 8::16]).mean() > 0.95


def described(file):
    """What GDAL's own tool says of a raster, or rasterio's GDAL where that is not installed."""
    if tool := shutil.which("gdalinfo"):
        found = json.loads(subprocess.run([tool, "-json", file], capture_output=True, check=True, text=True).stdout)
        bands = found["bands"]
        return {
            "driver": found["driverShortName"],
            "crs": rasterio.CRS.from_wkt(found["coordinateSystem"]["wkt"]).to_epsg(),
            "transform": found["geoTransform"],
            "layout": found["metadata"].get("IMAGE_STRUCTURE", {}).get("LAYOUT"),
            "nodata": [float(band["noDataValue"]) for band in bands],
            "overviews": [one["size"] for one in bands[0].get("overviews", ())],
            "colours": [tuple(entry) for entry in bands[0].get("colorTable", {}).get("entries", ())],
        }
    with rasterio.open(file) as source:
        table = source.colormap(1) if source.colorinterp[0].name == "palette" else {}
        return {
            "driver": source.driver,
            "crs": source.crs.to_epsg(),
            "transform": list(source.transform.to_gdal()),
            "layout": source.tags(ns="IMAGE_STRUCTURE").get("LAYOUT"),
            "nodata": list(source.nodatavals),
            "overviews": [[-(-source.width // n), -(-source.height // n)] for n in source.overviews(1)],
            "colours": list(table.values()),
        }


def test_gdal_reads_what_was_written(tmp_path):
    def one(name, left):
        grid = SceneGrid(name, "EPSG:32632", (10.0, 0.0, left, 0.0, -10.0, 5_400_000.0), 5200, 4160, 8, 8)
        probability = np.full((2, *grid.cells), 0.25, np.float32)
        probability[1] = 0.75
        probability[:, 0, 0] = np.nan
        return SceneMap(grid, probability, ("water", "forest"))

    write_maps([one("a", 600_000.0)], tmp_path / "map.tif", scenes=1)
    write_maps([one("a", 600_000.0), one("b", 641_600.0)], tmp_path / "both.vrt", scenes=2)
    for name, layout, driver in (("map.tif", "COG", "GTiff"), ("both.vrt", None, "VRT")):
        found = described(tmp_path / name)
        assert (found["driver"], found["crs"], found["layout"]) == (driver, 32632, layout)
        assert found["transform"] == [600_000, 80, 0, 5_400_000, 0, -80]
        assert found["nodata"] == [0]
        assert found["colours"][1:3] == [(*colour(0), 255), (*colour(1), 255)]
        probability = described(tmp_path / name.replace(".", "-probability."))
        assert np.isnan(probability["nodata"]).all() and len(probability["nodata"]) == 2
    assert described(tmp_path / "map.tif")["overviews"] == [[260, 325], [130, 162]]


def test_polygons_say_the_same_as_the_raster(mapped):
    import geopandas
    from rasterio.features import rasterize

    folder, _, run = mapped
    with rasterio.open(folder / "map.tif") as source:
        classes, transform = source.read(1), source.transform
    for name in ("map.gpkg", "map.parquet", "map.geojson"):
        assert predict(run, folder / name) == 0
        read = geopandas.read_parquet if name.endswith("parquet") else geopandas.read_file
        frame = read(folder / name).to_crs("EPSG:32632")
        assert frame["probability"].between(0.3, 1).all()
        burnt = [(g, run.class_names.index(c) + 1) for g, c in zip(frame.geometry, frame["class"], strict=True)]
        assert (rasterize(burnt, classes.shape, transform=transform) == classes).mean() > 0.99


def test_a_map_that_changed_after_it_was_written_is_found_by_verify(mapped, tmp_path, capsys):
    folder, _, run = mapped
    for name in ("map.tif", "map-probability.tif", "map.tif.sha256"):
        shutil.copy(folder / name, tmp_path)
    assert predict(run, tmp_path / "map.geojson") == 0
    assert command.run(probe, ["verify", str(tmp_path)]) == 0
    assert command.run(featurize, ["verify", str(tmp_path / "map.tif")]) == 0
    for name in ("map-probability.tif", "map.geojson"):
        content = bytearray((tmp_path / name).read_bytes())
        content[len(content) // 2] ^= 1
        (tmp_path / name).write_bytes(content)
    (tmp_path / "map.tif").unlink()
    with (tmp_path / "map.tif.sha256").open("a") as listing:
        listing.write(f"{0:064}  map\0.tif\n")
    capsys.readouterr()
    assert command.run(probe, ["verify", str(tmp_path)]) == 1
    assert command.run(featurize, ["verify", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    for name, what in (("map-probability.tif", "checksum"), ("map.geojson", "checksum"), ("map.tif", "missing")):
        assert sum(line.startswith(f"{tmp_path / name} ") and what in line for line in lines) == 2
    assert (
        predict(run, tmp_path / "map.tif", "--overwrite") == predict(run, tmp_path / "map.geojson", "--overwrite") == 0
    )
    assert command.run(probe, ["verify", str(tmp_path)]) == 0


def test_a_full_disk_ends_a_map_in_one_line_and_leaves_nothing(mapped, tmp_path, capsys):
    _, _, run = mapped
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # bytes of a file
    try:
        assert [predict(run, tmp_path / f"map.{end}") for end in ("tif", "vrt", "geojson")] == [2, 2, 2]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capsys.readouterr().err.count("no space left") == 3
    assert not list(tmp_path.iterdir())


def test_labels_added_later_are_used_without_embedding_again(mapped, tmp_path, capsys):
    _, truth = make_scene(tmp_path, side=512)
    make_points(tmp_path / "points.gpkg", truth, 40)
    first = run_all(tmp_path, tmp_path / "points.gpkg", kind="prior")
    file = next((tmp_path / "runs" / "features").rglob("test.h5"))
    before = file.stat().st_mtime_ns
    make_points(tmp_path / "points.gpkg", truth, 80)
    second = run_all(tmp_path, tmp_path / "points.gpkg", kind="prior")
    assert "reused" in capsys.readouterr().out
    assert file.stat().st_mtime_ns == before
    assert second.folder != first.folder
    assert sum(second.record["rows"].values()) > sum(first.record["rows"].values())


def test_no_probe_is_judged_on_windows_like_those_it_was_trained_on(mapped):
    from probes.blocks import training_rows

    folder, _, run = mapped
    features = store.read_features(folder / "runs" / "features" / run.dataset / run.encoder / "test.h5")
    place = {name: features.footprint[row, 1:] for row, name in enumerate(features.ids)}
    test, blocks = run.predictions("test"), run.record["features"]["splits"]["test"]["blocks"]
    where, folds = np.array([place[name] for name in test.ids]), np.array(blocks["folds"])
    for fold in range(5):
        keep = training_rows(test.lonlat, folds, fold, blocks["buffer_km"])
        assert keep.any() and (folds == fold).any()
        apart = np.abs(where[keep][:, None] - where[folds == fold][None]).max(axis=2)
        assert apart.min() >= 32  # neither overlapping nor side by side on a diagonal
    assert run.record["interval_units"]["degrees"] == blocks["degrees"]
    assert run.predictions("test").train_km is None


def test_scores_of_a_block_do_not_depend_on_its_own_labels():
    """Nor on those within the buffer, nor does the choice of the candidate; the others do change them."""
    from probes.blocks import held_out_scores
    from probes.search import FitTask
    from probes.settings import Settings, candidates_of

    rng = np.random.default_rng(0)
    lonlat = np.column_stack([np.repeat(np.arange(5) * 0.1, 12), 50 + np.tile(np.arange(12) * 0.001, 5)])
    folds, labels = np.repeat(np.arange(5), 12), np.tile(np.arange(3), 20)
    features = (np.eye(3)[labels] + 0.5 * rng.standard_normal((60, 3))).astype(np.float32)
    settings = Settings(protocol="map", folds=5)

    def scores(labels):
        task = FitTask(
            kind="knn", candidates=candidates_of("knn", 40, settings)[::8], val=features, train=features, labels=labels,
            val_truth=np.eye(3, dtype=bool)[labels], seed=0, settings=settings, n_jobs=1, class_names=("a", "b", "c"),
        )  # fmt: skip
        return held_out_scores(task, folds, lonlat, 8.0)  # folds are 7.1 km apart: neighboring ones are left out

    before = scores(labels)
    assert (before.argmax(axis=1) == labels).mean() > 0.6
    for fold in (0, 2):
        changed = np.where(np.abs(folds - fold) <= 1, (labels + 1) % 3, labels)
        assert (scores(changed)[folds == fold] == before[folds == fold]).all()
    assert (scores((labels + 1) % 3) != before).any()


def test_suggestions_are_unlabelled_apart_reproducible_and_ready_to_be_filled_in(mapped, tmp_path):
    import geopandas

    folder, _, run = mapped
    for name in ("next.gpkg", "again.csv"):
        assert command.run(probe, ["suggest", str(run.folder), "--to", str(tmp_path / name), "--count", "8"]) == 0
    frame = geopandas.read_file(tmp_path / "next.gpkg")
    assert len(frame) == 8
    assert frame["class"].isna().all()
    again = geopandas.read_file(tmp_path / "again.csv")
    assert list(frame["window"]) == list(again["window"])
    features = store.read_features(folder / "runs" / "features" / run.dataset / run.encoder / "test.h5")
    place = dict(zip(features.ids, features.footprint[:, 1:].tolist(), strict=True))
    labelled = np.array([place[name] for split in ("val", "test") for name in run.predictions(split).ids])
    chosen = np.array([place[name] for name in frame["window"]])
    assert np.abs(chosen[:, None] - labelled[None]).max(axis=2).min() >= 32
    assert np.abs(chosen[:, None] - chosen[None]).max(axis=2)[~np.eye(8, dtype=bool)].min() >= 32


def test_choices_are_doubtful_and_unlike_what_is_known():
    from probes.suggest import choose

    features = np.array([[0.0], [0.1], [5.0], [5.1], [9.0]])
    scores = np.array([[0.5, 0.5], [0.5, 0.5], [0.6, 0.4], [0.55, 0.45], [1.0, 0.0]])
    footprint = np.array([[0, 0, k * 10] for k in range(5)])
    labelled = np.array([True, False, False, False, False])
    chosen = choose(features, scores, footprint, labelled, count=2, tile=10)
    assert chosen.tolist() == [3, 1]  # far and doubtful; then the doubtful near one before the sure or the like one


def test_wrong_requests_for_maps_are_one_clear_line(mapped, tmp_path, capsys):
    folder, _, run = mapped
    cases = [
        (["predict", run.folder, "--to", tmp_path / "map.xyz"], ".tif"),
        (["predict", run.folder, "--to", folder / "map.tif"], "--overwrite"),
        (["suggest", run.folder, "--to", tmp_path / "next.gpkg", "--count", "0"], "--count 0"),
        (["suggest", run.folder, "--to", tmp_path / "next.xyz"], ".gpkg"),
        (["--kind", "linear", "--protocol", "map", "--split-by", "cells", "--out", folder / "runs"], "--split-by"),
    ]
    for words, fact in cases:
        capsys.readouterr()
        assert command.run(probe, [str(word) for word in words]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and fact in error
    assert not list(tmp_path.iterdir())


def test_several_scenes_make_a_mosaic(tmp_path):
    truth = make_truth(256, seed=5)
    many = tmp_path / "many"
    pixels = make_pixels(truth)
    for number, name in enumerate(("west", "east")):
        part = pixels[:, :, number * 128 : number * 128 + 128]
        place = TRANSFORM @ TRANSFORM.translation(number * 128, 0)
        write_raster(many / f"{name}.tif", part, names=list(SIGNATURES), transform=place)
    make_points(tmp_path / "points.gpkg", truth, 50)
    run = run_all(tmp_path, tmp_path / "points.gpkg", tile=32, stride=32, kind="knn", root=many)
    assert predict(run, tmp_path / "map.tif") == 2
    assert not list(tmp_path.glob("map*"))
    assert predict(run, tmp_path / "map.vrt") == 0
    assert command.run(probe, ["verify", str(tmp_path / "map.vrt")]) == 0
    listed = {line.split("  ")[1] for line in (tmp_path / "map.vrt.sha256").read_text().splitlines()}
    rasters = {f"map/{name}{end}" for name in ("west", "east") for end in (".tif", "-probability.tif")}
    assert listed == {"map.vrt", "map-probability.vrt", *rasters}
    with rasterio.open(tmp_path / "map.vrt") as mosaic:
        classes = mosaic.read(1)
        assert mosaic.transform == TRANSFORM @ TRANSFORM.scale(32)
        assert classes.shape == (8, 8) and mosaic.crs.to_epsg() == 32632
        assert mosaic.colormap(1)[1] != mosaic.colormap(1)[2]
        for number, name in enumerate(("west", "east")):
            with rasterio.open(tmp_path / "map" / f"{name}.tif") as part:
                assert (part.read(1) == classes[:, number * 4 : number * 4 + 4]).all()
    with rasterio.open(tmp_path / "map-probability.vrt") as mosaic:
        assert mosaic.descriptions == tuple(run.class_names)
        assert np.allclose(mosaic.read().sum(axis=0), 1, atol=1e-5)
