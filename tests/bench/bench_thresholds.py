"""How far per-class thresholds should be shrunk: tuned F2 on test, on data of which no constant was chosen.

Real pixels: mosaics of EuroSAT tiles (seeds other than those of the first choice), and bags of one to four EuroSAT
tiles, whose feature is the mean of the tiles' features and whose labels are their classes. Simulated: features with a
known signal at BigEarthNet's prevalences.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import t
from threadpoolctl import threadpool_limits

from data import store
from probes import metrics
from probes.card import PROBES
from probes.scores import SHRINKAGE, decide, half_thresholds, score, shrink, shrunk_thresholds
from probes.search import FitTask, search
from probes.settings import Settings
from tests.bench.pairs import PROJECT, SHARED

WORK = Path(os.environ.get("EO_THRESHOLDS", Path(tempfile.gettempdir()) / "frozen-earth-thresholds"))
TABLE = PROJECT / "docs" / "results" / "thresholds.md"
STRENGTHS = (0, 3, 10, 30)
NOW = 10  # of version 0.1; what the others are compared with
KINDS = ("linear", "knn", "rf")
VAL_ROWS = (100, 250)
REPEATS = 12
MOSAICS = {11: ("stats", "rcf"), 12: ("stats",)}
BAG_WEIGHTS = np.geomspace(1, 0.04, 10)  # how often a class is drawn: the rarest shows in about 2 of 100 bags
# 19 classes' shares among BigEarthNet v2's patches, from its metadata
PREVALENCE = [
    0.39, 0.35, 0.31, 0.30, 0.26, 0.22, 0.21, 0.20, 0.16, 0.13, 0.12, 0.063, 0.058, 0.053, 0.025, 0.021, 0.020, 0.003,
    0.0027,
]  # fmt: skip


def bench_thresholds() -> dict:
    """Tuned F2 macro of thresholds shrunk by n / (n + 3), n / (n + 10) and n / (n + 30) against none, on fresh data.

    Writes docs/results/thresholds.md.
    """
    if not (SHARED / "data").exists():
        return {"skipped": "no shared data"}
    rows = []
    with threadpool_limits(1):
        for name, encoder, splits in _sets():
            for kind in KINDS:
                for val_rows, values in _values(kind, splits):
                    rows.append({"data": name, "encoder": encoder, "probe": kind, "val": val_rows, **values})
                print(rows[-1], file=sys.stderr, flush=True)
    frame = pd.DataFrame(rows)
    means = {strength: float(frame[f"s{strength}"].mean()) for strength in STRENGTHS}
    TABLE.write_text(_document(frame))
    return {"unit": "F2 macro", "cases": len(frame), "half": float(frame["half"].mean()), "shrinkage": means}


def _values(kind: str, splits: dict[str, tuple]) -> Iterator[tuple[int, dict[str, float]]]:
    """Mean F2 macro by strength over random divisions of what was not learned from: val to choose on, test the rest."""
    train, truth = splits["train"]
    pool = np.concatenate([splits["val"][0], splits["test"][0]])
    pool_truth = np.concatenate([splits["val"][1], splits["test"][1]]).astype(bool)
    judged = slice(0, len(splits["val"][0]))
    candidates = PROBES.load(kind).candidates(len(train))
    if kind == "rf":
        candidates = candidates[:1]  # thresholds are studied here, not forests
    elif kind == "linear":
        candidates = [params for params in candidates if 1e-4 <= params["C"] <= 10][::2]
    job = FitTask(
        kind=kind,
        candidates=candidates,
        val=pool[judged],
        train=train.copy(),
        labels=truth,
        val_truth=pool_truth[judged],
        seed=0,
        settings=Settings(extend=False),
        n_jobs=1,
    )
    best = search(job, lambda line: None).best
    scores = score(best.estimator, pool, classes=truth.shape[1], multilabel=True)
    rng = np.random.default_rng(0)
    for val_rows in VAL_ROWS:
        found = []
        for _ in range(REPEATS):
            order = rng.permutation(len(pool))
            val, test = order[:val_rows], order[val_rows:]
            _, shared, own = shrunk_thresholds(pool_truth[val], scores[val])
            positives = pool_truth[val].sum(axis=0)
            rules = {f"s{s}": shrink(own, shared, positives, shrinkage=s) for s in STRENGTHS} | {
                "half": half_thresholds(truth.shape[1])
            }
            found.append({name: _f2(pool_truth[test], scores[test], limits) for name, limits in rules.items()})
        yield val_rows, pd.DataFrame(found).mean().to_dict()


def _f2(truth: np.ndarray, scores: np.ndarray, thresholds: np.ndarray) -> float:
    """F2 macro over the classes that occur."""
    tp, fp, _, fn = metrics.confusion_counts(truth, decide(scores, thresholds))
    return float(metrics.f_beta(tp, fp, fn, 2)[truth.any(axis=0)].mean())


# ------------------------------------------------------------------------------------------------ data


def _sets() -> Iterator[tuple[str, str, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    data = SHARED / "data"
    for seed, encoders in MOSAICS.items():
        tool, folder = SHARED / "tools" / "mosaic_bigearthnet.py", WORK / f"mosaic-{seed}"
        if not folder.exists():
            archive = data / "eurosat-ms" / "EuroSATallBands.zip"
            words = ["--zip", archive, "--out", folder, "--count", 1000, "--seed", seed]
            subprocess.run([sys.executable, tool, *map(str, words)], check=True)
        for encoder in encoders:
            read = featurized(encoder, "bigearthnet", folder, f"runs-{seed}")
            yield f"mosaics, seed {seed}", encoder, {split: (f, labels) for split, (f, labels) in read.items()}
    for dataset, folder, encoders in (
        ("eurosat", "eurosat-ms", ("stats", "rcf", "presto")),
        ("eurosat-rgb", "eurosat-rgb", ("stats",)),
    ):
        for encoder in encoders:
            read = featurized(encoder, dataset, data / folder, f"runs-{'ms' if dataset == 'eurosat' else 'rgb'}")
            yield f"bags of {dataset}", encoder, bags(read)
    for seed in (1, 2):
        yield f"simulated, seed {seed}", "known signal", _simulated(seed)


def featurized(encoder: str, dataset: str, root: Path, runs: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    if not list((WORK / runs / "features").glob(f"{dataset}*/{encoder}[-_]*/test.h5")):
        _featurize(encoder, dataset, root, runs)
    folder = store.find_features(WORK / runs, model=encoder, dataset=dataset)
    found = {split: store.read_features(folder / f"{split}.h5") for split in ("train", "val", "test")}
    return {split: (s.features.astype(np.float32), s.labels) for split, s in found.items()}


def _featurize(encoder: str, dataset: str, root: Path, runs: str) -> None:
    words = ["--model", encoder, "--dataset", dataset, "--split", "all", "--data-root", root, "--out", WORK / runs]
    words += ["--cache-dir", WORK / "cache"] if dataset != "bigearthnet" else []
    words += ["--weights", SHARED / "weights" / "presto"] if encoder == "presto" else []
    subprocess.run([sys.executable, "-m", "featurize", *map(str, words)], check=True, capture_output=True, cwd=PROJECT)


def bags(read: dict[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Multi-label samples of one to four tiles of a split."""
    found = {}
    for number, (split, count) in enumerate({"train": 600, "val": 400, "test": 1000}.items()):
        features, labels = read[split]
        rng = np.random.default_rng([7, number])
        tiles = [np.flatnonzero(labels == k) for k in range(10)]
        bags, truth = np.zeros((count, features.shape[1]), np.float32), np.zeros((count, 10), np.uint8)
        for row in range(count):
            size = rng.integers(1, 5)
            classes = rng.choice(10, size=size, replace=False, p=BAG_WEIGHTS / BAG_WEIGHTS.sum())
            bags[row] = np.mean([features[rng.choice(tiles[k])] for k in classes], axis=0)
            truth[row, classes] = 1
        found[split] = bags, truth
    return found


def _simulated(seed: int, dim: int = 48) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    shares = np.array(PREVALENCE)
    directions = rng.standard_normal((len(shares), dim)) * 0.35
    found = {}
    for split, count in {"train": 1000, "val": 500, "test": 2500}.items():
        truth = (rng.random((count, len(shares))) < shares).astype(np.uint8)
        found[split] = (truth @ directions + rng.standard_normal((count, dim))).astype(np.float32), truth
    return found


# --------------------------------------------------------------------------------------------- document


def _document(frame: pd.DataFrame) -> str:
    lines = [
        "# How far to shrink per-class thresholds",
        "",
        "Made by `python -m tests.bench --only thresholds`. A class with n positives on val keeps n / (n + s) of its "
        "own threshold's distance from the shared one, in log odds; s = 0 means no shrinkage. The table shows F2 "
        f"macro on test over the classes that occur, averaged over {REPEATS} random divisions of the samples outside "
        "train into val and test. No constant was chosen on these data: mosaics made with other seeds, bags of one "
        "to four EuroSAT tiles, simulations.",
        "",
        f"| Data | Encoder | Probe | val | 0.5 | {' | '.join(f's = {s}' for s in STRENGTHS)} |",
        f"| --- | --- | --- | ---: | ---: | {' | '.join('---:' for _ in STRENGTHS)} |",
    ]
    for row in frame.to_dict("records"):
        best = max(row[f"s{s}"] for s in STRENGTHS)
        cells = [f"**{row[f's{s}']:.3f}**" if row[f"s{s}"] == best else f"{row[f's{s}']:.3f}" for s in STRENGTHS]
        about = f"| {row['data']} | {row['encoder']} | {row['probe']} | {row['val']} | {row['half']:.3f} |"
        lines.append(f"{about} {' | '.join(cells)} |")
    lines += [
        "",
        f"## Difference to s = {NOW} (version 0.1)",
        "",
        "Paired over the cases above, with the 95% interval of the mean (Student's t).",
        "",
        f"| Cases | Number | {' | '.join(f's = {s}' for s in STRENGTHS if s != NOW)} |",
        f"| --- | ---: | {' | '.join('---:' for s in STRENGTHS if s != NOW)} |",
    ]
    groups = {"all": frame} | {f"val of {rows}": frame[frame["val"] == rows] for rows in VAL_ROWS}
    groups |= {"real pixels": frame[~frame["data"].str.startswith("simulated")]}
    groups |= {f"`{kind}`": frame[frame["probe"] == kind] for kind in KINDS}
    for name, part in groups.items():
        cells = []
        for s in STRENGTHS:
            if s != NOW:
                differences = (part[f"s{s}"] - part[f"s{NOW}"]).to_numpy()
                error = differences.std(ddof=1) / len(differences) ** 0.5
                half = t.ppf(0.975, len(differences) - 1) * error
                mean = differences.mean()
                cells.append(f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]")
        lines.append(f"| {name} | {len(part)} | {' | '.join(cells)} |")
    strengths = [f"s{s}" for s in STRENGTHS]
    lost = frame[strengths].max(axis=1).to_numpy()[:, None] - frame[strengths].to_numpy()
    lines += [
        "",
        "Largest loss against the best s of a case: "
        + ", ".join(f"{loss:.3f} at s = {s}" for s, loss in zip(STRENGTHS, lost.max(axis=0), strict=True))
        + "; mean loss: "
        + ", ".join(f"{loss:.4f}" for loss in lost.mean(axis=0))
        + f". In use: s = {SHRINKAGE}.",
    ]
    lines += ["", "Cases of one data set share their samples: the intervals are narrower than fresh data would give."]
    return "\n".join(lines) + "\n"
