"""Feature fusion: features of several encoders for the same samples, joined by id into one feature set."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Integer

from data import paths
from data.dataset import SPLITS
from data.errors import RequestError
from data.files import canonical_json
from data.store.identity import dataset_slug, differing_fields, encoder_slug
from data.store.reader import FeatureSet, find_features, read_features, read_identity, splits_in
from data.store.writer import FeatureWriter

JOIN = "+"


class Joined:
    """Features of several sets side by side, read on demand; rows are those of the first set.

    Args:
        blocks: arrays (N, D_i), in memory or on disk.
        orders: for each, the N row numbers that match the rows of the first; None where they are in its order.
    """

    def __init__(self, blocks: Sequence[Any], orders: Sequence[Integer[np.ndarray, " samples"] | None]) -> None:
        self.blocks, self.orders = list(blocks), list(orders)
        self.dtype = np.result_type(*(block.dtype for block in self.blocks))
        self.shape = (len(self.blocks[0]), sum(block.shape[1] for block in self.blocks))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Float[np.ndarray, "rows dim"]:
        """Features of a slice of rows."""
        return np.concatenate(
            [
                _rows(block, order[rows]) if order is not None else block[rows]
                for block, order in zip(self.blocks, self.orders, strict=True)
            ],
            axis=1,
            dtype=self.dtype,
        )


def _rows(block: Any, wanted: np.ndarray) -> np.ndarray:
    """Rows in any order; HDF5 gives them only in ascending order."""
    if isinstance(block, np.ndarray):
        return block[wanted]
    ascending = np.argsort(wanted)
    found = np.empty((len(wanted), block.shape[1]), block.dtype)
    found[ascending] = block[wanted[ascending]]
    return found


def is_fused(identity: dict[str, Any]) -> bool:
    """Whether these are the features of several encoders."""
    return bool(identity["encoder"].get("parts"))


def block_weights(identity: dict[str, Any]) -> Float64[np.ndarray, " dim"] | None:
    """Factors for standardized features that give every encoder the same weight; None for a single encoder.

    Each encoder's block of D_i dimensions gets the same total variance, mean(D_i), so that distances and
    penalties do not depend on the encoders' dimensions.
    """
    if not is_fused(identity):
        return None
    dims = identity["encoder"]["settings"]["dims"]
    return np.repeat(np.sqrt(np.mean(dims) / np.array(dims)), dims)


def fused_folder(out: Path, model: str, *, dataset: str | None = None, views: int = 1) -> Path:
    """The folder of the joined features of models ``A+B``; they are made if they do not exist.

    Args:
        out: output folder.
        model: names of models, or of encoder folders, joined by ``+``.
        dataset: as `find_features`.
        views: augmented views of each training image to join as well, see featurize --augment.

    Raises:
        RequestError: no or several feature sets of a model, or sets that do not fit each other.
    """
    folders = [find_features(out, model=name, dataset=dataset) for name in split_names(out, model)]
    if len(folders) == 1:
        return folders[0]
    if len(set(folders)) < len(folders):
        raise RequestError(f"--model {model}: {folders[0].name} is named twice; name different encoders")
    for folder in folders:
        if absent := [split for split in SPLITS if split not in splits_in(folder)]:
            raise RequestError(
                f"--model {model}: no {' and '.join(absent)} features in {folder}; run featurize for them"
            )
    joined_files = [join([paths.feature_file(folder, split) for folder in folders], out) for split in SPLITS]
    for view in range(1, views):
        join([paths.view_file(folder, "train", view) for folder in folders], out)
    return joined_files[0].parent


def split_names(out: Path, model: str) -> list[str]:
    """Names of the encoders in ``A+B``; a name may hold ``+`` itself, as a folder's does (``cls+mean``)."""
    known: set[str] = set()
    for folder in paths.feature_folders(out):
        identity, _ = read_identity(next(iter(sorted(folder.glob("*.h5")))))
        known |= {folder.name} if is_fused(identity) else {folder.name, identity["encoder"]["name"]}
    words, found = model.split(JOIN), []
    while words:
        fits = [count for count in range(1, len(words) + 1) if JOIN.join(words[:count]) in known]
        if not fits:
            have = f"; there are {', '.join(sorted(known))}" if known else ""
            raise RequestError(f"--model {model}: no features of '{words[0]}' under {paths.feature_root(out)}{have}")
        found.append(JOIN.join(words[: fits[-1]]))
        words = words[fits[-1] :]
    return found


def join(files: Sequence[Path], out: Path) -> Path:
    """Write the joined features of these files below `out`, if they are not there; returns the file."""
    for file in files:
        if not file.exists():
            raise RequestError(f"no features at {file}; make them with featurize")
    whole = joined([read_features(file, lazy=True) for file in files])
    folder = paths.feature_folder(out, dataset_slug(whole.identity), encoder_slug(whole.identity))
    altered = whole.identity["split"].get("altered")
    split = whole.identity["split"]["name"]
    target = paths.view_file(folder, split, altered["view"]) if altered else paths.feature_file(folder, split)
    if target.exists() and read_identity(target)[0] == whole.identity:
        return target
    rows, dim = whole.features.shape
    with FeatureWriter(
        target, whole.identity, rows=rows, dim=dim, dtype=whole.features.dtype.name, overwrite=True
    ) as to:
        for part in to.missing():
            to.write_part(part, whole.features[slice(*to.bounds(part))])
        to.finish(whole, {"fused": [str(file) for file in files]})  # type: ignore[arg-type]  # its arrays are asked for
    return target


def joined(sets: Sequence[FeatureSet]) -> FeatureSet:
    """Feature sets of the same split joined by id, in the order of the first; features are read on demand.

    Raises:
        RequestError: the sets are of other datasets or splits, an id is missing in one, or labels differ.
    """
    first = sets[0]
    features: Any = Joined([one.features for one in sets], [None, *(_order(first, other) for other in sets[1:])])
    return replace(
        first,
        features=features,
        identity=_identity(sets),
        environment={},
        views=(),
        features_sha256=None,
        not_finite=max(one.not_finite for one in sets),
    )


def _order(first: FeatureSet, other: FeatureSet) -> np.ndarray | None:
    """Rows of the other set in the order of the first; None where they are in that order already."""
    one, two = first.identity, other.identity
    if fields := differing_fields(one["dataset"], two["dataset"], "dataset."):
        raise RequestError(
            f"{first.file} and {other.file} differ in {', '.join(fields)}; join features of the same samples only"
        )
    if one["split"]["name"] != two["split"]["name"]:
        raise RequestError(
            f"{first.file} holds {one['split']['name']}, {other.file} {two['split']['name']}; give one split"
        )
    order = None
    if first.ids != other.ids:
        place = {name: row for row, name in enumerate(other.ids)}
        for names, have, where in ((first.ids, place, other.file), (other.ids, set(first.ids), first.file)):
            if missing := [name for name in names if name not in have]:
                raise RequestError(
                    f"{len(missing):,} of {len(names):,} ids are not in {where}, first '{missing[0]}'; make both "
                    "feature sets of the same samples"
                )
        order = np.array([place[name] for name in first.ids])
    labels = other.labels if order is None else other.labels[order]
    if labels.shape != first.labels.shape or (labels != first.labels).any():
        rows = np.flatnonzero((labels != first.labels).reshape(len(labels), -1).any(axis=1))
        raise RequestError(
            f"labels of {len(rows):,} samples differ between {first.file} and {other.file}, first of "
            f"'{first.ids[rows[0]]}'; recompute both from the same data"
        )
    return order


def _identity(sets: Sequence[FeatureSet]) -> dict[str, Any]:
    """The identity of joined features: those of the encoders, and digests of the features joined."""
    encoders = [one.identity["encoder"] for one in sets]
    bands = list(dict.fromkeys(band for one in encoders for band in one["bands"]))
    waves = {b: w for one in encoders for b, w in zip(one["bands"], one["wavelengths_um"], strict=True)}

    def together(field: str) -> Any:
        words = [one[field] for one in encoders]
        if len(set(map(str, words))) == 1:
            return words[0]
        return JOIN.join("native" if word is None else str(word) for word in words)

    variants = [one["variant"] for one in encoders]
    sources = {one["weights"]["source"] for one in encoders}
    source = next((name for name in ("random", "loaded", "generated") if name in sources), "none")
    encoder = {
        "name": JOIN.join(one["name"] for one in encoders),
        "variant": JOIN.join(word or "default" for word in variants) if any(variants) else None,
        "bands": bands,
        "bands_name": together("bands_name"),
        "wavelengths_um": [waves[band] for band in bands],
        "image_size": together("image_size"),
        "interpolation": together("interpolation"),
        "pooling": together("pooling"),
        "normalization": {"method": JOIN.join(one["normalization"]["method"] for one in encoders)},
        "weights": {"source": source, "sha256": JOIN.join(str(one["weights"]["sha256"]) for one in encoders)},
        "settings": {"fusion": "standardized, equal variance per encoder", "dims": [s.features.shape[1] for s in sets]},
        "precision": together("precision"),
        "dtype": np.result_type(*(one.features.dtype for one in sets)).name,
        "parts": encoders,
    }
    split = sets[0].identity["split"] | {"parts": [one.features_sha256 for one in sets]}
    return json.loads(canonical_json(sets[0].identity | {"encoder": encoder, "split": split}))
