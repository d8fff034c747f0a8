"""Prithvi, TerraMind and Clay, by their names in TerraTorch: --model terratorch:NAME."""

import importlib
import warnings
from collections.abc import Iterable, Sequence
from types import MethodType
from typing import Any

import torch
from torch import nn

from data.bands import Band
from data.errors import RequestError
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel
from featurize.normalization import standardized
from featurize.shapes import Embeddings, Images
from featurize.tokens import TokenModel, Tokens, check_patch_size
from featurize.weights import Weights, first_line, load_weights, random_module

CARD = ModelCard(
    pooling=("mean", "cls", "cls+mean", "max", "std", "gem", "mean+std"),
    normalize=("own", "zscore", "none"),
    weights=("pretrained", "random", "PATH"),
    image_size=224,
    default_bands=("s2-12", "s1", "rgb"),
    sizes="multiples of 16 (prithvi_eo_v2_600: 14); clay: the images' own, multiples of 8",
    dim="192 (prithvi_eo_v2_tiny_tl, terramind_v1_tiny), 384 (terramind_v1_small), 768 (prithvi_eo_v1_100, "
    "prithvi_eo_v2_100_tl, terramind_v1_base, clay_v1_base), 1024 (prithvi_eo_v2_300, prithvi_eo_v2_300_tl, "
    "terramind_v1_large), 1280 (prithvi_eo_v2_600, prithvi_eo_v2_600_tl)",
    bands="prithvi: B02, B03, B04, B8A, B11, B12; terramind: s2-12, s2-13, s1, both sensors, 8-bit rgb; clay: s2-10",
    files="ibm-nasa-geospatial/Prithvi-EO-..., ibm-esa-geospatial/TerraMind-1.0-...: .pt; made-with-clay/Clay-legacy",
    license="Apache-2.0 (terratorch); the weights' own, on their page of the hub",
    citation="Gomes et al. 2025, arXiv:2503.20563; Prithvi: arXiv:2412.02732; TerraMind: arXiv:2504.11171",
    layers=True,
    example="terratorch:prithvi_eo_v2_300",
)

PRITHVI = tuple(f"prithvi_eo_{size}" for size in (
    "v1_100", "v2_tiny_tl", "v2_100_tl", "v2_300", "v2_300_tl", "v2_600", "v2_600_tl",
))  # fmt: skip
TERRAMIND = tuple(f"terramind_v1_{size}" for size in ("tiny", "small", "base", "large"))
CLAY = "clay_v1_base"
NAMES = (*PRITHVI, *TERRAMIND, CLAY)
# Why backbones of terratorch's registry are not supported, by a part of their names.
REFUSED = {
    "dinov3": "use --model dinov3",
    "dofa": "use --model dofa: terratorch's version lacks the final norm",
    "scalemae": "use --model scalemae: terratorch's version lacks the final norm",
    "tokenizer": "a tokenizer returns codes, not embeddings",
    "_tim": "it generates further inputs with tokenizers",
    "landsat": "no dataset here has Landsat's bands",
}

# terratorch's names of bands, by sensor.
OWN = {
    "S2": {
        "B01": "COASTAL_AEROSOL", "B02": "BLUE", "B03": "GREEN", "B04": "RED", "B05": "RED_EDGE_1", "B06": "RED_EDGE_2",
        "B07": "RED_EDGE_3", "B08": "NIR_BROAD", "B8A": "NIR_NARROW", "B09": "WATER_VAPOR", "B10": "CIRRUS",
        "B11": "SWIR_1", "B12": "SWIR_2",
    },
    "S1": {"VV": "VV", "VH": "VH"},
    "RGB": {"red": "RED", "green": "GREEN", "blue": "BLUE"},
}  # fmt: skip
# Clay's Sentinel-2 bands: wavelength in micrometers, mean and standard deviation of digital numbers
# (configs/metadata.yaml of github.com/Clay-foundation/model, the same for v1 and v1.5), and their resolution.
CLAY_BANDS = {
    "BLUE": (0.493, 1105.0, 1809.0),
    "GREEN": (0.56, 1355.0, 1757.0),
    "RED": (0.665, 1552.0, 1888.0),
    "RED_EDGE_1": (0.704, 1887.0, 1870.0),
    "RED_EDGE_2": (0.74, 2422.0, 1732.0),
    "RED_EDGE_3": (0.783, 2630.0, 1697.0),
    "NIR_BROAD": (0.842, 2743.0, 1742.0),
    "NIR_NARROW": (0.865, 2785.0, 1648.0),
    "SWIR_1": (1.61, 2388.0, 1470.0),
    "SWIR_2": (2.19, 1835.0, 1379.0),
}
CLAY_PATCH, CLAY_GSD_M = 8, 10.0
# Parts of Prithvi's pretraining; position embeddings are computed, and the published ones are of several dates.
PRITHVI_UNUSED = (
    "pos_embed", "mask_token", "decoder.", "decoder_pos_embed", "decoder_embed.", "decoder_blocks.", "decoder_norm.",
    "decoder_pred.",
)  # fmt: skip
TERRAMIND_UNUSED = ("mask_token", "decoder.", "decoder_embeddings.", "decoder_norm.", "decoder_proj_context.")


def default_bands(request: EncoderRequest) -> Sequence[str]:
    """Those that the backbone was trained with."""
    check_name(request.inner)
    if request.inner in PRITHVI:
        return ("B02,B03,B04,B8A,B11,B12",)
    return ("s2-10",) if request.inner == CLAY else CARD.default_bands


def defaults(request: EncoderRequest) -> dict[str, Any]:
    """Clay's authors use the class token and images at their own resolution, which is an input of the model."""
    return {"pooling": "cls", "image_size": None} if request.inner == CLAY else {}


def build(request: EncoderRequest) -> FrozenModel:
    """See the module. ``--normalize own`` is the z-score with the numbers of the pretraining data.

    A model is built for all bands of its training and loaded strictly; then the weights of the chosen bands are
    taken by name. A band left out is as if it had its mean everywhere.
    """
    check_name(request.inner)
    with warnings.catch_warnings(action="ignore"):  # of terratorch's dependencies, about themselves
        make = prithvi if request.inner in PRITHVI else terramind if request.inner in TERRAMIND else clay
        return make(request)


class TerraTorchEncoder(TokenModel):
    """A backbone's tokens of some layers, after its final norm, pooled.

    Args:
        request: the complete request.
        numbers: mean and standard deviation of each chosen band in the training data.
        products: how many products, each with tokens for all patches, follow one another.
        about: for `TokenModel`.
    """

    has_patches = True

    def __init__(
        self, request: EncoderRequest, *, numbers: Sequence[tuple[float, float]], products: int = 1, **about: Any
    ) -> None:
        own = standardized("own", request.bands, numbers) if request.normalize == "own" else None
        super().__init__(request, normalization=own, **about)
        self.products = products

    def pooled(self, tokens: Sequence[Tokens]) -> Embeddings:
        """See `TokenModel.pooled`; tokens of several products are averaged."""
        if self.products > 1:
            tokens = [one.unflatten(1, (self.products, -1)).mean(dim=1) for one in tokens]
        return super().pooled(tokens)


# ------------------------------------------------------------------------------------------------ the families


def prithvi(request: EncoderRequest) -> FrozenModel:
    """Prithvi 1 and 2: class token, then patches of one date.

    The sizes with ``tl`` were also trained with dates and locations, absent for a part of the images (arXiv:2412.02732,
    section 2.3); datasets have no dates, so both are absent here.
    """
    name = request.inner
    library = terratorch(name, "prithvi_vit")
    published = library.prithvi_cfgs[name]
    check_patch_size(name, request.image_size, published["patch_size"][-1])
    trained = [band.value for band in published["bands"]]
    chosen = places(name, request.bands, {"S2": trained})
    model: Any = random_module(lambda: getattr(library, name)(num_frames=1))
    weights = load(model, request.weights, library.pretrained_weights[name], PRITHVI_UNUSED)
    embedding = model.patch_embed.proj  # D, bands, dates, height, width
    embedding.weight = nn.Parameter(embedding.weight[:, chosen].detach().clone())
    return TerraTorchEncoder(
        request,
        model=model,
        weights=weights,
        run=lambda images: model.forward_features(images)[-1],
        norm=model.norm,
        blocks=model.blocks,
        width=model.embed_dim,
        numbers=[(published["mean"][at], published["std"][at]) for at in chosen],
        settings={"dates": None, "location": None} if name.endswith("_tl") else {},
    )


def terramind(request: EncoderRequest) -> FrozenModel:
    """TerraMind v1: patches alone; those of two sensors are averaged, as terratorch does by default.

    It has an embedding for each product: Sentinel-2 Level-1C if B10 is among the bands, which Level-2A lacks, else
    Level-2A; Sentinel-1 GRD; 8-bit red, green and blue.
    """
    name, sensors = request.inner, list(dict.fromkeys(band.sensor for band in request.bands))
    check_patch_size(name, request.image_size, 16)
    if "cls" in request.pooling.split("+"):
        raise RequestError(f"--pooling {request.pooling}: {name} has no class token; use mean, max, std or gem")
    library = terratorch(name, "terramind.model.terramind_register")
    optical = "untok_sen2l1c@224" if "B10" in [band.name for band in request.bands] else "untok_sen2l2a@224"
    product = {"S2": optical, "S1": "untok_sen1grd@224", "RGB": "untok_sen2rgb@224"}
    bands = library.PRETRAINED_BANDS
    trained = {sensor: bands[key] for sensor, key in product.items()}
    places(name, request.bands, trained)
    keys = [product[sensor] for sensor in sensors]
    model: Any = random_module(lambda: getattr(library, name)(modalities=keys, merge_method=None))
    others = terratorch(name, "terramind.model.modality_info").MODALITY_INFO.keys() - set(keys)
    unused = (*TERRAMIND_UNUSED, *(f"encoder_embeddings.{key}." for key in others))
    weights = load(model, request.weights, library.pretrained_weights[name], unused)
    rows: dict[str, list[int]] = {}  # where the bands of each product lie among the images'
    numbers: list[tuple[float, float]] = [(0.0, 1.0)] * len(request.bands)
    for sensor, key in zip(sensors, keys, strict=True):
        rows[key] = [at for at, band in enumerate(request.bands) if band.sensor == sensor]
        chosen = places(name, [request.bands[at] for at in rows[key]], trained)
        embedding = model.encoder_embeddings[key].proj  # D, height x width x bands
        kernels = embedding.weight.detach().unflatten(1, (-1, len(bands[key])))
        embedding.weight = nn.Parameter(kernels[..., chosen].flatten(1).clone())
        for at, place in zip(rows[key], chosen, strict=True):
            numbers[at] = library.v1_pretraining_mean[key][place], library.v1_pretraining_std[key][place]
    return TerraTorchEncoder(
        request,
        model=model,
        weights=weights,
        run=lambda images: model({key: images[:, at] for key, at in rows.items()})[-1],
        norm=model.encoder_norm,
        blocks=model.encoder,
        width=model.out_channels[-1],
        numbers=numbers,
        prefix=0,
        products=len(keys),
        settings={"products": keys},
    )


def clay(request: EncoderRequest) -> FrozenModel:
    """Clay v1: class token, then patches; the bands' wavelengths and a pixel size of 10 m are inputs.

    Dates and locations are zeros, which stand for unknown ones in terratorch.
    """
    if request.image_size:
        check_patch_size(CLAY, request.image_size, CLAY_PATCH, example=256)
    places(CLAY, request.bands, {"S2": list(CLAY_BANDS)})
    facts = [CLAY_BANDS[OWN["S2"][band.name]] for band in request.bands]
    modules = terratorch(CLAY, "clay_v1.modules")
    model: Any = random_module(lambda: terratorch(CLAY, "clay_v1.embedder").Embedder())
    encoder = model.clay_encoder
    # Position embeddings for the grid of the images instead of one size's.
    encoder.add_encodings = MethodType(modules.Encoder.add_encodings, encoder)
    published = terratorch(CLAY, "clay_v1.embedder").default_cfgs[CLAY].default
    where = {"hf_hub_id": published.hf_hub_id, "hf_hub_filename": published.hf_hub_filename}
    weights = load(encoder, request.weights, where, ())
    waves = torch.tensor([wave for wave, _, _ in facts])

    def run(images: Images) -> Tokens:
        height, width = images.shape[-2:]
        if height != width or height % CLAY_PATCH:
            raise RequestError(
                f"{CLAY} takes squares of multiples of {CLAY_PATCH} pixels, not {height} x {width}; resize with "
                f"--image-size {max(CLAY_PATCH, height // CLAY_PATCH * CLAY_PATCH)}"
            )
        return model.forward_features(images, waves=waves.to(images.device), gsd=CLAY_GSD_M)[-1]

    return TerraTorchEncoder(
        request,
        model=model,
        weights=weights,
        run=run,
        norm=encoder.transformer.norm,
        blocks=[feed_forward for _, feed_forward in encoder.transformer.layers],
        residual=True,
        width=encoder.dim,
        numbers=[(mean, std) for _, mean, std in facts],
        settings={"gsd_m": CLAY_GSD_M, "wavelengths_um": waves.tolist(), "dates": None, "location": None},
    )


# ------------------------------------------------------------------------------------------------ what they share


def check_name(name: str) -> None:
    """Raise a RequestError unless this is a backbone whose bands and statistics are known here."""
    if name in NAMES:
        return
    why = next((why for part, why in REFUSED.items() if part in name), "its bands or their statistics are not known")
    raise RequestError(f"--model terratorch:{name} is not supported ({why}); choose from {', '.join(NAMES)}")


def terratorch(name: str, module: str) -> Any:
    """A module of terratorch's backbones; deferred: terratorch takes half a minute to import."""
    try:
        with warnings.catch_warnings(action="ignore"):  # it changes what is ignored
            return importlib.import_module(f"terratorch.models.backbones.{module}")
    except ImportError as error:
        raise RequestError(
            f"--model terratorch:{name} needs terratorch ({first_line(error)}); install it in an environment of its "
            "own: docs/guide/install.md"
        ) from error


def places(name: str, bands: Iterable[Band], trained: dict[str, Sequence[str]]) -> list[int]:
    """Where each band lies among those that a backbone was trained with, by sensor; a RequestError names the others."""
    own = [(band, OWN.get(band.sensor, {}).get(band.name)) for band in bands]
    if off := [band.name for band, word in own if word not in trained.get(band.sensor, ())]:
        known = {word for words in trained.values() for word in words}
        takes = [ours for sensor in trained for ours, word in OWN[sensor].items() if word in known]
        raise RequestError(f"{name} was not trained with {', '.join(off)}; it takes {', '.join(takes)}")
    return [trained[band.sensor].index(str(word)) for band, word in own]


def load(model: nn.Module, weights: str, published: dict[str, str], unused: Sequence[str]) -> Weights:
    """Load strictly; buffers, which are computed or zero, may be absent."""
    return load_weights(
        model,
        weights,
        hub_name="https://huggingface.co/{hf_hub_id}/resolve/main/{hf_hub_filename}".format(**published),
        may_miss=[name for name, _ in model.named_buffers()],
        unused=unused,
    )
