"""Images that other tools keep in containers: Hugging Face `datasets` (Parquet or Arrow files) and WebDataset shards.

They are written out once, as images beside a ``metadata.parquet``, into a cache folder that can be trusted (see
`data.archives`); from there they are a folder like any other.
"""

import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from data.archives import MARKER, unpacked
from data.command import note, progress
from data.errors import RequestError
from data.images import SUFFIXES
from data.listing import SPLIT_NAMES

CARD = "README.md"  # of a dataset on the Hugging Face hub
BANDS_FILE = "dataset.json"  # see `data.sources.folder`
CLASS_NAMES = ("classnames.txt", "classes.txt")  # of WebDataset shards whose labels are numbers, one per line
IMAGE, LABEL, LABELS = ("image", "img", "picture"), ("label", "class", "category"), ("labels", "classes", "tags")
OTHERS = ("id", "lon", "longitude", "lat", "latitude")
LARGEST_TEXT = 2**20  # bytes of a shard's label
MAGIC = {b"\xff\xd8\xff": ".jpg", b"\x89PNG": ".png", b"II*\0": ".tif", b"MM\0*": ".tif", b"II+\0": ".tif"}


class Contained(NamedTuple):
    """One sample in a container."""

    key: str | None  # its name there, or None
    image: bytes  # the bytes of an image file
    label: Any  # a class name or number, several, or None
    others: dict[str, Any]  # further columns for the table


def unpacked_containers(root: Path, *, cache_dir: Path | None) -> Path | None:
    """Folder of the images and labels of the containers in a folder, written now if it is not there already.

    Args:
        root: holds ``*.parquet``, ``*.arrow`` or ``*.tar`` files, or has folders of them. A file's split is the first
            word of its path that names one, such as ``data/train-00000-of-00002.parquet``.
        cache_dir: see `data.archives.unpacked`.

    Returns:
        None where there are no containers.
    """
    found = _containers(root)
    if not found:
        return None
    note(
        f"{root}: {len(found)} Parquet, Arrow or tar files (first {found[0].relative_to(root)}): "
        "extracting their images, once"
    )

    def write_samples(_: Sequence[Path], folder: Path) -> None:
        _write(root, found, folder)

    about = [root / name for name in (*CLASS_NAMES, CARD, BANDS_FILE) if (root / name).is_file()]
    return unpacked(found[0], cache_dir=cache_dir, more=[*found[1:], *about], extract=write_samples)


def _containers(root: Path) -> list[Path]:
    """Containers of the first kind that there is, sorted."""
    for kind, holds in ((".arrow", _has_images), (".parquet", _has_images), (".tar", _is_shard)):
        files = sorted(path for pattern in (f"*{kind}", f"*/*{kind}") for path in root.glob(pattern) if path.is_file())
        files = [file for file in files if not (file.parent / MARKER).exists()]  # written out by an earlier command
        if files and all(holds(file) for file in files):
            return files
    return []


def _write(root: Path, files: Sequence[Path], folder: Path) -> None:
    """Write images, each with its container's time of change, and the table of their labels."""
    folder.mkdir()
    rows: list[dict[str, Any]] = []
    names = _class_names(root)
    with progress("writing out images", len(files), "containers") as advance:
        for file in files:
            words = re.split("[-_.]", "-".join(file.relative_to(root).with_suffix("").parts).lower())
            split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), None)
            changed = file.stat().st_mtime_ns
            read = _of_shard if file.suffix == ".tar" else _of_table
            for number, sample in enumerate(read(file, names)):
                key = sample.key or f"{file.relative_to(root).with_suffix('').as_posix()}/{number}"
                suffix = next((end for start, end in MAGIC.items() if sample.image.startswith(start)), None)
                if suffix is None:
                    raise RequestError(f"{file}: '{key}' is not a JPEG, PNG or TIFF image; convert it")
                path = Path(split or "all") / f"{len(rows):08}{suffix}"
                (folder / path.parent).mkdir(exist_ok=True)
                (folder / path).write_bytes(sample.image)
                os.utime(folder / path, ns=(changed, changed))
                label = sample.label if isinstance(sample.label, list) else [sample.label]
                chosen = [str(one) for one in label if one not in (None, "")]
                rows.append(
                    {"file_name": path.as_posix(), "key": key, "split": split, "labels": chosen, **sample.others}
                    | {"several": isinstance(sample.label, list)}
                )
            advance(1)
    if not rows:
        raise RequestError(
            f"{files[0]} and {len(files) - 1} more contain no samples with images; "
            "see docs/guide/your-images.md for the formats"
        )
    pq.write_table(_table(rows), folder / "metadata.parquet")
    if (root / BANDS_FILE).is_file():
        shutil.copy(root / BANDS_FILE, folder)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    """The table of `data.tables`: ids are the keys where these are unique, else paths."""
    columns: dict[str, list[Any]] = {"file_name": [row["file_name"] for row in rows]}
    keys = [row["key"] for row in rows]
    if len(set(keys)) == len(keys):
        columns["id"] = keys
    if any(row["split"] for row in rows):
        columns["split"] = [row["split"] or "train" for row in rows]
    if any(row["several"] for row in rows):
        columns["labels"] = [row["labels"] for row in rows]
    else:
        columns["label"] = [next(iter(row["labels"]), "") for row in rows]
    for name in OTHERS:
        if all(row.get(name) is not None for row in rows):
            columns[name] = [row[name] for row in rows]
    return pa.table(columns)


def _class_names(root: Path) -> list[str]:
    for name in CLASS_NAMES:
        if (root / name).is_file():
            return (root / name).read_text(encoding="utf-8").splitlines()
    return _names_in_card(root / CARD)


def _names_in_card(readme: Path) -> list[str]:
    """Class names in a dataset card's front matter, for the class numbers in Parquet files."""
    if not readme.is_file() or not (text := readme.read_text(encoding="utf-8", errors="replace")).startswith("---"):
        return []
    import yaml  # deferred: rare

    try:
        about = yaml.safe_load(text.split("---")[1]) or {}
        infos = about.get("dataset_info") or {}
        features = (infos[0] if isinstance(infos, list) else infos).get("features", [])
        kinds = [one.get("dtype") or one.get("sequence") or one.get("list") for one in features]
        found = [kind["class_label"]["names"] for kind in kinds if isinstance(kind, dict) and "class_label" in kind]
    except (yaml.YAMLError, AttributeError, KeyError, IndexError, TypeError):
        return []
    return [str(found[0][key]) for key in sorted(found[0], key=int)] if found else []


# --- Hugging Face datasets


def _schema(file: Path) -> pa.Schema:
    if file.suffix == ".parquet":
        return pq.read_schema(file)
    with pa.memory_map(str(file)) as source:
        return pa.ipc.open_stream(source).schema


def _has_images(file: Path) -> bool:
    """Whether a file has a column of images, as `datasets` keeps them: a structure with the bytes of a file."""
    try:
        return _image_column(_schema(file)) is not None
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"{file} is damaged ({error}); download it again") from error


def _image_column(schema: pa.Schema) -> str | None:
    fitting = [one.name for one in schema if pa.types.is_struct(one.type) and one.type.get_field_index("bytes") >= 0]
    fitting += [one.name for one in schema if pa.types.is_binary(one.type) or pa.types.is_large_binary(one.type)]
    return next((name for name in fitting if name.lower() in IMAGE), next(iter(fitting), None))


def _of_table(file: Path, names: list[str]) -> Iterator[Contained]:
    """Samples of one Parquet or Arrow file."""
    schema = _schema(file)
    image = _image_column(schema)
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    by_name = {name.lower(): name for name in schema.names}
    label = next((by_name[one] for one in (*LABEL, *LABELS) if one in by_name), None)
    names = _names_of(features.get(label)) or names
    others = {one: by_name[one] for one in OTHERS if one in by_name}
    columns = [name for name in (image, label, *others.values()) if name]
    try:
        for row, record in enumerate(record for batch in _batches(file, columns) for record in batch.to_pylist()):
            cell = record[image]
            content, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (cell, None)
            key = str(record[others["id"]]) if "id" in others else path
            if content is None:
                raise RequestError(
                    f"{file}, row {row}: the image '{path}' is not in the file; save the dataset with its images"
                )
            given = {one: record[name] for one, name in others.items() if one != "id"}
            yield Contained(key, content, _named(record.get(label), names), given)
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"{file} is damaged ({error}); download it again") from error


def _batches(file: Path, columns: list[str]) -> Iterator[Any]:
    if file.suffix == ".parquet":
        with pq.ParquetFile(file) as source:
            for group in range(source.num_row_groups):  # in one call, all groups read stay in memory
                yield from source.iter_batches(64, row_groups=[group], columns=columns)
        return
    with pa.memory_map(str(file)) as source:
        for batch in pa.ipc.open_stream(source):
            yield batch.select(columns)


def _names_of(feature: Any) -> list[str]:
    """Class names of a label's feature, of a list of labels too."""
    if isinstance(feature, list):
        feature = feature[0]
    while isinstance(feature, dict) and isinstance(feature.get("feature"), dict):
        feature = feature["feature"]
    return list(feature.get("names") or []) if isinstance(feature, dict) else []


def _named(label: Any, names: list[str]) -> Any:
    """A label, or each of several, by its class name where it is a number that stands for one."""
    if isinstance(label, list):
        return [_named(one, names) for one in label]
    if isinstance(label, int) and label < 0:
        return None  # as `datasets` marks images without a label
    if isinstance(label, int) and names:
        if label >= len(names):
            raise RequestError(f"a label is {label} but there are {len(names)} class names; check the dataset")
        return names[label]
    return label


# --- WebDataset shards


def _is_shard(file: Path) -> bool:
    """Whether a tar file begins with the members of a sample: files of one key, one of them an image."""
    try:
        with tarfile.open(file, "r:") as shard:
            first = [member for member, _ in zip(shard, range(16), strict=False) if member.isreg()]
    except (tarfile.TarError, OSError) as error:
        raise RequestError(f"{file} is damaged ({error}); download it again") from error
    keys = [_key(member.name) for member in first]
    images = {key for key, ending in keys if _is_image(ending)}
    return any(key in images for key, ending in keys if not _is_image(ending))


def _key(name: str) -> tuple[str, str]:
    """Key and ending of a member: what comes before and after the first dot of its file name."""
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return str(path.with_name(stem or path.name)), ending.lower()


def _is_image(ending: str) -> bool:
    return f".{ending.rpartition('.')[2]}" in SUFFIXES


def _of_shard(file: Path, names: list[str]) -> Iterator[Contained]:
    """Samples of one shard: members with the same key follow each other."""
    try:
        with tarfile.open(file, "r:") as shard:
            files = (member for member in shard if member.isreg())
            for key, group in groupby(files, lambda member: _key(member.name)[0]):
                held: dict[str, bytes] = {}
                for member in group:
                    ending = _key(member.name)[1]
                    if _is_image(ending) or member.size <= LARGEST_TEXT:  # no audio, no arrays
                        content = shard.extractfile(member)
                        held[ending] = content.read() if content else b""
                if held:
                    yield _shard_sample(file, key, held, names)
    except (tarfile.TarError, OSError) as error:
        raise RequestError(f"{file} is damaged or incomplete ({error}); download it again") from error


def _shard_sample(file: Path, key: str, members: dict[str, bytes], names: list[str]) -> Contained:
    images = [ending for ending in members if _is_image(ending)]
    if len(images) != 1:
        raise RequestError(f"{file}: sample '{key}' has {len(images)} images ({', '.join(members)}); expected one")
    about: dict[str, Any] = {}
    try:
        if "json" in members:
            about = json.loads(members["json"])
            about = {str(name).lower(): value for name, value in about.items()} if isinstance(about, dict) else {}
        text = members["cls"].decode().strip() if "cls" in members else None
    except ValueError as error:
        raise RequestError(f"{file}: the label of sample '{key}' is damaged ({error}); download it again") from error
    label = next((about[name] for name in (*LABELS, *LABEL) if name in about), None)
    if text is not None:
        label = int(text) if text.isdigit() else text
    return Contained(key, members[images[0]], _named(label, names), {name: about.get(name) for name in OTHERS[1:]})
