"""F2 per class for all probes: bar chart and table."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis import figures, frames
from analysis.card import Section, ViewCard
from analysis.contract import Output, Table, ViewRequest
from analysis.writing import write_view
from data.runs import Run

CARD = ViewCard(input="runs", section=Section(order=20, heading="F2 per class"))

MACRO = "All classes (macro mean)"
PROBES_PER_FIGURE = 8  # as many bars per class as there are distinguishable colors


def run(request: ViewRequest) -> list[Output]:
    """Write bars and a table for each feature set that has runs."""
    runs, outputs = request.all_runs(), []
    frame = compute(runs, request.rules)
    for dataset, encoder in frames.grouped(runs):
        part = frame.loc[(frame["dataset"] == dataset) & (frame["encoder"] == encoder)]
        probes = list(part["probe"].unique())
        for page, start in enumerate(range(0, len(probes), PROBES_PER_FIGURE)):
            stem = request.target("f2") / f"f2__{dataset}__{encoder}{f'__{page + 1}' if page else ''}"
            outputs.append(write(part.loc[part["probe"].isin(probes[start : start + PROBES_PER_FIGURE])], stem))
    return outputs


def compute(runs: Sequence[Run], rules: Sequence[str] = ("half", "tuned")) -> pd.DataFrame:
    """F2 of every class and their macro mean, as the runs recorded them, on test.

    Returns:
        A row per run x rule x class with ``model probe rule class support f2``; the macro mean comes first, then
        the classes by decreasing support, so that the effect on rare classes is visible.
    """
    classes = frames.per_class_frame(runs)
    macro = frames.metrics_frame(runs)
    macro = macro.loc[(macro["split"] == "test") & (macro["metric"] == "f2_macro")]
    macro = macro.assign(**{"class": MACRO, "index": -1, "f2": macro["value"]})
    classes = classes.sort_values(["support", "index"], ascending=[False, True], kind="stable")
    frame = frames.with_names(pd.concat([macro, classes], ignore_index=True), runs)
    columns = ["dataset", "encoder", "model", "run", "kind", "probe", "multilabel", "simulated"]
    columns += ["rule", "class", "support", "f2"]
    return frames.under_rules(frame, rules).loc[:, columns].astype({"support": "Int64"}).reset_index(drop=True)


def readable(frame: pd.DataFrame) -> Table:
    """A row per class, a column per probe and rule."""
    multilabel = bool(frame["multilabel"].iloc[0])
    columns = list(dict.fromkeys(zip(frame["probe"], frame["rule"], strict=True)))
    columns.sort(key=lambda column: list(frame["rule"].unique()).index(column[1]))
    values = {(c, p, r): v for c, p, r, v in frame[["class", "probe", "rule", "f2"]].itertuples(index=False)}
    rows = [
        [name, "" if support is None else f"{support:,}"]
        + [figures.number(values.get((name, probe, rule), np.nan)) for probe, rule in columns]
        for name, support in _supports(frame).items()
    ]
    return Table(["Class", "Support", *(f"{p}, {frames.rule_words(r, multilabel)}" for p, r in columns)], rows)


def write(frame: pd.DataFrame, stem: Path) -> Output:
    """Write the bars and the table of one feature set (of `compute`) as ``<stem>.*``."""
    first, shown = frame.iloc[0], readable(frame)
    return write_view(
        frame, draw_figure, stem, title="F2 per class", heading=f"F2 per class, {first['dataset']}, {first['model']}",
        drawn="F2 per class", reading="n: support in test, rarest last. No bar: F2 is 0.", shown=[shown],
        note="Test split, classes by decreasing support n. F2 weights recall four times as much as precision.",
        alt=f"Bars of the F2 of {len(shown.rows) - 1} classes for {frame['probe'].nunique()} probe runs.",
    )  # fmt: skip


def draw_figure(frame: pd.DataFrame) -> Figure:
    """One panel per rule, probes side by side."""
    rules, probes = list(frame["rule"].unique()), list(frame["probe"].unique())
    rows = len(set(frame["class"]))
    figure = figures.new_figure(4.2 + 3.7 * len(rules), 1.9 + rows * max(0.3, 0.1 + 0.1 * len(probes)))
    axes = figure.subplots(1, len(rules), sharey=True, squeeze=False)[0]
    for ax, rule in zip(axes, rules, strict=True):
        draw(frame.loc[frame["rule"] == rule], ax)
        words = frames.rule_words(rule, bool(frame["multilabel"].iloc[0]))
        ax.set_title(words.capitalize(), loc="left", fontweight="bold")
    figure.get_layout_engine().set(wspace=0.05)  # type: ignore[union-attr]
    handles = [Patch(color=colour) for colour in _colours(frame)]
    figure.legend(handles, probes, loc="outside upper right", ncols=min(4, len(probes)), frameon=False)
    return figure


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """Bars of one rule."""
    import seaborn as sns  # deferred: it takes a second to import

    names, probes = list(frame["class"].unique()), list(frame["probe"].unique())
    sns.barplot(
        frame, x="f2", y="class", hue="probe", order=names, hue_order=probes, orient="h",
        palette=_colours(frame), saturation=1, linewidth=0, width=0.84, legend=False, errorbar=None, ax=ax,
    )  # fmt: skip
    labels = []
    for row, (name, support) in enumerate(_supports(frame).items()):
        labels.append(name if support is None else f"{figures.wrapped(name, 40)}  (n={support:,})")
        if support == 0:
            ax.text(0.01, row, "no samples in test", va="center", fontsize=7, color=figures.GREY)
    ax.set_yticks(range(len(names)), labels)
    for tick in ax.get_yticklabels()[:1]:  # none in panels that share the first panel's
        tick.set_fontweight("bold")
    ax.axvline(0, color=figures.GREY, lw=0.8)
    ax.axhline(0.5, color=figures.GREY, lw=0.8)
    ax.set(xlim=(0, 1), xlabel="F2", ylabel="")
    ax.grid(axis="x")
    figures.without_frame(ax)


def _supports(frame: pd.DataFrame) -> dict[str, int | None]:
    """Test samples of each class, in the order of the frame; None for the macro mean."""
    rows = frame[["class", "support"]].itertuples(index=False, name=None)
    return {name: None if pd.isna(support) else int(support) for name, support in rows}


def _colours(frame: pd.DataFrame) -> list[str]:
    """One per probe, in the order of the frame."""
    return figures.kind_colours(list(frame.drop_duplicates("probe")["kind"]))
