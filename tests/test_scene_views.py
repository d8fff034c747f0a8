"""Views of scenes: similar samples, and the map in pictures and in the report."""

import numpy as np
import pytest
from helpers import make_features
from made_scene import make_points, make_scene
from test_maps import run_all

from analysis.cli import app as analyze
from analysis.contract import ViewRequest, run_view
from analysis.ranking import rankings
from analysis.views import map as map_view
from analysis.views import similar
from data import command, store
from data.errors import RequestError
from probes import compare, pooling
from probes.maps import features_of, scene_maps


def test_the_nearest_by_cosine_toward_the_positive_and_away_from_the_negative():
    directions = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0], [0, -1]], np.float32)
    found = similar.similarities(directions, np.array([0]), np.array([], np.int64))
    assert found.argsort()[::-1][:2].tolist() == [0, 1]
    centred = directions - directions.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    assert np.allclose(found, unit @ unit[0], atol=1e-6)
    away = similar.similarities(directions, np.array([0]), np.array([2]))
    assert np.allclose(away, unit @ unit[0] - unit @ unit[2], atol=1e-6)


def test_samples_of_any_feature_set_by_id_without_their_images(tmp_path):
    folder = make_features(tmp_path, multilabel=False)
    features = store.read_features(folder / "test.h5")
    (output,) = run_view("similar", ViewRequest(out=tmp_path), like=features.ids[3], count=5)
    assert output.file("png").stat().st_size > 5000
    assert len(output.tables[0].rows) == 5
    assert features.ids[3] not in {row[1] for row in output.tables[0].rows}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("views")
    _, truth = make_scene(folder, side=256)
    make_points(folder / "points.gpkg", truth, 30)
    return folder, run_all(folder, folder / "points.gpkg", stride=32, kind="knn")


def test_places_name_the_window_around_them(mapped):
    folder, run = mapped
    features = features_of(run)
    lon, lat = features.lonlat[9] + 1e-4
    assert similar.find(features, f"{lon},{lat}", "--like").tolist() == [9]
    (output,) = run_view("similar", ViewRequest(out=folder / "runs"), like=f"{lon},{lat}", count=4)
    assert output.file("png").stat().st_size > 10_000  # with pictures


def test_when_every_sample_is_an_example_it_says_so(tmp_path):
    ids = store.read_features(make_features(tmp_path, multilabel=False) / "test.h5").ids
    with pytest.raises(RequestError, match="--like"):
        run_view("similar", ViewRequest(out=tmp_path), like=";".join(ids))


def test_rankings_and_pools_use_the_blocks_of_the_map_as_its_intervals_do(mapped):
    _, run = mapped
    recorded = run.record["interval_units"]
    frame, _, _ = rankings([run], ("half",))
    units = pooling.test_of([run], "half")[1]
    assert (units.count, units.degrees) == (recorded["count"], recorded["degrees"])
    assert f"{recorded['count']} spatial cells" in frame["by"].iloc[0]
    assert compare.compare(run, run)["units"] == recorded["count"]


@pytest.mark.parametrize(
    ("like", "fact"), [("", "--like"), ("r99999_c00000", "r99999_c00000"), ("0,0", "km"), ("50", "50")]
)
def test_wrong_examples_are_one_line(mapped, capsys, like, fact):
    folder, _ = mapped
    assert command.run(analyze, ["similar", "--out", str(folder / "runs"), "--like", like]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and fact in error


def test_areas_of_the_map_are_those_of_its_cells(mapped):
    _, run = mapped
    (one,) = scene_maps(run, features_of(run))
    frame = map_view.compute(run, one)
    assert frame["cells"].sum() == 8 * 8
    assert frame["km2"].sum() == pytest.approx(2.56**2)
    assert frame["share"].sum() == pytest.approx(1)
    for row in frame.to_dict("records"):
        here = one.classes == run.class_names.index(row["class"]) + 1
        assert here.sum() == row["cells"]
        assert row["probability"] == pytest.approx(one.probability.max(axis=0)[here].mean(), rel=1e-5)


def test_the_report_shows_the_map(mapped):
    folder, _ = mapped
    assert command.run(analyze, ["report", "--out", str(folder / "runs"), "--pictures", "0"]) == 0
    page = (folder / "runs" / "report" / "index.html").read_text()
    assert "map__scene-scene" in page
    assert "no train" not in page and "--protocol map" in page, "a scene has one split, and probes by the map protocol"
    assert page.index("<h2") >= 0
