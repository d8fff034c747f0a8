"""EuroSAT, 13 bands: 27,000 Sentinel-2 patches of 64 x 64 in 10 land cover classes.

Files as torchgeo has them: ``EuroSATallBands.zip`` (or its unpacked ``ds/`` folder) and the split files
``eurosat-{train,val,test}.txt`` beside it. ``--download`` fetches what is missing.

Variants: ``random`` uses these split files. ``spatial`` separates the splits geographically: it uses torchgeo's
``eurosat-spatial-{train,val,test}.txt`` if they are in the same folder; otherwise it sorts all tiles of the three
random lists by the longitude of their centers (ties by id) and cuts them, from west to east, into 60% train,
20% val and 20% test.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.archives import fetched
from data.bands import SENTINEL2
from data.dataset import EODataset, check_variant
from data.errors import RequestError
from data.flags import SPLITS, DatasetRequest
from data.registry import DatasetCard
from data.sources import _eurosat as shared
from data.sources._index import indexed, read_centres

CARD = DatasetCard(
    title="EuroSAT (13 bands)",
    classes="10",
    labels="single-label",
    bands="Sentinel-2 Level-1C, 13 bands, digital numbers, all at 64 x 64",
    variants=("random", "spatial"),
    license="MIT",
    citation="Helber et al. 2019, EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover "
    "Classification, doi:10.1109/JSTARS.2019.2918242",
    source="--download, or EuroSATallBands.zip and eurosat-{train,val,test}.txt from "
    "https://huggingface.co/datasets/torchgeo/eurosat in --data-root",
)

ARCHIVE = "EuroSATallBands.zip"
IMAGES = Path("ds", "images", "remote_sensing", "otherDatasets", "sentinel_2", "tif")
# The files' own order: B8A comes last.
NAMES = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B09", "B10", "B11", "B12", "B8A")
BANDS = tuple(SENTINEL2[name] for name in NAMES)
# Over all 27,000 patches, in file order, as torchgeo publishes them.
MEANS = (1354.4, 1118.2, 1042.9, 947.6, 1199.5, 1999.8, 2369.2, 2296.8, 732.1, 12.1, 1819.0, 1118.9, 2594.1)
STDS = (245.7, 333.0, 395.1, 593.8, 566.4, 861.2, 1086.6, 1118.0, 404.9, 4.8, 1002.6, 761.3, 1231.6)


def open_dataset(request: DatasetRequest) -> dict[str, EODataset]:
    """Open splits."""
    variant, root = check_variant("eurosat", request.options.dataset_variant, CARD.variants), request.root
    if request.options.download:
        _download(root, spatial=variant == "spatial")
    lists = {split: root / f"eurosat-{split}.txt" for split in SPLITS}
    published_lists = {split: root / f"eurosat-spatial-{split}.txt" for split in SPLITS}
    how = "eurosat-{train,val,test}.txt"
    if variant == "spatial" and any(path.exists() for path in published_lists.values()):
        for path in published_lists.values():  # some published, some computed here would overlap
            shared.read_list(path)
        lists, how = published_lists, "eurosat-spatial-{train,val,test}.txt"
    images = shared.listed_images(shared.image_folder(root, ARCHIVE, IMAGES, request), ".tif")
    paths, digest = [images.path(name) for name in images.files], images.digest(images.files)
    lonlat = indexed(request, "eurosat-centres", "lonlat", digest, lambda: read_centres(paths, "eurosat"))
    centres = {name: (float(lon), float(lat)) for name, (lon, lat) in zip(images.files, lonlat, strict=True)}
    if variant == "random" or lists is published_lists:
        ids = {split: shared.read_list(lists[split]) for split in request.splits}
    else:
        everything = [name for path in lists.values() for name in shared.read_list(path)]
        images.check(everything)
        ids = west_to_east(everything, centres)
        how = f"{len(everything)} tiles of eurosat-{{train,val,test}}.txt by longitude, west to east 60/20/20"
    return {
        split: shared.EuroSAT(
            images=images,
            ids=ids[split],
            name="eurosat",
            variant=None if variant == "random" else variant,
            split=split,
            bands=BANDS,
            statistics=shared.statistics_of(NAMES, MEANS, STDS),
            lonlat=_located(ids[split], centres),
            provenance={"split": how},
        )
        for split in request.splits
    }


def _located(ids: Sequence[str], centres: dict[str, tuple[float, float]]) -> np.ndarray | None:
    """(N, 2) degrees; None where a tile has no location, or no file, which is reported on opening."""
    lonlat = np.array([centres.get(name, (np.nan, np.nan)) for name in ids])
    return None if np.isnan(lonlat).any() else lonlat


def west_to_east(ids: Sequence[str], centres: dict[str, tuple[float, float]]) -> dict[str, list[str]]:
    """Cut tiles, sorted by longitude (ties by id), into 60% train, 20% val and 20% test."""
    unlocated = [name for name in ids if np.isnan(centres[name][0])]
    if unlocated:
        raise RequestError(
            f"--dataset-variant spatial: {len(unlocated)} tiles have no georeference, first {unlocated[0]}.tif; "
            "use the original GeoTIFFs"
        )
    ordered = sorted(ids, key=lambda name: (centres[name][0], name))
    first, second = round(0.6 * len(ordered)), round(0.8 * len(ordered))
    return {"train": ordered[:first], "val": ordered[first:second], "test": ordered[second:]}


def _download(root: Path, *, spatial: bool) -> None:
    from torchgeo.datasets import EuroSAT  # deferred: torchgeo takes seconds to import

    shared.download_lists(root, spatial=spatial)
    if not (root / IMAGES).is_dir():
        fetched(EuroSAT.url + EuroSAT.filename, root, **shared.checksum(EuroSAT))
