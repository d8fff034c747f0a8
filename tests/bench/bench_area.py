"""Coverage of the intervals of error-adjusted area, and the worked examples that `analyze area` reproduces."""

import numpy as np

from analysis.map_accuracy import Estimate, MapAccuracy, allocate, estimate
from tests.bench.pairs import PROJECT

TABLE = PROJECT / "docs" / "results" / "area.md"

REPETITIONS = 1000
CLASSES = ("rare", "small", "common", "most")
SHARES = (0.02, 0.015, 0.32, 0.645)  # of the map, as in Olofsson et al. 2014
# By map class, the shares of the classes in truth.
TRUTH = np.array(
    [[0.88, 0.0, 0.07, 0.05], [0.0, 0.73, 0.11, 0.16], [0.006, 0.0, 0.927, 0.067], [0.006, 0.006, 0.028, 0.96]]
)


def bench_area_coverage() -> dict:
    """Share of simulated stratified samples whose 95% interval of a class's area holds the true area.

    A map of four classes, two of them rare; n samples, at least 50 of a class, drawn 1,000 times. Writes
    docs/results/area.md.
    """
    rng = np.random.default_rng(0)
    area = np.array(SHARES) @ TRUTH
    found = {}
    for n in (320, 640, 1280):
        counts = allocate(n, SHARES, least=50)
        covered, normal = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
        for _ in range(REPETITIONS):
            mapped = [name for name, count in zip(CLASSES, counts, strict=True) for _ in range(count)]
            truth = [
                CLASSES[k]
                for row, count in zip(TRUTH, counts, strict=True)
                for k in rng.choice(len(CLASSES), size=count, p=row)
            ]
            sizes = dict(zip(CLASSES, SHARES, strict=True))
            got = estimate(mapped, truth, strata=mapped, sizes=sizes, classes=CLASSES)
            low, high = got.area_interval.T
            covered += (low <= area) & (area <= high)
            normal += np.abs(got.area.value - area) <= got.area.half_width
        found[str(n)] = {
            "interval": dict(zip(CLASSES, (covered / REPETITIONS).round(3).tolist(), strict=True)),
            "1.96 standard errors": dict(zip(CLASSES, (normal / REPETITIONS).round(3).tolist(), strict=True)),
        }
    TABLE.write_text(document(found))
    return {"coverage_by_samples": found, "repetitions": REPETITIONS, "nominal": 0.95}


# Printed: value and half width of its 95% interval. Olofsson et al. 2014, page 54, from its Table 8.
CHANGE = ("Deforestation", "Forest gain", "Stable forest", "Stable non-forest")
TABLE_8 = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
PIXELS = (200_000, 150_000, 3_200_000, 6_450_000)
HECTARES = 0.09 * sum(PIXELS)  # Landsat pixels of 30 m
PRINTED = {
    "user's accuracy": ["0.88 ± 0.07", "0.73 ± 0.10", "0.93 ± 0.04", "0.96 ± 0.02"],
    "producer's accuracy": ["0.75 ± 0.21", "0.85 ± 0.23", "0.93 ± 0.03", "0.96 ± 0.01"],
    "area, ha": ["21,158 ± 6,158", "11,686 ± 3,756", "285,770 ± 15,510", "581,386 ± 16,282"],
}


def olofsson_2014() -> MapAccuracy:
    """The worked example."""
    pairs = [(CHANGE[i], CHANGE[j]) for i, row in enumerate(TABLE_8) for j, n in enumerate(row) for _ in range(n)]
    mapped, truth = zip(*pairs, strict=True)
    return estimate(mapped, truth, strata=mapped, sizes=dict(zip(CHANGE, PIXELS, strict=True)), classes=CHANGE)


def shown(found: Estimate, digits: int) -> list[str]:
    """Values with half widths."""
    return [f"{v:,.{digits}f} ± {h:,.{digits}f}" for v, h in zip(found.value, found.half_width, strict=True)]


def document(coverage: dict) -> str:
    """docs/results/area.md."""
    example = olofsson_2014()
    shares = ", ".join(f"{share:.1%}" for share in SHARES)
    ours = [shown(example.users, 2), shown(example.producers, 2), shown(example.area.scaled(HECTARES), 0)]
    lines = [
        "# Accuracy of maps and areas of classes",
        "",
        "Made by `python -m tests.bench --only area_coverage`.",
        "",
        "## Worked example",
        "",
        "Olofsson et al. 2014, Table 8 and page 54, which is also the second example of R's `mapaccuracy`. The paper "
        "prints 0.23 and 0.01 where its own equation 7 gives 0.25 and 0.02. `tests/test_map_accuracy.py` checks these "
        "numbers and those of Olofsson et al. 2013 and Stehman 2014: all examples of `mapaccuracy`.",
        "",
        "| | " + " | ".join(CHANGE) + " |",
        "| --- |" + " ---: |" * len(CHANGE),
    ]
    for (name, printed), own in zip(PRINTED.items(), ours, strict=True):
        lines += [f"| {name}, printed | " + " | ".join(printed) + " |", "| ours | " + " | ".join(own) + " |"]
    lines += [
        "",
        "## Coverage",
        "",
        f"Share of {REPETITIONS:,} simulated stratified samples whose 95% interval of a class's area contains the true "
        f"area. The map has four classes with {shares} of the area; the samples have at least 50 locations per class. "
        "`analyze area` reports the first kind of interval.",
        "",
        "| Samples | Interval | " + " | ".join(CLASSES) + " |",
        "| ---: | --- |" + " ---: |" * len(CLASSES),
    ]
    for samples, kinds in coverage.items():
        for kind, of in kinds.items():
            lines.append(f"| {samples} | {kind} | " + " | ".join(f"{of[name]:.1%}" for name in CLASSES) + " |")
    return "\n".join(lines) + "\n"
