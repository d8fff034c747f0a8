"""Checkpoints in the layouts that people have: training prefixes, and DINOv2 as its authors publish it."""

import pytest
import torch
from timm.layers import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from transformers import Dinov2Config, Dinov2Model, Dinov2WithRegistersConfig, Dinov2WithRegistersModel

from data.errors import RequestError
from featurize.checkpoints import unwrapped
from featurize.models import dinov2
from featurize.models.dinov2 import Architecture
from featurize.weights import digest_state, load_weights, random_module, read_state

SIDE, TINY = 56, {"hidden_size": 384, "num_hidden_layers": 2, "num_attention_heads": 6}


def authors_model(*, swiglu=False):
    """DINOv2 by timm, whose names are the authors'; every parameter matters."""
    width, extra = TINY["hidden_size"], {}
    if swiglu:
        inner = (int(width * 4 * 2 / 3) + 7) // 8 * 8
        extra = {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU, "mlp_ratio": 2 * inner / width}
    model = VisionTransformer(
        img_size=SIDE, patch_size=14, embed_dim=width, depth=2, num_heads=6, init_values=0.1, num_classes=0, **extra
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.normal_(0, 0.02 if value.ndim > 1 else 0.3, generator=generator)
            value.add_(1 if "norm" in name and "weight" in name else 0)
    return model.eval()


def authors_state(model):
    """Its state as the authors save it; timm has no mask token, which only training needs."""
    return {"mask_token": torch.zeros(1, TINY["hidden_size"])} | model.state_dict()


def wanted(*, registers=False, **extra):
    config_class, model_class = (
        (Dinov2WithRegistersConfig, Dinov2WithRegistersModel) if registers else (Dinov2Config, Dinov2Model)
    )
    return Architecture(model_class, config_class(image_size=SIDE, patch_size=14, **TINY, **extra), "nobody/nothing")


@pytest.fixture(scope="module")
def published():
    return authors_model()


@pytest.mark.parametrize("swiglu", [False, True], ids=["mlp", "swiglu, as giant"])
def test_the_authors_layout_gives_the_authors_features(tmp_path, swiglu, published):
    model = authors_model(swiglu=True) if swiglu else published
    state = authors_state(model)
    if swiglu:
        state = {key.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3"): v for key, v in state.items()}
    torch.save(state, tmp_path / "dinov2.pth")
    ours, _ = dinov2.load_model(wanted(use_swiglu_ffn=swiglu), str(tmp_path / "dinov2.pth"))
    images = torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        reference, found = model.forward_features(images), ours.eval()(pixel_values=images).last_hidden_state
    assert (reference[0] - reference[1]).abs().max() > 0.1, "the test could not fail"
    torch.testing.assert_close(found, reference, atol=1e-4, rtol=1e-4)


LAYOUTS = {
    "plain": lambda s: s,
    "module": lambda s: {"module." + k: v for k, v in s.items()},
    "lightning": lambda s: {"state_dict": {"model." + k: v for k, v in s.items()}, "epoch": 3, "version": "2.4"},
    "backbone and head": lambda s: {
        "state_dict": {"backbone." + k: v for k, v in s.items()} | {"head.weight": torch.ones(2, 3)}
    },
    "compiled": lambda s: {"_orig_mod." + k: v for k, v in s.items()},
    "compiled inside": lambda s: {"net._orig_mod.encoder_q." + k: v for k, v in s.items()},
    "teacher": lambda s: {
        "teacher": {"backbone." + k: v for k, v in s.items()} | {"dino_head.mlp.0.weight": torch.ones(8, 3)}
    },
    "teacher and student": lambda s: {
        "model": {"student.backbone." + k: v + 1 for k, v in s.items()}
        | {"teacher.backbone." + k: v for k, v in s.items()}
    },
    "chunked": lambda s: {k.replace("blocks.", "blocks.0."): v for k, v in s.items()},
}  # fmt: skip


@pytest.mark.parametrize("names", ["authors", "transformers"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_loads_the_same_weights(tmp_path, layout, names, published, capsys):
    other = dinov2.load_model(wanted(), "random")[0].state_dict()
    state = authors_state(published) if names == "authors" else other
    digests = set()
    for name in ("plain", layout):
        torch.save(LAYOUTS[name](state), tmp_path / f"{name}.pth")
        digests.add(dinov2.load_model(wanted(), str(tmp_path / f"{name}.pth"))[1].sha256)
    assert len(digests) == 1
    left_out = "ignored" in capsys.readouterr().err
    assert left_out == (layout in ("backbone and head", "teacher", "teacher and student"))


@pytest.mark.parametrize("registers", [False, True])
def test_a_checkpoint_of_another_variant_names_the_variant_that_works(tmp_path, registers, published):
    state = authors_state(published)
    if registers:
        state["register_tokens"] = torch.zeros(1, 4, TINY["hidden_size"])
    torch.save(state, tmp_path / "w.pth")
    asked = wanted(registers=not registers)
    with pytest.raises(RequestError, match=f"--variant small{'-registers' if registers else ''}$"):
        dinov2.load_model(asked, str(tmp_path / "w.pth"))
    dinov2.load_model(wanted(registers=registers), str(tmp_path / "w.pth"))


def test_prefixes_of_any_models_checkpoint(tmp_path):
    """The rule is in the loader that all models share."""

    def make():
        return random_module(lambda: torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2)))

    torch.save({"state_dict": {f"module.net.{k}": v for k, v in make().state_dict().items()}}, tmp_path / "w.ckpt")
    loaded = load_weights(make(), str(tmp_path / "w.ckpt"), hub_name="")
    assert loaded.sha256 == digest_state(make().state_dict())


def test_two_copies_without_a_word_which_is_meant_are_refused(tmp_path):
    state = {f"{who}.w{n}": torch.ones(1) for who in ("a", "b") for n in range(3)}
    with pytest.raises(RequestError, match=r"2 copies of the model \(a, b\)"):
        unwrapped(state, ["w0", "w1", "w2"], "x.pth")


def test_a_state_that_fits_nothing_is_left_as_it_is(tmp_path):
    state = {"a.w0": torch.ones(1), "b": torch.ones(1)}
    assert unwrapped(state, ["w0", "w1", "w2"], "x.pth") == state
    torch.save({"teacher": 3}, tmp_path / "w.pth")
    with pytest.raises(RequestError, match="holds no weights"):
        read_state(tmp_path / "w.pth")
