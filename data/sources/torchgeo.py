"""torchgeo's image classification datasets, by the name of their class in torchgeo: --dataset torchgeo:NAME.

Files lie in ``--data-root``, or its folder torchgeo-NAME, as torchgeo expects them; ``--download`` lets torchgeo fetch
them.
Names: ADVANCE, BigEarthNet, BigEarthNetV2, CopernicusBenchBigEarthNetS1, CopernicusBenchBigEarthNetS2,
CopernicusBenchEuroSATS1, CopernicusBenchEuroSATS2, CopernicusBenchLC100ClsS3, CopernicusBenchLCZS2, DLRSDMultilabel,
EuroSAT, EuroSAT100, EuroSATSpatial, FireRisk, MillionAID, PatternNet, RESISC45, So2Sat, TreeSatAI, UCMerced.
Variants: ``s1`` and ``s2`` of BigEarthNet and BigEarthNetV2 (default: both sensors), ``multi-label`` of MillionAID,
``3_random``, ``3_block`` and ``3_culture_10`` of So2Sat (default: version 2).

Splits are torchgeo's own. A dataset without splits is cut into 60% train, 20% val and 20% test; one with train and
one other split keeps that as test, and 20% of train becomes val. Both cuts are stratified by class (by the rarest
class of multi-label samples), in the order of the sha256 of a fixed seed and the id: the same for the same files. The
identity of the features records the split.

Images come from torchgeo's ``__getitem__``, cast back from float to their native type without loss; reflectance of
So2Sat becomes digital numbers. torchgeo reads a sample at a time: `featurize pack` pays off for repeated use.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from rasterio.errors import RasterioError

from data.bands import Band
from data.command import note
from data.dataset import EODataset, check_variant, measured_statistics
from data.errors import RequestError, unknown
from data.flags import SPLITS, DatasetRequest
from data.listing import SEED, VAL_SHARE, by_rarest, multi_hot, path_hash
from data.registry import DatasetCard, lacking
from data.seen import stamp_of, times_digest
from data.sources._channels import Channel, in_unit
from data.sources._index import indexed, read_centres
from data.sources._torchgeo_sets import SETS, Sample, TorchGeoSet

CARD = DatasetCard(
    title="torchgeo's image classification datasets",
    example="torchgeo:RESISC45",
    classes="the dataset's",
    labels="single- or multi-label",
    bands="the dataset's: 8-bit images, Sentinel-1, -2 and -3, aerial color-infrared",
    license="of each dataset: see torchgeo's documentation",
    citation="Stewart et al. 2022, TorchGeo: Deep Learning with Geospatial Data, doi:10.1145/3557915.3560953, and the "
    "dataset's own paper",
    source="--download, or the files that torchgeo expects (https://torchgeo.readthedocs.io) in --data-root",
)

# What torchgeo and the libraries under it raise for files that are absent, damaged or of another kind.
FAILURES = (
    OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, AssertionError, RasterioError,
)  # fmt: skip
CUT = (0.6, 0.8)  # where a dataset without splits is cut into train, val and test


def open_dataset(request: DatasetRequest) -> dict[str, EODataset]:
    """Open splits of one of torchgeo's datasets."""
    name = (request.options.dataset or "").partition(":")[2]
    if name not in SETS:
        raise unknown("torchgeo classification dataset", name, sorted(SETS))
    about = SETS[name]
    variant = request.options.dataset_variant
    if variant and not about.variants:
        raise RequestError(f"--dataset-variant {variant}: torchgeo:{name} has no variants; remove the flag")
    variant = check_variant(f"torchgeo:{name}", variant, list(about.variants)) if about.variants else None
    root = request.root
    if about.better:
        note(f"--dataset {about.better} reads the files of torchgeo:{name} faster and at native resolution and type")
    about = replace(about, splits=about.splits_of.get(variant or "", about.splits))
    sources = {split: _source(name, about, variant, split, request) for split in about.splits or ("train",)}
    listed = {split: _samples(name, about, source, split, root) for split, source in sources.items()}
    splits, how = _splits(listed)
    classes = _class_names(about, sources.values())
    opened: dict[str, EODataset] = {}
    for split in dict.fromkeys(("train", *request.splits)):
        origin, rows = splits[split]
        if not rows:
            counts = ", ".join(f"{key} {len(found)}" for key, (_, found) in splits.items())
            raise RequestError(f"torchgeo:{name} has no samples of split {split} in {root} ({counts}); check the files")
        opened[split] = TorchGeoDataset(
            source=sources[origin],
            rows=rows,
            samples=[listed[origin][row] for row in rows],
            channels=about.channels_of.get(variant or "", about.channels),
            about=about,
            name=f"torchgeo:{name}",
            variant=variant if variant != next(iter(about.variants), None) else None,
            split=split,
            class_names=classes,
            multilabel=about.multilabel or variant == "multi-label",
            root=root,
            provenance={"split": how},
        )
    statistics = measured_statistics(opened["train"])
    for dataset in opened.values():
        dataset.statistics = statistics
        if about.located:
            dataset.lonlat = _lonlat(dataset, request)
    return {split: opened[split] for split in request.splits}


class TorchGeoDataset(EODataset):
    """Some samples of a torchgeo dataset."""

    digest_of_times = True

    def __init__(
        self,
        *,
        source: Any,
        rows: Sequence[int],
        samples: Sequence[Sample],
        channels: Mapping[str, Sequence[Channel]],
        about: TorchGeoSet,
        multilabel: bool,
        root: Path,
        class_names: Sequence[str],
        **more: Any,
    ) -> None:
        self.source, self.rows, self.paths = source, list(rows), [sample.files for sample in samples]
        shown = [sample.classes for sample in samples]
        labels = multi_hot(shown, class_names) if multilabel else np.array([class_names.index(one[0]) for one in shown])
        self.channels, self.dtype = channels, np.dtype(about.dtype)
        self.positions = {
            channel.band.name: (key, position, channel.factor)
            for key, members in channels.items()
            for position, channel in enumerate(members)
        }
        stats = {path: os.stat(path) for path in sorted({path for paths in self.paths for path in paths})}
        super().__init__(
            ids=[sample.id for sample in samples],
            labels=labels,
            class_names=class_names,
            bands=[channel.band for members in channels.values() for channel in members],
            statistics={},
            files_digest=times_digest({os.path.relpath(path, root): one for path, one in stats.items()}),
            **more,
        )
        self.where = self.name
        self.looked = np.array([stamp_of([stats[path] for path in paths]) for paths in self.paths], np.uint64)
        self._images(0)  # a wrong table or a damaged first image is reported before any work is done

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`."""
        return list(self.paths[index])

    def read(self, index: int, bands: Sequence[Band]) -> list[Shaped[np.ndarray, "_ _"]]:
        """See `EODataset.read`: the native type of the files, and reflectance as digital numbers."""
        images = self._images(index)
        found = []
        for key, position, factor in (self.positions[band.name] for band in bands):
            values = images[key][position]
            if factor != 1:
                found.append(in_unit(values, factor))
                continue
            cast = values.astype(self.dtype)
            if self.dtype.kind == "u" and not np.array_equal(cast, values):
                raise RequestError(
                    f"{self.where}: {self._file(index)} holds values that {self.dtype} cannot hold (from "
                    f"{values.min()} to {values.max()}); replace it by the published file"
                )
            found.append(cast)
        return found

    def _images(self, index: int) -> dict[str, np.ndarray]:
        """The tensors of one sample, (channels, height, width) each, checked against the table."""
        try:
            sample = self.source[self.rows[index]]
            images = {key: np.asarray(sample[key]) for key in self.channels}
        except FAILURES as error:
            why = f"{type(error).__name__}: {error}"
            raise RequestError(
                f"{self.where}: torchgeo cannot read '{self.ids[index]}' ({why}); restore {self._file(index)}"
            ) from error
        for key, members in self.channels.items():
            if images[key].ndim != 3 or len(images[key]) != len(members):
                raise RequestError(
                    f"{self.where}: {self._file(index)} gives an image of shape {images[key].shape}, expected "
                    f"{len(members)} bands ({', '.join(channel.band.name for channel in members)}); replace the file"
                )
        return images

    def _file(self, index: int) -> str:
        return " and ".join(self.paths[index])


# --- torchgeo's objects


def _source(name: str, about: TorchGeoSet, variant: str | None, split: str, request: DatasetRequest) -> Any:
    """Torchgeo's dataset of one published split; files are looked for, and fetched, below the data root only."""
    import torchgeo.datasets  # deferred: takes seconds

    root = request.root
    kind = getattr(torchgeo.datasets, name, None)
    if kind is None:
        raise lacking(f"torchgeo:{name}", "torchgeo", f"it has no {name}")
    fetches = "download" in kind.__init__.__annotations__
    if request.options.download and not fetches:
        raise RequestError(f"--download: torchgeo cannot fetch {name}; see its page on https://torchgeo.readthedocs.io")
    arguments: dict[str, Any] = {"root": str(root), "checksum": request.options.download}
    arguments |= dict(about.variants.get(variant or "", {}))
    arguments |= {"split": about.splits[split]} if about.splits else {}
    arguments |= {"download": request.options.download} if fetches else {}
    if request.options.download:
        root.mkdir(parents=True, exist_ok=True)
    try:
        return kind(**arguments)
    except torchgeo.datasets.DatasetNotFoundError as error:
        how = "or pass --download" if fetches else "as its documentation says"
        raise RequestError(
            f"torchgeo:{name}: no files of split {split} in {root}; put them there as torchgeo expects them {how}, or "
            "name their folder with --data-root"
        ) from error
    except FAILURES as error:
        why = f"{type(error).__name__}: {error}"
        raise RequestError(f"torchgeo:{name} cannot be opened in {root} ({why}); check or fetch its files") from error


def _samples(name: str, about: TorchGeoSet, source: Any, split: str, root: Path) -> list[Sample]:
    """The samples of one published split, in torchgeo's order; all that are listed must be there."""
    try:
        found = list(about.samples(source, root))
    except FAILURES as error:
        why = f"{type(error).__name__}: {error}"
        raise RequestError(f"torchgeo:{name}: its labels in {root} are damaged ({why}); download them again") from error
    if len(found) != len(source):
        raise RequestError(
            f"torchgeo:{name} has {len(source)} samples in {root} but {len(found)} labels; download it again"
        )
    if about.split_list:
        lines = (root / about.split_list.format(about.splits[split])).read_text(encoding="utf-8").split()
        present = {Path(sample.id).stem for sample in found}
        absent = sorted({Path(line).stem for line in lines} - present)
    else:
        files = dict.fromkeys(file for sample in found for file in sample.files)
        lines = list(files)
        absent = [file for file in files if not os.path.exists(file)]
    if absent:
        raise RequestError(
            f"torchgeo:{name}: {len(absent)} of {len(lines)} listed images of split {split} are not in {root}, first "
            f"{absent[0]}; download them again"
        )
    return found


# --- splits and labels


def _splits(listed: Mapping[str, Sequence[Sample]]) -> tuple[dict[str, tuple[str, list[int]]], str]:
    """Rows of each split: which published split they are of, and which of its rows; and how that came about."""
    published = {split: (split, list(range(len(samples)))) for split, samples in listed.items()}
    if set(published) == set(SPLITS):
        return {split: published[split] for split in SPLITS}, "torchgeo's"
    train = listed["train"]
    by_class = sorted(by_rarest([sample.classes for sample in train]).items())
    groups = [sorted(rows, key=lambda row: path_hash(f"{SEED} {train[row].id}")) for _, rows in by_class]
    if "test" in published:
        val = [row for group in groups for row in group[: _share(len(group), VAL_SHARE)]]
        kept = sorted(set(range(len(train))) - set(val))
        how = f"torchgeo's train and test; val is {VAL_SHARE:.0%} of train, stratified by class, seed {SEED}"
        return {"train": ("train", kept), "val": ("train", sorted(val)), "test": published["test"]}, how
    cut: dict[str, list[int]] = {split: [] for split in SPLITS}
    for group in groups:
        test = _share(len(group), 1 - CUT[1])
        val = _share(len(group) - test, (CUT[1] - CUT[0]) / CUT[1]) if len(group) > 2 else 0
        for split, rows in zip(SPLITS, (group[test + val :], group[test : test + val], group[:test]), strict=True):
            cut[split] += rows
    how = f"60 % train, 20 % val, 20 % test, stratified by class, seed {SEED}"
    return {split: ("train", sorted(rows)) for split, rows in cut.items()}, how


def _share(count: int, share: float) -> int:
    """A share of a class, at least one sample of several, never all."""
    return min(max(1, round(share * count)), count - 1)


def _class_names(about: TorchGeoSet, sources: Any) -> list[str]:
    """Torchgeo's class names in its order; their sorted union where splits of a folder differ."""
    by_split = [list(about.classes(source)) for source in sources]
    if all(names == by_split[0] for names in by_split):
        return by_split[0]
    return sorted({name for names in by_split for name in names})


def _lonlat(dataset: EODataset, request: DatasetRequest) -> np.ndarray | None:
    """Centers of georeferenced files, (N, 2) degrees, kept in an index while the files stay the same."""
    stem = f"{dataset.name.replace(':', '-')}-{dataset.split}-centres"
    files = [dataset.files(row, ())[0] for row in range(len(dataset))]
    kept = indexed(request, stem, "lonlat", str(dataset.files_digest), lambda: read_centres(files, dataset.name))
    return None if np.isnan(kept).any() else kept
