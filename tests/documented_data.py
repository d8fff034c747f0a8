"""The data that the commands in the pages name: small, made up, in the layouts of the real ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from made_scene import make_points, make_scene
from PIL import Image
from rasterio.transform import from_origin

from data.nomenclature import CLASSES_19, EUROSAT_CLASSES
from data.sources.simulated import MATERIALS

COUNTS = {"train": 4, "val": 2, "test": 2}  # images per class


def eurosat(root: Path) -> None:
    """Ten classes of 64 x 64 pixels with a color each, as GeoTIFFs of 13 bands and as JPEGs, with split files."""
    rng = np.random.default_rng(0)
    inside = root / "ds/images/remote_sensing/otherDatasets/sentinel_2/tif"
    spectra = np.insert(surfaces(len(EUROSAT_CLASSES)), 10, 12, axis=1)[:, [0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 8]]
    for split, count in COUNTS.items():
        names = []
        for number, name in enumerate(EUROSAT_CLASSES):
            for _ in range(count):
                serial = len(list((inside / name).glob("*"))) + 1
                names.append(f"{name}_{serial}.jpg")
                pixels = grained(spectra[number], 64, rng)
                write(inside / name / f"{name}_{serial}.tif", pixels.astype(np.uint16), west=number * 900 + serial * 60)
                picture = (pixels[[3, 2, 1]] / 3000 * 200).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)
                jpeg(root / "2750" / name / f"{name}_{serial}.jpg", picture)
        for variant in ("", "spatial-"):
            (root / f"eurosat-{variant}{split}.txt").write_text("\n".join(names))


def surfaces(count: int) -> np.ndarray:
    """Digital numbers of mixtures of materials in the twelve bands of Level-2A, (count, 12)."""
    shares = np.random.default_rng(4).dirichlet(np.full(len(MATERIALS), 0.5), count)
    return 300 + 10_000 * shares @ np.array(list(MATERIALS.values()))


def grained(spectrum: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels of a surface, (bands, side, side): brightness varies, and each band a little by itself."""
    light = rng.normal(1, 0.2, (side, side)).clip(0.3)
    return spectrum[:, None, None] * light * rng.normal(1, 0.03, (len(spectrum), side, side))


def write(path: Path, pixels: np.ndarray, *, west: int = 0, gsd: int = 10, names: tuple[str, ...] = ()) -> None:
    """A GeoTIFF of (bands, height, width), its western edge at so many hundred meters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    place = from_origin(300_000 + 100 * west, 5_400_000, gsd, gsd)
    about = {"count": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2], "dtype": pixels.dtype}
    with rasterio.open(path, "w", driver="GTiff", crs="EPSG:32633", transform=place, **about) as file:
        file.write(pixels)
        for number, name in enumerate(names, 1):
            file.set_band_description(number, name)


def jpeg(path: Path, pixels: np.ndarray) -> None:
    """A JPEG of (height, width, 3)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)


def bigearthnet(root: Path, patches: int = 48) -> None:
    """Version 2: patches of both sensors with two classes each, and their table."""
    from data.sources._bigearthnet_patches import BANDS

    rng = np.random.default_rng(0)
    scenes = {"S2": "S2A_MSIL2A_20170613T101031_N9999_R022_T33UUP", "S1": "S1A_IW_GRDH_1SDV_20170613T165043"}
    optical, rows = [band.name for band in BANDS if band.sensor == "S2"], []
    spectra = dict(zip(optical, surfaces(len(CLASSES_19)).T, strict=True))
    for n in range(patches):
        labels = [n % 9, (n + 1 + n // 9) % 9]
        names = {"S2": f"{scenes['S2']}_{n}_0", "S1": f"{scenes['S1']}_33UUP_{n}_0"}
        light, speckle = rng.normal(1, 0.2, (20, 20)).clip(0.3), rng.normal(-12, 2, (1, 120, 120))
        for band in BANDS:
            side, name = 1200 // int(band.gsd_m), names[band.sensor]
            if band.sensor == "S2":
                scale = np.kron(light, np.ones((side // 20, side // 20))) * rng.normal(1, 0.03, (side, side))
                pixels = (spectra[band.name][labels].mean() * scale[None]).astype(np.uint16)
            else:
                pixels = (speckle - n % 9 - 7 * (band.name == "VH")).astype(np.float32)
            file = root / f"BigEarthNet-{band.sensor}" / scenes[band.sensor] / name / f"{name}_{band.name}.tif"
            write(file, pixels, west=12 * n, gsd=int(band.gsd_m))
        split = ("train", "train", "validation", "test")[n // 9 % 4]
        about = {"patch_id": names["S2"], "labels": [CLASSES_19[k] for k in labels], "split": split}
        rows.append(
            about | {"s1_name": names["S1"], "contains_seasonal_snow": False, "contains_cloud_or_shadow": n == 3}
        )
    pd.DataFrame(rows).to_parquet(root / "metadata.parquet")


def bigearthnet_v1(root: Path) -> None:
    """Version 1, from the patches of version 2."""
    from data.nomenclature import CLASSES_43

    bigearthnet(root / "v2", 24)
    names = list(CLASSES_43)
    table, lists = pd.read_parquet(root / "v2" / "metadata.parquet"), {"train": [], "val": [], "test": []}
    for n, row in table.iterrows():
        pair = (("S2", row["patch_id"], "BigEarthNet-v1.0"), ("S1", row["s1_name"], "BigEarthNet-S1-v1.0"))
        for sensor, name, folder in pair:
            source = next((root / "v2" / f"BigEarthNet-{sensor}").glob(f"*/{name}"))
            shutil.copytree(source, root / folder / name)
            labels = {"labels": [names[n % 9], names[9 + n % 3]]}  # type: ignore[operator]
            (root / folder / name / f"{name}_labels_metadata.json").write_text(json.dumps(labels))
        lists[("train", "train", "val", "test")[n % 4]].append(f"{row['patch_id']},{row['s1_name']}\n")  # type: ignore[operator]
    for split, lines in lists.items():
        (root / f"bigearthnet-{split}.csv").write_text("".join(lines))
    shutil.rmtree(root / "v2")


def images(root: Path, classes: tuple[str, ...] = ("forest", "water", "town"), count: int = 15) -> None:
    """Folders of GeoTIFFs of nine bands, one per class; without classes, images alone."""
    rng = np.random.default_rng(1)
    bands = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
    for number, name in enumerate(classes or ("",)):
        for serial in range(count):
            pixels = rng.normal(600 + 700 * number, 150, (9, 32, 32)).clip(1).astype(np.uint16)
            write(root / name / f"{serial}.tif", pixels, names=bands)


def benchmarks(root: Path) -> None:
    """One set each of GEO-Bench, GEO-Bench-2 and torchgeo, in their layouts."""
    import sys
    from types import ModuleType

    from test_geobench import make_set
    from test_geobench2 import make
    from test_torchgeo_source import made_pictures

    module = sys.modules["geobench"] = sys.modules["geobench.dataset"] = ModuleType("geobench.dataset")
    module.Sentinel2 = type("Sentinel2", (), {"__module__": "geobench.dataset"})  # type: ignore[attr-defined]
    try:
        make_set(root / "geobench", "m-eurosat", module)
    finally:
        del sys.modules["geobench"], sys.modules["geobench.dataset"]
    folder = root / "geobench/classification_v1.0/m-eurosat"
    shutil.copy(folder / "default_partition.json", folder / "0.10x_train_partition.json")
    (root / "geobench2").mkdir()
    make(root / "geobench2", "benv2")
    names = {split: [f"airport_{split}{n}.jpg" for n in range(3)] for split in COUNTS}
    made_pictures(
        root / "resisc45/NWPU-RESISC45/airport", [Path(n).stem for v in names.values() for n in v], suffix=".jpg"
    )
    for split, files in names.items():
        (root / f"resisc45/resisc45-{split}.txt").write_text("\n".join(files))


def embeddings(file: Path) -> None:
    """A table of embeddings with labels and places, in the layout of Clay."""
    import geopandas

    rng = np.random.default_rng(2)
    labels = np.arange(240) % 3
    vectors = list((np.eye(3)[labels] @ rng.normal(size=(3, 96)) + rng.normal(0, 2, (240, 96))).astype(np.float32))
    frame = {"index": range(240), "embeddings": vectors, "landcover": np.array(["crop", "forest", "water"])[labels]}
    points = geopandas.points_from_xy(rng.uniform(5, 6, 240), rng.uniform(50, 51, 240))
    geopandas.GeoDataFrame(frame, geometry=points, crs="EPSG:4326").to_parquet(file)


def embedding_raster(folder: Path, fields: Path) -> None:
    """A raster with a vector for each pixel, and polygons on it."""
    import geopandas
    import shapely

    rng = np.random.default_rng(3)
    write(folder / "tile.tif", rng.integers(-127, 128, (64, 40, 40), np.int8))
    squares = [
        shapely.box(300_000 + x, 5_399_700 + y, 300_060 + x, 5_399_760 + y) for x in (0, 90, 180) for y in (0, 90)
    ]
    frame = {
        "id": [f"f{k}" for k in range(6)],
        "crop": ["maize", "wheat"] * 3,
        "split": ["train"] * 2 + ["val"] * 2 + ["test"] * 2,
    }
    geopandas.GeoDataFrame(frame, geometry=squares, crs="EPSG:32633").to_file(fields)


def area_tables() -> None:
    """The areas and the reference sample of Olofsson et al. 2014."""
    from test_map_accuracy import CHANGE, TABLE_8, sample

    Path("areas.csv").write_text(
        "name,area\n" + "".join(f"{n},{a}\n" for n, a in zip(CHANGE, (18, 13, 288, 581), strict=True))
    )
    pd.DataFrame(dict(zip(("map", "reference"), sample(TABLE_8, CHANGE), strict=True))).to_csv(
        "reference.csv", index=False
    )


def weights() -> None:
    """A file of Presto's weights and a folder of DINOv2's, both untrained."""
    import torch
    from torchgeo.models import presto
    from transformers import Dinov2Config, Dinov2Model

    torch.save(presto().state_dict(), "default_model.pt")
    sizes = {
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "image_size": 518,
        "patch_size": 14,
    }
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained("dinov2-base")


def scene() -> None:
    """A scene and points on it."""
    _, truth = make_scene(Path(), side=512)
    make_points(Path("points.gpkg"), truth, 150)


def before(*lines: str) -> None:
    """Features and runs that a page takes for granted."""
    from documented import run_command

    for line in lines:
        run_command(line.split(), line)


def prepare(page: str) -> None:
    """What a page takes for granted, in the working folder."""
    if page in ("README", "audit", "features", "install", "datasets", "compare", "probes", "predict", "studies"):
        eurosat(Path("data/eurosat"))
    if page in ("audit", "datasets", "compare", "scale", "studies"):
        bigearthnet(Path("data/bigearthnet"))
        Path("bigearthnet").symlink_to("data/bigearthnet")
        Path("mosaic").symlink_to("data/bigearthnet")
    if page in ("README", "your-images"):
        images(Path("my-images"))
        images(Path("new-images"), (), 4)
    stats = "featurize --model stats --dataset eurosat --data-root data/eurosat"
    before(
        *{
            "audit": (stats, "probe --kind linear,knn --dataset eurosat"),
            "compare": (
                stats,
                stats.replace("stats", "rcf"),
                "probe --kind linear,knn,prior --model rcf,stats --dataset eurosat",
                "probe sweep --kind linear --model rcf --shots 1,2,all",
            ),
            "probes": (
                stats,
                stats.replace("stats", "dofa"),
                stats.replace("stats", "dinov2"),
                stats.replace("stats", "resnet"),
            ),
            "predict": (stats, "probe --kind linear"),
        }.get(page, ())
    )
    Path("datasets").symlink_to("data")
    {
        "audit": area_tables,
        "import-export": lambda: (
            embeddings(Path("clay.parquet")),
            embedding_raster(Path("aef/2024"), Path("fields.gpkg")),
        ),
        "maps": scene,
        "install": weights,
        "studies": weights,
        "datasets": lambda: (bigearthnet_v1(Path("bigearthnet-v1")), benchmarks(Path("data"))),
    }.get(page, lambda: None)()
