"""Models from torchgeo: each equals torchgeo's own forward, with torchgeo's own loader reading the same file.

The whole of DOFA large takes minutes and gigabytes; FULL_PARITY=1 adds it.
"""

import os

import numpy as np
import pytest
import torch
import torchgeo.models as tg
from pixels import PixelDataset
from torchvision.models._api import Weights, WeightsEnum

from data.bands import Band, choose_bands
from data.errors import RequestError
from featurize.encoder import EncoderRequest, build_encoder
from featurize.models.dofa import StaticEmbedding, training_wavelength_um
from featurize.pipeline import Embedder, Plan, collate
from featurize.stages import Busy

DATASET = PixelDataset(rows=64)
# Bands of Sentinel-1 and Sentinel-2 in the order they are named, 2, 3, 9, 12 and 14 of them.
BAND_SETS = {"VV,VH": 2, "B04,B03,B02": 3, "s2-9": 9, "s2-12": 12, "s1s2": 14}


def build(name, *, bands=None, dataset=DATASET, **settings):
    request = EncoderRequest((), dataset.statistics, lambda: dataset, **{"weights": "random", **settings})
    return build_encoder(name, dataset, bands, request)


def reference(make, file, monkeypatch, *, meta=None, **settings):
    """torchgeo's model as torchgeo itself loads it from a file."""
    monkeypatch.setenv("TORCH_HOME", str(file.parent / "torch"))

    class Local(WeightsEnum):
        FILE = Weights(url=file.as_uri(), transforms=torch.nn.Identity(), meta=meta or {})

    return make(weights=Local.FILE, **settings).eval()


def noise(count, channels, side, *, seed=0):
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(seed))


def embed(encoder, rows, precision="fp32"):
    plan = Plan(torch.device("cpu"), precision, 64, 0, 1024)
    samples = collate([DATASET.read(row, encoder.request.bands) for row in rows])
    lonlat = torch.from_numpy(DATASET.lonlat[rows])
    return Embedder(encoder, plan).embed(samples, len(rows), lonlat, Busy()).features.numpy()


def cosine(one, other):
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


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


def dofa_waves(bands):
    return [training_wavelength_um(band) for band in choose_bands(DATASET.bands, bands)]


@pytest.mark.parametrize(
    "variant",
    ["base", pytest.param("large", marks=pytest.mark.skipif("FULL_PARITY" not in os.environ, reason="FULL_PARITY=1"))],
)
def test_dofa_is_torchgeos_forward_features(variant, tmp_path, monkeypatch):
    file = dofa_file(variant, tmp_path / "dofa.pth")
    theirs = reference(DOFA[variant], file, monkeypatch, num_classes=0)
    encoder = build("dofa", variant=variant, bands="rgb", weights=str(file))
    assert encoder.weights.source == "loaded"
    for bands, count in BAND_SETS.items():
        images, waves = noise(1, count, 224), dofa_waves(bands)
        assert len(waves) == count
        encoder.model.patch_embed = StaticEmbedding(theirs.patch_embed, waves)
        with torch.inference_mode():
            wanted, got = theirs.forward_features(images, waves), encoder.embed(images, None)
        assert got.shape == (1, encoder.dim) and (got - wanted).abs().max() < 1e-4, bands


@pytest.mark.parametrize("bands", BAND_SETS)
def test_dofa_is_torchgeos_forward_features_for_the_bands_it_was_built_with(bands, tmp_path):
    """The other test swaps bands in one large model; here each set is built from the file, as a command does."""
    file = dofa_file("small", tmp_path / "dofa.pth")
    theirs = tg.dofa_small_patch16_224(num_classes=0).eval()
    theirs.load_state_dict(torch.load(file), strict=False)
    encoder = build("dofa", variant="small", bands=bands, weights=str(file))
    images = noise(2, BAND_SETS[bands], 224)
    with torch.inference_mode():
        difference = encoder.embed(images, None) - theirs.forward_features(images, dofa_waves(bands))
    assert difference.abs().max() < 1e-4


@pytest.mark.parametrize("variant", ["large", "huge"])
def test_dofas_static_embedding_is_torchgeos_at_every_width(variant):
    width, side = {"large": (1024, 16), "huge": (1280, 14)}[variant]
    torch.manual_seed(2)
    theirs = tg.dofa.DOFAEmbedding(128, side, width).eval()
    for bands, count in BAND_SETS.items():
        images, waves = noise(1, count, 224), dofa_waves(bands)
        with torch.inference_mode():
            wanted, _ = theirs(images, torch.tensor(waves))
            got, _ = StaticEmbedding(theirs, waves)(images, torch.empty(0))
        assert got.shape[1] == (224 // side) ** 2 and (got - wanted).abs().max() < 1e-5


def test_dofa_takes_the_authors_own_checkpoint_with_its_pretraining_parts(tmp_path):
    state = torch.load(dofa_file("small", tmp_path / "dofa.pth"))
    plain = build("dofa", variant="small", bands="rgb", weights=str(tmp_path / "dofa.pth"))
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
    with pytest.raises(RequestError, match="needs a wavelength for every band, and pan has none"):
        training_wavelength_um(Band("pan", "other"))
    with pytest.raises(RequestError, match="nir is at 842: give micrometres"):
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


def test_dofa_in_bf16_agrees_with_fp32():
    encoder = build("dofa", variant="small", bands="s2-9")
    assert cosine(embed(encoder, [0, 1]), embed(encoder, [0, 1], "bf16")).min() > 0.999


def test_dofas_features_do_not_depend_on_the_batch():
    encoder = build("dofa", variant="small", bands="s2-9")
    encoder.model.blocks = encoder.model.blocks[:2]  # of twelve alike, to be quick
    alone, seven, many = embed(encoder, [5]), embed(encoder, list(range(7))), embed(encoder, list(range(64)))
    shuffled = embed(encoder, [3, 5, 0])
    for other in (seven[5], many[5], shuffled[1]):
        assert np.abs(alone[0] - other).max() < 1e-5
