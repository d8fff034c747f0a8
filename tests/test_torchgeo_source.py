"""torchgeo's datasets through torchgeo:NAME: equal to torchgeo's own samples, cut the same way every time."""

import os
import pickle
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torchgeo.datasets as tg
from PIL import Image

from data.errors import RequestError
from data.flags import SPLITS, DataFlags, DatasetRequest
from data.sources import torchgeo as source
from data.sources._torchgeo_sets import SETS

SHARED = Path(os.environ.get("EO_SHARED", "../shared")) / "data"
FIXTURES = SHARED / "torchgeo-fixtures"
pytestmark = pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"no shared data at {SHARED} (set EO_SHARED)")

PUBLISHED = {
    "CopernicusBenchBigEarthNetS1": "copernicus/l2_bigearthnet_s1s2",
    "CopernicusBenchBigEarthNetS2": "copernicus/l2_bigearthnet_s1s2",
    "CopernicusBenchEuroSATS1": "copernicus/l2_eurosat_s1s2",
    "CopernicusBenchEuroSATS2": "copernicus/l2_eurosat_s1s2",
    "CopernicusBenchLC100ClsS3": "copernicus/l2_lc100_s3",
    "CopernicusBenchLCZS2": "copernicus/l3_lcz_s2",
    "EuroSAT": "eurosat",
    "EuroSAT100": "eurosat",
    "EuroSATSpatial": "eurosat",
    "PatternNet": "patternnet",
    "RESISC45": "resisc45",
    "So2Sat": "so2sat",
    "TreeSatAI": "treesatai",
    "UCMerced": "ucmerced",
}


def made_advance(root):
    """The published layout; the fixture has one image and sound per class, too few for three splits."""
    for archive in (FIXTURES / "advance").glob("*.zip"):
        zipfile.ZipFile(archive).extractall(root)
    for path in [*root.rglob("*.jpg"), *root.rglob("*.wav")]:
        for number in range(1, 5):
            shutil.copy(path, path.with_stem(f"{path.stem}_{number}"))


def made_million_aid(root):
    """The published layout; the fixture has one image per class, too few for three splits."""
    for path in (FIXTURES / "millionaid" / "train").rglob("*.jpg"):
        for number in range(5):
            copy = root / path.relative_to(FIXTURES / "millionaid").with_name(f"P{number}.jpg")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)


def made_pictures(folder, names, *, suffix, side=32):
    rng = np.random.default_rng(0)
    for name in names:
        path = folder / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)


def made_fire_risk(root):
    for split, count in (("train", 5), ("val", 2)):
        names = [f"{name}/{n:03d}" for name in tg.FireRisk.classes for n in range(count)]
        made_pictures(root / "FireRisk" / split, names, suffix=".png")


def made_dlrsd(root):
    names = [f"{scene}/{scene}{n:02d}" for scene in ("beach", "harbor") for n in range(5)]
    made_pictures(root / "DLRSD" / "Images", names, suffix=".tif")
    rng = np.random.default_rng(1)
    rows = [[name.partition("/")[2], *rng.integers(0, 2, 17)] for name in names]
    pd.DataFrame(rows).to_csv(root / "DLRSD" / "multilabels.csv", index=False)


def made_bigearthnet(root):
    """Real patches of both sensors, paired here: the shared ones are of different places."""
    origin = SHARED / "bigearthnet-v1"
    s2, s1 = (sorted((origin / folder).iterdir())[:3] for folder in ("BigEarthNet-v1.0", "BigEarthNet-S1-v1.0"))
    for patch in (*s2, *s1):
        shutil.copytree(patch, root / patch.relative_to(origin))
    for split, pair in zip(SPLITS, zip(s2, s1, strict=True), strict=True):
        (root / f"bigearthnet-{split}.csv").write_text(",".join(patch.name for patch in pair) + "\n")


def made_bigearthnet_v2(root):
    origin = SHARED / "bigearthnet-v2"
    patches = {name: next((origin / name).glob("*/*")) for name in ("BigEarthNet-S1", "BigEarthNet-S2")}
    for patch in patches.values():
        shutil.copytree(patch, root / patch.relative_to(origin))
    reference = next((origin / "Reference_Maps").glob("*/*/*.tif"))
    s2 = patches["BigEarthNet-S2"]
    folder = root / "Reference_Maps" / s2.parent.name / s2.name
    folder.mkdir(parents=True)
    shutil.copy(reference, folder / f"{s2.name}_reference_map.tif")
    labels = ["Arable land", "Inland waters"]
    rows = [
        {"patch_id": s2.name, "s1_name": patches["BigEarthNet-S1"].name, "split": split, "labels": labels}
        for split in ("train", "validation", "test")
    ]
    pd.DataFrame(rows).to_parquet(root / "metadata.parquet")


MADE = {
    "ADVANCE": made_advance,
    "BigEarthNet": made_bigearthnet,
    "BigEarthNetV2": made_bigearthnet_v2,
    "DLRSDMultilabel": made_dlrsd,
    "FireRisk": made_fire_risk,
    "MillionAID": made_million_aid,
}
CASES = [(name, variant) for name, about in SETS.items() for variant in about.variants or (None,)]


def root_of(name, tmp_path):
    if name in PUBLISHED:
        return FIXTURES / PUBLISHED[name]
    root = tmp_path / name
    root.mkdir()
    MADE[name](root)
    return root


def opened(name, root, cache, *, variant=None, splits=SPLITS):
    flags = DataFlags(dataset=f"torchgeo:{name}", dataset_variant=variant, cache_dir=cache)
    return source.open_dataset(DatasetRequest(root, tuple(splits), (), flags))


def label_names(sample, theirs):
    """Class names of torchgeo's own label: a number, 0 and 1 for each class, or the numbers of several classes."""
    classes = theirs.class_sets[19] if hasattr(theirs, "class_sets") else getattr(theirs, "class_set", None)
    classes, label = classes or theirs.classes, sample["label"].numpy()
    if label.ndim and isinstance(theirs, tg.MillionAID):
        return {classes[number] for number in label}
    return {classes[number] for number in np.flatnonzero(label)} if label.ndim else {classes[int(label)]}


def our_names(dataset, row):
    label = dataset.labels[row]
    return {dataset.class_names[k] for k in (np.flatnonzero(label) if label.ndim else [int(label)])}


@pytest.mark.parametrize(("name", "variant"), CASES, ids=lambda value: str(value))
def test_every_dataset_equals_torchgeo_itself(name, variant, tmp_path):
    about, root = SETS[name], root_of(name, tmp_path)
    few = name == "So2Sat" and variant != "2"  # two samples: too few for a val split drawn from train
    datasets = opened(name, root, tmp_path, variant=variant, splits=("train", "test") if few else SPLITS)

    kind, arguments = getattr(tg, name), dict(about.variants.get(variant, {}))
    published = about.splits_of.get(variant, about.splits)
    held_out = "test" if "test" in published else "train"
    seen = set()
    for split, dataset in datasets.items():
        origin = split if set(published) == set(SPLITS) else held_out if split == "test" else "train"
        theirs = kind(
            root=str(root), checksum=False, **arguments, **({"split": published[origin]} if published else {})
        )
        if set(published) == set(SPLITS):
            assert len(dataset) == len(theirs)
        seen |= {(origin, row) for row in dataset.rows}
        pickle.loads(pickle.dumps(dataset))  # reader processes get a copy
        for row, at in enumerate(dataset.rows):
            sample = theirs[at]
            images = [value.numpy() for key, value in sample.items() if key.startswith("image")]
            ours = dataset.read(row, dataset.bands)
            channels = [channel for image in images for channel in image]
            assert len(ours) == len(channels) == len(dataset.bands)
            for band, mine, other in zip(dataset.bands, ours, channels, strict=True):
                factor = 10_000 if name in ("So2Sat", "CopernicusBenchLCZS2") and band.sensor == "S2" else 1
                np.testing.assert_array_equal(mine, (other.astype(np.float64) * factor).astype(np.float32))
            assert our_names(dataset, row) == label_names(sample, theirs)
    if not few:
        totals = {"train": 0} | dict.fromkeys(published, 0)
        for origin in totals:
            theirs = kind(
                root=str(root), checksum=False, **arguments, **({"split": published[origin]} if published else {})
            )
            totals[origin] = len(theirs)
        assert len(seen) == sum(totals.values())  # every sample is in one split


# torchgeo's names of channels, and what else they are called here; BigEarthNet's VH and VV are checked below.
OTHER_NAMES = {"IR": "nir", "G": "green", "B": "blue", "R": "red", "VV/VH": "VV_VH_ratio"}


@pytest.mark.parametrize("name", [name for name in SETS if name.startswith("Copernicus") or name == "TreeSatAI"])
def test_the_table_has_the_bands_in_the_order_that_torchgeo_documents(name):
    kind = getattr(tg, name)
    by_sensor = getattr(kind, "all_bands_dict", {})
    by_key = {f"image_{sensor}": names for sensor, names in by_sensor.items()} or {"image": kind.all_bands}
    for key, names in by_key.items():
        known = [OTHER_NAMES.get(one, one.removesuffix("_radiance")) for one in names]
        assert [channel.band.name for channel in SETS[name].channels[key]] == known


@pytest.mark.parametrize("name", ["EuroSAT", "So2Sat"])
def test_sentinel_bands_of_the_table_are_those_of_torchgeo(name):
    theirs = [band.removeprefix("S2_") for band in getattr(tg, name).all_band_names]
    ours = [channel.band.name for channel in SETS[name].channels["image"]]
    assert [band for band in ours if band.startswith("B")] == [band for band in theirs if band.startswith("B")]
    assert len(ours) == len(theirs)


def test_bigearthnet_gives_vh_before_vv(tmp_path):
    import rasterio

    dataset = opened("BigEarthNet", root_of("BigEarthNet", tmp_path), tmp_path, variant="s1")["train"]
    (file,) = Path(dataset.paths[0][0]).glob("*_VV.tif")
    with rasterio.open(file) as image:
        stored = image.read(1)
    (vv,) = dataset.read(0, [band for band in dataset.bands if band.name == "VV"])
    np.testing.assert_allclose(vv, stored, atol=0.5)  # torchgeo casts decibels to integers


def test_cuts_are_stratified_and_the_same_every_time(tmp_path):
    root = tmp_path / "PatternNet" / "images"
    made_pictures(root, [f"{name}/{n}" for name in ("airplane", "bridge") for n in range(10)], suffix=".jpg")
    first, again = (opened("PatternNet", tmp_path, tmp_path / "cache") for _ in range(2))
    for split, count in (("train", 6), ("val", 2), ("test", 2)):
        assert first[split].ids == again[split].ids
        assert np.bincount(first[split].labels).tolist() == [count, count]
        assert "seed 0" in first[split].provenance["split"]


def test_val_is_drawn_from_train_where_only_one_other_split_is_published(tmp_path):
    datasets = opened("FireRisk", root_of("FireRisk", tmp_path), tmp_path)
    counts = {split: np.bincount(dataset.labels, minlength=7).tolist() for split, dataset in datasets.items()}
    assert counts == {"train": [4] * 7, "val": [1] * 7, "test": [2] * 7}
    assert not set(datasets["train"].ids) & set(datasets["val"].ids)


@pytest.mark.parametrize("name", ["RESISC45", "TreeSatAI", "UCMerced", "CopernicusBenchEuroSATS2"])
def test_a_damaged_image_stops_with_its_name(name, tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(root_of(name, tmp_path), root)
    os.system(f"chmod -R u+w {root}")
    last = Path(opened(name, root, tmp_path / "cache")["train"].paths[-1][-1])
    last.write_bytes(last.read_bytes()[: last.stat().st_size // 3])
    with pytest.raises(RequestError, match=last.name):
        dataset = opened(name, root, tmp_path / "cache")["train"]
        dataset.read(len(dataset) - 1, dataset.bands)


def test_a_listed_image_that_is_absent_is_reported_and_not_left_out(tmp_path):
    root = tmp_path / "copy"
    shutil.copytree(FIXTURES / "resisc45", root)
    os.system(f"chmod -R u+w {root}")
    (root / "NWPU-RESISC45" / "airport" / "airport_002.jpg").unlink()
    with pytest.raises(RequestError, match="airport_002"):
        opened("RESISC45", root, tmp_path / "cache")


@pytest.mark.parametrize(
    ("name", "variant", "fact"),
    [
        ("RESISC46", None, "RESISC45"),
        ("LoveDA", None, "RESISC45"),
        ("RESISC45", "random", "--dataset-variant"),
        ("So2Sat", "4", "3_culture_10"),
    ],
)
def test_wrong_names_are_answered_with_the_right_ones(name, variant, fact, tmp_path):
    with pytest.raises(RequestError, match=fact):
        opened(name, FIXTURES / "resisc45", tmp_path, variant=variant)


def test_absent_files_name_the_folder_and_download(tmp_path):
    with pytest.raises(RequestError, match=f"{tmp_path}.*--download"):
        opened("RESISC45", tmp_path, tmp_path)


def test_download_goes_to_the_data_root(tmp_path, monkeypatch):
    asked = []

    def fetch(self):
        asked.append(self.root)
        shutil.copytree(FIXTURES / "resisc45", self.root, dirs_exist_ok=True)

    monkeypatch.setattr(tg.RESISC45, "_download", fetch)
    monkeypatch.setattr(tg.RESISC45, "_extract", lambda self: None)
    flags = DataFlags(dataset="torchgeo:RESISC45", download=True, data_root=tmp_path)
    assert len(flags.open()["train"]) == 9
    assert asked == [str(tmp_path / "torchgeo-RESISC45")]
