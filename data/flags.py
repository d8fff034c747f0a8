"""The flags that say which samples a command works on: shared by featurize, featurize pack and analyze audit."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from data import paths
from data.errors import unknown
from data.registry import DATASETS

if TYPE_CHECKING:
    from data.dataset import EODataset

DEFAULT_DATASET = "simulated"
SPLITS = ("train", "val", "test")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class DataFlags:
    """Which samples; a flag of a dataset is a field here and a field of `data.dataset.DatasetRequest`.

    Args:
        dataset: See `featurize list`. Default: simulated.
        split: train, val, test or all.
        dataset_variant: The dataset's variant, such as spatial for eurosat.
        data_root: Folder that holds the data. Default: EO_DATA_ROOT, then datasets.
        cache_dir: Where archives are unpacked. Default: beside them.
        limit: At most so many images a split, spread evenly over it.
        download: Fetch missing data first.
    """

    dataset: str | None = None
    split: str = "all"
    dataset_variant: str | None = None
    data_root: Path | None = None
    cache_dir: Path | None = None
    limit: int | None = None
    download: Annotated[bool, Parameter(negative="")] = False

    def splits(self) -> tuple[str, ...]:
        """The splits asked for.

        Raises:
            RequestError: no such dataset or split.
        """
        DATASETS.check(self.dataset or DEFAULT_DATASET)
        if self.split not in ("all", *SPLITS):
            raise unknown("split", self.split, ("all", *SPLITS))
        return SPLITS if self.split == "all" else (self.split,)

    def open(self, split: str) -> "EODataset":
        """Open one split, limited as asked.

        Raises:
            RequestError: the data are missing or not as expected.
        """
        from data.dataset import DatasetRequest, limited  # deferred: numpy

        name = self.dataset or DEFAULT_DATASET
        root = paths.dataset_root(self.data_root, name, download=self.download)
        request = DatasetRequest(split, root, self.cache_dir, self.dataset_variant, self.download)
        return limited(DATASETS.load(name).open_dataset(request), self.limit)


ANY = DataFlags()
