"""Labels planted wrong among real EuroSAT features, and how many of them `analyze labels` puts first."""

import os
import time

import numpy as np
import pandas as pd

from analysis.views import labels as view
from data import store
from tests.bench import bench_thresholds as data
from tests.bench.pairs import PROJECT, SHARED

TABLE = PROJECT / "docs" / "results" / "labels.md"
SHARES = (0.02, 0.05)
SEEDS = range(2)
MOST = 3000  # of the 21,600 RGB tiles


def bench_labels() -> dict:
    """Recall of planted wrong labels among the k most suspect samples, k as many as were planted.

    Writes docs/results/labels.md.
    """
    if not (SHARED / "data").exists():
        return {"skipped": "no shared data"}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    rows = []
    for name, encoder, features, truth in _sets():
        for share in SHARES:
            found = [_recall(features, truth, share, seed) for seed in SEEDS]
            means = pd.DataFrame(found).mean().to_dict()
            rows.append({"data": name, "encoder": encoder, "samples": len(features), "share": share, **means})
    frame = pd.DataFrame(rows)
    TABLE.write_text(_document(frame))
    return {"unit": "recall@k", "mean": float(frame["at_k"].mean()), "seconds": float(frame["seconds"].sum())}


def _sets():
    folders = {"eurosat": ("eurosat-ms", "runs-ms"), "eurosat-rgb": ("eurosat-rgb", "runs-rgb")}
    for dataset, encoders in (("eurosat", ("stats", "rcf", "presto")), ("eurosat-rgb", ("stats",))):
        folder, runs = folders[dataset]
        for encoder in encoders:
            read = data.featurized(encoder, dataset, SHARED / "data" / folder, runs)
            parts = list(read.values())
            features, labels = (np.concatenate([part[number] for part in parts]) for number in (0, 1))
            step = max(1, len(features) // MOST)
            yield dataset, encoder, features[::step], np.eye(10, dtype=bool)[labels[::step]]
            if encoder == "presto":
                bags = np.concatenate([part[0] for part in data.bags(read).values()])
                truth = np.concatenate([part[1] for part in data.bags(read).values()]).astype(bool)
                yield "bags of eurosat (multi-label)", encoder, bags, truth


def _recall(features: np.ndarray, truth: np.ndarray, share: float, seed: int) -> dict[str, float]:
    """Change one class of a share of the samples, and look for them."""
    rng = np.random.default_rng(seed)
    multilabel = bool((truth.sum(axis=1) > 1).any())
    rows = rng.choice(len(truth), round(share * len(truth)), replace=False)
    given = truth.copy()
    if multilabel:
        classes = rng.integers(0, truth.shape[1], len(rows))
        given[rows, classes] = ~given[rows, classes]
    else:
        given[rows] = np.eye(10, dtype=bool)[(truth[rows].argmax(axis=1) + rng.integers(1, 10, len(rows))) % 10]
    labels = given.astype(np.uint8) if multilabel else given.argmax(axis=1)
    made = store.FeatureSet(
        file=TABLE,
        features=features,
        labels=labels,
        ids=[str(row) for row in range(len(labels))],
        lonlat=None,
        class_names=tuple(f"class {k}" for k in range(truth.shape[1])),
        identity={"split": {"name": "all"}},
        environment={},
    )
    start = time.perf_counter()
    frame = view.compute([made])
    seconds = time.perf_counter() - start
    hit = frame["id"].isin({str(row) for row in rows}).to_numpy()
    k = len(rows)
    suspected = frame["suspected"].to_numpy()
    return {
        "at_k": hit[:k].mean(),
        "at_2k": hit[: 2 * k].sum() / k,
        "suspected": float(suspected.sum()),
        "recall": hit[suspected].sum() / k,
        "chance": share,
        "seconds": seconds,
    }


def _document(frame: pd.DataFrame) -> str:
    lines = [
        "# Artificial label errors found",
        "",
        "Made by `python -m tests.bench --only labels`. Real EuroSAT features; the label of a fraction of the "
        "samples is changed at random (multi-label: one class of a sample added or removed), and `analyze labels` "
        "ranks all samples. Recall@k: share of the k changed labels that are among the k most suspicious ones, mean "
        f"of {len(SEEDS)} seeds; a random ranking would find that fraction of them. EuroSAT's own label errors and "
        "samples that the features cannot tell apart lower it.",
        "",
        "| Data | Encoder | Samples | Changed | Recall@k | Recall@2k | Suspected | Recall of these |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in frame.to_dict("records"):
        lines.append(
            f"| {row['data']} | {row['encoder']} | {row['samples']:,} | {row['share']:.0%} | {row['at_k']:.2f} | "
            f"{row['at_2k']:.2f} | {row['suspected']:,.0f} | {row['recall']:.2f} |"
        )
    return "\n".join(lines) + "\n"
