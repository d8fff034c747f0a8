"""Score against the distance to the nearest training sample: how far from train a probe still does well."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from analysis import figures, frames, tables
from analysis.contract import Output, ViewRequest
from data import paths, store
from data.errors import RequestError, unknown
from data.runs import Predictions, Run, all_runs
from probes import pooling, spatial

CARD = {
    "input": "runs",
    "needs": "locations",
    "options": {
        "metric": {"default": "", "help": "What to draw. Default: f2_macro_occurring or accuracy."},
        "bins": {"default": 5, "help": "Groups of test samples, from the nearest to the farthest, of equal size."},
    },
}


# Of the classes that occur in the group: else the groups differ by how many classes are absent, which count as 0.
HEADLINE = {True: "f2_macro_occurring", False: "accuracy"}


def run(request: ViewRequest, *, metric: str, bins: int) -> list[Output]:
    """Write a curve for every run, one figure per dataset and rule."""
    if not 2 <= bins <= 50:
        raise RequestError(f"--bins {bins}: must be from 2 to 50")
    runs = all_runs(request.out, model=request.model, dataset=request.dataset, kind=request.kind)
    choices = list(dict.fromkeys(name for one in runs for name in frames.metric_names(one.multilabel) if name != "ece"))
    if metric and metric not in choices:
        raise unknown("metric", metric, choices)
    frame = compute(runs, request.rules, out=request.out, metric=metric, bins=bins)
    folder = request.target("distance")
    return [_write(part.reset_index(drop=True), folder) for _, part in frame.groupby(["dataset", "rule"], sort=False)]


def compute(runs: Sequence[Run], rules: Sequence[str], *, out: Path, metric: str = "", bins: int = 5) -> pd.DataFrame:
    """A metric of groups of test samples by their distance to the nearest training sample.

    Args:
        runs: those without locations are left out.
        rules: see `ViewRequest.rules`; single-label runs have one.
        out: where features are, for runs that did not record distances.
        metric: see ``CARD``; runs that do not have it are left out.
        bins: groups of equal size; samples of equal distance stay together.

    Returns:
        A row per run x rule x group: the columns of `frames.run_columns`, then ``rule metric from_km to_km samples
        value low high by reason model probe``.

    Raises:
        RequestError: no run has locations.
    """
    rows = []
    for one in runs:
        chosen = metric or HEADLINE[one.multilabel]
        if chosen not in frames.metric_names(one.multilabel):
            continue
        given = one.predictions("test")
        km = distances(one, given, out)
        if km is None:
            continue
        edges = np.unique(np.quantile(km, np.linspace(0, 1, bins + 1)))
        group = np.clip(np.searchsorted(edges, km, side="right") - 1, 0, max(len(edges) - 2, 0))
        for rule in rules if one.multilabel else ("half",):
            judged = pooling.judge(one, given, rule)
            for number in np.unique(group):
                inside = group == number
                part = pooling.Judged(*(values[inside] for values in (judged.truth, judged.decided, judged.scores)))
                near_far = {"from_km": float(km[inside].min()), "to_km": float(km[inside].max())}
                about = {"rule": rule, "metric": chosen, **near_far, "samples": int(inside.sum())}
                lonlat = None if given.lonlat is None else given.lonlat[inside]
                rows.append(frames.run_columns(one) | about | _judged(one, part, lonlat, chosen))
    if not rows:
        raise RequestError("no run knows where its samples lie; featurize a georeferenced dataset, then probe again")
    numbers = dict.fromkeys(("value", "low", "high"), "float64")
    return frames.with_names(pd.DataFrame(rows).astype(numbers), runs)


def distances(run: Run, given: Predictions, out: Path) -> np.ndarray | None:
    """(N,) km from each test sample to the nearest training sample; None where locations are unknown.

    Runs of version 0.1 did not record them: they are worked out from the feature files, which were not split anew then.
    """
    if given.train_km is not None:
        return given.train_km
    if given.lonlat is None or "resplit" in run.record["features"]["splits"].get("test", {}):
        return None
    file = paths.feature_file(paths.feature_folder(out, run.dataset, run.encoder), "train")
    if not file.is_file():
        return None
    return spatial.distance_to_train(given.lonlat, store.read_features(file, lazy=True).lonlat)


def _judged(run: Run, part: pooling.Judged, lonlat: np.ndarray | None, metric: str) -> dict:
    units = spatial.units(lonlat, len(part.truth))
    pooled = pooling.pool([run], [part], units, only=metric)
    return {"value": pooled.estimates[metric].value} | frames.interval_columns(pooled.interval(metric))


def readable(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells: a row per run, a column per group of samples, the nearest first."""
    metric = frames.metric_names(bool(frame["multilabel"].iloc[0]))[frame["metric"].iloc[0]]
    rows = [
        [
            row["model"], row["probe"], f"{row['from_km']:,.2f} to {row['to_km']:,.2f}", f"{row['samples']:,}",
            figures.with_interval(row["value"], row["low"], row["high"]),
        ]
        for row in frame.to_dict("records")
    ]  # fmt: skip
    return ["Model", "Probe", "Kilometres", "Samples", metric], rows


def _interval_words(frame: pd.DataFrame) -> str:
    """How the intervals are made: groups lie in as many cells as they do."""
    counts = [int(word.split()[1].replace(",", "")) for word in frame["by"] if word.endswith("cells")]
    if not counts:
        return frames.interval_words(frame)
    return f"95 % interval, by {min(counts):,} to {max(counts):,} spatial cells per group"


def _write(frame: pd.DataFrame, folder: Path) -> Output:
    first = frame.iloc[0]
    multilabel, simulated = bool(first["multilabel"]), bool(frame["simulated"].any())
    metric, words = frames.metric_names(multilabel)[first["metric"]], frames.rule_words(first["rule"], multilabel)
    title = f"{metric} against the distance to train"
    note = f"Groups of test samples of equal size; bars: {_interval_words(frame)}."
    if first["metric"].endswith(frames.OCCURRING):
        note += " Macro averages are over the classes that occur in a group; these may differ."
    if reasons := frames.without_interval(frame):
        note += f" {reasons[0]}"
    stem = folder / f"distance__{first['dataset']}__{first['rule'] if multilabel else 'argmax'}"
    figure = figures.new_figure(9, 5)
    draw(frame, figure.subplots())
    subtitle = f"{first['dataset']}, {words}"
    figures.put_title(figure, title, subtitle, simulated=simulated, note=note)
    header, rows = readable(frame)
    heading = f"{title}, {subtitle}" + (" (simulated data)" if simulated else "")
    return Output(
        title=f"{title}, {words}",
        files=(*figures.save(figure, stem), *tables.write_all(frame, stem, heading, header, rows, left=2, note=note)),
        dataset=str(first["dataset"]),
        caption=note,
        alt=f"{metric} of {frame['run'].nunique()} runs by kilometres to the nearest training sample.",
        tables=((header, rows),),
    )


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """A line per run: the metric of each group at the middle of its distances.

    Args:
        frame: of `compute`, one dataset and rule.
        ax: where to draw.
    """
    for number, (_, part) in enumerate(frame.groupby(["encoder", "run"], sort=False)):
        colour = figures.PALETTE[number % len(figures.PALETTE)]
        middle = (part["from_km"] + part["to_km"]) / 2
        label = figures.wrapped(f"{part['model'].iloc[0]}; {part['probe'].iloc[0]}", 46)
        ax.plot(middle, part["value"], "o-", color=colour, ms=5, lw=1.4, label=label)
        for x, low, high in zip(middle, part["low"], part["high"], strict=True):
            if not np.isnan(low):
                ax.plot([x, x], [low, high], color=colour, lw=1.2, alpha=0.7)
    far, near = frame["to_km"].to_numpy(float), frame["from_km"].to_numpy(float)
    if far.max() > 20 * max(float(np.median(near)), 1e-9):
        ax.set_xscale("symlog", linthresh=max(float(far.min()), 0.1))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda km, _: f"{km:,g}"))
    ax.set_xlabel("Kilometres to the nearest training sample")
    ax.set_ylabel(frames.metric_names(bool(frame["multilabel"].iloc[0]))[frame["metric"].iloc[0]])
    ax.grid(axis="y")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figures.without_frame(ax)
