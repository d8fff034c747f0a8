"""Import embeddings that were made elsewhere as a feature set: `featurize import`.

Vectors are read twice, block by block: once to check them and once to write them, so memory does not grow with their
number. The other columns (ids, labels, splits, locations) are read whole.
"""

import re
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from data import paths
from data.asked import current_command
from data.dataset import SPLITS, EODataset
from data.errors import RequestError
from data.files import sha256_of_file
from data.flags import ImportFlags
from data.store.exchange.embeddings import Embeddings, open_embeddings
from data.store.exchange.rasters import DIMENSIONS, open_rasters
from data.store.exchange.rows import Rows, read_rows
from data.store.identity import dataset_slug, encoder_slug, make_identity
from data.store.writer import DEFAULT_PART_ROWS, FeatureWriter


def import_features(file: Path, flags: ImportFlags, out: Path) -> list[Path]:
    """Write one feature file per split.

    Args:
        file: Parquet or GeoParquet, ``.npy``, ``.npz`` or HDF5; a raster of embeddings or a folder of them.
        flags: how to read it.
        out: output folder.

    Returns:
        The files.

    Raises:
        RequestError: the file or table cannot be read or joined, or rows cannot be used; with their numbers.
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", flags.name):
        raise RequestError(
            f"--name {flags.name}: use letters, digits, '-', '_' and '.', starting with a letter or digit"
        )
    if flags.format in DIMENSIONS:
        source: Embeddings = open_rasters(file, flags.format, flags.at, flags.pooling)
    elif flags.at or flags.pooling:
        raise RequestError(f"--at and --pooling are for --format {' and '.join(DIMENSIONS)}; remove them")
    else:
        source = open_embeddings(file, flags.format, flags.embedding)
    rows, digest = read_rows(flags, source), source.digest()
    imported: dict[str, Any] = {"file_sha256": digest, "split": rows.how_split}
    if rows.dropped:
        imported["dropped"] = rows.dropped
    if flags.table:
        imported["table_sha256"] = sha256_of_file(flags.table)
    encoder = _encoder(flags.model or source.model or "imported", source, digest)
    environment: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "imported_from": file.name,
        "asked": current_command(),
    }
    if source.metadata:
        environment["embedding_metadata"] = source.metadata
    with ExitStack() as held:
        sets = []
        for split in SPLITS:
            of_split = rows.splits == split
            if not of_split.any():
                continue
            dataset = _dataset(flags.name, split, rows, of_split, imported)
            identity = make_identity(dataset, encoder)
            folder = paths.feature_folder(out, dataset_slug(identity), encoder_slug(identity))
            size = {"rows": len(dataset), "dim": source.dim, "dtype": source.dtype, "part_rows": DEFAULT_PART_ROWS}
            target = paths.feature_file(folder, split)
            writer = held.enter_context(FeatureWriter(target, identity, **size, overwrite=flags.overwrite))
            chosen = np.zeros(source.rows, bool)
            chosen[np.flatnonzero(rows.keep)[of_split]] = True
            sets.append((dataset, chosen, _Parts(writer)))
        for start, block in source.blocks():
            for _, chosen, parts in sets:
                parts.add(block[chosen[start : start + len(block)]])
        return [parts.writer.finish(dataset, environment) for dataset, _, parts in sets]


def _dataset(name: str, split: str, rows: Rows, of_split: Bool[np.ndarray, " samples"], imported: dict) -> "_Imported":
    """The rows of one split as a dataset without images."""
    dataset = _Imported(
        name=name,
        variant=None,
        split=split,
        ids=[one for one, ours in zip(rows.ids, of_split, strict=True) if ours],
        labels=rows.labels[of_split],
        class_names=rows.class_names,
        bands=(),
        statistics={},
        lonlat=None if rows.lonlat is None else rows.lonlat[of_split],
        provenance={"imported": imported},
    )
    dataset.geometry = None if rows.geometry is None else rows.geometry[of_split]
    return dataset


def _encoder(name: str, source: Embeddings, digest: str) -> dict[str, Any]:
    """Identity of an encoder of which nothing but its vectors is known."""
    return {
        "name": name,
        "variant": None,
        "bands": [],
        "bands_name": "imported",
        "wavelengths_um": [],
        "image_size": None,
        "interpolation": None,
        "pooling": source.pooling,
        "normalization": {"method": "as-imported"},
        "weights": {"source": "imported", "sha256": digest},
        "precision": "as-imported",
        "dtype": source.dtype,
    }


class _Imported(EODataset):
    """Ids, labels and locations without pixels."""

    def read(self, index: int, bands: Any) -> list[np.ndarray]:
        """Raise a RequestError: an imported set has vectors only."""
        raise RequestError(f"{self.name} was imported as embeddings; it has no pixels")


class _Parts:
    """Writes the rows of one split, part by part, as blocks of the file fill them; finished parts are kept."""

    def __init__(self, writer: FeatureWriter) -> None:
        self.writer, self.missing = writer, set(writer.missing())
        self.part, self.held, self.count = 0, [], 0

    def add(self, block: np.ndarray) -> None:
        """Take the next rows, (n, D)."""
        self.held.append(block)
        self.count += len(block)
        while self.part < self.writer.parts_in_all:
            first, last = self.writer.bounds(self.part)
            if self.count < last - first:
                return
            whole = np.concatenate(self.held)
            if self.part in self.missing:
                self.writer.write_part(self.part, whole[: last - first])
            self.held, self.part, self.count = [whole[last - first :]], self.part + 1, self.count - (last - first)
