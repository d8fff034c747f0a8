"""Fitted probes on disk: written by skops, read back through a list of harmless types."""

import importlib
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import sklearn.utils
from sklearn.base import BaseEstimator

from data.errors import RequestError
from data.files import sha256_of_file

# What a saved probe may hold beyond skops' own list of harmless types; anything else in a file is refused.
TRUSTED_TYPES = (
    "probes.calibration.Calibrated",
    "probes.kinds.knn.Neighbours",
    "probes.kinds.linear.LinearProbe",
    "probes.kinds.prior.Prior",
    "sklearn.neural_network._stochastic_optimizers.AdamOptimizer",
    "sklearn.tree._tree.Tree",
)


def _skops() -> Any:
    """skops.io, without its list of scikit-learn's estimators: making it imports all of scikit-learn and more."""
    listing, sklearn.utils.all_estimators = sklearn.utils.all_estimators, list
    try:
        import skops.io
    finally:
        sklearn.utils.all_estimators = listing
    return skops.io


def _is_estimator(name: str) -> bool:
    """Whether a type's name is that of an estimator of scikit-learn, which skops would list as harmless."""
    module, _, kind = name.rpartition(".")
    if not (module.startswith("sklearn.") and all(part.isidentifier() for part in name.split("."))):
        return False
    try:
        found = getattr(importlib.import_module(module), kind, None)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, BaseEstimator)


def save_model(estimator: Any, path: Path) -> None:
    """Write a fitted estimator as a skops file, which runs no code on loading."""
    _skops().dump(estimator, path, compression=zipfile.ZIP_DEFLATED, compresslevel=1)


def load_model(path: Path, *, sha256: str | None = None) -> Any:
    """Read a fitted estimator; a file of another digest, or with a type not known to be harmless, is refused.

    Raises:
        RequestError: absent, changed or damaged, or it holds other types, or a tree that would lead out of its own
            memory.
    """
    if not path.exists():
        raise RequestError(f"no model at {path}; run the probe again")
    if sha256 is not None and sha256_of_file(path) != sha256:
        raise RequestError(f"{path} is not the model that the run wrote; it is not loaded. Run the probe again")
    try:
        return _load(path)
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, json.JSONDecodeError) as error:
        raise RequestError(f"{path} is damaged ({type(error).__name__}); run the probe again") from error


def _load(path: Path) -> Any:
    skops = _skops()
    unlisted = set(skops.get_untrusted_types(file=path)) - set(TRUSTED_TYPES)
    estimators = {name for name in unlisted if _is_estimator(name)}
    if foreign := sorted(unlisted - estimators):
        raise RequestError(f"{path} holds types that no probe writes ({', '.join(foreign)}); it is not loaded")
    model = skops.load(path, trusted=[*TRUSTED_TYPES, *estimators])
    probe = getattr(model, "probe", model)  # what was calibrated
    for member in getattr(probe, "estimators_", []):
        if not _sound(member.tree_, probe.n_features_in_):
            raise RequestError(f"{path}: a tree is damaged and is not used; run the probe again")
    return model


def _sound(tree: Any, features: int) -> bool:
    """Whether every step through a tree stays inside it: scikit-learn itself follows nodes without looking."""
    inner = np.flatnonzero(tree.children_left != -1)
    children = np.stack([tree.children_left[inner], tree.children_right[inner]])
    asked = tree.feature[inner]
    forward = (children > inner).all() and (children < tree.node_count).all()  # forward: no circles either
    return bool(forward and (asked >= 0).all() and (asked < features).all())
