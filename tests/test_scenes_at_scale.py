"""Many scenes by several processes: each opens every raster once, and together they make the same bytes."""

import threading

import h5py
import pytest
import rasterio
from made_scene import SIGNATURES, TRANSFORM, make_pixels, make_truth, write_raster
from opening import open_split

from data.flags import DataFlags
from data.sources import scene
from data.store import PartWriter
from featurize.engines import local
from featurize.flags import ModelFlags, RunFlags
from featurize.job import Job
from featurize.pipeline import embed_parts
from featurize.reading import _read

PART = 8  # windows; a scene has 16


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A folder of five scenes, each a folder of four bands."""
    folder = tmp_path_factory.mktemp("many")
    for number in range(5):
        place = TRANSFORM @ TRANSFORM.translation(256 * number, 0)
        for band, name in enumerate(SIGNATURES):
            pixels = make_pixels(make_truth(seed=number), seed=number)[[band]]
            write_raster(folder / f"s{number}" / f"{name}.tif", pixels, transform=place)
    return folder


def test_a_process_opens_every_raster_once_while_it_takes_its_parts(many, tmp_path, monkeypatch):
    windows = open_split(scene, "test", many, tile=64, cache_dir=tmp_path)
    monkeypatch.setattr("data.scene.raster.FILES_OPEN", 4)  # one scene's: going back to another would open it again
    opened = []
    wrapped = rasterio.open
    monkeypatch.setattr("rasterio.open", lambda path: opened.append(path) or wrapped(path))
    parts = range(len(windows) // PART)
    for rank in range(2):
        opened.clear()
        work = [(part * PART, part * PART + PART) for part in parts[rank::2]]
        thread = threading.Thread(target=lambda: [_read(windows, windows.bands, rows) for rows in work])  # noqa: B023 - joined below
        thread.start()
        thread.join()
        assert len(opened) == len(set(opened)) == 5 * 4


def test_an_interrupted_run_of_two_processes_ends_as_a_run_of_one(many, tmp_path, capsys):
    def job(out):
        data = DataFlags(dataset="scene", data_root=many, tile=64, cache_dir=tmp_path)
        run = RunFlags(device="cpu", workers=0, part_rows=PART)
        return Job(model=ModelFlags(model="stats"), data=data, run=run, out=tmp_path / out)

    def second_of_two(task, writer, parts, meter):
        other = PartWriter(writer.file, **task.shape, part_rows=writer.part_rows, writer="rank-1")
        embed_parts(task, other, parts[1::2], meter)
        raise KeyboardInterrupt

    alone, both = job("alone"), job("both")
    local.run(alone)
    with pytest.raises(KeyboardInterrupt):
        local.make_files(both, local.prepare(both), second_of_two)
    assert not list(tmp_path.glob("both/**/test.h5"))
    local.run(both)
    assert "resuming: 40 of 80" in capsys.readouterr().out
    files = [next((tmp_path / out).rglob("test.h5")) for out in ("alone", "both")]
    with h5py.File(files[0]) as one, h5py.File(files[1]) as other:
        for name in ("features", "ids", "footprint", "lonlat"):
            assert one[name][:].tobytes() == other[name][:].tobytes()
