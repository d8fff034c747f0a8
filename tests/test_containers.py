"""Images in other tools' containers: Hugging Face datasets and imagefolder tables, and WebDataset shards."""

import io
import json
import tarfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.errors import RequestError
from data.flags import SPLITS, DataFlags, DatasetRequest
from data.sources import folder

NAMES = ["Forest", "River", "Sea, lake"]  # a comma must not cut a name
COUNTS = {"train": 6, "validation": 3, "test": 3}


def opened(root, splits=SPLITS, **flags):
    return folder.open_dataset(DatasetRequest(root, splits, (), DataFlags(**flags)))


def picture(seed):
    """An image (8, 8, 3), and the bytes of its PNG file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return pixels, file.getvalue()


def hub_table(first, count, *, several=False, path=None, names=NAMES):
    """A table as the package `datasets` writes it: images with bytes and path, and features in the metadata."""
    kind = {"names": names, "_type": "ClassLabel"}
    name, feature = ("labels", {"feature": kind, "_type": "List"}) if several else ("label", kind)
    labels = [[row % 3, (row + 1) % 3] if several else row % 3 for row in range(count)]
    images = [{"bytes": picture(first + row)[1], "path": path and f"{path}{row}.png"} for row in range(count)]
    table = pa.table({"image": images, name: labels})
    info = {"info": {"features": {"image": {"_type": "Image"}, name: feature}}}
    return table.replace_schema_metadata({"huggingface": json.dumps(info)})


def write_arrow(file, table):
    file.parent.mkdir(parents=True)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)


def made_parquet(root):
    (root / "data").mkdir()
    for number, (split, count) in enumerate(COUNTS.items()):
        pq.write_table(hub_table(100 * number, count), root / "data" / f"{split}-00000-of-00001.parquet")


def made_disk(root):
    for number, (split, count) in enumerate(COUNTS.items()):
        write_arrow(root / split / "data-00000-of-00001.arrow", hub_table(100 * number, count))


def made_shards(root):
    for number, (split, count) in enumerate(COUNTS.items()):
        with tarfile.open(root / f"{split}-000000.tar", "w") as shard:
            for row in range(count):
                members = {"png": picture(100 * number + row)[1], "cls": str(row % 3).encode()}
                for ending, content in members.items():
                    about = tarfile.TarInfo(f"{split}{row:04}.{ending}")
                    about.size = len(content)
                    shard.addfile(about, io.BytesIO(content))
    (root / "classnames.txt").write_text("\n".join(NAMES) + "\n")


@pytest.mark.parametrize("make", [made_parquet, made_disk, made_shards])
def test_containers_give_the_images_labels_and_splits_that_were_put_in(make, tmp_path):
    make(tmp_path)
    for _ in range(2):  # written out, and found again
        datasets = opened(tmp_path)
        for number, (split, count) in enumerate(zip(SPLITS, COUNTS.values(), strict=True)):
            dataset = datasets[split]
            assert len(dataset) == count
            assert dataset.labels.tolist() == [row % 3 for row in range(count)]
            assert dataset.class_names == tuple(NAMES)
            for row in range(count):
                np.testing.assert_array_equal(
                    np.stack(dataset.read(row, dataset.bands), axis=-1), picture(100 * number + row)[0]
                )


def test_a_dataset_without_splits_and_with_several_labels_is_cut(tmp_path):
    write_arrow(tmp_path / "saved" / "data-00000-of-00001.arrow", hub_table(0, 30, several=True))
    datasets = opened(tmp_path / "saved", cache_dir=tmp_path / "cache")
    assert {split: len(dataset) for split, dataset in datasets.items()} == {"train": 18, "val": 6, "test": 6}
    assert all((dataset.labels.sum(axis=1) == 2).all() for dataset in datasets.values())
    assert not set(datasets["train"].ids) & set(datasets["test"].ids)


def test_a_dataset_card_names_the_numbers_of_a_plain_table(tmp_path):
    (tmp_path / "data").mkdir()
    for split in COUNTS:
        table = hub_table(0, 3, path=f"{split}-").replace_schema_metadata(None)
        pq.write_table(table, tmp_path / "data" / f"{split}.parquet")
    names = "".join(f"        '{number}': '{name}'\n" for number, name in enumerate(NAMES))
    (tmp_path / "README.md").write_text(
        f"---\ndataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
        f"{names.replace('        ', '          ')}---\nA dataset.\n"
    )
    datasets = opened(tmp_path)
    assert datasets["train"].class_names == tuple(NAMES)
    assert datasets["val"].ids == [f"validation-{row}.png" for row in range(3)]


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("one", [True, False])
def test_imagefolder_tables(suffix, one, tmp_path):
    frames = []
    for number, (split, count) in enumerate(COUNTS.items()):
        (tmp_path / split).mkdir()
        for row in range(count):
            (tmp_path / split / f"{row}.png").write_bytes(picture(100 * number + row)[1])
        prefix = f"{split}/" if one else ""
        rows = {
            "file_name": [f"{prefix}{row}.png" for row in range(count)],
            "label": [NAMES[row % 3] for row in range(count)],
        }
        frames.append((tmp_path / split, pd.DataFrame(rows)))
    tables = [(tmp_path, pd.concat([frame for _, frame in frames]))] if one else frames
    for home, frame in tables:
        file = home / f"metadata.{suffix}"
        if suffix == "jsonl":
            frame.to_json(file, orient="records", lines=True)
        else:
            getattr(frame, f"to_{suffix}")(file, index=False)
    datasets = opened(tmp_path)
    for number, split in enumerate(SPLITS):
        dataset = datasets[split]
        assert [dataset.class_names[label] for label in dataset.labels] == [
            NAMES[row % 3] for row in range(len(dataset))
        ]
        np.testing.assert_array_equal(dataset.read(0, dataset.bands)[1], picture(100 * number)[0][:, :, 1])


def test_an_imagefolder_table_without_labels_leaves_them_to_the_folders(tmp_path, capsys):
    for name in NAMES:
        (tmp_path / name).mkdir()
        for row in range(5):
            (tmp_path / name / f"{row}.png").write_bytes(picture(row)[1])
    (tmp_path / "metadata.csv").write_text("file_name,text\nForest/0.png,green\n")
    assert opened(tmp_path)["train"].class_names == tuple(NAMES)
    assert "metadata.csv" in capsys.readouterr().err


def damage_parquet(root):
    file = next((root / "data").glob("train*"))
    file.write_bytes(file.read_bytes()[:-50])
    return file.name


def truncate_shard(root):
    file = root / "train-000000.tar"
    file.write_bytes(file.read_bytes()[:2000])
    return file.name


def two_images(root):
    with tarfile.open(root / "val-0.tar", "w") as shard:
        for ending in ("png", "jpg", "cls"):
            about = tarfile.TarInfo(f"one.{ending}")
            shard.addfile(about, io.BytesIO())
    return "'one' has 2 images"


def no_image_file(root):
    table = pa.table({"image": [{"bytes": b"RIFF....WEBP", "path": "a.webp"}], "label": ["Forest"]})
    pq.write_table(table, root / "data" / "extra-train.parquet")
    return "a.webp"


def outside(root):
    table = pa.table({"image": pa.array([{"bytes": None, "path": "/x/a.png"}], pa.struct({"bytes": pa.binary(), "path": pa.string()})), "label": ["Forest"]})  # fmt: skip  # noqa: E501
    pq.write_table(table, root / "data" / "extra-train.parquet")
    return "/x/a.png"


def label_beyond(root):
    pq.write_table(hub_table(0, 3, names=NAMES[:2]), root / "data" / "extra-train.parquet")
    return "2 class names"


@pytest.mark.parametrize(
    ("make", "harm"),
    [
        (made_parquet, damage_parquet),
        (made_shards, truncate_shard),
        (made_shards, two_images),
        (made_parquet, no_image_file),
        (made_parquet, outside),
        (made_parquet, label_beyond),
    ],
)
def test_damaged_containers_are_one_line_with_the_name_and_leave_nothing(make, harm, tmp_path):
    make(tmp_path)
    fact, before = harm(tmp_path), sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(RequestError, match=fact):
        opened(tmp_path)
    assert [name for name in sorted(path.name for path in tmp_path.iterdir()) if not name.endswith(".lock")] == before


def test_changed_containers_are_written_out_again(tmp_path):
    made_shards(tmp_path)
    first = opened(tmp_path)["train"]
    (tmp_path / "classnames.txt").write_text("Wood\nRiver\nSea\n")
    assert opened(tmp_path)["train"].class_names == ("River", "Sea", "Wood")
    assert first.class_names == tuple(NAMES)
