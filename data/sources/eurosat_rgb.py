"""EuroSAT in colour: the same patches as 64 x 64 JPEGs, 10 land cover classes.

Files as torchvision has them: ``EuroSAT.zip``, or its unpacked ``2750/<Class>/<Class>_<n>.jpg``, and the split
files ``eurosat-{train,val,test}.txt`` beside it. ``--download`` fetches what is missing.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.archives import fetched, unpacked
from data.bands import RGB, Band
from data.dataset import SPLITS, DatasetRequest, EODataset, Statistic, check_split, check_variant
from data.errors import RequestError
from data.images import read_bands
from data.registry import DatasetCard
from data.sources.eurosat import (
    CLASSES,
    HOME,
    check_present,
    class_of,
    digest_files,
    labels_of,
    listed_files,
    read_list,
    stamps_of,
)

CARD = DatasetCard(
    title="EuroSAT (RGB)",
    classes="10",
    labels="single-label",
    bands="red, green, blue, 8 bits, 64 x 64",
    variants=("random",),
    licence="MIT",
    citation="Helber et al. 2019, EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover "
    "Classification, doi:10.1109/JSTARS.2019.2918242",
    source="--download, or EuroSAT.zip and eurosat-{train,val,test}.txt from "
    "https://huggingface.co/datasets/torchgeo/eurosat in --data-root",
)

ARCHIVE = "EuroSAT.zip"
IMAGES = "2750"
# As torchvision.datasets.EuroSAT has them, version 0.29.
URL = f"{HOME}/resolve/c877bcd43f099cd0196738f714544e355477f3fd/{ARCHIVE}"
MD5 = "c8fa014336c82ac7804f0398fcb19387"

BANDS = tuple(RGB.values())
NAMES = tuple(RGB)
# Measured over all pixels of 12,960 training images (a list drawn from the published train split).
STATISTICS = {
    "red": Statistic(mean=87.78, std=51.46),
    "green": Statistic(mean=97.01, std=34.79),
    "blue": Statistic(mean=104.02, std=29.38),
}


def open_dataset(request: DatasetRequest) -> EODataset:
    """Open one split.

    Raises:
        RequestError: files are missing or damaged; the message says what to put where.
    """
    check_split("eurosat-rgb", request.split)
    check_variant("eurosat-rgb", request.variant, CARD.variants)
    home = _home(request.root)
    if request.download:
        _download(home)
    folder = _image_folder(home, request)
    beside = home / f"eurosat-{request.split}.txt"
    ids = read_list(beside if beside.is_file() else request.root / beside.name)
    files = listed_files(folder, ".jpg")
    check_present(ids, files, folder)
    return EuroSATRGB(
        folder=folder,
        name="eurosat-rgb",
        variant=None,
        split=request.split,
        ids=ids,
        labels=labels_of(ids),
        class_names=CLASSES,
        bands=BANDS,
        statistics=STATISTICS,
        provenance={"split": "eurosat-{train,val,test}.txt"},
        files_digest=digest_files(ids, files),
        looked=stamps_of(ids, files),
    )


class EuroSATRGB(EODataset):
    """Colour patches, read from one JPEG each."""

    digest_of_times = True

    def __init__(self, *, folder: Path, looked: np.ndarray, **about) -> None:
        super().__init__(**about)
        self.folder, self.looked = folder, looked

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`."""
        return [f"{self.folder}/{class_of(self.ids[index])}/{self.ids[index]}.jpg"]

    def read(self, index: int, bands: Sequence[Band]) -> list[np.ndarray]:
        """See `EODataset.read`: uint8, 64 x 64."""
        name = self.ids[index]
        indices = [NAMES.index(band.name) for band in bands]
        return read_bands(self.folder / class_of(name) / f"{name}.jpg", indices, count=len(BANDS))


def _home(root: Path) -> Path:
    """Where the files lie: the root, or the folder that torchvision or a hand-made copy puts into it."""
    for folder in (root, root / "EuroSAT", root / "eurosat"):
        if (folder / IMAGES).is_dir() or (folder / ARCHIVE).is_file():
            return folder
    return root


def _image_folder(home: Path, request: DatasetRequest) -> Path:
    if (home / IMAGES).is_dir():
        return home / IMAGES
    archive = home / ARCHIVE
    if not archive.is_file():
        raise RequestError(
            f"no {ARCHIVE} or unpacked {IMAGES}/ in {home}; name the folder that holds it with --data-root "
            "or pass --download"
        )
    folder = unpacked(archive, cache_dir=request.cache_dir) / IMAGES
    if not folder.is_dir():
        raise RequestError(f"{archive} holds no {IMAGES}/; it is not the archive that torchgeo publishes at {HOME}")
    return folder


def _download(home: Path) -> None:
    from torchgeo.datasets import EuroSAT  # deferred: torchgeo takes seconds to import

    for split in SPLITS:
        fetched(EuroSAT.url + EuroSAT.split_filenames[split], home, sha256=EuroSAT.split_sha256s[split])
    if not (home / IMAGES).is_dir():
        fetched(URL, home, md5=MD5)
