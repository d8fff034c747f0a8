"""Read, resize, scale, embed, write: one split of a dataset through an encoder into a feature file."""

import platform
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from data import store
from data.bands import Band
from data.command import progress
from data.dataset import EODataset
from data.errors import RequestError
from featurize.encoder import Encoder

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Below this many images, starting reader processes costs more than they save.
IMAGES_WORTH_WORKERS = 2000


@dataclass(frozen=True)
class Plan:
    """How to run, none of which decides the values beyond rounding.

    Args:
        device: where the model is.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        batch_size: images embedded at once.
        workers: reader processes; 0 reads in this one.
        part_rows: images in a part; a kill loses at most one part.
    """

    device: torch.device
    precision: str
    batch_size: int
    workers: int
    part_rows: int


@dataclass
class Timing:
    """Seconds spent in each stage, as seen by the main process: ``read`` is time spent waiting for a batch."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the time inside the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


@dataclass(frozen=True)
class Batch:
    """Raw samples whose images are of one size.

    Args:
        rows: places in the batch that these samples take.
        stacks: (channels, pixels) with pixels (b, c, h, w) of native type; bands of one resolution together.
    """

    rows: list[int]
    stacks: list[tuple[list[int], Tensor]]

    def size(self) -> tuple[int, int]:
        """Height and width of the finest band."""
        return max(p.shape[-2] for _, p in self.stacks), max(p.shape[-1] for _, p in self.stacks)


def collate(samples: Sequence[Sequence[np.ndarray]]) -> list[Batch]:
    """Group samples by the sizes of their bands, then bands by size, and stack each group."""
    by_sizes: dict[tuple, list[int]] = defaultdict(list)
    for row, sample in enumerate(samples):
        by_sizes[tuple((band.shape, band.dtype.str) for band in sample)].append(row)
    batches = []
    for sizes, rows in by_sizes.items():
        by_size: dict[tuple, list[int]] = defaultdict(list)
        for channel, size in enumerate(sizes):
            by_size[size].append(channel)
        stacks = [
            (channels, torch.from_numpy(np.stack([np.stack([samples[row][c] for c in channels]) for row in rows])))
            for channels in by_size.values()
        ]
        batches.append(Batch(rows, stacks))
    return batches


def prepare(batches: Sequence[Batch], encoder: Encoder, device: torch.device) -> list[tuple[list[int], Tensor]]:
    """Move raw batches to the device and resize every band to the encoder's size, or the finest band's.

    Returns:
        (rows, images) with images (b, C, H, W) float32 in native units; one pair where all sizes agree.
    """
    side = encoder.request.image_size
    prepared = []
    for batch in batches:
        size = (side, side) if side else batch.size()
        images = torch.empty(len(batch.rows), len(encoder.request.bands), *size, device=device)
        for channels, pixels in batch.stacks:
            images[:, channels] = encoder.resize(pixels.to(device, non_blocking=True).float(), size)
        prepared.append((batch.rows, images))
    if side and len(prepared) > 1:
        return [([row for rows, _ in prepared for row in rows], torch.cat([images for _, images in prepared]))]
    return prepared


class _Reader(Dataset):
    """The batches of the parts still to do; an unreadable sample comes back as the error that names it."""

    def __init__(self, dataset: EODataset, bands: Sequence[Band], ranges: Sequence[tuple[int, int]]) -> None:
        self.dataset, self.bands, self.ranges = dataset, bands, ranges

    def __len__(self) -> int:
        return len(self.ranges)

    def __getitem__(self, index: int) -> list[Batch] | RequestError:
        try:
            return collate([self.dataset.read(row, self.bands) for row in range(*self.ranges[index])])
        except RequestError as error:  # raised in a worker it would arrive wrapped in a traceback
            return error


def featurize_split(
    dataset: EODataset, encoder: Encoder, file: Path, plan: Plan, *, limit: int | None, overwrite: bool = False
) -> tuple[Path, str]:
    """Embed one split into `file`, or find it done; goes on where an interrupted run stopped.

    Args:
        dataset: one split.
        encoder: on any device; it is moved to the plan's.
        file: see `data.paths.feature_file`.
        plan: how to run.
        limit: ``--limit``, for the identity.
        overwrite: make a finished file anew; the old one stays until the new one replaces it.

    Returns:
        The file, and a line that says what was done.

    Raises:
        RequestError: the file or its parts have another identity; a sample cannot be read; an embedding is not
            finite; the disk is full.
    """
    identity = store.make_identity(dataset, encoder.identity(plan.precision), limit=limit)
    if file.exists() and not overwrite:
        check_reusable(file, identity)
        store.tidy(file)
        return file, f"reused {file} ({len(dataset):,} images)"
    torch.backends.cudnn.allow_tf32 = plan.precision != "fp32"  # PyTorch's default rounds fp32 convolutions
    encoder = encoder.to(plan.device)
    timing, started = Timing(), time.perf_counter()
    size = {"rows": len(dataset), "dim": encoder.dim, "dtype": encoder.dtype}
    with store.FeatureWriter(file, identity, **size, part_rows=plan.part_rows, overwrite=overwrite) as writer:
        if file.exists() and not overwrite:  # another process published it just before this one took the lock
            check_reusable(file, identity)
            return file, f"reused {file} ({len(dataset):,} images)"
        todo = writer.missing()
        rows = sum(stop - start for start, stop in map(writer.bounds, todo))
        kept = len(dataset) - rows
        if kept:
            print(f"{dataset.split}: going on after {kept:,} of {len(dataset):,} images kept from before", flush=True)
        with progress(f"{encoder.name} on {dataset.name} {dataset.split}", rows, "images") as advance:
            for part, features in embed_parts(dataset, encoder, writer, todo, plan, timing, advance):
                with timing.stage("write"):
                    writer.write_part(part, features)
        elapsed = time.perf_counter() - started
        rate = rows / elapsed
        with timing.stage("write"):
            writer.finish(dataset, make_environment(plan, encoder, rate, timing))
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in timing.seconds.items())
    resumed = f", {kept:,} kept from before" if kept else ""
    return file, f"wrote {file} ({len(dataset):,} images x {encoder.dim}{resumed}; {rate:,.0f} images/s; {spent})"


def check_reusable(file: Path, identity: dict[str, Any]) -> None:
    """Raise a RequestError naming the differing fields unless `file` was made with this identity."""
    found, _ = store.read_identity(file)
    if fields := store.differing_fields(found, identity):
        raise RequestError(
            f"{file} was made with another {', '.join(fields)}; use --overwrite to replace it or choose another --out"
        )


def embed_parts(
    dataset: EODataset,
    encoder: Encoder,
    writer: store.FeatureWriter,
    parts: Sequence[int],
    plan: Plan,
    timing: Timing,
    advance: Any,
) -> Iterator[tuple[int, np.ndarray]]:
    """Embed part after part; batches never cross a part, so a resumed run makes the same batches."""
    ranges = [
        (part, start, min(start + plan.batch_size, writer.bounds(part)[1]))
        for part in parts
        for start in range(*writer.bounds(part), plan.batch_size)
    ]
    reader = _Reader(dataset, encoder.request.bands, [(start, stop) for _, start, stop in ranges])
    loader = DataLoader(reader, batch_size=None, num_workers=plan.workers, prefetch_factor=4 if plan.workers else None)
    batches = iter(loader)
    buffer: np.ndarray | None = None
    for part, start, stop in ranges:
        first, last = writer.bounds(part)
        if buffer is None:
            buffer = np.empty((last - first, encoder.dim), np.float32)
        with timing.stage("read"):
            raw = next(batches)
        if isinstance(raw, RequestError):
            raise raw
        with timing.stage("embed"):
            lonlat = None if dataset.lonlat is None else torch.from_numpy(dataset.lonlat[start:stop])
            buffer[start - first : stop - first] = embed_batch(raw, stop - start, lonlat, encoder, plan)
        check_finite(buffer[start - first : stop - first], dataset.ids[start:stop], encoder)
        advance(stop - start)
        if stop == last:
            yield part, buffer
            buffer = None


@torch.inference_mode()
def embed_batch(raw: Sequence[Batch], rows: int, lonlat: Tensor | None, encoder: Encoder, plan: Plan) -> np.ndarray:
    """Embed one raw batch.

    Args:
        raw: from `collate`.
        rows: B.
        lonlat: (B, 2) degrees or None.
        encoder: on the plan's device.
        plan: how to run.

    Returns:
        (B, D) float32.
    """
    features = torch.empty(rows, encoder.dim)
    low = plan.precision != "fp32"
    for places, images in prepare(raw, encoder, plan.device):
        where = None if lonlat is None else lonlat[places].to(plan.device)
        try:
            with torch.autocast(plan.device.type, PRECISIONS[plan.precision], enabled=low):
                embedded = encoder(images, where)
        except torch.OutOfMemoryError as error:
            raise RequestError(
                f"--batch-size {plan.batch_size}: {plan.device} has too little memory for it; give a smaller one, "
                "finished parts are kept"
            ) from error
        features[places] = embedded.float().cpu()
    return features.numpy()


def check_finite(features: np.ndarray, ids: Sequence[str], encoder: Encoder) -> None:
    """Raise a RequestError naming the first sample whose embedding is NaN, infinite or too large for its type."""
    with np.errstate(over="ignore"):
        good = np.isfinite(features.astype(encoder.dtype)).all(axis=1)
    if not good.all():
        first = ids[int(np.argmin(good))]
        raise RequestError(
            f"{encoder.name} gives NaN or infinity for {(~good).sum()} images, first '{first}'; "
            "check that image's pixels, or try --precision fp32"
        )


def choose_device(name: str) -> torch.device:
    """The device asked for; ``auto`` takes a GPU where there is one.

    Raises:
        RequestError: no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"--device {name}: use auto, cpu, cuda or cuda:1") from error
    if device.type not in ("cpu", "cuda"):
        raise RequestError(f"--device {name}: use auto, cpu, cuda or cuda:1")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(f"--device {name}: this machine has {torch.cuda.device_count()} GPUs; use --device cpu")
    return device


def choose_precision(name: str, device: torch.device, encoder: Encoder) -> str:
    """The precision asked for; ``auto`` takes bf16 on GPUs and on CPUs that compute in it, else fp32.

    Raises:
        RequestError: unknown, or lower than fp32 for a model that must not be rounded.
    """
    if name not in ("auto", *PRECISIONS):
        raise RequestError(f"--precision {name}: use auto, {', '.join(PRECISIONS)}")
    if not encoder.autocast:
        if name not in ("auto", "fp32"):
            raise RequestError(f"--precision {name}: {encoder.name} runs in fp32 only; leave the flag out")
        return "fp32"
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if _cpu_computes_bf16() else "fp32"


def _cpu_computes_bf16() -> bool:
    capability = torch.cpu.get_capabilities()
    return bool(capability.get("avx512_bf16") or capability.get("amx_bf16"))


def choose_workers(asked: int | None, images: int) -> int:
    """Reader processes: as asked, else none for small sets and one a core, at most 8, for large ones."""
    if asked is not None:
        if asked < 0:
            raise RequestError(f"--workers {asked}: must be 0 or more")
        return asked
    return min(8, torch.get_num_threads()) if images >= IMAGES_WORTH_WORKERS else 0


def make_environment(plan: Plan, encoder: Encoder, rate: float, timing: Timing) -> dict[str, Any]:
    """What is recorded with features and never compared."""
    return {
        "versions": {name: version(name) for name in ("frozen-earth", "torch", "torchgeo", "transformers", "h5py")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else "cpu",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "batch_size": plan.batch_size,
        "images_per_s": round(rate, 1),
        "seconds": {name: round(seconds, 3) for name, seconds in timing.seconds.items()},
        "weights_origin": encoder.weights.origin,
    }
