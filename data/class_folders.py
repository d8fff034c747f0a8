"""Class folders of images: one folder per class, with or without split folders around them."""

from pathlib import Path

from data.command import note
from data.errors import RequestError
from data.images import SUFFIXES
from data.listing import SPLIT_NAMES, Listing, check_class_names, make_labels, path_hash

# Formats that users have and that are not read: leaving them out quietly would change the dataset.
FOREIGN = (".jp2", ".webp", ".bmp", ".gif", ".npy", ".npz", ".heic", ".avif", ".hdf", ".nc", ".img")
# What operating systems, network storage and archivers leave between people's files.
CLUTTER = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "#recycle"})
LAYOUT = "expected DIR/<split>/<class>/<image>, DIR/<class>/<image>, or DIR/labels.csv"


def read_class_folders(root: Path) -> Listing:
    """List the images of class folders, or images without classes as an unlabelled test split.

    Raises:
        RequestError: there are none, or the folders mix what must be kept apart.
    """
    found = folders(root)
    as_splits = [folder for folder in found if folder.name.strip().lower() in SPLIT_NAMES]
    if as_splits and len(as_splits) < len(found):
        others = ", ".join(folder.name for folder in found if folder not in as_splits)
        raise RequestError(f"{root} mixes split folders ({as_splits[0].name}) and others ({others}); {LAYOUT}")
    images: dict[Path, tuple[str | None, str]] = {}  # path: (class, split)
    if found:
        _check_stray(root)
    for split_folder in as_splits or [root]:
        split = SPLIT_NAMES[split_folder.name.strip().lower()] if as_splits else "test"
        within = folders(split_folder)
        if not within and split == "test":
            images |= {path: (None, split) for path in _images(split_folder)}
            continue
        _check_stray(split_folder)
        for folder in within:
            of_class = _images(folder)
            cut = dict.fromkeys(of_class, split) if as_splits else _cut(of_class, root)
            images |= {path: (folder.name, split) for path, split in cut.items()}
    if not images:
        raise RequestError(f"no images ({', '.join(SUFFIXES)}) in class folders in {root}; {LAYOUT}")
    labels, class_names = make_labels(
        [[name] if name is not None else [] for name, _ in images.values()], several=False
    )
    check_class_names(class_names, root)
    paths = [path.relative_to(root).as_posix() for path in images]
    splits = [split for _, split in images.values()]
    return Listing(
        paths=paths,
        ids=paths,
        splits=splits,
        labels=labels,
        class_names=class_names,
        lonlat=None,
        how="split folders" if as_splits else "each class 60/20/20 by sha256 of the relative path",
        unlabelled=frozenset(split for (name, split) in images.values() if name is None),
    )


def folders(root: Path) -> list[Path]:
    """The folders in a folder, sorted, without hidden ones and clutter."""
    found = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    clutter = [path.name for path in found if path.name.lower() in CLUTTER]
    if clutter:
        note(f"skipped {', '.join(clutter)} in {root}: not images of yours")
    return [path for path in found if path.name not in clutter]


def _check_stray(folder: Path) -> None:
    """Raise a RequestError if images lie beside the class folders: left out quietly they would change the dataset."""
    stray = sorted(path.name for path in folder.iterdir() if _is_image(path))
    if stray:
        raise RequestError(f"{folder} holds {len(stray)} images outside class folders, first {stray[0]}; {LAYOUT}")


def _images(folder: Path) -> list[Path]:
    """The images of a class folder, sorted; anything that looks like data but cannot be read is an error."""
    nested = folders(folder)
    if nested:
        inner = "; if that is where the class folders are, name it with --data-root" if folders(nested[0]) else ""
        inner = inner or f"; if its folders are the classes, give --data-root {folder}"
        raise RequestError(f"{folder} holds the folder '{nested[0].name}' where images were expected; {LAYOUT}{inner}")
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    foreign = [path.name for path in files if path.suffix.lower() in FOREIGN]
    if foreign:
        raise RequestError(
            f"{folder} holds {len(foreign)} files in formats that are not read, first {foreign[0]}; "
            "convert them to PNG or TIFF, or move them away"
        )
    return [path for path in files if _is_image(path)]


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def _cut(images: list[Path], root: Path) -> dict[Path, str]:
    """Split the images of one class, by the order of their paths' hashes; returned in the order of the paths."""
    by_hash = sorted(images, key=lambda path: path_hash(path.relative_to(root).as_posix()))
    first, second = round(0.6 * len(images)), round(0.8 * len(images))
    train, val = set(by_hash[:first]), set(by_hash[first:second])
    return {path: "train" if path in train else "val" if path in val else "test" for path in images}
