"""SoftCon: DINOv2 further pretrained on Sentinel-1 or Sentinel-2 (torchgeo)."""

from typing import Any

import timm
from torchgeo.models import ViTBase14_DINOv2_Weights, ViTSmall14_DINOv2_Weights

from data.bands import BAND_SETS, require_bands
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel
from featurize.tokens import TokenModel, check_patch_size
from featurize.weights import load_weights, random_module

CARD = ModelCard(
    variant=("small", "base", "small-s1", "base-s1"),
    pooling=("mean", "cls", "cls+mean", "max", "std", "gem", "mean+std"),
    normalize=("ssl4eo", "zscore", "stretch", "none"),
    weights=("pretrained", "random", "PATH"),
    image_size=224,
    default_bands=("s2-13",),
    sizes="multiples of 14",
    dim="384 (small), 768 (base)",
    bands="s2-13 (small, base); s1 (small-s1, base-s1)",
    files="wangyi111/softcon: B13_vits14_softcon_enc.pth, B13_vitb14_..., B2_vits14_..., B2_vitb14_...",
    license="CC-BY-4.0",
    citation="Wang et al. 2024, arXiv:2405.20462",
    layers=True,
)

PATCH, TRAINED_SIZE = 14, 224
SIZES = {"small": "vit_small_patch14_dinov2", "base": "vit_base_patch14_dinov2"}
URLS = {
    "small": ViTSmall14_DINOv2_Weights.SENTINEL2_ALL_SOFTCON.url,
    "base": ViTBase14_DINOv2_Weights.SENTINEL2_ALL_SOFTCON.url,
    "small-s1": ViTSmall14_DINOv2_Weights.SENTINEL1_GRD_SOFTCON.url,
    "base-s1": ViTBase14_DINOv2_Weights.SENTINEL1_GRD_SOFTCON.url,
}


def default_bands(request: EncoderRequest) -> list[str]:
    """Each set of weights has its own bands."""
    return ["s1" if str(request.variant).endswith("-s1") else "s2-13"]


def build(request: EncoderRequest) -> FrozenModel:
    """DINOv2 of timm after its final layer norm; position embeddings are resampled to the size.

    ``--pooling mean`` averages the patch tokens, as the authors evaluate it.
    """
    check_patch_size("softcon", request.image_size, PATCH)
    require_bands(f"softcon {request.variant}", request.bands, BAND_SETS[default_bands(request)[0]])
    name, channels = SIZES[request.variant.partition("-")[0]], len(request.bands)
    model: Any = random_module(lambda: timm.create_model(name, in_chans=channels, img_size=TRAINED_SIZE, num_classes=0))
    weights = load_weights(model, request.weights, hub_name=URLS[request.variant], unused=("mask_token",))
    if request.image_size != TRAINED_SIZE:
        model.set_input_size(img_size=request.image_size)
    parts = {"width": model.embed_dim, "blocks": model.blocks, "norm": model.norm}
    return TokenModel(request, model=model, run=model.forward_features, **parts, weights=weights)
