"""Intervals: Wilson by hand, jackknife against leaving samples out, Holm by hand, reasons for no interval."""

import numpy as np
import pytest
from made_runs import made_up
from scipy import stats

from probes import intervals, jackknife, metrics
from probes.record import metrics_of
from probes.spatial import Units

NAMES = ["a", "b", "c"]


def by_image(samples):
    return Units(np.arange(samples), "image")


# --------------------------------------------------------------------------------------------------- Wilson


@pytest.mark.parametrize(
    ("share", "size", "low", "high"),
    [
        # z = 1.96: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n); Newcombe 1998, table I, method 3
        (81 / 263, 263, 0.2553, 0.3662),
        (15 / 148, 148, 0.0624, 0.1605),
        (0 / 20, 20, 0.0000, 0.1611),
        (1 / 29, 29, 0.0061, 0.1718),
        (1.0, 10, 0.7225, 1.0),  # 1 / (1 + 3.8415 / 10)
    ],
)
def test_wilson_as_published(share, size, low, high):
    assert intervals.wilson(share, size) == pytest.approx((low, high), abs=5e-5)


def test_wilson_equals_scipys():
    for right in (0, 3, 50, 99, 100):
        ours = intervals.wilson(right / 100, 100)
        other = stats.binomtest(right, 100).proportion_ci(method="wilson")
        assert ours == pytest.approx((other.low, other.high), abs=1e-9)


def test_accuracy_by_image_is_wilsons_and_a_perfect_run_is_not_certain():
    labels = np.arange(60) % 3
    truth = metrics.one_hot(labels, 3)
    found = intervals.intervals(truth, truth, truth.astype(float), by_image(60), NAMES, multilabel=False)
    assert found["accuracy"].method == "wilson"
    assert found["accuracy"].interval == pytest.approx((1 / (1 + 1.959964**2 / 60), 1), abs=1e-6)
    low, high = found["f1_macro"].interval
    assert 0.9 < low < 1 and high == 1


# ------------------------------------------------------------------------------------------------ jackknife


def cases():
    labels, scores = made_up(NAMES, multilabel=True, rows=70, shares=np.array([0.5, 0.3, 0.2]))
    cells = Units(np.unique(np.random.default_rng(0).integers(0, 13, 70), return_inverse=True)[1], "cell")
    for units in (by_image(70), cells):
        for name, given in (("distinct", scores), ("tied", scores.round(1))):
            yield pytest.param(labels.astype(bool), given, units, id=f"{units.by}-{name}")


@pytest.mark.parametrize("multilabel", [True, False])
@pytest.mark.parametrize(("truth", "scores", "units"), cases())
def test_left_out_values_are_the_metrics_of_the_samples_that_remain(truth, scores, units, multilabel):
    decided = scores >= 0.5
    if not multilabel:
        truth, decided = metrics.one_hot(truth.argmax(1), 3), metrics.one_hot(scores.argmax(1), 3)
    found = jackknife.estimates(truth, decided, scores, units, multilabel=multilabel)
    assert list(found) == [*(metrics.MULTILABEL if multilabel else metrics.SINGLE_LABEL), "log_loss", "brier"]

    def of(rows):
        return metrics_of(truth[rows], decided[rows], scores[rows], multilabel=multilabel)

    whole = of(slice(None))
    for unit in range(units.count):
        wanted = of(units.numbers != unit)
        for name, one in found.items():
            assert one.value == pytest.approx(whole[name], abs=1e-12)
            assert one.left_out[unit] == pytest.approx(wanted[name], abs=1e-9), (name, unit)


def test_many_cells_are_taken_linearly_and_agree_with_the_exact_way(monkeypatch):
    labels, scores = made_up(NAMES, multilabel=True, rows=3000, shares=np.array([0.5, 0.3, 0.1]))
    units = Units(np.arange(3000) % 400, "cell")
    exact = jackknife.of_rankings(labels.astype(bool), scores, units)
    monkeypatch.setattr(jackknife, "EXACT_CELLS", 0)
    linear = jackknife.of_rankings(labels.astype(bool), scores, units)
    for name in ("map_macro", "map_micro"):
        assert linear[name].variance == pytest.approx(exact[name].variance, rel=0.03)


def test_the_jackknife_of_accuracy_is_the_standard_error_of_a_mean():
    right = np.random.default_rng(0).random(200) < 0.8
    truth, decided = np.ones((200, 1), bool), right[:, None]
    variance = jackknife.of_counts(truth, decided, by_image(200))["accuracy"].variance
    assert variance == pytest.approx(right.var(ddof=1) / 200)


def test_the_bias_of_a_variance_is_the_one_that_n_minus_1_mends():
    values = np.random.default_rng(0).random(30)
    left_out = np.array([np.delete(values, row).var() for row in range(30)])
    estimate = jackknife.Estimate(float(values.var()), left_out)
    assert estimate.value - estimate.bias == pytest.approx(values.var(ddof=1))  # Quenouille 1956


def test_intervals_of_micro_f2_are_near_scipys_bca():
    labels, scores = made_up(NAMES, multilabel=True, rows=400, shares=np.array([0.5, 0.3, 0.2]))
    truth, decided = labels.astype(bool), scores >= 0.5
    each = np.hstack([truth & decided, ~truth & decided, truth & ~decided]).reshape(400, 3, 3).sum(axis=2)

    def f2(tp, fp, fn, axis=-1):
        tp, fp, fn = (one.sum(axis=axis) for one in (tp, fp, fn))
        return 5 * tp / (5 * tp + 4 * fn + fp)

    bca = stats.bootstrap(
        tuple(each.T), f2, paired=True, method="BCa", n_resamples=2000, rng=np.random.default_rng(0)
    ).confidence_interval
    ours = intervals.intervals(truth, decided, scores, by_image(400), NAMES, multilabel=True)["f2_micro"]
    assert ours.interval == pytest.approx((bca.low, bca.high), abs=0.006)


def test_copies_of_a_sample_in_its_cell_add_no_evidence():
    """Nine copies of each sample, in one cell: intervals by cell are those of the samples, three times as wide."""
    labels, scores = made_up(NAMES, multilabel=False, rows=60)
    nine = [np.repeat(one, 9, axis=0) for one in (metrics.one_hot(labels, 3), metrics.one_hot(scores.argmax(1), 3))]
    cells = Units(np.repeat(np.arange(60), 9), "cell")
    more = {"scores": np.repeat(scores, 9, axis=0), "names": NAMES, "multilabel": False}
    cell = intervals.intervals(*nine, units=cells, **more)["accuracy"]
    image = intervals.intervals(*nine, units=by_image(540), **more)["accuracy"]
    widths = [high - low for low, high in (cell.interval, image.interval)]
    assert 2.7 < widths[0] / widths[1] < 3.3 and (cell.by, cell.units) == ("cell", 60)


# ---------------------------------------------------------------------------------------------------- reasons


def counted(positives, predicted, rows=200):
    """Truth and decisions (rows, 3) with so many positives and predicted positives of each class."""
    truth, decided = np.zeros((rows, 3), bool), np.zeros((rows, 3), bool)
    for k in range(3):
        truth[: positives[k], k], decided[: predicted[k], k] = True, True
    return truth, decided


@pytest.mark.parametrize(
    ("metric", "positives", "predicted", "reason"),
    [
        ("f2_macro", (50, 10, 10), (0, 0, 0), None),
        ("f2_macro", (50, 10, 9), (50, 50, 50), "class 'c' has 9 positives in test, fewer than 10"),
        ("f2_macro", (50, 3, 0), (9, 9, 9), "2 classes have fewer than 10 positives in test; 'c' has 0"),
        ("f2_macro_occurring", (50, 12, 0), (9, 9, 9), None),
        ("map_macro", (50, 12, 0), (9, 9, 9), "class 'c' has 0 positives in test, fewer than 10"),
        ("map_macro", (50, 12, 10), (9, 9, 9), None),
        ("balanced_accuracy", (50, 12, 0), (9, 9, 9), None),
        ("precision_macro", (50, 12, 11), (40, 10, 2), "class 'c' has 2 predicted positives, fewer than 10"),
        ("precision_macro_occurring", (50, 12, 0), (40, 10, 2), None),
        ("precision_micro", (50, 12, 0), (3, 0, 0), "3 predicted positives, fewer than 10"),
        ("recall_micro", (4, 2, 0), (30, 0, 0), "test has 6 positives, fewer than 10"),
        ("hamming_loss", (0, 0, 0), (0, 0, 0), None),
        ("subset_accuracy", (0, 0, 0), (0, 0, 0), None),
    ],
)
def test_a_metric_has_no_interval_where_few_samples_decide_it(metric, positives, predicted, reason):
    assert intervals.why_none(metric, *counted(positives, predicted), by_image(200), NAMES) == reason


def test_few_images_or_cells_give_no_interval_but_shares_of_images_do():
    truth, decided = counted((5, 2, 1), (5, 2, 1), rows=8)
    found = intervals.intervals(truth, decided, decided.astype(float), by_image(8), NAMES, multilabel=True)
    assert found["hamming_loss"].reason == "test has 8 samples, fewer than 10"
    assert found["subset_accuracy"].interval == pytest.approx(intervals.wilson(1, 8))
    cells = Units(np.arange(200) % 9, "cell")
    reason = intervals.why_none("subset_accuracy", *counted((50, 50, 50), (50, 50, 50)), cells, NAMES)
    assert reason == "test lies in 9 spatial cells, fewer than 10"


def test_classes_with_few_positives_are_named():
    truth, _ = counted((50, 3, 0), (0, 0, 0))
    (line,) = intervals.support_warnings(truth, NAMES)
    assert "fewer than 10 positives in test ('b' 3)" in line
    assert intervals.support_warnings(truth[:, :1], NAMES) == []


# ------------------------------------------------------------------------------------------------ differences


def test_holm_by_hand():
    # sorted .005 .01 .03 .04: times 4, 3, 2, 1 = .02 .03 .06 .04, and none below the one before it
    assert intervals.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert intervals.holm([0.6, 0.9]) == [1.0, 1.0] and intervals.holm([]) == []
    corrected = intervals.holm([float("nan"), 0.02])
    assert np.isnan(corrected[0]) and corrected[1] == 0.02  # what was not tested does not count


def test_a_paired_difference_of_accuracies_is_a_paired_t_test():
    rng = np.random.default_rng(1)
    rights = [rng.random(150) < share for share in (0.7, 0.8)]
    truth = np.ones((150, 1), bool)
    each = [jackknife.of_counts(truth, right[:, None], by_image(150))["accuracy"] for right in rights]
    found = intervals.difference(each[1] - each[0], by_image(150))
    test = stats.ttest_rel(*(right.astype(float) for right in reversed(rights)))
    assert found.p == pytest.approx(test.pvalue)
    assert found.interval == pytest.approx(tuple(test.confidence_interval()))


def test_runs_that_never_differ_are_not_told_apart():
    one = jackknife.Estimate(0.8, np.full(50, 0.8))
    found = intervals.difference(one - one, by_image(50))
    assert (found.value, found.interval, found.p) == (0.0, None, 1.0)


def test_unequal_cells_count_as_fewer():
    assert Units(np.repeat(np.arange(4), 5), "cell").effective == 4
    assert Units(np.repeat([0, 1], [3, 1]), "cell").effective == 16 / 10


@pytest.mark.parametrize("share", [0.8, 0.97, 0.99])
@pytest.mark.parametrize("size", [222, 1000])
def test_wilson_covers_between_92_and_98_per_cent(share, size):
    """Summed over the binomial distribution, not simulated."""
    bounds = np.array([intervals.wilson(right / size, size) for right in range(size + 1)])
    held = (bounds[:, 0] <= share) & (share <= bounds[:, 1])
    assert 0.92 < stats.binom.pmf(np.arange(size + 1), size, share)[held].sum() < 0.98
