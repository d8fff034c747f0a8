"""DOFA: one vision transformer for any set of bands, conditioned on their wavelengths (torchgeo)."""

from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor
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
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel
from featurize.shapes import Images
from featurize.tokens import StaticEmbedding, TokenModel, check_published, optical_wavelength_um
from featurize.weights import load_weights, random_module

CARD = ModelCard(
    variant=("base", "large", "small", "huge"),
    pooling=("mean", "cls", "cls+mean", "max", "std", "gem", "mean+std"),
    normalize=("zscore", "satlas", "none"),
    weights=("pretrained", "random", "PATH"),
    image_size=224,
    default_bands=("s2-9", "rgb", "s1"),
    sizes="fixed",
    dim="768 (base), 1024 (large), 384 (small), 1280 (huge)",
    bands="any Sentinel-1, Sentinel-2 or RGB bands, and others with a wavelength of 0.3 to 3 micrometers",
    files="torchgeo/dofa: dofa_base_patch16_224-a0275954.pth, dofa_large_patch16_224-0ff904d3.pth",
    license="CC-BY-4.0 (weights), MIT (torchgeo)",
    citation="Xiong et al. 2024, arXiv:2403.15356",
    layers=True,
)

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


def build(request: EncoderRequest) -> FrozenModel:
    """DOFA of torchgeo; its tokens are pooled, by the mean in training, and then go through `fc_norm`."""
    if request.image_size != 224:
        raise RequestError(f"--image-size {request.image_size}: dofa takes 224; images are resized to it")
    check_published("dofa", request, PUBLISHED)
    wavelengths_um = [training_wavelength_um(band) for band in request.bands]
    model: Any = random_module(lambda: MAKE[request.variant](num_classes=0))
    weights = load_weights(
        model,
        request.weights,
        hub_name=PUBLISHED.get(request.variant, ""),
        may_miss=("fc_norm.weight", "fc_norm.bias"),  # not published; a new LayerNorm's 1 and 0 are neutral
        unused=UNUSED,
    )
    model.patch_embed = DOFAStaticEmbedding(model.patch_embed, wavelengths_um)
    return TokenModel(
        request,
        model=model,
        run=lambda images: model.forward_features(images, []),
        width=model.embed_dim,
        blocks=model.blocks,
        pooled_norm=model.fc_norm,
        own="mean",
        weights=weights,
        settings={"dofa_wavelengths_um": wavelengths_um},
    )


def training_wavelength_um(band: Band) -> float:
    """The wavelength that the weights were trained with for a band; a RequestError if there is none."""
    return SENTINEL1_WAVELENGTH_UM if band.sensor == "S1" else optical_wavelength_um("dofa", band)


class DOFAStaticEmbedding(StaticEmbedding):
    """Called as torchgeo's DOFA calls its own embedding."""

    def __init__(self, embedding: DOFAEmbedding, wavelengths_um: list[float]) -> None:
        nanometres = torch.tensor(wavelengths_um) * 1000
        super().__init__(embedding, position_embedding(embedding.dynamic_embed_dim, nanometres))

    def forward(
        self, images: Images, wavelengths: Shaped[Tensor, "..."]
    ) -> tuple[Float[Tensor, "batch tokens dim"], Shaped[Tensor, "..."]]:
        """Embed patches; wavelengths pass through."""
        return super().forward(images), wavelengths
