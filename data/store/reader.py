"""Reading feature files, and finding the one that a command means."""

import copy
import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
from jaxtyping import Float, Float32, Int32, Integer, Shaped, UInt64

from data import paths
from data.dataset import SPLITS
from data.errors import RequestError
from data.files import explained
from data.scene.grid import grids_of
from data.seen import PIXELS
from data.store.child import Damaged, inspected, signature
from data.store.identity import dataset_slug

if TYPE_CHECKING:
    import pandas as pd

CHUNK_ROWS = 1024
BLOCK_ROWS = 8 * CHUNK_ROWS  # hashed at a time
REPLACED_AT_MOST = 10  # times, while it is opened
REMEDY = "featurize verify --repair {file} keeps the intact rows and recomputes the rest"


@dataclass(frozen=True)
class FeatureSet:
    """One split of a feature set.

    Args:
        file: the feature file.
        features: float16 or float32; in memory, or on disk and read by slices.
        labels: (N, K) uint8 or (N,) int64.
        ids: N names.
        lonlat: (N, 2) degrees, or None.
        class_names: K names.
        identity: everything that decides the values.
        environment: what else was recorded with them.
        views: augmented views of the same images, if a probe is fitted on them too.
        features_sha256: digest stored with the file, which the features matched when it was opened; None for features
            that are not those of a whole file.
        not_finite: rows of the file that hold NaN or infinity.
        footprint: (N, 3) int32 scene, row and column of each window (`data.scene.grid`); None for other samples.
    """

    file: Path
    features: Float[Any, "samples dim"]
    labels: Integer[np.ndarray, "samples ..."]
    ids: list[str]
    lonlat: Float[np.ndarray, "samples 2"] | None
    class_names: tuple[str, ...]
    identity: dict[str, Any]
    environment: dict[str, Any]
    views: tuple["FeatureSet", ...] = ()
    features_sha256: str | None = None
    not_finite: int = 0
    footprint: Int32[np.ndarray, "windows 3"] | None = None
    geometry = None  # read when asked for, see `read_geometries`

    @cached_property
    def digest(self) -> str:
        """sha256 of the features: the one stored with the file, else computed once."""
        return self.features_sha256 or _digest(self.features)

    @property
    def multilabel(self) -> bool:
        """Whether a sample may have several classes."""
        return self.labels.ndim == 2

    @property
    def simulated(self) -> bool:
        """Whether the samples were simulated; results must say so."""
        return bool(self.identity["dataset"]["provenance"].get("simulated"))

    @property
    def X(self) -> Float32[np.ndarray, "samples dim"]:
        """The features as scikit-learn takes them."""
        return np.asarray(self.features[:], dtype=np.float32)

    @property
    def y(self) -> Integer[np.ndarray, "..."]:
        """The labels: (N,) class numbers, -1 for unlabeled, or (N, K) of 0 and 1 for multi-label data."""
        return self.labels

    def to_pandas(self) -> "pd.DataFrame":
        """A row per sample: ``id``, ``lon`` and ``lat`` where known, ``label`` and ``class`` (for multi-label data
        ``class: <name>`` of 0 and 1 for every class), then the features ``f0000 f0001 ...``.
        """
        import pandas as pd  # deferred: most readers need no table

        where = {} if self.lonlat is None else {"lon": self.lonlat[:, 0], "lat": self.lonlat[:, 1]}
        if self.multilabel:
            truth = {f"class: {name}": self.labels[:, k] for k, name in enumerate(self.class_names)}
        else:
            names = np.array([*self.class_names, None], dtype=object)  # None is last: the label -1
            truth = {"label": self.labels, "class": names[self.labels]}
        values = {f"f{d:04d}": column for d, column in enumerate(np.asarray(self.features[:]).T)}
        return pd.DataFrame({"id": self.ids, **where, **truth, **values})

    def to_geopandas(self) -> Any:
        """As `to_pandas`, as a GeoDataFrame: the samples' footprints where known, else points; needs the extra geo.

        Raises:
            RequestError: the samples have no locations, or GeoPandas is not installed.
        """
        if self.lonlat is None:
            raise RequestError(f"{self.file} has no locations; use to_pandas")
        try:
            import geopandas  # deferred: an extra
        except ImportError as error:
            raise RequestError("to_geopandas needs geopandas: pip install 'frozen-earth[geo]'") from error
        frame = self.to_pandas().drop(columns=["lon", "lat"])
        return geopandas.GeoDataFrame(frame, geometry=read_geometries(self), crs="OGC:CRS84")


def _digest(features: Any) -> str:
    found = hashlib.sha256()
    for start in range(0, len(features), BLOCK_ROWS):
        found.update(np.ascontiguousarray(features[start : start + BLOCK_ROWS]).tobytes())
    return found.hexdigest()


def open_hdf5(file: Path) -> Any:
    """Open an HDF5 file for reading; typed loosely, as h5py cannot tell what a name in a file holds.

    HDF5's locking is off, as it fails on disks without file locks: a published file is never written again.
    """
    return h5py.File(file, "r", locking=False)


def read_features(file: Path, *, lazy: bool = False) -> FeatureSet:
    """Read one feature file, after checking its attributes and arrays against their checksums.

    Args:
        file: the feature file.
        lazy: leave the features on disk and read slices of them on demand, from this file even if another one takes
            its name.

    Raises:
        RequestError: absent, not HDF5, damaged, or of another schema.
    """
    file = Path(file)
    for _ in range(REPLACED_AT_MOST):
        before = signature(_present(file))
        about = _inspected(file, "features")
        with ExitStack() as stack:
            try:
                source = stack.enter_context(open_hdf5(file))
                found = FeatureSet(
                    file=file,
                    features=source["features"] if lazy else source["features"][:],
                    labels=source["labels"][:],
                    ids=[value.decode() for value in source["ids"][:]],
                    lonlat=source["lonlat"][:] if "lonlat" in source else None,
                    class_names=tuple(about["identity"]["dataset"]["class_names"]),
                    identity=copy.deepcopy(about["identity"]),
                    environment=copy.deepcopy(about["environment"]),
                    features_sha256=about["checksums"]["features"],
                    not_finite=about["not_finite"],
                    footprint=source["footprint"][:] if "footprint" in source else None,
                )
            except (OSError, KeyError, ValueError, RuntimeError) as error:  # h5py's, of damaged files
                raise _unreadable(file, error) from error
            if signature(file) != before:
                continue  # another process has published its own: look into that one
            if lazy:
                stack.pop_all()  # stays open until the features are no longer referred to
            return found
    raise RequestError(f"{file} was replaced {REPLACED_AT_MOST} times while it was read; wait for the other processes")


def read_identity(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Identity and environment of a feature file, checked, without reading its arrays.

    Raises:
        RequestError: as `read_features`.
    """
    about = _inspected(_present(file), "identity")
    return copy.deepcopy(about["identity"]), copy.deepcopy(about["environment"])


def read_sources(file: Path) -> UInt64[np.ndarray, "samples 2"] | None:
    """Stamps and checksums of the images that features were made from, see `data.seen`; None if not recorded."""
    try:
        with open_hdf5(file) as source:
            return source["sources"][:] if "sources" in source else None
    except (OSError, KeyError, ValueError, RuntimeError) as error:  # h5py's, of damaged files
        raise _unreadable(file, error) from error


def read_geometries(features: FeatureSet) -> Shaped[np.ndarray, " samples"] | None:
    """Geometries of a whole feature file's samples: as stored, the squares of windows, or points.

    Returns:
        (N,) shapely geometries in WGS 84 longitude and latitude; None without locations.
    """
    import shapely  # deferred: only for geometries

    with open_hdf5(features.file) as source:
        if "geometry" in source:
            return shapely.from_wkb(source["geometry"][:].astype(str))
    if features.footprint is not None:
        grids, found = grids_of(features.identity["dataset"]["provenance"]), np.empty(len(features.ids), object)
        for number, grid in enumerate(grids):
            here = features.footprint[:, 0] == number
            found[here] = grid.boxes(features.footprint[here, 1:])
        return found
    return None if features.lonlat is None else np.asarray(shapely.points(features.lonlat))


def knows_all_pixels(file: Path) -> bool:
    """Whether a feature file records a checksum of the pixels of every image."""
    sources = read_sources(file)
    return sources is not None and bool((sources[:, PIXELS] != 0).all())


def _present(file: Path) -> Path:
    if not file.is_file():
        raise RequestError(f"no feature file at {file}; name a file such as train.h5, or make it with featurize")
    return file


def _inspected(file: Path, wanted: str) -> dict[str, Any]:
    try:
        return inspected(file, wanted)
    except Damaged as error:
        raise Damaged(f"{error}; {REMEDY.format(file=file)}") from error
    except OSError as error:
        raise explained(error, file) from error


def _unreadable(file: Path, error: Exception) -> RequestError:
    if isinstance(error, OSError) and error.errno:  # the file system's, which say nothing about the file's content
        return RequestError(str(explained(error, file)))
    return Damaged(f"{file} is damaged: HDF5 cannot read it ({type(error).__name__}); {REMEDY.format(file=file)}")


def find_features(out: Path, *, model: str | None = None, dataset: str | None = None) -> Path:
    """The one feature folder under `out` that fits; a feature set is a folder with one file per split.

    Args:
        out: output folder.
        model: model name, or its folder name with the hash; None fits all.
        dataset: dataset name, or its folder name with the variant; None fits all.

    Raises:
        RequestError: none fits, or several do; the message lists them and says which flag chooses.
    """
    fitting = []
    for folder in paths.feature_folders(out):
        try:
            identity, _ = read_identity(next(iter(sorted(folder.glob("*.h5")))))
        except Damaged:
            others = model is not None and not folder.name.startswith(paths.slug(model))
            if others or (dataset is not None and not folder.parent.name.startswith(dataset)):
                continue  # not requested
            raise
        if model not in (None, identity["encoder"]["name"], folder.name):
            continue
        if dataset not in (None, identity["dataset"]["name"], dataset_slug(identity)):
            continue
        fitting.append(folder)
    if not fitting:
        wanted = " ".join(f"--{k} {v}" for k, v in (("model", model), ("dataset", dataset)) if v)
        raise RequestError(
            f"no features {f'for {wanted} ' if wanted else ''}under {paths.feature_root(out)}; make them with featurize"
        )
    if len(fitting) > 1:
        raise RequestError(
            f"{len(fitting)} feature sets match; choose one with --model, --dataset or --features: "
            + ", ".join(str(folder) for folder in fitting)
        )
    return fitting[0]


def splits_in(folder: Path) -> list[str]:
    """Splits published in a feature folder, in the usual order."""
    return [split for split in SPLITS if paths.feature_file(folder, split).exists()]
