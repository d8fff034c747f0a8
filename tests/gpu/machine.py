"""What the checks run on: a device, a scratch folder, and the sizes of everything."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.bands import BAND_SETS, SENTINEL2
from data.dataset import EODataset, Statistic
from data.packed import PackedSplit
from featurize.batches import Batch
from featurize.card import MODELS
from featurize.embedder import Embedder
from featurize.encoder import EncoderRequest, FrozenModel, build_encoder
from featurize.reading import read_batches
from featurize.runtime import Runtime
from featurize.stages import Meter

POOL = 64  # distinct images in the packed file


@dataclass(frozen=True)
class Sizes:
    """How large everything is.

    Args:
        images: in the packed file.
        batch: images per batch.
        part_rows: images per part.
        models: settings of the two models whose rates have goals.
        compiled: name of the model to compile, and of that for two processes.
        matrix: side of the matrices whose product measures the peak.
        seconds: that a rate is taken over.
        share: of BigEarthNet's rows in the features to probe.
        dim: of these features.
        budget: of the MLP.
        plain: images that the plain loop embeds, and its reader processes.
        patience: factor of the time that checks may take; CPUs are shared.
    """

    images: int = 32_768
    batch: int = 256
    part_rows: int = 2048
    models: dict[str, dict[str, Any]] = field(
        default_factory=lambda: {
            "dinov2": {"variant": "base", "image_size": 224, "bands": "rgb"},
            "dofa": {"variant": "base", "bands": "s2-12"},
        }
    )
    compiled: tuple[str, str] = ("dinov2", "dinov2")
    matrix: int = 8192
    seconds: float = 2.0
    share: float = 1.0
    dim: int = 768
    budget: str = "1m"
    plain: tuple[int, int] = (4096, 8)
    patience: float = 1.0


FULL = Sizes()
SMALL = Sizes(
    images=16,
    batch=2,
    part_rows=4,
    models={
        "dinov2": {"variant": "small", "image_size": 28, "bands": "rgb"},
        "dofa": {"variant": "small", "bands": "s2-12"},
    },
    compiled=("rcf", "stats"),
    matrix=256,
    seconds=0.02,
    share=0.002,
    dim=16,
    budget="5s",
    plain=(4, 0),
    patience=6.0,
)


@dataclass(frozen=True)
class Machine:
    """What the checks run on.

    Args:
        device: a GPU, or the CPU in a dry run.
        folder: scratch that all checks share.
        sizes: full, or small in a dry run.
    """

    device: torch.device
    folder: Path
    sizes: Sizes

    @property
    def on_gpu(self) -> bool:
        """Whether this is the real thing."""
        return self.device.type == "cuda"

    @property
    def packed(self) -> Path:
        """The packed file, which the check `pack` makes."""
        return self.folder / "made.h5"

    @property
    def features(self) -> Path:
        """Folder of features to probe, which the check `signal` makes."""
        return self.folder / "signal"

    def samples(self) -> PackedSplit:
        """The packed images."""
        return PackedSplit(self.packed, "train")

    def encoder(self, name: str, samples: EODataset, **settings: Any) -> FrozenModel:
        """A model with random weights: its size in `sizes`, unless other settings are given."""
        weights = "random" if "random" in MODELS.card(name).weights else None
        settings = {"weights": weights, **self.sizes.models.get(name, {}), **settings}
        bands = settings.pop("bands", None)
        return build_encoder(name, samples, bands, EncoderRequest((), samples.statistics, lambda: samples, **settings))

    def runtime(self, precision: str = "fp32", **other: Any) -> Runtime:
        """How to run, in batches of the size in `sizes` and without reader processes."""
        settings = {"device": self.device, "batch_size": self.sizes.batch, "workers": 0, "compile": False} | other
        return Runtime(precision=precision, part_rows=self.sizes.part_rows, **settings)


class Pool(EODataset):
    """Noise in the shape of BigEarthNet's twelve bands; `POOL` images, again and again."""

    def __init__(self, rows: int) -> None:
        bands, rng = [SENTINEL2[name] for name in BAND_SETS["s2-12"]], np.random.default_rng(0)
        sides = {10: 120, 20: 60, 60: 20}
        shapes = {band.name: (POOL, *[sides[int(band.gsd_m or 10)]] * 2) for band in bands}
        self.pool = {name: rng.normal(1500, 400, shape).clip(1).astype(np.uint16) for name, shape in shapes.items()}
        super().__init__(
            name="made",
            variant=None,
            split="train",
            ids=[f"image-{row}" for row in range(rows)],
            labels=np.arange(rows) % 2,
            class_names=["even", "odd"],
            bands=bands,
            statistics={band.name: Statistic(1500.0, 400.0) for band in bands},
        )

    def read(self, index: int, bands: Sequence[Any]) -> list[np.ndarray]:
        """See `EODataset.read`."""
        return [self.pool[band.name][index % POOL] for band in bands]


def synchronized(device: torch.device, call: Callable[[], Any]) -> Callable[[], None]:
    """A call that waits until the device has done all that it queued."""

    def done() -> None:
        call()
        torch.get_device_module(device).synchronize()

    return done


def batch_of(samples: EODataset, encoder: FrozenModel, rows: int) -> list[Batch]:
    """The first rows of a dataset as one raw batch, in main memory."""
    return next(read_batches(samples, encoder.request.bands, [(0, 0, rows)], 0, Meter()))


def embedded(encoder: FrozenModel, runtime: Runtime, raw: Sequence[Batch], rows: int) -> np.ndarray:
    """Features (rows, D) float32 of a raw batch, by the engine's own `Embedder`."""
    torch.backends.cudnn.allow_tf32 = runtime.precision != "fp32"  # as the pipeline does
    return finished(Embedder(encoder.to(runtime.device), runtime).embed(raw, rows, None, Meter()))


def finished(result: Any) -> np.ndarray:
    """The features of what `Embedder.embed` returned, once a GPU is done with them."""
    torch.get_device_module("cpu" if result.done is None else "cuda").synchronize()
    return result.features.numpy().copy()


def apart(one: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """How far two sets of features are from each other.

    Returns:
        Norm of the difference over the norm, and the smallest cosine between two rows.
    """
    one, other = one.astype(np.float64), other.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return {
        "relative": float(np.linalg.norm(one - other) / np.linalg.norm(other)),
        "least_cosine": float(((one * other).sum(axis=1) / norms).min()),
    }
