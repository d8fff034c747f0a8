"""BigEarthNet: Sentinel-1 and Sentinel-2 patches of 1.2 km in ten countries, with several of 19 or 43 classes each.

Files as torchgeo has them. Variant ``v2`` (reBEN, Clasen et al. 2024, arXiv:2407.03653)::

    metadata.parquet   BigEarthNet-S2/<scene>/<patch>/<patch>_B02.tif   BigEarthNet-S1/<scene>/<patch>/<patch>_VV.tif

Variant ``v1``, with 19 classes or the 43 they were made of::

    bigearthnet-{train,val,test}.csv (Sentinel-2 patch,Sentinel-1 patch a line, no header)
    BigEarthNet-v1.0/<patch>/<patch>_B02.tif   BigEarthNet-S1-v1.0/<patch>/<patch>_VV.tif
    and <patch>_labels_metadata.json beside the bands; read once and kept in an index

A folder may be absent where only bands of the other sensor are asked for, or be an archive still: v2's
``BigEarthNet-S2.tar.gzaa`` and ``...ab`` (torchgeo) or ``BigEarthNet-S2.tar.zst`` (Zenodo), v1's
``BigEarthNet-S2-v1.0.tar.gz``. Reference maps are not needed.

The files of v2 declare 0 to be nodata; as in all that is published, 0 is taken for a value unless ``--nodata fill``
fills such pixels with the band's published mean. The identity of the features then has these means, but not the number
of filled pixels, as for other datasets: to count them first would read all patches twice.

Locations come from the patches' names: tile, column and row. Some files are looked at, and where they lie elsewhere
there are no locations.
"""

import hashlib
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj

from data.archives import cache_folder, fetched, unpacked
from data.bands import BAND_SETS, SENTINEL1, SENTINEL2, Band, choose_bands
from data.cached import arrays_in
from data.command import progress
from data.dataset import SPLITS, DatasetRequest, EODataset, Statistic, check_split, check_variant
from data.errors import RequestError
from data.files import published
from data.images import read_bands, read_header
from data.nodata import record
from data.nomenclature import CLASSES_19, CLASSES_43
from data.places import lonlat_of, warn
from data.registry import DatasetCard
from data.tiles import tile_corner

CARD = DatasetCard(
    title="BigEarthNet",
    classes="19, or 43 of v1",
    labels="multi-label",
    bands="Sentinel-2 Level-2A, 12 bands, digital numbers at 120, 60 and 20 pixels; Sentinel-1 VV, VH in dB at 120",
    variants=("v2", "v1"),
    options=("classes", "allow_missing", "drop_snow_cloud", "nodata"),
    licence="CDLA-Permissive-1.0",
    citation="Clasen et al. 2024, reBEN: Refined BigEarthNet Dataset, arXiv:2407.03653; Sumbul et al. 2021, "
    "BigEarthNet-MM, doi:10.1109/MGRS.2021.3089174",
    source="--download (v2 about 120 GB, v1 about 120 GB), or the unpacked folders of https://bigearth.net in "
    "--data-root",
)

BANDS = (*SENTINEL1.values(), *(SENTINEL2[name] for name in BAND_SETS["s2-12"]))
SIDES: dict[Any, int] = {10: 120, 20: 60, 60: 20}  # pixels, by ground sampling distance
TYPES = {"S1": np.dtype(np.float32), "S2": np.dtype(np.uint16)}
PATCH_M = 1200
FIRST = (0,)  # the only band of a file
# v2: over its training split (see the publication's tables). v1: as its authors' models have them for Sentinel-2
# (bigearthnet-models-tf), and bigearthnet-common for Sentinel-1.
STATISTICS = {
    "v2": {
        "VV": Statistic(-12.64, 5.13),
        "VH": Statistic(-19.35, 5.59),
        "B01": Statistic(356.5, 552.0),
        "B02": Statistic(434.7, 595.0),
        "B03": Statistic(612.2, 595.7),
        "B04": Statistic(587.1, 677.6),
        "B05": Statistic(942.4, 720.6),
        "B06": Statistic(1769.6, 1083.1),
        "B07": Statistic(2050.0, 1258.1),
        "B08": Statistic(2192.9, 1366.0),
        "B8A": Statistic(2236.3, 1338.9),
        "B09": Statistic(2242.3, 1294.2),
        "B11": Statistic(1576.5, 1064.7),
        "B12": Statistic(1004.5, 809.1),
    },
    "v1": {
        "VV": Statistic(-12.62, 5.12),
        "VH": Statistic(-19.29, 5.46),
        "B01": Statistic(340.8, 554.8),
        "B02": Statistic(429.9, 572.4),
        "B03": Statistic(614.2, 582.9),
        "B04": Statistic(590.2, 675.9),
        "B05": Statistic(950.7, 729.9),
        "B06": Statistic(1792.5, 1096.0),
        "B07": Statistic(2075.5, 1273.5),
        "B08": Statistic(2218.9, 1365.5),
        "B8A": Statistic(2266.5, 1356.1),
        "B09": Statistic(2246.1, 1302.3),
        "B11": Statistic(1594.4, 1079.2),
        "B12": Statistic(1009.3, 818.9),
    },
}

METADATA = "metadata.parquet"
LISTS = "bigearthnet-{train,val,test}.csv"
LABELS_FILE = "_labels_metadata.json"
SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test"}  # as v2's metadata has them
FLAGS = ("contains_seasonal_snow", "contains_cloud_or_shadow")
# Patches of a split whose files are looked at, to tell changed files and wrong locations.
LOOKED_AT = 16
NEAR_M = 100.0


@dataclass(frozen=True)
class Layout:
    """How a variant lies on disk.

    Args:
        folders: name of each sensor's folder.
        archives: each sensor's archive, under any of the names it is published by; one may be cut into parts.
        scene_ends: parts at the end of a patch's name that the folder of its scene does not have; None where there
            are no such folders.
        located_by: the sensor whose patches' names say where they lie.
    """

    folders: Mapping[str, str]
    archives: Mapping[str, Sequence[tuple[str, ...]]]
    scene_ends: Mapping[str, int] | None
    located_by: str

    def scene(self, sensor: str, name: str) -> str:
        """Folder that holds a patch's folder, relative to the sensor's."""
        return name.rsplit("_", self.scene_ends[sensor])[0] if self.scene_ends else "."


LAYOUTS = {
    "v2": Layout(
        folders={"S2": "BigEarthNet-S2", "S1": "BigEarthNet-S1"},
        archives={
            sensor: [
                (f"BigEarthNet-{sensor}.tar.gzaa", f"BigEarthNet-{sensor}.tar.gzab"),
                (f"BigEarthNet-{sensor}.tar.gz",),
                (f"BigEarthNet-{sensor}.tar.zst",),
            ]
            for sensor in ("S2", "S1")
        },
        scene_ends={"S2": 2, "S1": 3},
        located_by="S2",
    ),
    "v1": Layout(
        folders={"S2": "BigEarthNet-v1.0", "S1": "BigEarthNet-S1-v1.0"},
        archives={sensor: [(f"BigEarthNet-{sensor}-v1.0.tar.gz",)] for sensor in ("S2", "S1")},
        scene_ends=None,
        located_by="S1",
    ),
}


@dataclass(frozen=True)
class Patches:
    """The patches of one split, in its order.

    Args:
        names: N names of each sensor's patches; those of Sentinel-2 are the ids.
        labels: (N, 19) uint8 of v2; None for v1, whose labels lie beside the bands.
        flagged: (N,) whether snow, cloud or shadow was seen.
    """

    names: Mapping[str, list[str]]
    labels: np.ndarray | None
    flagged: np.ndarray

    def without(self, out: np.ndarray) -> "Patches":
        """Those patches for which `out`, (N,) bool, is false."""
        rows = np.flatnonzero(~out).tolist()
        return Patches(
            names={sensor: [names[row] for row in rows] for sensor, names in self.names.items()},
            labels=None if self.labels is None else self.labels[~out],
            flagged=self.flagged[~out],
        )


def open_dataset(request: DatasetRequest) -> EODataset:
    """Open one split.

    Raises:
        RequestError: files are missing, damaged or not as described above; the message says what to do.
    """
    check_split("bigearthnet", request.split)
    variant = check_variant("bigearthnet", request.variant, CARD.variants)
    classes = _check_classes(variant, request)
    layout = LAYOUTS[variant]
    sensors = _sensors(request, layout)
    if request.download:
        _download(request.root, variant, sensors)
    read = _read_metadata if variant == "v2" else _read_lists
    # what is left out is recorded for all splits, so that they stay one data set
    leaving_out = request.allow_missing or request.drop_snow_cloud
    splits = read(
        request.root, SPLITS if leaving_out else (request.split,), sorted({*sensors, "S2", layout.located_by})
    )
    folders = {sensor: _folder(request, layout, sensor) for sensor in sensors}
    provenance: dict[str, Any] = {"classes": classes, "split": METADATA if variant == "v2" else LISTS}
    if request.drop_snow_cloud:
        splits = _left_out(
            "snow_cloud", splits, {name: patches.flagged for name, patches in splits.items()}, provenance
        )
    absent = _absent(splits, folders, layout)
    if request.allow_missing:
        splits = _left_out("absent", splits, absent, provenance)
    elif absent[request.split].any():
        raise _missing(request.split, splits[request.split], absent[request.split], folders)
    patches = splits[request.split]
    if not patches.flagged.size:
        raise RequestError(f"bigearthnet: no patch of split {request.split} is left; check the folder and the flags")
    main = sensors[0]
    labels = patches.labels
    if labels is None:
        labels = _read_labels(folders[main], patches.names[main], request)
        labels = labels if classes == 43 else to_19(labels)
    looks = {sensor: _look(folders[sensor], layout, sensor, patches) for sensor in sensors}
    lonlat = looks[main][1]
    bands = [band for band in BANDS if band.sensor in sensors]
    return BigEarthNet(
        folders=folders,
        layout=layout,
        names={sensor: patches.names[sensor] for sensor in sensors},
        how=request.nodata or "keep",
        name="bigearthnet",
        variant=variant,
        split=request.split,
        ids=patches.names["S2"],
        labels=labels,
        class_names=CLASSES_19 if classes == 19 else tuple(CLASSES_43),
        bands=bands,
        statistics={band.name: STATISTICS[variant][band.name] for band in bands},
        lonlat=lonlat,
        provenance=provenance,
        files_digest={sensor: digest for sensor, (digest, _) in looks.items()},
    )


class BigEarthNet(EODataset):
    """Patches of single-band GeoTIFFs; the ids are the names of the Sentinel-2 patches, whichever bands are read."""

    def __init__(
        self, *, folders: Mapping[str, Path], layout: Layout, names: Mapping[str, list[str]], how: str, **about: Any
    ) -> None:
        super().__init__(**about)
        self.how = how
        self.nodata = record(self.bands, self.statistics, {}) if how == "fill" else None
        self.folders, self.layout, self.names = {key: str(path) for key, path in folders.items()}, layout, names

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`: one of each band."""
        starts = {}
        for sensor in {band.sensor for band in bands}:
            name = self.names[sensor][index]
            starts[sensor] = f"{self.folders[sensor]}/{self.layout.scene(sensor, name)}/{name}/{name}_"
        return [f"{starts[band.sensor]}{band.name}.tif" for band in bands]

    def read(self, index: int, bands: Sequence[Band]) -> list[np.ndarray]:
        """See `EODataset.read`: uint16 digital numbers, and float32 dB of Sentinel-1, each at its own resolution."""
        return [self._read_band(file, band) for file, band in zip(self.files(index, bands), bands, strict=True)]

    def _read_band(self, file: str, band: Band) -> np.ndarray:
        if self.how == "keep":
            (pixels,) = read_bands(file, FIRST, count=1, nodata="keep")
        else:
            mean = self.statistics[band.name].mean
            (pixels,) = read_bands(file, FIRST, count=1, bands=[band], nodata=self.how, fill=[mean])
        side, dtype = SIDES[band.gsd_m], TYPES[band.sensor]
        if pixels.shape != (side, side) or pixels.dtype != dtype:
            raise RequestError(
                f"{file} has {' x '.join(map(str, pixels.shape))} pixels of {pixels.dtype}; {side} x {side} of {dtype} "
                "were expected: restore it"
            )
        return pixels


def to_19(labels: np.ndarray) -> np.ndarray:
    """(N, 19) labels of (N, 43) ones; eleven of the 43 classes have no place among the 19."""
    converted = np.zeros((len(labels), len(CLASSES_19)), np.uint8)
    for column, number in enumerate(CLASSES_43.values()):
        if number is not None:
            converted[:, number] |= labels[:, column]
    return converted


def _check_classes(variant: str, request: DatasetRequest) -> int:
    if request.classes not in (None, 19, 43):
        raise RequestError(f"--classes {request.classes}: bigearthnet has 19, or 43 of v1")
    if request.classes == 43 and variant == "v2":
        raise RequestError("--classes 43: v2 has 19 classes only; choose --dataset-variant v1 or leave it out")
    if request.drop_snow_cloud and variant == "v1":
        raise RequestError(
            "--drop-snow-cloud: v1's split files leave such patches out already; leave the flag out or choose v2"
        )
    return request.classes or 19


# --- folders and archives


def _sensors(request: DatasetRequest, layout: Layout) -> list[str]:
    """The sensors of the bands that will be read, Sentinel-2 first; of all bands where that is not known."""
    root = request.root
    here = [sensor for sensor in ("S2", "S1") if request.download or _is_filled(root / layout.folders[sensor])]
    here += [sensor for sensor in ("S2", "S1") if sensor not in here and _archive(root, layout, sensor)]
    if not here:
        raise RequestError(
            f"no {' or '.join(layout.folders.values())} in {root}, nor an archive of them; name the folder that holds "
            "them with --data-root or pass --download"
        )
    available = [band for band in BANDS if band.sensor in here]
    specs = request.bands or ("all",)
    for spec in specs:
        if chosen := _chosen(available, spec):
            return sorted({band.sensor for band in chosen}, reverse=True)
    if absent := {band.sensor for band in _chosen(BANDS, specs[0])} - set(here):
        folders = " and ".join(layout.folders[sensor] for sensor in sorted(absent))
        raise RequestError(
            f"--bands {specs[0]}: no {folders} in {root}; put it there or choose bands of {' and '.join(here)}"
        )
    return here  # whoever asks for bands that there are not is told so on choosing them


def _chosen(available: Sequence[Band], spec: str) -> tuple[Band, ...]:
    """The bands of `spec`; none if any of them is not there."""
    try:
        return choose_bands(available, spec)
    except RequestError:
        return ()


def _is_filled(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(True for _ in entries)


def _archive(root: Path, layout: Layout, sensor: str) -> list[Path]:
    """The files of the archive of a sensor's folder; none where there is none."""
    for names in layout.archives[sensor]:
        parts = [root / name for name in names]
        lacking = [part.name for part in parts if not part.is_file()]
        if not lacking:
            return parts
        if len(lacking) < len(parts):
            raise RequestError(f"{root} lacks {', '.join(lacking)}, a part of the archive; fetch it or pass --download")
    return []


def _folder(request: DatasetRequest, layout: Layout, sensor: str) -> Path:
    folder = request.root / layout.folders[sensor]
    if _is_filled(folder):
        return folder
    archive, *more = _archive(request.root, layout, sensor)
    inside = unpacked(archive, more=more, cache_dir=request.cache_dir) / layout.folders[sensor]
    if not inside.is_dir():
        raise RequestError(f"{archive} holds no {layout.folders[sensor]}/; it is not BigEarthNet's archive")
    return inside


def _download(root: Path, variant: str, sensors: Sequence[str]) -> None:
    from torchgeo.datasets import BigEarthNet as V1  # deferred: torchgeo takes seconds to import
    from torchgeo.datasets import BigEarthNetV2 as V2

    layout = LAYOUTS[variant]
    wanted = [sensor.lower() for sensor in sensors if not _is_filled(root / layout.folders[sensor])]
    if variant == "v1":
        for file in [*V1.splits_metadata.values(), *(V1.metadata[sensor] for sensor in wanted)]:
            fetched(file["url"], root, name=file["filename"], md5=file["md5"])
        return
    for key in ["metadata", *wanted]:
        for name, digest in V2.metadata_locs[key]["files"].items():
            kind = "md5" if len(digest) == 32 else "sha256"  # torchgeo takes all of them for sha256
            fetched(V2.url.format(name), root, **{kind: digest})


# --- which patches there are


def _read_metadata(root: Path, splits: Sequence[str], sensors: Sequence[str]) -> dict[str, Patches]:
    """Splits of v2."""
    file = root / METADATA
    if not file.is_file():
        raise RequestError(f"no {file}; put it there or pass --download")
    about = _columns(file, ["labels", "split", *FLAGS])
    if not len(about):
        raise RequestError(f"{file} lists no patches; fetch it again")
    known = {name: number for number, name in enumerate(SPLIT_NAMES.values())}
    place = np.concatenate([_numbers(chunk, known) for chunk in about["split"].chunks])
    if (place < 0).any():
        first = about["split"][int((place < 0).argmax())]
        raise RequestError(
            f"{file}: {(place < 0).sum()} of {len(place)} patches have an unknown split, first '{first}'; it knows "
            f"{', '.join(known)}"
        )
    labels = np.concatenate([_labels_of(chunk, file) for chunk in about["labels"].chunks])
    flagged = np.logical_or(*(about[flag].to_pylist() for flag in FLAGS))
    rows = {split: np.flatnonzero(place == known[SPLIT_NAMES[split]]) for split in splits}
    names: dict[str, dict[str, list[str]]] = {split: {} for split in splits}
    for sensor in sensors:
        column = {"S2": "patch_id", "S1": "s1_name"}[sensor]
        everything = _columns(file, [column])[column].to_pylist()
        if sensor == "S2" and len(set(everything)) < len(everything):
            twice = [name for name, count in Counter(everything).items() if count > 1]
            raise RequestError(f"{file}: {len(twice)} patches are named twice, first '{twice[0]}'; fetch it again")
        for split, some in rows.items():
            names[split][sensor] = [everything[row] for row in some.tolist()]
    return {split: Patches(names[split], labels[some], flagged[some]) for split, some in rows.items()}


def _columns(file: Path, names: Sequence[str]) -> Any:
    """Some columns of the metadata, labels and splits as numbers of the different strings that there are.

    Arrow's read_table, compute and to_numpy would each take half a second to get ready, the last to import pandas.
    """
    try:
        schema = pq.read_metadata(file).schema
        paths = [schema.column(number).path for number in range(len(schema))]
        if lacking := set(names) - {path.partition(".")[0] for path in paths}:
            raise RequestError(f"{file} has no column {', '.join(sorted(lacking))}; it is not BigEarthNet v2's")
        repeated = [path for path in paths if path.partition(".")[0] in ("labels", "split")]
        return pq.ParquetFile(file, read_dictionary=repeated).read(list(names), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise RequestError(f"cannot read {file} ({error}); fetch it again") from error


def _numbers(words: Any, known: Mapping[str, int]) -> np.ndarray:
    """The numbers of strings in an Arrow dictionary array; -1 for unknown and absent ones."""
    numbers = np.array([*(known.get(word, -1) for word in words.dictionary.to_pylist()), -1])
    if words.null_count:
        return numbers[[-1 if place is None else place for place in words.indices.to_pylist()]]
    return numbers[np.asarray(np.from_dlpack(words.indices), np.intp)]


def _labels_of(lists: Any, file: Path) -> np.ndarray:
    """(N, 19) labels of an Arrow array of lists of class names."""
    lengths = np.diff(np.from_dlpack(lists.offsets))
    if not lengths.all():
        raise RequestError(f"{file}: {int((lengths == 0).sum())} patches have no label; fetch it again")
    names = lists.flatten()
    numbers = _numbers(names, {name: number for number, name in enumerate(CLASSES_19)})
    if (strange := numbers < 0).any():
        raise RequestError(
            f"{file}: unknown label '{names[int(strange.argmax())]}', {strange.sum()} times; its 19 classes are "
            f"{'; '.join(CLASSES_19)}"
        )
    labels = np.zeros((len(lists), len(CLASSES_19)), np.uint8)
    labels[np.repeat(np.arange(len(lists)), lengths), numbers] = 1
    return labels


def _read_lists(root: Path, splits: Sequence[str], sensors: Sequence[str]) -> dict[str, Patches]:
    """Splits of v1."""
    found = {}
    for split in splits:
        file = root / f"bigearthnet-{split}.csv"
        if not file.is_file():
            raise RequestError(f"no split file {file}; put {file.name} there as torchgeo has it, or pass --download")
        pairs = [line.split(",") for line in file.read_text(encoding="utf-8", errors="replace").split()]
        for number, pair in enumerate(pairs, 1):
            if len(pair) != 2 or not pair[0].startswith("S2") or not pair[1].startswith("S1"):
                raise RequestError(
                    f"{file}, line {number}: '{','.join(pair)}' is not a Sentinel-2 and a Sentinel-1 patch"
                )
        names = {sensor: [pair[column] for pair in pairs] for column, sensor in enumerate(("S2", "S1"))}
        found[split] = Patches({s: names[s] for s in sensors}, None, np.zeros(len(pairs), bool))
    return found


def _left_out(
    why: str, splits: Mapping[str, Patches], out: Mapping[str, np.ndarray], provenance: dict[str, Any]
) -> dict[str, Patches]:
    """The splits without some patches, which are recorded by count and digest under `why` where there are any."""
    record = {}
    for split, mask in out.items():
        ids = [splits[split].names["S2"][row] for row in np.flatnonzero(mask)]
        if ids:
            record[split] = {"count": len(ids), "sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest()}
    if record:
        provenance[why] = record
    return {split: patches.without(out[split]) for split, patches in splits.items()}


def _absent(splits: Mapping[str, Patches], folders: Mapping[str, Path], layout: Layout) -> dict[str, np.ndarray]:
    """(N,) bool for each split: whether a patch has no folder. One listing a scene, not one look a patch."""
    sizes = [len(patches.flagged) for patches in splits.values()]
    absent = np.zeros(sum(sizes), bool)
    for sensor, folder in folders.items():
        names = [name for patches in splits.values() for name in patches.names[sensor]]
        scenes: dict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(names):
            scenes[layout.scene(sensor, name)].append(row)
        for scene, rows in scenes.items():
            present = set(os.listdir(folder / scene)) if (folder / scene).is_dir() else ()
            absent[[row for row in rows if names[row] not in present]] = True
    return dict(zip(splits, np.split(absent, np.cumsum(sizes)[:-1]), strict=True))


def _missing(split: str, patches: Patches, absent: np.ndarray, folders: Mapping[str, Path]) -> RequestError:
    rows = np.flatnonzero(absent)
    first = ", ".join(patches.names["S2"][row] for row in rows[:3])
    where = " and ".join(map(str, folders.values()))
    less = " or leave Sentinel-1 out with --bands s2-12," if len(folders) > 1 else ""
    return RequestError(
        f"{len(rows)} of {len(absent)} patches of split {split} are not in {where}, first {first}; restore them,{less} "
        "or leave them out with --allow-missing"
    )


# --- labels of v1


def _read_labels(folder: Path, names: Sequence[str], request: DatasetRequest) -> np.ndarray:
    """(N, 43) labels, from the files beside the bands or from the index made of them.

    The index is valid while it carries the digest of the names, sizes and times of those files.
    """
    files = [f"{folder}/{name}/{name}{LABELS_FILE}" for name in names]
    digest = hashlib.sha256()
    for file in files:
        try:
            about = os.stat(file)
        except FileNotFoundError:
            raise RequestError(f"no file {file}; restore it, the labels of v1 are in it") from None
        digest.update(f"{file.rpartition('/')[2]} {about.st_size} {about.st_mtime_ns}\n".encode())
    key = digest.hexdigest()
    index = cache_folder(request.root, cache_dir=request.cache_dir) / f"bigearthnet-v1-labels-{key[:10]}.npz"
    labels = _read_index(index, key)
    if labels is None:
        numbers = {name: number for number, name in enumerate(CLASSES_43)}
        labels = np.zeros((len(files), len(CLASSES_43)), np.uint8)
        row = 0
        with progress("reading labels", len(files), "patches") as advance, ThreadPoolExecutor() as pool:
            for some in batched(files, 1000):
                for found in pool.map(lambda file: _labels_in(file, numbers), some):
                    labels[row, found] = 1
                    row += 1
                advance(len(some))
        with published(index) as temporary, temporary.open("wb") as target:
            np.savez(target, digest=np.array(key), labels=np.packbits(labels, axis=1))
    return labels


def _labels_in(file: str, numbers: Mapping[str, int]) -> list[int]:
    try:
        with open(file, "rb") as source:
            names = json.loads(source.read())["labels"]
        return [numbers[name] for name in names]
    except KeyError as error:
        raise RequestError(f"{file}: unknown label or entry {error}; expected labels of the 43 classes") from error
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"cannot read {file} ({error}); restore it") from error


def _read_index(index: Path, key: str) -> np.ndarray | None:
    kept = arrays_in(index, "labels", key="digest", value=key)
    return np.unpackbits(kept[0], axis=1, count=len(CLASSES_43)) if kept else None


# --- contents and places


def _look(folder: Path, layout: Layout, sensor: str, patches: Patches) -> tuple[str, np.ndarray | None]:
    """Digest of all bands of some patches, spread evenly, and the locations of all patches if those lie there.

    Looking at every file would take longer than many a model takes to embed them.
    """
    names = patches.names[sensor]
    lonlat = locations(patches.names[layout.located_by])
    digest, astray = hashlib.sha256(), []
    for row in np.unique(np.linspace(0, len(names) - 1, LOOKED_AT).round().astype(int)).tolist():
        home = folder / layout.scene(sensor, names[row]) / names[row]
        files = sorted(file for file in home.iterdir() if file.suffix == ".tif")
        if not files:
            raise RequestError(f"{home} holds no .tif file; restore it")
        for file in files:
            content = file.read_bytes()
            digest.update(f"{file.name} {len(content)}\n".encode() + content)
        there = lonlat_of([read_header(files[0])], where="bigearthnet")
        if lonlat is not None and there is not None and _metres(lonlat[row], there[0]) > NEAR_M:
            astray.append(names[row])
    if astray:
        warn(
            "bigearthnet",
            f"{len(astray)} of the files looked at lie elsewhere than their names say, first {astray[0]}",
        )
    return digest.hexdigest(), None if astray else lonlat


def locations(names: Sequence[str]) -> np.ndarray | None:
    """Centres of patches named ``..._<tile>_<column>_<row>``, counted from the tile's upper left corner.

    Returns:
        (N, 2) WGS 84 longitude and latitude in degrees, rounded to a decimetre; None if a name is another.
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
        transform = pyproj.Transformer.from_crs(system, "EPSG:4326", always_xy=True).transform
        lonlat[some] = np.column_stack(transform(*(steps[some] + (left, top)).T))
    return lonlat.round(6)


def _metres(one: np.ndarray, other: np.ndarray) -> float:
    """Distance between two places that are close together."""
    east, north = (one - other) * 111_320.0
    return float(np.hypot(east * np.cos(np.radians(one[1])), north))
