"""CSV files of any usual encoding and separator; every row keeps its line number."""

import codecs
import csv
import io
from pathlib import Path

import pandas as pd

from data.errors import RequestError

SEPARATORS = ",;\t|"
MARKS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
SHOWN = 3  # lines that an error names


def read_csv(path: Path) -> pd.DataFrame:
    """Read a table of texts.

    UTF-8 or UTF-16 with a byte order mark; commas, semicolons, tabs or vertical bars, whichever splits the header into
    the most columns. Empty rows are skipped, and so are blank fields beyond the header's.

    Returns:
        A column of text for each of the header, cells as they stand; the index is each row's line, from 1.
    """
    text = _decoded(path)
    header = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(SEPARATORS, key=lambda sign: len(next(csv.reader([header], delimiter=sign), [])))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    lines, records, line = [], [], 1
    try:
        for fields in reader:
            if any(field.strip() for field in fields):
                lines.append(line)
                records.append(fields)
            line = reader.line_num + 1
    except csv.Error as error:
        raise RequestError(
            f"cannot read {path}, line {line} ({error}); put text that holds separators or quotes in double quotes"
        ) from error
    if not records:
        raise RequestError(f"cannot read {path}: it is empty; expected columns path, labels or label, split")
    columns = [name.strip() for name in records[0]]
    while columns and not columns[-1]:
        columns.pop()  # a separator at the end of each line
    rows = [
        fields if any(field.strip() for field in fields[len(columns) :]) else fields[: len(columns)]
        for fields in records[1:]
    ]
    wrong = [(at, len(fields)) for at, fields in zip(lines[1:], rows, strict=True) if len(fields) != len(columns)]
    if wrong:
        first = ", ".join(f"line {at} has {count}" for at, count in wrong[:SHOWN])
        raise RequestError(
            f"{path}: {len(wrong)} of {len(rows)} lines do not have the {len(columns)} fields of the header (first: "
            f"{first}); put names that hold the separator in double quotes"
        )
    return pd.DataFrame(rows, columns=columns, index=lines[1:], dtype=object)


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RequestError(f"cannot read {path} ({error.strerror}); expected a CSV file") from error
    encoding = next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RequestError(
            f"cannot read {path}, line {line}: its text is not UTF-8; save the table as UTF-8 (spreadsheets offer "
            "'CSV UTF-8')"
        ) from error
    if "\0" in text:
        raise RequestError(f"cannot read {path}: it holds zero bytes, as UTF-16 does; save the table as UTF-8")
    return text
