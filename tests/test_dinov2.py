"""DINOv2 against transformers' own forward, through files in the published key layout."""

import json

import numpy as np
import pytest
import torch
from pixels import PixelDataset
from safetensors.torch import load_file, save_file
from transformers import BitImageProcessor, Dinov2ForImageClassification

from data.bands import RGB
from data.dataset import EODataset
from data.errors import RequestError
from featurize.batches import collate
from featurize.card import MODELS
from featurize.embedder import Embedder
from featurize.encoder import EncoderRequest, build_encoder
from featurize.models import dinov2
from featurize.models.dinov2 import ONE_LAYER, architecture
from featurize.normalization import IMAGENET
from featurize.runtime import Runtime
from featurize.stages import Meter

VARIANTS = MODELS.card("dinov2").variant
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


class Pictures(EODataset):
    """8-bit pictures of one side: smooth shapes and noise, so that patches differ."""

    def __init__(self, side=224, rows=3):
        self.side = side
        super().__init__(
            name="pictures", variant=None, split="train", ids=[str(i) for i in range(rows)],
            labels=np.zeros(rows, np.int64), class_names=["a"], bands=tuple(RGB.values()), statistics={},
        )  # fmt: skip

    def image(self, index):
        rng = np.random.default_rng(index)
        y, x = np.mgrid[: self.side, : self.side] / self.side
        waves = [np.sin(rng.uniform(2, 30) * x + rng.uniform(2, 30) * y + rng.uniform(0, 6)) for _ in range(3)]
        return (127 + 90 * np.stack(waves) + rng.normal(0, 20, (3, self.side, self.side))).clip(0, 255).astype(np.uint8)

    def read(self, index, bands):
        return list(self.image(index))


def lively(make, seed=0):
    """A model in which every parameter matters: the library's own initialization leaves tokens nearly alike."""
    with torch.device("meta"):
        model = make()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            spread = p[0].numel() ** -0.5 if "weight" in name and p.ndim > 1 else 0.2
            p.normal_(0, spread, generator=generator)
            if "norm" in name and "weight" in name:
                p.add_(1)
            if "lambda1" in name:
                p.abs_()
    return model.eval()


def plan(precision="fp32"):
    return Runtime(torch.device("cpu"), precision, 64, 0, 1024)


def encoder_of(dataset, **settings):
    return build_encoder("dinov2", dataset, "rgb", EncoderRequest((), dataset.statistics, lambda: dataset, **settings))


def embed(encoder, dataset, rows, precision="fp32"):
    samples = collate([dataset.read(row, encoder.request.bands) for row in rows])
    return Embedder(encoder, plan(precision)).embed(samples, len(rows), None, Meter()).features.numpy()


def processed(dataset, rows):
    """What transformers' own image processor makes of pictures that have the model's size already."""
    mean, std = zip(*IMAGENET.values(), strict=True)
    processor = BitImageProcessor(do_resize=False, do_center_crop=False, image_mean=mean, image_std=std)
    return processor([dataset.image(row) for row in rows], return_tensors="pt", input_data_format="channels_first")


@pytest.mark.parametrize(("variant", "side"), [("small", 224), ("base", 112), ("base-registers", 112)])
def test_parity_with_transformers_on_the_true_architecture(tmp_path, variant, side):
    wanted = architecture(variant)
    model = lively(lambda: wanted.model(wanted.config))
    model.save_pretrained(tmp_path)
    dataset, rows = Pictures(side), [0, 1]
    with torch.inference_mode():
        tokens = model(**processed(dataset, rows)).last_hidden_state
    patches = 1 + (4 if variant == "base-registers" else 0)
    assert tokens.shape[1] == patches + (side // 14) ** 2
    reference = torch.cat((tokens[:, 0], tokens[:, patches:].mean(1)), dim=1)
    assert reference[0].std() > 0.1 and (reference[0] - reference[1]).abs().max() > 0.1, "the test could not fail"
    encoder = encoder_of(dataset, variant=variant, image_size=side, pooling="cls+mean", weights=str(tmp_path))
    assert np.abs(embed(encoder, dataset, rows) - reference.numpy()).max() < 1e-4


def test_bf16_points_the_same_way_as_fp32(tmp_path):
    wanted = architecture("small")
    lively(lambda: wanted.model(wanted.config)).save_pretrained(tmp_path)
    dataset = Pictures(56)
    encoder = encoder_of(dataset, variant="small", image_size=56, weights=str(tmp_path))
    full, low = (embed(encoder, dataset, [0, 1, 2], precision) for precision in ("fp32", "bf16"))
    cosine = (full * low).sum(1) / np.linalg.norm(full, axis=1) / np.linalg.norm(low, axis=1)
    assert cosine.min() > 0.999 and np.abs(full - low).max() > 1e-4, "bf16 was not used"


def test_one_layer_gives_the_input_of_transformers_classifier(tmp_path):
    model = lively(lambda: Dinov2ForImageClassification(architecture(ONE_LAYER).config))
    model.save_pretrained(tmp_path)
    assert {"classifier.weight", "dinov2.layernorm.weight"} <= set(load_file(tmp_path / "model.safetensors"))
    dataset, read = Pictures(112), []
    model.classifier.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    with torch.inference_mode():
        model(**processed(dataset, [2]))
    weights = str(tmp_path / "model.safetensors")
    encoder = encoder_of(dataset, variant=ONE_LAYER, image_size=112, weights=weights)
    assert encoder.request.pooling == "cls+mean" and encoder.dim == 1536
    assert np.abs(embed(encoder, dataset, [2]) - read[0].numpy()).max() < 1e-4


@pytest.fixture
def tiny(monkeypatch):
    """Every variant with small numbers: for what does not depend on size."""
    monkeypatch.setattr(
        dinov2,
        "SIZES",
        {name: TINY | {"use_swiglu_ffn": name == "giant"} for name in ("small", "base", "large", "giant")},
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_every_variant_from_a_folder_and_from_a_file(tiny, tmp_path, variant, pooling):
    """At 56 pixels, where the position embeddings of 518 are interpolated."""
    wanted = architecture(variant)
    model = lively(lambda: (Dinov2ForImageClassification if variant == ONE_LAYER else wanted.model)(wanted.config))
    model.save_pretrained(tmp_path)
    dataset = Pictures(56)
    settings = {"variant": variant, "pooling": pooling, "image_size": 56}
    folder = encoder_of(dataset, weights=str(tmp_path), **settings)
    file = encoder_of(dataset, weights=str(tmp_path / "model.safetensors"), **settings)
    assert folder.weights.sha256 == file.weights.sha256 and folder.weights.source == "loaded"
    state = load_file(tmp_path / "model.safetensors")
    assert any("layer.0.attention.attention.key.bias" in key for key in state), "the layout of the published files"
    body = model.dinov2 if variant == ONE_LAYER else model
    with torch.inference_mode():
        tokens = body(**processed(dataset, [0, 1])).last_hidden_state
    assert tokens.shape[1] == 17 + (4 if "registers" in variant else 0)
    wanted_features = tokens[:, 0] if pooling == "cls" else tokens[:, -16:].mean(1)
    assert np.abs(embed(folder, dataset, [0, 1]) - wanted_features.numpy()).max() < 1e-5


def test_embeddings_do_not_depend_on_the_size_of_the_batch(tmp_path):
    """One picture alone, among 7 and among 64: the true small architecture, lively weights, fp32."""
    lively(lambda: architecture("small").model(architecture("small").config)).save_pretrained(tmp_path)
    dataset = Pictures(56, rows=64)
    encoder = encoder_of(dataset, variant="small", image_size=56, weights=str(tmp_path), pooling="cls+mean")
    alone, seven, all_of_them = (embed(encoder, dataset, range(count))[0] for count in (1, 7, 64))
    assert max(np.abs(alone - seven).max(), np.abs(alone - all_of_them).max()) < 1e-5
    backwards = embed(encoder, dataset, range(63, -1, -1))[-1]
    assert np.abs(alone - backwards).max() < 1e-5


def test_what_does_not_fit_is_named(tiny, tmp_path):
    dataset = Pictures(56)
    wanted = architecture("small")
    lively(lambda: wanted.model(wanted.config)).save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")

    def load(changed, variant="small"):
        save_file(changed, tmp_path / "changed.safetensors")
        encoder_of(dataset, variant=variant, image_size=56, weights=str(tmp_path / "changed.safetensors"))

    with pytest.raises(RequestError, match=r"1 missing \(layernorm.weight\)"):
        load({key: value for key, value in state.items() if key != "layernorm.weight"})
    with pytest.raises(RequestError, match=r"1 unexpected \(extra.bias\)"):
        load(state | {"extra.bias": torch.zeros(2)})
    with pytest.raises(RequestError, match=r"1 of another shape \(layernorm.bias\)"):
        load(state | {"layernorm.bias": torch.zeros(2)})
    with pytest.raises(RequestError, match=r"1 missing \(embeddings.register_tokens\).*check"):
        load(state, "small-registers")
    load(state | {"classifier.weight": torch.zeros(2, 64)})
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"num_attention_heads": 4}))
    with pytest.raises(RequestError, match="num_attention_heads 4, this model has 2; check --variant"):
        encoder_of(dataset, variant="small", image_size=56, weights=str(tmp_path))


def test_half_precision_files_are_computed_in_full(tiny, tmp_path):
    """transformers' loader would otherwise take the file's type for the model."""
    wanted = architecture("small")
    lively(lambda: wanted.model(wanted.config)).half().save_pretrained(tmp_path)
    encoder = encoder_of(Pictures(56), variant="small", image_size=56, weights=str(tmp_path))
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


def test_bands_and_sizes_that_it_cannot_take(tiny):
    dataset = PixelDataset()
    request = EncoderRequest((), dataset.statistics, lambda: dataset, weights="random")
    for bands, message in {"s2-12": "not 12 bands", "B02,B03,B04": "in that order, not blue, green, red"}.items():
        with pytest.raises(RequestError, match=message):
            build_encoder("dinov2", dataset, bands, request)
    with pytest.raises(RequestError, match="--image-size 64: dinov2 takes multiples of 14"):
        encoder_of(dataset, weights="random", image_size=64)


def test_its_scaling_is_in_the_identity(tiny):
    eight_bit = encoder_of(Pictures(56), weights="random").identity("fp32")["normalization"]
    assert (eight_bit["method"], eight_bit["unit"], eight_bit["mean"]) == (
        "imagenet",
        [255.0] * 3,
        [0.485, 0.456, 0.406],
    )
    dataset = PixelDataset()
    request = EncoderRequest((), dataset.statistics, lambda: dataset, weights="random")
    reflectance = build_encoder("dinov2", dataset, "B04,B03,B02", request).identity("fp32")["normalization"]
    assert reflectance["unit"] == [2750.0] * 3 and reflectance["clip"]
