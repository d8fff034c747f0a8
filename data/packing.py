"""Writing packed files: the bands of every sample read once, in worker processes, and laid side by side."""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data import paths, store
from data.bands import KNOWN, Band
from data.command import progress
from data.dataset import EODataset
from data.errors import RequestError
from data.files import NO_SPACE, canonical_json, published
from data.lock import Lock, left_beside
from data.packed import BLOCK_ROWS, FORMAT, SCHEMA, Stack, bands_of, checksums, little_endian, read_header, stacks_of
from data.registry import DATASETS
from data.seen import check_looked, stamp
from data.workers import in_order

ROWS_WORTH_WORKERS = 2000  # below, starting reader processes costs more than they save


@dataclass(frozen=True)
class PackResult:
    """What `pack` did."""

    file: Path  # the packed file
    images: int  # how many it holds
    bands: int = 0  # how many were written; 0 where the file was there already, with these contents
    image_bytes: int = 0  # pixels of one image
    file_bytes: int = 0  # size of the file
    seconds: float = 0.0  # spent writing

    def __str__(self) -> str:
        if not self.bands:
            return f"reused {self.file} ({self.images:,} images)"
        return (
            f"wrote {self.file} ({self.images:,} images of {self.bands} bands, {self.image_bytes:,} bytes each; "
            f"{self.images / self.seconds:,.0f} images/s, {self.file_bytes / 1e6:,.1f} MB)"
        )


def pack(
    file: Path,
    splits: Mapping[str, EODataset],
    bands: Sequence[Band],
    *,
    limit: int | None = None,
    workers: int | None = None,
    overwrite: bool = False,
) -> PackResult:
    """Write the bands of some splits of one dataset into a packed file, or find it done.

    The file appears complete, by one rename; a killed run leaves nothing that could be mistaken for one, and the next
    run removes its leftovers.

    Args:
        file: where to; ends in ``.h5``.
        splits: by name.
        bands: which, in this order.
        limit: the ``--limit`` the splits were opened with, for the identity of features.
        workers: reader processes; None means one per core, at most 8, for many samples.
        overwrite: replace a file of other contents.

    Raises:
        RequestError: the file exists with other contents, a sample cannot be read or is of another size than the
            first, another process writes the same file, or the disk is full.
    """
    if file.suffix != ".h5":
        raise RequestError(f"--to {file}: expected a file name that ends in .h5")
    if workers is not None and workers < 0:
        raise RequestError(f"--workers {workers}: must be 0 or more")
    header = _make_header(splits, bands, limit=limit)
    rows = sum(map(len, splits.values()))
    size = _size(header, splits)
    if file.exists() and overwrite and _is_another(file):
        raise RequestError(f"{file} exists and is not a packed file; choose another --to, or move it away")
    if file.exists() and not overwrite:
        found = read_header(file)
        fields = store.differing_fields(found | {"made": None}, header | {"made": None})
        if fields:
            raise RequestError(
                f"{file} exists and differs from this request in {', '.join(fields)}; use --overwrite to replace it"
            )
        if left_beside(paths.lock_file(file)):
            with suppress(RequestError), Lock(paths.lock_file(file)):  # of a run that was killed once it had published
                pass
        return PackResult(file, rows)
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
                raise RequestError(f"{why}; free some space or choose another --to") from error
    image_bytes = sum(stack.sample_bytes for stack in stacks_of(header))
    return PackResult(file, rows, len(bands), image_bytes, file.stat().st_size, time.perf_counter() - started)


def _make_header(splits: Mapping[str, EODataset], bands: Sequence[Band], *, limit: int | None) -> dict[str, Any]:
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
            "card": _card(first.name),
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
                **({} if samples.footprint is None else {"footprint_sha256": store.digest_array(samples.footprint)}),
            }
            for name, samples in splits.items()
        },
        "made": {"version": version("frozen-earth"), "created": datetime.now(UTC).isoformat(timespec="seconds")},
    }
    return json.loads(canonical_json(header))  # as it is read back: tuples become lists


def _card(name: str) -> dict[str, str]:
    """Fields of the dataset's card to store; none for a dataset that is not registered."""
    own = name.partition(":")[0]
    card = DATASETS.card(own) if own in DATASETS.names() else None
    if not card:
        return {}
    return {"title": card.title, "licence": card.license, "citation": card.citation, "source": card.source}


def _size(header: dict[str, Any], splits: Mapping[str, EODataset]) -> int:
    """Bytes of the arrays."""
    per_sample = sum(stack.sample_bytes for stack in stacks_of(header)) + 8 * len(header["bands"])  # and checksums
    beside = sum(array.nbytes for samples in splits.values() for array in _about(samples).values())
    return per_sample * sum(map(len, splits.values())) + beside + len(canonical_json(header).encode())


def _about(samples: EODataset) -> dict[str, np.ndarray]:
    """What is kept of a split beside its pixels."""
    about = {"ids": np.array([name.encode() for name in samples.ids]), "labels": samples.labels}
    more = {"lonlat": samples.lonlat, "footprint": samples.footprint}
    return about | {name: array for name, array in more.items() if array is not None}


def _write(file: Path, header: dict[str, Any], splits: Mapping[str, EODataset], workers: int | None) -> None:
    """Lay out the file, then fill in the pixels and their checksums."""
    size, free = _size(header, splits), shutil.disk_usage(file.parent).free
    if size > free:
        raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB are free")
    stacks = stacks_of(header)
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
    bands = bands_of(header)
    for name, samples in splits.items():
        with progress(f"packing {samples.name} {name}", len(samples), "images") as advance:
            count, most = len(samples), min(8, os.cpu_count() or 1)
            blocks = [range(start, min(start + BLOCK_ROWS, count)) for start in range(0, count, BLOCK_ROWS)]
            some = workers if workers is not None else most if count >= ROWS_WORTH_WORKERS else 0
            for done in in_order(_Filler(file, samples, bands, stacks, offsets[name]), blocks, workers=some):
                advance(done)


def _allocate(group: h5py.Group, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Create a contiguous array whose space in the file is allocated at once but not filled."""
    how = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    how.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    how.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    h5py.h5d.create(
        group.id, name.encode(), h5py.h5t.py_create(little_endian(dtype)), h5py.h5s.create_simple(shape), how
    )


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
            stack.name: np.empty((len(rows), len(stack.bands), stack.height, stack.width), little_endian(stack.dtype))
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
                f"{stack.width} {stack.dtype}; a packed file needs images of "
                "one size: resize them, or featurize without packing"
            )


def _pwrite(handle: int, array: np.ndarray, offset: int) -> None:
    view = memoryview(array).cast("B")
    while view:  # a write may be cut at 2 GB or where the disk fills up: the next then says why
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written


def _is_another(file: Path) -> bool:
    """Whether a file is sound HDF5 of another kind, such as features; a damaged file may be replaced."""
    try:
        with store.open_hdf5(file) as source:
            return source.attrs.get("format") != FORMAT
    except (OSError, RuntimeError):
        return False
