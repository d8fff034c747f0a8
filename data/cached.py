"""Caches of arrays that can be recomputed: used only if the file is sound and of the same identity."""

import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from data.files import published

# What numpy and zipfile raise for files that are missing, empty, truncated, damaged or of another kind.
UNUSABLE = (
    OSError, ValueError, KeyError, EOFError, TypeError, RuntimeError, NotImplementedError, MemoryError, OverflowError,
    SyntaxError, struct.error, zlib.error, zipfile.BadZipFile, tokenize.TokenError,
)  # fmt: skip


def arrays_in(file: Path, *names: str, key: str, value: str) -> list[Shaped[np.ndarray, "..."]] | None:
    """Some arrays of an npz file.

    Returns:
        The arrays; None if the file is missing, damaged or of another identity.
    """
    try:
        with np.load(file, allow_pickle=False) as kept:
            return [kept[name] for name in names] if str(kept[key]) == value else None
    except UNUSABLE:
        return None


def array_for(index: Path, name: str, *, digest: str) -> Shaped[np.ndarray, "..."] | None:
    """The array that `keep_array` wrote for these files; None if it has to be computed again."""
    kept = arrays_in(index, name, key="digest", value=digest)
    return kept[0] if kept else None


def keep_array(index: Path, name: str, array: Shaped[np.ndarray, "..."], *, digest: str) -> None:
    """Write an array with the digest of the files that it was made from, in one rename."""
    arrays: dict[str, Any] = {"digest": np.array(digest), name: array}
    with published(index) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)
