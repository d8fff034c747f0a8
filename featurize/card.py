"""What a model's file declares about itself: read without importing the file."""

from dataclasses import dataclass

from data.registry import Registry


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """A model's settings, and what `featurize list` shows of it. The first of several values is the default.

    Args:
        variant: values of ``--variant``.
        pooling: values of ``--pooling``.
        normalize: values of ``--normalize``.
        weights: values of ``--weights``; ``PATH`` stands for any path.
        image_size: side of the input in pixels; None means the images' own.
        default_bands: values of ``--bands``; the default is the first that the dataset has.
        sizes: which ``--image-size`` the model takes.
        dim: length of an embedding.
        bands: which bands the model takes.
        files: published weights, as repository or URL and file name.
        license: of the weights and the code.
        citation: of the paper, with its DOI or arXiv number.
        layers: whether ``--layer`` chooses among the model's layers.
        example: of an adapter, which takes a name of the wrapped library after a colon.
    """

    variant: tuple[str, ...] = ()
    pooling: tuple[str, ...]
    normalize: tuple[str, ...]
    weights: tuple[str, ...] = ()
    image_size: int | None = None
    default_bands: tuple[str, ...]
    sizes: str
    dim: str
    bands: str
    files: str
    license: str
    citation: str
    layers: bool = False
    example: str | None = None


MODELS = Registry("featurize.models", "model", ModelCard)
