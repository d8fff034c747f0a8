"""DINOv3: self-supervised vision transformer, pretrained on web or on satellite images (transformers)."""

from typing import Any

from transformers import DINOv3ViTConfig, DINOv3ViTModel

from data.errors import RequestError
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel, check_rgb
from featurize.models.dinov2 import Architecture, load_model
from featurize.normalization import picture_normalization
from featurize.tokens import TokenModel, check_patch_size

CARD = ModelCard(
    variant=("base", "small", "small-plus", "large", "huge-plus", "7b", "large-sat", "7b-sat"),
    pooling=("cls", "mean", "cls+mean", "max", "std", "gem", "mean+std"),
    normalize=("imagenet", "sat493m", "zscore", "none"),
    weights=("pretrained", "random", "PATH"),
    image_size=224,
    default_bands=("rgb",),
    sizes="multiples of 16",
    dim="384 (small), 768 (base), 1024 (large), 1280 (huge-plus), 4096 (7b)",
    bands="red, green, blue",
    files="facebook/dinov3-vitSIZE16-pretrain-lvd1689m (web), ...-sat493m (satellite): model.safetensors; gated: "
    "accept the license on the repository's page, then hf auth login",
    license="DINOv3 License",
    citation="Siméoni et al. 2025, arXiv:2508.10104",
    layers=True,
)

PATCH = 16
# Mean and standard deviation of the satellite weights' training images in [0, 1] (their preprocessor_config.json).
SAT493M = {"red": (0.430, 0.213), "green": (0.411, 0.156), "blue": (0.296, 0.143)}
# Widths, depths and heads of the published checkpoints (Siméoni et al. 2025, table 18, and their config.json).
SIZES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6},
    "small-plus": {
        "hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 12, "num_attention_heads": 6,
        "use_gated_mlp": True, "hidden_act": "silu",
    },
    "base": {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16},
    "huge-plus": {
        "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20,
        "use_gated_mlp": True, "hidden_act": "silu",
    },
    "7b": {
        "hidden_size": 4096, "intermediate_size": 8192, "num_hidden_layers": 40, "num_attention_heads": 32,
        "use_gated_mlp": True, "hidden_act": "silu", "query_bias": False, "value_bias": False,
    },
}  # fmt: skip
NAMES = {
    "small": "vits16", "small-plus": "vits16plus", "base": "vitb16", "large": "vitl16", "huge-plus": "vith16plus",
    "7b": "vit7b16",
}  # fmt: skip
REGISTERS = 4


def architecture(variant: str) -> Architecture:
    """The architecture of a variant's name."""
    size = variant.removesuffix("-sat")
    config = DINOv3ViTConfig(patch_size=PATCH, num_register_tokens=REGISTERS, **SIZES[size])
    trained_on = "sat493m" if variant.endswith("-sat") else "lvd1689m"
    return Architecture(DINOv3ViTModel, config, f"facebook/dinov3-{NAMES[size]}-pretrain-{trained_on}")


def defaults(request: EncoderRequest) -> dict[str, Any]:
    """The satellite weights have statistics of their own."""
    return {"normalize": "sat493m"} if str(request.variant).endswith("-sat") else {}


def build(request: EncoderRequest) -> FrozenModel:
    """The model of transformers after its final layer norm; positions are rotary, so that any size fits."""
    check_rgb("dinov3", request.bands)
    check_patch_size("dinov3", request.image_size, PATCH)
    wanted = architecture(request.variant)
    try:
        model, weights = load_model(wanted, request.weights)
    except RequestError as error:
        if request.weights != "pretrained":
            raise
        raise RequestError(
            f"{error}. DINOv3's weights are gated: accept the license at https://huggingface.co/"
            f"{wanted.repository}, then run hf auth login"
        ) from error
    satellite = request.normalize == "sat493m"
    return TokenModel(
        request,
        model=model,
        run=lambda images: model(pixel_values=images).last_hidden_state,
        width=model.config.hidden_size,
        blocks=getattr(model, "model", model).layer,  # transformers 5.0 has no encoder between
        norm=model.norm,
        prefix=1 + REGISTERS,
        normalization=picture_normalization("sat493m", request.bands, SAT493M) if satellite else None,
        weights=weights,
    )
