"""A user's own images: class folders and tables, band names, image formats, and every way they can be wrong."""

import json
import os
import pickle

import made_tiffs
import numpy as np
import pandas as pd
import pytest
import rasterio
from opening import open_split
from PIL import Image, ImageFile
from rasterio.crs import CRS
from rasterio.transform import from_origin

from data import command
from data.dataset import SPLITS
from data.errors import RequestError
from data.flags import DatasetRequest
from data.images import read_bands, read_header
from data.places import lonlat_of
from data.sources import _folder_inspection, folder


def open_folder(root, split="train", **more):
    return open_split(folder, split, root, **more)


def write_picture(path, *, size=(8, 6), colour=(10, 20, 30), mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


def write_tif(path, pixels, *, west=500_000, **more):
    """A TIFF of (C, H, W) pixels, its corner at easting `west` in UTM zone 33 unless told otherwise."""
    made_tiffs.write_tif(path, pixels, corner=(west, 5_000_000, 10, 10), **more)


def constant(*values, dtype=np.uint16, size=16):
    return np.broadcast_to(np.array(values, dtype)[:, None, None], (len(values), size, size))


def write_table(root, rows, name="labels.csv"):
    root.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    if name.endswith(".csv"):
        frame.to_csv(root / name, index=False)
    else:
        frame.to_parquet(root / name)


@pytest.fixture
def splits(tmp_path):
    """Class folders in split folders; River is not in val."""
    root = tmp_path / "my tiles"
    for split, classes in {"train": "ab", "validation": "a", "test": "ab"}.items():
        for name in classes:
            for number in range(2):
                write_picture(root / split / {"a": "Forest", "b": "River"}[name] / f"{number}.png")
    return root


@pytest.fixture
def table(tmp_path):
    root = tmp_path / "table"
    for number in range(4):
        write_picture(root / "images" / f"{number}.png", colour=(number, 0, 0))
    rows = [
        {"path": "images/0.png", "labels": "Arable land;Urban fabric", "split": "train"},
        {"path": "images/1.png", "labels": "Beaches, dunes, sands", "split": "train"},
        {"path": "images/2.png", "labels": "Urban fabric|Arable land", "split": "validation"},
        {"path": "images/3.png", "labels": "Arable land", "split": "test"},
    ]
    write_table(root, rows)
    return root, rows


# --- class folders


def test_split_folders_give_their_own_splits(splits):
    dataset = open_folder(splits)
    assert dataset.ids == ["train/Forest/0.png", "train/Forest/1.png", "train/River/0.png", "train/River/1.png"]
    assert dataset.labels.tolist() == [0, 0, 1, 1]
    assert dataset.labels.dtype == np.int64
    assert dataset.provenance == {"split": "split folders", "bands": ["red", "green", "blue"]}
    assert dataset.variant == "my-tiles"


def test_split_that_lacks_a_class_keeps_the_union_of_classes(splits):
    dataset = open_folder(splits, "val")
    assert dataset.labels.tolist() == [0, 0]
    assert dataset.class_names == ("Forest", "River")


def test_bare_class_folders_are_cut_the_same_way_every_time(tmp_path):
    for name, count in {"Forest": 10, "River": 5}.items():
        for number in range(count):
            write_picture(tmp_path / name / f"{number}.png")
    ids = {split: open_folder(tmp_path, split).ids for split in SPLITS}
    assert {split: (sum("F" in i for i in ids[split]), sum("R" in i for i in ids[split])) for split in SPLITS} == {
        "train": (6, 3),
        "val": (2, 1),
        "test": (2, 1),
    }
    assert len({name for split in ids.values() for name in split}) == 15
    # sha256 of "River/0.png" ... "River/4.png" starts with c4, d2, b8, 78, 66 (sha256sum): 4, 3, 2 train.
    assert [name for name in ids["train"] if "River" in name] == ["River/2.png", "River/3.png", "River/4.png"]
    assert "60/20/20 by sha256" in open_folder(tmp_path).provenance["split"]


def test_hidden_files_and_notes_are_no_images(splits):
    (splits / ".git").mkdir()
    (splits / "train" / "Forest" / ".DS_Store").write_bytes(b"")
    (splits / "train" / "Forest" / "notes.txt").write_text("nice trees")
    assert len(open_folder(splits)) == 4


def test_clutter_of_other_systems_is_skipped_with_a_note(splits, capsys):
    command.note.cache_clear()
    for folder_name in ("__MACOSX", "@eaDir"):
        write_picture(splits / folder_name / "Forest" / "0.png")
    write_picture(splits / "train" / "Forest" / "@eaDir" / "0.png")
    write_picture(splits / "train" / "._0.png")
    assert len(open_folder(splits)) == 4
    told = capsys.readouterr().err
    assert "skipped @eaDir, __MACOSX in" in told or "skipped __MACOSX, @eaDir in" in told


@pytest.mark.parametrize("name", [b"train/For\xeat/0.png", b"train/Forest/premi\xe8re.png"])
def test_names_that_are_not_utf8_are_named(splits, name):
    path = splits / os.fsdecode(name)
    write_picture(path)
    with pytest.raises(RequestError, match=r"the name '.*\\udce.*' is not UTF-8.*convmv"):
        open_folder(splits)


def test_class_folders_that_differ_in_case_only_are_refused(splits):
    write_picture(splits / "test" / "forest" / "9.png")
    with pytest.raises(RequestError, match="'Forest' and 'forest'"):
        open_folder(splits)


def test_images_may_differ_in_size(splits):
    write_picture(splits / "train" / "Forest" / "1.png", size=(5, 9))
    dataset = open_folder(splits)
    assert [dataset.read(row, dataset.bands)[0].shape for row in (0, 1)] == [(6, 8), (9, 5)]


def test_statistics_are_of_the_train_split_whichever_is_opened(splits):
    write_picture(splits / "test" / "River" / "0.png", colour=(255, 255, 255))
    for split in SPLITS:
        statistics = open_folder(splits, split).statistics
        assert [(s.mean, s.std) for s in statistics.values()] == [(10, 0), (20, 0), (30, 0)]


def test_files_digest_follows_the_files(splits):
    before = open_folder(splits).files_digest
    assert open_folder(splits).files_digest == before
    assert open_folder(splits, "test").files_digest != before
    os.utime(splits / "train" / "River" / "0.png", ns=(1, 1))
    assert open_folder(splits).files_digest != before


def test_dataset_survives_pickling(splits):
    dataset = pickle.loads(pickle.dumps(open_folder(splits)))
    assert [int(band[0, 0]) for band in dataset.read(0, dataset.bands)] == [10, 20, 30]


# --- tables


def test_labels_column_is_multilabel_and_commas_in_names_are_safe(table):
    root, _ = table
    dataset = open_folder(root)
    assert dataset.class_names == ("Arable land", "Beaches, dunes, sands", "Urban fabric")
    assert dataset.labels.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert dataset.labels.dtype == np.uint8
    assert dataset.ids == ["images/0.png", "images/1.png"]
    assert open_folder(root, "val").labels.tolist() == [[1, 0, 1]]


def test_label_column_is_single_label(table):
    root, rows = table
    write_table(
        root, [{"path": row["path"], "split": row["split"], "label": f"c{n % 2}"} for n, row in enumerate(rows)]
    )
    assert open_folder(root).labels.tolist() == [0, 1]


def test_label_column_may_hold_a_separator_character(table):
    root, rows = table
    write_table(root, [{"path": row["path"], "split": row["split"], "label": "wet; dry"} for row in rows])
    assert open_folder(root).class_names == ("wet; dry",)


def test_label_column_with_lists_is_refused(table):
    root, rows = table
    (root / "labels.csv").unlink()
    write_table(
        root, [{"path": row["path"], "split": row["split"], "label": ["a", "b"]} for row in rows], "labels.parquet"
    )
    with pytest.raises(RequestError, match="labels.*label.*list|label.*list.*labels"):
        open_folder(root)


def test_parquet_table_may_hold_lists(table):
    root, rows = table
    (root / "labels.csv").unlink()
    write_table(root, [{**row, "labels": ["b", "a"]} for row in rows], "labels.parquet")
    assert open_folder(root).labels.tolist() == [[1, 1], [1, 1]]


def test_ids_and_locations_come_from_their_columns(table):
    root, rows = table
    write_table(root, [{**row, "id": f"patch {n}", "lon": 7.5 + n, "lat": "-50"} for n, row in enumerate(rows)])
    dataset = open_folder(root, "test")
    assert dataset.ids == ["patch 3"]
    assert dataset.lonlat.tolist() == [[10.5, -50.0]]


def test_rows_may_be_folders_of_single_bands(tmp_path):
    rows = []
    for number, split in enumerate(SPLITS):
        for band, size in {"B02": 12, "B8A": 6, "B01": 2}.items():
            path = tmp_path / "scene" / f"p{number}" / f"p{number}_{band}.tif"
            write_tif(path, constant(100 * number + size, size=size))
        rows.append({"path": f"scene/p{number}", "labels": "x", "split": split})
    write_table(tmp_path, rows)
    dataset = open_folder(tmp_path, "val")
    assert [band.name for band in dataset.bands] == ["B01", "B02", "B8A"]
    pixels = dataset.read(0, [dataset.bands[2], dataset.bands[0]])
    assert [(band.shape, int(band[0, 0])) for band in pixels] == [((6, 6), 106), ((2, 2), 102)]
    assert dataset.lonlat is not None
    (tmp_path / "scene" / "p1" / "p1_B8A.tif").unlink()
    with pytest.raises(RequestError, match=r"p1 holds 0 files \*_B8A.tif"):
        open_folder(tmp_path, "val")


# --- bands


def test_band_names_come_from_the_file(tmp_path):
    write_tif(tmp_path / "train" / "a" / "1.tif", constant(1, 2, 3), names=("B2", "b8a", "VV"))
    dataset = open_folder(tmp_path)
    assert [band.name for band in dataset.bands] == ["B02", "B8A", "VV"]
    assert [int(band[0, 0]) for band in dataset.read(0, dataset.bands[::-1])] == [3, 2, 1]


def test_dataset_json_names_bands_and_describes_unknown_ones(tmp_path):
    write_tif(tmp_path / "train" / "a" / "1.tif", constant(1, 2), names=("B02", "B03"))
    bands = ["VV", {"name": "nir", "wavelength_um": 0.84, "gsd_m": 3}]
    (tmp_path / "dataset.json").write_text(json.dumps({"bands": bands}))
    vv, nir = open_folder(tmp_path).bands
    assert (vv.name, nir.name, nir.wavelength_um, nir.gsd_m) == ("VV", "nir", 0.84, 3)


def test_bands_without_names_ask_for_dataset_json(tmp_path):
    write_tif(tmp_path / "train" / "a" / "1.tif", constant(*range(13)))
    with pytest.raises(RequestError, match=r"13 of uint16: unnamed, .*name them in dataset.json .*\"bands\""):
        open_folder(tmp_path)


def test_dataset_json_must_fit_the_files(tmp_path):
    write_tif(tmp_path / "train" / "a" / "1.tif", constant(1, 2))
    for text, message in (
        ('{"bands": ["B02"]}', "names 1 bands but .* has 2"),
        ('{"bands": ["B02", "B77"]}', "unknown band 'B77'; known are B01"),
        ('{"bands": ["B02", "B02"]}', "names no band, or one twice"),
        ('{"band": []}', "cannot read bands from .*dataset.json"),
        ('{"bands": ["B02"', "cannot read bands from .*dataset.json"),
    ):
        (tmp_path / "dataset.json").write_text(text)
        with pytest.raises(RequestError, match=message):
            open_folder(tmp_path)


# --- pictures of all kinds


def test_palette_and_opaque_alpha_give_colours(tmp_path):
    for number, mode in enumerate(("RGB", "RGBA", "P")):
        picture = Image.new("RGB", (4, 4), (255, 0, 51)).convert(mode)
        (tmp_path / "train" / "a").mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "train" / "a" / f"{number}.png")
    dataset = open_folder(tmp_path)
    for row in range(3):
        assert [int(band[0, 0]) for band in dataset.read(row, dataset.bands)] == [255, 0, 51]


def test_transparent_picture_is_refused(tmp_path):
    write_picture(tmp_path / "train" / "a" / "1.png", mode="RGBA", colour=(1, 2, 3, 128))
    with pytest.raises(RequestError, match="1.png .*partly transparent"):
        open_folder(tmp_path)


def test_four_named_bands_make_alpha_a_band(tmp_path):
    write_picture(tmp_path / "train" / "a" / "1.png", mode="RGBA", colour=(1, 2, 3, 128))
    (tmp_path / "dataset.json").write_text(
        '{"bands": ["red", "green", "blue", {"name": "nir", "wavelength_um": 0.842}]}'
    )
    dataset = open_folder(tmp_path)
    assert [int(band[0, 0]) for band in dataset.read(0, dataset.bands)] == [1, 2, 3, 128]


def test_grey_picture_needs_a_named_band(tmp_path):
    write_picture(tmp_path / "train" / "a" / "1.png", mode="L", colour=77)
    with pytest.raises(RequestError, match="1 of uint8: unnamed.*name them in dataset.json"):
        open_folder(tmp_path)
    (tmp_path / "dataset.json").write_text('{"bands": [{"name": "pan", "wavelength_um": 0.6}]}')
    dataset = open_folder(tmp_path)
    assert int(dataset.read(0, dataset.bands)[0][0, 0]) == 77


def test_sixteen_bit_colour_png_keeps_its_bits(tmp_path):
    path = tmp_path / "train" / "a" / "1.png"
    path.parent.mkdir(parents=True)
    with rasterio.open(path, "w", driver="PNG", width=4, height=4, count=3, dtype="uint16") as target:
        target.write(constant(1000, 2000, 60_000, size=4))
    with pytest.raises(RequestError, match="3 of uint16"):
        open_folder(tmp_path)
    (tmp_path / "dataset.json").write_text('{"bands": ["B04", "B03", "B02"]}')
    dataset = open_folder(tmp_path)
    assert [int(band[0, 0]) for band in dataset.read(0, dataset.bands)] == [1000, 2000, 60_000]


def test_cmyk_jpeg_is_refused(tmp_path):
    write_picture(tmp_path / "train" / "a" / "1.jpg", mode="CMYK", colour=(1, 2, 3, 4))
    with pytest.raises(RequestError, match="CMYK.*RGB"):
        open_folder(tmp_path)


KINDS = {
    "strips": {},
    "by band": {"interleave": "band"},
    "by pixel": {"interleave": "pixel"},
    "big-endian": {"ENDIANNESS": "BIG"},
    "BigTIFF": {"BIGTIFF": "YES"},
    "LZW": {"compress": "lzw"},
    "deflate, predictor": {"compress": "deflate", "predictor": 2},
    "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16},
    "sparse": {"SPARSE_OK": "TRUE"},
}


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "uint32", "float32", "float64"])
@pytest.mark.parametrize("count", [1, 4])
def test_every_kind_of_tiff_reads_as_through_rasterio(tmp_path, options, dtype, count):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 120, (count, 40, 24)).astype(dtype)
    if "SPARSE_OK" in options:
        pixels[:] = 0
    if dtype.startswith("float") and "predictor" in options:
        options = options | {"predictor": 3}
    names = ("B02", "VV", "red", "B03")[:count]
    write_tif(tmp_path / "x.tif", pixels, names=names, **options)
    header = read_header(tmp_path / "x.tif")
    assert (header.count, header.dtype, header.names) == (count, dtype, names)
    read = read_bands(tmp_path / "x.tif", range(count - 1, -1, -1), count=count)
    with rasterio.open(tmp_path / "x.tif") as source:
        theirs = source.read()
        centre = source.xy(source.height / 2, source.width / 2, offset="ul")
    assert np.array_equal(np.stack(read[::-1]), theirs)
    assert (read[0].dtype, read[0].dtype.isnative, theirs.dtype) == (np.dtype(dtype), True, np.dtype(dtype))
    assert header.centre == pytest.approx(centre)


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3035", "+proj=laea +lat_0=50 +lon_0=9 +units=m"])
@pytest.mark.parametrize("anchor", ["Area", "Point"])
def test_locations_agree_with_rasterio(tmp_path, crs, anchor):
    from rasterio.warp import transform

    path = tmp_path / "x.tif"
    corner = (9.0, 50.0, 0.001, 0.001) if crs == "EPSG:4326" else (4_300_000, 3_000_000, 10, 10)
    corner = (500_000, 5_000_000, 10, 10) if "326" in crs and "4326" not in crs else corner
    profile = {"driver": "GTiff", "width": 9, "height": 6, "count": 1, "dtype": "uint8", "crs": CRS.from_string(crs)}
    with rasterio.open(path, "w", transform=from_origin(*corner), **profile) as target:
        target.update_tags(AREA_OR_POINT=anchor)
        target.write(constant(1, dtype=np.uint8, size=9)[:, :6])
    with rasterio.open(path) as source:
        x, y = source.xy(3, 4.5, offset="ul")
        lon, lat = transform(source.crs, "EPSG:4326", [x], [y])
    lonlat = lonlat_of([read_header(path)])
    assert lonlat is not None
    assert lonlat[0] == pytest.approx((lon[0], lat[0]), abs=1e-7)


def test_tiffs_with_a_location_give_lonlat_and_others_none(tmp_path):
    write_tif(tmp_path / "train" / "a" / "1.tif", constant(1, 2, 3, dtype=np.uint8), west=500_000 - 80)
    assert open_folder(tmp_path).lonlat[0] == pytest.approx((15.0, 45.15), abs=0.01)
    write_tif(tmp_path / "train" / "a" / "2.tif", constant(1, 2, 3, dtype=np.uint8), crs=None)
    assert open_folder(tmp_path).lonlat is None


# --- what goes wrong


def test_missing_empty_and_unstructured_folders(tmp_path):
    with pytest.raises(RequestError, match="nowhere.*--data-root"):
        open_folder(tmp_path / "nowhere")
    with pytest.raises(RequestError, match="DIR/<split>/<class>/<image>"):
        open_folder(tmp_path)
    (tmp_path / "Forest").mkdir()
    with pytest.raises(RequestError, match="no images .* in class folders"):
        open_folder(tmp_path)
    write_picture(tmp_path / "loose.png")
    with pytest.raises(RequestError, match="1 .*loose.png"):
        open_folder(tmp_path)


def test_split_without_images_is_named_with_the_others_counts(splits):
    for path in (splits / "test").rglob("*.png"):
        path.unlink()
    with pytest.raises(RequestError, match=r"no images of split test in .* \(train 4, val 2, test 0\)"):
        open_folder(splits, "test")


def test_split_folders_beside_others_are_refused(splits):
    (splits / "Meadow").mkdir()
    with pytest.raises(RequestError, match=r"\(test\).*\(Meadow\)"):
        open_folder(splits)


def test_folders_too_deep_are_refused(tmp_path):
    write_picture(tmp_path / "2750" / "Forest" / "deep" / "1.png")
    with pytest.raises(RequestError, match="2750.*'Forest'"):
        open_folder(tmp_path)


def test_formats_that_are_not_read_are_refused(splits):
    (splits / "train" / "Forest" / "x.webp").write_bytes(b"")
    with pytest.raises(RequestError, match="1 .*x.webp"):
        open_folder(splits)


def test_variant_and_download_mean_nothing_here(splits):
    with pytest.raises(RequestError, match="--dataset-variant x"):
        open_folder(splits, dataset_variant="x")
    with pytest.raises(RequestError, match="--download: .*--data-root"):
        open_folder(splits, download=True)


WRONG_TABLES = {
    "absent files": (
        lambda rows: [{**row, "path": row["path"].replace("1", "9").replace("2", "8")} for row in rows],
        r"2 of 4 rows name a file that is not in .*table \(first: line 3 'images/9.png', line 4 'images/8.png'\)",
    ),
    "unknown split": (
        lambda rows: [*rows[:3], {**rows[3], "split": "holdout"}],
        r"1 of 4 rows have an unknown split; use train, val or test \(first: line 5 'holdout'\)",
    ),
    "no label": (
        lambda rows: [{**rows[0], "labels": " ; "}, *rows[1:]],
        r"1 of 4 rows have no label although others of their split have; .* \(first: line 2\)",
    ),
    "repeated path": (
        lambda rows: [*rows, {**rows[0], "split": "test"}],
        r"1 of 5 rows repeat a path; keep one row per path, in one split \(first: line 6 'images/0.png'\)",
    ),
    "repeated id": (
        lambda rows: [{**row, "id": "same"} for row in rows],
        r"3 of 4 rows repeat an id",
    ),
    "no split column": (
        lambda rows: [{key: row[key] for key in ("path", "labels")} for row in rows],
        "has no column split; it has path, labels",
    ),
    "no label column": (
        lambda rows: [{key: row[key] for key in ("path", "split")} for row in rows],
        r"has no column labels \(or label\); it has path, split",
    ),
    "both label columns": (
        lambda rows: [{**row, "label": "x"} for row in rows],
        "has both labels .* and label .*; keep one",
    ),
    "lon without lat": (
        lambda rows: [{**row, "lon": 1} for row in rows],
        "has a column lon alone; give both",
    ),
    "lat out of range": (
        lambda rows: [{**row, "lon": 1, "lat": 50 * n} for n, row in enumerate(rows)],
        "2 of 4 rows have no valid lon and lat",
    ),
    "lon missing": (
        lambda rows: [{**row, "lon": "" if n else 1, "lat": 1} for n, row in enumerate(rows)],
        "3 of 4 rows have no valid lon and lat",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG_TABLES.values(), ids=WRONG_TABLES)
def test_wrong_table_says_which_rows_and_how_to_mend_them(table, change, message):
    root, rows = table
    write_table(root, change(rows))
    with pytest.raises(RequestError, match=message):
        open_folder(root)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot read .*labels.csv"),
        (b"path,labels,split\n", "has no rows"),
        (b'path,labels,split\n"a', "cannot read .*labels.csv"),
        (b"a;b;c\na;b;train\n", "has no column path, split, labels"),
        (b"\xff\xfe\x00", "cannot read .*labels.csv"),
    ],
)
def test_unreadable_table_is_named(table, content, message):
    root, _ = table
    (root / "labels.csv").write_bytes(content)
    with pytest.raises(RequestError, match=message):
        open_folder(root)


def test_damaged_parquet_table_and_two_tables(table):
    root, _ = table
    (root / "labels.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(RequestError, match="labels.csv.*labels.parquet"):
        open_folder(root)
    (root / "labels.csv").unlink()
    with pytest.raises(RequestError, match="cannot read .*labels.parquet"):
        open_folder(root)


def test_missing_label_in_parquet_is_counted(table):
    root, rows = table
    (root / "labels.csv").unlink()
    write_table(root, [{**row, "labels": None if n == 1 else ["a"]} for n, row in enumerate(rows)], "labels.parquet")
    with pytest.raises(RequestError, match=r"1 of 4 rows have no label.*row 1"):
        open_folder(root)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.95])
def test_truncated_jpeg_is_named(tmp_path, keep):
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    path = tmp_path / "train" / "a" / "1.jpg"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if keep < 1 else keep])
    with pytest.raises(RequestError, match="cannot read .*1.jpg"):
        open_folder(tmp_path)


@pytest.mark.parametrize("options", [{}, {"compress": "lzw"}], ids=["plain", "LZW"])
@pytest.mark.parametrize("keep", [0, 6, 120, 0.5, 0.99])
def test_truncated_tif_is_named(tmp_path, options, keep):
    path = tmp_path / "train" / "a" / "1.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (3, 64, 64), dtype=np.uint8)
    write_tif(path, pixels, **options)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if keep < 1 else keep])
    with pytest.raises(RequestError, match="cannot read .*1.tif"):
        open_folder(tmp_path)


def test_file_that_is_no_image_is_named(splits):
    (splits / "test" / "Forest" / "1.png").write_text("hello")
    dataset = open_folder(splits, "test")
    with pytest.raises(RequestError, match="test/Forest/1.png"):
        read_all(dataset)


def read_all(dataset):
    for row in range(len(dataset)):
        dataset.read(row, dataset.bands)


def test_other_number_or_kind_of_bands_is_found_when_a_picture_is_read(splits):
    write_picture(splits / "test" / "River" / "1.png", mode="L", colour=1)
    with pytest.raises(RequestError, match=r"River/1.png .*1 bands.* 3 "):
        read_all(open_folder(splits, "test"))
    write_tif(splits / "test" / "River" / "1.png", constant(1, 2, 3))
    with pytest.raises(RequestError, match="River/1.png has 3 bands of uint16"):
        read_all(open_folder(splits, "test"))
    masked = np.ones((3, 16, 16), np.uint8)
    write_tif(splits / "test" / "River" / "1.png", masked, nodata=1)
    with pytest.raises(RequestError, match="River/1.png .*TIFF"):
        read_all(open_folder(splits, "test"))


def test_pictures_are_opened_when_their_pixels_are_read(splits, monkeypatch):
    before = open_folder(splits, "test")
    opened = []
    kept = Image.open
    monkeypatch.setattr(Image, "open", lambda *args, **more: opened.append(args) or kept(*args, **more))
    again = folder.open_dataset(DatasetRequest(splits))
    assert again["test"].files_digest == before.files_digest and (again["test"].looked == before.looked).all()
    assert len(opened) == 1 + len(again["train"])  # the first header, and statistics


def test_headers_of_tiffs_are_read_once_until_a_file_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(_folder_inspection, "WORTH_KEEPING", 1)
    for number in range(4):
        write_tif(tmp_path / "in" / "train" / "a" / f"{number}.tif", constant(number), names=("B02",))
    first = open_folder(tmp_path / "in", cache_dir=tmp_path / "cache")
    read, kept = [], _folder_inspection.read_header
    monkeypatch.setattr(
        _folder_inspection, "read_header", lambda *args, **more: read.append(args) or kept(*args, **more)
    )
    again = open_folder(tmp_path / "in", cache_dir=tmp_path / "cache")
    assert not read and np.array_equal(first.lonlat, again.lonlat)
    write_tif(tmp_path / "in" / "train" / "a" / "2.tif", constant(0), names=("B02",), west=600_000)
    moved = open_folder(tmp_path / "in", cache_dir=tmp_path / "cache")
    assert len(read) == 4 and moved.files_digest != first.files_digest and moved.lonlat[2, 0] != first.lonlat[2, 0]


def test_other_band_names_are_found(tmp_path):
    write_tif(tmp_path / "train" / "a" / "1.tif", constant(1, 2), names=("B02", "B03"))
    write_tif(tmp_path / "train" / "a" / "2.tif", constant(1, 2), names=("B03", "B02"))
    with pytest.raises(RequestError, match=r"2.tif has 2 bands of uint16 \(B03, B02\), but .*1.tif has .*\(B02, B03\)"):
        open_folder(tmp_path)


def test_file_that_vanishes_later_is_named(splits):
    dataset = open_folder(splits)
    (splits / "train" / "Forest" / "0.png").unlink()
    with pytest.raises(RequestError, match="no file .*train/Forest/0.png"):
        dataset.read(0, dataset.bands)


def test_values_of_a_type_the_bands_cannot_have_are_refused(tmp_path):
    for name in ("Forest", "River"):
        for i in range(4):
            write_picture(tmp_path / name / f"{i}.png")
    (tmp_path / "dataset.json").write_text(json.dumps({"bands": ["B04", "B03", "B02"]}))
    with pytest.raises(RequestError, match="uint8 values, which B04, B03, B02 cannot have; name them red, green, blue"):
        open_folder(tmp_path)
