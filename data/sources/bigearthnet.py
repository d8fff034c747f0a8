"""BigEarthNet: Sentinel-1 and Sentinel-2 patches of 1.2 km in ten countries, multi-label with 19 or 43 classes.

Files as torchgeo has them. Variant ``v2`` (reBEN, Clasen et al. 2024, arXiv:2407.03653)::

    metadata.parquet   BigEarthNet-S2/<scene>/<patch>/<patch>_B02.tif   BigEarthNet-S1/<scene>/<patch>/<patch>_VV.tif

Variant ``v1``, with 19 classes or the 43 they were made of::

    bigearthnet-{train,val,test}.csv (one line per Sentinel-2 patch,Sentinel-1 patch; no header)
    BigEarthNet-v1.0/<patch>/<patch>_B02.tif   BigEarthNet-S1-v1.0/<patch>/<patch>_VV.tif
    and <patch>_labels_metadata.json beside the bands; read once and kept in an index

Unused sensor folders may be missing, and a folder may still be an archive: v2's
``BigEarthNet-S2.tar.gzaa`` and ``...ab`` (torchgeo) or ``BigEarthNet-S2.tar.zst`` (Zenodo), v1's
``BigEarthNet-S2-v1.0.tar.gz``. Reference maps are not needed.

v2 may also be one LMDB database as rico-hdl encodes it (``data.mdb`` in ``--data-root`` or a folder of it, with
``metadata.parquet`` beside it): patch names to bands as safetensors. It needs the extra ``lmdb``.

The files of v2 declare 0 as nodata. As in published work, 0 is used as a value unless ``--nodata fill`` sets such
pixels to the band's published mean. The identity of the features then includes these means, but not the number of
filled pixels as for other datasets: counting them would read all patches twice.

Locations come from the patches' names: tile, column and row. A sample of the files is checked; if it disagrees, there
are no locations.
"""

import hashlib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from data.bands import Band
from data.dataset import EODataset, Statistic, check_variant
from data.errors import RequestError
from data.flags import SPLITS, DatasetRequest
from data.images import read_bands, read_header
from data.nomenclature import CLASSES_19, CLASSES_43
from data.places import lonlat_of, warn
from data.registry import DatasetCard
from data.sources import _bigearthnet_files as files_of
from data.sources import _bigearthnet_lmdb as lmdb_of
from data.sources import _bigearthnet_patches as patches_of
from data.sources._bigearthnet_files import LAYOUTS, FileLayout
from data.sources._bigearthnet_patches import LISTS, METADATA, Patches

CARD = DatasetCard(
    title="BigEarthNet",
    classes="19, or 43 of v1",
    labels="multi-label",
    bands="Sentinel-2 Level-2A, 12 bands, digital numbers at 120, 60 and 20 pixels; Sentinel-1 VV, VH in dB at 120",
    variants=("v2", "v1"),
    options=("classes", "allow_missing", "drop_snow_cloud", "nodata"),
    license="CDLA-Permissive-1.0",
    citation="Clasen et al. 2024, reBEN: Refined BigEarthNet Dataset, arXiv:2407.03653; Sumbul et al. 2021, "
    "BigEarthNet-MM, doi:10.1109/MGRS.2021.3089174",
    source="--download (v2 about 120 GB, v1 about 120 GB), or the unpacked folders of https://bigearth.net in "
    "--data-root",
)

SIDES: dict[Any, int] = {10: 120, 20: 60, 60: 20}  # pixels, by ground sampling distance
TYPES = {"S1": np.dtype(np.float32), "S2": np.dtype(np.uint16)}
FIRST = (0,)  # the only band of a file
SAMPLED = 16  # patches of a split whose files are checked for changes and wrong locations
NEAR_M = 100.0
# v2: over its training split (the publication's tables). v1: as in its authors' models for Sentinel-2
# (bigearthnet-models-tf), and in bigearthnet-common for Sentinel-1.
_STATISTICS = {
    # band   v2 mean  v2 std   v1 mean  v1 std
    "VV":  ( -12.64,    5.13,  -12.62,    5.12),
    "VH":  ( -19.35,    5.59,  -19.29,    5.46),
    "B01": (  356.5,   552.0,   340.8,   554.8),
    "B02": (  434.7,   595.0,   429.9,   572.4),
    "B03": (  612.2,   595.7,   614.2,   582.9),
    "B04": (  587.1,   677.6,   590.2,   675.9),
    "B05": (  942.4,   720.6,   950.7,   729.9),
    "B06": ( 1769.6,  1083.1,  1792.5,  1096.0),
    "B07": ( 2050.0,  1258.1,  2075.5,  1273.5),
    "B08": ( 2192.9,  1366.0,  2218.9,  1365.5),
    "B8A": ( 2236.3,  1338.9,  2266.5,  1356.1),
    "B09": ( 2242.3,  1294.2,  2246.1,  1302.3),
    "B11": ( 1576.5,  1064.7,  1594.4,  1079.2),
    "B12": ( 1004.5,   809.1,  1009.3,   818.9),
}  # fmt: skip
STATISTICS = {
    "v2": {band: Statistic(mean, std) for band, (mean, std, _, _) in _STATISTICS.items()},
    "v1": {band: Statistic(mean, std) for band, (_, _, mean, std) in _STATISTICS.items()},
}


def open_dataset(request: DatasetRequest) -> dict[str, EODataset]:
    """Open splits."""
    options = request.options
    variant = check_variant("bigearthnet", options.dataset_variant, CARD.variants)
    classes = _check_classes(variant, request)
    if variant == "v2" and (database := lmdb_of.find_database(request.root)):
        return lmdb_of.open_database(request, database, STATISTICS[variant])
    layout = LAYOUTS[variant]
    sensors = files_of.sensors_for(request, layout)
    if options.download:
        files_of.download(request.root, variant, sensors)
    read = patches_of.read_metadata if variant == "v2" else patches_of.read_lists
    # Skipped patches are recorded for all splits, so that these stay one dataset.
    listed = SPLITS if options.allow_missing or options.drop_snow_cloud else request.splits
    splits = read(request.root, listed, sorted({*sensors, "S2", layout.located_by}))
    folders = {sensor: files_of.sensor_folder(request, layout, sensor) for sensor in sensors}
    provenance: dict[str, Any] = {"classes": classes, "split": METADATA if variant == "v2" else LISTS}
    less = " skip Sentinel-1 with --bands s2-12," if len(folders) > 1 else ""
    where, remedy = " and ".join(map(str, folders.values())), f"restore them,{less}"
    absent = partial(files_of.absent_patches, folders=folders, layout=layout)
    splits = patches_of.kept(request, splits, provenance, absent, where, remedy)
    return {
        split: _open(request, split, splits[split], folders, layout, variant=variant, provenance=provenance)
        for split in request.splits
    }


def _open(
    request: DatasetRequest,
    split: str,
    patches: Patches,
    folders: Mapping[str, Path],
    layout: FileLayout,
    *,
    variant: str,
    provenance: Mapping[str, Any],
) -> EODataset:
    """One split; the first of `folders` is the sensor whose labels and locations are taken."""
    main, classes, labels = next(iter(folders)), provenance["classes"], patches.labels
    if labels is None:
        labels = patches_of.read_labels(folders[main], patches.names[main], request)
        labels = labels if classes == 43 else patches_of.to_19(labels)
    sampled = {sensor: _sample(folder, layout, sensor, patches) for sensor, folder in folders.items()}
    return BigEarthNet(
        folders=folders,
        layout=layout,
        **patches_of.described(request, split, patches, list(folders), STATISTICS[variant]),
        variant=variant,
        labels=labels,
        class_names=CLASSES_19 if classes == 19 else tuple(CLASSES_43),
        lonlat=sampled[main][1],
        provenance=provenance,
        files_digest={sensor: digest for sensor, (digest, _) in sampled.items()},
    )


class BigEarthNet(patches_of.PatchDataset):
    """Patches of single-band GeoTIFFs."""

    def __init__(self, *, folders: Mapping[str, Path], layout: FileLayout, **about: Any) -> None:
        super().__init__(**about)
        self.folders, self.layout = {key: str(path) for key, path in folders.items()}, layout

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`: one of each band."""
        starts = {}
        for sensor in {band.sensor for band in bands}:
            name = self.names[sensor][index]
            starts[sensor] = f"{self.folders[sensor]}/{self.layout.scene(sensor, name)}/{name}/{name}_"
        return [f"{starts[band.sensor]}{band.name}.tif" for band in bands]

    def read(self, index: int, bands: Sequence[Band]) -> list[Shaped[np.ndarray, "_ _"]]:
        """See `EODataset.read`: uint16 digital numbers, and float32 dB of Sentinel-1, each at its own resolution."""
        return [self._read_band(file, band) for file, band in zip(self.files(index, bands), bands, strict=True)]

    def _read_band(self, file: str, band: Band) -> np.ndarray:
        if self.how == "keep":
            (pixels,) = read_bands(file, FIRST, count=1, nodata="keep")
        else:
            mean = self.statistics[band.name].mean
            (pixels,) = read_bands(file, FIRST, count=1, bands=[band], nodata=self.how, fill=[mean])
        side, dtype = SIDES[band.gsd_m], TYPES[band.sensor]
        if pixels.shape != (side, side) or pixels.dtype != dtype:
            raise RequestError(
                f"{file} has {' x '.join(map(str, pixels.shape))} pixels of {pixels.dtype}; expected {side} x {side} "
                f"of {dtype}: restore the file"
            )
        return pixels


def _check_classes(variant: str, request: DatasetRequest) -> int:
    if request.options.classes not in (None, 19, 43):
        raise RequestError(f"--classes {request.options.classes}: bigearthnet has 19, or 43 of v1")
    if request.options.classes == 43 and variant == "v2":
        raise RequestError("--classes 43: v2 has 19 classes only; choose --dataset-variant v1 or remove the flag")
    if request.options.drop_snow_cloud and variant == "v1":
        raise RequestError(
            "--drop-snow-cloud: the split files of v1 exclude such patches already; remove the flag or choose v2"
        )
    return request.options.classes or 19


def _sample(folder: Path, layout: FileLayout, sensor: str, patches: Patches) -> tuple[str, np.ndarray | None]:
    """Digest of all bands of some evenly spread patches, and the locations of all patches if the sampled ones agree.

    Checking every file would take longer than many models take to embed them.
    """
    names = patches.names[sensor]
    lonlat = patches_of.locations(patches.names[layout.located_by])
    digest, astray = hashlib.sha256(), []
    rows = np.unique(np.linspace(0, len(names) - 1, SAMPLED).round().astype(int)).tolist()
    for row in rows:
        home = folder / layout.scene(sensor, names[row]) / names[row]
        files = sorted(file for file in home.iterdir() if file.suffix == ".tif")
        if not files:
            raise RequestError(f"{home} holds no .tif file; restore it")
        for file in files:
            content = file.read_bytes()
            digest.update(f"{file.name} {len(content)}\n".encode() + content)
        there = lonlat_of([read_header(files[0])], where="bigearthnet")
        if lonlat is not None and there is not None:
            east, north = (lonlat[row] - there[0]) * 111_320.0  # meters per degree
            if np.hypot(east * np.cos(np.radians(there[0, 1])), north) > NEAR_M:
                astray.append(names[row])
    if astray:
        warn(
            "bigearthnet",
            f"{len(astray)} of {len(rows)} sampled files have other locations than their names, first {astray[0]}",
        )
    return digest.hexdigest(), None if astray else lonlat
