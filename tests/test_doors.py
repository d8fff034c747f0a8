"""The doors to timm and transformers: parity with each library's own forward, weights, names, safe folder names."""

import json

import numpy as np
import pytest
import timm
import torch
import transformers as tf
from pixels import PixelDataset
from safetensors.torch import load_file, save_file
from test_dinov2 import Pictures, embed, lively
from timm.data import create_transform, resolve_model_data_config

from data import command, paths
from data.errors import RequestError
from featurize.cli import app
from featurize.encoder import EncoderRequest, build_encoder
from featurize.models import hf

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
EIGHTS = {**SMALL, "image_size": 32, "patch_size": 8}
TEXT = {**SMALL, "vocab_size": 50}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}


def open_door(name, dataset, *, bands="rgb", **settings):
    request = EncoderRequest((), dataset.statistics, lambda: dataset, **settings)
    return build_encoder(name, dataset, bands, request)


# timm


def timm_file(name, folder, **options):
    """A file with timm's keys, classifier and all, and the model it came from."""
    model = lively_timm(name, **options)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    return model, str(folder / "model.safetensors")


def lively_timm(name, **options):
    torch.manual_seed(3)
    model = timm.create_model(name, pretrained=False, **options).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return model


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "test_convnext", "test_byobnet"])
def test_timm_is_timms_own_forward_and_preprocessing(tmp_path, name):
    model, file = timm_file(name, tmp_path)
    config = resolve_model_data_config(model)
    dataset = Pictures(side=config["input_size"][-1], rows=2)
    images = [torch.from_numpy(dataset.image(i)) for i in range(2)]
    transform = create_transform(**config | {"crop_pct": 1.0})
    from torchvision.transforms.functional import to_pil_image

    model.reset_classifier(0)
    with torch.inference_mode():
        wanted = model(torch.stack([transform(to_pil_image(image)) for image in images]))  # type: ignore
    encoder = open_door(f"timm:{name}", dataset, weights=file)
    assert encoder.dim == wanted.shape[1] and encoder.request.image_size == dataset.side
    got = embed(encoder, dataset, [0, 1])
    assert np.abs(got - wanted.numpy()).max() < 1e-4 * max(1, wanted.abs().max())
    assert np.abs(got[0] - got[1]).max() > 0.01, "the test could not fail"
    assert encoder.name == f"timm:{name}" and encoder.weights.source == "loaded"


def test_timm_spreads_the_first_layer_over_other_bands_as_timm_does(tmp_path):
    _, file = timm_file("test_resnet", tmp_path)
    dataset = PixelDataset()
    encoder = open_door("timm:test_resnet", dataset, bands="s2-12", weights=file)
    assert encoder.request.normalize == "zscore"
    overlay = {"file": file, "num_classes": 1000}
    own = timm.create_model("test_resnet", pretrained=True, pretrained_cfg_overlay=overlay, in_chans=12).eval()
    own.reset_classifier(0)
    images = torch.randn(2, 12, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (encoder.embed(images, None) - own(images)).abs().max() < 1e-5


def test_timm_resamples_positions_for_another_size_as_timm_does(tmp_path):
    _, file = timm_file("test_vit", tmp_path)
    encoder = open_door("timm:test_vit", Pictures(), weights=file, image_size=224)
    own = timm.create_model("test_vit", pretrained=True, pretrained_cfg_overlay={"file": file}, img_size=224).eval()
    own.reset_classifier(0)
    images = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert (encoder.embed(images, None) - own(images)).abs().max() < 1e-5


def test_timm_takes_files_without_or_with_another_classifier_and_no_other_difference(tmp_path):
    model, file = timm_file("test_vit", tmp_path)
    state = load_file(file)
    digest = open_door("timm:test_vit", Pictures(), weights=file).weights.sha256
    for changed in (
        {key: value for key, value in state.items() if not key.startswith("head.")},
        state | {"head.weight": torch.zeros(7, 64), "head.bias": torch.zeros(7)},
    ):
        save_file(changed, tmp_path / "changed.safetensors")
        encoder = open_door("timm:test_vit", Pictures(), weights=str(tmp_path / "changed.safetensors"))
        assert encoder.weights.sha256 == digest
    for changed, message in (
        ({key: value for key, value in state.items() if key != "norm.weight"}, r"1 missing \(norm.weight\)"),
        (state | {"extra": torch.zeros(1)}, r"1 unexpected \(extra\)"),
        (state | {"norm.weight": torch.zeros(3)}, r"1 of another shape \(norm.weight\)"),
    ):
        save_file(changed, tmp_path / "changed.safetensors")
        with pytest.raises(RequestError, match=message):
            open_door("timm:test_vit", Pictures(), weights=str(tmp_path / "changed.safetensors"))


TIMM_WRONG = {
    "timm:resnet5": ({}, "unknown timm model 'resnet5'; did you mean resnet50"),
    "timm:resnet50.a9": ({}, "no weights 'a9' of resnet50; choose from a1_in1k"),
    "timm:test_vit": ({"image_size": 50}, "--image-size 50|img_size=50"),
    "timm:test_resnet": ({"bands": "B02,B03,B04"}, "in that order, not blue, green, red"),
    "timm:test_convnext": ({"bands": "s2-12", "normalize": "own"}, "--normalize own is for red, green and blue"),
    "timm": ({}, "--model timm: .*timm:NAME.*timm:resnet50"),
    "stats:x": ({}, "stats takes no name"),
}


@pytest.mark.parametrize("name", TIMM_WRONG)
def test_a_wrong_timm_request(name):
    settings, message = TIMM_WRONG[name]
    weights = None if name == "stats:x" else "random"
    with pytest.raises(RequestError, match=message):
        open_door(name, PixelDataset(), **{"weights": weights, **settings})


def test_timm_without_network_names_the_file():
    where = "https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetensors"
    with pytest.raises(RequestError, match=rf"cannot download {where} .*--weights PATH/model.safetensors"):
        open_door("timm:test_vit", Pictures(), weights="pretrained")


# transformers

FAMILIES = {
    "vit": (tf.ViTModel, tf.ViTConfig(**EIGHTS), "cls"),
    "deit": (tf.DeiTModel, tf.DeiTConfig(**EIGHTS), "cls"),
    "dinov3": (tf.DINOv3ViTModel, tf.DINOv3ViTConfig(**EIGHTS, num_register_tokens=4), "cls"),
    "clip": (tf.CLIPModel, tf.CLIPConfig(text_config=TEXT, vision_config=EIGHTS, projection_dim=16), "cls"),
    "clip vision": (tf.CLIPVisionModel, tf.CLIPVisionConfig(**EIGHTS), "cls"),
    "siglip": (tf.SiglipModel, tf.SiglipConfig(text_config=TEXT, vision_config=EIGHTS), "pooled"),
    "swin": (
        tf.SwinModel,
        tf.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=4),
        "pooled",
    ),
    "convnext": (tf.ConvNextModel, tf.ConvNextConfig(**STAGES, image_size=32), "pooled"),
    "resnet": (tf.ResNetModel, tf.ResNetConfig(**STAGES, embedding_size=8), "pooled"),
}
PREFIX = {"deit": 2, "dinov3": 5, "siglip": 0, "swin": 0}


def hf_folder(folder, model, *, side=32, **processor):
    """A folder as the hub's repositories are: config, weights and an image processor with numbers of its own."""
    model.save_pretrained(folder)
    numbers = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4], "size": {"height": side, "width": side}}
    tf.ViTImageProcessor(**numbers | processor).save_pretrained(folder)
    return tf.AutoImageProcessor.from_pretrained(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_hf_is_transformers_own_forward_and_processor(tmp_path, family):
    kind, config, usual = FAMILIES[family]
    torch.manual_seed(1)
    model = kind(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    processor = hf_folder(tmp_path / "mine", model)
    dataset = Pictures(side=32, rows=2)
    pixels = processor([dataset.image(i) for i in range(2)], return_tensors="pt", input_data_format="channels_first")
    with torch.inference_mode():
        out = getattr(model, "get_image_features", model)(pixel_values=pixels["pixel_values"])
    tokens = out.last_hidden_state
    prefix = PREFIX.get(family, 1)
    wanted = {"pooled": out.pooler_output.flatten(1)}
    if tokens.ndim == 3:
        wanted |= {"mean": tokens[:, prefix:].mean(1)} | ({"cls": tokens[:, 0]} if prefix else {})
    for pooling, values in wanted.items():
        encoder = open_door(f"hf:{tmp_path / 'mine'}", dataset, pooling=pooling)
        got = embed(encoder, dataset, [0, 1])
        assert np.abs(got - values.numpy()).max() < 1e-4, pooling
        assert np.abs(got[0] - got[1]).max() > 1e-3, "the test could not fail"
    assert open_door(f"hf:{tmp_path / 'mine'}", dataset).request.pooling == usual
    assert encoder.name == "hf:mine" and encoder.weights.source == "loaded"


def test_hf_hides_no_part_of_the_image_from_a_masked_autoencoder(tmp_path):
    decoder = {f"decoder_{key}": value for key, value in SMALL.items()}
    full = lively(lambda: tf.ViTMAEForPreTraining(tf.ViTMAEConfig(**EIGHTS, **decoder)))
    hf_folder(tmp_path, full)
    dataset = Pictures(side=32, rows=2)
    encoder = open_door(f"hf:{tmp_path}", dataset, pooling="mean", normalize="imagenet")
    one, two = (embed(encoder, dataset, [0, 1]) for _ in range(2))
    assert np.abs(one - two).max() < 1e-5
    plain = tf.ViTModel(tf.ViTConfig(**EIGHTS), add_pooling_layer=False).eval()
    plain.load_state_dict(full.vit.state_dict(), strict=False)
    scaled = encoder.normalization(torch.stack([torch.from_numpy(dataset.image(i)).float() for i in range(2)]))
    with torch.inference_mode():
        wanted = plain(pixel_values=scaled).last_hidden_state[:, 1:].mean(1)
    assert np.abs(one - wanted.numpy()).max() < 1e-4


def test_hf_interpolates_positions_for_another_size(tmp_path):
    model = lively(lambda: tf.ViTModel(tf.ViTConfig(**EIGHTS)))
    hf_folder(tmp_path, model)
    encoder = open_door(f"hf:{tmp_path}", Pictures(), image_size=64, pooling="mean")
    images = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = model(pixel_values=images, interpolate_pos_encoding=True).last_hidden_state[:, 1:].mean(1)
        assert (encoder.embed(images, None) - wanted).abs().max() < 1e-5


def test_hf_published_without_a_pooler_has_none(tmp_path):
    """facebook/dino-vitb16 and others: transformers would put a random layer there."""
    lively(lambda: tf.ViTModel(tf.ViTConfig(**EIGHTS), add_pooling_layer=False)).save_pretrained(tmp_path)
    settings = {"normalize": "imagenet"}
    one, two = (open_door(f"hf:{tmp_path}", Pictures(), **settings) for _ in range(2))
    assert one.weights.sha256 == two.weights.sha256
    with pytest.raises(RequestError, match="--pooling pooled: .* has mean | cls"):
        open_door(f"hf:{tmp_path}", Pictures(), pooling="pooled", **settings)


def test_hf_weights_beside_a_config_and_random_ones(tmp_path):
    model = lively(lambda: tf.ViTForImageClassification(tf.ViTConfig(**EIGHTS)))
    hf_folder(tmp_path / "mine", model)
    folder = open_door(f"hf:{tmp_path / 'mine'}", Pictures())
    file = open_door("hf:some/name", Pictures(), weights=str(tmp_path / "mine" / "model.safetensors"))
    assert file.weights.sha256 == folder.weights.sha256 and file.name == folder.name == "hf:mine"
    untrained = open_door(f"hf:{tmp_path / 'mine'}", Pictures(), weights="random")
    assert untrained.weights.source == "random" and untrained.weights.sha256 != folder.weights.sha256


def test_a_wrong_hf_request(tmp_path):
    def folder(name, content):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(content if isinstance(content, str) else json.dumps(content))
        return f"hf:{tmp_path / name}"

    (tmp_path / "empty").mkdir()
    vit = tf.ViTConfig(**EIGHTS).to_dict()
    cases = {
        folder("bert", tf.BertConfig(**SMALL).to_dict()): "is a bert, ",
        folder("timm", {"architecture": "resnet50"}): "use --model timm:resnet50",
        folder("code", {"model_type": "mine", "auto_map": {"AutoModel": "x.Y"}}): "which is not run",
        folder("odd", {"model_type": "vitt"}): "no model of type 'vitt'",
        folder("torn", "{"): "not readable as JSON",
        folder("bare", vit): "has no preprocessor_config.json.*--normalize",
        f"hf:{tmp_path / 'empty'}": "has no config.json",
        f"hf:{tmp_path / 'gone'}": "gone: no such folder",
        "hf:some/repository": "https://.*some/repository/resolve/main/config.json .*hf:FOLDER",
        "hf:one/two/three": "'one/two/three'",
    }
    for name, message in cases.items():
        with pytest.raises(RequestError, match=message):
            open_door(name, Pictures(), weights="random")
    bare = f"hf:{tmp_path / 'bare'}"
    with pytest.raises(RequestError, match="expected model.safetensors or .*, found none"):
        open_door(bare, Pictures(), normalize="imagenet")
    with pytest.raises(RequestError, match="cannot embed 13 bands of 32 x 32 pixels"):
        open_door(bare, PixelDataset(), bands="s2-13", normalize="zscore", weights="random")
    assert hf.count_prefix(49, 224, 4) == 0 and hf.count_prefix(201, 224, 16) == 5


def test_a_doors_features_have_a_safe_folder_and_are_found_by_name(tmp_path, capsys):
    words = ["--model", "timm:test_vit", "--weights", "random", "--dataset", "simulated", "--limit", "4"]
    assert command.run(app, [*words, "--out", str(tmp_path), "--split", "val"]) == 0, capsys.readouterr().err
    (folder,) = paths.feature_folders(tmp_path)
    assert folder.name.startswith("timm-test_vit-random_rgb_160_own_") and ":" not in str(folder)
    from data.store import find_features

    assert find_features(tmp_path, model="timm:test_vit") == folder
