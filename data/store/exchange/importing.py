"""Embeddings that were made elsewhere become a feature set: `featurize import`.

Vectors are read twice, block by block: once to check them and once to write them, so memory does not grow with their
number. The columns beside them (ids, labels, splits, places) are read whole.
"""

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from data import paths
from data.asked import current_command
from data.dataset import SPLITS, EODataset
from data.errors import RequestError
from data.files import sha256_of_file
from data.flags import ImportFlags
from data.store.exchange.embeddings import Embeddings, open_embeddings
from data.store.exchange.rows import read_rows
from data.store.identity import dataset_slug, encoder_slug, make_identity
from data.store.writer import DEFAULT_PART_ROWS, FeatureWriter


def import_features(file: Path, flags: ImportFlags, out: Path) -> list[Path]:
    """Write one feature file per split.

    Args:
        file: Parquet or GeoParquet, ``.npy``, ``.npz`` or HDF5.
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
    source = open_embeddings(file, flags.format, flags.embedding)
    rows = read_rows(flags, source)
    digest = sha256_of_file(file)
    provenance = {
        "imported": {"file_sha256": digest, "split": rows.how_split}
        | ({"dropped": rows.dropped} if rows.dropped else {})
        | ({"table_sha256": sha256_of_file(flags.table)} if flags.table else {})
    }
    encoder = {
        "name": flags.model or source.model or "imported",
        "variant": None,
        "bands": [],
        "bands_name": "imported",
        "wavelengths_um": [],
        "image_size": None,
        "interpolation": None,
        "pooling": "as-imported",
        "normalization": {"method": "as-imported"},
        "weights": {"source": "imported", "sha256": digest},
        "precision": "as-imported",
        "dtype": source.dtype,
    }
    environment: dict[str, Any] = {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "imported_from": file.name,
        "asked": current_command(),
    }
    environment |= {"embedding_metadata": source.metadata} if source.metadata else {}
    written = []
    present = [split for split in SPLITS if (rows.splits == split).any()]
    for split in present:
        of_split = rows.splits == split
        dataset = _Imported(
            name=flags.name,
            variant=None,
            split=split,
            ids=[name for name, ours in zip(rows.ids, of_split, strict=True) if ours],
            labels=rows.labels[of_split],
            class_names=rows.class_names,
            bands=(),
            statistics={},
            lonlat=None if rows.lonlat is None else rows.lonlat[of_split],
            provenance=provenance,
        )
        identity = make_identity(dataset, encoder)
        target = paths.feature_file(paths.feature_folder(out, dataset_slug(identity), encoder_slug(identity)), split)
        chosen = np.zeros(len(rows.keep), bool)
        chosen[np.flatnonzero(rows.keep)[of_split]] = True
        _write(target, identity, dataset, source, chosen, environment, overwrite=flags.overwrite)
        written.append(target)
    return written


class _Imported(EODataset):
    """Ids, labels and places without pixels."""

    def read(self, index: int, bands: Any) -> list[np.ndarray]:
        """Refuse: an imported set has vectors only."""
        raise RequestError(f"{self.name} was imported as embeddings; it has no pixels")


def _write(
    file: Path,
    identity: dict[str, Any],
    dataset: EODataset,
    source: Embeddings,
    chosen: np.ndarray,
    environment: dict[str, Any],
    *,
    overwrite: bool,
) -> None:
    size = {"rows": len(dataset), "dim": source.dim, "dtype": source.dtype}
    with FeatureWriter(file, identity, **size, part_rows=DEFAULT_PART_ROWS, overwrite=overwrite) as writer:
        missing = set(writer.missing())
        part, held, count = 0, [], 0
        for start, block in source.blocks():
            block = block[chosen[start : start + len(block)]]
            held.append(block)
            count += len(block)
            while part * writer.part_rows < len(dataset):
                first, last = writer.bounds(part)
                if count < last - first:
                    break
                whole = np.concatenate(held)
                if part in missing:
                    writer.write_part(part, whole[: last - first])
                held, count, part = [whole[last - first :]], count - (last - first), part + 1
        writer.finish(dataset, environment)
