"""Label tables of a user's images: which columns mean what, labels in every form, and wrong rows named by line.

``labels.csv`` or ``labels.parquet``, or one table per split as the common EuroSAT downloads have them: ``train.csv``,
``validation.csv``, ``test.csv`` with columns such as ``Filename, Label, ClassName`` and a ``label_map.json``. Or
``metadata.csv``, ``.jsonl`` or ``.parquet`` in the folder or its split folders, as Hugging Face's ``imagefolder`` has
them: paths are relative to the table, and folders may name the splits, or nothing does.
"""

import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import partial
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
NO, YES = ("0", "0.0", "False", "false"), ("1", "1.0", "True", "true")  # of one-hot columns
HOLDS_LISTS = "the column label holds lists; call it labels for a multi-label set"


def find_tables(root: Path) -> dict[Path, str | None]:
    """The tables of a folder, and the split of each if its name gives it."""
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
    folders = [path for path in sorted(root.iterdir()) if path.name.lower() in SPLIT_NAMES and path.is_dir()]
    homes |= {path: SPLIT_NAMES[path.name.lower()] for path in folders}
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
    """The samples that tables list."""
    read = [_read(root, table, split) for table, split in tables.items()]
    several, first = read[0][0], next(iter(tables))
    if any(other != several for other, _ in read):
        raise RequestError(f"the tables in {root} differ in their label columns; use label or labels in all")
    joined = pd.concat([rows for _, rows in read], join="inner", ignore_index=True)
    refuse = partial(_refuse, first, joined["where"])
    paths, ids = (joined[name].tolist() for name in ("path", "id" if "id" in joined else "path_as_id"))
    refuse(joined["path"].duplicated(), "repeat a path; keep one row per path, in one split", paths)
    refuse(pd.Series(ids).duplicated(), "repeat an id; ids must be unique", ids if "id" in joined else paths)
    names, splits = joined["names"].tolist(), joined["split"].tolist()
    unlabelled = frozenset(s for s in set(splits) if not any(n for n, of in zip(names, splits, strict=True) if of == s))
    refuse(
        [not chosen and split not in unlabelled for chosen, split in zip(names, splits, strict=True)],
        "have no label although others of their split have; label them, or give unlabeled images a split of their own",
    )
    for name, other in _spelt_twice(names).items():
        why = f"which differs from '{other}' only in case, spaces or Unicode form; write it one way"
        refuse([name in chosen for chosen in names], f"have the class '{name}', {why}")
    how = ", ".join(dict.fromkeys(table.name for table in tables))
    if not any(splits):
        splits, how = cut(paths, names), f"{how}; each class 60/20/20 by sha256 of the relative path"
    labels, class_names = make_labels(names, several=several)
    if several and class_names and all(len(chosen) < 2 for chosen in names):
        note(f"{first}: no row has more than one of its labels; separate several by ';'")
    return Listing(paths, ids, splits, labels, class_names, _lonlat(first, joined), how, unlabelled)


def _refuse(table: Path, where: Any, wrong: Any, what: str, values: Sequence[Any] | None = None) -> None:
    """Raise an error that counts the wrong rows and lists the first, with their values."""
    bad = np.flatnonzero(wrong).tolist()
    if bad:
        shown = ", ".join(where[row] + (f" '{values[row]}'" if values is not None else "") for row in bad[:SHOWN])
        raise RequestError(f"{table}: {len(bad)} of {len(wrong)} rows {what} (first: {shown})")


def _read(root: Path, table: Path, split: str | None) -> tuple[bool, pd.DataFrame]:
    """Whether a row may have several classes, and the values of each row by meaning; ``where`` names it in errors."""
    rows = _rows(table)
    roles = _roles(table, rows, split)
    where = [f"{'line' if table.suffix == '.csv' else 'row'} {at}" for at in rows.index]
    refuse = partial(_refuse, table, where)
    columns = {key: rows[roles[key]].tolist() for key in ("lon", "lat") if key in roles}
    if "id" in roles:
        columns["id"] = _stripped(rows[roles["id"]])
    base = table.parent.relative_to(root).as_posix() + "/" if table.parent != root else ""
    written = [f"{base}{path}" for path in _stripped(rows[roles["path"]])]
    found = [_on_disk(root, path) for path in written]
    refuse([path == "" for path in found], f"name a file outside {root}; move it inside", written)
    refuse([path is None for path in found], f"name a file that is not in {root}", written)
    as_id = [path if os.path.normpath(path) == str(one) else str(one) for path, one in zip(written, found, strict=True)]
    if split is not None:
        splits = [split] * len(rows)
    elif "split" in roles:
        words = _stripped(rows[roles["split"]])
        splits = [SPLIT_NAMES.get(word.lower()) for word in words]
        refuse([of is None for of in splits], "have an unknown split; use train, val or test", words)
    else:  # the folders say it, or nothing does
        splits = [SPLIT_NAMES.get(str(path).partition("/")[0].lower(), "") for path in found]
        refuse([any(splits) and not of for of in splits], "lie in no split folder although others do", found)
    if "one-hot" in roles:
        cells = zip(*(map(_text, rows[name]) for name in roles["one-hot"]), strict=True)
        names = [[name for name, cell in zip(roles["one-hot"], row, strict=True) if cell in YES] for row in cells]
        several = any(len(chosen) > 1 for chosen in names) or not all(names)
    else:
        several = "labels" in roles
        names = _from_cells(table, where, rows[roles["labels" if several else "label"]], several=several)
        names = _through_map(root, names) if not several and split is not None and not base else names
    columns |= {"where": where, "path": found, "path_as_id": as_id, "split": splits, "names": names}
    return several, pd.DataFrame(columns, dtype=object)


def _stripped(column: Any) -> list[str]:
    return [str(value).strip() for value in column]


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
        binary = all(set(map(_text, rows[name])) <= {*NO, *YES} for name in dict.fromkeys(others))
        if len(set(others)) > 1 and len(set(others)) == len(others) and binary:
            note(f"{table}: the columns {', '.join(others)} are read as one-hot labels")
            return roles | {"one-hot": others}
    absent += [] if {"labels", "label"} & roles.keys() else ["labels (or label)"]
    if absent:
        raise RequestError(
            f"{table} has no column {', '.join(absent)}; it has {', '.join(map(str, rows.columns)) or 'none'}; "
            "for images without labels leave the cells of label empty"
        )
    return roles


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


def _from_cells(table: Path, where: list[str], column: Any, *, several: bool) -> list[list[str]]:
    """Class names of every row; a RequestError for cells that are no list although they look like one, and the like."""
    refuse, cells = partial(_refuse, table, where), list(map(_text, column))
    names = [names_in(value, several=several) for value in column]
    spaced = [at for at, value in zip(where, column, strict=True) if isinstance(value, str) and value != value.strip()]
    if spaced:
        note(f"{table}: {len(spaced)} labels have spaces around them, first in {spaced[0]}; they are read without")
    unread = [chosen is None for chosen in names]
    refuse(unread, "hold a list that cannot be read; write \"['a', 'b']\" or a;b", cells)
    known = [chosen or [] for chosen in names]
    if not several and any(len(n) > 1 or np.ndim(value) > 0 for n, value in zip(known, column, strict=True)):
        raise RequestError(f"{table}: {HOLDS_LISTS}")
    refuse(
        [any(name.lower() in MISSING for name in chosen) for chosen in known],
        "have a word for a missing value as their label; leave the cell empty, or rename the class",
        cells,
    )
    if all(len(chosen) < 2 for chosen in known):
        refuse(
            [several and len(chosen) == 1 and "," in chosen[0] for chosen in known],
            "hold commas, and no row has several labels; separate labels by ';', or call the column label where commas "
            "belong to the names",
            cells,
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


def _spelt_twice(names: list[list[str]]) -> dict[str, str]:
    """Class names that differ from a more common one only in case and the like, each with that one."""
    counts = Counter(name for chosen in names for name in chosen)
    usual: dict[str, str] = {}
    for name, _ in counts.most_common():
        usual.setdefault(folded(name), name)
    return {name: usual[folded(name)] for name in counts if usual[folded(name)] != name}


# --- the rest


def _lonlat(table: Path, rows: pd.DataFrame) -> np.ndarray | None:
    present = [name for name in ("lon", "lat") if name in rows]
    if not present:
        return None
    if len(present) == 1:
        raise RequestError(f"{table} has a column {present[0]} alone; give both lon and lat, or neither")
    lonlat = rows[present].map(number_in).to_numpy(dtype=np.float64)
    wrong = ~(np.abs(lonlat) <= (360, 90)).all(axis=1)  # NaN compares false; 0 to 360 is wrapped later
    _refuse(table, rows["where"], wrong, "have no valid lon and lat in degrees; fill them or drop both columns")
    return lonlat


def number_in(value: Any) -> float:
    """A number, with a decimal point or comma; NaN for anything else."""
    try:
        return float(str(value).strip().replace(",", "."))
    except ValueError:
        return float("nan")
