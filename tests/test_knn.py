"""Nearest neighbors in blocks, held to scikit-learn's; the same code on torch tensors."""

import tracemalloc

import numpy as np
import pytest
import torch
from helpers import make_features
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.preprocessing import StandardScaler

from probes import fit, inputs
from probes.kinds import knn
from probes.models import load_model
from probes.settings import Settings

RNG = np.random.default_rng(0)
KEPT, ASKED = (
    (RNG.standard_normal((rows, 12)) * np.linspace(0.1, 3, 12) + 40).astype(np.float32) for rows in (300, 70)
)
MANY = (RNG.random((300, 3)) < 0.3).astype(np.uint8)
ONE = RNG.integers(0, 3, 300) * 2  # classes 0, 2 and 4


def on_torch(device, *arrays):
    return [torch.from_numpy(array) for array in arrays]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Several blocks of each, the last of them short; the first tile has fewer rows than neighbors are asked for."""
    monkeypatch.setattr(knn, "QUERIES", 32)
    monkeypatch.setattr(knn, "TILE", 7)


@pytest.mark.parametrize("zscore", [False, True])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("device", ["cpu", "torch"])
def test_neighbours_are_scikit_learns_also_far_from_the_origin(distance, zscore, device, monkeypatch):
    """Features of mean 40 and small deviation: without a shift, float32 confuses neighbors."""
    if device == "torch":
        monkeypatch.setattr(knn, "on_device", on_torch)
    scaler = StandardScaler().fit(KEPT.astype(float))
    kept, asked = ((scaler.transform(x) if zscore else x.astype(float)) for x in (KEPT, ASKED))
    wanted = NearestNeighbors(n_neighbors=10, metric=distance, algorithm="brute").fit(kept).kneighbors(asked)[1]
    place = {"mean": scaler.mean_, "scale": scaler.scale_} if zscore else {}
    probe = knn.Neighbours(KEPT, MANY, 10, distance, device=device, **place)
    for _ in range(2):  # a device keeps what it was given the first time
        np.testing.assert_array_equal(probe.neighbours(ASKED), wanted)


@pytest.mark.parametrize("error", [knn.BF16_ERROR, 9.0], ids=["as it is", "every query is compared again"])
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_candidates_in_bf16_lead_to_the_same_neighbours(distance, error, monkeypatch):
    wanted = knn.Neighbours(KEPT, MANY, 10, distance).neighbours(ASKED)
    monkeypatch.setattr(knn, "BF16_ROWS", 0)
    monkeypatch.setattr(knn, "BF16_ERROR", error)
    monkeypatch.setattr(knn, "cpu_computes_bf16", lambda: True)
    np.testing.assert_array_equal(knn.Neighbours(KEPT, MANY, 10, distance).neighbours(ASKED), wanted)


def test_a_query_that_rounding_to_bf16_could_mislead_is_compared_again(monkeypatch):
    """300 rows closer together than bf16 can tell: candidates alone would be arbitrary ones."""
    kept = (1 + 1e-4 * RNG.standard_normal((300, 12))).astype(np.float32)
    kept[0] = -9  # moves the mean, so that the others are far from 0
    wanted = knn.Neighbours(kept, MANY, 5, "euclidean").neighbours(kept[1:40])
    monkeypatch.setattr(knn, "BF16_ROWS", 0)
    monkeypatch.setattr(knn, "cpu_computes_bf16", lambda: True)
    np.testing.assert_array_equal(knn.Neighbours(kept, MANY, 5, "euclidean").neighbours(kept[1:40]), wanted)


@pytest.mark.parametrize("labels", [MANY, ONE], ids=["multi-label", "single-label"])
def test_shares_are_scikit_learns_probabilities(labels):
    peer = KNeighborsClassifier(5, algorithm="brute").fit(KEPT, labels)
    wanted = peer.predict_proba(ASKED)
    if labels.ndim == 2:
        wanted = np.stack([column[:, 1] for column in wanted], axis=1)
    ours = knn.Neighbours(KEPT, labels, 5, "euclidean")
    np.testing.assert_allclose(ours.predict_proba(ASKED), wanted, atol=1e-6)
    np.testing.assert_array_equal(ours.classes_, [0, 1, 2] if labels.ndim == 2 else peer.classes_)
    np.testing.assert_array_equal(ours.predict(ASKED), peer.predict(ASKED))


def test_no_second_copy_of_the_features_is_made(monkeypatch):
    monkeypatch.setattr(knn, "TILE", 256)
    kept = np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float16)
    probe = knn.Neighbours(kept, np.zeros((20_000, 2), np.uint8), 3, "cosine", np.zeros(64), np.ones(64))
    tracemalloc.start()
    probe.predict_proba(kept[:50].astype(np.float32))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert probe.kept is kept and peak < kept.nbytes / 2


def test_candidates_are_judged_on_a_part_of_val_and_the_best_scores_all_of_it(tmp_path, monkeypatch):
    splits = inputs.read_splits(make_features(tmp_path, multilabel=True, dtype="float16"))
    whole = fit.run_probe(fit.plan_probe("knn", splits, tmp_path / "a", seed=0), splits)
    assert whole.record["history"] == {"val_samples_judged": 80}
    monkeypatch.setattr(knn, "MOST_JUDGED", 30)
    runs = [fit.run_probe(fit.plan_probe("knn", splits, tmp_path / "b", seed=s), splits) for s in (0, 0, 1)]
    assert runs[0].record["history"] == {"val_samples_judged": 30}
    assert runs[0].predictions("val").scores.shape == (80, 5)
    tried = [[c["map_macro"] for c in run.record["candidates"]] for run in (*runs, whole)]
    assert tried[0] == tried[1] != tried[2] and tried[0] != tried[3]


def test_k_of_the_run_on_another_device_is_the_same(tmp_path, monkeypatch):
    """What a GPU runs, run on torch's CPU; the saved probe needs no GPU."""
    splits = inputs.read_splits(make_features(tmp_path, multilabel=False))
    plans = [fit.plan_probe("knn", splits, tmp_path, seed=0, settings=Settings(device=d)) for d in ("cpu", "cuda")]
    one = fit.run_probe(plans[0], splits)
    monkeypatch.setattr(knn, "on_device", on_torch)
    two = fit.run_probe(plans[1], splits)
    assert one.record["candidates"] == two.record["candidates"]
    np.testing.assert_array_equal(one.predictions("test").scores, two.predictions("test").scores)
    assert load_model(two.folder / "model.skops").device == "cpu"
