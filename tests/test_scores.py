"""Scores of every form of estimator, and thresholds."""

from contextlib import contextmanager

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from probes.metrics import confusion_counts, f_beta
from probes.scores import SHRINKAGE, best_thresholds, decide, half_thresholds, score, shrink, shrunk_thresholds

RNG = np.random.default_rng(0)
X = RNG.standard_normal((60, 4)).astype(np.float32)


def _labels():
    labels = (X[:, :3] > 0).astype(np.uint8)
    constant = labels.copy()
    constant[:, 1], constant[:, 2] = 0, 1  # never, always
    return labels, constant


@pytest.mark.parametrize(
    "estimator",
    [
        RandomForestClassifier(5, random_state=0),
        KNeighborsClassifier(3),
        MLPClassifier((), solver="lbfgs", random_state=0),
        make_pipeline(StandardScaler(), RandomForestClassifier(5, random_state=0)),
    ],
    ids=["forest", "neighbours", "network", "pipeline"],
)
def test_multilabel_scores_are_rows_by_classes_also_for_constant_classes(estimator):
    labels, constant = _labels()
    scores = score(estimator.fit(X, labels), X, classes=3, multilabel=True)
    assert scores.shape == (60, 3) and scores.dtype == np.float32
    assert ((scores >= 0.5) == labels).mean() > 0.85
    scores = score(estimator.fit(X, constant), X, classes=3, multilabel=True)
    assert (scores[:, 1] < 0.5).all() and (scores[:, 2] > 0.5).all()


def test_a_forest_gives_one_column_for_a_constant_class_which_would_crash_the_usual_reading():
    """The guard's guard: scikit-learn still returns (N, 1) there, so `p[:, 1]` would fail."""
    constant = np.zeros((60, 2), int)
    constant[:30, 0] = 1
    given = RandomForestClassifier(2, random_state=0).fit(X, constant).predict_proba(X)
    assert given[1].shape == (60, 1)
    with pytest.raises(IndexError):
        given[1][:, 1]


def test_scoring_shows_progress_over_every_sample(monkeypatch):
    seen = []

    @contextmanager
    def shown(label, total, unit):
        seen.append((label, total, unit))
        yield seen.append

    monkeypatch.setattr("probes.scores.progress", shown)
    labels, _ = _labels()
    forest = RandomForestClassifier(2, random_state=0).fit(X, labels)
    told = score(forest, X, classes=3, multilabel=True, n_jobs=2, rows=25, label="rf on test")
    assert seen == [("rf on test", 60, "samples"), 25, 25, 10]
    np.testing.assert_array_equal(told, score(forest, X, classes=3, multilabel=True, rows=25))
    assert len(seen) == 4, "without a label nothing is shown"


def test_single_label_scores_have_a_zero_column_for_a_class_absent_from_train():
    labels = np.array([0, 2, 4])[np.arange(60) % 3]
    for estimator in (RandomForestClassifier(5, random_state=0), LogisticRegression(), KNeighborsClassifier(3)):
        scores = score(estimator.fit(X, labels), X, classes=5, multilabel=False)
        assert scores.shape == (60, 5)
        assert (scores[:, [1, 3]] == 0).all()
        np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)


def test_one_label_is_one_column():
    scores = score(LogisticRegression().fit(X, X[:, 0] > 0), X, classes=1, multilabel=True)
    assert scores.shape == (60, 1) and ((scores[:, 0] >= 0.5) == (X[:, 0] > 0)).mean() > 0.9


def _f2(truth, scores, threshold):
    tp, fp, _, fn = confusion_counts(truth[:, None], (scores >= threshold)[:, None])
    return f_beta(tp, fp, fn, 2)[0]


@pytest.mark.parametrize("seed", range(20))
def test_thresholds_are_the_optimum_that_brute_force_finds(seed):
    rng = np.random.default_rng(seed)
    truth = rng.random((50, 3)) < 0.3
    scores = np.clip(truth * 0.3 + rng.random((50, 3)) * 0.7, 0, 1).round(1 + seed % 3).astype(np.float32)
    truth[0] = True
    found = best_thresholds(truth, scores)
    for k in range(3):
        everywhere = np.concatenate([[0], np.unique(scores[:, k]).astype(float), np.linspace(0, 1, 201)])
        best = max(_f2(truth[:, k], scores[:, k], t) for t in everywhere)
        assert _f2(truth[:, k], scores[:, k], found[k]) == pytest.approx(best)


def test_a_class_without_positives_keeps_a_half_and_useless_scores_call_everything():
    truth = np.array([[0, 1], [0, 0], [0, 1]], bool)
    scores = np.array([[0.9, 0.2], [0.1, 0.2], [0.4, 0.2]])
    assert best_thresholds(truth, scores).tolist() == [0.5, 0.0]
    assert decide(scores, best_thresholds(truth, scores))[:, 1].all()


def test_a_threshold_is_drawn_towards_the_shared_one_by_hand():
    """Own optima 0.2 (10 positives of scores 0.3, the rest 0.1) and 0.7 (30 of 0.8, the rest 0.6) separate perfectly.

    Used for both, 0.2 calls all 40 of the second class: F2 (1 + 5 * 30 / (5 * 30 + 10)) / 2 = 0.969; 0.7 calls none
    of the first: (0 + 1) / 2. So 0.2 is shared, and the second class keeps 30 / (30 + 3) of its distance in log odds.
    """
    truth = np.arange(40)[:, None] < [10, 30]
    scores = np.where(truth, [0.3, 0.8], [0.1, 0.6])
    drawn, shared, own = shrunk_thresholds(truth, scores)
    assert SHRINKAGE == 3 and own == pytest.approx([0.2, 0.7]) and shared == own[0] == drawn[0]
    odds = 10 / 11 * np.log(0.7 / 0.3) + 1 / 11 * np.log(0.2 / 0.8)
    assert drawn[1] == pytest.approx(1 / (1 + np.exp(-odds)))


def test_a_half_is_kept_where_shrinking_makes_thresholds_worse_than_it():
    """Own optima 0.4 and 0.735 of one positive each; 0.5 separates as well, but 0.488, between them, does not."""
    truth = np.array([[1, 0], [0, 1], [0, 0]], bool)
    scores = np.array([[0.6, 0.1], [0.2, 0.98], [0.02, 0.49]])
    assert shrunk_thresholds(truth, scores, shrinkage=0)[0] == pytest.approx([0.4, 0.735])
    kept, shared, own = shrunk_thresholds(truth, scores)
    assert own == pytest.approx([0.4, 0.735]) and shared == pytest.approx(0.4)
    drawn = shrink(own, shared, truth.sum(axis=0), shrinkage=SHRINKAGE)
    assert drawn[1] < 0.49, "predicts the second class for the third sample"
    assert kept.tolist() == [0.5, 0.5]


def test_beta_1_calls_fewer_samples_than_beta_2():
    rng = np.random.default_rng(0)
    truth = rng.random((400, 3)) < 0.3
    scores = np.clip(truth * 0.2 + rng.random((400, 3)) * 0.8, 0, 1)
    called = [decide(scores, shrunk_thresholds(truth, scores, beta=beta)[0]).sum() for beta in (1, 2)]
    assert called[0] < called[1]


def _mean_f2(rule, seeds=range(30)):
    """Macro F2 on new samples of thresholds chosen on 100 with 2 to 8 positives of each of six classes."""
    found = []
    for seed in seeds:
        rng = np.random.default_rng(seed)
        share = np.linspace(0.02, 0.08, 6)
        truth = rng.random((4100, 6)) < share
        logits = 2.5 * truth + rng.standard_normal((4100, 6)) - 3
        scores = 1 / (1 + np.exp(-logits))
        decided = decide(scores[100:], rule(truth[:100], scores[:100]))
        tp, fp, _, fn = confusion_counts(truth[100:], decided)
        found.append(f_beta(tp, fp, fn, 2).mean())
    return np.mean(found)


def test_drawn_thresholds_generalise_better_than_own_optima_where_classes_are_rare():
    drawn, own = _mean_f2(lambda *val: shrunk_thresholds(*val)[0]), _mean_f2(best_thresholds)
    assert drawn > own + 0.01 > _mean_f2(lambda truth, scores: half_thresholds(6)) + 0.01


def test_thresholds_of_a_class_without_positives_and_of_no_positives_at_all_stay_a_half():
    truth = np.array([[0, 1], [0, 0], [0, 1]], bool)
    scores = np.array([[0.9, 0.7], [0.1, 0.2], [0.4, 0.6]])
    assert shrunk_thresholds(truth, scores)[0].tolist() == [0.5, 0.4]
    assert shrunk_thresholds(truth & False, scores)[0].tolist() == [0.5, 0.5]


def test_a_midpoint_between_float32_neighbours_still_separates_them():
    low = np.float32(0.3)
    scores = np.array([[low], [np.nextafter(low, np.float32(1))]])
    truth = np.array([[False], [True]])
    assert (decide(scores, best_thresholds(truth, scores)) == truth).all()


def test_half_calls_scores_that_reach_a_half():
    assert decide(np.array([[0.5, 0.4999, 0.9]]), half_thresholds(3)).tolist() == [[True, False, True]]


def test_without_thresholds_the_first_highest_score_is_called():
    assert decide(np.array([[0.2, 0.4, 0.4]]), None).tolist() == [[False, True, False]]
