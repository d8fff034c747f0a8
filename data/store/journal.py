"""Which parts of an unfinished split are done: journals of one JSON line per part, one journal per process.

A file that two machines append to may lose lines on network disks, so each process appends to its own journal and
readers join them.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data.files import canonical_json, explained, fsync_folder, published


def append_line(journal: Path, line: dict[str, Any]) -> None:
    """Add one line and flush it to disk.

    Raises:
        RequestError: the disk is full or fails.
    """
    text = f"\n{canonical_json(line)}\n"  # starts with a line break: a kill may have cut the previous line short
    try:
        with journal.open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        fsync_folder(journal.parent)
    except OSError as error:
        raise explained(error, journal) from error


def journal_lines(parts: Path) -> Iterator[dict[str, Any]]:
    """Complete lines of all journals in a parts folder; a part whose line a kill cut short is made again."""
    for journal in sorted(parts.glob("journal*.jsonl")):
        for text in journal.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                line = json.loads(text)
                if type(line["part"]) is int and isinstance(line["sha256"], str):
                    yield line
            except (ValueError, KeyError, TypeError, RecursionError):
                continue


def keep_lines(parts: Path, journal: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Replace all journals of a parts folder by one that holds only the lines to keep."""
    lines = [line for line in journal_lines(parts) if keep(line)]
    with published(journal) as temporary:
        temporary.write_text("".join(f"{canonical_json(line)}\n" for line in lines), encoding="utf-8")
    for other in parts.glob("journal*.jsonl"):
        if other != journal:
            other.unlink()


def consistent(line: dict[str, Any], rows: int) -> bool:
    """Whether a line's part number, part size and row range agree with each other."""
    part, step = line["part"], line.get("part_rows")
    if type(step) is not int or step < 1:
        return False
    return line.get("start") == part * step and line.get("stop") == min((part + 1) * step, rows)
