"""Where all results are stored; no other module joins these paths."""

import hashlib
import os
import re
from pathlib import Path

from data.errors import RequestError

DEFAULT_OUT = Path("runs")
UNSAFE = re.compile(r"[/\\:\s\x00-\x1f\x7f<>|*?\"]+")
LONGEST = 160  # bytes of a name, of the 255 that disks allow: some more are put around it
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+")  # a Path makes one slash of the two


def slug(text: str) -> str:
    """A name from data (a model's, bands', a dataset's) as part of one folder's or file's name.

    Path separators, control characters and characters that are special in shells or on Windows become ``-``, and so
    do leading dots; a name that is too long for a file system is cut and gets a hash.
    """
    safe = re.sub(r"^\.+", "-", UNSAFE.sub("-", text)) or "-"
    if len(safe.encode()) > LONGEST:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        safe = safe.encode()[: LONGEST - 9].decode(errors="ignore") + "-" + digest
    return safe


def check_name(name: object, what: str) -> None:
    """Check that a recorded name is a plain folder name: a damaged or foreign record must not choose a path."""
    if not isinstance(name, str) or not name or UNSAFE.search(name) or name.startswith("."):
        raise RequestError(f"{what} is {str(name)[:80]!r}, which is not a valid folder name; the record is damaged")


def check_local(path: Path) -> None:
    """Refuse addresses such as ``s3://bucket`` where a folder or file is expected."""
    if (address := ADDRESS.match(str(path))) and not path.exists():
        name = f"{address[1]}://{str(path)[address.end() :]}"
        raise RequestError(f"{name} is a URL; only local or mounted disks are supported: mount it")


def data_root(given: Path | None) -> Path:
    """Folder of the raw data: the flag, else ``EO_DATA_ROOT``, else ``datasets``."""
    return given or Path(os.environ.get("EO_DATA_ROOT", "datasets"))


def user_cache() -> Path:
    """Folder for files that can be made again: ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "frozen-earth"


def dataset_root(given: Path | None, dataset: str, *, download: bool = False) -> Path:
    """Folder of one dataset's files: the data root's folder of that name where there is one, else the root itself."""
    root = data_root(given)
    own = root / slug(dataset)
    return own if own.is_dir() or (download and not any(root.glob("*"))) else root


def feature_root(out: Path) -> Path:
    """Folder of all feature sets under an output folder."""
    return out / "features"


def feature_folder(out: Path, dataset: str, encoder: str) -> Path:
    """Folder of one feature set: one dataset and one encoder, with one file per split."""
    return feature_root(out) / _named(dataset) / _named(encoder)


def feature_file(folder: Path, split: str) -> Path:
    """The published features of one split."""
    return folder / f"{split}.h5"


def labels_file(out: Path, dataset: str) -> Path:
    """Names the labels of a scene's windows, for all encoders."""
    return feature_root(out) / _named(dataset) / "labels.json"


def labels_beside(features: Path) -> Path:
    """Names the labels of the windows of a feature folder, wherever it is; see `labels_file`."""
    return features.resolve().parent / "labels.json"


def view_file(folder: Path, split: str, view: int) -> Path:
    """The features of one augmented view of a split, in a folder of their own: they are no split."""
    return folder / "views" / f"{split}-{view}.h5"


def parts_folder(feature_file: Path) -> Path:
    """Parts and journals of an unfinished split."""
    return feature_file.with_suffix(".parts")


def lock_file(feature_file: Path) -> Path:
    """Lock of the process that is writing a split."""
    return feature_file.with_suffix(".lock")


def ranks_folder(out: Path, token: str) -> Path:
    """Where the processes of one run find each other."""
    return feature_root(out) / f".run-{token}"


def feature_folders(out: Path) -> list[Path]:
    """Every folder below `out` that holds published features, sorted."""
    return sorted({path.parent for path in feature_root(out).glob("*/*/*.h5")})


def probe_root(out: Path) -> Path:
    """Folder of all probe runs under an output folder."""
    return out / "probes"


def run_folder(out: Path, dataset: str, encoder: str, run: str) -> Path:
    """Folder of one probe run (``run`` is ``<kind>-<hash>``)."""
    return probe_root(out) / _named(dataset) / _named(encoder) / _named(run)


def sweep_folder(out: Path, dataset: str, encoder: str, name: str) -> Path:
    """Folder of the tables of several runs on one feature set."""
    return out / "sweeps" / _named(dataset) / _named(encoder) / _named(name)


def _named(name: str) -> str:
    check_name(name, "the name of a dataset, an encoder or a run")
    return name


def run_folders(out: Path) -> list[Path]:
    """Every folder below `out` that holds a finished run, sorted."""
    return sorted(path.parent for path in probe_root(out).glob("*/*/[!.]*/run.json"))


def analysis_folder(out: Path, view: str) -> Path:
    """Folder of one view's figures and tables."""
    return out / "analysis" / view


def bench_file(out: Path, machine: str) -> Path:
    """Where `featurize bench` keeps what it measured on a machine."""
    return out / "bench" / f"{re.sub(r'[^a-z0-9.]+', '-', machine.lower()).strip('-')}.json"


def layout_cache(out: Path) -> Path:
    """Folder where computed UMAP layouts are kept, by identity."""
    return out / "analysis" / "cache"


def report_folder(out: Path) -> Path:
    """Folder of the report and its ``index.html``."""
    return out / "report"
