"""SatCLIP: embeds the location of an image, not its pixels: a baseline for what geography explains (torchgeo)."""

from torchgeo.models.satclip import SatCLIP, SatCLIP_Weights

from data.errors import RequestError
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel
from featurize.shapes import Embeddings, Images, Lonlat
from featurize.weights import load_weights, random_module

CARD = ModelCard(
    pooling=("own",),
    normalize=("none",),
    weights=("pretrained", "random", "PATH"),
    image_size=1,
    default_bands=("rgb", "all"),
    sizes="pixels are not used",
    dim="256",
    bands="any; needs locations",
    files="microsoft/SatCLIP-ViT16-L40: satclip-vit16-l40.ckpt",
    license="MIT",
    citation="Klemmer et al. 2025, SatCLIP, doi:10.1609/aaai.v39i4.32457",
)

URL = SatCLIP_Weights.SATCLIP_VIT16_L40.url


def build(request: EncoderRequest) -> FrozenModel:
    """See the module."""
    if request.image_size != CARD.image_size:
        raise RequestError(f"--image-size {request.image_size}: satclip uses locations, not pixels; remove the flag")
    return SatCLIPEncoder(request)


class SatCLIPEncoder(FrozenModel):
    """torchgeo's location encoder: spherical harmonics of longitude and latitude, then a sine network."""

    expects = None  # pixels are not looked at
    needs_locations = True

    def __init__(self, request: EncoderRequest) -> None:
        model = random_module(SatCLIP)
        weights = load_weights(model, request.weights, hub_name=URL, unused=("posenc.",))
        super().__init__(request, dim=256, weights=weights, dtype="float32", autocast=False)
        self.model = model

    def embed(self, images: Images, lonlat: Lonlat | None) -> Embeddings:
        """See `FrozenModel.embed`."""
        assert lonlat is not None  # see `check_locations`
        return self.model(lonlat)
