"""DOFA: one vision transformer for any set of bands, conditioned on their wavelengths (torchgeo)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchgeo.models import (
    DOFABase16_Weights,
    DOFALarge16_Weights,
    dofa_base_patch16_224,
    dofa_huge_patch14_224,
    dofa_large_patch16_224,
    dofa_small_patch16_224,
)
from torchgeo.models.dofa import DOFAEmbedding, position_embedding

from data.bands import Band
from data.errors import RequestError
from featurize.encoder import Encoder, EncoderRequest
from featurize.normalization import make_normalization
from featurize.weights import load_weights, random_module

CARD = {
    "title": "DOFA",
    "variant": ["base", "large", "small", "huge"],
    "pooling": ["mean"],
    "normalize": ["zscore", "satlas", "none"],
    "weights": ["pretrained", "random", "PATH"],
    "files": "torchgeo/dofa: dofa_base_patch16_224-a0275954.pth, dofa_large_patch16_224-0ff904d3.pth",
    "image_size": 224,
    "sizes": "no other",
    "default_bands": ["s2-9", "rgb", "s1"],
    "dim": "768 (base), 1024 (large), 384 (small), 1280 (huge)",
    "bands": "any Sentinel-1, Sentinel-2 or RGB bands, and others with a wavelength of 0.3 to 3 micrometres",
    "licence": "CC-BY-4.0 (weights), MIT (torchgeo)",
    "citation": "Xiong et al. 2024, arXiv:2403.15356",
}

# No weights are published for small and huge.
MAKE: dict[str, Any] = {
    "base": dofa_base_patch16_224,
    "large": dofa_large_patch16_224,
    "small": dofa_small_patch16_224,
    "huge": dofa_huge_patch14_224,
}
PUBLISHED = {"base": DOFABase16_Weights.DOFA_MAE.url, "large": DOFALarge16_Weights.DOFA_MAE.url}

# Parts of the pretraining task, in the authors' own checkpoints (their README lists them) but not in torchgeo's copies.
UNUSED = ("mask_token", "norm.weight", "norm.bias", "projector.weight", "projector.bias")
# What the v1 weights, which torchgeo ships, were trained with for VV and VH: a label for radar, no physical
# wavelength (pretraining/datasets/waves.json of github.com/zhu-xlab/DOFA; v2 has 5.405).
SENTINEL1_WAVELENGTH_UM = 3.75
# Optical bands seen in pretraining lie between 0.4 and 2.5; beyond, the weight generator would extrapolate.
OPTICAL_UM = (0.3, 3.0)


def build(request: EncoderRequest) -> Encoder:
    """See the module.

    Raises:
        RequestError: an input size other than 224, a band without a wavelength that DOFA knows, or pretrained
            weights of a variant that has none.
    """
    if request.image_size != 224:
        raise RequestError(f"--image-size {request.image_size}: dofa takes 224; images are resized to it")
    if request.weights == "pretrained" and request.variant not in PUBLISHED:
        raise RequestError(
            f"no weights are published for dofa {request.variant}; use --variant {' or '.join(PUBLISHED)}, "
            "--weights PATH, or --weights random for an untrained one"
        )
    return DOFAEncoder(request, [training_wavelength_um(band) for band in request.bands])


def training_wavelength_um(band: Band) -> float:
    """The number by which DOFA knows a band, in micrometres.

    Raises:
        RequestError: it has none.
    """
    if band.sensor == "S1":
        return SENTINEL1_WAVELENGTH_UM
    if band.wavelength_um is None:
        raise RequestError(f"dofa needs a wavelength for every band, and {band.name} has none; leave it out")
    low, high = OPTICAL_UM
    if not low <= band.wavelength_um <= high:
        raise RequestError(
            f"dofa knows optical bands of {low:g} to {high:g} micrometres and Sentinel-1; {band.name} is at "
            f"{band.wavelength_um:g}: give micrometres, or leave it out"
        )
    return float(band.wavelength_um)


class DOFAEncoder(Encoder):
    """torchgeo's DOFA; the mean of its patch tokens through `fc_norm`.

    Args:
        request: the complete request.
        wavelengths_um: C, as the weights were trained with.
    """

    def __init__(self, request: EncoderRequest, wavelengths_um: list[float]) -> None:
        model = random_module(lambda: MAKE[request.variant](num_classes=0))
        weights = load_weights(
            model,
            request.weights,
            hub_name=PUBLISHED.get(request.variant, ""),
            may_miss=("fc_norm.weight", "fc_norm.bias"),  # not published; a new LayerNorm's 1 and 0 are neutral
            unused=UNUSED,
        )
        super().__init__(
            request,
            dim=int(model.embed_dim),  # type: ignore[arg-type]
            normalization=make_normalization(request.normalize, request.bands, request.statistics),
            weights=weights,
            settings={"dofa_wavelengths_um": wavelengths_um},
        )
        model.patch_embed = StaticEmbedding(model.patch_embed, wavelengths_um)  # type: ignore[arg-type]
        self.model = model

    def embed(self, images: Tensor, lonlat: Tensor | None) -> Tensor:
        """See `Encoder.embed`."""
        return self.model.forward_features(images, [])  # type: ignore[operator]


class StaticEmbedding(nn.Module):
    """DOFA's patch embedding for one set of bands: the generated weights, kept, in one convolution.

    The normalisation of the images must stay outside: the convolution pads with zeros, which are the mean.

    Args:
        embedding: torchgeo's, on the CPU in fp32; its generator runs once here.
        wavelengths_um: C.
    """

    weight: Tensor  # (D, C, P, P)
    bias: Tensor  # (D,)

    def __init__(self, embedding: DOFAEmbedding, wavelengths_um: list[float]) -> None:
        super().__init__()
        side = embedding.kernel_size
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            waves = position_embedding(embedding.dynamic_embed_dim, torch.tensor(wavelengths_um) * 1000)
            weight, bias = embedding.weight_generator.eval()(embedding.fclayer(waves))
        kernels = weight.reshape(len(wavelengths_um), side, side, embedding.embed_dim).permute(3, 0, 1, 2)
        self.register_buffer("weight", (kernels * embedding.scaler).contiguous())
        self.register_buffer("bias", bias.reshape(embedding.embed_dim) * embedding.scaler)
        self.stride = side

    def forward(self, images: Tensor, wavelengths: Tensor) -> tuple[Tensor, Tensor]:
        """Embed patches as torchgeo's embedding does: (B, C, 224, 224) to (B, N, D); wavelengths pass through."""
        tokens = F.conv2d(images, self.weight, self.bias, stride=self.stride, padding=1)
        return tokens.flatten(2).transpose(1, 2), wavelengths
