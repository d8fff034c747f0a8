"""Encoder: a frozen foundation model as a scikit-learn transformer of arrays of images."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float32, Shaped
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from data.bands import BAND_SETS, Band, known_band
from data.command import speaking
from data.dataset import EODataset, measured_statistics
from data.errors import RequestError
from featurize.batches import Batch
from featurize.embedder import Embedder
from featurize.encoder import EncoderRequest, FrozenModel, build_encoder
from featurize.flags import RunFlags
from featurize.guards import check_inputs
from featurize.pipeline import check_finite
from featurize.stages import Meter


class Encoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A frozen foundation model that turns images into embeddings, as a scikit-learn transformer.

    `fit` measures each band's mean and standard deviation, for models that scale by them, and checks that the values
    are in units that the model takes; a frozen model learns nothing. Copies and pickles hold
    the request and these numbers; the model is loaded when it is needed.

    Args:
        model: Name of a model; see `featurize list`.
        bands: Names of the bands of the images, in their order, such as ``["B04", "B03", "B02"]``, or a band set such
            as ``s2-10``. Default: bands without names, which only some models take.
        image_size: Resize images to this side in pixels. Default: the model's input size, or the size of the images.
        pooling: How tokens are pooled into one embedding; see `featurize list`. Default: the model's.
        normalize: How band values are scaled; see `featurize list`. Default: as in the model's training, else zscore.
        weights: pretrained, random (untrained), or the path of a weights file or folder.
        variant: Variant of the model. Default: the first in `featurize list`.
        layer: Layer whose tokens are pooled. Default: the last.
        device: auto, cpu, cuda or cuda:1.
        precision: auto, fp32, bf16 or fp16.
        batch_size: Images per batch, or auto.

    Examples:
        >>> import featurize
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> probe = make_pipeline(featurize.Encoder("stats", bands="rgb"), LogisticRegression())
    """

    def __init__(
        self,
        model: str = "stats",
        *,
        bands: str | Sequence[str] | None = None,
        image_size: int | None = None,
        pooling: str | None = None,
        normalize: str | None = None,
        weights: str | None = None,
        variant: str | None = None,
        layer: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        batch_size: int | str = "auto",
    ) -> None:
        self.model, self.bands, self.image_size, self.pooling = model, bands, image_size, pooling
        self.normalize, self.weights, self.variant, self.layer = normalize, weights, variant, layer
        self.device, self.precision, self.batch_size = device, precision, batch_size

    def fit(self, X: Any, y: Any = None) -> Self:
        """Measure the bands' statistics, load the model, and check that it takes these bands and values.

        Args:
            X: (samples, bands, height, width) images in native units, all of one size; (samples, bands) are images of
                one pixel.
            y: Not used.

        Raises:
            RequestError: an unknown model, a setting or bands that it does not have, values in other units, or no such
                device.
            ValueError: the array is not as described, or holds NaN.
        """
        pixels = _checked(self, X, reset=True)
        images = _Images(pixels, self._bands(pixels.shape[1]))
        self.statistics_ = images.statistics
        self._model = self._build(images)
        with speaking(quiet=True, python=True):
            check_inputs(images, self._model)
            self._runtime()
        self._n_features_out = self._model.dim
        return self

    def transform(self, X: Any) -> Float32[np.ndarray, "samples dim"]:
        """Embed images.

        Args:
            X: (samples, bands, height, width), see `fit`.

        Returns:
            (samples, dim) embeddings.
        """
        check_is_fitted(self, "statistics_")
        pixels = _checked(self, X, reset=False)
        if self._model is None:  # of a pickle
            self._model = self._build(_Images(pixels, self._bands(pixels.shape[1]), self.statistics_))
        runtime, channels, found = self._runtime(), list(range(pixels.shape[1])), []
        embedder = Embedder(self._model.to(runtime.device), runtime)
        for start in range(0, len(pixels), runtime.batch_size):
            some = torch.from_numpy(np.require(pixels[start : start + runtime.batch_size], requirements=["C", "W"]))
            embedded = embedder.embed([Batch([*range(len(some))], [(channels, some)])], len(some), None, Meter())
            if embedded.done is not None:
                embedded.done.synchronize()
            found.append(embedded.features.numpy())
            check_finite(found[-1], [str(start + row) for row in range(len(some))], self._model)
        return np.concatenate(found)

    def _bands(self, count: int) -> list[Band]:
        """The bands of the images.

        Raises:
            RequestError: another number of names than of bands.
        """
        asked = self.bands if self.bands is not None else [str(number + 1) for number in range(count)]
        names = list(BAND_SETS.get(asked, asked.split(",")) if isinstance(asked, str) else asked)
        if len(names) != count:
            raise RequestError(f"bands {', '.join(names)}: {len(names)} names, but the images have {count} bands")
        return [known_band(name) or Band(name, "other") for name in names]

    def _build(self, images: "_Images") -> FrozenModel:
        """The model for these bands and statistics; notes whether it took something from the images themselves."""
        self._from_images = False

        def training() -> EODataset:
            self._from_images = True
            return images

        asked = {name: getattr(self, name) for name in ("variant", "image_size", "pooling", "normalize", "weights")}
        request = EncoderRequest((), images.statistics, training, layer=self.layer, **asked)
        with speaking(quiet=True, python=True):
            model = build_encoder(self.model, images, "all", request)
        model.request = replace(model.request, training=_not_kept)  # else a pickle would hold the images
        return model

    def _runtime(self) -> Any:
        flags = RunFlags(device=self.device, precision=self.precision, batch_size=self.batch_size)  # type: ignore[arg-type]
        flags.check_numbers()
        assert self._model is not None
        return flags.runtime(self._model)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = []  # embeddings are float32, whatever the images are
        return tags

    def __getstate__(self) -> dict[str, Any]:
        """The request and what `fit` found; the model too where it was made from the images (rcf)."""
        state: Any = super().__getstate__()
        return state if not state.get("_model") or self._from_images else state | {"_model": None}


def _checked(encoder: Encoder, X: Any, *, reset: bool) -> Shaped[np.ndarray, "samples bands height width"]:
    """Images as an array; as scikit-learn checks its input.

    Raises:
        ValueError: another number of axes, NaN, no samples, or another number of bands than at `fit`.
    """
    pixels: Any = validate_data(encoder, X, reset=reset, allow_nd=True)
    if pixels.ndim not in (2, 4):
        raise ValueError(f"Expected images of shape (samples, bands, height, width), got {pixels.shape}")
    return pixels.reshape(*pixels.shape[:2], 1, 1) if pixels.ndim == 2 else pixels


def _not_kept() -> EODataset:
    raise RequestError("the images that the model was made from are not kept")


class _Images(EODataset):
    """An array as a dataset without labels.

    Args:
        pixels: (samples, bands, height, width).
        bands: of the second axis.
        statistics: of the bands; None measures them.
    """

    where = "the array"

    def __init__(
        self, pixels: Shaped[np.ndarray, "samples bands height width"], bands: Sequence[Band], statistics: Any = None
    ) -> None:
        self.pixels = pixels
        ids = [str(row) for row in range(len(pixels))]
        labels = np.full(len(ids), -1, np.int64)
        about = {"name": "array", "variant": None, "split": "train", "class_names": (), "bands": bands}
        super().__init__(ids=ids, labels=labels, statistics=statistics or {}, **about)
        self.statistics = statistics or measured_statistics(self)

    def read(self, index: int, bands: Sequence[Band]) -> list[Shaped[np.ndarray, "_ _"]]:
        """See `EODataset.read`."""
        return [self.pixels[index, self.bands.index(band)] for band in bands]
