"""The engine as a whole: stages that overlap, a plain loop beside it, and memory that does not grow."""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from data.store import PartWriter
from featurize.encoder import EncoderRequest, build_encoder
from featurize.pipeline import featurize_split
from featurize.runtime import Runtime, choose_batch_size
from featurize.task import Task
from tests.bench.pairs import PROJECT, SHARED, paired, seconds
from tests.opening import open_split

SLOW_S, QUICK_S, BATCHES = 0.06, 0.05, 50


def bench_overlap() -> dict:
    """Reader, model or writer slowed to 60 ms a batch, the others to 50 ms: featurize against that stage by itself.

    `alone` is the slowed stage doing its work for all batches, nothing before or after it; `whole` is all of
    featurize, with the start and the end of the pipeline and the joining of the file.
    """
    sys.path.insert(0, str(PROJECT / "tests"))
    from pixels import PixelDataset

    dataset = PixelDataset(rows=BATCHES)
    encoder = build_encoder("stats", dataset, "B04", EncoderRequest((), dataset.statistics, lambda: dataset))
    runtime = Runtime(torch.device("cpu"), "fp32", 1, 0, 1)
    task = Task(dataset=dataset, encoder=encoder, runtime=runtime)
    images, features = torch.rand(1, 1, 48, 48), np.zeros((1, encoder.dim), np.float32)
    read, embed, write = PixelDataset.read, type(encoder).embed, PartWriter.write_part
    results = {}
    for slow in ("read", "embed", "write"):
        waits = {stage: SLOW_S if stage == slow else QUICK_S for stage in ("read", "embed", "write")}

        def slowed(stage, function, waits=waits):
            def one(*arguments):
                time.sleep(waits[stage])
                return function(*arguments)

            return one

        with (
            tempfile.TemporaryDirectory() as folder,
            mock.patch.object(PixelDataset, "read", slowed("read", read)),
            mock.patch.object(type(encoder), "embed", slowed("embed", embed)),
            mock.patch.object(PartWriter, "write_part", slowed("write", write)),
            mock.patch("featurize.pipeline.check_inputs"),
        ):
            size = {"rows": BATCHES, "dim": encoder.dim, "dtype": encoder.dtype, "part_rows": 1}
            (Path(folder) / "alone.parts").mkdir()
            writer = PartWriter(Path(folder) / "alone.h5", **size)
            one_batch = {
                "read": lambda row: dataset.read(row, encoder.request.bands),
                "embed": lambda row: encoder(images),
                "write": lambda row, writer=writer: writer.write_part(row, features),
            }[slow]
            alone = seconds(lambda one_batch=one_batch: [one_batch(row) for row in range(BATCHES)])
            whole = seconds(lambda folder=folder: featurize_split(task, Path(folder) / "train.h5"))
        results[slow] = {"whole_s": round(whole, 2), "alone_s": round(alone, 2), "ratio": round(alone / whole, 3)}
    return results | {"one_after_the_other_s": BATCHES * (SLOW_S + 2 * QUICK_S)}


IMAGES, BATCH = 128, 32


def bench_plain_loop() -> dict:
    """Images/s of dinov2 small at 224 on real EuroSAT tiles: featurize against a plain loop (DataLoader, the HF image
    processor, fp32 forward, numpy batch by batch) and, as `bare`, against the forward alone at the same precision."""
    root = SHARED / "data" / "eurosat-rgb"
    if not root.is_dir():
        return {"skipped": f"no EuroSAT tiles at {root}; set EO_SHARED"}
    from PIL import Image
    from transformers import BitImageProcessor

    from data.dataset import limited
    from data.registry import DATASETS

    dataset = limited(open_split(DATASETS.load("eurosat-rgb"), "test", root), IMAGES)
    settings = {"variant": "small", "image_size": 224, "weights": "random", "pooling": "cls"}
    encoder = build_encoder(
        "dinov2", dataset, None, EncoderRequest((), dataset.statistics, lambda: dataset, **settings)
    )
    runtime = Runtime(cpu := torch.device("cpu"), "fp32", choose_batch_size(cpu), None, 1024)
    task = Task(dataset=dataset, encoder=encoder, runtime=runtime)
    processor = BitImageProcessor(
        size={"height": 224, "width": 224}, do_center_crop=False, image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    )  # fmt: skip

    class Pictures(Dataset):
        def __len__(self):
            return len(dataset)

        def __getitem__(self, row):
            pixels = np.stack(dataset.read(row, encoder.request.bands), axis=-1)
            return processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0]

    def plain() -> None:
        with torch.no_grad():
            np.concatenate(
                [
                    encoder.model(images).last_hidden_state[:, 0].cpu().numpy()
                    for images in DataLoader(Pictures(), BATCH)
                ]
            )

    def ours() -> None:
        with tempfile.TemporaryDirectory() as folder:
            featurize_split(task, Path(folder) / "test.h5")

    images = torch.randn(BATCH, 3, 224, 224)

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(0, IMAGES, BATCH):
                encoder.model(images).last_hidden_state[:, 0].numpy()

    against_bare = paired(ours, bare, IMAGES, "images")
    return paired(ours, plain, IMAGES, "images") | {
        "bare": against_bare["peer"],
        "share_of_bare": against_bare["ratio"],
        "precision": "fp32",
        "cpu_computes_bf16": bool(torch.cpu.get_capabilities().get("avx512_bf16")),
    }


PEAK = """
import resource, sys
from data import command
from featurize.cli import app
code = command.run(app, sys.argv[1:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
sys.exit(code)
"""


def bench_engine_memory() -> dict:
    """Peak resident size in MB of featurize with `stats` on 5,000 and on 50,000 simulated patches of one band."""
    peaks = {}
    for count in (5_000, 50_000):
        with tempfile.TemporaryDirectory() as folder:
            words = ["--model", "stats", "--dataset", "simulated", "--split", "train", "--bands", "B05"]
            words += ["--limit", str(count), "--workers", "2", "--out", folder]
            done = subprocess.run([sys.executable, "-c", PEAK, *words], capture_output=True, text=True, check=True)
            peaks[str(count)] = int(done.stdout.rpartition("peak ")[2])
    few, many = peaks.values()
    return {"unit": "MB", "peak": peaks, "growth": round(many / few, 3)}
