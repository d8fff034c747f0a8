"""Presto: transformer for pixel time series, used with one date on pixels or block means (torchgeo)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchgeo.models.presto import BANDS_GROUPS_IDX, NUM_DYNAMIC_WORLD_CLASSES, Presto, Presto_Weights

from data.bands import Band, require_whole_groups
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel
from featurize.normalization import Normalization, scaled
from featurize.shapes import Embeddings, Images, Lonlat
from featurize.tokens import TokenModel, ndvi
from featurize.weights import load_weights, random_module

CARD = ModelCard(
    pooling=("mean", "mean+std", "max", "std", "gem"),
    normalize=("presto",),
    weights=("pretrained", "random", "PATH"),
    image_size=16,
    default_bands=("VV,VH,B02,B03,B04,B05,B06,B07,B08,B8A,B11,B12", "s2-10", "s1", "B02,B03,B04"),
    sizes="side of the grid that images are averaged to, at most their own",
    dim="128",
    bands="Sentinel-1 VV VH and Sentinel-2 B02-B08 B8A B11 B12, in whole band groups; needs locations",
    files="torchgeo/presto: model-e5e57c68.pth; the authors' default_model.pt works too",
    license="MIT",
    citation="Tseng et al. 2023, arXiv:2304.14065",
    layers=True,
)

# Order of the 17 channels (torchgeo's BANDS_GROUPS_IDX counts in it).
CHANNELS = ("VV", "VH", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
N_CHANNELS, NDVI = 17, 16
# The authors' EuroSAT evaluation, whose images have no date, takes month 1 (0 is January) for all.
MONTH = 1
# Pixels in one pass: bounds memory, 7 tokens of 128 numbers per pixel.
PIXELS_A_PASS = 16384


def build(request: EncoderRequest) -> FrozenModel:
    """See the module. ``--image-size N`` cuts the patch into N x N block means; its own side gives each pixel."""
    groups = [[CHANNELS[i] for i in group if i < len(CHANNELS)] for group in BANDS_GROUPS_IDX.values()]
    require_whole_groups("presto", request.bands, [members for members in groups if members])
    return PrestoEncoder(request)


def scaling(bands: Sequence[Band]) -> Normalization:
    """Sentinel-2 digital numbers / 10,000; Sentinel-1 (dB + 25) / 25."""
    radar = [band.sensor == "S1" for band in bands]
    unit, low = ([dB if is_radar else dn for is_radar in radar] for dB, dn in ((25.0, 10_000.0), (-25.0, 0.0)))
    return scaled("presto", bands, unit=unit, low=low)


class PrestoEncoder(TokenModel):
    """torchgeo's Presto encoder; its tokens are averaged, then pooled over the patch's pixels or blocks."""

    needs_locations = True

    def __init__(self, request: EncoderRequest) -> None:
        model: Any = random_module(Presto)
        weights = load_weights(model, request.weights, hub_name=Presto_Weights.PRESTO.url)
        super().__init__(
            request,
            width=128,
            blocks=model.encoder.blocks,
            norm=model.encoder.norm,
            prefix=0,
            normalization=scaling(request.bands),
            weights=weights,
            dtype="float32",
            interpolation="area",
            settings={"month": MONTH},
        )
        self.encoder = model.encoder
        names = [band.name for band in request.bands]
        self.places = [CHANNELS.index(name) for name in names]
        self.ndvi_of = (names.index("B08"), names.index("B04")) if {"B08", "B04"} <= set(names) else None
        known = {*self.places, *([NDVI] if self.ndvi_of else [])}
        self.mask = torch.tensor([0.0 if channel in known else 1.0 for channel in range(N_CHANNELS)])

    def embed(self, images: Images, lonlat: Lonlat | None) -> Embeddings:
        """See `FrozenModel.embed`; images are scaled block means."""
        assert lonlat is not None  # see `check_locations`
        channels = self.channels(images)  # (B, P, 17)
        count, pixels = channels.shape[:2]
        latlon = lonlat.flip(1).float().repeat_interleave(pixels, dim=0)
        passes = zip(*(one.split(PIXELS_A_PASS) for one in (channels.flatten(0, 1)[:, None], latlon)), strict=True)
        tokens = torch.cat([self.pixel_embeddings(*one) for one in passes]).reshape(count, pixels, -1)
        return self.pooled(tokens.chunk(len(self.layers), dim=2))

    def channels(self, images: Images) -> Float[Tensor, "batch pixels 17"]:
        """Presto's 17 channels of every pixel, of scaled bands."""
        full = images.new_zeros(len(images), N_CHANNELS, *images.shape[-2:])
        full[:, self.places] = images
        if self.ndvi_of:
            full[:, NDVI] = ndvi(*(images[:, i] for i in self.ndvi_of))
        return full.flatten(2).transpose(1, 2)

    def pixel_embeddings(
        self, x: Float[Tensor, "pixels 1 17"], latlon: Float[Tensor, "pixels 2"]
    ) -> Float[Tensor, "pixels _"]:
        """The mean of the encoder's tokens of each pixel, for one date; of several layers, one after another."""
        unknown_cover = torch.full((len(x), 1), NUM_DYNAMIC_WORLD_CLASSES, dtype=torch.long, device=x.device)
        mask = self.mask.to(x.device).expand(len(x), 1, -1)
        tokens, _, _ = self.encoder(x, unknown_cover, latlon, mask, MONTH)
        return torch.cat([layer.mean(dim=1) for layer in self.chosen(tokens)], dim=1)
