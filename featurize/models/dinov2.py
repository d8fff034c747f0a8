"""DINOv2: a vision transformer trained on natural images without labels (transformers)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model
from transformers.utils import logging

from data.errors import RequestError
from featurize.encoder import Encoder, EncoderRequest
from featurize.normalization import make_normalization
from featurize.weights import RANDOM_SEED, Weights, digest_state, random_module, read_state

CARD = {
    "title": "DINOv2",
    "variant": ["base", "small", "large", "giant"],
    "pooling": ["cls", "mean", "cls+mean"],
    "normalize": ["imagenet", "zscore", "none"],
    "weights": ["pretrained", "random", "PATH"],
    "image_size": 224,
    "default_bands": ["rgb"],
    "dim": "384 (small), 768 (base), 1024 (large), 1536 (giant); twice that for cls+mean",
    "bands": "red, green, blue",
    "licence": "Apache-2.0",
    "citation": "Oquab et al. 2023, arXiv:2304.07193",
}

# Widths, depths and heads of the published checkpoints (Oquab et al. 2023, table 17); trained at 518 pixels.
SIZES: dict[str, dict[str, Any]] = {
    "small": {"hidden_size": 384, "num_hidden_layers": 12, "num_attention_heads": 6},
    "base": {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16},
    "giant": {"hidden_size": 1536, "num_hidden_layers": 40, "num_attention_heads": 24, "use_swiglu_ffn": True},
}
PATCH = 14
logging.disable_progress_bar()


def build(request: EncoderRequest) -> Encoder:
    """See the module. ``--weights`` also takes a folder with ``config.json`` and safetensors.

    Raises:
        RequestError: not three bands, a size that is no multiple of 14, or weights that do not fit.
    """
    if len(request.bands) != 3:
        raise RequestError(f"dinov2 takes red, green and blue, not {len(request.bands)} bands; use --bands rgb")
    if not request.image_size or request.image_size % PATCH:
        raise RequestError(f"--image-size {request.image_size}: dinov2 takes multiples of {PATCH}, such as 224")
    return DINOv2Encoder(request)


class DINOv2Encoder(Encoder):
    """transformers' Dinov2Model after its final layer norm; position embeddings are interpolated to the size."""

    def __init__(self, request: EncoderRequest) -> None:
        model, weights = load_model(request.variant, request.weights)
        super().__init__(
            request,
            dim=model.config.hidden_size * (2 if request.pooling == "cls+mean" else 1),
            normalization=make_normalization(request.normalize, request.bands, request.statistics),
            weights=weights,
        )
        self.model = model

    def embed(self, images: Tensor, lonlat: Tensor | None) -> Tensor:
        """See `Encoder.embed`."""
        tokens = self.model(pixel_values=images).last_hidden_state
        cls, mean = tokens[:, 0], tokens[:, 1:].mean(dim=1)
        return {"cls": cls, "mean": mean, "cls+mean": torch.cat((cls, mean), dim=1)}[self.request.pooling]


def load_model(variant: str, weights: str) -> tuple[Dinov2Model, Weights]:
    """The model of that size with its weights: ``pretrained``, ``random``, a folder or a file.

    transformers' own loader reads all but random ones: it knows the key layout of the published files.
    """
    config = Dinov2Config(image_size=518, patch_size=PATCH, **SIZES[variant])
    if weights == "random":
        model: Any = random_module(lambda: Dinov2Model(config))
        return model, Weights("random", digest_state(model.state_dict()), f"seed {RANDOM_SEED}")
    options: dict[str, Any] = {}
    if weights == "pretrained":
        source, options = f"facebook/dinov2-{variant}", {}  # the hub client honours HF_HOME and HF_HUB_OFFLINE
    elif Path(weights).is_dir():
        source, options = weights, {"local_files_only": True}
    else:
        source, options = None, {"config": config, "state_dict": read_state(Path(weights))}
    try:
        loaded: Any = Dinov2Model.from_pretrained(source, output_loading_info=True, **options)
        model, info = loaded
    except Exception as error:  # the hub's client raises its own kinds for absent files, network and damage
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise RequestError(
            f"cannot load {source or weights} ({reason}); fetch its config.json and model.safetensors on a machine "
            "with network and pass the folder with --weights PATH, or ask for untrained weights with --weights random"
        ) from error
    wrong = [
        f"{what.replace('_', ' ')}: {', '.join(sorted(map(str, keys))[:4])}" for what, keys in info.items() if keys
    ]
    if wrong:
        raise RequestError(f"{source or weights} does not fit dinov2 {variant}: {'; '.join(wrong)}; check --variant")
    width = SIZES[variant]["hidden_size"]
    if model.config.hidden_size != width:
        raise RequestError(f"{source} has width {model.config.hidden_size}, {variant} has {width}; check --variant")
    return model, Weights("loaded", digest_state(model.state_dict()), source or weights)
