"""Opening one split of a source, as most tests do."""

from pathlib import Path
from types import ModuleType
from typing import Any

from data.dataset import EODataset
from data.flags import DataFlags, DatasetRequest


def open_split(source: ModuleType, split: str, root: Path, *, bands: tuple[str, ...] = (), **flags: Any) -> EODataset:
    """One split of `source`, a module of `data.sources`, with these flags of `DataFlags`."""
    return source.open_dataset(DatasetRequest(root, (split,), bands, DataFlags(**flags)))[split]
