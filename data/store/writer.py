"""Writing feature files: parts and a journal, joined and published by one rename."""

import hashlib
import io
import os
import shutil
from collections import defaultdict
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
from jaxtyping import Float, UInt64

from data import paths
from data.command import say
from data.dataset import EODataset
from data.errors import RequestError
from data.files import canonical_json, explained, published
from data.lock import Lock, left_beside
from data.store.checks import digest_attributes
from data.store.identity import TIMES_FIELD, differing_fields, digest_array
from data.store.journal import append_line, consistent, journal_lines, keep_lines
from data.store.plan import MADE_BY, PLAN_FILE, DamagedPlan, described, maker, plan_digest, read_plan, write_plan
from data.store.reader import CHUNK_ROWS, open_hdf5

DEFAULT_PART_ROWS = 1024
Sources = UInt64[np.ndarray, "rows 2"]  # see `data.seen`


class PartWriter:
    """Writes parts of one split; several processes may each write some under the plan of a `FeatureWriter`.

    Rows are cut into parts of `part_rows`; `missing` lists the parts still to be computed, `write_part` adds one.

    Args:
        file: the feature file to publish.
        rows: N.
        dim: D.
        dtype: type of ``features``, ``float16`` or ``float32``.
        part_rows: rows in a part; a kill loses at most one part.
        writer: names this process's journal: a file that two machines append to may lose lines on network disks.
        plan: `plan_sha256` of the writer that planned the parts; None means that of the plan on disk. Parts that a
            process of a killed run still writes then do not count in the run that replaces it.
    """

    def __init__(
        self, file: Path, *, rows: int, dim: int, dtype: str, part_rows: int, writer: str = "", plan: str | None = None
    ) -> None:
        self.file, self.rows, self.dim = file, rows, dim
        self.dtype, self.part_rows = np.dtype(dtype), part_rows
        self.parts = paths.parts_folder(file)
        self.journal = self.parts / (f"journal-{writer}.jsonl" if writer else "journal.jsonl")
        if plan:
            self.plan_sha256 = plan

    def bounds(self, part: int) -> tuple[int, int]:
        """First row and row after the last of a part."""
        return part * self.part_rows, min((part + 1) * self.part_rows, self.rows)

    @property
    def parts_in_all(self) -> int:
        """How many parts make the file."""
        return -(-self.rows // self.part_rows)

    def missing(self) -> list[int]:
        """Parts that are in no journal, or whose file no longer matches it; reads them all."""
        journal = self._read_journals()
        return [part for part in range(self.parts_in_all) if self._content(part, journal.get(part)) is None]

    def recorded(self) -> set[int]:
        """Parts that are in a journal."""
        return set(self._read_journals())

    def write_part(self, part: int, features: Float[np.ndarray, "rows dim"], sources: Sources | None = None) -> None:
        """Write one part: temporary name, flush, fsync, rename, then the journal.

        Args:
            part: number of the part.
            features: of the part.
            sources: what they were made from; None where it is not known.

        Raises:
            RequestError: the disk is full; parts already in the journal stay.
        """
        start, stop = self.bounds(part)
        assert features.shape == (stop - start, self.dim), f"part {part}: {features.shape}"
        buffer = io.BytesIO()  # HDF5 in memory first: a full disk then fails in one plain write, not in HDF5's cache
        with h5py.File(buffer, "w") as file:
            file.create_dataset("features", data=features.astype(self.dtype), fletcher32=True, chunks=True)
            if sources is not None:
                file.create_dataset("sources", data=sources, fletcher32=True, chunks=True)
            file.attrs["start"], file.attrs["stop"] = start, stop
        content = buffer.getvalue()
        with published(self._part_file(part)) as temporary:
            temporary.write_bytes(content)
        line = {"part": part, "start": start, "stop": stop, "sha256": hashlib.sha256(content).hexdigest()}
        append_line(self.journal, line | {"part_rows": self.part_rows, "plan": self.plan_sha256})

    @cached_property
    def plan_sha256(self) -> str | None:
        """Digest of the plan that the parts are made under; None where no `FeatureWriter` has written one."""
        plan = read_plan(self.parts)
        return plan_digest(plan) if plan else None

    def forget(self, parts: Collection[int]) -> None:
        """Take finished parts out of the journal, so that they are missing; for the process that holds the lock."""
        keep_lines(self.parts, self.journal, lambda line: line["part"] not in parts)

    def sources(self, part: int) -> Sources:
        """What a finished part was made from; 0 where it is not known."""
        start, stop = self.bounds(part)
        with open_hdf5(self._part_file(part)) as source:
            return source["sources"][:] if "sources" in source else np.zeros((stop - start, 2), np.uint64)

    def _part_file(self, part: int) -> Path:
        return self.parts / f"part-{part:05d}.h5"

    def _read_journals(self) -> dict[int, set[str]]:
        """Digests by part: a part made twice, by two writers, is in two journals. Lines of other plans do not count."""
        entries: dict[int, set[str]] = defaultdict(set)
        for line in journal_lines(self.parts):
            if line.get("plan") in (None, self.plan_sha256):  # v0.1's have none
                entries[line["part"]].add(line["sha256"])
        return entries

    def _content(self, part: int, digests: set[str] | None) -> bytes | None:
        """The file of a part, if it matches the journal, else None."""
        file = self._part_file(part)
        content = file.read_bytes() if digests and file.exists() else None
        return content if content is not None and hashlib.sha256(content).hexdigest() in (digests or ()) else None


class FeatureWriter(PartWriter):
    """Writes one split part by part and publishes it; use as a context manager, which holds the lock.

    `finish` joins the parts, whoever wrote them.

    Args:
        file: the feature file to publish.
        identity: see `make_identity`.
        overwrite: drop parts of another identity, which are an error otherwise.
        any_times: keep parts made under another digest of the files' sizes and times; `other_times` says that there
            are some, and whoever wants to keep them must compare the images with what they were made from.
        size: ``rows``, ``dim``, ``dtype`` and ``part_rows``, as `PartWriter` takes them.

    Raises:
        RequestError: another process is writing this split; the parts on disk have another identity; or the
            disk cannot hold the result.
    """

    def __init__(
        self, file: Path, identity: dict[str, Any], *, overwrite: bool = False, any_times: bool = False, **size: Any
    ) -> None:
        given: dict[str, Any] = {"part_rows": DEFAULT_PART_ROWS} | size
        super().__init__(file, **given)
        self.identity, self.overwrite, self.any_times = identity, overwrite, any_times
        self.other_times = False
        self.makers: list[dict[str, str]] = [maker()]
        self._lock = Lock(paths.lock_file(file))

    def __enter__(self) -> Self:
        self._lock.acquire()
        try:
            self._plan()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self._lock.release()

    def finish(self, dataset: EODataset, environment: dict[str, Any]) -> Path:
        """Join the parts with ids, labels and locations into the feature file; remove the parts.

        Args:
            dataset: the split whose rows the parts hold.
            environment: what is recorded but never compared (versions, device, time, images/s).

        Raises:
            RequestError: parts are missing, or the disk is full.
        """
        arrays: dict[str, np.ndarray] = {"labels": dataset.labels, "ids": np.array([i.encode() for i in dataset.ids])}
        for name, kind in (("lonlat", np.float64), ("footprint", np.int32), ("geometry", bytes)):
            if (array := getattr(dataset, name)) is not None:
                arrays[name] = array.astype(kind)
        sources, journal = np.zeros((self.rows, 2), np.uint64), self._read_journals()
        self._lock.check()
        digest = hashlib.sha256()
        chunk = min(CHUNK_ROWS, self.rows)
        row_bytes = self.dim * self.dtype.itemsize + sum(array[:1].nbytes for array in (*arrays.values(), sources))
        size = -(-self.rows // chunk) * chunk * row_bytes  # HDF5 takes whole chunks
        with published(self.file) as temporary, reserved(temporary, size) as file:
            shape, chunks = (self.rows, self.dim), (chunk, self.dim)
            features = file.create_dataset("features", shape, self.dtype, chunks=chunks, fletcher32=True)
            for part in range(self.parts_in_all):
                start, stop = self.bounds(part)
                content = self._content(part, journal.get(part))
                if content is None:
                    count = len(self.missing())
                    raise RequestError(f"{self.file}: {count} parts are missing or damaged; run featurize again")
                with h5py.File(io.BytesIO(content), "r") as source:  # what was checked
                    block = np.asarray(source["features"])
                    if "sources" in source:
                        sources[start:stop] = np.asarray(source["sources"])
                features[start:stop] = block
                digest.update(block.tobytes())
            if sources.any():
                arrays["sources"] = sources
            for name, array in arrays.items():
                file.create_dataset(name, data=array, chunks=(chunk, *array.shape[1:]), fletcher32=True)
            checksums = {"features": digest.hexdigest()} | {name: digest_array(a) for name, a in arrays.items()}
            file.attrs["identity"] = canonical_json(self.identity)
            several = {"parts_made_by": self.makers} if len(self.makers) > 1 else {}
            file.attrs["environment"] = canonical_json(environment | several)
            file.attrs["class_names"] = canonical_json(list(dataset.class_names))
            file.attrs["checksums"] = canonical_json(checksums)
            file.attrs["attributes_sha256"] = digest_attributes(file)
        shutil.rmtree(self.parts)
        return self.file

    def _plan(self) -> None:
        """Start the parts folder, or check that the one on disk belongs to this identity."""
        plan = {"identity": self.identity, "rows": self.rows, "dim": self.dim, "dtype": self.dtype.name}
        try:
            for torn in self.file.parent.glob(f"{self.file.name}.tmp-*"):
                torn.unlink()  # of a run killed while joining; the lock says that nobody is
            if not self._resume(plan):
                shutil.rmtree(self.parts, ignore_errors=True)
                need = 2 * self.rows * self.dim * self.dtype.itemsize  # the parts, then the file joined from them
                free = shutil.disk_usage(self.file.parent).free
                if need > free:
                    raise RequestError(
                        f"no space left: {self.file} needs {need / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; "
                        "free some space or choose another --out"
                    )
                write_plan(self.parts, plan | {"part_rows": self.part_rows, MADE_BY: self.makers})
        except OSError as error:
            raise explained(error, self.parts) from error

    def _resume(self, plan: dict[str, Any]) -> bool:
        """Whether the parts on disk are of this plan; their size is then the first start's.

        A plan that is damaged or gone is written again where lines of the journal were made under this one.
        """
        try:
            found = read_plan(self.parts)
        except DamagedPlan:
            found = {}
        if found:
            part_rows, makers = found.pop("part_rows"), found.pop(MADE_BY, [{}])
            fields = differing_fields(found, plan)
            self.other_times = self.any_times and fields == [f"identity.{TIMES_FIELD}"]
            if not fields or self.other_times:
                self.part_rows = part_rows
                self._join_makers(makers, found)
                return True
            why = f"holds parts that differ from this request in {', '.join(fields)}"
        else:
            digest = plan_digest(plan)

            def ours(line: dict[str, Any]) -> bool:
                return line.get("plan") == digest and consistent(line, self.rows)

            if first := next(filter(ours, journal_lines(self.parts)), None):
                self.part_rows = first["part_rows"]
                write_plan(self.parts, plan | {"part_rows": self.part_rows, MADE_BY: self.makers})
                size = self.part_rows
                keep_lines(self.parts, self.journal, lambda line: ours(line) and line["part_rows"] == size)
                return True
            if found is None and not any(journal_lines(self.parts)):
                return False
            why = f"has no readable {PLAN_FILE}, and its journal lists no part with these settings"
        if not self.overwrite:
            raise RequestError(f"{self.parts} {why}; use --overwrite to discard the parts")
        return False

    def _join_makers(self, makers: list[dict[str, str]], plan: dict[str, Any]) -> None:
        """Record, and report, that parts of other versions are joined with those of this one."""
        now, started = maker(), any(journal_lines(self.parts))
        self.makers = (makers if now in makers else [*makers, now]) if started else [now]
        if self.makers == makers:
            return
        if started:
            say(
                f"featurize: note: {self.parts} has parts made by other versions ({described(makers[-1], now)}); "
                "values may differ slightly between them: use --overwrite to recompute everything"
            )
        write_plan(self.parts, plan | {"part_rows": self.part_rows, MADE_BY: self.makers})


@contextmanager
def reserved(path: Path, size: int) -> Iterator[h5py.File]:
    """Create an HDF5 file with its space taken beforehand: HDF5 crashes the process when a disk fills up under it.

    Args:
        path: the file.
        size: bytes of its arrays; a margin for HDF5's own tables is added, and cut off again when HDF5 closes.

    Raises:
        OSError: the disk is full.
    """
    empty = io.BytesIO()
    h5py.File(empty, "w").close()
    with path.open("wb") as raw:
        raw.write(empty.getvalue())
        raw.flush()
        if hasattr(os, "posix_fallocate"):  # absent on macOS
            os.posix_fallocate(raw.fileno(), 0, size + size // 50 + 2**20)
    with h5py.File(path, "r+", locking=False) as file:
        yield file


def tidy(file: Path) -> None:
    """Remove what a run killed right after publishing left behind, unless another process is at work there."""
    if paths.parts_folder(file).exists() or left_beside(paths.lock_file(file)):
        with suppress(RequestError), Lock(paths.lock_file(file)):
            shutil.rmtree(paths.parts_folder(file), ignore_errors=True)
