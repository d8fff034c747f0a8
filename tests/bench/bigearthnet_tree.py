"""A tree in BigEarthNet v2's layout: its real names, labels and splits, over mosaics of real EuroSAT pixels.

A patch is four tiles of 64 pixels, cropped to 120, of EuroSAT's classes nearest to the patch's labels. The tiles are
dealt to the splits first, so that no pixel is shared between them. Patches of the same labels are hard links to a few
mosaics of these. The files say no location: that of a patch is in its name.
"""

import os
import shutil
import warnings
import zipfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from data.nomenclature import CLASSES_19
from data.sources._bigearthnet_patches import BANDS
from data.sources.bigearthnet import SIDES
from data.sources.eurosat import NAMES

SHARES = {"train": 0.6, "validation": 0.2, "test": 0.2}  # of the tiles
DIFFERENT = 40_000  # mosaics at most, 6.4 GB: a file then has 13 names at most, and ext4 allows 65,000
NEAREST = {
    "Agro-forestry areas": "PermanentCrop",
    "Arable land": "AnnualCrop",
    "Beaches, dunes, sands": "SeaLake",
    "Broad-leaved forest": "Forest",
    "Coastal wetlands": "SeaLake",
    "Complex cultivation patterns": "PermanentCrop",
    "Coniferous forest": "Forest",
    "Industrial or commercial units": "Industrial",
    "Inland waters": "River",
    "Inland wetlands": "HerbaceousVegetation",
    "Land principally occupied by agriculture, with significant areas of natural vegetation": "AnnualCrop",
    "Marine waters": "SeaLake",
    "Mixed forest": "Forest",
    "Moors, heathland and sclerophyllous vegetation": "HerbaceousVegetation",
    "Natural grassland and sparsely vegetated areas": "HerbaceousVegetation",
    "Pastures": "Pasture",
    "Permanent crops": "PermanentCrop",
    "Transitional woodland, shrub": "HerbaceousVegetation",
    "Urban fabric": "Residential",
}
assert NEAREST.keys() == set(CLASSES_19)


def make_tree(root: Path, count: int, shared: Path) -> None:
    """Write ``metadata.parquet`` and ``BigEarthNet-S2`` into a new folder.

    Args:
        root: the folder; an unfinished one is made again.
        count: patches, drawn at random; all of the metadata's if there are no more.
        shared: folder of the shared material.
    """
    shutil.rmtree(root, ignore_errors=True)
    (root / "BigEarthNet-S2").mkdir(parents=True)
    metadata = shared / "data" / "bigearthnet-v2" / "metadata.parquet"
    table = pd.read_parquet(metadata)
    if count < len(table):
        table = table.iloc[np.sort(np.random.default_rng(0).permutation(len(table))[:count])]
        table.to_parquet(root / "metadata.parquet", index=False)
    else:
        shutil.copyfile(metadata, root / "metadata.parquet")
    groups = defaultdict(list)
    for name, split, labels in zip(table["patch_id"], table["split"], table["labels"], strict=True):
        groups[split, tuple(sorted({NEAREST[label] for label in labels}))].append(name)
    for scene in {name.rsplit("_", 2)[0] for name in table["patch_id"]}:
        (root / "BigEarthNet-S2" / scene).mkdir()
    copies = -(-len(table) // DIFFERENT)
    archive = shared / "data" / "eurosat-ms" / "EuroSATallBands.zip"
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    jobs = os.cpu_count() or 1
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        for job in [pool.submit(_write, root, dict(ordered[i::jobs]), copies, archive) for i in range(jobs)]:
            job.result()


def _write(root: Path, groups: dict[tuple[str, tuple[str, ...]], list[str]], copies: int, archive: Path) -> None:
    """Write every `copies`-th patch of a group; the next ones are links to it."""
    tiles, around = _tiles(archive), {side: _around(side) for side in SIDES.values()}
    sides = {band.name: SIDES[band.gsd_m] for band in BANDS if band.sensor == "S2"}
    for (split, classes), names in groups.items():
        rng = np.random.default_rng([*split.encode(), *"".join(classes).encode()])
        for start in range(0, len(names), copies):
            some = names[start : start + copies]
            places = [f"{root}/BigEarthNet-S2/{name.rsplit('_', 2)[0]}/{name}" for name in some]
            for place in places:
                os.mkdir(place)
            pixels = _mosaic(tiles[split], classes, rng)
            for band, side in sides.items():
                blocks = pixels[NAMES.index(band)].reshape(side, 120 // side, side, 120 // side)
                plane = np.rint(blocks.mean(axis=(1, 3))).astype("<u2")
                first, *others = (f"{place}/{name}_{band}.tif" for place, name in zip(places, some, strict=True))
                head, tail = around[side]
                with open(first, "wb") as file:
                    file.write(head + plane.tobytes() + tail)
                for other in others:
                    os.link(first, other)


def _mosaic(tiles: dict[str, list[np.ndarray]], classes: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """(13, 120, 120): four tiles, turned and flipped at random; of more classes than four, some are left out."""
    chosen = [*rng.permutation(list(classes)), *rng.choice(list(classes), 4)][:4]
    turned = []
    for name in rng.permutation(chosen):
        tile = np.rot90(tiles[name][rng.integers(len(tiles[name]))], rng.integers(4), axes=(1, 2))
        turned.append(tile[:, :: rng.choice([1, -1])])
    return np.block([turned[:2], turned[2:]])[:, 4:124, 4:124]


def _tiles(archive: Path) -> dict[str, dict[str, list[np.ndarray]]]:
    """EuroSAT's tiles by split and class."""
    dealt: dict[str, dict[str, list[np.ndarray]]] = {split: {} for split in SHARES}
    with zipfile.ZipFile(archive) as files:
        for name in sorted(set(NEAREST.values())):
            members = sorted(member for member in files.namelist() if f"/{name}/" in member and member.endswith(".tif"))
            ends = np.rint(np.cumsum(list(SHARES.values())) * len(members)).astype(int)
            for split, some in zip(SHARES, np.split(members, ends[:-1]), strict=True):
                dealt[split][name] = [_read(files.read(member)) for member in some]
    return dealt


def _read(content: bytes) -> np.ndarray:
    with MemoryFile(content) as memory, memory.open() as tile:
        return tile.read()


def _around(side: int) -> tuple[bytes, bytes]:
    """What stands before and after the pixels of a GeoTIFF of that side, as GDAL writes it: uncompressed, nodata 0."""
    pixels = np.random.default_rng(0).integers(1, 10_000, (side, side)).astype("<u2")
    about = {"driver": "GTiff", "width": side, "height": side, "count": 1, "dtype": "uint16", "nodata": 0}
    with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning), MemoryFile() as memory:
        with memory.open(**about) as tif:
            tif.write(pixels, 1)
        head, found, tail = memory.read().partition(pixels.tobytes())
    assert found, "GDAL's strips are not next to each other"
    return head, tail
