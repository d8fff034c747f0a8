"""Throughput per model as measured by featurize bench, and the upper bound of the hardware."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter

from analysis import figures
from analysis.card import ViewCard
from analysis.contract import Output, Table, ViewRequest
from analysis.writing import write_view
from data import paths
from data.errors import RequestError

CARD = ViewCard(input="speed")

NOTE = (
    "Forward only: images that are on the device already. End to end: from the dataset's files to a feature file. "
    "Upper bound: the lower of the reading rate and the rate that the device's speed at matrix products allows."
)


def run(request: ViewRequest) -> list[Output]:
    """A table and a bar chart for every machine measured."""
    files = sorted(paths.bench_file(request.out, "any").parent.glob("*.json"))
    if not files:
        raise RequestError(f"no benchmark results under {request.out}; run featurize bench --out {request.out}")
    return [_write(read(file), file.stem, request) for file in files]


def read(file: Path) -> dict[str, Any]:
    """What `featurize.bench.write` wrote.

    Raises:
        RequestError: it is something else.
    """
    try:
        found = json.loads(file.read_text())
        found["frame"] = pd.DataFrame(found["rates"])
        found["frame"]["way"] = [
            ", ".join([rate["model"], rate["device"], rate["precision"], *["compiled"] * rate["compiled"]])
            for rate in found["rates"]
        ]
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{file} is not a result of featurize bench; delete it") from error


def readable(frame: pd.DataFrame) -> Table:
    """The table, a row per rate."""
    columns = {
        "Model": "{way}",
        "Image size": "{image_size}",
        "Bands": "{bands}",
        "GFLOP/image": "{gflop:,.3g}",
        "Forward only, images/s": "{forward:,.1f}",
        "TFLOP/s": "{tflops:,.3g}",
        "Of peak": "{share_of_peak:.0%}",
        "End to end, images/s": "{whole:,.1f}",
        "Bottleneck": "{bottleneck}",
        "Upper bound, images/s": "{bound:,.1f}",
        "Of bound": "{share_of_bound:.0%}",
    }
    return Table.of(frame.assign(tflops=frame["forward"] * frame["gflop"] / 1000), columns)


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """Two bars per model, on a logarithmic axis, with the upper bound as a mark."""
    rows = np.arange(len(frame))
    for offset, column, colour, label in (
        (-0.19, "forward", figures.GREY, "forward only"),
        (0.19, "whole", figures.RIGHT, "end to end"),
    ):
        ax.barh(rows + offset, frame[column], 0.36, color=colour, label=label)
        for row, value in zip(rows, frame[column], strict=True):
            ax.annotate(
                f"{value:,.1f}" if value < 100 else f"{value:,.0f}",
                (value, row + offset), (4, 0), textcoords="offset points", va="center", fontsize=7,
            )  # fmt: skip
    ax.plot(frame["bound"], rows, "|", ms=16, mew=1.5, color="black", label="upper bound", ls="none")
    ax.set(xscale="log", xlabel="Images/s (logarithmic)", ylim=(len(frame) - 0.5, -0.5))
    ax.xaxis.set_major_formatter(LogFormatter())  # plain numbers: texts are not read as mathematics
    ax.xaxis.set_minor_formatter(LogFormatter())
    low, high = frame[["forward", "whole", "bound"]].min().min(), frame[["forward", "whole", "bound"]].max().max()
    ax.set_xlim(low / 2, high * 3)
    ax.set_yticks(rows, [figures.wrapped(way) for way in frame["way"]])
    ax.grid(axis="x")
    figures.without_frame(ax)
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16 - 0.25 / len(frame)), ncols=3)


def _write(found: dict[str, Any], name: str, request: ViewRequest) -> Output:
    machine, data = found["machine"], found["dataset"]
    where = (
        f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores; {data['images']:,} images of {data['name']}, "
        f"{machine['date']}"
    )
    frame = found["frame"]
    return write_view(
        frame.drop(columns="way"), lambda _, ax: draw(frame, ax), request.target("speed") / f"speed__{name}",
        title=f"Speed of feature extraction on {where}", size=(8, 1.9 + 0.55 * len(frame)),
        drawn="Speed of feature extraction", where=where, shown=[readable(frame)], note=NOTE, of=(),
        alt=f"Images per second of {len(frame)} models.",
    )  # fmt: skip
