"""Linear head: trained with Adam in small batches, loss and accuracy recorded per epoch; epoch chosen on val."""

import copy
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline

from data.errors import RequestError
from probes.card import ProbeCard
from probes.metrics import label_matrix
from probes.scores import HALF, score

if TYPE_CHECKING:
    from probes.search import FitTask, Trial

CARD = ProbeCard(standardize="train", limits={"epoch": (1,)})

LEARNING_RATE = 1e-4
BATCH_SIZE = 32
EPOCHS = 10
_BATCHES_AT_ONCE = 256  # handed to scikit-learn together: bounds the copy of shuffled rows
_SURE = 1e-7  # a probability counts as at least this much in a loss, and as at most one minus it


def candidates(
    rows: int, *, learning_rate: float = LEARNING_RATE, batch_size: int = BATCH_SIZE, epochs: int = EPOCHS
) -> list[dict[str, Any]]:
    """The epochs of one training, the earliest first.

    Args:
        rows: training rows; does not matter here.
        learning_rate: of Adam.
        batch_size: images a step.
        epochs: how many.
    """
    fixed = {"learning_rate": learning_rate, "batch_size": batch_size}
    return [{"epoch": epoch} | fixed for epoch in range(1, epochs + 1)]


def build(params: dict[str, Any], *, seed: int, multilabel: bool, n_jobs: int) -> MLPClassifier:
    """An unfitted network without hidden layer: softmax, or one sigmoid a label; no weight decay.

    Args:
        params: the candidate.
        seed: does not matter: nothing here is drawn.
        multilabel: does not matter: the network finds out from the labels.
        n_jobs: does not matter.
    """
    return MLPClassifier(
        hidden_layer_sizes=(),
        solver="adam",
        alpha=0.0,
        learning_rate_init=params["learning_rate"],
        batch_size=params["batch_size"],
        shuffle=False,  # `search` shuffles: with a seed, scikit-learn would repeat one order every epoch
        random_state=0,
    )


def search(task: "FitTask") -> Iterator["Trial"]:
    """Train once and judge the head after each epoch that is a candidate.

    An epoch sees each image once, in a new order; with several views of an image, in one of them drawn anew. Weights
    start at zero: the problem has a single optimum, and a small rate and few steps would never forget a random start.

    Raises:
        RequestError: the weights grow beyond all bounds.
    """
    scaler = task.standardise()
    images = len(task.train) // task.settings.views
    rng = np.random.default_rng(task.seed)
    truth = label_matrix(task.labels[:images], task.classes)
    model = _at_zero(
        build(task.candidates[0], seed=task.seed, multilabel=task.multilabel, n_jobs=1), task.train, task.targets
    )
    curves: list[dict[str, float]] = []  # one list for all trials: the chosen epoch's run shows the later ones too
    fit_s, epoch = 0.0, 0
    for params in task.candidates:
        while epoch < params["epoch"]:
            epoch += 1
            start = time.perf_counter()
            rows = rng.permutation(images) + images * rng.integers(task.settings.views, size=images)
            _train_epoch(model, task.train, task.targets, rows, params["batch_size"])
            fit_s += time.perf_counter() - start
        whole = Pipeline([("scale", scaler), ("model", copy.deepcopy(model))])
        if task.val is None:
            yield task.evaluate(params, whole, fit_s=fit_s)
            continue
        trial = task.evaluate(params, whole, fit_s=fit_s, curves=curves)
        seen = score(model, task.train[:images], classes=task.classes, multilabel=task.multilabel, n_jobs=task.threads)
        assert trial.scores is not None
        train_loss, train_accuracy = loss_and_accuracy(truth, seen, multilabel=task.multilabel)
        val_loss, val_accuracy = loss_and_accuracy(task.val_truth, trial.scores, multilabel=task.multilabel)
        curves.append(
            {
                "epoch": epoch,
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                "val_loss": val_loss,
                "val_accuracy": val_accuracy,
            }
        )
        yield trial


def loss_and_accuracy(truth: np.ndarray, scores: np.ndarray, *, multilabel: bool) -> tuple[float, float]:
    """Mean cross-entropy and share of right decisions, of samples; of every label of every sample if multi-label.

    Args:
        truth: (N, K) booleans.
        scores: (N, K) probabilities.
        multilabel: binary cross-entropy and the 0.5 rule, else cross-entropy and the argmax.
    """
    likely = scores.astype(np.float64).clip(_SURE, 1 - _SURE)
    if multilabel:
        loss = -np.log(np.where(truth, likely, 1 - likely)).mean()
        return float(loss), float(((scores >= HALF) == truth).mean())
    return float(-np.log(likely[truth]).mean()), float((scores.argmax(axis=1) == truth.argmax(axis=1)).mean())


def _at_zero(model: MLPClassifier, features: np.ndarray, labels: np.ndarray) -> MLPClassifier:
    """The network before its first step, with all weights 0."""
    classes = np.arange(labels.shape[1]) if labels.ndim == 2 else np.unique(labels)
    rows = min(model.batch_size, len(features))
    model.set_params(batch_size=rows).partial_fit(features[:rows], labels[:rows], classes=classes)
    for weights in (*model.coefs_, *model.intercepts_):
        weights[:] = 0
    del model._optimizer  # it remembers the step just undone; scikit-learn makes a new one
    return model


def _train_epoch(model: MLPClassifier, features: np.ndarray, labels: np.ndarray, rows: np.ndarray, batch: int) -> None:
    """One step of Adam a batch, in the order of `rows`."""

    def fit(chunk: np.ndarray) -> None:
        with np.errstate(all="ignore"):  # scikit-learn looks at the weights afterwards
            model.set_params(batch_size=min(batch, len(chunk))).partial_fit(features[chunk], labels[chunk])

    with ThreadPoolExecutor(1) as thread:  # in the main thread scikit-learn would take Ctrl-C as "go on untrained"
        for start in range(0, len(rows), batch * _BATCHES_AT_ONCE):
            try:
                thread.submit(fit, rows[start : start + batch * _BATCHES_AT_ONCE]).result()
            except ValueError as error:
                if "non-finite" not in str(error):
                    raise
                raise RequestError(
                    f"--learning-rate {model.learning_rate_init:g}: the head's weights grew beyond all bounds; "
                    "give a smaller one"
                ) from error
