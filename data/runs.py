"""Probe results on disk: ``run.json``, ``predictions.h5`` and ``model.skops`` in one folder a run.

``history`` of a record is what the chosen candidate's fit left behind, by name; most kinds leave nothing. ``head``
leaves ``curves``: a list with an entry for every epoch, also those after the chosen one (``chosen.epoch``), each with
``epoch`` (from 1), ``train_loss``, ``val_loss``, ``train_accuracy`` and ``val_accuracy``. They are measured after the
epoch with the weights it ended with, on all of val and all of the train samples in use, unaltered. Single-label: mean
cross-entropy (nats a sample) and share of samples whose highest score is right. Multi-label: binary cross-entropy
(nats) and share of right decisions at 0.5, both over every label of every sample.
"""

import io
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data import paths
from data.errors import RequestError
from data.files import canonical_json, explained, fsync_folder, sha256_of_file, short_hash
from data.store import open_hdf5

SCHEMA = 1
REQUIRED = {"dataset", "encoder", "kind", "seed", "features", "class_names", "multilabel", "metrics", "per_class"}
FILES = ("run.json", "predictions.h5", "model.skops")


@dataclass(frozen=True)
class Predictions:
    """Scores of one split.

    Args:
        ids: N names.
        labels: (N, K) uint8 or (N,) int64, the truth.
        scores: (N, K) float32, probabilities.
        lonlat: (N, 2) degrees, or None.
    """

    ids: list[str]
    labels: np.ndarray
    scores: np.ndarray
    lonlat: np.ndarray | None = None


@dataclass(frozen=True)
class Run:
    """One finished run: its folder and the content of its ``run.json``."""

    folder: Path
    record: dict[str, Any]

    @property
    def kind(self) -> str:
        """Probe kind, such as ``rf``."""
        return self.record["kind"]

    @property
    def dataset(self) -> str:
        """Folder name of the dataset, with its variant."""
        return self.record["dataset"]

    @property
    def encoder(self) -> str:
        """Folder name of the encoder, with its hash."""
        return self.record["encoder"]

    @property
    def class_names(self) -> list[str]:
        """K names."""
        return self.record["class_names"]

    @property
    def multilabel(self) -> bool:
        """Whether a sample may have several classes."""
        return self.record["multilabel"]

    @property
    def simulated(self) -> bool:
        """Whether the samples were generated, not observed; results must say so."""
        return bool(self.record["features"]["dataset"]["provenance"].get("simulated"))

    def predictions(self, split: str) -> Predictions:
        """Scores and labels of ``val`` or ``test``.

        Raises:
            RequestError: the file is absent or damaged.
        """
        file = self.folder / "predictions.h5"
        try:
            with open_hdf5(file) as source:
                group = source[split]
                ids = [value.decode() for value in group["ids"][:]]
                lonlat = group["lonlat"][:] if "lonlat" in group else None
                return Predictions(ids=ids, labels=group["labels"][:], scores=group["scores"][:], lonlat=lonlat)
        except (OSError, KeyError) as error:
            raise RequestError(f"{file} has no readable predictions of {split}; run the probe again") from error

    @property
    def model_sha256(self) -> str:
        """What ``model.skops`` was when the run was written; its bytes differ from fit to fit, so run.json has it not.

        Raises:
            RequestError: the file that holds it is absent or damaged.
        """
        file = self.folder / "predictions.h5"
        try:
            with open_hdf5(file) as source:
                return str(source.attrs["model_sha256"])
        except (OSError, KeyError) as error:
            raise RequestError(f"{file} does not say which model made it; run the probe again") from error


def run_name(kind: str, features: dict[str, Any], arguments: dict[str, Any], seed: int) -> str:
    """``<kind>-<hash>``: the hash of all that decides the result.

    Args:
        kind: probe kind.
        features: by split, the identity of its feature file.
        arguments: the probe's settings.
        seed: random seed.
    """
    return f"{kind}-{short_hash({'features': features, 'arguments': arguments, 'seed': seed})}"


def write_run(
    folder: Path,
    record: dict[str, Any],
    predictions: dict[str, Predictions],
    save_model: Callable[[Path], None],
) -> Run:
    """Publish a run in one rename; ``run.json`` is written once and never appended to.

    Args:
        folder: see `data.paths.run_folder`.
        record: the content of ``run.json``, without ``schema``.
        predictions: by split.
        save_model: writes the fitted model to the path it is given.

    Raises:
        RequestError: the disk is full; nothing is left behind.
    """
    temporary = folder.with_name(f".{folder.name}.tmp-{secrets.token_hex(8)}")
    replaced = folder.with_name(f".{folder.name}.old-{secrets.token_hex(8)}")
    try:
        temporary.mkdir(parents=True)
        save_model(temporary / "model.skops")
        buffer = io.BytesIO()  # HDF5 in memory first: it crashes the process when a disk fills up under it
        with h5py.File(buffer, "w") as file:
            for split, values in predictions.items():
                group = file.create_group(split)
                group["ids"] = np.array([name.encode() for name in values.ids])
                group.create_dataset("labels", data=values.labels, fletcher32=True, chunks=True)
                group.create_dataset("scores", data=values.scores.astype(np.float32), fletcher32=True, chunks=True)
                if values.lonlat is not None:
                    group.create_dataset("lonlat", data=values.lonlat, fletcher32=True, chunks=True)
            file.attrs["model_sha256"] = sha256_of_file(temporary / "model.skops")
        (temporary / "predictions.h5").write_bytes(buffer.getvalue())
        record = {"schema": SCHEMA, **record}
        canonical_json(record)  # NaN is not JSON: fail here, not in a reader
        (temporary / "run.json").write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
        for file in temporary.iterdir():
            with file.open("rb") as written:
                os.fsync(written.fileno())
        if folder.exists():
            folder.rename(replaced)
        temporary.rename(folder)
        fsync_folder(folder.parent)
    except OSError as error:
        raise explained(error, folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)
    return Run(folder, record)


def read_run(folder: Path) -> Run:
    """Read a run.

    Raises:
        RequestError: no run there, or its ``run.json`` is damaged.
    """
    file = folder / "run.json"
    if not file.exists():
        raise RequestError(f"no run at {folder}; make one with probe")
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{file} is damaged; delete the folder and run the probe again") from error
    if not isinstance(record, dict) or (record.get("schema") == SCHEMA and not record.keys() >= REQUIRED):
        raise RequestError(f"{file} is damaged; delete the folder and run the probe again")
    if record.get("schema") != SCHEMA:
        raise RequestError(f"{file} has schema {record.get('schema')}, this version reads {SCHEMA}")
    for key in ("dataset", "encoder", "kind"):
        paths.check_name(record[key], f"{file}: {key}")
    return Run(folder, record)


def all_runs(out: Path, *, model: str | None = None, dataset: str | None = None, kind: str | None = None) -> list[Run]:
    """As `find_runs`.

    Raises:
        RequestError: none fits, or a run is damaged.
    """
    runs = find_runs(out, model=model, dataset=dataset, kind=kind)
    if not runs:
        raise RequestError(f"no fitting probe runs under {paths.probe_root(out)}; make some with probe")
    return runs


def find_runs(out: Path, *, model: str | None = None, dataset: str | None = None, kind: str | None = None) -> list[Run]:
    """Every run under `out` that fits the given names; perhaps none.

    Sorted by dataset, encoder and kind; of a kind, those that learned from less and lower seeds come first.

    Raises:
        RequestError: a run is damaged.
    """
    runs = []
    for folder in paths.run_folders(out):
        run = read_run(folder)
        features = run.record["features"]
        if model not in (None, features["encoder"]["name"], run.encoder):
            continue
        if dataset not in (None, features["dataset"]["name"], run.dataset):
            continue
        if kind in (None, run.kind):
            runs.append(run)
    return sorted(runs, key=_order)


def _order(run: Run) -> tuple:
    asked = run.record.get("arguments", {})
    learned = asked.get("shots") or math.inf, asked.get("fraction") or 1.0
    return run.dataset, run.encoder, run.kind, *learned, run.record["seed"], run.folder.name
