"""Metric by distance to the nearest training sample: how well a probe transfers to other locations."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from analysis import figures, frames
from analysis.card import Option, ViewCard
from analysis.contract import Output, Table, ViewRequest
from analysis.writing import write_view
from data import paths, store
from data.errors import RequestError
from data.rules import rule_name
from data.runs import Predictions, Run
from probes import pooling, spatial

CARD = ViewCard(
    input="runs",
    options={
        "metric": Option(default="", help="Metric to draw. Default: accuracy; f2_macro_occurring for multi-label."),
        "bins": Option(default=5, help="Number of distance groups with the same number of test samples."),
    },
)


# Over the classes present in a group; absent classes would count as 0, in some groups more than in others.
HEADLINE = {True: "f2_macro_occurring", False: "accuracy"}


def run(request: ViewRequest, *, metric: str, bins: int) -> list[Output]:
    """Write a curve for every run, one figure per dataset and rule."""
    if not 2 <= bins <= 50:
        raise RequestError(f"--bins {bins}: must be from 2 to 50")
    runs = request.all_runs()
    frames.check_metric(metric, runs)
    frame = compute(runs, request.rules, out=request.out, metric=metric, bins=bins)
    parts = frame.groupby(["dataset", "rule"], sort=False)
    return [_write(part.reset_index(drop=True), request.target("distance")) for _, part in parts]


def compute(runs: Sequence[Run], rules: Sequence[str], *, out: Path, metric: str = "", bins: int = 5) -> pd.DataFrame:
    """A metric of groups of test samples of equal size by their distance to the nearest training sample.

    Samples of equal distance stay together. Runs without locations or without the metric are left out; features are
    looked for in `out`, for runs that did not record distances.

    Returns:
        A row per run x rule x group: the columns of `frames.run_columns`, then ``rule metric from_km to_km samples
        value cells low high by reason model probe``.

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
        raise RequestError(
            "no run has locations of its samples; featurize a georeferenced dataset, then run probe again"
        )
    numbers = dict.fromkeys(("value", "low", "high"), "float64")
    return frames.with_names(pd.DataFrame(rows).astype(numbers), runs)


def distances(run: Run, given: Predictions, out: Path) -> Float[np.ndarray, " samples"] | None:
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
    units = pooling.units_of(run, lonlat, len(part.truth))
    pooled = pooling.pool([run], [part], units, only=metric)
    interval = pooled.interval(metric)
    cells = units.count if interval.interval and units.by != "image" else 0
    return {"value": pooled.estimates[metric].value, "cells": cells} | frames.interval_columns(interval)


def readable(frame: pd.DataFrame) -> Table:
    """A row per run and group of samples, the nearest group first."""
    columns = {"Model": "{model}", "Probe": "{probe}", "Distance (km)": "{from_km:,.2f} to {to_km:,.2f}"}
    return Table.of(frame, columns | {"Samples": "{samples:,}", frames.metric_of(frame): figures.span})


def _write(frame: pd.DataFrame, folder: Path) -> Output:
    first, metric = frame.iloc[0], frames.metric_of(frame)
    words = frames.rule_words(first["rule"], bool(first["multilabel"]))
    title, where = f"{metric} by distance to train", f"{first['dataset']}, {words}"
    cells, how = frame.loc[frame["cells"] > 0, "cells"], frames.interval_words(frame)
    if len(cells):  # groups differ in how many they lie in
        how = f"95% CI, by {cells.min():,} to {cells.max():,} spatial cells per group"
    note = f"Groups of test samples of equal size; bars: {how}."
    if first["metric"].endswith(frames.OCCURRING):
        note += " Macro averages are over the classes present in a group, which may differ between groups."
    if reasons := frames.without_interval(frame):
        note += f" {reasons[0]}"

    return write_view(
        frame, draw, folder / f"distance__{first['dataset']}__{rule_name(first['rule'], first['multilabel'])}",
        title=f"{title}, {words}", heading=f"{title}, {where}", size=(9, 5), drawn=title, where=where,
        shown=[readable(frame)], left=2, note=note, of=["dataset"],
        alt=f"{metric} of {frame['run'].nunique()} runs by distance to the nearest training sample.",
    )  # fmt: skip


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """A line per run: the metric of each group at the middle of its distances."""
    for number, (_, part) in enumerate(frame.groupby(["encoder", "run"], sort=False)):
        colour = figures.PALETTE[number % len(figures.PALETTE)]
        middle = (part["from_km"] + part["to_km"]) / 2
        label = figures.wrapped(f"{part['model'].iloc[0]}; {part['probe'].iloc[0]}", 46)
        ax.plot(middle, part["value"], "o-", color=colour, ms=5, lw=1.4, label=label)
        ax.vlines(middle, part["low"], part["high"], color=colour, lw=1.2, alpha=0.7)
    far, near = frame["to_km"].to_numpy(float), frame["from_km"].to_numpy(float)
    if far.max() > 20 * max(float(np.median(near)), 1e-9):
        ax.set_xscale("symlog", linthresh=max(float(far.min()), 0.1))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda km, _: f"{km:,g}"))
    ax.set_xlabel("Distance to the nearest training sample (km)")
    ax.set_ylabel(frames.metric_of(frame))
    ax.grid(axis="y")
    ax.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.01, 0.5))
    figures.without_frame(ax)
