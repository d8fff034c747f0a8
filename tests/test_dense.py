"""Maps at patch resolution: patch tokens kept in a row, read as samples of their own."""

import numpy as np
import pytest
import rasterio
from made_scene import TRANSFORM, make_points, make_scene

from data import command, paths, runs, store
from data.scene.patches import PatchRows, by_patch, sample_grids
from featurize.cli import app as featurize
from probes.cli import app as probe

MODEL = ["--model", "galileo", "--weights", "random", "--bands", "B02,B03,B04,B08", "--device", "cpu"]


def made(folder, *more, code=0, model=MODEL):
    words = [*model, "--dataset", "scene", "--data-root", str(folder / "scene.tif"), "--tile", "32"]
    assert command.run(featurize, [*words, "--out", str(folder / "runs"), *more]) == code
    files = sorted((folder / "runs" / "features").rglob("test.h5"), key=lambda file: file.stat().st_mtime_ns)
    return store.read_features(files[-1]) if code == 0 else None


def test_patches_are_rows_of_their_own_and_average_to_the_windows_embedding(tmp_path):
    _, truth = make_scene(tmp_path, side=128)
    make_points(tmp_path / "points.gpkg", truth, 40)
    pooled = made(tmp_path)
    dense = made(tmp_path, "--dense", "--labels", str(tmp_path / "points.gpkg"))
    assert dense.features.shape == (16, 4 * 4 * 128)
    each = dense.features.reshape(16, 16, 128)
    assert np.allclose(each.mean(axis=1), pooled.features, atol=1e-4)
    patches = by_patch(dense)
    assert patches.footprint[4 * 4 + 6].tolist() == [0, 8, 32 + 16]  # of the second window, second row, third column
    assert (patches.features[20:40] == each.reshape(-1, 128)[20:40]).all()
    assert sample_grids(dense)[0].tile == 8
    folder = str(dense.file.parent)
    words = ["--kind", "knn", "--protocol", "map", "--features", folder, "--out", str(tmp_path / "runs")]
    assert command.run(probe, [*words, "--buffer-km", "0.1"]) == 0
    (run,) = [runs.read_run(one) for one in paths.run_folders(tmp_path / "runs")]
    assert command.run(probe, ["predict", str(run.folder), "--to", str(tmp_path / "map.tif")]) == 0
    with rasterio.open(tmp_path / "map.tif") as source:
        assert source.shape == (16, 16) and source.transform == TRANSFORM @ TRANSFORM.scale(8)


def test_rows_of_patches_are_cut_from_rows_of_windows():
    windows = np.arange(5 * 12, dtype=np.float32).reshape(5, 12)
    rows = PatchRows(windows, 2)
    assert (len(rows), rows.shape) == (20, (20, 3))
    for start in range(20):
        for stop in range(start, 21):
            assert (rows[start:stop] == windows.reshape(20, 3)[start:stop]).all()


@pytest.mark.parametrize(("model", "fact"), [(["--model", "stats"], "stats"), (MODEL, "--dataset scene")])
def test_dense_without_patches_or_a_scene_is_one_line(tmp_path, capsys, model, fact):
    if model is MODEL:
        words = [*MODEL[:4], "--bands", "s2-10", "--dataset", "simulated", "--limit", "8", "--dense"]
        assert command.run(featurize, [*words, "--out", str(tmp_path)]) == 2
    else:
        make_scene(tmp_path, side=64)
        made(tmp_path, "--dense", code=2, model=model)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and fact in error
