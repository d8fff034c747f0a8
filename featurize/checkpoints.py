"""Key layouts of checkpoints: prefixes that training adds, and DINOv2 in its authors' layout."""

import re
from collections import Counter
from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from data.command import say
from data.errors import RequestError

# What torch.compile and FSDP put into the middle of names.
INSERTED = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")
PREFERRED = ("teacher", "ema")  # of two copies of a model these are what is evaluated

# DINOv2 (Oquab et al. 2023), github.com/facebookresearch/dinov2: its names, and those of the hub's files.
DINOV2 = {
    "cls_token": "embeddings.cls_token",
    "mask_token": "embeddings.mask_token",
    "pos_embed": "embeddings.position_embeddings",
    "register_tokens": "embeddings.register_tokens",
    "patch_embed.proj": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}
DINOV2_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "attn.proj": "attention.output.dense",
    "ls1.gamma": "layer_scale1.lambda1",
    "ls2.gamma": "layer_scale2.lambda1",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "mlp.w12": "mlp.weights_in",
    "mlp.w3": "mlp.weights_out",
}
DINOV2_WIDTHS = {384: "small", 768: "base", 1024: "large", 1536: "giant"}


def unwrapped(state: Mapping[str, Tensor], expected: Collection[str], origin: str) -> dict[str, Tensor]:
    """A model's own entries of a training checkpoint, without the prefixes that wrappers add to their names.

    ``module.``, ``model.``, ``backbone.``, ``_orig_mod.`` and any other prefix are found by what follows them: the
    prefix under which most of the expected names are. Entries beside it, such as a head's, are left out and reported.

    Args:
        state: as read.
        expected: the model's names, or those of a layout that is converted later.
        origin: what to call the file.

    Returns:
        The state as it is where no prefix fits better than none.
    """
    state = {INSERTED.sub("", key): value for key, value in state.items()}
    wanted = set(expected)
    found: Counter[str] = Counter()
    for key in state:
        words = key.split(".")
        found.update(".".join(words[:at]) for at in range(len(words)) if ".".join(words[at:]) in wanted)
    ranked = found.most_common()
    if not ranked or ranked[0][1] <= max(found[""], len(wanted) // 2):
        return state
    best = [prefix for prefix, count in ranked if count == ranked[0][1]]
    if len(best) > 1:
        best = [prefix for prefix in best if any(word in prefix for word in PREFERRED)] or best
    if len(best) > 1:
        raise RequestError(f"{origin} contains {len(best)} copies of the model ({', '.join(best)}); save only one")
    kept = {key.removeprefix(f"{best[0]}."): value for key, value in state.items() if key.startswith(f"{best[0]}.")}
    if left := sorted(key for key in state if not key.startswith(f"{best[0]}.")):
        names = ", ".join(left[:3]) + (", ..." if len(left) > 3 else "")
        say(f"featurize: note: {origin}: loaded {best[0]}, ignored {len(left)} other tensors ({names})")
    return kept


# --------------------------------------------------------------------------------------------- DINOv2


def dinov2_names(model_keys: Collection[str]) -> set[str]:
    """Names that a checkpoint of DINOv2 may have: the model's own, and its authors'."""
    layers = {key.split(".")[2] for key in model_keys if key.startswith("encoder.layer.")}
    ends = {f"{name}.{kind}" for name in (*DINOV2_BLOCK, "attn.qkv") for kind in ("weight", "bias")} | {"ls1.gamma"}
    return {f"blocks.{layer}.{end}" for layer in layers for end in ends} | {"cls_token", "pos_embed", "norm.weight"}


def dinov2_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' layout (``blocks.0.attn.qkv.weight``) as the hub's; any other state as it is.

    Blocks may be grouped, as their training code does for FSDP: ``blocks.<group>.<number>.``.
    """
    if "cls_token" not in state or not any(key.startswith("blocks.") for key in state):
        return dict(state)
    converted: dict[str, Tensor] = {}
    for key, value in state.items():
        block = re.fullmatch(r"blocks\.(?:\d+\.)?(\d+)\.(.+)", key)
        if not block:
            converted[_renamed(key, DINOV2)] = value
            continue
        layer, inner = f"encoder.layer.{block[1]}", block[2]
        if inner.startswith("attn.qkv."):
            kind = inner.rpartition(".")[2]
            for name, part in zip(("query", "key", "value"), value.chunk(3), strict=True):
                converted[f"{layer}.attention.attention.{name}.{kind}"] = part.clone()
        else:
            converted[f"{layer}.{_renamed(inner, DINOV2_BLOCK)}"] = value
    converted.setdefault("embeddings.mask_token", torch.zeros(1, state["cls_token"].shape[-1]))  # of training only
    return converted


def _renamed(key: str, names: Mapping[str, str]) -> str:
    for old, new in names.items():
        if key == old or key.startswith(f"{old}."):
            return new + key[len(old) :]
    return key


def check_dinov2(state: Mapping[str, Tensor], origin: str, *, width: int, registers: bool) -> None:
    """Raise a RequestError that names the variant to ask for, where a state is of another one than the model."""
    token = state.get("embeddings.cls_token")
    if token is None or not token.ndim:
        return
    found, has_registers = token.shape[-1], "embeddings.register_tokens" in state
    if (found, has_registers) != (width, registers) and found in DINOV2_WIDTHS:
        variant = DINOV2_WIDTHS[found] + ("-registers" if has_registers else "")
        raise RequestError(f"{origin} holds DINOv2 of another variant; give --model dinov2 --variant {variant}")
