"""Damaged feature files: the sound rows kept as finished parts."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import RequestError
from data.store.reader import CHUNK_ROWS, open_hdf5, read_attributes
from data.store.writer import FeatureWriter


def salvage(file: Path) -> tuple[int, int]:
    """Take what is sound of a damaged feature file as finished parts, so that featurize makes only the rest again.

    Rows are told sound by the checksum that HDF5 keeps of each chunk; the damaged file stays until it is replaced.
    Parts of the same identity that are finished already, such as those of a repair that was killed, are kept.

    Args:
        file: a feature file in which `verify` found damage.

    Returns:
        Rows kept, and rows in all.

    Raises:
        RequestError: the file does not even say what it holds, or another process is writing it.
    """
    try:
        with open_hdf5(file) as source:
            identity, _ = read_attributes(source)
            rows, (_, dim), dtype = identity["split"]["rows"], source["features"].shape, source["features"].dtype.name
            known = json.loads(source.attrs["checksums"])["features"]
            blocks = (
                _sound_rows(source["features"], at, min(at + CHUNK_ROWS, rows)) for at in range(0, rows, CHUNK_ROWS)
            )
            digest, whole = hashlib.sha256(), True
            for block in blocks:
                whole = whole and block is not None
                digest.update(b"" if block is None else np.ascontiguousarray(block).tobytes())
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RequestError(
            f"{file} is too damaged to repair ({type(error).__name__}); "
            "give its featurize command again with --overwrite"
        ) from error
    no_telling_where = whole and digest.hexdigest() != known  # damaged although every chunk reads well
    size = {"rows": rows, "dim": dim, "dtype": dtype, "part_rows": CHUNK_ROWS}
    with FeatureWriter(file, identity, **size, overwrite=True) as writer, open_hdf5(file) as source:
        for part in () if no_telling_where else writer.missing():
            if (block := _sound_rows(source["features"], *writer.bounds(part))) is not None:
                writer.write_part(part, block)
        return rows - sum(stop - start for start, stop in map(writer.bounds, writer.missing())), rows


def _sound_rows(features: Any, start: int, stop: int) -> np.ndarray | None:
    """Some rows, None where the checksum of a chunk or a value tells of damage."""
    try:
        block = features[start:stop]
    except OSError:  # HDF5: the chunk's checksum does not match
        return None
    return block if len(block) == stop - start and np.isfinite(block).all() else None
