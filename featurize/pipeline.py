"""Read, resize, scale, embed, write: one split of a dataset through an encoder into a feature file."""

import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float32

from data import store
from data.command import progress, say
from data.errors import RequestError
from featurize.changes import changed_parts, check_unchanged
from featurize.embedder import Embedded, Embedder, copy_batches
from featurize.encoder import FrozenModel
from featurize.guards import check_inputs
from featurize.reading import read_batches
from featurize.runtime import choose_workers
from featurize.stages import Meter, ahead, behind
from featurize.task import Task


class Work(Protocol):
    """Makes parts, in this process or in several: see `embed_parts`."""

    def __call__(self, task: Task, writer: store.PartWriter, parts: Sequence[int], meter: Meter) -> None:
        """Embed and write these parts."""
        ...


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What `featurize_split` did.

    Args:
        file: the feature file.
        images: N.
        dim: D.
        embedded: images embedded now; the others were done before.
        seconds: from the first image read to the last part written.
        stage_seconds: seconds that each stage worked.
        bottleneck: the stage that worked longest; None if nothing was embedded.
        reused: whether the file was there already.
    """

    file: Path
    images: int
    dim: int
    embedded: int = 0
    seconds: float = 0.0
    stage_seconds: dict[str, float] = field(default_factory=dict)
    bottleneck: str | None = None
    reused: bool = False

    @property
    def images_per_s(self) -> float:
        """Rate of what was embedded now."""
        return self.embedded / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        """One line."""
        if self.reused:
            return f"reused {self.file} ({self.images:,} images)"
        resumed = f", {self.images - self.embedded:,} already done" if self.embedded < self.images else ""
        rate = f"{self.images_per_s:,.0f} images/s; bottleneck: {self.bottleneck}"
        stages = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.stage_seconds.items())
        return (
            f"wrote {self.file} ({self.images:,} images x {self.dim}{resumed}; "
            f"{rate if self.embedded else 'nothing left to embed'}; time per stage: {stages})"
        )


def featurize_split(task: Task, file: Path, *, overwrite: bool = False, work: Work | None = None) -> Summary:
    """Embed one split into `file`, or find it done; resumes where an interrupted run stopped.

    Args:
        task: the split, the encoder and how to run.
        file: see `data.paths.feature_file`.
        overwrite: make a finished file again; the old one stays until the new one replaces it.
        work: makes the parts; None means `embed_parts`.

    Raises:
        RequestError: the file or its parts have another identity; the pixels are not what the encoder was made for;
            a sample cannot be read; an embedding is not finite; the disk is full.
    """
    dataset, encoder = task.dataset, task.encoder
    size = {"file": file, "images": len(dataset), "dim": encoder.dim}
    if file.exists() and not overwrite:
        check_reusable(task, file)
        store.tidy(file)
        return Summary(**size, reused=True)
    check_inputs(dataset, encoder)
    settings = {"part_rows": task.runtime.part_rows, "overwrite": overwrite, "any_times": dataset.digest_of_times}
    with store.FeatureWriter(file, task.identity, **task.shape, **settings) as writer:
        if file.exists() and not overwrite:  # another process published it just before this one took the lock
            check_reusable(task, file)
            shutil.rmtree(writer.parts, ignore_errors=True)
            return Summary(**size, reused=True)
        started = time.perf_counter()
        todo = unfinished_parts(task, writer)
        rows = sum(stop - start for start, stop in map(writer.bounds, todo))
        if kept := len(dataset) - rows:
            say(f"{dataset.split}: resuming: {kept:,} of {len(dataset):,} images already done", result=True)
        with progress(f"{encoder.name} on {dataset.name} {dataset.split}", rows, "images") as shown:
            meter = Meter(shown)
            (work or embed_parts)(task, writer, todo, meter)
        seconds = time.perf_counter() - started
        with meter.at("write"):
            environment = make_environment(task, rows / seconds, meter)
            writer.finish(dataset, environment | (dataset.read_from or {}))
    stages = {"stage_seconds": dict(meter.seconds), "bottleneck": meter.bottleneck()}
    return Summary(**size, embedded=rows, seconds=seconds, **stages)


def unfinished_parts(task: Task, writer: store.FeatureWriter) -> list[int]:
    """Parts still to be made: those not done yet, and those whose images changed since."""
    missing = writer.missing()
    done = sorted({*range(writer.parts_in_all)} - {*missing})
    same_times = task.dataset.digest_of_times and not writer.other_times
    if changed := changed_parts(task, writer, done, same_times=same_times):
        say(f"{task.dataset.split}: images of {len(changed)} finished parts changed; recomputing them", result=True)
    if recorded := writer.recorded() & {*missing, *changed}:  # whoever waits for parts waits for their lines
        writer.forget(recorded)
    return sorted({*missing, *changed})


def check_reusable(task: Task, file: Path) -> None:
    """Raise a RequestError naming what differs unless `file` was made with this identity from these images."""
    dataset = task.dataset
    found, _ = store.read_identity(file)
    fields = store.differing_fields(found, task.identity)
    same_times = dataset.digest_of_times and not fields
    if dataset.digest_of_times and fields == [store.TIMES_FIELD] and store.knows_all_pixels(file):
        fields = []  # else only the digest in the identity can tell
    if fields:
        raise RequestError(
            f"{file} differs from this request in {', '.join(fields)}; use --overwrite to replace it or "
            "choose another --out"
        )
    if note := check_unchanged(task, file, same_times=same_times):
        say(f"featurize: note: {file}: {note}")


def embed_parts(task: Task, writer: store.PartWriter, parts: Sequence[int], meter: Meter) -> None:
    """Embed and write parts: reading, copying to the device, embedding and writing overlap.

    Batches never cross a part, so a resumed run makes the same batches.

    Raises:
        RequestError: a sample cannot be read, an embedding is not finite, the disk or the device is full.
        KeyboardInterrupt: asked to stop; the current part was finished.
    """
    dataset, encoder, runtime = task.dataset, task.encoder, task.runtime
    ranges = [
        (part, start, min(start + runtime.batch_size, writer.bounds(part)[1]))
        for part in parts
        for start in range(*writer.bounds(part), runtime.batch_size)
    ]
    torch.backends.cudnn.allow_tf32 = runtime.precision != "fp32"  # PyTorch's default rounds fp32 convolutions
    seen: dict[int, np.ndarray] = {}
    embedder = Embedder(encoder.to(runtime.device), runtime)
    assembly = _Assembly(task, writer, meter, seen)
    workers = choose_workers(runtime.workers, dataset, sum(stop - start for _, start, stop in ranges))
    with ExitStack() as stages:
        put = stages.enter_context(behind(assembly.take))
        reading = stages.enter_context(closing(read_batches(dataset, task.bands, ranges, workers, meter, seen)))
        batches = stages.enter_context(ahead(reading))
        if runtime.device.type == "cuda":
            batches = stages.enter_context(ahead(copy_batches(batches, runtime.device, meter)))
        interrupted = stages.enter_context(finishing_on_interrupt())
        for (part, start, stop), raw in zip(ranges, batches, strict=True):
            lonlat = None if dataset.lonlat is None else torch.from_numpy(dataset.lonlat[start:stop])
            put((part, start, stop, embedder.embed(raw, stop - start, lonlat, meter)))
            if interrupted.is_set() and stop == writer.bounds(part)[1]:
                raise KeyboardInterrupt


@contextmanager
def finishing_on_interrupt() -> Iterator[threading.Event]:
    """An event that the first interrupt (Ctrl-C) sets; a second one interrupts as usual."""
    asked = threading.Event()

    def ask(*_: object) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before)
        print("\nfinishing the current part; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)

    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield asked
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


class _Assembly:
    """Collects the batches of a part, checks them and writes the part when it is complete."""

    def __init__(self, task: Task, writer: store.PartWriter, meter: Meter, seen: dict[int, np.ndarray]) -> None:
        self.task, self.writer, self.meter, self.seen = task, writer, meter, seen
        self.rows: list[np.ndarray] = []
        self.made_from: list[np.ndarray] = []

    def take(self, batch: tuple[int, int, int, Embedded]) -> None:
        """The batch that follows the previous one."""
        part, start, stop, embedded = batch
        if embedded.done is not None:
            embedded.done.synchronize()
            self.meter.seconds["embed"] += embedded.started.elapsed_time(embedded.done) / 1000
        with self.meter.at("write"):
            features = embedded.features.numpy()
            check_finite(features, self.task.dataset.ids[start:stop], self.task.encoder)
            self.rows.append(features)
            self.made_from.append(self.seen.pop(start))
            if stop == self.writer.bounds(part)[1]:
                self.writer.write_part(part, np.concatenate(self.rows), np.concatenate(self.made_from))
                self.rows, self.made_from = [], []
        self.meter.advance(stop - start)


def check_finite(features: Float32[np.ndarray, "batch dim"], ids: Sequence[str], encoder: FrozenModel) -> None:
    """Raise a RequestError naming the first sample whose embedding is NaN, infinite or too large for its type."""
    with np.errstate(over="ignore"):
        good = np.isfinite(features.astype(encoder.dtype)).all(axis=1)
    if not good.all():
        first = ids[int(np.argmin(good))]
        raise RequestError(
            f"{encoder.name} returns NaN or infinity for {(~good).sum()} images, first '{first}'; "
            "check that image's pixels, or try --precision fp32"
        )


def make_environment(task: Task, images_per_s: float, meter: Meter) -> dict[str, Any]:
    """What is recorded with features and never compared."""
    runtime = task.runtime
    return {
        "versions": {name: version(name) for name in ("frozen-earth", "torch", "torchgeo", "transformers", "h5py")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": runtime.computes_on(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "batch_size": runtime.batch_size,
        "compiled": runtime.compile,
        "images_per_s": round(images_per_s, 1),
        "seconds_at_work": {name: round(seconds, 3) for name, seconds in meter.seconds.items()},
        "bottleneck": meter.bottleneck(),
        "weights_origin": task.encoder.weights.origin,
        "asked": dict(task.asked),
    }
