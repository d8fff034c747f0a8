"""Seminar on DOFA and BigEarthNet: published values, your values and differences; UMAP panels; F2 per class."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from analysis import figures, frames, tables
from analysis.card import ViewCard
from analysis.contract import Output, Table, ViewRequest, run_or_note, with_simulated
from analysis.studies import protocol, reference
from analysis.views import f2
from analysis.writing import write_view
from data import paths
from data.errors import RequestError
from data.runs import Run

CARD = ViewCard(input="runs")

BARS = ("linear", "mlp")  # the probes whose F2 per class the seminar shows
PUBLISHED = f"Published: {reference.STUDIES['seminar'].text()}"
TITLE = "The seminar's table, published and ours"


def run(request: ViewRequest) -> list[Output]:
    """Write the table and the figures of one model on one dataset, and a page that holds them together."""
    fitting = request.all_runs()
    runs = [one for one in fitting if one.multilabel]
    if not runs:
        raise RequestError(
            f"the seminar is about multi-label data; {fitting[0].dataset} is single-label (see analyze eurosat)"
        )
    if len(groups := frames.grouped(runs)) > 1:
        raise RequestError(
            f"runs of {len(groups)} feature sets fit; choose with --model and --dataset: "
            + ", ".join(f"{dataset}/{encoder}" for dataset, encoder in groups)
        )
    runs = [one for one in runs if one.kind in reference.SEMINAR]
    if not runs:
        raise RequestError("no run of the seminar's probes; make them with probe --kind rf,linear,mlp")
    folder = request.target("seminar")
    frame = compute(runs, request.rules)
    shown = max(runs, key=lambda one: len(caveats(one)))  # caveats of one run are stated for all
    table = write_view(
        frame, lambda frame: draw_figure(frame, shown), folder / f"seminar__{shown.dataset}__{shown.encoder}",
        title=TITLE, shown=[readable(frame)], left=2, note=f"{statement(shown)} {PUBLISHED}",
        alt="Five metrics of each probe, published and ours.",
    )  # fmt: skip
    outputs, notes = [table], []
    outputs += _umap(request, runs[0], folder, notes)
    if bars := [one for one in runs if one.kind in BARS]:
        outputs.append(f2.write(f2.compute(bars, request.rules), folder / f"f2__{shown.dataset}__{shown.encoder}"))
    else:
        notes.append(f"no F2 bars: no run of {' or '.join(BARS)}")
    absent = [kind for kind in reference.SEMINAR if kind not in {one.kind for one in runs}]
    if absent and not request.kind:
        notes.append(f"no run of {', '.join(absent)}: make it with probe --kind {','.join(absent)}")
    for note in notes:
        print(f"seminar: {note}", file=sys.stderr)
    title = with_simulated("The seminar on DOFA and BigEarthNet, published and ours", shown.simulated)
    text = f"# {title}\n\n{statement(shown)}\n\n{PUBLISHED}\n\n{tables.markdown_table(*readable(frame), left=2)}"
    text += tables.markdown_page(outputs, [], notes)
    tables.write_document(text, folder / f"seminar__{shown.dataset}__{shown.encoder}__page", "md")
    return outputs


def caveats(run: Run) -> dict[str, str]:
    """Why a run's numbers are not comparable with the seminar's: a short name and a sentence for each reason."""
    dataset, encoder = run.record["features"]["dataset"], run.record["features"]["encoder"]
    found = {}
    if dataset["name"] != reference.SEMINAR_DATASET:
        found["other data"] = f"on {run.dataset}, not on BigEarthNet"
    if run.simulated:
        found["simulated data"] = "the samples are simulated"
    if encoder["name"] != reference.SEMINAR_MODEL:
        found["other model"] = f"features of {frames.model_words(encoder)}, not of DOFA"
    if encoder["weights"]["source"] == "random":
        found["random weights"] = "the encoder has random weights"
    rows = protocol.rows_of(run.record)
    whole = reference.BIGEARTHNET_SPLITS.get(dataset["variant"])
    if "other data" not in found and rows != whole:
        wanted = f"; {dataset['variant']} has {_rows(whole)}" if whole else ", not those of BigEarthNet"
        found["other samples"] = f"splits of {_rows(rows)} samples{wanted}"
    plain = {"weights": ..., "limit": ..., "shots": ..., "fraction": ..., "only_classes": ..., "per_class": ...}
    if unlike := protocol.differences(run.record, plain):  # missing samples are reported above
        found["other protocol"] = "; ".join(unlike)
    if (classes := len(run.class_names)) != reference.SEMINAR_CLASSES:
        found["other classes"] = f"{classes} classes; the seminar's table has {reference.SEMINAR_CLASSES}"
    return found


def compute(runs: Sequence[Run], rules: Sequence[str] = ("half", "tuned")) -> pd.DataFrame:
    """The seminar's metrics of runs of one encoder on one dataset on test, beside the published ones.

    Returns:
        A row per run x rule x metric: the columns of `frames.run_columns`, then ``probe rule metric value low high
        published difference caveats``; ``difference`` is ours minus the published; ``caveats`` lists the short names
        of `caveats`, empty where data and model are the seminar's.
    """
    frame = frames.with_names(frames.metrics_frame(runs), runs)
    frame = frame.loc[(frame["split"] == "test") & frame["rule"].isin(rules)]
    parts = []
    for kind, published in reference.SEMINAR.items():
        part = frame.loc[(frame["kind"] == kind) & frame["metric"].isin(published)]
        parts.append(part.assign(published=[published[metric] for metric in part["metric"]]))
    frame = pd.concat(parts)
    why = {run.folder.name: "; ".join(caveats(run)) for run in runs}
    frame = frame.assign(difference=frame["value"] - frame["published"], caveats=[why[name] for name in frame["run"]])
    return frame.drop(columns="split").reset_index(drop=True)


def readable(frame: pd.DataFrame) -> Table:
    """The table: for each probe a row published, then for each rule ours and the difference."""
    metrics, rows = list(reference.SEMINAR_METRICS), []
    for _, part in frame.groupby("run", sort=False):
        reasons = part["caveats"].iloc[0]
        unlike = f" (not comparable: {reasons})" if reasons else ""
        kind, probe = part["kind"].iloc[0], part["probe"].iloc[0]
        published = reference.SEMINAR[kind]
        cells = [f"{published[metric]:.{reference.SEMINAR_DIGITS[metric]}f}" for metric in metrics]
        rows.append([probe, "published (threshold 0.5)", *cells])
        for rule, one in part.groupby("rule", sort=False):
            values = {row["metric"]: row for row in one.to_dict("records")}
            words = frames.RULE_WORDS[str(rule)]
            ours = [values[metric] for metric in metrics]
            rows.append([probe, f"ours, {words}", *map(figures.span, ours)])
            signed = (f"{row['difference']:+.3f}".replace("-", "\u2212") for row in ours)
            differences = ["–" if text == "+nan" else text for text in signed]
            rows.append([probe, f"ours minus published, {words}{unlike}", *differences])
    return Table(["Probe", "", *(frames.MULTILABEL_METRICS[metric] for metric in metrics)], rows)


def statement(run: Run) -> str:
    """What our numbers are of: data, splits, model; and why they are not comparable with the seminar's."""
    splits = _rows(protocol.rows_of(run.record))
    ours = f"Ours: {run.dataset} ({splits} samples), {frames.model_words(run.record['features']['encoder'])}; on test."
    reasons = caveats(run)
    if not reasons:
        return f"{ours} Same dataset and model family as the seminar's; its release, bands and variant are not stated."
    return f"NOT COMPARABLE with the published numbers: {'; '.join(reasons.values())}. {ours}"


def _rows(rows: dict[str, int]) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in rows.items())


def _umap(request: ViewRequest, run: Run, folder: Path, notes: list[str]) -> list[Output]:
    features = paths.feature_folder(request.out, run.dataset, run.encoder)
    if not paths.feature_file(features, "test").exists():
        notes.append(f"no UMAP panels: {features} has no test features; make them with featurize")
        return []
    of_test = replace(request, folder=folder, features=features, model=None, dataset=None, split="test")
    return run_or_note("umap", of_test, notes, what="no UMAP panels")


def draw_figure(frame: pd.DataFrame, run: Run) -> Figure:
    """One panel per metric, published and ours."""
    probes = list(frame["probe"].unique())
    figure = figures.new_figure(11, 2.2 + 0.55 * len(probes))
    axes = figure.subplots(1, len(reference.SEMINAR_METRICS), sharey=True, squeeze=False)[0]
    for ax, metric in zip(axes, reference.SEMINAR_METRICS, strict=True):
        draw(frame.loc[frame["metric"] == metric], ax)
        arrow = "\n(lower is better)" if metric in frames.LOWER_IS_BETTER else ""
        ax.set_title(frames.MULTILABEL_METRICS[metric] + arrow, fontsize=8.5)
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr]
    handles = [Line2D([], [], marker="D", lw=0, ms=6, mfc="white", mew=1.4, color=figures.WRONG)]
    words = ["published"]
    for rule in frame["rule"].unique():
        fill = "white" if rule == "half" else figures.RIGHT
        handles.append(Line2D([], [], marker="o", lw=1.6, ms=6, mfc=fill, mew=1.4, color=figures.RIGHT))
        words.append(f"ours, {frames.RULE_WORDS[rule]}")
    figure.legend(handles, words, loc="outside upper right", ncols=3, frameon=False)
    what = TITLE
    if caveats(run):
        what += f" (not comparable: {', '.join(caveats(run))})"
    where = f"{run.dataset}: {frames.model_words(run.record['features']['encoder'])}"
    note = f"{statement(run)} Published at threshold 0.5. Lines: {frames.interval_words(frame)}."
    figures.put_title(figure, what, where, simulated=run.simulated, note=note)
    return figure


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """One metric: a row per probe."""
    probes = list(frame["probe"].unique())
    two_rules = len(set(frame["rule"])) > 1
    for row in frame.to_dict("records"):
        y = probes.index(row["probe"])
        ax.plot(row["published"], y, "D", ms=6, mfc="white", mew=1.4, color=figures.WRONG, zorder=3)
        y += (0.16 if row["rule"] == "half" else 0.32) if two_rules else 0.2
        figures.draw_value(ax, row, y, figures.RIGHT, filled=row["rule"] != "half")
    ax.set_yticks([row + 0.1 for row in range(len(probes))], probes)
    ax.set_ylim(len(probes) - 0.4, -0.4)
    ax.xaxis.set_major_locator(MaxNLocator(3))
    ax.grid(axis="x")
    figures.without_frame(ax)
