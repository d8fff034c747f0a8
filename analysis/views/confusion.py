"""Confusion matrix; for multi-label data TP, FP, FN and TN per class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from analysis import figures, frames
from analysis.card import ViewCard
from analysis.contract import Output, Table, ViewRequest
from analysis.writing import stem_of, write_view
from data.runs import Run

CARD = ViewCard(input="runs")

NUMBERS_UP_TO, NAMES_UP_TO = 60, 120  # classes whose counts are written into the cells, and whose names beside them
LARGEST = 100  # pairs in the table of a matrix too large to be read as one
MANY = "Color: square root of the share of the row; blue: correct, orange: errors. Numbers: order in the CSV."
SHARES = "Share and count of the test samples that have the class (left two columns) or lack it (right two)."
OUTCOMES = {
    "tp": "True positive (TP)", "fn": "False negative (FN)", "fp": "False positive (FP)", "tn": "True negative (TN)",
}  # fmt: skip


def run(request: ViewRequest) -> list[Output]:
    """Write a matrix for each run and rule; single-label runs have one rule."""
    runs, folder, outputs = request.all_runs(), request.target("confusion"), []
    for one in runs:
        for rule in request.rules if one.multilabel else ("half",):
            frame = frames.with_names(compute(one, rule), runs)
            stem = stem_of(folder, "confusion", frame.iloc[0], "dataset", "encoder", "run", "rule")
            outputs.append(_write(frame, stem))
    return outputs


def compute(run: Run, rule: str = "half") -> pd.DataFrame:
    """The confusion of one run on test.

    Returns:
        Single-label: a row per true class x predicted class with ``true predicted count share``, predicted by
        argmax. Multi-label: a row per class x outcome with ``class outcome count share``, from the recorded
        counts. ``share`` is of the samples that truly have (``tp fn``) or lack (``fp tn``) the class; NaN where
        there are none. Both are led by the columns of `frames.run_columns` and ``rule``.
    """
    frame = _outcomes(run, rule) if run.multilabel else _matrix(run)
    columns = frames.run_columns(run) | {"rule": rule}
    return frame.assign(**columns).loc[:, [*columns, *frame.columns]]


def _matrix(run: Run) -> pd.DataFrame:
    predictions, names = run.predictions("test"), run.class_names
    counts = confusion_matrix(predictions.labels, predictions.scores.argmax(axis=1), labels=range(len(names)))
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)
    pairs = {"true": np.repeat(names, len(names)), "predicted": np.tile(names, len(names))}
    return pd.DataFrame(pairs | {"count": counts.ravel(), "share": shares.ravel()})


def _outcomes(run: Run, rule: str) -> pd.DataFrame:
    rows = []
    for values in run.record["per_class"][rule]:
        for outcome in OUTCOMES:
            total = values["tp"] + values["fn"] if outcome in ("tp", "fn") else values["fp"] + values["tn"]
            share = values[outcome] / total if total else np.nan
            rows.append({"class": values["name"], "outcome": outcome, "count": values[outcome], "share": share})
    return pd.DataFrame(rows)


def _write(frame: pd.DataFrame, stem: Path) -> Output:
    first, multilabel = frame.iloc[0], "outcome" in frame
    classes = len(set(frame["class" if multilabel else "true"]))
    many = not multilabel and classes > NUMBERS_UP_TO
    shown = largest(frame) if many else readable(frame)
    note, reading = SHARES, SHARES
    if many:
        note = f"The {len(shown.rows)} most frequent confusions; the CSV has every pair, the figure all as an image."
        reading = MANY
    elif not multilabel:
        note = "Counts by true class (row) and predicted class (column)."
        reading = "Counts of test samples; color: share of the true class (row)."
    return write_view(
        frame, draw_figure, stem, what="Confusion", title=frames.run_title(first) if multilabel else first["probe"],
        shown=[shown], left=3 if many else 1, note=f"Test split. {note}", reading=reading,
        alt=f"Confusion matrix of {classes} classes.",
    )  # fmt: skip


def readable(frame: pd.DataFrame) -> Table:
    """The table of a frame of `compute`: a row per true class."""
    outcomes = "outcome" in frame
    row, column = ("class", "outcome") if outcomes else ("true", "predicted")
    heads = list(dict.fromkeys(frame[column]))
    texts = [
        ("–" if np.isnan(share) else f"{share:.3f} ({count:,})") if outcomes else f"{count:,}" if count else ""
        for count, share in zip(frame["count"], frame["share"], strict=True)
    ]
    names = list(dict.fromkeys(frame[row]))
    rows = [[name, *texts[i * len(heads) : (i + 1) * len(heads)]] for i, name in enumerate(names)]
    return Table(["Class" if outcomes else "True", *(OUTCOMES[head] if outcomes else head for head in heads)], rows)


def largest(frame: Any) -> Table:
    """The most frequent confusions: a row per pair of a true and another predicted class."""
    wrong = frame[(frame["true"] != frame["predicted"]) & (frame["count"] > 0)]
    numbers = {name: k + 1 for k, name in enumerate(frame["true"].unique())}
    wrong = wrong.sort_values(["count", "share"], ascending=False, kind="stable").head(LARGEST)
    columns = {"Numbers": lambda row: f"{numbers[row['true']]} / {numbers[row['predicted']]}", "True": "{true}"}
    columns |= {"Predicted": "{predicted}", "Count": "{count:,}", "Share of the true class": "{share:.3f}"}
    return Table.of(wrong, columns)


def draw_figure(frame: pd.DataFrame) -> Figure:
    """The matrix, as large as its classes need."""
    if "outcome" in frame:
        figure = figures.new_figure(8.2, 1.9 + 0.34 * len(set(frame["class"])))
    else:
        names = list(frame["true"].unique())
        side = max(2.0, 0.5 * len(names) if len(names) <= 20 else min(0.38 * len(names), 14.0))
        figure = figures.new_figure(side + 3.2, side + (1.9 if _numbered(names) else 2.9))
    draw(frame, figure.subplots())
    return figure


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """A heat map of shares with the counts written in."""
    outcomes = "outcome" in frame
    names = list(frame["class" if outcomes else "true"].unique())
    shares = np.nan_to_num(frame["share"].to_numpy().reshape(len(names), -1))
    if not outcomes:
        ax.set_xlabel("Predicted", fontweight="bold")
        ax.set_ylabel("True", fontweight="bold")
    if not outcomes and len(names) > NUMBERS_UP_TO:
        _draw_image(shares, names, ax)
        return
    texts = [texts for _, *texts in readable(frame).rows]
    if outcomes:
        wrong = np.tile([outcome in ("fn", "fp") for outcome in OUTCOMES], (len(names), 1))
        _heatmap(shares, texts, list(OUTCOMES.values()), names, ax, wrong=wrong, fontsize=8)
        ax.xaxis.tick_top()
        return
    rows, columns = names, names
    if _numbered(names):
        columns = [str(k + 1) for k in range(len(names))]
        shown = names if len(names) <= 20 else [figures.shortened(name, 40) for name in names]  # one line per low row
        rows = [f"{name}\u00a0\u00a0{column}" for name, column in zip(shown, columns, strict=True)]
    wrong = ~np.eye(len(names), dtype=bool)
    _heatmap(shares, texts, columns, rows, ax, wrong=wrong, fontsize=8 if len(names) <= 20 else 6.5)
    ax.tick_params(axis="x", rotation=0 if _numbered(names) else 45)
    if not _numbered(names):
        for label in ax.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    for edge in range(len(names) + 1):  # to follow a row or a column through empty cells
        ax.axhline(edge, color=figures.FAINT, lw=0.5, zorder=3)
        ax.axvline(edge, color=figures.FAINT, lw=0.5, zorder=3)


def _draw_image(shares: np.ndarray, names: Sequence[str], ax: Axes) -> None:
    """Hundreds of classes as an image without numbers; colors by the square root of the share, or few show."""
    count = len(names)
    right = np.eye(count, dtype=bool)[..., None]
    visible = np.sqrt(shares)
    cells = np.where(right, figures.shades(figures.RIGHT)(visible), figures.shades(figures.WRONG)(visible))
    cells = np.round(255 * cells).astype(np.uint8)  # in floats, drawing would take a gigabyte
    ax.imshow(cells, interpolation="nearest", extent=(0, count, count, 0), aspect="auto")
    step = next(step for step in (10, 20, 50, 100, 200, 500, 1000) if count / step <= 20 or step == 1000)
    marks = [k for k in range(count) if k == 0 or (k + 1) % step == 0]
    ax.set_xticks([k + 0.5 for k in marks], [str(k + 1) for k in marks])
    ax.set_yticks([k + 0.5 for k in marks], [str(k + 1) for k in marks])
    if count <= NAMES_UP_TO:
        labels = [f"{figures.shortened(name, 40)}\u00a0\u00a0{k + 1}" for k, name in enumerate(names)]
        ax.set_yticks(np.arange(count) + 0.5, labels, fontsize=5.5)
    figures.without_frame(ax)


def _numbered(names: Sequence[str]) -> bool:
    """Whether the columns are headed by numbers, because names would run into each other."""
    return len(names) > 12 or max(map(len, names)) > 26


def _heatmap(
    shares: np.ndarray, texts: list[list[str]], columns: Sequence[str], rows: Sequence[str], ax: Axes, *,
    wrong: np.ndarray, fontsize: float,
) -> None:  # fmt: skip
    """Correct predictions in blue, errors (`wrong`, as `shares`) in orange."""
    heads, names = [figures.wrapped(name, 26) for name in columns], [figures.wrapped(name, 46) for name in rows]
    for shown, colour in ((~wrong, figures.RIGHT), (wrong, figures.WRONG)):
        cells = np.where(shown, shares, np.nan)
        figures.heatmap(ax, cells, columns=heads, rows=names, cmap=figures.shades(colour), gap=1)
    figures.write_values(ax, shares, texts, fontsize=fontsize)
