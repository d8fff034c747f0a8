"""BigEarthNet's patches: names, labels and flags of each split, from v2's metadata or v1's lists, and locations."""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64, UInt8

from data.bands import BAND_SETS, SENTINEL1, SENTINEL2
from data.command import progress
from data.dataset import EODataset, Statistic
from data.errors import RequestError
from data.flags import DatasetRequest
from data.nodata import record
from data.nomenclature import CLASSES_19, CLASSES_43
from data.scene.grid import transformed
from data.sources._index import indexed
from data.tiles import tile_corner

BANDS = (*SENTINEL1.values(), *(SENTINEL2[name] for name in BAND_SETS["s2-12"]))
METADATA = "metadata.parquet"
LISTS = "bigearthnet-{train,val,test}.csv"
LABELS_FILE = "_labels_metadata.json"
SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}  # as in v2's metadata
FLAGS = ("contains_seasonal_snow", "contains_cloud_or_shadow")
NAME_COLUMNS = {"S2": "patch_id", "S1": "s1_name"}
PATCH_M = 1200


@dataclass(frozen=True)
class Patches:
    """The patches of one split, in its order."""

    names: Mapping[str, list[str]]  # N names of each sensor's patches; those of Sentinel-2 are the ids
    # (N, 19) uint8 of v2; None for v1, whose labels are in files beside the bands
    labels: UInt8[np.ndarray, "samples classes"] | None
    flagged: Bool[np.ndarray, " samples"]  # (N,) whether snow, cloud or shadow is flagged

    def without(self, out: Bool[np.ndarray, " samples"]) -> "Patches":
        """The patches for which `out`, (N,) bool, is false."""
        rows = np.flatnonzero(~out).tolist()
        return Patches(
            names={sensor: [names[row] for row in rows] for sensor, names in self.names.items()},
            labels=None if self.labels is None else self.labels[~out],
            flagged=self.flagged[~out],
        )


class PatchDataset(EODataset):
    """Patches by name; the ids are the names of the Sentinel-2 patches, whichever bands are read."""

    def __init__(self, *, names: Mapping[str, list[str]], how: str, **about: Any) -> None:
        super().__init__(**about)
        self.names, self.how = names, how
        self.nodata = record(self.bands, self.statistics, {}) if how == "fill" else None


def described(
    request: DatasetRequest, split: str, patches: Patches, sensors: Sequence[str], statistics: Mapping[str, Statistic]
) -> dict[str, Any]:
    """What a `PatchDataset` is made of, whatever its patches are read from."""
    bands = [band for band in BANDS if band.sensor in sensors]
    return {
        "names": {sensor: patches.names[sensor] for sensor in sensors},
        "how": request.options.nodata or "keep",
        "name": "bigearthnet",
        "split": split,
        "ids": patches.names["S2"],
        "bands": bands,
        "statistics": {band.name: statistics[band.name] for band in bands},
    }


def read_metadata(root: Path, splits: Sequence[str], sensors: Sequence[str]) -> dict[str, Patches]:
    """Splits of v2, from one reading of the metadata."""
    file = root / METADATA
    if not file.is_file():
        raise RequestError(f"no {file}; put it there or pass --download")
    table = _columns(file, ["labels", "split", *FLAGS, *(NAME_COLUMNS[sensor] for sensor in sensors)])
    if not len(table):
        raise RequestError(f"{file} lists no patches; download it again")
    known = {name: number for number, name in enumerate(SPLIT_NAMES.values())}
    numbers = np.concatenate([_numbers(chunk, known) for chunk in table["split"].chunks])
    if (numbers < 0).any():
        first = table["split"][int((numbers < 0).argmax())]
        raise RequestError(
            f"{file}: {(numbers < 0).sum()} of {len(numbers)} patches have an unknown split, first '{first}'; expected "
            f"{', '.join(known)}"
        )
    labels = np.concatenate([_labels_of(chunk, file) for chunk in table["labels"].chunks])
    flagged = np.logical_or(*(table[flag].to_pylist() for flag in FLAGS))
    names = {sensor: table[NAME_COLUMNS[sensor]].to_pylist() for sensor in sensors}
    if "S2" in names and len(set(names["S2"])) < len(labels):
        twice = [name for name, count in Counter(names["S2"]).items() if count > 1]
        raise RequestError(f"{file}: {len(twice)} patches are listed twice, first '{twice[0]}'; download it again")
    patches = Patches(names, labels, flagged)
    return {split: patches.without(numbers != known[SPLIT_NAMES[split]]) for split in splits}


def _columns(file: Path, names: Sequence[str]) -> Any:
    """Some columns of the metadata; labels and splits as dictionary arrays.

    Arrow's read_table, compute and to_numpy each take half a second to load, the last because it imports pandas.
    """
    try:
        about = pq.read_metadata(file)
        schema = about.schema
        paths = [schema.column(number).path for number in range(len(schema))]
        if lacking := set(names) - {path.partition(".")[0] for path in paths}:
            raise RequestError(f"{file} has no column {', '.join(sorted(lacking))}; it is not BigEarthNet v2's")
        repeated = [path for path in paths if path.partition(".")[0] in ("labels", "split")]
        return pq.ParquetFile(file, metadata=about, read_dictionary=repeated).read(list(names), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"cannot read {file} ({error}); download it again") from error


def _numbers(words: Any, known: Mapping[str, int]) -> np.ndarray:
    """The numbers of strings in an Arrow dictionary array; -1 for unknown and missing ones."""
    numbers = np.array([*(known.get(word, -1) for word in words.dictionary.to_pylist()), -1])
    if words.null_count:
        return numbers[[-1 if place is None else place for place in words.indices.to_pylist()]]
    return numbers[np.asarray(np.from_dlpack(words.indices), np.intp)]


def _labels_of(lists: Any, file: Path) -> np.ndarray:
    """(N, 19) labels of an Arrow array of lists of class names."""
    lengths = np.diff(np.from_dlpack(lists.offsets))
    if not lengths.all():
        raise RequestError(f"{file}: {int((lengths == 0).sum())} patches have no label; download it again")
    names = lists.flatten()
    numbers = _numbers(names, {name: number for number, name in enumerate(CLASSES_19)})
    if (strange := numbers < 0).any():
        raise RequestError(
            f"{file}: unknown label '{names[int(strange.argmax())]}', {strange.sum()} times; expected "
            f"{'; '.join(CLASSES_19)}"
        )
    labels = np.zeros((len(lists), len(CLASSES_19)), np.uint8)
    labels[np.repeat(np.arange(len(lists)), lengths), numbers] = 1
    return labels


def read_lists(root: Path, splits: Sequence[str], sensors: Sequence[str]) -> dict[str, Patches]:
    """Splits of v1."""
    found = {}
    for split in splits:
        file = root / f"bigearthnet-{split}.csv"
        if not file.is_file():
            raise RequestError(f"no split file {file}; copy torchgeo's {file.name} there, or pass --download")
        pairs = [line.split(",") for line in file.read_text(encoding="utf-8", errors="replace").split()]
        for number, pair in enumerate(pairs, 1):
            if len(pair) != 2 or not pair[0].startswith("S2") or not pair[1].startswith("S1"):
                raise RequestError(
                    f"{file}, line {number}: '{','.join(pair)}' is not a Sentinel-2 and a Sentinel-1 patch"
                )
        names = {sensor: [pair[column] for pair in pairs] for column, sensor in enumerate(("S2", "S1"))}
        found[split] = Patches({s: names[s] for s in sensors}, None, np.zeros(len(pairs), bool))
    return found


def without_some(
    why: str, splits: Mapping[str, Patches], out: Mapping[str, Bool[np.ndarray, " _"]], provenance: dict[str, Any]
) -> dict[str, Patches]:
    """The splits without some patches; if there are any, count and digest are recorded in `provenance` under `why`."""
    record = {}
    for split, mask in out.items():
        ids = [splits[split].names["S2"][row] for row in np.flatnonzero(mask)]
        if ids:
            record[split] = {"count": len(ids), "sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest()}
    if record:
        provenance[why] = record
    return {split: patches.without(out[split]) for split, patches in splits.items()}


def kept(
    request: DatasetRequest,
    splits: dict[str, Patches],
    provenance: dict[str, Any],
    absent: Callable[[Mapping[str, Patches]], dict[str, Bool[np.ndarray, " _"]]],
    where: str,
    remedy: str,
) -> dict[str, Patches]:
    """The splits without the patches that the flags leave out, which are recorded.

    Args:
        request: with the flags.
        splits: all that are recorded.
        provenance: takes the records.
        absent: returns which patches have no files.
        where: where patches are missing.
        remedy: what else to do about it.
    """
    if request.options.drop_snow_cloud:
        flagged = {split: patches.flagged for split, patches in splits.items()}
        splits = without_some("snow_cloud", splits, flagged, provenance)
    out = absent(splits)
    if request.options.allow_missing:
        splits = without_some("absent", splits, out, provenance)
    for split in request.splits:
        if not request.options.allow_missing and out[split].any():
            rows = np.flatnonzero(out[split])
            first = ", ".join(splits[split].names["S2"][row] for row in rows[:3])
            raise RequestError(
                f"{len(rows)} of {len(out[split])} patches of split {split} are missing in {where}, first {first}; "
                f"{remedy} or skip them with --allow-missing"
            )
        if not splits[split].flagged.size:
            raise RequestError(f"bigearthnet: no patch of split {split} is left; check the folder and the flags")
    return splits


def read_labels(folder: Path, names: Sequence[str], request: DatasetRequest) -> UInt8[np.ndarray, "samples 43"]:
    """Labels, from the files beside the bands or from the index made of them."""
    files = [f"{folder}/{name}/{name}{LABELS_FILE}" for name in names]
    digest = hashlib.sha256()
    for file in files:
        try:
            about = os.stat(file)
        except FileNotFoundError:
            raise RequestError(f"no file {file}; restore it, the labels of v1 are in it") from None
        digest.update(f"{file.rpartition('/')[2]} {about.st_size} {about.st_mtime_ns}\n".encode())

    def read() -> np.ndarray:
        numbers = {name: number for number, name in enumerate(CLASSES_43)}
        labels = np.zeros((len(files), len(CLASSES_43)), np.uint8)
        row = 0
        with progress("reading labels", len(files), "patches") as advance, ThreadPoolExecutor() as pool:
            for some in batched(files, 1000):
                for found in pool.map(lambda file: _labels_in(file, numbers), some):
                    labels[row, found] = 1
                    row += 1
                advance(len(some))
        return np.packbits(labels, axis=1)

    packed = indexed(request, "bigearthnet-v1-labels", "labels", digest.hexdigest(), read)
    return np.unpackbits(packed, axis=1, count=len(CLASSES_43))


def _labels_in(file: str, numbers: Mapping[str, int]) -> list[int]:
    try:
        with open(file, "rb") as source:
            names = json.loads(source.read())["labels"]
        return [numbers[name] for name in names]
    except KeyError as error:
        raise RequestError(f"{file}: unknown label or entry {error}; expected labels of the 43 classes") from error
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"cannot read {file} ({error}); restore it") from error


def to_19(labels: UInt8[np.ndarray, "samples 43"]) -> UInt8[np.ndarray, "samples 19"]:
    """(N, 19) labels of (N, 43) ones; eleven of the 43 classes are not among the 19."""
    converted = np.zeros((len(labels), len(CLASSES_19)), np.uint8)
    for column, number in enumerate(CLASSES_43.values()):
        if number is not None:
            converted[:, number] |= labels[:, column]
    return converted


def locations(names: Sequence[str]) -> Float64[np.ndarray, "samples 2"] | None:
    """Centers of patches named ``..._<tile>_<column>_<row>``, counted from the tile's upper left corner.

    Returns:
        (N, 2) WGS 84 longitude and latitude in degrees, rounded to a decimeter; None if a name is another.
    """
    beginnings: dict[str, list[int]] = defaultdict(list)
    columns, rows = [], []
    for number, name in enumerate(names):
        beginning, *ends = name.rsplit("_", 2)
        if len(ends) < 2 or not (ends[0].isdecimal() and ends[1].isdecimal()):
            return None
        beginnings[beginning].append(number)
        columns.append(int(ends[0]))
        rows.append(int(ends[1]))
    steps = (np.column_stack([columns, rows]) + 0.5) * (PATCH_M, -PATCH_M)
    lonlat = np.empty((len(names), 2))
    for beginning, some in beginnings.items():
        corner = tile_corner(beginning.rpartition("_")[2].removeprefix("T"))
        if corner is None:
            return None
        system, left, top = corner
        lonlat[some] = transformed(steps[some] + (left, top), system, "EPSG:4326")
    return lonlat.round(6)
