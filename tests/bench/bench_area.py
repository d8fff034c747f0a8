"""Coverage of the intervals of error-adjusted area."""

import numpy as np

from analysis.map_accuracy import allocate, estimate

REPETITIONS = 1000
CLASSES = ("rare", "small", "common", "most")
SHARES = (0.02, 0.015, 0.32, 0.645)  # of the map, as in Olofsson et al. 2014
# By map class, the shares of the classes in truth.
TRUTH = np.array(
    [[0.88, 0.0, 0.07, 0.05], [0.0, 0.73, 0.11, 0.16], [0.006, 0.0, 0.927, 0.067], [0.006, 0.006, 0.028, 0.96]]
)


def bench_area_coverage() -> dict:
    """Share of simulated stratified samples whose 95 % interval of a class's area holds the true area.

    A map of four classes, two of them rare; n samples, at least 50 of a class, drawn 1,000 times.
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
    return {"coverage_by_samples": found, "repetitions": REPETITIONS, "nominal": 0.95}
