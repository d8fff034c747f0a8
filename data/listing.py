"""The samples of a user's folder: paths, splits and labels, whether class folders or a table name them."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Integer, UInt8

from data.command import note
from data.errors import RequestError

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
VAL_SHARE, SEED = 0.2, 0  # of the val split that is drawn from train where a folder has none


@dataclass(frozen=True)
class Listing:
    """N samples in order, with what is known about each."""

    paths: list[str]  # relative to the folder: images, or folders of single-band TIFFs
    ids: list[str]  # unique names
    splits: list[str]  # train, val or test for each
    # (N, K) uint8, or (N,) int64 with -1 for unlabeled samples
    labels: Integer[np.ndarray, " samples"] | Integer[np.ndarray, "samples classes"]
    class_names: list[str]  # K names, the union over all splits, sorted; none where no sample is labeled
    lonlat: Float64[np.ndarray, "samples 2"] | None  # (N, 2) degrees, or None
    how: str  # how the split was made
    unlabelled: frozenset[str] = frozenset()  # splits in which no sample is labeled

    def of(self, split: str) -> "Listing":
        """The samples of one split; labels of an unlabeled one are (N,) int64 of -1."""
        rows = [row for row, name in enumerate(self.splits) if name == split]
        return replace(
            self,
            paths=[self.paths[row] for row in rows],
            ids=[self.ids[row] for row in rows],
            splits=[split] * len(rows),
            labels=np.full(len(rows), -1, np.int64) if split in self.unlabelled else self.labels[rows],
            lonlat=None if self.lonlat is None else self.lonlat[rows],
        )


def make_labels(
    names: Sequence[Iterable[str]], *, several: bool
) -> tuple[Integer[np.ndarray, " samples"] | Integer[np.ndarray, "samples classes"], list[str]]:
    """Labels and sorted class names.

    Args:
        names: the classes of each sample; none for an unlabeled one.
        several: whether a sample may have several.

    Returns:
        (N, K) uint8 where there may be several, else (N,) int64 with -1 for none; K names.
    """
    chosen = [set(of_one) for of_one in names]
    class_names = sorted(set().union(*chosen))
    if several and class_names:
        return multi_hot(chosen, class_names), class_names
    numbers = {name: number for number, name in enumerate(class_names)}
    return np.array([numbers[next(iter(of_one))] if of_one else -1 for of_one in chosen], np.int64), class_names


def multi_hot(chosen: Sequence[Iterable[str]], names: Sequence[str]) -> UInt8[np.ndarray, "samples classes"]:
    """Labels of the classes that each sample has."""
    number = {name: k for k, name in enumerate(names)}
    labels = np.zeros((len(chosen), len(names)), np.uint8)
    for row, of_one in enumerate(chosen):
        labels[row, [number[name] for name in of_one]] = 1
    return labels


def by_rarest(names: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Rows of samples by their rarest class."""
    counts = Counter(name for chosen in names for name in chosen)
    groups: dict[str, list[int]] = {}
    for row, chosen in enumerate(names):
        groups.setdefault(min(chosen, key=lambda name: (counts[name], name), default=""), []).append(row)
    return groups


def with_val(listing: Listing) -> Listing:
    """The listing with a val split drawn from train where it has train and test but no val.

    `VAL_SHARE` of train, of each class where a sample has one, in the order of the sha256 of `SEED` and the path:
    always the same samples for the same files.
    """
    if "val" in listing.splits or not {"train", "test"} <= set(listing.splits):
        return listing
    groups: dict[int, list[int]] = {}
    for row, split in enumerate(listing.splits):
        if split == "train":
            group = int(listing.labels[row]) if listing.labels.ndim == 1 else 0
            groups.setdefault(group, []).append(row)
    drawn: set[int] = set()
    for rows in groups.values():
        ordered = sorted(rows, key=lambda row: path_hash(f"{SEED} {listing.paths[row]}"))
        drawn.update(ordered[: min(max(1, round(VAL_SHARE * len(rows))), len(rows) - 1)])
    if not drawn:
        return listing
    note(f"no val split: using {len(drawn)} of {listing.splits.count('train')} train images, always the same")
    splits = ["val" if row in drawn else split for row, split in enumerate(listing.splits)]
    how = f"{listing.how}; val is {VAL_SHARE:.0%} of train by sha256 of the seed {SEED} and the relative path"
    return replace(listing, splits=splits, how=how)


def cut(paths: Sequence[str], names: Sequence[Sequence[str]]) -> list[str]:
    """A split for each sample: 60% train, 20% val, 20% test of each class, always the same for the same paths.

    Args:
        paths: relative to the folder; the sha256 of a path decides.
        names: the classes of each sample; its rarest class counts.
    """
    splits = ["test"] * len(paths)
    for rows in by_rarest(names).values():
        by_hash = sorted(rows, key=lambda row: path_hash(paths[row]))
        first, second = round(0.6 * len(rows)), round(0.8 * len(rows))
        for place, row in enumerate(by_hash):
            splits[row] = "train" if place < first else "val" if place < second else "test"
    return splits


def path_hash(text: str) -> bytes:
    """sha256 of a path's own bytes: of UTF-8 wherever the name is."""
    return hashlib.sha256(os.fsencode(text)).digest()


def check_class_names(names: Iterable[str], where: object) -> None:
    """Raise a RequestError if two class names differ only in case, spaces or Unicode form: a typing error."""
    seen: dict[str, str] = {}
    for name in sorted(set(names)):
        other = seen.setdefault(folded(name), name)
        if other != name:
            raise RequestError(
                f"{where} has the classes '{other}' and '{name}', which differ only in case, spaces or Unicode form; "
                "write the class one way"
            )


def folded(name: str) -> str:
    """A name normalized in case, spaces and Unicode form."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()
