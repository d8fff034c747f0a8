"""What there is to report: every encoder on every dataset, with its features and runs."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from analysis import frames
from analysis.contract import ViewRequest
from data import paths, store
from data.errors import DamageWarning, RequestError
from data.runs import Run


@dataclass(frozen=True)
class EncoderResults:
    """One encoder on one dataset, known from its features, its runs or both.

    Args:
        dataset: folder name.
        encoder: folder name.
        words: the encoder in a few words, unique in the report.
        folder: where its features are or would be.
        shared: ``dataset`` and ``encoder`` identity.
        splits: identity of each split known.
        environment: what featurize recorded, if the features exist.
        present: splits whose features exist.
        runs: its runs.
    """

    dataset: str
    encoder: str
    words: str
    folder: Path
    shared: dict[str, Any]
    splits: dict[str, dict[str, Any]]
    environment: dict[str, Any]
    present: list[str]
    runs: list[Run]

    @property
    def simulated(self) -> bool:
        """Whether the samples were generated."""
        return bool(self.shared["dataset"]["provenance"].get("simulated"))


def find(request: ViewRequest, runs: Sequence[Run]) -> list[EncoderResults]:
    """Every encoder x dataset that has features or runs, of those that fit the request, sorted by folder.

    Raises:
        RequestError: there is nothing at all, or a feature file is damaged and no run describes its encoder.
    """
    grouped = frames.grouped(runs)
    folders = {(folder.parent.name, folder.name): folder for folder in paths.feature_folders(request.out)}
    found = []
    for key in sorted(grouped.keys() | folders.keys()):
        one = _results(request.out, key, folders.get(key), grouped.get(key, []))
        if request.model not in (None, one.shared["encoder"]["name"], one.encoder):
            continue
        if request.dataset in (None, one.shared["dataset"]["name"], one.dataset):
            found.append(one)
    if not found:
        raise RequestError(
            f"nothing to report under {request.out}; make features with featurize, then runs with probe --kind all"
        )
    words = frames.distinct_words({(one.dataset, one.encoder): one.shared["encoder"] for one in found})
    return [replace(one, words=words[one.dataset, one.encoder]) for one in found]


def _results(out: Path, key: tuple[str, str], folder: Path | None, runs: list[Run]) -> EncoderResults:
    dataset, encoder = key
    present = store.splits_in(folder) if folder else []
    shared, splits, environment = {}, {}, {}
    if runs:
        shared = runs[0].record["features"]
        splits |= shared["splits"]
    for split in list(present):
        try:
            shared, environment = store.read_identity(paths.feature_file(folder, split))  # type: ignore[arg-type]
        except store.Damaged as error:
            if not runs and len(present) == 1:
                raise  # nothing else describes this encoder
            warnings.warn(DamageWarning(f"left out: {error}"), stacklevel=2)
            present.remove(split)
            continue
        splits[split] = shared["split"]
    where = paths.feature_folder(out, dataset, encoder)
    words = frames.model_words(shared["encoder"])
    return EncoderResults(dataset, encoder, words, where, shared, splits, environment, present, runs)
