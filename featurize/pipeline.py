"""Read, resize, scale, embed, write: one split of a dataset through an encoder into a feature file."""

import os
import platform
import shutil
import signal
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

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
from featurize.guards import check_inputs
from featurize.stages import Busy, ahead, behind

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
        workers: reader processes; 0 reads in this one; None leaves it to the number of images.
        part_rows: images in a part; a kill loses at most one part.
        compile: whether to compile the model first.
    """

    device: torch.device
    precision: str
    batch_size: int
    workers: int | None
    part_rows: int
    compile: bool = False


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

    def pieces(self, rows: int) -> Iterator["Batch"]:
        """Batches of at most so many rows."""
        for start in range(0, len(self.rows), rows):
            cut = slice(start, start + rows)
            yield Batch(self.rows[cut], [(channels, pixels[cut]) for channels, pixels in self.stacks])

    def on(self, device: torch.device) -> "Batch":
        """The same batch on a device; the copy of pinned memory goes on while this returns."""
        return Batch(
            self.rows,
            [(channels, pixels.pin_memory().to(device, non_blocking=True)) for channels, pixels in self.stacks],
        )


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

    def __getitem__(self, index: int) -> tuple[float, list[Batch] | RequestError]:
        """Seconds it took, and the batch."""
        start = time.perf_counter()
        read: list[Batch] | RequestError
        try:
            read = self._read(range(*self.ranges[index]))
        except RequestError as error:  # raised in a worker it would arrive wrapped in a traceback
            read = error
        return time.perf_counter() - start, read

    def _read(self, rows: range) -> list[Batch]:
        stacks = self.dataset.read_stacks(rows, self.bands)
        if stacks is None:
            return collate([self.dataset.read(row, self.bands) for row in rows])
        return [Batch(list(range(len(rows))), [(channels, torch.from_numpy(pixels)) for channels, pixels in stacks])]


class Work(Protocol):
    """Makes parts, in whatever processes: `embed_parts` in this one."""

    def __call__(
        self,
        dataset: EODataset,
        encoder: Encoder,
        writer: store.PartWriter,
        parts: Sequence[int],
        plan: Plan,
        busy: Busy,
        advance: Callable[..., None],
    ) -> None:
        """See `embed_parts`."""
        ...


def featurize_split(
    dataset: EODataset,
    encoder: Encoder,
    file: Path,
    plan: Plan,
    *,
    limit: int | None,
    overwrite: bool = False,
    work: Work | None = None,
    asked: Mapping[str, Any] | None = None,
) -> tuple[Path, str]:
    """Embed one split into `file`, or find it done; goes on where an interrupted run stopped.

    Args:
        dataset: one split.
        encoder: on any device; it is moved to the plan's.
        file: see `data.paths.feature_file`.
        plan: how to run.
        limit: ``--limit``, for the identity.
        overwrite: make a finished file anew; the old one stays until the new one replaces it.
        work: makes the parts; None means `embed_parts`.
        asked: the flags given, recorded so that damage can be mended without asking for them again.

    Returns:
        The file, and a line that says what was done.

    Raises:
        RequestError: the file or its parts have another identity; the pixels are not what the encoder was made for;
            a sample cannot be read; an embedding is not finite; the disk is full.
    """
    identity = store.make_identity(dataset, encoder.identity(plan.precision), limit=limit)
    if file.exists() and not overwrite:
        check_reusable(file, identity)
        store.tidy(file)
        return file, f"reused {file} ({len(dataset):,} images)"
    check_inputs(dataset, encoder)
    busy, started = Busy(), time.perf_counter()
    size = {"rows": len(dataset), "dim": encoder.dim, "dtype": encoder.dtype}
    with store.FeatureWriter(file, identity, **size, part_rows=plan.part_rows, overwrite=overwrite) as writer:
        if file.exists() and not overwrite:  # another process published it just before this one took the lock
            check_reusable(file, identity)
            shutil.rmtree(writer.parts, ignore_errors=True)
            return file, f"reused {file} ({len(dataset):,} images)"
        todo = writer.missing()
        rows = sum(stop - start for start, stop in map(writer.bounds, todo))
        kept = len(dataset) - rows
        if kept:
            print(f"{dataset.split}: going on after {kept:,} of {len(dataset):,} images kept from before", flush=True)
        with progress(f"{encoder.name} on {dataset.name} {dataset.split}", rows, "images") as advance:
            (work or embed_parts)(dataset, encoder, writer, todo, plan, busy, advance)
        elapsed = time.perf_counter() - started
        rate = rows / elapsed
        with busy.at("write"):
            recorded = make_environment(plan, encoder, rate, busy) | {"asked": dict(asked or {})}
            writer.finish(dataset, recorded | (dataset.read_from or {}))
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in busy.seconds.items())
    resumed = f", {kept:,} kept from before" if kept else ""
    pace = f"{rate:,.0f} images/s, held up by {busy.bottleneck()}" if rows else "nothing left to embed"
    return file, f"wrote {file} ({len(dataset):,} images x {encoder.dim}{resumed}; {pace}; at work: {spent})"


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
    writer: store.PartWriter,
    parts: Sequence[int],
    plan: Plan,
    busy: Busy,
    advance: Callable[..., None],
) -> None:
    """Embed and write parts: reading, copying to the device, embedding and writing go on at the same time.

    Batches never cross a part, so a resumed run makes the same batches.

    Args:
        dataset: one split.
        encoder: on any device; it is moved to the plan's.
        writer: takes the parts.
        parts: which to make.
        plan: how to run.
        busy: counts the seconds of each stage.
        advance: told of every batch written, and of the stage that holds the others up.

    Raises:
        RequestError: a sample cannot be read, an embedding is not finite, the disk or the device is full.
        KeyboardInterrupt: asked to stop; the part at hand was finished.
    """
    ranges = [
        (part, start, min(start + plan.batch_size, writer.bounds(part)[1]))
        for part in parts
        for start in range(*writer.bounds(part), plan.batch_size)
    ]
    torch.backends.cudnn.allow_tf32 = plan.precision != "fp32"  # PyTorch's default rounds fp32 convolutions
    embedder, assembly = Embedder(encoder.to(plan.device), plan), _Assembly(dataset, encoder, writer, busy, advance)
    workers = choose_workers(plan.workers, dataset, sum(stop - start for _, start, stop in ranges))
    with ExitStack() as stages:
        put = stages.enter_context(behind(assembly.take))
        batches = stages.enter_context(ahead(read_batches(dataset, encoder.request.bands, ranges, workers, busy)))
        if plan.device.type == "cuda":
            batches = stages.enter_context(ahead(copy_batches(batches, plan.device, busy)))
        interrupted = stages.enter_context(finishing_on_interrupt())
        for (part, start, stop), raw in zip(ranges, batches, strict=True):
            lonlat = None if dataset.lonlat is None else torch.from_numpy(dataset.lonlat[start:stop])
            put((part, start, stop, embedder.embed(raw, stop - start, lonlat, busy)))
            if interrupted.is_set() and stop == writer.bounds(part)[1]:
                raise KeyboardInterrupt


def read_batches(
    dataset: EODataset, bands: Sequence[Band], ranges: Sequence[tuple[int, int, int]], workers: int, busy: Busy
) -> Iterator[list[Batch]]:
    """Read the rows of each (part, start, stop), in order, in worker processes or in this thread."""
    reader = _Reader(dataset, bands, [(start, stop) for _, start, stop in ranges])
    loader = DataLoader(
        reader,
        batch_size=None,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_leave_interrupts_to_the_parent,
    )
    batches = iter(loader)
    while True:
        try:
            seconds, read = next(batches)
        except StopIteration:
            return
        except RuntimeError as error:
            if not workers:
                raise
            raise RequestError(
                "a reader process was killed, perhaps for want of memory or of shared memory (/dev/shm); use fewer "
                "--workers, or --workers 0; finished parts are kept"
            ) from error
        busy.seconds["read"] += seconds / max(1, workers)
        if isinstance(read, RequestError):
            raise read
        yield read


def _leave_interrupts_to_the_parent(_: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def copy_batches(batches: Iterator[list[Batch]], device: torch.device, busy: Busy) -> Iterator[list[Batch]]:
    """Copy batches to a GPU on a stream of its own, while the GPU embeds the batch before."""
    stream = torch.cuda.Stream(device)
    for batch in batches:
        with busy.at("copy"), torch.cuda.stream(stream):
            copied = [one.on(device) for one in batch]
            stream.synchronize()  # this thread waits, not the one that embeds
        yield copied


@contextmanager
def finishing_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first interrupt (Ctrl-C) sets; a second one interrupts as usual."""
    asked = threading.Event()

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)
        print("\nfinishing the part at hand; once more to stop at once", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():  # only the main thread hears signals
        yield asked
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class Embedded:
    """Embeddings of one batch, perhaps still on their way from a GPU.

    Args:
        features: (B, D) float32 in main memory, filled once `done` has happened.
        started: when a GPU began with the batch; None on the CPU.
        done: when the copy back is complete; None on the CPU.
    """

    features: Tensor
    started: Any = None
    done: Any = None


class Embedder:
    """Embeds raw batches on the plan's device, in smaller batches once memory has run out.

    Args:
        encoder: on the plan's device.
        plan: how to run.
    """

    def __init__(self, encoder: Encoder, plan: Plan) -> None:
        self.encoder, self.plan, self.rows_at_once = encoder, plan, plan.batch_size
        self.run = torch.compile(encoder) if plan.compile else encoder

    def embed(self, raw: Sequence[Batch], rows: int, lonlat: Tensor | None, busy: Busy) -> Embedded:
        """Embed one raw batch; on a GPU this returns before it is done.

        Args:
            raw: from `collate`, on any device.
            rows: B.
            lonlat: (B, 2) degrees or None.
            busy: counts the seconds, on the CPU; on a GPU its own clock tells them later.

        Raises:
            RequestError: the device has too little memory even for one image.
        """
        while True:
            try:
                return self._embed(raw, rows, lonlat, busy)
            except torch.OutOfMemoryError as error:
                if self.rows_at_once == 1:
                    raise RequestError(
                        f"{self.plan.device} has too little memory for one image; choose a smaller model or "
                        "--image-size, or --device cpu; finished parts are kept"
                    ) from error
            torch.cuda.empty_cache()  # does nothing without a GPU
            self.rows_at_once = -(-self.rows_at_once // 2)
            print(f"out of memory: going on with {self.rows_at_once} images at once", file=sys.stderr, flush=True)

    def _embed(self, raw: Sequence[Batch], rows: int, lonlat: Tensor | None, busy: Busy) -> Embedded:
        if self.plan.device.type != "cuda":
            with busy.at("embed"):
                return Embedded(self._features(raw, rows, lonlat, torch.empty(rows, self.encoder.dim)))
        started, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        features = self._features(raw, rows, lonlat, torch.empty(rows, self.encoder.dim, device=self.plan.device))
        host = torch.empty(rows, self.encoder.dim, pin_memory=True)
        host.copy_(features, non_blocking=True)
        done.record()
        return Embedded(host, started, done)

    @torch.inference_mode()
    def _features(self, raw: Sequence[Batch], rows: int, lonlat: Tensor | None, features: Tensor) -> Tensor:
        device, low = self.plan.device, self.plan.precision != "fp32"
        whole = rows <= self.rows_at_once
        for batches in [raw] if whole else [[piece] for batch in raw for piece in batch.pieces(self.rows_at_once)]:
            for places, images in prepare(batches, self.encoder, device):
                where = None if lonlat is None else lonlat[places].to(device)
                with torch.autocast(device.type, PRECISIONS[self.plan.precision], enabled=low):
                    features[places] = self._run(images, where).float()
        return features

    def _run(self, images: Tensor, lonlat: Tensor | None) -> Tensor:
        rows = len(images)
        if not self.plan.compile or rows == self.rows_at_once:
            return self.run(images, lonlat)
        fill = [0] * (self.rows_at_once - rows)  # a compiled model is compiled again for every other batch size
        places = [*range(rows), *fill]
        return self.run(images[places], None if lonlat is None else lonlat[places])[:rows]


class _Assembly:
    """Collects the batches of a part, checks them and writes the part when it is whole."""

    def __init__(
        self,
        dataset: EODataset,
        encoder: Encoder,
        writer: store.PartWriter,
        busy: Busy,
        advance: Callable[..., None],
    ) -> None:
        self.dataset, self.encoder, self.writer = dataset, encoder, writer
        self.busy, self.advance = busy, advance
        self.rows: list[np.ndarray] = []

    def take(self, batch: tuple[int, int, int, Embedded]) -> None:
        """The batch that follows the one before."""
        part, start, stop, embedded = batch
        if embedded.done is not None:
            embedded.done.synchronize()
            self.busy.seconds["embed"] += embedded.started.elapsed_time(embedded.done) / 1000
        with self.busy.at("write"):
            features = embedded.features.numpy()
            check_finite(features, self.dataset.ids[start:stop], self.encoder)
            self.rows.append(features)
            if stop == self.writer.bounds(part)[1]:
                self.writer.write_part(part, np.concatenate(self.rows))
                self.rows = []
        self.advance(stop - start, self.busy.bottleneck())


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


def choose_batch_size(device: torch.device) -> int:
    """Images to begin with: enough to fill a GPU, few enough for a CPU's cache; memory running out halves them."""
    return 256 if device.type == "cuda" else 32


def choose_workers(asked: int | None, dataset: EODataset, images: int) -> int:
    """Reader processes: as asked, else none for small sets and one a core, at most 8, for large ones.

    A packed file is read here: to hand its images from process to process would take longer than to read them.
    """
    if asked is not None:
        if asked < 0:
            raise RequestError(f"--workers {asked}: must be 0 or more")
        return asked
    if images < IMAGES_WORTH_WORKERS or dataset.read_from:
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1  # absent on macOS
    return max(1, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))


def make_environment(plan: Plan, encoder: Encoder, rate: float, busy: Busy) -> dict[str, Any]:
    """What is recorded with features and never compared."""
    return {
        "versions": {name: version(name) for name in ("frozen-earth", "torch", "torchgeo", "transformers", "h5py")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else "cpu",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "batch_size": plan.batch_size,
        "compiled": plan.compile,
        "images_per_s": round(rate, 1),
        "seconds_at_work": {name: round(seconds, 3) for name, seconds in busy.seconds.items()},
        "bottleneck": busy.bottleneck(),
        "weights_origin": encoder.weights.origin,
    }
