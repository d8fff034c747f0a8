"""Safe extraction of untrusted zip and tar archives: only files and folders, inside the target, of limited size.

Every member is checked and written here, without tarfile's filters, which before Python 3.12.11 let links with long
paths escape the folder (CVE-2025-4517). Links and devices are refused altogether,
so no path inside the new folder can lead out of it.
"""

import calendar
import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

from data.command import progress
from data.errors import RequestError

MOST_FILES = 20_000_000  # BigEarthNet v1, the largest known, has 7.7 million
MOST_TIMES = 200  # as large unpacked as packed; images compress to a half or a third, masks to a hundredth
ALWAYS_BYTES = 2**30  # allowed whatever the archive's own size
LONGEST_NAME, LONGEST_PATH = 255, 1024  # bytes; of what file systems take
LONGEST_HEADER = 2**20  # bytes of a tar header that holds a long name or other attributes
HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class OutOfSpaceError(RequestError):
    """The files would not fit on the disk."""


def extract_zip(archive: Path, folder: Path) -> None:
    """Write the files of a zip archive into a new folder; checksums are compared."""
    with zipfile.ZipFile(archive) as source:
        members = source.infolist()
        limit = _limit(archive.stat().st_size)
        _check_amount(archive, len(members), sum(member.file_size for member in members), limit)
        for member in members:
            kind = stat.S_IFMT(member.external_attr >> 16)
            _check_path(archive, member.filename, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
        _check_space(archive, folder.parent, sum(member.file_size for member in members))
        folder.mkdir()
        with progress(f"unpacking {archive.name}", len(members), "files") as advance:
            for member in members:
                if member.is_dir():
                    (folder / member.filename).mkdir(parents=True, exist_ok=True)
                else:
                    year, month, day, *clock = member.date_time  # some programs write zeros, also for month and day
                    changed = calendar.timegm((year, min(max(month, 1), 12), max(day, 1), *clock, 0, 0, 0))
                    with source.open(member) as content:  # compares the CRC at its end
                        write_file(folder / member.filename, content, changed)
                advance(1)


def extract_tar(parts: Sequence[Path], folder: Path) -> None:
    """Write the files of a compressed tar archive, perhaps cut into several parts, into a new folder."""
    archive, packed = parts[0], sum(part.stat().st_size for part in parts)
    folder.mkdir()
    with progress(f"unpacking {archive.name}", packed // 10**6, "MB") as advance:
        joined = io.BufferedReader(_Joined(parts, advance), 2**20)
        with _uncompressed(joined, archive) as stream:
            bounded: Any = _Bounded(stream, archive, _limit(packed))
            with tarfile.open(fileobj=bounded, mode="r|", tarinfo=_Member) as source:
                count = size = 0
                for member in source:
                    count, size = count + 1, size + member.size
                    source.members.clear()  # pyright: ignore[reportAttributeAccessIssue]  # tarfile keeps all members
                    _check_amount(archive, count, size, bounded.limit)
                    regular = member.isreg() and not member.issparse()
                    _check_path(archive, member.name, plain=regular or member.isdir())
                    if member.isdir():
                        (folder / member.name).mkdir(parents=True, exist_ok=True)
                    elif content := source.extractfile(member):
                        _check_space(archive, folder, member.size)
                        write_file(folder / member.name, content, member.mtime)
            while bounded.read(2**20):
                pass  # to the end, where the checksum is


def write_file(file: Path, content: IO[bytes], mtime: float) -> None:
    """Write one member with the time in the archive, so that unpacking again gives the same file, or that of 1970 if
    the disk cannot store that time; parent folders are created.
    """
    try:
        handle = _created(file)
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle = _created(file)
    with open(handle, "wb", buffering=0) as target:
        shutil.copyfileobj(content, target, 2**20)
    for seconds in (mtime, 0):
        with suppress(ValueError, OverflowError, OSError):
            os.utime(file, (seconds, seconds))
            return


def _created(file: Path) -> int:
    return os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)


# --- checks


def _limit(packed: int) -> int:
    return max(ALWAYS_BYTES, MOST_TIMES * packed)


def _check_path(archive: Path, name: str, *, plain: bool) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]) or "\0" in name
    encoded = os.fsencode(name)
    long = len(encoded) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in encoded.split(b"/"))
    if outside or long or not plain:
        why = "a link or device" if not plain else "too long" if long else "out of its folder"
        raise RequestError(f"{archive} holds the unsafe path '{name[:100]}' ({why}); nothing was unpacked")


def _check_amount(archive: Path, count: int, size: int, limit: int) -> None:
    if count > MOST_FILES or size > limit:
        amount = f"{count:,} files" if count > MOST_FILES else f"{size / 1e9:,.1f} GB"
        raise RequestError(
            f"{archive} unpacks to {amount}, more than any known dataset of its size; nothing was unpacked; if this "
            "is intended, unpack it by hand"
        )


def _check_space(archive: Path, folder: Path, needed: int) -> None:
    if needed > shutil.disk_usage(folder).free:
        raise OutOfSpaceError(f"{archive.name}, which needs {needed / 1e9:.1f} GB")


class _Member(tarfile.TarInfo):
    """A member whose headers are read into memory only if they are small."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> "_Member":
        member = super().frombuf(buf, encoding, errors)
        if member.type in HEADERS and member.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


class _Bounded:
    """A compressed stream, read up to a limit: it may be endless."""

    def __init__(self, stream: Any, archive: Path, limit: int) -> None:
        self.stream, self.archive, self.limit, self.done = stream, archive, limit, 0

    def read(self, size: int) -> bytes:
        content = self.stream.read(size)
        self.done += len(content)
        _check_amount(self.archive, 0, self.done, self.limit + self.limit // 8)  # headers and padding come on top
        return content


# --- compressed streams


@contextmanager
def _uncompressed(stream: Any, archive: Path) -> Iterator[Any]:
    if archive.suffix != ".zst":
        with gzip.GzipFile(fileobj=stream) as uncompressed:
            yield uncompressed
        return
    import pyarrow  # deferred: the available Zstandard reader is slow to import

    try:
        with pyarrow.CompressedInputStream(pyarrow.PythonFile(stream, "r"), "zstd") as uncompressed:
            yield uncompressed
    except OSError as error:
        if error.errno is None:  # how pyarrow reports damaged data
            raise zlib.error(str(error)) from error
        raise


class _Joined(io.RawIOBase):
    """Several files read as one; `advance` is called for each megabyte."""

    def __init__(self, parts: Sequence[Path], advance: Callable[[int], None]) -> None:
        self.left, self.advance, self.done, self.reported = list(parts), advance, 0, 0
        self.file: io.FileIO | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while self.file or self.left:
            self.file = self.file or io.FileIO(self.left.pop(0))
            if count := self.file.readinto(buffer):
                self.done += count
                self.advance(self.done // 10**6 - self.reported)
                self.reported = self.done // 10**6
                return count
            self.file.close()
            self.file = None
        return 0
