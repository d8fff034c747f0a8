"""Publishing whole folders: the new one takes the old one's name before the old one goes."""

import ctypes
import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from data.files import fsync_folder

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux: renameat2(2)


def old_name(folder: Path) -> Path:
    """Where the old folder is between the exchange and its end."""
    return folder.with_name(f".{folder.name}.old")


def publish_folder(building: Path, folder: Path, *, ours: Collection[str] | None = None) -> Path | None:
    """Put a finished folder in the place of another, which stays whole until then.

    Args:
        building: the new one, beside `folder`.
        folder: the name it takes.
        ours: relative paths of the files in the old one that may be deleted; None means all.

    Returns:
        Where files of the old one are that were not ours; None where there were none.
    """
    old = old_name(folder)
    if not folder.exists():
        building.rename(folder)
    elif exchange(building, folder):
        building.rename(old)
    else:  # the file system cannot: for a moment there is none, and `recover` puts the old one back after a kill
        folder.rename(old)
        building.rename(folder)
    fsync_folder(folder.parent)
    return _remove(old, ours) if old.exists() else None


def recover(folder: Path, *, ours: Collection[str] | None = None) -> None:
    """Mend what a `publish_folder` that was killed left: put the old one back, or remove it if the new one is there."""
    old = old_name(folder)
    if old.exists() and not folder.exists():
        old.rename(folder)
    elif old.exists():
        _remove(old, ours)


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders at once; False where the system or its file system has no way to."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux
        return False
    return rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


def _remove(old: Path, ours: Collection[str] | None) -> Path | None:
    if ours is None:
        shutil.rmtree(old, ignore_errors=True)
        return None
    for name in ours:
        with suppress(OSError):
            (old / name).unlink()
    for path in sorted(old.rglob("*"), reverse=True):
        with suppress(OSError):  # a file that is not ours, or the folder of one
            path.rmdir()
    with suppress(OSError):
        old.rmdir()
        return None
    number = next(n for n in range(1, 10_000) if not old.with_name(f"{old.name[1:]}-{n}").exists())
    return old.rename(old.with_name(f"{old.name[1:]}-{number}"))  # in sight, for it is the user's
