"""Write one result of a view: its figure as PNG and SVG, its numbers as CSV, its tables as Markdown and LaTeX."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis import figures, tables
from analysis.contract import Output, Table
from analysis.words import with_simulated


def write_view(
    frame: pd.DataFrame,
    draw: Callable[[pd.DataFrame], Figure] | None,
    stem: Path,
    *,
    title: str,
    heading: str = "",
    shown: Sequence[Table] = (),
    left: int = 1,
    note: str = "",
    of: Sequence[str] = ("dataset", "encoder"),
    **about: Any,
) -> Output:
    """Write what a view found.

    Args:
        frame: the numbers in full precision; ``simulated`` says whether any are of simulated data.
        draw: makes the figure of the frame; None where there is none.
        stem: of the files.
        title: of the output, in the report.
        heading: of the table files, and their caption in LaTeX; default: the title.
        shown: the tables as they are read.
        left: how many columns of these, from the left, are text.
        note: how to read them: below the heading, and the output's caption unless it has its own.
        of: columns that have one value, for the output's fields of the same name.
        about: further fields of `Output`; ``files`` are added to those written here.
    """
    heading = with_simulated(heading or title, is_simulated(frame))
    files = list(figures.save(draw(frame), stem)) if draw else []
    files.append(tables.write_csv(frame, stem))
    if shown:
        files += tables.write_documents(shown, stem, heading, left=left, note=note)
    files += about.pop("files", ())
    about = {"caption": note} | {column: str(frame[column].iloc[0]) for column in of} | about
    return Output(title=title, files=tuple(files), tables=tuple(shown), **about)


def is_simulated(frame: pd.DataFrame) -> bool:
    """Whether any row is of simulated data."""
    return "simulated" in frame and bool(frame["simulated"].any())


def stem_of(folder: Path, view: str, row: Any, *columns: str) -> Path:
    """``<folder>/<view>__<value>__<value>`` of some columns of a row."""
    return folder / "__".join([view, *(str(row[column]) for column in columns)])
