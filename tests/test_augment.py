"""Altered views of training images: their pixels by hand, and features of them that no way of running changes."""

import h5py
import numpy as np
import pytest
import torch
from pixels import PixelDataset

from data import command, paths, store
from data.bands import RGB, SENTINEL1, SENTINEL2
from data.errors import RequestError
from featurize import augment
from featurize.augment import View, alter, recolour, turn
from featurize.cli import app
from featurize.encoder import EncoderRequest, build_encoder
from featurize.pipeline import featurize_split
from featurize.runtime import Runtime
from featurize.task import Task

COLOURS = list(RGB.values())


class Factors:
    """Stands in for a random generator: gives these brightness, contrast and saturation factors."""

    def __init__(self, *factors):
        self.factors = factors

    def uniform(self, low, high, size):
        assert (low, high, size) == (0.8, 1.2, 3)
        return self.factors


def stats(dataset, bands="rgb"):
    return build_encoder("stats", dataset, bands, EncoderRequest((), dataset.statistics, lambda: dataset))


def run(dataset, file, *, batch_size=4, part_rows=8, workers=0, bands="rgb"):
    plan = Runtime(torch.device("cpu"), "fp32", batch_size, workers, part_rows)
    return featurize_split(Task(dataset=dataset, encoder=stats(dataset, bands), runtime=plan), file).file


def test_the_eight_symmetries_of_an_image_by_hand():
    image = np.array([[1, 2, 3], [4, 5, 6]], np.uint16)
    wanted = [
        [[1, 2, 3], [4, 5, 6]],  # as it is
        [[3, 6], [2, 5], [1, 4]],  # a quarter turn counterclockwise: the right column becomes the top row
        [[6, 5, 4], [3, 2, 1]],
        [[4, 1], [5, 2], [6, 3]],
        [[3, 2, 1], [6, 5, 4]],  # left and right swapped
        [[1, 4], [2, 5], [3, 6]],  # ... and a quarter turn: the transpose
        [[4, 5, 6], [1, 2, 3]],
        [[6, 3], [5, 2], [4, 1]],
    ]
    got = [turn(image, symmetry) for symmetry in range(8)]
    assert [view.tolist() for view in got] == wanted
    assert all(view.dtype == np.uint16 and view.flags.c_contiguous for view in got)


def test_all_bands_of_a_view_are_turned_alike_at_their_own_resolutions():
    """A corner marked in a 4 x 4 band and in a 2 x 2 band of the same ground stays one corner."""
    fine, coarse = np.zeros((4, 4), np.float32), np.zeros((2, 2), np.float32)
    fine[0, 3], coarse[0, 1] = 1, 1
    bands = [SENTINEL1["VV"], SENTINEL1["VH"]]  # no color
    corners = set()
    for view in range(1, 8):
        big, small = alter([fine, coarse], bands, "patch", view)
        at = tuple(np.argwhere(big == 1)[0] // 3)
        assert at == tuple(np.argwhere(small == 1)[0])
        corners.add(at)
    assert len(corners) == 4


def test_the_first_seven_views_are_the_seven_other_symmetries():
    image = np.arange(9, dtype=np.float32).reshape(3, 3)
    band = [SENTINEL1["VV"]]
    views = [alter([image], band, "patch", view)[0].tobytes() for view in range(9)]
    assert len(set(views[:8])) == 8 and views[0] == views[8] == image.tobytes()
    orders = {tuple(alter([image], band, f"patch {i}", view)[0].tobytes() for view in (1, 2, 3)) for i in range(20)}
    assert len(orders) > 10  # each image has its own order


def test_colours_by_hand():
    """A pixel (100, 50, 200) beside a gray one (60, 60, 60)."""
    pixels = [np.array([[value, 60]], np.uint8) for value in (100, 50, 200)]
    only_bright = recolour(pixels, COLOURS, Factors(1.1, 1.0, 1.0))
    assert [band.tolist() for band in only_bright] == [[[110, 66]], [[55, 66]], [[220, 66]]]
    # 0.299 * 110 + 0.587 * 55 + 0.114 * 220 = 90.255; red 90.255 + 0.8 * (110 - 90.255) = 106.051
    pale = recolour(pixels, COLOURS, Factors(1.1, 1.0, 0.8))
    assert [band.tolist() for band in pale] == [[[106, 66]], [[62, 66]], [[194, 66]]]
    # mean luma (90.255 + 66) / 2 = 78.1275; red 78.1275 + 1.2 * (110 - 78.1275) = 116.3745
    hard = recolour(pixels, COLOURS, Factors(1.1, 1.2, 1.0))
    assert [band.tolist() for band in hard] == [[[116, 64]], [[50, 64]], [[248, 64]]]
    bright = recolour([np.full((1, 1), 250, np.uint8)] * 3, COLOURS, Factors(1.2, 1.0, 1.0))
    assert bright[0].tolist() == [[255]] and bright[0].dtype == np.uint8  # clipped, not wrapped around


def test_colour_touches_each_sensor_as_documented():
    bands = [SENTINEL2["B04"], SENTINEL2["B11"], SENTINEL1["VV"], RGB["red"]]
    pixels = [
        np.array([[v]], t) for v, t in ((1000, np.uint16), (65000, np.uint16), (-12.5, np.float32), (100, np.uint8))
    ]
    red, infrared, radar, lone = recolour(pixels, bands, Factors(1.1, 0.8, 0.8))
    assert red.tolist() == [[1100]] and red.dtype == np.uint16  # brightness only: ratios of bands stay
    assert infrared.tolist() == [[65535]]
    assert radar.tolist() == [[-12.5]] and radar.dtype == np.float32
    assert lone.tolist() == [[110]]  # without green and blue there is no luma


def test_a_view_follows_from_the_id_and_its_number_alone():
    one, other = PixelDataset(rows=6), PixelDataset(rows=20)
    bands = one.bands[-3:]
    for index in range(6):
        for view in (1, 2):
            got = (View(source, view).read(index, bands) for source in (one, other))
            assert all(np.array_equal(a, b) for a, b in zip(*got, strict=True))
    first, second = (View(one, view).read(0, bands) for view in (1, 2))
    assert not np.array_equal(first[0], second[0])


@pytest.mark.parametrize("changes", [{"batch_size": 3}, {"workers": 1}, {"part_rows": 100}])
def test_how_it_runs_does_not_change_the_features_of_a_view(tmp_path, changes):
    view = View(PixelDataset(rows=13), 2)
    one = store.read_features(run(view, tmp_path / "one.h5"))
    other = store.read_features(run(view, tmp_path / "other.h5", **changes))
    np.testing.assert_allclose(one.features, other.features, rtol=1e-6)


def test_a_resumed_view_is_that_of_an_uninterrupted_run(tmp_path):
    whole = run(View(PixelDataset(rows=21), 3), tmp_path / "whole" / "train-3.h5")
    with pytest.raises(RequestError, match="train-20 is truncated"):
        run(View(PixelDataset(rows=21, broken=[20]), 3), tmp_path / "cut" / "train-3.h5")
    cut = run(View(PixelDataset(rows=21), 3), tmp_path / "cut" / "train-3.h5")
    with h5py.File(whole) as one, h5py.File(cut) as other:
        assert one.attrs["identity"] == other.attrs["identity"]
        for name in ("features", "labels", "ids"):
            assert one[name][:].tobytes() == other[name][:].tobytes()


def test_parts_of_one_view_are_never_joined_with_those_of_another(tmp_path, monkeypatch):
    with pytest.raises(RequestError, match="truncated"):
        run(View(PixelDataset(rows=21, broken=[20]), 1), tmp_path / "train.h5")
    with pytest.raises(RequestError, match=" identity.split.altered.view"):
        run(View(PixelDataset(rows=21), 2), tmp_path / "train.h5")
    monkeypatch.setattr(augment, "STRENGTH", 0.5)
    with pytest.raises(RequestError, match=" identity.split.altered.colour"):
        run(View(PixelDataset(rows=21), 1), tmp_path / "train.h5")


def test_the_command_keeps_views_of_train_only_each_a_feature_file_of_its_own(tmp_path, capsys):
    words = ["--model", "stats", "--bands", "rgb", "--limit", "9", "--out", str(tmp_path)]
    assert command.run(app, words) == 0
    (folder,) = paths.feature_folders(tmp_path)
    plain = (folder / "train.h5").read_bytes()
    assert command.run(app, [*words, "--augment", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("reused ") == 3  # the same feature set, with two more files
    assert sorted(f.name for f in (folder / "views").iterdir()) == ["train-1.h5", "train-2.h5"]
    assert (folder / "train.h5").read_bytes() == plain and paths.feature_folders(tmp_path) == [folder]
    sets = [store.read_features(f) for f in (folder / "train.h5", *(folder / "views").iterdir())]
    assert len({s.features.tobytes() for s in sets}) == 3
    for view in sets[1:]:
        assert view.ids == sets[0].ids and (view.labels == sets[0].labels).all()
        assert view.identity["split"]["altered"]["view"] == int(view.file.stem[-1])
        altered = store.differing_fields(view.identity, sets[0].identity)
        assert altered == ["split.altered"]
    assert command.run(app, ["verify", "--out", str(tmp_path)]) == 0
    assert "5 of 5 files" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--augment", "0"], "--augment 0: must be at least 1"),
        (["--augment", "2", "--split", "test"], "--augment 2 --split test: only train"),
    ],
)
def test_a_wrong_number_of_views_is_one_line(words, told, tmp_path, capsys):
    assert command.run(app, ["--model", "stats", "--out", str(tmp_path), *words]) == 2
    assert told in capsys.readouterr().err and not list(tmp_path.iterdir())
