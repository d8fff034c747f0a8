"""Feature files of BigEarthNet's size: its real labels and splits, features made with a known signal."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from data import store
from data.bands import BAND_SETS, SENTINEL2
from data.dataset import EODataset, Statistic

SPLITS = {"train": "train", "validation": "val", "test": "test"}  # in the metadata: here
BLOCK = 16_384
SIGNAL = 0.1


class Labels(EODataset):
    """Ids and labels of one split, without pixels."""

    def __init__(self, split: str, table: pd.DataFrame, names: list[str], *, share: float) -> None:
        bands = [SENTINEL2[band] for band in BAND_SETS["s2-12"]]
        labels = np.zeros((len(table), len(names)), np.uint8)
        for k, name in enumerate(names):
            labels[:, k] = [name in given for given in table["labels"]]
        super().__init__(
            name="bigearthnet-known-signal",
            variant=None,
            split=split,
            ids=list(table["patch_id"]),
            labels=labels,
            class_names=names,
            bands=bands,
            statistics={band.name: Statistic(0.0, 1.0) for band in bands},
            provenance={"simulated": True, "share": share, "signal": SIGNAL},
        )

    def read(self, index, bands):
        raise NotImplementedError("there are no pixels")


def write(folder: Path, metadata: Path, *, share: float = 1.0, dim: int = 768, seed: int = 0) -> dict[str, int]:
    """Write train, val and test as float16; a folder that holds them is left as it is.

    Features are normal with a spectrum that falls as 1 / j, as those of networks do, in a random basis; a class adds
    its own direction of `SIGNAL` deviations an axis.

    Args:
        folder: of the feature files.
        metadata: BigEarthNet v2's ``metadata.parquet``.
        share: of the rows of each split, drawn at random.
        dim: D.
        seed: of the draws.

    Returns:
        Rows by split.
    """
    table = pd.read_parquet(metadata, columns=["patch_id", "labels", "split"])
    names = sorted({name for given in table["labels"] for name in given})
    rng = np.random.default_rng(seed)
    deviation = np.arange(1, dim + 1) ** -0.5
    basis = np.linalg.qr(rng.standard_normal((dim, dim)))[0].astype(np.float32)
    directions = (rng.standard_normal((len(names), dim)) * SIGNAL * deviation).astype(np.float32)
    deviation = deviation.astype(np.float32)

    def features(labels: np.ndarray, rng: np.random.Generator) -> Iterator[np.ndarray]:
        for start in range(0, len(labels), BLOCK):
            signal = labels[start : start + BLOCK].astype(np.float32) @ directions
            noise = rng.standard_normal((len(signal), dim), dtype=np.float32) * deviation
            yield ((signal + noise) @ basis).astype(np.float16)

    rows = {}
    for number, (theirs, split) in enumerate(SPLITS.items()):
        rng = np.random.default_rng([seed, number])  # a split does not depend on whether another was there
        chosen = table[table["split"] == theirs]
        chosen = chosen.iloc[np.sort(rng.permutation(len(chosen))[: round(share * len(chosen))])]
        dataset = Labels(split, chosen, names, share=share)
        rows[split] = len(dataset)
        if not (file := folder / f"{split}.h5").exists():
            identity = store.make_identity(dataset, _encoder(dim))
            with store.FeatureWriter(
                file, identity, rows=len(dataset), dim=dim, dtype="float16", part_rows=BLOCK
            ) as writer:
                for part, block in enumerate(features(dataset.labels, rng)):
                    writer.write_part(part, block)
                writer.finish(dataset, {"device": "cpu", "images_per_s": 0.0})
    return rows


def _encoder(dim: int) -> dict:
    return {
        "name": "known-signal",
        "variant": None,
        "bands": list(BAND_SETS["s2-12"]),
        "bands_name": "s2-12",
        "wavelengths_um": [SENTINEL2[band].wavelength_um for band in BAND_SETS["s2-12"]],
        "image_size": None,
        "interpolation": "bilinear",
        "pooling": f"made-{dim}",
        "normalization": {"method": "none"},
        "weights": {"source": "none", "sha256": "0" * 64},
        "precision": "fp32",
        "dtype": "float16",
    }
