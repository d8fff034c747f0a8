"""EODataset: raw samples in their own units and resolution, with ids, labels, bands and statistics."""

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int32, Integer, Shaped, UInt64

from data.bands import Band
from data.declared import Values
from data.errors import RequestError, unknown
from data.places import on_earth

SPLITS = ("train", "val", "test")
LINE_OR_NUL = re.compile(r"[\n\r\0]")  # what lists of ids are cut at, and what fixed-length bytes lose at their end


@dataclass(frozen=True)
class Statistic:
    """Mean and standard deviation of a band in its native units."""

    mean: float
    std: float


class EODataset(ABC):
    """One split of one dataset. Values are native (digital numbers, 8-bit, dB); encoders do all scaling.

    A source in `data/sources` subclasses this, calls `super().__init__` and defines `read`; its module has
    ``open_dataset(request: DatasetRequest) -> dict[str, EODataset]``, by split, and a literal ``CARD``. Instances are
    pickled to reader processes: keep no open files.

    Args:
        name: the dataset's command-line name.
        variant: the variant, None when the dataset has only one.
        split: ``train``, ``val`` or ``test``.
        ids: N unique names, in the dataset's own order.
        labels: (N, K) uint8 of 0 and 1 for multi-label, (N,) int64 class numbers otherwise, -1 for unlabeled.
        class_names: K names.
        bands: what `read` can give.
        statistics: by band name, in native units.
        lonlat: (N, 2) float64 WGS 84 patch centers in degrees, or None; dropped unless all are on Earth.
        provenance: what else decides the samples' values (seed, version); JSON-able; equal for all splits.
        files_digest: digest of the source files of this split where their contents may change unnoticed; one per
            sensor where each sensor has its own files.

    Raises:
        RequestError: no samples, duplicate ids, labels and ids that differ in number, or names that are not UTF-8.
    """

    where = "this dataset"  # its name in error messages
    read_from: dict[str, Any] | None = None  # another file with the samples: recorded, never compared
    nodata: dict[str, Any] | None = None  # pixels that were filled (see `data.nodata`): part of the split's identity
    looked: UInt64[np.ndarray, " samples"] | None = None  # stamps (`data.seen`) of the files at opening, if known
    digest_of_times = False  # whether `files_digest` is of sizes and times, which copying changes
    scaled = False  # whether scales that files declare were applied: part of the split's identity
    altered: dict[str, Any] | None = None  # how pixels differ from the source's: part of the split's identity
    footprint: Int32[np.ndarray, "samples 3"] | None = None  # scene, row, column of windows of scenes (`data.scene`)
    geometry: Shaped[np.ndarray, " samples"] | None = None  # WGS 84 geometries as hexadecimal WKB, if not just centers

    def __init__(
        self,
        *,
        name: str,
        variant: str | None,
        split: str,
        ids: Sequence[str],
        labels: Integer[np.ndarray, " samples"] | Integer[np.ndarray, "samples classes"],
        class_names: Sequence[str],
        bands: Sequence[Band],
        statistics: Mapping[str, Statistic],
        lonlat: Float[np.ndarray, "samples 2"] | None = None,
        provenance: Mapping[str, Any] | None = None,
        files_digest: str | Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.variant, self.split = name, variant, split
        self.ids, self.labels, self.class_names = list(ids), labels, tuple(class_names)
        self.bands, self.statistics = tuple(bands), dict(statistics)
        self.lonlat = on_earth(lonlat, where=name)
        self.provenance, self.files_digest = dict(provenance or {}), files_digest
        where = f"{name}, split {split}"
        if not self.ids:
            raise RequestError(f"{where}: no samples; check the folder and the split files")
        check_utf8([*self.ids, *self.class_names], where)
        if len(labels) != len(self.ids):
            raise RequestError(f"{where}: {len(self.ids)} ids but {len(labels)} labels; the source is inconsistent")
        if "" in self.ids or LINE_OR_NUL.search("".join(self.ids)):
            strange = next(name for name in self.ids if not name or LINE_OR_NUL.search(name))
            raise RequestError(f"{where}: {strange!r} is not a valid id; ids are single lines of text: rename it")
        if len(set(self.ids)) < len(self.ids):
            twice = [key for key, count in Counter(self.ids).items() if count > 1]
            raise RequestError(f"{where}: {len(twice)} ids occur twice, first '{twice[0]}'; ids must be unique")
        if self.multilabel and labels.shape[1] != len(self.class_names):
            raise RequestError(f"{where}: {labels.shape[1]} label columns for {len(self.class_names)} classes")

    @abstractmethod
    def read(self, index: int, bands: Sequence[Band]) -> list[Shaped[np.ndarray, "_ _"]]:
        """Read one sample: one (H, W) array per requested band, native type and resolution.

        Raises:
            RequestError: the sample cannot be read; the message names the file.
        """

    def read_values(self, index: int, bands: Sequence[Band]) -> list[Values]:
        """As `read`, with a mask of pixels without a measurement, where the source knows them."""
        return [Values(pixels, None) for pixels in self.read(index, bands)]

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """Files that a sample is read from, always in the same order; empty if it has no files of its own."""
        return []

    def read_stacks(
        self, rows: Sequence[int], bands: Sequence[Band]
    ) -> list[tuple[list[int], Shaped[np.ndarray, "batch _ _ _"]]] | None:
        """Read many samples at once, if the source stores them side by side; None means to read them one by one.

        Returns:
            (channels, pixels) for the bands of each size: indices into `bands`, and (batch, channels, H, W).
        """
        return None

    @property
    def multilabel(self) -> bool:
        """Whether a sample may have several classes."""
        return self.labels.ndim == 2

    def __len__(self) -> int:
        return len(self.ids)


class Derived(EODataset):
    """Samples of another dataset with some of `EODataset`'s arguments replaced."""

    def __init__(self, whole: EODataset, **other: Any) -> None:
        self.whole = whole
        same = (
            "name", "variant", "split", "ids", "labels", "class_names", "bands", "statistics", "lonlat", "provenance",
            "files_digest",
        )  # fmt: skip
        super().__init__(**{name: getattr(whole, name) for name in same} | other)
        self.where, self.nodata, self.scaled, self.looked = whole.where, whole.nodata, whole.scaled, whole.looked
        self.digest_of_times = whole.digest_of_times


class Subset(Derived):
    """Some samples of another dataset, in that dataset's order."""

    def __init__(self, whole: EODataset, indices: Sequence[int]) -> None:
        self.indices = [int(i) for i in indices]
        some = {"labels": whole.labels, "lonlat": whole.lonlat}
        some = {name: None if array is None else array[self.indices] for name, array in some.items()}
        super().__init__(whole, ids=[whole.ids[i] for i in self.indices], **some)
        self.read_from = whole.read_from
        self.looked = None if whole.looked is None else whole.looked[self.indices]
        self.footprint = None if whole.footprint is None else whole.footprint[self.indices]

    def read(self, index: int, bands: Sequence[Band]) -> list[Shaped[np.ndarray, "_ _"]]:
        """See `EODataset.read`."""
        return self.whole.read(self.indices[index], bands)

    def read_values(self, index: int, bands: Sequence[Band]) -> list[Values]:
        """See `EODataset.read_values`."""
        return self.whole.read_values(self.indices[index], bands)

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`."""
        return self.whole.files(self.indices[index], bands)

    def read_stacks(
        self, rows: Sequence[int], bands: Sequence[Band]
    ) -> list[tuple[list[int], Shaped[np.ndarray, "batch _ _ _"]]] | None:
        """See `EODataset.read_stacks`."""
        return self.whole.read_stacks([self.indices[row] for row in rows], bands)


def limited(dataset: EODataset, limit: int | None) -> EODataset:
    """At most `limit` samples, evenly spaced, so that all classes occur if samples are sorted by class."""
    if limit is None or limit >= len(dataset):
        return dataset
    if limit < 1:
        raise RequestError(f"--limit {limit}: must be at least 1")
    return Subset(dataset, np.linspace(0, len(dataset) - 1, limit).round().astype(int).tolist())


def measured_statistics(dataset: EODataset, *, samples: int = 500) -> dict[str, Statistic]:
    """Mean and standard deviation of every band over evenly spread samples, for datasets without published figures."""
    total = {band.name: np.zeros(3) for band in dataset.bands}
    some = limited(dataset, samples)
    for index in range(len(some)):
        for band, (pixels, invalid) in zip(dataset.bands, some.read_values(index, dataset.bands), strict=True):
            values = (pixels if invalid is None else pixels[~invalid]).astype(np.float64)
            total[band.name] += (values.size, values.sum(), np.square(values).sum())
    if empty := [name for name, (n, _, _) in total.items() if not n]:
        raise RequestError(
            f"{dataset.name}: {', '.join(empty)} has no measurement in {len(some):,} sampled images, only "
            "nodata; remove it, or choose other bands with --bands"
        )
    return {
        name: Statistic(mean=float(s / n), std=float(np.sqrt(max(ss / n - (s / n) ** 2, 0.0))))
        for name, (n, s, ss) in total.items()
    }


def check_utf8(names: Iterable[str], where: object) -> None:
    """Raise a RequestError for a name that is not UTF-8, which files and tables of results cannot store."""
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"{where}: the name {ascii(name)} is not UTF-8, perhaps of an archive packed on another system; "
                "rename it, for instance with: convmv -f latin1 -t utf8 -r --notest DIR"
            ) from error


def check_variant(name: str, variant: str | None, variants: Sequence[str]) -> str:
    """The requested variant, or the first one; an unknown one is a RequestError."""
    if variant is None:
        return variants[0]
    if variant not in variants:
        raise unknown(f"variant of {name}", variant, variants)
    return variant
