"""bf16 against fp32 on this CPU: speed of every model, agreement of the features, and accuracy on real tiles."""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from featurize.batches import collate
from featurize.card import MODELS
from featurize.embedder import Embedder
from featurize.encoder import EncoderRequest, build_encoder
from featurize.runtime import Runtime, choose_precision, cpu_computes_bf16
from featurize.stages import Meter
from tests.bench.pairs import PROJECT, SHARED

IMAGES, ROUNDS = 4, 3
SMALLER: dict[str, dict[str, Any]] = {"dinov2": {"variant": "small", "image_size": 224}, "presto": {"image_size": 16}}
LIBRARIES = {"timm": "timm:resnet18"}  # a model of an adapter's library; hf needs files
TRAINED = {
    "presto": ("presto/default_model.pt", ["--image-size", "16"]),
    "galileo": ("galileo-nano", ["--bands", "s2-10"]),
}


def bench_precision() -> dict:
    """Images per CPU second in bf16 and fp32, in turns, one thread, random weights; what ``--precision auto`` takes.

    `cosine` is the lowest of the images'. `accuracy`: linear probe on features in both precisions of the two encoders
    whose trained weights are at hand, 600 EuroSAT tiles.
    """
    sys.path.insert(0, str(PROJECT / "tests"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        models = {name: _compared(LIBRARIES.get(name, name), SMALLER.get(name, {})) for name in MODELS.names()}
    finally:
        torch.set_num_threads(threads)
    flags = torch.cpu.get_capabilities()
    return {
        "flags": {name: bool(flags.get(name)) for name in ("avx512_bf16", "amx_bf16")},
        "cpu_computes_bf16": cpu_computes_bf16(),
        "unit": "images per CPU second",
        "models": models,
        "accuracy": {name: _accuracy(name, *given) for name, given in TRAINED.items()} if SHARED.is_dir() else {},
    }


def _compared(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    from pixels import PixelDataset

    from data.errors import RequestError

    cpu, dataset = torch.device("cpu"), PixelDataset(rows=IMAGES)
    request = EncoderRequest((), dataset.statistics, lambda: dataset, weights="random", **settings)
    try:
        encoder = build_encoder(name, dataset, None, request)
    except RequestError as error:
        return {"skipped": str(error).partition(";")[0]}
    auto = choose_precision("auto", cpu, encoder)
    if not encoder.autocast:
        return {"auto": auto, "skipped": "runs in fp32 only"}
    raw = collate([dataset.read(row, encoder.request.bands) for row in range(IMAGES)])
    lonlat = torch.from_numpy(dataset.lonlat)
    embedders = {one: Embedder(encoder, Runtime(cpu, one, IMAGES, 0, 1024)) for one in ("fp32", "bf16")}
    features = {one: embedder.embed(raw, IMAGES, lonlat, Meter()).features for one, embedder in embedders.items()}
    rates: dict[str, list[float]] = {one: [] for one in embedders}
    for _ in range(ROUNDS):
        for one, embedder in embedders.items():
            start = time.process_time()
            embedder.embed(raw, IMAGES, lonlat, Meter())
            rates[one].append(IMAGES / (time.process_time() - start))
    medians = {one: statistics.median(values) for one, values in rates.items()}
    return {
        **{one: round(rate, 2) for one, rate in medians.items()},
        "ratio": round(medians["bf16"] / medians["fp32"], 2),
        "cosine": round(torch.nn.functional.cosine_similarity(*features.values()).min().item(), 5),
        "auto": auto,
    }


def _accuracy(name: str, weights: str, words: list[str]) -> dict[str, float]:
    """Test accuracy of `probe --kind linear` on EuroSAT's 600 tiles in each precision."""
    found = {}
    for precision in ("fp32", "bf16"):
        with tempfile.TemporaryDirectory() as folder:
            data = ["--dataset", "eurosat", "--data-root", str(SHARED / "data" / "eurosat-ms"), "--cache-dir", folder]
            model = ["--model", name, "--weights", str(SHARED / "weights" / weights), *words, "--precision", precision]
            for command in (["featurize", *model, *data], ["probes", "--kind", "linear"]):
                done = [sys.executable, "-m", *command, "--out", folder]
                subprocess.run(done, cwd=PROJECT, check=True, capture_output=True)
            (file,) = Path(folder).rglob("run.json")
            found[precision] = json.loads(file.read_text())["metrics"]["test"]["half"]["accuracy"]
    return {one: round(value, 4) for one, value in found.items()}
