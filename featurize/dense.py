"""Patch tokens instead of one embedding per window, for maps at a model's patch resolution (``--dense``)."""

from dataclasses import replace
from math import isqrt

import torch

from data.dataset import EODataset
from data.errors import RequestError
from data.scene.grid import grids_of
from featurize.encoder import FrozenModel


def keep_patches(encoder: FrozenModel, dataset: EODataset) -> FrozenModel:
    """The encoder, giving the tokens of all patches of a window, row by row, as one row of features.

    Args:
        encoder: on the CPU.
        dataset: windows of a scene.

    Raises:
        RequestError: another dataset, or a model whose patch tokens are not available.
    """
    grids = grids_of(dataset.provenance)
    if not grids:
        raise RequestError("--dense requires --dataset scene; leave it out")
    if not encoder.has_patches:
        raise RequestError(f"--dense: {encoder.name} has no patch tokens here; use galileo, dinov2 or terratorch")
    side, channels = encoder.request.image_size or grids[0].tile, len(encoder.request.bands)
    widths = {}
    for pooling in ("mean", "patches"):
        encoder.request = replace(encoder.request, pooling=pooling)
        with torch.inference_mode():
            widths[pooling] = encoder(torch.zeros(1, channels, side, side)).shape[1]
    patches = isqrt(widths["patches"] // widths["mean"])
    if grids[0].tile % patches:
        raise RequestError(
            f"--dense: {encoder.name} has {patches} x {patches} patches per window, --tile {grids[0].tile} is not a "
            f"multiple of that; use --tile {patches * max(1, round(grids[0].tile / patches))}"
        )
    encoder.dim, encoder.settings = widths["patches"], encoder.settings | {"patches": patches}
    return encoder
