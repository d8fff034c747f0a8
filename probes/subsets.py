"""Parts of train and val to learn from and to choose on: shots per class, and stratified fractions.

Of one seed, smaller parts lie inside larger ones, so that a learning curve grows by adding samples.
"""

from math import ceil

import numpy as np


def subset(
    labels: np.ndarray, classes: int, *, seed: int, fraction: float | None = None, shots: int | None = None
) -> np.ndarray | None:
    """Rows to use; see `few_per_class` and `stratified_order`.

    Args:
        labels: (N, K) or (N,).
        classes: K.
        seed: of the shuffle.
        fraction: share of the rows, above 0 to 1.
        shots: samples per class.

    Returns:
        Ascending row numbers, or None for all.
    """
    shown = labels.astype(bool) if labels.ndim == 2 else labels[:, None] == np.arange(classes)
    if fraction is not None:
        return np.sort(stratified_order(shown, seed=seed)[: ceil(fraction * len(shown))])
    return None if shots is None else few_per_class(shown, shots, seed=seed)


def few_per_class(shown: np.ndarray, shots: int, *, seed: int) -> np.ndarray:
    """Rows with so many samples of each class, or all it has.

    Classes, the rarest first, take turns; one that has fewer than the round's number of samples so far takes its next
    one, in shuffled order. A multi-label sample counts for every class it shows, so each class ends with at least
    `shots` samples (or all it has) and common ones with more.

    Args:
        shown: (N, K) booleans.
        shots: samples per class.
        seed: of the shuffle.

    Returns:
        Ascending row numbers.
    """
    order = np.random.default_rng(seed).permutation(len(shown))
    classes = shown.shape[1]
    waiting = [iter(order[shown[order, k]]) for k in range(classes)]
    counts = np.zeros(classes, int)
    taken = np.zeros(len(shown), bool)
    for number in range(1, shots + 1):
        before = counts.sum()
        for k in np.argsort(shown.sum(axis=0), kind="stable"):
            if counts[k] < number and (row := next((r for r in waiting[k] if not taken[r]), None)) is not None:
                taken[row] = True
                counts += shown[row]
        if counts.sum() == before and (counts < number).all():
            break  # every class has given all it has
    return np.flatnonzero(taken)


def stratified_order(shown: np.ndarray, *, seed: int) -> np.ndarray:
    """All rows in an order of which every beginning has about the classes' shares of the whole.

    Iterative stratification (Sechidis et al. 2011) of all fractions at once: every row gets a place between 0 and 1.
    Classes, the rarest first, spread their samples evenly: of the evenly spaced places of a class, those nearest to
    samples that a rarer class has placed already are theirs, and the rest go to its other samples at random. Rows
    without any class are spread the same way.

    Args:
        shown: (N, K) booleans.
        seed: of the order.

    Returns:
        (N,) row numbers.
    """
    rng = np.random.default_rng(seed)
    places = np.full(len(shown), np.nan)
    groups = [shown[:, k] for k in np.argsort(shown.sum(axis=0), kind="stable")] + [~shown.any(axis=1)]
    for group in groups:
        members = np.flatnonzero(group)
        placed = np.sort(places[members[~np.isnan(places[members])]])
        waiting = rng.permutation(members[np.isnan(places[members])])
        offset, count = rng.random(), len(members)
        slots = np.clip(np.floor(placed * count - offset + 0.5).astype(int), 0, count)
        # One slot each, in order: pushed up where two want the same, and back where the last ones would not fit.
        number = np.arange(len(placed))
        slots = np.minimum(np.maximum.accumulate(slots - number) + number, count - len(placed) + number)
        free = np.setdiff1d(np.arange(count), slots)
        places[waiting] = (free + offset) / max(count, 1)
    return np.lexsort((rng.random(len(places)), places))
