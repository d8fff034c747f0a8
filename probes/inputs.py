"""Feature files as probes read them: three splits checked once, rows read in blocks."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Integer

from data import paths, store
from data.asked import recorded_command
from data.dataset import SPLITS
from data.errors import RequestError

BLOCK_ROWS = 8192  # read and scored at a time: 25 MB of float32 at 768 features


def read_splits(folder: Path, *, views: int = 1, val: bool = True) -> dict[str, store.FeatureSet]:
    """Open and check the splits of a feature folder; features stay on disk and are read in blocks.

    Args:
        folder: holds ``train.h5``, ``val.h5`` and ``test.h5``.
        views: of each training image to learn from; 1 is the image itself, more are made by featurize --augment.
        val: whether val is required; without it, folds of train choose.

    Raises:
        RequestError: a split is missing or damaged; the splits are of different settings; rows do not line up; values
            are not finite; train has a single class.
    """
    present = store.splits_in(folder)
    if not present:
        raise RequestError(f"no features in {folder}; make them with featurize")
    if absent := [split for split in SPLITS if split not in present and (val or split != "val")]:
        raise _incomplete(folder, present[0], absent)
    wanted = [split for split in SPLITS if split in present]
    splits = {split: store.read_features(paths.feature_file(folder, split), lazy=True) for split in wanted}
    train = splits["train"]
    for split, features in splits.items():
        if (name := features.identity["split"]["name"]) != split:
            raise RequestError(f"{features.file} holds split '{name}'; rename it back or run featurize again")
        check_rows(features)
        if fields := store.differing_fields(shared(features.identity), shared(train.identity)):
            raise RequestError(
                f"{features.file} and {train.file} differ in {', '.join(fields)}; make them with the same settings"
            )
        if features.features.shape[1] != train.features.shape[1]:
            raise RequestError(
                f"{features.file} has {features.features.shape[1]} features per row, {train.file} has "
                f"{train.features.shape[1]}; run featurize --overwrite"
            )
    check_classes(train.labels, len(train.class_names), str(train.file))
    return splits | {"train": replace(train, views=read_views(folder, train, views))}


def _incomplete(folder: Path, present: str, absent: list[str]) -> RequestError:
    """The error for splits that are missing, with the command that makes them where it was recorded."""
    identity, environment = store.read_identity(paths.feature_file(folder, present))
    split, asked = absent[0] if len(absent) == 1 else "all", environment.get("asked")
    how = f"make them as {present}.h5 was made, with --split {split}"
    if again := recorded_command(asked, identity, folder, split):
        how = f"run: {again}"
    elif "imported" in identity["dataset"]["provenance"]:
        how = f"import them with labels and all three splits ({present}.h5: {asked or 'featurize import'})"
    folds = "; or give --folds 5 to choose by folds of train" if absent == ["val"] else ""
    return RequestError(f"no {' and '.join(absent)} features in {folder}; {how}{folds}")


def read_views(folder: Path, train: store.FeatureSet, views: int) -> tuple[store.FeatureSet, ...]:
    """Open the augmented views 1 to `views` - 1 of the training images and check that they are of these images.

    Raises:
        RequestError: a view is missing, damaged, or of other images, another encoder or another augmentation.
    """
    found: list[store.FeatureSet] = []
    for view in range(1, views):
        file = paths.view_file(folder, "train", view)
        if not file.exists():
            raise RequestError(f"no view {view} of the training images at {file}; run featurize --augment {views}")
        features = store.read_features(file, lazy=True)
        check_rows(features)
        altered = features.identity["split"].get("altered", {})
        alike = found[0].identity["split"]["altered"] if found else altered
        fields = store.differing_fields(
            features.identity | {"split": features.identity["split"] | {"altered": altered, "parts": None}},
            train.identity | {"split": train.identity["split"] | {"altered": alike | {"view": view}, "parts": None}},
        )
        if fields:
            raise RequestError(
                f"{file} and {train.file} differ in {', '.join(fields)}; run featurize --augment {views} --overwrite"
            )
        found.append(features)
    return tuple(found)


def check_rows(features: store.FeatureSet, *, labelled: bool = True) -> None:
    """Raise a RequestError unless rows line up and every value can be used; unlabeled samples have -1."""
    file, labels, classes = features.file, features.labels, len(features.class_names)
    verify = f"see featurize verify {file}"
    rows = {"features": len(features.features), "labels": len(labels), "ids": len(features.ids)}
    if len(set(rows.values())) > 1:
        counts = ", ".join(f"{count} {noun}" for noun, count in rows.items())
        raise RequestError(f"{file} has {counts}: rows do not line up; {verify}")
    if features.not_finite:
        raise RequestError(f"{file}: {features.not_finite} of {len(labels)} rows hold NaN or infinity; {verify}")
    if labels.ndim == 1 and (unlabelled := int((labels == -1).sum())):
        if not labelled:
            return
        raise RequestError(
            f"{file}: {unlabelled} of {len(labels)} images have no label, which fitting and scoring a probe need; "
            "label them, or score them with probe predict"
        )
    if features.multilabel and labels.shape[1] != classes:
        raise RequestError(f"{file} has {labels.shape[1]} label columns for {classes} classes; {verify}")
    top = 1 if features.multilabel else classes - 1
    if labels.min() < 0 or labels.max() > top:
        raise RequestError(f"{file} has labels outside 0 ... {top}; {verify}")


def check_classes(labels: Integer[np.ndarray, "samples ..."], classes: int, what: str) -> None:
    """Raise a RequestError if all samples have the same single class; `what` names the samples in it."""
    if (labels == labels[:1]).all() and (labels.ndim == 1 or classes == 1):
        raise RequestError(f"{what} has samples of one class only; a probe needs at least two classes")


def shared(identity: dict[str, Any]) -> dict[str, Any]:
    """What the splits of a feature set have in common."""
    return {key: identity[key] for key in ("schema", "dataset", "encoder")}


def split_identity(features: store.FeatureSet) -> dict[str, Any]:
    """What is particular to one split, with the digest of its features: an encoder may have been corrected."""
    views = {"views": [split_identity(view) for view in features.views]} if features.views else {}
    return features.identity["split"] | {"features_sha256": features.digest} | views


def blocks(features: Any, rows: int = BLOCK_ROWS) -> Iterator[Float[np.ndarray, "rows dim"]]:
    """Yield blocks of rows of features (N, D), in memory or on disk, in their own type."""
    for start in range(0, len(features), rows):
        yield features[start : start + rows]


def only_rows(features: store.FeatureSet, rows: Integer[np.ndarray, " chosen"]) -> store.FeatureSet:
    """Some samples of a split, by ascending row numbers, in memory."""
    return replace(
        features,
        features=in_memory([features.features], rows, dtype=features.features.dtype),
        labels=features.labels[rows],
        ids=[features.ids[row] for row in rows],
        lonlat=None if features.lonlat is None else features.lonlat[rows],
        features_sha256=None,
    )


def train_and_val(
    train: store.FeatureSet, rows: Integer[np.ndarray, " chosen"] | None, val: store.FeatureSet | None
) -> store.FeatureSet:
    """Train without its views, or ascending rows of it, and then all of val, if there is one, in memory."""
    first = only_rows(train, np.arange(len(train.labels)) if rows is None else rows)
    if val is None:
        return replace(first, views=())
    lonlat = None
    if first.lonlat is not None and val.lonlat is not None:
        lonlat = np.concatenate([first.lonlat, val.lonlat])
    return replace(
        first,
        features=np.concatenate([first.features, in_memory([val.features], dtype=first.features.dtype)]),
        labels=np.concatenate([first.labels, val.labels]),
        ids=[*first.ids, *val.ids],
        lonlat=lonlat,
        views=(),
    )


def in_memory(
    views: Sequence[Any], chosen: Integer[np.ndarray, " chosen"] | None = None, *, dtype: Any = np.float32
) -> Float[np.ndarray, "rows dim"]:
    """Features as one new array, read in blocks, so that only one copy is ever in memory.

    Args:
        views: V arrays (N, D), in memory or on disk.
        chosen: n ascending row numbers; None is all N.
        dtype: of the result.

    Returns:
        (V n, D): the chosen rows of the first view, then those of the next.
    """
    rows, dim = views[0].shape
    wanted = np.arange(rows) if chosen is None else chosen
    result = np.empty((len(views), len(wanted), dim), dtype)
    for features, into in zip(views, result, strict=True):
        for start in range(0, rows, BLOCK_ROWS):
            low, high = np.searchsorted(wanted, [start, start + BLOCK_ROWS])
            if low < high:
                into[low:high] = features[start : start + BLOCK_ROWS][wanted[low:high] - start]
    return result.reshape(-1, dim)


def for_fused(candidates: list[dict[str, Any]], standardise: bool | None) -> list[dict[str, Any]]:
    """The candidates that standardize: without it the joined encoders have no common scale.

    Raises:
        RequestError: standardization was switched off.
    """
    if standardise is False:
        raise RequestError(
            "joined features (--model A+B) are standardized so that the encoders weigh the same; remove "
            "--no-standardize, or the --protocol that leaves features unscaled"
        )
    return [one for one in candidates if one.get("zscore", True)]
