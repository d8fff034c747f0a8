"""Flags that choose a model and how to run it, shared by featurize, its engines and featurize bench."""

import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from data import paths
from data.completion import completed
from data.errors import RequestError
from data.flags import DataFlags
from data.registry import Registry
from data.scene.flags import LabelFlags
from featurize.card import MODELS

if TYPE_CHECKING:
    from data.dataset import EODataset
    from featurize.encoder import FrozenModel
    from featurize.runtime import Runtime

ENGINES = Registry("featurize.engines", "engine")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ModelFlags:
    """Which encoder; all of these determine the values.

    Args:
        model: Name of a model, or several separated by commas; see `featurize list`.
        bands: Band set (rgb, s2-9, s2-10, s2-12, s2-13, s1, s1s2, all) or names such as B04,B08. Default: the model's.
        image_size: Resize images to this side in pixels. Default: the model's input size, or the size of the images.
        pooling: How tokens are pooled into one embedding: cls, mean, max, std, gem, or several joined by +, such as
            cls+mean; see `featurize list`. Default: the model's.
        layer: Layer whose tokens are pooled, for transformers, such as -4 for the fourth from the end, or several to
            concatenate: --layer=-4,-1. Default: the last.
        normalize: How band values are scaled: zscore, stretch, imagenet, reflectance, ssl4eo, satlas or none;
            `featurize list` shows which a model supports. Default: as in the model's training, else zscore.
        normalize_like: Feature file, or folder of them, whose means and standard deviations scale the bands in place of
            the dataset's own: for new images that a probe trained on those features will score.
        weights: pretrained, random (untrained; shown in the name of the feature folder), or the path of a weights file
            or folder.
        variant: Variant of the model, such as small or base. Default: the first in `featurize list`.
        dense: Keep the tokens of all patches of a scene's windows, for a map at patch resolution (galileo,
            dinov2, terratorch).
    """

    model: Annotated[str, completed(MODELS.names)]
    bands: str | None = None
    image_size: int | None = None
    pooling: str | None = None
    normalize: str | None = None
    normalize_like: Path | None = None
    weights: str | None = None
    variant: str | None = None
    layer: str | None = None
    dense: Annotated[bool, Parameter(negative="")] = False

    def check(self) -> None:
        """Raise a RequestError unless the model exists, before the data are opened."""
        MODELS.check(self.model)

    def wanted_bands(self) -> tuple[str, ...]:
        """The requested bands, or those of the model's card, best first."""
        return (self.bands,) if self.bands else MODELS.card(self.model).default_bands

    def build(self, first: "EODataset", training: Callable[[], "EODataset"]) -> "FrozenModel":
        """Build the encoder."""
        from featurize.encoder import EncoderRequest, build_encoder  # deferred: torch takes seconds to import

        settings = ("variant", "image_size", "pooling", "normalize", "weights", "layer")
        asked: dict[str, Any] = {name: getattr(self, name) for name in settings}
        request = EncoderRequest(bands=(), statistics=first.statistics, training=training, **asked)
        encoder = build_encoder(self.model, first, self.bands, request)
        if self.normalize_like:
            from featurize.normalization import recorded_normalization

            encoder.normalization = recorded_normalization(self.normalize_like, encoder.identity("fp32"))
        if not self.dense:
            return encoder
        from featurize.dense import keep_patches

        return keep_patches(encoder, first)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RunFlags:
    """How to run; none of these changes the values beyond rounding.

    Args:
        device: auto, cpu, cuda, cuda:1, or several such as cuda:0,cuda:1, with one process per device.
        precision: auto, fp32, bf16 or fp16; auto is bf16 if the hardware supports it.
        compile: Compile the model with torch.compile: slower start, higher throughput.
        batch_size: Images per batch, or auto; halved if GPU memory runs out.
        workers: Number of reader processes. Default: depends on the number of images.
        part_rows: Images per part; an interrupted run loses at most one part.
        engine: local (one process), torchrun (one process per device, on one or several machines) or ray (a cluster).
            Default: local, or torchrun if several devices are given.
        ray_address: Address of a running Ray cluster. Default: start one on this machine.
        ray_workers: Number of Ray workers. Default: one per GPU, or one per machine without GPUs.
    """

    device: str = "auto"
    precision: str = "auto"
    compile: Annotated[bool, Parameter(negative="--no-compile")] = False
    batch_size: int | Literal["auto"] = "auto"
    workers: int | None = None
    part_rows: int = 1024
    engine: str | None = None
    ray_address: str | None = None
    ray_workers: int | None = None

    def check_numbers(self) -> None:
        """Raise a RequestError for numbers below 1."""
        for name in ("batch_size", "part_rows", "ray_workers"):
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise RequestError(f"--{name.replace('_', '-')} {value}: must be at least 1")

    def check(self) -> None:
        """Raise a RequestError for numbers below 1 or an unknown engine."""
        self.check_numbers()
        if self.engine:
            ENGINES.check(self.engine)
        for name in ("ray_address", "ray_workers"):
            if getattr(self, name) is not None and self.engine != "ray":
                raise RequestError(f"--{name.replace('_', '-')} requires --engine ray; add that or leave it out")
        if "," in self.device and self.engine not in (None, "torchrun"):
            raise RequestError(f"--device {self.device} requires --engine torchrun; name one device or that engine")

    def chosen_engine(self) -> str:
        """The requested engine, or the one implied by --device or the environment."""
        several = "," in self.device or int(os.environ.get("WORLD_SIZE", "1")) > 1
        return self.engine or ("torchrun" if several else "local")

    def runtime(self, encoder: "FrozenModel", *, device: str | None = None) -> "Runtime":
        """The runtime for an encoder on this machine."""
        from featurize import runtime  # deferred: torch

        where = runtime.choose_device(device or self.device)
        precision = runtime.choose_precision(self.precision, where, encoder)
        batch = runtime.choose_batch_size(where) if self.batch_size == "auto" else self.batch_size
        return runtime.Runtime(where, precision, batch, self.workers, self.part_rows, self.compile)


HERE = RunFlags()


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class FeaturizeFlags(LabelFlags, RunFlags, DataFlags, ModelFlags):
    """All that decides what featurize makes and where.

    Args:
        augment: Views of each training image for probe --augment: the image and N - 1 rotated, flipped and
            color-jittered copies.
        out: Output folder.
        overwrite: Recompute the features even if they exist.
    """

    augment: int = 1
    out: Path = paths.DEFAULT_OUT
    overwrite: Annotated[bool, Parameter(negative="")] = False

    def part[Group](self, group: type[Group]) -> Group:
        """The flags of one of the groups that this class joins."""
        return group(**{field.name: getattr(self, field.name) for field in fields(group)})  # type: ignore[arg-type]
