"""UMAP of the features: one layout, a panel a class against the rest, and for single-label data one by class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import figures, frames, projection, tables
from analysis.contract import Output, ViewRequest
from data import paths, store
from data.errors import RequestError

CARD = {
    "input": "features",
    "report": {"order": 50, "heading": "UMAP of the features", "show": "figure"},
    "options": {
        "points": {"default": 20_000, "help": "Draw at most this many samples, chosen at random."},
        "seed": {"default": 0, "help": "Seed of the choice of samples and of the layout."},
        "neighbors": {"default": 15, "help": "UMAP's neighbourhood size."},
        "min_dist": {"default": 0.1, "help": "UMAP's least distance between points."},
        "fit_on": {"default": 0, "help": "Fit on so many of them and place the others among these; 0 fits on all."},
        "fast": {"default": False, "help": "Use every core: sooner done, but never twice the same layout."},
    },
}

FIGURE_SPACE = "\u2007"  # as wide as a digit
UNLABELLED = "#c3c9cf"  # and the rest beside one class
APART = 0.05  # of the layout's width, between the numbers of two classes
CLASS = "class: "  # so that a class named "x" or "id" is no trouble


def run(request: ViewRequest, **options: Any) -> list[Output]:
    """Lay out one feature set and draw it."""
    sets, frame = project(request, **options)
    return _write(frame, sets, request)


def project(
    request: ViewRequest, *, points: int, seed: int, neighbors: int, min_dist: float, fit_on: int, fast: bool
) -> tuple[list[store.FeatureSet], pd.DataFrame]:
    """The features asked for and their places, as `compute` gives them."""
    if points < 1 or neighbors < 2 or not 0 <= min_dist <= 1 or fit_on < 0:
        raise RequestError(
            "--points must be at least 1, --neighbors at least 2, --min-dist from 0 to 1, --fit-on at least 0"
        )
    if not 0 <= seed < 2**32:
        raise RequestError(f"--seed {seed}: must be from 0 to {2**32 - 1}")
    if request.features and (request.model or request.dataset):
        raise RequestError("--features names the folder already; drop --model and --dataset")
    where = request.features or store.find_features(request.out, model=request.model, dataset=request.dataset)
    splits = store.splits_in(where) if request.split == "all" else [request.split]
    if not splits:
        raise RequestError(f"no features in {where}; make them with featurize")
    sets = [store.read_features(paths.feature_file(where, split)) for split in splits]
    settings = {"neighbors": neighbors, "min_dist": min_dist, "fit_on": fit_on, "fast": fast}
    return sets, compute(sets, points=points, seed=seed, cache=paths.layout_cache(request.out), **settings)


def compute(
    sets: Sequence[store.FeatureSet],
    *,
    points: int,
    seed: int,
    neighbors: int,
    min_dist: float,
    cache: Path,
    fit_on: int = 0,
    fast: bool = False,
) -> pd.DataFrame:
    """Place samples in the plane.

    Args:
        sets: splits of one feature set, laid out together.
        points: at most this many samples, drawn without replacement.
        seed: see `analysis.projection.project`.
        neighbors: likewise.
        min_dist: likewise.
        cache: likewise.
        fit_on: likewise.
        fast: likewise.

    Returns:
        A row a sample: ``id split x y simulated``, then a column ``class: <name>`` of 0 and 1 for every class.

    Raises:
        RequestError: the splits were not made alike.
    """
    widths = {s.identity["split"]["name"]: s.features.shape[1] for s in sets}
    if len(set(widths.values())) > 1:
        each = ", ".join(f"{split} {width}" for split, width in widths.items())
        raise RequestError(
            f"features of different lengths cannot be laid out together ({each}); choose one --split, or make them "
            "again with featurize --overwrite"
        )
    labels = np.concatenate([s.labels for s in sets])
    rows = np.arange(len(labels))
    if len(rows) > points:
        rows = np.sort(np.random.default_rng(seed).choice(rows, points, replace=False))
    features = np.concatenate([s.features for s in sets])[rows]
    placed = projection.project(
        features, neighbors=neighbors, min_dist=min_dist, seed=seed, cache=cache, fit_on=fit_on, fast=fast
    )
    names = list(sets[0].class_names)
    member = labels[rows] if labels.ndim == 2 else labels[rows, None] == np.arange(len(names))
    ids = np.array([name for s in sets for name in s.ids], dtype=object)[rows]
    splits = np.array([s.identity["split"]["name"] for s in sets for _ in s.ids], dtype=object)[rows]
    frame = pd.DataFrame(
        {"id": ids, "split": splits, "x": placed[:, 0], "y": placed[:, 1], "simulated": sets[0].simulated}
    )
    return pd.concat(
        [frame, pd.DataFrame(member.astype(np.uint8), columns=[f"{CLASS}{name}" for name in names])], axis=1
    )


def _write(frame: pd.DataFrame, sets: Sequence[store.FeatureSet], request: ViewRequest) -> list[Output]:
    first = sets[0]
    dataset, encoder = store.dataset_slug(first.identity), store.encoder_slug(first.identity)
    names = list(first.class_names)
    total = sum(len(s.ids) for s in sets)
    count = f"{len(frame):,}" if len(frame) == total else f"{len(frame):,} of {total:,}"
    where = f"{dataset}: {frames.model_words(first.identity['encoder'])}, {encoder.rpartition('_')[2]}"
    note = f"{count} samples, split: {request.split}."
    stem = request.target("umap") / f"umap__{dataset}__{encoder}__{request.split}"
    csv = tables.write_csv(frame, stem)
    if not names:
        return [_write_unlabelled(frame, stem, dataset, encoder, where, note)]
    panels = draw_panels(frame, names)
    reading = "Coloured: samples with the class; grey: the rest. The rarer of the two is on top."
    figures.put_title(
        panels, "UMAP, each class against the rest", where, simulated=first.simulated, note=f"{note} {reading}"
    )
    outputs = [
        Output(
            title="UMAP, each class against the rest",
            files=(*figures.save(panels, stem), csv),
            dataset=dataset,
            encoder=encoder,
            caption=f"{note} {reading} All panels show one layout; distances between far groups mean little.",
            alt=f"{len(names)} panels of one scatter plot, a class coloured in each.",
        )
    ]
    if not first.multilabel:
        figure = figures.new_figure(10, 6.4)
        draw(frame, figure.subplots(), names)
        figures.put_title(figure, "UMAP by class", where, simulated=first.simulated, note=note)
        stem = stem.with_name(f"{stem.name}__by-class")
        single = Output(
            title="UMAP by class",
            files=(*figures.save(figure, stem), csv),
            dataset=dataset,
            encoder=encoder,
            caption=f"{note} A number stands where its class is densest.",
            alt=f"Scatter plot of {len(names)} classes.",
        )
        outputs.insert(0, single)
    return outputs


def _write_unlabelled(frame: pd.DataFrame, stem: Path, dataset: str, encoder: str, where: str, note: str) -> Output:
    """One plain scatter plot, where no sample has a class."""
    figure = figures.new_figure(6.4, 6.4)
    ax = figure.subplots()
    size = 2 * _size(len(frame), len(frame))
    ax.scatter(frame["x"], frame["y"], s=size, c=figures.PALETTE[0], linewidths=0, rasterized=True)
    _bare(ax)
    note = f"{note} The samples have no labels."
    simulated = bool(frame["simulated"].any())
    figures.put_title(figure, "UMAP", where, simulated=simulated, note=note)
    files = (*figures.save(figure, stem), tables.write_csv(frame, stem))
    return Output(
        title="UMAP", files=files, dataset=dataset, encoder=encoder, caption=note, alt="Scatter plot of all samples."
    )


def draw_panels(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """One panel a class, all with the same places.

    Args:
        frame: of `compute`.
        names: the classes.
    """
    columns = min(len(names), 5 if len(names) <= 25 else 7)
    lines = -(-len(names) // columns)
    wide, high = np.ptp(frame[["x", "y"]].to_numpy(), axis=0)
    shape = float(np.clip(high / wide, 0.5, 1.3)) if wide else 1.0  # a flat layout needs no square panels
    figure = figures.new_figure(max(2.5 * columns, 5), (2.3 * shape + 0.45) * lines + 1.0)
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for ax, name in zip(axes, names, strict=False):
        draw_one_vs_rest(frame, ax, name)
    for ax in axes[len(names) :]:
        ax.set_axis_off()
    return figure


def draw_one_vs_rest(frame: pd.DataFrame, ax: Axes, name: str) -> None:
    """One class coloured, the rest grey; the rarer on top.

    Args:
        frame: of `compute`.
        ax: where to draw.
        name: the class.
    """
    has = frame[f"{CLASS}{name}"].to_numpy(dtype=bool)
    groups = [(~has, UNLABELLED, 1), (has, figures.PALETTE[0], 2 if has.mean() <= 0.5 else 0)]
    for mask, colour, order in groups:
        size = _size(len(frame), mask.sum())
        ax.scatter(frame["x"][mask], frame["y"][mask], s=size, c=colour, linewidths=0, zorder=order, rasterized=True)
    share = "<0.1%" if 0 < has.mean() < 0.0005 else f"{has.mean():.1%}"
    count = f"{has.sum():,} ({share})" if has.any() else "no samples here"
    ax.set_title(f"{figures.wrapped(name, 32)}\n{count}", fontsize=8)
    _bare(ax)


def draw(frame: pd.DataFrame, ax: Axes, names: Sequence[str]) -> None:
    """Every class in its colour, rare classes on top, numbered where they are densest.

    Args:
        frame: of `compute`, of single-label data.
        ax: where to draw.
        names: the classes.
    """
    member = frame[[f"{CLASS}{name}" for name in names]].to_numpy()
    number = np.where(member.any(axis=1), member.argmax(axis=1), -1)  # -1: unlabelled
    counts = np.bincount(number[number >= 0], minlength=len(names))
    size = 2 * _size(len(frame), int((number < 0).sum()))
    ax.scatter(frame["x"][number < 0], frame["y"][number < 0], s=size, c=UNLABELLED, linewidths=0, rasterized=True)
    palette = figures.colours(len(names))
    for k in np.argsort(-counts, kind="stable"):
        size = 2 * _size(len(frame), counts[k])
        ax.scatter(
            frame["x"][number == k], frame["y"][number == k], s=size, c=palette[k], linewidths=0, rasterized=True
        )
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
    """Area of a dot in square points: large where few are drawn, and for a class of few samples among many."""
    # three specks among thousands would not be seen
    return max(float(np.clip(9000 / total, 0.35, 14)), min(12.0, 400 / max(members, 1)))


def label_places(points: np.ndarray, number: np.ndarray, classes: int) -> dict[int, np.ndarray]:
    """Where to write each class's number: where it is dense, and clear of the numbers of the other classes.

    Args:
        points: (N, 2).
        number: (N,) class of each.
        classes: K.

    Returns:
        By class that has points, the (2,) point of it to write at.
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
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal", adjustable="datalim")
    for spine in ax.spines.values():
        spine.set_color(figures.FAINT)
