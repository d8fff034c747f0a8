"""BigEarthNet v2 in an LMDB database, as rico-hdl encodes it, equals the folders that it was encoded from."""

import pickle
import shutil
from functools import partial

import lmdb
import numpy as np
import pytest
import rasterio
from safetensors.numpy import save
from test_bigearthnet import made_v2  # noqa: F401

from data.errors import RequestError
from data.flags import SPLITS, DataFlags, DatasetRequest
from data.sources import bigearthnet
from data.workers import in_order


def encode(folders, target, *, leave_out=(), damaged=()):
    """One entry per patch of either sensor: its name, and its bands by name."""
    target.mkdir(parents=True)
    with lmdb.open(str(target), map_size=2**26) as database, database.begin(write=True) as transaction:
        for patch in sorted(
            path for sensor in ("S1", "S2") for path in (folders / f"BigEarthNet-{sensor}").glob("*/*")
        ):
            bands = {}
            for file in patch.glob("*.tif"):
                with rasterio.open(file) as image:
                    bands[file.stem.rpartition("_")[2]] = image.read(1)
            if patch.name not in leave_out:
                value = b"12345678 damaged" if patch.name in damaged else save(bands)
                transaction.put(patch.name.encode(), value)


@pytest.fixture
def encoded(made_v2, tmp_path):  # noqa: F811
    encode(made_v2, tmp_path / "root" / "Encoded-BigEarthNet")
    shutil.copy(made_v2 / "metadata.parquet", tmp_path / "root")
    return tmp_path / "root"


def opened(root, *, bands=(), splits=SPLITS, **flags):
    return bigearthnet.open_dataset(DatasetRequest(root, splits, bands, DataFlags(**flags)))


def test_database_equals_the_folders(encoded, made_v2):  # noqa: F811
    ours, theirs = opened(encoded), opened(made_v2)
    for split in SPLITS:
        one, other = pickle.loads(pickle.dumps(ours[split])), theirs[split]
        assert (one.ids, one.class_names, one.bands) == (other.ids, other.class_names, other.bands)
        np.testing.assert_array_equal(one.labels, other.labels)
        np.testing.assert_allclose(one.lonlat, other.lonlat)
        for row in range(len(one)):
            for mine, same in zip(one.read(row, one.bands), other.read(row, other.bands), strict=True):
                assert mine.dtype == same.dtype
                np.testing.assert_array_equal(mine, same)


def test_bands_of_one_sensor_are_enough(encoded):
    dataset = opened(encoded, bands=("s2-12",))["train"]
    assert {band.sensor for band in dataset.bands} == {"S2"}
    assert opened(encoded, bands=("s2-12",), drop_snow_cloud=True)["train"].ids == dataset.ids[:1]


def test_missing_patches_are_counted_or_left_out(made_v2, tmp_path):  # noqa: F811
    first = opened(made_v2, splits=("train",))["train"].ids[0]
    encode(made_v2, tmp_path / "root", leave_out=[first])
    shutil.copy(made_v2 / "metadata.parquet", tmp_path / "root")
    with pytest.raises(RequestError, match=f"1 of 3 .*{first}"):
        opened(tmp_path / "root")
    kept = opened(tmp_path / "root", allow_missing=True)["train"]
    assert first not in kept.ids and len(kept) == 2


def test_damaged_values_name_the_patch(made_v2, tmp_path):  # noqa: F811
    name = opened(made_v2, splits=("val",))["val"].ids[0]
    encode(made_v2, tmp_path / "root", damaged=[name])
    shutil.copy(made_v2 / "metadata.parquet", tmp_path / "root")
    dataset = opened(tmp_path / "root")["val"]
    with pytest.raises(RequestError, match=name):
        dataset.read(0, [band for band in dataset.bands if band.name == "B02"])


def test_reader_processes_open_it_for_themselves(encoded):
    dataset = opened(encoded)["train"]
    here = [dataset.read(row, dataset.bands)[0] for row in range(3)]
    there = list(in_order(partial(dataset.read, bands=dataset.bands), [0, 1, 2], workers=2))
    for one, other in zip(here, there, strict=True):
        np.testing.assert_array_equal(one, other[0])


def test_a_damaged_database_is_one_line(encoded):
    file = encoded / "Encoded-BigEarthNet" / "data.mdb"
    file.write_bytes(b"\0" * 8192)
    with pytest.raises(RequestError, match=r"data\.mdb"):
        opened(encoded)
