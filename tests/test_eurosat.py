"""EuroSAT with 13 bands and in color: order, labels, pixels, locations, splits, and what goes wrong."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
from opening import open_split
from PIL import Image
from rasterio.crs import CRS
from rasterio.transform import from_origin

from data.bands import choose_bands
from data.dataset import SPLITS
from data.errors import RequestError
from data.flags import DatasetRequest
from data.nomenclature import EUROSAT_CLASSES
from data.sources import _index, eurosat, eurosat_rgb
from data.sources._eurosat import checksum, class_of, listed_images

SHARED = Path(os.environ.get("EO_SHARED", "../shared")) / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no shared data at {SHARED} (set EO_SHARED)")
INSIDE = "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"


@pytest.fixture(autouse=True)
def own_user_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("xdg")))


def write_tif(path, *, band_values, west, crs="EPSG:32633"):
    """A 64 x 64 tile with one value a band, 640 m wide, its western edge at the easting `west`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.broadcast_to(np.array(band_values, np.uint16)[:, None, None], (len(band_values), 64, 64))
    located = {"crs": CRS.from_string(crs), "transform": from_origin(west, 5_000_000, 10, 10)} if crs else {}
    with rasterio.open(
        path, "w", driver="GTiff", width=64, height=64, count=len(pixels), dtype="uint16", **located
    ) as t:
        t.write(pixels)


def zip_folder(folder, archive):
    with zipfile.ZipFile(archive, "w") as target:
        for path in sorted(folder.rglob("*.*")):
            target.write(path, path.relative_to(folder))
    shutil.rmtree(folder)


@pytest.fixture
def tiny(tmp_path):
    """Ten tiles, 1 to 10, each further west than the one before; tile n has 100 n + b in band b (from 0)."""
    root = tmp_path / "eurosat"
    names = [f"{EUROSAT_CLASSES[n % 3]}_{n}" for n in range(1, 11)]
    for n, name in enumerate(names, 1):
        path = root / "made" / INSIDE / class_of(name) / f"{name}.tif"
        write_tif(path, band_values=[100 * n + b for b in range(13)], west=500_000 - 1000 * n)
    zip_folder(root / "made", root / eurosat.ARCHIVE)
    for split, chosen in {"train": names[:6], "val": names[6:8], "test": names[8:]}.items():
        (root / f"eurosat-{split}.txt").write_text("".join(f"{name}.jpg\n" for name in chosen))
    return root


@pytest.fixture
def tiny_rgb(tmp_path):
    root = tmp_path / "eurosat-rgb"
    names = ["River_3", "Forest_1", "Forest_2"]
    for n, name in enumerate(names):
        path = root / "made" / "2750" / class_of(name) / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (200, 50 * n, 10)).save(path, quality=95)
    zip_folder(root / "made", root / eurosat_rgb.ARCHIVE)
    for split, name in zip(SPLITS, names, strict=True):
        (root / f"eurosat-{split}.txt").write_text(f"{name}.jpg\n")
    return root


def open_ms(root, split="train", **more):
    return open_split(eurosat, split, root, **more)


def open_rgb(root, split="train", **more):
    return open_split(eurosat_rgb, split, root, **more)


# --- 13 bands


def test_bands_come_in_the_files_order_with_b8a_last(tiny):
    dataset = open_ms(tiny)
    assert [band.name for band in dataset.bands][-2:] == ["B12", "B8A"]
    values = [int(band[0, 0]) for band in dataset.read(0, dataset.bands)]
    assert values == [100 + b for b in range(13)]
    wanted = choose_bands(dataset.bands, "B8A,B02")
    assert [int(band[0, 0]) for band in dataset.read(0, wanted)] == [112, 101]


def test_pixels_are_raw_and_writable(tiny):
    (band,) = open_ms(tiny).read(0, [eurosat.BANDS[0]])
    assert (band.shape, band.dtype) == ((64, 64), np.uint16)
    band += 1  # torch warns about arrays that cannot be written to


def test_ids_follow_the_split_file_and_labels_the_alphabet(tiny):
    dataset = open_ms(tiny)
    assert dataset.ids == [
        "Forest_1",
        "HerbaceousVegetation_2",
        "AnnualCrop_3",
        "Forest_4",
        "HerbaceousVegetation_5",
        "AnnualCrop_6",
    ]
    assert dataset.labels.tolist() == [1, 2, 0, 1, 2, 0]
    assert dataset.labels.dtype == np.int64
    assert list(dataset.class_names) == sorted(dataset.class_names)


def test_random_variant_has_no_name_and_both_say_how_they_were_split(tiny):
    assert (open_ms(tiny).variant, open_ms(tiny, dataset_variant="random").variant) == (None, None)
    assert open_ms(tiny).provenance == {"split": "eurosat-{train,val,test}.txt"}
    spatial = open_ms(tiny, dataset_variant="spatial")
    assert spatial.variant == "spatial"
    assert spatial.provenance == {
        "split": "10 tiles of eurosat-{train,val,test}.txt by longitude, west to east 60/20/20"
    }


def test_spatial_split_goes_from_west_to_east(tiny):
    # Tile n lies n km west of tile 0: from west to east they are 10, 9, ... 1.
    numbers = {s: [int(i.rpartition("_")[2]) for i in open_ms(tiny, s, dataset_variant="spatial").ids] for s in SPLITS}
    assert numbers == {"train": [10, 9, 8, 7, 6, 5], "val": [4, 3], "test": [2, 1]}
    ends = [open_ms(tiny, s, dataset_variant="spatial").lonlat[:, 0] for s in SPLITS]
    assert ends[0].max() < ends[1].min() < ends[1].max() < ends[2].min()


def test_tiles_on_one_meridian_are_ordered_by_id():
    centres = {name: (7.0, 50.0) for name in "ecbda"}
    assert eurosat.west_to_east(list("ecbda"), centres) == {"train": ["a", "b", "c"], "val": ["d"], "test": ["e"]}


def test_published_spatial_lists_are_used_where_they_exist(tiny):
    for split, name in zip(SPLITS, ("Forest_1", "Forest_4", "Forest_7"), strict=True):
        (tiny / f"eurosat-spatial-{split}.txt").write_text(f"{name}.jpg\n")
    dataset = open_ms(tiny, "val", dataset_variant="spatial")
    assert dataset.ids == ["Forest_4"]
    assert dataset.provenance == {"split": "eurosat-spatial-{train,val,test}.txt"}


def test_some_spatial_lists_without_the_others_are_refused(tiny):
    (tiny / "eurosat-spatial-train.txt").write_text("Forest_1.jpg\n")
    with pytest.raises(RequestError, match="eurosat-spatial-val.txt"):
        open_ms(tiny, "val", dataset_variant="spatial")


def test_locations_are_the_centres_in_degrees(tiny):
    # UTM 33N has its central meridian, 15 degrees east, at easting 500,000: tile 1 has its center 680 m west of it.
    lon, lat = open_ms(tiny).lonlat[0]
    metres_a_degree = 111_320 * np.cos(np.radians(lat))
    assert lon == pytest.approx(15 - 680 / metres_a_degree, abs=1e-4)
    assert lat == pytest.approx(45.15, abs=0.01)


def test_location_index_is_kept_and_made_again_when_files_change(tiny, monkeypatch):
    cache = tiny / "cache"
    before = open_ms(tiny, cache_dir=cache).lonlat
    monkeypatch.setattr(_index, "read_header", None)  # reading a tile again would call None
    assert np.array_equal(open_ms(tiny, cache_dir=cache).lonlat, before)
    monkeypatch.undo()
    (changed,) = cache.glob(f"EuroSATallBands-*/{INSIDE}/Forest/Forest_1.tif")
    write_tif(changed, band_values=range(13), west=600_000)
    after = open_ms(tiny, cache_dir=cache).lonlat
    assert after[0, 0] > before[0, 0] + 1
    assert np.array_equal(after[1:], before[1:])


def test_damaged_location_index_is_made_again(tiny):
    cache = tiny / "cache"
    before = open_ms(tiny, cache_dir=cache).lonlat
    (index,) = cache.glob("*.npz")
    index.write_bytes(index.read_bytes()[:50])
    assert np.array_equal(open_ms(tiny, cache_dir=cache).lonlat, before)


def test_tiles_without_georeference_have_no_lonlat_and_no_spatial_split(tiny):
    folder = tiny / INSIDE
    for n in range(1, 11):
        name = f"{EUROSAT_CLASSES[n % 3]}_{n}"
        write_tif(folder / class_of(name) / f"{name}.tif", band_values=range(13), west=0, crs=None)
    assert open_ms(tiny).lonlat is None
    with pytest.raises(RequestError, match="10 tiles"):
        open_ms(tiny, dataset_variant="spatial")


def test_unpacked_folder_needs_no_archive(tiny):
    with zipfile.ZipFile(tiny / eurosat.ARCHIVE) as archive:
        archive.extractall(tiny)
    (tiny / eurosat.ARCHIVE).unlink()
    assert int(open_ms(tiny).read(0, eurosat.BANDS)[12][0, 0]) == 112


def test_dataset_survives_pickling(tiny):
    dataset = pickle.loads(pickle.dumps(open_ms(tiny)))
    assert int(dataset.read(1, [eurosat.BANDS[0]])[0][0, 0]) == 200


@pytest.mark.parametrize("bands", [4, 12])
def test_tile_with_another_number_of_bands_is_refused(tiny, bands):
    dataset = open_ms(tiny)
    path = dataset.images.folder / "Forest" / "Forest_1.tif"
    write_tif(path, band_values=range(bands), west=0)
    with pytest.raises(RequestError, match=rf"Forest_1.tif.* {bands} .*13"):
        dataset.read(0, [eurosat.BANDS[0]])


@pytest.mark.parametrize("keep", [0, 5, 300, 50_000])
def test_truncated_tile_is_named(tiny, keep):
    dataset = open_ms(tiny)
    path = dataset.images.folder / "Forest" / "Forest_1.tif"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(RequestError, match=r"cannot read .*Forest_1.tif"):
        dataset.read(0, dataset.bands)


def test_missing_files_say_what_to_do(tiny):
    (tiny / "eurosat-train.txt").unlink()
    with pytest.raises(RequestError, match="eurosat-train.txt.*torchgeo/eurosat.*--download"):
        open_ms(tiny)
    (tiny / eurosat.ARCHIVE).unlink()
    with pytest.raises(RequestError, match="EuroSATallBands.zip.* ds/.*--data-root.*--download"):
        open_ms(tiny)


def test_listed_tiles_without_a_file_are_counted(tiny):
    with (tiny / "eurosat-val.txt").open("a") as file:
        file.write("Forest_98.jpg\nForest_99.jpg\n")
    with pytest.raises(RequestError, match="2 of 4 .*Forest_98, Forest_99"):
        open_ms(tiny, "val")


def test_strange_line_in_a_split_file_is_named(tiny):
    (tiny / "eurosat-val.txt").write_text("Forest_7.jpg\nForrest_8.jpg\n")
    with pytest.raises(RequestError, match="eurosat-val.txt, line 2: 'Forrest_8.jpg'"):
        open_ms(tiny, "val")


def test_tile_listed_twice_is_refused(tiny):
    (tiny / "eurosat-val.txt").write_text("Forest_7.jpg\nForest_7.jpg\n")
    with pytest.raises(RequestError, match="ids must be unique"):
        open_ms(tiny, "val")


def test_other_archive_is_refused(tiny):
    (tiny / eurosat.ARCHIVE).unlink()
    with zipfile.ZipFile(tiny / eurosat.ARCHIVE, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(RequestError, match="EuroSATallBands.zip.* ds/images"):
        open_ms(tiny)


def test_unknown_variant_and_split(tiny, tiny_rgb):
    with pytest.raises(RequestError, match="unknown variant of eurosat 'spatal'.*did you mean 'spatial'"):
        open_ms(tiny, dataset_variant="spatal")
    with pytest.raises(RequestError, match="unknown variant of eurosat-rgb 'spatial'"):
        open_rgb(tiny_rgb, dataset_variant="spatial")
    with pytest.raises(RequestError, match="unknown split"):
        open_ms(tiny, "training")


def copying_download(served):
    """Stands in for torchgeo's downloader: copies what `served` has under that name."""
    asked = []

    def download_url(url, root, **checksum):
        asked.append((url, checksum))
        root.mkdir(parents=True, exist_ok=True)
        shutil.copy(served / url.rpartition("/")[2], root)

    return download_url, asked


def test_download_fetches_lists_and_archive_from_torchgeo(tiny, tmp_path, monkeypatch):
    import torchgeo.datasets.utils as downloads

    download_url, asked = copying_download(tiny)
    monkeypatch.setattr(downloads, "download_url", download_url)
    dataset = open_ms(tmp_path / "new", download=True)
    assert dataset.ids == open_ms(tiny).ids
    names = [url.rpartition("/")[2] for url, _ in asked]
    assert names == ["eurosat-train.txt", "eurosat-val.txt", "eurosat-test.txt", "EuroSATallBands.zip"]
    assert all(url.startswith("https://") and len(checksum["sha256"]) == 64 for url, checksum in asked)
    asked.clear()
    open_ms(tmp_path / "new", download=True)
    assert not asked


def test_checksums_of_torchgeo_before_0_10_are_md5():
    older = type("EuroSAT", (), {"md5": "0" * 32, "split_md5s": {"val": "1" * 32}})
    assert (checksum(older), checksum(older, "val")) == ({"md5": "0" * 32}, {"md5": "1" * 32})


def test_download_of_the_spatial_variant_fetches_its_lists_too(tiny, tmp_path, monkeypatch):
    import torchgeo.datasets.utils as downloads

    for split in SPLITS:
        shutil.copy(tiny / f"eurosat-{split}.txt", tiny / f"eurosat-spatial-{split}.txt")
    download_url, asked = copying_download(tiny)
    monkeypatch.setattr(downloads, "download_url", download_url)
    dataset = open_ms(tmp_path / "new", dataset_variant="spatial", download=True)
    assert dataset.provenance == {"split": "eurosat-spatial-{train,val,test}.txt"}
    assert "eurosat-spatial-test.txt" in " ".join(url for url, _ in asked)


# --- color


def test_colour_channels_are_red_green_blue(tiny_rgb):
    dataset = open_rgb(tiny_rgb, "test")
    assert dataset.ids == ["Forest_2"]
    assert dataset.labels.tolist() == [1]
    red, green, blue = (band.astype(int) for band in dataset.read(0, dataset.bands))
    assert red.shape == (64, 64)
    assert (abs(red - 200).max(), abs(green - 100).max(), abs(blue - 10).max()) <= (4, 4, 4)
    (blue_alone,) = dataset.read(0, choose_bands(dataset.bands, "blue"))
    assert np.array_equal(blue_alone, blue)
    assert blue_alone.dtype == np.uint8


@pytest.mark.parametrize("place", [".", "EuroSAT", "eurosat"])
def test_unpacked_colour_folder_is_found(tiny_rgb, place):
    target = tiny_rgb / place
    target.mkdir(exist_ok=True)
    with zipfile.ZipFile(tiny_rgb / eurosat_rgb.ARCHIVE) as archive:
        archive.extractall(target)
    (tiny_rgb / eurosat_rgb.ARCHIVE).unlink()
    assert len(open_rgb(tiny_rgb)) == 1


def test_truncated_jpeg_is_named(tiny_rgb):
    dataset = open_rgb(tiny_rgb)
    path = dataset.images.folder / "River" / "River_3.jpg"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RequestError, match=r"cannot read .*River_3.jpg \((?i:.*truncated)"):
        dataset.read(0, dataset.bands)


def test_missing_colour_files_say_what_to_do(tiny_rgb):
    (tiny_rgb / "eurosat-val.txt").unlink()
    with pytest.raises(RequestError, match="eurosat-val.txt.*--download"):
        open_rgb(tiny_rgb, "val")
    (tiny_rgb / eurosat_rgb.ARCHIVE).unlink()
    with pytest.raises(RequestError, match="EuroSAT.zip.* 2750/.*--data-root.*--download"):
        open_rgb(tiny_rgb)


def test_colour_download(tiny_rgb, tmp_path, monkeypatch):
    import torchgeo.datasets.utils as downloads

    download_url, asked = copying_download(tiny_rgb)
    monkeypatch.setattr(downloads, "download_url", download_url)
    assert open_rgb(tmp_path / "new", download=True).ids == ["River_3"]
    assert asked[-1] == (eurosat_rgb.URL, {"sha256": None, "md5": eurosat_rgb.MD5})


def test_address_and_checksum_are_torchvisions():
    import inspect

    import torchvision

    source = inspect.getsource(torchvision.datasets.EuroSAT.download)
    assert eurosat_rgb.MD5 in source
    assert eurosat_rgb.URL.removeprefix("https://") in source


# --- the real files


@needs_shared
def test_real_tiles_equal_torchgeos_and_rasterios(tmp_path):
    from torchgeo.datasets import EuroSAT

    dataset = open_ms(SHARED / "eurosat-ms", "test", cache_dir=tmp_path)
    (unpacked,) = tmp_path.glob("EuroSATallBands-*")
    for split in SPLITS:
        shutil.copy(SHARED / "eurosat-ms" / f"eurosat-{split}.txt", unpacked)
    theirs = EuroSAT(unpacked, split="test")
    where = {Path(path).stem: row for row, (path, _) in enumerate(theirs.samples)}
    assert len(dataset) == len(theirs) == 120
    for index in range(0, 120, 10):
        pixels = np.stack(dataset.read(index, dataset.bands))
        sample = theirs[where[dataset.ids[index]]]
        assert np.array_equal(pixels, sample["image"].numpy())
        assert dataset.labels[index] == sample["label"]
        name = dataset.ids[index]
        with rasterio.open(dataset.images.folder / class_of(name) / f"{name}.tif") as tile:
            assert np.array_equal(pixels, tile.read())


@needs_shared
def test_real_locations_agree_with_the_published_footprints(tmp_path):
    import pandas as pd
    import shapely

    footprints = pd.read_parquet(SHARED / "eurosat-geometry.parquet", columns=["filename", "geometry"])
    centres = shapely.centroid(shapely.from_wkb(footprints["geometry"].to_numpy()))
    lonlat = dict(zip(footprints["filename"], shapely.get_coordinates(centres), strict=True))
    seen = 0
    for split in SPLITS:
        dataset = open_ms(SHARED / "eurosat-ms", split, cache_dir=tmp_path)
        assert dataset.lonlat is not None
        expected = np.array([lonlat[f"{name}.tif"] for name in dataset.ids])
        assert np.abs(dataset.lonlat - expected).max() < 1e-4  # ten meters
        seen += len(dataset)
    assert seen == 600


@needs_shared
def test_real_spatial_split_keeps_every_tile_once(tmp_path):
    splits = {s: open_ms(SHARED / "eurosat-ms", s, dataset_variant="spatial", cache_dir=tmp_path) for s in SPLITS}
    assert [len(splits[s]) for s in SPLITS] == [360, 120, 120]
    assert len({name for split in splits.values() for name in split.ids}) == 600
    assert splits["train"].lonlat[:, 0].max() <= splits["val"].lonlat[:, 0].min()
    assert splits["val"].lonlat[:, 0].max() <= splits["test"].lonlat[:, 0].min()


@needs_shared
def test_real_jpegs_equal_pillows_and_torchvisions(tmp_path):
    from torchvision.io import decode_image

    dataset = open_rgb(SHARED / "eurosat-rgb", "val", cache_dir=tmp_path)
    assert len(dataset) == 4320
    for index in range(0, 4320, 200):
        name = dataset.ids[index]
        path = dataset.images.folder / class_of(name) / f"{name}.jpg"
        pixels = np.stack(dataset.read(index, dataset.bands))
        with Image.open(path) as image:
            assert np.array_equal(pixels, np.moveaxis(np.asarray(image), -1, 0))
        assert np.array_equal(pixels, decode_image(str(path)).numpy())


def test_all_splits_come_from_one_listing(tiny, monkeypatch):
    listed = []
    kept = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: listed.append(str(path)) or kept(path))
    opened = eurosat.open_dataset(DatasetRequest(tiny))
    assert list(opened) == list(SPLITS) and sum("Forest" in path for path in listed) == 1
    assert [opened[split].ids for split in SPLITS] == [open_ms(tiny, split).ids for split in SPLITS]


def test_a_changed_image_is_another_identity_and_unpacking_again_is_not(tmp_path):
    def digest():
        return listed_images(tmp_path, ".jpg").digest(["Forest_1"])

    picture = tmp_path / "Forest" / "Forest_1.jpg"
    picture.parent.mkdir()
    picture.write_bytes(b"one")
    os.utime(picture, (1, 1))
    before = digest()
    (tmp_path / "Forest" / "Forest_1.jpg.aux.xml").write_text("of a viewer")
    assert digest() == before
    picture.write_bytes(b"two")
    assert digest() != before
