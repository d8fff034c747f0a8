"""From 50 labels to a map of a scene mosaicked from real EuroSAT tiles."""

import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio

from data import command, paths, runs
from data.nomenclature import EUROSAT_CLASSES as CLASSES
from featurize.cli import app as featurize
from probes.cli import app as probe
from tests.bench.pairs import PROJECT, SHARED
from tests.bench.scene_mosaic import label_areas, label_points, make_mosaic, make_product

TABLE = PROJECT / "docs" / "results" / "maps.md"
KEPT = Path(tempfile.gettempdir()) / "frozen-earth-maps"  # scene, runs and maps, to look at
WEIGHTS = {
    "galileo": ["--weights", str(SHARED / "weights" / "galileo-nano" / "encoder.pt"), "--bands", "s2-10"],
    "presto": ["--weights", str(SHARED / "weights" / "presto" / "default_model.pt"), "--bands", "s2-10"],
    "dinov2": ["--weights", "random", "--variant", "small", "--bands", "rgb", "--image-size", "56"],
}


@dataclass(frozen=True)
class Way:
    """One way to a map.

    Args:
        name: what a reader calls it.
        model: encoder.
        labels: file of labels.
        more: flags of featurize.
        scene: the mosaic as a GeoTIFF or as a Level-2A product.
        tile: pixels.
    """

    name: str
    model: str
    labels: str = "points.gpkg"
    more: tuple[str, ...] = ()
    scene: str = "scene.tif"
    tile: int = 64


COVER = ("--min-cover", "0.3")
WAYS = (
    Way("points", "galileo"),
    Way("polygons", "galileo", "polygons.gpkg", COVER),
    Way("raster", "galileo", "labels.tif", COVER),
    Way("points, Level-2A product (.SAFE) with a cloud", "galileo", scene="*.SAFE"),
    Way("points", "presto"),
    Way("points, --tile 16", "galileo", tile=16),
    Way("points, --dense (patches of 8 pixels)", "galileo", more=("--dense",)),
    Way("points, --dense (patches of 16 pixels), random weights", "dinov2", more=("--dense",)),
)


def bench_maps() -> dict:
    """Accuracy of maps on pixels of tiles that no label lies on, beside the estimates from the labels.

    Writes docs/results/maps.md; scene, runs and maps stay in the folder frozen-earth-maps of the temporary folder.
    """
    if not (SHARED / "weights" / "galileo-nano").exists():
        return {"skipped": "no shared weights"}
    shutil.rmtree(KEPT, ignore_errors=True)
    classes = make_mosaic(SHARED / "data" / "eurosat-ms" / "EuroSATallBands.zip", KEPT)
    label_points(KEPT, classes)
    label_areas(KEPT)
    make_product(KEPT)
    rows = [mapped(way, KEPT / f"map-{number}.tif") for number, way in enumerate(WAYS)]
    TABLE.write_text(document(rows, classes))
    return {"unit": "accuracy", **{f"{row['model']}: {row['way']}": round(row["accuracy"], 3) for row in rows}}


def mapped(way: Way, to: Path) -> dict:
    """Run the three commands."""
    scene, start = next(KEPT.glob(way.scene)), cpu_seconds()
    out = KEPT / "-".join(["runs", way.model, scene.suffix[1:], str(way.tile), *way.more[:1]]).replace(
        "---min-cover", ""
    )
    words = ["--model", way.model, *WEIGHTS[way.model], "--dataset", "scene", "--data-root", str(scene), "--tile"]
    words += [str(way.tile), "--labels", str(KEPT / way.labels), *way.more, "--device", "cpu", "--out", str(out)]
    assert command.run(featurize, words) == 0
    embedded = cpu_seconds()
    before = set(paths.run_folders(out))
    assert command.run(probe, ["--kind", "linear", "--protocol", "map", "--out", str(out)]) == 0
    (made,) = set(paths.run_folders(out)) - before
    assert command.run(probe, ["predict", str(made), "--to", str(to)]) == 0
    run = runs.read_run(made)
    return {
        "way": way.name,
        "model": way.model,
        "estimate": run.record["metrics"]["test"]["half"]["accuracy"],
        "interval": run.record["intervals"]["test"]["half"]["accuracy"]["interval"] or (np.nan, np.nan),
        "accuracy": accuracy(to),
        "embed_s": embedded - start,
        "probe_s": cpu_seconds() - embedded,
        "megabytes": next(out.rglob("test.h5")).stat().st_size / 1e6,
    }


def cpu_seconds() -> float:
    """Of this process and those that it waited for."""
    return sum(os.times()[:4])


def accuracy(made: Path) -> float:
    """Share of pixels that are right, of all mapped pixels of tiles that no label lies on."""
    with rasterio.open(made) as source:
        numbers, named = source.read(1), json.loads(source.tags()["class_names"])
    with rasterio.open(KEPT / "truth.tif") as source:
        true = source.read(1)
    unseen = np.load(KEPT / "unseen.npy")
    lookup = np.zeros(256, np.uint8)
    for number, name in named.items():
        lookup[int(number)] = int(name) if name.isdecimal() else CLASSES.index(name) + 1
    found = np.kron(lookup[numbers], np.ones((true.shape[0] // numbers.shape[0],) * 2, np.uint8))
    counted = np.kron(unseen, np.ones((true.shape[0] // unseen.shape[0],) * 2, bool)) & (found > 0)
    return float((found == true)[counted].mean())


def document(rows: list[dict], classes: np.ndarray) -> str:
    """docs/results/maps.md."""
    shown, unseen = np.load(KEPT / "copies.npy"), np.load(KEPT / "unseen.npy")
    side = classes.shape[0]
    lines = [
        "# From a few labels to a map",
        "",
        f"Made by `python -m tests.bench --only maps`. The scene is a mosaic of {len(np.unique(shown))} real 13-band "
        f"EuroSAT tiles, {side * 64:,} x {side * 64:,} pixels; its true map is known. 50 labels, five per class: "
        "points, squares of 40 pixels around them, or these as a raster. Galileo nano and Presto with their "
        'published weights, bands s2-10; a linear probe. "Estimate" is the accuracy that `--protocol map` reports '
        "from the labels alone, with its 95% interval by spatial block.",
        "",
        f"There are fewer tiles than the {side**2:,} positions of the mosaic, so some tiles occur twice (rotated). "
        '**No tile is used for both training and accuracy**: "Accuracy" is over the pixels of the '
        f"{int(unseen.sum()):,} positions whose tile is not labeled, neither there nor at its other position.",
        "",
        "| Model | Labels, map | Estimate | 95% interval | Accuracy | CPU s to embed | to map | Features, MB |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        low, high = row["interval"]
        lines.append(
            f"| {row['model']} | {row['way']} | {row['estimate']:.3f} | {low:.3f} to {high:.3f} | "
            f"{row['accuracy']:.3f} | {row['embed_s']:.0f} | {row['probe_s']:.0f} | {row['megabytes']:.1f} |"
        )
    lines += [
        "",
        "The second and third rows reuse the features of the first. The Level-2A product has bands at 10, 20 and 60 "
        "m, an offset of 1,000 and a scene classification with a cloud over nine tiles, which the map leaves out. "
        "EuroSAT's labels are for whole tiles (a Highway tile is mostly fields). Patches and small windows often "
        "show another class than that of their tile, so they cannot reach the accuracy of windows of a whole tile "
        "here.",
    ]
    return "\n".join(lines) + "\n"
