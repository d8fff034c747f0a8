"""The flags that name a scene's labels."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from data import paths
from data.errors import RequestError

if TYPE_CHECKING:
    from data.dataset import EODataset


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LabelFlags:
    """Labels of a scene, for `probe --protocol map`.

    Args:
        labels: For scene: labeled points or polygons (GeoPackage, GeoJSON, shapefile, GeoParquet, CSV with lon and
            lat), or a raster of class numbers.
        label_field: Column of --labels with the class. Default: class or label.
        min_cover: Minimum fraction of a window that one class must cover, for polygons and rasters. Default: 0.5.
    """

    labels: Path | None = None
    label_field: str | None = None
    min_cover: float | None = None

    def check(self, dataset: str | None) -> None:
        """Raise a RequestError unless these go with the dataset."""
        given = [name for name, value in vars(self).items() if value is not None]
        if given and dataset != "scene":
            raise RequestError(f"--{given[0].replace('_', '-')} requires --dataset scene; leave it out")
        if given and self.labels is None:
            raise RequestError(f"--{given[0].replace('_', '-')} requires --labels; add that or leave it out")

    def record(self, windows: "EODataset", out: Path) -> None:
        """Look the labels up in a scene's windows, report them, and record where they are for the probes.

        Raises:
            RequestError: see `data.scene.labels.label_windows`.
        """
        if self.labels is None:
            return
        from data.scene.grid import grids_of  # deferred, as all below: numpy and rasterio
        from data.scene.labels import MIN_COVER, LabelSource, label_windows, remember

        cover = MIN_COVER if self.min_cover is None else self.min_cover
        source = LabelSource(self.labels, self.label_field, cover)
        assert windows.footprint is not None
        found = label_windows(source, grids_of(windows.provenance), windows.footprint)
        name = f"{windows.name}-{windows.variant}" if windows.variant else windows.name
        remember(paths.labels_file(out, paths.slug(name)), source, found)
