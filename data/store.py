"""Feature files on disk: identity, writer, reader, verify.

One HDF5 file a split holds ``features`` (N, D), ``labels`` (N, K) or (N,), ``ids`` (N,) and, where known,
``lonlat`` (N, 2). The attribute ``identity`` is all that decides the values; ``environment`` is recorded and
never compared. While a split is being written it is a folder of parts and a journal; a part counts once it is
in the journal, and the finished file appears by one rename.
"""

import hashlib
import io
import json
import os
import re
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from data import paths
from data.dataset import SPLITS, EODataset
from data.errors import RequestError
from data.files import canonical_json, explained, fsync_folder, published, short_hash
from data.lock import Lock

SCHEMA = 1
DIGESTED = ("ids", "labels", "lonlat")  # arrays whose sha256 is in the identity
CHUNK_ROWS = 1024
DEFAULT_PART_ROWS = 1024


# ---------------------------------------------------------------------------------------------- identity


def make_identity(dataset: EODataset, encoder: dict[str, Any], *, limit: int | None = None) -> dict[str, Any]:
    """All that decides the values of one feature file.

    Args:
        dataset: one split.
        encoder: the encoder's own identity (see `featurize.encoder.Encoder.identity`).
        limit: ``--limit``, if one was given.
    """
    identity = {
        "schema": SCHEMA,
        "dataset": {
            "name": dataset.name,
            "variant": dataset.variant,
            "provenance": dataset.provenance,
            "limit": limit,
            "class_names": list(dataset.class_names),
        },
        "encoder": encoder,
        "split": {
            "name": dataset.split,
            "rows": len(dataset),
            "ids_sha256": digest_ids(dataset.ids),
            "labels_sha256": digest_array(dataset.labels),
            "files_sha256": _files_digest(dataset, encoder.get("bands", ())),
            "lonlat_sha256": None if dataset.lonlat is None else digest_array(dataset.lonlat.astype(np.float64)),
            **({"altered": dataset.altered} if dataset.altered else {}),
        },
    }
    return json.loads(canonical_json(identity))  # as it is read back: tuples become lists


def _files_digest(dataset: EODataset, bands: Sequence[str]) -> Any:
    """Digest of the files that these bands are read from; by sensor where they are of several."""
    digest = dataset.files_digest
    if digest is None or isinstance(digest, str):
        return digest
    read = {band.sensor for band in dataset.bands if band.name in bands} or digest.keys()
    kept = {sensor: value for sensor, value in digest.items() if sensor in read}
    return kept if len(kept) > 1 else next(iter(kept.values()))


def digest_ids(ids: Sequence[str]) -> str:
    """sha256 of the ordered ids."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def digest_array(array: np.ndarray) -> str:
    """sha256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"").hexdigest()


def dataset_slug(identity: dict[str, Any]) -> str:
    """Folder name of a dataset: its name, with the variant where there is one."""
    dataset = identity["dataset"]
    return f"{dataset['name']}-{dataset['variant']}" if dataset["variant"] else dataset["name"]


def encoder_slug(identity: dict[str, Any]) -> str:
    """Folder name of a feature set: readable settings and a hash of all settings that the splits share."""
    encoder = identity["encoder"]
    shared = {key: identity[key] for key in ("schema", "dataset", "encoder")}
    size = encoder["image_size"] or "native"
    words = [encoder["name"], encoder["variant"], *(["random"] if encoder["weights"]["source"] == "random" else [])]
    model = re.sub(r"[/\\:\s]+", "-", "-".join(word for word in words if word))  # a door's name has ':' and '/'
    return f"{model}_{encoder['bands_name']}_{size}_{encoder['pooling']}_{short_hash(shared)}"


def differing_fields(one: Any, other: Any, prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two identities differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            name
            for key in sorted(one.keys() | other.keys())
            for name in differing_fields(one.get(key), other.get(key), f"{prefix}{key}.")
        ]
    return [] if one == other else [prefix.rstrip(".")]


# ------------------------------------------------------------------------------------------------ writer


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
    """

    def __init__(self, file: Path, *, rows: int, dim: int, dtype: str, part_rows: int, writer: str = "") -> None:
        self.file, self.rows, self.dim = file, rows, dim
        self.dtype, self.part_rows = np.dtype(dtype), part_rows
        self.parts = paths.parts_folder(file)
        self.journal = self.parts / (f"journal-{writer}.jsonl" if writer else "journal.jsonl")

    def bounds(self, part: int) -> tuple[int, int]:
        """First row and row after the last of a part."""
        return part * self.part_rows, min((part + 1) * self.part_rows, self.rows)

    def missing(self) -> list[int]:
        """Parts that are in no journal, or whose file no longer matches it."""
        journal = self._read_journals()
        return [part for part in range(-(-self.rows // self.part_rows)) if not self._intact(part, journal.get(part))]

    def recorded(self) -> set[int]:
        """Parts that are in a journal."""
        return set(self._read_journals())

    def write_part(self, part: int, features: np.ndarray) -> None:
        """Write one part: temporary name, flush, fsync, rename, then the journal.

        Args:
            part: number of the part.
            features: (rows of the part, D).

        Raises:
            RequestError: the disk is full; parts already in the journal stay.
        """
        start, stop = self.bounds(part)
        assert features.shape == (stop - start, self.dim), f"part {part}: {features.shape}"
        buffer = io.BytesIO()  # HDF5 in memory first: a full disk then fails in one plain write, not in HDF5's cache
        with h5py.File(buffer, "w") as file:
            file.create_dataset("features", data=features.astype(self.dtype), fletcher32=True, chunks=True)
            file.attrs["start"], file.attrs["stop"] = start, stop
        content = buffer.getvalue()
        with published(self._part_file(part)) as temporary:
            temporary.write_bytes(content)
        line = {"part": part, "start": start, "stop": stop, "sha256": hashlib.sha256(content).hexdigest()}
        _append_line(self.journal, canonical_json(line))

    def _part_file(self, part: int) -> Path:
        return self.parts / f"part-{part:05d}.h5"

    def _read_journals(self) -> dict[int, set[str]]:
        """Digests by part: a part made twice, by two writers, is in two journals."""
        entries: dict[int, set[str]] = defaultdict(set)
        for journal in self.parts.glob("journal*.jsonl"):
            for line in journal.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    entry = json.loads(line)
                    entries[entry["part"]].add(entry["sha256"])
                except (json.JSONDecodeError, KeyError, TypeError):
                    continue  # a line cut short by a kill: its part is computed again
        return entries

    def _intact(self, part: int, digests: set[str] | None) -> bool:
        file = self._part_file(part)
        return bool(digests) and file.exists() and hashlib.sha256(file.read_bytes()).hexdigest() in digests


class FeatureWriter(PartWriter):
    """Writes one split part by part and publishes it; use as a context manager, which holds the lock.

    `finish` joins the parts, whoever wrote them.

    Args:
        file: the feature file to publish.
        identity: see `make_identity`.
        rows: N.
        dim: D.
        dtype: type of ``features``, ``float16`` or ``float32``.
        part_rows: rows in a part; a kill loses at most one part.
        overwrite: drop parts of another identity, which are an error otherwise.

    Raises:
        RequestError: another process is writing this split; the parts on disk have another identity; or the
            disk cannot hold the result.
    """

    def __init__(
        self,
        file: Path,
        identity: dict[str, Any],
        *,
        rows: int,
        dim: int,
        dtype: str,
        part_rows: int = DEFAULT_PART_ROWS,
        overwrite: bool = False,
    ) -> None:
        super().__init__(file, rows=rows, dim=dim, dtype=dtype, part_rows=part_rows)
        self.identity, self.overwrite = identity, overwrite
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
        if missing := self.missing():
            raise RequestError(f"{self.file}: {len(missing)} parts are missing or damaged; run featurize again")
        arrays: dict[str, np.ndarray] = {"labels": dataset.labels, "ids": np.array([i.encode() for i in dataset.ids])}
        if dataset.lonlat is not None:
            arrays["lonlat"] = dataset.lonlat.astype(np.float64)
        digest = hashlib.sha256()
        chunk = min(CHUNK_ROWS, self.rows)
        row_bytes = self.dim * self.dtype.itemsize + sum(array[:1].nbytes for array in arrays.values())
        size = -(-self.rows // chunk) * chunk * row_bytes  # HDF5 takes whole chunks
        with published(self.file) as temporary, reserved(temporary, size) as file:
            chunks = (min(CHUNK_ROWS, self.rows), self.dim)
            features = file.create_dataset(
                "features", (self.rows, self.dim), self.dtype, chunks=chunks, fletcher32=True
            )
            for part in range(-(-self.rows // self.part_rows)):
                start, stop = self.bounds(part)
                with open_hdf5(self._part_file(part)) as source:
                    block = source["features"][:]
                features[start:stop] = block
                digest.update(np.ascontiguousarray(block).tobytes())
            for name, array in arrays.items():
                chunks = (min(CHUNK_ROWS, len(array)), *array.shape[1:])
                file.create_dataset(name, data=array, chunks=chunks, fletcher32=True)
            checksums = {"features": digest.hexdigest()} | {name: digest_array(a) for name, a in arrays.items()}
            file.attrs["identity"] = canonical_json(self.identity)
            file.attrs["environment"] = canonical_json(environment)
            file.attrs["class_names"] = canonical_json(list(dataset.class_names))
            file.attrs["checksums"] = canonical_json(checksums)
            file.attrs["attributes_sha256"] = _digest_attributes(file)
        shutil.rmtree(self.parts)
        return self.file

    def _plan(self) -> None:
        """Start the parts folder, or check that the one on disk belongs to this identity."""
        plan = {"identity": self.identity, "rows": self.rows, "dim": self.dim, "dtype": self.dtype.name}
        plan_file = self.parts / "plan.json"
        try:
            for torn in self.file.parent.glob(f"{self.file.name}.tmp-*"):
                torn.unlink()  # of a run killed while joining; the lock says that nobody is
            if plan_file.exists():
                found = json.loads(plan_file.read_text())
                part_rows = found.pop("part_rows")
                fields = differing_fields(found, plan)
                if fields and not self.overwrite:
                    raise RequestError(
                        f"{self.parts} holds parts made with another {', '.join(fields)}; use --overwrite to drop them"
                    )
                if fields:
                    shutil.rmtree(self.parts)
                else:
                    self.part_rows = part_rows  # resuming keeps the cuts of the first start
            if not plan_file.exists():
                need = 2 * self.rows * self.dim * self.dtype.itemsize  # the parts, then the file joined from them
                free = shutil.disk_usage(self.file.parent).free
                if need > free:
                    raise RequestError(
                        f"no space left: {self.file} needs {need / 1e6:.0f} MB, {free / 1e6:.0f} MB are free; "
                        "free some or choose another --out"
                    )
                with published(plan_file) as temporary:
                    temporary.write_text(canonical_json(plan | {"part_rows": self.part_rows}))
        except OSError as error:
            raise explained(error, self.parts) from error


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
    with h5py.File(path, "r+") as file:
        yield file


def _append_line(path: Path, line: str) -> None:
    try:
        with path.open("ab") as file:
            file.write(f"\n{line}\n".encode())  # led by a line break: the line before may have been cut short by a kill
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(path.parent)
    except OSError as error:
        raise explained(error, path) from error


def tidy(file: Path) -> None:
    """Remove what a run killed right after publishing left behind, unless another process is at work there."""
    if paths.parts_folder(file).exists() or paths.lock_file(file).exists():
        with suppress(RequestError), Lock(paths.lock_file(file)):
            shutil.rmtree(paths.parts_folder(file), ignore_errors=True)


# ------------------------------------------------------------------------------------------------ reader


@dataclass(frozen=True)
class FeatureSet:
    """One split's features in memory.

    Args:
        file: where it came from.
        features: (N, D) float16 or float32.
        labels: (N, K) uint8 or (N,) int64.
        ids: N names.
        lonlat: (N, 2) degrees, or None.
        class_names: K names.
        identity: what decided the values.
        environment: what was recorded with them.
        views: the same images altered, where a probe learns from them too.
    """

    file: Path
    features: np.ndarray
    labels: np.ndarray
    ids: list[str]
    lonlat: np.ndarray | None
    class_names: tuple[str, ...]
    identity: dict[str, Any]
    environment: dict[str, Any]
    views: tuple["FeatureSet", ...] = ()

    @property
    def multilabel(self) -> bool:
        """Whether a sample may have several classes."""
        return self.labels.ndim == 2

    @property
    def simulated(self) -> bool:
        """Whether the samples were generated, not observed; results must say so."""
        return bool(self.identity["dataset"]["provenance"].get("simulated"))


def open_hdf5(file: Path) -> Any:
    """Open an HDF5 file for reading; typed loosely, as h5py cannot tell what a name in a file holds."""
    return h5py.File(file, "r")


def read_features(file: Path, *, lazy: bool = False) -> FeatureSet:
    """Read one feature file.

    Args:
        file: the feature file.
        lazy: leave the features on disk: slices of them are read on demand, from the file as it is now even if
            another takes its name.

    Raises:
        RequestError: absent, not HDF5, damaged, or of another schema.
    """
    if not file.is_file():
        raise RequestError(f"no feature file at {file}; name a file such as train.h5, or make it with featurize")
    try:
        with ExitStack() as stack:
            source = stack.enter_context(open_hdf5(file))
            identity, environment = _attributes(source)
            found = FeatureSet(
                file=file,
                features=source["features"] if lazy else source["features"][:],
                labels=source["labels"][:],
                ids=[value.decode() for value in source["ids"][:]],
                lonlat=source["lonlat"][:] if "lonlat" in source else None,
                class_names=tuple(identity["dataset"]["class_names"]),
                identity=identity,
                environment=environment,
            )
            if lazy:
                stack.pop_all()  # stays open until the features are no longer referred to
            return found
    except (OSError, KeyError, ValueError, RuntimeError) as error:  # h5py's, of damaged files
        raise _unreadable(file, error) from error


def read_identity(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity and environment of a feature file, without reading its arrays.

    Raises:
        RequestError: as `read_features`.
    """
    try:
        with open_hdf5(file) as source:
            return _attributes(source)
    except (OSError, KeyError, ValueError, RuntimeError) as error:  # h5py's, of damaged files
        raise _unreadable(file, error) from error


def _digest_attributes(source: Any) -> str:
    """sha256 of what is kept beside the arrays."""
    kept = [str(source.attrs[name]) for name in ("identity", "environment", "class_names", "checksums")]
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()


def _attributes(source: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    identity = json.loads(source.attrs["identity"])
    if identity["schema"] != SCHEMA:
        raise RequestError(f"{source.filename} has schema {identity['schema']}, this version reads {SCHEMA}")
    return identity, json.loads(source.attrs["environment"])


def _unreadable(file: Path, error: Exception) -> RequestError:
    return RequestError(
        f"{file} is not a readable feature file ({type(error).__name__}); delete it and run featurize again"
    )


def find_features(out: Path, *, model: str | None = None, dataset: str | None = None) -> Path:
    """The one feature folder under `out` that fits; a feature set is a folder with a file a split.

    Args:
        out: output folder.
        model: model name, or its folder name with the hash; None fits all.
        dataset: dataset name, or its folder name with the variant; None fits all.

    Raises:
        RequestError: none fits, or several do; the message lists them and says which flag chooses.
    """
    fitting = []
    for folder in paths.feature_folders(out):
        identity, _ = read_identity(next(iter(sorted(folder.glob("*.h5")))))
        if model not in (None, identity["encoder"]["name"], folder.name):
            continue
        if dataset not in (None, identity["dataset"]["name"], dataset_slug(identity)):
            continue
        fitting.append(folder)
    if not fitting:
        wanted = " ".join(f"--{k} {v}" for k, v in (("model", model), ("dataset", dataset)) if v)
        raise RequestError(
            f"no features {f'for {wanted} ' if wanted else ''}under {paths.feature_root(out)}; make them with featurize"
        )
    if len(fitting) > 1:
        raise RequestError(
            f"{len(fitting)} feature sets fit; choose with --model, --dataset or --features: "
            + ", ".join(str(folder) for folder in fitting)
        )
    return fitting[0]


# ------------------------------------------------------------------------------------------------ verify


def verify(file: Path) -> list[str]:
    """What is wrong with a feature file, one line a finding; empty when all is well.

    Checks checksums of every array, row counts, unique ids, labels in range, NaN and infinities, and features
    that have collapsed.
    """
    try:
        with open_hdf5(file) as source:
            return [f"{file}: {problem}" for problem in _problems(source)]
    except (RequestError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        return [f"{file}: unreadable ({error})"]


def _problems(source: Any) -> list[str]:
    """See `verify`; features are read in blocks."""
    identity, _ = _attributes(source)
    wanted = {name: identity["split"][name] for name in ("rows", *(f"{n}_sha256" for n in DIGESTED))}
    checksums = dict(json.loads(source.attrs["checksums"]))
    arrays = {name: source[name] for name in source if isinstance(source[name], h5py.Dataset)}
    if source.attrs.get("attributes_sha256") not in (None, _digest_attributes(source)):  # none before 0.1
        return ["what is recorded beside the arrays does not match its checksum"]
    if absent := sorted({"features", "labels", "ids", *checksums} - arrays.keys()):
        return [f"'{name}' is absent" for name in absent]
    features = arrays.pop("features")
    arrays = {name: array[:] for name, array in arrays.items()}
    digest, finite = hashlib.sha256(), np.ones(len(features), bool)
    for start in range(0, len(features), CHUNK_ROWS):
        block = features[start : start + CHUNK_ROWS]
        digest.update(np.ascontiguousarray(block).tobytes())
        finite[start : start + CHUNK_ROWS] = np.isfinite(block).all(axis=1)
    digests = {"features": digest.hexdigest()} | {name: digest_array(array) for name, array in arrays.items()}
    problems = [
        f"checksum of '{name}' does not match" for name, found in digests.items() if checksums.get(name) != found
    ]
    counts = {"features": len(features)} | {name: len(array) for name, array in arrays.items()}
    if set(counts.values()) != {wanted["rows"]}:
        problems.append(f"row counts differ: {counts}, identity says {wanted['rows']}")
    ids = [value.decode(errors="replace") for value in arrays["ids"]]
    if digest_ids(ids) != wanted["ids_sha256"]:
        problems.append("ids do not match the identity")
    for name in ("labels", "lonlat"):
        if digests.get(name) != wanted[f"{name}_sha256"]:
            problems.append(f"{name} do not match the identity")
    if len(set(ids)) < len(ids):
        problems.append(f"{len(ids) - len(set(ids))} ids are duplicates")
    if not finite.all():
        problems.append(f"{(~finite).sum()} rows hold NaN or infinity, first at row {int(np.argmin(finite))}")
    elif why := collapse(features):
        problems.append(f"features have collapsed: {why}")
    return problems


def verify_parts(folder: Path) -> tuple[str, list[str]]:
    """State of a split that is not finished, and what is wrong with its parts.

    Args:
        folder: of the parts, ``<split>.parts``.

    Returns:
        A line that says how many parts are done, and a line a finding.
    """
    try:
        plan = json.loads((folder / "plan.json").read_text())
        size = {name: plan[name] for name in ("rows", "dim", "dtype", "part_rows")}
        writer = PartWriter(folder.with_suffix(".h5"), **size)
    except (OSError, KeyError, TypeError, ValueError) as error:
        return f"{folder}: unfinished", [f"{folder}: plan.json is not readable ({type(error).__name__}); delete it all"]
    count, missing = -(-writer.rows // writer.part_rows), writer.missing()
    damaged = sorted(writer.recorded() & set(missing))
    state = (
        f"{folder}: unfinished, {count - len(missing)} of {count} parts done; its featurize command goes on from here"
    )
    return state, [f"{folder}: part {part} does not match the journal; it will be made again" for part in damaged]


def salvage(file: Path) -> tuple[int, int]:
    """Take what is sound of a damaged feature file as finished parts, so that featurize makes only the rest again.

    Rows are told sound by the checksum that HDF5 keeps of each chunk; the damaged file stays until it is replaced.
    Parts of the same identity that are finished already, such as those of a repair that was killed, are kept.

    Args:
        file: a feature file in which `verify` found damage.

    Returns:
        Rows kept, and rows in all.

    Raises:
        RequestError: the file does not even say what it holds, or another process is writing it.
    """
    try:
        with open_hdf5(file) as source:
            identity, _ = _attributes(source)
            rows, (_, dim), dtype = identity["split"]["rows"], source["features"].shape, source["features"].dtype.name
            known = json.loads(source.attrs["checksums"])["features"]
            blocks = (
                _sound_rows(source["features"], at, min(at + CHUNK_ROWS, rows)) for at in range(0, rows, CHUNK_ROWS)
            )
            digest, whole = hashlib.sha256(), True
            for block in blocks:
                whole = whole and block is not None
                digest.update(b"" if block is None else np.ascontiguousarray(block).tobytes())
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise RequestError(
            f"{file} is too damaged to repair ({type(error).__name__}); "
            "give its featurize command again with --overwrite"
        ) from error
    no_telling_where = whole and digest.hexdigest() != known  # damaged although every chunk reads well
    size = {"rows": rows, "dim": dim, "dtype": dtype, "part_rows": CHUNK_ROWS}
    with FeatureWriter(file, identity, **size, overwrite=True) as writer, open_hdf5(file) as source:
        for part in () if no_telling_where else writer.missing():
            if (block := _sound_rows(source["features"], *writer.bounds(part))) is not None:
                writer.write_part(part, block)
        return rows - sum(stop - start for start, stop in map(writer.bounds, writer.missing())), rows


def _sound_rows(features: Any, start: int, stop: int) -> np.ndarray | None:
    """Some rows, None where the checksum of a chunk or a value tells of damage."""
    try:
        block = features[start:stop]
    except OSError:  # HDF5: the chunk's checksum does not match
        return None
    return block if len(block) == stop - start and np.isfinite(block).all() else None


# ------------------------------------------------------------------------------------------------ collapse


RANK_ROWS = 1024  # looked at: enough for a rank of a few, few enough to take a fraction of a second
# Features of images that differ have more directions than this (measured: 5 of image statistics, 14 to 86 of models).
LEAST_RANK = 3.0
RANK_MEANS_LITTLE = 16  # below so many samples or dimensions: the rank is at most their number


def collapse(features: Any) -> str | None:
    """Why features (N, D), in memory or on disk, say next to nothing about the images, or None.

    Either no dimension varies by more than a thousandth of the features' size (the least that float16 tells apart),
    or nearly all that varies lies in one or two directions.
    """
    some = spread_rows(features)
    if len(some) < 2:
        return None
    size, deviation = np.sqrt(np.square(some).mean()), some.std(axis=0).max()
    if deviation <= 1e-3 * size:
        return f"no dimension varies (largest deviation {deviation:.2g}, values of size {size:.2g})"
    rank = effective_rank(features)
    if rank < LEAST_RANK and min(some.shape) >= RANK_MEANS_LITTLE:
        return f"they vary in {rank:.1f} of {some.shape[1]:,} directions (effective rank)"
    return None


def effective_rank(features: Any) -> float:
    """Number of directions in which features vary: exp of the entropy of the singular values' shares of their sum.

    Roy and Vetterli 2007, "The effective rank: a measure of effective dimensionality" (EUSIPCO), of the features
    less their mean. It is n where n directions carry equal deviation, and 0 where nothing varies. Singular values as
    small as those of the rounding to the type of the features do not count.

    Args:
        features: (N, D), in memory or on disk; at most `RANK_ROWS` rows of them, evenly spread, are looked at.
    """
    some = spread_rows(features)
    centred = some - some.mean(axis=0)
    gram = centred @ centred.T if len(centred) < centred.shape[1] else centred.T @ centred
    values = np.sqrt(np.linalg.eigvalsh(gram).clip(0.0))  # the singular values
    # A matrix of independent errors of deviation e has singular values up to e (sqrt N + sqrt D); that of rounding is
    # the step between neighbouring numbers / sqrt 12.
    step = np.finfo(features.dtype).eps * np.sqrt(np.square(some).mean())
    values = values[values > step / np.sqrt(12) * sum(np.sqrt(some.shape))]
    shares = values / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(values) else 0.0


def spread_rows(features: Any) -> np.ndarray:
    """At most `RANK_ROWS` rows, spread evenly over features (N, D), as float64."""
    return features[:: max(1, -(-len(features) // RANK_ROWS))].astype(np.float64)


def export(file: Path, to: str) -> Path:
    """Write a feature file as ``parquet`` or ``npz`` beside it, for other tools.

    Raises:
        RequestError: as `read_features`, or the disk is full.
    """
    features = read_features(file)
    target = file.with_suffix(f".{to}")
    with published(target) as temporary:
        if to == "npz":
            with temporary.open("wb") as stream:
                np.savez(
                    stream,
                    features=features.features,
                    labels=features.labels,
                    ids=np.array(features.ids),
                    lonlat=np.empty((0, 2)) if features.lonlat is None else features.lonlat,
                    class_names=np.array(features.class_names),
                    identity=canonical_json(features.identity),
                )
            return target
        import pandas as pd  # deferred: only this format needs it

        truth: dict[str, np.ndarray] = {}
        if features.lonlat is not None:
            truth = {"lon": features.lonlat[:, 0], "lat": features.lonlat[:, 1]}
        truth |= (
            {f"class: {name}": features.labels[:, k] for k, name in enumerate(features.class_names)}
            if features.multilabel
            else {"label": features.labels, "class": np.array(features.class_names)[features.labels]}
        )
        values = {f"f{d:04d}": column for d, column in enumerate(features.features.T)}
        pd.DataFrame({"id": features.ids, **truth, **values}).to_parquet(temporary, index=False)
    return target


def splits_in(folder: Path) -> list[str]:
    """Splits published in a feature folder, in the usual order."""
    return [split for split in SPLITS if paths.feature_file(folder, split).exists()]
