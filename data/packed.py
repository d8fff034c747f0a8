"""Packed files: the chosen bands of a dataset side by side in one file, read in bulk and checked on the way.

An HDF5 file that any tool can open. ``header`` (JSON) says what it was made from: dataset, variant, provenance,
bands, statistics, class names, and for every split its digests. A group a split (``train``, ``val``, ``test``) holds
``ids``, ``labels``, ``lonlat`` (where known), one array of pixels (N, C, H, W) for the bands of each size and type,
such as ``120x120-uint16``, and ``checksums`` (N, B): one for every band of every sample.

Values, types and resolutions are the source's own, so features from a packed file have the identity of features from
the source and one is reused for the other. All samples of a dataset must be of one size.

The arrays are contiguous: HDF5 tells where they begin, and both ways they go by plain ``pread`` and ``pwrite``, which
are twice as fast as HDF5's own reading, may be shared by processes, and fail cleanly where a disk is full.
"""

import errno
import hashlib
import io
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from xxhash import xxh3_64_intdigest

from data import paths, store
from data.bands import KNOWN, Band
from data.command import progress
from data.dataset import EODataset, Statistic
from data.errors import RequestError
from data.files import NO_SPACE, canonical_json, explained, published
from data.lock import Lock, left_beside
from data.problems import Kind, Problem
from data.registry import DatasetCard
from data.seen import check_looked, stamp
from data.workers import in_order

SCHEMA = 2
FORMAT = "frozen-earth packed dataset"
HEADER = {"schema", "dataset", "bands", "statistics", "stacks", "splits", "made"}
DIGESTED = ("ids", "labels", "lonlat", "files")
BLOCK_ROWS = 64  # samples read and written at a time
# Below this many samples, starting reader processes costs more than they save.
ROWS_WORTH_WORKERS = 2000


@dataclass(frozen=True)
class Stack:
    """The bands of one size and type.

    Args:
        bands: names, in the order of the array's second axis.
        height: pixels.
        width: pixels.
        dtype: numpy name.
    """

    bands: tuple[str, ...]
    height: int
    width: int
    dtype: str

    @property
    def name(self) -> str:
        """Name of the array in a split's group."""
        return f"{self.height}x{self.width}-{self.dtype}"

    @property
    def band_bytes(self) -> int:
        """Bytes of one band of one sample."""
        return self.height * self.width * np.dtype(self.dtype).itemsize

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample."""
        return len(self.bands) * self.band_bytes


def checksums(pixels: np.ndarray) -> np.ndarray:
    """64-bit checksums (XXH3) of images: at 19 GB/s a seventh of the time that CRC-32 takes.

    Args:
        pixels: (..., H, W).

    Returns:
        (...) uint64.
    """
    content = memoryview(np.ascontiguousarray(pixels)).cast("B")
    size = len(content) // math.prod(pixels.shape[:-2])
    sums = [xxh3_64_intdigest(content[start : start + size]) for start in range(0, len(content), size)]
    return np.array(sums, np.uint64).reshape(pixels.shape[:-2])


# ------------------------------------------------------------------------------------------------ writer


def pack(
    file: Path,
    splits: Mapping[str, EODataset],
    bands: Sequence[Band],
    *,
    limit: int | None = None,
    card: DatasetCard | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> str:
    """Write the bands of some splits of one dataset into a packed file, or find it done.

    The file appears whole, by one rename; a killed run leaves nothing that could be taken for one, and the next run
    removes what it left.

    Args:
        file: where to; ends in ``.h5``.
        splits: by name.
        bands: which, in this order.
        limit: the ``--limit`` the splits were opened with, for the identity of features.
        card: the dataset's card: title, licence, citation and source are kept.
        workers: reader processes; None means one a core, at most 8, where there are many samples.
        overwrite: replace a file of other contents.

    Returns:
        A line that says what was done.

    Raises:
        RequestError: the file exists with other contents, a sample cannot be read or is of another size than the
            first, another process writes the same file, or the disk is full.
    """
    if file.suffix != ".h5":
        raise RequestError(f"--to {file}: name a file that ends in .h5")
    if workers is not None and workers < 0:
        raise RequestError(f"--workers {workers}: must be 0 or more")
    header = _make_header(splits, bands, limit=limit, card=card)
    rows = sum(map(len, splits.values()))
    size = _size(header, splits)
    if file.exists() and overwrite and _is_another(file):
        raise RequestError(f"{file} is there and is no packed file; choose another --to, or move it away")
    if file.exists() and not overwrite:
        found = read_header(file)
        fields = store.differing_fields(found | {"made": None}, header | {"made": None})
        if fields:
            raise RequestError(f"{file} holds another {', '.join(fields)}; use --overwrite to replace it")
        if left_beside(paths.lock_file(file)):
            with suppress(RequestError), Lock(paths.lock_file(file)):  # of a run that was killed once it had published
                pass
        return f"reused {file} ({rows:,} images)"
    started = time.perf_counter()
    with Lock(paths.lock_file(file)):
        for torn in file.parent.glob(f"{file.name}.tmp-*"):
            torn.unlink()  # of a killed run; the lock says that nobody is at work
        with published(file) as temporary:
            try:
                _write(temporary, header, splits, workers)
            except OSError as error:
                if error.errno not in NO_SPACE:
                    raise
                why = f"no space left to write {file}, {size / 1e6:,.0f} MB ({error.strerror})"
                raise RequestError(f"{why}; free some or choose another --to") from error
    seconds = time.perf_counter() - started
    per_image = sum(stack.sample_bytes for stack in _stacks(header))
    return (
        f"wrote {file} ({rows:,} images of {len(bands)} bands, {per_image:,} bytes each; "
        f"{rows / seconds:,.0f} images/s, {file.stat().st_size / 1e6:,.1f} MB)"
    )


def _make_header(
    splits: Mapping[str, EODataset], bands: Sequence[Band], *, limit: int | None, card: DatasetCard | None
) -> dict[str, Any]:
    first = next(iter(splits.values()))
    sizes: dict[tuple[int, int, str], list[str]] = {}
    for band, pixels in zip(bands, first.read(0, bands), strict=True):
        sizes.setdefault((*pixels.shape, pixels.dtype.newbyteorder("=").name), []).append(band.name)
    header = {
        "schema": SCHEMA,
        "dataset": {
            "name": first.name,
            "variant": first.variant,
            "provenance": first.provenance,
            "class_names": first.class_names,
            "limit": limit,
            "card": {key: getattr(card, key) for key in ("title", "licence", "citation", "source") if card},
        },
        "bands": [band.name if KNOWN.get(band.name) == band else asdict(band) for band in bands],
        "statistics": {band.name: asdict(first.statistics[band.name]) for band in bands},
        "stacks": [asdict(Stack(tuple(names), *size)) for size, names in sizes.items()],
        "splits": {
            name: {
                "rows": len(samples),
                **store.sample_digests(samples.ids, samples.labels, samples.lonlat),
                "files_sha256": samples.files_digest,
                **({"nodata": samples.nodata} if samples.nodata else {}),
                **({"scaled": True} if samples.scaled else {}),
            }
            for name, samples in splits.items()
        },
        "made": {"version": version("frozen-earth"), "created": datetime.now(UTC).isoformat(timespec="seconds")},
    }
    return json.loads(canonical_json(header))  # as it is read back: tuples become lists


def _stacks(header: dict[str, Any]) -> list[Stack]:
    return [Stack(**{**one, "bands": tuple(one["bands"])}) for one in header["stacks"]]


def _bands(header: dict[str, Any]) -> list[Band]:
    """The bands in order; what is known of a known one is what the tables say now, not when it was packed."""
    return [KNOWN[one] if isinstance(one, str) else Band(**one) for one in header["bands"]]


def _size(header: dict[str, Any], splits: Mapping[str, EODataset]) -> int:
    """Bytes of the arrays."""
    pixels = sum(stack.sample_bytes for stack in _stacks(header))
    total = 0
    for samples in splits.values():
        about = _about(samples)
        total += len(samples) * (pixels + 8 * len(header["bands"])) + sum(array.nbytes for array in about.values())
    return total + len(canonical_json(header).encode())


def _about(samples: EODataset) -> dict[str, np.ndarray]:
    """What is kept of a split beside its pixels."""
    about = {"ids": np.array([name.encode() for name in samples.ids]), "labels": samples.labels}
    return about if samples.lonlat is None else about | {"lonlat": samples.lonlat}


def _write(file: Path, header: dict[str, Any], splits: Mapping[str, EODataset], workers: int | None) -> None:
    """Lay out the file, then fill in the pixels and their checksums."""
    size, free = _size(header, splits), shutil.disk_usage(file.parent).free
    if size > free:
        raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free")
    stacks = _stacks(header)
    offsets = {}
    with store.reserved(file, size) as target:
        text = canonical_json(header).encode()
        target.attrs["format"], target.attrs["header_sha256"] = FORMAT, hashlib.sha256(text).hexdigest()
        target.create_dataset("header", data=np.frombuffer(text, np.uint8))
        for name, samples in splits.items():
            group = target.create_group(name)
            for key, array in _about(samples).items():
                group.create_dataset(key, data=array)
            shapes = {stack.name: (len(samples), len(stack.bands), stack.height, stack.width) for stack in stacks}
            for stack in stacks:
                _allocate(group, stack.name, shapes[stack.name], stack.dtype)
            _allocate(group, "checksums", (len(samples), len(header["bands"])), "uint64")
            offsets[name] = {key: group[key].id.get_offset() for key in (*shapes, "checksums")}
    bands = _bands(header)
    for name, samples in splits.items():
        with progress(f"packing {samples.name} {name}", len(samples), "images") as advance:
            _fill(_Filler(file, samples, bands, stacks, offsets[name]), workers, advance)


def _allocate(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Create a contiguous array that has its place in the file at once, and is not filled."""
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind = h5py.h5t.py_create(np.dtype(dtype).newbyteorder("<"))
    h5py.h5d.create(group.id, name.encode(), kind, h5py.h5s.create_simple(shape), how)


@dataclass(frozen=True)
class _Filler:
    """Reads a block of samples from the source and writes it to its place; pickled to worker processes."""

    file: Path
    samples: EODataset
    bands: Sequence[Band]
    stacks: Sequence[Stack]
    offsets: Mapping[str, int]

    def __call__(self, rows: range) -> int:
        """Pack these rows; returns how many they were."""
        names = [band.name for band in self.bands]
        sums = np.empty((len(rows), len(names)), "<u8")
        blocks = {
            stack.name: np.empty((len(rows), len(stack.bands), stack.height, stack.width), _little(stack.dtype))
            for stack in self.stacks
        }
        for place, row in enumerate(rows):
            read = dict(zip(names, self.samples.read(row, self.bands), strict=True))
            for stack in self.stacks:
                for channel, name in enumerate(stack.bands):
                    self._check(row, name, read[name], stack)
                    blocks[stack.name][place, channel] = read[name]
        if self.samples.looked is not None:  # after the pixels: the header vouches for the files as they were opened
            check_looked(self.samples, rows, [stamp(self.samples, row, self.bands) for row in rows])
        with self.file.open("r+b", buffering=0) as target:
            for stack in self.stacks:
                sums[:, [names.index(name) for name in stack.bands]] = checksums(blocks[stack.name])
                _pwrite(target.fileno(), blocks[stack.name], self.offsets[stack.name] + rows[0] * stack.sample_bytes)
            _pwrite(target.fileno(), sums, self.offsets["checksums"] + rows[0] * 8 * len(names))
        return len(rows)

    def _check(self, row: int, band: str, pixels: np.ndarray, stack: Stack) -> None:
        kind = pixels.dtype.newbyteorder("=").name
        if (*pixels.shape, kind) != (stack.height, stack.width, stack.dtype):
            found = " x ".join(map(str, pixels.shape))
            raise RequestError(
                f"'{self.samples.ids[row]}' has {band} as {found} {kind}, the first image as {stack.height} x "
                f"{stack.width} {stack.dtype}; a packed file needs images of one size: resize them, or do without pack"
            )


def _fill(filler: _Filler, workers: int | None, advance: Callable[[int], None]) -> None:
    """Run over all blocks, here or in worker processes."""
    count = len(filler.samples)
    blocks = [range(start, min(start + BLOCK_ROWS, count)) for start in range(0, count, BLOCK_ROWS)]
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if count >= ROWS_WORTH_WORKERS else 0
    for done in in_order(filler, blocks, workers=workers):
        advance(done)


def _pwrite(handle: int, array: np.ndarray, offset: int) -> None:
    view = memoryview(array).cast("B")
    while view:  # a write may be cut at 2 GB or where the disk fills up: the next then says why
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def _little(dtype: str) -> np.dtype:
    return np.dtype(dtype).newbyteorder("<")


# ------------------------------------------------------------------------------------------------ reader


def open_packed(file: Path, header: dict[str, Any], splits: Sequence[str] = ()) -> dict[str, "PackedSplit"]:
    """Open splits of a packed file.

    Args:
        file: the packed file.
        header: see `read_header`.
        splits: which; none means all that it holds.

    Raises:
        RequestError: damaged, or without one of these splits.
    """
    return {split: PackedSplit(file, split, header) for split in splits or header["splits"]}


class PackedSplit(EODataset):
    """One split in a packed file; name, variant, provenance and digests are the source's.

    Args:
        file: the packed file.
        split: ``train``, ``val`` or ``test``.
        header: see `read_header`; None reads it.

    Raises:
        RequestError: not a packed file, damaged, or without that split.
    """

    def __init__(self, file: Path, split: str, header: dict[str, Any] | None = None) -> None:
        header = header or read_header(file)
        if split not in header["splits"]:
            raise RequestError(f"{file} holds no split {split}; it holds {', '.join(sorted(header['splits']))}")
        about = header["splits"][split]
        self.file, self.where = file, str(file)
        self.stacks = _stacks(header)
        try:
            with store.open_hdf5(file) as source:
                group = source[split]
                arrays = {name: group[name][:] for name in ("ids", "labels", "lonlat", "checksums") if name in group}
                for stack in self.stacks:
                    if group[stack.name].shape != (about["rows"], len(stack.bands), stack.height, stack.width):
                        raise ValueError(f"'{split}/{stack.name}' has another shape than its header")
                self.offsets = {stack.name: group[stack.name].id.get_offset() for stack in self.stacks}
            if None in self.offsets.values():
                raise ValueError(f"the pixels of {split} are in chunks, as another program's repacking leaves them")
            if {"ids", "labels", "checksums"} - arrays.keys() or {len(a) for a in arrays.values()} != {about["rows"]}:
                raise ValueError(f"{split} has other arrays than its header says")
            ids = [name.decode(errors="replace") for name in arrays["ids"]]
        except (OSError, KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(file, error) from error
        found = {"ids": store.digest_ids(ids)} | {k: store.digest_array(arrays[k]) for k in arrays if k != "ids"}
        for name in ("ids", "labels", "lonlat"):
            if found.get(name) != about[f"{name}_sha256"]:
                raise RequestError(f"{file} is damaged: {name} of {split} do not match their checksum; make it again")
        self.sums = arrays["checksums"]
        dataset = header["dataset"]
        super().__init__(
            name=dataset["name"],
            variant=dataset["variant"],
            split=split,
            ids=ids,
            labels=arrays["labels"],
            class_names=dataset["class_names"],
            bands=_bands(header),
            statistics={name: Statistic(**one) for name, one in header["statistics"].items()},
            lonlat=arrays.get("lonlat"),
            provenance=dataset["provenance"],
            files_digest=about["files_sha256"],
        )
        self.columns = {band.name: column for column, band in enumerate(self.bands)}
        self.nodata, self.scaled = about.get("nodata"), about.get("scaled", False)
        self.read_from = {"packed": file.name, **header["made"]}

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_source"}  # each process opens its own

    @cached_property
    def _source(self) -> io.FileIO:
        return self.file.open("rb", buffering=0)

    def read(self, index: int, bands: Sequence[Band]) -> list[np.ndarray]:
        """See `EODataset.read`."""
        images: list[Any] = [None] * len(bands)
        for channels, pixels in self.read_stacks([index], bands):
            for place, channel in enumerate(channels):
                images[channel] = pixels[0, place]
        return images

    def read_stacks(self, rows: Sequence[int], bands: Sequence[Band]) -> list[tuple[list[int], np.ndarray]]:
        """See `EODataset.read_stacks`."""
        names = [band.name for band in bands]
        if absent := set(names) - self.columns.keys():
            raise RequestError(f"{self.file} holds no {', '.join(sorted(absent))}; it holds {', '.join(self.columns)}")
        stacks = []
        for stack in self.stacks:
            places = [place for place, name in enumerate(stack.bands) if name in names]
            if places:
                pixels = self._read(stack, rows, places)
                chosen = [stack.bands[place] for place in places]
                self._check(rows, chosen, pixels)
                stacks.append(([names.index(name) for name in chosen], pixels))
        return stacks

    def _read(self, stack: Stack, rows: Sequence[int], places: Sequence[int]) -> np.ndarray:
        """Pixels (b, c, H, W) of these rows and these of the stack's bands, in as few reads as there are gaps."""
        pixels = np.empty((len(rows), len(places), stack.height, stack.width), _little(stack.dtype))
        whole = len(places) == len(stack.bands)
        for first, count in _runs(rows) if whole else [(place, 1) for place in range(len(rows))]:
            for band, bands in _runs(places):
                offset = self.offsets[stack.name] + rows[first] * stack.sample_bytes + places[band] * stack.band_bytes
                self._fetch(pixels[first : first + count, band : band + bands], offset)
        return pixels

    def _fetch(self, target: np.ndarray, offset: int) -> None:
        try:
            view = memoryview(target).cast("B")
            while view:  # a read may be cut at 2 GB
                done = os.preadv(self._source.fileno(), [view], offset)
                if not done:
                    raise OSError("it ends too early")
                view, offset = view[done:], offset + done
        except OSError as error:
            raise _damaged(self.file, error) from error

    def _check(self, rows: Sequence[int], chosen: Sequence[str], pixels: np.ndarray) -> None:
        wrong = checksums(pixels) != self.sums[rows][:, [self.columns[name] for name in chosen]]
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise RequestError(
                f"{self.file} is damaged: {wrong.sum()} bands do not match their checksum, first {chosen[column]} of "
                f"'{self.ids[rows[row]]}' ({self.split}); make it again with featurize pack --overwrite"
            )


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where runs of consecutive numbers begin in a sequence, and how long they are."""
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        places = [place for place, _ in run]
        yield places[0], len(places)


def read_header(file: Path) -> dict[str, Any]:
    """What a packed file says it holds.

    Raises:
        RequestError: absent, of another kind, damaged, or of another schema.
    """
    if not file.is_file():
        raise RequestError(f"no packed file at {file}; make it with featurize pack --to {file}")
    try:
        store.inspected(file, "structure")  # HDF5 itself fails badly where a file is damaged
        with store.open_hdf5(file) as source:
            if source.attrs.get("format") != FORMAT:
                what = "a feature file" if "features" in source else "another HDF5 file"
                raise RequestError(f"{file} is {what}, not a packed dataset; make one with featurize pack")
            text = source["header"][:].tobytes()
            if hashlib.sha256(text).hexdigest() != source.attrs["header_sha256"]:
                raise RequestError(f"{file} is damaged: its header does not match its checksum; make it again")
        header = json.loads(text)
    except store.Damaged as error:
        raise store.Damaged(f"{error}; make it again with featurize pack") from error
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(file, error) from error
    if isinstance(header, dict) and header.keys() >= {"schema"} and header["schema"] != SCHEMA:
        raise RequestError(f"{file} has schema {header['schema']}, this version reads {SCHEMA}; make it again")
    if not _is_whole(header):
        raise RequestError(f"{file} is not a packed file of this program: its header lacks what is written there")
    return header


def _is_whole(header: Any) -> bool:
    """Whether a header has what readers ask of it, in the type they expect."""
    try:
        names = [band.name for band in _bands(header)]
        stacked = [name for stack in _stacks(header) for name in stack.bands]
        sizes = [stack.sample_bytes for stack in _stacks(header)]
        statistics = {name: Statistic(**one) for name, one in header["statistics"].items()}
        splits = [(one["rows"], [one[f"{name}_sha256"] for name in DIGESTED]) for one in header["splits"].values()]
        texts = [header["dataset"]["name"], *header["dataset"]["class_names"], *header["splits"]]
        return (
            header.keys() >= HEADER
            and sorted(names) == sorted(stacked)
            and len(set(names)) == len(names)
            and statistics.keys() >= set(names)
            and all(type(one.mean) in (int, float) and type(one.std) in (int, float) for one in statistics.values())
            and all(size > 0 for size in sizes)
            and all(type(rows) is int for rows, _ in splits)
            and all(isinstance(text, str) for text in texts)
            and isinstance(header["dataset"]["variant"], str | None)
            and isinstance(header["dataset"]["provenance"], dict)
            and isinstance(header["dataset"]["card"], dict)
            and "limit" in header["dataset"]
            and isinstance(header["made"], dict)
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return False


def is_packed(file: Path) -> bool:
    """Whether a file is a packed dataset."""
    try:
        return store.inspected(file, "kind")["kind"] == "packed"
    except (OSError, store.Damaged):
        return False


def _is_another(file: Path) -> bool:
    """Whether a file is sound HDF5 of another kind, such as features; a damaged file may be replaced."""
    try:
        with store.open_hdf5(file) as source:
            return source.attrs.get("format") != FORMAT
    except (OSError, RuntimeError):
        return False


def verify_packed(file: Path) -> tuple[Problem, ...]:
    """Read everything and compare checksums; returns what is wrong, at most one problem per split."""
    problems = []
    try:
        header = read_header(file)
    except RequestError as error:
        return (Problem(Kind.UNREADABLE, file, str(error)),)
    for split in header["splits"]:
        try:
            samples = PackedSplit(file, split, header)
            with progress(f"verifying {file.name} {split}", len(samples), "images") as advance:
                for start in range(0, len(samples), BLOCK_ROWS):
                    rows = range(start, min(start + BLOCK_ROWS, len(samples)))
                    samples.read_stacks(rows, samples.bands)
                    advance(len(rows))
        except RequestError as error:
            problems.append(Problem(Kind.DAMAGED, file, str(error)))
    return tuple(problems)


def _damaged(file: Path, error: Exception) -> RequestError:
    if isinstance(error, OSError) and error.errno:  # the file system's, which say nothing about the file's content
        return RequestError(str(explained(error, file)))
    return RequestError(f"{file} is not a readable packed file ({error}); make it with featurize pack")
