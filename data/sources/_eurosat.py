"""What `eurosat` and `eurosat-rgb` share: split files, the listing of the class folders, and reading an image."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from data.archives import fetched, unpacked
from data.bands import Band
from data.dataset import EODataset, Statistic
from data.errors import RequestError
from data.flags import SPLITS, DatasetRequest
from data.images import read_bands
from data.nomenclature import EUROSAT_CLASSES as CLASSES
from data.seen import stamp_of, times_digest

HOME = "https://huggingface.co/datasets/torchgeo/eurosat"


@dataclass(frozen=True)
class Images:
    """The images of the ten class folders, listed once for all splits."""

    folder: Path  # holds the class folders
    suffix: str  # of the images' names
    files: Mapping[str, os.stat_result]  # status of every image, by name without suffix, sorted

    def path(self, name: str) -> str:
        """File of an image."""
        return f"{self.folder}/{class_of(name)}/{name}{self.suffix}"

    def digest(self, names: Iterable[str]) -> str:
        """See `data.seen.times_digest`."""
        return times_digest({name: self.files[name] for name in names})

    def check(self, names: Sequence[str]) -> None:
        """Raise a RequestError that counts the listed images without a file."""
        absent = [name for name in names if name not in self.files]
        if absent:
            raise RequestError(
                f"{len(absent)} of {len(names)} listed images are missing in {self.folder}, first "
                f"{', '.join(absent[:3])}; the split files do not match the images: take both from {HOME}"
            )


class EuroSAT(EODataset):
    """Patches of 64 x 64 pixels, read from one image each."""

    digest_of_times = True

    def __init__(self, *, images: Images, ids: Sequence[str], **about: Any) -> None:
        images.check(ids)
        labels = np.array([CLASSES.index(class_of(name)) for name in ids], np.int64)
        super().__init__(ids=ids, labels=labels, class_names=CLASSES, files_digest=images.digest(ids), **about)
        self.images = Images(images.folder, images.suffix, {})  # pickled to reader processes
        self.looked = np.array([stamp_of([images.files[name]]) for name in ids], np.uint64)
        self.columns = {band.name: index for index, band in enumerate(self.bands)}

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`."""
        return [self.images.path(self.ids[index])]

    def read(self, index: int, bands: Sequence[Band]) -> list[Shaped[np.ndarray, "_ _"]]:
        """See `EODataset.read`: uint16 digital numbers (reflectance x 10,000) of 13 bands, or uint8 colors."""
        indices = [self.columns[band.name] for band in bands]
        return read_bands(self.images.path(self.ids[index]), indices, count=len(self.bands))


def statistics_of(names: Sequence[str], means: Sequence[float], stds: Sequence[float]) -> dict[str, Statistic]:
    """Published statistics by band."""
    return {name: Statistic(mean, std) for name, mean, std in zip(names, means, stds, strict=True)}


def listed_images(folder: Path, suffix: str) -> Images:
    """List the ten class folders."""
    found = {}
    for name in CLASSES:
        if (folder / name).is_dir():
            with os.scandir(folder / name) as entries:
                images = [entry for entry in entries if entry.name.endswith(suffix)]
                found |= {entry.name.removesuffix(suffix): entry.stat() for entry in images}
    return Images(folder, suffix, dict(sorted(found.items())))


def read_list(path: Path) -> list[str]:
    """Names of a split file without their suffixes, in its order."""
    if not path.is_file():
        raise RequestError(f"no split file {path}; copy {path.name} there from {HOME}, or pass --download")
    lines = path.read_text(encoding="utf-8", errors="replace").split()
    for number, line in enumerate(lines, 1):
        if class_of(line) not in CLASSES:
            raise RequestError(f"{path}, line {number}: '{line}' is not <Class>_<number>.jpg of a EuroSAT class")
    return [Path(line).stem for line in lines]


def class_of(name: str) -> str:
    """Class of an image, from its name: ``AnnualCrop_12`` is of ``AnnualCrop``."""
    return name.rpartition("_")[0]


def image_folder(home: Path, archive: str, inside: Path, request: DatasetRequest) -> Path:
    """The folder of the class folders, unpacked from its archive if needed.

    Args:
        home: holds the folder or the archive.
        archive: name of the zip file.
        inside: the folder, relative to `home` and in the archive.
        request: for ``cache_dir``.
    """
    if (home / inside).is_dir():
        return home / inside
    file = home / archive
    if not file.is_file():
        raise RequestError(
            f"no {archive} or unpacked {inside.parts[0]}/ in {home}; pass its folder as --data-root, or pass --download"
        )
    folder = unpacked(file, cache_dir=request.options.cache_dir) / inside
    if not folder.is_dir():
        raise RequestError(f"{file} holds no {inside}; expected the archive of {HOME}")
    return folder


def checksum(source: type, split: str | None = None) -> dict[str, str]:
    """The checksum of a torchgeo class's archive or list, by algorithm: SHA-256, or MD5 before torchgeo 0.10."""
    known = vars(source)
    kind = "sha256" if "split_sha256s" in known else "md5"
    return {kind: known[f"split_{kind}s"][split] if split else known[kind]}


def download_lists(home: Path, *, spatial: bool = False) -> None:
    """Download the split files, those of the spatial split too if requested."""
    from torchgeo.datasets import EuroSAT as Random  # deferred: torchgeo takes seconds to import
    from torchgeo.datasets import EuroSATSpatial

    for source in (Random, EuroSATSpatial) if spatial else (Random,):
        for split in SPLITS:
            fetched(source.url + source.split_filenames[split], home, **checksum(source, split))
