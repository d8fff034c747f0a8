"""Checks of JSON records before they are used: runs, and identities of feature files."""

from types import EllipsisType
from typing import Any

TEXT, WHOLE, TRUTH = (str,), (int,), (bool,)
NUMBER = (int, float)
MAYBE = type(None)
ANYTHING = None
Schema = tuple[type, ...] | list[Any] | dict[Any, Any] | None

# Keys of a dict are required, those that end in "?" optional; ... stands for all others. A list has one kind of item.
MAPPING = {...: ANYTHING}
DATASET: Schema = {"name": TEXT, "variant": (str, MAYBE), "provenance": MAPPING, "class_names": [TEXT], **MAPPING}
RECORD: Schema = {
    "schema": WHOLE,
    "dataset": TEXT,
    "encoder": TEXT,
    "kind": TEXT,
    "seed": WHOLE,
    "multilabel": TRUTH,
    "class_names": [TEXT],
    "features": {
        "dataset": DATASET,
        "encoder": {"name": TEXT, "variant": (str, MAYBE), **MAPPING},
        "splits": {...: {"ids_sha256": TEXT, "labels_sha256": (str, MAYBE), **MAPPING}},
        **MAPPING,
    },
    "metrics": {"test": {"half": MAPPING, "tuned": MAPPING, **MAPPING}, ...: {...: MAPPING}},
    "per_class": {...: [{"name": TEXT, "threshold": (int, float, MAYBE), **MAPPING}]},
    "arguments?": MAPPING,
    "asked?": (str, MAYBE),
    "rows?": {...: WHOLE},
    "dim?": WHOLE,
    "chosen?": MAPPING,
    "candidates?": [MAPPING],
    "warnings?": [TEXT],
    "history?": MAPPING,
    "seconds?": {...: NUMBER},
    "versions?": MAPPING,
    "created?": TEXT,
    "intervals?": MAPPING,
    "checksums?": {...: TEXT},
    ...: ANYTHING,
}


IDENTITY: Schema = {
    "schema": WHOLE,
    "dataset": DATASET,
    "encoder": {
        "name": TEXT, "variant": (str, MAYBE), "weights": {"source": TEXT, "sha256": (str, MAYBE), **MAPPING},
        "bands_name": TEXT, "image_size": (int, str, MAYBE), "pooling": (str, MAYBE), "precision": TEXT,
        "normalization": {"method": TEXT, **MAPPING},
        **MAPPING,
    },
    "split": {
        "name": TEXT, "rows": WHOLE, "ids_sha256": TEXT, "labels_sha256": (str, MAYBE), "lonlat_sha256": (str, MAYBE),
        **MAPPING,
    },
    **MAPPING,
}  # fmt: skip


def check_record(record: Any) -> str | None:
    """Where the record of a run is not what readers expect; None if it is."""
    if why := mismatch(record, RECORD):
        return why
    names = record["class_names"]
    for rule, rows in record["per_class"].items():
        if [row["name"] for row in rows] != names:
            return f"per_class.{rule} is not of its class_names"
        if record["multilabel"] and any(row["threshold"] is None for row in rows):
            return f"per_class.{rule} has a class without a threshold"
    return None


def mismatch(value: Any, schema: Schema, place: str = "it") -> str | None:
    """Where a JSON value differs from a schema; None if it does not.

    Args:
        value: what was read.
        schema: a tuple of types, a list with the schema of its items, a dict of schemas by key, or None for anything.
        place: name of the value.
    """
    if schema is None:
        return None
    if isinstance(schema, tuple):
        return None if type(value) in schema else f"{place} is {_kind(value)}"
    if isinstance(schema, list):
        if not isinstance(value, list):
            return f"{place} is {_kind(value)}"
        return next((why for at, one in enumerate(value) if (why := mismatch(one, schema[0], f"{place}[{at}]"))), None)
    if not isinstance(value, dict):
        return f"{place} is {_kind(value)}"
    named = {key.removesuffix("?"): kind for key, kind in schema.items() if not isinstance(key, EllipsisType)}
    for key in schema:
        if not isinstance(key, EllipsisType) and not key.endswith("?") and key not in value:
            return f"{place} has no {key}"
    for key, one in value.items():
        if why := mismatch(one, named.get(key, schema.get(...)), key if place == "it" else f"{place}.{key}"):
            return why
    return None


def _kind(value: Any) -> str:
    names = {"dict": "an object", "list": "a list", "str": "a text", "bool": "true or false", "NoneType": "null"}
    return names.get(type(value).__name__, "a number")
