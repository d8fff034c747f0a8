"""Backbones of terratorch: refused by name without it; with it, equal to its own loaders and forward.

terratorch excludes the tested torchgeo, so these parity tests run where it is installed: docs/guide/install.md.
"""

from importlib.util import find_spec
from inspect import signature

import pytest
import torch
from pixels import PixelDataset

from data.errors import RequestError
from featurize.encoder import EncoderRequest, build_encoder
from featurize.models.terratorch import NAMES, OWN

DATASET = PixelDataset(rows=4)
installed = pytest.mark.skipif(
    find_spec("terratorch") is None, reason="terratorch is not installed (docs/guide/install.md)"
)


def build(name, *, bands=None, **settings):
    request = EncoderRequest((), DATASET.statistics, lambda: DATASET, **{"weights": "random", **settings})
    return build_encoder(f"terratorch:{name}", DATASET, bands, request)


def noise(count, channels, side):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def theirs(band):
    return next(words[band] for words in OWN.values() if band in words)


def shaken(model):
    """The model with no parameter at its initial value: biases of 0 and norms of 1 would hide mistakes."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def pooled(tokens, pooling, prefix):
    parts = {"cls": tokens[:, 0], "mean": tokens[:, prefix:].mean(dim=1), "max": tokens[:, prefix:].amax(dim=1)}
    return torch.cat([parts[name] for name in pooling.split("+")], dim=1)


def assert_equal(encoder, images, expected):
    found = encoder.embed(images, None)
    assert found.shape == (len(images), encoder.dim)
    print(f"{encoder.name}: largest difference {(found - expected).abs().max():.1e} of {expected.abs().max():.2f}")
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("dinov3_vitb16", "use --model dinov3"),
        ("dofa_base_patch16_224", "use --model dofa"),
        ("scalemae_large", "use --model scalemae"),
        ("terramind_v1_base_tim", "generates further inputs"),
        ("terramind_v1_tokenizer_s2l2a", "tokenizer"),
        ("ssl4eol_resnet50_landsat_oli_sr_moco", "Landsat"),
        ("IdentityBackbone", "not known"),
        ("UNet", "not known"),
        ("prithvi_eo_tiny", "not known"),
    ],
)
def test_a_backbone_whose_training_is_not_known_is_refused_with_those_that_are(name, why):
    with pytest.raises(RequestError, match=f"terratorch:{name} .*{why}.*choose from {', '.join(NAMES)}$"):
        build(name)


@pytest.mark.skipif(find_spec("terratorch") is not None, reason="terratorch is installed")
def test_without_terratorch_one_line_says_how_to_install_it():
    with pytest.raises(RequestError, match=r"prithvi_eo_v2_300 needs terratorch \(.*docs/guide/install.md"):
        build("prithvi_eo_v2_300")


# ------------------------------------------------------------------------------------------------ Prithvi


@pytest.fixture
def prithvi_vit(monkeypatch):
    """terratorch's Prithvi with two narrow layers."""
    library = pytest.importorskip("terratorch.models.backbones.prithvi_vit")
    for config in library.prithvi_cfgs.values():
        narrow = {"embed_dim": 64, "depth": 2, "num_heads": 2, "decoder_embed_dim": 32, "decoder_depth": 1}
        for key, value in narrow.items():
            monkeypatch.setitem(config, key, value)
    return library


def prithvi_file(library, name, path):
    """A whole autoencoder of several dates, as published: of v1 without the encoder's name before its keys."""
    model = shaken(library._create_prithvi(name, encoder_only=False, num_frames=3))
    state = model.state_dict()
    if "_v1_" in name:
        state = {key.removeprefix("encoder.").removeprefix("decoder."): value for key, value in state.items()}
    torch.save(state, path)
    return str(path)


@installed
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("prithvi")])
@torch.inference_mode()
def test_prithvi_is_terratorchs_forward(name, prithvi_vit, tmp_path):
    file = prithvi_file(prithvi_vit, name, tmp_path / "prithvi.pt")
    for side, bands in ((224, None), (112, "B12,B04,B8A")):
        encoder = build(name, bands=bands, weights=file, image_size=side, pooling="cls+mean")
        names = [theirs(band.name) for band in encoder.request.bands]
        model = getattr(prithvi_vit, name)(pretrained=True, ckpt_path=file, bands=names).eval()
        images = noise(2, len(names), side)
        assert_equal(encoder, images, pooled(model(images)[-1], "cls+mean", 1))
    inner = build(name, bands=bands, weights=file, image_size=side, layer="-2")
    assert_equal(inner, images, pooled(model.norm(model(images)[0]), "mean", 1))


@installed
def test_prithvi_is_scaled_by_the_numbers_of_its_training(prithvi_vit):
    one, two = (build(f"prithvi_eo_{size}", bands="B12,B02").normalization for size in ("v1_100", "v2_300"))
    assert (one.mean, one.std) == ((1611.0, 775.0), (1155.0, 1282.0))
    assert (two.mean, two.std) == ((1363.0, 1087.0), (1049.0, 2248.0)) and two.method == "own"


# ------------------------------------------------------------------------------------------------ TerraMind


@pytest.fixture
def terramind(monkeypatch):
    """terratorch's TerraMind with two narrow layers."""
    library = pytest.importorskip("terratorch.models.backbones.terramind.model.terramind_register")
    small = {"dim": 64, "encoder_depth": 2, "num_heads": 2}
    for kind, sizes in (("TerraMindViT", small), ("TerraMind", small | {"decoder_depth": 1})):
        own = getattr(library, kind)
        taken = signature(own).parameters  # tiny's function passes one too many

        def narrow(own=own, sizes=sizes, taken=taken, **settings):
            return own(**{key: value for key, value in (settings | sizes).items() if key in taken})

        monkeypatch.setattr(library, kind, narrow)
    return library


def terramind_file(library, name, path):
    """A whole autoencoder with the embeddings of all products and codes, as published."""
    from terratorch.models.backbones.terramind.model.modality_info import MODALITY_INFO

    info = {key: MODALITY_INFO[key] for key in library.v1_pretraining_mean}
    parts = {
        f"{part}_embeddings": {
            key: about[f"{part}_embedding"](image_size=224, **about)
            for key, about in info.items()
            if about[f"{part}_embedding"]
        }
        for part in ("encoder", "decoder")
    }
    model = getattr(library, f"{name}_encdec")(**parts, modality_info=info)
    torch.save(shaken(model).state_dict(), path)
    return str(path)


@installed
@pytest.mark.parametrize("name", ["terramind_v1_tiny", "terramind_v1_base"])  # plain and gated
@pytest.mark.parametrize(
    ("bands", "products"),
    [
        ("s2-12", {"S2L2A": 12}),
        ("s2-13", {"S2L1C": 13}),
        ("B12,B02,B8A", {"S2L2A": 3}),
        ("VH,VV", {"S1GRD": 2}),
        ("red,green,blue", {"RGB": 3}),
        ("s1s2", {"S1GRD": 2, "S2L2A": 12}),
    ],
)
@torch.inference_mode()
def test_terramind_is_terratorchs_forward(name, bands, products, terramind, tmp_path):
    file = terramind_file(terramind, name, tmp_path / "terramind.pt")
    encoder = build(name, bands=bands, weights=file, image_size=64, pooling="mean+max")
    names, at = [theirs(band.name) for band in encoder.request.bands], 0
    images, inputs, chosen = noise(2, len(names), 64), {}, {}
    for product, count in products.items():
        inputs[product], chosen[product] = images[:, at : at + count], names[at : at + count]
        at += count
    model = getattr(terramind, name)(ckpt_path=file, modalities=list(products), bands=chosen).eval()
    assert_equal(encoder, images, pooled(model(inputs)[-1], "mean+max", 0))
    if len(products) == 1:
        inner = build(name, bands=bands, weights=file, image_size=64, layer="1")
        assert_equal(inner, images, pooled(model.encoder_norm(model(inputs)[0]), "mean", 0))


@installed
def test_terramind_has_numbers_for_each_product_and_no_class_token(terramind):
    both = build("terramind_v1_tiny", bands="B12,VV,B01").normalization
    assert (both.mean, both.std) == ((1857.648, -12.599, 1390.458), (1334.311, 5.195, 2106.761))
    with pytest.raises(RequestError, match="--pooling cls: terramind_v1_tiny has no class token"):
        build("terramind_v1_tiny", pooling="cls")


# ------------------------------------------------------------------------------------------------ Clay


@installed
@torch.inference_mode()
def test_clay_is_terratorchs_forward(tmp_path, monkeypatch):
    embedder = pytest.importorskip("terratorch.models.backbones.clay_v1.embedder")

    own = embedder.EmbeddingEncoder
    narrow = {"dim": 64, "heads": 2, "dim_head": 32}
    monkeypatch.setattr(embedder, "EmbeddingEncoder", lambda **settings: own(**settings | narrow))
    whole = torch.nn.ModuleDict({"encoder": shaken(embedder.Embedder().clay_encoder), "proj": torch.nn.Linear(2, 2)})
    state = {f"model.{key}": value for key, value in whole.state_dict().items()}
    torch.save({"state_dict": state, "epoch": 7}, tmp_path / "clay.ckpt")
    for bands, names, side in (
        ("s2-10", "blue green red rededge1 rededge2 rededge3 nir nir08 swir16 swir22", 64),
        ("B12,B04", "swir22 red", 120),
    ):
        encoder = build("clay_v1_base", bands=bands, weights=str(tmp_path / "clay.ckpt"))
        model = embedder.Embedder(img_size=side, bands=names.split(), ckpt_path=tmp_path / "clay.ckpt")
        images = noise(2, len(names.split()), side)
        assert encoder.request.pooling == "cls" and encoder.request.image_size is None
        assert_equal(encoder, images, model.eval().forward_features(images, gsd=10)[-1][:, 0])
    assert encoder.normalization.mean == (1835.0, 1552.0) and encoder.normalization.std == (1379.0, 1888.0)
    with pytest.raises(RequestError, match="clay_v1_base takes squares of multiples of 8 pixels, not 60 x 60"):
        encoder.embed(noise(1, 2, 60), None)


# ------------------------------------------------------------------------------------------------ wrong requests


@installed
@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("prithvi_eo_v2_tiny_tl", {"bands": "B04,B08"}, "not trained with B08; it takes B02, B03, B04, B8A, B11, B12"),
        ("prithvi_eo_v1_100", {"bands": "red,green"}, "not trained with red, green"),
        ("terramind_v1_tiny", {"bands": "B01,B02,VV,red,B99"}, "B99"),
        ("clay_v1_base", {"bands": "B01,VV,B02"}, "not trained with B01, VV; it takes B02"),
        ("prithvi_eo_v2_600", {"image_size": 64}, "--image-size 64: .* multiples of 14"),
        ("terramind_v1_tiny", {"image_size": 100}, "multiples of 16"),
        ("terramind_v1_tiny", {"layer": "13"}, "--layer 13: terratorch:terramind_v1_tiny has layers 1 to 12"),
    ],
)
def test_what_a_backbone_cannot_take_is_named(name, settings, message, prithvi_vit):
    with pytest.raises(RequestError, match=message):
        build(name, **settings)


@installed
@pytest.mark.parametrize(("change", "message"), [("drop", "1 missing.*norm.weight"), ("add", "1 unexpected.*surplus")])
def test_weights_are_loaded_strictly(change, message, prithvi_vit, tmp_path):
    file = prithvi_file(prithvi_vit, "prithvi_eo_v1_100", tmp_path / "whole.pt")
    state = torch.load(file)
    if change == "drop":
        del state["norm.weight"]
    else:
        state["surplus"] = torch.zeros(1)
    torch.save(state, file)
    with pytest.raises(RequestError, match=message):
        build("prithvi_eo_v1_100", weights=file)
