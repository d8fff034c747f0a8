"""BigEarthNet v1 and v2: bands, labels, splits, places and pixels against torchgeo and rasterio; what goes wrong."""

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.warp
from opening import open_split
from rasterio.crs import CRS
from rasterio.transform import from_origin

from data.bands import BAND_SETS, SENTINEL2, choose_bands
from data.dataset import SPLITS
from data.errors import RequestError
from data.flags import DataFlags, DatasetRequest
from data.nomenclature import CLASSES_19, CLASSES_43
from data.sources import _bigearthnet_patches, bigearthnet
from data.sources._bigearthnet_patches import locations, read_metadata, to_19
from data.tiles import tile_corner

PROJECT = Path(__file__).parent.parent
SCENE, S1_SCENE = "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP", "S1A_IW_GRDH_1SDV_20170613T165043"
CORNER = 300_000, 5_400_000  # of tile 33UUP, in UTM zone 33 north
NUMBERS = {band.name: number for number, band in enumerate(_bigearthnet_patches.BANDS)}


def write_band(folder, name, band, value, *, place=(0, 0), side=None, dtype=None, **creation):
    """A band of one value at the size it has in BigEarthNet, in the given column and row of its tile."""
    folder.mkdir(parents=True, exist_ok=True)
    side = side or bigearthnet.SIDES[band.gsd_m]
    corner = CORNER[0] + 1200 * place[0], CORNER[1] - 1200 * place[1]
    about = {"driver": "GTiff", "width": side, "height": side, "count": 1, "crs": CRS.from_epsg(32633)}
    about |= {
        "dtype": dtype or bigearthnet.TYPES[band.sensor],
        "transform": from_origin(*corner, 1200 / side, 1200 / side),
    }
    with rasterio.open(folder / f"{name}_{band.name}.tif", "w", **about, **creation) as target:
        target.write(np.full((1, side, side), value, about["dtype"]))


def write_patch(root, folders, names, number):
    """Sentinel-2 and Sentinel-1 patch `number`, in column `number` of row 0: band b has the value 100 number + b."""
    for sensor, name in names.items():
        for band in _bigearthnet_patches.BANDS:
            if band.sensor == sensor:
                value = 100 * number + NUMBERS[band.name] + (0.25 if sensor == "S1" else 0)
                write_band(root / folders[sensor] / name, Path(name).name, band, value, place=(number, 0))


def patch_rows(count=6):
    """Rows of v2's metadata: patch n has the classes n and n + 1, and every third is of val, every fifth of test."""
    rows = []
    for n in range(count):
        split = "test" if n % 5 == 4 else "validation" if n % 3 == 2 else "train"
        rows.append(
            {
                "patch_id": f"{SCENE}_{n}_0",
                "labels": list(CLASSES_19[n : n + 2]),
                "split": split,
                "s1_name": f"{S1_SCENE}_33UUP_{n}_0",
                "contains_seasonal_snow": n == 1,
                "contains_cloud_or_shadow": n == 3,
            }
        )
    return rows


def write_metadata(root, rows):
    pq.write_table(pa.Table.from_pylist(rows), root / "metadata.parquet")


@pytest.fixture(scope="session")
def made_v2(tmp_path_factory):
    root = tmp_path_factory.mktemp("v2")
    rows = patch_rows()
    for n, row in enumerate(rows):
        names = {"S2": f"{SCENE}/{row['patch_id']}", "S1": f"{S1_SCENE}/{row['s1_name']}"}
        write_patch(root, bigearthnet.LAYOUTS["v2"].folders, names, n)
    write_metadata(root, rows)
    return root


@pytest.fixture
def v2(made_v2, tmp_path):
    """Six patches of both sensors: 0, 1, 3 of train, 2, 5 of val, 4 of test."""
    return shutil.copytree(made_v2, tmp_path / "bigearthnet")


@pytest.fixture
def v1(tmp_path):
    """Two patches a split; patch n has class n of the 43, and class 4 (port areas), which the 19 leave out."""
    root = tmp_path / "bigearthnet-v1"
    names43 = list(CLASSES_43)
    for n, split in enumerate(["train", "train", "val", "val", "test", "test"]):
        names = {"S2": f"S2A_MSIL2A_20170613T101031_{n}_0", "S1": f"{S1_SCENE}_33UUP_{n}_0"}
        write_patch(root, bigearthnet.LAYOUTS["v1"].folders, names, n)
        for sensor, name in names.items():
            about = {"labels": sorted({names43[n], names43[4]})}
            file = root / bigearthnet.LAYOUTS["v1"].folders[sensor] / name / f"{name}_labels_metadata.json"
            file.write_text(json.dumps(about))
        with (root / f"bigearthnet-{split}.csv").open("a") as lists:
            lists.write(f"{names['S2']},{names['S1']}\n")
    return root


def open_v2(root, split="train", **more):
    return open_split(bigearthnet, split, root, **more)


def open_v1(root, split="train", **more):
    return open_split(bigearthnet, split, root, dataset_variant="v1", **more)


def values(dataset, index, spec):
    return [float(band[0, 0]) for band in dataset.read(index, choose_bands(dataset.bands, spec))]


# --- what is read


def test_bands_come_at_their_own_size_in_the_order_asked_for(v2):
    dataset = open_v2(v2)
    assert [band.name for band in dataset.bands] == list(BAND_SETS["s1s2"])
    assert values(dataset, 2, "B12,VH,B01,VV") == [313, 301.25, 302, 300.25]
    sizes = {
        band.name: pixels.shape for band, pixels in zip(dataset.bands, dataset.read(0, dataset.bands), strict=True)
    }
    assert (sizes["B02"], sizes["B8A"], sizes["B09"], sizes["VH"]) == ((120, 120), (60, 60), (20, 20), (120, 120))


def test_sentinel_1_is_float_and_vv_is_vv(v2):
    """torchgeo rounds decibels to integers and calls VH VV."""
    vv, vh = open_v2(v2, bands=("s1",)).read(1, choose_bands(_bigearthnet_patches.BANDS, "s1"))
    assert vv.dtype == vh.dtype == np.float32
    assert (vv[0, 0], vh[0, 0]) == (100.25, 101.25)


def test_only_the_files_asked_for_are_opened(v2, monkeypatch):
    dataset = open_v2(v2, bands=("B08,B04",))
    opened = []
    kept = os.open
    monkeypatch.setattr(os, "open", lambda path, *more, **why: opened.append(str(path)) or kept(path, *more, **why))
    dataset.read(0, choose_bands(dataset.bands, "B08,B04"))
    assert [Path(path).name.rpartition("_")[2] for path in opened] == ["B08.tif", "B04.tif"]


def test_splits_ids_and_labels_follow_the_metadata(v2):
    ids = {split: [name.split("_")[-2] for name in open_v2(v2, split).ids] for split in SPLITS}
    assert ids == {"train": ["0", "1", "3"], "val": ["2", "5"], "test": ["4"]}
    dataset = open_v2(v2, "val")
    assert [np.flatnonzero(row).tolist() for row in dataset.labels] == [[2, 3], [5, 6]]
    assert (dataset.labels.dtype, dataset.class_names, dataset.variant) == (np.uint8, CLASSES_19, "v2")


def test_v1_reads_labels_beside_the_bands(v1):
    nineteen, all43 = open_v1(v1, "test"), open_v1(v1, "test", classes=43)
    assert [np.flatnonzero(row).tolist() for row in all43.labels] == [[4], [4, 5]]
    assert not nineteen.labels.any()  # neither port areas nor airports are among the 19
    assert [np.flatnonzero(row).tolist() for row in open_v1(v1).labels] == [[0], [0]]
    assert (nineteen.ids[0], values(nineteen, 1, "VV,B03")) == ("S2A_MSIL2A_20170613T101031_4_0", [500.25, 504])
    assert (nineteen.provenance["classes"], all43.provenance["classes"]) == (19, 43)
    assert len(all43.class_names) == 43


def test_locations_come_from_the_names(v2, v1):
    centres = [CORNER[0] + 1200 * column + 600 for column in (0, 1)], [CORNER[1] - 600] * 2
    expected = np.transpose(rasterio.warp.transform("EPSG:32633", "EPSG:4326", *centres))
    for dataset in (open_v2(v2), open_v1(v1)):
        assert np.abs(dataset.lonlat[:2] - expected).max() < 1e-6


def test_files_that_lie_elsewhere_than_their_names_say_give_no_locations(v2, capsys):
    band = SENTINEL2["B01"]
    name = f"{SCENE}_0_0"
    write_band(v2 / "BigEarthNet-S2" / SCENE / name, name, band, 1, place=(1, 0))
    assert open_v2(v2).lonlat is None
    assert name in capsys.readouterr().err
    assert open_v2(v2, "val").lonlat is not None


def test_names_of_no_tile_give_no_locations():
    assert locations(["S2A_MSIL2A_20170613T101031_61_39"]) is None
    assert locations(["X_T99UUP_1_1"]) is None


# Corners of granules as ESA's product metadata has them: easting and northing of the upper left pixel.
@pytest.mark.parametrize(
    ("tile", "corner"),
    [
        ("33UUP", ("EPSG:32633", 300_000, 5_400_000)),
        ("29UPU", ("EPSG:32629", 600_000, 5_900_040)),
        ("35VNH", ("EPSG:32635", 499_980, 6_800_040)),
        ("35WPN", ("EPSG:32635", 600_000, 7_300_020)),
        ("34TEP", ("EPSG:32634", 499_980, 4_900_020)),
        ("31TCJ", ("EPSG:32631", 300_000, 4_900_020)),
    ],
)
def test_tiles_begin_where_the_granules_do(tile, corner):
    assert tile_corner(tile) == corner


@pytest.mark.parametrize("tile", ["", "33", "33UIP", "61UUP", "33UAP", "33GUP", "33UUW", "x3UUP"])
def test_other_names_are_no_tiles_of_the_northern_hemisphere(tile):
    assert tile_corner(tile) is None


def test_dataset_survives_pickling(v2):
    dataset = pickle.loads(pickle.dumps(open_v2(v2)))
    assert values(dataset, 1, "B02") == [103]


# --- what is left out


def test_flagged_patches_are_left_out_when_asked_and_recorded(v2):
    whole, clear = open_v2(v2), open_v2(v2, drop_snow_cloud=True)
    assert [name.split("_")[-2] for name in clear.ids] == ["0"]
    assert clear.labels.tolist() == whole.labels[:1].tolist()
    assert values(clear, 0, "VV,B02") == values(whole, 0, "VV,B02")
    assert {split: what["count"] for split, what in clear.provenance["snow_cloud"].items()} == {"train": 2}
    assert open_v2(v2, "val", drop_snow_cloud=True).provenance == clear.provenance
    assert "snow_cloud" not in whole.provenance


def test_absent_patches_stop_with_their_count_and_first_names(v2):
    for n in (1, 3):
        shutil.rmtree(v2 / "BigEarthNet-S2" / SCENE / f"{SCENE}_{n}_0")
    message = f"2 of 3 patches of split train .*first {SCENE}_1_0, {SCENE}_3_0;.*--allow-missing"
    with pytest.raises(RequestError, match=message):
        open_v2(v2)
    assert len(open_v2(v2, "val")) == 2


def test_absent_patches_are_left_out_when_asked_and_recorded_for_all_splits(v2):
    whole = open_v2(v2)
    shutil.rmtree(v2 / "BigEarthNet-S2" / SCENE / f"{SCENE}_1_0")
    shutil.rmtree(v2 / "BigEarthNet-S1" / S1_SCENE / f"{S1_SCENE}_33UUP_4_0")
    train = open_v2(v2, allow_missing=True)
    assert [name.split("_")[-2] for name in train.ids] == ["0", "3"]
    assert values(train, 1, "VV,B02") == [300.25, 303]
    assert train.labels.tolist() == whole.labels[[0, 2]].tolist()
    counts = {split: what["count"] for split, what in train.provenance["absent"].items()}
    assert counts == {"train": 1, "test": 1}
    assert open_v2(v2, "val", allow_missing=True).provenance == train.provenance
    both = bigearthnet.open_dataset(DatasetRequest(v2, ("val", "train"), (), DataFlags(allow_missing=True)))
    assert [both[split].provenance for split in ("val", "train")] == [train.provenance] * 2
    assert both["train"].ids == train.ids and both["train"].files_digest == train.files_digest
    with pytest.raises(RequestError, match="no patch of split test is left"):
        open_v2(v2, "test", allow_missing=True)
    optical = open_v2(v2, "test", allow_missing=True, bands=("s2-12",))  # its Sentinel-1 partner is not missed
    assert {split: what["count"] for split, what in optical.provenance["absent"].items()} == {"train": 1}


def test_other_absent_patches_are_another_identity(v2, made_v2, tmp_path):
    other = shutil.copytree(made_v2, tmp_path / "other")
    shutil.rmtree(v2 / "BigEarthNet-S2" / SCENE / f"{SCENE}_1_0")
    shutil.rmtree(other / "BigEarthNet-S2" / SCENE / f"{SCENE}_3_0")
    one, two = (open_v2(root, "val", allow_missing=True).provenance for root in (v2, other))
    assert one["absent"]["train"]["count"] == two["absent"]["train"]["count"] == 1
    assert one != two


def test_nothing_absent_is_the_same_identity_with_and_without_the_flag(v2):
    assert open_v2(v2, allow_missing=True).provenance == open_v2(v2).provenance


def test_existence_is_told_by_one_listing_a_scene(v2, monkeypatch):
    listed = []
    kept = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listed.append(str(path)) or kept(path))
    monkeypatch.setattr(bigearthnet, "_sample", lambda *_: ("", None))
    open_v2(v2)
    assert sorted(Path(path).name for path in listed) == sorted([SCENE, S1_SCENE])


def test_sentinel_2_alone_is_enough_for_its_bands(v2):
    shutil.rmtree(v2 / "BigEarthNet-S1")
    (v2 / "BigEarthNet-S1").mkdir()  # torchgeo wants the folder, if empty
    assert values(open_v2(v2), 2, "all") == [300.0 + b for b in range(2, 14)]
    assert {band.sensor for band in open_v2(v2, bands=("VV,VH,B02", "s2-10")).bands} == {"S2"}
    with pytest.raises(RequestError, match="--bands s1s2: .*BigEarthNet-S1"):
        open_v2(v2, bands=("s1s2",))


def test_sentinel_1_alone_is_enough_for_its_bands(v2, v1):
    shutil.rmtree(v2 / "BigEarthNet-S2")
    shutil.rmtree(v1 / "BigEarthNet-v1.0")
    assert values(open_v2(v2), 2, "VH,VV") == [301.25, 300.25]
    assert open_v2(v2).ids[0] == f"{SCENE}_0_0"  # whichever bands: features of both sensors can be matched
    assert open_v1(v1, classes=43).labels.sum() == 4


def test_bands_of_one_sensor_do_not_miss_the_other(v2):
    shutil.rmtree(v2 / "BigEarthNet-S1" / S1_SCENE / f"{S1_SCENE}_33UUP_0_0")
    assert len(open_v2(v2, bands=("s2-9",))) == 3
    with pytest.raises(RequestError, match="--bands s2-12"):
        open_v2(v2, bands=("s1s2",))


# --- what goes wrong


@pytest.mark.parametrize("keep", [0, 7, 200, 20_000])
def test_truncated_band_is_named(v2, keep):
    dataset = open_v2(v2)
    file = v2 / "BigEarthNet-S2" / SCENE / f"{SCENE}_0_0" / f"{SCENE}_0_0_B04.tif"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(RequestError, match=r"cannot read .*_0_0_B04\.tif"):
        dataset.read(0, choose_bands(dataset.bands, "B03,B04"))


def test_absent_band_is_named(v2):
    dataset = open_v2(v2)
    (v2 / "BigEarthNet-S2" / SCENE / f"{SCENE}_0_0" / f"{SCENE}_0_0_B04.tif").unlink()
    with pytest.raises(RequestError, match=r"no file .*_0_0_B04\.tif"):
        dataset.read(0, choose_bands(dataset.bands, "B04"))


@pytest.mark.parametrize("wrong", [{"side": 60}, {"dtype": "float32"}])
def test_band_of_another_size_or_type_is_refused(v2, wrong):
    dataset = open_v2(v2)
    name = f"{SCENE}_0_0"
    write_band(v2 / "BigEarthNet-S2" / SCENE / name, name, SENTINEL2["B02"], 1, **wrong)
    with pytest.raises(RequestError, match=r"B02.tif .*120 x 120 .*uint16"):
        dataset.read(0, choose_bands(dataset.bands, "B02"))


def change(root, change_row):
    rows = patch_rows()
    change_row(rows)
    write_metadata(root, rows)


def test_patch_named_twice_is_refused_in_whatever_split(v2):
    change(v2, lambda rows: rows[4].update(patch_id=rows[0]["patch_id"]))
    with pytest.raises(RequestError, match=rf"metadata.parquet: 1 .*'{SCENE}_0_0'"):
        open_v2(v2, "val")


def test_unknown_split_is_refused(v2):
    change(v2, lambda rows: rows[3].update(split="training"))
    with pytest.raises(RequestError, match="1 of 6 .*split.*'training'"):
        open_v2(v2)


@pytest.mark.parametrize("label", ["Urban Fabric", "Airports"])
def test_unknown_label_is_refused(v2, label):
    change(v2, lambda rows: rows[0]["labels"].append(label))
    with pytest.raises(RequestError, match=f"metadata.parquet.*'{label}', 1 "):
        open_v2(v2)


@pytest.mark.parametrize("labels", [[], None])
def test_patch_without_label_is_refused(v2, labels):
    change(v2, lambda rows: rows[0].update(labels=labels))
    with pytest.raises(RequestError, match="metadata.parquet: 1 .*no label"):
        open_v2(v2)


def test_other_metadata_is_refused(v2):
    pq.write_table(pa.table({"patch_id": ["a"]}), v2 / "metadata.parquet")
    with pytest.raises(RequestError, match="metadata.parquet.*contains_cloud_or_shadow"):
        open_v2(v2)
    (v2 / "metadata.parquet").write_bytes(b"PAR1, or so")
    with pytest.raises(RequestError, match="cannot read .*metadata.parquet"):
        open_v2(v2)
    (v2 / "metadata.parquet").unlink()
    with pytest.raises(RequestError, match="metadata.parquet.*--download"):
        open_v2(v2)


def test_nothing_there_says_what_to_do(tmp_path):
    with pytest.raises(RequestError, match="BigEarthNet-S2.*BigEarthNet-S1.*--data-root.*--download"):
        open_v2(tmp_path)


def test_wrong_requests(v2, v1):
    with pytest.raises(RequestError, match="--classes 43: v2.*19"):
        open_v2(v2, classes=43)
    with pytest.raises(RequestError, match="--classes 20: .*19.*43"):
        open_v1(v1, classes=20)
    with pytest.raises(RequestError, match="--drop-snow-cloud: .*v1"):
        open_v1(v1, drop_snow_cloud=True)
    with pytest.raises(RequestError, match="unknown variant of bigearthnet 'v3'"):
        open_v2(v2, dataset_variant="v3")
    with pytest.raises(RequestError, match="unknown split 'validation'"):
        open_v2(v2, "validation")


def test_v1_lists_are_checked(v1):
    file = v1 / "bigearthnet-val.csv"
    kept = file.read_text()
    file.write_text(kept + kept.splitlines()[0] + "\n")
    with pytest.raises(RequestError, match="ids must be unique"):
        open_v1(v1, "val")
    file.write_text(kept + "S2A_MSIL2A_20170613T101031_9_0\n")
    with pytest.raises(RequestError, match="bigearthnet-val.csv, line 3: 'S2A_"):
        open_v1(v1, "val")
    file.unlink()
    with pytest.raises(RequestError, match="bigearthnet-val.csv.*--download"):
        open_v1(v1, "val")


def test_v1_labels_are_kept_and_read_again_when_a_file_changes(v1, monkeypatch):
    before = open_v1(v1, classes=43).labels
    monkeypatch.setattr(_bigearthnet_patches, "_labels_in", None)  # reading a file again would call None
    assert np.array_equal(open_v1(v1, classes=43).labels, before)
    assert open_v1(v1).labels.shape == (2, 19)
    monkeypatch.undo()
    file = next((v1 / "BigEarthNet-v1.0" / "S2A_MSIL2A_20170613T101031_1_0").glob("*.json"))
    file.write_text(json.dumps({"labels": ["Airports"]}))
    assert np.flatnonzero(open_v1(v1, classes=43).labels[1]).tolist() == [5]


def test_v1_damaged_index_is_made_again(v1):
    before = open_v1(v1).labels
    (index,) = v1.glob("*.npz")
    index.write_bytes(index.read_bytes()[:50])
    assert np.array_equal(open_v1(v1).labels, before)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"labels": ["Airport"]}', "unknown label or entry 'Airport'"),
        ("{}", "unknown label or entry 'labels'"),
        ("{", "cannot read .*Expecting"),
    ],
)
def test_v1_strange_label_file_is_named(v1, content, message):
    file = next((v1 / "BigEarthNet-v1.0" / "S2A_MSIL2A_20170613T101031_1_0").glob("*.json"))
    file.write_text(content)
    with pytest.raises(RequestError, match=message) as caught:
        open_v1(v1)
    assert file.name in str(caught.value)
    file.unlink()
    with pytest.raises(RequestError, match=f"no file .*{file.name}"):
        open_v1(v1)


def test_changed_pixels_are_another_digest_and_copies_are_not(v2, made_v2):
    assert open_v2(v2).files_digest == open_v2(made_v2).files_digest
    name = f"{SCENE}_0_0"
    write_band(v2 / "BigEarthNet-S2" / SCENE / name, name, SENTINEL2["B02"], 7)
    assert open_v2(v2).files_digest != open_v2(made_v2).files_digest


# --- archives and downloads


def tar_folder(root, folder):
    """The folder as torchgeo serves it: a gzipped tar file cut in two."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(root / folder, folder)
    content = buffer.getvalue()
    for ending, part in (("aa", content[:1000]), ("ab", content[1000:])):
        (root / f"{folder}.tar.gz{ending}").write_bytes(part)
    shutil.rmtree(root / folder)


def test_archives_are_unpacked_when_their_sensor_is_asked_for(v2, tmp_path):
    before = open_v2(v2)
    expected, digest = values(before, 2, "all"), before.files_digest
    tar_folder(v2, "BigEarthNet-S2")
    tar_folder(v2, "BigEarthNet-S1")
    cache = tmp_path / "cache"
    assert values(open_v2(v2, cache_dir=cache, bands=("s2-12",)), 2, "B02") == [303]
    assert [folder.name.partition("-tar")[0][:14] for folder in cache.iterdir() if folder.is_dir()] == [
        "BigEarthNet-S2"
    ]
    both = open_v2(v2, cache_dir=cache)
    assert (values(both, 2, "all"), both.files_digest) == (expected, digest)
    (v2 / "BigEarthNet-S1.tar.gzab").unlink()
    with pytest.raises(RequestError, match="BigEarthNet-S1.tar.gzab"):
        open_v2(v2, cache_dir=cache)


@pytest.mark.parametrize("bands", [("s2-12",), ("s1s2",)])
def test_download_fetches_what_the_bands_need_from_torchgeo(v2, tmp_path, monkeypatch, bands):
    import torchgeo.datasets.utils as downloads

    ids = open_v2(v2).ids
    for folder in ("BigEarthNet-S2", "BigEarthNet-S1"):
        tar_folder(v2, folder)
    asked = []

    def download_url(url, root, **checksum):
        asked.append((url.rpartition("/")[2], {kind: len(digest) for kind, digest in checksum.items() if digest}))
        root.mkdir(parents=True, exist_ok=True)
        shutil.copy(v2 / url.rpartition("/")[2], root)

    monkeypatch.setattr(downloads, "download_url", download_url)
    assert open_v2(tmp_path / "new", download=True, bands=bands).ids == ids
    sensors = ["S2"] if bands == ("s2-12",) else ["S2", "S1"]
    parts = [(f"BigEarthNet-{sensor}.tar.gz{end}", {"sha256": 64}) for sensor in sensors for end in ("aa", "ab")]
    # torchgeo hands the metadata's checksum on as sha256, but it is an md5: its own download always fails
    assert asked == [("metadata.parquet", {"md5": 32}), *parts]
    asked.clear()
    open_v2(tmp_path / "new", download=True, bands=bands)
    assert not asked


def test_download_of_v1_names_the_lists_as_torchgeo_does(v1, tmp_path, monkeypatch):
    import torchgeo.datasets.utils as downloads

    asked = []

    def download_url(url, root, *, filename, md5, sha256):
        asked.append((filename, len(md5), sha256))
        root.mkdir(parents=True, exist_ok=True)
        shutil.copy(v1 / filename, root)

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.add(v1 / "BigEarthNet-v1.0", "BigEarthNet-v1.0")
    (v1 / "BigEarthNet-S2-v1.0.tar.gz").write_bytes(buffer.getvalue())
    monkeypatch.setattr(downloads, "download_url", download_url)
    dataset = open_v1(tmp_path / "new", download=True, bands=("s2-12",))
    assert dataset.ids == open_v1(v1).ids
    files = [*(f"bigearthnet-{split}.csv" for split in SPLITS), "BigEarthNet-S2-v1.0.tar.gz"]
    assert asked == [(name, 32, None) for name in files]


# --- plain TIFFs


WAYS = [
    {},
    {"blockysize": 7, "interleave": "pixel"},
    {"compress": "deflate"},
    {"compress": "deflate", "predictor": 2},
    {"compress": "deflate", "predictor": 2, "interleave": "band", "blockysize": 7},
    {"compress": "deflate", "predictor": 2, "endianness": "big"},
    {"compress": "deflate", "predictor": 3},
    {"compress": "lzw"},
    {"tiled": True, "blockxsize": 16, "blockysize": 16},
]
PREDICTABLE = {2: ("uint8", "uint16", "int16"), 3: ("float32",)}


@pytest.mark.parametrize(
    ("dtype", "creation"),
    [
        pytest.param(dtype, way, id=f"{dtype}-{'-'.join(map(str, way.values())) or 'plain'}")
        for dtype in ("uint8", "uint16", "int16", "float32")
        for way in WAYS
        if dtype in PREDICTABLE.get(way.get("predictor"), (dtype,))
    ],
)
def test_every_way_of_storing_pixels_reads_as_rasterio_reads_it(tmp_path, dtype, creation):
    from data.images import read_bands

    pixels = (np.random.default_rng(0).random((3, 40, 33)) * 250).astype(dtype)
    for shift in (0, 1):  # a second file of the same size must not be taken for the first
        file = tmp_path / f"{shift}.tif"
        with rasterio.open(file, "w", driver="GTiff", width=33, height=40, count=3, dtype=dtype, **creation) as target:
            target.write(pixels + np.array(shift, dtype))
        read = read_bands(file, [2, 0, 1], count=3)
        with rasterio.open(file) as source:
            assert np.array_equal(np.stack(read), source.read([3, 1, 2]))
        assert all(band.flags.writeable and band.dtype == dtype for band in read)


@pytest.mark.parametrize("wrong", [slice(-1950, -1949), slice(-3, -2), slice(-4, None)])
def test_a_damaged_deflated_strip_is_named_where_gdal_would_return_pixels(tmp_path, wrong):
    from data.images import read_bands

    file = tmp_path / "a.tif"
    about = {"driver": "GTiff", "width": 60, "height": 60, "count": 1, "dtype": "uint16", "compress": "deflate"}
    with rasterio.open(file, "w", **about) as target:
        target.write(np.random.default_rng(0).integers(0, 9999, (1, 60, 60), np.uint16))
    content = bytearray(file.read_bytes())
    content[wrong] = bytes(byte ^ 255 for byte in content[wrong])
    file.write_bytes(content)
    with pytest.raises(RequestError, match=r"cannot read .*a\.tif \(a compressed strip is"):
        read_bands(file, [0], count=1)


# --- the real files, against torchgeo and rasterio


def rasterio_bands(folder, names):
    """Bands by name at their own resolution, as rasterio reads them."""
    found = {}
    for name in names:
        (file,) = folder.glob(f"*_{name}.tif")
        with rasterio.open(file) as source:
            found[name] = source.read(1)
    return found


def check_pixels(dataset, index, folders, theirs):
    """Every band equals rasterio's; the 10 m bands equal torchgeo's, which resamples all others."""
    names = [band.name for band in dataset.bands]
    expected = {}
    for folder in folders:
        sensor_names = [name for name in names if list(folder.glob(f"*_{name}.tif"))]
        expected |= rasterio_bands(folder, sensor_names)
    assert set(expected) == set(names)
    for band, pixels in zip(dataset.bands, dataset.read(index, dataset.bands), strict=True):
        assert pixels.dtype == expected[band.name].dtype
        assert np.array_equal(pixels, expected[band.name])
        if band.name in ("B02", "B03", "B04", "B08"):
            assert np.array_equal(pixels, theirs[BAND_SETS["s2-12"].index(band.name)].numpy())


def test_classes_and_their_conversion_are_torchgeos():
    from torchgeo.datasets import BigEarthNet, BigEarthNetV2

    assert list(CLASSES_19) == BigEarthNet.class_sets[19] == BigEarthNetV2.class_set
    assert list(CLASSES_43) == BigEarthNet.class_sets[43]
    converter = {n: to for n, to in enumerate(CLASSES_43.values()) if to is not None}
    assert converter == BigEarthNet.label_converter
    one_each = to_19(np.eye(43, dtype=np.uint8))
    assert {n: int(row.argmax()) for n, row in enumerate(one_each) if row.any()} == BigEarthNet.label_converter
    assert one_each.sum() == 32


def test_folders_and_archives_are_torchgeos():
    from torchgeo.datasets import BigEarthNet, BigEarthNetV2

    for sensor in ("S2", "S1"):
        v1, v2 = (bigearthnet.LAYOUTS[variant] for variant in ("v1", "v2"))
        assert v1.folders[sensor] == BigEarthNet.metadata[sensor.lower()]["directory"]
        assert v1.archives[sensor] == [(BigEarthNet.metadata[sensor.lower()]["filename"],)]
        assert v2.folders[sensor] == BigEarthNetV2.dir_file_names[sensor.lower()]
        assert v2.archives[sensor][0] == tuple(BigEarthNetV2.metadata_locs[sensor.lower()]["files"])


def test_a_command_reads_the_metadata_once(v2, tmp_path, monkeypatch):
    from data import command
    from featurize.cli import app

    read = []
    kept = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda *args, **more: read.append(args) or kept(*args, **more))
    words = ["--model", "stats", "--dataset", "bigearthnet", "--data-root", str(v2), "--out", str(tmp_path)]
    assert command.run(app, words) == 0 and len(read) == 1
    assert command.run(app, words) == 0 and len(read) == 2  # all reused


def test_real_metadata_is_read_as_torchgeo_reads_it(shared):
    from torchgeo.datasets import BigEarthNetV2

    root = shared / "data" / "bigearthnet-v2"
    splits = read_metadata(root, SPLITS, ["S2", "S1"])
    assert [len(splits[split].flagged) for split in SPLITS] == [237_871, 122_342, 119_825]
    for split in SPLITS:
        theirs = BigEarthNetV2(root, split=split)
        assert splits[split].names["S2"] == theirs.metadata_df["patch_id"].tolist()
        assert splits[split].names["S1"] == theirs.metadata_df["s1_name"].tolist()
        numbers = theirs.metadata_df["labels"].explode().map(theirs.class2idx)
        expected = np.zeros((len(theirs), 19), np.uint8)
        expected[numbers.index, numbers] = 1
        assert np.array_equal(splits[split].labels, expected)
        for index in range(0, len(theirs), 20_000):
            assert np.array_equal(splits[split].labels[index], theirs._load_target(index).numpy())
        assert not splits[split].flagged.any()
    everything = np.concatenate([splits[split].labels for split in SPLITS])
    assert everything.sum() / len(everything) == pytest.approx(2.95, abs=0.005)
    assert sorted(everything.sum(axis=0))[:2] == [1316, 1397]  # as published


def test_real_patches_lie_in_their_countries(shared):
    """All 480,038 places come from names; the boxes are those of a map."""
    boxes = {  # west, east, south, north
        "Austria": (9.5, 17.2, 46.3, 49.1),
        "Belgium": (2.5, 6.5, 49.4, 51.6),
        "Finland": (19.0, 31.7, 59.5, 70.1),
        "Ireland": (-10.7, -5.3, 51.3, 55.7),
        "Kosovo": (20.0, 21.9, 41.8, 43.3),
        "Lithuania": (20.5, 26.9, 53.8, 56.5),
        "Luxembourg": (5.7, 6.6, 49.4, 50.2),
        "Portugal": (-9.6, -6.1, 36.9, 42.2),
        "Serbia": (18.8, 23.1, 42.2, 46.2),
        "Switzerland": (5.9, 10.5, 45.8, 47.9),
    }
    file = shared / "data" / "bigearthnet-v2" / "metadata.parquet"
    table = pq.read_table(file, columns=["patch_id", "country"])
    lonlat = locations(table["patch_id"].to_pylist())
    country = table["country"].to_numpy()
    assert set(country) == set(boxes)
    for name, (west, east, south, north) in boxes.items():
        lon, lat = lonlat[country == name].T
        assert west < lon.min() and lon.max() < east and south < lat.min() and lat.max() < north, name


def test_real_v2_pixels_and_places(shared):
    from torchgeo.datasets import BigEarthNetV2

    root = shared / "data" / "bigearthnet-v2"
    for sensor, bands in (("s2", "s2-12"), ("s1", "s1")):
        dataset = open_v2(root, "val", bands=(bands,), allow_missing=True)
        assert len(dataset) == 1
        theirs = BigEarthNetV2(root, split="val", bands=sensor)
        index = theirs.metadata_df["patch_id"].tolist().index(dataset.ids[0])
        assert np.array_equal(dataset.labels[0], theirs._load_target(index).numpy())
        image = theirs._load_image(index, sensor)
        (folder,) = (root / f"BigEarthNet-{sensor.upper()}").glob("*/*")
        check_pixels(dataset, 0, [folder], image)
        if sensor == "s1":  # theirs is VH, then VV, in whole decibels
            for band, whole in zip(dataset.read(0, dataset.bands)[::-1], image, strict=True):
                assert np.abs(band - whole.numpy()).max() <= 1
        file = next(folder.glob("*.tif"))
        with rasterio.open(file) as source:
            centre = rasterio.warp.transform(
                source.crs, "EPSG:4326", *np.array([source.transform * (source.width / 2, source.height / 2)]).T
            )
        assert np.abs(dataset.lonlat[0] - np.ravel(centre)).max() < 2e-6


@pytest.mark.parametrize("classes", [19, 43])
def test_real_v1_patches(shared, tmp_path, classes):
    from torchgeo.datasets import BigEarthNet

    root = shared / "data" / "bigearthnet-v1"
    seen = 0
    for split in SPLITS:
        dataset = open_v1(root, split, bands=("s2-12",), classes=classes, cache_dir=tmp_path)
        theirs = BigEarthNet(root, split=split, bands="s2", num_classes=classes)
        assert dataset.ids == [Path(pair["s2"]).name for pair in theirs.folders]
        for index in range(len(dataset)):
            sample = theirs[index]
            assert np.array_equal(dataset.labels[index], sample["label"].numpy())
            folder = root / "BigEarthNet-v1.0" / dataset.ids[index]
            check_pixels(dataset, index, [folder], sample["image"])
            place = json.loads(next(folder.glob("*.json")).read_text())
            corners = place["coordinates"]
            east, north = (corners["ulx"] + corners["lrx"]) / 2, (corners["uly"] + corners["lry"]) / 2
            centre = rasterio.warp.transform(CRS.from_wkt(place["projection"]), "EPSG:4326", [east], [north])
            assert np.abs(dataset.lonlat[index] - np.ravel(centre)).max() < 2e-6
            seen += 1
    assert seen == 11


@pytest.mark.parametrize("classes", [19, 43])
def test_real_v1_sentinel_1_patches(shared, tmp_path, classes):
    from torchgeo.datasets import BigEarthNet

    folder = shared / "data" / "bigearthnet-v1" / "BigEarthNet-S1-v1.0"
    (tmp_path / folder.name).symlink_to(folder.resolve())
    names = sorted(path.name for path in folder.iterdir())
    for split in SPLITS:  # their partners are not at hand; the lists name what the files say of them
        pairs = [f"S2A_MSIL2A_20170613T101031_{name[-5:]},{name}\n" for name in names]
        (tmp_path / f"bigearthnet-{split}.csv").write_text("".join(pairs))
    dataset = open_v1(tmp_path, bands=("s1",), classes=classes)
    theirs = BigEarthNet(tmp_path, split="train", bands="s1", num_classes=classes)
    assert len(dataset) == 3
    for index in range(3):
        sample = theirs[index]
        assert np.array_equal(dataset.labels[index], sample["label"].numpy())
        check_pixels(dataset, index, [folder / names[index]], sample["image"])
        about = json.loads(next((folder / names[index]).glob("*.json")).read_text())
        assert about["corresponding_s2_patch"] == dataset.ids[index]


def test_mosaics_of_real_pixels_are_read_as_torchgeo_reads_them(shared, tmp_path):
    from torchgeo.datasets import BigEarthNetV2

    root = tmp_path / "mosaic"
    tool = shared / "tools" / "mosaic_bigearthnet.py"
    archive = shared / "data" / "eurosat-ms" / "EuroSATallBands.zip"
    command = [sys.executable, tool, "--zip", archive, "--out", root, "--count", "30"]
    subprocess.run(command, check=True, capture_output=True)
    seen = 0
    for split in SPLITS:
        dataset = open_v2(root, split)
        theirs = BigEarthNetV2(root, split=split, bands="s2")
        assert dataset.ids == theirs.metadata_df["patch_id"].tolist()
        for index in range(len(dataset)):
            sample = theirs[index]
            assert np.array_equal(dataset.labels[index], sample["label"].numpy())
            name = dataset.ids[index]
            check_pixels(dataset, index, [root / "BigEarthNet-S2" / name.rsplit("_", 2)[0] / name], sample["image"])
            seen += 1
        assert dataset.lonlat is None  # their names say one place and their files another
    assert seen == 30


def test_real_metadata_takes_little_memory(shared):
    """Opened and indexed in less than 500 MB, imports and all; the seconds are in the benchmark results."""
    code = (
        "from pathlib import Path; from data.sources._bigearthnet_patches import locations, read_metadata;"
        f"found = read_metadata(Path({str(shared / 'data' / 'bigearthnet-v2')!r}), ['train'], ['S2', 'S1'])['train'];"
        "locations(found.names['S2']); print(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert 100_000 < int(done.stdout) < 500_000  # kB


# --- the command


def test_a_flag_that_a_dataset_does_not_know_is_refused(tmp_path):
    with pytest.raises(RequestError, match="--allow-missing: eurosat"):
        DataFlags(dataset="eurosat", data_root=tmp_path, allow_missing=True).open(["train"])
    with pytest.raises(RequestError, match="--classes: eurosat"):
        DataFlags(dataset="eurosat", data_root=tmp_path, classes=19).open(["train"])


def test_featurize_looks_for_the_sensors_of_the_bands_that_it_will_read(v2, tmp_path, capsys):
    from data import command, store
    from featurize.cli import app

    shutil.rmtree(v2 / "BigEarthNet-S1" / S1_SCENE / f"{S1_SCENE}_33UUP_0_0")
    words = ["--model", "stats", "--dataset", "bigearthnet", "--data-root", str(v2), "--split", "train"]
    words += ["--out", str(tmp_path / "runs")]
    assert command.run(app, words) == 2
    assert "1 of 3 patches of split train" in capsys.readouterr().err
    assert command.run(app, [*words, "--bands", "s2-9"]) == 0
    assert command.run(app, [*words, "--bands", "s1", "--allow-missing", "--drop-snow-cloud"]) == 2  # nothing is left
    assert command.run(app, [*words, "--bands", "s1", "--allow-missing"]) == 0
    files = sorted((tmp_path / "runs" / "features" / "bigearthnet-v2").glob("*/train.h5"))
    one, other = (store.read_features(file) for file in files)
    assert [len(one.features), len(other.features)] == [2, 3]
    assert one.identity["dataset"]["provenance"]["absent"]["train"]["count"] == 1
    assert one.features[0, :2].tolist() == [100.25, 101.25]  # means of VV and VH of patch 1
