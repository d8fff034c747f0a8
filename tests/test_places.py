"""Places on Earth, and all that is none."""

import struct

import numpy as np
import pytest
from made_tiffs import constant, open_folder, write_tif
from pixels import PixelDataset

from data import places
from data.dataset import SPLITS, EODataset


@pytest.fixture(autouse=True)
def nothing_said_yet(monkeypatch):
    monkeypatch.setattr(places, "_warned", set())


@pytest.mark.parametrize(
    ("crs", "corner"),
    [
        ("ESRI:103885", (0, 0, 10, 10)),  # Mars
        ('LOCAL_CS["Local Coordinates (m)",UNIT["metre",1]]', (0, 0, 10, 10)),
        ("EPSG:4326", (500_000, 5_000_000, 10, 10)),  # meters taken for degrees
        ("EPSG:32633", (1e30, 1e30, 10, 10)),
        ("EPSG:32633", (float("nan"), 5e6, 10, 10)),
    ],
)
def test_a_place_that_is_none_on_earth_is_no_location_with_one_warning(tmp_path, capfd, crs, corner):
    for split in SPLITS:
        for number in range(2):
            write_tif(tmp_path / split / "a" / f"{number}.tif", constant(7), names=["B02"], crs=crs, corner=corner)
    for split in SPLITS:
        assert open_folder(tmp_path, split).lonlat is None
    assert capfd.readouterr().err.count("\n") == 1


def test_an_unknown_projection_code_is_no_location(tmp_path, capfd):
    write_tif(tmp_path / "train" / "a" / "0.tif", constant(7), names=["B02"], crs="EPSG:3395")
    for code in (54009, 0, 32199):
        key = struct.pack("<4H", 3072, 0, 1, 3395)
        content = (tmp_path / "train" / "a" / "0.tif").read_bytes()
        assert key in content
        (tmp_path / "train" / "a" / "0.tif").write_bytes(content.replace(key, struct.pack("<4H", 3072, 0, 1, code)))
        dataset = open_folder(tmp_path)
        assert dataset.lonlat is None or np.abs(dataset.lonlat).max() <= 180
        (tmp_path / "train" / "a" / "0.tif").write_bytes(content)


def test_longitudes_are_wrapped_and_other_places_dropped(capfd):
    assert places.on_earth(np.array([[190.0, 1.0], [-200.0, 2.0], [180.0, -90.0]])).tolist() == [
        [-170.0, 1.0],
        [160.0, 2.0],
        [180.0, -90.0],
    ]
    for lonlat in ([[0.0, 90.1]], [[np.nan, 0.0]], [[0.0, 0.0], [np.inf, 0.0]]):
        assert places.on_earth(np.array(lonlat), where="x") is None
    assert capfd.readouterr().err.count("\n") == 1


def test_no_model_sees_a_place_that_is_none_on_earth():
    dataset = PixelDataset(rows=2)
    about = {"name": "x", "variant": None, "split": "train", "ids": ["a", "b"], "labels": np.zeros(2, np.int64)}
    for lat in (91.0, np.nan, np.inf):
        own = type("Own", (EODataset,), {"read": dataset.read})(
            **about, class_names=["a"], bands=dataset.bands, statistics={}, lonlat=np.array([[0.0, 0.0], [0.0, lat]])
        )
        assert own.lonlat is None
