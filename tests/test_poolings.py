"""Poolings worked out by hand, and layers of DINOv2 and DINOv3 equal to those of a shallower model."""

import pytest
import torch
from pixels import PixelDataset
from transformers import Dinov2Model, DINOv3ViTModel

from data.errors import RequestError
from featurize.encoder import EncoderRequest, build_encoder
from featurize.models import dinov2, dinov3
from featurize.tokens import chosen_layers, pool_tokens, pooled_dim

# Two images of a class token, a register and the patches (1, 3) and (-2, 2) in one dimension.
TOKENS = torch.tensor([[[9.0], [7.0], [1.0], [3.0]], [[8.0], [7.0], [-2.0], [2.0]]])
BY_HAND = {
    "cls": [[9], [8]],
    "mean": [[2], [0]],
    "max": [[3], [2]],
    "std": [[1], [2]],
    "gem": [[14 ** (1 / 3)], [4 ** (1 / 3)]],  # ((1 + 27) / 2)^(1/3); of the second (0 + 8) / 2, negatives count as 0
    "mean+std": [[2, 1], [0, 2]],
    "cls+mean": [[9, 2], [8, 0]],
    "cls+max+std": [[9, 3, 1], [8, 2, 2]],
}


@pytest.mark.parametrize("pooling", BY_HAND)
def test_poolings_by_hand(pooling):
    found = pool_tokens(TOKENS, pooling, prefix=2)
    torch.testing.assert_close(found, torch.tensor(BY_HAND[pooling], dtype=torch.float32))
    assert found.shape[1] == pooled_dim(1, pooling)


@pytest.mark.parametrize(
    ("layer", "expected"), [(None, (12,)), ("-1", (12,)), ("-4", (9,)), ("6", (6,)), ("-4,-1", (9, 12))]
)
def test_layers_count_from_either_end(layer, expected):
    assert chosen_layers("dinov2", layer, 12) == expected


@pytest.mark.parametrize("layer", ["0", "13", "-13", "-1,12", "last", "-4,"])
def test_wrong_layers_are_refused(layer):
    with pytest.raises(RequestError, match=f"--layer {layer}"):
        chosen_layers("dinov2", layer, 12)


DATASET = PixelDataset(rows=8)


def build(name, **settings):
    request = EncoderRequest((), DATASET.statistics, lambda: DATASET, **{"weights": "random", **settings})
    return build_encoder(name, DATASET, None, request)


def shallower(kind, config, deep, layers):
    """A model of the first layers of another, with its embeddings and final layer norm."""
    model = kind(config)
    state = {key: value for key, value in deep.state_dict().items() if key in model.state_dict()}
    model.load_state_dict(state)
    assert model.config.num_hidden_layers == layers
    return model.eval()


CASES = {
    "dinov2": (dinov2, Dinov2Model, 56),
    "dinov3": (dinov3, DINOv3ViTModel, 64),
}


@pytest.mark.parametrize("name", CASES)
@torch.inference_mode()
def test_an_inner_layer_is_the_last_one_of_a_shallower_model(name, monkeypatch):
    module, kind, side = CASES[name]
    monkeypatch.setitem(module.SIZES["small"], "num_hidden_layers", 3)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    settings = {"variant": "small", "image_size": side, "pooling": "cls+max"}
    whole = build(name, layer="-2,-1", **settings)
    monkeypatch.setitem(module.SIZES["small"], "num_hidden_layers", 2)
    two = shallower(kind, module.architecture("small").config, whole.model, 2)
    monkeypatch.setitem(module.SIZES["small"], "num_hidden_layers", 3)
    prefix = 1 + getattr(two.config, "num_register_tokens", 0)
    inner = pool_tokens(two(pixel_values=images).last_hidden_state, "cls+max", prefix=prefix)
    last = build(name, **settings).embed(images, None)
    torch.testing.assert_close(whole.embed(images, None), torch.cat((inner, last), dim=1), atol=1e-5, rtol=1e-5)
    assert whole.dim == 4 * 384
    assert whole.identity("fp32")["layer"] == "-2,-1" and "layer" not in build(name, **settings).identity("fp32")


def test_a_model_without_layers_to_choose_says_so():
    with pytest.raises(RequestError, match="--layer -4: stats has no choice of layers"):
        build("stats", layer="-4", weights=None)


@pytest.mark.parametrize("pooling", ["cls+cls", "mean+own", "median"])
def test_unknown_or_repeated_poolings_are_refused(pooling):
    with pytest.raises(RequestError, match="--pooling"):
        build("dinov2", variant="small", image_size=56, pooling=pooling)
