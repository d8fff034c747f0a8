"""EuroSAT, 13 bands: 27,000 Sentinel-2 patches of 64 x 64 in 10 land cover classes.

Files as torchgeo has them: ``EuroSATallBands.zip`` (or its unpacked ``ds/`` folder) and the split files
``eurosat-{train,val,test}.txt`` beside it. ``--download`` fetches what is missing.

Variants: ``random`` takes those split files. ``spatial`` keeps the splits apart on the map: it takes torchgeo's
``eurosat-spatial-{train,val,test}.txt`` where they lie in the same folder; else it sorts all tiles of the three
random lists by the longitude of their centres (ties by id) and cuts them, from west to east, into 60 % train,
20 % val and 20 % test.
"""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.archives import cache_folder, fetched, unpacked
from data.bands import SENTINEL2, Band
from data.cached import array_for, keep_array
from data.command import progress
from data.dataset import SPLITS, DatasetRequest, EODataset, Statistic, check_split, check_variant
from data.errors import RequestError
from data.images import read_bands, read_header
from data.nomenclature import EUROSAT_CLASSES as CLASSES
from data.places import lonlat_of
from data.registry import DatasetCard
from data.seen import stamp_of

CARD = DatasetCard(
    title="EuroSAT (13 bands)",
    classes="10",
    labels="single-label",
    bands="Sentinel-2 Level-1C, 13 bands, digital numbers, all at 64 x 64",
    variants=("random", "spatial"),
    licence="MIT",
    citation="Helber et al. 2019, EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover "
    "Classification, doi:10.1109/JSTARS.2019.2918242",
    source="--download, or EuroSATallBands.zip and eurosat-{train,val,test}.txt from "
    "https://huggingface.co/datasets/torchgeo/eurosat in --data-root",
)

ARCHIVE = "EuroSATallBands.zip"
IMAGES = Path("ds", "images", "remote_sensing", "otherDatasets", "sentinel_2", "tif")
HOME = "https://huggingface.co/datasets/torchgeo/eurosat"

# The files' own order: B8A comes last.
NAMES = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
BANDS = tuple(SENTINEL2[name] for name in NAMES)
# Over all 27,000 patches, in file order, as torchgeo publishes them.
MEANS = (1354.4, 1118.2, 1042.9, 947.6, 1199.5, 1999.8, 2369.2, 2296.8, 732.1, 12.1, 1819.0, 1118.9, 2594.1)
DEVIATIONS = (245.7, 333.0, 395.1, 593.8, 566.4, 861.2, 1086.6, 1118.0, 404.9, 4.8, 1002.6, 761.3, 1231.6)
STATISTICS = {name: Statistic(m, s) for name, m, s in zip(NAMES, MEANS, DEVIATIONS, strict=True)}


def open_dataset(request: DatasetRequest) -> EODataset:
    """Open one split.

    Raises:
        RequestError: files are missing or damaged; the message says what to put where.
    """
    check_split("eurosat", request.split)
    variant = check_variant("eurosat", request.variant, CARD.variants)
    if request.download:
        _download(request.root, spatial=variant == "spatial")
    lists = {split: request.root / f"eurosat-{split}.txt" for split in SPLITS}
    published_lists = {split: request.root / f"eurosat-spatial-{split}.txt" for split in SPLITS}
    how = "eurosat-{train,val,test}.txt"
    if variant == "spatial" and any(path.exists() for path in published_lists.values()):
        for path in published_lists.values():  # some published, some computed here would overlap
            read_list(path)
        lists, how = published_lists, "eurosat-spatial-{train,val,test}.txt"
    folder = _image_folder(request)
    files = listed_files(folder, ".tif")
    centres = _centres(folder, files, request)
    if variant == "random" or lists is published_lists:
        ids = read_list(lists[request.split])
    else:
        everything = [name for path in lists.values() for name in read_list(path)]
        check_present(everything, centres, folder)
        ids = west_to_east(everything, centres)[request.split]
        how = f"{len(everything)} tiles of eurosat-{{train,val,test}}.txt by longitude, west to east 60/20/20"
    check_present(ids, centres, folder)
    lonlat = np.array([centres[name] for name in ids])
    return EuroSAT(
        folder=folder,
        name="eurosat",
        variant=None if variant == "random" else variant,
        split=request.split,
        ids=ids,
        labels=labels_of(ids),
        class_names=CLASSES,
        bands=BANDS,
        statistics=STATISTICS,
        lonlat=None if np.isnan(lonlat).any() else lonlat,
        provenance={"split": how},
        files_digest=digest_files(ids, files),
        looked=stamps_of(ids, files),
    )


class EuroSAT(EODataset):
    """13-band patches, read from one GeoTIFF each."""

    digest_of_times = True

    def __init__(self, *, folder: Path, looked: np.ndarray, **about) -> None:
        super().__init__(**about)
        self.folder, self.looked = folder, looked

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`."""
        return [f"{self.folder}/{class_of(self.ids[index])}/{self.ids[index]}.tif"]

    def read(self, index: int, bands: Sequence[Band]) -> list[np.ndarray]:
        """See `EODataset.read`: uint16 digital numbers (reflectance times 10,000), 64 x 64."""
        name = self.ids[index]
        indices = [NAMES.index(band.name) for band in bands]
        return read_bands(self.folder / class_of(name) / f"{name}.tif", indices, count=len(BANDS))


def read_list(path: Path) -> list[str]:
    """Names of a split file without their endings, in its order; both EuroSAT sources use the same lists.

    Raises:
        RequestError: the file is absent, or a line names no image of one of the ten classes.
    """
    if not path.is_file():
        raise RequestError(
            f"no split file {path}; put {path.name} there (torchgeo publishes it at {HOME}) or pass --download"
        )
    lines = path.read_text(encoding="utf-8", errors="replace").split()
    for number, line in enumerate(lines, 1):
        if class_of(line) not in CLASSES:
            raise RequestError(f"{path}, line {number}: '{line}' is not <Class>_<number>.jpg of a EuroSAT class")
    return [Path(line).stem for line in lines]


def class_of(name: str) -> str:
    """Class of an image, from its name: ``AnnualCrop_12`` is of ``AnnualCrop``."""
    return name.rpartition("_")[0]


def labels_of(ids: Sequence[str]) -> np.ndarray:
    """(N,) int64 class numbers of image names."""
    return np.array([CLASSES.index(class_of(name)) for name in ids], dtype=np.int64)


def west_to_east(ids: Sequence[str], centres: dict[str, tuple[float, float]]) -> dict[str, list[str]]:
    """Cut tiles, sorted by longitude (ties by id), into 60 % train, 20 % val and 20 % test.

    Raises:
        RequestError: a tile has no longitude.
    """
    unlocated = [name for name in ids if np.isnan(centres[name][0])]
    if unlocated:
        raise RequestError(
            f"--dataset-variant spatial: {len(unlocated)} tiles have no georeference, first {unlocated[0]}.tif; "
            "use the original GeoTIFFs"
        )
    ordered = sorted(ids, key=lambda name: (centres[name][0], name))
    first, second = round(0.6 * len(ordered)), round(0.8 * len(ordered))
    return {"train": ordered[:first], "val": ordered[first:second], "test": ordered[second:]}


def listed_files(folder: Path, suffix: str) -> dict[str, os.stat_result]:
    """Every image in the ten class folders, by name without ending, sorted."""
    found = {}
    for name in CLASSES:
        if (folder / name).is_dir():
            with os.scandir(folder / name) as entries:
                images = [entry for entry in entries if entry.name.endswith(suffix)]
                found |= {entry.name.removesuffix(suffix): entry.stat() for entry in images}
    return dict(sorted(found.items()))


def digest_files(ids: Sequence[str], files: dict[str, os.stat_result]) -> str:
    """sha256 over names, sizes and times of a split's images: features of changed images are not reused."""
    lines = (f"{name} {files[name].st_size} {files[name].st_mtime_ns}" for name in ids)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def stamps_of(ids: Sequence[str], files: dict[str, os.stat_result]) -> np.ndarray:
    """Stamps of a split's images, (N,) uint64."""
    return np.array([stamp_of([files[name]]) for name in ids], np.uint64)


def check_present(ids: Sequence[str], present: dict, folder: Path) -> None:
    """Raise a RequestError that counts the listed tiles without a file."""
    absent = [name for name in ids if name not in present]
    if absent:
        raise RequestError(
            f"{len(absent)} of {len(ids)} listed tiles are not in {folder}, first {', '.join(absent[:3])}; "
            f"the split files do not fit the images: take both from {HOME}"
        )


def _image_folder(request: DatasetRequest) -> Path:
    if (request.root / IMAGES).is_dir():
        return request.root / IMAGES
    archive = request.root / ARCHIVE
    if not archive.is_file():
        raise RequestError(
            f"no {ARCHIVE} or unpacked {IMAGES.parts[0]}/ in {request.root}; name the folder that holds it with "
            "--data-root or pass --download"
        )
    folder = unpacked(archive, cache_dir=request.cache_dir) / IMAGES
    if not folder.is_dir():
        raise RequestError(f"{archive} holds no {IMAGES}; it is not the archive that torchgeo publishes at {HOME}")
    return folder


def _download(root: Path, *, spatial: bool) -> None:
    from torchgeo.datasets import EuroSAT as Random  # deferred: torchgeo takes seconds to import
    from torchgeo.datasets import EuroSATSpatial

    for source in (Random, EuroSATSpatial) if spatial else (Random,):
        for split in SPLITS:
            fetched(source.url + source.split_filenames[split], root, sha256=source.split_sha256s[split])
    if not (root / IMAGES).is_dir():
        fetched(Random.url + Random.filename, root, sha256=Random.sha256)


def _centres(folder: Path, files: dict[str, os.stat_result], request: DatasetRequest) -> dict[str, tuple[float, float]]:
    """Longitude and latitude of every tile's centre (NaN where the tiles have none), kept in an index file.

    The index is valid while it carries the digest of the names, sizes and times of the files it was made from.
    """
    about = "\n".join(f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in files.items())
    digest = hashlib.sha256(about.encode()).hexdigest()
    index = cache_folder(request.root, cache_dir=request.cache_dir) / f"eurosat-centres-{digest[:10]}.npz"
    lonlat = array_for(index, "lonlat", digest=digest)
    if lonlat is None:
        with progress("reading the tiles' locations", len(files), "tiles") as advance:
            headers = []
            for name in files:
                headers.append(read_header(folder / class_of(name) / f"{name}.tif"))
                advance(1)
        lonlat = lonlat_of(headers, where="eurosat")
        lonlat = np.full((len(files), 2), np.nan) if lonlat is None else lonlat
        keep_array(index, "lonlat", lonlat, digest=digest)
    return {name: (float(lon), float(lat)) for name, (lon, lat) in zip(files, lonlat, strict=True)}
