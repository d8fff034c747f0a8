"""UMAP of the features: one layout, a panel a class against the rest, and for single-label data one by class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import figures, frames, tables
from analysis.layout import layout
from analysis.view import Output, ViewRequest
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
    },
}

FIGURE_SPACE = "\u2007"  # as wide as a digit
CLASS = "class: "  # so that a class named "x" or "id" is no trouble


def run(request: ViewRequest, *, points: int, seed: int, neighbors: int, min_dist: float) -> list[Output]:
    """Lay out one feature set and draw it."""
    if points < 1 or neighbors < 2 or not 0 <= min_dist <= 1:
        raise RequestError("--points must be at least 1, --neighbors at least 2, --min-dist from 0 to 1")
    if not 0 <= seed < 2**32:
        raise RequestError(f"--seed {seed}: must be from 0 to {2**32 - 1}")
    if request.features and (request.model or request.dataset):
        raise RequestError("--features names the folder already; drop --model and --dataset")
    where = request.features or store.find_features(request.out, model=request.model, dataset=request.dataset)
    splits = store.splits_in(where) if request.split == "all" else [request.split]
    if not splits:
        raise RequestError(f"no features in {where}; make them with featurize")
    sets = [store.read_features(paths.feature_file(where, split)) for split in splits]
    cache = paths.layout_cache(request.out)
    frame = compute(sets, points=points, seed=seed, neighbors=neighbors, min_dist=min_dist, cache=cache)
    return _write(frame, sets, request)


def compute(
    sets: Sequence[store.FeatureSet], *, points: int, seed: int, neighbors: int, min_dist: float, cache: Path
) -> pd.DataFrame:
    """Place samples in the plane.

    Args:
        sets: splits of one feature set, laid out together.
        points: at most this many samples, drawn without replacement.
        seed: see `analysis.layout.layout`.
        neighbors: likewise.
        min_dist: likewise.
        cache: likewise.

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
    placed = layout(features, neighbors=neighbors, min_dist=min_dist, seed=seed, cache=cache)
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


def draw_panels(frame: pd.DataFrame, names: Sequence[str]) -> Figure:
    """One panel a class, all with the same places.

    Args:
        frame: of `compute`.
        names: the classes.
    """
    columns = min(len(names), 5 if len(names) <= 25 else 7)
    lines = -(-len(names) // columns)
    figure = figures.new_figure(max(2.5 * columns, 5), 2.75 * lines + 1.0)
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
    groups = [(~has, "#c3c9cf", 1), (has, figures.PALETTE[0], 2 if has.mean() <= 0.5 else 0)]
    size = _size(len(frame))
    for mask, colour, order in groups:
        # a class of few samples gets larger dots: three specks among thousands would not be seen
        grown = max(size, min(12.0, 400 / max(mask.sum(), 1)))
        ax.scatter(
            frame["x"][mask], frame["y"][mask], s=grown, c=colour, linewidths=0, zorder=order, rasterized=True
        )  # fmt: skip
    share = "<0.1%" if 0 < has.mean() < 0.0005 else f"{has.mean():.1%}"
    ax.set_title(f"{figures.wrapped(name, 32)}\n{has.sum():,} ({share})", fontsize=8)
    _bare(ax)


def draw(frame: pd.DataFrame, ax: Axes, names: Sequence[str]) -> None:
    """Every class in its colour, rare classes on top, numbered where they are densest.

    Args:
        frame: of `compute`, of single-label data.
        ax: where to draw.
        names: the classes.
    """
    number = frame[[f"{CLASS}{name}" for name in names]].to_numpy().argmax(axis=1)
    counts = np.bincount(number, minlength=len(names))
    palette = figures.colours(len(names))
    order = np.argsort(-counts[number], kind="stable")
    sns.scatterplot(
        x=frame["x"].to_numpy()[order], y=frame["y"].to_numpy()[order], hue=number[order], hue_order=range(len(names)),
        palette=palette, s=_size(len(frame)) * 2, linewidth=0, legend=False, rasterized=True, ax=ax,
    )  # fmt: skip
    halo = [patheffects.withStroke(linewidth=2.5, foreground="white")]
    for k in np.flatnonzero(counts):
        x, y = _densest(frame.loc[number == k, ["x", "y"]].to_numpy())
        ax.text(x, y, str(k + 1), ha="center", va="center", fontsize=10, fontweight="bold", path_effects=halo)
    handles = [Line2D([], [], marker="o", lw=0, ms=6, color=colour) for colour in palette]
    words = [
        f"{f'{k + 1}'.rjust(2, FIGURE_SPACE)}  {figures.wrapped(name, 40)} ({counts[k]:,})"
        for k, name in enumerate(names)
    ]
    columns = 1 if len(names) <= 22 else 2
    ax.legend(handles, words, loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, ncols=columns)
    ax.set(xlabel="", ylabel="")
    _bare(ax)


def _size(count: int) -> float:
    """Area of a dot in square points: large where few are drawn."""
    return float(np.clip(9000 / count, 0.35, 14))


def _densest(points: np.ndarray) -> np.ndarray:
    """The (2,) point of a group nearest to the middle of its fullest cell of a coarse grid."""
    counts, xs, ys = np.histogram2d(points[:, 0], points[:, 1], bins=12)
    i, j = np.unravel_index(counts.argmax(), counts.shape)
    middle = np.array([(xs[i] + xs[i + 1]) / 2, (ys[j] + ys[j + 1]) / 2])
    return points[np.square(points - middle).sum(axis=1).argmin()]


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_aspect("equal", adjustable="datalim")
    for spine in ax.spines.values():
        spine.set_color(figures.FAINT)
