"""Runs against each other on shared test samples: paired differences, ranks that may tie; models across datasets."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import across, figures, frames, ranking, tables
from analysis.contract import Output, ViewRequest
from analysis.studies import reference
from data.errors import RequestError, unknown
from data.runs import Run, all_runs

CARD = {
    "input": "runs",
    "options": {
        "metric": {"default": "", "help": "What to compare by. Default: f2_macro for multi-label data, accuracy else."},
        "resamples": {"default": 2000, "help": "Bootstrap resamples of the means over several datasets."},
        "seed": {"default": 0, "help": "Seed of these resamples."},
    },
}


PROTOCOL_FILL = {"same": figures.INK, "nearest": "white"}  # of the marks of published numbers


def run(request: ViewRequest, *, metric: str, resamples: int, seed: int) -> list[Output]:
    """Rank all runs of each dataset and write the table, the pairs and a figure."""
    if resamples < 1000:
        raise RequestError(f"--resamples {resamples}: an interval needs at least 1000")
    if not 0 <= seed < 2**32:
        raise RequestError(f"--seed {seed}: must be from 0 to {2**32 - 1}")
    runs = all_runs(request.out, model=request.model, dataset=request.dataset, kind=request.kind)
    _check_metric(metric, runs)
    frame, pairs, contenders = ranking.rankings(runs, request.rules, metric=metric)
    folder = request.target("compare")
    outputs = []
    for _, part in frame.groupby(["dataset", "test_split", "rule"], sort=False):
        dataset, split, rule = (str(part[column].iloc[0]) for column in ("dataset", "test_split", "rule"))
        of_part = pairs.loc[(pairs["dataset"] == dataset) & (pairs["rule"] == rule) & (pairs["test_split"] == split)]
        stem = f"compare__{dataset}__{rule if bool(part['multilabel'].iloc[0]) else 'argmax'}"
        stem = folder / f"{stem}{frames.split_suffix(split)}"
        outputs.append(_write(part.reset_index(drop=True), of_part, stem))
    if len(set(frame["dataset"])) > 1:
        outputs += across.write(frame, contenders, folder / "compare", resamples=resamples, seed=seed)
    return outputs


def _check_metric(metric: str, runs: Sequence[Run]) -> None:
    choices = list(dict.fromkeys(name for one in runs for name in frames.metric_names(one.multilabel) if name != "ece"))
    if metric and metric not in choices:
        raise unknown("metric", metric, choices)


# ------------------------------------------------------------------------------------------------ write


def readable(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells of one dataset and rule, best first; bold: ties with the best."""
    metric, multilabel = frame["metric"].iloc[0], bool(frame["multilabel"].iloc[0])
    with_published = any(frame["published"] != "")
    rows = []
    for row in frame.to_dict("records"):
        value = figures.number(row["value"])
        cell = f"**{value}**" if row["tied"] else value
        if row["low"] == row["low"]:  # else there is no interval
            cell += f" [{figures.number(row['low'])}, {figures.number(row['high'])}]"
        rows.append([row["model"], row["probe"], f"{row['rank']}", cell, *([row["published"]] * with_published)])
    header = ["Model", "Probe", "Rank", frames.metric_names(multilabel)[metric], *(["Published"] * with_published)]
    return header, rows


def _write(frame: pd.DataFrame, pairs: pd.DataFrame, stem: Path) -> Output:
    first = frame.iloc[0]
    header, rows = readable(frame)
    words = frames.rule_words(first["rule"], first["multilabel"])
    metric = frames.metric_names(first["multilabel"])[first["metric"]]
    title = f"{metric} compared, {frames.with_split(first['dataset'], first['test_split'])}, {words}"
    note = " ".join([_caption(frame), *_references(frame)])
    if first["simulated"]:
        title += " (simulated data)"
    text = f"# {title}\n\n{note}\n\n" + tables.markdown_table(header, rows, left=2)
    return Output(
        title=frames.with_split(f"{metric}, {words}", first["test_split"]),
        files=(
            *figures.save(draw_figure(frame), stem),
            tables.write_csv(frame, stem),
            tables.write_markdown(text, stem),
            tables.write_latex(tables.latex_table(header, rows, left=2, caption=f"{title}. {note}"), stem),
            tables.write_csv(pairs, stem.with_name(f"{stem.name}__pairs")),
        ),
        dataset=str(first["dataset"]),
        caption=note,
        alt=f"{len(frame)} probe runs ranked by {metric}.",
        tables=((header, rows),),
    )


def _caption(frame: pd.DataFrame) -> str:
    lines = [
        f"{int(frame['samples'].iloc[0]):,} test samples that all runs share, {frame['test_split'].iloc[0]}; "
        f"{frames.interval_words(frame)}.",
        f"Rank: 1 and the number of runs significantly better; bold: ties with the best. {ranking.COMPARED}",
    ]
    if any(frame["seeds"] > 1):
        lines.append("Runs that differ only in their seed are one row: the mean, with the spread between seeds.")
    few = next(filter(None, frame["few_cells"]), None)
    return " ".join([*lines, *([f"Warning: {few}."] if few else []), *frames.without_interval(frame)])


def _references(frame: pd.DataFrame) -> list[str]:
    """What the published numbers beside ours are and how their protocols differ, or that there are none."""
    studies = {word for text in frame["published"] for word in reference.STUDIES if word in text}
    if not studies:
        return ["No published number is of the data, model, bands and probe of these runs."]
    words = [f"{name}: {reference.STUDIES[name].text()}" for name in sorted(studies)]
    for row in frame.loc[frame["published"] != ""].to_dict("records"):
        for text in row["protocol"].split(" | "):
            value, _, listed = text.partition(": ")
            if listed:
                words.append(f"{row['model']}, {row['probe']}, beside {value}: {listed}.")
    return list(dict.fromkeys(words))


# ------------------------------------------------------------------------------------------------- draw


def draw_figure(frame: pd.DataFrame) -> Figure:
    """One dataset and rule, best on top.

    Args:
        frame: of `compute`, one dataset and rule.
    """
    first = frame.iloc[0]
    figure = figures.new_figure(10, 1.9 + 0.3 * len(frame))
    ax = figure.subplots()
    draw(frame, ax)
    metric = frames.metric_names(first["multilabel"])[first["metric"]]
    lower = " (lower is better)" if first["metric"] in frames.LOWER_IS_BETTER else ""
    ax.set_xlabel(metric + lower)
    handles = [Line2D([], [], marker="o", lw=1.6, ms=5, color=figures.GREY)]
    words = [f"value, {frames.interval_words(frame)}"]
    if any(frame["published"] != ""):
        for how, fill in PROTOCOL_FILL.items():
            if frame["published"].str.contains(f"({how} protocol)", regex=False).any():
                handles.append(Line2D([], [], marker="D", lw=0, ms=5, mfc=fill, color=figures.INK))
                words.append(f"published, {how} protocol")
    figure.legend(handles, words, loc="outside upper right", ncols=3, frameon=False)
    rule = frames.rule_words(first["rule"], first["multilabel"])
    note = f"{int(first['samples']):,} shared test samples. Number: rank; on grey: ties with the best."
    where = frames.with_split(first["dataset"], first["test_split"])
    figures.put_title(figure, f"{metric} compared: {rule}", where, simulated=bool(first["simulated"]), note=note)
    return figure


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """A row a run: value, interval, rank, published numbers that match.

    Args:
        frame: of `compute`, one dataset and rule.
        ax: where to draw.
    """
    kinds = list(dict.fromkeys(frame["kind"]))
    palette = dict(zip(kinds, figures.kind_colours(kinds), strict=True))
    labels = []
    for y, row in enumerate(frame.to_dict("records")):
        colour = palette[row["kind"]]
        if row["tied"]:
            ax.axhspan(y - 0.5, y + 0.5, color=figures.FAINT, alpha=0.45, lw=0, zorder=0)
        ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=1.8, solid_capstyle="butt")
        ax.plot(row["value"], y, "o", color=colour, ms=5)
        for text in filter(None, row["published"].split("; ")):
            fill = next(fill for how, fill in PROTOCOL_FILL.items() if f"({how} protocol)" in text)
            ax.plot(float(text.split()[0]), y, "D", mfc=fill, color=figures.INK, ms=5)
        labels.append(f"{row['probe']}  ·  {row['model']}   {row['rank']:>2}")
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    figures.without_frame(ax)
