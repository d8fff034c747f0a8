"""From a few labels to a map: featurize, probe, predict on small scenes with a known answer."""

import json

import numpy as np
import pytest
import rasterio
from made_scene import NAMES, TRANSFORM, make_points, make_scene

from data import command, paths, runs, store
from featurize.cli import app as featurize
from probes.cli import app as probe


def run_all(folder, *labels, tile=32, stride=16, kind="linear", root=None, model="stats"):
    """The first two commands; returns the run."""
    out = folder / "runs"
    where = ["--data-root", str(root or folder / "scene.tif"), "--tile", str(tile), "--stride", str(stride)]
    made = ["--model", model, "--dataset", "scene", *where, "--labels", *map(str, labels), "--out", str(out)]
    assert command.run(featurize, [*made, "--device", "cpu"]) == 0
    assert command.run(probe, ["--kind", kind, "--protocol", "map", "--out", str(out)]) == 0
    return max((runs.read_run(one) for one in paths.run_folders(out)), key=lambda run: run.record["created"])


def predict(run, to, *more):
    return command.run(probe, ["predict", str(run.folder), "--to", str(to), *more])


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    """A scene with its truth, 60 points and a run on them."""
    folder = tmp_path_factory.mktemp("mapped")
    _, truth = make_scene(folder, side=512)
    make_points(folder / "points.gpkg", truth, 60)
    run = run_all(folder, folder / "points.gpkg")
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


def test_labels_added_later_are_used_without_embedding_again(mapped, tmp_path, capsys):
    _, truth = make_scene(tmp_path, side=512)
    make_points(tmp_path / "points.gpkg", truth, 40)
    first = run_all(tmp_path, tmp_path / "points.gpkg")
    file = next((tmp_path / "runs" / "features").rglob("test.h5"))
    before = file.stat().st_mtime_ns
    make_points(tmp_path / "points.gpkg", truth, 80)
    second = run_all(tmp_path, tmp_path / "points.gpkg")
    assert "reused" in capsys.readouterr().out
    assert file.stat().st_mtime_ns == before
    assert second.folder != first.folder
    assert sum(second.record["rows"].values()) > sum(first.record["rows"].values())


def test_train_and_test_windows_do_not_touch(mapped):
    folder, _, run = mapped
    features = store.read_features(folder / "runs" / "features" / run.dataset / run.encoder / "test.h5")
    place = {name: features.footprint[row, 1:] for row, name in enumerate(features.ids)}
    val, test = ([place[name] for name in run.predictions(split).ids] for split in ("val", "test"))
    apart = np.abs(np.array(val)[:, None] - np.array(test)[None]).max(axis=2)
    assert apart.min() >= 32
