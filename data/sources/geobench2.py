"""GEO-Bench-2: the four classification sets of the second benchmark: BigEarthNet v2, So2Sat, TreeSatAI, ForestNet.

Files as the benchmark publishes them, in ``--data-root``: ``geobench_benv2.tortilla``, ``geobench_so2sat.tortilla``,
``geobench_treesatai.tortilla`` and ``geobench_forestnet.tortilla``; ``--download`` fetches one. They are read here: the
benchmark's own package is not needed. A Tortilla file holds files one after the other, and a Parquet table of where
they lie at its end; every sample is again a Tortilla of its images.

Images are of each sensor's own size. So2Sat's reflectance becomes digital numbers. TreeSatAI's aerial pictures have
four unnamed channels: near infrared, green, blue, red in the original files; red, green, blue, near infrared in the
benchmark's code. Over forest the near infrared is brightest by far, so the brightest channel decides.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from data.archives import cache_folder, fetched
from data.bands import SENTINEL1, SENTINEL2, Band
from data.cached import array_for, keep_array
from data.command import progress, say
from data.dataset import EODataset, check_variant, measured_statistics
from data.errors import RequestError
from data.flags import DatasetRequest
from data.nomenclature import CLASSES_19
from data.registry import DatasetCard
from data.seen import stamp_of

CARD = DatasetCard(
    title="GEO-Bench-2 (classification)",
    classes="19, 17, 15 and 12",
    labels="benv2 and treesatai multi-label; so2sat and forestnet single-label",
    bands="Sentinel-1 and Sentinel-2; treesatai also aerial colour-infrared, 8 bits; forestnet Landsat 8, 8 bits",
    variants=("benv2", "so2sat", "treesatai", "forestnet"),
    licence="of each set: see its page",
    citation="GEO-Bench-2: From Performance to Capability, Rethinking Evaluation in Geospatial AI, arXiv:2511.15658",
    source="--download, or geobench_<set>.tortilla from https://huggingface.co/datasets/aialliance/<set> in "
    "--data-root",
)

URL = "https://huggingface.co/datasets/aialliance/{0}/resolve/main/geobench_{0}.tortilla"
MAGIC = (b"#y", b"WX")
LARGEST_FOOTER = 2**31
SPLITS = {"train": "train", "val": "validation", "test": "test"}
FAILURES = (OSError, ValueError, KeyError, TypeError, pa.ArrowException, RasterioError)
REFLECTANCE = 10_000.0


class Channel(NamedTuple):
    """One channel of an image; its values times `factor` are in the band's usual unit."""

    band: Band
    factor: float = 1.0


@dataclass(frozen=True)
class Part:
    """One image of every sample.

    Args:
        place: which of the sample's files it is.
        channels: in the file's order.
        dtype: numpy name of the type that values are kept in.
    """

    place: int
    channels: tuple[Channel, ...]
    dtype: str


@dataclass(frozen=True)
class Set:
    """One of the benchmark's sets.

    Args:
        parts: the images of a sample.
        classes: in the order of the labels.
        label: column of the labels.
        multilabel: whether a sample may have several.
        sha256: of the published file.
    """

    parts: tuple[Part, ...]
    classes: tuple[str, ...]
    label: str
    multilabel: bool
    sha256: str


def _sentinel2(names: str, factor: float = 1.0) -> tuple[Channel, ...]:
    return tuple(Channel(SENTINEL2[name], factor) for name in names.split())


_RADAR = tuple(Channel(band) for band in SENTINEL1.values())
_AERIAL = {
    "nir": Band("nir", "other", 0.83, 0.2),
    "red": Band("red", "other", 0.665, 0.2, "red"),
    "green": Band("green", "other", 0.56, 0.2, "green"),
    "blue": Band("blue", "other", 0.49, 0.2, "blue"),
}
AERIAL_ORDERS = {0: ("nir", "green", "blue", "red"), 3: ("red", "green", "blue", "nir")}  # by the brightest channel
_LANDSAT = (
    Band("blue", "other", 0.482, 15, "blue"),
    Band("green", "other", 0.561, 15, "green"),
    Band("red", "other", 0.655, 15, "red"),
    Band("nir", "other", 0.865, 15),
    Band("swir1", "other", 1.609, 15),
    Band("swir2", "other", 2.201, 15),
)
SETS = {
    "benv2": Set(
        parts=(
            Part(0, _RADAR, "float32"),
            Part(1, _sentinel2("B01 B02 B03 B04 B05 B06 B07 B08 B8A B09 B11 B12"), "uint16"),
        ),
        classes=tuple(CLASSES_19),
        label="labels",
        multilabel=True,
        sha256="821c2f429c3e85c158c758bbb215bf61170a2451a11284efaf0f89cef97e468a",
    ),
    "so2sat": Set(
        parts=(
            Part(0, tuple(Channel(Band(name, "other", None, 10)) for name in ("VV_real", "VH_real")), "float32"),
            Part(1, _sentinel2("B02 B03 B04 B05 B06 B07 B08 B8A B11 B12", REFLECTANCE), "float32"),
        ),
        classes=(
            "Compact high-rise", "Compact middle-rise", "Compact low-rise", "Open high-rise", "Open middle-rise",
            "Open low-rise", "Lightweight low-rise", "Large low-rise", "Sparsely built", "Heavy industry",
            "Dense Trees", "Scattered trees", "Bush, scrub", "Low plants", "Bare rock or paved",
            "Bare soil or sand", "Water",
        ),
        label="labels",
        multilabel=False,
        sha256="2f9aa3a0cbf7f5071d2fafee24156a6041a9c732f0f979881b8db582201aa7bc",
    ),
    "treesatai": Set(
        parts=(
            Part(0, tuple(Channel(_AERIAL[name]) for name in AERIAL_ORDERS[0]), "uint8"),
            Part(1, (*_RADAR, Channel(Band("VV_VH_ratio", "other", None, 10))), "float32"),
            Part(2, _sentinel2("B02 B03 B04 B08 B05 B06 B07 B8A B11 B12 B01 B09"), "uint16"),
        ),
        classes=(
            "Abies", "Acer", "Alnus", "Betula", "Cleared", "Fagus", "Fraxinus", "Larix", "Picea", "Pinus", "Populus",
            "Prunus", "Pseudotsuga", "Quercus", "Tilia",
        ),
        label="species_labels",
        multilabel=True,
        sha256="0ddb8068720242ad4f5931ea91f3459ed695ad490bbaa48905afe72dd9623aee",
    ),
    "forestnet": Set(
        parts=(Part(0, tuple(Channel(band) for band in _LANDSAT), "uint8"),),
        classes=(
            "Oil palm plantation", "Timber plantation", "Other large-scale plantations", "Grassland/shrubland",
            "Small-scale agriculture", "Small-scale mixed plantation", "Small-scale oil palm plantation", "Mining",
            "Fish pond", "Logging road", "Secondary forest", "Other",
        ),
        label="labels",
        multilabel=False,
        sha256="6ee7cb7135b4ca5d0cde52e781f5960ed0e648dcceab598982fa612802cd3ad1",
    ),
}  # fmt: skip


def open_dataset(request: DatasetRequest) -> dict[str, EODataset]:
    """Open splits of one set.

    Raises:
        RequestError: no such set, or its file is missing or damaged.
    """
    name = check_variant("geobench2", request.options.dataset_variant, CARD.variants)
    about, file = SETS[name], request.root / f"geobench_{name}.tortilla"
    if request.options.download:
        fetched(URL.format(name), request.root, sha256=about.sha256)
    if not file.is_file():
        raise RequestError(f"no {file}; name its folder with --data-root or pass --download")
    samples = _samples(file, about, request)
    parts = _checked_parts(file, about, samples)
    opened: dict[str, EODataset] = {}
    for split in dict.fromkeys(("train", *request.splits)):
        chosen = [sample for sample in samples if sample["split"] == SPLITS[split]]
        if not chosen:
            raise RequestError(f"{file} has no samples of split {split}; download it again")
        opened[split] = GeoBench2(
            file, chosen, parts, variant=name, split=split, class_names=about.classes, multilabel=about.multilabel
        )
    statistics = measured_statistics(opened["train"])
    for dataset in opened.values():
        dataset.statistics = statistics
    return {split: opened[split] for split in request.splits}


class GeoBench2(EODataset):
    """Samples of a Tortilla file.

    Args:
        file: the file.
        samples: see `_samples`.
        parts: the images of a sample.
        variant: the set.
        split: train, val or test.
        class_names: K names.
        multilabel: whether a sample may have several classes.
    """

    digest_of_times = True

    def __init__(
        self,
        file: Path,
        samples: Sequence[Mapping[str, Any]],
        parts: Sequence[Part],
        *,
        variant: str,
        split: str,
        class_names: Sequence[str],
        multilabel: bool,
    ) -> None:
        self.file, self.parts = str(file), parts
        self.subfiles = [sample["files"] for sample in samples]
        stat = os.stat(file)
        super().__init__(
            name="geobench2",
            variant=variant,
            split=split,
            ids=[sample["id"] for sample in samples],
            labels=_labels(file, samples, class_names, multilabel=multilabel),
            class_names=class_names,
            bands=[channel.band for part in parts for channel in part.channels],
            statistics={},
            lonlat=_lonlat(samples),
            provenance={"split": "the benchmark's"},
            files_digest=hashlib.sha256(f"{file.name} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest(),
        )
        self.where = f"geobench2 {variant}"
        self.looked = np.full(len(self.ids), stamp_of([stat]), np.uint64)

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`."""
        return [self.file]

    def read(self, index: int, bands: Sequence[Band]) -> list[np.ndarray]:
        """See `EODataset.read`: digital numbers, 8-bit values and dB, each sensor at its own size."""
        found: dict[str, np.ndarray] = {}
        wanted = {band.name for band in bands}
        for part in self.parts:
            chosen = [at for at, channel in enumerate(part.channels) if channel.band.name in wanted]
            if not chosen:
                continue
            image = read_image(self.file, self.subfiles[index][part.place], part, self.ids[index])
            for at in chosen:
                channel = part.channels[at]
                scaled = image[at].astype(np.float64) * channel.factor if channel.factor != 1 else image[at]
                found[channel.band.name] = scaled.astype(part.dtype)
        return [found[band.name] for band in bands]


def read_image(file: str, subfile: Sequence[int], part: Part, name: str) -> np.ndarray:
    """One image of a sample, (channels, height, width).

    Raises:
        RequestError: damaged, or of another number of channels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(f"/vsisubfile/{subfile[0]}_{subfile[1]},{file}") as source:
                image = source.read()
    except FAILURES as error:
        raise RequestError(f"{file}: image {part.place} of '{name}' is damaged ({error}); download it again") from error
    if len(image) != len(part.channels):
        raise RequestError(
            f"{file}: image {part.place} of '{name}' has {len(image)} bands, expected {len(part.channels)}; fetch it "
            "again"
        )
    return image


# --- Tortilla files


def tables(file: Path, offset: int = 0) -> list[dict[str, Any]]:
    """Rows of the table of a Tortilla file, or of one inside it; places count from the beginning of the whole file.

    Raises:
        ValueError: it is none, or its table lies outside.
    """
    with file.open("rb") as content:
        content.seek(offset)
        header = content.read(18)
        start, length = (int.from_bytes(header[at : at + 8], "little") for at in (2, 10))
        if header[:2] not in MAGIC or length > LARGEST_FOOTER or offset + start + length > file.stat().st_size:
            raise ValueError("no Tortilla archive starts there, or it is truncated")
        content.seek(offset + start)
        rows = pq.read_table(pa.BufferReader(content.read(length))).to_pylist()
    return [row | {"tortilla:offset": row["tortilla:offset"] + offset} for row in rows]


def _samples(file: Path, about: Set, request: DatasetRequest) -> list[dict[str, Any]]:
    """Every sample's id, split, labels, location and files, kept in an index while the file stays the same."""
    stat = file.stat()
    digest = hashlib.sha256(f"{file.name} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()
    folder = cache_folder(request.root, cache_dir=request.options.cache_dir)
    index = folder / f"{file.stem}-samples-{digest[:10]}.npz"
    kept = array_for(index, "samples", digest=digest)
    if kept is not None:
        return [json.loads(str(line)) for line in kept]
    try:
        rows = sorted(tables(file), key=lambda row: str(row["tortilla:id"]))
        with progress("reading the labels", len(rows), "samples") as advance:
            found = []
            for row in rows:
                found.append(_sample(file, row, about))
                advance(1)
    except FAILURES as error:
        raise RequestError(f"{file} is damaged ({type(error).__name__}: {error}); download it again") from error
    keep_array(index, "samples", np.array([json.dumps(sample) for sample in found]), digest=digest)
    return found


def _sample(file: Path, row: Mapping[str, Any], about: Set) -> dict[str, Any]:
    inside = tables(file, row["tortilla:offset"])
    labels = inside[0][about.label]
    centre = inside[0].get("stac:centroid") or row.get("stac:centroid") or ""
    lon, lat = inside[0].get("lon"), inside[0].get("lat")
    if lon is None and str(centre).startswith("POINT"):
        lon, lat = map(float, str(centre).partition("(")[2].rstrip(")").split())
    return {
        "id": str(row["tortilla:id"]),
        "split": row["tortilla:data_split"],
        "labels": labels if isinstance(labels, list) else int(labels),
        "lonlat": None if lon is None or lat is None else [float(lon), float(lat)],
        "files": [[int(one["tortilla:offset"]), int(one["tortilla:length"])] for one in inside],
    }


def _labels(
    file: Path, samples: Sequence[Mapping[str, Any]], class_names: Sequence[str], *, multilabel: bool
) -> np.ndarray:
    """(N, K) uint8 of several class names, or (N,) int64 class numbers."""
    if not multilabel:
        numbers = np.array([sample["labels"] for sample in samples], np.int64)
        wrong = (numbers < 0) | (numbers >= len(class_names))
        if wrong.any():
            raise RequestError(f"{file}: label {numbers[wrong][0]} is not a class from 0 to {len(class_names) - 1}")
        return numbers
    labels = np.zeros((len(samples), len(class_names)), np.uint8)
    for row, sample in enumerate(samples):
        if strange := [name for name in sample["labels"] if name not in class_names]:
            raise RequestError(f"{file}: '{sample['id']}' has the unknown class '{strange[0]}'; download it again")
        labels[row, [class_names.index(name) for name in sample["labels"]]] = 1
    return labels


def _lonlat(samples: Sequence[Mapping[str, Any]]) -> np.ndarray | None:
    found = [sample["lonlat"] for sample in samples]
    return None if any(place is None for place in found) else np.array(found, np.float64)


def _checked_parts(file: Path, about: Set, samples: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    """The images of a sample, with the order of four aerial channels decided by the brightest one."""
    return tuple(_aerial(file, part, samples) if len(part.channels) == 4 else part for part in about.parts)


def _aerial(file: Path, part: Part, samples: Sequence[Mapping[str, Any]]) -> Part:
    some = samples[:: max(1, len(samples) // 50)]
    images = [read_image(str(file), sample["files"][part.place], part, sample["id"]) for sample in some]
    means = np.mean([image.mean(axis=(1, 2)) for image in images], axis=0)
    brightest = int(means.argmax())
    if brightest not in AERIAL_ORDERS:
        raise RequestError(
            f"{file}: the brightest of four aerial channels is number {brightest + 1}; near infrared was expected to "
            "be the first or the last: download it again"
        )
    order = AERIAL_ORDERS[brightest]
    shown = ", ".join(f"{name} {mean:.0f}" for name, mean in zip(order, means, strict=True))
    say(f"geobench2: aerial channels by their means: {shown}")
    return Part(part.place, tuple(Channel(_AERIAL[name]) for name in order), part.dtype)
