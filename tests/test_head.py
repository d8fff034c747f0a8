"""The linear head: parity with torch, curves by hand, the epoch val chooses, and learning from altered views."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import TinyDataset, encoder_identity, fit_run, make_features

from data import paths, store
from data.errors import RequestError
from probes import fit, inputs, networks, search
from probes.kinds import head, mlp
from probes.models import load_model
from probes.sampling import subset


def prepared(multilabel, *, rows=70, dim=6, classes=4, views=1, seed=0, n_jobs=1, **options):
    """A job on random features that carry their labels a little."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((rows, classes)) < 0.3).astype(np.uint8) if multilabel else rng.integers(0, classes, rows)
    truth = labels.astype(bool) if multilabel else np.eye(classes, dtype=bool)[labels]
    signal = truth @ rng.standard_normal((classes, dim)) + rng.standard_normal((rows, dim))
    return search.FitTask(
        kind="head",
        candidates=head.candidates(rows, **options),
        val=signal.astype(np.float32),
        train=np.tile(signal, (views, 1)).astype(np.float32),
        labels=np.concatenate([labels] * views),
        val_truth=truth,
        seed=seed,
        settings=search.Settings(views=views, options=options),
        n_jobs=n_jobs,
    )


@pytest.mark.parametrize("multilabel", [True, False], ids=["multi-label", "single-label"])
def test_training_is_that_of_torch(multilabel):
    """The same rows in the same batches through nn.Linear and torch's losses, from zero weights."""
    job = prepared(multilabel, learning_rate=1e-3, batch_size=32, epochs=3)
    raw = torch.from_numpy(job.train.copy())
    last = list(head.search(job))[-1]

    features = (raw - raw.mean(0)) / raw.std(0, correction=0)
    targets = torch.from_numpy(job.labels.astype(np.float32) if multilabel else job.labels)
    layer = torch.nn.Linear(6, 4)
    torch.nn.init.zeros_(layer.weight), torch.nn.init.zeros_(layer.bias)
    loss = torch.nn.BCEWithLogitsLoss() if multilabel else torch.nn.CrossEntropyLoss()
    weights = list(layer.parameters())
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    step = 0
    rng = np.random.default_rng(job.seed)
    for _ in range(3):
        order = rng.permutation(70)
        rng.integers(1, size=70)  # the views: only one
        for batch in np.split(order, [32, 64]):
            step += (
                1  # Adam as published (arXiv:1412.6980, algorithm 1); importing torch.optim takes longer than all this
            )
            gradients = torch.autograd.grad(loss(layer(features[batch]), targets[batch]), weights)
            with torch.no_grad():
                for w, m, v, g in zip(weights, first, second, gradients, strict=True):
                    m += 0.1 * (g - m)
                    v += 0.001 * (g**2 - v)
                    w -= 1e-3 * (m / (1 - 0.9**step)) / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    model = last.estimator[-1]
    # the two add Adam's epsilon before and after correcting its bias, which shows where a gradient is almost zero
    np.testing.assert_allclose(model.coefs_[0].T, layer.weight.detach(), atol=2e-5)
    np.testing.assert_allclose(model.intercepts_[0], layer.bias.detach(), atol=2e-5)
    assert 0.001 < np.abs(model.coefs_[0]).max() < 0.01  # nine steps of a thousandth
    wanted = loss(layer(features), targets).item()  # val holds the same samples as train here
    curve = last.history["curves"][-1]
    assert curve["epoch"] == 3
    assert curve["train_loss"] == pytest.approx(wanted, abs=1e-5) == pytest.approx(curve["val_loss"], abs=1e-5)


def test_loss_and_accuracy_by_hand():
    truth = np.array([[1, 0, 0], [0, 0, 1]], bool)
    scores = np.array([[0.5, 0.25, 0.25], [0.6, 0.3, 0.1]], np.float32)
    # single-label: (-ln 0.5 - ln 0.1) / 2 = (0.693147 + 2.302585) / 2; the first is right
    assert head.loss_and_accuracy(truth, scores, multilabel=False) == pytest.approx((1.497866, 0.5), abs=1e-6)
    # multi-label: ln of 0.5 0.75 0.75, 0.4 0.7 0.1 sums to -4.844062; the first row is right three times (0.5 is
    # called), the second only in its second label
    loss, accuracy = head.loss_and_accuracy(truth, scores, multilabel=True)
    assert (loss, accuracy) == pytest.approx((4.844062 / 6, 4 / 6), abs=1e-6)
    sure = np.array([[0, 0, 1], [0, 0, 1]], np.float32)
    loss, _ = head.loss_and_accuracy(truth, sure, multilabel=False)
    assert loss == pytest.approx(-np.log(1e-7) / 2, rel=1e-6)  # certain and wrong: finite


def test_the_run_keeps_the_curves_of_every_epoch_and_the_weights_of_the_best(tmp_path):
    folder = make_features(tmp_path, multilabel=False, rows=(60, 40, 40), dim=4)
    splits = inputs.read_splits(folder)
    settings = search.Settings(options={"learning_rate": 0.3, "batch_size": 8, "epochs": 7})
    run = fit_run("head", splits, tmp_path, settings=settings, n_jobs=1)
    record = json.loads((run.folder / "run.json").read_text())
    curves = record["history"]["curves"]
    assert [list(entry) for entry in curves] == [
        ["epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy"]
    ] * 7
    assert [entry["epoch"] for entry in curves] == [1, 2, 3, 4, 5, 6, 7]
    accuracy = [entry["val_accuracy"] for entry in curves]
    best = int(np.argmax(accuracy))
    assert record["chosen"] == {"epoch": best + 1, "learning_rate": 0.3, "batch_size": 8}
    assert [c["accuracy"] for c in record["candidates"]] == accuracy
    assert record["metrics"]["val"]["half"]["accuracy"] == accuracy[best]
    val = run.predictions("val")
    loss, _ = head.loss_and_accuracy(np.eye(5, dtype=bool)[val.labels], val.scores, multilabel=False)
    assert loss == pytest.approx(curves[best]["val_loss"])  # the saved scores are of the epoch chosen
    assert len({entry["val_loss"] for entry in curves}) == 7


def test_a_run_cut_to_fewer_epochs_repeats_the_first_ones():
    long, short = (list(head.search(prepared(True, epochs=epochs))) for epochs in (4, 2))
    assert long[0].history["curves"][:2] == short[0].history["curves"]
    assert [trial.params["epoch"] for trial in long] == [1, 2, 3, 4]


def test_the_seed_decides_the_order_and_nothing_else_does():
    def weights(**changes):
        return list(head.search(prepared(True, epochs=2, **changes)))[-1].estimator[-1].coefs_[0].tobytes()

    assert weights() == weights(n_jobs=2)
    job = prepared(True, epochs=2)
    other = list(head.search(replace(job, seed=1)))[-1].estimator[-1].coefs_[0].tobytes()
    assert other != weights()


def test_an_epoch_sees_every_image_once_in_one_of_its_views(monkeypatch):
    seen = []
    monkeypatch.setattr(head, "train_epoch", lambda model, features, labels, rows, batch: seen.append(rows))
    list(head.search(prepared(True, rows=50, views=3, epochs=4)))
    for rows in seen:
        assert sorted(rows % 50) == list(range(50))
        assert set(rows // 50) == {0, 1, 2}
    first, second = (sorted(rows) for rows in seen[:2])
    assert first != second  # another view of many images


def test_batches_do_not_end_where_a_chunk_ends(monkeypatch):
    whole = list(head.search(prepared(True, epochs=1, batch_size=8)))[-1].estimator[-1].coefs_[0]
    monkeypatch.setattr(networks, "_BATCHES_AT_ONCE", 2)
    parts = list(head.search(prepared(True, epochs=1, batch_size=8)))[-1].estimator[-1].coefs_[0]
    np.testing.assert_array_equal(whole, parts)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_weights_that_grow_beyond_all_bounds_name_the_flag():
    with pytest.raises(RequestError, match=r"--learning-rate 1e\+38: "):
        list(head.search(prepared(True, learning_rate=1e38)))


# ------------------------------------------------------------------------------------------------- views


class Altered(TinyDataset):
    """A training split that says which view of itself it is."""

    def __init__(self, view, labels, names):
        super().__init__("train", labels, names)
        self.altered = {"view": view, "colour": 0.2}


def write(file, source, features):
    """Write features of a split or of a view of it."""
    identity = store.make_identity(source, encoder_identity())
    with store.FeatureWriter(file, identity, rows=len(source), dim=features.shape[1], dtype="float32") as writer:
        for part in writer.missing():
            writer.write_part(part, features[slice(*writer.bounds(part))])
        writer.finish(source, {})


@pytest.fixture
def folder(tmp_path):
    """Features with two more views of train, in which another direction carries the label."""
    rng = np.random.default_rng(0)
    names = ["a", "b", "c"]
    labels = {split: rng.integers(0, 3, count) for split, count in (("train", 40), ("val", 20), ("test", 20))}
    for split, y in labels.items():
        write(tmp_path / f"{split}.h5", TinyDataset(split, y, names), _shown(y, 0, rng))
    for view in (1, 2):
        write(
            paths.view_file(tmp_path, "train", view),
            Altered(view, labels["train"], names),
            _shown(labels["train"], view, rng),
        )
    return tmp_path


def _shown(labels, at, rng):
    """(N, 9): the label in one of three places, weak noise everywhere."""
    features = rng.standard_normal((len(labels), 9)) * 0.1
    features[np.arange(len(labels)), 3 * at + labels] += 1
    return features.astype(np.float32)


@pytest.mark.parametrize("kind", ["head", "linear", "knn"])
def test_a_probe_learns_from_all_views_where_asked(kind, folder, tmp_path):
    """Only the views show labels in the later features: a probe that has not seen them ignores those features."""
    views = np.concatenate([_shown(np.arange(3), at, np.random.default_rng(1)) for at in (1, 2)])
    right = {}
    for count in (1, 3):
        splits = inputs.read_splits(folder, views=count)
        settings = search.Settings(views=count, options={"epochs": 5, "learning_rate": 0.05} if kind == "head" else {})
        run = fit_run(kind, splits, tmp_path / kind, settings=settings, n_jobs=1)
        model = load_model(run.folder / "model.skops")
        right[count] = (model.predict(views) == [0, 1, 2, 0, 1, 2]).mean()
        assert run.record["rows"]["train"] == 40 and run.record["arguments"]["views"] == count
        identity = run.record["features"]["splits"]["train"]
        assert [view["altered"]["view"] for view in identity.get("views", [])] == [1, 2][: count - 1]
    assert right[3] == 1.0 and right[1] < 1.0
    assert len(list((tmp_path / kind / "probes").rglob("run.json"))) == 2  # another run, never reused for the other


def test_a_subset_takes_all_views_of_the_images_it_takes(folder, tmp_path, monkeypatch):
    jobs = []
    monkeypatch.setattr(fit, "search", lambda job: jobs.append(job) or (_ for _ in ()).throw(KeyboardInterrupt))
    splits = inputs.read_splits(folder, views=3)
    with pytest.raises(KeyboardInterrupt):
        fit_run("head", splits, tmp_path, settings=search.Settings(views=3, shots=4))
    (job,) = jobs
    rows = subset(splits["train"].labels, 3, seed=0, shots=4)
    assert len(rows) == 12 and len(job.train) == 36
    np.testing.assert_array_equal(job.labels, np.tile(splits["train"].labels[rows], 3))
    wanted = [splits["train"], *splits["train"].views]
    np.testing.assert_array_equal(job.train, np.concatenate([view.features[:][rows] for view in wanted]))


def test_views_that_are_absent_or_of_other_images_are_refused(folder):
    with pytest.raises(RequestError, match="no view 3 of the training images at .*; run featurize --augment 4"):
        inputs.read_splits(folder, views=4)
    labels = store.read_features(folder / "train.h5").labels
    other = Altered(2, (labels + 1) % 3, ["a", "b", "c"])
    file = paths.view_file(folder, "train", 2)
    file.unlink()
    write(file, other, np.zeros((40, 9), np.float32))
    with pytest.raises(RequestError, match="differ in split.labels_sha256; run featurize --augment 3 --overwrite"):
        inputs.read_splits(folder, views=3)
    assert len(inputs.read_splits(folder, views=2)["train"].views) == 1
    file.unlink()
    write(file, Altered(1, labels, ["a", "b", "c"]), np.zeros((40, 9), np.float32))
    with pytest.raises(RequestError, match="differ in split.altered.view"):
        inputs.read_splits(folder, views=3)


def test_the_same_seed_gives_the_same_run_with_views(folder, tmp_path):
    texts = []
    for name in ("one", "two"):
        splits = inputs.read_splits(folder, views=2)
        run = fit_run("head", splits, tmp_path / name, seed=5, settings=search.Settings(views=2), n_jobs=len(texts) + 1)
        record = json.loads((run.folder / "run.json").read_text())
        for changing in ("seconds", "created", "versions", "checksums"):
            del record[changing]
        texts.append(json.dumps(record))
    assert texts[0] == texts[1]


@pytest.mark.parametrize("multilabel", [True, False], ids=["multi-label", "single-label"])
@pytest.mark.parametrize("kind", ["head", "mlp"])
def test_torch_trains_the_weights_of_scikit_learn(monkeypatch, kind, multilabel):
    """As on a GPU: another device than "cpu", here of torch's CPU."""
    candidates = head.candidates(70, epochs=2) if kind == "head" else mlp.candidates(70)[:2]
    task = replace(prepared(multilabel), kind=kind, candidates=[{**params, "hidden": 8} for params in candidates])
    trials = {}
    for device in ("cpu", "cpu:0"):
        train, settings = (
            task.train.copy(),
            replace(task.settings, device=device, balanced=kind == "mlp" and not multilabel),
        )
        trials[device] = list(search.trials(replace(task, train=train, settings=settings)))
    for ours, torchs in zip(*trials.values(), strict=True):
        assert ours.params == torchs.params
        np.testing.assert_allclose(ours.scores, torchs.scores, atol=1e-5)
        assert ours.estimator[-1].get_params() == torchs.estimator[-1].get_params()


@pytest.mark.parametrize("multilabel", [True, False], ids=["multi-label", "single-label"])
def test_an_mlp_trained_further_is_the_one_trained_at_once(multilabel):
    task = replace(prepared(multilabel), kind="mlp", candidates=mlp.candidates(70)[:2])
    for trial, alone in zip(mlp.search(replace(task, train=task.train.copy())), search._each(task, mlp), strict=True):
        assert trial.params == alone.params
        np.testing.assert_array_equal(trial.scores, alone.scores)
