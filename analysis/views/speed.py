"""Images/s that featurize bench measured, model by model, beside what the hardware allows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from analysis import figures, tables
from analysis.contract import Output, ViewRequest
from data import paths
from data.errors import RequestError

CARD = {"input": "speed", "options": {}}

NOTE = (
    "Alone: images that are on the device already. Whole: from the dataset's files to a feature file. Bound: what one "
    "large matrix product's rate and the reading rate would allow."
)


def run(request: ViewRequest) -> list[Output]:
    """A table and a bar chart for every machine measured."""
    files = sorted(paths.bench_file(request.out, "any").parent.glob("*.json"))
    if not files:
        raise RequestError(f"nothing measured under {request.out}; measure with featurize bench --out {request.out}")
    return [_write(read(file), file.stem, request) for file in files]


def read(file: Path) -> dict[str, Any]:
    """What `featurize.bench.write` wrote.

    Raises:
        RequestError: it is something else.
    """
    try:
        found = json.loads(file.read_text())
        found["frame"] = pd.DataFrame(found["rates"])
        found["frame"]["way"] = [_way(rate) for rate in found["rates"]]
        return found
    except (KeyError, TypeError, ValueError) as error:
        raise RequestError(f"{file} is not what featurize bench writes; delete it") from error


def _way(rate: dict[str, Any]) -> str:
    words = [rate["model"], rate["device"], rate["precision"], *(["compiled"] if rate["compiled"] else [])]
    return ", ".join(words)


def readable(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells, a row a rate."""
    header = ["Model", "Side", "Bands", "GFLOP/image", "Alone, images/s", "TFLOP/s", "Of peak"]
    header += ["Whole, images/s", "Held up by", "Bound, images/s", "Of bound"]
    rows = [
        [
            rate["way"],
            f"{rate['image_size']}",
            f"{rate['bands']}",
            f"{rate['gflop']:,.3g}",
            f"{rate['forward']:,.1f}",
            f"{rate['forward'] * rate['gflop'] / 1000:,.3g}",
            f"{rate['share_of_peak']:.0%}",
            f"{rate['whole']:,.1f}",
            rate["bottleneck"],
            f"{rate['bound']:,.1f}",
            f"{rate['share_of_bound']:.0%}",
        ]
        for rate in frame.to_dict("records")
    ]
    return header, rows


def draw_figure(frame: pd.DataFrame, where: str) -> Figure:
    """Two bars a model, on a logarithmic axis, with the bound as a mark.

    Args:
        frame: of `read`.
        where: machine and dataset.
    """
    figure = figures.new_figure(8, 1.9 + 0.55 * len(frame))
    ax = figure.subplots()
    rows = np.arange(len(frame))
    for offset, column, colour, label in (
        (-0.19, "forward", figures.GREY, "alone"),
        (0.19, "whole", figures.RIGHT, "from files to features"),
    ):
        ax.barh(rows + offset, frame[column], 0.36, color=colour, label=label)
        for row, value in zip(rows, frame[column], strict=True):
            ax.annotate(
                f"{value:,.1f}" if value < 100 else f"{value:,.0f}",
                (value, row + offset), (4, 0), textcoords="offset points", va="center", fontsize=7,
            )  # fmt: skip
    ax.plot(frame["bound"], rows, "|", ms=16, mew=1.5, color="black", label="bound", ls="none")
    ax.set(xscale="log", xlabel="Images/s (logarithmic)", ylim=(len(frame) - 0.5, -0.5))
    ax.xaxis.set_major_formatter(LogFormatter())  # plain numbers: texts are not read as mathematics
    ax.xaxis.set_minor_formatter(LogFormatter())
    low, high = frame[["forward", "whole", "bound"]].min().min(), frame[["forward", "whole", "bound"]].max().max()
    ax.set_xlim(low / 2, high * 3)
    ax.set_yticks(rows, [figures.wrapped(way) for way in frame["way"]])
    ax.grid(axis="x")
    figures.without_frame(ax)
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16 - 0.25 / len(frame)), ncols=3)
    figures.put_title(figure, "Speed of feature extraction", where, simulated=False, note=NOTE)
    return figure


def _write(found: dict[str, Any], name: str, request: ViewRequest) -> Output:
    frame, machine, data = found["frame"], found["machine"], found["dataset"]
    stem = request.target("speed") / f"speed__{name}"
    header, rows = readable(frame)
    where = (
        f"{machine['gpu'] or machine['cpu']}, {machine['cores']} cores; {data['images']:,} images of {data['name']}, "
        f"{machine['date']}"
    )
    title = f"Speed of feature extraction on {where}"
    files = (
        *figures.save(draw_figure(frame, where), stem),
        *tables.write_all(frame.drop(columns="way"), stem, title, header, rows, left=1, note=NOTE),
    )
    return Output(title=title, files=files, caption=NOTE, alt=f"Images/s of {len(frame)} models.")
