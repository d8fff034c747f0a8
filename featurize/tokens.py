"""What models that turn patches into tokens share: pooling, patch sizes, embeddings made for one set of bands."""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.bands import Band
from data.errors import RequestError
from featurize.encoder import EncoderRequest

OPTICAL_UM = (0.3, 3.0)  # pretraining saw optical bands of 0.4 to 2.5; far beyond, generated weights extrapolate


def pool_tokens(
    tokens: Float[Tensor, "batch tokens width"], pooling: str, *, prefix: int = 1
) -> Float[Tensor, "batch dim"]:
    """One embedding per image.

    Args:
        tokens: after the last layer.
        pooling: ``cls`` (the first token), ``mean`` (of the patch tokens), ``cls+mean`` or ``mean+std``.
        prefix: tokens before those of the patches: the class token and registers.
    """
    if pooling == "cls":
        return tokens[:, 0]
    patches = tokens[:, prefix:]
    mean = patches.mean(dim=1)
    if pooling == "cls+mean":
        return torch.cat((tokens[:, 0], mean), dim=1)
    return torch.cat((mean, patches.std(dim=1, correction=0)), dim=1) if pooling == "mean+std" else mean


def pooled_dim(width: int, pooling: str) -> int:
    """D of `pool_tokens` for tokens of this width."""
    return width * (1 + pooling.count("+"))


def check_patch_size(name: str, size: int | None, patch: int, *, example: int = 224) -> None:
    """Raise a RequestError unless the input size is a multiple of the patch size."""
    if not size or size % patch:
        raise RequestError(f"--image-size {size}: {name} takes multiples of {patch}, such as {example}")


def check_published(name: str, request: EncoderRequest, published: Collection[str]) -> None:
    """Raise a RequestError if pretrained weights are asked for of a variant that has none."""
    if request.weights == "pretrained" and request.variant not in published:
        raise RequestError(
            f"no weights are published for {name} {request.variant}; use --variant {' or '.join(published)}, "
            "--weights PATH, or --weights random for an untrained model"
        )


def optical_wavelength_um(name: str, band: Band) -> float:
    """Wavelength of an optical band that a model can be given.

    Raises:
        RequestError: the band has none, or one outside `OPTICAL_UM`.
    """
    if band.wavelength_um is None:
        raise RequestError(f"{name} needs a wavelength for every band, and {band.name} has none; leave it out")
    low, high = OPTICAL_UM
    if not low <= band.wavelength_um <= high:
        raise RequestError(
            f"{name} takes optical bands of {low:g} to {high:g} micrometres and Sentinel-1; {band.name} is at "
            f"{band.wavelength_um:g}: check that its wavelength is in micrometres, or leave it out"
        )
    return float(band.wavelength_um)


def ndvi(near_infrared: Float[Tensor, "*shape"], red: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """(near infrared - red) / (near infrared + red), 0 where the sum is not positive."""
    total = near_infrared + red
    return torch.where(total > 0, (near_infrared - red) / total.clamp_min(1e-9), torch.zeros_like(total))


class StaticEmbedding(nn.Module):
    """A patch embedding whose weights are generated from wavelengths, made once for one set of bands.

    Images must be normalised before: the convolution pads with zeros, which are the mean.

    Args:
        embedding: torchgeo's, of DOFA or Copernicus-FM, on the CPU in fp32.
        waves: the encoded wavelengths of the C bands.
    """

    weight: Tensor  # (D, C, P, P)
    bias: Tensor  # (D,)

    def __init__(self, embedding: Any, waves: Tensor) -> None:
        super().__init__()
        side, dim = embedding.kernel_size, embedding.embed_dim
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            weight, bias = embedding.weight_generator.eval()(embedding.fclayer(waves))
        kernels = weight.reshape(len(waves), side, side, dim).permute(3, 0, 1, 2)
        self.register_buffer("weight", (kernels * embedding.scaler).contiguous())
        self.register_buffer("bias", bias.reshape(dim) * embedding.scaler)

    def forward(self, images: Float[Tensor, "batch bands height width"], **_: Any) -> Float[Tensor, "batch tokens dim"]:
        """Embed patches; what torchgeo's models say about the bands is not needed any more."""
        tokens = F.conv2d(images, self.weight, self.bias, stride=self.weight.shape[-1], padding=1)
        return tokens.flatten(2).transpose(1, 2)
