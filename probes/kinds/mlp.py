"""MLP: one hidden layer on z-scored features, trained with Adam; size, alpha and epochs chosen on val."""

import copy
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import numpy as np
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils.class_weight import compute_sample_weight

from probes import networks
from probes.card import ProbeCard
from probes.search import FitTask, Trial

CARD = ProbeCard(standardize="train", class_weights=("single-label",), gpu=True)

BATCH_SIZE = 200


def candidates(rows: int) -> list[dict[str, Any]]:
    """Hyper-parameters to try, the smallest and most regularized first.

    Args:
        rows: training rows; not used here.
    """
    return [
        {"hidden": hidden, "alpha": alpha, "epochs": epochs}
        for hidden in (128, 512)
        for alpha in (1.0, 0.01)
        for epochs in (10, 30)
    ]


def build(params: dict[str, Any], *, seed: int, multilabel: bool, n_jobs: int) -> MLPClassifier:
    """An unfitted estimator that trains for exactly `epochs`.

    scikit-learn's early stopping is not used: it holds out a tenth of train, evaluates multi-label data by subset
    accuracy, which stays 0 for many epochs, and fails on a class with one sample. Val chooses the epochs instead.
    """
    return MLPClassifier(
        hidden_layer_sizes=(params["hidden"],),
        alpha=params["alpha"],
        max_iter=params["epochs"],
        n_iter_no_change=params["epochs"],
        random_state=seed,
    )


def search(task: FitTask) -> Iterator[Trial]:
    """Train each network once, for its largest number of epochs, and evaluate it at the smaller ones on the way.

    The weights are those of ``build(...).fit`` for each number of epochs; on a GPU, but for rounding.
    """
    scaler = task.standardise()
    groups = [list(one) for _, one in groupby(task.candidates, key=lambda params: (params["hidden"], params["alpha"]))]

    def run(number: int, members: list[dict[str, Any]]) -> list[Trial]:
        trials, fit_s, networks = [], 0.0, _trained(task, members)
        for params in members:
            if (number or trials) and task.out_of_time:
                break
            start = time.perf_counter()
            model = copy.deepcopy(next(networks))
            fit_s += time.perf_counter() - start
            trials.append(task.evaluate(params, Pipeline([("scale", scaler), ("model", model)]), fit_s=fit_s))
        return trials

    with ThreadPoolExecutor(task.threads if task.settings.device == "cpu" else 1) as pool:
        for trials in pool.map(run, range(len(groups)), groups):
            yield from trials


def _trained(task: FitTask, members: list[dict[str, Any]]) -> Iterator[MLPClassifier]:
    """One network after each number of epochs, the smallest first."""
    # As `fit` does: one stream of random numbers for the weights and all epochs, each shuffling the order before it.
    rng, rows, device = np.random.RandomState(task.seed), np.arange(len(task.train)), task.settings.device
    model = build(members[0], seed=task.seed, multilabel=task.multilabel, n_jobs=1)
    usual = model.get_params()
    weights = compute_sample_weight("balanced", task.labels) if task.settings.balanced else None
    networks.initialize(model.set_params(random_state=rng), task.train, task.targets)
    trainer = None if device == "cpu" else networks.Trainer(model, task.train, task.targets, device, weights)
    done = 0
    for params in members:
        while done < params["epochs"]:
            rows = rows[rng.permutation(len(rows))]
            if trainer is None:
                networks.train_epoch(model, task.train, task.targets, rows, BATCH_SIZE, weights)
            else:
                trainer.epoch(rows, BATCH_SIZE)
            done += 1
        model = model if trainer is None else trainer.finish()
        model.n_iter_ = done
        yield model.set_params(**usual | {"max_iter": done, "n_iter_no_change": done})
        model.set_params(random_state=rng)
