"""MLP: one hidden layer on z-scored features, trained with Adam; size, alpha and epochs chosen on val."""

from typing import Any

from sklearn.neural_network import MLPClassifier

from probes.card import ProbeCard

CARD = ProbeCard(standardize="train", class_weights=("single-label",))


def candidates(rows: int) -> list[dict[str, Any]]:
    """Hyper-parameters to try, the smallest and most regularized first."""
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
