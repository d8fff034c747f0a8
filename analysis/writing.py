"""Write one result of a view: its figure as PNG and SVG, its numbers as CSV, its tables as Markdown and LaTeX."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import figures, tables
from analysis.contract import Output, Table, with_simulated


def write_view(
    frame: pd.DataFrame,
    draw: Callable[..., Any] | None,
    stem: Path,
    *,
    title: str,
    what: str = "",
    heading: str = "",
    size: tuple[float, float] | None = None,
    drawn: str = "",
    where: str | None = None,
    reading: str | None = None,
    shown: Sequence[Table] = (),
    left: int = 1,
    note: str = "",
    of: Sequence[str] = ("dataset", "encoder"),
    **about: Any,
) -> Output:
    """Write what a view found.

    Args:
        frame: the numbers in full precision; ``simulated`` says whether any are of simulated data.
        draw: makes the figure of the frame, or, with `size`, draws the frame on the axes given; None: no figure.
        stem: of the files.
        title: of the output, in the report.
        what: what the view shows of the run that the title names: leads the heading and the figure's title.
        heading: of the table files, and their caption in LaTeX. Default: `what`, dataset, model and title.
        size: width and height in inches of a figure with one panel.
        drawn: title of the figure. Default: `what` and title. Without `what`, `drawn` and `size`, `draw` writes it.
        where: second line of the figure's title. Default: dataset and model.
        reading: note of the figure. Default: `note`.
        shown: the tables as they are read.
        left: how many columns of these, from the left, are text.
        note: how to read them: below the heading, and the output's caption unless it has its own.
        of: columns that have one value, for the output's fields of the same name.
        about: further fields of `Output`; ``files`` are added to those written here.
    """
    first = frame.iloc[0]
    if what:
        heading = heading or f"{what}, {first['dataset']}, {first['model']}, {title}"
        drawn = drawn or f"{what}: {title}"
    files = []
    if draw:
        figure = figures.new_figure(*size) if size else draw(frame)
        if size:
            draw(frame, figure.subplots())
        if drawn or size:
            where = f"{first['dataset']}: {first['model']}" if where is None else where
            reading = note if reading is None else reading
            figures.put_title(figure, drawn or title, where, simulated=is_simulated(frame), note=reading)
        files += figures.save(figure, stem)
    files.append(tables.write_csv(frame, stem))
    if shown:
        heading = with_simulated(heading or title, is_simulated(frame))
        files += tables.write_documents(shown, stem, heading, left=left, note=note)
    files += about.pop("files", ())
    about = {"caption": note} | {column: str(first[column]) for column in of} | about
    return Output(title=title, files=tuple(files), tables=tuple(shown), **about)


def is_simulated(frame: pd.DataFrame) -> bool:
    """Whether any row is of simulated data."""
    return "simulated" in frame and bool(frame["simulated"].any())


def stem_of(folder: Path, view: str, row: Any, *columns: str) -> Path:
    """``<folder>/<view>__<value>__<value>`` of some columns of a row."""
    return folder / "__".join([view, *(str(row[column]) for column in columns)])
