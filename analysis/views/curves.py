"""Learning curves: metrics by size of train, pooled over seeds; and loss and accuracy by epoch of `head` runs."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import figures, frames, learning, tables
from analysis.contract import Output, ViewRequest
from data.errors import RequestError
from data.runs import Run, all_runs

CARD = {"input": "runs", "needs": "curves", "options": {}}

QUANTITIES = {"loss": "Loss (cross-entropy)", "accuracy": "Accuracy"}
SPLITS = ("train", "val")


def run(request: ViewRequest) -> list[Output]:
    """Write the epochs of every run that kept them, and the learning curves of runs on growing parts of train."""
    runs = all_runs(request.out, model=request.model, dataset=request.dataset, kind=request.kind)
    folder = request.target("curves")
    grown = learning.write(runs, folder)
    if grown and not any(run.record.get("history", {}).get("curves") for run in runs):
        return grown
    frame = compute(runs)
    parts = [part.reset_index(drop=True) for _, part in frame.groupby(["dataset", "encoder", "run"], sort=False)]
    return grown + [_write(part, folder) for part in parts]


def compute(runs: Sequence[Run]) -> pd.DataFrame:
    """The epochs that runs recorded.

    Returns:
        A row a run x epoch x split: the columns of `frames.run_columns`, then ``epoch chosen split loss accuracy``;
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
            f"no run recorded its epochs, nor are there runs on parts of train (found: {kinds}); "
            "make some with probe --kind head or probe sweep"
        )
    return frames.with_names(pd.DataFrame(rows), runs)


def readable(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells of one run: a row an epoch, the chosen one in bold."""
    rows = []
    for epoch, part in frame.groupby("epoch"):
        values = {row["split"]: row for row in part.to_dict("records")}
        cells = [figures.number(values[split][quantity]) for quantity in QUANTITIES for split in SPLITS]
        chosen = values["train"]["chosen"]
        rows.append([f"**{epoch}**" if chosen else f"{epoch}", *cells])
    return ["Epoch", *(f"{quantity.capitalize()}, {split}" for quantity in QUANTITIES for split in SPLITS)], rows


def _write(frame: pd.DataFrame, folder: Path) -> Output:
    first = frame.iloc[0]
    stem = folder / "__".join(["curves", *(first[key] for key in ("dataset", "encoder", "run"))])
    header, rows = readable(frame)
    title = f"Epochs, {first['dataset']}, {first['model']}, {first['probe']}"
    if first["simulated"]:
        title += " (simulated data)"
    note = "Bold: the epoch chosen on val."
    return Output(
        title=str(first["probe"]),
        files=(
            *figures.save(draw_figure(frame), stem),
            *tables.write_all(frame, stem, title, header, rows, left=0, note=note),
        ),
        dataset=first["dataset"],
        encoder=first["encoder"],
        caption="Mean over the samples of a split after each epoch. The dotted line marks the epoch chosen on val.",
        alt=f"Loss and accuracy of {frame['epoch'].nunique()} epochs on train and val.",
        tables=((header, rows),),
    )


def draw_figure(frame: pd.DataFrame) -> Figure:
    """Loss and accuracy side by side.

    Args:
        frame: of `compute`, one run.
    """
    first = frame.iloc[0]
    figure = figures.new_figure(9, 3.7)
    for ax, quantity in zip(figure.subplots(1, 2), QUANTITIES, strict=True):
        draw(frame, ax, quantity)
    figure.get_layout_engine().set(wspace=0.08)  # type: ignore[union-attr]
    of_labels = " Accuracy: share of right decisions over all classes of all samples." if first["multilabel"] else ""
    note = f"Dotted: the epoch chosen on val.{of_labels}"
    where = f"{first['dataset']}: {first['model']}"
    figures.put_title(
        figure, f"Training by epoch: {first['probe']}", where, simulated=bool(first["simulated"]), note=note
    )
    return figure


def draw(frame: pd.DataFrame, ax: Axes, quantity: str) -> None:
    """One quantity of one run, a line a split, named at its end.

    Args:
        frame: of `compute`, one run.
        ax: where to draw.
        quantity: ``loss`` or ``accuracy``.
    """
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
