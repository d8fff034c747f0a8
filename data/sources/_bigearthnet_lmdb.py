"""BigEarthNet v2 as one LMDB database, as rico-hdl encodes it: a patch's name to its bands as safetensors."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from data.bands import Band, choose_bands
from data.dataset import EODataset, Statistic
from data.errors import RequestError
from data.flags import SPLITS, DatasetRequest
from data.nodata import record
from data.nomenclature import CLASSES_19
from data.sources import _bigearthnet_patches as patches_of
from data.sources._bigearthnet_files import BANDS
from data.sources._bigearthnet_patches import METADATA

DATABASE = "data.mdb"
SAMPLED = 16  # patches of a split whose contents go into its digest


def find_database(root: Path) -> Path | None:
    """Folder of the database: the data root, or the only folder in it that holds one."""
    found = sorted(path.parent for pattern in (DATABASE, f"*/{DATABASE}") for path in root.glob(pattern))
    if len(found) > 1:
        raise RequestError(f"{root} holds {len(found)} databases, {found[0].name} and {found[1].name} first; keep one")
    return found[0] if found else None


def open_database(request: DatasetRequest, folder: Path, statistics: Mapping[str, Statistic]) -> dict[str, EODataset]:
    """Open splits; labels and splits are those of ``metadata.parquet`` beside the database or in it.

    Raises:
        RequestError: no `lmdb` package or metadata, patches that are missing, or values that are damaged.
    """
    options, root = request.options, request.root
    home = root if (root / METADATA).is_file() else folder
    database = Database(folder)
    listed = SPLITS if options.allow_missing or options.drop_snow_cloud else request.splits
    splits = patches_of.read_metadata(home, listed, ["S1", "S2"])
    first = next(iter(splits.values())).names
    here = [sensor for sensor in ("S2", "S1") if any(database.has(name) for name in first[sensor][:SAMPLED])]
    available = [band for band in BANDS if band.sensor in here]
    if not here:
        raise RequestError(
            f"{folder} contains none of the first {SAMPLED} patches of {home / METADATA}; both must be of "
            "BigEarthNet v2"
        )
    sensors = _sensors(available, request.bands) or here
    provenance: dict[str, Any] = {"classes": len(CLASSES_19), "split": METADATA}
    if options.drop_snow_cloud:
        flagged = {split: patches.flagged for split, patches in splits.items()}
        splits = patches_of.without_some("snow_cloud", splits, flagged, provenance)
    absent = {
        split: np.array(
            [not all(map(database.has, names)) for names in zip(*(p.names[s] for s in sensors), strict=True)]
        )
        for split, p in splits.items()
    }
    if options.allow_missing:
        splits = patches_of.without_some("absent", splits, absent, provenance)
    opened: dict[str, EODataset] = {}
    for split in request.splits:
        if not options.allow_missing and absent[split].any():
            name = splits[split].names["S2"][int(absent[split].argmax())]
            raise RequestError(
                f"{absent[split].sum()} of {len(absent[split])} patches of split {split} are not in {folder}, first "
                f"{name}; encode them too, or skip them with --allow-missing"
            )
        patches = splits[split]
        bands = [band for band in available if band.sensor in sensors]
        assert patches.labels is not None
        opened[split] = LmdbBigEarthNet(
            database=database,
            names={sensor: patches.names[sensor] for sensor in sensors},
            how=options.nodata or "keep",
            name="bigearthnet",
            variant="v2",
            split=split,
            ids=patches.names["S2"],
            labels=patches.labels,
            class_names=CLASSES_19,
            bands=bands,
            statistics={band.name: statistics[band.name] for band in bands},
            lonlat=patches_of.locations(patches.names["S2"]),
            provenance=provenance,
            files_digest={sensor: _digest(database, patches.names[sensor]) for sensor in sensors},
        )
    return opened


class Database:
    """A database whose values are read by name; each process opens it for itself.

    Args:
        folder: holds ``data.mdb``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str) -> bool:
        """Whether a patch is there."""
        with _opened(self.folder).begin() as transaction, transaction.cursor() as cursor:
            return cursor.set_key(name.encode())

    def value(self, name: str) -> bytes:
        """A patch's value.

        Raises:
            RequestError: it is not there.
        """
        with _opened(self.folder).begin() as transaction:
            value = transaction.get(name.encode())
        if value is None:
            raise RequestError(f"{self.folder / DATABASE} holds no patch '{name}'; encode it again")
        return value


_OPEN: dict[Path, Any] = {}


def _opened(folder: Path) -> Any:
    """The open database, once per process: LMDB refuses a second time."""
    if folder in _OPEN:
        return _OPEN[folder]
    try:
        import lmdb  # deferred: an extra
    except ModuleNotFoundError as error:
        raise RequestError(f"{folder} needs the package lmdb; pip install 'frozen-earth[lmdb]'") from error
    try:
        _OPEN[folder] = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise RequestError(f"{folder / DATABASE} is damaged ({error}); encode it again") from error
    return _OPEN[folder]


def _close() -> None:
    while _OPEN:
        _OPEN.popitem()[1].close()


os.register_at_fork(before=_close)  # an open database must not cross a fork; both processes open it again


class LmdbBigEarthNet(EODataset):
    """Patches of a database; the ids are the names of the Sentinel-2 patches, whichever bands are read."""

    def __init__(self, *, database: Database, names: Mapping[str, list[str]], how: str, **about: Any) -> None:
        super().__init__(**about)
        self.database, self.names, self.how = database, names, how
        self.nodata = record(self.bands, self.statistics, {}) if how == "fill" else None

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`."""
        return [str(self.database.folder / DATABASE)]

    def read(self, index: int, bands: Sequence[Band]) -> list[np.ndarray]:
        """See `EODataset.read`: uint16 digital numbers, and float32 dB of Sentinel-1, each at its own resolution."""
        found: dict[str, np.ndarray] = {}
        for sensor in dict.fromkeys(band.sensor for band in bands):
            name = self.names[sensor][index]
            try:
                found |= load(self.database.value(name))
            except SafetensorError as error:
                raise RequestError(
                    f"{self.database.folder / DATABASE}: patch '{name}' is damaged ({error}); encode it again"
                ) from error
        if absent := [band.name for band in bands if band.name not in found]:
            raise RequestError(
                f"{self.database.folder / DATABASE}: '{self.ids[index]}' has no {', '.join(absent)}; encode it again"
            )
        return [self._plain(found[band.name], band) for band in bands]

    def _plain(self, pixels: np.ndarray, band: Band) -> np.ndarray:
        """(H, W) values; 0 of Sentinel-2, which the published files declare to be nodata, filled where asked."""
        plane = pixels.reshape(pixels.shape[-2:])
        if self.how == "fill" and band.sensor == "S2":
            return np.where(plane == 0, plane.dtype.type(round(self.statistics[band.name].mean)), plane)
        if self.how == "refuse" and band.sensor == "S2" and not plane.all():
            raise RequestError(f"{band.name} holds pixels without a measurement; use --nodata fill or keep")
        return plane


def _sensors(available: Sequence[Band], specs: Sequence[str]) -> list[str]:
    for spec in specs:
        try:
            return sorted({band.sensor for band in choose_bands(available, spec)}, reverse=True)
        except RequestError:
            continue
    return []


def _digest(database: Database, names: Sequence[str]) -> str:
    """Sha256 of the values of evenly spread patches."""
    digest = hashlib.sha256()
    for row in sorted({round(place) for place in np.linspace(0, len(names) - 1, SAMPLED).tolist()}):
        digest.update(database.value(names[row]))
    return digest.hexdigest()
