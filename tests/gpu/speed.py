"""How fast: models beside a plain loop, the forward alone and the peak; probes at BigEarthNet's size."""

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from data import command, runs
from data.dataset import EODataset
from data.nomenclature import CLASSES_19
from data.packed import PackedSplit
from featurize import bench
from featurize.batches import copied
from featurize.embedder import Embedder
from featurize.encoder import FrozenModel
from featurize.pipeline import featurize_split
from featurize.reading import read_batches
from featurize.runtime import PRECISIONS
from featurize.stages import Meter
from featurize.task import Task
from probes.card import PROBES
from tests.bench import known_signal
from tests.gpu.machine import Machine, batch_of, finished, synchronized
from tests.gpu.running import check

GOAL_IMAGES_PER_S = 8000  # end to end on an H100, DINOv2 base at 224 and DOFA base with 12 bands
GOAL_OF_FORWARD = 0.85
ROWS = {"train": 237_871, "validation": 122_342, "test": 119_825}  # BigEarthNet v2


def _measured(machine: Machine) -> None:
    """Take rates over the seconds, and the peak with the matrices, of these sizes."""
    bench.SECONDS, bench.MATRIX = machine.sizes.seconds, {machine.device.type: machine.sizes.matrix}


@check(seconds=45)
def peaks(machine: Machine) -> dict:
    """TFLOP/s of one large matrix product, and GB/s of copies to the device as the engine makes them."""
    _measured(machine)
    found: dict[str, Any] = {one: bench.peak_tflops(machine.device.type, one) for one in PRECISIONS}
    block = torch.empty(machine.sizes.batch, 160_000, dtype=torch.uint8)
    copy = synchronized(machine.device, lambda: copied(block, machine.device))
    return {"tflops": found, "copy_gb_per_s": block.nbytes * bench.calls_per_second(copy) / 1e9}


@check(seconds=110)
def dinov2(machine: Machine) -> dict:
    """DINOv2 base at 224 from packed input."""
    return rates(machine, "dinov2")


@check(seconds=110)
def dofa(machine: Machine) -> dict:
    """DOFA base with twelve bands from packed input."""
    return rates(machine, "dofa")


def rates(machine: Machine, name: str) -> dict:
    """Images/s of one model in bf16: end to end, forward only (also with larger batches and compiled), a plain loop."""
    _measured(machine)
    samples, size = machine.samples(), machine.sizes.batch
    encoder = machine.encoder(name, samples)
    gflop = bench.operations(batch_of(samples, encoder, 1), encoder, None, 1) / 1e9
    forward = {
        f"{rows}{' compiled' if compile_ else ''}": forward_rate(machine, encoder, samples, rows, compile_=compile_)
        for compile_ in sorted({False, machine.on_gpu})
        for rows in (size, 4 * size)
        if compile_ <= (rows == size)
    }
    ranges = [(0, start, min(start + size, len(samples))) for start in range(0, len(samples), size)]
    start = time.perf_counter()
    for _ in read_batches(samples, encoder.request.bands, ranges, 0, Meter()):
        pass
    read = len(samples) / (time.perf_counter() - start)
    task = Task(dataset=samples, encoder=encoder, runtime=machine.runtime("bf16"))
    summary = featurize_split(task, machine.folder / f"{name}.h5", overwrite=True)
    plain = plain_rate(machine, encoder, samples)
    peak = bench.peak_tflops(machine.device.type, "bf16")
    return {
        "images": len(samples), "batch": size, "gflop_per_image": gflop, "forward_images_per_s": forward,
        "end_to_end_images_per_s": summary.images_per_s, "read_images_per_s": read, "plain_images_per_s": plain,
        "forward_tflops": forward[str(size)] * gflop / 1000, "of_matmul_peak": forward[str(size)] * gflop / 1000 / peak,
        "stage_seconds": summary.stage_seconds, "bottleneck": summary.bottleneck,
        "goals": {
            "end_to_end_of_8000": summary.images_per_s / GOAL_IMAGES_PER_S,
            "of_forward": summary.images_per_s / forward[str(size)], "of_forward_goal": GOAL_OF_FORWARD,
            "over_plain": summary.images_per_s / plain,
        },
    }  # fmt: skip


def forward_rate(machine: Machine, encoder: FrozenModel, samples: EODataset, rows: int, *, compile_: bool) -> float:
    """Images/s of resizing, scaling and embedding batches that are on the device already."""
    rows = min(rows, len(samples))
    raw = [batch.on(machine.device) for batch in batch_of(samples, encoder, rows)]
    runtime = machine.runtime("bf16", batch_size=rows, compile=compile_)
    embedder = Embedder(encoder.to(machine.device), runtime)
    embedder.rows_at_once = rows
    return rows * bench.calls_per_second(lambda: finished(embedder.embed(raw, rows, None, Meter())))


class Plain(Dataset):
    """What a plain loop reads: all bands at the model's size, as float32."""

    def __init__(self, samples: PackedSplit, encoder: FrozenModel, count: int) -> None:
        self.samples, self.encoder, self.count = samples, encoder, min(count, len(samples))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> torch.Tensor:
        side = self.encoder.request.image_size or 120
        bands = self.samples.read(row, self.encoder.request.bands)
        images = [torch.from_numpy(band.astype(np.float32))[None, None] for band in bands]
        return torch.cat([self.encoder.resize(image, (side, side)) for image in images], dim=1)[0]


def plain_rate(machine: Machine, encoder: FrozenModel, samples: PackedSplit) -> float:
    """Images/s of the loop that most people write: DataLoader, autocast, features back batch by batch."""
    count, workers = machine.sizes.plain
    images = Plain(samples, encoder.cpu(), count)
    loader = DataLoader(images, machine.sizes.batch, num_workers=workers, pin_memory=machine.on_gpu)
    model = machine.encoder(encoder.name, samples).to(machine.device)
    start, features = time.perf_counter(), []
    with torch.inference_mode(), torch.autocast(machine.device.type, torch.bfloat16):
        for batch in loader:
            features.append(model(batch.to(machine.device, non_blocking=True)).float().cpu().numpy())
    return len(np.concatenate(features)) / (time.perf_counter() - start)


@check(seconds=90)
def signal(machine: Machine) -> dict:
    """Features of BigEarthNet's size with a known signal, which the probes below learn from."""
    rng, tables = np.random.default_rng(0), []
    for split, rows in ROWS.items():
        count = round(rows * machine.sizes.share)
        often = rng.random((count, len(CLASSES_19))) < np.geomspace(0.4, 0.01, len(CLASSES_19))
        labels = [[CLASSES_19[k] for k in np.flatnonzero(row)] or [CLASSES_19[0]] for row in often]
        ids = [f"{split}-{row}" for row in range(count)]
        tables.append(pd.DataFrame({"patch_id": ids, "labels": labels, "split": split}))
    pd.concat(tables).to_parquet(metadata := machine.folder / "metadata.parquet")
    return {"rows": known_signal.write(machine.features, metadata, dim=machine.sizes.dim)}


@check(seconds=60)
def linear(machine: Machine) -> dict:
    """`probe --kind linear` at full size."""
    return probed(machine, "linear")


@check(seconds=90)
def knn(machine: Machine) -> dict:
    """`probe --kind knn` at full size."""
    return probed(machine, "knn")


@check(seconds=120)
def mlp(machine: Machine) -> dict:
    """`probe --kind mlp` at full size."""
    return probed(machine, "mlp", "--budget", machine.sizes.budget)


def probed(machine: Machine, kind: str, *words: str) -> dict:
    """Seconds and scores of one probe on the device, if its kind runs there."""
    from probes.cli import app

    device = machine.device.type if PROBES.card(kind).gpu else "cpu"
    with tempfile.TemporaryDirectory(dir=machine.folder) as out:
        start = time.perf_counter()
        where = ["--features", str(machine.features), "--out", out, "--device", device]
        code = command.run(app, ["--kind", kind, *where, *words])
        seconds = time.perf_counter() - start
        assert code == 0, f"probe --kind {kind} ended with {code}"
        (run,) = runs.find_runs(Path(out))
    record = json.loads(json.dumps(run.record, default=str))
    return {
        "device": device, "whole_s": seconds, "seconds_of": record["seconds"], "chosen": record["chosen"],
        "map_macro": record["metrics"]["test"]["half"]["map_macro"],
    }  # fmt: skip
