"""UMAP of the features: one panel per class against the rest; for single-label data also one panel with all classes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import figures, frames, projection
from analysis.card import Option, ViewCard
from analysis.contract import Output, ViewRequest, check_seed
from analysis.writing import stem_of, write_view
from data import paths, store
from data.errors import RequestError
from probes.metrics import label_matrix

CARD = ViewCard(
    input="features",
    options={
        "points": Option(default=20_000, help="Maximum number of samples, chosen at random."),
        "seed": Option(default=0, help="Seed for choosing samples and for UMAP."),
        "neighbors": Option(default=15, help="UMAP's n_neighbors."),
        "min_dist": Option(default=0.1, help="UMAP's min_dist."),
        "fit_on": Option(default=0, help="Fit UMAP on this many samples and transform the others; 0 fits on all."),
        "fast": Option(default=False, help="Run UMAP on all cores: faster, but not reproducible."),
    },
)

FIGURE_SPACE = "\u2007"  # as wide as a digit
UNLABELLED = "#c3c9cf"  # and the rest beside one class
APART = 0.05  # of the plot's width, between the numbers of two classes
ONE_VS_REST = "UMAP, one class vs. rest"
CLASS = "class: "  # so that a class named "x" or "id" is no trouble


def run(request: ViewRequest, **options: Any) -> list[Output]:
    """Project one feature set and draw it."""
    sets, frame = project(request, **options)
    first = sets[0]
    names, total = list(first.class_names), sum(len(s.ids) for s in sets)
    dataset, encoder = store.dataset_slug(first.identity), store.encoder_slug(first.identity)
    about: dict[str, Any] = {"dataset": dataset, "encoder": encoder, "where": _where(first), "of": ()}
    shown = f"{len(frame):,}" if len(frame) == total else f"{len(frame):,} of {total:,}"
    note = f"{shown} samples, split: {request.split}."
    stem = stem_of(request.target("umap"), "umap", about | {"split": request.split}, "dataset", "encoder", "split")
    if not names:
        return [
            write_view(
                frame, draw_unlabelled, stem, title="UMAP", size=(6.4, 6.4),
                note=f"{note} The samples have no labels.", alt="Scatter plot of all samples.", **about,
            )
        ]  # fmt: skip
    reading = f"{note} Colored: samples with the class; gray: the rest. The smaller group is drawn on top."
    panels = write_view(
        frame, lambda frame: draw_panels(frame, names), stem, title=ONE_VS_REST, drawn=ONE_VS_REST, reading=reading,
        note=f"{reading} All panels show the same projection; distances between distant groups are not meaningful.",
        alt=f"{len(names)} panels of one scatter plot, one class colored in each.", **about,
    )  # fmt: skip
    if first.multilabel:
        return [panels]
    single = draw_figure(frame, first)
    by_class = replace(
        panels,
        title="UMAP by class",
        files=(*figures.save(single, stem.with_name(f"{stem.name}__by-class")), panels.files[-1]),
        caption=f"{note} The number of a class stands where the class is densest.",
        alt=f"Scatter plot of {len(names)} classes.",
    )
    return [by_class, panels]


def project(
    request: ViewRequest, *, points: int, seed: int, **settings: Any
) -> tuple[list[store.FeatureSet], pd.DataFrame]:
    """The features asked for and their UMAP coordinates, as `compute` gives them with the same options.

    Raises:
        RequestError: an option is out of range, there are no such features, or their splits do not match.
    """
    neighbors, min_dist, fit_on = (settings[name] for name in ("neighbors", "min_dist", "fit_on"))
    if points < 1 or neighbors < 2 or not 0 <= min_dist <= 1 or fit_on < 0:
        raise RequestError(
            "--points must be at least 1, --neighbors at least 2, --min-dist from 0 to 1, --fit-on at least 0"
        )
    check_seed(seed)
    where = request.feature_folder()
    splits = store.splits_in(where) if request.split == "all" else [request.split]
    if not splits:
        raise RequestError(f"no features in {where}; make them with featurize")
    sets = [store.read_features(paths.feature_file(where, split)) for split in splits]
    return sets, compute(sets, points=points, seed=seed, cache=paths.layout_cache(request.out), **settings)


def compute(sets: Sequence[store.FeatureSet], *, points: int, seed: int, cache: Path, **settings: Any) -> pd.DataFrame:
    """UMAP coordinates of samples of some splits of one feature set, projected together.

    At most so many points are drawn, without replacement; other options are those of `analysis.projection.project`.

    Returns:
        A row per sample: ``id split x y simulated``, then a column ``class: <name>`` of 0 and 1 for every class.

    Raises:
        RequestError: the splits' features differ in length.
    """
    widths = {s.identity["split"]["name"]: s.features.shape[1] for s in sets}
    if len(set(widths.values())) > 1:
        each = ", ".join(f"{split} {width}" for split, width in widths.items())
        raise RequestError(
            f"features of different lengths cannot be projected together ({each}); choose one --split, or make them "
            "again with featurize --overwrite"
        )
    labels = np.concatenate([s.labels for s in sets])
    rows = np.arange(len(labels))
    if len(rows) > points:
        rows = np.sort(np.random.default_rng(seed).choice(rows, points, replace=False))
    features = np.concatenate([s.features for s in sets])[rows]
    files = [s.features_sha256 for s in sets]
    sources = [digest for digest in files if digest] if all(files) else []  # joined features are of no single file
    xy = projection.project(features, seed=seed, cache=cache, sources=sources, **settings)
    names = list(sets[0].class_names)
    member = label_matrix(labels[rows], len(names))
    ids = np.array([name for s in sets for name in s.ids], dtype=object)[rows]
    splits = np.array([s.identity["split"]["name"] for s in sets for _ in s.ids], dtype=object)[rows]
    frame = pd.DataFrame({"id": ids, "split": splits, "x": xy[:, 0], "y": xy[:, 1], "simulated": sets[0].simulated})
    return frame.join(pd.DataFrame(member.astype(np.uint8), columns=[f"{CLASS}{name}" for name in names]))


def draw_figure(frame: pd.DataFrame, features: store.FeatureSet) -> Figure:
    """All classes in one scatter plot, or for multi-label data one panel per class; with title."""
    names, title = list(features.class_names), "UMAP by class" if features.class_names else "UMAP"
    if features.multilabel:
        figure, title = draw_panels(frame, names), ONE_VS_REST
    else:
        figure = figures.new_figure(10, 6.4) if names else figures.new_figure(6.4, 6.4)
        draw(frame, figure.subplots(), names) if names else draw_unlabelled(frame, figure.subplots())
    note = f"{len(frame):,} samples, split: {', '.join(frame['split'].unique())}."
    figures.put_title(figure, title, _where(features), simulated=features.simulated, note=note)
    return figure


def _where(features: store.FeatureSet) -> str:
    """Dataset, model and the short hash of its settings."""
    encoder = store.encoder_slug(features.identity)
    model = f"{frames.model_words(features.identity['encoder'])}, {encoder.rpartition('_')[2]}"
    return f"{store.dataset_slug(features.identity)}: {model}"


def draw_unlabelled(frame: pd.DataFrame, ax: Axes) -> None:
    """One scatter plot without classes."""
    size = 2 * _size(len(frame), len(frame))
    ax.scatter(frame["x"], frame["y"], s=size, c=figures.PALETTE[0], linewidths=0, rasterized=True)
    _bare(ax)


def draw_panels(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """One panel per class, all with the same coordinates."""
    columns = min(len(names), 5 if len(names) <= 25 else 7)
    lines = -(-len(names) // columns)
    wide, high = np.ptp(frame[["x", "y"]].to_numpy(), axis=0)
    shape = float(np.clip(high / wide, 0.5, 1.3)) if wide else 1.0  # a flat layout needs no square panels
    figure = figures.new_figure(max(2.5 * columns, 5), (2.3 * shape + 0.45) * lines + 1.0)
    colours = figures.colours(len(names))
    for ax, name, colour in zip(figures.panels(figure, len(names), columns), names, colours, strict=True):
        draw_one_vs_rest(frame, ax, name, colour)
    return figure


def draw_one_vs_rest(frame: pd.DataFrame, ax: Axes, name: str, colour: str) -> None:
    """One class in its color, the same as in the report, the rest gray; the rarer on top."""
    has = frame[f"{CLASS}{name}"].to_numpy(dtype=bool)
    groups = [(~has, UNLABELLED, 1), (has, colour, 2 if has.mean() <= 0.5 else 0)]
    for mask, shade, order in groups:
        size = _size(len(frame), mask.sum())
        ax.scatter(frame["x"][mask], frame["y"][mask], s=size, c=shade, linewidths=0, zorder=order, rasterized=True)
    share = "<0.1%" if 0 < has.mean() < 0.0005 else f"{has.mean():.1%}"
    count = f"{has.sum():,} ({share})" if has.any() else "no samples here"
    ax.set_title(f"{figures.wrapped(name, 32)}\n{count}", fontsize=8)
    _bare(ax)


def draw(frame: pd.DataFrame, ax: Axes, names: Sequence[str]) -> None:
    """Every class in its color, rare classes on top, numbered where they are densest."""
    member = frame[[f"{CLASS}{name}" for name in names]].to_numpy()
    number = np.where(member.any(axis=1), member.argmax(axis=1), -1)  # -1: unlabeled
    counts = np.bincount(number[number >= 0], minlength=len(names))
    palette = figures.colours(len(names))
    for k in (-1, *np.argsort(-counts, kind="stable")):
        own, colour = number == k, UNLABELLED if k < 0 else palette[k]
        size = 2 * _size(len(frame), int(own.sum()))
        ax.scatter(frame["x"][own], frame["y"][own], s=size, c=colour, linewidths=0, rasterized=True)
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    for k, (x, y) in label_places(frame[["x", "y"]].to_numpy(), number, len(names)).items():
        ax.text(x, y, str(k + 1), ha="center", va="center", fontsize=10, fontweight="bold", path_effects=halo)
    handles = [Line2D([], [], marker="o", lw=0, ms=6, color=colour) for colour in palette]
    words = [
        f"{f'{k + 1}'.rjust(2, FIGURE_SPACE)}  {figures.wrapped(name, 40)} ({counts[k]:,})"
        for k, name in enumerate(names)
    ]
    columns = 1 if len(names) <= 22 else 2
    ax.legend(handles, words, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, ncols=columns)
    _bare(ax)


def _size(total: int, members: int) -> float:
    """Area of a dot in square points: large where few are drawn, and for a class with few samples."""
    # three specks among thousands would not be seen
    return max(float(np.clip(9000 / total, 0.35, 14)), min(12.0, 400 / max(members, 1)))


def label_places(
    points: Float[np.ndarray, "samples 2"], number: Int[np.ndarray, " samples"], classes: int
) -> dict[int, Float[np.ndarray, "2"]]:
    """By class that has points, one of them to write its number at.

    It is where the class is dense, and clear of the numbers of the other classes; `number` is the class of each point.
    """
    apart = APART * np.ptp(points, axis=0).max()
    placed: dict[int, np.ndarray] = {}
    for k in range(classes):
        own = points[number == k]
        if len(own) == 0:
            continue
        candidates = _dense(own)
        taken = np.array(list(placed.values())).reshape(-1, 2)
        gaps = np.array([np.linalg.norm(taken - c, axis=1).min(initial=np.inf) for c in candidates])
        placed[k] = candidates[np.argmax(gaps >= apart) if (gaps >= apart).any() else gaps.argmax()]
    return placed


def _dense(points: np.ndarray) -> np.ndarray:
    """(M, 2) points of a group: those nearest to the middles of a coarse grid's cells, the fullest cell first."""
    counts, xs, ys = np.histogram2d(points[:, 0], points[:, 1], bins=12)
    columns, rows = np.unravel_index(np.argsort(-counts, axis=None, kind="stable")[: (counts > 0).sum()], counts.shape)
    middles = np.stack([(xs[columns] + xs[columns + 1]) / 2, (ys[rows] + ys[rows + 1]) / 2], axis=1)
    return np.array([points[np.square(points - middle).sum(axis=1).argmin()] for middle in middles])


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.set_aspect("equal", adjustable="datalim")
    ax.spines[:].set_color(figures.FAINT)
