"""Image statistics: mean, standard deviation, minimum and maximum of each band (baseline)."""

import torch

from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel
from featurize.shapes import Embeddings, Images, Lonlat
from featurize.weights import NO_WEIGHTS

CARD = ModelCard(
    pooling=("mean+std+min+max",),
    normalize=("none", "zscore"),
    default_bands=("all",),
    sizes="the images' own; any",
    dim="4 per band",
    bands="any",
    files="none",
    license="MIT",
    citation="Corley et al. 2024, arXiv:2305.13456 (a baseline)",
)


def build(request: EncoderRequest) -> FrozenModel:
    """See the module."""
    return Statistics(request)


class Statistics(FrozenModel):
    """Mean, population standard deviation, minimum and maximum, each over all bands in turn."""

    expects = None
    images_a_core = 16

    def __init__(self, request: EncoderRequest) -> None:
        super().__init__(
            request,
            dim=4 * len(request.bands),
            weights=NO_WEIGHTS,
            dtype="float32",
            autocast=False,
        )

    def embed(self, images: Images, lonlat: Lonlat | None) -> Embeddings:
        """See `FrozenModel.embed`."""
        pixels = images.flatten(2)
        variance, mean = torch.var_mean(pixels, dim=-1, correction=0)
        low, high = pixels.aminmax(dim=-1)
        return torch.cat((mean, variance.sqrt(), low, high), dim=1)
