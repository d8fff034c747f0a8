"""Encoder: a frozen model with its bands, input size, scaling, pooling and identity."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from data.bands import Band, choose_bands, name_bands
from data.dataset import EODataset, Statistic
from data.errors import RequestError
from data.registry import MODELS
from featurize.normalization import Normalization
from featurize.weights import Weights


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
    """

    bands: tuple[Band, ...]
    statistics: Mapping[str, Statistic]
    training: Callable[[], EODataset]
    variant: Any = None
    image_size: int | None = None
    pooling: Any = None
    normalize: Any = None
    weights: Any = None


class Encoder(nn.Module, ABC):
    """A frozen model that turns images into embeddings; a model file subclasses it and defines `embed`.

    Args:
        request: the complete request.
        dim: D, length of an embedding.
        normalization: how band values are scaled.
        weights: where the weights come from, and their digest.
        dtype: type in which embeddings are kept, ``float16`` or ``float32``.
        autocast: whether the model may run in bf16 or fp16; statistics of pixels may not.
        interpolation: ``bilinear`` (with antialiasing when shrinking), or ``area`` (block means).
        settings: what else decides the values, JSON-able.
    """

    name: str = ""  # set by build_encoder: the model's command-line name

    def __init__(
        self,
        request: EncoderRequest,
        *,
        dim: int,
        normalization: Normalization,
        weights: Weights,
        dtype: str = "float16",
        autocast: bool = True,
        interpolation: str = "bilinear",
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.request, self.dim, self.normalization, self.weights = request, dim, normalization, weights
        self.dtype, self.autocast, self.interpolation = dtype, autocast, interpolation
        self.settings = dict(settings or {})

    @abstractmethod
    def embed(self, images: Tensor, lonlat: Tensor | None) -> Tensor:
        """Embed scaled images.

        Args:
            images: (B, C, H, W) float32, scaled.
            lonlat: (B, 2) degrees, None where the dataset has no locations.

        Returns:
            (B, D).
        """

    def forward(self, images: Tensor, lonlat: Tensor | None = None) -> Tensor:
        """Scale raw images of the right size and embed them."""
        return self.embed(self.normalization(images), lonlat)

    def resize(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Resize float images (B, C, H, W) to `size` by this encoder's interpolation (half-pixel centres)."""
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
        }


def build_encoder(name: str, dataset: EODataset, bands: str | None, request: EncoderRequest) -> Encoder:
    """Build the model of that name for a dataset, filling what was not asked for from the model's card.

    Args:
        name: a registered model.
        dataset: whose bands are chosen from.
        bands: ``--bands``; None means the first of the card's ``default_bands`` that the dataset has.
        request: what was asked; its bands are ignored.

    Raises:
        RequestError: a setting the model does not have; the message lists those it has.
    """
    card = MODELS.card(name)
    module = MODELS.load(name)
    for field in ("variant", "pooling", "normalize", "weights"):
        choices = card[field]
        given = getattr(request, field)
        is_path = field == "weights" and "PATH" in choices
        if given is not None and given not in choices and not is_path:
            raise RequestError(
                f"--{field} {given}: {name} has {' | '.join(choices)}"
                if choices
                else f"--{field} {given}: {name} has no {field} to choose"
            )
        if given is None:
            request = replace(request, **{field: next(iter(choices), None)})
    if request.image_size is None:
        request = replace(request, image_size=card["image_size"])
    elif request.image_size < 1:
        raise RequestError(f"--image-size {request.image_size}: must be at least 1")
    chosen = choose_bands(dataset.bands, bands) if bands else _default_bands(name, card["default_bands"], dataset)
    encoder = module.build(replace(request, bands=chosen))
    encoder.name = name
    return encoder.eval().requires_grad_(False)


def _default_bands(name: str, specs: Sequence[str], dataset: EODataset) -> tuple[Band, ...]:
    for spec in specs:
        try:
            return choose_bands(dataset.bands, spec)
        except RequestError:
            continue
    have = ", ".join(band.name for band in dataset.bands)
    raise RequestError(f"{name} wants the bands {' or '.join(specs)}; {dataset.name} has {have}; choose with --bands")
