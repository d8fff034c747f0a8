"""Any image encoder of timm, by its name: --model timm:NAME."""

import difflib
import re
from dataclasses import replace
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from timm.models import PretrainedCfg
from torch import Tensor

from data.errors import RequestError
from featurize.card import ModelCard
from featurize.checkpoints import unwrapped
from featurize.encoder import EncoderRequest, FrozenModel, check_order, is_rgb
from featurize.normalization import picture_normalization
from featurize.tokens import TokenModel, noise_for
from featurize.weights import (
    check_keys,
    first_line,
    hub_file,
    hub_state,
    made_with_weights,
    random_module,
    read_state,
    url_file,
)

CARD = ModelCard(
    pooling=("own", "mean", "cls", "cls+mean", "max", "std", "gem", "mean+std"),
    normalize=("own", "zscore", "imagenet", "satlas", "none"),
    weights=("pretrained", "random", "PATH"),
    default_bands=("rgb", "all"),
    sizes="the model's own, and others where it can take them",
    dim="the model's width",
    bands="red, green, blue as published; any others with zscore and an adapted first layer",
    files="what timm names, mostly timm/NAME: model.safetensors",
    license="the weights' own, on their page of the hub (timm: Apache-2.0)",
    citation="Wightman 2019, doi:10.5281/zenodo.4414861, and the model's own paper",
    example="timm:resnet50.a1_in1k",
    layers=True,
)


def defaults(request: EncoderRequest) -> dict[str, Any]:
    """The published mean and standard deviation are those of red, green and blue."""
    return {"normalize": "own" if is_rgb(request.bands) else "zscore"} | ({"pooling": "mean"} if request.layer else {})


def build(request: EncoderRequest) -> FrozenModel:
    """The model without its classifier, at its own input size unless another was asked for.

    ``--pooling own`` is what timm's classifier would read (``num_classes=0``). The others, and ``--layer``, need
    transformers with blocks of equal width, such as vit, deit, beit and eva.
    """
    name = request.inner
    check_name(name)
    check_order(f"timm:{name}", request.bands)
    published = timm.get_pretrained_cfg(name) or PretrainedCfg()
    options: dict[str, Any] = {"in_chans": len(request.bands)}
    if request.image_size and published.fixed_input_size:
        options["img_size"] = request.image_size

    def fit(state: dict[str, Tensor], origin: str) -> Any:
        if origin == request.weights:  # a file of one's own training, whose names may have prefixes
            with torch.device("meta"):
                state = unwrapped(state, create(name, options).state_dict().keys(), origin)
        return load_strictly(name, state, origin, published, options)

    model, weights = made_with_weights(
        request.weights,
        lambda: create(name, {**options, "num_classes": 0}),
        lambda: published_state(name, published),
        fit,
    )
    config = resolve_model_data_config(model.eval())
    request = replace(request, image_size=request.image_size or max(config["input_size"][1:]))
    scaling = None
    if request.normalize == "own":
        colours = zip(("red", "green", "blue"), config["mean"], config["std"], strict=True)
        scaling = picture_normalization("own", request.bands, {name: (mean, std) for name, mean, std in colours})
    dim = width(name, model, request)
    parts: dict[str, Any] = {"width": dim, "blocks": (), "run": model.forward}
    if request.pooling != "own" or request.layer:
        parts = transformer_of(model, request)
    return TokenModel(request, model=model, **parts, own="own", normalization=scaling, weights=weights)


def check_name(name: str) -> None:
    """Raise a RequestError with the nearest names unless timm has a model, and its weights, of that name."""
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "timm.list_models() has them all"
        raise RequestError(f"unknown timm model '{architecture}'; {hint}")
    known = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in known:
        tags = ", ".join(entry.partition(".")[2] for entry in known)
        raise RequestError(f"timm has no weights '{tag}' of {architecture}; choose from {tags or 'none'}")


def create(name: str, options: dict[str, Any]) -> Any:
    """Make a model; what timm says against the options becomes a RequestError."""
    try:
        return timm.create_model(name, **options)
    except (TypeError, ValueError, AssertionError) as error:
        given = ", ".join(f"{key}={value}" for key, value in options.items() if key in ("in_chans", "img_size"))
        raise RequestError(f"timm cannot make {name} with {given}: {first_line(error)}") from error


def published_state(name: str, published: Any) -> tuple[dict[str, Tensor], str]:
    """The published weights and their name."""
    if published.hf_hub_id and published.hf_hub_filename:
        origin = f"{published.hf_hub_id}/{published.hf_hub_filename}"
        return read_state(hub_file(published.hf_hub_id, published.hf_hub_filename)), origin
    if published.hf_hub_id:
        return hub_state(published.hf_hub_id)
    if published.url and not published.custom_load:
        return read_state(url_file(published.url)), published.url
    raise RequestError(f"timm publishes no weights of {name}; choose another name, --weights PATH or --weights random")


def load_strictly(name: str, state: dict[str, Tensor], origin: str, published: Any, options: dict[str, Any]) -> Any:
    """Load through timm's own loader, which knows older layouts and spreads the first layer over other bands.

    It is strict only while the classifier has its published size, so the classifier is loaded and then taken off; a
    file whose classifier is absent or of another size is loaded without one.
    """
    heads: tuple[str, ...] = published.classifier or ()
    heads = (heads,) if isinstance(heads, str) else heads
    overlay: dict[str, Any] = {"state_dict": dict(state), "custom_load": False}
    wrong = _try(name, overlay, options)
    if isinstance(wrong, dict) and all(_of_head(key, heads) for keys in wrong.values() for key in keys):
        body = {key: value for key, value in state.items() if not _of_head(key, heads)}
        wrong = _try(name, {**overlay, "state_dict": body, "num_classes": 0}, {**options, "num_classes": 0})
    if isinstance(wrong, dict):
        check_keys(origin, **wrong)
    model: Any = wrong
    model.reset_classifier(0)
    return model


def _of_head(key: str, heads: tuple[str, ...]) -> bool:
    return key.rpartition(".")[0] in heads


def _try(name: str, overlay: dict[str, Any], options: dict[str, Any]) -> Any:
    """The model, or the keys that do not fit, as torch's error names them."""
    try:
        return random_module(lambda: create(name, {**options, "pretrained": True, "pretrained_cfg_overlay": overlay}))
    except (RuntimeError, KeyError) as error:
        text = str(error)
        keys = {
            "missing": re.findall(r'"([^"]+)"', "".join(re.findall(r"Missing key.*", text))),
            "unexpected": re.findall(r'"([^"]+)"', "".join(re.findall(r"Unexpected key.*", text))),
            "shapes": re.findall(r"size mismatch for ([^:]+):", text),
        }
        if not any(keys.values()):
            raise RequestError(f"timm cannot read these weights as {name}: {first_line(error)}") from error
        return keys


@torch.inference_mode()
def transformer_of(model: Any, request: EncoderRequest) -> dict[str, Any]:
    """The parts of a transformer that `TokenModel` needs, tried out on noise.

    Raises:
        RequestError: another kind of model, or a token or pooling that it lacks.
    """
    asked = f"--layer {request.layer}" if request.layer else f"--pooling {request.pooling}"
    blocks, norm, noted = list(getattr(model, "blocks", ())), getattr(model, "norm", None), []
    hooks = [block.register_forward_hook(lambda *call: noted.append(call[2])) for block in blocks]
    last = model.forward_features(noise_for(request))
    for hook in hooks:
        hook.remove()
    shapes = [one.shape if isinstance(one, Tensor) else None for one in (last, *noted)]  # several, of TNT and CrossViT
    if not norm or len(noted) != len(blocks) or set(shapes) != {shapes[0]} or len(shapes[0] or ()) != 3:
        raise RequestError(f"{asked}: timm's {request.inner} has no transformer blocks of equal width; remove it")
    classed = getattr(model, "has_class_token", getattr(model, "cls_token", None) is not None)
    if "cls" in request.pooling and not classed:  # tokens before the patches may be registers only
        raise RequestError(f"{asked}: timm's {request.inner} has no class token; use mean")
    about = {"prefix": getattr(model, "num_prefix_tokens", 0), "pooled_norm": getattr(model, "fc_norm", None)}
    return about | {"blocks": blocks, "norm": norm, "width": last.shape[2], "run": model.forward_features}


@torch.inference_mode()
def width(name: str, model: Any, request: EncoderRequest) -> int:
    """D, by embedding an empty image; a model that takes no images of this size says so here."""
    side = request.image_size
    assert side
    try:
        out = model(torch.zeros(1, len(request.bands), side, side))
    except Exception as error:  # assertions and size mismatches, as each architecture words them
        raise RequestError(f"--image-size {side}: timm's {name} cannot take it ({first_line(error)})") from error
    if not isinstance(out, Tensor) or out.ndim != 2:
        raise RequestError(f"timm's {name} is not an image encoder: it returns no embedding (B, D)")
    return out.shape[1]
