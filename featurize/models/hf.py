"""Any image encoder of Hugging Face transformers, by repository or folder: --model hf:REPOSITORY."""

import inspect
import json
from collections.abc import Mapping
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, MODEL_MAPPING

from data.errors import RequestError
from data.files import short_hash
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel, check_order, is_rgb
from featurize.normalization import picture_normalization
from featurize.shapes import Embeddings, Images, Lonlat
from featurize.tokens import chosen_layers, noise_for, pool_tokens
from featurize.weights import (
    NotOnHub,
    Weights,
    first_line,
    hub_file,
    hub_state,
    load_transformers,
    made_with_weights,
    read_state,
)

CARD = ModelCard(
    pooling=("cls", "mean", "cls+mean", "pooled", "max", "std", "gem", "mean+std"),
    normalize=("own", "zscore", "imagenet", "none"),
    weights=("pretrained", "random", "PATH"),
    default_bands=("rgb",),
    sizes="the model's own, and others where it can take them",
    dim="the model's width",
    bands="red, green, blue",
    files="REPOSITORY, or a folder: config.json, preprocessor_config.json, model.safetensors",
    license="the repository's own (transformers: Apache-2.0)",
    citation="Wolf et al. 2020, doi:10.18653/v1/2020.emnlp-demos.6, and the model's own paper",
    example="hf:facebook/dinov2-base",
    layers=True,
)

CONFIG, PROCESSORS = "config.json", ("preprocessor_config.json", "processor_config.json")
# Heads that published files have on top of the encoder, which has no use for them.
HEADS = ("classifier.", "cls_classifier.", "distillation_classifier.", "decoder.", "lm_head.", "head.")
# Entries of a configuration that do not change the embeddings.
NOT_DECISIVE = (
    "_name_or_path",
    "architectures",
    "dtype",
    "torch_dtype",
    "transformers_version",
    "id2label",
    "label2id",
)


def defaults(request: EncoderRequest) -> dict[str, Any]:
    """Pooling depends on what the model gives: it is chosen once that is known."""
    return {"pooling": None, "normalize": "own" if is_rgb(request.bands) else "zscore"}


def build(request: EncoderRequest) -> FrozenModel:
    """See the module. A folder may stand for the repository; ``--weights`` takes a folder or file of weights."""
    check_order(f"hf:{request.inner}", request.bands)
    return TransformersEncoder(request)


class TransformersEncoder(FrozenModel):
    """The class token, the mean of the patch tokens, or the model's own pooled output."""

    def __init__(self, request: EncoderRequest) -> None:
        source = source_of(request)
        described = read_json(source, CONFIG)
        config = make_config(source, described)
        kind = image_class(config, request.inner)
        pictures = read_pictures(source, needed=request.normalize == "own")
        request = replace(request, image_size=request.image_size or side_of(pictures, config))
        model, weights = load_model(kind, config, request, source)
        options, prefix, sample = try_out(model.eval(), config, request)
        layers, norm = stack_of(model, request, options) if request.layer else ((), None)
        if layers:
            options = {**options, "output_hidden_states": True}
            sample.pop("pooled", None)  # of the last layer
        usual = "cls" if prefix else "pooled" if "pooled" in sample else "mean"
        request = replace(request, pooling=request.pooling or usual)
        if request.pooling not in sample:
            raise RequestError(f"--pooling {request.pooling}: hf:{request.inner} has {' | '.join(sample)}")
        scaling = None
        if request.normalize == "own":
            scaling = picture_normalization("own", request.bands, colours_of(pictures, source))
        super().__init__(
            request,
            dim=sample[request.pooling].shape[1] * (len(layers) or 1),
            normalization=scaling,
            weights=weights,
            settings={"config": short_hash({k: v for k, v in described.items() if k not in NOT_DECISIVE}, 16)},
        )
        self.model, self.options, self.prefix = model, options, prefix
        self.layers, self.norm = layers, norm
        self.name = f"hf:{source.resolve().name if isinstance(source, Path) else source}"

    def embed(self, images: Images, lonlat: Lonlat | None) -> Embeddings:
        """See `FrozenModel.embed`."""
        wanted, output = self.request.pooling, outputs(self.model, images, self.options)
        if not self.layers:
            return poolings(output, self.prefix, only=wanted)[wanted]
        chosen = [output.hidden_states[layer] for layer in self.layers]
        tokens = [self.norm(one) if self.norm else one for one in chosen]
        return torch.cat([pool_tokens(one, wanted, prefix=self.prefix) for one in tokens], dim=1)


# ------------------------------------------------------------------------------------------ files


def source_of(request: EncoderRequest) -> Path | str:
    """The folder, or the hub's repository, that describes the model: where ``--weights`` lies if it has a config."""
    if request.weights not in ("pretrained", "random"):
        given = Path(request.weights)
        folder = given if given.is_dir() else given.parent
        if (folder / CONFIG).is_file():
            return folder
    folder = Path(request.inner).expanduser()
    if folder.is_dir():
        return folder
    if request.inner.startswith((".", "/", "~")):
        raise RequestError(f"--model hf:{request.inner}: no such folder")
    return request.inner


def read_json(source: Path | str, name: str) -> dict[str, Any]:
    """A JSON file of a folder or repository.

    Raises:
        NotOnHub: the folder or repository has no such file.
        RequestError: it cannot be fetched, or is not JSON.
    """
    if isinstance(source, str):
        remedy = "put it with the repository's weights into one folder and name that with --model hf:FOLDER"
        file = hub_file(source, name, remedy=remedy)
    elif not (file := source / name).is_file():
        raise NotOnHub(f"{source} has no {name}; a model's folder holds {CONFIG} and model.safetensors")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RequestError(f"{file} is not readable as JSON ({error}); download it again") from error
    if not isinstance(content, dict):
        raise RequestError(f"{file} holds no settings; download it again")
    return content


def make_config(source: Path | str, described: dict[str, Any]) -> Any:
    """The configuration as transformers holds it."""
    kind = str(described.get("model_type"))
    if kind in CONFIG_MAPPING:
        config = CONFIG_MAPPING[kind].from_dict(described)
        if hasattr(config, "mask_ratio"):
            config.mask_ratio = 0.0  # masked autoencoders hide a random part of every image, in evaluation too
        return config
    if "architecture" in described:
        raise RequestError(f"{source} is a model of timm; use --model timm:{described['architecture']}")
    if "auto_map" in described:
        raise RequestError(f"{source} needs its own code, which is not run; choose a model that transformers has")
    raise RequestError(f"{source}: transformers has no model of type '{kind}'; its {CONFIG} must name one")


def read_pictures(source: Path | str, *, needed: bool) -> dict[str, Any]:
    """The image processor's settings, empty where there are none."""
    for name in PROCESSORS:
        try:
            found = read_json(source, name)
            return found.get("image_processor", found)
        except NotOnHub:
            continue
        except RequestError:
            if needed:
                raise
    if needed:
        raise RequestError(f"{source} has no {PROCESSORS[0]}; choose the scaling with --normalize imagenet or zscore")
    return {}


def side_of(pictures: Mapping[str, Any], config: Any) -> int:
    """Side of the input: what the processor crops or resizes to, else what the configuration says."""
    crop = pictures.get("crop_size") if pictures.get("do_center_crop") else None
    size: Any = crop or pictures.get("size") or getattr(vision(config), "image_size", None) or 224
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge") or 224
    return int(max(size)) if isinstance(size, list | tuple) else int(size)


def colours_of(pictures: Mapping[str, Any], source: Path | str) -> dict[str, tuple[float, float]]:
    """Mean and standard deviation of pixels in [0, 1], by color."""
    mean, std = pictures.get("image_mean"), pictures.get("image_std")
    if pictures.get("do_normalize") is False:
        mean, std = (0.0,) * 3, (1.0,) * 3
    rescale = pictures.get("rescale_factor", 1 / 255) if pictures.get("do_rescale", True) else 1.0
    if not mean or not std or len(mean) != 3 or len(std) != 3 or abs(rescale * 255 - 1) > 1e-6:
        raise RequestError(
            f"{source} is not scaled by 1/255, a mean and a std of three colors; choose --normalize imagenet or zscore"
        )
    return {name: (m, s) for name, m, s in zip(("red", "green", "blue"), mean, std, strict=True)}


def vision(config: Any) -> Any:
    """The part of a configuration that describes the images' side, of a model of images and text."""
    return getattr(config, "vision_config", config)


# ------------------------------------------------------------------------------------------ the model


def image_class(config: Any, name: str) -> Any:
    """The class of models that a configuration makes."""
    kind: Any = MODEL_MAPPING.get(type(config), None)
    if not kind or "image" not in getattr(kind, "input_modalities", ()):
        raise RequestError(f"hf:{name} is a {config.model_type}, not an image encoder; choose another model")
    return kind


def load_model(kind: Any, config: Any, request: EncoderRequest, source: Path | str) -> tuple[Any, Weights]:
    """The model of that class with its weights."""

    def published() -> tuple[dict[str, Tensor], str]:
        return (read_state(source), str(source)) if isinstance(source, Path) else hub_state(source)

    def fit(state: dict[str, Tensor], origin: str) -> Any:
        model: Any = load_transformers(kind, config, state, origin, may_miss=("pooler.",), unused=HEADS)
        pooler = [name for name, _ in model.named_parameters() if name.startswith("pooler.")]
        if pooler and not any("pooler." in key for key in state):
            model.pooler = None  # published without: what stands there is random
        return model

    return made_with_weights(request.weights, lambda: kind(config), published, fit)


def outputs(model: Any, images: Images, options: Mapping[str, Any]) -> Any:
    """The model's outputs for scaled images; of a model of images and text, those of its images' side."""
    return getattr(model, "get_image_features", model)(pixel_values=images, **options)


def poolings(output: Any, prefix: int, *, only: str | None = None) -> dict[str, Embeddings]:
    """Every way to make one embedding of a model's outputs, or one of them.

    Args:
        output: with ``last_hidden_state`` (B, T, D) or (B, D, H, W).
        prefix: tokens before those of the patches: the class token, then registers and the like.
        only: the one wanted; None means all.
    """
    tokens = output.last_hidden_state
    if tokens.ndim == 4:
        tokens, prefix = tokens.flatten(2).transpose(1, 2), 0
    names = ("mean", "max", "std", "gem", "mean+std", *(("cls", "cls+mean") if prefix else ()))
    made = {name: pool_tokens(tokens, name, prefix=prefix) for name in names if only in (None, name)}
    if output.last_hidden_state.ndim == 4 and "mean" in made:
        made["mean"] = output.last_hidden_state.mean(dim=(2, 3))  # summed in the order of earlier versions
    if (pooled := getattr(output, "pooler_output", None)) is not None:
        made["pooled"] = pooled.flatten(1)
    return made


@torch.inference_mode()
def try_out(model: Any, config: Any, request: EncoderRequest) -> tuple[dict[str, Any], int, dict[str, Embeddings]]:
    """Embed noise twice: what to call the model with, how many tokens come before the patches, the embeddings."""
    side, part = request.image_size, vision(config)
    assert side
    call = getattr(model, "get_image_features", model.forward)
    other_size = getattr(part, "image_size", side) not in (side, [side, side], (side, side))
    resizes = other_size and "interpolate_pos_encoding" in inspect.signature(call).parameters
    options = {"interpolate_pos_encoding": True} if resizes else {}
    noise = noise_for(request)
    try:
        output, again = (outputs(model, noise, options) for _ in range(2))
        tokens = output.last_hidden_state
        prefix = count_prefix(tokens.shape[1], side, getattr(part, "patch_size", None)) if tokens.ndim == 3 else 0
        one, two = poolings(output, prefix), poolings(again, prefix)
    except Exception as error:  # each architecture words sizes and inputs that it cannot take in its own way
        raise RequestError(
            f"hf:{request.inner} cannot embed {len(request.bands)} bands of {side} x {side} pixels "
            f"({type(error).__name__}: {first_line(error)}); try another --image-size"
        ) from error
    if any(not torch.allclose(one[name], two[name], rtol=1e-3, atol=1e-4) for name in one):
        raise RequestError(
            f"hf:{request.inner} is not deterministic: it returns different embeddings for the same image; "
            "choose another model"
        )
    return options, prefix, one


@torch.inference_mode()
def stack_of(model: Any, request: EncoderRequest, options: Mapping[str, Any]) -> tuple[tuple[int, ...], Any]:
    """The chosen layers, and the norm by which the model makes its last tokens of those after its last block, if any.

    Raises:
        RequestError: no such layer, or a model whose layers give tokens of several shapes.
    """
    calls = []
    hooks = [m.register_forward_hook(lambda *call: calls.append(call)) for m in model.modules() if not [*m.children()]]
    output = outputs(model, noise_for(request), {**options, "output_hidden_states": True})
    for hook in hooks:
        hook.remove()
    last, states = output.last_hidden_state, list(output.hidden_states or ())
    norms = [module for module, given, made in calls if made is last and given and states and given[0] is states[-1]]
    if {one.shape for one in states} != {last.shape} or last.ndim != 3 or not (norms or last is states[-1]):
        raise RequestError(
            f"--layer {request.layer}: hf:{request.inner} has layers of different widths; remove the flag"
        )
    return chosen_layers(f"hf:{request.inner}", request.layer, len(states) - 1), norms[0] if norms else None


def count_prefix(tokens: int, side: int, patch: Any) -> int:
    """Tokens that are not patches, of a model whose patches make a square."""
    patch = patch[0] if isinstance(patch, list | tuple) else patch
    grid = (side // patch) ** 2 if patch else tokens + 1
    return tokens - grid if grid <= tokens else tokens - isqrt(tokens) ** 2  # fewer than patches: a pyramid
