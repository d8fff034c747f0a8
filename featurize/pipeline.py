"""Read, resize, scale, embed, write: one split of a dataset through an encoder into a feature file."""

import platform
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from data import store
from data.bands import Band
from data.command import progress
from data.dataset import EODataset
from data.errors import RequestError
from featurize.embedder import Embedded, Embedder, copy_batches
from featurize.encoder import Encoder
from featurize.guards import check_inputs
from featurize.plan import Plan, choose_workers
from featurize.reading import read_batches
from featurize.sources import changed_parts, check_unchanged
from featurize.stages import Busy, ahead, behind


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
        check_reusable(file, identity, dataset, encoder.request.bands)
        store.tidy(file)
        return file, f"reused {file} ({len(dataset):,} images)"
    check_inputs(dataset, encoder)
    busy, started = Busy(), time.perf_counter()
    size = {"rows": len(dataset), "dim": encoder.dim, "dtype": encoder.dtype}
    settings = {"part_rows": plan.part_rows, "overwrite": overwrite, "any_times": dataset.digest_of_times}
    with store.FeatureWriter(file, identity, **size, **settings) as writer:
        if file.exists() and not overwrite:  # another process published it just before this one took the lock
            check_reusable(file, identity, dataset, encoder.request.bands)
            shutil.rmtree(writer.parts, ignore_errors=True)
            return file, f"reused {file} ({len(dataset):,} images)"
        missing = writer.missing()
        done = sorted({*range(writer.parts_in_all)} - {*missing})
        same_times = dataset.digest_of_times and not writer.other_times
        changed = changed_parts(writer, done, dataset, encoder.request.bands, same_times=same_times)
        if changed:
            print(f"{dataset.split}: images of {len(changed)} finished parts changed: made again", flush=True)
        todo = sorted({*missing, *changed})
        rows = sum(stop - start for start, stop in map(writer.bounds, todo))
        kept = len(dataset) - rows
        if kept:
            print(f"{dataset.split}: resuming: {kept:,} of {len(dataset):,} images already done", flush=True)
        with progress(f"{encoder.name} on {dataset.name} {dataset.split}", rows, "images") as advance:
            (work or embed_parts)(dataset, encoder, writer, todo, plan, busy, advance)
        elapsed = time.perf_counter() - started
        rate = rows / elapsed
        with busy.at("write"):
            recorded = make_environment(plan, encoder, rate, busy) | {"asked": dict(asked or {})}
            writer.finish(dataset, recorded | (dataset.read_from or {}))
    spent = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in busy.seconds.items())
    resumed = f", {kept:,} already done" if kept else ""
    pace = f"{rate:,.0f} images/s; bottleneck: {busy.bottleneck()}" if rows else "nothing left to embed"
    return file, f"wrote {file} ({len(dataset):,} images x {encoder.dim}{resumed}; {pace}; time per stage: {spent})"


def check_reusable(
    file: Path, identity: dict[str, Any], dataset: EODataset | None = None, bands: Sequence[Band] = ()
) -> None:
    """Raise a RequestError naming the differing fields unless `file` was made with this identity and these images.

    Args:
        file: the feature file.
        identity: what is asked for.
        dataset: the split, to compare its images with those that the file was made from; None does not.
        bands: which are read.
    """
    found, _ = store.read_identity(file)
    fields = store.differing_fields(found, identity)
    times = [store.TIMES_FIELD] if dataset is not None and dataset.digest_of_times else []
    if dataset is not None and fields in ([], times):
        if fields and store.knows_all_pixels(file):  # else only the digest in the identity can tell
            fields = []
        same_times = dataset.digest_of_times and not store.differing_fields(found, identity)
        if not fields and (note := check_unchanged(file, dataset, bands, same_times=same_times)):
            print(f"featurize: note: {file}: {note}", file=sys.stderr)
    if fields:
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
    seen: dict[int, np.ndarray] = {}
    embedder = Embedder(encoder.to(plan.device), plan)
    assembly = _Assembly(dataset, encoder, writer, busy, advance, seen)
    workers = choose_workers(plan.workers, dataset, sum(stop - start for _, start, stop in ranges))
    with ExitStack() as stages:
        put = stages.enter_context(behind(assembly.take))
        reading = stages.enter_context(
            closing(read_batches(dataset, encoder.request.bands, ranges, workers, busy, seen))
        )
        batches = stages.enter_context(ahead(reading))
        if plan.device.type == "cuda":
            batches = stages.enter_context(ahead(copy_batches(batches, plan.device, busy)))
        interrupted = stages.enter_context(finishing_on_interrupt())
        for (part, start, stop), raw in zip(ranges, batches, strict=True):
            lonlat = None if dataset.lonlat is None else torch.from_numpy(dataset.lonlat[start:stop])
            put((part, start, stop, embedder.embed(raw, stop - start, lonlat, busy)))
            if interrupted.is_set() and stop == writer.bounds(part)[1]:
                raise KeyboardInterrupt


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


class _Assembly:
    """Collects the batches of a part, checks them and writes the part when it is whole."""

    def __init__(
        self,
        dataset: EODataset,
        encoder: Encoder,
        writer: store.PartWriter,
        busy: Busy,
        advance: Callable[..., None],
        seen: dict[int, np.ndarray],
    ) -> None:
        self.dataset, self.encoder, self.writer = dataset, encoder, writer
        self.busy, self.advance, self.seen = busy, advance, seen
        self.rows: list[np.ndarray] = []
        self.made_from: list[np.ndarray] = []

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
            self.made_from.append(self.seen.pop(start))
            if stop == self.writer.bounds(part)[1]:
                self.writer.write_part(part, np.concatenate(self.rows), np.concatenate(self.made_from))
                self.rows, self.made_from = [], []
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


def make_environment(plan: Plan, encoder: Encoder, rate: float, busy: Busy) -> dict[str, Any]:
    """What is recorded with features and never compared."""
    return {
        "versions": {name: version(name) for name in ("frozen-earth", "torch", "torchgeo", "transformers", "h5py")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "device": plan.computes_on(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "batch_size": plan.batch_size,
        "compiled": plan.compile,
        "images_per_s": round(rate, 1),
        "seconds_at_work": {name: round(seconds, 3) for name, seconds in busy.seconds.items()},
        "bottleneck": busy.bottleneck(),
        "weights_origin": encoder.weights.origin,
    }
