"""Splits made anew by location: ratios, cells that stay whole, buffers, and what a run records of them."""

import numpy as np
import pytest
from helpers import make_split
from made_runs import EUROSAT, made_up, make_run

from analysis.contract import ViewRequest, run_view
from analysis.views import audit, distance
from data import command
from data.errors import RequestError
from data.runs import find_runs
from probes import inputs, spatial
from probes.cli import app
from probes.resplit import WAYS, draw, resplit

ROWS = {"train": 120, "val": 40, "test": 40}


@pytest.fixture
def folder(tmp_path):
    """Samples scattered over 5 degrees, in random splits."""
    rng = np.random.default_rng(0)
    for split, rows in ROWS.items():
        labels = rng.integers(0, 2, rows)
        features = (rng.standard_normal((rows, 3)) + labels[:, None]).astype(np.float32)
        lonlat = np.stack([rng.uniform(5, 10, rows), rng.uniform(45, 50, rows)], axis=1)
        make_split(tmp_path / f"{split}.h5", labels, features, ["a", "b"], lonlat=lonlat)
    return tmp_path


@pytest.mark.parametrize("by", WAYS)
def test_all_samples_are_drawn_anew_in_the_ratio_of_the_original_splits(by, folder):
    splits = inputs.read_splits(folder)
    found = resplit(splits, by, seed=1)
    assert sorted(name for one in found.values() for name in one.ids) == sorted(
        name for one in splits.values() for name in one.ids
    )
    for split, rows in ROWS.items():
        assert abs(len(found[split].ids) - rows) <= (12 if by == "region" else 3)
    # rows move as a whole: features, labels and places go with their id
    whole = {name: (one, row) for one in splits.values() for row, name in enumerate(one.ids)}
    for one in found.values():
        for row, name in enumerate(one.ids):
            source, there = whole[name]
            np.testing.assert_array_equal(one.features[row], source.features[there : there + 1][0])
            assert one.labels[row] == source.labels[there] and (one.lonlat[row] == source.lonlat[there]).all()
    again = resplit(splits, by, seed=1)
    assert all(again[split].ids == found[split].ids for split in ROWS)
    if by != "longitude":
        assert resplit(splits, by, seed=2)["test"].ids != found["test"].ids


def test_cells_stay_whole_and_longitude_goes_from_west_to_east():
    rng = np.random.default_rng(0)
    lonlat = np.stack([rng.uniform(0, 2, 500), rng.uniform(0, 2, 500)], axis=1)
    shares = np.array([0.6, 0.2, 0.2])
    drawn, cells = draw(lonlat, shares, "cells", 0), spatial.cells(lonlat)
    assert all(len(set(drawn[cells == cell])) == 1 for cell in np.unique(cells))
    drawn = draw(lonlat, shares, "longitude", 0)
    west = [lonlat[drawn == number, 0] for number in range(3)]
    assert west[0].max() <= west[1].min() and west[1].max() <= west[2].min()
    assert [len(one) for one in west] == [300, 100, 100]


@pytest.mark.parametrize("by", WAYS)
def test_no_sample_lies_within_the_buffer_of_a_later_split(by, folder):
    found = resplit(inputs.read_splits(folder), by, buffer_km=40)
    places = {split: one.lonlat for split, one in found.items()}
    assert spatial.nearest_km(places["train"], np.vstack([places["val"], places["test"]])).min() >= 40
    assert spatial.nearest_km(places["val"], places["test"]).min() >= 40
    kept = sum(len(one.ids) for one in found.values())
    how = found["train"].identity["split"]["resplit"]
    assert how == {"by": by, "buffer_km": 40.0, "seed": 0, "dropped": 200 - kept} and kept < 200


def test_kilometres_by_hand():
    # a degree of a great circle: 2 pi 6371.0088 / 360 = 111.195 km; from pole to equator 90 of them
    one, other = np.array([[0.0, 0.0], [0.0, 90.0]]), np.array([[1.0, 0.0], [200.0, 0.0]])
    np.testing.assert_allclose(spatial.nearest_km(one, other), [111.195, 90 * 111.195], rtol=1e-5)


def test_the_command_records_the_split_and_gives_the_run_a_folder_of_its_own(folder, tmp_path, capsys):
    out = tmp_path / "out"
    flags = ["--kind", "prior", "--features", str(folder), "--out", str(out)]
    for more in ([], ["--split-by", "cells"], ["--split-by", "cells", "--buffer-km", "10"]):
        assert command.run(app, [*flags, *more]) == 0
    runs = find_runs(out)
    assert len({run.folder for run in runs}) == 3
    how = [run.record["features"]["splits"]["test"].get("resplit") for run in runs]
    assert sorted((one or {}).get("buffer_km", -1) for one in how) == [-1, 0, 10]
    for run in runs:
        given = run.predictions("test")
        assert len(given.train_km) == len(given.ids)
        if (run.record["features"]["splits"]["test"].get("resplit") or {}).get("buffer_km"):
            assert given.train_km.min() >= 10
    capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--split-by", "country"], "unknown way to split 'country'"),
        (["--buffer-km", "5"], "--buffer-km 5: only with --split-by"),
        (["--split-by", "cells", "--buffer-km", "-1"], "--buffer-km -1: must be 0 or more"),
        (["--split-by", "cells", "--buffer-km", "9999"], "no sample is left for train and val"),
        (["--split-by", "cells", "--augment", "2"], "--split-by and --augment"),
    ],
)
def test_a_wrong_request_is_one_line(words, message, folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert command.run(app, ["--kind", "prior", "--features", str(folder), "--out", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error and not out.exists()


def test_predicting_an_original_split_says_that_its_samples_may_be_trained_on(folder, tmp_path, capsys):
    out = tmp_path / "out"
    assert (
        command.run(app, ["--kind", "prior", "--features", str(folder), "--out", str(out), "--split-by", "cells"]) == 0
    )
    (run,) = find_runs(out)
    words = ["predict", str(run.folder), str(folder / "test.h5"), "--to", str(tmp_path / "a.csv")]
    assert command.run(app, words) == 0
    assert "--split-by cells" in capsys.readouterr().err


def test_features_without_locations_cannot_be_split_by_them(tmp_path):
    for split in ROWS:
        make_split(tmp_path / f"{split}.h5", np.arange(20) % 2, np.eye(20, 3, dtype=np.float32), ["a", "b"])
    with pytest.raises(RequestError, match=r"--split-by cells: .*train\.h5"):
        resplit(inputs.read_splits(tmp_path), "cells")


# ---------------------------------------------------------------------------------------------- how far from train


def test_the_audit_tells_how_far_val_and_test_lie_from_train():
    def material(name, places):
        rows = len(places)
        return audit.Material(name, [f"{name}{n}" for n in range(rows)], np.zeros(rows, int), ("a",), np.array(places))

    splits = [material("train", [[0.0, 0.0]]), material("test", [[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])]
    frame = audit.distances(splits)
    assert frame["split"].tolist() == ["test"] and frame["samples"].tolist() == [3]
    np.testing.assert_allclose(frame[["km_0", "km_50", "km_100"]].to_numpy()[0], [0, 111.195, 222.390], rtol=1e-5)
    assert audit.readable_distances(frame)[1][0][:3] == ["test", "3", "0.00"]


def test_the_score_of_each_group_of_distances_is_that_of_its_samples(tmp_path):
    labels, _ = made_up(EUROSAT[:2], multilabel=False, rows=200)
    km = np.arange(200, dtype=np.float32)
    wrong = (km >= 100) & (np.arange(200) % 4 == 0)  # near: all right; far: a quarter wrong
    scores = np.eye(2, dtype=np.float32)[np.where(wrong, 1 - labels, labels)]
    make_run(tmp_path, labels, scores, EUROSAT[:2], train_km=km)
    frame = distance.compute(find_runs(tmp_path), ("half",), out=tmp_path, bins=4)
    assert frame["samples"].tolist() == [50] * 4 and frame["from_km"].tolist() == [0, 50, 100, 150]
    assert frame["value"].tolist() == pytest.approx([1, 1, 37 / 50, 38 / 50])  # 100, 104 ... 148; 152 ... 196
    assert frame["low"].notna().all()
    output = run_view("distance", ViewRequest(out=tmp_path), bins=4)[0]
    assert len(output.tables[0][1]) == 4


def test_runs_that_do_not_know_their_places_are_refused(tmp_path):
    labels, scores = made_up(EUROSAT[:2], multilabel=False, rows=50)
    make_run(tmp_path, labels, scores, EUROSAT[:2])
    with pytest.raises(RequestError, match="georeferenced"):
        run_view("distance", ViewRequest(out=tmp_path))
