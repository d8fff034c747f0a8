"""TESSERA: transformer for pixel time series of Sentinel-1 and Sentinel-2, used with one date (torchgeo)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchgeo.models.tessera import Tessera, Tessera_Weights

from data.bands import Band, known_band, require_whole_groups
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel
from featurize.normalization import Normalization, scaled
from featurize.shapes import Embeddings, Images, Lonlat
from featurize.tokens import pool_tokens, pooled_dim
from featurize.weights import load_weights, random_module

CARD = ModelCard(
    pooling=("mean", "mean+std", "max", "std", "gem"),
    normalize=("tessera",),
    weights=("pretrained", "random", "PATH"),
    image_size=8,
    default_bands=("VV,VH,B04,B02,B03,B08,B8A,B05,B06,B07,B11,B12", "s2-10", "s1"),
    sizes="side of the grid that images are averaged to, at most their own",
    dim="128 with both sensors, 512 with one",
    bands="Sentinel-1 VV VH and Sentinel-2 B02-B08 B8A B11 B12, all bands of a sensor together",
    files="isaaccorley/tessera: model-44f8d7fe.pth, s2_encoder-28537a8e.pth, s1_encoder-6cb3ba6a.pth",
    license="CC0-1.0 (weights), MIT (torchgeo)",
    citation="Feng et al. 2025, arXiv:2506.20380",
)

# The model's order, which is not that of the wavelengths (issue 21 of github.com/ucam-eo/tessera).
SENTINEL2 = ("B04", "B02", "B03", "B08", "B8A", "B05", "B06", "B07", "B11", "B12")
SENTINEL1 = ("VV", "VH")
URLS = {
    "both": Tessera_Weights.TESSERA.url,
    "s2": Tessera_Weights.TESSERA_SENTINEL2_ENCODER.url,
    "s1": Tessera_Weights.TESSERA_SENTINEL1_ENCODER.url,
}
# Datasets here have no dates: the middle of the year stands for them, for every image alike.
DAY_OF_YEAR = 183.0
# The authors store radar as (20 log10(power) + 50) x 200, so that v dB become (2 v + 50) x 200; their means are then
# -11.3 dB (VV) and -17.5 dB (VH).
S1_UNIT, S1_LOW = 1 / 400.0, -25.0
PIXELS_PER_PASS = 4096  # bounds memory


def build(request: EncoderRequest) -> FrozenModel:
    """See the module. ``--image-size N`` cuts the patch into N x N block means; its own side gives each pixel."""
    require_whole_groups("tessera", request.bands, [SENTINEL1, SENTINEL2])
    return TesseraEncoder(request)


def scaling(bands: Sequence[Band]) -> Normalization:
    """Z-scores with the published statistics, of digital numbers and of radar as the authors store it."""
    known: Any = Tessera_Weights.TESSERA
    numbers = known.transforms[0].normalize
    published = dict(
        zip(map(known_band, known.meta["bands"]), zip(numbers.mean, numbers.std, strict=True), strict=True)
    )
    radar = [band.sensor == "S1" for band in bands]
    return scaled(
        "tessera",
        bands,
        unit=[S1_UNIT if is_radar else 1.0 for is_radar in radar],
        mean=[float(published[band][0]) for band in bands],
        std=[float(published[band][1]) for band in bands],
        low=[S1_LOW if is_radar else 0.0 for is_radar in radar],
    )


class TesseraEncoder(FrozenModel):
    """torchgeo's TESSERA, or one of its encoders; pixels or blocks are embedded and then pooled."""

    def __init__(self, request: EncoderRequest) -> None:
        names = [band.name for band in request.bands]
        sensors = {band.sensor for band in request.bands}
        kind = "both" if len(sensors) == 2 else sensors.pop().lower()
        whole: Any = random_module(Tessera)
        model = {"both": whole, "s2": whole.s2_backbone, "s1": whole.s1_backbone}[kind]
        weights = load_weights(model, request.weights, hub_name=URLS[kind])
        super().__init__(
            request,
            dim=pooled_dim(whole.embed_dim * (1 if kind == "both" else 4), request.pooling),
            normalization=scaling(request.bands),
            weights=weights,
            dtype="float32",
            interpolation="area",
            settings={"day_of_year": DAY_OF_YEAR},
        )
        self.model = model
        self.positions = [[names.index(name) for name in of] for of in (SENTINEL2, SENTINEL1) if of[0] in names]

    def embed(self, images: Images, lonlat: Lonlat | None) -> Embeddings:
        """See `FrozenModel.embed`; images are scaled block means."""
        pixels = self.channels(images)
        parts = [self.model(some) for some in pixels.flatten(0, 1)[:, None].split(PIXELS_PER_PASS)]
        return pool_tokens(torch.cat(parts).reshape(*pixels.shape[:2], -1), self.request.pooling, prefix=0)

    def channels(self, images: Images) -> Float[Tensor, "batch pixels _"]:
        """TESSERA's channels of every pixel, each sensor's followed by the day."""
        day = images.new_full((len(images), 1, *images.shape[-2:]), DAY_OF_YEAR)
        parts = [part for positions in self.positions for part in (images[:, positions], day)]
        return torch.cat(parts, dim=1).flatten(2).transpose(1, 2)
