"""Copernicus-FM: one vision transformer for all Sentinels, conditioned on wavelength and location (torchgeo)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchgeo.models import CopernicusFM_Base_Weights, copernicusfm_base
from torchgeo.models.copernicusfm import DynamicPatchEmbed

from data.bands import Band
from data.errors import RequestError
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel
from featurize.shapes import Embeddings, Images, Lonlat
from featurize.tokens import StaticEmbedding, TokenModel, check_patch_size
from featurize.weights import load_weights, random_module

CARD = ModelCard(
    pooling=("mean", "cls", "cls+mean", "max", "std", "gem", "mean+std"),
    normalize=("zscore", "none"),
    weights=("pretrained", "random", "PATH"),
    image_size=224,
    default_bands=("s2-13", "s2-12", "rgb", "s1"),
    sizes="multiples of 16",
    dim="768",
    bands="any of Sentinel-1, Sentinel-2 or RGB; locations are used where the dataset has them",
    files="torchgeo/copernicus-fm: CopernicusFM_ViT_base_varlang-085350e4.pth",
    license="CC-BY-4.0",
    citation="Wang et al. 2025, arXiv:2503.11849",
    layers=True,
)

PATCH = 16
# Center wavelength and bandwidth in nanometers, as the authors give them to the model (Copernicus-Bench's
# configs/dataset/cobench_eurosat_s2.yaml and cobench_bigearthnet_s1.yaml); plain pictures as Sentinel-2's colors.
RADAR_NM = (5e7, 1e9)
NUMBERS_NM = {
    "B01": (440, 20), "B02": (490, 65), "B03": (560, 35), "B04": (665, 30), "B05": (705, 15), "B06": (740, 15),
    "B07": (783, 20), "B08": (842, 115), "B8A": (860, 20), "B09": (940, 20), "B10": (1370, 30), "B11": (1610, 90),
    "B12": (2190, 180), "VV": RADAR_NM, "VH": RADAR_NM, "red": (665, 30), "green": (560, 35), "blue": (490, 65),
}  # fmt: skip
# Ground that a patch of 16 x 16 pixels covers, which the authors do not change with resizing (their EuroSAT wrapper).
AREA_KM2 = (PATCH * 10 / 1000) ** 2


def build(request: EncoderRequest) -> FrozenModel:
    """See the module. The day, and the location if the dataset has none, are the model's learned 'unknown'."""
    check_patch_size("copernicusfm", request.image_size, PATCH)
    return CopernicusFMEncoder(request)


def numbers_nm(band: Band) -> tuple[float, float]:
    """Wavelength and bandwidth by which the model knows a band."""
    if band.sensor not in ("S1", "S2", "RGB"):
        raise RequestError(
            f"copernicusfm needs a wavelength and a bandwidth, and knows none for {band.name}; it takes Sentinel-1, "
            "Sentinel-2 and RGB bands"
        )
    return NUMBERS_NM[band.name]


class CopernicusFMEncoder(TokenModel):
    """torchgeo's Copernicus-FM; its tokens are pooled, by the mean in training, and then go through `fc_norm`."""

    def __init__(self, request: EncoderRequest) -> None:
        numbers = [numbers_nm(band) for band in request.bands]
        model: Any = random_module(copernicusfm_base)
        weights = load_weights(
            model,
            request.weights,
            hub_name=CopernicusFM_Base_Weights.CopernicusFM_ViT.url,
            may_miss=("fc_norm.weight", "fc_norm.bias"),  # not published; a new LayerNorm's 1 and 0 are neutral
        )
        area = AREA_KM2 if all(band.gsd_m for band in request.bands) else None
        super().__init__(
            request,
            width=model.fc_norm.normalized_shape[0],
            blocks=model.blocks,
            pooled_norm=model.fc_norm,
            own="mean",
            weights=weights,
            settings={
                "copernicusfm_numbers_nm": [list(pair) for pair in numbers],
                "patch_area_km2": area,
                "day": None,
                "location": "where known",
            },
        )
        own = model.patch_embed_spectral
        model.patch_embed_spectral = StaticEmbedding(own, encoded(own, numbers))
        model.patch_embed_variable = nn.Identity()  # for variables described in words; 30 million parameters
        self.model = model
        self.area = float("nan") if area is None else area

    def embed(self, images: Images, lonlat: Lonlat | None) -> Embeddings:
        """See `FrozenModel.embed`."""
        metadata = images.new_full((len(images), 4), float("nan"))
        metadata[:, 3] = self.area
        if lonlat is None:
            return self._embed(images, metadata)
        metadata[:, :2] = lonlat
        # The model accepts unknown locations only for a whole batch: known and unknown ones are embedded apart.
        features = images.new_empty(len(images), self.dim)
        known = ~metadata[:, :2].isnan().any(dim=1)
        for rows in (known, ~known):
            if rows.any():
                features[rows] = self._embed(images[rows], metadata[rows]).to(features.dtype)
        return features

    def _embed(self, images: Tensor, metadata: Tensor) -> Tensor:
        found = self.model.forward_features(images, metadata, wavelengths=[], bandwidths=[])
        return found if self.own else self.pooled(self.chosen(found))


def encoded(embedding: DynamicPatchEmbed, numbers: list[tuple[float, float]]) -> Float[Tensor, "bands _"]:
    """What torchgeo's embedding generates its weights from: expansions of wavelengths and bandwidths."""
    wavelengths, bandwidths = torch.tensor(numbers).T
    waves = embedding.spectrum_central_expansion(wavelengths, embedding.hyper_dim)
    return waves + embedding.spectrum_bandwidth_expansion(bandwidths, embedding.hyper_dim)
