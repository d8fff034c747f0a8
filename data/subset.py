"""Some classes and some samples per class of any dataset: ``--only-classes`` and ``--per-class``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer

from data.dataset import SPLITS, EODataset, Subset
from data.errors import RequestError, unknown


@dataclass(frozen=True)
class Selection:
    """Which classes and how many samples of each, as the flags give them."""

    only_classes: str | None = None  # ``--only-classes``: class names, comma-separated; None keeps all classes
    # ``--per-class``: one entry for all splits, or three for train, val and test; None keeps all samples. An entry is a
    # number, ``all``, or numbers joined by ``+``, one for each kept class in the order of `only_classes` (of the
    # dataset, without it).
    per_class: str | None = None
    seed: int = 0  # decides which samples are drawn

    def __bool__(self) -> bool:
        return self.only_classes is not None or self.per_class is not None


def selected(dataset: EODataset, selection: Selection) -> EODataset:
    """The samples of the requested classes, at most the requested number of each.

    Classes keep the dataset's order. A sample of no kept class is left out. A multi-label sample counts for each kept
    class it has, so common classes can end up with more samples than requested; classes are filled from the rarest.
    The request is part of the dataset's provenance, hence of the identity of its features.
    """
    if not selection:
        return dataset
    names = dataset.class_names
    listed = parse_classes(selection.only_classes, names, dataset.name)
    kept = sorted(names.index(name) for name in listed)
    shown = dataset.labels.astype(bool) if dataset.multilabel else dataset.labels[:, None] == np.arange(len(names))
    shown = shown[:, kept]
    order = [[names[k] for k in kept].index(name) for name in listed]
    counts = parse_counts(selection.per_class, dataset.split, len(kept))
    recorded: dict[str, Any] = {}
    if selection.only_classes is not None:
        recorded["only_classes"] = [names[k] for k in kept]
    if selection.per_class is not None:
        every = {split: parse_counts(selection.per_class, split, len(kept)) for split in SPLITS}
        recorded["per_class"] = {
            split: None if value is None else np.array(value)[np.argsort(order)].tolist()
            for split, value in every.items()
        } | {"seed": selection.seed}
    if counts is None:
        rows = np.flatnonzero(shown.any(axis=1))
    else:
        wanted = np.array(counts)[np.argsort(order)]
        have = shown.sum(axis=0)
        if (short := np.flatnonzero(have < wanted)).size:
            shown = ", ".join(f"{names[kept[k]]} has {have[k]:,}" for k in short[:3])
            more = f" (and {len(short) - 3} more classes)" if len(short) > 3 else ""
            raise RequestError(
                f"--per-class {selection.per_class}: {wanted[short].max()} samples per class requested from "
                f"{dataset.name} {dataset.split}, but {shown}{more}; use at most {have[short].min()}, or 'all'"
            )
        rows = draw(shown, wanted, seed=selection.seed, split=dataset.split)
    if not len(rows):
        raise RequestError(
            f"{dataset.name} {dataset.split} has no sample of {', '.join(listed)}; choose other --only-classes"
        )
    labels = shown[rows].astype(np.uint8) if dataset.multilabel else shown[rows].argmax(axis=1).astype(np.int64)
    part = Subset(dataset, rows.tolist())
    part.labels, part.class_names = labels, tuple(names[k] for k in kept)
    part.provenance = dataset.provenance | recorded
    return part


def draw(
    shown: Bool[np.ndarray, "samples classes"], wanted: Integer[np.ndarray, " classes"], *, seed: int, split: str
) -> Integer[np.ndarray, " drawn"]:
    """Rows with at least so many samples of each class, drawn at random without replacement.

    Args:
        shown: (N, K) booleans: which classes a sample has.
        wanted: (K,) samples of each class.
        seed: of the draw; with one seed and single-label data, a smaller draw is a subset of a larger one.
        split: train, val or test; each has its own stream.

    Returns:
        Ascending row numbers.
    """
    order = np.random.default_rng([seed, SPLITS.index(split)]).permutation(len(shown))
    taken = np.zeros(len(shown), bool)
    for k in np.argsort(shown.sum(axis=0), kind="stable"):
        waiting = order[shown[order, k] & ~taken[order]]
        taken[waiting[: max(0, wanted[k] - shown[taken, k].sum())]] = True
    return np.flatnonzero(taken)


def parse_classes(text: str | None, names: Sequence[str], dataset: str) -> list[str]:
    """Class names of a comma-separated list, in its order; names may hold commas themselves. None: all classes."""
    if text is None:
        return list(names)
    words, found = _words(text), []
    by_words = {tuple(_words(name)): name for name in names}
    while words:
        fits = [count for count in range(1, len(words) + 1) if tuple(words[:count]) in by_words]
        if not fits:
            raise unknown(f"class of {dataset} in --only-classes", words[0], names)
        count = fits[-1]
        name = by_words[tuple(words[:count])]
        if name in found:
            raise RequestError(f"--only-classes {text}: '{name}' is named twice; name each class once")
        found.append(name)
        words = words[count:]
    if len(found) < 2:
        raise RequestError(f"--only-classes {text}: a probe needs at least two classes; name two or more")
    return found


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


def parse_counts(text: str | None, split: str, classes: int) -> list[int] | None:
    """Samples of each of the classes in a split, None for all."""
    if text is None:
        return None
    entries = [entry.strip() for entry in text.split(",")]
    how = "give one entry, or three for train, val and test: a number such as 200, 'all', or one number per class"
    if len(entries) not in (1, len(SPLITS)):
        raise RequestError(f"--per-class {text}: {len(entries)} entries; {how} joined by '+'")
    entry = entries[SPLITS.index(split)] if len(entries) > 1 else entries[0]
    if entry == "all":
        return None
    numbers = entry.split("+")
    if not all(number.isdecimal() and int(number) >= 1 for number in numbers):
        raise RequestError(f"--per-class {text}: '{entry}' is not a count; {how} joined by '+'")
    if len(numbers) not in (1, classes):
        raise RequestError(f"--per-class {text}: '{entry}' has {len(numbers)} numbers for {classes} classes; {how}")
    return [int(number) for number in numbers] * (classes if len(numbers) == 1 else 1)
