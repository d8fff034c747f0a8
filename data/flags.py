"""Flags that select samples, shared by featurize, featurize pack and analyze audit, and the request a source gets."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from data import paths
from data.completion import completed
from data.errors import RequestError, unknown
from data.registry import DATASETS

if TYPE_CHECKING:
    from data.dataset import EODataset

DEFAULT_DATASET = "simulated"
SPLITS = ("train", "val", "test")
SELECTING = ("only_classes", "per_class")  # flags of `data.subset`, and their keys in a dataset's provenance


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """Which samples. A flag for some datasets only is a field here, listed in their cards under ``options``.

    Args:
        dataset: Name of a dataset; see `featurize list`. The main command accepts several, separated by commas.
            Default: simulated, or the dataset in --packed.
        packed: Read from this packed file, written by `featurize pack`, instead of the dataset's own files.
        split: train, val, test or all.
        dataset_variant: Variant of the dataset, such as spatial for eurosat. Default: the first in `featurize list`.
        data_root: Folder of the data. Default: the environment variable EO_DATA_ROOT, else datasets.
        cache_dir: Folder to unpack archives into. Default: beside them, or the user's cache if that is read-only.
        classes: Number of classes for datasets with several nomenclatures: 19 or 43 for bigearthnet v1.
        allow_missing: Skip samples whose files are missing, and record how many. Default: missing files are an error.
        drop_snow_cloud: Skip samples flagged for snow, cloud or shadow, and record it.
        nodata: What to do with nodata pixels: refuse them, fill them with the band's mean (which is recorded), or keep
            the stored values. Default: refuse for your own images, keep for bigearthnet.
        only_classes: Use only these classes, comma-separated, such as Forest,River.
        per_class: Number of samples per class, drawn at random: 200 for every split, or 100,20,10 for train, val and
            test; all uses the whole split; 30+40+30 sets one number per class.
        per_class_seed: Seed for --per-class.
        partition: For geobench: partition, such as 0.01x_train. Default: the one named default, all of train.
        band_names: For geobench: true (the correct names) or published (the wrong names of m-eurosat and m-brick-kiln,
            which published results used). Default: true.
        tile: For scene: side of a window in pixels. Default: 64.
        stride: For scene: pixels between the starts of neighboring windows. Default: the tile (no overlap).
        min_valid: For scene: minimum fraction of valid pixels in a window (not nodata, cloud or shadow). Default: 0.8.
        edge: For scene: drop or pad windows that extend beyond the scene. Default: drop.
        limit: Maximum number of images per split, evenly spaced over the split.
        download: Download missing data first.
    """

    dataset: Annotated[str | None, completed(DATASETS.names)] = None
    packed: Path | None = None
    split: str = "all"
    dataset_variant: str | None = None
    data_root: Path | None = None
    cache_dir: Path | None = None
    classes: int | None = None
    allow_missing: Annotated[bool, Parameter(negative="")] = False
    drop_snow_cloud: Annotated[bool, Parameter(negative="")] = False
    nodata: Literal["refuse", "fill", "keep"] | None = None
    only_classes: str | None = None
    per_class: str | None = None
    per_class_seed: int = 0
    partition: str | None = None
    band_names: str | None = None
    tile: int | None = None
    stride: int | None = None
    min_valid: float | None = None
    edge: Literal["drop", "pad"] | None = None
    limit: int | None = None
    download: Annotated[bool, Parameter(negative="")] = False

    def splits(self) -> tuple[str, ...]:
        """The splits requested; ``all`` of a packed file are those that it holds.

        Raises:
            RequestError: no such dataset or split.
        """
        if self.dataset:
            DATASETS.check(self.dataset)
        if self.split not in ("all", *SPLITS):
            raise unknown("split", self.split, ("all", *SPLITS))
        if self.split != "all":
            return (self.split,)
        held = self._header["splits"] if self.packed else DATASETS.card(self.dataset or DEFAULT_DATASET).splits
        return tuple(split for split in SPLITS if split in held)

    def open(self, splits: Sequence[str] = (), *, bands: Sequence[str] = ()) -> "dict[str, EODataset]":
        """Open the dataset once, with these splits, limited and selected as requested.

        Args:
            splits: of train, val and test; none means those of `splits`.
            bands: what will be read, see `DatasetRequest`.

        Returns:
            By split, in that order.

        Raises:
            RequestError: the data are missing or not as expected.
        """
        from data.dataset import limited  # deferred: numpy
        from data.subset import Selection, selected

        wanted, limit = tuple(splits or self.splits()), self.limit
        selection = Selection(self.only_classes, self.per_class, self.per_class_seed)
        if self.packed:
            from data.packed import PackedSplit  # deferred: h5py

            held = self._header["dataset"]
            opened = {split: PackedSplit(self.packed, split, self._header) for split in wanted}
            if any(name in held["provenance"] for name in SELECTING):
                selection = Selection()  # applied when it was packed, as the limit may have been
            limit = None if held["limit"] else limit
        else:
            name = self.dataset or DEFAULT_DATASET
            card = DATASETS.card(name)
            for option in {option for other in DATASETS.names() for option in DATASETS.card(other).options}:
                value = getattr(self, option)
                if value is not None and value is not False and option not in card.options:  # 0 is a value too
                    raise RequestError(f"--{option.replace('_', '-')}: {name} has no such option; remove the flag")
            root = paths.dataset_root(self.data_root, name, download=self.download)
            opened = DATASETS.load(name).open_dataset(DatasetRequest(root, wanted, tuple(bands), self))
        return {split: limited(selected(opened[split], selection), limit) for split in wanted}

    def recorded_limit(self) -> int | None:
        """The limit that decided the samples, for the identity of features: a packed file may have its own."""
        return self.limit or (self._header["dataset"]["limit"] if self.packed else None)

    @cached_property
    def _header(self) -> dict[str, Any]:
        """What the packed file holds, which the other flags must not contradict."""
        from data.packed import read_header  # deferred: h5py

        assert self.packed
        header = read_header(self.packed)
        held = header["dataset"]
        agreeing = {"dataset": (held["name"],), "limit": (held["limit"],) if held["limit"] else (self.limit,)}
        agreeing["dataset_variant"] = (held["variant"],)
        agreeing["nodata"] = ("fill",) if any(one.get("nodata") for one in header["splits"].values()) else ()
        if held["limit"] is None and not any(name in held["provenance"] for name in SELECTING):
            agreeing |= {name: (getattr(self, name),) for name in (*SELECTING, "per_class_seed")}  # applied to it
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in ("packed", "split") or value in (field.default, *agreeing.get(field.name, ())):
                continue
            flag = f"--{field.name.replace('_', '-')}" + ("" if value is True else f" {value}")
            what = ", ".join(f"{key} {held[key]}" for key in ("name", "variant", "limit") if held[key] is not None)
            raise RequestError(f"{flag} cannot be combined with --packed {self.packed} ({what}); remove it")
        return header


ANY = DataFlags()


@dataclass(frozen=True)
class DatasetRequest:
    """What ``open_dataset`` of a source is asked for.

    Args:
        root: the folder that holds this dataset's files.
        splits: which of train, val and test to open.
        bands: what will be read: the first of these, as `data.bands.choose_bands` takes them, that the dataset has;
            none means all of its bands.
        options: the flags: ``dataset_variant``, ``cache_dir``, ``download`` and those that the source's card lists.

    Raises:
        RequestError: an unknown split.
    """

    root: Path
    splits: tuple[str, ...] = SPLITS
    bands: tuple[str, ...] = ()
    options: DataFlags = ANY

    def __post_init__(self) -> None:
        for split in self.splits:
            if split not in SPLITS:
                raise unknown("split", split, SPLITS)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ImportFlags:
    """How to import embeddings.

    Args:
        name: Name of the new dataset, to use with --dataset.
        model: Name of the model. Default: the one recorded in the file.
        format: clay, earth-index, geovibes or major-tom (default: recognized by the columns); alphaearth or tessera,
            rasters of per-pixel embeddings, which need --at.
        at: Points to sample a raster at, or polygons to pool it over: a vector file, or a CSV with lon and lat; its
            columns give ids, labels and splits.
        pooling: mean or mean+std+min+max of the pixels in a polygon. Default: mean.
        table: CSV or Parquet with labels, splits or locations, joined by id.
        embedding: Column of the vectors, or the common prefix of one column per dimension.
        id: Column of the ids.
        label: Column of the class names; lists, or names separated by ';', are multi-label.
        split: Column with train, val or test. Default: 60/20/20% drawn per class, or all test if unlabeled.
        lon: Column of the longitudes in degrees.
        lat: Column of the latitudes in degrees.
        drop: Skip rows that cannot be used, and record how many.
        seed: Seed for drawing the splits.
        overwrite: Discard an unfinished import with different contents.
    """

    name: str
    model: str | None = None
    format: str | None = None
    at: Path | None = None
    pooling: str | None = None
    table: Path | None = None
    embedding: str | None = None
    id: str | None = None
    label: str | None = None
    split: str | None = None
    lon: str | None = None
    lat: str | None = None
    drop: Annotated[bool, Parameter(negative="")] = False
    seed: int = 0
    overwrite: Annotated[bool, Parameter(negative="")] = False
