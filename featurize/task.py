"""One task: a split of a dataset embedded by an encoder into one feature file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from data import store
from data.bands import Band
from data.dataset import EODataset
from featurize.encoder import FrozenModel
from featurize.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class Task:
    """What every step from reading to the finished file needs to know."""

    dataset: EODataset  # one split
    encoder: FrozenModel  # on any device; it is moved to the runtime's
    runtime: Runtime  # how to run
    limit: int | None = None  # ``--limit``, for the identity
    # the flags given, recorded so that damage can be repaired without asking for them again
    asked: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides the values; see `data.store.make_identity`."""
        return store.make_identity(self.dataset, self.encoder.identity(self.runtime.precision), limit=self.limit)

    @property
    def bands(self) -> tuple[Band, ...]:
        """The bands that are read."""
        return self.encoder.request.bands

    @property
    def shape(self) -> dict[str, Any]:
        """Rows, dimension and type of the features, as `data.store.PartWriter` takes them."""
        return {"rows": len(self.dataset), "dim": self.encoder.dim, "dtype": self.encoder.dtype}
