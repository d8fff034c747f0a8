"""Fitted probes on disk: written by skops, read back through a list of harmless types."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import RequestError

# What a saved probe may hold beyond skops' own list of harmless types; anything else in a file is refused.
TRUSTED_TYPES = ("sklearn.neural_network._stochastic_optimizers.AdamOptimizer", "sklearn.tree._tree.Tree")


def save_model(estimator: Any, path: Path) -> None:
    """Write a fitted estimator as a skops file, which runs no code on loading."""
    import skops.io  # deferred: it imports all of scikit-learn and torch, seconds that a reused run need not pay

    skops.io.dump(estimator, path, compression=zipfile.ZIP_DEFLATED, compresslevel=1)


def load_model(path: Path) -> Any:
    """Read a fitted estimator; a file that holds any type not known to be harmless is refused.

    Raises:
        RequestError: absent, or it holds other types, or a tree that would lead out of its own memory.
    """
    if not path.exists():
        raise RequestError(f"no model at {path}; run the probe again")
    import skops.io  # deferred, see `save_model`

    if foreign := sorted(set(skops.io.get_untrusted_types(file=path)) - set(TRUSTED_TYPES)):
        raise RequestError(f"{path} holds types that no probe writes ({', '.join(foreign)}); it is not loaded")
    model = skops.io.load(path, trusted=list(TRUSTED_TYPES))
    for member in getattr(model, "estimators_", []):
        if not _sound(member.tree_, model.n_features_in_):
            raise RequestError(f"{path}: a tree is not sound; it is not used. Run the probe again")
    return model


def _sound(tree: Any, features: int) -> bool:
    """Whether every step through a tree stays inside it: scikit-learn itself follows nodes without looking."""
    inner = np.flatnonzero(tree.children_left != -1)
    children = np.stack([tree.children_left[inner], tree.children_right[inner]])
    asked = tree.feature[inner]
    forward = (children > inner).all() and (children < tree.node_count).all()  # forward: no circles either
    return bool(forward and (asked >= 0).all() and (asked < features).all())
