"""Run by an interpreter that has the authors' packages, with their checkout on its path: pixels in, features out.

    PYTHONPATH=<checkout of nasaharvest/galileo> python galileo_authors.py CHECKOUT WEIGHTS PIXELS.npz FEATURES.npz

PIXELS.npz holds for each case NAME its pixels as they are in the files, ``NAME`` (N, H, W, C), and ``NAME bands``, the
names of the C bands. FEATURES.npz gets (N, 128) for each: their statistics of pretraining, their NDVI, the mean of the
tokens of all groups that the bands allow. Where the bands are those of Sentinel-2, ``NAME evaluation`` is what their
GalileoWrapper gives with the scaling of their eval.py, which leaves NDVI out.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from src.data.dataset import (  # type: ignore[reportMissingImports]
    SPACE_TIME_BANDS,
    SPACE_TIME_BANDS_GROUPS_IDX,
    Dataset,
    Normalizer,
)
from src.data.utils import construct_galileo_input  # type: ignore[reportMissingImports]
from src.galileo import Encoder, GalileoWrapper  # type: ignore[reportMissingImports]

STEP = 50


def pretraining(encoder: Any, normalizer: Any, pixels: np.ndarray, bands: list[str]) -> np.ndarray:
    """(N, D) as in pretraining: every group of one date that the bands allow."""
    patch = max(size for size in range(1, 9) if pixels.shape[1] % size == 0)
    channels, present = [SPACE_TIME_BANDS.index(band) for band in bands], set(bands)
    if {"B4", "B8"} <= present:
        present.add("NDVI")
    absent = [not {SPACE_TIME_BANDS[k] for k in group} <= present for group in SPACE_TIME_BANDS_GROUPS_IDX.values()]
    made = []
    for image in pixels.astype(np.float32):
        values = np.zeros((*image.shape[:2], 1, len(SPACE_TIME_BANDS)), np.float32)
        values[:, :, 0, channels] = image
        values[..., -1:] = Dataset.calculate_ndi(values[..., :-1], band_1="B8", band_2="B4")
        one = construct_galileo_input(s1=torch.from_numpy(values[..., :2]), s2=torch.from_numpy(values[..., 2:12]))
        mask: Any = one.space_time_mask.clone()
        mask[...] = torch.tensor(absent).float()
        made.append(one._replace(space_time_x=torch.from_numpy(normalizer(values)).float(), space_time_mask=mask))
    batch = type(made[0])(*(torch.stack(parts) for parts in zip(*made, strict=True)))
    *tokens, _ = encoder(*batch, patch_size=patch)
    return encoder.average_tokens(*tokens).numpy()


def evaluation(wrapper: Any, statistics: dict, pixels: np.ndarray) -> np.ndarray:
    """(N, D) as in their eval.py without options: (x - mean + 2 std) / (4 std), not clipped."""
    mean, std = (np.array(statistics[13][name][2:12]) for name in ("mean", "std"))
    thirteen = np.zeros((*pixels.shape[:3], 13), np.float32)  # B1, B9 and B10 are not read
    thirteen[..., wrapper.kept_s2_band_idx] = (pixels - (mean - 2 * std)) / (4 * std)
    return wrapper(s2=torch.from_numpy(thirteen)).numpy()


def main() -> None:
    """Write the features of every case."""
    checkout, weights, given, target = map(Path, sys.argv[1:])
    statistics = Dataset.load_normalization_values(checkout / "config" / "normalization.json")
    normalizer = Normalizer(std=True, normalizing_dicts=statistics)
    encoder, wrapper = Encoder.load_from_folder(weights).eval(), GalileoWrapper(weights).eval()
    made = {}
    with np.load(given) as file, torch.no_grad():
        for name in (key for key in file if not key.endswith(" bands")):
            pixels, bands = file[name], [str(band) for band in file[f"{name} bands"]]
            parts = [pixels[start : start + STEP] for start in range(0, len(pixels), STEP)]
            made[name] = np.concatenate([pretraining(encoder, normalizer, part, bands) for part in parts])
            if bands == SPACE_TIME_BANDS[2:12] and pixels.shape[1] % 8 == 0:
                made[f"{name} evaluation"] = np.concatenate([evaluation(wrapper, statistics, part) for part in parts])
    np.savez(target, **made)


if __name__ == "__main__":
    main()
