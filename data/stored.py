"""What is stored in an output folder: feature sets with sizes and ages, and what could be deleted."""

import json
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from tabulate import tabulate

from data import paths, store
from data.cached import UNUSABLE
from data.errors import RequestError
from data.lock import HeldError, Lock

UNITS = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
AGES = ((86_400, "days"), (3_600, "hours"), (60, "minutes"))


def stored_features(out: Path) -> str:
    """A table of the feature sets in an output folder.

    Raises:
        RequestError: there are none.
    """
    rows = list(_rows(out))
    if not rows:
        raise RequestError(f"no features under {paths.feature_root(out)}; make them with featurize")
    return tabulate(
        rows, headers=["dataset", "features", "images", "dim", "size", "age", "runs"], disable_numparse=True
    )


def _rows(out: Path) -> Iterator[list[str]]:
    unfinished = {path.parent for path in paths.feature_root(out).glob("*/*/*.parts")}
    for folder in sorted({*paths.feature_folders(out), *unfinished}):
        images, dim = [], ""
        for split in store.splits_in(folder):
            try:
                features = store.read_features(paths.feature_file(folder, split), lazy=True).features
                images.append(f"{split} {features.shape[0]:,}")
                dim = f"{features.shape[1]:,}"
            except RequestError:  # which verify explains
                images.append(f"{split} damaged")
        images += [f"{path.stem} unfinished" for path in sorted(folder.glob("*.parts"))]
        newest = max((path.stat().st_mtime for path in folder.rglob("*")), default=time.time())
        runs = len(list(paths.probe_root(out).glob(f"{folder.parent.name}/{folder.name}/[!.]*/run.json")))
        about = [", ".join(images), dim, words_of_size(size_of(folder)), words_of_age(time.time() - newest), str(runs)]
        yield [folder.parent.name, folder.name, *about]


def left_over(out: Path) -> list[Path]:
    """Parts of interrupted runs, whose process is gone, and cached UMAP projections that no command would use again."""
    found = []
    for parts in sorted(paths.feature_root(out).rglob("*.parts")):
        try:
            with Lock(paths.lock_file(parts.with_suffix(".h5"))):
                found.append(parts)
        except HeldError:  # being written
            continue
    layouts = sorted(paths.layout_cache(out).glob("umap-*.npz"))
    files = [file for folder in paths.feature_folders(out) for file in folder.glob("*.h5")] if layouts else []
    digests = {digest for file in files if (digest := _digest_of(file))}
    return [*found, *(layout for layout in layouts if _unused(layout, digests))]


def _digest_of(file: Path) -> str | None:
    try:
        return store.read_features(file, lazy=True).features_sha256
    except RequestError:  # which verify explains
        return None


def _unused(layout: Path, digests: set[str]) -> bool:
    """Whether a projection is damaged, of other versions of its packages, or of features that are gone."""
    try:
        with np.load(layout, allow_pickle=False) as kept:
            versions = json.loads(str(kept["identity"]))["versions"]
            sources = set(kept["sources"].tolist()) if "sources" in kept else set()  # not recorded before 0.2
        return not sources <= digests or any(version(name) != used for name, used in versions.items())
    except (*UNUSABLE, PackageNotFoundError):  # or of a package that is gone
        return True


def delete(path: Path) -> None:
    """Delete what `left_over` found.

    Raises:
        HeldError: a process has begun to write it.
    """
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return
    with Lock(paths.lock_file(path.with_suffix(".h5"))):
        shutil.rmtree(path)


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(one.stat().st_size for one in (path.rglob("*") if path.is_dir() else [path]) if one.is_file())


def words_of_size(size_bytes: float) -> str:
    """Such as 1.5 MB."""
    return next(
        (f"{size_bytes / unit:.1f} {word}" for unit, word in UNITS if size_bytes >= unit), f"{size_bytes:.0f} B"
    )


def words_of_age(seconds: float) -> str:
    """Such as 3 days."""
    return next(
        (f"{seconds / unit:.0f} {word}" for unit, word in AGES if seconds >= 2 * unit), f"{seconds:.0f} seconds"
    )
