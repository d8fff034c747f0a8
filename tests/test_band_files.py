"""Folders of single-band files: which band a file holds, and files that hold none."""

import hashlib
import shutil

import pytest
from made_tiffs import constant, open_folder, write_table, write_tif

from data.dataset import SPLITS
from data.errors import RequestError
from data.seen import stamp
from data.sources import _folder_layout


@pytest.mark.parametrize(
    "form",
    ["{p}_{b}.tif", "{p}_{b}.TIF", "{p}_{b}.tiff", "{b}.tif", "{p}_{b}_10m.tif", "{p}.{b}.Tif"],
)
@pytest.mark.parametrize("spelt", [str.upper, str.lower, lambda band: band.replace("B0", "B")])
def test_files_of_one_band_follow_one_rule(tmp_path, form, spelt):
    bands = {"B02": 2, "B08": 8, "B8A": 9, "VV": 1}
    for number in range(len(SPLITS)):
        for band, value in bands.items():
            write_tif(tmp_path / f"p{number}" / form.format(p=f"p{number}", b=spelt(band)), constant(value))
        (tmp_path / f"p{number}" / "p_B02.tif.aux.xml").write_text("<PAMDataset/>")
    write_table(tmp_path, [{"path": f"p{number}", "label": "x", "split": split} for number, split in enumerate(SPLITS)])
    dataset = open_folder(tmp_path)
    assert [band.name for band in dataset.bands] == ["B02", "B08", "B8A", "VV"]
    assert [int(band[0, 0]) for band in dataset.read(0, dataset.bands)] == [2, 8, 9, 1]


@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("p0_B02_mask.tif", "p0_B02_mask.tif matches no band"),
        ("reference_map.TIF", "reference_map.TIF matches no band"),
        ("quicklook.jpg", "quicklook.jpg matches no band"),
        ("p0_B03.jp2", "p0_B03.jp2"),
        ("p0_B02_20m.tif", "two files of B02: p0_B02.tif, p0_B02_20m.tif"),
    ],
)
@pytest.mark.parametrize("where", [0, 1])
def test_a_file_that_matches_no_band_is_an_error(tmp_path, file, told, where):
    for number in range(2):
        write_tif(tmp_path / f"p{number}" / f"p{number}_B02.tif", constant(1))
    shutil.copy(tmp_path / "p0" / "p0_B02.tif", tmp_path / f"p{where}" / file)
    if told.startswith("two"):
        told = told.replace("p0_B02.tif", f"p{where}_B02.tif")
    write_table(tmp_path, [{"path": f"p{number}", "label": "x", "split": "train"} for number in range(2)])
    with pytest.raises(RequestError) as error:
        open_folder(tmp_path)
    assert told.split(":")[0] in str(error.value)


def test_a_band_that_the_first_sample_lacks_is_an_error_unless_the_bands_are_declared(tmp_path):
    for number in range(2):
        write_tif(tmp_path / f"p{number}" / "B02.tif", constant(1))
    write_tif(tmp_path / "p1" / "B03.tif", constant(1))
    write_table(tmp_path, [{"path": f"p{number}", "label": "x", "split": "train"} for number in range(2)])
    with pytest.raises(RequestError, match=r"B03.tif is of a band that .*p0 does not have"):
        open_folder(tmp_path)
    (tmp_path / "dataset.json").write_text('{"bands": ["b2"]}')
    assert [band.name for band in open_folder(tmp_path).bands] == ["B02"]


def test_the_digest_of_a_folder_of_bands_is_that_of_v01(tmp_path):
    for band in ("B08", "B8A", "B09"):
        write_tif(tmp_path / "p" / f"p_{band}.tif", constant(1))
    write_table(tmp_path, [{"path": "p", "label": "x", "split": "train"}])
    digest = hashlib.sha256()
    for band in ("B08", "B8A", "B09"):  # the order of Sentinel-2's bands, not of names
        about = (tmp_path / "p" / f"p_{band}.tif").stat()
        digest.update(f"p/p_{band}.tif\0{about.st_size}\0{about.st_mtime_ns}\n".encode())
    assert open_folder(tmp_path).files_digest == digest.hexdigest()


def test_a_folder_is_listed_once_for_the_look_at_its_times_and_the_read(tmp_path, monkeypatch):
    for number in range(2):
        write_tif(tmp_path / f"p{number}" / "B02.tif", constant(number))
    write_table(tmp_path, [{"path": f"p{number}", "label": "x", "split": "train"} for number in range(2)])
    dataset = open_folder(tmp_path)
    listed, band_files = [], _folder_layout.band_files
    monkeypatch.setattr(_folder_layout, "band_files", lambda *about: listed.append(about[0].name) or band_files(*about))
    for row in range(2):
        assert stamp(dataset, row, dataset.bands) == dataset.looked[row]
    assert [int(dataset.read(row, dataset.bands)[0][0, 0]) for row in range(2)] == [0, 1]
    assert listed == ["p0", "p1"]
    dataset.read(0, dataset.bands)
    assert listed == ["p0", "p1", "p0"], "a listing serves one read"
