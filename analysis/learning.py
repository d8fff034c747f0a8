"""Learning curves: a metric by size of train, the mean over seeds with its 95% interval."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator, ScalarFormatter

from analysis import figures, frames
from analysis.contract import Output, Table
from analysis.ranking import HEADLINE
from analysis.writing import write_view
from data.errors import RequestError
from data.files import canonical_json
from data.runs import Run
from probes import sweep

SIZES = ("shots", "fraction", "candidates", "partition", "val")  # arguments that may differ along one curve


def compute(runs: Sequence[Run]) -> pd.DataFrame:
    """Runs of several seeds pooled, where a probe was fitted on at least two sizes of train.

    Returns:
        A row per curve x size x rule x metric: ``dataset encoder model multilabel curve`` and the columns of
        `probes.sweep.summary`; no rows where there are no curves. A curve is a kind of probe on one feature set and
        its splits, with one set of other settings.

    Raises:
        RequestError: two runs of one size have the same seed, so that their mean would count it twice.
    """
    models = frames.encoder_labels(runs)
    curves = [group for group in _curves(runs) if len({_size(run) for run in group}) > 1]
    keys = [(group[0].dataset, group[0].encoder, group[0].kind) for group in curves]
    parts = []
    for number, (group, key) in enumerate(zip(curves, keys, strict=True)):
        _check_seeds(group)
        alike = keys.count(key) > 1
        about = {
            "model": models[key[:2]],
            "multilabel": group[0].multilabel,
            "curve": f"{key[2]}, settings {keys[: number + 1].count(key)}" if alike else key[2],
        }
        parts.append(pd.DataFrame(sweep.summary(group)).assign(**about))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _curves(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs by all that holds along a curve; those on the whole of train belong to every curve of their settings."""
    groups: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        asked = {name: value for name, value in run.record.get("arguments", {}).items() if name not in SIZES}
        setting = canonical_json({"arguments": asked, "features": run.record["features"]})
        groups.setdefault((run.dataset, run.encoder, run.kind, setting), []).append(run)
    found = []
    for group in groups.values():
        chosen = dict.fromkeys(val for run in group if (val := _val(run)))
        found += [[run for run in group if _val(run) in (None, val)] for val in chosen or [None]]
    return found


def _val(run: Run) -> str | None:
    """Which val chose, ``matched`` or ``all``; None for runs without shots, where both are the same."""
    asked = run.record.get("arguments", {})
    return asked.get("val", "all") if asked.get("shots") else None  # recorded only where it is matched


def _check_seeds(group: Sequence[Run]) -> None:
    known: dict[tuple, Run] = {}
    for run in group:
        other = known.setdefault((_size(run), run.record["seed"]), run)
        if other is not run:
            raise RequestError(
                f"{other.folder} and {run.folder} have the same training set size and the same seed; a learning curve "
                "counts each seed once: move one of them away"
            )


def _size(run: Run) -> tuple:
    asked = run.record.get("arguments", {})
    return asked.get("shots"), asked.get("fraction")


def interval_words(frame: pd.DataFrame) -> str:
    """What is shaded, and what has no interval for which reason."""
    words = f"Shaded: {frames.interval_words(frame)}, of the test samples and of the seeds."
    return " ".join([words, *frames.without_interval(frame)])


def headline(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of `compute` that are drawn: the headline metric, tuned thresholds for multi-label data, by size."""
    metric = [HEADLINE[bool(multilabel)] for multilabel in frame["multilabel"]]
    shown = frame.loc[(frame["metric"] == metric) & frame["rule"].isin(["tuned", "argmax"])]
    return shown.sort_values(["model", "curve", "train_rows"], kind="stable", ignore_index=True)


def readable(frame: pd.DataFrame) -> Table:
    """The table of one dataset's curves."""
    numbers = frame.astype(dict.fromkeys(("shots", "fraction", "mean", "low", "high"), "float64"))
    columns = {"Model": "{model}", "Probe": "{curve}", "Train": _part, "Samples": "{train_rows:,.0f}"}
    columns |= {"Seeds": "{seeds}", f"{frames.metric_of(frame)} [95% CI]": figures.span}
    return Table.of(numbers.rename(columns={"mean": "value"}), columns)


def _part(row: dict[str, Any]) -> str:
    if row["fraction"] > 0:  # not where it is NaN
        return f"{row['fraction']:g} of train"
    return f"{row['shots']:g} per class" if row["shots"] > 0 else "all"


def write(runs: Sequence[Run], folder: Path) -> list[Output]:
    """A figure and a table for each dataset that has curves."""
    frame, outputs = compute(runs), []
    for dataset, part in frame.groupby("dataset", sort=False) if len(frame) else ():
        shown = headline(part)
        words = interval_words(shown)
        curves = shown[["model", "curve"]].drop_duplicates().shape[0]
        outputs.append(
            write_view(
                part, lambda _, ax, shown=shown: draw(shown, ax), folder / f"curves__{dataset}__learning",
                title="Learning curves", heading=f"Learning curves, {dataset}", size=(7.5, 4.6),
                drawn=f"Learning curves, {frames.rule_words('tuned', shown['multilabel'].iloc[0])}",
                where=str(dataset), reading=f"Test split. {words}", shown=[readable(shown)], left=3, note=words,
                caption=f"Mean over seeds by size of train. {words}", of=["dataset"],
                alt=f"Learning curves of {curves} probes.",
            )
        )  # fmt: skip
    return outputs


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """A line per curve over the number of training samples, with its interval."""
    curves: list[Any] = list(frame.groupby(["model", "curve"], sort=False))
    several = len(set(frame["model"])) > 1
    for colour, ((model, curve), part) in zip(figures.colours(len(curves)), curves, strict=True):
        name = figures.wrapped(f"{model}: {curve}" if several else str(curve), 48)
        x, mean, low, high = (part[c].to_numpy(float) for c in ("train_rows", "mean", "low", "high"))
        ax.plot(x, mean, marker="o", markersize=4, color=colour, label=name)
        ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
    sizes = sorted(set(frame["train_rows"].round()))
    ax.set_xscale("log")
    ax.set_xticks(sizes)
    ax.xaxis.set_major_formatter(ScalarFormatter())
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="Training samples", ylabel=f"{frames.metric_of(frame)} on test")
    ax.grid(axis="y")
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.16), ncols=1 if several else 4)
    figures.without_frame(ax)
