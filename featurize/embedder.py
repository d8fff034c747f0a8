"""Embed batches on a device: asynchronously on a GPU, in one thread per core on a CPU."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from data.command import say
from data.errors import RequestError
from featurize.batches import Batch, copied, prepare
from featurize.encoder import FrozenModel
from featurize.runtime import PRECISIONS, Runtime
from featurize.shapes import Embeddings, Images, Lonlat
from featurize.stages import Meter


@dataclass(frozen=True)
class Embedded:
    """Embeddings of one batch, possibly still being copied from a GPU."""

    features: Embeddings  # (B, D) float32 in main memory, filled once `done` has happened
    started: Any = None  # when a GPU began with the batch; None on the CPU
    done: Any = None  # when the copy back is complete; None on the CPU


class Embedder:
    """Embeds raw batches on the runtime's device, in smaller pieces once memory has run out."""

    def __init__(self, encoder: FrozenModel, runtime: Runtime) -> None:
        self.encoder, self.runtime, self.rows_at_once = encoder, runtime, min(runtime.batch_size, runtime.part_rows)
        self.run = torch.compile(encoder.embed) if runtime.compile else encoder.embed
        self.pool = None
        if runtime.device.type == "cuda":
            torch.cuda.set_device(runtime.device)  # events and pinned memory belong to the current device
        if runtime.device.type == "cpu" and encoder.images_a_core and not runtime.compile:
            cores = torch.get_num_threads()
            # Below fp32 the weights are converted for every piece: no more pieces than cores.
            share = encoder.images_a_core if runtime.precision == "fp32" else -(-self.rows_at_once // cores)
            self.rows_at_once = min(share, self.rows_at_once)
            if cores > 1:  # torch counts threads for each thread: one for those of the pool and those begun later
                self.pool = ThreadPoolExecutor(cores, "embed", torch.set_num_threads, (1,))

    def embed(self, raw: Sequence[Batch], rows: int, lonlat: Lonlat | None, meter: Meter) -> Embedded:
        """Embed one raw batch; on a GPU this returns before it is done."""
        self.encoder.check_locations(lonlat)
        while True:
            try:
                return self._embed(raw, rows, lonlat, meter)
            except torch.OutOfMemoryError as error:
                if self.rows_at_once == 1:
                    raise RequestError(
                        f"{self.runtime.device} has too little memory for one image; choose a smaller model or "
                        "--image-size, or --device cpu; finished parts are kept"
                    ) from error
            torch.cuda.empty_cache()  # does nothing without a GPU
            self.rows_at_once = -(-self.rows_at_once // 2)
            say(f"out of memory: continuing with {self.rows_at_once} images per batch")

    def _embed(self, raw: Sequence[Batch], rows: int, lonlat: Lonlat | None, meter: Meter) -> Embedded:
        if self.runtime.device.type != "cuda":
            with meter.at("embed"):
                features = torch.empty(rows, self.encoder.dim)
                self._fill(features, raw, lonlat)
                return Embedded(features)
        started, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        started.record()
        features = torch.empty(rows, self.encoder.dim, device=self.runtime.device)
        self._fill(features, raw, lonlat)
        host = torch.empty(rows, self.encoder.dim, pin_memory=True)
        host.copy_(features, non_blocking=True)
        done.record()
        return Embedded(host, started, done)

    def _fill(self, features: Tensor, raw: Sequence[Batch], lonlat: Lonlat | None) -> None:
        """Embed raw batches into their rows of `features`, in pieces that memory has room for."""
        pieces = [raw]
        if len(features) > self.rows_at_once:
            pieces = [[piece] for batch in raw for piece in batch.pieces(self.rows_at_once)]
        if self.pool is None or len(pieces) == 1:
            for piece in pieces:
                self._fill_piece(features, piece, lonlat)
            return
        futures = [self.pool.submit(self._fill_piece, features, piece, lonlat) for piece in pieces]
        try:
            for future in futures:
                future.result()
        finally:  # after an error too: no thread may still write to a discarded tensor
            for future in futures:
                future.cancel()
            wait(futures)

    @torch.inference_mode()
    def _fill_piece(self, features: Tensor, piece: Sequence[Batch], lonlat: Lonlat | None) -> None:
        device, low = self.runtime.device, self.runtime.precision != "fp32"
        for indices, images in prepare(piece, self.encoder, device):
            where = None if lonlat is None else copied(lonlat[indices], device)
            with torch.autocast(device.type, PRECISIONS[self.runtime.precision], enabled=low):
                features[_span(indices)] = self._run(images, where).float()

    def _run(self, images: Images, lonlat: Lonlat | None) -> Embeddings:
        images, rows = self.encoder.normalization(images), len(images)
        if not self.runtime.compile or rows == self.rows_at_once:
            return self.run(images, lonlat)
        fill = [0] * (self.rows_at_once - rows)  # a compiled model is compiled again for every other batch size
        indices = [*range(rows), *fill]
        return self.run(images[indices], None if lonlat is None else lonlat[indices])[:rows]


def _span(indices: list[int]) -> slice | list[int]:
    """Consecutive indices as a slice: a list is copied to a GPU, which waits for all queued work."""
    first, last = indices[0], indices[-1]
    return slice(first, last + 1) if indices == list(range(first, last + 1)) else indices


def copy_batches(batches: Iterator[list[Batch]], device: torch.device, meter: Meter) -> Iterator[list[Batch]]:
    """Copy batches to a GPU on a stream of its own, while the GPU embeds the batch before.

    A batch that does not fit is passed on as it is; `Embedder` copies it in pieces.
    """
    stream, user = torch.cuda.Stream(device), torch.cuda.default_stream(device)
    for batch in batches:
        with meter.at("copy"), torch.cuda.stream(stream):
            try:
                there = [one.on(device) for one in batch]
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                there = batch
            for one in there:
                for _, pixels in one.stacks:
                    if pixels.is_cuda:
                        pixels.record_stream(user)  # its memory is not free before the embedding stream is past it
            stream.synchronize()  # this thread waits, not the one that embeds
        yield there
