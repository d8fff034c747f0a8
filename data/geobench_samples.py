"""Samples of GEO-Bench v1 on disk: one HDF5 file each, or members of WebDataset shards."""

import ast
import io
import os
import pickle
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from jaxtyping import Integer, Shaped, UInt64

from data import inert_pickle
from data.cached import UNUSABLE
from data.errors import RequestError
from data.seen import stamp_of, times_digest
from data.store.structure import array_in
from data.workers import LostWorkerError, in_order

HUB = "recursix/geo-bench-1.0"
MOST_PIXELS = 2**24  # of a band; the sets' own have at most 332 x 332
# Modules that samples' metadata name: descriptions of bands, dates and places. None of them is imported.
MODULES = ("geobench.dataset", "ccb.io.dataset", "datetime", "affine", "rasterio.crs", "copyreg", *inert_pickle.NUMPY)
# What a shard's member or an HDF5 file raises when it is damaged.
DAMAGED = (*UNUSABLE, AttributeError, IndexError, pickle.UnpicklingError)
PATIENCE_S = 60.0  # for one sample, of a few hundred kilobytes


class Samples:
    """Where the samples of a set lie: HDF5 files of a folder, or members of shards.

    Args:
        folder: of the set.
        members: by sample and member (``bands.npz``, ``meta.pkl``): shard, offset and size; empty for HDF5 files.
    """

    def __init__(self, folder: Path, members: Mapping[str, Mapping[str, tuple[str, int, int]]]) -> None:
        self.folder, self.members = folder, members
        self._abouts: dict[str, os.stat_result] = {}  # status of each file, read once

    def check(self, ids: Sequence[str], partition: str) -> None:
        """Raise a RequestError that counts the samples of a partition that have no file."""
        there = self.members or {file.stem for file in self.folder.glob("*.hdf5") if file.is_file()}
        absent = [sample for sample in ids if sample not in there]
        if absent:
            raise RequestError(
                f"{len(absent)} of {len(ids)} samples of partition {partition} are not in {self.folder}, first "
                f"{', '.join(absent[:3])}; download the set again from https://huggingface.co/datasets/{HUB}"
            )

    def digest(self, ids: Sequence[str]) -> str:
        """See `data.seen.times_digest`."""
        return times_digest({name: self._about(name) for name in sorted({self.file(sample) for sample in ids})})

    def stamps(self, ids: Sequence[str]) -> UInt64[np.ndarray, " samples"]:
        """(N,) uint64, see `data.seen`."""
        return np.array([stamp_of([self._about(self.file(sample))]) for sample in ids], np.uint64)

    def file(self, sample: str) -> str:
        """Name of the file that holds a sample."""
        return self.members[sample]["bands.npz"][0] if self.members else f"{sample}.hdf5"

    def _about(self, name: str) -> os.stat_result:
        if name not in self._abouts:
            self._abouts[name] = os.stat(self.folder / name)
        return self._abouts[name]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_abouts": {}}  # reader processes need none

    def in_child[R](self, work: Callable[[str], R], ids: Sequence[str]) -> Iterator[R]:
        """Results of `work` for each sample; a child process reads HDF5, which damage can crash or hang."""
        done = 0
        try:
            for result in in_order(work, ids, workers=0 if self.members else 1, patience_s=PATIENCE_S):
                yield result
                done += 1
        except LostWorkerError as error:
            why = f"{self.where(ids[done])} is damaged: reading it crashes or hangs HDF5"
            raise RequestError(f"{why}; download it again") from error

    def where(self, sample: str) -> str:
        """How error messages name a sample."""
        return f"{self.folder / self.file(sample)}{f', sample {sample}' if self.members else ''}"

    def pixels(self, sample: str, stored: Sequence[str]) -> list[Shaped[np.ndarray, "_ _"]]:
        """Bands of a sample by their stored names; a name in the file may be followed by ``_<date>``."""
        try:
            if self.members:
                with np.load(io.BytesIO(self._member(sample, "bands.npz")), allow_pickle=False) as arrays:
                    return [_plane(arrays[_key(arrays.files, name)]) for name in stored]
            with h5py.File(self.folder / f"{sample}.hdf5", "r", locking=False) as file:
                return [_plane(_dataset(file, _key(list(file), name))) for name in stored]
        except DAMAGED as error:
            raise RequestError(f"{self.where(sample)} is damaged or not a GEO-Bench sample: {error}") from error

    def label(self, sample: str) -> Integer[np.ndarray, "..."]:
        """Label of a sample: a class number, or 0 or 1 for every class. No pickled code is run."""
        try:
            if self.members:
                payload = self._member(sample, "meta.pkl")
            else:
                with h5py.File(self.folder / f"{sample}.hdf5", "r", locking=False) as file:
                    payload = file.attrs["pickle"]
                payload = ast.literal_eval(payload.decode() if isinstance(payload, bytes) else str(payload))
            about = inert_pickle.loads(payload, modules=MODULES)
            if not isinstance(about, dict) or "label" not in about:
                raise ValueError("no label in it")
            return inert_pickle.integers(about["label"])
        except DAMAGED as error:
            raise RequestError(f"{self.where(sample)}: its metadata cannot be read: {error}") from error

    def _member(self, sample: str, member: str) -> bytes:
        shard, offset, size = self.members[sample][member]
        with (self.folder / shard).open("rb") as file:
            file.seek(offset)
            return file.read(size)


def _dataset(file: h5py.File, name: str) -> np.ndarray:
    node = array_in(file, name)
    if (node.size or 0) > MOST_PIXELS:
        raise ValueError(f"'{name}' is not a band of at most {MOST_PIXELS:,} pixels")
    return node[()]


def _key(names: Sequence[str], stored: str) -> str:
    """The name in a file: the stored one, or that with a date."""
    found = [name for name in names if name == stored or name.startswith(f"{stored}_")]
    if len(found) != 1:
        raise KeyError(f"{len(found)} bands named '{stored}'; it has {', '.join(sorted(names))}")
    return found[0]


def _plane(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 or array.dtype.kind not in "iuf":
        raise ValueError(f"a band of shape {array.shape} and type {array.dtype}; expected height x width numbers")
    return array


def shards(folder: Path) -> dict[str, dict[str, tuple[str, int, int]]]:
    """Where samples lie in the shards of a folder: by sample and member; empty where the folder has no shards."""
    found = sorted(folder.glob("shard_*.tar"))
    return _scanned(folder, tuple((shard, shard.stat().st_size, shard.stat().st_mtime_ns) for shard in found))


@lru_cache(maxsize=8)
def _scanned(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> dict[str, dict[str, tuple[str, int, int]]]:
    """As `shards`; scanned once for all splits, while sizes and times are the same."""
    members: dict[str, dict[str, tuple[str, int, int]]] = {}
    for shard, _, _ in files:
        try:
            with tarfile.open(shard, "r:") as file:
                for member in file:
                    for ending in ("bands.npz", "meta.pkl"):
                        if member.isreg() and member.name.endswith(f".{ending}"):
                            sample = member.name.removesuffix(f".{ending}")
                            members.setdefault(sample, {})[ending] = (shard.name, member.offset_data, member.size)
        except (OSError, tarfile.TarError) as error:
            raise RequestError(f"{shard} is damaged or incomplete ({error}); download it again") from error
    half = [sample for sample, found in members.items() if len(found) < 2]
    if half:
        raise RequestError(f"{folder}: {len(half)} samples lack bands.npz or meta.pkl, first {half[0]}; download again")
    return members
