"""Panopticon: DINOv2 for any sensor, conditioned on wavelengths (torchgeo)."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchgeo.models import Panopticon, Panopticon_Weights
from torchgeo.models.copernicusfm import resize_abs_pos_embed

from data.bands import Band
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel
from featurize.shapes import Images
from featurize.tokens import TokenModel, Tokens, check_patch_size, optical_wavelength_um
from featurize.weights import load_weights, random_module

CARD = ModelCard(
    pooling=("cls", "mean", "cls+mean", "max", "std", "gem", "mean+std"),
    normalize=("zscore", "none"),
    weights=("pretrained", "random", "PATH"),
    image_size=224,
    default_bands=("s2-12", "rgb", "s1"),
    sizes="multiples of 14",
    dim="768",
    bands="any Sentinel-1, Sentinel-2 or RGB bands, and others with a wavelength of 0.3 to 3 micrometers",
    files="lewaldm/panopticon: panopticon_vitb14_teacher.pth",
    license="Apache-2.0",
    citation="Waldmann et al. 2025, arXiv:2503.10845",
    layers=True,
)

PATCH, TRAINED_SIZE = 14, 518  # DINOv2's grid, which the published position embeddings have; fine-tuned at 224
# Whole nanometers, as the model cuts them. Red, green, blue: the authors' README. The others: ESA's spectral responses
# of Sentinel-2A (COPE-GSEG-EOPG-TN-15-0007), as the authors take theirs from spectral responses.
OPTICAL_NM = {
    "B01": 442, "B02": 493, "B03": 559, "B04": 664, "B05": 704, "B06": 740, "B07": 782, "B08": 832, "B8A": 864,
    "B09": 945, "B10": 1373, "B11": 1613, "B12": 2202, "red": 664, "green": 559, "blue": 493,
}  # fmt: skip
# Radar channels are negative: by what is sent and received, here of no known direction of flight (torchgeo's `ChnEmb`).
RADAR = {"VV": -1, "VH": -2}


def build(request: EncoderRequest) -> FrozenModel:
    """See the module."""
    check_patch_size("panopticon", request.image_size, PATCH)
    return PanopticonEncoder(request)


def channel_id(band: Band) -> int:
    """The number by which Panopticon knows a band: nanometers, or a negative one for radar."""
    known = {"S1": RADAR, "S2": OPTICAL_NM, "RGB": OPTICAL_NM}.get(band.sensor, {}).get(band.name)
    return known if known is not None else round(optical_wavelength_um("panopticon", band) * 1000)


class PanopticonEncoder(TokenModel):
    """torchgeo's Panopticon after its final layer norm; position embeddings are resampled to the size."""

    channel_ids: Float[Tensor, " bands"]

    def __init__(self, request: EncoderRequest) -> None:
        channel_ids = [channel_id(band) for band in request.bands]
        model: Any = random_module(lambda: Panopticon(img_size=TRAINED_SIZE)).model
        weights = load_weights(
            model, request.weights, hub_name=Panopticon_Weights.VIT_BASE14.url, unused=("mask_token",)
        )
        super().__init__(
            request,
            width=model.embed_dim,
            blocks=model.blocks,
            norm=model.norm,
            weights=weights,
            settings={"panopticon_channel_ids": channel_ids},
        )
        grid = int(request.image_size or 0) // PATCH
        model.pos_embed = nn.Parameter(resize_abs_pos_embed(model.pos_embed.detach(), grid, TRAINED_SIZE // PATCH))
        self.model = model
        self.register_buffer("channel_ids", torch.tensor(channel_ids, dtype=torch.float32))

    def run(self, images: Images) -> Tokens:
        """See `TokenModel.run`."""
        ids = self.channel_ids.repeat(len(images), 1)  # its own memory: the model rounds them in place
        return self.model.forward_features({"imgs": images, "chn_ids": ids})
