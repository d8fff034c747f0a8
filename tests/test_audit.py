"""The audit finds each kind of leak where it was put, and nothing where there is none."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import make_features, make_split
from PIL import Image
from pixels import PixelDataset

from analysis import cli, leaks
from analysis.views import audit
from analysis.views.audit import GOOD, NOTE, UNKNOWN, WRONG, Material
from data import command, packing
from data.bands import choose_bands

SPLITS = ("train", "val", "test")
METRE = 180 / np.pi / 6_378_137  # degrees of longitude on the equator


@pytest.fixture
def analyze(capsys):
    """Run the command in this process; returns exit code, output and errors."""

    def run(*words):
        code = command.run(cli.new_app(), [str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def material(name, ids, labels, *, classes=("a", "b"), lonlat=None, **more):
    lonlat = None if lonlat is None else np.array(lonlat, float)
    return Material(name, list(ids), np.array(labels), tuple(classes), lonlat, **more)


def found(frame, check, where):
    """(verdict, count, of, example) of one check."""
    rows = frame[(frame["check"] == check) & (frame["where"] == where)]
    assert len(rows) == 1, frame
    row = rows.iloc[0]
    return row["verdict"], row["count"], row["of"], row["example"]


def pictures(root: Path, count=4) -> Path:
    """A folder of different random pictures, two classes, three splits."""
    rng = np.random.default_rng(0)
    for split in SPLITS:
        for name in ("field", "wood"):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i}.png")
    return root


# ------------------------------------------------------------------------------------------------ places


def test_footprints_by_hand():
    """Squares of 100 m on the equator: the same, 25 m beside (3/4), 50 by 50 m away (1/4), touching, 200 m away."""
    away = np.array([(0, 0), (25, 0), (50, 50), (100, 0), (200, 0)]) * METRE
    near = leaks.nearness(away, np.array([[0.0, 0.0]]), (100, 100))
    # a degree of latitude on the equator is 110.574 km, of longitude 111.320 km
    half = 1 - 50 * (110_574 / 111_320) / 100
    np.testing.assert_allclose(near.share, [1, 0.75, 0.5 * half, 0, 0], atol=1e-4)
    assert near.touches.tolist() == [True, True, True, True, False]


def test_the_most_overlapping_of_several_is_named_wherever_it_stands():
    others = np.array([(90, 0), (10, 0), (50, 0)]) * METRE
    near = leaks.nearness(np.zeros((1, 2)), others, (100, 100))
    assert near.covered_by.tolist() == [1]
    np.testing.assert_allclose(near.share, 0.9, atol=1e-4)


def test_places_on_both_sides_of_the_date_line_are_near():
    near = leaks.nearness(np.array([[179.9999, 65.0]]), np.array([[-179.9999, 65.0]]), (100, 100))
    metres = 0.0002 * 111_320 * np.cos(np.radians(65)) * 1.00275  # the ellipsoid is wider there than the sphere
    np.testing.assert_allclose(near.share, 1 - metres / 100, atol=1e-3)


def test_more_samples_than_a_block_keep_their_places(monkeypatch):
    monkeypatch.setattr(leaks, "BLOCK", 7)
    rng = np.random.default_rng(0)
    of, among = rng.uniform(0, 0.05, (40, 2)), rng.uniform(0, 0.05, (30, 2))
    whole = leaks.nearness(of, among, (640, 640))
    monkeypatch.setattr(leaks, "BLOCK", 1000)
    again = leaks.nearness(of, among, (640, 640))
    np.testing.assert_array_equal(whole.share, again.share)
    np.testing.assert_array_equal(whole.touches, again.touches)
    assert (whole.share > 0).sum() > 5


def test_eurosats_footprints_overlap_where_their_published_outlines_do(shared):
    """Parity with shapely on outlines of 8,640 real patches; those are upright in degrees, so slightly too large."""
    import shapely

    table = pd.read_parquet(shared / "data" / "eurosat-geometry.parquet")
    outline = dict(zip(table["index"].str.removesuffix(".tif"), shapely.from_wkb(table["geometry"]), strict=True))
    outlines = {}
    for split in ("val", "test"):
        lines = (shared / "data" / "eurosat-rgb" / f"eurosat-{split}.txt").read_text().split()
        outlines[split] = np.array([outline[Path(line).stem] for line in lines])
    centres = {split: shapely.get_coordinates(shapely.centroid(polygons)) for split, polygons in outlines.items()}
    ours = leaks.nearness(centres["test"], centres["val"], (640, 640))
    test, val = shapely.STRtree(outlines["val"]).query(outlines["test"], predicate="intersects")
    shared_area = shapely.area(shapely.intersection(outlines["test"][test], outlines["val"][val]))
    theirs = np.zeros(len(outlines["test"]))
    np.maximum.at(theirs, test, shared_area / shapely.area(outlines["test"][test]))
    assert np.abs(ours.share - theirs).max() < 0.05
    assert ((ours.share > leaks.OVERLAP) == (theirs > leaks.OVERLAP)).mean() > 0.998
    assert (theirs > leaks.OVERLAP).sum() >= 25, "the lists overlap in fact"


def test_the_footprint_is_that_of_the_finest_band():
    """48 pixels of 10 m; 8 pixels of 60 m and 24 of 20 m are the same patch."""
    assert leaks.footprint_m(PixelDataset(), PixelDataset().bands) == (480, 480)
    assert leaks.footprint_m(PixelDataset(), choose_bands(PixelDataset().bands, "B01,B05")) == (480, 480)
    assert leaks.footprint_m(PixelDataset(), choose_bands(PixelDataset().bands, "red")) is None


def test_overlaps_are_wrong_neighbours_are_a_note():
    dataset = {"dataset": PixelDataset(rows=1), "bands": PixelDataset().bands}
    step = 480 * METRE
    train = material("train", "ab", [0, 1], lonlat=[(0, 0), (1, 0)], **dataset)
    test = material("test", "cde", [0, 1, 0], lonlat=[(0.5 * step, 0), (1.1 * step, 0), (0.5, 0)], **dataset)
    frame = audit.compute([train, test], pixels=False)
    assert found(frame, "overlapping footprints", "test in train") == (WRONG, 1, 3, "50%: c and a")
    assert found(frame, "same footprint", "test in train")[:3] == (GOOD, 0, 3)
    assert found(frame, "next to each other, or overlapping", "test in train")[:3] == (NOTE, 2, 3)
    same = material("val", "f", [0], lonlat=[(1, 0)], **dataset)
    frame = audit.compute([train, same], pixels=False)
    assert found(frame, "same footprint", "val in train") == (WRONG, 1, 1, "f and b")


def test_without_locations_it_says_so():
    frame = audit.compute([material("train", "a", [0]), material("val", "b", [0])])
    assert found(frame, "overlapping footprints", "all splits")[0] == UNKNOWN
    assert found(frame, "identical pixels", "all splits")[0] == UNKNOWN


# ------------------------------------------------------------------------------------------------ names


def test_bigearthnet_names_tell_scene_tile_and_place():
    names = ["S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP_26_57", "S2B_MSIL2A_20180502T093039_N9999_R136_T34TEP_43_14"]
    frame = leaks.scenes(names)
    assert frame and frame["tile"] == ["33UUP", "34TEP"] and frame["cell"] == ["33UUP_26_57", "34TEP_43_14"]
    assert leaks.scenes(["S2A_MSIL2A_20170617T113321_36_85"]) == {"scene": ["S2A_MSIL2A_20170617T113321"]}
    assert leaks.scenes([names[0], "Forest_12"]) is None


def test_the_same_place_on_another_date_is_wrong_the_same_scene_a_note():
    stem = "S2A_MSIL2A_{}T101031_N9999_R022_T33UUP_{}"
    train = material("train", [stem.format(20170613, "26_57"), stem.format(20170613, "26_58")], [0, 1])
    test = material("test", [stem.format(20170613, "30_30"), stem.format(20180101, "26_58")], [0, 1])
    frame = audit.compute([train, test])
    assert found(frame, "same place by id", "test in train") == (WRONG, 1, 2, "33UUP_26_58")
    assert found(frame, "same scene", "test in train")[:3] == (NOTE, 1, 2)
    assert found(frame, "same tile", "test in train")[:3] == (NOTE, 2, 2)


# ------------------------------------------------------------------------------------------------ labels


def test_labels_are_counted_and_absent_classes_named():
    train = material("train", "abc", [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]], classes="wxyz")
    test = material("test", "de", [[1, 0, 1, 0], [1, 0, 1, 0]], classes="wxyz")
    counts = audit.label_counts([train, test])
    assert counts[["class", "train", "test"]].to_dict("list") == {
        "class": list("wxyz"),
        "train": [2, 1, 0, 0],
        "test": [2, 0, 2, 0],
    }
    assert audit.readable_labels(counts) == (
        ["Class", "train", "test"],
        [["w", "2 (66.7%)", "2 (100.0%)"], ["x", "1 (33.3%)", "0 (0.0%)"], ["y", "0 (0.0%)", "2 (100.0%)"],
         ["z", "0 (0.0%)", "0 (0.0%)"]],
    )  # fmt: skip
    frame = audit.compute([train, test])
    assert found(frame, "class absent", "from train") == (WRONG, 1, 4, "y")
    assert found(frame, "class absent", "from test") == (WRONG, 1, 4, "x")
    assert found(frame, "class absent", "from all splits") == (NOTE, 1, 4, "z")
    assert found(frame, "images without any label", "in train") == (NOTE, 1, 3, "c")


def test_an_id_in_two_splits():
    frame = audit.compute([material("train", "ab", [0, 1]), material("val", "cb", [0, 1])])
    assert found(frame, "same id", "val in train") == (WRONG, 1, 2, "b")


# ------------------------------------------------------------------------------------------------ pixels


def test_identical_pictures_in_two_splits_are_found_and_exit_with_1(tmp_path, analyze):
    root = pictures(tmp_path / "data")
    words = ["audit", "--dataset", "folder", "--data-root", root, "--out", tmp_path / "runs"]
    code, out, _ = analyze(*words)
    assert code == 0 and "no problems found" in out and "same id, identical pixels" in out
    first = (root / "train" / "wood" / "1.png").read_bytes()
    (root / "test" / "field" / "9.png").write_bytes(first)
    (root / "train" / "field" / "8.png").write_bytes((root / "train" / "field" / "0.png").read_bytes())
    Image.new("RGB", (8, 8)).save(root / "val" / "wood" / "black.png")
    code, out, _ = analyze(*words)
    assert code == 1 and "2 of " in out
    assert "wrong    identical pixels, test in train: 1 of 9 (11.1%) (test/field/9.png and train/wood/1.png)" in out
    assert "wrong    identical pixels with other labels, test in train: 1 of 9" in out
    assert "note     identical pixels, within train: 1 of 9 (11.1%) (train/field/8.png and train/field/0.png)" in out
    assert "note     blank images, in val: 1 of 9 (11.1%) (val/wood/black.png)" in out
    folder = tmp_path / "runs" / "analysis" / "audit"
    assert sorted(file.name for file in folder.iterdir()) == [
        "audit-labels__folder-data.csv",
        "audit__folder-data.csv",
        "audit__folder-data.md",
    ]
    table = pd.read_csv(folder / "audit__folder-data.csv")
    assert (table["verdict"] == "wrong").sum() == 2 and not table["simulated"].any()
    text = (folder / "audit__folder-data.md").read_text()
    assert "identical pixels, " not in text and "| field " in text and "train/wood/1.png" in text


def test_pixels_are_left_alone_where_told(tmp_path, analyze):
    root = pictures(tmp_path / "data")
    (root / "test" / "wood" / "0.png").write_bytes((root / "val" / "wood" / "0.png").read_bytes())
    words = ["audit", "--dataset", "folder", "--data-root", root, "--out", tmp_path / "runs"]
    assert analyze(*words)[0] == 1
    code, out, _ = analyze(*words, "--no-pixels")
    assert code == 0 and "--no-pixels" in out and "could not be run" in out


def test_pixels_that_differ_in_type_or_one_value_are_not_identical():
    class Four(PixelDataset):
        def read(self, index, bands):
            image = np.zeros((1, 4), [np.uint16, np.uint16, np.uint8, np.uint16][index])
            image[0, 3] = index == 3
            return [image if index != 2 else np.zeros((2, 4), np.uint8)]

    hashed = leaks.hash_pixels(Four(rows=4), [], lambda count: None)
    assert hashed.digests[0] == hashed.digests[1] and len(set(hashed.digests.tolist())) == 3
    assert hashed.blank.tolist() == [True, True, True, False]


def test_a_packed_file_is_audited_as_its_source(tmp_path, analyze):
    source = {split: PixelDataset(split, 6, name="simulated") for split in SPLITS}
    packing.pack(tmp_path / "p.h5", source, source["train"].bands[:3])
    code, out, _ = analyze("audit", "--packed", tmp_path / "p.h5", "--out", tmp_path)
    # the test data draw a sample's pixels and place from its number alone: each split repeats the others
    assert code == 1 and "identical pixels, val in train: 6 of 6 (100.0%)" in out
    assert "same footprint, test in val: 6 of 6" in out
    code, _, err = analyze("audit", "--packed", tmp_path / "p.h5", "--bands", "s2-12", "--out", tmp_path)
    assert code == 2 and "p.h5 has no B02" in err


# ------------------------------------------------------------------------------------------------ features


def test_constant_and_duplicate_features_by_hand():
    """Dimensions: 0 varies, 1 repeats it, 2 is constant, 3 varies otherwise; the last row repeats the first."""
    train = np.array([[1, 1, 7, 3], [2, 2, 7, 5], [1, 1, 7, 3]], np.float32)
    test = np.array([[9, 8, 7, 6], [2, 2, 7, 5]], np.float32)
    splits = [material("train", "abc", [0, 1, 0], features=train), material("test", "de", [0, 1], features=test)]
    frame = audit.compute(splits)
    assert found(frame, "constant features", "in train") == (NOTE, 1, 4, "dimension 2")
    assert found(frame, "duplicate features", "in train") == (NOTE, 1, 4, "dimensions 0 and 1")
    assert found(frame, "identical features", "within train") == (NOTE, 1, 3, "c and a")
    assert found(frame, "identical features", "test in train") == (WRONG, 1, 2, "e and b")
    flat = audit.compute([material("train", "abc", [0, 1, 0], features=np.ones((3, 4), np.float32))])
    assert found(flat, "constant features", "in train")[0] == WRONG


def test_a_feature_set_is_audited_without_its_dataset(tmp_path, analyze):
    make_features(tmp_path, multilabel=True, rows=(30, 20, 20), simulated=True)
    code, out, _ = analyze("audit", "--out", tmp_path)
    assert code == 0, out
    assert "Audit of simulated (simulated data): train 30, val 20, test 20 images" in out
    assert "constant features, duplicate features, identical features" in out
    table = pd.read_csv(next((tmp_path / "analysis" / "audit").glob("audit__*.csv")))
    assert table["simulated"].all()


def test_features_of_other_samples_than_the_datasets_are_an_error(tmp_path, analyze):
    root = pictures(tmp_path / "data")
    folder = tmp_path / "made"
    labels = np.array([0, 1])
    make_split(folder / "train.h5", labels, np.eye(2, dtype=np.float32), ["field", "wood"])
    words = ["--dataset", "folder", "--data-root", root, "--features", folder, "--out", tmp_path]
    code, _, err = analyze("audit", *words)
    assert code == 2 and err.count("\n") == 1 and "train.h5" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "make them with featurize"),
        (["--features", "{tmp}/gone"], "no features in {tmp}/gone"),
        (["--dataset", "folderr"], "did you mean 'folder'?"),
        (["--dataset", "folder", "--data-root", "{tmp}/gone"], "no folder {tmp}/gone"),
        (["--packed", "{tmp}/gone.h5"], "no packed file at {tmp}/gone.h5"),
        (["--split", "dev", "--dataset", "simulated"], "unknown split 'dev'"),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(words, message, tmp_path, analyze):
    code, _, err = analyze("audit", *(word.replace("{tmp}", str(tmp_path)) for word in words), "--out", tmp_path)
    assert code == 2 and err.startswith("analyze: ") and err.count("\n") == 1
    assert message.replace("{tmp}", str(tmp_path)) in err


def test_an_audit_imports_no_torch():
    code = "import sys; import analysis.views.audit, data.sources.folder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent).returncode == 0
