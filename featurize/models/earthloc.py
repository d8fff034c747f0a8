"""EarthLoc: ResNet-50 with a feature mixer, trained to localize astronaut photographs of the Earth (torchgeo)."""

from typing import Any

from torchgeo.models.earthloc import EarthLoc, EarthLoc_Weights

from data.errors import RequestError
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel, check_rgb
from featurize.weights import load_weights, random_module

CARD = ModelCard(
    pooling=("own",),
    normalize=("imagenet", "zscore", "none"),
    weights=("pretrained", "random", "PATH"),
    image_size=320,
    default_bands=("rgb",),
    sizes="fixed",
    dim="4096",
    bands="red, green, blue",
    files="torchgeo/earthloc: earthloc-287af725.pth",
    license="MIT",
    citation="Berton et al. 2024, arXiv:2403.06758",
)

SIDE = 320


def build(request: EncoderRequest) -> FrozenModel:
    """EarthLoc of torchgeo: descriptors of length 1."""
    check_rgb("earthloc", request.bands)
    if request.image_size != SIDE:
        raise RequestError(f"--image-size {request.image_size}: earthloc takes {SIDE}; images are resized to it")
    model: Any = random_module(EarthLoc)
    weights = load_weights(model, request.weights, hub_name=EarthLoc_Weights.SENTINEL2_RESNET50.url)
    return FrozenModel(request, dim=model.desc_dim, weights=weights, model=model)
