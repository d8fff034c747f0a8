"""Probe results on disk: ``run.json``, ``predictions.h5`` and ``model.skops`` in one folder per run.

``history`` of a record holds what the chosen candidate's fit recorded, by name; most kinds record nothing. ``head``
leaves ``curves``: a list with an entry for every epoch, also those after the chosen one (``chosen.epoch``), each with
``epoch`` (from 1), ``train_loss``, ``val_loss``, ``train_accuracy`` and ``val_accuracy``. They are measured after the
epoch with the weights it ended with, on all of val and all of the train samples in use, unaltered. Single-label: mean
cross-entropy (nats per sample) and share of samples whose argmax is correct. Multi-label: binary cross-entropy
(nats) and share of correct decisions at 0.5, both over every label of every sample.
"""

import hashlib
import io
import json
import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Float, Integer

from data import paths
from data.asked import current_command
from data.errors import DamageWarning, RequestError
from data.files import canonical_json, explained, sha256_of_file, short_hash
from data.folders import published_folder
from data.pairs import names_in
from data.problems import Kind, Problem
from data.schema import check_record
from data.store import Damaged, inspected, open_hdf5
from data.store.child import Signature, signature
from data.store.structure import Unfit, check_structure

SCHEMA = 2
READABLE = (1, 2)  # 1: of v0.1, without checksums
AGAIN = "fit it again with the probe command that made it"
FILES = ("run.json", "predictions.h5", "model.skops")
ARRAYS = ("ids", "labels", "scores", "lonlat", "train_km")  # of one split in predictions.h5
PREDICTIONS_KEPT = 32  # splits in memory: 10 MB each for 120,000 samples of 19 classes


@dataclass(frozen=True)
class Predictions:
    """Scores of one split.

    Args:
        ids: N names.
        labels: (N, K) uint8 or (N,) int64, the truth.
        scores: (N, K) float32, probabilities.
        lonlat: (N, 2) degrees, or None.
        train_km: (N,) great-circle distance to the nearest training sample, or None where locations are unknown.
    """

    ids: list[str]
    labels: Integer[np.ndarray, "samples ..."]
    scores: Float[np.ndarray, "samples classes"]
    lonlat: Float[np.ndarray, "samples 2"] | None = None
    train_km: Float[np.ndarray, " samples"] | None = None


def _entry(name: str) -> Any:
    """An entry of ``run.json`` as an attribute of its run."""
    return property(lambda run: run.record[name])


@dataclass(frozen=True)
class Run:
    """One finished run: its folder and the content of its ``run.json``."""

    folder: Path
    record: dict[str, Any]

    kind = _entry("kind")  # of the probe, such as ``rf``
    dataset = _entry("dataset")  # folder name of the dataset, with its variant
    encoder = _entry("encoder")  # folder name of the encoder, with its hash
    class_names = _entry("class_names")  # K names
    multilabel = _entry("multilabel")  # whether a sample may have several classes

    @property
    def simulated(self) -> bool:
        """Whether the samples were generated, not observed; results must say so."""
        return bool(self.record["features"]["dataset"]["provenance"].get("simulated"))

    @property
    def command(self) -> str | None:
        """The command that made the run; None where a Python function was called, and for runs of v0.1."""
        return self.record.get("asked")

    def predictions(self, split: str) -> Predictions:
        """Scores and labels of ``val`` or ``test``; read-only, and read once however often they are asked for.

        Raises:
            Damaged: the file is missing, does not match its checksum, or has no such split.
        """
        file = self.folder / "predictions.h5"
        labelled = (len(self.class_names),) if self.multilabel else ()
        try:
            found = _read_predictions(file, signature(file), (self.checksums or {}).get(file.name), split)
        except (OSError, KeyError, ValueError, RuntimeError, AttributeError, Unfit) as error:
            raise Damaged(f"{file} has no readable predictions of {split}; {AGAIN}") from error
        rows, classes = len(found.ids), len(self.class_names)
        if found.labels.shape != (rows, *labelled) or found.scores.shape != (rows, classes):
            raise Damaged(
                f"{file}: labels and scores of {split} are not of {rows} samples x {classes} classes; {AGAIN}"
            )
        return found

    def check(self, name: str) -> None:
        """Check that ``predictions.h5`` or ``model.skops`` is what was written.

        Raises:
            Damaged: it is not.
            OSError: it cannot be read.
        """
        file = self.folder / name
        expected = self.model_sha256 if name == "model.skops" else (self.checksums or {}).get(name)
        if expected is None:  # predictions of v0.1, which kept no checksum of them
            for split in self.record["metrics"]:
                self.predictions(split)
        elif sha256_of_file(file) != expected:
            raise Damaged(f"{file} does not match the checksum in run.json; {AGAIN}")

    @property
    def checksums(self) -> dict[str, str] | None:
        """sha256 of each file of the run; None for runs of v0.1."""
        return self.record.get("checksums")

    @property
    def model_sha256(self) -> str:
        """What ``model.skops`` was when the run was written."""
        if self.checksums is not None:
            return self.checksums["model.skops"]
        file = self.folder / "predictions.h5"  # of v0.1
        try:
            inspected(file, "structure")
            with open_hdf5(file) as source:
                return str(source.attrs["model_sha256"])
        except (OSError, KeyError) as error:
            raise Damaged(f"{file} does not say which model made it; {AGAIN}") from error


@lru_cache(maxsize=PREDICTIONS_KEPT)
def _read_predictions(file: Path, signature: Signature, sha256: str | None, split: str) -> Predictions:
    """One split's predictions; `signature` tells changed files apart in the cache.

    Args:
        file: ``predictions.h5``.
        signature: see `data.store.child.signature`.
        sha256: what the content must match; None for v0.1, whose files are checked by HDF5 in a child process first.
        split: val or test.
    """
    if sha256 is None:
        inspected(file, "structure")
    content = file.read_bytes()
    if sha256 is not None and hashlib.sha256(content).hexdigest() != sha256:
        raise Damaged(f"{file} does not match the checksum in run.json; {AGAIN}")
    with h5py.File(io.BytesIO(content), "r") as source:  # what was checked, whatever happens to the file
        check_structure(source)
        group: Any = source[split]
        arrays = {name: group[name][:] for name in ARRAYS if name in group}
    ids = [value.decode() for value in arrays.pop("ids")]
    for array in arrays.values():
        array.flags.writeable = False  # shared by all who ask
    return Predictions(ids, **arrays)


def run_name(kind: str, features: dict[str, Any], arguments: dict[str, Any], seed: int) -> str:
    """``<kind>-<hash>``: the hash of all that decides the result."""
    return f"{kind}-{short_hash({'features': features, 'arguments': arguments, 'seed': seed})}"


def write_run(
    folder: Path,
    record: dict[str, Any],
    predictions: dict[str, Predictions],
    save_model: Callable[[Path], None],
) -> Run:
    """Publish a run in one step, in place of an older one; ``run.json`` is written once and never appended to.

    Args:
        folder: see `data.paths.run_folder`.
        record: the content of ``run.json``, without ``schema`` and ``asked``, the command that is being carried out.
        predictions: by split.
        save_model: writes the fitted model to the path it is given.

    Raises:
        RequestError: the disk is full; nothing is left behind.
    """
    buffer = io.BytesIO()  # HDF5 in memory first: it crashes the process when a disk fills up under it
    with h5py.File(buffer, "w") as file:
        for split, values in predictions.items():
            group = file.create_group(split)
            group["ids"] = np.array([name.encode() for name in values.ids])
            arrays = vars(values) | {"scores": values.scores.astype(np.float32)}
            for name in ARRAYS[1:]:
                if arrays[name] is not None:
                    group.create_dataset(name, data=arrays[name], fletcher32=True, chunks=True)
    with published_folder(folder) as temporary:
        save_model(temporary / "model.skops")
        (temporary / "predictions.h5").write_bytes(buffer.getvalue())
        record = sign(temporary, {"schema": SCHEMA, **record, "asked": current_command()})
        (temporary / "run.json").write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    return Run(folder, record)


def sign(folder: Path, record: dict[str, Any]) -> dict[str, Any]:
    """A record with checksums of itself and of the files in a folder, as it is read back."""
    checksums = {name: sha256_of_file(folder / name) for name in FILES if name != "run.json"}
    record = json.loads(json.dumps(record | {"checksums": checksums}))
    record["checksums"]["run.json"] = _digest(record)  # NaN is not JSON: it fails here, not in a reader
    return record


def _digest(record: dict[str, Any]) -> str:
    """sha256 of a record without its own checksum."""
    others = {name: value for name, value in record["checksums"].items() if name != "run.json"}
    return hashlib.sha256(canonical_json(record | {"checksums": others}).encode()).hexdigest()


def read_run(folder: Path) -> Run:
    """Read a run's record, checked against its checksum and what records look like.

    Raises:
        Damaged: its ``run.json`` is not what was written.
        RequestError: no run there, or of another version.
    """
    folder = Path(folder)
    file = folder / "run.json"
    try:
        record = json.loads(file.read_bytes(), parse_constant=_no_constant)
    except FileNotFoundError as error:
        raise RequestError(f"no run at {folder}; make one with probe") from error
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{file} is damaged: it is not JSON; {AGAIN}") from error
    if not isinstance(record, dict):
        raise Damaged(f"{file} is damaged: it is not JSON of a run; {AGAIN}")
    if record.get("schema") not in READABLE:
        versions = " and ".join(map(str, READABLE))
        raise Damaged(
            f"{file} is damaged, or has schema {record.get('schema')}: this version reads {versions}; {AGAIN}"
        )
    try:
        signed = record["schema"] > 1 or "checksums" in record
        sound = not signed or _digest(record) == record["checksums"]["run.json"]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError):
        sound = False
    if not sound:
        raise Damaged(f"{file} does not match its checksum; {AGAIN}")
    if why := check_record(record):
        raise Damaged(f"{file} is damaged: {why}; {AGAIN}")
    if signed and not record["checksums"].keys() >= set(FILES):
        raise Damaged(f"{file} is damaged: it lacks checksums of {', '.join(FILES)}; {AGAIN}")
    for key in ("dataset", "encoder", "kind"):
        paths.check_name(record[key], f"{file}: {key}")
    return Run(folder, record)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True)
class VerifiedRun:
    """Result of `verify_run`."""

    folder: Path  # of the run
    # what is wrong; empty for a sound run, and for one of v0.1, which kept no checksums, of which nothing wrong can be
    # seen
    problems: tuple[Problem, ...]
    run: Run | None = None  # the run; None where its ``run.json`` cannot be used

    def __str__(self) -> str:
        if self.problems:
            return "\n".join(map(str, self.problems))
        signed = self.run is not None and self.run.checksums is not None
        return f"{self.folder}: {'good' if signed else 'unverified (version 0.1 kept no checksums)'}"


def verify_run(folder: Path) -> VerifiedRun:
    """Find what is wrong with the files of a run."""
    run, problems = None, []
    with _collected(problems, folder / "run.json"):
        run = read_run(folder)
    for name in FILES[1:] if run else ():
        with _collected(problems, folder / name):
            run.check(name)
    return VerifiedRun(folder, tuple(problems), run)


@contextmanager
def _collected(problems: list[Problem], file: Path) -> Iterator[None]:
    """Add what is raised to a list of problems."""
    try:
        yield
    except FileNotFoundError:
        problems.append(Problem(Kind.MISSING, file, f"{file} is missing; {AGAIN}"))
    except OSError as error:
        problems.append(Problem(Kind.UNREADABLE, file, str(explained(error, file))))
    except RequestError as error:
        problems.append(Problem(Kind.DAMAGED, file, str(error)))


def folders_of_runs(places: Iterable[Path]) -> list[Path]:
    """Every folder of a run in or below some folders, sorted; one whose record is gone counts by its other files."""
    found = {file.parent for place in places for name in FILES for file in place.rglob(name)}
    return sorted(folder for folder in found if not any(part.startswith(".") for part in folder.parts[-1:]))


def report_verified(folders: Iterable[Path]) -> int:
    """Verify runs and print what was found; returns how many are damaged."""
    wrong = 0
    for folder in folders:
        verified = verify_run(folder)
        wrong += bool(verified.problems)
        print(verified)
    return wrong


def intact(folder: Path) -> Run | None:
    """The run in a folder; None where there is none, or one of its files is missing or damaged."""
    verified = verify_run(folder) if folder.is_dir() else None
    return verified.run if verified and not verified.problems else None


def find_runs(out: Path, *, model: str | None = None, dataset: str | None = None, kind: str | None = None) -> list[Run]:
    """Every run under `out` that matches these names, perhaps none; damaged ones are left out with a `DamageWarning`.

    `model` and `dataset` may be comma-separated lists.
    Sorted by dataset, encoder and kind; within a kind, smaller training sets and lower seeds come first.
    """
    runs, models, datasets = [], names_in(model), names_in(dataset)
    for folder in paths.run_folders(Path(out)):
        try:
            run = read_run(folder)
        except RequestError as error:
            warnings.warn(DamageWarning(f"left out: {error}"), stacklevel=2)
            continue
        features = run.record["features"]
        fits = not {None, features["encoder"]["name"], run.encoder}.isdisjoint(models)
        fits &= not {None, features["dataset"]["name"], run.dataset}.isdisjoint(datasets)
        if fits and kind in (None, run.kind):
            runs.append(run)
    return sorted(runs, key=_order)


def _order(run: Run) -> tuple:
    asked = run.record.get("arguments", {})
    learned = asked.get("shots") or math.inf, asked.get("fraction") or 1.0
    return run.dataset, run.encoder, run.kind, *learned, run.record["seed"], run.folder.name
