"""Every registered model passes one contract; each is held to its reference implementation."""

import json
import tempfile
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from pixels import PixelDataset
from torch import nn
from transformers import ViTConfig

from data.bands import RGB, choose_bands
from data.dataset import Statistic
from data.errors import RequestError
from featurize.batches import collate
from featurize.card import MODELS
from featurize.embedder import Embedder
from featurize.encoder import EncoderRequest, build_encoder
from featurize.models.presto import PrestoEncoder
from featurize.models.rcf import FEATURES, RandomConvolutions
from featurize.normalization import IMAGENET, make_normalization
from featurize.runtime import Runtime
from featurize.stages import Meter

CPU = Runtime(torch.device("cpu"), "fp32", 64, 0, 1024)
BF16 = Runtime(torch.device("cpu"), "bf16", 64, 0, 1024)
# What each model that is slow to make or to run is built with in the tests that cover every name.
CHEAP = {
    "copernicusfm": {"image_size": 64, "bands": "rgb"},
    "croma": {"image_size": 40, "bands": "s1"},
    "dinov2": {"variant": "small", "image_size": 56},
    "dinov3": {"variant": "small", "image_size": 64},
    "dofa": {"variant": "small"},
    "hf:tiny": {"normalize": "imagenet"},
    "olmoearth": {"variant": "nano"},
    "panopticon": {"image_size": 56, "bands": "rgb"},
    "presto": {"image_size": 4},
    "rcf": {"image_size": 24, "bands": "rgb"},
    "resnet": {"image_size": 64},
    "scalemae": {"variant": "base", "image_size": 64},
    "softcon": {"image_size": 56},
    "swin": {"variant": "tiny-s2", "image_size": 64},
    "tessera": {"image_size": 2, "bands": "s1"},
}

# The doors to libraries, each with a model that takes no time; `tiny` is a folder with a configuration alone.
DOORS = {"timm": "timm:test_vit", "hf": "hf:tiny", "terratorch": "terratorch:prithvi_eo_v2_tiny_tl"}
NAMES = [DOORS.get(name, name) for name in MODELS.names() if name != "terratorch" or find_spec("terratorch")]


@cache
def tiny_folder():
    folder = Path(tempfile.mkdtemp()) / "tiny"
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    ViTConfig(**sizes).save_pretrained(folder)
    return folder


def build(name, dataset=None, *, bands=None, **settings):
    dataset = dataset or PixelDataset()
    weights = "random" if "random" in MODELS.card(name).weights else None
    settings = {"weights": weights, **CHEAP.get(name, {}), **settings}
    usual = settings.pop("bands", None)
    bands = usual if bands is None else bands
    full = f"hf:{tiny_folder()}" if name == "hf:tiny" else name
    return build_encoder(full, dataset, bands, EncoderRequest((), dataset.statistics, lambda: dataset, **settings))


def embed(encoder, dataset, rows, plan=CPU):
    samples = collate([dataset.read(row, encoder.request.bands) for row in rows])
    lonlat = None if dataset.lonlat is None else torch.from_numpy(dataset.lonlat[rows])
    return Embedder(encoder, plan).embed(samples, len(rows), lonlat, Meter()).features.numpy()


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """Every model is embedded as a CPU of two cores does it: from two threads at once."""
    monkeypatch.setattr("featurize.embedder.torch.get_num_threads", lambda: 2)


@pytest.fixture(scope="module")
def built():
    """Each model once: a vision transformer takes seconds to make."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = build(name)
        return made[name]

    return get


@pytest.mark.parametrize("name", NAMES)
def test_contract(name, built):
    encoder, dataset = built(name), PixelDataset()
    features = embed(encoder, dataset, [0, 1, 2, 3, 4, 5, 6])
    assert features.shape == (7, encoder.dim) and features.dtype == np.float32
    assert np.isfinite(features.astype(encoder.dtype)).all()
    assert features.std(axis=0).max() > 0, "different images give the same embedding"
    identity = encoder.identity("fp32")
    assert json.loads(json.dumps(identity)) == identity
    assert identity["name"] == name and identity["bands"] == [band.name for band in encoder.request.bands]
    assert not any(parameter.requires_grad for parameter in encoder.parameters())
    assert not encoder.training


@pytest.mark.parametrize("name", NAMES)
def test_embeddings_do_not_depend_on_the_batch_or_its_order(name, built):
    """The same image alone, among 7 and among 64, at other places each time."""
    encoder, dataset = built(name), PixelDataset(rows=64)
    with shallow(encoder):
        alone, seven, many = (embed(encoder, dataset, np.roll(np.arange(n), n // 2)) for n in (1, 7, 64))
    one, places = alone[0], (seven[3], many[32])
    difference = np.abs(
        one - seven[2]
    ).max()  # between images: without weights to speak of, some hardly tell them apart
    assert max(np.abs(one - other).max() for other in places) < min(1e-5 * max(np.abs(one).max(), 1), difference / 4)


@contextmanager
def shallow(encoder):
    """Two layers of many alike, to be quick: what a layer does to a batch, all do."""
    whole = [
        (module, name, child)
        for module in encoder.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.ModuleList | nn.Sequential) and len(child) >= 6 and len(set(map(type, child))) == 1
    ]
    for module, name, child in whole:
        setattr(module, name, child[:2])
    yield
    for module, name, child in whole:
        setattr(module, name, child)


@pytest.mark.parametrize("name", NAMES)
def test_bf16_agrees_with_fp32(name, built):
    """Also in what tells two images apart, which is little beside what all embeddings share."""
    encoder, dataset = built(name), PixelDataset()
    if not encoder.autocast:
        pytest.skip("runs in fp32 only")
    fp32, bf16 = embed(encoder, dataset, [0, 1]), embed(encoder, dataset, [0, 1], BF16)
    assert np.abs(fp32 - bf16).max() > 0, "bf16 was not used"
    assert min(cosine(*pair) for pair in zip(fp32, bf16, strict=True)) > 0.999
    # untrained, olmoearth's differ by 1e-5, as little as bf16 rounds; swin rounds after each of many layer norms
    least = {"olmoearth": 0.9, "swin": 0.99}.get(name, 0.999)
    assert cosine(fp32[0] - fp32[1], bf16[0] - bf16[1]) > least


def cosine(one, other):
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("name", ["hf:tiny", "presto", "rcf", "stats", "timm:test_vit"])
def test_made_again_it_is_the_same(name, built):
    assert build(name).identity("fp32") == built(name).identity("fp32")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("field", ["variant", "pooling", "normalize"])
def test_a_setting_it_lacks_is_an_error_with_those_it_has(name, field):
    with pytest.raises(RequestError, match=f"--{field} bogus: .*{name.removeprefix('hf:')} has"):
        build(name, **{field: "bogus"})


def test_stats_are_numpys():
    dataset = PixelDataset()
    encoder = build("stats", bands="B02,B03")
    got = embed(encoder, dataset, [4])[0].reshape(4, 2)
    pixels = [band.astype(np.float64) for band in dataset.read(4, encoder.request.bands)]
    wanted = [[f(band) for band in pixels] for f in (np.mean, np.std, np.min, np.max)]
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.parametrize("variant", ["gaussian", "empirical"])
def test_rcf_is_torchgeos_forward(variant):
    dataset = PixelDataset()
    encoder = build("rcf", bands="rgb", variant=variant, image_size=None)
    assert isinstance(encoder, RandomConvolutions) and encoder.dim == FEATURES
    images = torch.stack([torch.from_numpy(np.stack(dataset.read(i, encoder.request.bands))).float() for i in range(5)])
    with torch.inference_mode():
        wanted = encoder.filters(encoder.normalization(images))
    np.testing.assert_allclose(embed(encoder, dataset, [0, 1, 2, 3, 4]), wanted, atol=1e-5)


def test_rcf_empirical_takes_its_filters_from_the_training_images():
    one, other = PixelDataset(rows=20), PixelDataset(rows=17)
    digests = {build("rcf", data, bands="rgb").weights.sha256 for data in (one, other)}
    assert len(digests) == 2
    assert build("rcf", one, bands="rgb", variant="gaussian").weights.sha256 not in digests


def test_rcf_refuses_images_of_several_sizes_without_a_size():
    ragged = PixelDataset(sizes=[30 + i for i in range(20)])
    with pytest.raises(RequestError, match="give --image-size"):
        build("rcf", ragged, bands="rgb", image_size=None)
    assert embed(build("rcf", ragged, bands="rgb", image_size=32), ragged, [0, 5]).shape == (2, FEATURES)


def build_bands(dataset, spec):
    return choose_bands([band for band in dataset.bands if band.sensor != "RGB"], spec)


def test_imagenet_scaling_is_that_of_transformers_image_processor():
    from transformers import BitImageProcessor

    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 20), dtype=np.uint8)
    scale = make_normalization("imagenet", build_rgb(), {})
    mean, std = zip(*IMAGENET.values(), strict=True)
    processor = BitImageProcessor(do_resize=False, do_center_crop=False, image_mean=mean, image_std=std)
    wanted = processor(pixels, return_tensors="pt")["pixel_values"]
    assert (scale(torch.from_numpy(pixels[None]).float()) - wanted).abs().max() < 1e-5


def build_rgb():
    return tuple(RGB.values())


def test_zscore_without_statistics_is_an_error():
    with pytest.raises(RequestError, match="green, blue"):
        make_normalization("zscore", build_rgb(), {"red": Statistic(1.0, 1.0), "green": Statistic(1.0, 0.0)})


def test_imagenet_scaling_of_other_bands_is_an_error():
    with pytest.raises(RequestError, match="not B05"):
        make_normalization("imagenet", build_bands(PixelDataset(), "B05"), {})


def test_presto_needs_locations_and_whole_groups():
    nowhere = PixelDataset(located=False)
    with pytest.raises(RequestError, match="needs locations"):
        embed(build("presto", nowhere), nowhere, [0])
    with pytest.raises(RequestError, match="presto takes B02, B03, B04 .*: B02, B03$"):
        build("presto", bands="B04,B08")
    with pytest.raises(RequestError, match="presto does not take B01"):
        build("presto", bands="s2-12")


def test_presto_is_torchgeos_encoder_on_the_real_weights(shared):
    """One pixel written out by hand against the embedding of a patch of such pixels."""
    weights = shared / "weights" / "presto" / "default_model.pt"
    dataset = PixelDataset()
    encoder = build("presto", bands="s2-10", weights=str(weights), image_size=1)
    assert isinstance(encoder, PrestoEncoder) and encoder.weights.source == "loaded"
    got = embed(encoder, dataset, [2])[0]
    means = {b.name: dataset.read(2, [b])[0].mean(dtype=np.float64) for b in encoder.request.bands}
    x = torch.zeros(1, 1, 17)
    order = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"]
    x[0, 0, 2:12] = torch.tensor([means[name] / 10_000 for name in order])
    x[0, 0, 16] = (means["B08"] - means["B04"]) / (means["B08"] + means["B04"])
    mask = torch.ones(1, 1, 17)
    mask[0, 0, [*range(2, 12), 16]] = 0
    latlon = torch.tensor(dataset.lonlat[[2]][:, ::-1].copy()).float()
    with torch.inference_mode():
        tokens, *_ = encoder.encoder(x, torch.full((1, 1), 9), latlon, mask, month=1)
    assert tokens.shape[1] == 7  # location, RGB, red edge, NIR 10 m, NIR 20 m, SWIR, NDVI: as the authors test it
    np.testing.assert_allclose(got, tokens.mean(1)[0], atol=1e-4)


def test_presto_pools_mean_and_deviation_over_blocks():
    dataset = PixelDataset()
    mean = embed(build("presto", bands="s2-10", image_size=4), dataset, [0, 1])
    both = embed(build("presto", bands="s2-10", image_size=4, pooling="mean+std"), dataset, [0, 1])
    assert both.shape == (2, 256) and (both[:, 128:] >= 0).all()
    np.testing.assert_allclose(both[:, :128], mean, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x80\x04cos\nsystem\n."])
def test_a_damaged_or_dangerous_weights_file_is_refused(tmp_path, content):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(RequestError, match="model.pth is not"):
        build("presto", weights=str(tmp_path / "model.pth"))
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(RequestError, match="is not readable as weights"):
        build("presto", weights=str(tmp_path / "model.safetensors"))


def test_absent_weights_are_named():
    with pytest.raises(RequestError, match="--weights nowhere.pth: no such file"):
        build("presto", weights="nowhere.pth")


def test_no_network_names_what_to_fetch(monkeypatch):
    def unreachable(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("torch.hub.download_url_to_file", unreachable)
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", unreachable)
    with pytest.raises(RequestError, match=r"cannot download https.*pass it with --weights PATH"):
        build("presto", weights="pretrained")
    with pytest.raises(
        RequestError,
        match=r"cannot download https://huggingface.co/facebook/dinov2-small/resolve/main/model.safetensors",
    ):
        build("dinov2", weights="pretrained")
