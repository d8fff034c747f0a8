"""DOFA: one vision transformer for any bands, told by their wavelengths (torchgeo)."""

from torch import Tensor
from torchgeo.models import DOFABase16_Weights, DOFALarge16_Weights, dofa_base_patch16_224, dofa_large_patch16_224

from data.errors import RequestError
from featurize.encoder import Encoder, EncoderRequest
from featurize.normalization import make_normalization
from featurize.weights import load_weights, random_module

CARD = {
    "title": "DOFA",
    "variant": ["base", "large"],
    "pooling": ["mean"],
    "normalize": ["zscore", "satlas", "none"],
    "weights": ["pretrained", "random", "PATH"],
    "image_size": 224,
    "default_bands": ["s2-9", "rgb", "s1"],
    "dim": "768 (base), 1024 (large)",
    "bands": "any Sentinel-1, Sentinel-2 or RGB bands with a wavelength",
    "licence": "CC-BY-4.0 (weights), MIT (torchgeo)",
    "citation": "Xiong et al. 2024, arXiv:2403.15356",
}

MODELS = {
    "base": (dofa_base_patch16_224, DOFABase16_Weights.DOFA_MAE),
    "large": (dofa_large_patch16_224, DOFALarge16_Weights.DOFA_MAE),
}


def build(request: EncoderRequest) -> Encoder:
    """See the module.

    Raises:
        RequestError: an input size other than 224, or a band without a wavelength.
    """
    if request.image_size != 224:
        raise RequestError(f"--image-size {request.image_size}: dofa takes 224; images are resized to it")
    if unknown := [band.name for band in request.bands if band.wavelength_um is None]:
        raise RequestError(f"dofa needs a wavelength for every band, and {', '.join(unknown)} has none; leave it out")
    return DOFAEncoder(request)


class DOFAEncoder(Encoder):
    """torchgeo's DOFA; the mean of its patch tokens through `fc_norm`."""

    def __init__(self, request: EncoderRequest) -> None:
        make, published = MODELS[request.variant]
        model = random_module(lambda: make(num_classes=0))
        weights = load_weights(
            model,
            request.weights,
            hub=lambda: published.get_state_dict(check_hash=True, weights_only=True, map_location="cpu"),
            hub_name=published.url,
            may_miss=("fc_norm.weight", "fc_norm.bias"),  # not published; a new LayerNorm's 1 and 0 are neutral
        )
        super().__init__(
            request,
            dim=int(model.embed_dim),  # type: ignore[arg-type]
            normalization=make_normalization(request.normalize, request.bands, request.statistics),
            weights=weights,
        )
        self.model = model
        self.wavelengths = [float(band.wavelength_um) for band in request.bands if band.wavelength_um is not None]

    def embed(self, images: Tensor, lonlat: Tensor | None) -> Tensor:
        """See `Encoder.embed`."""
        return self.model.forward_features(images, self.wavelengths)  # type: ignore[operator]
