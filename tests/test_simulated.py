"""The simulated dataset: the same everywhere, labeled like BigEarthNet, and honest about being simulated."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from opening import open_split

from data.bands import BAND_SETS, SENTINEL2, choose_bands
from data.dataset import EODataset, measured_statistics
from data.errors import RequestError
from data.sources import simulated
from data.sources.simulated import CLASSES, draw_labels

# Patches with each class among BigEarthNet v2's 480,038 (reBEN, Clasen et al. 2024, metadata.parquet).
REAL_COUNTS = {
    "Arable land": 188025,
    "Mixed forest": 165780,
    "Coniferous forest": 154941,
    "Transitional woodland, shrub": 141150,
    "Broad-leaved forest": 135928,
    "Land principally occupied by agriculture, with significant areas of natural vegetation": 122709,
    "Complex cultivation patterns": 99598,
    "Pastures": 95605,
    "Urban fabric": 63758,
    "Inland waters": 63212,
    "Marine waters": 61832,
    "Agro-forestry areas": 33181,
    "Permanent crops": 29588,
    "Inland wetlands": 20919,
    "Moors, heathland and sclerophyllous vegetation": 13894,
    "Natural grassland and sparsely vegetated areas": 11882,
    "Industrial or commercial units": 11142,
    "Coastal wetlands": 1397,
    "Beaches, dunes, sands": 1316,
}
# Patches with both classes, counted in the same file.
REAL_PAIRS = {
    ("Coniferous forest", "Mixed forest"): 104908,
    ("Coniferous forest", "Transitional woodland, shrub"): 65748,
    ("Mixed forest", "Transitional woodland, shrub"): 63298,
    ("Arable land", "Land principally occupied by agriculture, with significant areas of natural vegetation"): 56946,
    ("Arable land", "Broad-leaved forest"): 55749,
    ("Arable land", "Complex cultivation patterns"): 55586,
    ("Broad-leaved forest", "Transitional woodland, shrub"): 53342,
    ("Arable land", "Mixed forest"): 52838,
    (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
        "Broad-leaved forest",
    ): 51461,
    ("Arable land", "Pastures"): 48830,
    (
        "Complex cultivation patterns",
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ): 47053,
    ("Complex cultivation patterns", "Broad-leaved forest"): 46178,
    ("Urban fabric", "Industrial or commercial units"): 6921,
    ("Arable land", "Agro-forestry areas"): 19667,
    ("Coniferous forest", "Moors, heathland and sclerophyllous vegetation"): 2657,
    ("Inland wetlands", "Inland waters"): 4204,
    ("Arable land", "Marine waters"): 1229,
    ("Broad-leaved forest", "Marine waters"): 998,
    ("Arable land", "Coniferous forest"): 37910,
}


def opened(split: str = "train", variant: str | None = None) -> EODataset:
    return open_split(simulated, split, Path("nowhere"), dataset_variant=variant)


@pytest.fixture(scope="module")
def many_labels() -> np.ndarray:
    return draw_labels("train", 200_000)


def test_the_same_index_has_the_same_bytes_in_every_instance_and_variant():
    small, again, full = opened(), opened(), opened(variant="full")
    assert (len(small), len(full)) == (3_000, 237_871)
    assert small.ids == full.ids[:3_000]
    assert np.array_equal(small.labels, full.labels[:3_000])
    for index in (0, 1_500, 2_999):
        one, two, three = (dataset.read(index, dataset.bands) for dataset in (small, again, full))
        for a, b, c in zip(one, two, three, strict=True):
            assert a.tobytes() == b.tobytes() == c.tobytes()


def test_splits_differ_and_a_pickled_dataset_reads_the_same():
    train, val = opened("train"), opened("val")
    copy = pickle.loads(pickle.dumps(train))
    b04 = choose_bands(train.bands, "B04")
    assert not np.array_equal(train.read(0, b04)[0], val.read(0, b04)[0])
    assert np.array_equal(train.read(7, b04)[0], copy.read(7, b04)[0])
    assert set(train.ids).isdisjoint(val.ids)
    assert train.ids[123] == "simulated_train_000123"


def test_a_band_is_the_same_whoever_else_is_asked_for():
    dataset = opened()
    everything = dict(zip(dataset.bands, dataset.read(5, dataset.bands), strict=True))
    for spec in ("B08", "B12,B02", "VH", "rgb"):
        bands = choose_bands(dataset.bands, spec)
        for band, pixels in zip(bands, dataset.read(5, bands), strict=True):
            assert np.array_equal(pixels, everything[band]), band.name


def test_shapes_and_types_are_bigearthnets():
    dataset = opened()
    assert tuple(band.name for band in dataset.bands) == BAND_SETS["s1s2"]
    for band, pixels in zip(dataset.bands, dataset.read(3, dataset.bands), strict=True):
        side = {10: 120, 20: 60, 60: 20}[int(band.gsd_m or 0)]
        assert pixels.shape == (side, side), band.name
        assert pixels.dtype == (np.float32 if band.sensor == "S1" else np.uint16), band.name
        assert np.isfinite(pixels).all()


def test_every_labelled_class_covers_ground_and_no_other_class_does():
    dataset = opened()
    assert isinstance(dataset, simulated.Simulated)
    crowded = np.argsort(-dataset.labels.sum(axis=1))[:20]
    for index in [*range(80), *crowded]:
        shares = np.bincount(dataset.class_map(index).ravel(), minlength=19) / 120**2
        assert np.array_equal(shares > 0, dataset.labels[index] > 0)
        assert shares[shares > 0].min() > 0.029


def test_label_frequencies_are_the_real_ones(many_labels: np.ndarray):
    assert many_labels.sum(axis=1).min() == 1
    assert many_labels.sum(axis=1).mean() == pytest.approx(2.95, abs=0.03)
    for name, count in REAL_COUNTS.items():
        real, drawn = count / 480_038, many_labels[:, CLASSES.index(name)].mean()
        # 1.5% for the fit, and four standard errors of the draw.
        assert drawn == pytest.approx(real, abs=0.015 * real + 4 * (real / 200_000) ** 0.5), name


def test_rare_classes_stay_rare(many_labels: np.ndarray):
    for name in ("Coastal wetlands", "Beaches, dunes, sands"):
        assert 0.001 < many_labels[:, CLASSES.index(name)].mean() < 0.005


def test_pairs_of_classes_occur_as_often_as_in_bigearthnet(many_labels: np.ndarray):
    labels = many_labels.astype(np.float32)
    drawn = labels.T @ labels / len(labels)
    for (one, other), count in REAL_PAIRS.items():
        assert drawn[CLASSES.index(one), CLASSES.index(other)] == pytest.approx(count / 480_038, abs=0.008), (
            one,
            other,
        )


def test_labels_of_a_longer_draw_begin_with_those_of_a_shorter_one():
    assert np.array_equal(draw_labels("test", 1_000), draw_labels("test", 5_000)[:1_000])


def test_scenes_lie_in_the_region_of_their_landscape_and_a_longer_split_begins_with_them():
    small, full = opened(), opened(variant="full")
    assert small.lonlat is not None and np.array_equal(small.lonlat, full.lonlat[:3_000])
    lon, lat = small.lonlat.T
    assert lon.min() > -15 and lon.max() < 35 and lat.min() > 35 and lat.max() < 70
    sea = (small.labels == (np.array(CLASSES) == "Marine waters")).all(axis=1)
    assert np.abs(small.lonlat[sea].mean(axis=0) - (19.5, 57.5)).max() < 1  # the Baltic


def test_statistics_are_those_of_the_train_split():
    dataset = opened()
    assert set(dataset.statistics) == set(BAND_SETS["s1s2"])
    for name, measured in measured_statistics(dataset, samples=300).items():
        declared = dataset.statistics[name]
        assert measured.mean == pytest.approx(declared.mean, abs=0.2 * declared.std), name
        assert measured.std == pytest.approx(declared.std, rel=0.2), name


def test_it_says_that_it_is_simulated():
    dataset = opened(variant="small")
    assert dataset.provenance["simulated"] is True
    assert dataset.variant is None  # the default: the folder is just 'simulated'
    assert opened("val", "full").variant == "full"
    assert "imulated" in simulated.CARD.title
    assert dataset.class_names == CLASSES and str(len(CLASSES)) == simulated.CARD.classes


def test_classes_look_different():
    """Water is darker than arable land in the near infrared and in VV: a probe has something to learn."""
    dataset = opened()
    only = {name: np.flatnonzero((dataset.labels == (np.array(CLASSES) == name)).all(axis=1))[:8] for name in CLASSES}
    bands = choose_bands(dataset.bands, "B08,VV")

    def mean(name: str) -> np.ndarray:
        return np.mean([[pixels.mean() for pixels in dataset.read(i, bands)] for i in only[name]], axis=0)

    assert (mean("Marine waters") < mean("Arable land")).all()


def test_unknown_split_variant_or_band_is_one_clear_line():
    with pytest.raises(RequestError, match="did you mean 'train'"):
        opened("trian")
    with pytest.raises(RequestError, match="did you mean 'full'"):
        opened(variant="ful")
    with pytest.raises(RequestError, match="no band B10"):
        opened().read(0, [SENTINEL2["B10"]])
