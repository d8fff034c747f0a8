"""Stratified samples: parts of train and val (shots per class, fractions), and folds for cross-validation.

With one seed, smaller parts are contained in larger ones, so that a learning curve grows by adding samples.
"""

from math import ceil

import numpy as np
from jaxtyping import Integer

from data.errors import RequestError
from probes.metrics import label_matrix
from probes.shapes import Truth


def subset(
    labels: Integer[np.ndarray, "samples {classes}"] | Integer[np.ndarray, " samples"],
    classes: int,
    *,
    seed: int,
    fraction: float | None = None,
    shots: int | None = None,
) -> Integer[np.ndarray, " rows"] | None:
    """Ascending row indices to use, or None for all; see `few_per_class` and `stratified_order`."""
    truth = label_matrix(labels, classes)
    if fraction is not None:
        return np.sort(stratified_order(truth, seed=seed)[: ceil(fraction * len(truth))])
    return None if shots is None else few_per_class(truth, shots, seed=seed)


def few_per_class(truth: Truth, shots: int, *, seed: int) -> Integer[np.ndarray, " rows"]:
    """At least `shots` samples of each class, or all it has; as ascending row indices.

    In each round the classes, the rarest first, draw one sample each in shuffled order, unless they already have as
    many as the round's number. A multi-label sample counts for all its classes, so common classes end up with more.
    """
    order = np.random.default_rng(seed).permutation(len(truth))
    classes = truth.shape[1]
    waiting = [iter(order[truth[order, k]]) for k in range(classes)]
    counts = np.zeros(classes, int)
    taken = np.zeros(len(truth), bool)
    for number in range(1, shots + 1):
        before = counts.sum()
        for k in np.argsort(truth.sum(axis=0), kind="stable"):
            if counts[k] < number and (row := next((r for r in waiting[k] if not taken[r]), None)) is not None:
                taken[row] = True
                counts += truth[row]
        if counts.sum() == before and (counts < number).all():
            break  # no class has samples left
    return np.flatnonzero(taken)


def stratified_order(truth: Truth, *, seed: int) -> Integer[np.ndarray, " samples"]:
    """Row indices in an order of which every prefix has about the class frequencies of the whole.

    Iterative stratification (Sechidis et al. 2011) of all fractions at once: every row gets a position between 0 and
    1. The classes, the rarest first, spread their samples evenly: of the evenly spaced slots of a class, those nearest
    to samples that a rarer class has already placed are taken, and its other samples fill the rest at random. Rows
    without any class are spread the same way.
    """
    rng = np.random.default_rng(seed)
    position = np.full(len(truth), np.nan)
    groups = [truth[:, k] for k in np.argsort(truth.sum(axis=0), kind="stable")] + [~truth.any(axis=1)]
    for group in groups:
        members = np.flatnonzero(group)
        placed = np.sort(position[members[~np.isnan(position[members])]])
        waiting = rng.permutation(members[np.isnan(position[members])])
        offset, count = rng.random(), len(members)
        slots = np.clip(np.floor(placed * count - offset + 0.5).astype(int), 0, count)
        # One slot each, in order: moved up where two want the same, and back where the last ones would not fit.
        number = np.arange(len(placed))
        slots = np.minimum(np.maximum.accumulate(slots - number) + number, count - len(placed) + number)
        free = np.setdiff1d(np.arange(count), slots)
        position[waiting] = (free + offset) / max(count, 1)
    return np.lexsort((rng.random(len(position)), position))


def checked_folds(
    truth: Truth, count: int, class_names: list[str], *, seed: int, cells: Integer[np.ndarray, " samples"] | None = None
) -> Integer[np.ndarray, " samples"]:
    """As `stratified_folds`, where every class has a sample for each fold.

    Raises:
        RequestError: more folds than a class has samples, or than there are cells.
    """
    sizes = truth.sum(axis=0)
    occurring = np.flatnonzero(sizes)
    rarest = occurring[sizes[occurring].argmin()]
    if sizes[rarest] < count:
        raise RequestError(
            f"--folds {count}: class '{class_names[rarest]}' has {sizes[rarest]} samples; give at most "
            f"{sizes[rarest]} folds" + ("" if sizes[rarest] > 1 else ", which needs at least 2: drop the flag")
        )
    return stratified_folds(truth, count, seed=seed, cells=cells)


def stratified_folds(
    truth: Truth, count: int, *, seed: int, cells: Integer[np.ndarray, " samples"] | None = None
) -> Integer[np.ndarray, " samples"]:
    """The fold of each sample, by iterative stratification (Sechidis et al. 2011) of whole groups.

    The class with the fewest samples left comes first; its largest group goes to the fold that lacks most of the class.
    ``cells`` are groups that stay together; None for single samples.

    Raises:
        RequestError: more folds than there are cells.
    """
    groups = np.arange(len(truth)) if cells is None else cells
    units = int(groups.max()) + 1
    if units < count:
        raise RequestError(
            f"--folds {count}: the samples lie in {units} spatial cells, which stay together; give at most {units}"
        )
    order = np.random.default_rng(seed).permutation(units)
    table = np.zeros((units, truth.shape[1] + 1), np.int64)  # the last column counts samples
    np.add.at(table, np.argsort(order)[groups], np.hstack([truth, np.ones((len(truth), 1), bool)]))
    lacking = np.tile(table.sum(axis=0) / count, (count, 1))
    fold = np.full(units, -1)
    while (left := np.flatnonzero(fold < 0)).size:
        sums = table[left].sum(axis=0)
        column = min((k for k in range(len(sums)) if sums[k]), key=lambda k: (k == len(sums) - 1, sums[k]))
        for unit in left[np.argsort(-table[left, column], kind="stable")]:
            if not table[unit, column]:
                break
            best = max(range(count), key=lambda f: (lacking[f, column], lacking[f, -1], -f))
            fold[unit] = best
            lacking[best] -= table[unit]
    return fold[np.argsort(order)][groups]
