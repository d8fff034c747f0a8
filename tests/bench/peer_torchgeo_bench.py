"""`probe --protocol torchgeo-bench` beside the package torchgeo-bench itself, on 600 real EuroSAT tiles (360/120/120).

The peer needs an environment of its own (its requirements differ):

    uv venv peer && uv pip install --python peer/bin/python torchgeo-bench==0.4
    python -m tests.bench.peer_torchgeo_bench peer/bin/python

For random convolutional features, image statistics and a ResNet-50 with random weights, 13 bands, fp32, with refit on
train and val and without, three times in turns:

- both whole pipelines, each with its own features, each part in its own process: accuracy and wall-clock seconds;
- the peer's own classifiers on our features: accuracy of the same probe on equal features, and seconds.

Writes results/peer-torchgeo-bench.json and a table beside it.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import uuid
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd

from data import runs, store
from tests.bench.pairs import PROJECT, SHARED

ZIP = "EuroSATallBands.zip"
TILE = 64  # pixels a side
# Ours, then the peer's; filters differ: ours has 512 of 4 x 4 pixels, the peer 256 of 3 x 3.
MODELS = {
    "rcf": (["--variant", "gaussian"], ["model=rcf"]),
    "stats": (["--normalize", "none"], ["model=imagestats"]),
    "timm:resnet50": (["--weights", "random"], ["model=timm/resnet50", "model.pretrained=false"]),
}
PROBE_PEER = """
import json, sys, time
import numpy as np
from torchgeo_bench.main import evaluate_knn, evaluate_logistic
d = np.load(sys.argv[1]); refit = sys.argv[2] == "refit"
x, y = ([d[f"{part}_{split}"] for split in ("train", "val", "test")] for part in "xy")
start = time.perf_counter()
knn, *_ = evaluate_knn(x[0], y[0], x[2], y[2], seed=0, n_bootstrap=200)
middle = time.perf_counter()
linear, _, _, best_c, *_ = evaluate_logistic(x[0], y[0], x[1], y[1], x[2], y[2],
    [float(c) for c in 10 ** np.linspace(-6, 4, 40)], seed=0, n_bootstrap=200, merge_val=refit, device="cpu")
print(json.dumps({"knn": knn, "linear": linear, "C": best_c, "knn_s": middle - start,
    "linear_s": time.perf_counter() - middle}))
"""
PROBE_OURS = """
import sys
from dataclasses import replace
from pathlib import Path
from probes.flags import FitFlags
features, out, refit = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "refit"
flags, _ = FitFlags(protocol="torchgeo-bench", features=features, out=out).with_protocol()
flags = replace(flags, refit=refit)
splits = flags.splits()
for kind in flags.kinds():
    flags.run(kind, splits, seed=0, cut={})
"""


def timed(command: list[str], where: Path) -> tuple[np.ndarray, str]:
    """Wall-clock and CPU seconds, and output, of one process and its children."""
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = os.environ | {"PYTHONPATH": str(PROJECT)} if command[0] == sys.executable else os.environ
    done = subprocess.run(command, cwd=where, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:4])} ... failed:\n{done.stderr[-3000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return np.array([time.perf_counter() - start, cpu_s]).round(1), done.stdout


def whole_peer(python: str, model: list[str], size: int | None, refit: bool, where: Path) -> dict:
    """The peer's pipeline: features and both probes in one process."""
    name = f"peer-{uuid.uuid4().hex}.csv"
    words = ["dataset.names=[eurosat]", "dataset.bands=all", f"dataset.image_size={size or 'null'}", *model]
    words += ["device=cpu", "dataset.num_workers=0", f"eval.merge_val={str(refit).lower()}", f"output={name}"]
    seconds, _ = timed([str(Path(python).parent / "torchgeo-bench"), "run", *words], where)
    table = pd.read_csv(where / name).set_index("method")
    linear = table.loc["linear"]
    sizes = [int(linear[f"n_{split}"]) for split in ("train", "val", "test")]
    return {"knn": table.loc["knn5"].metric_value, "linear": linear.metric_value, "C": linear.best_c,
            "seconds": seconds.tolist(), "samples": sizes}  # fmt: skip


def whole_ours(model: str, words: list[str], size: int | None, refit: bool, root: Path, where: Path) -> dict:
    """Our pipeline: featurize, then both probes, two processes, from nothing on disk."""
    out = where / f"ours-{uuid.uuid4().hex}"
    if model.startswith("timm:"):  # which would enlarge them to the size of its training
        size = size or TILE
    resize = ["--image-size", str(size)] if size else []
    command = ["-m", "featurize", "--model", model, *words, *resize, "--bands", "all", "--dataset", "eurosat"]
    command += ["--data-root", str(root), "--precision", "fp32", "--out", str(out)]
    features_s, _ = timed([sys.executable, *command], where)
    folder = store.find_features(out)
    probe_s, _ = timed([sys.executable, "-c", PROBE_OURS, str(folder), str(out), "refit" if refit else "train"], where)
    found = {run.kind: run.record for run in runs.find_runs(out)}
    accuracy = {kind: record["metrics"]["test"]["half"]["accuracy"] for kind, record in found.items()}
    rows = found["linear"]["rows"]
    return accuracy | {
        "C": found["linear"]["chosen"]["C"],
        "seconds": (features_s + probe_s).tolist(),
        "features_s": features_s.tolist(),
        "probe_s": probe_s.tolist(),
        "fit_s": {kind: record["seconds"]["total"] for kind, record in found.items()},
        "samples": [rows[split] for split in ("train", "val", "test")],
        "warnings": found["linear"]["warnings"],
        "folder": str(folder),
    }


def probes_of_peer(python: str, folder: Path, refit: bool, where: Path) -> dict:
    """The peer's classifiers on our features."""
    arrays = {}
    for split in ("train", "val", "test"):
        features = store.read_features(folder / f"{split}.h5")
        arrays |= {f"x_{split}": features.features.astype(np.float32), f"y_{split}": features.labels}
    np.savez(where / "features.npz", **arrays)
    _, printed = timed([python, "-c", PROBE_PEER, "features.npz", "refit" if refit else "train"], where)
    return json.loads(printed.strip().splitlines()[-1])


def one_setting(python: str, arguments: argparse.Namespace, model: str, refit: bool, root: Path, where: Path) -> dict:
    """Both pipelines in turns, and the peer's classifiers on our features."""
    words, of_peer = MODELS[model]
    load, peer, ours = os.getloadavg()[0], [], []
    for _ in range(arguments.rounds):
        if not arguments.equal_only:
            peer.append(whole_peer(python, of_peer, arguments.size, refit, where))
        ours.append(whole_ours(model, words, arguments.size, refit, root, where))
    same = probes_of_peer(python, Path(ours[-1]["folder"]), refit, where)
    about = {"features": model, "size": arguments.size, "refit": refit, "load_before": round(load, 2)}
    ratios = [(np.array(p["seconds"]) / o["seconds"]).round(2).tolist() for p, o in zip(peer, ours, strict=False)]
    for one in ours:
        del one["folder"]
    return about | {"ours": ours, "peer": peer, "peer_on_our_features": same, "ratios": ratios}


def table(results: list[dict]) -> str:
    """The results as Markdown."""
    lines = [
        "# Compared with torchgeo-bench 0.4 on 600 real EuroSAT tiles",
        "",
        "Written by `python -m tests.bench.peer_torchgeo_bench`. Accuracy on 120 test tiles: ours; of "
        'torchgeo-bench\'s probes on our features; and of torchgeo-bench with its own features ("peer"). Wall-clock '
        "seconds, in brackets CPU seconds, of both whole pipelines, and the ratio of peer to ours: medians of runs "
        "in turns.",
        "",
        "| features | refit | probe | ours | peer on ours | peer | our s (CPU) | peer s (CPU) | ratio (CPU) |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        ours, peer, same = row["ours"], row["peer"], row["peer_on_our_features"]
        figures = [[each["seconds"] for each in ours], [each["seconds"] for each in peer], row["ratios"]]
        shown = ["{:.1f} ({:.1f})".format(*np.median(one, axis=0)) if one else "-" for one in figures]
        for kind in ("linear", "knn"):
            cells = [row["features"], "yes" if row["refit"] else "no", kind]
            cells += [f"{each[kind]:.3f}" if each else "-" for each in (ours[-1], same, peer[-1] if peer else None)]
            lines.append("| " + " | ".join([*cells, *shown]) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run both and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="interpreter of the peer's environment")
    parser.add_argument("--data", type=Path, default=SHARED / "data/eurosat-ms", help=f"folder of {ZIP}")
    parser.add_argument("--size", type=int, help="resize to; the images' own size by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--equal-only", action="store_true", help="skip the peer's whole pipeline, hence the ratio")
    parser.add_argument("--only", choices=MODELS, nargs="*", default=list(MODELS))
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    arguments = parser.parse_args()
    python = os.path.abspath(arguments.python)  # not resolved: a virtual environment is found by its link
    results = []
    with tempfile.TemporaryDirectory() as folder:
        where = Path(folder)
        root = where / "data/eurosat"  # where the peer looks; torchgeo checks no archive that is unpacked
        root.mkdir(parents=True)
        with zipfile.ZipFile(arguments.data / ZIP) as archive:
            archive.extractall(root)
        for file in (ZIP, *(f"eurosat-{split}.txt" for split in ("train", "val", "test"))):
            (root / file).symlink_to((arguments.data / file).resolve())
        for model in arguments.only:
            for refit in (True, False):
                results.append(one_setting(python, arguments, model, refit, root, where))
                print(json.dumps(results[-1], indent=1), flush=True)
    arguments.out.mkdir(parents=True, exist_ok=True)
    about = {"date": datetime.now(UTC).date().isoformat(), "cores": os.cpu_count(), "peer": "torchgeo-bench 0.4"}
    target = arguments.out / "peer-torchgeo-bench.json"
    target.write_text(json.dumps(about | {"results": results}, indent=1) + "\n")
    target.with_suffix(".md").write_text(table(results))
    print(table(results))


if __name__ == "__main__":
    main()
