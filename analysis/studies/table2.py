"""The class project's Table 2: counts and rates of every class, ours and published."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis import figures, frames
from analysis.contract import Output, Table
from analysis.studies import reference
from analysis.studies.protocol import differences, is_eurosat, split_sizes
from analysis.views import classes
from analysis.writing import write_view
from data.runs import Run
from probes import metrics

COLUMNS = {heading: cell for heading, cell in classes.COLUMNS.items() if heading not in ("Support", "F2")}


def write(runs: Sequence[Run], folder: Path) -> list[Output]:
    """Write the table and its figure for every run."""
    frame = classes.compute(runs, ("half",))
    outputs = []
    for run in runs:
        part = frame.loc[(frame["run"] == run.folder.name) & (frame["encoder"] == run.encoder)].reset_index(drop=True)
        encoder = frames.model_words(run.record["features"]["encoder"])
        shown, note = [readable(part)], f"Ours: {run.dataset} ({split_sizes(run)} samples), {encoder}, {run.kind}."
        if is_eurosat(run):
            shown.append(readable(published()))
            right, total = sum(row.tp for row in reference.CLASS_PROJECT), reference.CLASS_PROJECT_IMAGES
            note += f" Below: the class project's, {right} of {total} correct. {reference.CLASS_PROJECT_NOTE}"
        if unlike := differences(run.record, reference.CLASS_PROJECT_PROTOCOL):
            note += f" Nearest protocol, not the class project's own: {'; '.join(unlike)}."
        else:
            note += " Same model, training and input as the class project's; which images it used is unknown."
        title = f"Table 2: {part['model'].iloc[0]}, {part['probe'].iloc[0]}"
        outputs.append(
            write_view(
                part, draw_figure, folder / f"eurosat__{run.dataset}__table2__{run.encoder}__{run.folder.name}",
                title=title, heading=f"{title}, {run.dataset}", drawn="Table 2: counts and rates",
                where=f"{run.dataset}: {part['model'].iloc[0]}, {part['probe'].iloc[0]}",
                reading=f"One-vs-rest, on test. {reference.CLASS_PROJECT_NOTE if is_eurosat(run) else ''}",
                shown=shown, note=note,
                of=["dataset"], alt=f"Counts and rates of {len(part)} classes, ours and published.",
            )
        )  # fmt: skip
    return outputs


def published() -> pd.DataFrame:
    """The class project's table, rates worked out from its counts, in the columns that `classes.draw` asks for."""
    frame = pd.DataFrame(reference.CLASS_PROJECT).rename(columns={"name": "class"})
    tp, fp, tn, fn = (frame[count].to_numpy() for count in frames.COUNTS)
    return frame.assign(
        support=tp + fn,
        precision=metrics.precision(tp, fp),
        recall=metrics.recall(tp, fn),
        specificity=metrics.specificity(tn, fp),
        f1=metrics.f_beta(tp, fp, fn, 1),
        f2=metrics.f_beta(tp, fp, fn, 2),
    )


def readable(frame: pd.DataFrame) -> Table:
    """The table of one run, or the published one."""
    return Table.of(frame, COLUMNS)


def draw_figure(frame: pd.DataFrame) -> Figure:
    """Our table above the published one, where the classes are EuroSAT's."""
    parts = {"Ours": frame}
    if set(frame["class"]) == {row.name for row in reference.CLASS_PROJECT}:
        parts["Class project (published)"] = published()
    figure = figures.new_figure(10.5, 1.7 + 0.29 * sum(len(part) for part in parts.values()) + 0.5 * len(parts))
    axes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[len(part) for part in parts.values()]).ravel()
    for ax, (heading, part) in zip(axes, parts.items(), strict=True):
        classes.draw(part, ax)
        ax.set_title(heading, loc="left", fontweight="bold")
    return figure
