"""Random convolutional features (MOSAIKS): filters drawn at random or from training images (torchgeo)."""

import torch
import torch.nn.functional as F
from threadpoolctl import threadpool_limits
from torch import Tensor
from torchgeo.models.rcf import RCF

from data.dataset import EODataset
from data.errors import RequestError
from featurize.card import ModelCard
from featurize.encoder import EncoderRequest, FrozenModel
from featurize.shapes import Embeddings, Images, Lonlat
from featurize.weights import Weights, digest_state

CARD = ModelCard(
    variant=("empirical", "gaussian"),
    pooling=("mean",),
    normalize=("zscore", "none", "imagenet", "satlas"),
    default_bands=("all",),
    sizes="the images' own; at least 4",
    dim="1024",
    bands="any",
    files="none: filters are drawn at random or cut from training images",
    license="MIT",
    citation="Rolf et al. 2021, doi:10.1038/s41467-021-24638-z",
)

# Kernel and bias as in MOSAIKS; its 4,096 features cut to 1,024: each filter gives two, above and below the bias.
FEATURES, KERNEL, BIAS = 1024, 4, -1.0
SEED = 1  # torchgeo takes 0 for 'no seed'


def build(request: EncoderRequest) -> FrozenModel:
    """See the module. ``empirical`` cuts one patch from each of 512 training images and whitens them (ZCA)."""
    return RandomConvolutions(request)


class RandomConvolutions(FrozenModel):
    """torchgeo's filters; the mean over the image of the positive and of the negative part of each response."""

    expects = None
    images_a_core = 1  # 512 responses the size of an image

    def __init__(self, request: EncoderRequest) -> None:
        super().__init__(
            request,
            dim=FEATURES,
            weights=Weights("generated"),
            dtype="float32",
            autocast=False,
            settings={"features": FEATURES, "kernel": KERNEL, "bias": BIAS, "seed": SEED},
        )
        samples = _TrainingImages(self, request.training()) if request.variant == "empirical" else None
        with threadpool_limits(1, "blas"):  # sums of several threads would give other filters on other machines
            self.filters = RCF(
                in_channels=len(request.bands),
                features=FEATURES,
                kernel_size=KERNEL,
                bias=BIAS,
                seed=SEED,
                mode=request.variant,
                dataset=samples,  # type: ignore[arg-type]  # torchgeo only asks for its length and its images
            )
        self.weights = Weights("generated", digest_state(self.filters.state_dict()))

    def embed(self, images: Images, lonlat: Lonlat | None) -> Embeddings:
        """See `FrozenModel.embed`."""
        if min(images.shape[-2:]) < KERNEL:
            raise RequestError(f"rcf needs images of at least {KERNEL} x {KERNEL} pixels; resize with --image-size")
        y = F.conv2d(images, self.filters.weights, self.filters.biases)
        mean, above = y.mean(dim=(-2, -1)), F.relu_(y).mean(dim=(-2, -1))
        return torch.cat((above, above - mean), dim=1)


class _TrainingImages:
    """The training split as torchgeo's RCF reads it: scaled images of one size."""

    def __init__(self, encoder: FrozenModel, dataset: EODataset) -> None:
        self.encoder, self.dataset = encoder, dataset
        self.size = self._image_size(0)
        if min(self.size) <= KERNEL:
            raise RequestError(f"rcf needs images larger than {KERNEL} x {KERNEL} pixels; resize with --image-size")

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        size = self._image_size(index)
        if size != self.size:
            raise RequestError(f"rcf needs images of one size, and found {self.size} and {size}; give --image-size")
        bands = self._read(index)
        image = torch.cat([self.encoder.resize(band, size) for band in bands], dim=1)
        return {"image": self.encoder.normalization(image)[0]}

    def _image_size(self, index: int) -> tuple[int, int]:
        if side := self.encoder.request.image_size:
            return side, side
        shapes = [tuple(band.shape[-2:]) for band in self._read(index)]
        return max(h for h, _ in shapes), max(w for _, w in shapes)

    def _read(self, index: int) -> list[Tensor]:
        pixels = self.dataset.read(index, self.encoder.request.bands)
        return [torch.from_numpy(band.astype("float32"))[None, None] for band in pixels]
