"""Your own images: class folders, or a table of paths and labels, in the folder given by --data-root.

Class folders (one class per image)::

    DIR/train/Forest/a.jpg   DIR/val/Forest/b.jpg   DIR/test/River/c.jpg     splits as you made them
    DIR/Forest/a.jpg         DIR/River/c.jpg                                 split here, see below
    DIR/a.jpg                DIR/b.jpg                                       images without labels: --split test

Split folders may be called ``training``, ``validation``, ``valid``, ``dev`` and ``testing`` too. Without split folders
each class is cut into 60 % train, 20 % val and 20 % test in the order of the sha256 of the images' relative paths:
always the same cut for the same files. Where there are train and test but no val, val is drawn from train: 20 % of each
class, in the order of the sha256 of a fixed seed and the path; the identity of the features says so.

A table, ``DIR/labels.csv`` or ``DIR/labels.parquet``, with the columns

- ``path`` (or ``filename``), relative to DIR: an image, or a folder of single-band TIFFs ``<anything>_<BAND>.tif`` at
  their own resolutions, as BigEarthNet stores its patches (see `data.bands.band_of_file`); a picture there that matches
  no band is an error;
- ``labels`` (multi-label: names separated by ``;`` or ``|``, or a list such as ``['a', 'b']``), or ``label`` (one
  class), or a column of 0 and 1 for every class;
- ``split``: train, val or test, or the other names of split folders;
- optional: ``id`` (else the path is the id), ``lon`` and ``lat`` of the centre in WGS 84 degrees.

CSV files are UTF-8, or UTF-16 with a byte order mark, and separated by commas, semicolons or tabs. One table per split
(``train.csv``, ``validation.csv``, ``test.csv`` with ``Filename,Label,ClassName``) beside the class folders is read
too: it comes with EuroSAT as Kaggle and others offer it.

Images without labels have empty cells in ``label`` (all of their split), or lie in DIR or DIR/test without class
folders: ``featurize --split test`` makes features of them that ``probe predict`` scores.

Images are JPEG, PNG or TIFF files of any size. Pictures of 8 bits give red, green and blue; palettes are looked
up and an opaque alpha channel is left out. Other TIFFs must name their bands (``B02``, ``B2`` or ``b02``, ``VV``,
``red``) in the band descriptions, or ``DIR/dataset.json`` does, which goes before all else::

    {"bands": ["red", "green", "blue", {"name": "nir", "wavelength_um": 0.842, "gsd_m": 3}]}

Pixels that a TIFF declares to be nodata, masks, or holds as NaN are left out of statistics and refused, unless
``--nodata fill`` gives them the band's mean; declared scales and offsets are applied (see `data.declared`).

Band statistics are measured over at most 500 images of the train split, whichever split is opened. Locations
come from the columns or from the TIFFs themselves.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.bands import KNOWN, RGB, Band, band_of_file, known_band
from data.class_folders import FOREIGN, read_class_folders
from data.command import progress
from data.dataset import EODataset, Statistic, check_utf8, measured_statistics
from data.declared import Header, Values
from data.errors import RequestError
from data.files import short_hash
from data.flags import SPLITS, DatasetRequest
from data.images import SIDECARS, SUFFIXES, has_sidecar, read_header, read_values
from data.listing import Listing, with_val
from data.nodata import pixels_of, settled
from data.paths import user_cache
from data.places import lonlat_of
from data.registry import DatasetCard
from data.seen import stamp_of
from data.tables import find_tables, read_tables

CARD = DatasetCard(
    title="Your own images",
    classes="yours",
    labels="either",
    bands="red, green, blue of JPEG and PNG; whatever your TIFFs or dataset.json name",
    licence="yours",
    citation="none",
    options=("nodata",),
    source="--data-root DIR with DIR/<split>/<class>/<image>, DIR/<class>/<image> or DIR/labels.csv",
)

BANDS_FILE = "dataset.json"
KEEP_LISTED = 4096  # listings of folders that wait for being read


def open_dataset(request: DatasetRequest) -> dict[str, EODataset]:
    """Open splits of a folder.

    Raises:
        RequestError: the folder, its table or its images are not as described above.
    """
    root, options = request.root, request.options
    if options.dataset_variant is not None:
        raise RequestError(f"--dataset-variant {options.dataset_variant}: folder has no variants; remove the flag")
    if options.download:
        raise RequestError("--download: folder cannot be downloaded; pass the folder of your images as --data-root")
    if not root.is_dir():
        raise RequestError(f"no folder {root}; pass the folder of your images as --data-root")
    tables = find_tables(root)
    listing = with_val(read_tables(root, tables) if tables else read_class_folders(root))
    check_utf8(listing.class_names + listing.paths, root)
    wanted = {split: listing.of(split) for split in request.splits}
    for split, chosen in wanted.items():
        if not chosen.paths:
            counts = ", ".join(f"{name} {listing.splits.count(name)}" for name in SPLITS)
            hint = "" if listing.class_names else "; images without labels can be embedded with --split test"
            raise RequestError(f"no images of split {split} in {root} ({counts}){hint}")
    layout = _layout(root, listing.paths[0])
    measured_on = listing.of("train") if "train" in listing.splits else listing
    how = options.nodata or "refuse"
    statistics = measured_statistics(Folder(root, measured_on, layout, how=how))
    cache = options.cache_dir or user_cache()
    return {
        split: Folder(root, chosen, layout, how=how, split=split, statistics=statistics, checked=True, cache=cache)
        for split, chosen in wanted.items()
    }


@dataclass(frozen=True)
class Layout:
    """How the samples of a folder hold their bands; the same for all.

    Args:
        bands: the bands, in file order.
        first: the sample that the others must be like.
        header: its header; None where a sample is a folder of single-band TIFFs.
        alpha: whether the fourth channel of an RGBA picture is one of the bands.
        declared: whether dataset.json names the bands: others may then lie beside them.
    """

    bands: tuple[Band, ...]
    first: Path
    header: Header | None
    alpha: bool
    declared: bool


class Folder(EODataset):
    """Some samples of a user's folder.

    Args:
        root: the folder.
        listing: the samples.
        layout: how they hold their bands.
        how: what becomes of pixels without a measurement, see `data.declared.NODATA`.
        split: train, val or test.
        statistics: of the bands.
        checked: look at every file first: all must be like the first.
        cache: folder that keeps counts of nodata: to count reads all images that declare it.
    """

    digest_of_times = True

    def __init__(
        self,
        root: Path,
        listing: Listing,
        layout: Layout,
        *,
        how: str,
        split: str = "train",
        statistics: dict[str, Statistic] | None = None,
        checked: bool = False,
        cache: Path | None = None,
    ) -> None:
        self.root, self.paths, self.layout, self.how = root, listing.paths, layout, how
        looked = _check_files(root, listing, layout) if checked else _Looked(None, None, [], None, False, None)
        super().__init__(
            name="folder",
            variant=re.sub(r"[^A-Za-z0-9_]+", "-", root.resolve().name).strip("-") or None,
            split=split,
            ids=listing.ids,
            labels=listing.labels,
            class_names=listing.class_names,
            bands=layout.bands,
            statistics=statistics or {},
            lonlat=looked.lonlat if listing.lonlat is None else listing.lonlat,
            provenance={"split": listing.how, "bands": [band.name for band in layout.bands]},
            files_digest=looked.digest,
        )
        self.looked, self.scaled, self.beside = looked.stamps, looked.scaled, looked.beside
        self._listed: dict[int, dict[str, Path]] = {}  # a folder's files, from the look at their times to the read
        if how != "keep":
            rows = [row for row, (lacks, floats) in enumerate(looked.lacking) if lacks or (floats and how == "fill")]
            self.nodata = settled(self, how, rows, self._index(cache, rows)) if rows else None

    def _index(self, cache: Path | None, rows: Sequence[int]) -> tuple[Path, str] | None:
        """File of the count of nodata, and the digest of what was counted: files, those beside them, bands, images."""
        if cache is None:
            return None
        beside = [Path(f"{file}{suffix}") for file in sorted(self.beside or ()) for suffix in SIDECARS]
        abouts = [file.stat() for file in beside if file.exists()]
        times = [(about.st_size, about.st_mtime_ns) for about in abouts]
        digest = short_hash([self.files_digest, times, [asdict(band) for band in self.bands], list(rows)], 64)
        return cache / f"folder-nodata-{digest[:16]}.npz", digest

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`: all of a sample's, whichever bands are read."""
        path = self.root / self.paths[index]
        if self.layout.header is not None:
            return [str(path)]
        if len(self._listed) >= KEEP_LISTED:
            self._listed.clear()
        self._listed[index] = files = _files_of(path, self.layout)
        return sorted(map(str, files.values()))

    def read(self, index: int, bands: Sequence[Band]) -> list[np.ndarray]:
        """See `EODataset.read`."""
        return pixels_of(
            self.read_values(index, bands), bands, self.how, self.statistics, str(self.root / self.paths[index])
        )

    def read_values(self, index: int, bands: Sequence[Band]) -> list[Values]:
        """See `EODataset.read_values`; where stored values are kept, all are measurements."""
        path = self.root / self.paths[index]
        if self.layout.header is None:
            files = self._listed.pop(index, None) or _files_of(path, self.layout)
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
        return [Values(one.pixels, None) for one in values] if self.how == "keep" else values

    def _has_sidecar(self, file: Path) -> bool:
        """As it was when every file was looked at, where they were: a look at each read is slow on network disks."""
        return has_sidecar(file) if self.beside is None else file in self.beside


# --- bands


def _layout(root: Path, first: str) -> Layout:
    declared = _declared_bands(root / BANDS_FILE)
    path = root / first
    if path.is_dir():
        bands = declared or _bands_of_folder(path)
        return Layout(bands, path, None, alpha=False, declared=bool(declared))
    alpha = len(declared) == 4
    header = read_header(path, alpha=alpha)
    if not declared:
        bands = _bands_of_file(path, header)
        _check_type(path, header, bands)
        return Layout(bands, path, header, alpha, declared=False)
    if len(declared) != header.count:
        raise RequestError(
            f"{root / BANDS_FILE} names {len(declared)} bands but {path} has {header.count}; name every band, in "
            "file order"
        )
    _check_type(path, header, declared)
    return Layout(declared, path, header, alpha, declared=True)


def _check_type(path: Path, header: Header, bands: Sequence[Band]) -> None:
    """Raise a RequestError where the type of the values cannot be that of the bands: encoders scale by the band."""
    eight_bit = header.read_as == "uint8"
    wrong = [band.name for band in bands if eight_bit == (band.sensor in ("S2", "S1")) and band.sensor != "other"]
    if wrong:
        fits = "name them red, green, blue" if eight_bit else "name Sentinel-2 bands B04, B03, B02 in file order"
        raise RequestError(
            f"{path} has {header.read_as} values, which {', '.join(wrong)} cannot have; {fits} in {BANDS_FILE}, or "
            'describe others as {"name": ..., "wavelength_um": ...}'
        )


def _declared_bands(file: Path) -> tuple[Band, ...]:
    """Bands as dataset.json names them; none without that file."""
    if not file.exists():
        return ()
    form = 'expected {"bands": ["B02", "B03", {"name": "nir", "wavelength_um": 0.842}]}'
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))["bands"]
        bands = tuple(_declared_band(entry, file) for entry in entries)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"cannot read bands from {file} ({error}); {form}") from error
    if not bands or len({band.name for band in bands}) < len(bands):
        raise RequestError(f"{file} names no band, or one twice; {form}")
    return bands


def _declared_band(entry: str | dict, file: Path) -> Band:
    if isinstance(entry, dict):
        return Band(entry["name"], "other", entry.get("wavelength_um"), entry.get("gsd_m"), entry.get("colour"))
    if (band := known_band(entry)) is None:
        raise RequestError(
            f"{file}: unknown band '{entry}'; known are {', '.join(KNOWN)}; describe another as "
            f'{{"name": "{entry}", "wavelength_um": ...}}'
        )
    return band


def _bands_of_file(path: Path, header: Header) -> tuple[Band, ...]:
    bands = [band for band in map(known_band, header.names) if band]
    if len(set(bands)) == header.count:
        return tuple(bands)
    if not bands and header.count == 3 and header.dtype == "uint8":
        return tuple(RGB.values())
    names = ", ".join(name or "unnamed" for name in header.names)
    raise RequestError(
        f"the bands of {path} are not known ({header.count} of {header.dtype}: {names}); name them in "
        f'{BANDS_FILE} beside the images, in file order: {{"bands": ["B02", "B03", ...]}}'
    )


def _bands_of_folder(folder: Path) -> tuple[Band, ...]:
    found = _band_files(folder)
    if not found:
        raise RequestError(f"{folder} holds no <anything>_<BAND>.tif of a known band; known are {', '.join(KNOWN)}")
    return tuple(band for band in KNOWN.values() if band.name in found)


def _files_of(folder: Path, layout: Layout) -> dict[str, Path]:
    """File of each band of the layout in a folder of single-band images, which must be like the first."""
    found = _band_files(folder, layout.bands)
    names = [band.name for band in layout.bands]
    if absent := [name for name in names if name not in found]:
        raise RequestError(
            f"{folder} holds 0 files *_{absent[0]}.tif, one was expected as in {layout.first}; restore or drop it"
        )
    more = [name for name in found if name not in names]
    if more and not layout.declared:
        raise RequestError(
            f"{found[more[0]]} is of a band that {layout.first} does not have; all images must have the same bands: "
            f"remove it, or name the bands to read in {BANDS_FILE}"
        )
    return {name: found[name] for name in names}


def _band_files(folder: Path, declared: Sequence[Band] = ()) -> dict[str, Path]:
    """File of each band in a folder of single-band images, by the band's name.

    Raises:
        RequestError: an image that matches no band, in a format that is not read, or a second one of a band.
    """
    found: dict[str, Path] = {}
    for name in sorted(os.listdir(folder)):
        suffix = os.path.splitext(name)[1].lower()
        if name.startswith(".") or suffix not in (*SUFFIXES, *FOREIGN):
            continue
        if suffix in FOREIGN:
            raise RequestError(f"{folder / name} is in a format that is not read; convert it to TIFF or move it away")
        if (band := band_of_file(name, declared)) is None:
            raise RequestError(
                f"{folder / name} matches no band; name it <anything>_<BAND>{suffix} with one of {', '.join(KNOWN)}, "
                f"name its band in {BANDS_FILE}, or move it away"
            )
        if band.name in found:
            raise RequestError(f"{folder} holds two files of {band.name}: {found[band.name].name}, {name}; keep one")
        found[band.name] = folder / name
    return found


class _Looked(NamedTuple):
    """What was found on looking at every file.

    Args:
        digest: of names, sizes and times.
        lonlat: (N, 2) degrees, or None.
        lacking: for each sample, whether a file of it declares pixels to be no measurement, and whether one has floats,
            which may be NaN.
        stamps: (N,) of the files, see `data.seen`.
        scaled: whether a file declares a scale or offset, which is applied.
        beside: files that have a mask, or more that is declared, in a file beside them.
    """

    digest: str | None
    lonlat: np.ndarray | None
    lacking: list[tuple[bool, bool]]
    stamps: np.ndarray | None
    scaled: bool
    beside: frozenset[Path] | None


def _check_files(root: Path, listing: Listing, layout: Layout) -> _Looked:
    """Look at every file: all must be like the first."""
    digest, first_headers, lacking, stamps, scaled, beside = hashlib.sha256(), [], [], [], False, []
    with progress("looking at the images", len(listing.paths), "images") as advance:
        for relative in listing.paths:
            path = root / relative
            files = [path]
            if layout.header is None:
                if not path.is_dir():
                    raise RequestError(f"{path} is a file but {layout.first} a folder of bands; use one kind only")
                files = list(_files_of(path, layout).values())  # in the bands' order, as in the digest of v0.1
            abouts = {file: file.stat() for file in files}
            stamps.append(stamp_of(abouts[file] for file in sorted(files)))
            for file, about in abouts.items():
                line = f"{file.relative_to(root).as_posix()}\0{about.st_size}\0{about.st_mtime_ns}\n"
                digest.update(line.encode())
            headers = [read_header(file, alpha=layout.alpha) for file in files]
            if layout.header is not None:
                _check_like(path, headers[0], layout)
            first_headers.append(headers[0])
            beside += [file for file, header in zip(files, headers, strict=True) if header.beside]
            scaled = scaled or any(header.declared and header.declared.scaled for header in headers)
            lacking.append(
                (
                    any(header.declared and header.declared.lacks for header in headers),
                    any(np.dtype(header.dtype).kind == "f" for header in headers),
                )
            )
            advance(1)
    lonlat = lonlat_of(first_headers, where="folder")
    return _Looked(digest.hexdigest(), lonlat, lacking, np.array(stamps, np.uint64), bool(scaled), frozenset(beside))


def _check_like(path: Path, header: Header, layout: Layout) -> None:
    first = layout.header
    assert first is not None
    if (header.count, header.dtype, header.names) != (first.count, first.dtype, first.names):
        raise RequestError(
            f"{path} has {_described(header)}, but {layout.first} has {_described(first)}; all images must have the "
            "same bands: convert or remove it"
        )


def _described(header: Header) -> str:
    names = ", ".join(name for name in header.names if name)
    return f"{header.count} bands of {header.dtype}" + (f" ({names})" if names else "")
