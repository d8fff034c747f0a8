"""Publishing whole folders: the new one takes the old one's name before the old one goes."""

import ctypes
import errno
import glob
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data.files import explained, fsync_folder
from data.lock import is_alive, place

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


@contextmanager
def published_folder(folder: Path) -> Iterator[Path]:
    """Yield a new empty folder beside `folder`; on success it takes that name, else it is removed.

    Whatever happens, the old folder or the new one is there, whole. What dead processes left beside it is removed.

    Raises:
        RequestError: the disk is full or fails; nothing is left behind.
    """
    temporary = _beside(folder, "tmp")
    try:
        clear_left(folder)
        temporary.mkdir(parents=True)
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                with path.open("rb") as written:
                    os.fsync(written.fileno())
        fsync_folder(temporary)
        _take_place(temporary, folder)
        fsync_folder(folder.parent)
    except OSError as error:
        raise explained(error, folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # the old one, once they have changed places


def clear_left(folder: Path) -> None:
    """Remove what dead processes left beside a folder; an old one whose new one never came gets its name back."""
    for left in folder.parent.glob(f".{glob.escape(folder.name)}.*-*@{place()}"):
        kind, _, rest = left.name.removeprefix(f".{folder.name}.").partition("-")
        pid = rest.partition("-")[0]
        if kind not in ("tmp", "old") or not pid.isdecimal() or is_alive(int(pid)):
            continue
        if kind == "old" and not folder.exists():
            with suppress(OSError):
                left.rename(folder)
        shutil.rmtree(left, ignore_errors=True)


def _beside(folder: Path, kind: str) -> Path:
    return folder.with_name(f".{folder.name}.{kind}-{os.getpid()}-{secrets.token_hex(4)}@{place()}")


def _take_place(new: Path, folder: Path) -> None:
    """Give `new` the name of `folder`; what had it before has the name of `new` then."""
    for _ in range(10):  # another process may publish or remove its own between two steps
        try:
            if not folder.exists():
                new.rename(folder)
                return
            if exchange(new, folder):
                return
            old = _beside(folder, "old")
            folder.rename(old)
            try:
                new.rename(folder)
            except BaseException:
                old.rename(folder)
                raise
            shutil.rmtree(old, ignore_errors=True)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) or not new.exists():
                raise
    raise FileExistsError(errno.EEXIST, "another process keeps writing it", str(folder))


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
