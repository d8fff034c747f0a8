"""Compare runs on the same test samples: paired differences, ranks with ties; models across datasets."""

from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import across, figures, frames, ranking, tables
from analysis.card import Option, ViewCard
from analysis.contract import Output, Table, ViewRequest, check_seed
from analysis.studies import reference
from analysis.writing import write_view
from data.errors import RequestError
from data.rules import rule_name

CARD = ViewCard(
    input="runs",
    options={
        "metric": Option(default="", help="Metric to rank by. Default: f2_macro for multi-label data, else accuracy."),
        "resamples": Option(default=2000, help="Bootstrap resamples for means over several datasets."),
        "seed": Option(default=0, help="Seed of the bootstrap."),
    },
)


PUBLISHED_FILL = {True: figures.INK, False: "white"}  # by whether the protocol is the same


def run(request: ViewRequest, *, metric: str, resamples: int, seed: int) -> list[Output]:
    """Rank all runs of each dataset and write the table, the pairs and a figure."""
    if resamples < 1000:
        raise RequestError(f"--resamples {resamples}: an interval needs at least 1000")
    check_seed(seed)
    runs = request.all_runs()
    frames.check_metric(metric, runs)
    frame, pairs, contenders = ranking.rankings(runs, request.rules, metric=metric)
    folder, outputs = request.target("compare"), []
    groups: Any = frame.groupby(["dataset", "test_split", "rule"], sort=False)
    for (dataset, split, rule), part in groups:
        of_part = (pairs["dataset"] == dataset) & (pairs["rule"] == rule) & (pairs["test_split"] == split)
        name = f"compare__{dataset}__{rule_name(rule, part['multilabel'].iloc[0])}{frames.split_suffix(split)}"
        outputs.append(_write(part.reset_index(drop=True), pairs.loc[of_part], folder / name))
    if len(set(frame["dataset"])) > 1:
        outputs += across.write(frame, contenders, folder / "compare", resamples=resamples, seed=seed)
    return outputs


def readable(frame: pd.DataFrame) -> Table:
    """The table of one dataset and rule, best first; bold: ties with the best."""
    columns: dict[str, Any] = {"Model": "{model}", "Probe": "{probe}", "Rank": "{rank}"}
    columns[frames.metric_of(frame)] = lambda row: figures.span(row, bold=row["tied"])
    if any(frame["published"]):
        columns["Published"] = lambda row: "; ".join(match.words() for match in row["published"])
    return Table.of(frame, columns)


def _write(frame: pd.DataFrame, pairs: pd.DataFrame, stem: Path) -> Output:
    first, metric = frame.iloc[0], frames.metric_of(frame)
    words = frames.rule_words(first["rule"], first["multilabel"])
    where = frames.with_split(first["dataset"], first["test_split"])
    return write_view(
        ranking.worded(frame), lambda _: draw_figure(frame), stem,
        title=frames.with_split(f"{metric}, {words}", first["test_split"]),
        heading=f"{metric} compared, {where}, {words}", drawn=f"{metric} compared: {words}", where=where,
        reading=f"{first['samples']:,} shared test samples. Number: rank; gray: not significantly different from the "
        "best.",
        shown=[readable(frame)], left=2, note=_note(frame), of=["dataset"],
        alt=f"{len(frame)} probe runs ranked by {metric}.",
        files=[tables.write_csv(pairs, stem.with_name(f"{stem.name}__pairs"))],
    )  # fmt: skip


def _note(frame: pd.DataFrame) -> str:
    """How to read the table, what the published numbers beside ours are, and how their protocols differ."""
    lines = [
        f"{int(frame['samples'].iloc[0]):,} shared test samples, {frame['test_split'].iloc[0]}; "
        f"{frames.interval_words(frame)}.",
        f"{ranking.RANK} Bold: not significantly different from the best. {ranking.COMPARED}",
    ]
    if any(frame["seeds"] > 1):
        lines.append("Runs that differ only in their seed are one row: the mean, with the spread between seeds.")
    lines += [f"Warning: {few}." for few in frame["few_cells"] if few][:1] + frames.without_interval(frame)
    matches = [(row, match) for row in frame.to_dict("records") for match in row["published"]]
    if not matches:
        lines.append("No published number matches the data, model, bands and probe of these runs.")
    lines += [f"{name}: {reference.STUDIES[name].text()}" for name in sorted({m.published.study for _, m in matches})]
    lines += [
        f"{row['model']}, {row['probe']}, compared with {match.published.value:.3f}: {'; '.join(match.differences)}."
        for row, match in matches
        if match.differences
    ]
    return " ".join(dict.fromkeys(lines))


def draw_figure(frame: pd.DataFrame) -> Figure:
    """One dataset and rule, best on top."""
    figure = figures.new_figure(10, 1.9 + 0.3 * len(frame))
    ax = figure.subplots()
    draw(frame, ax)
    lower = " (lower is better)" if frame["metric"].iloc[0] in frames.LOWER_IS_BETTER else ""
    ax.set_xlabel(frames.metric_of(frame) + lower)
    handles = [Line2D([], [], marker="o", lw=1.6, ms=5, color=figures.GREY)]
    words = [f"value, {frames.interval_words(frame)}"]
    kinds = {match.same for found in frame["published"] for match in found}
    for same, fill in PUBLISHED_FILL.items():
        if same in kinds:
            handles.append(Line2D([], [], marker="D", lw=0, ms=5, mfc=fill, color=figures.INK))
            words.append(f"published, {'same' if same else 'nearest'} protocol")
    figure.legend(handles, words, loc="outside upper right", ncols=3, frameon=False)
    return figure


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """A row per run: value, interval, rank, published numbers that match."""
    kinds = list(dict.fromkeys(frame["kind"]))
    palette = dict(zip(kinds, figures.kind_colours(kinds), strict=True))
    labels = []
    for y, row in enumerate(frame.to_dict("records")):
        colour = palette[row["kind"]]
        if row["tied"]:
            ax.axhspan(y - 0.5, y + 0.5, color=figures.FAINT, alpha=0.45, lw=0, zorder=0)
        figures.draw_value(ax, row, y, colour)
        for match in row["published"]:
            ax.plot(match.published.value, y, "D", mfc=PUBLISHED_FILL[match.same], color=figures.INK, ms=5)
        labels.append(f"{row['probe']}  ·  {row['model']}   {row['rank']:>2}")
    figures.label_rows(ax, labels)
