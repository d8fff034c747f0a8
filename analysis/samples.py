"""The images behind predictions: found in the data folder, checked against a run, converted to RGB."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data import paths
from data.bands import shown_bands
from data.dataset import SPLITS, EODataset
from data.errors import RequestError
from data.flags import DataFlags, DatasetRequest
from data.registry import DATASETS

STDS = 2.0  # an image spans the dataset's mean plus and minus so many standard deviations


def open_samples(
    dataset: dict[str, Any], split: str, *, data_root: Path | None, ids: Sequence[str]
) -> dict[str, EODataset]:
    """Open the split that predictions are of and, where it lacks some of the ids, as after --split-by, the others.

    The dataset is the ``dataset`` identity of a run's features; by default it is in ``EO_DATA_ROOT`` or ``datasets``.

    Returns:
        By id, the split that has it; the one named where several do.

    Raises:
        RequestError: the data are not there, or are other data.
    """
    try:
        sources = [_open(dataset, split, data_root)]
    except RequestError as error:
        name = dataset["name"]
        raise RequestError(f"the images of {name} are needed, name their folder with --data-root: {error}") from error
    for other in (name for name in SPLITS if name != split and not set(ids) <= set(sources[0].ids)):
        with contextlib.suppress(RequestError):  # a sample that is missed is reported by its id
            sources.append(_open(dataset, other, data_root))
    found = {name: source for source in reversed(sources) for name in source.ids}
    if absent := set(ids) - found.keys():
        raise RequestError(
            f"{paths.dataset_root(data_root, dataset['name'])} holds different data from the run's: {len(absent)} of "
            f"{len(ids)} samples are missing from every split, such as '{min(absent)}'; name the folder that the "
            "features were made from with --data-root"
        )
    return found


def _open(dataset: dict[str, Any], split: str, data_root: Path | None) -> EODataset:
    name, provenance = dataset["name"], dataset["provenance"]
    root = paths.dataset_root(data_root, name)
    card = DATASETS.card(name)
    variant = dataset["variant"] if card.variants or card.example else None  # a folder's is its name
    classes = provenance.get("classes", len(dataset["class_names"]))  # some may have been left out
    wanted = {"classes": classes, "allow_missing": True}  # missing samples are reported by id
    for grid in provenance.get("scenes", ())[:1]:  # of a scene, its windows
        wanted |= {key: grid[key] for key in ("tile", "stride", "edge")} | {"min_valid": provenance["min_valid"]}
    wanted = {option: value for option, value in wanted.items() if option in card.options}
    options = DataFlags(dataset=name, dataset_variant=variant, **wanted)
    return DATASETS.load(name).open_dataset(DatasetRequest(root, (split,), ("rgb", "all"), options))[split]


def pictures(
    dataset: dict[str, Any], split: str, ids: Sequence[str], data_root: Path | str | None
) -> dict[str, UInt8[np.ndarray, "_ _ 3"]]:
    """The `picture` of each of these samples, by id; otherwise as `open_samples`."""
    sources = open_samples(dataset, split, data_root=Path(data_root) if data_root else None, ids=ids)
    return {name: picture(sources[name], name) for name in dict.fromkeys(ids)}


def picture(source: EODataset, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """One sample as it is shown: true color where the bands allow it, else the first band.

    Returns:
        (H, W, 3) uint8. 8-bit images as they are; other values scaled by the dataset's means and standard
        deviations, the same for all its images and for the three bands, so that colors are those of the ground.
    """
    bands = shown_bands(source.bands)
    planes = source.read(source.ids.index(name), bands)
    height, width = (max(plane.shape[axis] for plane in planes) for axis in (0, 1))
    known = [source.statistics[band.name] for band in bands]
    low, high = (func(one.mean + sign * STDS * one.std for one in known) for func, sign in ((min, -1), (max, 1)))
    scaled = []
    for plane in planes:
        values = plane.astype(np.float32)
        if plane.dtype != np.uint8:
            values = (values - low) / max(high - low, 1e-12) * 255
        rows = np.arange(height) * plane.shape[0] // height
        columns = np.arange(width) * plane.shape[1] // width
        scaled.append(values[np.ix_(rows, columns)])
    return np.clip(np.stack([*scaled, *[scaled[-1]] * (3 - len(scaled))], axis=-1), 0, 255).astype(np.uint8)
