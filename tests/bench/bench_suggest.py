"""Labels that `probe suggest` proposes against random ones and other rules, on real tiles that it was not chosen on."""

import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from PIL import Image
from rasterio.transform import from_bounds
from scipy import stats
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression

from data import command, store
from data.nomenclature import EUROSAT_CLASSES as CLASSES
from featurize.cli import app as featurize
from probes.suggest import choose
from tests.bench.pairs import PROJECT, SHARED

TABLE = PROJECT / "docs" / "results" / "suggest.md"
KEPT = Path(tempfile.gettempdir()) / "frozen-earth-suggest"  # features: embedded once
WEIGHTS = {"galileo": "galileo-nano/encoder.pt", "presto": "presto/default_model.pt"}
SEEDS, STEP, ROUNDS, RGB_TILES = 20, 20, 3, 200
IN_USE = "margin x distance (in use)"


def bench_suggest() -> dict:
    """Gain of suggested over random labels at the same budget; writes docs/results/suggest.md."""
    if not all((SHARED / "weights" / file).exists() for file in WEIGHTS.values()):
        return {"skipped": "no shared weights"}
    results = {}
    for images in ("13 bands", "RGB"):
        for encoder in WEIGHTS:
            values, labels = embedded(images, encoder)
            first = first_half(labels)
            if encoder == "galileo":
                results["A", images, encoder] = gains(values[first], labels[first])
            results["B", images, encoder] = gains(values[~first], labels[~first])
    TABLE.write_text(document(results))
    proof = {f"{images}, {encoder}": of[IN_USE] for (half, images, encoder), of in results.items() if half == "B"}
    return {"unit": "accuracy", "gain_on_half_B": {name: of["gain"].round(3).tolist() for name, of in proof.items()}}


# ------------------------------------------------------------------------------------------- features


def embedded(images: str, encoder: str) -> tuple[np.ndarray, np.ndarray]:
    """Features and classes of the 600 tiles of 13 bands, or of 2,000 other tiles in red, green and blue."""
    out = KEPT / ("rgb" if images == "RGB" else "ms")
    if images == "RGB":
        where = ["--bands", "B02,B03,B04", "--dataset", "folder", "--data-root", str(rgb_tiles())]
    else:
        where = ["--bands", "s2-10", "--dataset", "eurosat", "--data-root", str(SHARED / "data" / "eurosat-ms")]
    weights = ["--weights", str(SHARED / "weights" / WEIGHTS[encoder])]
    words = ["--model", encoder, *weights, *where, "--split", "all", "--device", "cpu", "--out", str(out)]
    assert command.run(featurize, words) == 0
    found = [store.read_features(next(out.rglob(f"{encoder}*/{split}.h5"))) for split in ("train", "val", "test")]
    return np.concatenate([one.features for one in found]), np.concatenate([one.labels for one in found])


def rgb_tiles() -> Path:
    """JPEGs that are not among the 600 tiles, as GeoTIFFs of digital numbers, for encoders of Sentinel-2 bands."""
    import geopandas

    folder, data = KEPT / "tiles", SHARED / "data"
    if folder.exists():
        return folder
    outlines = geopandas.read_parquet(data / "eurosat-geometry.parquet").set_index("filename").geometry
    with zipfile.ZipFile(data / "eurosat-ms" / "EuroSATallBands.zip") as archive:
        others = {Path(name).stem for name in archive.namelist()}
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(data / "eurosat-rgb" / "EuroSAT.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg") and Path(name).stem not in others]
        for of_class in CLASSES:
            for name in rng.permutation(sorted(one for one in names if f"/{of_class}/" in one))[:RGB_TILES]:
                pixels = np.asarray(Image.open(io.BytesIO(archive.read(name)))).transpose(2, 0, 1)[::-1]
                file = folder / of_class / f"{Path(name).stem}.tif"
                file.parent.mkdir(parents=True, exist_ok=True)
                about = {"count": 3, "height": 64, "width": 64, "dtype": "uint16", "crs": "EPSG:4326"}
                transform = from_bounds(*outlines[file.name].bounds, 64, 64)
                with rasterio.open(file, "w", driver="GTiff", transform=transform, **about) as target:
                    target.write(np.round(pixels * (2750 / 255)).astype(np.uint16))  # as the JPEGs were scaled
                    for number, band in enumerate(("B02", "B03", "B04"), 1):
                        target.set_band_description(number, band)
    return folder


def first_half(labels: np.ndarray) -> np.ndarray:
    """(N,) half of each class at random: half A."""
    rng, first = np.random.default_rng(0), np.zeros(len(labels), bool)
    for number in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == number))
        first[rows[: len(rows) // 2]] = True
    return first


# ------------------------------------------------------------------------------------------- rules


def doubt(scores: np.ndarray) -> np.ndarray:
    """One minus the margin between the two highest probabilities."""
    ordered = np.sort(scores, axis=1)
    return 1 - (ordered[:, -1] - ordered[:, -2])


def entropy(scores: np.ndarray) -> np.ndarray:
    """Of the probabilities."""
    return -(scores * np.log(scores + 1e-12)).sum(axis=1)


def distances(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """(N, M) Euclidean."""
    squares = (one**2).sum(axis=1)[:, None] + (other**2).sum(axis=1) - 2 * one @ other.T
    return np.sqrt(np.maximum(squares, 0))


def highest(values: np.ndarray, known: np.ndarray, count: int) -> np.ndarray:
    """The unknown rows of highest value."""
    return np.argsort(np.where(known, np.inf, -values), kind="stable")[:count]


def centres(x: np.ndarray, known: np.ndarray, count: int) -> np.ndarray:
    """Greedy k-center (Sener and Savarese 2018): the row farthest from all known ones, then the next."""
    near, chosen = distances(x, x[known]).min(axis=1), []
    for _ in range(count):
        chosen.append(int(near.argmax()))
        near = np.minimum(near, distances(x, x[chosen[-1:]])[:, 0])
    return np.array(chosen)


def typical(x: np.ndarray, known: np.ndarray, count: int) -> np.ndarray:
    """TypiClust (Hacohen et al. 2022): the densest row of the largest clusters without a known row."""
    clusters = KMeans(int(known.sum()) + count, n_init=1, random_state=0).fit_predict(x)
    typicality = 1 / (np.sort(distances(x, x), axis=1)[:, 1:21].mean(axis=1) + 1e-9)
    sizes, covered = np.bincount(clusters), set(clusters[known])
    order = sorted(range(len(sizes)), key=lambda number: (number in covered, -sizes[number]))
    free = [np.flatnonzero((clusters == number) & ~known) for number in order]
    return np.array([rows[typicality[rows].argmax()] for rows in free if len(rows)][:count])


def balanced(scores: np.ndarray, known: np.ndarray, count: int) -> np.ndarray:
    """The most doubtful row of each predicted class in turn."""
    predicted, ranked = scores.argmax(axis=1), highest(doubt(scores), known, int((~known).sum()))
    turn = np.array([(predicted[ranked[:place]] == predicted[row]).sum() for place, row in enumerate(ranked)])
    return ranked[np.argsort(turn, kind="stable")][:count]


def clustered(values: np.ndarray, x: np.ndarray, known: np.ndarray, count: int, share: int = 0) -> np.ndarray:
    """k-means weighted by value (Zhdanov 2019) of the best rows, or all; the row nearest each center."""
    rows = highest(values, known, share * count or int((~known).sum()))
    means = KMeans(count, n_init=1, random_state=0).fit(x[rows], sample_weight=values[rows] + 1e-6).cluster_centers_
    chosen: list[int] = []
    for near in distances(means, x[rows]):
        near[chosen] = np.inf
        chosen.append(int(near.argmin()))
    return rows[chosen]


def in_use(x: np.ndarray, scores: np.ndarray, known: np.ndarray, count: int) -> np.ndarray:
    """`probe suggest`, on tiles that do not overlap."""
    apart = np.column_stack([np.arange(len(x))] * 3).astype(np.int64)
    return choose(x, scores.astype(np.float32), apart, known, count=count, tile=1)


Rule = Callable[[np.ndarray, np.ndarray, np.ndarray, int], np.ndarray]
RULES: dict[str, Rule] = {
    IN_USE: in_use,
    "margin": lambda x, scores, known, count: highest(doubt(scores), known, count),
    "entropy": lambda x, scores, known, count: highest(entropy(scores), known, count),
    "margin, classes in turn": lambda x, scores, known, count: balanced(scores, known, count),
    "k-center": lambda x, scores, known, count: centres(x, known, count),
    "TypiClust": lambda x, scores, known, count: typical(x, known, count),
    "k-means of the 60 smallest margins": lambda x, s, known, count: clustered(doubt(s), x, known, count, 3),
    "k-means weighted by margin": lambda x, s, known, count: clustered(doubt(s), x, known, count),
}


# ------------------------------------------------------------------------------------------- trial


def gains(values: np.ndarray, labels: np.ndarray) -> dict[str, dict[str, np.ndarray]]:
    """Accuracy of random labels and the paired gain of each rule, with half its 95% interval, after each round.

    For each seed, half of the tiles are a pool to label from and half are tested on; 20 labels, two per class, are
    drawn at random; then 20 are added twice.
    """
    found: dict[str, list[list[float]]] = {name: [] for name in ("random", *RULES)}
    for seed in range(SEEDS):
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(values))
        pool, test = order[: len(order) // 2], order[len(order) // 2 :]
        scaled = ((values - values[pool].mean(axis=0)) / (values[pool].std(axis=0) + 1e-9)).astype(np.float32)
        x, truth = scaled[pool], labels[pool]
        start = np.concatenate([rng.choice(np.flatnonzero(truth == k), 2, replace=False) for k in range(10)])
        for name, rows in found.items():
            known, draw, row = np.zeros(len(pool), bool), np.random.default_rng([seed, 1]), []
            known[start] = True
            for _ in range(ROUNDS):
                model = LogisticRegression(max_iter=300).fit(x[known], truth[known])
                row.append(model.score(scaled[test], labels[test]))
                if name == "random":
                    more = draw.choice(np.flatnonzero(~known), STEP, replace=False)
                else:
                    more = RULES[name](x, model.predict_proba(x), known, STEP)
                known[more] = True
            rows.append(row)
    random = np.array(found.pop("random"))[:, 1:]
    shares = {"random": {"accuracy": random.mean(axis=0)}}
    for name, rows in found.items():
        gain = np.array(rows)[:, 1:] - random
        half = stats.t.ppf(0.975, SEEDS - 1) * gain.std(axis=0, ddof=1) / np.sqrt(SEEDS)
        shares[name] = {"gain": gain.mean(axis=0), "half": half}
    return shares


def document(results: dict) -> str:
    """docs/results/suggest.md."""
    mean = {name: {half: mean_gain(results, half, name) for half in "AB"} for name in RULES}
    held_out = [of[IN_USE] for key, of in results.items() if key[0] == "B"]
    proof = np.concatenate([one["gain"] for one in held_out])
    sure = proof > np.concatenate([one["half"] for one in held_out])
    best = max(RULES, key=lambda name: mean[name]["A"])
    lines = [
        "# Suggested labels against random ones",
        "",
        "Made by `python -m tests.bench --only suggest`. Real EuroSAT tiles: 600 of 13 bands, and 2,000 others in "
        "red, green and blue; Galileo nano and Presto with their published weights. Each set is divided into half A "
        f"and half B. For each of {SEEDS} seeds, 50% of the tiles of a half form the pool to choose from, and the "
        "others are the test set; 20 labels (two per class) are drawn at random, then 20 more are added twice, by a "
        "rule or at random. The probe is a logistic regression. Gain: accuracy with the rule minus accuracy with as "
        "many random labels, paired by seed, with its 95% interval (Student's t), at 40 and at 60 labels.",
        "",
        "The rule in use was fixed earlier, on the 600 tiles with Galileo; half B with Presto and all RGB results "
        f"played no part in that choice. On half A, the best rule is: {best}. Mean gain over sets and budgets on half "
        "A and half B: " + "; ".join(f"{name} {of['A']:+.3f}, {of['B']:+.3f}" for name, of in mean.items()) + ".",
        "",
        f"On half B, the rule in use beats random labels in {len(proof)} comparisons by {min(proof):+.3f} to "
        f"{max(proof):+.3f}; {sum(sure)} of the intervals exclude zero.",
    ]
    for half, title in (("B", "Half B: validation"), ("A", "Half A: selection")):
        here = {key: of for key, of in results.items() if key[0] == half}
        lines += ["", f"## {title}", "", "| Rule | " + " | ".join(f"{i}, {e}" for _, i, e in here) + " |"]
        lines += ["| --- |" + " ---: |" * len(here)]
        drawn = [" / ".join(f"{value:.3f}" for value in of["random"]["accuracy"]) for of in here.values()]
        lines += ["| random: accuracy | " + " | ".join(drawn) + " |"]
        for name in RULES:
            cells = [
                " / ".join(f"{g:+.3f} ± {h:.3f}" for g, h in zip(of[name]["gain"], of[name]["half"], strict=True))
                for of in here.values()
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def mean_gain(results: dict, half: str, name: str) -> float:
    """Over sets, encoders and budgets."""
    return float(np.mean([of[name]["gain"].mean() for key, of in results.items() if key[0] == half]))
