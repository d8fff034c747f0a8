"""FrozenModel: an encoder with its bands, input size, scaling, pooling and identity."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor, nn

from data.bands import Band, choose_bands, name_bands
from data.dataset import EODataset, Statistic
from data.errors import RequestError
from featurize.card import MODELS
from featurize.normalization import Normalization, make_normalization
from featurize.shapes import Embeddings, Images, Lonlat
from featurize.weights import Weights

TOKEN_POOLINGS = {"cls", "mean", "max", "std", "gem"}  # of `featurize.tokens`, which may be joined by +
SETTINGS = ("variant", "pooling", "normalize", "weights")


@dataclass(frozen=True)
class EncoderRequest:
    """What a command asks of a model; `build_encoder` fills what is None from the model's card.

    Args:
        bands: bands to feed, in order.
        statistics: the dataset's band statistics, in native units.
        training: opens the training split, for models that take something from it.
        variant: ``--variant``.
        image_size: side of the square input in pixels; None means the images' own size.
        pooling: ``--pooling``.
        normalize: ``--normalize``.
        weights: ``pretrained``, ``random``, or a path.
        layer: ``--layer``, see `featurize.tokens.chosen_layers`.
        name: of the model; an adapter's for a library is followed by a colon and the library's name.
    """

    bands: tuple[Band, ...]
    statistics: Mapping[str, Statistic]
    training: Callable[[], EODataset]
    variant: Any = None
    image_size: int | None = None
    pooling: Any = None
    normalize: Any = None
    weights: Any = None
    layer: str | None = None
    name: str = ""

    @property
    def inner(self) -> str:
        """The library's name of an adapter's model."""
        return self.name.partition(":")[2]


@dataclass(frozen=True)
class Expected:
    """Range of scaled values that a model can use; wide bounds, which catch wrong units only."""

    mean: float = 8.0  # largest size of a band's mean
    std: tuple[float, float] = (0.002, 8.0)  # smallest and largest standard deviation of a band, over many images


class FrozenModel(nn.Module):
    """A frozen model that turns images into embeddings; a model file makes one of a module, or subclasses it.

    Args:
        request: the complete request.
        dim: D, length of an embedding.
        weights: where the weights come from, and their digest.
        normalization: how band values are scaled; None means by ``--normalize``.
        dtype: type in which embeddings are kept, ``float16`` or ``float32``.
        autocast: whether the model may run in bf16 or fp16; statistics of pixels may not.
        interpolation: ``bilinear`` (with antialiasing when shrinking), or ``area`` (block means).
        settings: what else decides the values, JSON-able.
        model: module that embeds scaled images; None for a subclass that has its own `embed`.
    """

    expects: Expected | None = Expected()  # None: any values are accepted
    needs_locations = False  # whether `embed` cannot do without them
    has_patches = False  # whether the pooling "patches" of `featurize.dense` gives all patch tokens, row by row
    # Images per CPU core and pass: activations stay in its cache, and no core waits for the others after each layer.
    # None: all images at once, all cores together.
    images_a_core: int | None = 4

    def __init__(
        self,
        request: EncoderRequest,
        *,
        dim: int,
        weights: Weights,
        normalization: Normalization | None = None,
        dtype: str = "float16",
        autocast: bool = True,
        interpolation: str = "bilinear",
        settings: Mapping[str, Any] | None = None,
        model: Any = None,
    ) -> None:
        super().__init__()
        self.request, self.name, self.dim, self.weights, self.model = request, request.name, dim, weights, model
        self.normalization = normalization or make_normalization(request.normalize, request.bands, request.statistics)
        self.dtype, self.autocast, self.interpolation = dtype, autocast, interpolation
        self.settings = dict(settings or {})

    def check_locations(self, lonlat: object) -> None:
        """Raise a RequestError if there are no locations, and the model needs them."""
        if self.needs_locations and lonlat is None:
            raise RequestError(f"{self.name} needs locations, and this dataset has none; use georeferenced images")

    def embed(self, images: Images, lonlat: Lonlat | None) -> Embeddings:
        """Embed scaled images; on a CPU called from several threads at once, so it must keep no state."""
        return self.model(images)

    def forward(self, images: Images, lonlat: Lonlat | None = None) -> Embeddings:
        """Scale raw images of the right size and embed them."""
        self.check_locations(lonlat)
        return self.embed(self.normalization(images), lonlat)

    def resize(
        self, images: Float32[Tensor, "batch bands _ _"], size: tuple[int, int]
    ) -> Float32[Tensor, "batch bands height width"]:
        """Resize images to `size` by this encoder's interpolation (half-pixel centers)."""
        if tuple(images.shape[-2:]) == size:
            return images
        if self.interpolation == "area":
            return F.interpolate(images, size, mode="area")
        shrinking = size[0] < images.shape[-2] or size[1] < images.shape[-1]
        return F.interpolate(images, size, mode="bilinear", align_corners=False, antialias=shrinking)

    def identity(self, precision: str) -> dict[str, Any]:
        """All of the model's side that decides the values."""
        request = self.request
        return {
            "name": self.name,
            "variant": request.variant,
            "bands": [band.name for band in request.bands],
            "bands_name": name_bands(request.bands),
            "wavelengths_um": [band.wavelength_um for band in request.bands],
            "image_size": request.image_size,
            "interpolation": self.interpolation,
            "pooling": request.pooling,
            "normalization": self.normalization.describe(),
            "weights": {"source": self.weights.source, "sha256": self.weights.sha256},
            "settings": self.settings,
            "precision": precision,
            "dtype": self.dtype,
        } | ({"layer": request.layer} if request.layer else {})


def build_encoder(name: str, dataset: EODataset, bands: str | None, request: EncoderRequest) -> FrozenModel:
    """Build the model of that name for a dataset, filling unset settings from the model's card.

    A model's module may have ``defaults(request) -> dict``: defaults of settings that depend on other settings.
    And ``default_bands(request) -> list``, in place of the card's, where they depend on the variant.

    Args:
        name: a registered model; an adapter's is followed by a colon and the library's name.
        dataset: whose bands are chosen from.
        bands: ``--bands``; None means the first of the card's ``default_bands`` that the dataset has.
        request: what was asked; its bands are ignored.

    Raises:
        RequestError: a setting the model does not have; the message lists the valid values.
    """
    MODELS.check(name)
    card, module = MODELS.card(name), MODELS.load(name)
    for field in SETTINGS:
        check_setting(name, field, getattr(request, field), getattr(card, field))
    if request.layer and not card.layers:
        having = ", ".join(other for other in MODELS.names() if MODELS.card(other).layers)
        raise RequestError(
            f"--layer {request.layer}: {name} has no choice of layers; remove the flag, or use one of {having}"
        )
    if request.image_size is not None and request.image_size < 1:
        raise RequestError(f"--image-size {request.image_size}: must be at least 1")
    request = replace(request, name=name)
    own_bands = module.default_bands(request) if hasattr(module, "default_bands") else card.default_bands
    chosen = (
        choose_bands(dataset.bands, bands, where=dataset.where) if bands else _default_bands(name, own_bands, dataset)
    )
    request = replace(request, bands=chosen)
    usual = {field: next(iter(getattr(card, field)), None) for field in SETTINGS} | {"image_size": card.image_size}
    if hasattr(module, "defaults"):
        usual |= module.defaults(request)
    filled = {field: value for field, value in usual.items() if getattr(request, field) is None}
    encoder = module.build(replace(request, **filled))
    if request.normalize and encoder.normalization.changes_nothing():
        raise RequestError(
            f"--normalize {request.normalize} changes nothing: the bands already have mean 0 and std 1; use "
            "--normalize none, or leave it out"
        )
    return encoder.eval().requires_grad_(False)


def check_setting(name: str, field: str, given: str | None, choices: Sequence[str]) -> None:
    """Raise a RequestError unless a setting that was asked for is one of the model's."""
    if given is None or given in choices or (field == "weights" and "PATH" in choices):
        return
    parts = given.split("+")
    if field == "pooling" and len(set(parts)) == len(parts) and set(parts) <= set(choices) & TOKEN_POOLINGS:
        return
    has = " | ".join(choices) if choices else f"no {field} to choose"
    raise RequestError(f"--{field} {given}: {name} has {has}")


def is_rgb(bands: Sequence[Band]) -> bool:
    """Whether these are red, green and blue, in that order."""
    return [band.colour for band in bands] == ["red", "green", "blue"]


def check_rgb(name: str, bands: Sequence[Band]) -> None:
    """Raise a RequestError unless there are three bands, with any red, green and blue in that order."""
    if len(bands) != 3:
        raise RequestError(f"{name} takes red, green and blue, not {len(bands)} bands; use --bands rgb")
    check_order(name, bands)


def check_order(name: str, bands: Sequence[Band]) -> None:
    """Raise a RequestError where three bands are red, green and blue in another order: it would go unnoticed."""
    colours = [str(band.colour) for band in bands]
    if sorted(colours) == ["blue", "green", "red"] and not is_rgb(bands):
        raise RequestError(f"{name} takes red, green and blue in that order, not {', '.join(colours)}; use --bands rgb")


def _default_bands(name: str, specs: Sequence[str], dataset: EODataset) -> tuple[Band, ...]:
    for spec in specs:
        try:
            return choose_bands(dataset.bands, spec, where=dataset.where)
        except RequestError as error:
            if len(specs) == 1:
                raise RequestError(f"{name} takes the bands {spec}: {error}") from error
    have = ", ".join(band.name for band in dataset.bands)
    raise RequestError(f"{name} needs the bands {' or '.join(specs)}; {dataset.name} has {have}; choose with --bands")
