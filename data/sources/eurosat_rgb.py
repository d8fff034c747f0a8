"""EuroSAT RGB: the same patches as 64 x 64 JPEGs, 10 land-cover classes.

Files as torchvision has them: ``EuroSAT.zip``, or its unpacked ``2750/<Class>/<Class>_<n>.jpg``, and the split
files ``eurosat-{train,val,test}.txt`` beside it. ``--download`` fetches what is missing.
"""

from pathlib import Path

from data.archives import fetched
from data.bands import RGB
from data.dataset import EODataset, check_variant
from data.flags import DatasetRequest
from data.registry import DatasetCard
from data.sources import _eurosat as shared

CARD = DatasetCard(
    title="EuroSAT (RGB)",
    classes="10",
    labels="single-label",
    bands="red, green, blue, 8 bits, 64 x 64",
    variants=("random",),
    license="MIT",
    citation="Helber et al. 2019, EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land Cover "
    "Classification, doi:10.1109/JSTARS.2019.2918242",
    source="--download, or EuroSAT.zip and eurosat-{train,val,test}.txt from "
    "https://huggingface.co/datasets/torchgeo/eurosat in --data-root",
)

ARCHIVE = "EuroSAT.zip"
IMAGES = Path("2750")
# As torchvision.datasets.EuroSAT has them, version 0.29.
URL = f"{shared.HOME}/resolve/c877bcd43f099cd0196738f714544e355477f3fd/{ARCHIVE}"
MD5 = "c8fa014336c82ac7804f0398fcb19387"

# Measured over all pixels of 12,960 training images (a list drawn from the published train split).
MEANS = (87.78, 97.01, 104.02)
STDS = (51.46, 34.79, 29.38)


def open_dataset(request: DatasetRequest) -> dict[str, EODataset]:
    """Open splits."""
    check_variant("eurosat-rgb", request.options.dataset_variant, CARD.variants)
    root = request.root
    homes = (root, root / "EuroSAT", root / "eurosat")  # as torchvision and a manual download create them
    home = next((one for one in homes if (one / IMAGES).is_dir() or (one / ARCHIVE).is_file()), root)
    if request.options.download:
        shared.download_lists(home)
        if not (home / IMAGES).is_dir():
            fetched(URL, home, md5=MD5)
    images = shared.listed_images(shared.image_folder(home, ARCHIVE, IMAGES, request), ".jpg")
    return {
        split: shared.EuroSAT(
            images=images,
            ids=_names(split, home, root),
            name="eurosat-rgb",
            variant=None,
            split=split,
            bands=tuple(RGB.values()),
            statistics=shared.statistics_of(tuple(RGB), MEANS, STDS),
            provenance={"split": "eurosat-{train,val,test}.txt"},
        )
        for split in request.splits
    }


def _names(split: str, home: Path, root: Path) -> list[str]:
    beside = home / f"eurosat-{split}.txt"
    return shared.read_list(beside if beside.is_file() else root / beside.name)
