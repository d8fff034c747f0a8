"""bf16 against fp32 on this CPU: speed of every model beside a plain loop, agreement of features, accuracy."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from data.files import write_text
from featurize.batches import collate, prepare
from featurize.card import MODELS
from featurize.embedder import Embedder
from featurize.encoder import EncoderRequest, build_encoder
from featurize.runtime import Runtime, choose_precision, cpu_computes_bf16
from featurize.stages import Meter
from tests.bench.pairs import PROJECT, SHARED

PAGE = PROJECT / "docs" / "results" / "precision.md"
IMAGES, ROUNDS = 4, 3
SMALLER: dict[str, dict[str, Any]] = {"dinov2": {"variant": "small", "image_size": 224}, "presto": {"image_size": 16}}
LIBRARIES = {"timm": "timm:resnet18"}  # a model of an adapter's library; hf needs files
TRAINED = {
    "presto": ("presto/default_model.pt", ["--image-size", "16"]),
    "galileo": ("galileo-nano", ["--bands", "s2-10"]),
}


def bench_precision() -> dict:
    """Images/s in fp32 and bf16 of a plain loop and of ours, in turns, random weights; what ``--precision auto`` takes.

    The plain loop is the model's own forward on prepared images, batch by batch (bf16: under autocast). One thread, so
    that other programs change nothing; rates by CPU seconds, and by wall-clock seconds in `wall`. `cosine` is the
    lowest of the images'. `accuracy`: linear probe on features in both precisions of the two encoders whose trained
    weights are at hand, 600 EuroSAT tiles. PRECISION_ONLY names models, separated by commas. Writes
    docs/results/precision.md for all.
    """
    sys.path.insert(0, str(PROJECT / "tests"))
    only = [name for name in os.environ.get("PRECISION_ONLY", "").split(",") if name]
    names = only or MODELS.names()
    models, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)  # waiting threads of a busy machine would count as work
    for name in names:
        models[name] = _compared(LIBRARIES.get(name, name), SMALLER.get(name, {}))
        print(json.dumps({name: models[name]}), file=sys.stderr, flush=True)
    torch.set_num_threads(threads)
    trained = {name: given for name, given in TRAINED.items() if name in names and SHARED.is_dir()}
    accuracy = {name: _accuracy(name, *given) for name, given in trained.items()}
    found = {
        "flags": [flag for flag in ("avx512_bf16", "amx_bf16") if flag in Path("/proc/cpuinfo").read_text()],
        "cpu_computes_bf16": cpu_computes_bf16(),
        "unit": "images per CPU second",
        "models": models,
        "accuracy": accuracy,
    }
    if not only:
        write_text(PAGE, _document(found))
    return found


def _compared(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    from pixels import PixelDataset

    from data.errors import RequestError

    cpu, dataset = torch.device("cpu"), PixelDataset(rows=IMAGES)
    request = EncoderRequest((), dataset.statistics, lambda: dataset, weights="random", **settings)
    try:
        encoder = build_encoder(name, dataset, None, request)
    except (RequestError, ImportError) as error:
        return {"skipped": str(error).partition(";")[0]}
    auto = choose_precision("auto", cpu, encoder)
    if not encoder.autocast:
        return {"auto": auto, "skipped": "runs in fp32 only"}
    raw = collate([dataset.read(row, encoder.request.bands) for row in range(IMAGES)])
    lonlat = torch.from_numpy(dataset.lonlat)

    def plain(low: bool) -> torch.Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=low):
            ((_, images),) = prepare(raw, encoder, cpu)
            return encoder.embed(encoder.normalization(images), lonlat).float()

    def ours(precision: str) -> Callable[[], torch.Tensor]:
        embedder = Embedder(encoder, Runtime(cpu, precision, IMAGES, 0, 1024))
        return lambda: embedder.embed(raw, IMAGES, lonlat, Meter()).features

    ways = {"plain fp32": lambda: plain(False), "plain bf16": lambda: plain(True)}
    ways |= {precision: ours(precision) for precision in ("fp32", "bf16")}
    features = {way: run() for way, run in ways.items()}
    seconds: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, run in ways.items():
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            run()
            seconds[way].append((time.process_time() - cpu_s, time.perf_counter() - wall_s))
    rates, wall = (
        {way: round(IMAGES / statistics.median(one[k] for one in each), 2) for way, each in seconds.items()}
        for k in (0, 1)
    )
    taken = rates["bf16" if auto == "bf16" else "fp32"]
    return {
        **rates,
        "ratio": round(rates["bf16"] / rates["fp32"], 2),
        "to_plain_fp32": round(taken / rates["plain fp32"], 2),
        "wall": wall,
        "cosine": round(torch.nn.functional.cosine_similarity(features["fp32"], features["bf16"]).min().item(), 5),
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


def _document(found: dict[str, Any]) -> str:
    lines = [
        "# bf16 and fp32 on a CPU",
        "",
        "Made by `python -m tests.bench --only precision` on one core of a CPU with "
        f"{', '.join(found['flags']) or 'no bf16 instructions'}: images per CPU second with random weights, the "
        f'median of {ROUNDS} runs on a batch of {IMAGES}; the settings take turns. "Plain" is a loop over the model\'s '
        'own forward pass on prepared images, with autocast for bf16; "ours" is `featurize`. `auto` is the precision '
        "that `--precision auto` chooses; its rate is also given relative to plain fp32. Cosine: the lowest "
        "similarity between the features of an image in the two precisions.",
        "",
        "| Model | Plain fp32 | Plain bf16 | Ours fp32 | Ours bf16 | bf16 / fp32 | `auto` | `auto` / plain fp32 | "
        "Cosine |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: |",
    ]
    skipped = []
    for name, row in found["models"].items():
        if "skipped" in row:
            skipped.append(f"`{name}` ({row['skipped']})")
            continue
        rates = " | ".join(f"{row[way]:,.1f}" for way in ("plain fp32", "plain bf16", "fp32", "bf16"))
        end = f"{row['ratio']:.2f} | {row['auto']} | {row['to_plain_fp32']:.2f} | {row['cosine']:.5f}"
        lines.append(f"| {name} | {rates} | {end} |")
    lines += ["", f"Not compared: {', '.join(skipped)}.", "", "Linear probe on 600 EuroSAT tiles, trained weights:", ""]
    lines += ["| Model | Accuracy, fp32 | Accuracy, bf16 |", "| --- | ---: | ---: |"]
    lines += [f"| {name} | {row['fp32']:.4f} | {row['bf16']:.4f} |" for name, row in found["accuracy"].items()]
    return "\n".join(lines) + "\n"
