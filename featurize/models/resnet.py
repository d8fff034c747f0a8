"""ResNet: convolutional networks with ImageNet or Sentinel weights (timm, torchgeo)."""

from dataclasses import dataclass
from typing import Any

import timm
from torchgeo.models import ResNet18_Weights, ResNet50_Weights

from data.bands import BAND_SETS, require_bands
from data.errors import RequestError
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel, check_rgb
from featurize.weights import load_weights, random_module

CARD = ModelCard(
    variant=(
        "imagenet", "sentinel2-moco", "sentinel2-dino", "sentinel2-decur", "sentinel2-softcon", "sentinel2-rgb-moco",
        "sentinel1-moco", "sentinel1-decur", "sentinel1-softcon", "sentinel2-moco-18", "sentinel2-rgb-moco-18",
    ),
    pooling=("mean",),
    normalize=("imagenet", "reflectance", "ssl4eo", "zscore", "none"),
    weights=("pretrained", "random", "PATH"),
    image_size=224,
    default_bands=("rgb",),
    sizes="at least 32",
    dim="2048; 512 for variants ending in 18",
    bands="imagenet: red, green, blue; sentinel2: s2-13; sentinel2-rgb: B04,B03,B02; sentinel1: s1",
    files="timm/resnet50.a1_in1k: model.safetensors; torchgeo/resnet50_sentinel2_all_moco, ..._all_dino, "
    "..._rgb_moco, resnet50_sentinel1_all_moco, resnet18_sentinel2_all_moco, ..._rgb_moco; "
    "torchgeo/decur: rn50_ssl4eo-s12_...; wangyi111/softcon: B13_rn50_softcon.pth, B2_rn50_softcon.pth",
    license="Apache-2.0 (imagenet, decur), CC-BY-4.0 (the others)",
    citation="He et al. 2015, arXiv:1512.03385; moco, dino: Wang et al. 2023, arXiv:2211.07044; "
    "decur: arXiv:2309.05300; softcon: arXiv:2405.20462",
)  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One set of published weights."""

    url: str  # the published file
    # the scaling it was trained with, by torchgeo's transforms; they also resize to 256 and cut out the inner 224,
    # where here the whole patch is resized to 224
    normalize: str
    bands: str  # a band set, or names
    architecture: str = "resnet50"  # timm's name

    def band_names(self) -> tuple[str, ...]:
        """The bands in the order of the first convolution's channels."""
        return BAND_SETS.get(self.bands) or tuple(self.bands.split(","))


RGB_DN = "B04,B03,B02"
VARIANTS = {
    # timm's default for the name resnet50: A1 recipe of Wightman et al. 2021, arXiv:2110.00476
    "imagenet": Variant(
        "https://huggingface.co/timm/resnet50.a1_in1k/resolve/main/model.safetensors", "imagenet", "rgb"
    ),
    "sentinel2-moco": Variant(ResNet50_Weights.SENTINEL2_ALL_MOCO.url, "reflectance", "s2-13"),
    "sentinel2-dino": Variant(ResNet50_Weights.SENTINEL2_ALL_DINO.url, "reflectance", "s2-13"),
    "sentinel2-decur": Variant(ResNet50_Weights.SENTINEL2_ALL_DECUR.url, "reflectance", "s2-13"),
    "sentinel2-softcon": Variant(ResNet50_Weights.SENTINEL2_ALL_SOFTCON.url, "ssl4eo", "s2-13"),
    "sentinel2-rgb-moco": Variant(ResNet50_Weights.SENTINEL2_RGB_MOCO.url, "reflectance", RGB_DN),
    "sentinel1-moco": Variant(ResNet50_Weights.SENTINEL1_GRD_MOCO.url, "ssl4eo", "s1"),
    "sentinel1-decur": Variant(ResNet50_Weights.SENTINEL1_GRD_DECUR.url, "ssl4eo", "s1"),
    "sentinel1-softcon": Variant(ResNet50_Weights.SENTINEL1_GRD_SOFTCON.url, "ssl4eo", "s1"),
    "sentinel2-moco-18": Variant(ResNet18_Weights.SENTINEL2_ALL_MOCO.url, "reflectance", "s2-13", "resnet18"),
    "sentinel2-rgb-moco-18": Variant(ResNet18_Weights.SENTINEL2_RGB_MOCO.url, "reflectance", RGB_DN, "resnet18"),
}


def defaults(request: EncoderRequest) -> dict[str, Any]:
    """Each set of weights has its own scaling."""
    return {"normalize": variant_of(request).normalize}


def default_bands(request: EncoderRequest) -> list[str]:
    """Each set of weights has its own bands."""
    return [variant_of(request).bands]


def variant_of(request: EncoderRequest) -> Variant:
    """The weights asked for, or the card's first."""
    return VARIANTS[request.variant or CARD.variant[0]]


def build(request: EncoderRequest) -> FrozenModel:
    """ResNet of timm without its classifier: the last feature map, averaged over the image; sizes of 32 and more."""
    if not request.image_size or request.image_size < 32:
        raise RequestError(f"--image-size {request.image_size}: resnet takes 32 and more, and was trained at 224")
    variant = VARIANTS[request.variant]
    if request.variant == "imagenet":
        check_rgb("resnet imagenet", request.bands)
    else:
        require_bands(f"resnet {request.variant}", request.bands, variant.band_names())
    channels = len(request.bands)
    model: Any = random_module(lambda: timm.create_model(variant.architecture, in_chans=channels, num_classes=0))
    weights = load_weights(model, request.weights, hub_name=variant.url, unused=("fc.",))
    return FrozenModel(request, dim=model.num_features, weights=weights, model=model)
