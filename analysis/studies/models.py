"""DINOv2 and a CNN side by side, with the class project's accuracy."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from analysis import figures, frames
from analysis.contract import Output, Table
from analysis.studies import reference
from analysis.studies.protocol import is_eurosat, split_sizes
from analysis.writing import write_view
from data.runs import Run

SIDES = {"dinov2": "DINOv2", "resnet": "CNN"}
JOINED = {"dinov2+resnet": "DINOv2 + CNN", "resnet+dinov2": "DINOv2 + CNN"}  # what it proposed as future work
MODEL_METRICS = ("accuracy", "balanced_accuracy", "f1_macro")


def compute(runs: Sequence[Run]) -> pd.DataFrame:
    """The models of these runs side by side, with the class project's accuracy.

    Returns:
        A row per run x metric: the columns of `frames.run_columns`, then ``probe side metric value low high``; ``side``
        is ``DINOv2``, ``CNN``, ``DINOv2 + CNN`` (their features joined) or ``other``.
    """
    frame = frames.with_names(frames.metrics_frame(runs), runs)
    frame = frame.loc[
        (frame["split"] == "test") & (frame["rule"] == "half") & frame["metric"].isin(MODEL_METRICS)
    ].reset_index(drop=True)
    names = {(run.dataset, run.encoder): run.record["features"]["encoder"]["name"] for run in runs}
    sides = [(SIDES | JOINED).get(names[key], "other") for key in zip(frame["dataset"], frame["encoder"], strict=True)]
    return frame.assign(side=sides).drop(columns=["split", "rule"])


def readable(frame: pd.DataFrame, *, published: bool) -> Table:
    """A row per run, and the class project's where the classes are EuroSAT's."""
    rows = []
    for _, part in frame.groupby(["encoder", "run"], sort=False):
        first, values = part.iloc[0], {row["metric"]: row for row in part.to_dict("records")}
        cells = map(figures.span, [values[metric] for metric in MODEL_METRICS])
        rows.append([first["side"], first["model"], first["probe"], *cells])
    if published:
        row = ["published", "class project: DINOv2 base, 224 px", "head", f"{reference.CLASS_PROJECT_ACCURACY:.3f}"]
        rows.append([*row, *["–"] * (len(MODEL_METRICS) - 1)])
    return Table(["", "Model", "Probe", *(frames.SINGLE_LABEL_METRICS[metric] for metric in MODEL_METRICS)], rows)


def write(runs: Sequence[Run], folder: Path, notes: list[str]) -> Output:
    """Write the table and its figure; which side is missing is added to `notes`."""
    frame, dataset, published = compute(runs), runs[0].dataset, is_eurosat(runs[0])
    for name, side in SIDES.items():
        if side not in set(frame["side"]):
            notes.append(f"no {side} to compare: featurize --model {name}, then probe --kind {runs[0].kind}")
    note = f"Ours: {split_sizes(runs[0])} samples of {dataset}, scored on test."
    if len({split_sizes(one) for one in runs}) > 1:
        note += " The runs differ in sample counts, so the difference is not due to models alone (see analyze compare)."
    if published:
        note += (
            f" Published: {reference.CLASS_PROJECT_IMAGES} test images chosen by the class project, and other splits "
            "than ours, so the difference is not due to models alone."
        )
    if any(one.record["features"]["encoder"]["weights"]["source"] == "random" for one in runs):
        note += " Models with random weights were never trained: their rows only show that the tool works."
    count = frame.groupby(["encoder", "run"]).ngroups
    title = "DINOv2 and a CNN" if set(SIDES.values()) <= set(frame["side"]) else "Models side by side"
    return write_view(
        frame, partial(draw, published=published), folder / f"eurosat__{dataset}__models", title=title,
        heading=f"{title}, {dataset}", size=(9.5, 2.1 + 0.42 * count), where=dataset,
        shown=[readable(frame, published=published)], left=3, note=note, of=["dataset"],
        alt=f"Accuracy of {count} models.",
    )  # fmt: skip


def draw(frame: pd.DataFrame, ax: Axes, *, published: bool) -> None:
    """Accuracy of each model with its interval, and the published one as a line."""
    frame = frame.loc[frame["metric"] == "accuracy"]
    palette = {"DINOv2": figures.PALETTE[0], "CNN": figures.PALETTE[1], "DINOv2 + CNN": figures.PALETTE[2]}
    palette["other"] = figures.GREY
    rows = frame.to_dict("records")
    for y, row in enumerate(rows):
        figures.draw_value(ax, row, y, palette[row["side"]], size=6)
        ax.annotate(
            f"{row['value']:.3f}", (row["value"], y), (0, 6), textcoords="offset points", ha="center", fontsize=8
        )
    if published:
        ax.axvline(reference.CLASS_PROJECT_ACCURACY, color=figures.WRONG, lw=1.2, ls="--", zorder=0)
    ax.set_xlabel(f"Accuracy on test, {frames.interval_words(frame)}")
    figures.label_rows(ax, [f"{row['model']}\n{row['probe']}" for row in rows], top=-0.75)
    shown = [side for side in palette if side in set(frame["side"])]
    handles = [Line2D([], [], marker="o", lw=2, color=palette[side]) for side in shown]
    if published:
        handles.append(Line2D([], [], ls="--", lw=1.2, color=figures.WRONG))
        shown.append(f"class project ({reference.CLASS_PROJECT_ACCURACY:.3f}, published)")
    ax.legend(handles, shown, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
