"""Your own images: class folders, or a table of paths and labels, in the folder given by --data-root.

Class folders (one class per image)::

    DIR/train/Forest/a.jpg   DIR/val/Forest/b.jpg   DIR/test/River/c.jpg     splits as you made them
    DIR/Forest/a.jpg         DIR/River/c.jpg                                 split here, see below
    DIR/a.jpg                DIR/b.jpg                                       images without labels: --split test

Split folders may be called ``training``, ``validation``, ``valid``, ``dev`` and ``testing`` too. Without split folders
each class is cut into 60% train, 20% val and 20% test in the order of the sha256 of the images' relative paths:
always the same cut for the same files. Where there are train and test but no val, val is drawn from train: 20% of each
class, in the order of the sha256 of a fixed seed and the path; the identity of the features says so.

A table, ``DIR/labels.csv`` or ``DIR/labels.parquet``, with the columns

- ``path`` (or ``filename``), relative to DIR: an image, or a folder of single-band TIFFs ``<anything>_<BAND>.tif`` at
  their own resolutions, as BigEarthNet stores its patches (see `data.bands.band_of_file`); a picture there that matches
  no band is an error;
- ``labels`` (multi-label: names separated by ``;`` or ``|``, or a list such as ``['a', 'b']``), or ``label`` (one
  class), or a column of 0 and 1 for every class;
- ``split``: train, val or test, or the other names of split folders;
- optional: ``id`` (else the path is the id), ``lon`` and ``lat`` of the center in WGS 84 degrees.

CSV files are UTF-8, or UTF-16 with a byte order mark, and separated by commas, semicolons or tabs. One table per split
(``train.csv``, ``validation.csv``, ``test.csv`` with ``Filename,Label,ClassName``) beside the class folders is read
too: it comes with EuroSAT as Kaggle and others offer it.

``metadata.csv``, ``metadata.jsonl`` or ``metadata.parquet`` with a column ``file_name`` and labels, in DIR or its
split folders, are read as Hugging Face's ``imagefolder`` does; without a column ``split`` and split folders each class
is cut as above.

Containers: Hugging Face ``datasets`` folders (``data/train-00000-of-00001.parquet`` from the hub, or what
``save_to_disk`` wrote), and WebDataset shards (``train-0000.tar`` or ``train/0000.tar`` with ``KEY.jpg``, ``.png`` or
``.tif`` and ``KEY.cls`` or ``KEY.json``; ``classnames.txt`` gives numbers their names). A file's split is the first
word of its path that names one. Their images are written out once, into ``--cache-dir`` or beside the first file.

Images without labels have empty cells in ``label`` (all of their split), or lie in DIR or DIR/test without class
folders: ``featurize --split test`` makes features of them that ``probe predict`` scores.

Images are JPEG, PNG or TIFF files of any size. Pictures of 8 bits give red, green and blue; palettes are looked
up and an opaque alpha channel is left out. Other TIFFs must name their bands (``B02``, ``B2`` or ``b02``, ``VV``,
``red``) in the band descriptions, or ``DIR/dataset.json`` does, which goes before all else::

    {"bands": ["red", "green", "blue", {"name": "nir", "wavelength_um": 0.842, "gsd_m": 3}]}

Pixels that a TIFF declares as nodata, masks, or stores as NaN are excluded from statistics and refused, unless
``--nodata fill`` sets them to the band's mean; declared scales and offsets are applied (see `data.declared`).

Band statistics are measured over at most 500 images of the train split, whichever split is opened. Locations
come from the columns or from the TIFFs themselves.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from data.bands import Band
from data.class_folders import Directories, read_class_folders
from data.containers import unpacked_containers
from data.dataset import EODataset, Statistic, check_utf8, measured_statistics
from data.declared import Values, pixels_by
from data.errors import RequestError
from data.files import short_hash
from data.flags import SPLITS, DatasetRequest
from data.images import has_sidecar, read_header, read_values
from data.listing import Listing, with_val
from data.nodata import settled
from data.paths import user_cache
from data.registry import DatasetCard
from data.sources._folder_inspection import Inspection, inspect
from data.sources._folder_layout import BandLayout, check_like, files_of, layout_of
from data.tables import find_tables, read_tables

CARD = DatasetCard(
    title="Your own images",
    classes="yours",
    labels="single- or multi-label",
    bands="red, green, blue of JPEG and PNG; whatever your TIFFs or dataset.json name",
    license="yours",
    citation="none",
    options=("nodata",),
    source="--data-root DIR with DIR/<split>/<class>/<image>, DIR/<class>/<image> or DIR/labels.csv",
)

KEEP_LISTED = 4096  # folder listings kept until the images are read


def open_dataset(request: DatasetRequest) -> dict[str, EODataset]:
    """Open splits of a folder."""
    root, options = request.root, request.options
    if options.dataset_variant is not None:
        raise RequestError(f"--dataset-variant {options.dataset_variant}: folder has no variants; remove the flag")
    if options.download:
        raise RequestError("--download: folder cannot be downloaded; pass the folder of your images as --data-root")
    if not root.is_dir():
        raise RequestError(f"no folder {root}; pass the folder of your images as --data-root")
    tables = find_tables(root)
    if not tables and (written := unpacked_containers(root, cache_dir=options.cache_dir)):
        root, tables = written, find_tables(written)
    listed = Directories(root)
    listing = with_val(read_tables(root, tables) if tables else read_class_folders(listed))
    check_utf8(listing.class_names + listing.paths, root)
    wanted = {split: listing.of(split) for split in request.splits}
    for split, chosen in wanted.items():
        if not chosen.paths:
            counts = ", ".join(f"{name} {listing.splits.count(name)}" for name in SPLITS)
            hint = "" if listing.class_names else "; images without labels can be embedded with --split test"
            raise RequestError(f"no images of split {split} in {root} ({counts}){hint}")
    layout = layout_of(root, listing.paths[0])
    measured_on = listing.of("train") if "train" in listing.splits else listing
    how = options.nodata or "refuse"
    statistics = measured_statistics(Folder(root, measured_on, layout, how=how))
    variant = re.sub(r"[^A-Za-z0-9_]+", "-", request.root.resolve().name).strip("-") or None
    cache = options.cache_dir or user_cache()
    return {
        split: Folder(
            root,
            chosen,
            layout,
            how=how,
            variant=variant,
            split=split,
            statistics=statistics,
            inspection=inspect(listed, chosen, layout, cache=cache),
            cache=cache,
        )
        for split, chosen in wanted.items()
    }


class Folder(EODataset):
    """Some samples of a user's folder.

    Args:
        root: the folder.
        listing: the samples.
        layout: how they hold their bands.
        how: what to do with pixels without a measurement, see `data.declared.NODATA`.
        variant: name of the folder that was given.
        split: train, val or test.
        statistics: of the bands.
        inspection: of all files; None for samples that only statistics are measured on.
        cache: folder that keeps counts of nodata: counting reads all images that declare it.
    """

    digest_of_times = True

    def __init__(
        self,
        root: Path,
        listing: Listing,
        layout: BandLayout,
        *,
        how: str,
        variant: str | None = None,
        split: str = "train",
        statistics: dict[str, Statistic] | None = None,
        inspection: Inspection | None = None,
        cache: Path | None = None,
    ) -> None:
        self.root, self.paths, self.layout, self.how = root, listing.paths, layout, how
        inferred = inspection.lonlat if inspection else None
        super().__init__(
            name="folder",
            variant=variant,
            split=split,
            ids=listing.ids,
            labels=listing.labels,
            class_names=listing.class_names,
            bands=layout.bands,
            statistics=statistics or {},
            lonlat=inferred if listing.lonlat is None else listing.lonlat,
            provenance={"split": listing.how, "bands": [band.name for band in layout.bands]},
            files_digest=inspection.digest if inspection else None,
        )
        self._listed: dict[int, dict[str, Path]] = {}  # a folder's files, from `files` to the read
        self.beside: frozenset[str] | None = None
        if inspection is None:
            return
        self.looked, self.scaled, self.beside = inspection.stamps, inspection.scaled, frozenset(inspection.beside)
        if how != "keep":
            lacking = inspection.lacks | inspection.floats if how == "fill" else inspection.lacks
            rows = np.flatnonzero(lacking).tolist()
            times = [about for _, abouts in sorted(inspection.beside.items()) for about in abouts]
            counted = short_hash([self.files_digest, times, [asdict(band) for band in self.bands], rows], 64)
            index = (cache / f"folder-nodata-{counted[:16]}.npz", counted) if cache else None
            self.nodata = settled(self, how, rows, index) if rows else None

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`: all of a sample's, whichever bands are read."""
        path = self.root / self.paths[index]
        if self.layout.header is not None:
            return [str(path)]
        if len(self._listed) >= KEEP_LISTED:
            self._listed.clear()
        self._listed[index] = files = files_of(path, self.layout)
        return sorted(map(str, files.values()))

    def read(self, index: int, bands: Sequence[Band]) -> list[Shaped[np.ndarray, "_ _"]]:
        """See `EODataset.read`."""
        fill = [self.statistics[band.name].mean for band in bands] if self.how == "fill" else ()
        return pixels_by(self.how, self.read_values(index, bands), fill, self.root / self.paths[index])

    def read_values(self, index: int, bands: Sequence[Band]) -> list[Values]:
        """See `EODataset.read_values`; with ``--nodata keep`` no pixel is masked."""
        path = self.root / self.paths[index]
        if self.layout.header is None:
            files = self._listed.pop(index, None) or files_of(path, self.layout)
            values = [
                read_values(file, [0], count=1, bands=[band], beside=self._has_sidecar(file))[0]
                for file, band in ((files[band.name], band) for band in bands)
            ]
        else:
            names = [band.name for band in self.layout.bands]
            indices = [names.index(band.name) for band in bands]
            values = read_values(
                path, indices, count=len(names), bands=bands, alpha=self.layout.alpha, beside=self._has_sidecar(path)
            )
            plain = all(one.pixels.dtype == np.uint8 and one.invalid is None for one in values)
            if self.layout.is_picture(path.name) and not plain:
                check_like(path, read_header(path, alpha=self.layout.alpha), self.layout)
                raise RequestError(f"{path} is a TIFF with nodata; rename it to {path.stem}.tif")
        return [Values(one.pixels, None) for one in values] if self.how == "keep" else values

    def _has_sidecar(self, file: Path) -> bool:
        """As found at opening: a check at each read is slow on network disks."""
        return has_sidecar(file) if self.beside is None else str(file) in self.beside
