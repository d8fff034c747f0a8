"""Verification of feature files and of unfinished splits: findings, one line each."""

import hashlib
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from data.errors import RequestError
from data.store.identity import DIGESTED, digest_array, digest_ids
from data.store.plan import SIZES, DamagedPlan, read_plan
from data.store.reader import CHUNK_ROWS, digest_attributes, open_hdf5, read_attributes
from data.store.spread import collapse
from data.store.writer import PartWriter


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
    identity, _ = read_attributes(source)
    wanted = {name: identity["split"][name] for name in ("rows", *(f"{n}_sha256" for n in DIGESTED))}
    checksums = dict(json.loads(source.attrs["checksums"]))
    arrays = {name: source[name] for name in source if isinstance(source[name], h5py.Dataset)}
    if source.attrs.get("attributes_sha256") not in (None, digest_attributes(source)):  # none before 0.1
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
        plan = read_plan(folder)
    except DamagedPlan as error:
        return f"{folder}: unfinished", [f"{error}; its featurize command keeps the parts that its journal knows"]
    if plan is None:
        return f"{folder}: unfinished, nothing done", []
    writer = PartWriter(folder.with_suffix(".h5"), **{name: plan[name] for name in SIZES})
    count, missing = -(-writer.rows // writer.part_rows), writer.missing()
    damaged = sorted(writer.recorded() & set(missing))
    state = (
        f"{folder}: unfinished, {count - len(missing)} of {count} parts done; its featurize command goes on from here"
    )
    return state, [f"{folder}: part {part} does not match the journal; it will be made again" for part in damaged]
