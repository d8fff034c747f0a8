"""Writing files so that readers see the whole file or none."""

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from data.errors import DiskError, RequestError
from data.processes import names_of_dead, own_name

# What a full disk, a quota and a file-size limit raise.
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# What a disk that fails or is gone raises.
FAILING = {errno.EIO, errno.ENXIO, errno.ENODEV, errno.ESTALE}


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def short_hash(value: Any, length: int = 8) -> str:
    """First hexadecimal digits of the sha256 of a JSON-able value."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def sha256_of_file(path: Path) -> str:
    """sha256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success fsync it and rename it into place, else remove it.

    Leftovers of killed processes in the folder are removed first.

    Raises:
        RequestError: the disk is full or fails, or the folder cannot be made; nothing is left behind.
    """
    temporary = own_name(path, "tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _clear_left(path.parent)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.rename(path)  # rename after close: readers must never see an open file
        fsync_folder(path.parent)
    except OSError as error:
        raise explained(error, path) from error
    finally:
        with suppress(OSError):  # a disk that fails: what went wrong before is what matters
            temporary.unlink(missing_ok=True)


@cache  # once per process and folder
def _clear_left(folder: Path) -> None:
    """Remove temporary files that dead processes left in a folder."""
    for left in names_of_dead(folder, "tmp"):
        with suppress(OSError):  # another user's, or on a read-only disk: not what this command is to write
            left.unlink()


def explained(error: OSError, path: Path) -> Exception:
    """What the operating system reports (a full disk, a failing one, a path that is no folder) as a RequestError.

    Args:
        error: what was raised; one without an error number is returned as it is.
        path: what was written, for errors that name no file.
    """
    if error.errno in NO_SPACE:
        return DiskError(f"no space left to write {path} ({error.strerror}); free some space or choose another --out")
    if error.errno is None:
        return error
    named = error.filename if isinstance(error.filename, (str, os.PathLike)) else path
    why = os.strerror(error.errno).lower()  # h5py's own text adds offsets and addresses
    if error.errno in FAILING:
        return DiskError(f"{named}: {why}; the disk reports an error: check it")
    return RequestError(f"{named}: {why}; check the path and its permissions")


def fsync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Publish a text file in one rename."""
    with published(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
