"""The solver of the linear probe, held to scikit-learn's coefficients."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers import make_features
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from probes import fit, inputs, logistic
from probes.kinds import linear
from probes.settings import Settings

C_VALUES = (0.01, 1.0, 30.0)
TIGHT = partial(logistic.solve_path, c_values=C_VALUES, tolerance=1e-5)


def _many(seed=1, rows=800):
    """Correlated features of unlike spread, and four labels, the last one rare."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((rows, 10)) @ rng.standard_normal((10, 10)) * np.linspace(1, 5, 10)
    features = StandardScaler().fit_transform(features).astype(np.float32)
    logits = features @ rng.standard_normal((10, 4)) + rng.standard_normal((rows, 4)) * 2
    return features, (logits > np.quantile(logits, [0.3, 0.5, 0.8, 0.97], axis=0).diagonal()).astype(np.float32)


def _one(classes):
    features, _ = _many()
    labels = np.digitize(features[:, :3].sum(axis=1), np.linspace(-1.5, 2, classes - 1))
    flipped = np.random.default_rng(0).random(len(labels)) < 0.1
    return features, np.where(flipped, 0, labels)


@pytest.mark.parametrize("balanced", [False, True])
def test_all_labels_at_once_have_the_coefficients_of_one_regression_a_label(balanced):
    features, targets = _many()
    share = targets.mean(axis=0)
    weights = 0.5 / np.stack([1 - share, share]) if balanced else None
    for c, found in zip(C_VALUES, TIGHT(features, targets, exclusive=False, weights=weights), strict=True):
        assert found.converged.all()
        for k in range(4):
            peer = LogisticRegression(C=c, tol=1e-8, max_iter=5000, class_weight="balanced" if balanced else None)
            peer.fit(features.astype(np.float64), targets[:, k])
            np.testing.assert_allclose(found.coef[k], peer.coef_[0], atol=2e-3)
            np.testing.assert_allclose(found.intercept[k], peer.intercept_[0], atol=2e-3)


@pytest.mark.parametrize("balanced", [False, True])
def test_classes_that_exclude_each_other_have_the_coefficients_of_a_softmax_regression(balanced):
    features, labels = _one(4)
    targets = np.eye(4, dtype=np.float32)[labels]
    weights = np.tile(1 / (4 * targets.mean(axis=0)), (2, 1)) if balanced else None
    for c, found in zip(C_VALUES, TIGHT(features, targets, exclusive=True, weights=weights), strict=True):
        peer = LogisticRegression(C=c, tol=1e-8, max_iter=5000, class_weight="balanced" if balanced else None)
        peer.fit(features.astype(np.float64), labels)
        np.testing.assert_allclose(found.coef, peer.coef_, atol=3e-3)
        shift = found.intercept - peer.intercept_  # the same for all classes changes nothing
        np.testing.assert_allclose(shift, shift.mean(), atol=3e-3)


@pytest.mark.parametrize("exclusive", [False, True])
def test_torch_tensors_give_the_same_solution_as_arrays(exclusive):
    features, targets = _many()
    if exclusive:
        targets = np.eye(3, dtype=np.float32)[np.arange(len(features)) % 3]
    ours = list(TIGHT(features, targets, exclusive=exclusive))
    theirs = list(TIGHT(torch.from_numpy(features), torch.from_numpy(targets), exclusive=exclusive))
    for one, two in zip(ours, theirs, strict=True):
        logits = [features @ found.coef.T + found.intercept for found in (one, two)]
        if exclusive:  # what all classes share changes nothing
            logits = [values - values.mean(axis=1, keepdims=True) for values in logits]
        np.testing.assert_allclose(*logits, atol=2e-3)


def test_threads_do_not_change_a_single_bit():
    features, targets = _many(rows=4000)
    one, two = (list(TIGHT(features, targets, exclusive=False, threads=threads)) for threads in (1, 2))
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a.coef, b.coef)
        np.testing.assert_array_equal(a.intercept, b.intercept)


def test_a_path_ends_where_a_fit_from_scratch_ends():
    features, targets = _many()
    *_, last = TIGHT(features, targets, exclusive=False)
    (alone,) = logistic.solve_path(features, targets, C_VALUES[-1:], exclusive=False, tolerance=1e-5)
    np.testing.assert_allclose(last.coef, alone.coef, atol=1e-3)


def test_labels_that_separate_stay_finite_and_say_whether_they_converged():
    features, _ = _many(rows=60)
    targets = (features[:, :1] > 0).astype(np.float32)
    (found,) = logistic.solve_path(features, targets, (1e6,), exclusive=False, max_rounds=20)
    assert np.isfinite(found.coef).all() and not found.converged.all() and found.rounds <= 20
    (found,) = logistic.solve_path(features, targets, (1e-3,), exclusive=False)
    assert found.converged.all()


@pytest.mark.parametrize("classes", [2, 4])
def test_the_probe_of_one_class_a_sample_scores_as_scikit_learns(classes, tmp_path):
    folder = make_features(tmp_path, multilabel=False, rows=(300, 60, 60), classes=classes)
    splits = inputs.read_splits(folder)
    run = fit.run_probe(fit.plan_probe("linear", splits, tmp_path, seed=0), splits, n_jobs=1)
    train, test = (splits[split].features[:].astype(np.float64) for split in ("train", "test"))
    scaler = StandardScaler().fit(train)
    peer = LogisticRegression(C=run.record["chosen"]["C"], tol=1e-8, max_iter=5000)
    peer.fit(scaler.transform(train), splits["train"].labels)
    np.testing.assert_allclose(run.predictions("test").scores, peer.predict_proba(scaler.transform(test)), atol=1e-3)


def test_a_linear_probe_on_another_device_is_the_same_probe(tmp_path, monkeypatch):
    """What a GPU runs, run on torch's CPU: the device is only asked for its tensors."""
    splits = inputs.read_splits(make_features(tmp_path, multilabel=True))
    plans = [fit.plan_probe("linear", splits, tmp_path, seed=0, settings=Settings(device=d)) for d in ("cpu", "cuda")]
    assert plans[0].folder != plans[1].folder
    one = fit.run_probe(plans[0], splits)
    monkeypatch.setattr(linear, "on_device", lambda device, *arrays: [torch.from_numpy(a) for a in arrays])
    two = fit.run_probe(plans[1], splits)
    assert one.record["chosen"] == two.record["chosen"] and two.record["arguments"]["device"] == "cuda"
    np.testing.assert_allclose(one.predictions("test").scores, two.predictions("test").scores, atol=1e-3)


def _wide(rows=60, dim=400):
    rng = np.random.default_rng(3)
    labels = np.arange(rows) % 3
    features = rng.standard_normal((rows, dim)) * np.arange(1, dim + 1) ** -0.5 + 0.2 * np.eye(3, dim)[labels]
    return StandardScaler().fit_transform(features).astype(np.float32), labels


@pytest.mark.parametrize("tensors", [False, True])
def test_more_features_than_rows_have_scikit_learns_coefficients_at_every_c(tensors):
    features, labels = _wide()
    targets = np.eye(3, dtype=np.float32)[labels]
    given = [torch.from_numpy(array) for array in (features, targets)] if tensors else [features, targets]
    for c, found in zip(
        (1e-4, 1.0, 100.0), logistic.solve_path(*given, (1e-4, 1.0, 100.0), exclusive=True), strict=True
    ):
        peer = LogisticRegression(C=c, tol=1e-10, max_iter=5000).fit(features.astype(np.float64), labels)
        assert found.converged.all() and found.coef.shape == (3, 400)
        np.testing.assert_allclose(found.coef, peer.coef_, atol=2e-3 * np.abs(peer.coef_).max())
        logits = features @ found.coef.T + found.intercept
        np.testing.assert_allclose(softmax(logits, axis=1), peer.predict_proba(features.astype(np.float64)), atol=2e-4)


def test_two_exclusive_classes_have_weights_each():
    features, labels = _one(2)
    (found,) = logistic.solve_path(features, np.eye(2, dtype=np.float32)[labels], [0.5], exclusive=True, tolerance=1e-5)
    peer = LogisticRegression(C=1.0, tol=1e-10).fit(features.astype(np.float64), labels)  # half the penalty: one row
    np.testing.assert_allclose(np.diff(found.coef, axis=0), peer.coef_, atol=2e-3)
    np.testing.assert_allclose(np.diff(found.intercept), peer.intercept_, atol=2e-3)


def test_more_features_than_rows_never_make_an_array_of_features_by_features(monkeypatch):
    """The 5,000 x 5,000 second moments took 116 s and gigabytes where 300 rows span at most 300 directions."""
    asked = []
    eigh = np.linalg.eigh
    monkeypatch.setattr(np.linalg, "eigh", lambda array: asked.append(array.shape) or eigh(array))
    features, labels = _wide()
    list(logistic.solve_path(features, np.eye(3, dtype=np.float32)[labels], C_VALUES, exclusive=True))
    assert max(asked) == (60, 60)


def test_too_many_coordinates_for_eigenvectors_reach_the_same_optimum(monkeypatch):
    features, targets = _many()
    one = list(TIGHT(features, targets, exclusive=False))
    monkeypatch.setattr(logistic, "MOST_COORDINATES", 5)
    monkeypatch.setattr(np.linalg, "eigh", None)
    for a, b in zip(one, TIGHT(features, targets, exclusive=False), strict=True):
        np.testing.assert_allclose(a.coef, b.coef, atol=2e-3)


def test_a_budget_ends_a_fit_inside_and_keeps_only_finished_candidates_after_the_first():
    features, targets = _many()
    rounds = 0

    def out_of_time(limit):
        nonlocal rounds
        rounds += 1
        return rounds > limit

    (first,) = TIGHT(features, targets, exclusive=False, out_of_time=lambda: out_of_time(2))
    assert first.rounds == 3 and not first.converged.all(), "the first C comes in any case, as far as it got"
    whole = list(TIGHT(features, targets, exclusive=False))
    rounds = 0
    cut = list(TIGHT(features, targets, exclusive=False, out_of_time=lambda: out_of_time(whole[0].rounds + 3)))
    assert len(cut) == 1 and cut[0].converged.all(), "the second C was not finished"


@pytest.mark.parametrize("exclusive", [False, True])
def test_classes_that_separate_converge_although_losses_end_in_rounding_errors(exclusive):
    features, labels = _wide(rows=300, dim=40)
    features = np.hstack([features, 3 * np.eye(3, dtype=np.float32)[labels]])
    targets = np.eye(3, dtype=np.float32)[labels]
    for found in logistic.solve_path(features, targets, (1.0, 100.0, 1e4), exclusive=exclusive):
        assert found.converged.all() and found.rounds < 500


@pytest.mark.parametrize("exclusive", [False, True])
def test_data_that_separates_perfectly_converges_at_any_c(exclusive):
    """A named bug: gradients were lost below float32's resolution near 1, and a thousand rounds found no step."""
    rng = np.random.default_rng(0)
    labels = rng.integers(5, size=300)
    targets = np.eye(5, dtype=np.float32)[labels]
    features = targets @ rng.standard_normal((5, 20)) * 3 + rng.standard_normal((300, 20))
    features = StandardScaler().fit_transform(features).astype(np.float32)
    path = logistic.solve_path(features, targets, np.logspace(-6, 6, 25), exclusive=exclusive, max_rounds=100)
    assert all(found.converged.all() for found in path)


def test_badly_scaled_features_converge_at_a_large_c(monkeypatch):
    """In float32 rounding errors of the loss hide the last steps."""
    rng = np.random.default_rng(2)
    x = (rng.standard_normal((400, 12)) * np.geomspace(1, 1e-2, 12) @ rng.standard_normal((12, 40))).astype(np.float32)
    x *= 3
    y = (x @ rng.standard_normal((40, 3)) + rng.standard_normal((400, 3)) > 15).astype(np.float32)
    ends = []
    for most in (logistic.MOST_EXACT, 0):
        monkeypatch.setattr(logistic, "MOST_EXACT", most)
        *_, last = logistic.solve_path(x, y, (1.0, 1e2, 1e4), exclusive=False)
        ends.append(last.converged.all())
    assert ends == [True, False]


def test_few_rows_of_unequal_scales_reach_the_optimum_at_every_c(monkeypatch):
    """A named bug: of 40 values of C on image statistics as they are, nine stopped after a thousand rounds."""
    rng = np.random.default_rng(0)
    labels = rng.integers(4, size=120)
    targets = np.eye(4, dtype=np.float32)[labels]
    scales = np.geomspace(1, 1000, 20)
    features = ((targets @ rng.standard_normal((4, 20)) + rng.standard_normal((120, 20))) * scales).astype(np.float32)
    features -= features.mean(axis=0)
    c_values = np.logspace(-6, 4, 40)
    for c, found in zip(c_values, logistic.solve_path(features, targets, c_values, exclusive=True), strict=True):
        rest = softmax(features @ found.coef.T + found.intercept, axis=1) - targets
        slopes = (rest.T @ features / 120 + found.coef / (120 * c)) / scales
        assert found.converged.all() and found.rounds < 30
        assert np.abs(slopes).max() < 1e-6 and np.abs(rest.mean(axis=0)).max() < 1e-6

    # the two ways agree where both can go
    even = (features / scales).astype(np.float32)
    newton = list(logistic.solve_path(even, targets, (1e-3, 1.0, 100.0), exclusive=True))
    monkeypatch.setattr(logistic, "MOST_NEWTON", 0)
    for one, other in zip(newton, TIGHT(even, targets, c_values=(1e-3, 1.0, 100.0), exclusive=True), strict=True):
        scores = [softmax(even @ found.coef.T + found.intercept, axis=1) for found in (one, other)]
        np.testing.assert_allclose(*scores, atol=1e-4)
        assert one.rounds < other.rounds
