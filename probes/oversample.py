"""Synthetic samples of rare classes among the training features: SMOTE (Chawla et al. 2002), by imbalanced-learn.

A synthetic sample lies between a sample and one of its nearest neighbors of the same class. For the distances, features
are scaled to unit standard deviation. Only training samples are added; val and test stay as they are.
"""

from importlib.util import find_spec
from typing import Any

import numpy as np
from jaxtyping import Integer, Num

from data.errors import RequestError

NEIGHBOURS = 5  # as in the paper, and scikit-learn-contrib's default


def check(method: str, *, multilabel: bool, views: int) -> None:
    """Raise a RequestError if oversampling by one of `probes.flags.OVERSAMPLING` is not possible."""
    if multilabel:
        raise RequestError(
            f"--oversample {method}: the labels of a sample between two multi-label samples are unknown; give "
            "--balanced, which weights rare classes"
        )
    if views > 1:
        raise RequestError(f"--oversample {method} and --augment cannot be combined; give one of them")
    if find_spec("imblearn") is None:
        raise RequestError(
            f"--oversample {method} needs imbalanced-learn; install it with: pip install 'frozen-earth[imbalance]'"
        )


def smote(
    features: Num[np.ndarray, "samples dim"], labels: Integer[np.ndarray, " samples"], names: list[str], *, seed: int
) -> tuple[Num[np.ndarray, "more dim"], Integer[np.ndarray, " more"], dict[str, Any]]:
    """Add synthetic samples until every class that occurs has as many samples as the largest.

    Returns:
        Features of the same type, the given ones first; labels; and what a run records: ``method``, ``neighbours``,
        ``synthetic`` (samples added, by class name) and ``fewer_neighbours`` (used, by name of a class with too few
        samples for all).

    Raises:
        RequestError: a class has a single sample, and so no neighbors.
    """
    from imblearn.over_sampling import SMOTE  # deferred: an extra

    counts = np.bincount(labels, minlength=len(names))
    most = int(counts.max())
    wanted = [int(k) for k in np.flatnonzero((counts > 0) & (counts < most))]
    if single := [names[k] for k in wanted if counts[k] == 1]:
        raise RequestError(
            f"--oversample smote: class '{single[0]}' has a single training sample, but SMOTE needs at least two; "
            "exclude the class with featurize --only-classes, give more samples, or drop the flag"
        )
    spread = features.std(axis=0, dtype=np.float64)
    scale = np.where(spread > 0, spread, 1.0)
    scaled = (features / scale).astype(np.float32)
    added, of_class = [features], [labels]
    recorded: dict[str, Any] = {"method": "smote", "neighbours": NEIGHBOURS, "synthetic": {}, "fewer_neighbours": {}}
    for k in wanted:
        neighbours = min(NEIGHBOURS, int(counts[k]) - 1)
        strategy: Any = {k: most}
        sampler: Any = SMOTE(sampling_strategy=strategy, k_neighbors=neighbours, random_state=seed)
        made = sampler.fit_resample(scaled, labels)[0]
        added.append((made[len(labels) :] * scale).astype(features.dtype))
        of_class.append(np.full(most - counts[k], k, labels.dtype))
        recorded["synthetic"][names[k]] = int(most - counts[k])
        if neighbours < NEIGHBOURS:
            recorded["fewer_neighbours"][names[k]] = neighbours
    return np.concatenate(added), np.concatenate(of_class), recorded


def warnings_of(recorded: dict[str, Any] | None) -> list[str]:
    """Warnings about classes with few samples."""
    few = (recorded or {}).get("fewer_neighbours", {})
    return [
        f"class '{name}' has {count + 1} training samples: SMOTE used {count} nearest neighbors"
        for name, count in few.items()
    ]
