"""DINOv3, EarthLoc, SatCLIP, Swin and TESSERA: each equals its library's own forward with the same weights."""

import pytest
import torch
from pixels import PixelDataset
from torchgeo.models import earthloc, swin_v2_t, tessera
from torchgeo.models.earthloc import EarthLoc
from torchgeo.models.satclip import SatCLIP
from transformers import DINOv3ViTModel

from data.bands import choose_bands
from data.errors import RequestError
from featurize.encoder import EncoderRequest, build_encoder
from featurize.models import dinov3, swin
from featurize.models.tessera import DAY_OF_YEAR, scaling

DATASET = PixelDataset(rows=8)
LONLAT = torch.tensor([[13.4, 52.5], [-70.1, -33.0], [179.9, 0.0]])


def build(name, *, bands=None, **settings):
    request = EncoderRequest((), DATASET.statistics, lambda: DATASET, **{"weights": "random", **settings})
    return build_encoder(name, DATASET, bands, request)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def saved(model, file, prefix=""):
    torch.save({f"{prefix}{key}": value for key, value in model.state_dict().items()}, file)
    return str(file)


def shaken(model, seed=1):
    """The model with no parameter at its initial value: layer scales of 1 and biases of 0 would hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture
def small_dinov3(monkeypatch):
    """DINOv3's small and gated small size with two layers."""
    for size in ("small", "small-plus"):
        monkeypatch.setitem(dinov3.SIZES[size], "num_hidden_layers", 2)


@pytest.mark.parametrize("variant", ["small", "small-plus"])
@pytest.mark.parametrize("layout", ["hub", "own"])
@torch.inference_mode()
def test_dinov3_is_transformers_forward_without_registers(variant, layout, small_dinov3, tmp_path):
    theirs = shaken(DINOv3ViTModel(dinov3.architecture(variant).config))
    state = theirs.state_dict()
    if layout == "hub":  # the published files name the layers without `model.`
        state = {key.removeprefix("model."): value for key, value in state.items()}
    torch.save(state, tmp_path / "dinov3.pth")
    images = noise(2, 3, 64, 64)
    tokens = theirs(pixel_values=images).last_hidden_state
    assert tokens.shape[1] == 1 + 4 + 16
    wanted = {"cls": tokens[:, 0], "mean": tokens[:, 5:].mean(dim=1)}
    wanted["cls+mean"] = torch.cat((wanted["cls"], wanted["mean"]), dim=1)
    for pooling, expected in wanted.items():
        encoder = build("dinov3", variant=variant, image_size=64, pooling=pooling, weights=str(tmp_path / "dinov3.pth"))
        torch.testing.assert_close(encoder.embed(images, None), expected, atol=1e-5, rtol=1e-5)


def test_dinov3s_satellite_weights_have_statistics_of_their_own(monkeypatch):
    monkeypatch.setitem(dinov3.SIZES["large"], "num_hidden_layers", 1)
    satellite, web = (build("dinov3", variant=variant).normalization for variant in ("large-sat", "large"))
    assert satellite.mean == (0.430, 0.411, 0.296) and satellite.std == (0.213, 0.156, 0.143)
    assert web.mean == (0.485, 0.456, 0.406) and web.method == "imagenet"


@pytest.mark.parametrize(
    ("variant", "repository"),
    [("large-sat", "facebook/dinov3-vitl16-pretrain-sat493m"), ("base", "facebook/dinov3-vitb16-pretrain-lvd1689m")],
)
def test_dinov3s_gated_weights_are_explained(variant, repository):
    with pytest.raises(RequestError, match=f"gated.*https://huggingface.co/{repository}.*hf auth login"):
        build("dinov3", variant=variant, weights="pretrained")


def test_dinov3_takes_multiples_of_16():
    with pytest.raises(RequestError, match="--image-size 200.*16"):
        build("dinov3", variant="small", image_size=200)


@torch.inference_mode()
def test_earthloc_is_torchgeos_forward(tmp_path):
    theirs = shaken(earthloc())
    encoder = build("earthloc", bands="rgb", weights=saved(theirs, tmp_path / "earthloc.pth"))
    images = noise(1, 3, 320, 320)
    torch.testing.assert_close(encoder.embed(images, None), theirs(images), atol=1e-5, rtol=1e-4)
    assert encoder.dim == EarthLoc().desc_dim == 4096


@torch.inference_mode()
def test_satclip_is_torchgeos_forward_of_the_locations_alone(tmp_path):
    theirs = shaken(SatCLIP())
    torch.save(
        {"state_dict": {f"model.location.{key}": value for key, value in theirs.state_dict().items()}
         | {"model.visual.conv1.weight": torch.zeros(3)}}, tmp_path / "satclip.ckpt.pth",
    )  # fmt: skip
    encoder = build("satclip", weights=str(tmp_path / "satclip.ckpt.pth"))
    one, other = (encoder.embed(noise(3, 3, 1, 1, seed=seed), LONLAT) for seed in (0, 1))
    torch.testing.assert_close(one, theirs(LONLAT))
    assert torch.equal(one, other)
    with pytest.raises(RequestError, match="locations"):
        encoder(noise(1, 3, 1, 1), None)


@pytest.mark.parametrize(("variant", "channels"), [("tiny-s2", 9), ("tiny-s2-rgb", 3)])
@torch.inference_mode()
def test_swin_is_torchvisions_features_before_the_classifier(variant, channels, tmp_path):
    theirs = swin_v2_t()
    theirs.features[0][0] = torch.nn.Conv2d(channels, 96, kernel_size=4, stride=4)
    encoder = build("swin", variant=variant, image_size=64, weights=saved(shaken(theirs), tmp_path / "swin.pth"))
    theirs.head = torch.nn.Identity()
    images = noise(2, channels, 64, 64)
    torch.testing.assert_close(encoder.embed(images, None), theirs(images))


def test_swin_scales_as_satlas_does():
    encoder = build("swin", variant="tiny-s2", image_size=64)
    images = torch.full((1, 9, 1, 1), 3558.0)
    scaled = encoder.normalization(images).flatten().tolist()
    assert scaled[:3] == [1.0] * 3 and scaled[3:] == pytest.approx([3558 / 8160] * 6)


def test_every_swin_variant_names_published_weights():
    for variant in swin.CARD.variant:
        wanted = swin._variant(variant)
        assert wanted.channels == (9 if "rgb" not in variant and "aerial" not in variant else 3)
        assert ("_mi" in wanted.url) == variant.endswith("-multi") and wanted.url.endswith(".pth")


@pytest.mark.parametrize(("bands", "part"), [(None, None), ("s1", "s1_backbone"), ("B04,B02,B03,B08,B8A,B05,B06,B07,B11,B12", "s2_backbone")])  # fmt: skip  # noqa: E501
@torch.inference_mode()
def test_tessera_is_torchgeos_forward_of_every_pixel(bands, part, tmp_path):
    theirs = shaken(tessera())
    theirs = getattr(theirs, part) if part else theirs
    encoder = build("tessera", bands=bands, image_size=2, weights=saved(theirs, tmp_path / "tessera.pth"))
    names = [band.name for band in encoder.request.bands]
    images = noise(2, len(names), 2, 2)
    day = torch.full((1,), DAY_OF_YEAR)
    pixels = []
    for image in images:
        for row in range(2):
            for column in range(2):
                by_name = dict(zip(names, image[:, row, column], strict=True))
                s2 = [by_name[name] for name in ("B04", "B02", "B03", "B08", "B8A", "B05", "B06", "B07", "B11", "B12") if name in by_name]  # fmt: skip  # noqa: E501
                s1 = [by_name[name] for name in ("VV", "VH") if name in by_name]
                pixels.append(torch.cat([*([torch.stack(s2), day] if s2 else []), *([torch.stack(s1), day] if s1 else [])]))  # fmt: skip  # noqa: E501
    expected = theirs(torch.stack(pixels)[:, None]).reshape(2, 4, -1)
    torch.testing.assert_close(encoder.embed(images, None), expected.mean(dim=1), atol=1e-5, rtol=1e-4)


def test_tesseras_scaling_is_the_published_one_of_digital_numbers_and_stored_radar():
    bands = choose_bands(DATASET.bands, "B04,VV")
    numbers = scaling(bands)
    scaled = numbers(torch.tensor([1711.0938, -11.0]).reshape(1, 2, 1, 1)).flatten()
    assert scaled[0].abs() < 1e-5
    stored = (2 * -11.0 + 50) * 200  # 20 log10(power) of -11 dB is -22
    assert scaled[1].item() == pytest.approx((stored - 5484.0407) / 1871.2334, abs=1e-5)


def test_tessera_takes_whole_sensors():
    with pytest.raises(RequestError, match="B8A"):
        build("tessera", bands="B04,B02,B03,B08")
