"""Scale-MAE: masked autoencoder with position embeddings that depend on ground resolution (torchgeo)."""

from functools import partial
from typing import Any

import torch
from torchgeo.models import ScaleMAELarge16_Weights
from torchgeo.models.scale_mae import ScaleMAE, scalemae_large_patch16

from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel, check_rgb
from featurize.tokens import TokenModel, check_patch_size, check_published
from featurize.weights import load_weights, random_module

CARD = ModelCard(
    variant=("large", "base"),
    pooling=("mean", "cls", "cls+mean", "max", "std", "gem", "mean+std"),
    normalize=("imagenet", "zscore", "none"),
    weights=("pretrained", "random", "PATH"),
    image_size=224,
    default_bands=("rgb",),
    sizes="multiples of 16",
    dim="1024 (large), 768 (base)",
    bands="red, green, blue",
    files="isaaccorley/vit_large_patch16_224_fmow_rgb_scalemae: ...-386989c9.pth (large)",
    license="CC-BY-NC-4.0 (weights), MIT (torchgeo)",
    citation="Reed et al. 2023, arXiv:2212.14532",
    layers=True,
)

PATCH, TRAINED_SIZE = 16, 224
# The scale that position embeddings are given at 224 pixels: 1 for every dataset in the authors' own evaluation
# (eval/knn.py), and torchgeo's default; images of n pixels have 224 / n of it.
SCALE = 1.0
URL = ScaleMAELarge16_Weights.FMOW_RGB.url
# Position embeddings are computed; the decoder's parts are in the authors' own checkpoints.
UNUSED = (
    "pos_embed", "head.", "mask_token", "mask_token_decoder", "decoder_pos_embed", "decoder_embed.", "decoder_blocks.",
    "decoder_norm.", "decoder_pred.", "fpn.", "fcn.", "fcn_high.", "fcn_low.",
)  # fmt: skip


def build(request: EncoderRequest) -> FrozenModel:
    """Scale-MAE of torchgeo after its final layer norm."""
    check_rgb("scalemae", request.bands)
    check_patch_size("scalemae", request.image_size, PATCH)
    check_published("scalemae", request, ["large"])
    size = int(request.image_size or 0)
    scale = SCALE * TRAINED_SIZE / size
    make = {"large": scalemae_large_patch16, "base": base_patch16}[request.variant]
    model: Any = random_module(lambda: make(img_size=size, res=scale, num_classes=0))
    model.pos_embed = None
    weights = load_weights(model, request.weights, hub_name=URL, unused=UNUSED)
    return TokenModel(
        request,
        model=model,
        run=model.forward_features,
        width=model.embed_dim,
        blocks=model.blocks,
        norm=model.norm,
        weights=weights,
        settings={"scale": scale},
    )


def base_patch16(**settings: Any) -> ScaleMAE:
    """The base size of the authors' code (models_vit.py), which torchgeo has no function for."""
    return ScaleMAE(
        patch_size=16, embed_dim=768, depth=12, num_heads=12, qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6), **settings,
    )  # fmt: skip
