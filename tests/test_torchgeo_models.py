"""Models from torchgeo: each equals torchgeo's own forward, with torchgeo's own loader reading the same file.

Some are held to it with fewer layers or narrower, which is the same code; FULL_PARITY=1 takes them all as published,
and DOFA large, which is minutes and gigabytes.
"""

import importlib
import os
from functools import partial

import numpy as np
import pytest
import timm
import torch
import torchgeo.models as tg
import torchvision.transforms.v2 as T
from helpers import TinyDataset
from pixels import PixelDataset
from torch import nn
from torchgeo.models.copernicusfm import CopernicusFM
from torchgeo.models.croma import CROMA, load_weights
from torchgeo.models.scale_mae import ScaleMAE
from torchvision.models._api import Weights, WeightsEnum

from data.bands import BAND_SETS, RGB, Band, choose_bands
from data.errors import RequestError
from featurize.batches import collate
from featurize.embedder import Embedder
from featurize.encoder import EncoderRequest, build_encoder
from featurize.models import copernicusfm, croma, panopticon, resnet, scalemae, softcon
from featurize.models.dofa import DOFAStaticEmbedding, training_wavelength_um
from featurize.normalization import make_normalization
from featurize.runtime import Runtime
from featurize.stages import Meter

FULL = "FULL_PARITY" in os.environ
DATASET = PixelDataset(rows=64)
# Bands of Sentinel-1 and Sentinel-2 in the order they are named, 2, 3, 9, 12 and 14 of them.
COUNTS = {"VV,VH": 2, "B04,B03,B02": 3, "s2-9": 9, "s2-12": 12, "s1s2": 14}
SOME = COUNTS if FULL else {"B04,B03,B02": 3, "s2-12": 12}


def build(name, *, bands=None, dataset=DATASET, **settings):
    request = EncoderRequest((), dataset.statistics, lambda: dataset, **{"weights": "random", **settings})
    return build_encoder(name, dataset, bands, request)


def reference(make, file, monkeypatch, *, meta=None, **settings):
    """torchgeo's model as torchgeo itself loads it from a file."""
    return make(weights=local_weights(file, monkeypatch, meta=meta), **settings).eval()


def local_weights(file, monkeypatch, *, meta=None):
    """A member of an enumeration as torchgeo keeps its published weights, with a file of this machine for the URL."""
    monkeypatch.setenv("TORCH_HOME", str(file.parent / "torch"))

    class Local(WeightsEnum):
        FILE = Weights(url=file.as_uri(), transforms=nn.Identity(), meta=meta or {})

    return Local.FILE


def noise(count, channels, side, *, seed=0):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def embed(encoder, rows):
    plan = Runtime(torch.device("cpu"), "fp32", 64, 0, 1024)
    samples = collate([DATASET.read(row, encoder.request.bands) for row in rows])
    lonlat = torch.from_numpy(DATASET.lonlat[rows])
    return Embedder(encoder, plan).embed(samples, len(rows), lonlat, Meter()).features.numpy()


# DOFA

DOFA = {
    "small": tg.dofa_small_patch16_224,
    "base": tg.dofa_base_patch16_224,
    "large": tg.dofa_large_patch16_224,
    "huge": tg.dofa_huge_patch14_224,
}


def dofa_file(variant, path):
    """A file as torchgeo publishes it: without fc_norm and without a head."""
    torch.manual_seed(1)
    state = DOFA[variant](num_classes=0).state_dict()
    torch.save({key: value for key, value in state.items() if not key.startswith("fc_norm.")}, path)
    return path


@pytest.fixture(scope="module")
def small_dofa(tmp_path_factory):
    """A file of DOFA small, and torchgeo's model with it."""
    file = dofa_file("small", tmp_path_factory.mktemp("dofa") / "dofa.pth")
    theirs = tg.dofa_small_patch16_224(num_classes=0).eval()
    theirs.load_state_dict(torch.load(file), strict=False)
    return file, theirs


def dofa_waves(bands):
    return [training_wavelength_um(band) for band in choose_bands(DATASET.bands, bands)]


@pytest.mark.parametrize(
    "variant",
    ["base", pytest.param("large", marks=pytest.mark.skipif(not FULL, reason="minutes: set FULL_PARITY=1"))],
)
def test_dofa_is_torchgeos_forward_features(variant, tmp_path, monkeypatch):
    file = dofa_file(variant, tmp_path / "dofa.pth")
    theirs = reference(DOFA[variant], file, monkeypatch, num_classes=0)
    encoder = build("dofa", variant=variant, bands="rgb", weights=str(file))
    assert encoder.weights.source == "loaded"
    for bands, count in SOME.items():
        images, waves = noise(1, count, 224), dofa_waves(bands)
        assert len(waves) == count
        encoder.model.patch_embed = DOFAStaticEmbedding(theirs.patch_embed, waves)
        with torch.inference_mode():
            wanted, got = theirs.forward_features(images, waves), encoder.embed(images, None)
        assert got.shape == (1, encoder.dim) and (got - wanted).abs().max() < 1e-4, bands


@pytest.mark.parametrize("bands", COUNTS)
def test_dofa_is_torchgeos_forward_features_for_the_bands_it_was_built_with(bands, small_dofa):
    """The other test swaps bands in one large model; here each set is built from the file, as a command does."""
    file, theirs = small_dofa
    encoder = build("dofa", variant="small", bands=bands, pooling="mean+cls", weights=str(file))
    images, wanted = noise(1, COUNTS[bands], 224), []
    theirs.norm = theirs.fc_norm
    with torch.inference_mode():
        for theirs.global_pool in (True, False):  # else the class token
            wanted.append(theirs.forward_features(images, dofa_waves(bands)))
        difference = encoder.embed(images, None) - torch.cat(wanted, dim=1)
    assert difference.abs().max() < 1e-4


@pytest.mark.parametrize("variant", ["large", "huge"])
def test_dofas_static_embedding_is_torchgeos_at_every_width(variant):
    width, side = {"large": (1024, 16), "huge": (1280, 14)}[variant]
    torch.manual_seed(2)
    theirs = tg.dofa.DOFAEmbedding(128, side, width).eval()
    for bands, count in COUNTS.items():
        images, waves = noise(1, count, 224), dofa_waves(bands)
        with torch.inference_mode():
            wanted, _ = theirs(images, torch.tensor(waves))
            got, _ = DOFAStaticEmbedding(theirs, waves)(images, torch.empty(0))
        assert got.shape[1] == (224 // side) ** 2 and (got - wanted).abs().max() < 1e-5


def test_dofa_takes_the_authors_own_checkpoint_with_its_pretraining_parts(tmp_path, small_dofa):
    state = torch.load(small_dofa[0])
    plain = build("dofa", variant="small", bands="rgb", weights=str(small_dofa[0]))
    extra = {
        "mask_token": torch.zeros(1, 1, 512),
        "projector.weight": torch.zeros(512, 384),
        "norm.bias": torch.ones(384),
    }
    torch.save(state | extra, tmp_path / "authors.pth")
    authors = build("dofa", variant="small", bands="rgb", weights=str(tmp_path / "authors.pth"))
    assert authors.weights.sha256 == plain.weights.sha256
    torch.save(state | {"blocks.12.norm1.weight": torch.ones(384)}, tmp_path / "deeper.pth")
    with pytest.raises(RequestError, match="1 unexpected.*blocks.12.norm1.weight"):
        build("dofa", variant="small", bands="rgb", weights=str(tmp_path / "deeper.pth"))


def test_dofa_gets_sentinel1s_training_wavelength_and_records_it():
    """Its v1 weights know radar as 3.75; the physical 5.5 cm would be far outside what they have seen."""
    assert dofa_waves("VV,VH,B02") == [3.75, 3.75, 0.49]
    encoder = build("dofa", variant="small", bands="VV,VH")
    assert encoder.identity("fp32")["settings"]["dofa_wavelengths_um"] == [3.75, 3.75]
    with pytest.raises(RequestError, match="wavelength.*pan"):
        training_wavelength_um(Band("pan", "other"))
    with pytest.raises(RequestError, match="nir is at 842"):
        training_wavelength_um(Band("nir", "other", 842.0))


def test_dofa_has_no_published_small_and_huge():
    for variant in ("small", "huge"):
        with pytest.raises(RequestError, match=f"no weights are published for dofa {variant}; use --variant base or"):
            build("dofa", variant=variant, weights="pretrained")


def test_dofas_static_weights_move_with_it_and_are_generated_in_fp32():
    """In bf16 the generator's sines of 2,190 nm are noise; autocast must not reach it."""
    with torch.autocast("cpu", torch.bfloat16):
        low = build("dofa", variant="small", bands="s2-9").model.patch_embed.weight
    model = build("dofa", variant="small", bands="s2-9").model
    assert low.dtype == torch.float32 and torch.equal(low, model.patch_embed.weight)
    assert model.to("meta").patch_embed.weight.device.type == "meta"


# ResNet


def channels_of(bands):
    return len(BAND_SETS.get(bands) or bands.split(","))


@pytest.mark.parametrize("variant", ["sentinel2-moco-18", "sentinel2-rgb-moco-18", "sentinel1-moco"])
def test_resnet_is_torchgeos_forward(variant, tmp_path, monkeypatch):
    wanted = resnet.VARIANTS[variant]
    make, count = {"resnet18": tg.resnet18, "resnet50": tg.resnet50}[wanted.architecture], channels_of(wanted.bands)
    torch.manual_seed(1)
    state = timm.create_model(wanted.architecture, in_chans=count, num_classes=0).state_dict()
    torch.save(state, tmp_path / "resnet.pth")
    theirs = reference(make, tmp_path / "resnet.pth", monkeypatch, meta={"in_chans": count}, num_classes=0)
    encoder = build("resnet", variant=variant, weights=str(tmp_path / "resnet.pth"))
    images = noise(2, count, 64)
    with torch.inference_mode():
        assert (encoder.embed(images, None) - theirs(images)).abs().max() < 1e-4


def test_resnet_with_imagenets_file_is_timms_features_before_its_classifier(tmp_path):
    torch.manual_seed(1)
    theirs = timm.create_model("resnet50").eval()
    torch.save(theirs.state_dict(), tmp_path / "imagenet.pth")  # with fc, as the hub has it
    encoder = build("resnet", weights=str(tmp_path / "imagenet.pth"))
    images = noise(2, 3, 64)
    with torch.inference_mode():
        wanted = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
        assert (encoder.embed(images, None) - wanted).abs().max() < 1e-4
    with pytest.raises(RequestError, match="of another shape"):
        build("resnet", variant="sentinel1-moco", weights=str(tmp_path / "imagenet.pth"))


PUBLISHED = {
    "sentinel2-moco": tg.ResNet50_Weights.SENTINEL2_ALL_MOCO,
    "sentinel2-dino": tg.ResNet50_Weights.SENTINEL2_ALL_DINO,
    "sentinel2-decur": tg.ResNet50_Weights.SENTINEL2_ALL_DECUR,
    "sentinel2-softcon": tg.ResNet50_Weights.SENTINEL2_ALL_SOFTCON,
    "sentinel2-rgb-moco": tg.ResNet50_Weights.SENTINEL2_RGB_MOCO,
    "sentinel1-moco": tg.ResNet50_Weights.SENTINEL1_GRD_MOCO,
    "sentinel1-decur": tg.ResNet50_Weights.SENTINEL1_GRD_DECUR,
    "sentinel1-softcon": tg.ResNet50_Weights.SENTINEL1_GRD_SOFTCON,
    "sentinel2-moco-18": tg.ResNet18_Weights.SENTINEL2_ALL_MOCO,
    "sentinel2-rgb-moco-18": tg.ResNet18_Weights.SENTINEL2_RGB_MOCO,
}


def test_every_sentinel_variant_is_held_to_torchgeos_bands_and_scaling():
    assert {*PUBLISHED, "imagenet"} == set(resnet.VARIANTS) == set(resnet.CARD.variant)


@pytest.mark.parametrize("variant", PUBLISHED)
def test_resnets_bands_and_scaling_are_those_of_torchgeos_weights(variant):
    ours, theirs = resnet.VARIANTS[variant], PUBLISHED[variant]
    assert ours.url == theirs.url and ours.architecture == theirs.meta["model"]
    assert list(ours.band_names()) == [own_band(name) for name in theirs.meta["bands"]]
    check_scaling(ours.normalize, ours.band_names(), theirs)


def own_band(name):
    """torchgeo says B1 and B8a where this project says B01 and B8A."""
    return "B" + name[1:].upper().rjust(2, "0") if name.startswith("B") else name


def check_scaling(method, names, weights):
    """Equal to the Normalize steps of the weights' own transforms."""
    bands = choose_bands(DATASET.bands, ",".join(names))
    scale = nn.Sequential(*(step for step in weights.transforms if isinstance(step, T.Normalize)))
    images = noise(1, len(bands), 8) * 1000
    assert len(scale) > 0
    np.testing.assert_allclose(
        make_normalization(method, bands, {})(images), scale(images.clone()), rtol=1e-4, atol=1e-5
    )


def test_a_dataset_without_a_band_of_the_weights_is_an_error_that_names_it():
    """BigEarthNet has no B10: its twelve bands must not slide into the places of thirteen."""
    twelve = TinyDataset("train", np.zeros((3, 2), np.uint8), ["a", "b"])
    for name, variant in (("resnet", "sentinel2-moco"), ("softcon", "small")):
        with pytest.raises(RequestError, match="has no B10"):
            build(name, variant=variant, dataset=twelve)
        with pytest.raises(RequestError, match=f"{name} {variant} needs B10, which it was trained with"):
            build(name, variant=variant, bands="s2-12")
    with pytest.raises(RequestError, match="in the order VV,VH"):
        build("resnet", variant="sentinel1-moco", bands="VH,VV")
    with pytest.raises(RequestError, match="does not take B08"):
        build("resnet", variant="sentinel2-rgb-moco", bands="B04,B03,B02,B08")


def test_resnets_default_scaling_and_bands_follow_its_weights_and_another_may_be_chosen():
    encoder = build("resnet", variant="sentinel2-rgb-moco-18")
    identity = encoder.identity("fp32")
    assert identity["normalization"]["method"] == "reflectance" and identity["bands"] == ["B04", "B03", "B02"]
    assert embed(encoder, [0, 1]).shape == (2, 512)
    assert build("resnet", variant="sentinel1-moco", normalize="zscore").normalization.method == "zscore"


# SoftCon


@pytest.mark.parametrize(("variant", "published"), [
    ("small", tg.ViTSmall14_DINOv2_Weights.SENTINEL2_ALL_SOFTCON),
    ("small-s1", tg.ViTSmall14_DINOv2_Weights.SENTINEL1_GRD_SOFTCON),
    ("base", tg.ViTBase14_DINOv2_Weights.SENTINEL2_ALL_SOFTCON),
    ("base-s1", tg.ViTBase14_DINOv2_Weights.SENTINEL1_GRD_SOFTCON),
])  # fmt: skip
def test_softcons_bands_size_and_scaling_are_those_of_torchgeos_weights(variant, published):
    names = BAND_SETS["s1" if variant.endswith("-s1") else "s2-13"]
    size = variant.partition("-")[0]
    assert softcon.URLS[variant] == published.url and softcon.SIZES[size] == published.meta["model"]
    assert list(names) == [own_band(name) for name in published.meta["bands"]]
    assert published.meta["img_size"] == softcon.TRAINED_SIZE
    check_scaling("ssl4eo", names, published)


def test_softcon_is_torchgeos_forward(tmp_path, monkeypatch):
    file, meta = tmp_path / "softcon.pth", {"in_chans": 13, "img_size": 224}
    torch.manual_seed(1)
    torch.save(timm.create_model("vit_small_patch14_dinov2", **meta).state_dict(), file)
    theirs = reference(tg.vit_small_patch14_dinov2, file, monkeypatch, meta=meta)
    images = noise(1, 13, 224)
    with torch.inference_mode():
        tokens = theirs.forward_features(images)
        cls, mean = theirs(images), tokens[:, 1:].mean(1)
    torch.save(torch.load(file) | {"mask_token": torch.zeros(1, 384)}, tmp_path / "authors.pth")
    encoder = build("softcon", pooling="cls+mean", weights=str(tmp_path / "authors.pth"))
    with torch.inference_mode():
        got = encoder.embed(images, None)
    assert got.shape == (1, encoder.dim) and (got - torch.cat((cls, mean), 1)).abs().max() < 1e-4
    state = torch.load(file)
    del state["norm.weight"]
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(RequestError, match="1 missing .norm.weight"):
        build("softcon", weights=str(tmp_path / "cut.pth"))


# CROMA


@pytest.fixture
def croma_maker(monkeypatch):
    """Narrower and shallower than published, unless FULL_PARITY is set."""
    make = tg.croma_base if FULL else partial(CROMA, encoder_dim=64, encoder_depth=4, num_heads=16)
    monkeypatch.setitem(croma.MODELS, "base", (make, croma.MODELS["base"][1]))
    return make


@pytest.mark.parametrize(
    ("bands", "modalities"), [("s1", ["sar"]), ("s2-12", ["optical"]), ("s1s2", ["sar", "optical"])]
)
def test_croma_is_torchgeos_forward(bands, modalities, croma_maker, tmp_path, monkeypatch):
    torch.manual_seed(1)
    whole = croma_maker(image_size=40)
    parts = {name: getattr(whole, name).state_dict() for name in croma.PARTS["joint"]}
    torch.save(parts, tmp_path / "croma.pt")  # the published layout: a dictionary of five states
    theirs = croma_maker(image_size=40, modalities=modalities).eval()
    load_weights(theirs, local_weights(tmp_path / "croma.pt", monkeypatch))
    images = noise(2, channels_of(bands), 40)
    inputs = {"x_sar": images[:, :2]} if "sar" in modalities else {}
    inputs |= {"x_optical": images[:, -12:]} if "optical" in modalities else {}
    kind = "joint" if len(modalities) == 2 else modalities[0]
    with torch.inference_mode():
        wanted = theirs(**inputs)
    for pooling, values in (("gap", wanted[f"{kind}_GAP"]), ("mean", wanted[f"{kind}_encodings"].mean(1))):
        encoder = build("croma", bands=bands, pooling=pooling, image_size=40, weights=str(tmp_path / "croma.pt"))
        with torch.inference_mode():
            assert (encoder.embed(images, None) - values).abs().max() < 1e-4


def test_croma_stretches_as_its_authors_do_by_the_datasets_numbers():
    encoder = build("croma", bands="s1", image_size=40)
    low, middle, high = -12.0 - 2 * 3.0, -12.0, -12.0 + 2 * 3.0
    scaled = encoder.normalization(
        torch.tensor([low - 9, low, middle, high, high + 9]).reshape(1, 1, 1, 5).repeat(1, 2, 1, 1)
    )
    np.testing.assert_allclose(scaled[0, 0, 0], [0, 0, 0.5, 1, 1], atol=1e-6)
    assert encoder.identity("fp32")["normalization"]["low"] == [low, low]
    with pytest.raises(RequestError, match="croma with s2-12 needs B01, B05"):
        build("croma", bands="B02,B03,B04")


# Panopticon


def test_panopticon_is_torchgeos_forward(tmp_path, monkeypatch):
    if not FULL:
        make = timm.create_model
        monkeypatch.setattr("torchgeo.models.panopticon.timm.create_model", lambda name: make(name, depth=2))
    torch.manual_seed(1)
    state = tg.panopticon_vitb14(img_size=518).model.state_dict()
    torch.save(state | {"mask_token": torch.zeros(1, 768)}, tmp_path / "teacher.pth")
    theirs = reference(tg.panopticon_vitb14, tmp_path / "teacher.pth", monkeypatch, img_size=56)
    ids, images = [-1, -2, 493, 704], noise(2, 4, 56)
    given = {"imgs": images, "chn_ids": torch.tensor([ids, ids]).float()}
    with torch.inference_mode():
        cls, tokens = theirs(given), theirs.model.forward_features(given)
    settings = {"bands": "VV,VH,B02,B05", "image_size": 56, "weights": str(tmp_path / "teacher.pth")}
    encoder = build("panopticon", pooling="cls+mean", **settings)
    assert encoder.identity("fp32")["settings"]["panopticon_channel_ids"] == ids
    with torch.inference_mode():
        got = encoder.embed(images, None)
    assert (got - torch.cat((cls, tokens[:, 1:].mean(1)), 1)).abs().max() < 1e-4


def test_panopticon_needs_a_number_for_every_band():
    assert [panopticon.channel_id(band) for band in RGB.values()] == [664, 559, 493]
    assert panopticon.channel_id(Band("nir", "other", 0.842)) == 842
    with pytest.raises(RequestError, match="pan has none"):
        panopticon.channel_id(Band("pan", "other"))
    with pytest.raises(RequestError, match="nir is at 842"):
        panopticon.channel_id(Band("nir", "other", 842))


# Copernicus-FM


@pytest.fixture
def copernicusfm_maker(monkeypatch):
    make = tg.copernicusfm_base if FULL else partial(CopernicusFM, embed_dim=96, depth=2, num_heads=3)
    monkeypatch.setattr(copernicusfm, "copernicusfm_base", make)
    return make


@pytest.mark.parametrize("bands", ["VV,VH", "B04,B03,B02", "s2-13"])
@pytest.mark.parametrize("side", [64, 224])
def test_copernicusfm_is_torchgeos_forward_with_and_without_places(bands, side, copernicusfm_maker, tmp_path):
    torch.manual_seed(1)
    state = copernicusfm_maker().state_dict()
    state["pos_embed"].normal_()
    torch.save({key: value for key, value in state.items() if not key.startswith("fc_norm.")}, tmp_path / "fm.pth")
    theirs = copernicusfm_maker().eval()
    theirs.load_state_dict(torch.load(tmp_path / "fm.pth"), strict=False)
    chosen = choose_bands(DATASET.bands, bands)
    waves, widths = zip(*(copernicusfm.numbers_nm(band) for band in chosen), strict=True)
    encoder = build("copernicusfm", bands=bands, image_size=side, weights=str(tmp_path / "fm.pth"))
    images, places = noise(3, len(chosen), side), torch.tensor([[8.5, 47.4], [-70.0, -33.0], [0.0, 0.0]])
    somewhere = torch.tensor([[*place, float("nan"), 0.0256] for place in places.tolist()])
    nowhere = torch.tensor([[float("nan")] * 3 + [0.0256]] * 3)
    partly = places.clone()
    partly[1] = float("nan")
    with torch.inference_mode():
        known = theirs.forward_features(images, somewhere, waves, widths, kernel_size=16)
        unknown = theirs.forward_features(images, nowhere, waves, widths, kernel_size=16)
        assert (encoder.embed(images, places) - known).abs().max() < 1e-4
        assert (encoder.embed(images, None) - unknown).abs().max() < 1e-4
        mixed = encoder.embed(images, partly)
    assert (known - unknown).abs().max() > 1e-3, "the place must matter for the next line to say anything"
    assert (mixed - torch.stack([known[0], unknown[1], known[2]])).abs().max() < 1e-4, "one unknown place spoils others"


def test_copernicusfm_refuses_bands_of_unknown_width():
    with pytest.raises(RequestError, match="knows none for nir"):
        copernicusfm.numbers_nm(Band("nir", "other", 0.84))


# Scale-MAE


@pytest.mark.parametrize("side", [64, 224])
def test_scalemae_is_torchgeos_forward(side, tmp_path, monkeypatch):
    make = tg.scalemae_large_patch16
    if not FULL:
        make = partial(ScaleMAE, patch_size=16, embed_dim=96, depth=2, num_heads=3)
        monkeypatch.setattr(scalemae, "scalemae_large_patch16", make)
    torch.manual_seed(1)
    state = make(img_size=224, num_classes=0).state_dict()  # with position embeddings, which the forward computes
    torch.save(
        state | {"mask_token": torch.zeros(1, 1, 512), "decoder_blocks.0.norm1.weight": torch.ones(512)},
        tmp_path / "s.pth",
    )
    theirs = make(img_size=side, res=224 / side, num_classes=0).eval()
    theirs.load_state_dict({key: value for key, value in state.items() if key != "pos_embed"}, strict=False)
    images = noise(2, 3, side)
    with torch.inference_mode():
        tokens, cls = theirs.forward_features(images), theirs(images)
    for pooling, wanted in (("mean", tokens[:, 1:].mean(1)), ("cls", cls)):
        encoder = build("scalemae", image_size=side, pooling=pooling, weights=str(tmp_path / "s.pth"))
        with torch.inference_mode():
            assert (encoder.embed(images, None) - wanted).abs().max() < 1e-4


def test_scalemaes_scaling_is_that_of_torchgeos_weights():
    check_scaling_of_pictures(tg.ScaleMAELarge16_Weights.FMOW_RGB)
    with pytest.raises(RequestError, match="no weights are published for scalemae base"):
        build("scalemae", variant="base", weights="pretrained")


def check_scaling_of_pictures(weights):
    bands = choose_bands(DATASET.bands, "red,green,blue")
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    scale = nn.Sequential(*(step for step in weights.transforms if isinstance(step, T.Normalize)))
    np.testing.assert_allclose(make_normalization("imagenet", bands, {})(images), scale(images.clone()), atol=1e-5)


# OlmoEarth


@pytest.mark.parametrize("bands", ["s1", "s2-12", "s1s2"])
def test_olmoearth_is_torchgeos_forward_with_the_authors_scaling(bands, tmp_path, monkeypatch):
    from olmoearth_pretrain_minimal import Normalizer
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.nn.flexi_vit import PoolingType
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.constants import Modality
    from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.datatypes import MaskedOlmoEarthSample

    torch.manual_seed(1)
    state = tg.olmoearth_v1(model_size="nano").model.state_dict()
    torch.save(state, tmp_path / "weights.pth")  # the published layout: encoder, decoder and target_encoder
    theirs = reference(tg.olmoearth_v1, tmp_path / "weights.pth", monkeypatch, meta={"model_size": "nano"})
    encoder = build("olmoearth", variant="nano", bands=bands, weights=str(tmp_path / "weights.pth"))
    names = BAND_SETS[bands]
    raw = noise(2, len(names), 24) * 500 + 1500
    fields = {}
    for modality in (Modality.SENTINEL2_L2A, Modality.SENTINEL1):
        places = [names.index(own.upper()) for own in modality.band_order if own.upper() in names]
        if places:
            values = Normalizer(std_multiplier=2.0).normalize(
                modality, raw[:, places].permute(0, 2, 3, 1)[:, :, :, None].numpy()
            )
            fields[modality.name] = torch.from_numpy(values).float()
            fields[f"{modality.name}_mask"] = torch.zeros(2, 24, 24, 1, len(modality.band_sets), dtype=torch.long)
    sample = MaskedOlmoEarthSample(timestamps=torch.tensor([[[1, 6, 2020]]] * 2), **fields)
    with torch.inference_mode():
        found = theirs.model.encoder(sample, patch_size=8, input_res=10)["tokens_and_masks"]
        wanted = found.pool_unmasked_tokens(PoolingType.MEAN)
        got = encoder(raw)
    assert got.shape == (2, 128) and (got - wanted).abs().max() < 1e-4


def test_olmoearth_takes_sensors_in_the_same_order_in_every_process():
    """The package's own order is that of a set of words."""
    importlib.import_module("featurize.models.olmoearth")
    order = importlib.import_module(
        "olmoearth_pretrain_minimal.olmoearth_pretrain_v1.nn.flexi_vit"
    ).get_modalities_to_process
    assert order(list("hgfedcba"), list("bdfhaceg")) == list("abcdefgh")


def test_olmoearth_says_which_sizes_it_takes():
    with pytest.raises(RequestError, match="not 20 x 20; resize with --image-size 16"):
        build("olmoearth", variant="nano", bands="s1")(torch.zeros(1, 2, 20, 20))
    with pytest.raises(RequestError, match="olmoearth takes multiples of 8"):
        build("olmoearth", variant="nano", image_size=20)


@pytest.mark.parametrize(("name", "settings", "url"), [
    ("olmoearth", {"variant": "nano"}, "huggingface.co/allenai/OlmoEarth-v1-Nano/resolve/.*pth"),
    ("resnet", {"variant": "sentinel2-moco-18"}, "huggingface.co/torchgeo/resnet18_sentinel2_all_moco/resolve/.*pth"),
    ("resnet", {}, "huggingface.co/timm/resnet50.a1_in1k/resolve/main/model.safetensors"),
    ("softcon", {}, "huggingface.co/wangyi111/softcon/resolve/.*B13_vits14_softcon_enc.pth"),
])  # fmt: skip
def test_offline_the_error_names_the_url_and_what_to_do(name, settings, url, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(RequestError, match=f"cannot download https://{url} .*pass it with --weights PATH"):
        build(name, weights="pretrained", **settings)
