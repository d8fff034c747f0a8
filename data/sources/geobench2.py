"""GEO-Bench-2: its four classification sets, BigEarthNet v2, So2Sat, TreeSatAI and ForestNet.

Files as the benchmark publishes them, in ``--data-root``: ``geobench_benv2.tortilla``, ``geobench_so2sat.tortilla``,
``geobench_treesatai.tortilla`` and ``geobench_forestnet.tortilla``; ``--download`` fetches one. They are read here: the
benchmark's own package is not needed. A Tortilla file holds files one after the other, and a Parquet table of where
they lie at its end; every sample is again a Tortilla of its images.

Images are of each sensor's own size. So2Sat's reflectance becomes digital numbers. TreeSatAI's aerial pictures have
four unnamed channels: near infrared, green, blue, red in the original files; red, green, blue, near infrared in the
benchmark's code. Over forest the near infrared is brightest by far, so the brightest channel decides.
"""

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
from jaxtyping import Shaped
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from data.archives import fetched
from data.bands import Band
from data.command import progress, say
from data.dataset import EODataset, check_variant, measured_statistics
from data.errors import RequestError
from data.flags import DatasetRequest
from data.listing import multi_hot
from data.nomenclature import CLASSES_19
from data.registry import DatasetCard
from data.seen import stamp_of, times_digest
from data.sources import _channels as known
from data.sources._channels import Channel, in_unit, other
from data.sources._index import indexed

CARD = DatasetCard(
    title="GEO-Bench-2 (classification)",
    classes="19, 17, 15 and 12",
    labels="benv2 and treesatai multi-label; so2sat and forestnet single-label",
    bands="Sentinel-1 and Sentinel-2; treesatai also aerial color-infrared, 8 bits; forestnet Landsat 8, 8 bits",
    variants=("benv2", "so2sat", "treesatai", "forestnet"),
    license="of each set: see its page",
    citation="GEO-Bench-2: From Performance to Capability, Rethinking Evaluation in Geospatial AI, arXiv:2511.15658",
    source="--download, or geobench_<set>.tortilla from https://huggingface.co/datasets/aialliance/<set> in "
    "--data-root",
)

URL = "https://huggingface.co/datasets/aialliance/{0}/resolve/main/geobench_{0}.tortilla"
MAGIC = (b"#y", b"WX")
LARGEST_FOOTER = 2**31
SPLITS = {"train": "train", "val": "validation", "test": "test"}
FAILURES = (OSError, ValueError, KeyError, TypeError, pa.ArrowException, RasterioError)


@dataclass(frozen=True)
class Part:
    """One image of every sample."""

    place: int  # which of the sample's files it is
    channels: tuple[Channel, ...]  # in the file's order
    dtype: str  # numpy name of the type that values are kept in


@dataclass(frozen=True)
class Set:
    """One of the benchmark's sets."""

    parts: tuple[Part, ...]  # the images of a sample
    classes: tuple[str, ...]  # in the order of the labels
    label: str  # column of the labels
    multilabel: bool  # whether a sample may have several
    sha256: str  # of the published file


AERIAL_ORDERS = {0: ("nir", "green", "blue", "red"), 3: ("red", "green", "blue", "nir")}  # by the brightest channel
SETS = {
    "benv2": Set(
        parts=(
            Part(0, known.VV_VH, "float32"),
            Part(1, known.S2_12, "uint16"),
        ),
        classes=tuple(CLASSES_19),
        label="labels",
        multilabel=True,
        sha256="821c2f429c3e85c158c758bbb215bf61170a2451a11284efaf0f89cef97e468a",
    ),
    "so2sat": Set(
        parts=(
            Part(0, other("VV_real", "VH_real", gsd_m=10), "float32"),
            Part(1, known.SO2SAT, "float32"),
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
            Part(0, known.AERIAL, "uint8"),
            Part(1, known.TREE_SAT_RADAR, "float32"),
            Part(2, known.TREE_SAT_OPTICAL, "uint16"),
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
        parts=(Part(0, known.LANDSAT, "uint8"),),
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
    """Open splits of one set."""
    name = check_variant("geobench2", request.options.dataset_variant, CARD.variants)
    about, file = SETS[name], request.root / f"geobench_{name}.tortilla"
    if request.options.download:
        fetched(URL.format(name), request.root, sha256=about.sha256)
    if not file.is_file():
        raise RequestError(f"no {file}; name its folder with --data-root or pass --download")
    samples = _samples(file, about, request)
    parts = [_aerial(file, part, samples) if part.channels == known.AERIAL else part for part in about.parts]
    opened: dict[str, EODataset] = {}
    for split in dict.fromkeys(("train", *request.splits)):
        chosen = [sample for sample in samples if sample["split"] == SPLITS[split]]
        if not chosen:
            raise RequestError(f"{file} has no samples of split {split}; download it again")
        opened[split] = GeoBench2(file, chosen, parts, about, variant=name, split=split)
    statistics = measured_statistics(opened["train"])
    for dataset in opened.values():
        dataset.statistics = statistics
    return {split: opened[split] for split in request.splits}


class GeoBench2(EODataset):
    """Samples of a Tortilla file."""

    digest_of_times = True

    def __init__(
        self,
        file: Path,
        samples: Sequence[Mapping[str, Any]],
        parts: Sequence[Part],
        about: Set,
        *,
        variant: str,
        split: str,
    ) -> None:
        self.file, self.parts = str(file), parts
        self.subfiles, places = [sample["files"] for sample in samples], [sample["lonlat"] for sample in samples]
        stat = os.stat(file)
        super().__init__(
            name="geobench2",
            variant=variant,
            split=split,
            ids=[sample["id"] for sample in samples],
            labels=_labels(file, samples, about),
            class_names=about.classes,
            bands=[channel.band for part in parts for channel in part.channels],
            statistics={},
            lonlat=None if None in places else np.array(places, np.float64),
            provenance={"split": "the benchmark's"},
            files_digest=times_digest({file.name: stat}),
        )
        self.where = f"geobench2 {variant}"
        self.looked = np.full(len(self.ids), stamp_of([stat]), np.uint64)

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`."""
        return [self.file]

    def read(self, index: int, bands: Sequence[Band]) -> list[Shaped[np.ndarray, "_ _"]]:
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
                found[channel.band.name] = in_unit(image[at], channel.factor).astype(part.dtype)
        return [found[band.name] for band in bands]


def read_image(file: str, subfile: Sequence[int], part: Part, name: str) -> Shaped[np.ndarray, "bands height width"]:
    """One image of a sample."""
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

    def read() -> np.ndarray:
        found = []
        try:
            rows = sorted(tables(file), key=lambda row: str(row["tortilla:id"]))
            with progress("reading the labels", len(rows), "samples") as advance:
                for row in rows:
                    found.append(json.dumps(_sample(file, row, about)))
                    advance(1)
        except FAILURES as error:
            raise RequestError(f"{file} is damaged ({type(error).__name__}: {error}); download it again") from error
        return np.array(found)

    kept = indexed(request, f"{file.stem}-samples", "samples", times_digest({file.name: file.stat()}), read)
    return [json.loads(str(line)) for line in kept]


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


def _labels(file: Path, samples: Sequence[Mapping[str, Any]], about: Set) -> np.ndarray:
    """(N, K) uint8 of several class names, or (N,) int64 class numbers."""
    if not about.multilabel:
        numbers = np.array([sample["labels"] for sample in samples], np.int64)
        wrong = (numbers < 0) | (numbers >= len(about.classes))
        if wrong.any():
            raise RequestError(f"{file}: label {numbers[wrong][0]} is not a class from 0 to {len(about.classes) - 1}")
        return numbers
    for sample in samples:
        if strange := [name for name in sample["labels"] if name not in about.classes]:
            raise RequestError(f"{file}: '{sample['id']}' has the unknown class '{strange[0]}'; download it again")
    return multi_hot([sample["labels"] for sample in samples], about.classes)


def _aerial(file: Path, part: Part, samples: Sequence[Mapping[str, Any]]) -> Part:
    """Four aerial channels; the position of the brightest one determines their order."""
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
    named = {channel.band.name: channel for channel in known.AERIAL}
    return replace(part, channels=tuple(named[name] for name in order))
