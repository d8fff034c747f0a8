"""Scenes: windows of rasters, products and folders, what is measured in them, and bad input."""

import json
import os
import pickle

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from made_scene import SIGNATURES, TRANSFORM, make_pixels, make_scene, make_truth, write_raster
from opening import open_split

from data.errors import RequestError
from data.packed import PackedSplit
from data.packing import pack
from data.sources import scene


def opened(root, tmp_path, **asked):
    return open_split(scene, "test", root, cache_dir=tmp_path / "cache", **{"tile": 64, **asked})


def test_windows_are_the_rasters_own_pixels(tmp_path):
    file, truth = make_scene(tmp_path, tiled=True, blockxsize=64, blockysize=64)
    windows = pickle.loads(pickle.dumps(opened(file, tmp_path, stride=32)))
    pixels = make_pixels(truth)
    assert len(windows) == 7 * 7
    assert windows.ids[8] == "r00032_c00032"
    assert windows.footprint[8].tolist() == [0, 32, 32]
    bands = windows.bands[::-1]  # in whatever order they are asked for
    ((channels, stack),) = windows.read_stacks([3, 4, 9, 20], bands)
    assert channels == [0, 1, 2, 3]
    for place, index in enumerate((3, 4, 9, 20)):
        _, row, column = windows.footprint[index]
        expected = pixels[::-1, row : row + 64, column : column + 64]
        assert (stack[place] == expected).all()
        assert (np.stack(windows.read(index, bands)) == expected).all()


def test_windows_of_a_block_follow_each_other_and_are_read_together(tmp_path, monkeypatch):
    pixels = np.arange(600 * 600, dtype=np.uint32).reshape(1, 600, 600)
    tiled = {"tiled": True, "blockxsize": 256, "blockysize": 256}
    for name, more, blocks in (("tiled", tiled, (2, 2)), ("striped", {}, (9, 1))):
        file = write_raster(tmp_path / f"{name}.tif", pixels, names=["B02"], **more)
        windows = opened(file, tmp_path)
        block = np.array(windows.scenes[0].block)
        of_window = [tuple(place) for place in (windows.footprint[:, 1:] // block).tolist()]
        changes = [one for one, other in zip(of_window, [None, *of_window], strict=False) if one != other]
        assert len(changes) == len(set(changes)) == np.prod(blocks), "no block is left and returned to"
        reads = []
        monkeypatch.setattr(type(windows.scenes[0]), "read", _counted(type(windows.scenes[0]).read, reads))
        ((_, stack),) = windows.read_stacks(range(len(windows)), windows.bands)
        assert len(reads) == np.prod(blocks)
        for (_, row, column), window in zip(windows.footprint, stack, strict=True):
            assert (window == pixels[:, row : row + 64, column : column + 64]).all()
        monkeypatch.undo()


def _counted(read, calls):
    def counted(*given):
        calls.append(given[1:])
        return read(*given)

    return counted


def test_packed_windows_keep_their_places(tmp_path):
    windows = opened(make_scene(tmp_path)[0], tmp_path, stride=32)
    pack(tmp_path / "a.h5", {"test": windows}, windows.bands)
    held = PackedSplit(tmp_path / "a.h5", "test")
    assert (held.footprint == windows.footprint).all() and held.footprint.dtype == np.int32
    assert (np.stack(held.read(9, held.bands)) == np.stack(windows.read(9, held.bands))).all()


def test_centres_are_where_the_transform_says(tmp_path):
    file, _ = make_scene(tmp_path)
    windows = opened(file, tmp_path)
    with rasterio.open(file) as source:
        x, y = source.transform @ (64 + 32, 32)
    from pyproj import Transformer

    expected = Transformer.from_crs("EPSG:32632", "EPSG:4326", always_xy=True).transform(x, y)
    assert np.allclose(windows.lonlat[1], expected, atol=1e-9)


def test_windows_with_too_little_data_are_left_out_and_the_rest_is_filled(tmp_path):
    truth = make_truth()
    pixels = make_pixels(truth)
    pixels[:, :40, :64] = 0  # 62% of the first window
    pixels[1, 70:80, 70:80] = 0  # one band only
    file = write_raster(tmp_path / "scene.tif", pixels, names=list(SIGNATURES), nodata=0)
    windows = opened(file, tmp_path, min_valid=0.8)
    assert "r00000_c00000" not in windows.ids
    assert len(windows) == 15
    index = windows.ids.index("r00064_c00064")
    green = windows.read(index, [windows.bands[1]])[0]
    mean = round(windows.statistics["B03"].mean)
    assert (green[6:16, 6:16] == mean).all()
    assert (green[20:] == pixels[1, 84:128, 64:128]).all()
    assert windows.nodata["values"] == 100
    assert len(opened(file, tmp_path, min_valid=0.3)) == 16


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path):
    file, _ = make_scene(tmp_path, nodata=0)
    (tmp_path / "cache").write_text("a file, in which nothing can be kept")
    assert len(opened(file, tmp_path)) == 16


def test_a_changed_mask_and_a_changed_source_of_a_vrt_are_noticed(tmp_path):
    file, _ = make_scene(tmp_path / "a")
    mask = np.full((256, 256), 255, np.uint8)
    mask[:64] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(file, "r+") as raster:
        raster.write_mask(mask)
    masked = opened(file, tmp_path)
    file.with_name("scene.tif.msk").unlink()
    whole = opened(file, tmp_path)
    assert (len(masked), len(whole)) == (12, 16) and masked.files_digest != whole.files_digest
    vrt = tmp_path / "b.vrt"
    rasterio.shutil.copy(str(file), str(vrt), driver="VRT")
    before = opened(vrt, tmp_path)
    os.utime(file, (0, 0))
    after = opened(vrt, tmp_path)
    assert before.files_digest != after.files_digest and (before.looked != after.looked).all()


@pytest.mark.parametrize(("edge", "count"), [("drop", 4), ("pad", 9)])
def test_windows_beyond_the_edge_are_dropped_or_padded(tmp_path, edge, count):
    file, truth = make_scene(tmp_path, side=150)
    windows = opened(file, tmp_path, edge=edge, min_valid=0.1)
    assert len(windows) == count
    if edge == "pad":
        last = np.stack(windows.read(8, windows.bands))
        assert (last[:, :22, :22] == make_pixels(truth)[:, 128:, 128:]).all()
        assert (last[0, 22:] == round(windows.statistics["B02"].mean)).all()


def test_coarser_bands_repeat_their_values_on_the_finest_grid(tmp_path):
    pixels = make_pixels(make_truth())
    folder = tmp_path / "scene"
    coarse = pixels[3, ::2, ::2]
    for number, name in enumerate(("B02", "B03", "B04")):
        write_raster(folder / f"{name}.tif", pixels[[number]])
    write_raster(folder / "T32_B8A_20m.tif", coarse[None], transform=TRANSFORM @ TRANSFORM.scale(2))
    windows = opened(folder, tmp_path, tile=50, stride=25)
    assert [band.name for band in windows.bands] == ["B02", "B03", "B04", "B8A"]
    index = windows.ids.index("r00025_c00075")
    expected = np.repeat(np.repeat(coarse, 2, 0), 2, 1)[25:75, 75:125]
    assert (windows.read(index, windows.bands[3:])[0] == expected).all()


def make_safe(tmp_path, pixels, *, level="2A", offset=-1000, driver="JP2OpenJPEG"):
    folder = tmp_path / f"S2A_MSIL{level}_20230601T103031_T32UNV.SAFE"
    images = folder / "GRANULE" / "L_T32UNV" / "IMG_DATA"
    lossless = {"QUALITY": "100", "REVERSIBLE": "YES"}
    for number, name in enumerate(SIGNATURES):
        below = images / "R10m" / f"T32UNV_{name}_10m.jp2" if level == "2A" else images / f"T32UNV_{name}.jp2"
        write_raster(below, pixels[[number]], driver=driver, **lossless)
    tag = "BOA_ADD_OFFSET" if level == "2A" else "RADIO_ADD_OFFSET"
    offsets = "".join(f'<{tag} band_id="{n}">{offset}</{tag}>' for n in range(13))
    text = f'<?xml version="1.0"?><n1:Product xmlns:n1="x">{offsets if offset else ""}</n1:Product>'
    (folder / f"MTD_MSIL{level}.xml").write_text(text)
    return folder


@pytest.mark.parametrize("level", ["1C", "2A"])
def test_products_lose_their_offset_and_zero_is_no_data(tmp_path, level):
    pixels = make_pixels(make_truth()) + np.uint16(1000)
    pixels[:, :10, :10] = 0
    pixels[:, 100, 100] = 900  # darker than the offset
    windows = opened(make_safe(tmp_path, pixels, level=level), tmp_path)
    assert [band.name for band in windows.bands] == list(SIGNATURES)
    first = windows.read_values(0, windows.bands)
    assert first[0].invalid[:10, :10].all()
    assert first[0].invalid.sum() == 100
    assert (first[0].pixels[20:] == pixels[0, 20:64, :64] - 1000).all()
    assert windows.read(5, windows.bands)[2][36, 36] == 0


def test_products_before_the_offset_are_taken_as_they_are(tmp_path):
    pixels = make_pixels(make_truth())
    windows = opened(make_safe(tmp_path, pixels, offset=0), tmp_path)
    assert (windows.read(0, windows.bands)[1] == pixels[1, :64, :64]).all()


def test_clouds_of_the_scene_classification_are_no_measurements(tmp_path):
    folder = make_safe(tmp_path, make_pixels(make_truth()) + np.uint16(1000))
    classes = np.full((1, 128, 128), 4, np.uint8)
    classes[0, :32, :32] = 9  # cloud over the first 64 x 64 pixels
    classes[0, 40, 40] = 11  # snow is a measurement
    place = next(folder.glob("GRANULE/*/IMG_DATA")) / "R20m" / "T32UNV_SCL_20m.jp2"
    transform = TRANSFORM @ TRANSFORM.scale(2)
    write_raster(place, classes, driver="JP2OpenJPEG", transform=transform, QUALITY="100", REVERSIBLE="YES")
    windows = opened(folder, tmp_path)
    assert "r00000_c00000" not in windows.ids
    assert len(windows) == 15
    assert windows.nodata is None


def test_stac_items_of_local_files(tmp_path):
    pixels = make_pixels(make_truth()) + np.uint16(1000)
    assets = {}
    for number, (key, name) in enumerate(zip(("blue", "green", "red", "nir"), SIGNATURES, strict=True)):
        write_raster(tmp_path / "assets" / f"{name}.tif", pixels[[number]])
        about = {"href": f"./assets/{name}.tif", "raster:bands": [{"scale": 0.0001, "offset": -0.1}]}
        assets[key] = about
    assets["thumbnail"] = {"href": "https://example.org/a.jpg"}
    item = tmp_path / "item.json"
    item.write_text(json.dumps({"type": "Feature", "id": "S2A_x", "assets": assets}))
    windows = opened(item, tmp_path)
    assert [band.name for band in windows.bands] == list(SIGNATURES)
    assert (windows.read(0, windows.bands)[3] == pixels[3, :64, :64] - 1000).all()
    assets["red"]["href"] = "https://example.org/B04.tif"
    item.write_text(json.dumps({"type": "Feature", "id": "S2A_x", "assets": assets}))
    with pytest.raises(RequestError, match="B04.tif"):
        opened(item, tmp_path)


def test_a_folder_of_scenes_is_one_dataset(tmp_path):
    make_scene(tmp_path / "a", side=128)
    file, truth = make_scene(tmp_path / "b", side=192, seed=3)
    many = tmp_path / "many"
    many.mkdir()
    (tmp_path / "a" / "scene.tif").rename(many / "west.tif")
    file.rename(many / "east.tif")
    windows = opened(many, tmp_path)
    assert len(windows) == 9 + 4
    assert windows.ids[0] == "east/r00000_c00000"
    ((_, stack),) = windows.read_stacks(range(13), windows.bands)
    assert (stack[8] == make_pixels(truth, seed=3)[:, 128:, 128:]).all()
    assert (stack[9] == windows.read(9, windows.bands)).all()
    (many / "north.tif").write_bytes((many / "west.tif").read_bytes()[:1000])
    with pytest.raises(RequestError, match=r"north\.tif"):
        opened(many, tmp_path)
    rasterio.shutil.copy(str(many / "east.tif"), str(many / "north.tif"), driver="COG")  # its directory comes first
    (many / "north.tif").write_bytes((many / "north.tif").read_bytes()[:100_000])
    with pytest.raises(RequestError, match=r"north\.tif \((?!Read failed)"):
        opened(many, tmp_path)


def test_bad_scenes_are_one_clear_error(tmp_path):
    pixels = make_pixels(make_truth(128))
    bare = write_raster(tmp_path / "bare.tif", pixels, names=list(SIGNATURES), crs=None)
    unnamed = write_raster(tmp_path / "unnamed.tif", pixels)
    empty = write_raster(tmp_path / "empty.tif", np.zeros_like(pixels), names=list(SIGNATURES), nodata=0)
    good = write_raster(tmp_path / "good.tif", pixels, names=list(SIGNATURES))
    cases = [
        (bare, {}, "bare.tif.*georeference"),
        (unnamed, {}, "unnamed.tif"),
        (empty, {}, "0% valid pixels.*nodata"),
        (good, {"tile": 129}, "--tile 129.*128 x 128"),
        (good, {"stride": 65}, "--stride 65"),
        (good, {"min_valid": 1.5}, "--min-valid 1.5"),
        (tmp_path / "absent.tif", {}, "absent.tif"),
    ]
    for root, asked, pattern in cases:
        with pytest.raises(RequestError, match=pattern):
            opened(root, tmp_path, **asked)


def test_a_map_too_fine_for_memory_is_refused_before_anything_is_embedded(tmp_path):
    file = write_raster(tmp_path / "a.tif", np.ones((1, 3300, 3300), np.uint8), names=["B02"])
    with pytest.raises(RequestError, match="--stride 63.*such as 32"):
        opened(file, tmp_path, stride=63)


def test_bands_in_another_reference_system_are_refused(tmp_path):
    pixels = make_pixels(make_truth(128))
    write_raster(tmp_path / "s" / "B02.tif", pixels[:1])
    write_raster(tmp_path / "s" / "B03.tif", pixels[1:2], crs="EPSG:32633")
    with pytest.raises(RequestError, match="EPSG:3263[23].*gdalwarp"):
        opened(tmp_path / "s", tmp_path)


def test_a_band_on_a_shifted_grid_is_moved_to_the_scenes(tmp_path):
    pixels = make_pixels(make_truth(128))
    write_raster(tmp_path / "s" / "B02.tif", pixels[:1])
    shifted = TRANSFORM @ TRANSFORM.translation(10, 0)
    write_raster(tmp_path / "s" / "B03.tif", pixels[1:2, :, 10:], transform=shifted)
    windows = opened(tmp_path / "s", tmp_path)
    green = windows.read_values(0, windows.bands[1:])[0]
    assert (green.pixels[:, 10:] == pixels[1, :64, 10:64]).all()
    assert green.invalid[:, :10].all()
