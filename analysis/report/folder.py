"""The folder of a report: what an earlier report wrote may be replaced, a user's own files never."""

import json
from pathlib import Path

from data.errors import RequestError

MARK = '<meta name="generator" content="frozen-earth report">'  # distinguishes a report from a folder of the user's
LISTED = "files.json"  # names the files that a later report may delete
V1_SUFFIXES = (".png", ".svg", ".csv", ".md", ".tex")


def check_replaceable(folder: Path) -> None:
    """Check that a folder is absent, empty or a report without files of the user's.

    Raises:
        RequestError: it is not; the message names what is there.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    index = folder / "index.html"
    if not index.is_file() or MARK not in index.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise RequestError(f"{folder} exists and is not a report; choose another --folder, or remove it")
    written = {*written_files(folder)}
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    if strange := [name for name in names if name not in written]:
        raise RequestError(
            f"{folder} holds {len(strange)} files that no report wrote, the first {strange[0]}; move them, or choose "
            "another --folder"
        )


def written_files(folder: Path) -> list[str]:
    """Relative paths of the files that the report in a folder wrote, last the list itself, which is missing in v0.1."""
    try:
        return [*map(str, json.loads((folder / LISTED).read_text(encoding="utf-8"))), LISTED]
    except FileNotFoundError:
        figures = [path for path in (folder / "figures").rglob("*") if path.suffix in V1_SUFFIXES]
        return ["index.html", *(str(path.relative_to(folder)) for path in figures)]
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"{folder / LISTED} is damaged; choose another --folder, or move {folder} away") from error
