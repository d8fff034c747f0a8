"""Predictions of a finished run for other features: ids, labels and scores as a table.

The features must come from the encoder that the run was trained on, with all settings that decide a value. They may be
another split or other samples of the same dataset; those of another dataset need `other_dataset`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from joblib import effective_n_jobs
from pyarrow.csv import CSVWriter
from pyarrow.parquet import ParquetWriter

from data import runs, store
from data.checksums import published_signed
from data.command import progress
from data.errors import RequestError
from probes import inputs
from probes.models import load_model
from probes.pooling import thresholds_of
from probes.scores import decide, score

WRITERS: dict[str, Any] = {".csv": CSVWriter, ".parquet": ParquetWriter}
BLOCK_ROWS = 8 * inputs.BLOCK_ROWS  # scored and written at a time


@dataclass(frozen=True)
class Scoring:
    """A run's model beside the features that it is to score, checked.

    Args:
        run: a finished run.
        features: of its encoder, on disk.
        model: the fitted model.
        thresholds: of the decision rule, see `probes.scores.decide`.
        n_jobs: blocks of rows scored at a time.
        notes: for whoever reads the predictions.
    """

    run: runs.Run
    features: store.FeatureSet
    model: Any
    thresholds: Any
    n_jobs: int
    notes: list[str]

    @property
    def schema(self) -> pa.Schema:
        """``id``; ``label``, the predicted class, or for multi-label runs ``labels``, the predicted classes joined by
        ``;``, possibly none; ``score: <class>`` for every class, float32.
        """
        column = "labels" if self.run.multilabel else "label"
        scores = {f"score: {name}": pa.float32() for name in self.run.class_names}
        return pa.schema(list(({"id": pa.string(), column: pa.string()} | scores).items()))

    def tables(self) -> Iterator[pa.Table]:
        """One row per sample, in the file's order, some rows at a time."""
        run, features, names = self.run, self.features, self.run.class_names
        how = {"classes": len(names), "multilabel": run.multilabel, "n_jobs": self.n_jobs}
        with progress(f"{run.kind} on {features.file.name}", len(features.ids), "samples") as advance:
            for start in range(0, len(features.ids), BLOCK_ROWS):
                block = features.features[start : start + BLOCK_ROWS]
                scores = score(self.model, block, **how)
                predicted = decide(scores, self.thresholds)
                labels = [";".join(names[k] for k in np.flatnonzero(row)) for row in predicted]
                columns = (features.ids[start : start + len(block)], labels, *scores.T)
                yield pa.Table.from_pydict(dict(zip(self.schema.names, columns, strict=True)), self.schema)
                advance(len(block))


def prepare(
    run: runs.Run,
    file: Path | Sequence[Path],
    *,
    rule: str = "tuned",
    other_dataset: bool = False,
    n_jobs: int = 1,
) -> Scoring:
    """Check that a run's model may score these features, and load both.

    Args:
        run: a finished run.
        file: a feature file, of any split; of a run on joined features, one per encoder, or a joined one.
        rule: ``tuned`` for the run's thresholds, ``half`` for 0.5; single-label runs take the argmax.
        other_dataset: accept features of a dataset that the run was not trained on.
        n_jobs: blocks of rows scored at a time, -1 for one per core; does not change the result.

    Raises:
        RequestError: features of another encoder, or of another dataset where `other_dataset` is off; NaN, no rows,
            rows that do not line up; a model file that is absent, damaged or not what the run wrote.
    """
    if n_jobs == 0:
        raise RequestError("--n-jobs 0: give a number of jobs, or -1 for one per core")
    features = read_fused(run, [file] if isinstance(file, Path) else file)
    notes = check_features(run, features, other_dataset=other_dataset)
    model = load_model(run.folder / "model.skops", sha256=run.model_sha256)
    return Scoring(run, features, model, thresholds_of(run, rule), effective_n_jobs(n_jobs), notes)


def predict(
    run: runs.Run, file: Path | Sequence[Path], to: Path, *, n_jobs: int = 1, **settings: Any
) -> tuple[int, list[str]]:
    """Score every sample of a feature file and write a table, see `Scoring.schema`.

    Args:
        run: a finished run.
        file: see `prepare`.
        to: the table to write, ``.csv`` or ``.parquet``; appears whole or not at all.
        n_jobs: see `prepare`.
        settings: ``rule`` and ``other_dataset`` of `prepare`.

    Returns:
        Number of samples, and notes for whoever reads the table.

    Raises:
        RequestError: another kind of table, or as `prepare`.
    """
    if n_jobs and to.suffix not in WRITERS:
        raise RequestError(f"--to {to}: the name must end in {' or '.join(WRITERS)}")
    scoring = prepare(run, file, n_jobs=n_jobs, **settings)
    with published_signed(to) as temporary, WRITERS[to.suffix](temporary, scoring.schema) as writer:
        for table in scoring.tables():
            writer.write_table(table)
    return len(scoring.features.ids), scoring.notes


def read_fused(run: runs.Run, files: Sequence[Path]) -> store.FeatureSet:
    """The features of one file, or of one per encoder joined in the order in which the run was trained on them.

    Raises:
        RequestError: not one file for each encoder of the run, or files of different samples.
    """
    sets = [store.read_features(file, lazy=True) for file in files]
    parts = run.record["features"]["encoder"].get("parts", [])
    names = ", ".join(part["name"] for part in parts) or run.record["features"]["encoder"]["name"]
    if len(sets) == 1:
        if parts and not store.is_fused(sets[0].identity):
            raise RequestError(f"{run.folder} was trained on joined features; give one file for each of {names}")
        return sets[0]
    fitting = [[one for one in sets if one.identity["encoder"] == part] for part in parts]
    if len(sets) != len(parts) or any(len(found) != 1 for found in fitting):
        given = ", ".join(one.identity["encoder"]["name"] for one in sets)
        raise RequestError(
            f"{len(sets)} feature files (of {given}) for {run.folder}, which was trained on {names}; give one file per "
            "encoder, made with the settings of the training features"
        )
    return store.joined([found for (found,) in fitting])


def check_features(run: runs.Run, features: store.FeatureSet, *, other_dataset: bool) -> list[str]:
    """Check that a run's model can and may score these features; returns notes for whoever reads the predictions.

    Raises:
        RequestError: another encoder, or another dataset where `other_dataset` is off, which names the fields that
            differ; no rows, or rows that cannot be used.
    """
    trained, given = run.record["features"], features.identity
    if fields := store.differing_fields(trained["encoder"], given["encoder"], "encoder."):
        raise RequestError(
            f"{features.file} differs in {', '.join(fields)} from the features that {run.folder} was trained on; "
            "run featurize with the settings of the training features; if only means and standard deviations differ, "
            "give --normalize-like and the folder of the training features"
        )
    fields = store.differing_fields(_values(trained["dataset"]), _values(given["dataset"]), "dataset.")
    if fields and not other_dataset:
        raise RequestError(
            f"{features.file} differs in {', '.join(fields)} from the dataset that {run.folder} was trained on; "
            "give --other-dataset to score it anyway"
        )
    if not len(features.features):
        raise RequestError(f"{features.file} holds no samples; make it with featurize")
    inputs.check_rows(features, labelled=False)
    if (dim := features.features.shape[1]) != run.record["dim"]:
        raise RequestError(f"{features.file} has {dim} features per row, the run was trained on {run.record['dim']}")
    notes = [f"the dataset differs in {', '.join(fields)} from the one that the run was trained on"] if fields else []
    if given["split"].get("altered"):
        notes.append("the images were augmented (featurize --augment)")
    if given["split"]["name"] != "test" and given["split"]["ids_sha256"] in {
        split["ids_sha256"] for split in trained["splits"].values()
    }:
        notes.append(f"the run was fitted or chosen on these samples: they are its {given['split']['name']} split")
    resplit_by = next((how["by"] for split in trained["splits"].values() if (how := split.get("resplit"))), None)
    if resplit_by and not fields:
        notes.append(
            f"the run has new splits (--split-by {resplit_by}): it may have been trained on some of these samples"
        )
    return notes


def _values(dataset: dict[str, Any]) -> dict[str, Any]:
    """A dataset's identity without what only selects samples: --limit and --per-class."""
    provenance = {key: value for key, value in dataset["provenance"].items() if key != "per_class"}
    return dataset | {"limit": None, "provenance": provenance}
