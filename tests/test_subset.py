"""--only-classes and --per-class: which samples they leave, their labels, their identity, and what is refused."""

import json

import numpy as np
import pytest
from helpers import TinyDataset, encoder_identity
from opening import open_split

from data import command, store
from data.dataset import SPLITS
from data.errors import RequestError
from data.nomenclature import CLASSES_19
from data.registry import DATASETS
from data.subset import Selection, draw, parse_classes, selected
from featurize.cli import app
from probes.cli import app as probe_app

NAMES = ["Forest", "River", "Road", "Sea"]
LABELS = np.arange(40) % 4


def tiny(split="train", labels=LABELS, names=NAMES):
    return TinyDataset(split, labels, names)


def test_kept_classes_are_relabelled_in_the_datasets_order():
    few = selected(tiny(), Selection(only_classes="Sea,River"))
    assert few.class_names == ("River", "Sea")
    assert few.labels.tolist() == [0, 1] * 10  # rows 1, 3, 5, 7 ... were River, Sea, River, Sea
    assert few.ids == [f"train-{row:05d}" for row in range(1, 40, 2)]


def test_so_many_of_each_class_drawn_by_the_seed_and_smaller_draws_lie_inside_larger_ones():
    five = selected(tiny(), Selection(per_class="5"))
    assert np.bincount(five.labels).tolist() == [5, 5, 5, 5] and five.ids == sorted(five.ids)
    assert set(selected(tiny(), Selection(per_class="2")).ids) < set(five.ids)
    assert selected(tiny(), Selection(per_class="5")).ids == five.ids
    assert selected(tiny(), Selection(per_class="5", seed=1)).ids != five.ids


def test_splits_and_classes_have_numbers_of_their_own():
    chosen = Selection(only_classes="Sea,River", per_class="all,2,3+4")
    counts = {split: np.bincount(selected(tiny(split), chosen).labels).tolist() for split in ("train", "val", "test")}
    assert counts == {"train": [10, 10], "val": [2, 2], "test": [4, 3]}  # River 4 and Sea 3: flags' order, ours sorted


def test_a_multilabel_sample_counts_for_each_class_and_one_of_no_kept_class_is_left_out():
    labels = np.array([[1, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0]], np.uint8)
    few = selected(tiny(labels=labels, names=["a", "b", "c"]), Selection(only_classes="a,b"))
    assert few.labels.tolist() == [[1, 1], [1, 0], [1, 0], [0, 1]] and few.multilabel
    # c is the rarest with b: two samples of each fill a as well where they overlap
    rows = draw(labels.astype(bool), np.array([1, 2, 2]), seed=0, split="train")
    assert labels[rows].sum(axis=0).tolist() == [2, 2, 2] and rows.tolist() == [0, 2, 3, 4]


def test_class_names_with_commas_of_their_own_are_found():
    wanted = "Moors, heathland and sclerophyllous vegetation,Inland waters,Beaches,dunes,sands"
    assert parse_classes(wanted, CLASSES_19, "bigearthnet") == [
        "Moors, heathland and sclerophyllous vegetation", "Inland waters", "Beaches, dunes, sands",
    ]  # fmt: skip


def test_the_choice_is_in_the_identity_and_without_one_the_identity_is_as_before():
    def dataset(selection):
        return store.make_identity(selected(tiny(), selection), encoder_identity())["dataset"]

    assert "per_class" not in dataset(Selection())["provenance"]
    assert dataset(Selection()) == store.make_identity(tiny(), encoder_identity())["dataset"]
    chosen = dataset(Selection("Sea,River", "2,1,1", seed=3))
    assert chosen["class_names"] == ["River", "Sea"]
    assert chosen["provenance"]["only_classes"] == ["River", "Sea"]
    assert chosen["provenance"]["per_class"] == {"train": [2, 2], "val": [1, 1], "test": [1, 1], "seed": 3}


@pytest.mark.parametrize(
    ("selection", "told"),
    [
        (Selection("Forest,Rivr"), ["Rivr", "did you mean 'River'"]),
        (Selection("Forest"), ["at least two"]),
        (Selection("Forest,Sea,Forest"), ["twice"]),
        (Selection(per_class="11"), ["11 samples per class", "Forest has 10", "at most 10"]),
        (Selection(per_class="1,2"), ["2 entries", "train, val and test"]),
        (Selection(per_class="0"), ["'0' is not a count"]),
        (Selection(per_class="1+2+3"), ["3 numbers for 4 classes"]),
        (Selection(per_class="many"), ["'many' is not a count"]),
    ],
)
def test_bad_choices_are_one_clear_line(selection, told):
    with pytest.raises(RequestError) as error:
        selected(tiny(), selection)
    assert all(word in str(error.value) for word in told) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["simulated"])
def test_every_dataset_takes_them(name, tmp_path):
    whole = open_split(DATASETS.load(name), "train", tmp_path)
    two = whole.class_names[:2]
    few = selected(whole, Selection(",".join(two), "3"))
    assert few.class_names == two and few.labels.sum(axis=0).min() >= 3
    pixels = few.read(0, few.bands)
    assert len(pixels) == len(few.bands)
    assert (pixels[0] == whole.read(whole.ids.index(few.ids[0]), whole.bands)[0]).all()


def test_the_class_projects_four_classes_on_real_tiles_from_the_command_line(shared, tmp_path, capsys):
    data = ["--dataset", "eurosat", "--data-root", str(shared / "data" / "eurosat-ms")]
    data += ["--cache-dir", str(tmp_path / "cache"), "--model", "stats", "--out", str(tmp_path)]
    four = "AnnualCrop,Forest,HerbaceousVegetation,Industrial"
    flags = ["--only-classes", four, "--per-class", "20,5,3+4+3+4"]
    assert command.run(app, [*data, *flags]) == 0
    folder = store.find_features(tmp_path)
    counts = {split: np.bincount(store.read_features(folder / f"{split}.h5").labels).tolist() for split in SPLITS}
    assert counts == {"train": [20] * 4, "val": [5] * 4, "test": [3, 4, 3, 4]}
    assert command.run(probe_app, ["--kind", "knn", "--out", str(tmp_path)]) == 0
    (record,) = (json.loads(file.read_text()) for file in tmp_path.glob("probes/*/*/*/run.json"))
    assert record["class_names"] == four.split(",")
    (folder / "val.h5").unlink()  # the command that makes it again names the choice
    capsys.readouterr()
    assert command.run(probe_app, ["--kind", "knn", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert f"--only-classes {four} --per-class 20,5,3+4+3+4" in told
    assert command.run(app, [*data, "--per-class", "5000"]) == 2
