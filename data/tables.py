"""Label tables of a user's images: which columns mean what, labels in every form, and wrong rows named by line.

``labels.csv`` or ``labels.parquet``, or one table per split as the common EuroSAT downloads have them: ``train.csv``,
``validation.csv``, ``test.csv`` with columns such as ``Filename, Label, ClassName`` and a ``label_map.json``. Or
``metadata.csv``, ``.jsonl`` or ``.parquet`` in the folder or its split folders, as Hugging Face's ``imagefolder`` has
them: paths are relative to the table, and splits may be told by folders or not at all.
"""

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from data.command import note
from data.csvfile import SHOWN, read_csv
from data.errors import RequestError
from data.listing import SPLIT_NAMES, Listing, cut, folded, make_labels

TABLES = ("labels.csv", "labels.parquet")
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
LABEL_MAP = "label_map.json"
# Headers by what they mean, in any case; the first of each goes before the others where a table has several.
COLUMNS = {
    "path": ("path", "filename", "file_name", "file", "filepath", "file_path", "image", "image_path"),
    "labels": ("labels", "classes", "tags"),
    "label": ("label", "classname", "class_name", "class", "category"),
    "split": ("split", "subset", "fold", "partition"),
    "id": ("id",),
    "lon": ("lon", "longitude"),
    "lat": ("lat", "latitude"),
}
CLASS_NAMES = ("classname", "class_name", "class")  # go before a Label of numbers
MISSING = ("nan", "null", "n/a", "#n/a", "<na>")  # what spreadsheets and pandas write for a missing value
HOLDS_LISTS = "the column label holds lists; call it labels for a multi-label set"


def find_tables(root: Path) -> dict[Path, str | None]:
    """The tables of a folder, and the split of each if its name gives it.

    Raises:
        RequestError: it holds two that contradict each other.
    """
    found = [root / name for name in TABLES if (root / name).is_file()]
    if len(found) == 2:
        raise RequestError(f"{root} holds both {TABLES[0]} and {TABLES[1]}; keep one of them")
    if found:
        return {found[0]: None}
    if metadata := _find_metadata(root):
        return metadata
    by_split: dict[str, Path] = {}
    for name, split in SPLIT_NAMES.items():
        file = root / f"{name}.csv"
        if file.is_file() and _lists_images(file):
            if split in by_split:
                raise RequestError(f"{root} holds both {by_split[split].name} and {file.name}; keep one of them")
            by_split[split] = file
    if not {"train", "test"} <= set(by_split):
        for file in by_split.values():
            note(f"{file} is ignored: split tables are read if there are both train.csv and test.csv")
        return {}
    return {file: split for split, file in by_split.items()}


def _find_metadata(root: Path) -> dict[Path, str | None]:
    """Tables of Hugging Face's ``imagefolder`` that hold labels: one for all, or one in each split folder."""
    homes: dict[Path, str | None] = {root: None}
    homes |= {path: SPLIT_NAMES[path.name.lower()] for path in sorted(root.iterdir()) if _is_split_folder(path)}
    found: dict[Path, str | None] = {}
    for home, split in homes.items():
        tables = [home / name for name in METADATA if (home / name).is_file()]
        if len(tables) > 1 or (tables and root in [table.parent for table in found]):
            first = next(iter(found), tables[0])
            raise RequestError(f"{root} holds both {first.name} and {tables[-1].relative_to(root)}; keep one of them")
        labelled = [table for table in tables if _lists_images(table)]
        if tables and not labelled:
            note(f"{tables[0]} is ignored: it has no column file_name, or none with labels")
        found |= dict.fromkeys(labelled, split)
    splits = [split for split in homes.values() if split]
    if found and root not in [table.parent for table in found] and len(found) < len(splits):
        lacking = [home for home in homes if home not in [root, *(table.parent for table in found)]]
        raise RequestError(f"{lacking[0]} has no {METADATA[0]} although other split folders have one; add it")
    return found


def _is_split_folder(path: Path) -> bool:
    return path.is_dir() and path.name.lower() in SPLIT_NAMES


def _lists_images(file: Path) -> bool:
    if file.suffix != ".csv":
        header = {str(name).lower() for name in _rows(file).columns}
        return bool(header & set(COLUMNS["path"])) and bool(header & {*COLUMNS["label"], *COLUMNS["labels"]})
    try:
        with file.open(encoding="utf-8-sig", errors="replace") as text:
            header = {name.strip().strip('"').lower() for name in re.split("[,;\t|]", text.readline())}
    except OSError:
        return False
    return bool(header & set(COLUMNS["path"])) and bool(header & {*COLUMNS["label"], *COLUMNS["labels"]})


def read_tables(root: Path, tables: dict[Path, str | None]) -> Listing:
    """The samples that tables list.

    Args:
        root: the folder that their paths are relative to.
        tables: as `find_tables` gives them.

    Raises:
        RequestError: columns are missing, or rows are wrong; the message names the first of them by line.
    """
    read = [_read(root, table, split) for table, split in tables.items()]
    several = read[0].several
    if any(part.several != several for part in read):
        raise RequestError(f"the tables in {root} differ in their label columns; use label or labels in all")
    joined = _Part(
        table=read[0].table,
        several=several,
        where=[name for part in read for name in part.where],
        columns={
            key: [value for part in read for value in part.columns[key]]
            for key in read[0].columns
            if all(key in part.columns for part in read)
        },
    )
    paths, ids = joined.columns["path"], joined.columns.get("id", joined.columns["path_as_id"])
    joined.refuse(_repeated(paths), "repeat a path; keep one row per path, in one split", column="path")
    joined.refuse(_repeated(ids), "repeat an id; ids must be unique", column="id" if "id" in joined.columns else "path")
    names, splits = joined.columns["names"], joined.columns["split"]
    unlabelled = frozenset(s for s in set(splits) if not any(n for n, of in zip(names, splits, strict=True) if of == s))
    without = [not chosen and split not in unlabelled for chosen, split in zip(names, splits, strict=True)]
    joined.refuse(
        without,
        "have no label although others of their split have; label them, or give unlabelled images a split of their own",
    )
    _check_spelling(joined)
    how = ", ".join(dict.fromkeys(table.name for table in tables))
    if not any(splits):
        splits, how = cut(paths, names), f"{how}; each class 60/20/20 by sha256 of the relative path"
    labels, class_names = make_labels(names, several=several)
    if several and class_names and all(len(chosen) < 2 for chosen in names):
        note(f"{read[0].table}: no row has more than one of its labels; separate several by ';'")
    return Listing(
        paths=paths,
        ids=ids,
        splits=splits,
        labels=labels,
        class_names=class_names,
        lonlat=_lonlat(joined),
        how=how,
        unlabelled=unlabelled,
    )


@dataclass(frozen=True)
class _Part:
    """Rows of one table, or of several together.

    Args:
        table: its file.
        several: whether a row may have several classes.
        where: how an error names each row, such as ``line 3``.
        columns: values by meaning, one per row.
    """

    table: Path
    several: bool
    where: list[str]
    columns: dict[str, list[Any]]

    def refuse(self, wrong: Sequence[bool], what: str, *, column: str | None = None) -> None:
        """Raise an error that counts the wrong rows and lists the first."""
        bad = [row for row, is_wrong in enumerate(wrong) if is_wrong]
        if bad:
            told = [self.where[row] + (f" '{self.columns[column][row]}'" if column else "") for row in bad[:SHOWN]]
            raise RequestError(f"{self.table}: {len(bad)} of {len(wrong)} rows {what} (first: {', '.join(told)})")


def _read(root: Path, table: Path, split: str | None) -> _Part:
    rows = _rows(table)
    unit = "line" if table.suffix == ".csv" else "row"
    part = _Part(table, False, [f"{unit} {at}" for at in rows.index], {})
    roles = _roles(table, rows, split)
    for key in {"id", "lon", "lat"} & roles.keys():
        part.columns[key] = [value if key != "id" else str(value).strip() for value in rows[roles[key]]]
    base = table.parent.relative_to(root).as_posix() + "/" if table.parent != root else ""
    part.columns["path"] = [f"{base}{str(value).strip()}" for value in rows[roles["path"]]]
    found = [_on_disk(root, path) for path in part.columns["path"]]
    part.refuse([path == "" for path in found], f"name a file outside {root}; move it inside", column="path")
    part.refuse([path is None for path in found], f"name a file that is not in {root}", column="path")
    written = part.columns["path"]
    part.columns["path_as_id"] = [
        path if os.path.normpath(path) == str(one) else str(one) for path, one in zip(written, found, strict=True)
    ]
    part.columns["path"] = found
    if split is None and "split" not in roles:
        part.columns["split"] = _splits_of_folders(part, found)
    elif split is None:
        part.columns["written"] = [str(value).strip() for value in rows[roles["split"]]]
        part.columns["split"] = [SPLIT_NAMES.get(value.lower()) for value in part.columns["written"]]
        strange = [of is None for of in part.columns["split"]]
        part.refuse(strange, "have an unknown split; use train, val or test", column="written")
    else:
        part.columns["split"] = [split] * len(rows)
    if "one-hot" in roles:
        names = _from_one_hot(table, rows, roles["one-hot"])
        several = any(len(chosen) > 1 for chosen in names) or not all(names)
    else:
        several = "labels" in roles
        names = _from_cells(part, rows[roles["labels" if several else "label"]], several=several)
        names = _through_map(root, names) if not several and split is not None and not base else names
    part.columns["names"] = names
    return _Part(table, several, part.where, part.columns)


def _splits_of_folders(part: _Part, paths: Sequence[str | None]) -> list[str]:
    """The split that each path's first folder is named after; empty texts where none is."""
    splits = [SPLIT_NAMES.get(str(path).partition("/")[0].lower(), "") for path in paths]
    if any(splits):
        part.refuse([not split for split in splits], "lie in no split folder although others do", column="path")
    return splits


# --- columns


def _rows(table: Path) -> pd.DataFrame:
    if table.suffix == ".csv":
        rows = read_csv(table)
    else:
        try:
            rows = pd.read_json(table, lines=True, dtype=object) if table.suffix == ".jsonl" else pd.read_parquet(table)
        except (ValueError, OSError) as error:  # pyarrow's parsing errors are ValueErrors
            expected = "expected columns path, labels or label, split"
            raise RequestError(f"cannot read {table} ({error}); {expected}") from error
        rows = rows.reset_index(drop=True).rename(columns=lambda name: str(name).strip())
    if rows.empty:
        raise RequestError(f"{table} has no rows; give each image one")
    return rows


def _roles(table: Path, rows: pd.DataFrame, split: str | None) -> dict[str, Any]:
    """The column of each meaning; ``one-hot`` has a list of columns."""
    roles: dict[str, Any] = {}
    for role, headers in COLUMNS.items():
        fitting = [name for header in headers for name in rows.columns if name.lower() == header]
        if fitting:
            roles[role] = role if role in fitting else fitting[0]
    of_classes = [name for header in CLASS_NAMES for name in rows.columns if name.lower() == header]
    if of_classes and roles["label"] != "label":
        roles["label"] = of_classes[0]
    if twice := [name for name in roles.values() if list(rows.columns).count(name) > 1]:
        raise RequestError(f"{table} has the column {twice[0]} twice; keep one of them")
    if {"labels", "label"} <= roles.keys():
        raise RequestError(f"{table} has both labels (multi-label) and label (one class); keep one of them")
    needed = ("path",) if split or table.name in METADATA else ("path", "split")
    absent = [name for name in needed if name not in roles]
    if not absent and not {"labels", "label"} & roles.keys():
        others = [name for name in rows.columns if name and name not in roles.values()]
        if len(set(others)) > 1 and len(set(others)) == len(others) and all(_is_binary(rows[name]) for name in others):
            note(f"{table}: the columns {', '.join(others)} are read as one-hot labels")
            return roles | {"one-hot": others}
    absent += [] if {"labels", "label"} & roles.keys() else ["labels (or label)"]
    if absent:
        raise RequestError(
            f"{table} has no column {', '.join(absent)}; it has {', '.join(map(str, rows.columns)) or 'none'}; "
            "for images without labels leave the cells of label empty"
        )
    return roles


def _is_binary(column: Any) -> bool:
    return set(map(_text, column)) <= {"0", "1", "0.0", "1.0", "False", "True", "false", "true"}


def _from_one_hot(table: Path, rows: pd.DataFrame, names: list[str]) -> list[list[str]]:
    shown = np.column_stack([[_text(value) in ("1", "1.0", "True", "true") for value in rows[name]] for name in names])
    return [[names[k] for k in np.flatnonzero(row)] for row in shown]


# --- paths


def _on_disk(root: Path, written: str) -> str | None:
    """A path relative to the root as it is on disk; None where there is none, '' where it lies outside.

    Backslashes and the other Unicode forms of accents, as other systems write them, are tried too.
    """
    for slashes in dict.fromkeys((written, written.replace("\\", "/"))):
        for path in dict.fromkeys((slashes, *(unicodedata.normalize(form, slashes) for form in ("NFC", "NFD")))):
            if path and os.path.exists(root / path):
                if not os.path.isabs(path):
                    return os.path.normpath(path)
                for top in (os.path.abspath(root), os.path.realpath(root)):
                    inside = os.path.relpath(path, top)
                    if not inside.startswith(".."):
                        return inside
                return ""
    return None


# --- labels


def _text(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return ""
    return str(value).strip()


def _from_cells(part: _Part, column: Any, *, several: bool) -> list[list[str]]:
    """Class names of every row.

    Raises:
        RequestError: a cell is not a list although it looks like one, holds a word for a missing value, or perhaps
            several classes with commas between them.
    """
    names = [names_in(value, several=several) for value in column]
    spaced = [
        at for at, value in zip(part.where, column, strict=True) if isinstance(value, str) and value != value.strip()
    ]
    if spaced:
        note(f"{part.table}: {len(spaced)} labels have spaces around them, first in {spaced[0]}; they are read without")
    cells = _Part(part.table, several, part.where, {"cell": list(map(_text, column))})
    cells.refuse(
        [chosen is None for chosen in names],
        "hold a list that cannot be read; write \"['a', 'b']\" or a;b",
        column="cell",
    )
    known = [chosen or [] for chosen in names]
    if not several:
        listed = [len(chosen) > 1 or np.ndim(value) > 0 for chosen, value in zip(known, column, strict=True)]
        if any(listed):
            raise RequestError(f"{part.table}: {HOLDS_LISTS}")
    missing = [any(name.lower() in MISSING for name in chosen) for chosen in known]
    cells.refuse(
        missing,
        "have a word for a missing value as their label; leave the cell empty, or rename the class",
        column="cell",
    )
    commas = [several and len(chosen) == 1 and "," in chosen[0] for chosen in known]
    if any(commas) and all(len(chosen) < 2 for chosen in known):
        cells.refuse(
            commas,
            "hold commas, and no row has several labels; separate labels by ';', or call the column label where commas "
            "belong to the names",
            column="cell",
        )
    return known


def names_in(value: Any, *, several: bool) -> list[str] | None:
    """Class names in a cell: a list, a text that holds one, names with separators, or one name; None if unreadable."""
    if np.ndim(value):
        parts = [_text(part) for part in value]
    else:
        text = _text(value)
        if re.fullmatch(r"\[.*\]", text, re.DOTALL):
            return _list_in(text)
        parts = re.split(r"[;|]", text) if several else [text]
    return [part.strip() for part in parts if part.strip()]


def _list_in(text: str) -> list[str] | None:
    """Items of a list as JSON and Python write it; None for anything else, such as numpy's lists without commas."""
    item = r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|(-?\d+(?:\.\d+)?))\s*"""
    inner = text[1:-1]
    if not inner.strip():
        return []
    if not re.fullmatch(f"{item}(?:,{item})*,?\\s*", inner):
        return None
    found = [next(filter(None, groups), "") for groups in re.findall(item, inner)]
    return [re.sub(r"\\(.)", r"\1", name).strip() for name in found if name.strip()]


def _through_map(root: Path, names: list[list[str]]) -> list[list[str]]:
    """Class names in place of numbers, from a ``label_map.json`` beside the tables."""
    file = root / LABEL_MAP
    if not file.is_file() or not all(name.isdigit() for chosen in names for name in chosen):
        return names
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        known = {str(number): str(name) for name, number in given.items()}
        if not all(number.isdigit() for number in known):
            known = {number: name for name, number in known.items()}  # written the other way round
        return [[known[name] for name in chosen] for chosen in names]
    except (OSError, ValueError, AttributeError, KeyError) as error:
        raise RequestError(f'{file} does not name all labels ({error!r}); expected {{"Forest": 1, ...}}') from error


def _check_spelling(part: _Part) -> None:
    """Raise a RequestError where class names differ only in case and the like; names the rows of the rarer one."""
    counts = Counter(name for chosen in part.columns["names"] for name in chosen)
    usual: dict[str, str] = {}
    for name, _ in counts.most_common():
        usual.setdefault(folded(name), name)
    odd = {name: usual[folded(name)] for name in counts if usual[folded(name)] != name}
    for name, other in odd.items():
        rows = [name in chosen for chosen in part.columns["names"]]
        part.refuse(
            rows,
            f"have the class '{name}', which differs from '{other}' only in case, spaces or Unicode form; write it one "
            "way",
        )


# --- the rest


def _repeated(values: list[str]) -> list[bool]:
    return pd.Series(values, dtype=object).duplicated().tolist()


def _lonlat(part: _Part) -> np.ndarray | None:
    present = [name for name in ("lon", "lat") if name in part.columns]
    if not present:
        return None
    if len(present) == 1:
        raise RequestError(f"{part.table} has a column {present[0]} alone; give both lon and lat, or neither")
    values = {name: pd.Series(part.columns[name], dtype=object).map(number_in) for name in present}
    lonlat = pd.DataFrame(values).to_numpy(dtype=np.float64)
    wrong = ~(np.abs(lonlat) <= (360, 90)).all(axis=1)  # NaN compares false; 0 to 360 is wrapped later
    part.refuse(wrong.tolist(), "have no valid lon and lat in degrees; fill them or drop both columns")
    return lonlat


def number_in(value: Any) -> float:
    """A number, with a decimal point or comma; NaN for anything else."""
    try:
        return float(str(value).strip().replace(",", "."))
    except ValueError:
        return float("nan")
