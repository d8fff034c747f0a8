"""Counts and rates per class: TP, FP, TN, FN, precision, recall, specificity, F1, F2, support."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import figures, frames
from analysis.card import ViewCard
from analysis.contract import Output, Table, ViewRequest
from analysis.writing import stem_of, write_view
from data.runs import Run

CARD = ViewCard(input="runs")

COUNTS = ["support", *frames.COUNTS]  # not colored
COLUMNS = {"Class": "{class}", "Support": "{support:,}", **{name.upper(): f"{{{name}:,}}" for name in frames.COUNTS}}
COLUMNS |= {name.capitalize(): lambda row, of=name: figures.number(row[of]) for name in frames.RATES}
NOTE = "Test split, one-vs-rest. A rate with a zero denominator is reported as 0."


def run(request: ViewRequest) -> list[Output]:
    """Write one table and its figure for each run and rule."""
    frame = compute(request.all_runs(), request.rules)
    keys = ["dataset", "encoder", "run", "rule"]
    return [_write(part.reset_index(drop=True), request, keys) for _, part in frame.groupby(keys, sort=False)]


def compute(runs: Sequence[Run], rules: Sequence[str] = ("half", "tuned")) -> pd.DataFrame:
    """`frames.per_class_frame` of these runs under these rules, with names: a row per run x rule x class, in order."""
    frame = frames.with_names(frames.per_class_frame(runs), runs)
    return frames.under_rules(frame, rules).reset_index(drop=True)


def readable(frame: pd.DataFrame) -> Table:
    """The table of one run and rule."""
    return Table.of(frame, COLUMNS)


def _write(frame: pd.DataFrame, request: ViewRequest, keys: list[str]) -> Output:
    first = frame.iloc[0]
    lines = sum(figures.wrapped(name).count("\n") + 1 for name in frame["class"])
    return write_view(
        frame, draw, stem_of(request.target("classes"), "classes", first, *keys), what="Classes",
        size=(10.5, 1.7 + max(0.29 * len(frame), 0.165 * lines + 0.1 * len(frame))), title=frames.run_title(first),
        shown=[readable(frame)], note=NOTE, alt=f"Table of counts and rates of {len(frame)} classes.",
    )  # fmt: skip


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """Counts as text, rates as colored cells."""
    header, rows = readable(frame)
    texts = [row[1:] for row in rows]
    shares = np.zeros((len(rows), len(header) - 1))
    shares[:, len(COUNTS) :] = np.nan_to_num(frame[frames.RATES].to_numpy(float))
    names = [figures.wrapped(name, 44) for name in frame["class"]]
    figures.heatmap(ax, shares, columns=header[1:], rows=names, cmap=figures.shades())
    figures.write_values(ax, shares, texts)
    ax.xaxis.tick_top()
