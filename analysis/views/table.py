"""Test metrics of all runs with 95% intervals, pooled over seeds: table and dot plot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import figures, frames, tables
from analysis.card import Option, Section, ViewCard
from analysis.contract import Output, Table, ViewRequest
from analysis.writing import is_simulated
from data.errors import unknown
from data.runs import Run
from probes import pooling

CARD = ViewCard(
    input="runs",
    section=Section(order=10, heading="Results", table=True),
    options={"sort": Option(default="", help="Sort rows by this test metric, best first, such as map_macro.")},
)

HEADLINE = 6
SIMULATED = "Simulated data: not a result on real imagery."
BEST = "Bold: best on these test samples."


def run(request: ViewRequest, *, sort: str) -> list[Output]:
    """Write one table of every run, and a dot plot for each dataset."""
    frame = compute(request.all_runs(), request.rules)
    frame = sorted_by(frame, sort) if sort else frame
    folder = request.target("table")
    files = (tables.write_csv(wide(frame), folder / "table"), *_documents(frame, folder / "table"))
    outputs = []
    for (dataset, split), part in _by_split(frame):
        drawn = figures.save(draw_figure(part), folder / f"table__{dataset}{frames.split_suffix(split)}")
        outputs.append(
            Output(
                title=frames.with_split("Results", split),
                files=(*drawn, *files),
                dataset=str(dataset),
                caption=f"Test samples: {split}. Lines and brackets: {frames.interval_words(part)}. {notes(part)}",
                alt=f"Dot plot of the test metrics of {part['run'].nunique()} probe runs on {dataset}.",
                tables=tuple(readable(part, metrics) for metrics in shown_metrics(part)),
            )
        )
    return outputs


def compute(runs: Sequence[Run], rules: Sequence[str] = ("half", "tuned")) -> pd.DataFrame:
    """Metrics of these runs under these rules, with names; runs that differ only in their seed are one row, their mean.

    Returns:
        A row per setting x split x rule x metric: the columns of `frames.metrics_frame`, then ``model probe seeds``;
        rows with the same ``dataset`` and ``test_split`` were scored on the same samples;
        ``run`` and ``seed`` are those of the first run of a setting, ``seeds`` counts them.
    """
    groups = pooling.groups(runs)
    parts = [_pooled(group) if len(group) > 1 else frames.metrics_frame(group) for group in groups]
    frame = frames.with_names(pd.concat(parts, ignore_index=True), [group[0] for group in groups])
    counts = {(one.dataset, one.encoder, one.folder.name): len(group) for group in groups for one in group[:1]}
    keys = zip(frame["dataset"], frame["encoder"], frame["run"], strict=True)
    frame = frame.assign(seeds=[counts[key] for key in keys])
    frame["probe"] = [frames.seeds_words(*row) for row in zip(frame["probe"], frame["seeds"], strict=True)]
    frame["test_split"] = _told_apart(frame, runs)
    return frames.under_rules(frame, rules).reset_index(drop=True)


def sorted_by(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Rows of `compute`, those of the run and rule with the best test value first; datasets keep their order.

    Raises:
        RequestError: no run has this metric.
    """
    if metric not in set(frame["metric"]):
        raise unknown("metric", metric, set(frame["metric"]))
    keys = ["dataset", "encoder", "run", "rule"]
    value = frame.loc[(frame["split"] == "test") & (frame["metric"] == metric), [*keys, "value"]]
    better = value["value"] if metric in frames.LOWER_IS_BETTER else -value["value"]
    order = frame[keys].merge(value[keys].assign(better=better), on=keys, how="left")["better"].to_numpy()
    return frame.assign(order=order).sort_values("order", kind="stable").drop(columns="order").reset_index(drop=True)


def _told_apart(frame: pd.DataFrame, runs: Sequence[Run]) -> list[str]:
    """``test_split`` of each row, with its size and digest where a dataset has several test sets of one name."""
    tests = {
        (run.dataset, run.encoder, run.folder.name): run.record["features"].get("splits", {}).get("test", {})
        for run in runs
    }
    of_row = [tests[key] for key in zip(frame["dataset"], frame["encoder"], frame["run"], strict=True)]
    digests = frame[["dataset", "test_split"]].assign(ids=[test.get("ids_sha256", "") for test in of_row])
    sets: Any = digests.groupby(["dataset", "test_split"])["ids"].transform("nunique")
    return [
        f"{words}, {test['rows']:,} samples (SHA-256 of ids {test['ids_sha256'][:12]})" if many else words
        for words, test, many in zip(frame["test_split"], of_row, sets > 1, strict=True)
    ]


def _by_split(frame: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """Rows of `compute` that may be compared: of one dataset and test split."""
    groups: Any = frame.groupby(["dataset", "test_split"], sort=False)
    order = list(dict.fromkeys(frame["dataset"]))
    return sorted(groups, key=lambda group: (order.index(group[0][0]), group[0][1] != frames.ORIGINAL))


def _pooled(group: Sequence[Run]) -> pd.DataFrame:
    """As `frames.metrics_frame` of runs of one setting, their means."""
    frame = frames.metrics_frame(group[:1])
    spans = {}
    for rule in dict.fromkeys(frame["rule"]):
        pooled = pooling.pool(group, *pooling.test_of(group, rule))
        spans |= {("test", rule, metric): pooled.interval(metric) for metric in pooled.estimates}
    rows = []
    for row in frame.to_dict("records"):
        values = [one.record["metrics"][row["split"]][row["rule"]].get(row["metric"]) for one in group]
        defined = [value for value in values if value is not None]
        mean = float(np.mean(defined)) if defined else None
        found = spans.get((row["split"], row["rule"], row["metric"]))
        rows.append(row | {"value": mean} | frames.interval_columns(found))
    return pd.DataFrame(rows).astype({column: "float64" for column in ("value", "low", "high")})


def notes(frame: pd.DataFrame) -> str:
    """Below a table of one dataset: what the marks mean, and which metrics have no interval and why."""
    test = frame.loc[frame["split"] == "test"]
    shown = {metric for metrics in shown_metrics(frame) for metric in metrics}
    lines = [BEST]
    if (test["seeds"] > 1).any():
        lines.append("Intervals of means over seeds include the spread between seeds.")
    if any(metric.endswith(frames.OCCURRING) for metric in shown):
        lines.append("Present classes: the mean over the classes that occur in test.")
    return " ".join([*lines, *frames.without_interval(test.loc[test["metric"].isin(shown)])])


def wide(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per run x split x rule, with ``<metric>``, ``<metric>_low`` and ``<metric>_high`` for every metric."""
    keys = [c for c in frame.columns if c not in ("metric", "value", "low", "high", "by", "reason")]
    rows = []
    for _, part in frame.groupby(keys, sort=False, dropna=False):
        row = {key: part[key].iloc[0] for key in keys}
        row["intervals_by"] = next(filter(None, part["by"]), "")
        for metric, value, low, high in part[["metric", "value", "low", "high"]].itertuples(index=False):
            row |= {metric: value, f"{metric}_low": low, f"{metric}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def readable(frame: pd.DataFrame, metrics: Sequence[str]) -> Table:
    """The table of some of one dataset's test metrics, the best of a column in ``**bold**``."""
    multilabel = bool(frame["multilabel"].iloc[0])
    words = frames.metric_names(multilabel)
    test = frame.loc[frame["split"] == "test"]
    best = {metric: _best(test.loc[test["metric"] == metric, "value"].to_numpy(float), metric) for metric in metrics}
    rows = []
    for _, part in test.groupby(["model", "probe", "rule"], sort=False):
        model, probe, rule = (str(part[column].iloc[0]) for column in ("model", "probe", "rule"))
        values = {row[0]: row[1:] for row in part[["metric", "value", "low", "high"]].itertuples(index=False)}
        cells = [
            figures.with_interval(*values[metric], bold=figures.number(values[metric][0]) == best[metric])
            if metric in values
            else "–"
            for metric in metrics
        ]
        rows.append([model, probe, frames.rule_words(rule, multilabel), *cells])
    return Table(["Model", "Probe", "Decision rule", *(words[metric] for metric in metrics)], rows)


def shown_metrics(frame: pd.DataFrame) -> list[list[str]]:
    """The metrics of one dataset's tables: first those to read, then the rest.

    Macro averages over the classes that occur are shown where these are not all.
    """
    present = [m for m in frames.metric_names(bool(frame["multilabel"].iloc[0])) if m in set(frame["metric"])]
    test = frame.loc[frame["split"] == "test"]
    values = {metric: part["value"].to_numpy(float) for metric, part in test.groupby("metric")}
    present = [
        metric
        for metric in present
        if not metric.endswith(frames.OCCURRING)
        or not np.array_equal(values.get(metric), values.get(metric.removesuffix(frames.OCCURRING)))
    ]
    return [part for part in (present[:HEADLINE], present[HEADLINE:]) if part]


def _documents(frame: pd.DataFrame, stem: Path) -> tuple[Path, Path]:
    """Write the tables as Markdown and LaTeX."""
    text, tex = "# Results on test\n", ""
    for (dataset, split), part in _by_split(frame):
        where = frames.with_split(dataset, split)
        note = f"In brackets: {frames.interval_words(part)}. {notes(part)}"
        note = f"{SIMULATED} {note}" if any(part["simulated"]) else note
        text += f"\n## {where}\n\n{note}\n"
        for metrics in shown_metrics(part):
            shown = readable(part, metrics)
            text += "\n" + tables.markdown_table(*shown, left=3)
            tex += tables.latex_table(*shown, left=3, caption=f"Test metrics on {where}. {note}") + "\n"
    return tables.write_document(text, stem, "md"), tables.write_document(tex, stem, "tex")


def _best(values: np.ndarray, metric: str) -> str:
    values = values[~np.isnan(values)]
    if len(values) < 2:
        return ""
    return figures.number(values.min() if metric in frames.LOWER_IS_BETTER else values.max())


def draw_figure(frame: pd.DataFrame) -> Figure:
    """One dataset's headline metrics side by side, a row per run."""
    metrics = shown_metrics(frame)[0]
    words, first = frames.metric_names(bool(frame["multilabel"].iloc[0])), frame.iloc[0]
    rows = frame.groupby(["model", "probe"], sort=False).ngroups
    figure = figures.new_figure(12, 1.9 + 0.34 * rows + 0.3 * len(set(frame["model"])))
    axes = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for ax, metric in zip(axes, metrics, strict=True):
        draw(frame.loc[(frame["split"] == "test") & (frame["metric"] == metric)], ax)
        arrow = "\n(lower is better)" if metric in frames.LOWER_IS_BETTER else ""
        ax.set_title(words[metric] + arrow, fontsize=8.5)
        ax.xaxis.set_major_locator(MaxNLocator(3))
    figure.get_layout_engine().set(wspace=0.14)  # type: ignore[union-attr]
    if len(set(frame["rule"])) > 1:
        fills = ("white", figures.INK)
        handles = [Line2D([], [], marker="o", color=figures.INK, lw=1.2, ms=6, mfc=fill) for fill in fills]
        figure.legend(handles, frames.RULE_WORDS.values(), loc="outside upper right", ncols=2, frameon=False)
    where, note = frames.with_split(first["dataset"], first["test_split"]), f"Lines: {frames.interval_words(frame)}."
    figures.put_title(figure, "Test metrics", where, simulated=is_simulated(frame), note=note)
    return figure


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """One metric of one dataset: a row per run, a dot per rule, its interval as a line."""
    heights, labels, y = {}, [], 0.0
    for model, part in frame.groupby("model", sort=False):
        labels.append((y, str(model), True))
        for probe in part["probe"].unique():
            y += 1
            heights[model, probe] = y
            labels.append((y, str(probe), False))
        y += 1.2
    kinds = list(dict.fromkeys(frame["kind"]))
    palette = dict(zip(kinds, figures.kind_colours(kinds), strict=True))
    two_rules = len(set(frame["rule"])) > 1
    for row in frame.to_dict("records"):
        apart = 0.14 if two_rules else 0.0
        centre = heights[row["model"], row["probe"]] + (-apart if row["rule"] == "half" else apart)
        figures.draw_value(ax, row, centre, palette[row["kind"]], filled=row["rule"] != "half" or not two_rules)
    ax.set_yticks([height for height, _, _ in labels], [text for _, text, _ in labels])
    for tick, (_, _, is_model) in zip(ax.get_yticklabels(), labels, strict=False):
        tick.set_fontweight("bold" if is_model else "normal")
    ax.set_ylim(y - 0.5, -0.7)
    ax.margins(x=0.08)
    ax.grid(axis="x")
    figures.without_frame(ax)
