"""The class project's Table 3: its ten published cases, and what our runs predict for those classes."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from analysis import figures, frames
from analysis.contract import Output, Table
from analysis.studies import reference
from analysis.writing import write_view
from data.runs import Run
from probes import pooling

NOTE = (
    "Published: one image each, with its true and predicted class. Ours: the share of all test samples of the true "
    "class that are predicted as in the published case."
)


def compute(run: Run) -> pd.DataFrame:
    """The published cases whose classes this run has.

    Returns:
        A row per case: ``case true published samples correct as_published mostly simulated``; ``correct`` and
        ``as_published`` are shares of the run's test samples of the true class, ``mostly`` the class predicted for most
        of them.
    """
    names = run.class_names
    judged = pooling.judge(run, run.predictions("test"), "half")
    predicted = judged.decided.argmax(axis=1)
    rows = []
    for number, case in enumerate(reference.CLASS_PROJECT_CASES, 1):
        if case.true not in names or case.predicted not in names:
            continue
        ours = predicted[judged.truth[:, names.index(case.true)]]
        shares = np.bincount(ours, minlength=len(names)) / max(1, len(ours))
        about = {"case": number, "true": case.true, "published": case.predicted, "samples": len(ours)}
        shown = {"correct": shares[names.index(case.true)], "as_published": shares[names.index(case.predicted)]}
        rows.append(about | shown | {"mostly": names[int(shares.argmax())], "simulated": run.simulated})
    return pd.DataFrame(rows)


def readable(frame: pd.DataFrame) -> Table:
    """A row per case."""
    columns = {"Case": "{case}", "True class": "{true}", "Published prediction": "{published}"}
    columns |= {"Our samples": "{samples:,}", "Ours correct": "{correct:.0%}"}
    return Table.of(frame, columns | {"Ours as published": "{as_published:.0%}", "Ours most often": "{mostly}"})


def write(runs: Sequence[Run], folder: Path) -> list[Output]:
    """Table 3 of every run that has at least one of the cases' classes."""
    outputs = []
    labels = frames.with_names(pd.DataFrame([frames.run_columns(run) for run in runs]), runs)
    for run, about in zip(runs, labels.to_dict("records"), strict=True):
        frame = compute(run)
        if frame.empty:
            continue
        words = f"{about['model']}, {about['probe']}"
        title = f"Table 3: published cases; {words}"
        outputs.append(
            write_view(
                frame, draw, folder / f"eurosat__{run.dataset}__table3__{run.encoder}__{run.folder.name}", title=title,
                heading=f"{title}, {run.dataset}", size=(9.5, 1.9 + 0.3 * len(frame)),
                drawn="Table 3: the published cases", where=f"{run.dataset}: {words}",
                shown=[readable(frame)], left=3, note=NOTE, of=(), dataset=run.dataset,
                alt=f"{len(frame)} published cases with the share of our test samples predicted the same way.",
            )
        )  # fmt: skip
    return outputs


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """A bar per case: the share of our samples of its class that are predicted as in the published case."""
    rows = frame.to_dict("records")
    colours = [figures.RIGHT if row["true"] == row["published"] else figures.WRONG for row in rows]
    ax.barh(range(len(rows)), [row["as_published"] for row in rows], color=colours, height=0.66)
    for y, row in enumerate(rows):
        ax.text(row["as_published"], y, f" {row['as_published']:.0%} of {row['samples']:,}", va="center", fontsize=8)
    words = [row["true"] if row["true"] == row["published"] else f"{row['true']} as {row['published']}" for row in rows]
    ax.set(xlim=(0, 1.18), xlabel="Share of our test samples of the class predicted as in the published case")
    ax.set_xticks(np.linspace(0, 1, 6))
    figures.label_rows(ax, words)
    handles = [Patch(color=figures.RIGHT), Patch(color=figures.WRONG)]
    words = ["published: correct", "published: error"]
    ax.legend(handles, words, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
