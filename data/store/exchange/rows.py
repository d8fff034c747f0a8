"""Ids, labels, splits and locations of imported vectors, from the file's columns and a second table."""

import re
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Integer, Shaped

from data.csvfile import read_csv
from data.errors import RequestError
from data.flags import ImportFlags
from data.listing import SPLIT_NAMES, multi_hot
from data.store.exchange.embeddings import PARQUET, Embeddings, readable
from data.tables import COLUMNS, MISSING, names_in, number_in

SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}  # where no column says which
SEPARATOR = ";"


@dataclass(frozen=True)
class Rows:
    """Ids, labels, splits and locations of the vectors that are kept."""

    keep: Bool[np.ndarray, " rows"]  # of the file
    ids: list[str]  # of the kept rows
    labels: Integer[np.ndarray, "samples ..."]  # (n, K) uint8 or (n,) int64; -1 where the file has none
    class_names: tuple[str, ...]  # K names; none for an unlabeled set
    splits: Shaped[np.ndarray, " samples"]  # names
    lonlat: Float[np.ndarray, "samples 2"] | None  # degrees
    geometry: Shaped[np.ndarray, " samples"] | None  # hexadecimal WKB
    dropped: dict[str, int]  # rows left out, by reason
    how_split: str  # where the splits come from


def read_rows(flags: ImportFlags, source: Embeddings) -> Rows:
    """Join, check and split the rows of a file of embeddings."""
    frame = source.columns
    id_column = flags.id or source.id_column
    if id_column is not None and id_column not in frame:
        raise RequestError(f"{source.file} has no column {id_column} for --id; it has {_names(frame)}")
    if id_column is None and flags.table:
        raise RequestError(f"--table is joined by id, and {source.file} has no id column; name it with --id")
    ids = pd.Series([f"row-{row:07d}" for row in range(source.rows)]) if id_column is None else frame[id_column]
    problems = _Problems(source.file, source.rows)
    problems.add("without an id", ids.isna().to_numpy())
    ids = ids.astype(str).str.strip()
    problems.add("with an id that occurs before", ids.duplicated().to_numpy())
    with readable(source.file):
        problems.add("with NaN, infinite or absent values", source.unusable())
    if flags.table:
        frame = _joined(frame, ids, flags, problems)
    labels, names = _labels(frame, flags, problems)
    with readable(source.file):
        lonlat, geometry = _lonlat(frame, flags, source), source.geometries()
    words, how = _splits(frame, flags, problems)
    keep = problems.keep(drop=flags.drop)
    if not keep.any():
        raise RequestError(f"{source.file} has no row that can be used ({source.rows} rows in all)")
    labels = labels[keep]
    splits = words[keep] if words is not None else _drawn(labels, flags.seed)
    how = how or ("all test: unlabelled" if (splits == "test").all() else f"stratified, 60/20/20, seed {flags.seed}")
    return Rows(
        keep=keep,
        ids=ids[keep].tolist(),
        labels=labels,
        class_names=names,
        splits=splits,
        lonlat=None if lonlat is None or np.isnan(lonlat[keep]).any() else lonlat[keep],
        geometry=None if geometry is None or pd.isna(geometry[keep]).any() else geometry[keep],
        dropped=problems.dropped(),
        how_split=how,
    )


@dataclass
class _Problems:
    """Rows that cannot be used, by reason; a row counts under the first that it has."""

    file: Path
    rows: int
    found: dict[str, np.ndarray] = field(default_factory=dict)

    def add(self, reason: str, bad: np.ndarray) -> None:
        """Note rows (N,) booleans that no earlier reason has."""
        earlier = np.any(list(self.found.values()), axis=0) if self.found else np.zeros(self.rows, bool)
        self.found[reason] = bad & ~earlier

    def dropped(self) -> dict[str, int]:
        """Counts by reason."""
        return {reason: int(bad.sum()) for reason, bad in self.found.items() if bad.any()}

    def keep(self, *, drop: bool) -> np.ndarray:
        """(N,) rows that can be used."""
        counts = self.dropped()
        if counts and not drop:
            firsts = {reason: int(np.argmax(self.found[reason])) + 1 for reason in counts}
            shown = "; ".join(f"{count} {reason}, first row {firsts[reason]}" for reason, count in counts.items())
            raise RequestError(f"{self.file}: {shown}; fix them, or skip those rows with --drop")
        return ~np.any(list(self.found.values()), axis=0)


def _joined(frame: pd.DataFrame, ids: pd.Series, flags: ImportFlags, problems: _Problems) -> pd.DataFrame:
    """The columns of the second table in the order of the vectors; theirs come before the file's own."""
    assert flags.table
    if not flags.table.is_file():
        raise RequestError(f"no table at {flags.table}")
    parquet = flags.table.suffix in PARQUET
    with readable(flags.table) if parquet else nullcontext():
        table = pd.read_parquet(flags.table) if parquet else read_csv(flags.table)
    if not len(table.columns) or len(set(table.columns)) < len(table.columns):
        raise RequestError(f"{flags.table} has no columns, or two with the same name: {_names(table)}")
    key = next((name for name in (flags.id, "id", str(ids.name), table.columns[0]) if name in table), None)
    assert key is not None
    table[key] = table[key].astype(str).str.strip()
    if not parquet:
        table = table.apply(lambda column: column if column.name == key else _as_numbers(column))
    if twice := int(pd.Series(table[key]).duplicated().sum()):
        raise RequestError(f"{flags.table}: {twice} ids of column {key} occur twice; every id needs one row")
    table = table.set_index(key)
    problems.add(f"whose id is not in {flags.table.name}", ~ids.isin(table.index).to_numpy())
    more = table.reindex(ids).reset_index(drop=True)
    return pd.concat([more, frame.drop(columns=[name for name in more if name in frame])], axis=1)


def _as_numbers(column: pd.Series) -> pd.Series:
    """A column of a CSV file: numbers where all of its cells are, without a value where cells are empty."""
    cells = [None if str(cell).strip().lower() in ("", *MISSING) else str(cell).strip() for cell in column]
    try:
        return pd.Series(pd.to_numeric(np.array(cells, dtype=object)), index=column.index)
    except (ValueError, TypeError):
        return pd.Series(cells, index=column.index, dtype=object)


def _labels(frame: pd.DataFrame, flags: ImportFlags, problems: _Problems) -> tuple[np.ndarray, tuple[str, ...]]:
    given = frame.dropna(axis=1, how="all")
    usual = (name for name in ("label", "labels", "class") if name in given)
    column = flags.label or next(usual, None)
    if column is None:
        return np.full(len(frame), -1, np.int64), ()
    if column not in frame:
        raise RequestError(f"no column {column} for --label; there are {_names(frame)}")
    values = frame[column].to_numpy(dtype=object)
    lists = [isinstance(value, (list, tuple, np.ndarray)) for value in values]
    absent = np.array([not of and bool(pd.isna(value)) for value, of in zip(values, lists, strict=True)], bool)
    problems.add(f"without a value in {column}", absent)
    if any(lists) or any(isinstance(value, str) and _is_several(value, column) for value in values):
        cells = [None if gone else names_in(value, several=True) for value, gone in zip(values, absent, strict=True)]
        unread = [one is None for one in cells] & ~absent
        problems.add(f"with a list in {column} that cannot be read", unread)
        words = [one or [] for one in cells]
        names = sorted({name for one in words for name in one})
        return multi_hot(words, names), tuple(names)
    keys = [None if gone else _class_key(value, column) for value, gone in zip(values, absent, strict=True)]
    kinds = {key for key in keys if key is not None}
    if len({type(kind) for kind in kinds}) > 1:
        raise RequestError(f"column {column} holds names and numbers; --label needs one or the other")
    number: dict[Any, int] = {kind: k for k, kind in enumerate(sorted(kinds))}  # not in that of their text
    return np.array([number.get(key, -1) for key in keys], np.int64), tuple(str(kind) for kind in number)


def _class_key(value: Any, column: str) -> int | str:
    """A class's number or name as a key that sorts."""
    if isinstance(value, str):
        return value.strip()
    with suppress(TypeError, ValueError, OverflowError):
        if float(value) == int(value):
            return int(value)
    raise RequestError(f"column {column} holds {value!r}; --label needs class names or whole numbers")


def _is_several(cell: str, column: str) -> bool:
    """Whether a text holds several labels, as `data.tables` reads them."""
    bar = "|" in cell and column.lower() in COLUMNS["labels"]
    return SEPARATOR in cell or bar or bool(re.fullmatch(r"\[.*\]", cell.strip(), re.DOTALL))


def _splits(frame: pd.DataFrame, flags: ImportFlags, problems: _Problems) -> tuple[np.ndarray | None, str | None]:
    """(N,) split names from a column, and the word for it; None where there is none."""
    column = flags.split or ("split" if "split" in frame else None)
    if column is None:
        return None, None
    if column not in frame:
        raise RequestError(f"no column {column} for --split; there are {_names(frame)}")
    words = frame[column].astype(str).str.strip().str.lower()
    known = words.map(SPLIT_NAMES)
    problems.add(f"with a value in {column} other than train, val and test", known.isna().to_numpy())
    return known.fillna("").to_numpy(dtype=str), f"column {column}"


def _drawn(labels: np.ndarray, seed: int) -> np.ndarray:
    """(N,) split names, drawn class by class where there are classes; all test where nothing is labeled."""
    if labels.ndim == 1 and (labels == -1).all():
        return np.full(len(labels), "test")
    rng = np.random.default_rng(seed)
    kinds = labels if labels.ndim == 1 else np.unique(labels, axis=0, return_inverse=True)[1].ravel()
    splits, edges = np.empty(len(labels), dtype="<U5"), np.cumsum(list(SHARES.values()))
    for kind in np.unique(kinds):
        members = rng.permutation(np.flatnonzero(kinds == kind))
        where = (np.arange(len(members)) + rng.random()) / len(members)
        splits[members] = np.array(list(SHARES))[np.minimum(np.searchsorted(edges, where, side="right"), 2)]
    return splits


def _lonlat(frame: pd.DataFrame, flags: ImportFlags, source: Embeddings) -> np.ndarray | None:
    if (flags.lon is None) != (flags.lat is None):
        raise RequestError("--lon and --lat go together; give both")
    pairs = [(flags.lon, flags.lat), *source.lonlat_columns]
    for lon, lat in pairs:
        if lon in frame and lat in frame:
            return np.column_stack([_degrees(frame[name], flags.table or source.file) for name in (lon, lat)])
        if lon is not None and lon == flags.lon:
            raise RequestError(f"no columns {lon} and {lat} for --lon and --lat; there are {_names(frame)}")
    return source.centres()


def _degrees(column: Any, file: Path) -> np.ndarray:
    """(N,) float64; a comma may stand for the point, as spreadsheets write it."""
    numbers = np.array([number_in(cell) for cell in column], np.float64)
    wrong = np.isnan(numbers) & ~np.array([np.ndim(cell) == 0 and bool(pd.isna(cell)) for cell in column], bool)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise RequestError(
            f"{file}: {wrong.sum()} values of {column.name} are not numbers, first "
            f"'{column.iloc[row]}' in row {row + 1}; write degrees, or leave the cell empty"
        )
    return numbers


def _names(frame: pd.DataFrame) -> str:
    return ", ".join(str(name) for name in frame.columns) or "no columns beside the vectors"
