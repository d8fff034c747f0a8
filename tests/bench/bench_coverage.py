"""Do nominal 95% intervals cover? Simulated classifiers whose true metrics are known exactly.

A label occurs with its real frequency in BigEarthNet v2; its score is normal, shifted by the label, with an effect that
all classes of an image share and, where errors correlate in space, effects of its cell on labels and scores. The
margins stay normal, so the value of a metric over infinitely many images follows from the normal distribution.

COVERAGE_REPETITIONS=20 python -m tests.bench --only coverage    a quick look; docs/results/coverage.md is left as it is
"""

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import binom, norm
from threadpoolctl import threadpool_limits

from probes import intervals, jackknife
from probes.metrics import f_beta
from probes.spatial import Units

REPETITIONS = 500
PAGE = Path(__file__).parents[2] / "docs" / "results" / "coverage.md"
# Patches of each of the 19 classes among the 480,038 of BigEarthNet v2 (metadata.parquet), the commonest first.
PATCHES = np.array([
    188025, 165780, 154941, 141150, 135928, 122709, 99598, 95605, 63758, 63212, 61832, 33181, 29588, 20919, 13894,
    11882, 11142, 1397, 1316,
])  # fmt: skip
PREVALENCE = PATCHES / 480038
NOISE = 1.5  # standard deviation of a score
SKILL = np.linspace(1.8, 1.0, 19)[np.random.default_rng(0).permutation(19)]  # half the distance of the labels' scores
CENTRE = -0.8 * norm.isf(PREVALENCE)  # rare classes score lower
OF_IMAGE, OF_CELL, LABELS_OF_CELL = 0.2, 0.3, 0.3  # shares of the variance
SHARED = 0.8  # of the noise of two models that are compared
MACRO = ("f2_macro", "precision_macro", "map_macro")


HEAD = """# Coverage of the intervals

Written by `python -m tests.bench --only coverage`: {repetitions} repetitions per row (a coverage of 95% has a
standard error of {error:.1f} points), simulated labels with the class frequencies of BigEarthNet v2. "Covers": share of
the reported 95% intervals that contain the true value. "Given": share of the repetitions in which an interval is
reported; there is none if a class has fewer than 10 positives in test (precision: or fewer than 10 predicted
positives). "Width": mean width of the reported intervals. Rows "taken as independent images" ignore that the images
lie in cells, to show the effect; no command does that.
"""
PAIRS_HEAD = """
## Two equal models

Share of repetitions in which two models of the same skill, whose scores share 80% of their noise, are found to differ
(p below 0.05; nominal 5%).
"""


@dataclass(frozen=True)
class Case:
    """One line of the study.

    Args:
        samples: test images.
        classes: the commonest so many of BigEarthNet's; 0: a single-label accuracy.
        cells: spatial cells whose images have correlated labels and errors; None for independent images.
        accuracy: the true one, for single-label.
        by_image: take the images as independent although they are not.
    """

    samples: int
    classes: int = 0
    cells: int | None = None
    accuracy: float = 0.0
    by_image: bool = False

    @property
    def words(self) -> tuple[str, str]:
        """What is judged, and how test is made."""
        what = f"{self.classes} classes" if self.classes else f"accuracy {self.accuracy:.2f}"
        where = "independent images" if self.cells is None else f"{self.cells} cells"
        return what, where + (", taken as independent images" if self.by_image else "")


SIZES = (222, 1000, 3000)
COVERAGE = (
    *(Case(n, accuracy=share) for share in (0.8, 0.97, 0.99) for n in SIZES),
    *(Case(3000, accuracy=share, cells=cells) for share in (0.8, 0.97) for cells in (30, 100)),
    *(Case(n, classes=19) for n in SIZES),
    Case(222, classes=13), Case(1000, classes=17), Case(3000, classes=17),
    *(Case(3000, classes=13, cells=cells) for cells in (30, 100)),
    Case(3000, accuracy=0.8, cells=100, by_image=True),
)  # fmt: skip
PAIRS = (
    *(Case(n, accuracy=0.8) for n in SIZES),
    *(Case(3000, accuracy=0.8, cells=cells) for cells in (30, 100)),
    *(Case(n, classes=19) for n in SIZES),
    *(Case(3000, classes=13, cells=cells) for cells in (30, 100)),
    Case(3000, accuracy=0.8, cells=100, by_image=True),
)


def true_values(classes: int) -> dict[str, float]:
    """Metrics over infinitely many images, at the threshold 0."""
    prevalence, skill, centre = PREVALENCE[:classes], SKILL[:classes], CENTRE[:classes]
    tp = prevalence * norm.sf(-(centre + skill) / NOISE)
    fp = (1 - prevalence) * norm.sf(-(centre - skill) / NOISE)
    # average precision: precision at the score of a positive, averaged over its quantiles
    scores = centre + skill + NOISE * norm.isf((np.arange(20_000)[:, None] + 0.5) / 20_000)
    above = prevalence * norm.sf((scores - centre - skill) / NOISE)
    others = (1 - prevalence) * norm.sf((scores - centre + skill) / NOISE)
    return {
        "f2_macro": float(f_beta(tp, fp, prevalence - tp, 2).mean()),
        "precision_macro": float((tp / (tp + fp)).mean()),
        "map_macro": float((above / (above + others)).mean()),
    }


def draw_units(case: Case, rng: np.random.Generator) -> Units:
    """Images, or cells of unequal size."""
    if case.cells is None:
        return Units(np.arange(case.samples), "image")
    weights = rng.gamma(1.5, 1, case.cells) + 0.15
    drawn = rng.choice(case.cells, size=case.samples, p=weights / weights.sum())
    return Units(np.unique(drawn, return_inverse=True)[1], "cell")


def draw(
    case: Case, rng: np.random.Generator, units: Units, models: int
) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
    """Labels (N, K), and for each model decisions and scores; for single-label a column that says who is right."""
    columns = case.classes or 1

    def effect(share: float) -> np.ndarray:
        return np.sqrt(share) * rng.standard_normal((units.count, columns), np.float32)[units.numbers]

    def noise() -> np.ndarray:
        total = np.sqrt(OF_IMAGE) * rng.standard_normal((case.samples, 1), np.float32)
        left = 1 - OF_IMAGE
        if units.by == "cell":
            total, left = total + effect(OF_CELL), left - OF_CELL
        return total + np.sqrt(left) * rng.standard_normal((case.samples, columns), np.float32)

    common = noise()
    each = [common if models == 1 else np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * noise() for _ in range(models)]
    if not case.classes:
        rights = [one < norm.ppf(case.accuracy) for one in each]
        return np.ones_like(rights[0]), rights, []
    latent = rng.standard_normal((case.samples, columns), np.float32)
    if units.by == "cell":
        latent = effect(LABELS_OF_CELL) + np.sqrt(1 - LABELS_OF_CELL) * latent
    truth = latent > norm.isf(PREVALENCE[:columns])
    scores = [CENTRE[:columns] + SKILL[:columns] * (2.0 * truth - 1) + NOISE * one for one in each]
    return truth, [one >= 0 for one in scores], scores


def estimates(
    truth: np.ndarray, decided: np.ndarray, scores: np.ndarray | None, units: Units
) -> dict[str, jackknife.Estimate]:
    """The metrics that are judged, of one model."""
    of_counts = jackknife.of_counts(truth, decided, units)
    if scores is None:
        return {"accuracy": of_counts["accuracy"]}
    each = [jackknife.average_precision(truth[:, k], scores[:, k], units) for k in np.flatnonzero(truth.any(axis=0))]
    left_out = np.mean([one.left_out for one in each], axis=0)
    of_map = jackknife.Estimate(float(np.mean([one.value for one in each])), left_out)
    return {"f2_macro": of_counts["f2_macro"], "precision_macro": of_counts["precision_macro"], "map_macro": of_map}


def repetition(case: Case, rng: np.random.Generator, models: int) -> tuple[np.ndarray, list, list, Units]:
    """Labels, decisions and scores of each model, and the units that are taken as independent."""
    units = draw_units(case, rng)
    truth, decided, scores = draw(case, rng, units, models)
    if case.by_image:
        units = Units(np.arange(case.samples), "image")
    return truth, decided, scores or [None] * models, units


def coverage(case: Case, repetitions: int) -> dict[str, dict[str, float]]:
    """By metric: share of repetitions in which an interval is given, and in which a given one covers; mean width."""
    rng = np.random.default_rng(1)
    names = [f"class {k}" for k in range(case.classes or 1)]
    true = true_values(case.classes) if case.classes else {"accuracy": case.accuracy}
    spans: dict[str, list[tuple[float, float]]] = {name: [] for name in true}
    with threadpool_limits(1):
        for _ in range(repetitions):
            truth, (decided,), (scores,), units = repetition(case, rng, 1)
            given = [name for name in true if not intervals.why_none(name, truth, decided, units, names)]
            found = estimates(truth, decided, scores, units) if given else {}
            for name in given:
                if name == "accuracy" and units.by == "image":
                    spans[name].append(intervals.wilson(found[name].value, case.samples))
                else:
                    spans[name].append(intervals.around(name, found[name], units))
    return {
        name: {
            "given": len(of_metric) / repetitions,
            "covers": float(np.mean([low <= true[name] <= high for low, high in of_metric])) if of_metric else np.nan,
            "width": float(np.mean([high - low for low, high in of_metric])) if of_metric else np.nan,
        }
        for name, of_metric in spans.items()
    }


def different(case: Case, repetitions: int) -> dict[str, float]:
    """By metric: share of repetitions in which two equal models are found to differ."""
    rng = np.random.default_rng(2)
    found: dict[str, list[bool]] = {}
    with threadpool_limits(1):
        for _ in range(repetitions):
            truth, decided, scores, units = repetition(case, rng, 2)
            one, other = (estimates(truth, d, s, units) for d, s in zip(decided, scores, strict=True))
            for name in one:
                found.setdefault(name, []).append(intervals.difference(one[name] - other[name], units).p < 0.05)
    return {name: float(np.mean(each)) for name, each in found.items()}


def study(repetitions: int, workers: int = 2) -> tuple[list[tuple], list[tuple]]:
    """Every case with its figures."""
    with ProcessPoolExecutor(workers) as pool:
        slow_first = sorted(COVERAGE, key=lambda case: -case.samples * (case.classes or 1))
        covered = {case: pool.submit(coverage, case, repetitions) for case in slow_first}
        differ = {case: pool.submit(different, case, repetitions) for case in PAIRS}
        return [(case, covered[case].result()) for case in COVERAGE], [(case, differ[case].result()) for case in PAIRS]


def page(covered: list[tuple], differ: list[tuple], repetitions: int) -> str:
    """The tables as Markdown."""
    error = 100 * np.sqrt(0.95 * 0.05 / repetitions)
    lines = [
        HEAD.format(repetitions=repetitions, error=error),
        "| Simulation | Test | Images | Metric | Given % | Covers % | Width |",
        "|---|---|--:|---|--:|--:|--:|",
    ]
    for case, by_metric in covered:
        what, where = case.words
        for name, one in by_metric.items():
            covers, width = ("–", "–") if not one["given"] else (f"{100 * one['covers']:.1f}", f"{one['width']:.3f}")
            about = f"{what} | {where} | {case.samples:,} | {name}"
            lines.append(f"| {about} | {100 * one['given']:.0f} | {covers} | {width} |")
    lines += [
        PAIRS_HEAD,
        "| Simulation | Test | Images | Metric | Differ % |",
        "|---|---|--:|---|--:|",
    ]
    for case, by_metric in differ:
        what, where = case.words
        lines += [f"| {what} | {where} | {case.samples:,} | {name} | {100 * p:.1f} |" for name, p in by_metric.items()]
    return "\n".join([*lines, ""])


def exact(shares: tuple[float, ...] = (0.8, 0.97, 0.99), sizes: tuple[int, ...] = (222, 1000, 3000)) -> str:
    """Coverage of Wilson's interval by summing the binomial distribution, without simulation, as Markdown."""
    lines = [
        "\n## Wilson's interval, exactly\n",
        "The rows of accuracy by image without simulation noise: the probability, summed over the binomial "
        "distribution,",
        "that the interval contains the true value.\n",
        "| Accuracy | Images | Covers % |",
        "|--:|--:|--:|",
    ]
    for share in shares:
        for size in sizes:
            bounds = np.array([intervals.wilson(right / size, size) for right in range(size + 1)])
            held = (bounds[:, 0] <= share) & (share <= bounds[:, 1])
            lines.append(
                f"| {share:.2f} | {size:,} | {100 * binom.pmf(np.arange(size + 1), size, share)[held].sum():.1f} |"
            )
    return "\n".join([*lines, ""])


def bench_coverage() -> dict:
    """Coverage of nominal 95% intervals, and how often two equal models differ; writes docs/results/coverage.md."""
    repetitions = int(os.environ.get("COVERAGE_REPETITIONS", REPETITIONS))
    covered, differ = study(repetitions)
    text = page(covered, differ, repetitions) + exact()
    if repetitions >= REPETITIONS:
        PAGE.write_text(text, encoding="utf-8")
    else:
        print(text)
    of_cases = [one for case, by_metric in covered for one in by_metric.values() if not case.by_image]
    # A share given in few repetitions is measured by few: judged from a hundred on.
    judged = [one["covers"] for one in of_cases if one["given"] * repetitions >= 100]
    rates = [p for case, by_metric in differ for p in by_metric.values() if not case.by_image]
    return {
        "repetitions": repetitions,
        "lowest_coverage": round(min(judged, default=np.nan), 3),
        "highest_coverage": round(max(judged, default=np.nan), 3),
        "most_often_different": round(max(rates), 3),
    }
