"""Datasets and the contracts that the stages share; the lowest layer, imports none of the other packages."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.errors import RequestError
    from data.runs import Run, find_runs, read_run
    from data.store import FeatureSet, read_features

__all__ = ["FeatureSet", "RequestError", "Run", "find_runs", "read_features", "read_run"]

_MODULES = {"FeatureSet": "store", "read_features": "store", "RequestError": "errors"}  # the others are of runs


def __getattr__(name: str) -> Any:  # numpy and h5py are imported when something is used
    if name not in __all__:
        raise AttributeError(f"module 'data' of Frozen Earth has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f"data.{_MODULES.get(name, 'runs')}"), name)


def __dir__() -> list[str]:
    return __all__
