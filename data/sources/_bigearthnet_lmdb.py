"""BigEarthNet v2 as one LMDB database, as rico-hdl encodes it: a patch's name to its bands as safetensors."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from safetensors import SafetensorError
from safetensors.numpy import load

from data.bands import Band
from data.dataset import EODataset, Statistic
from data.errors import RequestError
from data.flags import SPLITS, DatasetRequest
from data.nomenclature import CLASSES_19
from data.sources import _bigearthnet_patches as patches_of
from data.sources._bigearthnet_files import first_of
from data.sources._bigearthnet_patches import METADATA, Patches

DATABASE = "data.mdb"
SAMPLED = 16  # patches of a split whose contents go into its digest


def find_database(root: Path) -> Path | None:
    """Folder of the database: the data root, or the only folder in it that holds one."""
    found = sorted(path.parent for pattern in (DATABASE, f"*/{DATABASE}") for path in root.glob(pattern))
    if len(found) > 1:
        raise RequestError(f"{root} holds {len(found)} databases, {found[0].name} and {found[1].name} first; keep one")
    return found[0] if found else None


def open_database(request: DatasetRequest, folder: Path, statistics: Mapping[str, Statistic]) -> dict[str, EODataset]:
    """Open splits; labels and splits are those of ``metadata.parquet`` beside the database or in it."""
    options, root = request.options, request.root
    home, database = root if (root / METADATA).is_file() else folder, Database(folder)
    listed = SPLITS if options.allow_missing or options.drop_snow_cloud else request.splits
    splits = patches_of.read_metadata(home, listed, ["S1", "S2"])
    first = next(iter(splits.values())).names
    here = [sensor for sensor in ("S2", "S1") if any(database.has(name) for name in first[sensor][:SAMPLED])]
    if not here:
        raise RequestError(
            f"{folder} contains none of the first {SAMPLED} patches of {home / METADATA}; both must be of "
            "BigEarthNet v2"
        )
    sensors = first_of(request.bands, here) or here

    def absent(splits: Mapping[str, Patches]) -> dict[str, np.ndarray]:
        names = {split: zip(*(patches.names[s] for s in sensors), strict=True) for split, patches in splits.items()}
        return {split: ~np.array([all(map(database.has, of)) for of in rows], bool) for split, rows in names.items()}

    provenance: dict[str, Any] = {"classes": len(CLASSES_19), "split": METADATA}
    splits = patches_of.kept(request, splits, provenance, absent, str(folder), "encode them too,")
    return {
        split: LmdbBigEarthNet(
            database=database,
            **patches_of.described(request, split, splits[split], sensors, statistics),
            variant="v2",
            labels=splits[split].labels,
            class_names=CLASSES_19,
            lonlat=patches_of.locations(splits[split].names["S2"]),
            provenance=provenance,
            files_digest={sensor: _digest(database, splits[split].names[sensor]) for sensor in sensors},
        )
        for split in request.splits
    }


class Database:
    """A database whose values are read by name; each process opens it for itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def has(self, name: str) -> bool:
        """Whether a patch is there."""
        with _opened(self.folder).begin() as transaction, transaction.cursor() as cursor:
            return cursor.set_key(name.encode())

    def value(self, name: str) -> bytes:
        """A patch's value."""
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


class LmdbBigEarthNet(patches_of.PatchDataset):
    """Patches of a database."""

    def __init__(self, *, database: Database, **about: Any) -> None:
        super().__init__(**about)
        self.database = database

    def files(self, index: int, bands: Sequence[Band]) -> list[str]:
        """See `EODataset.files`."""
        return [str(self.database.folder / DATABASE)]

    def read(self, index: int, bands: Sequence[Band]) -> list[Shaped[np.ndarray, "_ _"]]:
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


def _digest(database: Database, names: Sequence[str]) -> str:
    """Sha256 of the values of evenly spread patches."""
    digest = hashlib.sha256()
    for row in sorted({round(place) for place in np.linspace(0, len(names) - 1, SAMPLED).tolist()}):
        digest.update(database.value(names[row]))
    return digest.hexdigest()
