"""torchgeo's image classification datasets: what each band is, in which unit, and where labels and files are found.

torchgeo gives images as float tensors without units. This table says what every channel is, in torchgeo's order; the
number of channels is checked when a dataset is opened, and the names against torchgeo's own lists in the tests.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from data.bands import RGB, Band
from data.sources import _channels as known
from data.sources._channels import Channel, sentinel2


class Sample(NamedTuple):
    """One sample of a torchgeo dataset, known without reading its image."""

    id: str  # its name
    files: tuple[str, ...]  # the files that it is read from; a folder stands for the files in it
    classes: tuple[str, ...]  # its class names


@dataclass(frozen=True)
class TorchGeoSet:
    """One of torchgeo's datasets."""

    channels: Mapping[str, Sequence[Channel]]  # by key of torchgeo's sample, in the order of the tensor
    # lists a torchgeo dataset's samples in its order; called with it and the root folder
    samples: Callable[[Any, Path], Iterator[Sample]]
    # lists its class names in the order of its labels
    classes: Callable[[Any], Sequence[str]] = lambda source: source.classes
    # torchgeo's name of each split that it publishes; none where it has no ``split``
    splits: Mapping[str, str] = field(default_factory=dict)
    # file name, with ``{}`` for the split, that lists the images of a split. torchgeo silently leaves out listed
    # images that are absent.
    split_list: str | None = None
    # constructor arguments by ``--dataset-variant``; the first is the default
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    # channels of variants that differ from the others
    channels_of: Mapping[str, Mapping[str, Sequence[Channel]]] = field(default_factory=dict)
    # splits of variants that differ from the others
    splits_of: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    dtype: str = "float32"  # numpy name of the native type, to which the float tensors are cast back without loss
    multilabel: bool = False  # whether a sample may have several classes
    located: bool = False  # whether its files are georeferenced
    better: str | None = None  # a dataset of this program that reads the same files faster or more faithfully


# --- where samples, labels and files are found


def _relative(path: str | Path, root: Path) -> str:
    return Path(path).relative_to(root).as_posix()


def _of_image_folder(source: Any, root: Path) -> Iterator[Sample]:
    for path, target in source.imgs:
        yield Sample(_relative(path, root), (path,), (source.classes[target],))


def _of_advance(source: Any, root: Path) -> Iterator[Sample]:
    images = len(list((root / "vision").glob("*/*.jpg")))
    if images != len(source.files):  # torchgeo pairs them with sounds and drops those left over
        raise ValueError(f"{images} images in vision/ but {len(source.files)} sounds in sound/")
    for entry in source.files:
        yield Sample(_relative(entry["image"], root), (entry["image"],), (entry["cls"],))


def _of_million_aid(source: Any, root: Path) -> Iterator[Sample]:
    for entry in source.files:
        yield Sample(_relative(entry["image"], root), (entry["image"],), tuple(entry["label"]))


def _of_dlrsd(source: Any, root: Path) -> Iterator[Sample]:
    for path in source.image_fns:
        shown = source.multilabels[Path(path).stem]
        yield Sample(_relative(path, root), (path,), _names(source.classes, shown))


def _of_tree_sat(source: Any, root: Path) -> Iterator[Sample]:
    for name in source.files:
        files = tuple(os.path.join(root, sensor, "60m", name) for sensor in source.sensors)
        genera = dict(source.labels[name])
        yield Sample(name, files, tuple(genus for genus in source.classes if genus in genera))


def _of_bigearthnet(source: Any, root: Path) -> Iterator[Sample]:
    sensors = [sensor for sensor in ("s1", "s2") if source.bands in (sensor, "all")]
    names = source.class_sets[source.num_classes]
    for index, folders in enumerate(source.folders):
        used = tuple(folders[sensor] for sensor in sensors)
        if absent := [folder for folder in used if not os.path.isdir(folder)]:
            raise FileNotFoundError(f"the folder {absent[0]} is listed but missing")
        yield Sample(Path(used[-1]).name, used, _names(names, source._load_target(index).tolist()))


def _of_bigearthnet_v2(source: Any, root: Path) -> Iterator[Sample]:
    cut = {"s1": ("s1_name", -3), "s2": ("patch_id", -2)}
    table, folders = source.metadata_df, source.dir_file_names
    for row in table.itertuples():
        used = []
        for sensor in [sensor for sensor in cut if source.bands in (sensor, "all")]:
            column, parts = cut[sensor]
            patch = str(getattr(row, column))
            used.append(os.path.join(root, folders[sensor], "_".join(patch.split("_")[:parts]), patch))
        yield Sample(str(row.patch_id), tuple(used), tuple(row.labels))


def _of_copernicus_table(folder: str, column: int) -> Callable[[Any, Path], Iterator[Sample]]:
    def samples(source: Any, root: Path) -> Iterator[Sample]:
        for row in source.files.values.tolist():
            path = os.path.join(root, source.directory, folder, row[column])
            yield Sample(row[column], (path,), _names(source.classes, row[2:]))

    return samples


def _of_copernicus_s3(source: Any, root: Path) -> Iterator[Sample]:
    for row, (patch, file) in zip(source.files.values.tolist(), source.static_files.values.tolist(), strict=True):
        path = os.path.join(root, source.directory, "s3_olci", patch, file)
        yield Sample(patch, (path,), _names(source.classes, row[1:]))


def _of_copernicus_eurosat(source: Any, root: Path) -> Iterator[Sample]:
    for listed in source.files:
        name = str(listed).replace(".jpg", ".tif")
        label = name.split("_")[0]
        yield Sample(name, (os.path.join(root, source.directory, "all_imgs", label, name),), (label,))


def _of_hdf5(source: Any, root: Path) -> Iterator[Sample]:
    import h5py  # deferred: listing the datasets needs none

    file = str(getattr(source, "fn", None) or source.filepath)
    with h5py.File(file, "r") as opened:
        numbers = opened["label"][()].argmax(axis=1)  # type: ignore[index]
    for row, number in enumerate(numbers):
        yield Sample(f"{Path(file).stem}/{row}", (file,), (source.classes[number],))


def _names(classes: Sequence[str], shown: Sequence[Any]) -> tuple[str, ...]:
    return tuple(name for name, one in zip(classes, shown, strict=True) if one)


# --- what the channels hold


_PICTURE = {"image": tuple(Channel(band) for band in RGB.values())}
# EuroSAT's files hold B8A last.
_EUROSAT = sentinel2("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
# torchgeo sorts BigEarthNet's Sentinel-1 files by name: VH comes first, whatever its documentation says.
_VH_VV = known.VV_VH[::-1]
_SO2SAT_3 = ("3_random", "3_block", "3_culture_10")  # versions without a validation split
# Sentinel-3 OLCI (ESA's user guide): center wavelengths in micrometers of bands Oa01 to Oa21.
_OLCI_UM = (
    0.4, 0.4125, 0.4425, 0.49, 0.51, 0.56, 0.62, 0.665, 0.67375, 0.68125, 0.70875, 0.75375, 0.76125, 0.764375, 0.7675,
    0.77875, 0.865, 0.885, 0.9, 0.94, 1.02,
)  # fmt: skip
_OLCI_COLOURS = {8: "red", 6: "green", 4: "blue"}
_OLCI = tuple(
    Channel(Band(f"Oa{number:02}", "other", um, 300, _OLCI_COLOURS.get(number)))
    for number, um in enumerate(_OLCI_UM, 1)
)

_OWN = {"train": "train", "val": "val", "test": "test"}
_SENSORS = {name: {"bands": name} for name in ("all", "s1", "s2")}
_OF_SENSOR = {"s1": {"image": _VH_VV}, "s2": {"image": known.S2_12}}


def _pictures(samples: Callable[[Any, Path], Iterator[Sample]], **more: Any) -> TorchGeoSet:
    return TorchGeoSet(channels=_PICTURE, samples=samples, **{"dtype": "uint8", **more})


def _eurosat(**more: Any) -> TorchGeoSet:
    return TorchGeoSet(
        channels={"image": _EUROSAT}, samples=_of_image_folder, splits=_OWN, dtype="uint16", located=True, **more
    )


def _copernicus(channels: Sequence[Channel], samples: Callable[[Any, Path], Iterator[Sample]], **more) -> TorchGeoSet:
    return TorchGeoSet(channels={"image": channels}, samples=samples, splits=_OWN, **more)


SETS = {
    "ADVANCE": _pictures(_of_advance),
    "BigEarthNet": TorchGeoSet(
        channels={"image": (*_VH_VV, *known.S2_12)},
        samples=_of_bigearthnet,
        classes=lambda source: source.class_sets[source.num_classes],
        splits=_OWN,
        variants=_SENSORS,
        channels_of=_OF_SENSOR,
        multilabel=True,
        better="bigearthnet",
    ),
    "BigEarthNetV2": TorchGeoSet(
        channels={"image_s1": _VH_VV, "image_s2": known.S2_12},
        samples=_of_bigearthnet_v2,
        classes=lambda source: source.class_set,
        splits=_OWN,
        variants=_SENSORS,
        channels_of=_OF_SENSOR,
        multilabel=True,
        better="bigearthnet",
    ),
    "CopernicusBenchBigEarthNetS1": _copernicus(
        known.VV_VH, _of_copernicus_table("BigEarthNet-S1-5%", 0), multilabel=True, located=True
    ),
    "CopernicusBenchBigEarthNetS2": _copernicus(
        known.S2_12, _of_copernicus_table("BigEarthNet-S2-5%", 1), multilabel=True, located=True, dtype="uint16"
    ),
    "CopernicusBenchEuroSATS1": _copernicus(known.VV_VH, _of_copernicus_eurosat, located=True),
    "CopernicusBenchEuroSATS2": _copernicus(_EUROSAT, _of_copernicus_eurosat, located=True, dtype="uint16"),
    "CopernicusBenchLC100ClsS3": _copernicus(_OLCI, _of_copernicus_s3, multilabel=True, located=True),
    "CopernicusBenchLCZS2": _copernicus(known.SO2SAT, _of_hdf5),
    "DLRSDMultilabel": _pictures(_of_dlrsd, multilabel=True),
    "EuroSAT": _eurosat(split_list="eurosat-{}.txt", better="eurosat"),
    "EuroSAT100": _eurosat(split_list="eurosat-100-{}.txt"),
    "EuroSATSpatial": _eurosat(split_list="eurosat-spatial-{}.txt", better="eurosat"),
    "FireRisk": _pictures(_of_image_folder, splits={"train": "train", "test": "val"}),
    "MillionAID": _pictures(
        _of_million_aid,
        splits={"train": "train"},  # the published test images have no labels
        variants={"multi-class": {"task": "multi-class"}, "multi-label": {"task": "multi-label"}},
    ),
    "PatternNet": _pictures(_of_image_folder),
    "RESISC45": _pictures(_of_image_folder, splits=_OWN, split_list="resisc45-{}.txt"),
    "So2Sat": TorchGeoSet(
        channels={"image": (*known.SO2SAT_RADAR, *known.SO2SAT)},
        samples=_of_hdf5,
        splits={"train": "train", "val": "validation", "test": "test"},
        variants={name: {"version": name} for name in ("2", *_SO2SAT_3)},
        splits_of=dict.fromkeys(_SO2SAT_3, {"train": "train", "test": "test"}),
    ),
    "TreeSatAI": TorchGeoSet(
        channels={
            "image_aerial": known.AERIAL,
            "image_s1": known.TREE_SAT_RADAR,
            "image_s2": known.TREE_SAT_OPTICAL,
        },
        samples=_of_tree_sat,
        splits={"train": "train", "test": "test"},
        multilabel=True,
        located=True,
    ),
    # torchgeo resizes the images that are not 256 x 256, which leaves fractions
    "UCMerced": _pictures(_of_image_folder, splits=_OWN, split_list="uc_merced-{}.txt", dtype="float32"),
}
