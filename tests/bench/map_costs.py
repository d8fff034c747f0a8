"""Hours and disk space of maps, computed from results of `featurize bench`, into docs/guide/maps.md.

featurize bench --model stats,galileo,presto --dataset scene --data-root scene.tif --out DIR
python -m tests.bench.map_costs DIR
"""

import json
import math
import sys
from pathlib import Path

from data import paths
from tests.bench.pairs import PROJECT

PAGE = PROJECT / "docs" / "guide" / "maps.md"
START, END = "<!-- costs: python -m tests.bench.map_costs -->\n", "<!-- end of costs -->\n"
SIDE, PIXEL_KM, TILE = 10_980, 0.01, 64  # of a Sentinel-2 product, and of a window
GRID_KM = 100  # Sentinel-2 products start every 100 km and overlap by 9.8 km
GERMANY_KM2, EXTENTS_KM = 357_592, (876, 640)  # Federal Statistical Office; from north to south, from west to east


def windows(stride: int) -> tuple[int, int]:
    """Windows of one Sentinel-2 product, and of an area as large as Germany."""
    return ((SIDE - TILE) // stride + 1) ** 2, round(GERMANY_KM2 / (stride * PIXEL_KM) ** 2)


def products() -> int:
    """Sentinel-2 products that touch Germany.

    Squares of side a of a grid that a convex region of area A and perimeter P touches, on average over its position:
    A / a² + 2 P / (pi a) + 1 (Santaló 2004, Integral Geometry and Geometric Probability); P of an ellipse (Ramanujan).
    """
    one, other = (extent / 2 for extent in EXTENTS_KM)
    perimeter = math.pi * (3 * (one + other) - math.sqrt((3 * one + other) * (one + 3 * other)))
    return round(GERMANY_KM2 / GRID_KM**2 + 2 * perimeter / (math.pi * GRID_KM) + 1)


def page_part(file: Path) -> str:
    """The part of the page, from one result of `featurize bench`."""
    found = json.loads(file.read_text())
    machine = found["machine"]
    (tile, country), (dense_tile, dense_country) = windows(TILE), windows(TILE // 2)
    lines = [
        f"One Sentinel-2 product ({SIDE:,} x {SIDE:,} pixels) has {tile:,} windows of {TILE} pixels without overlap "
        f"and {dense_tile:,} with `--stride {TILE // 2}`. An area as large as Germany ({GERMANY_KM2:,} km²) has "
        f"{country:,} and {dense_country:,}; about {products()} products touch it, with {products() * tile:,} windows "
        "in all if each product is embedded completely, including overlaps.",
        "",
        f"Measured by `featurize bench` on {machine['gpu'] or machine['cpu']}, {machine['cores']} cores, load "
        f"{machine['load']:.1f} ({machine['date']}):",
        "",
        "| Model | Images/s | Product | `--stride 32` | Germany | `--stride 32` | Disk: product | Germany |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for rate in found["rates"]:
        hours = [f"{count / rate['whole'] / 3600:,.2g} h" for count in (tile, dense_tile, country, dense_country)]
        size = rate["feature_bytes"]
        disk = [f"{tile * size / 1e6:,.0f} MB", f"{country * size / 1e9:,.1f} GB"]
        lines.append(f"| {rate['model']} | {rate['whole']:,.0f} | " + " | ".join([*hours, *disk]) + " |")
    return "\n".join([*lines, "", ""])


def main() -> None:
    """Rewrite the part of the page."""
    (file,) = paths.bench_file(Path(sys.argv[1]), "any").parent.glob("*.json")
    before, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(before + START + page_part(file) + END + rest.partition(END)[2])


if __name__ == "__main__":
    main()
