"""Metrics: hand-worked values, parity with scikit-learn, published arithmetic."""

import warnings

import numpy as np
import pytest
from sklearn import metrics as sk

from probes import metrics


def test_f2_of_a_four_row_example():
    # truth      1 1 1 0
    # predicted  1 0 1 1    TP 2, FP 1, FN 1; precision 2/3, recall 2/3
    # F2 = 5 TP / (5 TP + 4 FN + FP) = 10 / (10 + 4 + 1) = 2/3
    truth = np.array([[1], [1], [1], [0]], bool)
    predicted = np.array([[1], [0], [1], [1]], bool)
    tp, fp, tn, fn = metrics.confusion_counts(truth, predicted)
    assert (tp[0], fp[0], tn[0], fn[0]) == (2, 1, 0, 1)
    assert metrics.f_beta(tp, fp, fn, 2)[0] == pytest.approx(10 / 15)
    # one more call that is right: TP 3, FP 1, FN 0; F2 = 15 / (15 + 0 + 1)
    assert metrics.f_beta(np.array([3]), np.array([1]), np.array([0]), 2)[0] == pytest.approx(15 / 16)


def _cases():
    rng = np.random.default_rng(0)
    truth = rng.random((60, 5)) < 0.3
    scores = rng.random((60, 5)).round(1)  # rounded: ties
    absent, always = truth.copy(), truth.copy()
    absent[:, 2], always[:, 1] = False, True
    yield "random", truth, scores
    yield "class without positives", absent, scores
    yield "class always positive", always, scores
    yield "nothing predicted", truth, scores * 0.1
    yield "all predicted", truth, np.full_like(scores, 0.9)
    yield "no positives at all", np.zeros_like(truth), scores
    yield "one row", truth[:1], scores[:1]
    yield "one class", truth[:, :1], scores[:, :1]


@pytest.mark.parametrize(("name", "truth", "scores"), _cases(), ids=lambda value: value if type(value) is str else "")
def test_multilabel_metrics_equal_scikit_learns(name, truth, scores):
    predicted = scores >= 0.5
    ours = metrics.multilabel_metrics(truth, predicted, scores)
    assert list(ours) == list(metrics.MULTILABEL)
    y, p = truth.astype(int), predicted.astype(int)
    for average in ("macro", "micro"):
        # scikit-learn reads one column as a binary problem: give it the labels there
        wanted = {"average": average, "zero_division": 0} | ({"labels": [1]} if y.shape[1] == 1 else {})
        assert ours[f"f2_{average}"] == pytest.approx(sk.fbeta_score(y, p, beta=2, **wanted))
        assert ours[f"f1_{average}"] == pytest.approx(sk.f1_score(y, p, **wanted))
        assert ours[f"precision_{average}"] == pytest.approx(sk.precision_score(y, p, **wanted))
        assert ours[f"recall_{average}"] == pytest.approx(sk.recall_score(y, p, **wanted))
    assert ours["hamming_loss"] == pytest.approx(sk.hamming_loss(y, p))
    assert ours["subset_accuracy"] == pytest.approx(sk.accuracy_score(y, p))
    # scikit-learn calls the AP of a class without positives 0; here it is undefined and left out of the mean
    defined = y.any(axis=0)
    if not defined.any():
        assert ours["map_macro"] is None and ours["map_micro"] is None
        return
    each = [sk.average_precision_score(y[:, k], scores[:, k]) for k in np.flatnonzero(defined)]
    np.testing.assert_allclose(metrics.average_precision(truth, scores)[defined], each)
    assert np.isnan(metrics.average_precision(truth, scores)[~defined]).all()
    assert ours["map_macro"] == pytest.approx(np.mean(each))
    assert ours["map_micro"] == pytest.approx(sk.average_precision_score(y.ravel(), scores.ravel()))


@pytest.mark.parametrize("absent", [None, 3], ids=["all classes", "a class absent from truth"])
def test_single_label_metrics_equal_scikit_learns(absent):
    rng = np.random.default_rng(1)
    labels, predicted = rng.integers(0, 5, 80), rng.integers(0, 5, 80)
    labels = np.where(labels == absent, 0, labels) if absent else labels
    ours = metrics.single_label_metrics(labels, predicted, 5)
    wanted = {"average": "macro", "labels": range(5), "zero_division": 0}
    assert list(ours) == list(metrics.SINGLE_LABEL)
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # predicted classes that are absent from truth: scikit-learn says so
        assert ours["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, predicted))
    assert ours["f1_macro"] == pytest.approx(sk.f1_score(labels, predicted, **wanted))
    assert ours["f2_macro"] == pytest.approx(sk.fbeta_score(labels, predicted, beta=2, **wanted))
    occurring = {"average": "macro", "labels": np.unique(labels), "zero_division": 0}
    assert ours["f1_macro_occurring"] == pytest.approx(sk.f1_score(labels, predicted, **occurring))
    assert ours["precision_macro_occurring"] == pytest.approx(sk.precision_score(labels, predicted, **occurring))
    assert ours["f2_macro_occurring"] == pytest.approx(sk.fbeta_score(labels, predicted, beta=2, **occurring))
    assert ours["precision_macro"] == pytest.approx(sk.precision_score(labels, predicted, **wanted))
    assert ours["recall_macro"] == pytest.approx(sk.recall_score(labels, predicted, **wanted))


# Class project: TP FP TN FN, then precision, recall, specificity, F1 as its table prints them.
TABLE = {
    "AnnualCrop": (18, 1, 268, 12, 0.95, 0.60, 1.00, 0.73),
    "Forest": (16, 1, 268, 14, 0.94, 0.53, 1.00, 0.68),
    "HerbaceousVegetation": (30, 29, 240, 0, 0.51, 1.00, 0.89, 0.67),
    "Highway": (27, 3, 267, 2, 0.90, 0.93, 0.99, 0.92),
    "Industrial": (29, 11, 258, 1, 0.72, 0.97, 0.96, 0.83),
    "Pasture": (20, 8, 261, 10, 0.71, 0.67, 0.97, 0.69),
    "PermanentCrop": (27, 16, 253, 3, 0.63, 0.90, 0.94, 0.74),
    "Residential": (14, 2, 267, 16, 0.88, 0.47, 0.99, 0.61),
    "River": (19, 10, 259, 11, 0.66, 0.63, 0.96, 0.64),
    "SeaLake": (18, 0, 269, 12, 1.00, 0.60, 1.00, 0.75),
}


@pytest.mark.parametrize("name", TABLE)
def test_the_class_projects_table_follows_from_its_counts(name):
    tp, fp, tn, fn, *printed = TABLE[name]
    truth = np.repeat([True, False, False, True], [tp, fp, tn, fn])[:, None]
    predicted = np.repeat([True, True, False, False], [tp, fp, tn, fn])[:, None]
    row = metrics.class_rows([name], truth, predicted, predicted.astype(float), None)[0]
    assert (row["tp"], row["fp"], row["tn"], row["fn"], row["support"]) == (tp, fp, tn, fn, tp + fn)
    ours = [row[column] for column in ("precision", "recall", "specificity", "f1")]
    np.testing.assert_allclose(ours, printed, atol=0.0051)  # as printed, to two digits


@pytest.mark.parametrize(
    ("precision", "f2", "hamming", "recall"),
    [(0.70, 0.358, 0.123, 0.319), (0.70, 0.353, 0.124, 0.314), (0.71, 0.478, 0.113, 0.442)],
    ids=["random forest", "linear probe", "MLP"],
)
def test_the_seminars_figures_are_consistent(precision, f2, hamming, recall):
    # F2 = 5PR / (4P + R), so R = 4 P F2 / (5P - F2)
    solved = 4 * precision * f2 / (5 * precision - f2)
    assert solved == pytest.approx(recall, abs=5e-4)
    assert 5 * precision * solved / (4 * precision + solved) == pytest.approx(f2)
    # With L labels per patch of 19 classes: FN = L(1-R), FP = LR(1/P - 1), and (FN + FP) / 19 is the hamming loss.
    labels = 19 * hamming / (1 - solved + solved * (1 / precision - 1))
    assert 2.85 < labels < 2.92
    # ... and our own functions say the same of counts made from them
    tp, fp, fn = (1e6 * x for x in (labels * solved, labels * solved * (1 / precision - 1), labels * (1 - solved)))
    assert metrics.f_beta(np.array([tp]), np.array([fp]), np.array([fn]), 2)[0] == pytest.approx(f2)
