"""Land-cover map of a scene: the scene, its map with legend, and the mapped area of each class."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis import figures, frames
from analysis.card import Section, ViewCard
from analysis.contract import Output, Table, ViewRequest
from analysis.writing import stem_of, write_view
from data.asked import recorded_flag
from data.errors import RequestError
from data.runs import Run
from data.scene.grid import SceneGrid, grids_of
from data.scene.preview import preview
from data.scene.products import find_scenes
from probes.map_files import colour
from probes.maps import SceneMap, features_of, scene_maps

CARD = ViewCard(input="runs", section=Section(order=5, heading="Map"))

OPACITY, GREY = 0.7, 0.65  # of the map over the scene, whose mean the legend's colors are mixed with
COLUMNS = {
    "Class": "{class}",
    "Share of the map": "{share:.1%}",
    "Area as mapped (km²)": lambda row: "–" if np.isnan(row["km2"]) else f"{row['km2']:,.2f}",
    "Mean probability": lambda row: figures.number(row["probability"]),
}
NOTE = (
    "Areas are counted from the map and inherit its errors: analyze area estimates them from a reference sample. "
    "Probability: mean predicted probability over the windows of the class."
)


def run(request: ViewRequest) -> list[Output]:
    """Draw the map of every scene of every run on scenes."""
    runs = [one for one in request.all_runs() if grids_of(one.record["features"]["dataset"]["provenance"])]
    if not runs and request.runs is None:
        raise RequestError("no runs on scenes; make one with featurize --dataset scene and probe --protocol map")
    outputs = []
    for done in runs:
        features = features_of(done)
        for one in scene_maps(done, features):
            frame = frames.with_names(compute(done, one), runs)
            outputs.append(_write(frame, one, _picture(one.grid, features.environment), request.target("map")))
    return outputs


def compute(done: Run, one: SceneMap) -> pd.DataFrame:
    """A row per class: the columns of `frames.run_columns`, then ``scene class cells share km2 probability``."""
    import pyproj  # deferred: only maps need it

    classes, best = one.classes, np.nan_to_num(one.probability.max(axis=0))
    cells = np.bincount(classes.ravel(), minlength=len(one.class_names) + 1)[1:]
    total = np.bincount(classes.ravel(), best.ravel(), minlength=len(one.class_names) + 1)[1:]
    a, b, _, d, e, _ = one.grid.transform
    in_metres = pyproj.CRS.from_user_input(one.grid.crs).axis_info[0].unit_name in ("metre", "meter")
    km2 = abs(a * e - b * d) * one.grid.cell**2 / 1e6 if in_metres else np.nan
    rows = [
        frames.run_columns(done)
        | {
            "scene": one.grid.name,
            "class": name,
            "cells": int(cells[k]),
            "share": cells[k] / max(cells.sum(), 1),
            "km2": cells[k] * km2,
            "probability": total[k] / cells[k] if cells[k] else np.nan,
        }
        for k, name in enumerate(one.class_names)
    ]
    return pd.DataFrame(rows)


def _picture(grid: SceneGrid, environment: dict[str, Any]) -> np.ndarray | None:
    """The scene's picture, from where its features say that it was; None where it is not there any more."""
    root = recorded_flag(environment, "data", "data_root")
    try:
        scenes = find_scenes(Path(root)) if root else []
        return next((preview(scene) for scene in scenes if scene.name == grid.name), None)
    except RequestError:
        return None


def _write(frame: pd.DataFrame, one: SceneMap, picture: np.ndarray | None, folder: Path) -> Output:
    first = frame.iloc[0]
    where = f"{first['scene']}, {first['model']}, {first['probe']}"
    return write_view(
        frame, partial(draw_figure, one=one, picture=picture),
        stem_of(folder, "map", first, "dataset", "encoder", "run", "scene"),
        title=f"Map of {where}", shown=[Table.of(frame, COLUMNS)], note=NOTE,
        drawn="Land-cover map", where=where, reading="",
        alt=f"The scene and its map of {len(frame)} classes, side by side.",
    )  # fmt: skip


def draw_figure(frame: pd.DataFrame, *, one: SceneMap, picture: np.ndarray | None) -> Figure:
    """The map over the scene's picture (h, w, 3), and the scene; the map alone where there is no picture."""
    grid, panels = one.grid, 1 if picture is None else 2
    tall = 5.0 * min(2.0, grid.height / grid.width) + 1.9
    figure = figures.new_figure(5.0 * panels + 0.5, tall)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    draw(one, axes[0], picture)
    if picture is not None:
        axes[1].imshow(picture, interpolation="nearest")
        axes[1].set_title("scene", loc="left", fontsize="medium")
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
    shown = frame[frame["cells"] > 0]
    opacity, handles = 1.0 if picture is None else OPACITY, []
    for name, share in zip(shown["class"], shown["share"], strict=True):
        r, g, b = (part / 255 * opacity + (1 - opacity) * GREY for part in colour(one.class_names.index(name)))
        handles.append(Patch(color=(r, g, b), label=f"{name} {share:.0%}"))
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, fontsize="small")
    return figure


def draw(one: SceneMap, ax: Axes, picture: np.ndarray | None) -> None:
    """Each cell in its class's color over the scene in gray; nothing where there is no data."""
    grid, (down, right) = one.grid, one.grid.cells
    opacity = 255 if picture is None else round(255 * OPACITY)  # alpha= would count twice in SVG
    table = np.array([(255, 255, 255, 0), *((*colour(k), opacity) for k in range(len(one.class_names)))], np.uint8)
    if picture is not None:
        grey = picture.mean(axis=2)
        ax.imshow(grey, cmap="gray", vmin=-255, vmax=255, extent=(0, grid.width, grid.height, 0))
    extent = (0, right * grid.cell, down * grid.cell, 0)
    ax.imshow(table[one.classes], interpolation="nearest", extent=extent)
    ax.set(xlim=(0, grid.width), ylim=(grid.height, 0))
    ax.set_title("map", loc="left", fontsize="medium")
