"""Reading feature files, and finding the one that a command means."""

import hashlib
import json
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data import paths
from data.dataset import SPLITS
from data.errors import RequestError
from data.files import explained
from data.store.identity import SCHEMA, dataset_slug

CHUNK_ROWS = 1024


@dataclass(frozen=True)
class FeatureSet:
    """One split's features in memory.

    Args:
        file: where it came from.
        features: (N, D) float16 or float32.
        labels: (N, K) uint8 or (N,) int64.
        ids: N names.
        lonlat: (N, 2) degrees, or None.
        class_names: K names.
        identity: what decided the values.
        environment: what was recorded with them.
        views: the same images altered, where a probe learns from them too.
    """

    file: Path
    features: np.ndarray
    labels: np.ndarray
    ids: list[str]
    lonlat: np.ndarray | None
    class_names: tuple[str, ...]
    identity: dict[str, Any]
    environment: dict[str, Any]
    views: tuple["FeatureSet", ...] = ()

    @property
    def multilabel(self) -> bool:
        """Whether a sample may have several classes."""
        return self.labels.ndim == 2

    @property
    def simulated(self) -> bool:
        """Whether the samples were generated, not observed; results must say so."""
        return bool(self.identity["dataset"]["provenance"].get("simulated"))


def open_hdf5(file: Path) -> Any:
    """Open an HDF5 file for reading; typed loosely, as h5py cannot tell what a name in a file holds.

    Without HDF5's locking, which fails on disks without file locks: a published file is never written again.
    """
    return h5py.File(file, "r", locking=False)


def read_features(file: Path, *, lazy: bool = False) -> FeatureSet:
    """Read one feature file.

    Args:
        file: the feature file.
        lazy: leave the features on disk: slices of them are read on demand, from the file as it is now even if
            another takes its name.

    Raises:
        RequestError: absent, not HDF5, damaged, or of another schema.
    """
    if not file.is_file():
        raise RequestError(f"no feature file at {file}; name a file such as train.h5, or make it with featurize")
    try:
        with ExitStack() as stack:
            source = stack.enter_context(open_hdf5(file))
            identity, environment = read_attributes(source)
            found = FeatureSet(
                file=file,
                features=source["features"] if lazy else source["features"][:],
                labels=source["labels"][:],
                ids=[value.decode() for value in source["ids"][:]],
                lonlat=source["lonlat"][:] if "lonlat" in source else None,
                class_names=tuple(identity["dataset"]["class_names"]),
                identity=identity,
                environment=environment,
            )
            if lazy:
                stack.pop_all()  # stays open until the features are no longer referred to
            return found
    except (OSError, KeyError, ValueError, RuntimeError) as error:  # h5py's, of damaged files
        raise _unreadable(file, error) from error


def read_identity(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity and environment of a feature file, without reading its arrays.

    Raises:
        RequestError: as `read_features`.
    """
    try:
        with open_hdf5(file) as source:
            return read_attributes(source)
    except (OSError, KeyError, ValueError, RuntimeError) as error:  # h5py's, of damaged files
        raise _unreadable(file, error) from error


def digest_attributes(source: Any) -> str:
    """sha256 of what is kept beside the arrays."""
    kept = [str(source.attrs[name]) for name in ("identity", "environment", "class_names", "checksums")]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()


def read_attributes(source: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity and environment of an open feature file."""
    identity = json.loads(source.attrs["identity"])
    if identity["schema"] != SCHEMA:
        raise RequestError(f"{source.filename} has schema {identity['schema']}, this version reads {SCHEMA}")
    return identity, json.loads(source.attrs["environment"])


def _unreadable(file: Path, error: Exception) -> RequestError:
    if isinstance(error, OSError) and error.errno:  # the file system's, which say nothing about the file's content
        return RequestError(str(explained(error, file)))
    return RequestError(
        f"{file} is not a readable feature file ({type(error).__name__}); featurize verify {file} says what is wrong, "
        "and featurize verify --repair mends what can be mended"
    )


def find_features(out: Path, *, model: str | None = None, dataset: str | None = None) -> Path:
    """The one feature folder under `out` that fits; a feature set is a folder with a file a split.

    Args:
        out: output folder.
        model: model name, or its folder name with the hash; None fits all.
        dataset: dataset name, or its folder name with the variant; None fits all.

    Raises:
        RequestError: none fits, or several do; the message lists them and says which flag chooses.
    """
    fitting = []
    for folder in paths.feature_folders(out):
        identity, _ = read_identity(next(iter(sorted(folder.glob("*.h5")))))
        if model not in (None, identity["encoder"]["name"], folder.name):
            continue
        if dataset not in (None, identity["dataset"]["name"], dataset_slug(identity)):
            continue
        fitting.append(folder)
    if not fitting:
        wanted = " ".join(f"--{k} {v}" for k, v in (("model", model), ("dataset", dataset)) if v)
        raise RequestError(
            f"no features {f'for {wanted} ' if wanted else ''}under {paths.feature_root(out)}; make them with featurize"
        )
    if len(fitting) > 1:
        raise RequestError(
            f"{len(fitting)} feature sets fit; choose with --model, --dataset or --features: "
            + ", ".join(str(folder) for folder in fitting)
        )
    return fitting[0]


def splits_in(folder: Path) -> list[str]:
    """Splits published in a feature folder, in the usual order."""
    return [split for split in SPLITS if paths.feature_file(folder, split).exists()]
