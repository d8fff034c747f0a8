"""Galileo nano against its authors' code on real pixels, and beside Presto as features for probes."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import rasterio
from cyclopts import App

from analysis.cli import app as analyze
from data import command, runs
from data.flags import SPLITS
from featurize.cli import app as featurize
from probes.cli import app as probe
from tests import galileo_cases as cases
from tests.bench.pairs import PROJECT, SHARED

PAGE = PROJECT / "docs" / "results" / "galileo.md"
KEPT = Path(tempfile.gettempdir()) / "frozen-earth-galileo"  # features, pixels and runs, to look at
WEIGHTS = {"galileo": SHARED / "weights" / "galileo-nano", "presto": SHARED / "weights" / "presto" / "default_model.pt"}
GOAL = 1e-4


def bench_galileo_parity() -> dict:
    """Features of `featurize` on real pixels against the authors' preprocessing and encoder; docs/results/galileo.md.

    GALILEO_CODE is a checkout of https://github.com/nasaharvest/galileo; GALILEO_PYTHON an interpreter with its
    packages (earthengine-api, rioxarray, einops, torch), by default this one.
    """
    checkout = Path(os.environ.get("GALILEO_CODE", "")).absolute()
    if not (checkout / "src" / "galileo.py").is_file():
        return {"skipped": "set GALILEO_CODE to a checkout of https://github.com/nasaharvest/galileo"}
    if not WEIGHTS["galileo"].exists():
        return {"skipped": "no shared weights"}
    KEPT.mkdir(exist_ok=True)
    names = cases.tile_names(SHARED)
    pixels = {case: (bands, cases.tiles(SHARED, names, bands)) for case, bands in cases.REAL.items()}
    made = {case: (bands, cases.made(bands, side)) for case, (bands, side) in cases.MADE.items()}
    theirs = authors_features(checkout, pixels | made)
    rows = []
    for case, precision in (*((case, "fp32") for case in cases.REAL), ("S2 tiles", "bf16")):
        ours = features_of(case, names, pixels[case], precision)
        rows.append({"case": case, "precision": precision, **differences(ours, theirs[case])})
    chosen = [names.index(name) for name in cases.first_of_each_class(names)]
    vectors: dict[str, Any] = {case: theirs[case] for case in cases.MADE}
    vectors |= {case: theirs[case][chosen] for case in cases.REAL}
    np.savez_compressed(cases.VECTORS, **vectors)
    write_section("Equal to the authors' code", parity_text(rows, revision(checkout)))
    if any(row["absolute"] > GOAL for row in rows if row["precision"] == "fp32"):
        raise AssertionError(f"features differ by more than {GOAL}: {rows}")
    return {"unit": "difference", **{f"{row['case']}, {row['precision']}": row for row in rows}}


# ------------------------------------------------------------------------------------------- ours


def features_of(case: str, names: list[str], given: tuple[tuple[str, ...], np.ndarray], precision: str) -> np.ndarray:
    """(N, 128) as `featurize` writes them to its files, in the order of the names."""
    bands, pixels = given
    out = KEPT / f"{case}-{precision}".replace(" ", "")
    shutil.rmtree(out, ignore_errors=True)
    where = ["--dataset", "eurosat", "--data-root", str(SHARED / "data" / "eurosat-ms")]
    if bands == cases.BOTH:
        where = ["--dataset", "folder", "--data-root", str(write_tiffs(names, pixels, bands))]
    embed("galileo", ["--bands", ",".join(bands), "--precision", precision, *where], out)
    found = {}
    for file in out.rglob("galileo*/*.h5"):
        with h5py.File(file) as opened:
            ids, features = (np.asarray(opened[name]) for name in ("ids", "features"))
        found |= {Path(id_.decode()).stem: vector for id_, vector in zip(ids, features, strict=True)}
    return np.stack([found[name] for name in names])


def embed(model: str, words: list[str], out: Path) -> None:
    """Run featurize on the CPU, with the shared weights where there are some."""
    weights = ["--weights", str(WEIGHTS[model])] if model in WEIGHTS else []
    assert command.run(featurize, ["--model", model, "--device", "cpu", "--out", str(out), *weights, *words]) == 0


def write_tiffs(names: list[str], pixels: np.ndarray, bands: tuple[str, ...]) -> Path:
    """GeoTIFFs in folders by class."""
    root = KEPT / "tiles"
    shutil.rmtree(root, ignore_errors=True)
    for name, image in zip(names, pixels, strict=True):
        file = root / name.rpartition("_")[0] / f"{name}.tif"
        file.parent.mkdir(parents=True, exist_ok=True)
        about = {"driver": "GTiff", "count": len(bands), "height": cases.SIDE, "width": cases.SIDE, "dtype": "float32"}
        with rasterio.open(file, "w", transform=rasterio.Affine(10, 0, 0, 0, -10, 0), **about) as target:
            target.write(image)
            target.descriptions = bands
    return root


# ------------------------------------------------------------------------------------------- theirs


def authors_features(checkout: Path, pixels: dict[str, tuple[tuple[str, ...], np.ndarray]]) -> dict[str, np.ndarray]:
    """What tests/bench/galileo_authors.py writes for the cases."""
    given, made = KEPT / "pixels.npz", KEPT / "authors.npz"
    arrays: dict[str, Any] = {case: values.transpose(0, 2, 3, 1) for case, (_, values) in pixels.items()}
    names: dict[str, Any] = {
        f"{case} bands": [re.sub("^B0", "B", band) for band in bands] for case, (bands, _) in pixels.items()
    }
    np.savez(given, **arrays, **names)
    script = Path(__file__).with_name("galileo_authors.py")
    words = [os.environ.get("GALILEO_PYTHON", sys.executable), script, checkout, WEIGHTS["galileo"], given, made]
    subprocess.run(words, check=True, env={**os.environ, "PYTHONPATH": str(checkout)})
    with np.load(made) as file:
        return dict(file)


def revision(checkout: Path) -> str:
    """The commit of the checkout, where git knows it."""
    words = ["git", "-C", str(checkout), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or "unknown"


def differences(ours: np.ndarray, theirs: np.ndarray) -> dict:
    """Largest difference of any number, largest relative to its vector's length, and the least cosine similarity."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    lengths = np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(axis=1) / (np.linalg.norm(a, axis=1) * lengths)
    return {
        "samples": len(a),
        "dim": a.shape[1],
        "magnitude": round(float(abs(b).mean()), 4),
        "absolute": float(abs(a - b).max()),
        "relative": float((np.linalg.norm(a - b, axis=1) / lengths).max()),
        "cosine": float(cosine.min()),
    }


# ------------------------------------------------------------------------------------------- the page


def parity_text(rows: list[dict], commit: str) -> str:
    """The table and what it compares."""
    lines = [
        "Made by `GALILEO_CODE=CHECKOUT GALILEO_PYTHON=INTERPRETER python -m tests.bench --only galileo_parity`, with "
        f"nasaharvest/galileo at commit `{commit}` and the published nano weights.",
        "",
        "- Ours: what `featurize` wrote to its HDF5 files.",
        "- Theirs: NDVI from their `Dataset`, their `Normalizer` with `config/normalization.json`, the masks of "
        "`construct_galileo_input` with NDVI's group unmasked, then `Encoder` and `average_tokens`; with their default "
        "month 5 and patches of 8 pixels.",
        "- Pixels: all 600 real 13-band EuroSAT tiles, ten bands of each. No real pairs with Sentinel-1 were "
        "available: each tile is paired with a 64 x 64 window of one of four real BigEarthNet Sentinel-1 patches (VV "
        "and VH in decibels) from elsewhere. All values are real, but the two sensors do not show the same place.",
        "",
        "| Pixels | Precision | Samples | Dimensions | Mean magnitude | Largest difference | Relative to the vector's "
        "length | Least cosine similarity |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        lines.append(
            f"| {row['case']} | {row['precision']} | {row['samples']} | {row['dim']} | {row['magnitude']:.3f} "
            f"| {row['absolute']:.1e} | {row['relative']:.1e} | {row['cosine']:.10f} |"
        )
    return "\n".join(lines)


def write_section(title: str, text: str) -> None:
    """Write one section of the page; the others stay."""
    page = PAGE.read_text() if PAGE.exists() else "# Galileo nano\n"
    head, *sections = re.split(r"^## ", page, flags=re.MULTILINE)
    others = [section for section in sections if not section.startswith(f"{title}\n")]
    ordered = sorted([*others, f"{title}\n\n{text}\n"], reverse=True)
    PAGE.write_text("\n## ".join(part.strip() + "\n" for part in (head, *ordered)))


# ------------------------------------------------------------------------------------------- beside Presto


IMPORT = shlex.split(
    "--name eurosat --model galileo-evaluation --embedding embedding --id id --label label --split split"
)


def bench_galileo_probes() -> dict:
    """Accuracy of probes on Galileo's, Presto's and plain statistics' features of 600 real tiles; the same page."""
    if not all(path.exists() for path in WEIGHTS.values()):
        return {"skipped": "no shared weights"}
    out, models = KEPT / "probes", "galileo,presto,stats"
    shutil.rmtree(out, ignore_errors=True)
    weights = ",".join(f"{model}={path}" for model, path in WEIGHTS.items())
    data = ["--dataset", "eurosat", "--data-root", str(SHARED / "data" / "eurosat-ms")]
    steps: list[tuple[App, list[str]]] = [
        (featurize, ["--model", models, *data, "--bands", "s2-10", "--weights", weights, "--precision", "fp32"]),
        (probe, ["--kind", "linear,knn,rf", "--model", models]),
        (analyze, ["compare"]),
    ]
    if (KEPT / "authors.npz").exists():
        steps.insert(1, (featurize, ["import", str(write_evaluation()), *IMPORT]))
        steps[2][1][-1] += ",galileo-evaluation"
    for app, words in steps:
        assert command.run(app, [*words, "--out", str(out)]) == 0
    lines = [
        "Made by `python -m tests.bench --only galileo_probes`, which runs the commands below: EuroSAT's 600 real "
        "tiles (360 train, 120 val, 120 test), ten Sentinel-2 bands, published weights of both models. "
        "`galileo-evaluation` stands for imported features that the authors' code computed as in their eval.py "
        "(month 6, no NDVI); `--only galileo_parity` makes them.",
        "",
        "```bash",
        *(shown(shlex.join([app.name[0], *words])) for app, words in steps),
        "```",
        "",
        *next((out / "analysis" / "compare").glob("*.md")).read_text().splitlines()[2:],
    ]
    write_section("Beside Presto", "\n".join(lines))
    found = {
        f"{run.record['encoder'].partition('_')[0]}, {run.record['kind']}": run.record["metrics"]["test"]["half"]
        for run in runs.find_runs(out)
    }
    return {"unit": "accuracy", **{name: round(metrics["accuracy"], 3) for name, metrics in found.items()}}


def shown(command_line: str) -> str:
    """Without the folders of this machine."""
    return command_line.replace(str(SHARED), "../shared").replace(f"{KEPT}/", "")


def write_evaluation() -> Path:
    """The authors' features of all tiles as `featurize import` takes them, with EuroSAT's splits."""
    file, names = KEPT / "evaluation.npz", cases.tile_names(SHARED)
    lists = {split: (SHARED / "data" / "eurosat-ms" / f"eurosat-{split}.txt").read_text().split() for split in SPLITS}
    split_of = {Path(name).stem: split for split, of_split in lists.items() for name in of_split}
    with np.load(KEPT / "authors.npz") as made:
        np.savez(
            file,
            embedding=made["S2 tiles evaluation"],
            id=names,
            label=[name.rpartition("_")[0] for name in names],
            split=[split_of[name] for name in names],
        )
    return file
