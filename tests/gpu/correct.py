"""Whether a GPU computes what a CPU does, in every way the engine has."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from data import packing, store
from featurize.embedder import Embedder, copy_batches
from featurize.encoder import FrozenModel
from featurize.pipeline import embed_parts, featurize_split
from featurize.reading import read_batches
from featurize.runtime import Runtime
from featurize.stages import Meter, ahead
from featurize.task import Task
from tests.gpu.machine import Machine, Pool, apart, batch_of, embedded, finished
from tests.gpu.running import check

PROJECT = Path(__file__).parent.parent.parent
# One small variant per family of code: transformers, torchgeo, our own transformers, convolutions, statistics.
PARITY = {
    "dinov2": {"variant": "small", "image_size": 56},
    "dofa": {"variant": "small"},
    "galileo": {"variant": "nano"},
    "croma": {"image_size": 40, "bands": "s2-12"},
    "resnet": {"variant": "sentinel2-rgb-moco-18", "image_size": 64},
    "rcf": {"image_size": 24, "bands": "rgb"},
    "stats": {},
}


@check(seconds=60)
def pack(machine: Machine) -> dict:
    """Images of twelve bands in a packed file, which the other checks read."""
    made = Pool(machine.sizes.images)
    result = packing.pack(machine.packed, {"train": made}, made.bands, workers=0 if len(made) < 1000 else None)
    return {"images": result.images, "images_per_s": result.images / result.seconds, "bytes": result.file_bytes}


@check(seconds=90)
def parity(machine: Machine) -> dict:
    """Features on the GPU against those on the CPU, in fp32."""
    samples, found, rows = machine.samples(), {}, 4
    for name, settings in PARITY.items():
        encoder = machine.encoder(name, samples, **settings)
        raw = batch_of(samples, encoder, rows)
        here = embedded(encoder, Runtime(torch.device("cpu"), "fp32", rows, 0, rows), raw, rows)
        found[name] = apart(embedded(encoder, machine.runtime(), raw, rows), here)
    far = {name: one for name, one in found.items() if not one["relative"] < 1e-4}  # NaN is far too
    assert not far, f"not the CPU's features: {far}"
    return {"models": found}


@check(seconds=60)
def out_of_memory(machine: Machine) -> dict:
    """A batch that does not fit is halved until it does, and gives the same features."""
    samples, rows = machine.samples(), machine.sizes.batch
    encoder = machine.encoder("dinov2", samples).to(machine.device)
    raw = batch_of(samples, encoder, rows)
    whole = embedded(encoder, machine.runtime(), raw, rows)
    with little_memory(machine, encoder, rows // 2), redirect_stderr(told := StringIO()):
        embedder = Embedder(encoder, machine.runtime())
        embedder.rows_at_once, embedder.pool = rows, None  # as on a GPU
        halved = finished(embedder.embed(raw, rows, None, Meter()))
    assert embedder.rows_at_once < rows, "the batch was not halved"
    assert "out of memory: continuing with" in told.getvalue()
    difference = apart(halved, whole)
    assert difference["relative"] < 1e-4, difference
    return {"rows": rows, "rows_at_once": embedder.rows_at_once, **difference}


@contextmanager
def little_memory(machine: Machine, encoder: FrozenModel, rows: int) -> Iterator[None]:
    """Leave a GPU a third of the memory that the last batch took; have a CPU refuse more than `rows` images."""
    embed = encoder.embed

    def refusing(images: torch.Tensor, lonlat: torch.Tensor | None) -> torch.Tensor:
        if len(images) > rows and not machine.on_gpu:
            raise torch.OutOfMemoryError("simulated")
        return embed(images, lonlat)

    torch.cuda.empty_cache()  # does nothing without a GPU
    held, most = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()  # 0 without one
    limit = torch.cuda.set_per_process_memory_fraction if machine.on_gpu else float
    limit((held + (most - held) / 3) / (torch.cuda.mem_get_info()[1] if machine.on_gpu else 1))
    try:
        with mock.patch.object(encoder, "embed", refusing):
            yield
    finally:
        limit(1.0)


@check(seconds=60)
def streams(machine: Machine) -> dict:
    """Batches copied on a stream of their own, several in flight, give the features of one batch at a time."""
    samples, size = machine.samples(), machine.sizes.batch
    encoder = machine.encoder("dinov2", samples).to(machine.device)
    count = min(12, len(samples) // size)
    ranges = [(0, start * size, (start + 1) * size) for start in range(count)]
    alone = [embedded(encoder, machine.runtime(), raw, size) for raw in _read(samples, encoder, ranges)]
    embedder, meter = Embedder(encoder, machine.runtime()), Meter()
    started = time.perf_counter()
    with ahead(_read(samples, encoder, ranges)) as read:
        copied = copy_batches(read, machine.device, meter) if machine.on_gpu else read
        with ahead(copied) as batches:
            queued = [embedder.embed(raw, size, None, meter) for raw in batches]
    launched_s = time.perf_counter() - started
    unfinished = sum(not (one.done is None or one.done.query()) for one in queued)
    together = [finished(one) for one in queued]
    whole_s = time.perf_counter() - started
    device_s = sum(one.started.elapsed_time(one.done) / 1000 for one in queued if one.done is not None)
    wrong = [number for number, pair in enumerate(zip(together, alone, strict=True)) if not np.array_equal(*pair)]
    assert not wrong, f"batches {wrong} of {count} differ"
    assert device_s <= whole_s, "events measured more seconds than passed"
    assert not machine.on_gpu or unfinished, "embed returned only when the GPU was done"
    return {
        "batches": count, "launched_s": launched_s, "whole_s": whole_s, "device_s": device_s,
        "copy_s": meter.seconds.get("copy"), "unfinished_at_return": unfinished,
    }  # fmt: skip


def _read(samples, encoder: FrozenModel, ranges: list) -> Iterator:
    return read_batches(samples, encoder.request.bands, ranges, 0, Meter())


@check(seconds=60)
def precisions(machine: Machine) -> dict:
    """Features in bf16 and fp16 against fp32."""
    samples, rows, found = machine.samples(), max(1, machine.sizes.batch // 4), {}
    for name in machine.sizes.models:
        encoder = machine.encoder(name, samples)
        raw = batch_of(samples, encoder, rows)
        exact = embedded(encoder, machine.runtime(), raw, rows)
        found[name] = {
            low: apart(embedded(encoder, machine.runtime(low), raw, rows), exact) for low in ("bf16", "fp16")
        }
    far = {name: one for name, one in found.items() if not min(each["least_cosine"] for each in one.values()) > 0.99}
    assert not far, f"far from fp32: {far}"
    return found


@check(seconds=120)
def compiled(machine: Machine) -> dict:
    """`--compile`: the same features, also for a batch that is not full."""
    samples, size = machine.samples(), machine.sizes.batch
    encoder = machine.encoder(machine.sizes.compiled[0], samples)
    found, embedder = {}, Embedder(encoder.to(machine.device), machine.runtime(compile=True))
    for rows in (size, size - 1):
        raw, start = batch_of(samples, encoder, rows), time.perf_counter()
        features = finished(embedder.embed(raw, rows, None, Meter()))
        found[f"seconds_of_{rows}"] = time.perf_counter() - start
        difference = apart(features, embedded(encoder, machine.runtime(), raw, rows))
        assert difference["relative"] < 1e-3, difference
        found[f"apart_of_{rows}"] = difference
    return found


@check(seconds=90)
def two_processes(machine: Machine) -> dict:
    """Two processes on one device make the same bytes as one."""
    name = machine.sizes.compiled[1]
    words = ["--model", name, "--packed", machine.packed, "--limit", min(4096, machine.sizes.images)]
    words += ["--part-rows", machine.sizes.part_rows // 4, "--overwrite"]
    words += ["--variant", "small", "--weights", "random"] if name == "dinov2" else ["--precision", "auto"]
    found, content = {}, []
    for devices in (str(machine.device), f"{machine.device},{machine.device}"):
        out = machine.folder / f"processes-{devices.count(',') + 1}"
        command = [sys.executable, "-m", "featurize", *map(str, words), "--device", devices, "--out", str(out)]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=PROJECT, env=os.environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-1500:]
        (file,) = out.glob("features/*/*/train.h5")
        features = store.read_features(file)
        content.append(features.features.tobytes())
        found[f"seconds_{devices.count(',') + 1}"] = time.perf_counter() - start
        found[f"rate_{devices.count(',') + 1}"] = re.findall(r"([\d,]+) images/s", done.stdout)
    assert content[0] == content[1], "two processes made other features than one"
    return found


@check(seconds=60)
def resumed(machine: Machine) -> dict:
    """A run that ended after some parts continues to the bytes of an undisturbed one."""
    samples = machine.samples()
    task = Task(dataset=samples, encoder=machine.encoder("dinov2", samples), runtime=machine.runtime("bf16"))
    whole, halted = machine.folder / "whole.h5", machine.folder / "halted.h5"
    featurize_split(task, whole)

    def stops(task, writer, parts, meter) -> None:
        embed_parts(task, writer, parts[: len(parts) // 2], meter)
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        featurize_split(task, halted, work=stops)
    summary = featurize_split(task, halted)
    one, other = (store.read_features(file).features for file in (whole, halted))
    assert np.array_equal(one, other), "the resumed file differs"
    assert 0 < summary.embedded < summary.images
    return {"images": summary.images, "embedded_after": summary.embedded}
