"""Publishing whole folders: the new one takes the old one's name before the old one goes."""

import ctypes
import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data.command import say
from data.errors import RequestError
from data.files import explained, fsync_folder
from data.processes import names_of_dead, own_name

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux: renameat2(2)


# Relative paths of the files in a folder that may be deleted with it, the list that names them last.
Ours = Callable[[Path], Collection[str]]


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders at once; False if the file system does not support it."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # not Linux
        return False
    return rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0


@contextmanager
def published_folder(folder: Path, *, ours: Ours | None = None) -> Iterator[Path]:
    """Yield a new empty folder beside `folder`; on success it takes that name, else it is removed.

    At any time, either the old folder or the new one is there, complete. Leftovers of dead processes are removed.

    Args:
        folder: the name that it takes.
        ours: which files of the old folder may be deleted; others are kept in a folder beside it, and reported. None
            means all.

    Raises:
        RequestError: the disk is full or fails; nothing is left behind.
    """
    temporary, ready = _beside(folder, "tmp"), _beside(folder, "old")
    try:
        clear_left(folder, ours=ours)
        temporary.mkdir(parents=True)
        yield temporary
        for path in sorted(temporary.rglob("*")):
            if path.is_file():
                with path.open("rb") as written:
                    os.fsync(written.fileno())
        fsync_folder(temporary)
        temporary.rename(ready)  # whole now; after the exchange it is the old one, which may hold files not ours
        _take_place(ready, folder, ours)
        fsync_folder(folder.parent)
    except OSError as error:
        raise explained(error, folder) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        _discard(ready, folder, ours)


def clear_left(folder: Path, *, ours: Ours | None = None) -> None:
    """Remove what dead processes left beside a folder; where there is none, a whole one they left gets its name."""
    for left in names_of_dead(folder.parent, "tmp", of=f".{folder.name}"):  # never finished
        shutil.rmtree(left, ignore_errors=True)
    for left in names_of_dead(folder.parent, "old", of=f".{folder.name}"):
        if not folder.exists():
            with suppress(OSError):
                left.rename(folder)
        _discard(left, folder, ours)


def _beside(folder: Path, kind: str) -> Path:
    return own_name(folder.with_name(f".{folder.name}"), kind)


def _take_place(new: Path, folder: Path, ours: Ours | None) -> None:
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
            _discard(old, folder, ours)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) or not new.exists():
                raise
    raise RequestError(f"{folder}: other processes keep replacing it; wait for them to end")


def _discard(old: Path, folder: Path, ours: Ours | None) -> None:
    """Delete the folder that had the name of `folder`; files in it that are not ours are kept in a folder beside it."""
    if ours is None or not old.exists():
        shutil.rmtree(old, ignore_errors=True)
        return
    for name in ours(old):
        try:
            (old / name).unlink(missing_ok=True)
        except OSError:  # the disk fails: whoever clears what dead processes left tries again
            return
    for path in sorted(old.rglob("*"), reverse=True):
        with suppress(OSError):  # a file that is not ours, or the folder of one
            path.rmdir()
    with suppress(OSError):
        old.rmdir()
        return
    if not any(path.is_file() or path.is_symlink() for path in old.rglob("*")):
        return  # as above
    kept = next(at for n in range(1, 10_000) if not (at := folder.with_name(f"{folder.name}.old-{n}")).exists())
    old.rename(kept)
    say(f"note: {kept} holds files that were put into {folder} meanwhile")
