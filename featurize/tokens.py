"""What models that turn patches into tokens share: pooling, patch sizes, embeddings made for one set of bands."""

from collections.abc import Callable, Collection, Sequence
from functools import partial
from threading import get_ident
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from data.bands import Band
from data.errors import RequestError
from featurize.encoder import TOKEN_POOLINGS, EncoderRequest, FrozenModel
from featurize.shapes import Embeddings, Images, Lonlat

Tokens = Float[Tensor, "batch tokens _"]
GEM_POWER = 3.0
OPTICAL_UM = (0.3, 3.0)  # pretraining saw optical bands of 0.4 to 2.5; far beyond, generated weights extrapolate


def pool_tokens(tokens: Tokens, pooling: str, *, prefix: int = 1, norm: nn.Module | None = None) -> Embeddings:
    """One embedding per image.

    Args:
        tokens: after the last layer.
        pooling: ``cls`` (the first token), ``mean``, ``max``, ``std`` or ``gem`` (of the patch tokens), or several
            joined by ``+``, whose embeddings are concatenated.
        prefix: tokens before those of the patches: the class token and registers.
        norm: layer norm of each pooling's result.
    """
    patches = tokens[:, prefix:]
    parts = []
    for name in pooling.split("+"):
        if name == "cls":
            parts.append(tokens[:, 0])
        elif name == "mean":
            parts.append(patches.mean(dim=1))
        elif name == "patches":  # of `featurize.dense`
            parts.append(patches.flatten(1))
        elif name == "max":
            parts.append(patches.amax(dim=1))
        elif name == "std":
            parts.append(patches.std(dim=1, correction=0))
        else:
            # generalized mean with power 3 of positive values (Radenovic et al. 2018, arXiv:1711.02512, equation 3)
            parts.append(patches.float().clamp_min(1e-6).pow(GEM_POWER).mean(dim=1).pow(1 / GEM_POWER))
    parts = [norm(part) for part in parts] if norm else parts
    return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]


def pooled_dim(width: int, pooling: str, *, layers: int = 1) -> int:
    """D of `pool_tokens` for tokens of this width, concatenated over some layers."""
    return width * len(pooling.split("+")) * layers


def chosen_layers(name: str, layer: str | None, depth: int) -> tuple[int, ...]:
    """The layers whose tokens are pooled, counted from 1.

    Args:
        name: of the model.
        layer: ``--layer``: a number, counted from the end where it is negative, or several joined by commas; None is
            the last layer.
        depth: of the model.

    Raises:
        RequestError: no such layer, or one named twice.
    """
    if layer is None:
        return (depth,)
    try:
        numbers = [int(word) for word in layer.split(",")]
    except ValueError as error:
        raise RequestError(f"--layer {layer}: expected numbers such as -4, or several as in --layer=-4,-1") from error
    found = tuple(number + depth + 1 if number < 0 else number for number in numbers)
    if not all(1 <= number <= depth for number in found) or len(set(found)) < len(found):
        raise RequestError(f"--layer {layer}: {name} has layers 1 to {depth}, or -1 to -{depth}; name each once")
    return found


def noise_for(request: EncoderRequest) -> Images:
    """A fixed random image for trying out a model."""
    side = request.image_size or 0
    return torch.randn(1, len(request.bands), side, side, generator=torch.Generator().manual_seed(0))


class TokenModel(FrozenModel):
    """A model whose embedding is pooled from its tokens: those after the last block, or after those of ``--layer``.

    A model's file names the blocks and passes `run`, or overrides it. Tokens of inner blocks are recorded while the
    model runs, and pass through its final norm as the last ones do.

    Args:
        request: the complete request.
        width: of a token.
        blocks: of the model, in order; each returns tokens (B, T, D), or a grid (B, H, W, D).
        norm: the model's layer norm after the last block.
        prefix: tokens before those of the patches.
        pooled_norm: the layer norm of models that pool first; every pooling's part goes through it.
        own: the pooling that `run` makes itself, of the last layer. Where it is not one of tokens (``gap``), `run`
            returns tokens for the others.
        residual: whether a block returns only what it adds to its input.
        run: see the method of this name.
        about: for `FrozenModel`.
    """

    def __init__(
        self,
        request: EncoderRequest,
        *,
        width: int,
        blocks: Sequence[nn.Module],
        norm: nn.Module | None = None,
        prefix: int = 1,
        pooled_norm: nn.Module | None = None,
        own: str | None = None,
        residual: bool = False,
        run: Callable[[Images], Tensor] | None = None,
        **about: Any,
    ) -> None:
        name = request.name
        layers = chosen_layers(name, request.layer, len(blocks))
        if own and request.pooling == own and request.layer and own not in TOKEN_POOLINGS:
            raise RequestError(f"--pooling {own}: {name} has it for the last layer only; use mean with --layer")
        super().__init__(request, dim=pooled_dim(width, request.pooling, layers=len(layers)), **about)
        self.layers, self.prefix, self.residual = layers, prefix, residual
        self.given = run
        self.norms = (norm or nn.Identity(), pooled_norm or nn.Identity())  # in a tuple: they are the model's already
        self.own = request.pooling == own and not request.layer
        self.notes = bool(request.layer) or (own in TOKEN_POOLINGS and not self.own)
        self.noted: dict[int, dict[int, Tensor]] = {}  # by thread, as several may embed at once, and by layer
        for layer in layers if self.notes else ():
            blocks[layer - 1].register_forward_hook(partial(self._note, layer))

    def _note(self, layer: int, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.noted.setdefault(get_ident(), {})[layer] = output + inputs[0] if self.residual else output

    def run(self, images: Images) -> Tensor:
        """Tokens after the last layer, or the embedding by a model's `own` pooling."""
        assert self.given
        return self.given(images)

    def embed(self, images: Images, lonlat: Lonlat | None) -> Embeddings:
        """See `FrozenModel.embed`."""
        found = self.run(images)
        return found if self.own else self.pooled(self.chosen(found))

    def chosen(self, last: Tensor) -> list[Tensor]:
        """Tokens of the chosen layers, once the model has run in this thread and returned the last ones."""
        if not self.notes:
            return [last]
        noted = self.noted.pop(get_ident())
        return [self.norms[0](noted[layer]).flatten(1, -2) for layer in self.layers]

    def pooled(self, tokens: Sequence[Tokens]) -> Embeddings:
        """Pool the tokens of each chosen layer."""
        pooling = self.request.pooling
        if pooling == "patches":
            tokens = [torch.cat(list(tokens), dim=2)]
        return torch.cat([pool_tokens(one, pooling, prefix=self.prefix, norm=self.norms[1]) for one in tokens], dim=1)


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
            f"{name} takes optical bands of {low:g} to {high:g} micrometers and Sentinel-1; {band.name} is at "
            f"{band.wavelength_um:g}: check that its wavelength is in micrometers, or leave it out"
        )
    return float(band.wavelength_um)


def ndvi(near_infrared: Float[Tensor, "*shape"], red: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """(near infrared - red) / (near infrared + red), 0 where the sum is not positive."""
    total = near_infrared + red
    return torch.where(total > 0, (near_infrared - red) / total.clamp_min(1e-9), torch.zeros_like(total))


class StaticEmbedding(nn.Module):
    """A patch embedding whose weights are generated from wavelengths, made once for one set of bands.

    Images must be normalized before: the convolution pads with zeros, which are the mean.

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
