"""Reliability diagrams: observed frequency against predicted probability, with ECE, Brier score and log loss."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures, frames
from analysis.card import ViewCard
from analysis.contract import Output, Table, ViewRequest
from analysis.writing import stem_of, write_view
from data.runs import Run
from probes import probabilities
from probes.metrics import label_matrix

CARD = ViewCard(input="runs")

TOP = "argmax"  # the one curve of single-label runs: is the class with the highest score correct?
COLUMNS = 4  # panels side by side
MOST_PANELS = 24  # the rest is in the table
FEW = 10  # a bin with fewer samples is drawn hollow
BIN_COLUMNS = ["low", "high", "count", "confidence", "frequency"]


def run(request: ViewRequest) -> list[Output]:
    """Write a reliability diagram and its table for each run."""
    runs = request.all_runs()
    named = frames.with_names(pd.DataFrame([frames.run_columns(one) for one in runs]), runs).to_dict("records")
    folder = request.target("calibration")
    return [_write(one, compute(one).assign(**about), folder) for one, about in zip(runs, named, strict=True)]


def compute(run: Run) -> pd.DataFrame:
    """Reliability of test scores.

    Returns:
        A row per class x bin: ``class``, then ``low high count confidence frequency`` of `probabilities.reliability`
        and the class's ``support`` and ``ece``. Single-label runs have one class, `TOP`: the highest score of a sample
        against whether that class is right.
    """
    predictions = run.predictions("test")
    truth, scores = label_matrix(predictions.labels, len(run.class_names)), predictions.scores
    if run.multilabel:
        questions = [(name, truth[:, k], scores[:, k]) for k, name in enumerate(run.class_names)]
    else:
        questions = [(TOP, *probabilities.top_label(truth, scores))]
    parts = []
    for name, hits, confidence in questions:
        table = probabilities.reliability(hits, confidence)
        about = {"support": int(hits.sum()), "ece": probabilities.error_of(table)}
        parts.append(pd.DataFrame({"class": name, **table, **about}))
    return pd.concat(parts, ignore_index=True)


def readable(frame: pd.DataFrame) -> Table:
    """Of multi-label runs a row per class, of single-label runs a row per bin."""
    if set(frame["class"]) != {TOP}:
        rows = []
        for name, part in frame.groupby("class", sort=False):
            counts, confidences = (part[column].to_numpy(float) for column in ("count", "confidence"))
            mean = float(np.nansum(counts * confidences) / counts.sum())
            ece, support = (float(part[column].to_numpy(float)[0]) for column in ("ece", "support"))
            rates = (support / counts.sum(), mean, ece)
            rows.append([str(name), f"{int(support):,}", *(figures.number(value) for value in rates)])
        return Table(["Class", "Support", "Frequency", "Mean score", "ECE"], rows)
    rows = [
        [f"{low:.2f} to {high:.2f}", f"{count:,}", figures.number(confidence), figures.number(frequency)]
        for low, high, count, confidence, frequency in frame[BIN_COLUMNS].itertuples(index=False)
    ]
    return Table(["Score", "Samples", "Mean score", "Accuracy"], rows)


def summary(run: Run) -> str:
    """Calibration error, Brier score and log loss of test, before and after where the run was calibrated."""
    predictions = run.predictions("test")
    truth = label_matrix(predictions.labels, len(run.class_names))
    after = probabilities.probability_metrics(truth, predictions.scores, multilabel=run.multilabel)
    before = ((run.record.get("calibration") or {}).get("before") or {}).get("test")
    words = []
    for name, title in frames.PROBABILITY_METRICS.items():
        was = f"{before[name]:.3f} before, " if before else ""
        words.append(f"{title} {was}{after[name]:.3f}" + (" after" if before else ""))
    return "; ".join(words)


def _write(run: Run, frame: pd.DataFrame, folder: Path) -> Output:
    first, said, panels, classes = frame.iloc[0], summary(run), "", len(set(frame["class"]))
    if run.multilabel:
        panels = f"The {MOST_PANELS} most frequent of {classes} classes. " if classes > MOST_PANELS else ""
        panels += "Horizontal: mean score in the bin. Larger points: more samples. By decreasing support. "
    return write_view(
        frame, draw_figure, stem_of(folder, "calibration", first, "dataset", "encoder", "run"), what="Calibration",
        title=str(first["probe"]), shown=[readable(frame)], note=f"Test split. {said}.",
        reading=f"{panels}Test split, {probabilities.BINS} bins, open circles: fewer than {FEW} samples. "
        f"{said}.",
        caption=f"Test split, {probabilities.BINS} bins of equal width. Dotted: perfect calibration. {said}.",
        alt=f"Reliability diagram of {first['probe']}: {said}.", summary=f"{first['probe']}: {said}",
    )  # fmt: skip


def draw_figure(frame: pd.DataFrame) -> Figure:
    """A panel per class; of single-label runs one panel, with the number of samples below."""
    if bool(frame["multilabel"].iloc[0]):
        return _draw_classes(frame)
    figure = figures.new_figure(5.4, 6.4)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    draw(frame, above)
    above.set_ylabel("Accuracy")
    widths = frame["high"] - frame["low"]
    below.bar(frame["low"], frame["count"], width=widths, align="edge", color=figures.RIGHT, edgecolor="white")
    below.set(xlabel="Highest score", ylabel="Samples")
    figures.without_frame(below)
    return figure


def _draw_classes(frame: pd.DataFrame) -> Figure:
    parts: list[tuple[Any, pd.DataFrame]] = list(frame.groupby("class", sort=False))
    shown = sorted(parts, key=lambda pair: -pair[1]["support"].iloc[0])[:MOST_PANELS]
    columns = min(COLUMNS, len(shown))
    figure = figures.new_figure(2.6 * max(columns, 2), 1.3 + 2.75 * -(-len(shown) // columns))
    axes = figures.panels(figure, len(shown), columns, sharex=True, sharey=True)
    for number, (ax, (name, part)) in enumerate(zip(axes, shown, strict=True)):
        draw(part, ax)
        ax.set_box_aspect(1)
        ax.set_title(figures.wrapped(str(name), 30), fontsize=8, loc="left")
        ax.tick_params(labelbottom=number + columns >= len(shown))
    figure.supylabel("Observed frequency", fontsize=9)
    return figure


def draw(part: pd.DataFrame, ax: Axes) -> None:
    """Frequency against mean score, a point per bin, and the diagonal."""
    used = part.loc[part["count"] > 0]
    few = used["count"] < FEW
    ax.plot([0, 1], [0, 1], color=figures.GREY, lw=1, ls=":")
    ax.plot(used["confidence"], used["frequency"], color=figures.RIGHT, lw=1, alpha=0.5)
    areas = 14 + 80 * np.sqrt(used["count"] / part["count"].sum())
    ax.scatter(
        used["confidence"], used["frequency"], s=areas, c=np.where(few, "white", figures.RIGHT),
        edgecolor=figures.RIGHT, lw=0.9, zorder=3,
    )  # fmt: skip
    ax.set(xlim=(-0.05, 1.05), ylim=(-0.05, 1.05), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    ax.text(0.99, 0.02, f"ECE {part['ece'].iloc[0]:.3f}", ha="right", fontsize=7.5, color=figures.GREY)
    ax.grid(True)
    figures.without_frame(ax)
