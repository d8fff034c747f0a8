"""OlmoEarth: a multi-sensor transformer over patches of 10 m pixels (torchgeo, olmoearth-pretrain-minimal)."""

from typing import Any

import torch
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.data.normalize import load_computed_config
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.nn import flexi_vit
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.constants import Modality
from olmoearth_pretrain_minimal.olmoearth_pretrain_v1.utils.datatypes import MaskedOlmoEarthSample
from torch import Tensor, nn
from torchgeo.models import OlmoEarthV1_Weights, olmoearth_v1

from data.bands import BAND_SETS, require_bands
from data.errors import RequestError
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel
from featurize.normalization import stretched
from featurize.shapes import Embeddings, Images
from featurize.tokens import TokenModel
from featurize.weights import load_weights, random_module

CARD = ModelCard(
    variant=("base", "nano", "tiny", "large"),
    pooling=("mean", "max", "std", "gem", "mean+std"),
    normalize=("olmoearth", "zscore", "none"),
    weights=("pretrained", "random", "PATH"),
    default_bands=("s1s2", "s2-12", "s1"),
    sizes="the images' own; multiples of 8",
    dim="768 (base), 128 (nano), 192 (tiny), 1024 (large)",
    bands="s1, s2-12, or both as s1s2; images of 8, 16, 24, ... pixels",
    files="allenai/OlmoEarth-v1-Base and -Nano, -Tiny, -Large: weights-....pth",
    license="OlmoEarth Artifact License (weights), Apache-2.0 (code)",
    citation="Herzog et al. 2025, arXiv:2511.13655",
    layers=True,
)

# Patches of 8 pixels, the largest it was trained with; the authors' example embeds so.
PATCH = 8
GSD_M = 10
# Day, month (0 is January) and year given to every image: the datasets have no dates. Their months matter to the model.
DATE = (1, 6, 2020)
SENSORS = {"S2": Modality.SENTINEL2_L2A, "S1": Modality.SENTINEL1}

# The package takes the sensors in the order of a set of words, another in each process, and sums round with the order.
flexi_vit.get_modalities_to_process = lambda available, supported: sorted(set(available) & set(supported))


def build(request: EncoderRequest) -> FrozenModel:
    """See the module. ``--normalize olmoearth`` is the authors' scaling, by the numbers of their training data.

    ``--image-size`` resizes to other than the images' own size; the model still assumes 10 m pixels.
    """
    if request.image_size and request.image_size % PATCH:
        raise RequestError(f"--image-size {request.image_size}: olmoearth takes multiples of {PATCH}, such as 64")
    sensors = {band.sensor for band in request.bands}
    spec = {"S1": "s1", "S2": "s2-12"}.get("".join(sensors), "s1s2")
    require_bands(f"olmoearth with {spec}", request.bands, BAND_SETS[spec])
    return OlmoEarthEncoder(request)


class OlmoEarthEncoder(TokenModel):
    """The encoder of OlmoEarth v1; the tokens of all sensors and groups of bands, pooled."""

    def __init__(self, request: EncoderRequest) -> None:
        model: Any = random_module(lambda: olmoearth_v1(model_size=request.variant)).model
        # Published files hold the whole training setup; the encoder's keys begin with its name.
        parts = nn.ModuleDict({"encoder": model.encoder})
        url = OlmoEarthV1_Weights[request.variant.upper()].url
        weights = load_weights(parts, request.weights, hub_name=url, unused=("decoder.", "target_encoder."))
        normalization = None
        if request.normalize == "olmoearth":
            table = load_computed_config()
            numbers = [table[SENSORS[band.sensor].name][own_name(band.name)] for band in request.bands]
            normalization = stretched("olmoearth", request.bands, [(n["mean"], n["std"]) for n in numbers], clip=False)
        super().__init__(
            request,
            width=model.encoder.embedding_size,
            blocks=model.encoder.blocks,
            norm=model.encoder.norm,
            prefix=0,
            own="mean",
            normalization=normalization,
            weights=weights,
            settings={"patch": PATCH, "gsd_m": GSD_M, "date": list(DATE)},
        )
        self.encoder = model.encoder
        names = [own_name(band.name) for band in request.bands]
        # Where the model's channels, in its own order, lie among the bands.
        self.channels = {
            modality.name: [names.index(own) for own in modality.band_order]
            for sensor, modality in SENSORS.items()
            if any(band.sensor == sensor for band in request.bands)
        }

    def run(self, images: Images) -> Embeddings:
        """See `TokenModel.run`."""
        count, _, height, width = images.shape
        if height % PATCH or width % PATCH:
            raise RequestError(
                f"olmoearth takes images of multiples of {PATCH} pixels, not {height} x {width}; resize with "
                f"--image-size {max(PATCH, height // PATCH * PATCH)}"
            )
        fields: dict[str, Tensor] = {}
        for name, places in self.channels.items():
            fields[name] = images[:, places].permute(0, 2, 3, 1).unsqueeze(3)  # B H W T C
            fields[f"{name}_mask"] = torch.zeros(
                count, height, width, 1, len(Modality.get(name).band_sets), dtype=torch.long, device=images.device
            )
        dates = torch.tensor(DATE, device=images.device).expand(count, 1, 3)
        sample = MaskedOlmoEarthSample(timestamps=dates, **fields)
        found = self.encoder(sample, patch_size=PATCH, input_res=GSD_M, fast_pass=True)
        return found["tokens_and_masks"].pool_unmasked_tokens(flexi_vit.PoolingType.MEAN)


def own_name(band: str) -> str:
    """The model's name of a band."""
    return band.lower() if band in BAND_SETS["s1"] else band
