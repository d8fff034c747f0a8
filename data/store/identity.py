"""Identity of a feature file: everything that decides its values, digests of arrays, and folder names."""

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Integer, Shaped

from data.dataset import EODataset
from data.files import canonical_json, short_hash
from data.paths import slug

SCHEMA = 1
TIMES_FIELD = "split.files_sha256"  # of sizes and times, for datasets with `digest_of_times`
DIGESTED = ("ids", "labels", "lonlat")  # arrays whose sha256 is in the identity


def make_identity(dataset: EODataset, encoder: dict[str, Any], *, limit: int | None = None) -> dict[str, Any]:
    """Everything that decides the values of one feature file.

    Args:
        dataset: one split.
        encoder: the encoder's own identity (see `featurize.encoder.FrozenModel.identity`).
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
            **sample_digests(dataset.ids, dataset.labels, dataset.lonlat),
            "files_sha256": _files_digest(dataset, encoder.get("bands", ())),
            **({"nodata": dataset.nodata} if dataset.nodata else {}),
            **({"scaled": True} if dataset.scaled else {}),  # v0.1 took the values as stored
            **({"altered": dataset.altered} if dataset.altered else {}),
        },
    }
    return json.loads(canonical_json(identity))  # as it is read back: tuples become lists


def _files_digest(dataset: EODataset, bands: Sequence[str]) -> Any:
    """Digest of the files that these bands are read from; by sensor if there are several."""
    digest = dataset.files_digest
    if digest is None or isinstance(digest, str):
        return digest
    read = {band.sensor for band in dataset.bands if band.name in bands} or digest.keys()
    kept = {sensor: value for sensor, value in digest.items() if sensor in read}
    return kept if len(kept) > 1 else next(iter(kept.values()))


def sample_digests(
    ids: Sequence[str], labels: Integer[np.ndarray, "samples ..."], lonlat: Float[np.ndarray, "samples 2"] | None
) -> dict[str, str | None]:
    """Digests of what describes the samples of a split, as its identity holds them."""
    return {
        "ids_sha256": digest_ids(ids),
        "labels_sha256": digest_array(labels),
        "lonlat_sha256": None if lonlat is None else digest_array(lonlat.astype(np.float64)),
    }


def digest_ids(ids: Sequence[str]) -> str:
    """sha256 of the ordered ids."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()


def digest_array(array: Shaped[np.ndarray, "..."]) -> str:
    """sha256 of an array's bytes."""
    return hashlib.sha256(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"").hexdigest()


def dataset_slug(identity: dict[str, Any]) -> str:
    """Folder name of a dataset: its name, with the variant where there is one."""
    dataset = identity["dataset"]
    return slug(f"{dataset['name']}-{dataset['variant']}" if dataset["variant"] else dataset["name"])


def encoder_slug(identity: dict[str, Any]) -> str:
    """Folder name of a feature set: readable settings and a hash of all settings that the splits share."""
    encoder = identity["encoder"]
    shared = {key: identity[key] for key in ("schema", "dataset", "encoder")}
    size = encoder["image_size"] or "native"
    words = [encoder["name"], encoder["variant"], *(["random"] if encoder["weights"]["source"] == "random" else [])]
    readable = f"{'-'.join(str(word) for word in words if word)}_{encoder['bands_name']}_{size}_{encoder['pooling']}"
    return f"{slug(readable)}_{short_hash(shared)}"


def differing_fields(one: Any, other: Any, prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two identities differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            name
            for key in sorted(one.keys() | other.keys())
            for name in differing_fields(one.get(key), other.get(key), f"{prefix}{key}.")
        ]
    return [] if one == other else [prefix.rstrip(".")]
