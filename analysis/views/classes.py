"""Counts and rates of every class: TP, FP, TN, FN, precision, recall, specificity, F1, F2, support."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures, frames, tables
from analysis.contract import Output, ViewRequest
from data.runs import Run, all_runs

CARD = {"input": "runs", "options": {}}

HEADER = ["Class", "Support", "TP", "FP", "TN", "FN", "Precision", "Recall", "Specificity", "F1", "F2"]
LEFT_COLUMNS = 5  # support and the four counts, which are numbers without a colour


def run(request: ViewRequest) -> list[Output]:
    """Write one table and its picture for each run and rule."""
    runs = all_runs(request.out, model=request.model, dataset=request.dataset, kind=request.kind)
    folder = request.target("classes")
    frame = compute(runs, request.rules)
    parts = [part for _, part in frame.groupby(["dataset", "encoder", "run", "rule"], sort=False)]
    return [_write(part.reset_index(drop=True), folder) for part in parts]


def compute(runs: Sequence[Run], rules: Sequence[str] = ("half", "tuned")) -> pd.DataFrame:
    """`frames.per_class_frame` of these runs under these rules, with names: a row a run x rule x class, in order."""
    frame = frames.with_names(frames.per_class_frame(runs), runs)
    return frames.under_rules(frame, rules).reset_index(drop=True)


def readable(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells of one run and rule."""
    rows = [
        [
            row["class"],
            *(f"{row[c]:,}" for c in ("support", *frames.COUNTS)),
            *(figures.number(row[r]) for r in frames.RATES),
        ]
        for row in frame.to_dict("records")
    ]
    return HEADER, rows


def _write(frame: pd.DataFrame, folder: Path) -> Output:
    first = frame.iloc[0]
    stem = folder / "__".join(["classes", *(first[key] for key in ("dataset", "encoder", "run", "rule"))])
    header, rows = readable(frame)
    words = frames.rule_words(first["rule"], first["multilabel"])
    title = f"Classes, {first['dataset']}, {first['model']}, {first['probe']}, {words}"
    if first["simulated"]:
        title += " (simulated data)"
    return Output(
        title=f"{first['probe']}, {words}",
        files=(
            *figures.save(draw_figure(frame), stem),
            *tables.write_all(frame, stem, title, header, rows, left=1),
        ),
        dataset=first["dataset"],
        encoder=first["encoder"],
        caption="Test split, every class against the rest. A rate that would divide by nothing counts as 0.",
        alt=f"Table of counts and rates of {len(frame)} classes.",
        tables=((header, rows),),
    )


def draw_figure(frame: pd.DataFrame) -> Figure:
    """The table as a picture, rates coloured.

    Args:
        frame: of `compute`, one run and rule.
    """
    first = frame.iloc[0]
    lines = sum(figures.wrapped(name).count("\n") + 1 for name in frame["class"])
    figure = figures.new_figure(10.5, 1.7 + max(0.29 * len(frame), 0.165 * lines + 0.1 * len(frame)))
    draw(frame, figure.subplots())
    what = f"Classes: {first['probe']}, {frames.rule_words(first['rule'], first['multilabel'])}"
    note = "Every class against the rest, on test. A rate that would divide by nothing counts as 0."
    figures.put_title(figure, what, f"{first['dataset']}: {first['model']}", simulated=first["simulated"], note=note)
    return figure


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """Counts as text, rates as coloured cells.

    Args:
        frame: of `compute`, one run and rule.
        ax: where to draw.
    """
    _, rows = readable(frame)
    texts = [row[1:] for row in rows]
    shares = np.zeros((len(rows), len(HEADER) - 1))
    shares[:, LEFT_COLUMNS:] = np.nan_to_num(frame[frames.RATES].to_numpy(float))
    names = [figures.wrapped(name, 44) for name in frame["class"]]
    figures.heatmap(ax, shares, columns=HEADER[1:], rows=names, cmap=figures.shades())
    figures.write_values(ax, shares, texts)
    ax.xaxis.tick_top()
    ax.tick_params(length=0, rotation=0)
