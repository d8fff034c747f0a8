"""Class folders of images: one folder per class, with or without split folders around them."""

import os
from collections.abc import Mapping
from pathlib import Path

from data.command import note
from data.errors import RequestError
from data.images import SUFFIXES
from data.listing import SPLIT_NAMES, Listing, check_class_names, cut, make_labels

# Formats that users have and that are not read: skipping them silently would change the dataset.
FOREIGN = (".jp2", ".webp", ".bmp", ".gif", ".npy", ".npz", ".heic", ".avif", ".hdf", ".nc", ".img")
# What operating systems, network storage and archivers leave between people's files.
CLUTTER = frozenset({"__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "#recycle"})
LAYOUT = "expected DIR/<split>/<class>/<image>, DIR/<class>/<image>, or DIR/labels.csv"


class Directories:
    """Entries of the folders below `root`, each folder read from disk once, however many paths are looked up."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._read: dict[str, Mapping[str, os.DirEntry[str]]] = {}

    def __getitem__(self, folder: str) -> Mapping[str, os.DirEntry[str]]:
        """Entries by name of a folder, itself relative to the root."""
        if folder not in self._read:
            with os.scandir(self.root / folder) as entries:
                self._read[folder] = {entry.name: entry for entry in entries}
        return self._read[folder]

    def folders(self, folder: str) -> list[str]:
        """The folders in a folder, sorted paths relative to the root, without hidden ones and clutter."""
        names = sorted(name for name, entry in self[folder].items() if not name.startswith(".") and entry.is_dir())
        clutter = [name for name in names if name.lower() in CLUTTER]
        if clutter:
            note(
                f"skipped {', '.join(clutter)} in {self.root / folder}: created by the operating system or an archiver"
            )
        return [os.path.join(folder, name) for name in names if name not in clutter]

    def images(self, folder: str) -> list[str]:
        """The images in a folder, sorted paths relative to the root."""
        return [os.path.join(folder, name) for name in sorted(self[folder]) if _is_image(name)]


def read_class_folders(listed: Directories) -> Listing:
    """List the images of class folders, or images without classes as an unlabeled test split."""
    root, found = listed.root, listed.folders("")
    as_splits = [folder for folder in found if folder.strip().lower() in SPLIT_NAMES]
    if as_splits and len(as_splits) < len(found):
        others = ", ".join(folder for folder in found if folder not in as_splits)
        raise RequestError(f"{root} mixes split folders ({as_splits[0]}) and others ({others}); {LAYOUT}")
    images: dict[str, tuple[str | None, str]] = {}  # path: (class, split)
    if found:
        _check_stray(listed, "")
    for split_folder in as_splits or [""]:
        split = SPLIT_NAMES[split_folder.strip().lower()] if as_splits else "test"
        within = listed.folders(split_folder)
        if not within and split == "test":
            images |= {path: (None, split) for path in _images(listed, split_folder)}
            continue
        _check_stray(listed, split_folder)
        for folder in within:
            of_class = _images(listed, folder)
            splits = [split] * len(of_class) if as_splits else cut(of_class, [[folder]] * len(of_class))
            images |= {path: (os.path.basename(folder), of) for path, of in zip(of_class, splits, strict=True)}
    if not images:
        raise RequestError(f"no images ({', '.join(SUFFIXES)}) in class folders in {root}; {LAYOUT}")
    labels, class_names = make_labels(
        [[name] if name is not None else [] for name, _ in images.values()], several=False
    )
    check_class_names(class_names, root)
    return Listing(
        paths=list(images),
        ids=list(images),
        splits=[split for _, split in images.values()],
        labels=labels,
        class_names=class_names,
        lonlat=None,
        how="split folders" if as_splits else "each class 60/20/20 by sha256 of the relative path",
        unlabelled=frozenset(split for (name, split) in images.values() if name is None),
    )


def _check_stray(listed: Directories, folder: str) -> None:
    """Raise a RequestError for images next to the class folders: skipping them silently would change the dataset."""
    if stray := listed.images(folder):
        where, first = listed.root / folder, os.path.basename(stray[0])
        raise RequestError(f"{where} holds {len(stray)} images outside class folders, first {first}; {LAYOUT}")


def _images(listed: Directories, folder: str) -> list[str]:
    """The images of a class folder; anything that looks like data but cannot be read is an error."""
    where = listed.root / folder
    if nested := listed.folders(folder):
        inner = "; if that is where the class folders are, pass it as --data-root" if listed.folders(nested[0]) else ""
        inner = inner or f"; if its folders are the classes, pass --data-root {where}"
        name = os.path.basename(nested[0])
        raise RequestError(f"{where} holds the folder '{name}', expected images; {LAYOUT}{inner}")
    foreign = sorted(name for name in listed[folder] if not name.startswith(".") and _suffix(name) in FOREIGN)
    if foreign:
        raise RequestError(
            f"{where} holds {len(foreign)} files in unsupported formats, first {foreign[0]}; convert them to PNG or "
            "TIFF, or move them away"
        )
    return listed.images(folder)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and _suffix(name) in SUFFIXES


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()
