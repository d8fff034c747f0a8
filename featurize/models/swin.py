"""Swin: Swin Transformer v2 of SatlasPretrain, for Sentinel-2 or aerial images (torchgeo)."""

from typing import Any, NamedTuple

import torch
from torchgeo.models import Swin_V2_B_Weights, Swin_V2_T_Weights
from torchvision.models import swin_v2_b, swin_v2_t

from data.bands import require_bands
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel, check_rgb
from featurize.normalization import scaled
from featurize.tokens import TokenModel, check_patch_size
from featurize.weights import load_weights, random_module

CARD = ModelCard(
    variant=(
        "base-s2", "base-s2-rgb", "base-aerial", "tiny-s2", "tiny-s2-rgb", "base-s2-multi", "base-s2-rgb-multi",
        "base-aerial-multi", "tiny-s2-multi", "tiny-s2-rgb-multi",
    ),
    pooling=("mean", "max", "std", "gem", "mean+std"),
    normalize=("own", "zscore", "none"),
    weights=("pretrained", "random", "PATH"),
    image_size=256,
    default_bands=("B04,B03,B02,B05,B06,B07,B08,B11,B12",),
    sizes="multiples of 32",
    dim="1024 (base), 768 (tiny)",
    bands="Sentinel-2 B04 B03 B02 B05-B08 B11 B12; red, green, blue of the -rgb and -aerial variants",
    files="torchgeo/satlas: sentinel2_swinb_si_ms-fe22a12c.pth and others; -multi: trained on several images",
    license="ODC-BY (weights), MIT (torchgeo)",
    citation="Bastani et al. 2023, SatlasPretrain, arXiv:2211.15660",
)  # fmt: skip

SENTINEL2 = ("B04", "B03", "B02", "B05", "B06", "B07", "B08", "B11", "B12")
STRIDE = 32
# Satlas reads B04, B03 and B02 from ESA's true-color image, whose 255 stands for a reflectance of 0.3558, and the
# other bands as digital numbers over 8160 (its Normalization.md).
TRUE_COLOUR_WHITE_DN, WHITE_DN = 3558.0, 8160.0


class Variant(NamedTuple):
    """One published checkpoint."""

    make: Any  # torchvision's function
    dim: int  # D
    channels: int  # of the images
    url: str  # of the weights


def _variant(name: str) -> Variant:
    base, many = name.startswith("base"), name.endswith("-multi")
    kind = {"s2": "SENTINEL2_{}_MS_SATLAS", "s2-rgb": "SENTINEL2_{}_RGB_SATLAS", "aerial": "NAIP_RGB_{}_SATLAS"}[
        name.removesuffix("-multi").partition("-")[2]
    ]
    weights = (Swin_V2_B_Weights if base else Swin_V2_T_Weights)[kind.format("MI" if many else "SI")]
    return Variant(swin_v2_b if base else swin_v2_t, 1024 if base else 768, weights.meta["in_chans"], weights.url)


def default_bands(request: EncoderRequest) -> list[str]:
    """Nine bands, or three of the variants for pictures."""
    variant = request.variant or CARD.variant[0]
    return list(CARD.default_bands) if _variant(variant).channels == len(SENTINEL2) else ["rgb"]


def build(request: EncoderRequest) -> FrozenModel:
    """The model of torchvision without its classifier: the last stage's normalized features, pooled."""
    check_patch_size("swin", request.image_size, STRIDE, example=256)
    wanted = _variant(request.variant)
    if wanted.channels == len(SENTINEL2):
        require_bands(f"swin {request.variant}", request.bands, SENTINEL2)
    else:
        check_rgb(f"swin {request.variant}", request.bands)
    own = None
    if request.normalize == "own":
        white = [TRUE_COLOUR_WHITE_DN if band.colour else WHITE_DN for band in request.bands]
        unit = [255.0 if band.sensor == "RGB" else dn for band, dn in zip(request.bands, white, strict=True)]
        own = scaled("own", request.bands, unit=unit, clip=True)
    model: Any = random_module(lambda: _model(wanted))
    weights = load_weights(model, request.weights, hub_name=wanted.url)
    model.head = torch.nn.Identity()
    return TokenModel(
        request,
        model=model,
        run=model.forward,
        width=wanted.dim,
        blocks=[model.features],  # stages are of several widths: no choice of layers
        norm=model.norm,
        prefix=0,
        own="mean",
        normalization=own,
        weights=weights,
    )


def _model(wanted: Variant) -> Any:
    model = wanted.make()
    first = model.features[0][0]
    model.features[0][0] = torch.nn.Conv2d(wanted.channels, first.out_channels, kernel_size=4, stride=4)
    return model
