"""CROMA: radar and optical encoders trained jointly, used alone or fused by cross-attention (torchgeo)."""

from typing import Any

from torch import nn
from torchgeo.models import CROMABase_Weights, CROMALarge_Weights, croma_base, croma_large

from data.bands import BAND_SETS, require_bands
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel
from featurize.shapes import Embeddings, Images
from featurize.tokens import TokenModel, Tokens, check_patch_size
from featurize.weights import load_weights, random_module

CARD = ModelCard(
    variant=("base", "large"),
    pooling=("gap", "mean", "max", "std", "gem", "mean+std"),
    normalize=("stretch", "zscore", "none"),
    weights=("pretrained", "random", "PATH"),
    image_size=120,
    default_bands=("s1s2", "s2-12", "s1"),
    sizes="multiples of 8",
    dim="768 (base), 1024 (large)",
    bands="s1, s2-12, or both as s1s2",
    files="torchgeo/croma: CROMA_base-0238d814.pt, CROMA_large-921e69ad.pt",
    license="CC-BY-4.0 (weights), MIT (torchgeo)",
    citation="Fuller et al. 2023, arXiv:2311.00566",
    layers=True,
)

# Trained on 120 x 120 pixels of 10 m of SSL4EO-S12, in patches of 8.
PATCH = 8
MODELS: dict[str, Any] = {
    "base": (croma_base, CROMABase_Weights.CROMA_VIT.url),
    "large": (croma_large, CROMALarge_Weights.CROMA_VIT.url),
}
# Each modality's parts of the model, which are also the keys of the published files.
PARTS = {
    "sar": ("s1_encoder", "s1_GAP_FFN"),
    "optical": ("s2_encoder", "s2_GAP_FFN"),
    "joint": ("s1_encoder", "s1_GAP_FFN", "s2_encoder", "s2_GAP_FFN", "joint_encoder"),
}


def defaults(request: EncoderRequest) -> dict[str, Any]:
    """The model's own summary is of its last layer."""
    return {"pooling": "mean"} if request.layer else {}


def build(request: EncoderRequest) -> FrozenModel:
    """The parts of torchgeo's CROMA that the bands need.

    ``--pooling gap`` is the model's own summary, ``mean`` the mean of its tokens: with both sensors these are the same,
    the mean of the joint encoder's tokens. ``--normalize stretch`` is the authors' scaling (mean and standard deviation
    per channel; theirs of a batch, here of the dataset).
    """
    check_patch_size("croma", request.image_size, PATCH, example=120)
    sensors = {band.sensor for band in request.bands}
    kind, spec = {"S1": ("sar", "s1"), "S2": ("optical", "s2-12")}.get("".join(sensors), ("joint", "s1s2"))
    require_bands(f"croma with {spec}", request.bands, BAND_SETS[spec])
    make, url = MODELS[request.variant]
    modalities = ["sar", "optical"] if kind == "joint" else [kind]
    model: Any = random_module(lambda: make(modalities=modalities, image_size=request.image_size))
    parts = nn.ModuleDict({name: getattr(model, name) for name in PARTS[kind]})
    others = tuple(f"{name}." for name in PARTS["joint"] if name not in PARTS[kind])
    last = getattr(model, PARTS[kind][-1 if kind == "joint" else 0])
    stack = last if kind == "joint" else last.transformer
    result = f"{kind}_{'encodings' if request.pooling != 'gap' or request.layer else 'GAP'}"

    def run(images: Images) -> Embeddings | Tokens:
        inputs = {
            "sar": {"x_sar": images},
            "optical": {"x_optical": images},
            "joint": {"x_sar": images[:, :2], "x_optical": images[:, 2:]},
        }[kind]
        return model(**inputs)[result]

    return TokenModel(
        request,
        model=model,
        run=run,
        width=model.encoder_dim,
        blocks=[parts_of_block[-1] for parts_of_block in stack.layers],
        residual=True,
        norm=stack.norm_out,
        prefix=0,
        own="gap",
        weights=load_weights(parts, request.weights, hub_name=url, unused=others),
    )
