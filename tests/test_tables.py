"""Label tables as people have them: every separator, encoding and form of labels is read, or refused by its line."""

import json

import numpy as np
import pandas as pd
import pytest
from opening import open_split
from PIL import Image

from data import command
from data.dataset import SPLITS
from data.errors import RequestError
from data.sources import folder

CLASSES = ("Forest", "River", "Pasture")
ROWS = [
    (f"img/{name}_{n}.png", name, split)
    for name in CLASSES
    for n, split in enumerate(("train", "train", "val", "test"))
]
PLAIN = "path,label,split\n" + "".join(f"{path},{name},{split}\n" for path, name, split in ROWS)


def open_folder(root, split="train"):
    return open_split(folder, split, root)


@pytest.fixture(autouse=True)
def notes_again():
    command.note.cache_clear()


@pytest.fixture
def root(tmp_path):
    (tmp_path / "img").mkdir()
    for number, (path, *_) in enumerate(ROWS):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / path)
    return tmp_path


def put(root, text, *, encoding="utf-8"):
    (root / "labels.csv").write_bytes(text.encode(encoding))
    return root


def each(line):
    """A table whose rows are `line` of (path, name, split)."""
    return "".join(line(*row) + "\n" for row in ROWS)


READ = {
    "semicolons, as Excel writes them": (PLAIN.replace(",", ";").replace("\n", "\r\n"), "utf-8-sig"),
    "tabs": (PLAIN.replace(",", "\t"), "utf-8"),
    "UTF-16": (PLAIN, "utf-16"),
    "capital headers": (PLAIN.replace("path,label,split", "Path,Label,Split"), "utf-8"),
    "other headers": (PLAIN.replace("path,label,split", "filename,class,fold"), "utf-8"),
    "separator at the end of lines": (PLAIN.replace("\nimg", ",\nimg").replace("split,\n", "split\n"), "utf-8"),
    "separator at the end of all lines": (PLAIN.replace("\n", ",\n"), "utf-8"),
    "blank lines": (PLAIN + "\n\n,,\n", "utf-8"),
    "backslashes": (PLAIN.replace("/", "\\"), "utf-8"),
    "names of splits": (PLAIN.replace(",train", ",Training").replace(",val", ", dev"), "utf-8"),
    "one-hot": ("path,Forest,River,Pasture,split\n" + each(
        lambda p, c, s: f"{p},{int(c == 'Forest')},{int(c == 'River')},{int(c == 'Pasture')},{s}"
    ), "utf-8"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "encoding"), READ.values(), ids=READ)
def test_forms_of_one_table_give_the_same_samples(root, text, encoding):
    plain = open_folder(put(root, PLAIN))
    read = open_folder(put(root, text, encoding=encoding))
    assert (read.ids, read.class_names, read.labels.tolist()) == (plain.ids, plain.class_names, plain.labels.tolist())
    assert read.labels.tolist() == [0, 0, 2, 2, 1, 1]


LISTS = {
    "Python's": lambda p, c, s: f"{p},\"['{c}', 'Land']\",{s}",
    "JSON's": lambda p, c, s: f'{p},"[""{c}"", ""Land""]",{s}',
    "semicolons": lambda p, c, s: f"{p},{c};Land,{s}",
}


@pytest.mark.parametrize("line", LISTS.values(), ids=LISTS)
def test_lists_in_cells_are_several_labels(root, line):
    dataset = open_folder(put(root, "path,labels,split\n" + each(line)))
    assert dataset.class_names == ("Forest", "Land", "Pasture", "River")
    assert dataset.labels.tolist() == [[1, 1, 0, 0]] * 2 + [[0, 1, 0, 1]] * 2 + [[0, 1, 1, 0]] * 2


def test_one_hot_with_two_classes_in_a_row_is_multilabel(root):
    text = "path,Forest,Land,split\n" + each(lambda p, c, s: f"{p},{int(c == 'Forest')},1,{s}")
    assert open_folder(put(root, text)).labels.tolist() == [[1, 1]] * 2 + [[0, 1]] * 4


REFUSED = {
    "numpy's lists": (
        PLAIN.replace("label", "labels").replace("1.png,River", "1.png,['River' 'Land']"),
        r"1 of 12 rows hold a list that cannot be read.*first: line 7 '\['River' 'Land'\]'",
    ),
    "commas between labels": (
        PLAIN.replace("label", "labels").replace(",Forest,", ',"Forest,Land",'),
        r"4 of 12 rows hold commas, and no row has several labels; separate labels by ';'.*line 2 'Forest,Land'",
    ),
    "nan": (PLAIN.replace("1.png,River", "1.png,nan"), r"1 of 12 rows have a word for a missing value.*line 7 'nan'"),
    "another case": (
        PLAIN.replace("1.png,River", "1.png,river"),
        r"1 of 12 rows have the class 'river', which differs from 'River' .*first: line 7",
    ),
    "another Unicode form": (
        PLAIN.replace(",River", ",Rivi\u00e8re").replace("1.png,Rivi\u00e8re", "1.png,Rivie\u0300re"),
        r"1 of 12 rows have the class .*Unicode form.*line 7",
    ),
    "commas that are not quoted": (
        PLAIN.replace("1.png,River", "1.png,River, wide"),
        r"1 of 12 lines do not have the 3 fields of the header \(first: line 7 has 4\); put names .* in double quotes",
    ),
    "a short line after a blank one": (
        PLAIN.replace("img/River_1.png,River,train", "\nimg/River_1.png,River"),
        r"first: line 8 has 2",
    ),
    "a file outside": (PLAIN.replace("img/River_1.png", "/dev/null"), r"name a file outside .* line 7 '/dev/null'"),
    "one row of a split without a label": (
        PLAIN.replace("1.png,River", "1.png,"),
        r"1 of 12 rows have no label although others of their split have.*line 7",
    ),
    "two columns of one name": (PLAIN.replace("path,label,split", "path,path,split"), "column path twice"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_rows_are_named_by_their_own_line(root, text, message):
    with pytest.raises(RequestError, match=message):
        open_folder(put(root, text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (PLAIN.replace("1.png,River", "1.png,Rivi\u00e8re").encode("latin-1"), "line 7: its text is not UTF-8; save"),
        (PLAIN.encode("utf-16-le"), "zero bytes, as UTF-16 does; save the table as UTF-8"),
        (PLAIN.replace("River,", '"River,', 1).encode(), r"cannot read .*labels.csv, line 6"),
    ],
)
def test_text_that_cannot_be_read_is_named_with_its_line(root, content, message):
    (root / "labels.csv").write_bytes(content)
    with pytest.raises(RequestError, match=message):
        open_folder(root)


def test_spaces_around_labels_are_reported(root, capsys):
    assert open_folder(put(root, PLAIN.replace("1.png,River", "1.png,River "))).class_names == tuple(sorted(CLASSES))
    assert "1 labels have spaces around them, first in line 7" in capsys.readouterr().err


def test_absolute_paths_inside_the_folder_have_relative_ids(root, monkeypatch):
    put(root, PLAIN.replace("img/", f"{root}/img/"))
    monkeypatch.chdir(root.parent)
    relative = open_folder(root.relative_to(root.parent))
    assert relative.ids[0] == "img/Forest_0.png"
    assert int(relative.read(1, relative.bands)[0][0, 0]) == 1


def test_accents_in_the_other_unicode_form_find_their_file(root):
    (root / "img" / "River_1.png").rename(root / "img" / "Rivi\u00e8re_1.png")
    assert "img/Rivi\u00e8re_1.png" in open_folder(put(root, PLAIN.replace("River_1", "Rivie\u0300re_1"))).ids


def test_decimal_commas_in_locations_are_read(root):
    text = "path;label;split;lon;lat\n" + each(lambda p, c, s: f"{p};{c};{s};7,5;-50,25")
    assert open_folder(put(root, text)).lonlat[0].tolist() == [7.5, -50.25]


# --- split tables beside class folders, as EuroSAT is offered


def test_split_tables_beside_class_folders_are_read(root):
    for split in SPLITS:
        rows = [(n, p, CLASSES.index(c), c) for n, (p, c, s) in enumerate(ROWS) if s == split]
        frame = pd.DataFrame(rows, columns=["", "Filename", "Label", "ClassName"])
        frame.to_csv(root / {"val": "validation.csv"}.get(split, f"{split}.csv"), index=False)
    opened = {split: open_folder(root, split) for split in SPLITS}
    assert {split: dataset.ids for split, dataset in opened.items()} == {
        split: [path for path, _, of in ROWS if of == split] for split in SPLITS
    }
    assert opened["test"].class_names == ("Forest", "Pasture", "River")
    assert opened["test"].provenance["split"] == "train.csv, validation.csv, test.csv"


def test_label_map_names_numbers_of_split_tables(root):
    (root / "label_map.json").write_text(json.dumps({name: number for number, name in enumerate(CLASSES)}))
    for split in SPLITS:
        rows = [f"{p},{CLASSES.index(c)}\n" for p, c, s in ROWS if s == split]
        (root / f"{split}.csv").write_text("Filename,Label\n" + "".join(rows))
    assert open_folder(root).class_names == ("Forest", "Pasture", "River")
    (root / "label_map.json").write_text('{"Forest": 0}')
    with pytest.raises(RequestError, match="label_map.json does not name all labels"):
        open_folder(root)


# --- a val split drawn from train, and images without labels


def test_val_is_drawn_from_train_where_there_is_none(tmp_path, capsys):
    for split, count in {"training": 10, "test": 2}.items():
        for name in ("Forest", "River"):
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (4, 4)).save(tmp_path / split / name / f"{number}.png")
    opened = {split: open_folder(tmp_path, split) for split in SPLITS}
    assert {split: np.bincount(dataset.labels).tolist() for split, dataset in opened.items()} == {
        "train": [8, 8], "val": [2, 2], "test": [2, 2]
    }  # fmt: skip
    assert not set(opened["train"].ids) & set(opened["val"].ids)
    assert open_folder(tmp_path, "val").ids == opened["val"].ids
    assert "val is 20% of train by sha256 of the seed 0" in opened["test"].provenance["split"]
    assert capsys.readouterr().err.count("4 of 20 train images") == 1


def test_images_without_classes_are_an_unlabelled_test_split(root):
    dataset = open_folder(root / "img", "test")
    assert (set(dataset.labels.tolist()), dataset.class_names, len(dataset)) == ({-1}, (), 12)
    with pytest.raises(
        RequestError, match=r"no images of split train .*test 12\); images without labels .*--split test"
    ):
        open_folder(root / "img")


@pytest.mark.parametrize("column", ["label", "labels"])
def test_split_without_any_label_is_unlabelled(root, column):
    rows = [(path, "" if split == "test" else name, split) for path, name, split in ROWS]
    pd.DataFrame(rows, columns=["path", column, "split"]).to_csv(root / "labels.csv", index=False)
    assert open_folder(root, "test").labels.tolist() == [-1, -1, -1]
    assert len(open_folder(root).labels) == 6
    assert open_folder(root, "test").class_names == open_folder(root).class_names == ("Forest", "Pasture", "River")
