"""Archives of a dataset: downloaded on request, unpacked once into a verified cache folder."""

import gzip
import hashlib
import json
import os
import secrets
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from data.command import say
from data.errors import RequestError
from data.extraction import OutOfSpaceError, extract_tar, extract_zip
from data.files import NO_SPACE
from data.lock import Lock
from data.paths import user_cache

MARKER = ".unpacked.json"
# What zipfile, tarfile and gzip raise for damaged, encrypted or unknown-method members besides OSError.
DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


def unpacked(
    archive: Path,
    *,
    cache_dir: Path | None,
    more: Sequence[Path] = (),
    extract: Callable[[Sequence[Path], Path], None] | None = None,
) -> Path:
    """Folder that holds the archive's files, unpacked now if they are not already.

    The folder's name contains a hash of the archive's name, size and modification time, and a marker inside repeats
    them: another archive is another folder. It appears by one rename, so an interrupted run leaves nothing that looks
    complete.

    Args:
        archive: a zip file, or a tar file compressed by gzip or Zstandard (``.zst``).
        more: the further parts of an archive that is split into several files.
        cache_dir: where to unpack; None means beside the archive or, where that folder is read-only, in
            ``$XDG_CACHE_HOME/frozen-earth`` (``~/.cache`` if unset).
        extract: writes the contents of all these files into a new folder, where they are no plain archive.

    Raises:
        RequestError: the archive is damaged or unsafe, the disk is full, or no folder can be written to.
    """
    about = archive.stat()
    identity: dict = {"archive": archive.name, "size": about.st_size, "mtime_ns": about.st_mtime_ns}
    if more:
        identity["more"] = [[part.name, part.stat().st_size, part.stat().st_mtime_ns] for part in more]
    if extract:
        identity["extract"] = extract.__name__
    name = f"{archive.stem}-{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:10]}"
    for folder in [cache_dir] if cache_dir else [archive.parent, user_cache()]:
        if _is_unpacked(folder / name, identity):
            return folder / name
    target = cache_folder(archive.parent, cache_dir=cache_dir) / name
    with Lock(target.with_name(f".{target.name}.unpacking.lock"), what=target, wait=True):
        if _is_unpacked(target, identity):  # another process was faster
            return target
        for leftover in target.parent.glob(f"{name}.tmp-*"):  # left by a killed process
            shutil.rmtree(leftover, ignore_errors=True)
        if target.exists():
            raise RequestError(f"{target} exists but was not unpacked by this program; move it away and try again")
        if not cache_dir and target.parent != archive.parent:
            say(f"{archive.parent} is read-only: unpacking {archive.name} into {target}")
        _unpack([archive, *more], target, identity, extract)
    return target


def cache_folder(beside: Path, *, cache_dir: Path | None) -> Path:
    """Folder for what is derived from the files in `beside`: `cache_dir`, else there, else the user's cache.

    Raises:
        RequestError: none of them can be written to.
    """
    candidates = [cache_dir] if cache_dir else [beside, user_cache()]
    for folder in candidates:
        if _writable(folder, create=folder is not beside):
            return folder
    tried = " and ".join(str(folder) for folder in candidates)
    raise RequestError(f"cannot write to {tried}; pass a folder for unpacked files as --cache-dir")


def fetched(
    url: str, folder: Path, *, name: str | None = None, sha256: str | None = None, md5: str | None = None
) -> Path:
    """Download a file into a folder with torchgeo's downloader, unless it is there already.

    Args:
        url: where from.
        folder: where to.
        name: the file's name; None means the last part of the address.
        sha256: expected checksum in hexadecimal digits.
        md5: the same, where only that is published.

    Raises:
        RequestError: no connection, a wrong checksum, a full disk; the message says what to download by hand.
    """
    path = folder / (name or url.rpartition("/")[2])
    if path.exists():
        return path
    if not _writable(folder, create=True):
        raise RequestError(f"--download: cannot write to {folder}; choose another --data-root")
    from torchgeo.datasets.utils import download_url  # deferred: torchgeo takes seconds to import

    expected: dict[str, Any] = {"md5": md5, "sha256": sha256} | ({"filename": name} if name else {})
    try:
        download_url(url, folder, **expected)
    except (OSError, RuntimeError) as error:  # URLError is an OSError; a wrong checksum is a RuntimeError
        if isinstance(error, OSError) and error.errno in NO_SPACE:
            raise RequestError(f"no space left to download {path}; free some or choose another --data-root") from error
        if isinstance(error, RuntimeError):
            path.unlink(missing_ok=True)  # torchgeo leaves a file with the wrong checksum in place
        raise RequestError(f"cannot download {url} ({error}); download it elsewhere and put it at {path}") from error
    return path


def _is_unpacked(folder: Path, identity: dict) -> bool:
    try:
        return json.loads((folder / MARKER).read_text(encoding="utf-8")) == identity
    except (OSError, ValueError):
        return False


def _writable(folder: Path, *, create: bool) -> bool:
    """Whether files can be created there, found by trying; a folder without any write permission is not tried.

    Root may write to a folder whose mode forbids it for everyone, but that mode was set on purpose.
    """
    trial = folder / f".writable-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        if create:
            folder.mkdir(parents=True, exist_ok=True)
        if not folder.stat().st_mode & 0o222:
            return False
        trial.mkdir()
        trial.rmdir()
    except OSError:
        return False
    return True


def _unpack(
    parts: Sequence[Path], target: Path, identity: dict, extract: Callable[[Sequence[Path], Path], None] | None
) -> None:
    archive = parts[0]
    temporary = target.with_name(f"{target.name}.tmp-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        if extract:
            extract(parts, temporary)
        elif archive.suffix == ".zip":
            extract_zip(archive, temporary)
        else:
            extract_tar(parts, temporary)
        (temporary / MARKER).write_text(json.dumps(identity), encoding="utf-8")
        os.sync()  # the files must reach the disk before the name that vouches for them
        temporary.rename(target)
    except DAMAGED as error:
        raise RequestError(f"{archive} is damaged or incomplete ({error}); download it again") from error
    except OutOfSpaceError as error:
        raise _no_space(target.parent, str(error)) from error
    except OSError as error:
        if error.errno in NO_SPACE:
            raise _no_space(target.parent, archive.name) from error
        if target.is_dir():  # another process was faster
            return
        if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError):
            raise RequestError(f"{archive} holds a file and a folder of the same name; download it again") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _no_space(folder: Path, what: str) -> RequestError:
    return RequestError(f"no space left in {folder} to unpack {what}; free some or choose another --cache-dir")
