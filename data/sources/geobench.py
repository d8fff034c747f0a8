"""GEO-Bench v1: six classification sets of one benchmark, with partitions of 1% to 100% of train.

Files as the benchmark publishes them, in ``--data-root`` or its folder ``classification_v1.0``:
``<set>/<sample>.hdf5`` with ``<set>/<partition>_partition.json`` and ``<set>/band_stats.json``; or ``<set>.zip``, which
holds that folder; or the WebDataset mirror's shards, ``<set>/shard_*.tar`` with ``<sample>.bands.npz`` and
``<sample>.meta.pkl``.

Two sets have wrong band names, which are corrected unless ``--band-names published`` is given. EuroSAT stores B8A
last, but m-eurosat names its 13 bands in ESA's order, so that five bands have wrong names (geo-bench issue 28).
In m-brick-kiln the last three bands are an 8-bit true-color picture (each correlates with the band of its color),
and "08A" and "09" hold B11 and B12.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from data.archives import unpacked
from data.bands import RGB, SENTINEL2, Band
from data.command import note, progress
from data.dataset import EODataset, Statistic, check_variant, measured_statistics
from data.errors import RequestError, unknown
from data.flags import DatasetRequest
from data.geobench_samples import HUB, Samples, shards
from data.nomenclature import CLASSES_43, EUROSAT_CLASSES
from data.registry import DatasetCard
from data.sources._channels import LANDSAT, SO2SAT, SO2SAT_RADAR, Channel, in_unit
from data.sources._index import indexed
from data.workers import LostWorkerError, in_order

CARD = DatasetCard(
    title="GEO-Bench v1 (classification)",
    classes="10, 43, 17, 2, 12 and 2",
    labels="single-label; m-bigearthnet multi-label",
    bands="Sentinel-2; m-so2sat also radar; m-forestnet Landsat 8, 8 bits; m-pv4ger aerial RGB, 8 bits",
    variants=("m-eurosat", "m-bigearthnet", "m-so2sat", "m-brick-kiln", "m-forestnet", "m-pv4ger"),
    options=("partition", "band_names"),
    license="of each set: see the benchmark's page",
    citation="Lacoste et al. 2023, GEO-Bench: Toward Foundation Models for Earth Monitoring, arXiv:2306.03831",
    source="--download, or a set's folder or zip file from https://huggingface.co/datasets/recursix/geo-bench-1.0 "
    "in --data-root",
)

COLLECTION = "classification_v1.0"
SPLITS = {"train": "train", "val": "valid", "test": "test"}
BAND_NAMES = ("true", "published")


_S2 = {
    "01 - Coastal aerosol": "B01",
    "02 - Blue": "B02",
    "03 - Green": "B03",
    "04 - Red": "B04",
    "05 - Vegetation Red Edge": "B05",
    "06 - Vegetation Red Edge": "B06",
    "07 - Vegetation Red Edge": "B07",
    "08 - NIR": "B08",
    "08A - Vegetation Red Edge": "B8A",
    "09 - Water vapour": "B09",
    "10 - SWIR - Cirrus": "B10",
    "11 - SWIR": "B11",
    "12 - SWIR": "B12",
}
# By set: names as they are stored that stand for another band.
_CORRECTED = {
    "m-eurosat": {
        "08A - Vegetation Red Edge": "B09",
        "09 - Water vapour": "B10",
        "10 - SWIR - Cirrus": "B11",
        "11 - SWIR": "B12",
        "12 - SWIR": "B8A",
    },
    "m-brick-kiln": {
        "08A - Vegetation Red Edge": "B11",
        "09 - Water vapour": "B12",
        "10 - SWIR - Cirrus": "red",
        "11 - SWIR": "green",
        "12 - SWIR": "blue",
    },
}
_RADAR = (
    "01 - VH.Real",
    "02 - VH.Imaginary",
    "03 - VV.Real",
    "04 - VV.Imaginary",
    "05 - VH.LEE Filtered",
    "06 - VV.LEE Filtered",
    "07 - VH.LEE Filtered.Real",
    "08 - VV.LEE Filtered.Imaginary",
)
_LANDSAT = ("02 - Blue", "03 - Green", "04 - Red", "05 - NIR", "06 - SWIR1", "07 - SWIR2")

CLASSES = {
    "m-eurosat": EUROSAT_CLASSES,
    "m-bigearthnet": tuple(CLASSES_43),
    "m-so2sat": (
        "Compact high rise",
        "Compact mid rise",
        "Compact low rise",
        "Open high rise",
        "Open mid rise",
        "Open low rise",
        "Lightweight low rise",
        "Large low rise",
        "Sparsely built",
        "Heavy industry",
        "Dense trees",
        "Scattered trees",
        "Bush, scrub",
        "Low plants",
        "Bare rock or paved",
        "Bare soil or sand",
        "Water",
    ),
    "m-brick-kiln": ("not brick kiln", "brick kiln"),
    "m-forestnet": (
        "Oil palm plantation",
        "Timber plantation",
        "Other large-scale plantations",
        "Grassland shrubland",
        "Small-scale agriculture",
        "Small-scale mixed plantation",
        "Small-scale oil palm plantation",
        "Mining",
        "Fish pond",
        "Logging",
        "Secondary forest",
        "Other",
    ),
    "m-pv4ger": ("no solar pv", "solar pv"),
}
MULTILABEL = ("m-bigearthnet",)


def channels(name: str, *, band_names: str = "true") -> dict[str, Channel]:
    """The bands of a set by the names they are stored under, in file order.

    Args:
        name: the set.
        band_names: ``true``, or ``published`` for the wrong names in the files.
    """
    if name == "m-pv4ger":
        return {colour.capitalize(): Channel(band) for colour, band in RGB.items()}
    if name == "m-forestnet":
        return dict(zip(_LANDSAT, LANDSAT, strict=True))
    if name == "m-so2sat":
        names = {band: stored for stored, band in _S2.items()}
        stored = (*_RADAR, *(names[channel.band.name] for channel in SO2SAT))
        return dict(zip(stored, (*SO2SAT_RADAR, *SO2SAT), strict=True))
    names = _S2 | (_CORRECTED.get(name, {}) if band_names == "true" else {})
    if name == "m-bigearthnet":
        names = {stored: band for stored, band in names.items() if band != "B10"}
    return {stored: Channel(SENTINEL2.get(band) or RGB[band]) for stored, band in names.items()}


def open_dataset(request: DatasetRequest) -> dict[str, EODataset]:
    """Open splits of one set."""
    options = request.options
    name = check_variant("geobench", options.dataset_variant, CARD.variants)
    band_names = options.band_names or "true"
    if band_names not in BAND_NAMES:
        raise unknown("choice of --band-names", band_names, BAND_NAMES)
    if options.download:
        _download(name, request.root)
    folder = _folder(name, request)
    partition = options.partition or "default"
    ids = _partition(folder, partition)
    samples = Samples(folder, shards(folder))
    for split in request.splits:
        samples.check(ids[SPLITS[split]], partition)
    labels = _labels(samples, name, request)
    about: dict[str, Any] = {"partition": partition}
    if name in _CORRECTED and band_names == "true":
        corrected = _misnamed(folder, name)
        _report_names(folder, name, corrected=corrected)
        band_names = "true" if corrected else "published"
    if name in _CORRECTED:
        about["band_names"] = {"true": {"corrected": _CORRECTED[name]}, "published": "as in the files"}[band_names]
    known = channels(name, band_names=band_names)
    statistics = _statistics(folder, known)
    opened: dict[str, EODataset] = {}
    for split in request.splits:
        chosen = ids[SPLITS[split]]
        dataset = opened[split] = GeoBench(
            samples=samples,
            channels=known,
            name="geobench",
            variant=name,
            split=split,
            ids=chosen,
            labels=np.stack([labels[sample] for sample in chosen]) if chosen else np.zeros(0, np.int64),
            class_names=CLASSES[name],
            bands=tuple(channel.band for channel in known.values()),
            statistics=statistics,
            provenance=about,
            files_digest=samples.digest(chosen),
        )
        dataset.looked = samples.stamps(chosen)
        if not statistics:
            dataset.statistics = _measured(dataset)
    return opened


class GeoBench(EODataset):
    """Samples of one set, each read from its HDF5 file or from its place in a shard."""

    digest_of_times = True

    def __init__(self, *, samples: Samples, channels: Mapping[str, Channel], **about: Any) -> None:
        super().__init__(**about)
        self.samples = samples
        self.channels = {channel.band.name: (stored, channel.factor) for stored, channel in channels.items()}
        self.where = f"geobench {self.variant}"

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`: the sample's own, or its shard."""
        return [f"{self.samples.folder}/{self.samples.file(self.ids[index])}"]

    def read(self, index: int, bands: Sequence[Band]) -> list[Shaped[np.ndarray, "_ _"]]:
        """See `EODataset.read`: float32, whole numbers as they are stored; reflectance as digital numbers."""
        wanted = [self.channels[band.name] for band in bands]
        pixels = self.samples.pixels(self.ids[index], [stored for stored, _ in wanted])
        found = [in_unit(array, factor) for array, (_, factor) in zip(pixels, wanted, strict=True)]
        return [array.astype(np.float32) if array.dtype.kind == "f" else array for array in found]


def _measured(dataset: GeoBench) -> dict[str, Statistic]:
    """Statistics of a set that has none, by a child process: damage can crash or hang the HDF5 library."""
    try:
        (found,) = in_order(measured_statistics, [dataset], workers=0 if dataset.samples.members else 1)
        return found
    except LostWorkerError as error:
        folder = dataset.samples.folder
        raise RequestError(
            f"{folder}: reading the samples crashes or hangs HDF5, one is damaged; download the set again"
        ) from error


def _folder(name: str, request: DatasetRequest) -> Path:
    """The set's folder, unpacked from its zip file where it is in one."""
    places = [request.root, request.root / COLLECTION, request.root / f"{COLLECTION}_wds"]
    for place in places:
        if next((place / name).glob("*_partition.json"), None):
            return place / name
    if request.root.name == name and next(request.root.glob("*_partition.json"), None):
        return request.root
    for archive in (place / f"{name}.zip" for place in places):
        if archive.is_file():
            folder = unpacked(archive, cache_dir=request.options.cache_dir)
            for inner in (folder / name, folder):
                if next(inner.glob("*_partition.json"), None):
                    return inner
            raise RequestError(f"{archive} holds no {name}/*_partition.json; it is not a set of {HUB}")
    raise RequestError(
        f"no {name}/ with *_partition.json and no {name}.zip in {request.root} or its {COLLECTION}/; pass the folder "
        "that holds it as --data-root, or pass --download"
    )


def _partition(folder: Path, partition: str) -> dict[str, list[str]]:
    """Sample names of the three splits."""
    found = sorted(path.name.removesuffix("_partition.json") for path in folder.glob("*_partition.json"))
    if partition not in found:
        raise unknown("partition", partition, found)
    file = folder / f"{partition}_partition.json"
    try:
        splits = json.loads(file.read_text(encoding="utf-8"))
        listed = {name: [str(sample) for sample in splits[name]] for name in SPLITS.values()}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{file} is damaged ({error}); download the set again") from error
    for sample in (sample for samples in listed.values() for sample in samples):
        if Path(sample).name != sample:
            raise RequestError(f"{file} names the sample '{sample}', which is not a file name; download the set again")
    return listed


def _labels(samples: Samples, name: str, request: DatasetRequest) -> dict[str, np.ndarray]:
    """Labels of all samples, kept in an index file."""
    names = sorted(
        samples.members if samples.members else (path.stem for path in samples.folder.glob("*.hdf5") if path.is_file())
    )

    def read() -> np.ndarray:
        found = []
        with progress("reading the labels", len(names), "samples") as advance:
            for sample, label in zip(names, samples.in_child(samples.label, names), strict=True):
                found.append(_checked_label(samples, sample, name, label))
                advance(1)
        return np.stack(found)

    beside = replace(request, root=samples.folder)
    return dict(zip(names, indexed(beside, f"{name}-labels", "labels", samples.digest(names), read), strict=True))


def _checked_label(samples: Samples, sample: str, name: str, label: np.ndarray) -> np.ndarray:
    classes = len(CLASSES[name])
    if name in MULTILABEL:
        if label.shape != (classes,) or not np.isin(label, (0, 1)).all():
            raise RequestError(f"{samples.where(sample)}: its label is not {classes} values of 0 or 1")
        return label.astype(np.uint8)
    if label.shape not in ((), (1,)) or not 0 <= int(label.reshape(-1)[0]) < classes:
        raise RequestError(f"{samples.where(sample)}: label {label.tolist()} is not a class from 0 to {classes - 1}")
    return label.reshape(-1)[0]


def _statistics(folder: Path, known: Mapping[str, Channel]) -> dict[str, Statistic]:
    """Mean and standard deviation by band from the set's own file; empty if it lacks a band."""
    stats = _band_stats(folder)
    found = {}
    for stored, channel in known.items():
        names = [name for name in stats if name == stored or name.startswith(f"{stored}_")]
        if len(names) != 1:
            return {}
        mean, std = (float(stats[names[0]][key]) * channel.factor for key in ("mean", "std"))
        found[channel.band.name] = Statistic(mean, std)
    return found


def _band_stats(folder: Path) -> dict[str, dict[str, float]]:
    try:
        stats = json.loads((folder / "band_stats.json").read_text(encoding="utf-8"))
        return {name: value for name, value in stats.items() if {"mean", "std", "max"} <= value.keys()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise RequestError(f"{folder / 'band_stats.json'} is damaged ({error}); download the set again") from error


def _misnamed(folder: Path, name: str) -> bool:
    """Whether the files have the wrong names, according to their statistics; assumed if there are none.

    EuroSAT's cirrus band has a mean of 12 and its B11 one of 1,819; a picture of 8 bits ends at 255.
    """
    stats = _band_stats(folder)
    if any(stored not in stats for stored in _CORRECTED[name]):
        return True
    if name == "m-eurosat":
        return stats["09 - Water vapour"]["mean"] < 100 < stats["10 - SWIR - Cirrus"]["mean"]
    return all(stats[stored]["max"] <= 255 for stored, band in _CORRECTED[name].items() if band in RGB)


def _report_names(folder: Path, name: str, *, corrected: bool) -> None:
    """Report once which bands are renamed, with the statistics that show why."""
    if not corrected:
        note(f"geobench {name}: band names in the files match their statistics and are kept")
        return
    stats = _band_stats(folder)
    shown = []
    for stored, band in _CORRECTED[name].items():
        figures = f" (mean {s['mean']:,.1f}, maximum {s['max']:,.0f})" if (s := stats.get(stored)) else ""
        shown.append(f"'{stored}'{figures} is {band}")
    note(f"geobench {name}: wrong band names are corrected: {', '.join(shown)}; --band-names published keeps them")


def _download(name: str, root: Path) -> None:
    from huggingface_hub import hf_hub_download  # deferred: only here
    from huggingface_hub.errors import HfHubHTTPError

    if (root / COLLECTION / name).is_dir() or (root / COLLECTION / f"{name}.zip").is_file():
        return
    file = f"{COLLECTION}/{name}.zip"
    try:
        hf_hub_download(HUB, file, repo_type="dataset", local_dir=root)
    except (HfHubHTTPError, OSError, ValueError) as error:
        first = str(error).strip().partition("\n")[0]
        raise RequestError(
            f"cannot download {file} of {HUB} ({type(error).__name__}: {first}); download it elsewhere and put it into "
            f"{root / COLLECTION}"
        ) from error
