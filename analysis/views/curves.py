"""Learning curves: metrics by training set size, pooled over seeds; loss and accuracy by epoch for `head`."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import figures, frames, learning
from analysis.card import ViewCard
from analysis.contract import Output, Table, ViewRequest
from analysis.writing import stem_of, write_view
from data.errors import RequestError
from data.runs import Run

CARD = ViewCard(input="runs")

QUANTITIES = {"loss": "Loss (cross-entropy)", "accuracy": "Accuracy"}
SPLITS = ("train", "val")
OF_LABELS = " Accuracy: share of correct decisions over all classes of all samples."


def run(request: ViewRequest) -> list[Output]:
    """Write the epochs of every run that recorded them, and learning curves of runs on growing parts of train."""
    runs, folder = request.all_runs(), request.target("curves")
    outputs = learning.write(runs, folder)
    if not outputs or any(run.record.get("history", {}).get("curves") for run in runs):
        parts = compute(runs).groupby(["dataset", "encoder", "run"], sort=False)
        outputs += [_write(part.reset_index(drop=True), folder) for _, part in parts]
    return outputs


def compute(runs: Sequence[Run]) -> pd.DataFrame:
    """The epochs that runs recorded.

    Returns:
        A row per run x epoch x split: the columns of `frames.run_columns`, then ``epoch chosen split loss accuracy``;
        ``chosen`` marks the epoch whose weights the run kept.

    Raises:
        RequestError: no run recorded any.
    """
    rows = []
    for run in runs:
        chosen = run.record["chosen"].get("epoch")
        for epoch in run.record.get("history", {}).get("curves", ()):
            about = frames.run_columns(run) | {"epoch": epoch["epoch"], "chosen": epoch["epoch"] == chosen}
            for split in SPLITS:
                values = {quantity: epoch[f"{split}_{quantity}"] for quantity in QUANTITIES}
                rows.append(about | {"split": split} | values)
    if not rows:
        kinds = ", ".join(sorted({run.kind for run in runs}))
        raise RequestError(
            f"no run recorded epochs, and none was fitted on part of train (kinds found: {kinds}); make some with "
            "probe --kind head or probe sweep"
        )
    return frames.with_names(pd.DataFrame(rows), runs)


def readable(frame: pd.DataFrame) -> Table:
    """The table of one run: a row per epoch, the chosen one in bold."""
    rows = []
    for epoch, part in frame.groupby("epoch"):
        values = {row["split"]: row for row in part.to_dict("records")}
        cells = [figures.number(values[split][quantity]) for quantity in QUANTITIES for split in SPLITS]
        chosen = values["train"]["chosen"]
        rows.append([f"**{epoch}**" if chosen else f"{epoch}", *cells])
    header = ["Epoch", *(f"{quantity.capitalize()}, {split}" for quantity in QUANTITIES for split in SPLITS)]
    return Table(header, rows)


def _write(frame: pd.DataFrame, folder: Path) -> Output:
    first = frame.iloc[0]
    return write_view(
        frame, draw_figure, stem_of(folder, "curves", first, "dataset", "encoder", "run"), what="Training by epoch",
        title=str(first["probe"]), shown=[readable(frame)], left=0, note="Bold: the epoch chosen on val.",
        reading="Dotted: the epoch chosen on val." + (OF_LABELS if first["multilabel"] else ""),
        caption="Mean over the samples of a split after each epoch. Dotted line: the epoch chosen on val.",
        alt=f"Loss and accuracy of {frame['epoch'].nunique()} epochs on train and val.",
    )  # fmt: skip


def draw_figure(frame: pd.DataFrame) -> Figure:
    """Loss and accuracy side by side."""
    figure = figures.new_figure(9, 3.7)
    for ax, quantity in zip(figure.subplots(1, 2), QUANTITIES, strict=True):
        draw(frame, ax, quantity)
    figure.get_layout_engine().set(wspace=0.08)  # type: ignore[union-attr]
    return figure


def draw(frame: pd.DataFrame, ax: Axes, quantity: str) -> None:
    """One quantity of one run, a line per split."""
    import seaborn as sns  # deferred: it takes a second to import

    palette = dict(zip(SPLITS, (figures.GREY, figures.RIGHT), strict=True))
    sns.lineplot(
        frame, x="epoch", y=quantity, hue="split", hue_order=SPLITS, palette=palette, style="split",
        style_order=SPLITS, markers=["o", "s"], dashes=False, markersize=5, ax=ax,
    )  # fmt: skip
    for epoch in frame.loc[frame["chosen"], "epoch"].unique():
        ax.axvline(epoch, color=figures.GREY, lw=1, ls=":", zorder=0)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.set(xlabel="Epoch", ylabel=QUANTITIES[quantity])
    if quantity == "accuracy":
        ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.grid(axis="y")
    ax.legend(title=None, frameon=False)
    figures.without_frame(ax)
