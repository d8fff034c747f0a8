"""Your own images: class folders, or a table of paths and labels, in the folder given by --data-root.

Class folders (one class an image)::

    DIR/train/Forest/a.jpg   DIR/val/Forest/b.jpg   DIR/test/River/c.jpg     splits as you made them
    DIR/Forest/a.jpg         DIR/River/c.jpg                                 split here, see below

``val`` may be called ``validation`` or ``valid``. Without split folders each class is cut into 60 % train, 20 %
val and 20 % test in the order of the sha256 of the images' relative paths: always the same cut for the same
files.

A table, ``DIR/labels.csv`` or ``DIR/labels.parquet``, with the columns

- ``path``, relative to DIR: an image, or a folder of single-band TIFFs ``<anything>_<BAND>.tif`` at their own
  resolutions, as BigEarthNet stores its patches (see `data.bands.band_of_file`); a picture there that matches no band
  is an error;
- ``labels`` (multi-label: names separated by ``;`` or ``|``, or a list in Parquet) or ``label`` (one class);
- ``split``: train, val (or validation, valid) or test;
- optional: ``id`` (else the path is the id), ``lon`` and ``lat`` of the centre in WGS 84 degrees.

Images are JPEG, PNG or TIFF files of any size. Pictures of 8 bits give red, green and blue; palettes are looked
up and an opaque alpha channel is left out. Other TIFFs must name their bands (``B02``, ``B2`` or ``b02``, ``VV``,
``red``) in the band descriptions, or ``DIR/dataset.json`` does, which goes before all else::

    {"bands": ["red", "green", "blue", {"name": "nir", "wavelength_um": 0.842, "gsd_m": 3}]}

Band statistics are measured over at most 500 images of the train split, whichever split is opened. Locations
come from the columns or from the TIFFs themselves.
"""

import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.bands import KNOWN, RGB, Band, band_of_file, known_band
from data.command import progress
from data.dataset import DatasetRequest, EODataset, Statistic, check_split, measured_statistics
from data.errors import RequestError
from data.images import SUFFIXES, Header, read_bands, read_header
from data.places import lonlat_of

CARD = {
    "title": "Your own images",
    "classes": "yours",
    "labels": "either",
    "bands": "red, green, blue of JPEG and PNG; whatever your TIFFs or dataset.json name",
    "variants": [],
    "licence": "yours",
    "citation": "none",
    "source": "--data-root DIR with DIR/<split>/<class>/<image>, DIR/<class>/<image> or DIR/labels.csv",
}

SPLIT_NAMES = {"train": "train", "val": "val", "validation": "val", "valid": "val", "test": "test"}
TABLES = ("labels.csv", "labels.parquet")
BANDS_FILE = "dataset.json"
# Formats that users have and this source does not read: leaving them out quietly would change the dataset.
FOREIGN = (".jp2", ".webp", ".bmp", ".gif", ".npy", ".npz", ".heic", ".avif", ".hdf", ".nc", ".img")
LAYOUT = "expected DIR/<split>/<class>/<image>, DIR/<class>/<image>, or DIR/labels.csv"


def open_dataset(request: DatasetRequest) -> EODataset:
    """Open one split of a folder.

    Raises:
        RequestError: the folder, its table or its images are not as described above.
    """
    check_split("folder", request.split)
    if request.variant is not None:
        raise RequestError(f"--dataset-variant {request.variant}: a folder of your own has no variants; leave it out")
    if request.download:
        raise RequestError("--download: a folder of your own cannot be fetched; name it with --data-root")
    root = request.root
    if not root.is_dir():
        raise RequestError(f"no folder {root}; name the folder that holds your images with --data-root")
    tables = [root / name for name in TABLES if (root / name).is_file()]
    if len(tables) == 2:
        raise RequestError(f"{root} holds both {TABLES[0]} and {TABLES[1]}; keep one of them")
    listing = _read_table(tables[0]) if tables else _read_class_folders(root)
    chosen = listing.of(request.split)
    if not chosen.paths:
        counts = ", ".join(f"{name} {len(listing.of(name).paths)}" for name in ("train", "val", "test"))
        raise RequestError(f"no images of split {request.split} in {root} ({counts})")
    layout = _layout(root, listing.paths[0])
    measured_on = listing.of("train") if "train" in listing.splits else listing
    statistics = measured_statistics(Folder(root, measured_on, layout))
    return Folder(root, chosen, layout, split=request.split, statistics=statistics, checked=True)


@dataclass(frozen=True)
class Listing:
    """The samples of a folder: N paths relative to it, in order, with what is known of each.

    Args:
        paths: images, or folders of single-band TIFFs.
        ids: unique names.
        splits: train, val or test for each.
        labels: (N, K) uint8 or (N,) int64.
        class_names: K names, the union over all splits, sorted.
        lonlat: (N, 2) degrees, or None.
        how: how the split was made.
    """

    paths: list[str]
    ids: list[str]
    splits: list[str]
    labels: np.ndarray
    class_names: list[str]
    lonlat: np.ndarray | None
    how: str

    def of(self, split: str) -> "Listing":
        """The samples of one split."""
        rows = [row for row, name in enumerate(self.splits) if name == split]
        return Listing(
            paths=[self.paths[row] for row in rows],
            ids=[self.ids[row] for row in rows],
            splits=[split] * len(rows),
            labels=self.labels[rows],
            class_names=self.class_names,
            lonlat=None if self.lonlat is None else self.lonlat[rows],
            how=self.how,
        )


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
        split: train, val or test.
        statistics: of the bands.
        checked: look at every file first: all must be like the first.
    """

    def __init__(
        self,
        root: Path,
        listing: Listing,
        layout: Layout,
        *,
        split: str = "train",
        statistics: dict[str, Statistic] | None = None,
        checked: bool = False,
    ) -> None:
        self.root, self.paths, self.layout = root, listing.paths, layout
        digest, lonlat = _check_files(root, listing, layout) if checked else (None, None)
        super().__init__(
            name="folder",
            variant=re.sub(r"[^A-Za-z0-9_]+", "-", root.resolve().name).strip("-") or None,
            split=split,
            ids=listing.ids,
            labels=listing.labels,
            class_names=listing.class_names,
            bands=layout.bands,
            statistics=statistics or {},
            lonlat=lonlat if listing.lonlat is None else listing.lonlat,
            provenance={"split": listing.how, "bands": [band.name for band in layout.bands]},
            files_digest=digest,
        )

    def read(self, index: int, bands: Sequence[Band]) -> list[np.ndarray]:
        """See `EODataset.read`."""
        path = self.root / self.paths[index]
        if self.layout.header is None:
            files = _files_of(path, self.layout)
            return [read_bands(files[band.name], [0], count=1)[0] for band in bands]
        names = [band.name for band in self.layout.bands]
        indices = [names.index(band.name) for band in bands]
        return read_bands(path, indices, count=len(names), alpha=self.layout.alpha)


# --- class folders


def _read_class_folders(root: Path) -> Listing:
    folders = _folders(root)
    as_splits = [folder for folder in folders if folder.name.lower() in SPLIT_NAMES]
    if as_splits and len(as_splits) < len(folders):
        others = ", ".join(folder.name for folder in folders if folder not in as_splits)
        raise RequestError(f"{root} mixes split folders ({as_splits[0].name}) and others ({others}); {LAYOUT}")
    images = {}  # path: (class, split)
    for split_folder in as_splits or [root]:
        _check_stray(split_folder)
        if as_splits:
            _check_stray(root)
        for folder in _folders(split_folder):
            found = _images(folder)
            if not as_splits:
                images |= {path: (folder.name, split) for path, split in _cut(found, root).items()}
            else:
                images |= {path: (folder.name, SPLIT_NAMES[split_folder.name.lower()]) for path in found}
    if not images:
        raise RequestError(f"no images ({', '.join(SUFFIXES)}) in class folders in {root}; {LAYOUT}")
    paths = [path.relative_to(root).as_posix() for path in images]
    class_names = sorted({name for name, _ in images.values()})
    return Listing(
        paths=paths,
        ids=paths,
        splits=[split for _, split in images.values()],
        labels=np.array([class_names.index(name) for name, _ in images.values()], dtype=np.int64),
        class_names=class_names,
        lonlat=None,
        how="split folders" if as_splits else "each class 60/20/20 by sha256 of the relative path",
    )


def _check_stray(folder: Path) -> None:
    """Raise a RequestError if images lie beside the class folders: left out quietly they would change the dataset."""
    stray = sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if stray:
        raise RequestError(f"{folder} holds {len(stray)} images outside class folders, first {stray[0]}; {LAYOUT}")


def _folders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """The images of a class folder, sorted; anything that looks like data but cannot be read is an error."""
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    nested = [path.name for path in files if path.is_dir()]
    if nested:
        raise RequestError(f"{folder} holds the folder '{nested[0]}' where images were expected; {LAYOUT}")
    foreign = [path.name for path in files if path.suffix.lower() in FOREIGN]
    if foreign:
        raise RequestError(
            f"{folder} holds {len(foreign)} files in formats that are not read, first {foreign[0]}; "
            "convert them to PNG or TIFF, or move them away"
        )
    return [path for path in files if path.suffix.lower() in SUFFIXES]


def _cut(images: list[Path], root: Path) -> dict[Path, str]:
    """Split the images of one class, by the order of their paths' hashes; returned in the order of the paths."""
    by_hash = sorted(images, key=lambda path: hashlib.sha256(path.relative_to(root).as_posix().encode()).digest())
    first, second = round(0.6 * len(images)), round(0.8 * len(images))
    train, val = set(by_hash[:first]), set(by_hash[first:second])
    return {path: "train" if path in train else "val" if path in val else "test" for path in images}


# --- tables


def _read_table(table: Path) -> Listing:
    rows = _rows(table)
    several = "labels" in rows
    names = [set(_names(value, several=several)) for value in rows["labels" if several else "label"]]
    if not several and any(len(chosen) > 1 for chosen in names):
        raise RequestError(f"{table}: the column label holds lists; call it labels for a multi-label set")
    _refuse(table, rows, [not name for name in names], "have no label; give each at least one, or drop the row")
    class_names = sorted(set().union(*names))
    splits = [SPLIT_NAMES.get(str(value).strip().lower()) for value in rows["split"]]
    strange = [split is None for split in splits]
    _refuse(table, rows, strange, "have an unknown split; use train, val or test", column="split")
    paths = [str(value).strip() for value in rows["path"]]
    _refuse(table, rows, _repeated(paths), "repeat a path; keep one row a path, in one split", column="path")
    ids = [str(value).strip() for value in rows["id"]] if "id" in rows else paths
    _refuse(table, rows, _repeated(ids), "repeat an id; ids must be unique", column="id")
    absent = [not path or not (table.parent / path).exists() for path in paths]
    _refuse(table, rows, absent, f"name a file that is not in {table.parent}", column="path")
    if several:
        labels = np.array([[name in chosen for name in class_names] for chosen in names], dtype=np.uint8)
    else:
        labels = np.array([class_names.index(chosen.pop()) for chosen in names], dtype=np.int64)
    known_splits = [split for split in splits if split]
    return Listing(paths, ids, known_splits, labels, class_names, _table_lonlat(table, rows), table.name)


def _rows(table: Path) -> pd.DataFrame:
    try:
        if table.suffix == ".csv":
            rows = pd.read_csv(table, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        else:
            rows = pd.read_parquet(table)
    except (ValueError, OSError) as error:  # pandas' and pyarrow's parsing errors are ValueErrors
        raise RequestError(f"cannot read {table} ({error}); expected columns path, labels or label, split") from error
    rows.columns = [str(name).strip() for name in rows.columns]
    absent = [name for name in ("path", "split") if name not in rows]
    absent += [] if {"labels", "label"} & set(rows.columns) else ["labels (or label)"]
    if absent:
        raise RequestError(f"{table} has no column {', '.join(absent)}; it has {', '.join(rows.columns) or 'none'}")
    if {"labels", "label"} <= set(rows.columns):
        raise RequestError(f"{table} has both labels (multi-label) and label (one class); keep one of them")
    if rows.empty:
        raise RequestError(f"{table} has no rows; give each image one")
    return rows.reset_index(drop=True)


def _names(value: Any, *, several: bool) -> list[str]:
    """Class names in a cell: of a string with separators or a list where there may be several, else one."""
    if np.ndim(value):
        parts = [str(part) for part in value]
    elif pd.isna(value):  # a null in Parquet
        parts = []
    else:
        parts = re.split(r"[;|]", str(value)) if several else [str(value)]
    return [part.strip() for part in parts if part.strip()]


def _repeated(values: list[str]) -> list[bool]:
    return pd.Series(values).duplicated().tolist()


def _refuse(table: Path, rows: pd.DataFrame, wrong: list[bool], what: str, *, column: str | None = None) -> None:
    """Raise an error that counts the wrong rows and shows the first of them."""
    bad = [row for row, is_wrong in enumerate(wrong) if is_wrong]
    if bad:
        unit = "line" if table.suffix == ".csv" else "row"
        offset = 2 if table.suffix == ".csv" else 0  # the header is line 1
        first = ", ".join(f"{unit} {row + offset}" + (f" '{rows[column][row]}'" if column else "") for row in bad[:3])
        raise RequestError(f"{table}: {len(bad)} of {len(rows)} rows {what} (first: {first})")


def _table_lonlat(table: Path, rows: pd.DataFrame) -> np.ndarray | None:
    present = [name for name in ("lon", "lat") if name in rows]
    if not present:
        return None
    if len(present) == 1:
        raise RequestError(f"{table} has a column {present[0]} alone; give both lon and lat, or neither")
    lonlat = rows[present].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    wrong = ~(np.abs(lonlat) <= (360, 90)).all(axis=1)  # NaN compares false; 0 to 360 is wrapped later
    _refuse(table, rows, wrong.tolist(), "have no valid lon and lat in degrees; fill them or drop both columns")
    return lonlat


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
    eight_bit = header.dtype == "uint8"
    wrong = [band.name for band in bands if eight_bit == (band.sensor in ("S2", "S1")) and band.sensor != "other"]
    if wrong:
        fits = "name them red, green, blue" if eight_bit else "name Sentinel-2 bands B04, B03, B02 in file order"
        raise RequestError(
            f"{path} has {header.dtype} values, which {', '.join(wrong)} cannot have; {fits} in {BANDS_FILE}, or "
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


def _check_files(root: Path, listing: Listing, layout: Layout) -> tuple[str, np.ndarray | None]:
    """Look at every file: all must be like the first. Returns a digest of names, sizes and times, and lonlat."""
    digest, headers = hashlib.sha256(), []
    with progress("looking at the images", len(listing.paths), "images") as advance:
        for relative in listing.paths:
            path = root / relative
            files = [path]
            if layout.header is None:
                if not path.is_dir():
                    raise RequestError(f"{path} is a file but {layout.first} a folder of bands; use one kind only")
                files = list(_files_of(path, layout).values())
            for file in files:
                about = file.stat()
                line = f"{file.relative_to(root).as_posix()}\0{about.st_size}\0{about.st_mtime_ns}\n"
                digest.update(line.encode())
            header = read_header(files[0], alpha=layout.alpha)
            if layout.header is not None:
                _check_like(path, header, layout)
            headers.append(header)
            advance(1)
    return digest.hexdigest(), lonlat_of(headers, where="folder")


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
