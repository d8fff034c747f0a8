"""Packed files: the chosen bands of a dataset side by side in one file, read in bulk and checked while reading.

An HDF5 file that any tool can open. ``header`` (JSON) records what it was made from: dataset, variant, provenance,
bands, statistics, class names, and the digests of every split. One group per split (``train``, ``val``, ``test``) holds
``ids``, ``labels``, ``lonlat`` and ``footprint`` (where known), one array of pixels (N, C, H, W) for the bands of each
size and type, such as ``120x120-uint16``, and ``checksums`` (N, B): one for every band of every sample.

Values, types and resolutions are the source's own, so features from a packed file have the identity of features from
the source and one is reused for the other. All samples of a dataset must be of one size.

The arrays are contiguous: HDF5 gives their offsets, and they are read and written by ``pread`` and ``pwrite``, which
are twice as fast as HDF5's own reading, can be shared by processes, and fail cleanly when the disk is full.
`data.packing` writes these files.
"""

import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt64
from xxhash import xxh3_64_intdigest

from data import store
from data.bands import KNOWN, Band
from data.command import progress
from data.dataset import EODataset, Statistic
from data.errors import RequestError
from data.files import explained
from data.problems import Kind, Problem

SCHEMA = 2
FORMAT = "frozen-earth packed dataset"
HEADER = {"schema", "dataset", "bands", "statistics", "stacks", "splits", "made"}
ARRAYS = ("ids", "labels", "lonlat", "footprint", "checksums")  # of a split, beside its pixels
DIGESTED = ("ids", "labels", "lonlat", "files")
BLOCK_ROWS = 64  # samples read and written at a time


@dataclass(frozen=True)
class Stack:
    """The bands of one size and type."""

    bands: tuple[str, ...]  # names, in the order of the array's second axis
    height: int  # pixels
    width: int  # pixels
    dtype: str  # numpy name

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


def checksums(pixels: Shaped[np.ndarray, "*images height width"]) -> UInt64[np.ndarray, "*images"]:
    """64-bit checksums (XXH3) of images: at 19 GB/s a seventh of the time that CRC-32 takes.

    Returns:
        (...) uint64.
    """
    content = memoryview(np.ascontiguousarray(pixels)).cast("B")
    size = len(content) // math.prod(pixels.shape[:-2])
    sums = [xxh3_64_intdigest(content[start : start + size]) for start in range(0, len(content), size)]
    return np.array(sums, np.uint64).reshape(pixels.shape[:-2])


def stacks_of(header: dict[str, Any]) -> list[Stack]:
    """The stacks that a header lists."""
    return [Stack(**{**one, "bands": tuple(one["bands"])}) for one in header["stacks"]]


def bands_of(header: dict[str, Any]) -> list[Band]:
    """The bands in order; known ones as in the tables of this version, not of the one that packed the file."""
    return [KNOWN[one] if isinstance(one, str) else Band(**one) for one in header["bands"]]


def little_endian(dtype: str) -> np.dtype:
    """The type as it is stored."""
    return np.dtype(dtype).newbyteorder("<")


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
        self.stacks = stacks_of(header)
        try:
            with store.open_hdf5(file) as source:
                group = source[split]
                arrays = {name: group[name][:] for name in ARRAYS if name in group}
                for stack in self.stacks:
                    if group[stack.name].shape != (about["rows"], len(stack.bands), stack.height, stack.width):
                        raise ValueError(f"the shape of '{split}/{stack.name}' differs from its header")
                self.offsets = {stack.name: group[stack.name].id.get_offset() for stack in self.stacks}
            if None in self.offsets.values():
                raise ValueError(f"the pixels of {split} are chunked; another program has rewritten the file")
            if {"ids", "labels", "checksums"} - arrays.keys() or {len(a) for a in arrays.values()} != {about["rows"]}:
                raise ValueError(f"the arrays of {split} differ from its header")
            ids = [name.decode(errors="replace") for name in arrays["ids"]]
        except (OSError, KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            raise _damaged(file, error) from error
        found = {"ids": store.digest_ids(ids)} | {k: store.digest_array(arrays[k]) for k in arrays if k != "ids"}
        for name in ("ids", "labels", "lonlat", "footprint"):
            if found.get(name) != about.get(f"{name}_sha256"):
                raise RequestError(
                    f"{file} is damaged: {name} of {split} do not match their checksum; "
                    "recreate it with featurize pack --overwrite"
                )
        self.sums = arrays["checksums"]
        dataset = header["dataset"]
        super().__init__(
            name=dataset["name"],
            variant=dataset["variant"],
            split=split,
            ids=ids,
            labels=arrays["labels"],
            class_names=dataset["class_names"],
            bands=bands_of(header),
            statistics={name: Statistic(**one) for name, one in header["statistics"].items()},
            lonlat=arrays.get("lonlat"),
            provenance=dataset["provenance"],
            files_digest=about["files_sha256"],
        )
        self.columns = {band.name: column for column, band in enumerate(self.bands)}
        self.footprint = arrays.get("footprint")
        self.nodata, self.scaled = about.get("nodata"), about.get("scaled", False)
        self.read_from = {"packed": file.name, **header["made"]}

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_source"}  # each process opens its own

    @cached_property
    def _source(self) -> io.FileIO:
        return self.file.open("rb", buffering=0)

    def read(self, index: int, bands: Sequence[Band]) -> list[Shaped[np.ndarray, "_ _"]]:
        """See `EODataset.read`."""
        images: list[Any] = [None] * len(bands)
        for channels, pixels in self.read_stacks([index], bands):
            for place, channel in enumerate(channels):
                images[channel] = pixels[0, place]
        return images

    def read_stacks(
        self, rows: Sequence[int], bands: Sequence[Band]
    ) -> list[tuple[list[int], Shaped[np.ndarray, "batch _ _ _"]]]:
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
        pixels = np.empty((len(rows), len(places), stack.height, stack.width), little_endian(stack.dtype))
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
                f"'{self.ids[rows[row]]}' ({self.split}); recreate it (featurize pack --overwrite)"
            )


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Where runs of consecutive numbers begin in a sequence, and how long they are."""
    for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        places = [place for place, _ in run]
        yield places[0], len(places)


def read_header(file: Path) -> dict[str, Any]:
    """The header of a packed file.

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
                raise RequestError(
                    f"{file} is damaged: its header does not match its checksum; "
                    "recreate it (featurize pack --overwrite)"
                )
        header = json.loads(text)
    except store.Damaged as error:
        raise store.Damaged(f"{error}; recreate it (featurize pack --overwrite)") from error
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(file, error) from error
    if isinstance(header, dict) and header.keys() >= {"schema"} and header["schema"] != SCHEMA:
        raise RequestError(
            f"{file} has schema {header['schema']}, this version reads {SCHEMA}; "
            "recreate it (featurize pack --overwrite)"
        )
    if not _is_whole(header):
        raise RequestError(f"{file} is not a packed file of this program: its header lacks required fields")
    return header


def _is_whole(header: Any) -> bool:
    """Whether a header has all fields that readers need, with the expected types."""
    try:
        names = [band.name for band in bands_of(header)]
        stacked = [name for stack in stacks_of(header) for name in stack.bands]
        sizes = [stack.sample_bytes for stack in stacks_of(header)]
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
