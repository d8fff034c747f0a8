"""Poolings worked out by hand, and layers of every family equal to those of a model cut after them."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial, reduce

import pytest
import timm
import torch
import transformers as tf
from pixels import PixelDataset
from torchgeo.models.copernicusfm import CopernicusFM
from torchgeo.models.croma import CROMA
from torchgeo.models.dofa import DOFA
from torchgeo.models.panopticon import Panopticon
from torchgeo.models.scale_mae import ScaleMAE

from data.errors import RequestError
from featurize.encoder import EncoderRequest, build_encoder
from featurize.models import copernicusfm, croma, dinov2, dinov3, dofa, panopticon, scalemae, softcon
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


def build(name, *, bands=None, **settings):
    request = EncoderRequest((), DATASET.statistics, lambda: DATASET, **{"weights": "random", **settings})
    return build_encoder(name, DATASET, bands, request)


TINY = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
NARROW = {"embed_dim": 96, "depth": 3, "num_heads": 3}
WHOLE = "VV,VH,B02,B03,B04,B05,B06,B07,B08,B8A,B11,B12"
# Where each model has its list of blocks, and settings to be quick.
BLOCKS = {
    "copernicusfm": ("model.blocks", {"image_size": 32, "bands": "rgb"}),
    "croma sar": ("model.s1_encoder.transformer.layers", {"image_size": 16, "bands": "s1"}),
    "croma joint": ("model.joint_encoder.layers", {"image_size": 16, "bands": "s1s2"}),
    "dinov2": ("model.encoder.layer", {"image_size": 28}),
    "dinov2 registers": ("model.encoder.layer", {"image_size": 28, "variant": "small-registers"}),
    "dinov3": ("model.model.layer", {"image_size": 32}),
    "dofa": ("model.blocks", {"bands": "s1"}),
    "galileo": ("model.blocks", {"image_size": 16, "variant": "nano", "bands": WHOLE}),
    "hf:clip": ("model.vision_model.encoder.layers", {}),
    "hf:vit": ("model.layers", {}),
    "olmoearth": ("encoder.blocks", {"image_size": 16, "variant": "nano"}),
    "panopticon": ("model.blocks", {"image_size": 28, "bands": "rgb"}),
    "presto": ("encoder.blocks", {"image_size": 2}),
    "scalemae": ("model.blocks", {"image_size": 32, "variant": "base"}),
    "softcon": ("model.blocks", {"variant": "small-s1"}),
    "timm:test_vit": ("model.blocks", {}),
    "timm:test_vit4": ("model.blocks", {}),
}
LONLAT = torch.tensor([[8.5, 47.4], [-70.0, -33.0]])


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Every family narrow and of few blocks; returns the name to build one by."""
    narrow_dofa = partial(DOFA, img_size=224, patch_size=16, **NARROW)
    monkeypatch.setitem(dofa.MAKE, "small", narrow_dofa)
    monkeypatch.setattr(copernicusfm, "copernicusfm_base", partial(CopernicusFM, **NARROW))
    monkeypatch.setattr(scalemae, "base_patch16", partial(ScaleMAE, patch_size=16, **NARROW))
    monkeypatch.setitem(softcon.SIZES, "small", "test_vit")
    monkeypatch.setitem(croma.MODELS, "base", (partial(CROMA, encoder_dim=64, encoder_depth=4, num_heads=16), ""))
    make, narrow = timm.create_model, {**NARROW, "embed_dim": 64, "num_heads": 16}
    less = {"vit_base_patch14_dinov2": narrow, "tnt_s_legacy_patch16_224": {"depth": 1}}  # the first is Panopticon's
    monkeypatch.setattr(timm, "create_model", lambda name, **options: make(name, **options | less.get(name, {})))
    monkeypatch.setattr(panopticon, "Panopticon", partial(Panopticon, attn_dim=64, embed_dim=64))
    for module in (dinov2, dinov3):
        monkeypatch.setitem(module.SIZES, "small", TINY)
    pictures = {**TINY, "intermediate_size": 64, "image_size": 32, "patch_size": 8}
    text = {**TINY, "intermediate_size": 64, "vocab_size": 50}
    tf.ViTConfig(**pictures).save_pretrained(tmp_path / "vit")
    tf.CLIPConfig(text_config=text, vision_config=pictures, projection_dim=16).save_pretrained(tmp_path / "clip")

    def name_of(case):
        name = case.partition(" ")[0]
        return name.replace("hf:", f"hf:{tmp_path}/")

    return name_of


@pytest.mark.parametrize("case", BLOCKS)
@torch.inference_mode()
def test_an_inner_layer_is_the_last_one_of_a_model_cut_after_it(case, small):
    path, settings = BLOCKS[case]
    usual = {"pooling": "mean", **({"normalize": "imagenet"} if "hf" in case else {})}
    usual |= {"variant": "small"} if case.split()[0] in ("dinov2", "dinov3", "dofa") else {}
    settings = usual | settings
    plain, several = build(small(case), **settings), build(small(case), layer="1,-1", **settings)
    for encoder in (plain, several):
        generator = torch.Generator().manual_seed(1)
        for parameter in encoder.parameters():  # initial layer scales hide what a block does
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    side = settings.get("image_size") or plain.request.image_size or 32
    images = torch.randn(2, len(plain.request.bands), side, side, generator=torch.Generator().manual_seed(0))
    last, found = plain.embed(images, LONLAT), several.embed(images, LONLAT)
    *parents, name = path.split(".")
    owner = reduce(getattr, parents, plain)
    setattr(owner, name, getattr(owner, name)[:1])
    first = plain.embed(images, LONLAT)
    assert (first - last).abs().max() > 1e-3, "the test could not fail"
    torch.testing.assert_close(found, torch.cat((first, last), dim=1), atol=1e-5, rtol=1e-5)
    assert found.shape[1] == several.dim == 2 * plain.dim
    assert several.identity("fp32") == plain.identity("fp32") | {"layer": "1,-1"}


@torch.inference_mode()
def test_threads_do_not_mix_the_layers_of_their_images():
    encoder = build("galileo", variant="nano", image_size=16, layer="-2,-1", bands=WHOLE)
    images = torch.randn(8, 1, 12, 16, 16, generator=torch.Generator().manual_seed(0))
    with ThreadPoolExecutor(4) as pool:
        torch.testing.assert_close(list(pool.map(encoder, images)), [encoder(image) for image in images])


@torch.inference_mode()
def test_patches_have_the_layers_one_after_another():
    encoder = build("galileo", variant="nano", image_size=16, layer="-2,-1", bands=WHOLE)
    images = torch.randn(2, 12, 16, 16, generator=torch.Generator().manual_seed(0))
    mean = encoder(images)
    encoder.request = replace(encoder.request, pooling="patches")
    torch.testing.assert_close(encoder(images).unflatten(1, (4, encoder.dim)).mean(dim=1), mean)


@pytest.mark.parametrize("name", ["croma", "galileo", "olmoearth", "presto", "swin", "tessera", "timm:test_convnext"])
def test_without_a_class_token_there_is_no_cls(name):
    with pytest.raises(RequestError, match="--pooling cls: "):
        build(name, pooling="cls")


def test_a_pooling_or_kind_of_model_without_layers_says_so(small):
    with pytest.raises(RequestError, match="--pooling gap: croma has it for the last layer only"):
        build("croma", bands="s1", image_size=16, pooling="gap", layer="-1")
    with pytest.raises(RequestError, match="--layer -1: timm's test_resnet has no transformer blocks"):
        build("timm:test_resnet", layer="-1")
    with pytest.raises(RequestError, match="--pooling mean: timm's tnt_s_legacy_patch16_224 has no transformer blocks"):
        build("timm:tnt_s_legacy_patch16_224", pooling="mean")  # its blocks return two tensors
    with pytest.raises(RequestError, match="test_vit3 has no class token"):  # its first token is a register
        build("timm:test_vit3", pooling="cls")
    with pytest.raises(RequestError, match="--layer 9: hf:.*vit has layers 1 to 3"):
        build(small("hf:vit"), layer="9", normalize="imagenet")


def test_a_model_without_layers_to_choose_says_so():
    with pytest.raises(RequestError, match="--layer -4: stats has no choice of layers"):
        build("stats", layer="-4", weights=None)


@pytest.mark.parametrize("pooling", ["cls+cls", "mean+own", "median"])
def test_unknown_or_repeated_poolings_are_refused(pooling):
    with pytest.raises(RequestError, match="--pooling"):
        build("dinov2", variant="small", image_size=56, pooling=pooling)
