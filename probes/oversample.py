"""Synthetic samples of rare classes among the training features: SMOTE (Chawla et al. 2002), by imbalanced-learn.

A synthetic sample lies between a sample and one of its nearest neighbours of the same class. Features are brought to
one scale for the distances, so that those of a large unit do not decide alone. Only training rows are made; val and
test stay as they are.
"""

from importlib.util import find_spec
from typing import Any

import numpy as np

from data.errors import RequestError

NEIGHBOURS = 5  # as in the paper, and scikit-learn-contrib's default


def check(method: str, *, multilabel: bool, views: int) -> None:
    """Raise a RequestError where oversampling cannot be done.

    Args:
        method: one of `probes.flags.OVERSAMPLING`.
        multilabel: whether a sample may have several classes.
        views: see `probes.settings.Settings`.
    """
    if multilabel:
        raise RequestError(
            f"--oversample {method}: a sample between two samples of several labels has no known labels; give "
            "--balanced, which weighs rare classes"
        )
    if views > 1:
        raise RequestError(f"--oversample {method} and --augment both add training samples; give one of them")
    if find_spec("imblearn") is None:
        raise RequestError(
            f"--oversample {method} needs imbalanced-learn; install it with: pip install 'frozen-earth[imbalance]'"
        )


def smote(
    features: np.ndarray, labels: np.ndarray, names: list[str], *, seed: int
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Add synthetic samples until every class that occurs has as many as the largest.

    Args:
        features: (N, D).
        labels: (N,) class numbers.
        names: K class names.
        seed: of the draws.

    Returns:
        Features (M, D) of the same type, first those given; labels (M,); and what a run records: ``method``,
        ``neighbours``, ``synthetic`` (samples made, by class name) and ``fewer_neighbours`` (used, by name of a class
        with too few samples for all).

    Raises:
        RequestError: a class has one sample, and so no neighbours.
    """
    from imblearn.over_sampling import SMOTE  # deferred: an extra

    counts = np.bincount(labels, minlength=len(names))
    most = int(counts.max())
    wanted = [int(k) for k in np.flatnonzero((counts > 0) & (counts < most))]
    if single := [names[k] for k in wanted if counts[k] == 1]:
        raise RequestError(
            f"--oversample smote: class '{single[0]}' has a single training sample, and SMOTE draws between at least "
            "two; leave it out with featurize --only-classes, give more samples, or drop the flag"
        )
    spread = features.std(axis=0, dtype=np.float64)
    scale = np.where(spread > 0, spread, 1.0)
    scaled = (features / scale).astype(np.float32)
    added, of_class = [features], [labels]
    told: dict[str, Any] = {"method": "smote", "neighbours": NEIGHBOURS, "synthetic": {}, "fewer_neighbours": {}}
    for k in wanted:
        neighbours = min(NEIGHBOURS, int(counts[k]) - 1)
        strategy: Any = {k: most}
        sampler: Any = SMOTE(sampling_strategy=strategy, k_neighbors=neighbours, random_state=seed)
        made = sampler.fit_resample(scaled, labels)[0]
        added.append((made[len(labels) :] * scale).astype(features.dtype))
        of_class.append(np.full(most - counts[k], k, labels.dtype))
        told["synthetic"][names[k]] = int(most - counts[k])
        if neighbours < NEIGHBOURS:
            told["fewer_neighbours"][names[k]] = neighbours
    return np.concatenate(added), np.concatenate(of_class), told


def warnings_of(told: dict[str, Any] | None) -> list[str]:
    """What a reader of the run should know.

    Args:
        told: of `smote`, or None.
    """
    few = (told or {}).get("fewer_neighbours", {})
    return [
        f"class '{name}' has {count + 1} training samples: SMOTE drew between each and its {count} nearest"
        for name, count in few.items()
    ]
