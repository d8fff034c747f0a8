"""Speed of models on this machine: images/s forward only and end to end, and the upper bound of the hardware."""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from data import paths
from data.dataset import EODataset
from data.files import published
from featurize.batches import Batch, prepare
from featurize.card import MODELS
from featurize.embedder import Embedder
from featurize.job import Job
from featurize.pipeline import featurize_split
from featurize.reading import read_batches
from featurize.runtime import PRECISIONS, Runtime, choose_workers
from featurize.shapes import Lonlat
from featurize.stages import Meter
from featurize.task import Task

SECONDS = 3.0  # that a rate is taken over, at least
MATRIX = {"cuda": 8192, "cpu": 2048}  # side of the matrices whose product measures the peak


@dataclass(frozen=True)
class Rate:
    """What was measured of one model run one way."""

    model: str  # its name, with the variant
    device: str  # the GPU's name, or ``cpu``
    precision: str  # ``fp32``, ``bf16`` or ``fp16``
    compiled: bool  # whether the model was compiled
    batch_size: int  # images read and handed to the device together
    image_size: int  # side in pixels that the model gets
    bands: int  # number of bands
    feature_bytes: int  # of the embedding of one image
    gflop: float  # 10^9 floating-point operations per image, as torch counts them (a multiply-add is two)
    forward: float  # images/s of resizing, scaling and embedding batches that are on the device already
    whole: float  # images/s from the dataset's files to a feature file
    bottleneck: str  # the slowest stage of that
    read: float  # images/s of reading alone, in the processes that the whole run reads with
    megabytes: float  # 10^6 bytes read per image
    peak: float  # 10^12 floating-point operations/s of one large matrix product in this precision
    bound: float  # images/s that neither computing at the peak nor reading at the rate measured can exceed

    @property
    def share_of_peak(self) -> float:
        """Share of the device's measured peak that the forward reaches."""
        return self.forward * self.gflop / self.peak / 1000

    @property
    def share_of_bound(self) -> float:
        """Share of the bound that the whole run reaches."""
        return self.whole / self.bound


def bench(
    job: Job, models: Sequence[str], devices: Sequence[str], precisions: Sequence[str], compiled: Sequence[bool]
) -> Iterator[Rate]:
    """Measure every model on every device, in every precision, compiled or not.

    Yields:
        A rate as soon as it is measured.
    """
    for name, device, precision, compile_ in product(models, devices, precisions, compiled):
        weights = job.model.weights or ("random" if "random" in MODELS.card(name).weights else None)
        run = replace(job.run, device=device, precision=precision, compile=compile_)
        one = replace(job, model=replace(job.model, model=name, weights=weights), run=run)
        if precision not in ("auto", "fp32") and not one.encoder.autocast:
            print(f"{name}: {precision} skipped, it runs in fp32 only", flush=True)
        else:
            yield measure(one, one.run.runtime(one.encoder))


def measure(job: Job, runtime: Runtime) -> Rate:
    """Measure one model run one way."""
    samples, encoder = job.open(job.data.splits()[0]), job.encoder
    rows = min(runtime.batch_size, len(samples))
    meter = Meter()
    raw = next(read_batches(samples, encoder.request.bands, [(0, 0, rows)], 0, meter))
    embedder = Embedder(encoder.to(runtime.device), runtime)
    lonlat = None if samples.lonlat is None else torch.from_numpy(samples.lonlat[:rows])
    placed = [batch.on(runtime.device) if runtime.device.type == "cuda" else batch for batch in raw]

    def forward() -> None:
        done = embedder.embed(placed, rows, lonlat, Meter()).done
        if done is not None:
            done.synchronize()

    gflop = operations(raw, encoder, lonlat, rows) / 1e9
    alone = rows * calls_per_second(forward)
    megabytes = sum(pixels.nbytes for batch in raw for _, pixels in batch.stacks) / rows / 1e6
    read = reading_rate(samples, job, runtime)
    whole, bottleneck = whole_rate(job, samples, runtime)
    peak = peak_tflops(runtime.device.type, runtime.precision)
    with torch.inference_mode():
        (_, images), *_ = prepare(raw[:1], encoder, torch.device("cpu"))
    return Rate(
        model="-".join(word for word in (encoder.name, encoder.request.variant) if word),
        device=runtime.computes_on(),
        precision=runtime.precision,
        compiled=runtime.compile,
        batch_size=rows,
        image_size=images.shape[-1],
        bands=len(encoder.request.bands),
        feature_bytes=encoder.dim * np.dtype(encoder.dtype).itemsize,
        gflop=gflop,
        forward=alone,
        whole=whole,
        bottleneck=bottleneck,
        read=read,
        megabytes=megabytes,
        peak=peak,
        bound=min(read, peak * 1000 / gflop if gflop else read),
    )


def operations(raw: Sequence[Batch], encoder: Any, lonlat: Lonlat | None, rows: int) -> float:
    """Floating-point operations of the encoder for one image, those of matrix products and convolutions."""
    device = next((tensor.device for tensor in [*encoder.parameters(), *encoder.buffers()]), torch.device("cpu"))
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        for indices, images in prepare(raw, encoder, device):
            encoder(images, None if lonlat is None else lonlat[indices].to(device))
    return counter.get_total_flops() / rows


def calls_per_second(call: Callable[[], None]) -> float:
    """Calls per second, over `SECONDS` and at least three calls, after one warm-up call."""
    call()
    count, start = 0, time.perf_counter()
    while count < 3 or time.perf_counter() - start < SECONDS:
        call()
        count += 1
    return count / (time.perf_counter() - start)


def reading_rate(samples: EODataset, job: Job, runtime: Runtime) -> float:
    """Images/s of reading alone; files that were read just before come from memory."""
    ranges = [
        (0, start, min(start + runtime.batch_size, len(samples)))
        for start in range(0, len(samples), runtime.batch_size)
    ]
    workers = choose_workers(runtime.workers, samples, len(samples))
    start = time.perf_counter()
    for _ in read_batches(samples, job.encoder.request.bands, ranges, workers, Meter()):
        pass
    return len(samples) / (time.perf_counter() - start)


def whole_rate(job: Job, samples: EODataset, runtime: Runtime) -> tuple[float, str]:
    """Images/s of featurize end to end, into a temporary folder, and its slowest stage."""
    task = Task(dataset=samples, encoder=job.encoder, runtime=runtime)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        summary = featurize_split(task, Path(folder) / "bench.h5")
        return len(samples) / (time.perf_counter() - start), str(summary.bottleneck)


@cache
def peak_tflops(device: str, precision: str) -> float:
    """10^12 operations/s of one large matrix product: an upper bound for all models on this device."""
    side = MATRIX[device]
    one, other = (torch.randn(side, side, device=device, dtype=PRECISIONS[precision]) for _ in range(2))

    def multiply() -> None:
        torch.matmul(one, other)
        if device == "cuda":
            torch.cuda.synchronize()

    return 2 * side**3 * calls_per_second(multiply) / 1e12


def write(rates: Sequence[Rate], samples: EODataset, out: Path) -> Path:
    """Keep rates with the facts of the machine.

    Returns:
        ``<out>/bench/<machine>.json``; `analyze speed` makes tables and pictures of it.
    """
    cpu = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or platform.machine()
    facts = {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: version(name) for name in ("frozen-earth", "torch", "transformers", "torchgeo")},
        "date": datetime.now(UTC).date().isoformat(),
        "load": os.getloadavg()[0],
    }
    rows = [
        asdict(rate) | {"share_of_peak": rate.share_of_peak, "share_of_bound": rate.share_of_bound} for rate in rates
    ]
    target = paths.bench_file(out, f"{facts['gpu'] or cpu}-{facts['cores']}-cores")
    data = {"name": samples.name, "split": samples.split, "images": len(samples)}
    with published(target) as temporary:
        temporary.write_text(json.dumps({"machine": facts, "dataset": data, "rates": rows}, indent=1) + "\n")
    return target


def run(job: Job) -> int:
    """Measure, show each rate as it comes, and keep all; see `featurize bench`."""
    from rich.console import Console
    from rich.table import Table

    models, devices, precisions = (given.split(",") for given in (job.model.model, job.run.device, job.run.precision))
    rates = []
    for rate in bench(job, models, devices, precisions, [False, True] if job.run.compile else [False]):
        rates.append(rate)
        print(
            f"{rate.model} {rate.precision} on {rate.device}: {rate.forward:,.1f} images/s forward only, "
            f"{rate.whole:,.1f} end to end; bottleneck: {rate.bottleneck}",
            flush=True,
        )
    measures = ("forward only", "end to end", "read", "TFLOP/s", "of peak", "upper bound", "of bound")
    table = Table("model", "device", "precision", *measures)
    for rate in rates:
        table.add_row(
            rate.model, rate.device, rate.precision + (" compiled" if rate.compiled else ""), f"{rate.forward:,.1f}",
            f"{rate.whole:,.1f}", f"{rate.read:,.0f}", f"{rate.forward * rate.gflop / 1000:,.3g}",
            f"{rate.share_of_peak:.0%}", f"{rate.bound:,.1f}", f"{rate.share_of_bound:.0%}",
        )  # fmt: skip
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)
    first = replace(job, model=replace(job.model, model=models[0]))
    target = write(rates, first.open(job.data.splits()[0]), job.out)
    print(f"wrote {target}; tables and a bar chart: analyze speed --out {job.out}")
    return 0
