"""What is stored in an output folder: feature sets with sizes and ages, and what could be deleted."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from tabulate import tabulate

from data import paths, store
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
    """Parts of interrupted runs, whose process is gone, and cached UMAP projections; both can be made again."""
    found = []
    for parts in sorted(paths.feature_root(out).rglob("*.parts")):
        try:
            with Lock(paths.lock_file(parts.with_suffix(".h5"))):
                found.append(parts)
        except HeldError:  # being written
            continue
    return [*found, *sorted(paths.layout_cache(out).glob("umap-*.npz"))]


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
