"""Bands that do not hold what their names say are found, and real bands of five datasets are not suspected."""

import os
from pathlib import Path

import numpy as np
import pytest
from pixels import PixelDataset

from analysis import spectra
from analysis.views import audit
from data.bands import SENTINEL1, SENTINEL2
from data.dataset import EODataset
from data.flags import DataFlags, DatasetRequest
from data.registry import DATASETS

SHARED = Path(os.environ.get("EO_SHARED", "../shared")) / "data"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason=f"no shared data at {SHARED} (set EO_SHARED)")


def opened(name, root, cache, *, split="test", bands=(), **flags):
    options = DataFlags(dataset=name, cache_dir=cache, **flags)
    return DATASETS.load(name).open_dataset(DatasetRequest(SHARED / root, (split,), bands, options))[split]


class Renamed(EODataset):
    """Another dataset whose bands go by other names, or with other values."""

    def __init__(self, whole, names, change=lambda pixels: pixels):
        known = SENTINEL2 | SENTINEL1
        super().__init__(
            name=whole.name, variant=None, split=whole.split, ids=whole.ids, labels=whole.labels,
            class_names=whole.class_names, bands=[known[name] for name in names], statistics={},
        )  # fmt: skip
        self.whole, self.change = whole, change

    def read(self, index, bands):
        stored = [self.whole.bands[self.bands.index(band)] for band in bands]
        return [self.change(pixels) for pixels in self.whole.read(index, stored)]


def found(dataset):
    return {one.band for one in spectra.mismatches(dataset, dataset.bands)}


@needs_shared
@pytest.mark.parametrize(
    ("name", "root", "flags"),
    [
        ("eurosat", "eurosat-ms", {}),
        ("geobench", "geobench-v1", {"dataset_variant": "m-brick-kiln"}),
        ("bigearthnet", "bigearthnet-v1", {"dataset_variant": "v1", "bands": ("s2-12",), "split": "train"}),
    ],
)
def test_real_bands_are_as_expected(name, root, flags, tmp_path):
    assert not found(opened(name, root, tmp_path, **flags))


@needs_shared
def test_the_shifted_names_of_m_eurosat_are_found_on_real_tiles(tmp_path):
    """EuroSAT stores B8A last; m-eurosat names its bands in ESA's order, so that five names stand on another band."""
    whole = opened("eurosat", "eurosat-ms", tmp_path)
    assert [band.name for band in whole.bands][-1] == "B8A"
    shifted = Renamed(whole, list(SENTINEL2))
    assert {"B8A", "B09", "B10", "B12"} <= found(shifted)
    assert not {"B02", "B03", "B04", "B05", "B06", "B07", "B08"} & found(shifted)


@needs_shared
def test_the_colour_picture_in_m_brick_kiln_is_found(tmp_path):
    flags = {"dataset_variant": "m-brick-kiln", "band_names": "published"}
    assert found(opened("geobench", "geobench-v1", tmp_path, **flags)) == {"B8A", "B10", "B11", "B12"}


@needs_shared
def test_reflectance_in_place_of_digital_numbers_is_found(tmp_path):
    whole = opened("eurosat", "eurosat-ms", tmp_path)
    (only,) = spectra.mismatches(
        Renamed(whole, [band.name for band in whole.bands], lambda pixels: pixels / 10_000), whole.bands
    )
    assert "reflectance" in only.reason


class Radar(EODataset):
    """Sentinel-1 of constant values with noise."""

    def __init__(self, vv, vh):
        super().__init__(
            name="radar", variant=None, split="train", ids=["a", "b"], labels=np.zeros(2, np.int64), class_names=["c"],
            bands=list(SENTINEL1.values()), statistics={},
        )  # fmt: skip
        self.values = {"VV": vv, "VH": vh}

    def read(self, index, bands):
        rng = np.random.default_rng(index)
        return [(self.values[band.name] + rng.normal(size=(8, 8))).astype(np.float32) for band in bands]


@pytest.mark.parametrize(
    ("vv", "vh", "expected"), [(-11, -18, set()), (-18, -11, {"VV"}), (300, 80, {"VV", "VH"}), (0.1, 0.02, set())]
)
def test_radar_by_hand(vv, vh, expected):
    """A linear power of 0.1 lies among possible decibels: nothing can be said of it."""
    assert found(Radar(vv, vh)) == expected


def test_the_audit_reports_them(tmp_path):
    dataset = PixelDataset(rows=8)
    about = audit.Material(
        "train", dataset.ids, dataset.labels, dataset.class_names, None, dataset=dataset, bands=dataset.bands
    )
    (row,) = audit.compute([about]).query("check == 'bands unlike their names'").to_dict("records")
    names = {one.band for one in spectra.mismatches(dataset, dataset.bands)}
    assert row["count"] == len(names) and row["of"] == len(dataset.bands)
    assert (row["verdict"] == audit.WRONG) == bool(names)
