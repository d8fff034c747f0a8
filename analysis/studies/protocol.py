"""Published numbers beside a run: the same protocol, or the nearest with every difference listed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analysis.studies import reference
from data.runs import Run

# What every published number was made without, unless its protocol says otherwise.
PLAIN: dict[str, Any] = {
    "weights": "pretrained", "calibrate": None, "balanced": False, "views": 1, "shots": None, "fraction": None,
    "limit": None, "split_by": None, "only_classes": None, "per_class": None, "refit": False,
}  # fmt: skip
# Recorded arguments that do not decide the number, or are compared by another name.
NEUTRAL = {
    "beta", "device", "candidates", "options", "shrinkage", "select", "views", "seed",
    "protocol", "val", "standardize", "standardise", "zscore",
    "tie_breaker", "calibrate_on", "partition", "extend",
}  # fmt: skip
WORDS = {
    "image_size": "image size",
    "rows": "samples",
    "split_lists": "split",
    "views": "views of each training image",
    "fraction": "fraction of train",
    "only_classes": "classes kept",
    "per_class": "samples per class",
    "standardized": "features standardized",
    "refit": "refitted on train and val",
    "normalization": "normalization",
    "calibrate": "calibration",
    "budget_s": "time budget in seconds",
    "features": "number of features",
    "kernel": "kernel size",
    "learning_rate": "learning rate",
    "batch_size": "batch size",
    "augmented": "rotated, flipped and color-jittered training images",
}


@dataclass(frozen=True)
class Match:
    """A published number and how the run's protocol differs from its.

    Args:
        published: the number.
        differences: one clause for each difference; empty where the protocol is the same.
    """

    published: reference.Published
    differences: tuple[str, ...]

    @property
    def same(self) -> bool:
        """Whether nothing that is recorded differs."""
        return not self.differences

    def words(self) -> str:
        """Such as ``0.821 resize (nearest protocol)``."""
        how = "same" if self.same else "nearest"
        return f"{self.published.value:.3f} {self.published.study} ({how} protocol)"


def matching(record: dict[str, Any], metric: str) -> list[Match]:
    """The published numbers of this run's data, model, bands and probe, those of the nearest protocol first.

    Where several protocols of one study fit, such as two image sizes, only the nearest is kept.
    """
    known, found = described(record), []
    for one in reference.PUBLISHED:
        if one.match is None or (one.metric, one.probe) != (metric, record["kind"]):
            continue
        # a tuple is several names for one value
        wanted = {key: value if isinstance(value, tuple) else (value,) for key, value in one.match.items()}
        if all(known.get(key) in names for key, names in wanted.items()):
            found.append(Match(one, differences(record, one.protocol)))
    nearest: dict[str, Match] = {}
    for one in sorted(found, key=lambda one: len(one.differences)):
        nearest.setdefault(one.published.study, one)
    return list(nearest.values())


def differences(record: dict[str, Any], protocol: Mapping[str, Any]) -> tuple[str, ...]:
    """Every setting recorded in a run's ``run.json`` that differs from a published protocol.

    The protocol has settings by the names of `described`, ``...`` for one that may be anything; whatever it does not
    name must be as in `PLAIN`, and any other recorded argument of the probe must be off.
    """
    known, found, wanted = described(record), [], PLAIN | dict(protocol)
    for name, value in wanted.items():
        here = known.get(name)
        if value is ... or here == value:
            continue
        if not (name == "weights" and here in ("none", "generated")):
            found.append(f"{WORDS.get(name, name)}: published {_say(value)}, here {_say(here)}")
    for name, value in record.get("arguments", {}).items():
        if value and name not in known and name not in NEUTRAL and name not in wanted:
            found.append(f"{str(WORDS.get(name, name)).replace('_', ' ')}: published none, here {_say(value)}")
    return tuple(found)


def described(record: dict[str, Any]) -> dict[str, Any]:
    """What a run recorded of its data, its model and its probe, by the names that `reference` uses."""
    dataset, encoder = record["features"]["dataset"], record["features"]["encoder"]
    provenance, weights = dataset.get("provenance", {}), encoder["weights"]["source"]
    settings, asked, chosen = encoder.get("settings") or {}, record.get("arguments", {}), record.get("chosen", {})
    return {
        "dataset": dataset["name"],
        "dataset_variant": dataset["variant"],
        "limit": dataset.get("limit"),
        "split_lists": provenance.get("split"),
        "partition": provenance.get("partition"),
        "split_by": record["features"]["splits"]["test"].get("resplit", {}).get("by"),
        "only_classes": provenance.get("only_classes"),
        "per_class": provenance.get("per_class"),
        "classes": len(record["class_names"]),
        "rows": rows_of(record),
        "model": encoder["name"],
        "variant": encoder["variant"],
        "bands": encoder["bands_name"],
        "image_size": encoder["image_size"],
        "interpolation": encoder["interpolation"],
        "normalization": encoder["normalization"]["method"],
        "pooling": encoder["pooling"],
        "weights": "pretrained" if weights == "loaded" else weights,
        "features": settings.get("features"),
        "kernel": settings.get("kernel"),
        "kind": record["kind"],
        "calibrate": asked.get("calibrate"),
        "balanced": bool(asked.get("balanced")),
        "views": asked.get("views", 1),
        "shots": asked.get("shots"),
        "fraction": asked.get("fraction"),
        "refit": bool(asked.get("refit")),
        "k": chosen.get("k"),
        "distance": chosen.get("distance"),
        "standardized": _standardized(record),
        "selection": asked.get("selection"),
        "C": _grid(asked.get("candidates", [])),
        "augmented": asked.get("views", 1) > 1,
        **_training(asked.get("candidates", [])),
    }


def _standardized(record: dict[str, Any]) -> bool:
    """Whether the probe standardized the features: recorded, or what its kind does."""
    places, names = (record.get("chosen", {}), record.get("arguments", {})), ("standardize", "standardise", "zscore")
    known = (place[name] for name in names for place in places if place.get(name) is not None)
    return bool(next(known, record["kind"] != "knn"))


def _training(candidates: list[dict[str, Any]]) -> dict[str, Any]:
    """How a head was trained; nothing of other kinds."""
    if not candidates or "epoch" not in candidates[0]:
        return {}
    epochs = max(one["epoch"] for one in candidates)
    return {"epochs": epochs} | {key: candidates[0][key] for key in ("learning_rate", "batch_size")}


def _grid(candidates: list[dict[str, Any]]) -> str | None:
    values = sorted({one["C"] for one in candidates if "C" in one})
    return f"{len(values)} values, {values[0]:g} to {values[-1]:g}" if values else None


def rows_of(record: dict[str, Any]) -> dict[str, int]:
    """Samples of each split that a run used: of train those it was fitted on."""
    whole = {split: identity["rows"] for split, identity in record["features"]["splits"].items()}
    return whole | record.get("rows", {})


def _say(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_say(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(map(_say, value)) if len(set(map(str, value))) > 1 else _say(value[0])
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


def is_eurosat(run: Run) -> bool:
    """Whether the classes are those of the class project's Table 2."""
    return set(run.class_names) == {row.name for row in reference.CLASS_PROJECT}


def is_four(run: Run) -> bool:
    """Whether the classes are those of its Table 1."""
    return set(run.class_names) == set(reference.CLASS_PROJECT_TABLE1)


def split_sizes(run: Run) -> str:
    """Samples of each split, such as ``train 100, val 20, test 10``."""
    return ", ".join(f"{split} {count:,}" for split, count in rows_of(run.record).items())
