"""What files declare about their values, all the way: nodata, masks, NaN, scale and offset, in every reader."""

import os
import shutil
import struct
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
import rasterio
from made_tiffs import open_folder, write_tif
from opening import open_split

from data import nodata
from data.bands import SENTINEL2
from data.declared import Header
from data.errors import RequestError
from data.images import read_bands, read_header, read_values
from data.packed import PackedSplit
from data.packing import pack
from data.sources import bigearthnet
from data.store import make_identity
from featurize.cli import app
from featurize.encoder import EncoderRequest, build_encoder
from featurize.guards import check_inputs
from featurize.look import look_at

SHARED = Path(os.environ.get("EO_SHARED", Path(__file__).parents[1].parent / "shared"))
NAMES = ("B02", "B03", "B04", "B08")
READERS = {"bytes": {}, "GDAL": {"compress": "lzw"}, "GDAL, tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16}}
PLAIN = {"B02": 500.0, "B03": 600.0, "B04": 700.0, "B08": 2500.0}


def scene(rng, dtype, side=16):
    """Pixels of four bands around their means."""
    means = np.array(list(PLAIN.values()))[:, None, None]
    return rng.normal(means, 80, (4, side, side)).round().astype(dtype)


def make(root, *, nodata, dtype="int16", hole=8, count=12, **options):
    """Class folders; every third image has no measurement in its first columns. Returns the whole images."""
    rng, whole = np.random.default_rng(0), {}
    for number in range(count):
        for split in ("train", "val", "test"):
            pixels = scene(rng, dtype)
            path = root / split / "ab"[number % 2] / f"{number}.tif"
            whole[path.relative_to(root).as_posix()] = pixels.copy()
            if number % 3 == 0 and hole:
                pixels[:, :, :hole] = nodata
            write_tif(path, pixels, names=NAMES, nodata=nodata, **options)
    return whole


@pytest.mark.parametrize("options", READERS.values(), ids=READERS)
@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("int16", -9999), ("uint16", 0), ("uint16", 65535), ("float32", float(np.finfo("f4").min)), ("float64", np.nan),
     ("uint8", 255), ("float32", -9999.0), ("int32", -(2**31)), ("float32", 1e20)],
)  # fmt: skip
def test_the_same_pixels_are_invalid_as_in_rasterio(tmp_path, options, dtype, nodata):
    pixels = np.arange(1, 1 + 2 * 16 * 20).reshape(2, 16, 20).astype(dtype)
    pixels[0, :3] = pixels[1, 5] = nodata
    write_tif(tmp_path / "x.tif", pixels, names=NAMES[:2], nodata=nodata, **options)
    with rasterio.open(tmp_path / "x.tif") as source:
        theirs = source.read(masked=True)
    for index, (ours, invalid) in enumerate(read_values(tmp_path / "x.tif", [0, 1], count=2)):
        assert np.array_equal(ours, theirs.data[index], equal_nan=True)
        assert np.array_equal(invalid, theirs.mask[index])


@pytest.mark.parametrize("nodata", ["-99", "300", "0.5", "1e9", "nan"])
@pytest.mark.parametrize("options", READERS.values(), ids=READERS)
def test_a_nodata_value_that_the_type_cannot_hold_marks_nothing(tmp_path, options, nodata):
    write_tif(tmp_path / "x.tif", np.zeros((1, 16, 16), np.uint8), names=["red"], nodata=7, **options)
    content = (tmp_path / "x.tif").read_bytes()
    tag = struct.pack("<HHI4s", 42113, 2, 2, b"7")  # in the directory itself, as long as it has at most four characters
    assert tag in content
    other = struct.pack("<HHI4s", 42113, 2, len(nodata) + 1, nodata.encode())
    (tmp_path / "x.tif").write_bytes(content.replace(tag, other))
    (one,) = read_values(tmp_path / "x.tif", [0], count=1)
    assert one.invalid is None


@pytest.mark.parametrize("options", READERS.values(), ids=READERS)
def test_nodata_is_refused_with_counts_and_the_flag(tmp_path, options):
    make(tmp_path, nodata=-9999, **options)
    with pytest.raises(RequestError) as error:
        open_folder(tmp_path)
    for fact in (
        "4 of 12 images hold nodata",
        "2,048 values (16.7%",
        "'train/a/0.tif'",
        "--nodata fill",
        "--nodata keep",
    ):
        assert fact in str(error.value)


@pytest.mark.parametrize("options", READERS.values(), ids=READERS)
@pytest.mark.parametrize(("dtype", "nodata"), [("int16", -9999), ("float32", -3.4e38), ("float32", np.nan)])
def test_filled_pixels_get_the_mean_of_those_that_were_measured(tmp_path, capfd, options, dtype, nodata):
    whole = make(tmp_path, nodata=nodata, dtype=dtype, **options)
    samples = open_folder(tmp_path, nodata="fill")
    assert "4 of 12 images hold nodata" in capfd.readouterr().err
    for band in samples.bands:
        assert samples.statistics[band.name].mean == pytest.approx(PLAIN[band.name], abs=10)
        assert samples.statistics[band.name].std == pytest.approx(80, abs=8)
    for row, name in enumerate(samples.ids):
        for index, pixels in enumerate(samples.read(row, samples.bands)):
            hole = 8 if int(name.split("/")[-1][:-4]) % 3 == 0 else 0
            assert np.array_equal(pixels[:, hole:], whole[name][index, :, hole:])
            assert (np.abs(pixels[:, :hole] - samples.statistics[samples.bands[index].name].mean) <= 0.5).all()
    identity = make_identity(samples, {"bands": NAMES})
    assert identity["split"]["nodata"]["images"] == 4
    assert identity["split"]["nodata"]["values"] == 4 * 4 * 16 * 8


def test_data_without_nodata_keep_their_identity_whatever_the_flag(tmp_path):
    make(tmp_path / "tagged", nodata=-9999, hole=0)
    plain = make_identity(open_folder(tmp_path / "tagged"), {"bands": NAMES})
    assert plain == make_identity(open_folder(tmp_path / "tagged", nodata="fill"), {"bands": NAMES})
    assert plain == make_identity(open_folder(tmp_path / "tagged", nodata="keep"), {"bands": NAMES})
    assert "nodata" not in plain["split"]


def test_kept_values_are_those_stored(tmp_path):
    make(tmp_path, nodata=-9999)
    samples = open_folder(tmp_path, nodata="keep")
    assert samples.read(0, samples.bands)[0].min() == -9999
    assert samples.statistics["B02"].mean < 0
    assert samples.nodata is None


def test_nan_that_nobody_declared_is_no_measurement_either(tmp_path):
    whole = make(tmp_path, nodata=np.nan, dtype="float32", hole=0)
    pixels = next(iter(whole.values()))
    pixels[0, 0, 0] = np.nan
    write_tif(tmp_path / "train" / "a" / "0.tif", pixels, names=NAMES)
    with pytest.raises(RequestError, match="nodata"):
        samples = open_folder(tmp_path)
        [samples.read(row, samples.bands) for row in range(len(samples))]
    filled = open_folder(tmp_path, nodata="fill")
    assert np.isfinite(filled.read(0, filled.bands)[0]).all()


def test_the_files_own_mask_counts(tmp_path):
    make(tmp_path, nodata=None, hole=0)
    path = tmp_path / "train" / "a" / "0.tif"
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as target:
        mask = np.full((16, 16), 255, np.uint8)
        mask[:4] = 0
        target.write_mask(mask)
    assert read_values(path, [0], count=4)[0].invalid.sum() == 4 * 16
    with pytest.raises(RequestError, match="1 of 12 images hold nodata"):
        open_folder(tmp_path)


def test_the_fourth_of_four_8_bit_bands_is_no_mask(tmp_path):
    pixels = np.zeros((4, 8, 8), np.uint8)
    write_tif(tmp_path / "x.tif", pixels)  # GDAL calls the fourth alpha
    with rasterio.open(tmp_path / "x.tif") as source:
        assert source.colorinterp[3].name == "alpha"
    assert [one.invalid for one in read_values(tmp_path / "x.tif", range(4), count=4)] == [None] * 4


def test_a_packed_file_has_the_filled_values_and_their_identity(tmp_path):
    make(tmp_path / "in", nodata=-9999)
    splits = {split: open_folder(tmp_path / "in", split, nodata="fill") for split in ("train", "test")}
    pack(tmp_path / "x.h5", splits, splits["train"].bands, workers=0)
    packed = PackedSplit(tmp_path / "x.h5", "train")
    for row in range(12):
        for one, other in zip(packed.read(row, packed.bands), splits["train"].read(row, packed.bands), strict=True):
            assert np.array_equal(one, other)
    assert make_identity(packed, {"bands": NAMES}) == make_identity(splits["train"], {"bands": NAMES})


def test_guards_leave_filled_pixels_out(tmp_path):
    make(tmp_path, nodata=-9999, hole=16)  # a third of the images has nothing but nodata
    samples = open_folder(tmp_path, nodata="fill")
    request = EncoderRequest(bands=(), statistics=samples.statistics, training=lambda: samples)
    encoder = build_encoder("stats", samples, "all", request)
    look = look_at(samples, encoder)
    assert look.native.min() > 0
    assert look.native.mask.mean() == pytest.approx(1 / 3, abs=0.02)
    check_inputs(samples, encoder)
    assert look_at(open_folder(tmp_path, nodata="keep"), encoder).native.min() == -9999


def test_a_band_of_nothing_but_nodata_is_named(tmp_path):
    make(tmp_path, nodata=-9999)
    for path in tmp_path.rglob("*.tif"):
        with rasterio.open(path, "r+") as target:
            target.write(np.full((16, 16), -9999, np.int16), 2)
    with pytest.raises(RequestError, match="B03 has no measurement"):
        open_folder(tmp_path, nodata="fill")


def featurize(root, out, *flags):
    command = ["--model", "stats", "--dataset", "folder", "--data-root", root, "--bands", "all", "--out", out, *flags]
    return app(list(map(str, command)), exit_on_error=False, print_error=False, result_action="return_value")


def test_the_flag_reaches_the_features(tmp_path):
    make(tmp_path / "in", nodata=-9999)
    with pytest.raises(RequestError, match="--nodata fill"):
        featurize(tmp_path / "in", tmp_path / "out")
    assert featurize(tmp_path / "in", tmp_path / "out", "--nodata", "fill") == 0
    (file,) = (tmp_path / "out").rglob("train.h5")
    with h5py.File(file) as features:
        assert features["features"][:].min() > -100
    with pytest.raises(RequestError, match="--nodata: simulated"):
        app(
            ["--model", "stats", "--dataset", "simulated", "--nodata", "fill", "--out", str(tmp_path)],
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )


# --- scale and offset


@pytest.mark.parametrize("options", READERS.values(), ids=READERS)
def test_declared_reflectance_becomes_digital_numbers_and_is_the_same_as_without(tmp_path, options):
    rng = np.random.default_rng(1)
    for number in range(6):
        pixels = scene(rng, "uint16")
        write_tif(tmp_path / "old" / "train" / "a" / f"{number}.tif", pixels, names=NAMES, **options)
        scaled = {"scales": (0.0001,) * 4, "offsets": (-0.1,) * 4}
        path = tmp_path / "new" / "train" / "a" / f"{number}.tif"
        write_tif(path, (pixels + 1000).astype("uint16"), names=NAMES, tags=scaled, **options)
    old, new = open_folder(tmp_path / "old"), open_folder(tmp_path / "new")
    for row in range(6):
        for one, other in zip(old.read(row, old.bands), new.read(row, new.bands), strict=True):
            assert other.dtype == np.float32
            assert np.array_equal(one, other)
    assert old.statistics == new.statistics
    # v0.1 read the values as stored, under the identity without a scale: they must not be taken for these
    identities = [make_identity(samples, {"bands": NAMES})["split"] for samples in (old, new)]
    assert [identity.get("scaled") for identity in identities] == [None, True]
    pack(tmp_path / "x.h5", {"train": new}, new.bands, workers=0)
    assert make_identity(PackedSplit(tmp_path / "x.h5", "train"), {"bands": NAMES})["split"]["scaled"]


def test_scales_apply_to_each_band_and_to_any_unit(tmp_path):
    pixels = np.broadcast_to(np.arange(16, dtype=np.int16), (3, 16, 16))
    tags = {"scales": (1.0, 0.5, 0.0001), "offsets": (-3.0, 0.0, 0.0)}
    write_tif(tmp_path / "train" / "a" / "x.tif", pixels, names=("B02", "VV", "B03"), tags=tags)
    samples = open_folder(tmp_path)
    b02, vv, b03 = samples.read(0, samples.bands)
    assert b02[0].tolist() == [value - 3 for value in range(16)]  # digital numbers stay so
    assert vv[0].tolist() == [value / 2 for value in range(16)]
    assert b03[0].tolist() == [float(value) for value in range(16)]  # reflectance becomes digital numbers


def test_nodata_is_a_stored_value_and_scale_does_not_hide_it(tmp_path):
    pixels = np.full((1, 8, 8), 1500, np.uint16)
    pixels[0, 0] = 0
    write_tif(tmp_path / "x.tif", pixels, nodata=0, tags={"scales": (0.0001,), "offsets": (-0.1,)})
    (one,) = read_values(tmp_path / "x.tif", [0], count=1)
    assert one.invalid.sum() == 8
    assert one.pixels[1, 0] == pytest.approx(0.05)
    assert read_bands(tmp_path / "x.tif", [0], count=1, nodata="fill", fill=[7.5])[0][0, 0] == 7.5


# --- kinds of files


def test_complex_values_ask_for_amplitude(tmp_path):
    write_tif(tmp_path / "x.tif", np.ones((1, 8, 8), np.complex64))
    for read in (lambda path: read_header(path), lambda path: read_bands(path, [0], count=1)):
        with pytest.raises(RequestError, match="complex.*amplitude"):
            read(tmp_path / "x.tif")


def test_several_pages_are_counted(tmp_path):
    for number in range(3):
        with rasterio.open(
            tmp_path / "x.tif",
            "w",
            driver="GTiff",
            width=8,
            height=8,
            count=1,
            dtype="uint8",
            APPEND_SUBDATASET=number > 0,
        ) as page:
            page.write(np.full((1, 8, 8), number, np.uint8))
    for read in (lambda path: read_header(path), lambda path: read_bands(path, [0], count=1)):
        with pytest.raises(RequestError, match="3 images .pages."):
            read(tmp_path / "x.tif")


def test_a_colour_table_is_refused(tmp_path):
    with rasterio.open(tmp_path / "x.tif", "w", driver="GTiff", width=8, height=8, count=1, dtype="uint8") as target:
        target.write_colormap(1, {0: (255, 0, 0, 255), 1: (0, 0, 255, 255)})
        target.write(np.zeros((1, 8, 8), np.uint8))
    with pytest.raises(RequestError, match="palette indices"):
        read_header(tmp_path / "x.tif")


@pytest.mark.parametrize("nodata", [None, 7])
@pytest.mark.parametrize("compress", ["deflate", "lzw", "none"])
def test_blocks_that_were_never_written_read_as_in_rasterio(tmp_path, nodata, compress):
    about = {"driver": "GTiff", "width": 64, "height": 64, "count": 2, "dtype": "uint16", "nodata": nodata}
    with rasterio.open(tmp_path / "x.tif", "w", **about, blockysize=8, compress=compress, sparse_ok=True) as target:
        target.write(np.full((2, 16, 64), 3, np.uint16), window=((0, 16), (0, 64)))
    with rasterio.open(tmp_path / "x.tif") as source:
        theirs = source.read(masked=True)
    for index, one in enumerate(read_values(tmp_path / "x.tif", [0, 1], count=2)):
        assert np.array_equal(one.pixels, theirs.data[index])
        assert np.array_equal(
            np.zeros((64, 64), bool) if one.invalid is None else one.invalid, np.ma.getmaskarray(theirs)[index]
        )


def test_what_is_declared_beside_a_file_counts(tmp_path):
    make(tmp_path, nodata=None, hole=0, count=3)
    path = tmp_path / "train" / "a" / "0.tif"
    beside = "<PAMDataset><PAMRasterBand band='1'><NoDataValue>{}</NoDataValue></PAMRasterBand></PAMDataset>"
    value = read_bands(path, [0], count=4)[0][0, 0]
    path.with_name("0.tif.aux.xml").write_text(beside.format(value))
    with pytest.raises(RequestError, match="1 of 3 images hold nodata"):
        open_folder(tmp_path)


def test_nodata_is_counted_once_for_the_same_files(tmp_path, monkeypatch, capsys):
    make(tmp_path / "in", nodata=-9999)
    cache = tmp_path / "cache"
    first = open_folder(tmp_path / "in", nodata="fill", cache_dir=cache)
    told = capsys.readouterr().err
    counted = []
    monkeypatch.setattr(nodata, "_counted", lambda dataset, rows: counted.append(rows) or nodata.Count())
    again = open_folder(tmp_path / "in", nodata="fill", cache_dir=cache)
    assert not counted and again.nodata == first.nodata and capsys.readouterr().err == told
    with pytest.raises(RequestError, match="4 of 12 images hold nodata"):
        open_folder(tmp_path / "in", nodata="refuse", cache_dir=cache)
    (index,) = cache.glob("*.npz")
    index.write_bytes(index.read_bytes()[:100])
    open_folder(tmp_path / "in", nodata="fill", cache_dir=cache)
    assert len(counted) == 1
    os.utime(tmp_path / "in" / "train" / "a" / "0.tif", (1, 1))
    open_folder(tmp_path / "in", nodata="fill", cache_dir=cache)
    assert len(counted) == 2


def test_a_mask_beside_a_file_counts(tmp_path):
    """GDAL writes masks so unless told otherwise."""
    make(tmp_path, nodata=None, hole=0, count=3)
    path = tmp_path / "train" / "a" / "0.tif"
    mask = np.full((16, 16), 255, np.uint8)
    mask[0, :3] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(path, "r+") as target:
        target.write_mask(mask)
    assert path.with_name("0.tif.msk").exists()
    with pytest.raises(RequestError, match="1 of 3 images hold nodata, 12 values"):
        open_folder(tmp_path)
    dataset = open_folder(tmp_path, nodata="fill")
    index = dataset.ids.index("train/a/0.tif")
    filled = dataset.read(index, dataset.bands)[0]
    assert (filled[0, :3] == filled[0, 0]).all() and abs(filled[0, 0] - dataset.statistics["B02"].mean) <= 0.5


def test_header_and_pixels_are_of_one_reader(tmp_path):
    write_tif(tmp_path / "x.tif", np.ones((2, 8, 8), np.int16), names=NAMES[:2], nodata=4, compress="packbits")
    header = read_header(tmp_path / "x.tif")
    assert isinstance(header, Header)
    assert (header.count, header.dtype, header.declared.nodata) == (2, "int16", (4, 4))


@pytest.mark.skipif(not (SHARED / "data" / "bigearthnet-v2").is_dir(), reason="no shared data; set EO_SHARED")
def test_bigearthnet_takes_0_for_a_value_unless_told_to_fill(tmp_path):
    shutil.copytree(SHARED / "data" / "bigearthnet-v2", tmp_path / "in", copy_function=shutil.copyfile)
    subprocess.run(["chmod", "-R", "u+w", tmp_path / "in"], check=True)
    file = next((tmp_path / "in").rglob("*_B02.tif"))
    with rasterio.open(file, "r+") as target:
        assert target.nodata == 0
        pixels = target.read(1)
        pixels[:5] = 0
        target.write(pixels, 1)
    about = {"cache_dir": tmp_path, "bands": ("B02",), "allow_missing": True}
    for how, first in ((None, 0), ("keep", 0), ("fill", 435)):
        samples = open_split(bigearthnet, "val", tmp_path / "in", nodata=how, **about)
        (read,) = samples.read(0, [SENTINEL2["B02"]])
        assert read[0, 0] == first
        assert (read[6] == pixels[6]).all()
        assert bool(make_identity(samples, {"bands": ["B02"]})["split"].get("nodata")) == (how == "fill")
    samples = open_split(bigearthnet, "val", tmp_path / "in", nodata="refuse", **about)
    with pytest.raises(RequestError, match="600 values of 14,400"):
        samples.read(0, [SENTINEL2["B02"]])
