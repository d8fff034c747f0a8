"""Parts of train: nested, and with the shares of the whole."""

import numpy as np
import pytest

from probes.sampling import few_per_class, stratified_order, subset


def _rare(rows=1000, seed=0):
    """Labels of falling share, the last one 1 in 50; the second implies the first, some rows have none."""
    rng = np.random.default_rng(seed)
    labels = rng.random((rows, 6)) < [0.5, 0.3, 0.2, 0.1, 0.05, 0.02]
    labels[:, 0] |= labels[:, 1]
    return labels.astype(np.uint8)


def test_a_fraction_of_single_label_rows_has_every_class_to_the_nearest_sample():
    """90, 9 and 1 samples: a third of them (34 rows) has 30, 3 and 0.3, each to one sample, whatever the seed."""
    labels = np.repeat([0, 1, 2], [90, 9, 1])
    for seed in range(20):
        counts = np.bincount(labels[subset(labels, 3, seed=seed, fraction=1 / 3)], minlength=3)
        assert counts.sum() == 34 and (np.abs(counts - [30, 3, 1 / 3]) <= 1).all()


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.37, 0.5])
def test_a_fraction_of_multi_label_rows_keeps_shares_that_a_random_draw_misses(fraction):
    labels = _rare()
    expected = fraction * labels.sum(axis=0)
    ours, random = [], []
    for seed in range(10):
        ours.append(labels[subset(labels, 6, seed=seed, fraction=fraction)].sum(axis=0) - expected)
        rows = np.random.default_rng(seed).permutation(1000)[: int(fraction * 1000)]
        random.append(labels[rows].sum(axis=0) - expected)
    ours, random = np.abs(ours).max(axis=1), np.abs(random).max(axis=1)
    assert ours.mean() < 0.5 * random.mean() and np.median(ours) <= 6


def test_the_rarest_label_is_spread_exactly():
    labels = _rare()
    total = labels[:, 5].sum()
    order = stratified_order(labels.astype(bool), seed=3)
    gaps = np.diff(np.flatnonzero(labels[order, 5]))
    assert total == 18 and gaps.min() > 0.8 * 1000 / 18 and gaps.max() < 1.2 * 1000 / 18


@pytest.mark.parametrize("labels", [_rare(), np.arange(1000) % 7], ids=["multi", "single"])
def test_smaller_fractions_lie_inside_larger_ones_and_seeds_differ(labels):
    parts = [set(subset(labels, 7 if labels.ndim == 1 else 6, seed=1, fraction=f)) for f in (0.01, 0.1, 0.33, 1.0)]
    assert all(small < large for small, large in zip(parts, parts[1:], strict=False)) and len(parts[-1]) == 1000
    assert parts[1] != set(subset(labels, 7 if labels.ndim == 1 else 6, seed=2, fraction=0.1))


def test_every_row_is_in_the_order_once_also_without_labels_or_rows():
    for labels in (np.zeros((5, 3), bool), np.ones((5, 3), bool), np.zeros((0, 3), bool), _rare(50).astype(bool)):
        assert sorted(stratified_order(labels, seed=0)) == list(range(len(labels)))


def test_shots_take_all_of_a_class_that_has_fewer():
    labels = np.repeat([0, 1, 2], [10, 5, 2])
    rows = few_per_class(labels[:, None] == np.arange(3), 4, seed=0)
    assert np.bincount(labels[rows]).tolist() == [4, 4, 2]
    assert subset(labels, 3, seed=0) is None
