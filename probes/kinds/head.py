"""Linear head: trained with Adam in small batches, loss and accuracy recorded per epoch; epoch chosen on val."""

import copy
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline

from data.errors import RequestError
from probes.card import ProbeCard
from probes.metrics import label_matrix
from probes.networks import DivergedError, Trainer, initialize, train_epoch
from probes.scores import HALF
from probes.shapes import Scores, Truth

if TYPE_CHECKING:
    from probes.search import FitTask, Trial

CARD = ProbeCard(standardize="train", gpu=True, limits={"epoch": (1,)})

LEARNING_RATE = 1e-4
BATCH_SIZE = 32
EPOCHS = 10
_CLIP = 1e-7  # probabilities are clipped to this distance from 0 and 1 in a loss


def candidates(
    rows: int, *, learning_rate: float = LEARNING_RATE, batch_size: int = BATCH_SIZE, epochs: int = EPOCHS
) -> list[dict[str, Any]]:
    """The epochs of one training run, the earliest first."""
    fixed = {"learning_rate": learning_rate, "batch_size": batch_size}
    return [{"epoch": epoch} | fixed for epoch in range(1, epochs + 1)]


def build(params: dict[str, Any], *, seed: int, multilabel: bool, n_jobs: int) -> MLPClassifier:
    """An unfitted network without hidden layer: softmax, or one sigmoid per label; no weight decay.

    In CPU time, an epoch of 21,600 x 768 features in batches of 32 takes 0.08 s, and 0.12 s with `torch.nn.Linear`.
    """
    return MLPClassifier(
        hidden_layer_sizes=(),
        solver="adam",
        alpha=0.0,
        learning_rate_init=params["learning_rate"],
        batch_size=params["batch_size"],
        shuffle=False,  # `search` shuffles: with a seed, scikit-learn would repeat the same order in every epoch
        random_state=0,
    )


def search(task: "FitTask") -> Iterator["Trial"]:
    """Train once and evaluate the head after each epoch that is a candidate.

    An epoch sees each image once, in a new order; with augmented views, one view drawn at random. Weights start at
    zero: the problem has a single optimum, and a small learning rate and few steps would never forget a random start.

    Raises:
        RequestError: training diverges.
    """
    scaler = task.standardise()
    images = len(task.train) // task.settings.views
    rng = np.random.default_rng(task.seed)
    truth = label_matrix(task.labels[:images], task.classes)
    model = build(task.candidates[0], seed=task.seed, multilabel=task.multilabel, n_jobs=1)
    initialize(model, task.train, task.targets, rows=model.batch_size)
    for weights in (*model.coefs_, *model.intercepts_):
        weights[:] = 0
    device = task.settings.device
    trainer = None if device == "cpu" else Trainer(model, task.train, task.targets, device)
    curves: list[dict[str, float]] = []  # shared by all trials: the chosen epoch's run records the later ones, too
    fit_s, epoch = 0.0, 0
    for params in task.candidates:
        while epoch < params["epoch"]:
            epoch += 1
            start = time.perf_counter()
            rows = rng.permutation(images) + images * rng.integers(task.settings.views, size=images)
            try:
                if trainer is None:
                    train_epoch(model, task.train, task.targets, rows, params["batch_size"])
                else:
                    trainer.epoch(rows, params["batch_size"])
                    model = trainer.finish()
            except DivergedError as error:
                raise RequestError(
                    f"--learning-rate {params['learning_rate']:g}: the training of the head diverged; give a smaller "
                    "rate"
                ) from error
            fit_s += time.perf_counter() - start
        whole = Pipeline([("scale", scaler), ("model", copy.deepcopy(model))])
        if task.val is None:
            yield task.evaluate(params, whole, fit_s=fit_s)
            continue
        trial = task.evaluate(params, whole, fit_s=fit_s, curves=curves)
        assert trial.scores is not None
        train = loss_and_accuracy(truth, task.score(model, task.train[:images]), multilabel=task.multilabel)
        val = loss_and_accuracy(task.val_truth, trial.scores, multilabel=task.multilabel)
        names = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
        curves.append({"epoch": epoch} | dict(zip(names, (*train, *val), strict=True)))
        yield trial


def loss_and_accuracy(truth: Truth, scores: Scores, *, multilabel: bool) -> tuple[float, float]:
    """Mean cross-entropy and share of correct decisions: over samples, by the argmax.

    Multi-label: binary cross-entropy and the 0.5 rule, over all labels of all samples.
    """
    likely = scores.astype(np.float64).clip(_CLIP, 1 - _CLIP)
    if multilabel:
        loss = -np.log(np.where(truth, likely, 1 - likely)).mean()
        return float(loss), float(((scores >= HALF) == truth).mean())
    return float(-np.log(likely[truth]).mean()), float((scores.argmax(axis=1) == truth.argmax(axis=1)).mean())
