"""How BigEarthNet lies on disk: folders and archives of each sensor, and which patches are missing."""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from data.archives import fetched, unpacked
from data.bands import Band, choose_bands
from data.errors import RequestError
from data.flags import DatasetRequest
from data.sources._bigearthnet_patches import BANDS, Patches


@dataclass(frozen=True)
class FileLayout:
    """A variant on disk."""

    folders: Mapping[str, str]  # name of each sensor's folder
    # each sensor's archive, under any of the names it is published by; one may be cut into parts
    archives: Mapping[str, Sequence[tuple[str, ...]]]
    # parts at the end of a patch's name that are not in the name of its scene's folder; None where there are no such
    # folders
    scene_ends: Mapping[str, int] | None
    located_by: str  # the sensor whose patch names encode locations

    def scene(self, sensor: str, name: str) -> str:
        """Folder that holds a patch's folder, relative to the sensor's."""
        return name.rsplit("_", self.scene_ends[sensor])[0] if self.scene_ends else "."


LAYOUTS = {
    "v2": FileLayout(
        folders={"S2": "BigEarthNet-S2", "S1": "BigEarthNet-S1"},
        archives={
            sensor: [
                (f"BigEarthNet-{sensor}.tar.gzaa", f"BigEarthNet-{sensor}.tar.gzab"),
                (f"BigEarthNet-{sensor}.tar.gz",),
                (f"BigEarthNet-{sensor}.tar.zst",),
            ]
            for sensor in ("S2", "S1")
        },
        scene_ends={"S2": 2, "S1": 3},
        located_by="S2",
    ),
    "v1": FileLayout(
        folders={"S2": "BigEarthNet-v1.0", "S1": "BigEarthNet-S1-v1.0"},
        archives={sensor: [(f"BigEarthNet-{sensor}-v1.0.tar.gz",)] for sensor in ("S2", "S1")},
        scene_ends=None,
        located_by="S1",
    ),
}


def sensors_for(request: DatasetRequest, layout: FileLayout) -> list[str]:
    """The sensors of the bands that will be read, Sentinel-2 first."""
    root = request.root
    here = [sensor for sensor in ("S2", "S1") if request.options.download or _is_filled(root / layout.folders[sensor])]
    here += [sensor for sensor in ("S2", "S1") if sensor not in here and _archive(root, layout, sensor)]
    if not here:
        raise RequestError(
            f"no {' or '.join(layout.folders.values())} in {root}, nor an archive of them; pass the folder that holds "
            "them as --data-root, or pass --download"
        )
    specs = request.bands or ("all",)
    if chosen := first_of(specs, here):
        return chosen
    if absent := {band.sensor for band in _chosen(BANDS, specs[0])} - set(here):
        folders = " and ".join(layout.folders[sensor] for sensor in sorted(absent))
        raise RequestError(
            f"--bands {specs[0]}: no {folders} in {root}; put it there or choose bands of {' and '.join(here)}"
        )
    return here  # missing bands are reported when they are chosen


def first_of(specs: Sequence[str], here: Sequence[str]) -> list[str]:
    """Sensors of the first bands of `specs` that these sensors have, Sentinel-2 first; none if they have none."""
    available = [band for band in BANDS if band.sensor in here]
    for spec in specs:
        if chosen := _chosen(available, spec):
            return sorted({band.sensor for band in chosen}, reverse=True)
    return []


def _chosen(available: Sequence[Band], spec: str) -> tuple[Band, ...]:
    """The bands of `spec`; none if any of them is missing."""
    try:
        return choose_bands(available, spec)
    except RequestError:
        return ()


def _is_filled(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return any(True for _ in entries)


def _archive(root: Path, layout: FileLayout, sensor: str) -> list[Path]:
    """The files of the archive of a sensor's folder; none if there is no archive."""
    for names in layout.archives[sensor]:
        parts = [root / name for name in names]
        lacking = [part.name for part in parts if not part.is_file()]
        if not lacking:
            return parts
        if len(lacking) < len(parts):
            raise RequestError(f"{root} lacks {', '.join(lacking)}, a part of the archive; add it or pass --download")
    return []


def sensor_folder(request: DatasetRequest, layout: FileLayout, sensor: str) -> Path:
    folder = request.root / layout.folders[sensor]
    if _is_filled(folder):
        return folder
    archive, *more = _archive(request.root, layout, sensor)
    inside = unpacked(archive, more=more, cache_dir=request.options.cache_dir) / layout.folders[sensor]
    if not inside.is_dir():
        raise RequestError(f"{archive} holds no {layout.folders[sensor]}/; expected BigEarthNet's archive")
    return inside


def download(root: Path, variant: str, sensors: Sequence[str]) -> None:
    from torchgeo.datasets import BigEarthNet as V1  # deferred: torchgeo takes seconds to import
    from torchgeo.datasets import BigEarthNetV2 as V2

    layout = LAYOUTS[variant]
    wanted = [sensor.lower() for sensor in sensors if not _is_filled(root / layout.folders[sensor])]
    if variant == "v1":
        for file in [*V1.splits_metadata.values(), *(V1.metadata[sensor] for sensor in wanted)]:
            fetched(file["url"], root, name=file["filename"], md5=file["md5"])
        return
    for key in ["metadata", *wanted]:
        for name, digest in V2.metadata_locs[key]["files"].items():
            kind = "md5" if len(digest) == 32 else "sha256"  # torchgeo takes all of them for sha256
            fetched(V2.url.format(name), root, **{kind: digest})


def absent_patches(
    splits: Mapping[str, Patches], folders: Mapping[str, Path], layout: FileLayout
) -> dict[str, Bool[np.ndarray, " _"]]:
    """(N,) bool for each split: whether a patch has no folder. One listing per scene, not one check per patch."""
    sizes = [len(patches.flagged) for patches in splits.values()]
    absent = np.zeros(sum(sizes), bool)
    for sensor, folder in folders.items():
        names = [name for patches in splits.values() for name in patches.names[sensor]]
        scenes: dict[str, list[int]] = defaultdict(list)
        for row, name in enumerate(names):
            scenes[layout.scene(sensor, name)].append(row)
        for scene, rows in scenes.items():
            present = set(os.listdir(folder / scene)) if (folder / scene).is_dir() else ()
            absent[[row for row in rows if names[row] not in present]] = True
    return dict(zip(splits, np.split(absent, np.cumsum(sizes)[:-1]), strict=True))
