"""Checks of HDF5 files, run in a child process by `data.store.child`, as damage can crash or hang the library.

A question is a file and what is wanted of it; an answer is a dict of JSON: what was found, or under ``problem`` why the
file cannot be relied on (``kind`` and ``text``, see `data.problems`), or under ``os_error`` what the system says.
"""

import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import h5py
import numpy as np

from data.problems import Kind
from data.schema import IDENTITY, mismatch
from data.store.child import PATIENCE_S
from data.store.collapse import collapse, effective_rank
from data.store.identity import DIGESTED, SCHEMA, digest_ids
from data.store.structure import Unfit, check_structure, read_json, read_text

BLOCK_BYTES = 2**22
SOUND_ROWS = 16  # least number of rows of a damaged file that are kept or made again together
ATTRIBUTES = ("identity", "environment", "class_names", "checksums")
PACKED = "frozen-earth packed dataset"
ALARM_S = 2 * int(PATIENCE_S)
Beat = Callable[[], None]


def inspect(file: str, wanted: str, beat: Beat = lambda: None) -> dict[str, Any]:
    """Answer one question.

    Args:
        file: an HDF5 file.
        wanted: ``kind`` (features, packed or other), ``identity`` (attributes of a feature file), ``features`` (that
            all of it is as written), ``verify`` (all that is wrong with it), ``sound`` (its undamaged rows, and whether
            its ``sources`` are), ``structure`` (of any file of ours: that it can be read safely), ``foreign`` (the same
            of others' files).
        beat: called often, as a sign of life.
    """
    try:
        beat()  # opening waits for the disk
        with h5py.File(file, "r", locking=False) as source:
            return QUESTIONS[wanted](source, beat)
    except Unfit as error:
        return {"problem": _problem(Kind.DAMAGED, str(error))}
    except OSError as error:
        if error.errno:
            return {"os_error": [error.errno, os.strerror(error.errno)]}
        return {"problem": _problem(Kind.UNREADABLE, f"HDF5 cannot read it ({_first_line(error)})")}
    except MemoryError:
        text = "reading it takes more memory than any valid file of this kind"
        return {"problem": _problem(Kind.UNREADABLE, text)}
    except Exception as error:  # whatever h5py raises for damage: the file is to blame, and the next question waits
        text = f"HDF5 cannot read it ({type(error).__name__}: {_first_line(error)})"
        return {"problem": _problem(Kind.UNREADABLE, text)}


def _problem(kind: Kind, text: str) -> dict[str, str]:
    return {"kind": kind, "text": text}


def _kind(source: Any, beat: Beat) -> dict[str, Any]:
    if "format" in source.attrs and read_text(source, "format") == PACKED:
        return {"kind": "packed"}
    if "features" in source and "identity" in source.attrs:
        return {"kind": "features"}
    return {"kind": "other"}


def _structure(source: Any, beat: Beat, *, plain: bool = True) -> dict[str, Any]:
    if plain:
        for name in source.attrs:
            read_text(source, name)
    for array in check_structure(source, plain=plain).values():
        if array.chunks or (array.shape and not plain):  # of a contiguous array of ours, HDF5 keeps only its place
            for _ in _blocks(array, beat):
                pass
    return {}


def _identity(source: Any, beat: Beat) -> dict[str, Any]:
    identity, environment = read_json(source, "identity", dict), read_json(source, "environment", dict)
    if read_text(source, "attributes_sha256") != digest_attributes(source):
        raise Unfit("its attributes do not match their checksum")
    if identity.get("schema") != SCHEMA:
        raise Unfit(f"it has schema {identity.get('schema')}, this version reads {SCHEMA}")
    if why := mismatch(identity, IDENTITY, "its identity"):
        raise Unfit(why)
    read_json(source, "class_names", list)
    return {"identity": identity, "environment": environment, "checksums": read_json(source, "checksums", dict)}


def _features(source: Any, beat: Beat) -> dict[str, Any]:
    """Check that every array is what was written; rows with NaN or infinity are counted."""
    about, _, wrong, finite = _compared(source, beat)
    if wrong:
        raise Unfit(wrong[0])
    return about | {"not_finite": int((~finite).sum())}


def _verify(source: Any, beat: Beat) -> dict[str, Any]:
    _, arrays, wrong, finite = _compared(source, beat)
    problems = [_problem(Kind.DAMAGED, text) for text in wrong]
    ids = arrays["ids"][:].tolist()
    if len(set(ids)) < len(ids):
        problems.append(_problem(Kind.DUPLICATE_IDS, f"{len(ids) - len(set(ids))} ids are duplicates"))
    if not finite.all():
        text = f"{(~finite).sum()} rows hold NaN or infinity, first at row {int(np.argmin(finite))}"
        problems.append(_problem(Kind.NOT_FINITE, text))
    elif why := collapse(arrays["features"]):
        problems.append(_problem(Kind.COLLAPSED, f"features have collapsed: {why}"))
    if problems:
        return {"problems": problems}
    beat()
    rank = effective_rank(arrays["features"])
    return {"problems": [], "effective_rank": rank, "dim": arrays["features"].shape[1]}


def _compared(source: Any, beat: Beat) -> tuple[dict[str, Any], dict[str, Any], list[str], np.ndarray]:
    """What a feature file records, its arrays, in what they differ from it, and (N,) whether a row is finite."""
    about = _identity(source, beat)
    arrays = _feature_arrays(source, about["checksums"])
    digests, finite = _digests(arrays, beat)
    wrong = [f"checksum of '{name}' does not match" for name in digests if digests[name] != about["checksums"][name]]
    return about, arrays, wrong + _unlike_identity(about["identity"], arrays, digests), finite


def _sound(source: Any, beat: Beat) -> dict[str, Any]:
    """Blocks of rows that HDF5's checksums prove sound; none if the damage cannot be located."""
    about = _identity(source, beat)
    arrays = check_structure(source)
    if "features" not in arrays:
        raise Unfit("'features' is absent")
    features = arrays["features"]
    rows, (_, dim) = about["identity"]["split"]["rows"], features.shape
    chunk = features.chunks[0] if features.chunks else SOUND_ROWS
    step = -(-SOUND_ROWS // chunk) * chunk
    sound, digest = [], hashlib.sha256()
    for start in range(0, rows, step):
        stop = min(start + step, rows)
        beat()
        with suppress(OSError):  # a chunk that does not match its checksum
            block = features[start:stop]
            digest.update(np.ascontiguousarray(block).tobytes())
            if len(block) != stop - start or not np.isfinite(block).all():
                continue
            if sound and sound[-1][1] == start:
                sound[-1][1] = stop
            else:
                sound.append([start, stop])
    if sound == [[0, rows]] and digest.hexdigest() != about["checksums"].get("features"):
        sound = []  # damaged although every chunk reads well
    size = {"rows": rows, "dim": dim, "dtype": features.dtype.name, "step": step}
    return about | size | {"sound": sound, "sources": _sources_sound(arrays.get("sources"), about, beat)}


def _sources_sound(array: Any | None, about: dict[str, Any], beat: Beat) -> bool:
    """Whether the record of the images is as written; a file without one is sound."""
    digest = about["checksums"].get("sources")
    if array is None or array.shape != (about["identity"]["split"]["rows"], 2):
        return array is None and digest is None
    with suppress(OSError):  # a chunk that does not match its checksum
        return _digests({"sources": array}, beat)[0]["sources"] == digest
    return False


def _feature_arrays(source: Any, checksums: dict[str, str]) -> dict[str, Any]:
    arrays = check_structure(source)
    if absent := sorted({"features", "labels", "ids", *checksums} - arrays.keys()):
        raise Unfit(f"'{absent[0]}' is absent")
    if foreign := sorted(arrays.keys() - checksums.keys()):
        raise Unfit(f"'{foreign[0]}' has no checksum")
    for name, (dimensions, kinds) in LAYOUT.items():
        if name in arrays and (arrays[name].ndim not in dimensions or arrays[name].dtype.kind not in kinds):
            raise Unfit(f"'{name}' is {arrays[name].ndim}-D of {arrays[name].dtype}, which is not valid for {name}")
    return arrays


LAYOUT = {
    "features": ((2,), "f"),
    "labels": ((1, 2), "iu"),
    "ids": ((1,), "S"),
    "lonlat": ((2,), "f"),
    "footprint": ((2,), "i"),
    "geometry": ((1,), "S"),
    "sources": ((2,), "u"),
}


def _digests(arrays: dict[str, Any], beat: Beat) -> tuple[dict[str, str], np.ndarray]:
    """sha256 of every array, and (N,) whether a row of features is finite; read in blocks."""
    digests, finite = {}, np.ones(len(arrays.get("features", ())), bool)
    for name, array in arrays.items():
        digest, start = hashlib.sha256(), 0
        for block in _blocks(array, beat):
            digest.update(np.ascontiguousarray(block).tobytes())
            if name == "features":
                finite[start : start + len(block)] = np.isfinite(block).all(axis=1)
                start += len(block)
        digests[name] = digest.hexdigest()
    return digests, finite


def _blocks(array: Any, beat: Beat) -> Iterator[np.ndarray]:
    row_bytes = max(1, array.dtype.itemsize * int(np.prod(array.shape[1:])))
    rows = max(1, BLOCK_BYTES // row_bytes)
    if array.chunks:  # whole chunks, so that none is read twice
        rows = max(1, rows // array.chunks[0]) * array.chunks[0]
    for start in range(0, len(array), rows):
        beat()
        yield array[start : start + rows]


def _unlike_identity(identity: dict[str, Any], arrays: dict[str, Any], digests: dict[str, str]) -> list[str]:
    """How the arrays differ from those that the identity describes."""
    wanted = identity["split"]
    counts = {name: len(array) for name, array in arrays.items()}
    if set(counts.values()) != {wanted["rows"]}:
        return [f"row counts differ: {counts}, identity says {wanted['rows']}"]
    found = {name: digests.get(name) for name in DIGESTED}
    found["ids"] = digest_ids([value.decode(errors="replace") for value in arrays["ids"][:]])
    return [f"{name} do not match the identity" for name in DIGESTED if found[name] != wanted[f"{name}_sha256"]]


def digest_attributes(source: Any) -> str:
    """sha256 of the attributes of an open feature file."""
    return hashlib.sha256("\n".join(read_text(source, name) for name in ATTRIBUTES).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0][:200]


QUESTIONS: dict[str, Callable[[Any, Beat], dict[str, Any]]] = {
    "kind": _kind,
    "structure": _structure,
    "foreign": partial(_structure, plain=False),
    "identity": _identity,
    "features": _features,
    "verify": _verify,
    "sound": _sound,
}


def serve(memory: int) -> None:
    """Answer questions, a line of JSON each, until standard input ends; a dot is a sign of life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends this process
    with suppress(ImportError, ValueError, OSError):  # no such limit on this system
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever a library prints must not look like an answer

    def beat() -> None:
        signal.alarm(ALARM_S)  # ends this process, whatever HDF5 is doing, where no parent is left to do it
        answers.write(".\n")
        answers.flush()

    beat()  # imports wait for the disk too
    signal.alarm(0)
    for line in sys.stdin:
        question = json.loads(line)
        answers.write(json.dumps(inspect(question["file"], question["wanted"], beat)) + "\n")
        answers.flush()
        signal.alarm(0)
