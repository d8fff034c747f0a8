"""DINOv2: self-supervised vision transformer for natural images (transformers)."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from data.errors import RequestError
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel, check_rgb
from featurize.tokens import TokenModel, check_patch_size
from featurize.weights import Weights, hub_state, load_transformers, made_with_weights

CARD = ModelCard(
    variant=(
        "base", "small", "large", "giant", "base-registers", "small-registers", "large-registers", "giant-registers",
        "base-imagenet1k-1-layer",
    ),
    pooling=("cls", "mean", "cls+mean", "max", "std", "gem", "mean+std"),
    normalize=("imagenet", "zscore", "none"),
    weights=("pretrained", "random", "PATH"),
    image_size=224,
    default_bands=("rgb",),
    sizes="multiples of 14",
    dim="384 (small), 768 (base), 1024 (large), 1536 (giant)",
    bands="red, green, blue",
    files="facebook/dinov2-VARIANT, facebook/dinov2-with-registers-SIZE: model.safetensors",
    license="Apache-2.0",
    citation="Oquab et al. 2023, arXiv:2304.07193; registers: Darcet et al. 2023, arXiv:2309.16588",
    layers=True,
)  # fmt: skip

# Widths, depths and heads of the published checkpoints (Oquab et al. 2023, table 17); trained at 518 pixels.
SIZES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "giant": {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True},
}
PATCH = 14
# Its classifier reads the class token and the mean of the patch tokens; the features are what it reads.
ONE_LAYER = "base-imagenet1k-1-layer"
HEAD = ("classifier.",)


@dataclass(frozen=True)
class Architecture:
    """One variant: its class, its configuration, and where its weights are published."""

    model: Any
    config: Any
    repository: str


def architecture(variant: str) -> Architecture:
    """The architecture of a variant's name."""
    size, _, kind = variant.partition("-")
    if kind == "registers":
        config = Dinov2WithRegistersConfig(image_size=518, patch_size=PATCH, **SIZES[size])
        return Architecture(Dinov2WithRegistersModel, config, f"facebook/dinov2-with-registers-{size}")
    config = Dinov2Config(image_size=518, patch_size=PATCH, **SIZES[size])
    return Architecture(Dinov2Model, config, f"facebook/dinov2-{variant}")


def defaults(request: EncoderRequest) -> dict[str, Any]:
    """The one-layer classifier's own input is the class token with the mean."""
    return {"pooling": "cls+mean"} if request.variant == ONE_LAYER else {}


def build(request: EncoderRequest) -> FrozenModel:
    """The model of transformers after its final layer norm; position embeddings are interpolated to the size."""
    check_rgb("dinov2", request.bands)
    check_patch_size("dinov2", request.image_size, PATCH)
    model, weights = load_model(architecture(request.variant), request.weights)
    encoder = TokenModel(
        request,
        model=model,
        run=lambda images: model(pixel_values=images).last_hidden_state,
        width=model.config.hidden_size,
        blocks=model.encoder.layer,
        norm=model.layernorm,
        prefix=1 + getattr(model.config, "num_register_tokens", 0),  # registers lie before the patches
        weights=weights,
    )
    encoder.has_patches = True
    return encoder


def load_model(wanted: Architecture, weights: str) -> tuple[Any, Weights]:
    """The model with its weights: ``pretrained``, ``random``, a folder or a file."""
    if weights not in ("random", "pretrained"):
        check_config(wanted.config, Path(weights))
    return made_with_weights(
        weights,
        lambda: wanted.model(wanted.config),
        lambda: hub_state(wanted.repository),
        lambda state, origin: load_transformers(wanted.model, wanted.config, state, origin, unused=HEAD),
    )


def check_config(wanted: Any, folder: Path) -> None:
    """Raise a RequestError where a folder's ``config.json`` describes another architecture.

    Dropout and the like do not matter here; what would change the embeddings with the same weights does.
    """
    file = folder / "config.json"
    if not file.is_file():
        return
    try:
        found = json.loads(file.read_text())
    except ValueError as error:
        raise RequestError(f"{file} is not readable ({error}); download it again") from error
    keys = (
        "model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "patch_size", "image_size",
        "layer_norm_eps", "hidden_act", "mlp_ratio", "use_swiglu_ffn", "num_register_tokens", "qkv_bias",
    )  # fmt: skip
    for key in keys:
        own = getattr(wanted, key, None)
        if key in found and found[key] != own:
            raise RequestError(f"{file} has {key} {found[key]}, this model has {own}; check --variant")
