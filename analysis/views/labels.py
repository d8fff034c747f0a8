"""Suspected label errors, found by out-of-fold predictions, and the ranking of models without them."""

from collections.abc import Sequence, Set
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures, frames, ranking, samples
from analysis.card import Option, ViewCard
from analysis.contract import Output, Table, ViewRequest, check_seed
from analysis.writing import write_view
from data import paths, store
from data.errors import RequestError
from data.runs import Run, find_runs
from probes import metrics, spatial
from probes.out_of_fold import out_of_fold

CARD = ViewCard(
    input="features",
    options={
        "count": Option(default=20, help="Number of images to show, lowest label quality first; the table lists all."),
        "folds": Option(
            default=5, help="Folds of all labeled samples; each is scored by a probe fitted on the others."
        ),
        "seed": Option(default=0, help="Seed of the folds."),
        "data_root": Option(default="", help="Folder of the images. Default: EO_DATA_ROOT, else datasets."),
    },
)

COLUMNS = 5
NAME_WIDTH = 26
METHOD = (
    "Confident learning (Northcutt et al. 2021, cleanlab) on out-of-fold probabilities of logistic regression. A "
    "suspected label may be correct, and weak features raise more suspicions: inspect the image."
)


def run(request: ViewRequest, *, count: int, folds: int, seed: int, data_root: str) -> list[Output]:
    """Write the suspected labels of one feature set, and what leaving them out of test changes in the runs on it."""
    if find_spec("cleanlab") is None:
        raise RequestError("analyze labels needs cleanlab; install it with: pip install 'frozen-earth[labels]'")
    if count < 1 or folds < 2:
        raise RequestError("--count must be at least 1, --folds at least 2")
    check_seed(seed)
    where = request.feature_folder()
    present = store.splits_in(where)
    if request.split != "all" and request.split not in present:
        raise RequestError(f"no {request.split} features in {where}; make them with featurize")
    sets = [store.read_features(paths.feature_file(where, split), lazy=True) for split in present]
    frame = every = compute(sets, folds=folds, seed=seed)
    if request.split != "all":
        frame = every[every["split"] == request.split].reset_index(drop=True)
    dataset, encoder = store.dataset_slug(sets[0].identity), store.encoder_slug(sets[0].identity)
    model = frames.model_words(sets[0].identity["encoder"])
    about = {"dataset": dataset, "encoder": encoder, "model": model, "simulated": sets[0].simulated}
    stem = request.target("labels") / f"labels__{dataset}__{encoder}__{request.split}"
    shown = frame.loc[frame["suspected"]].head(count)
    images, note = _images(shown, sets[0], data_root)
    outputs = [_write(frame.assign(**about), shown, images, stem, note=note, split=request.split)]
    runs = [one for one in find_runs(request.out, dataset=dataset) if one.class_names == list(sets[0].class_names)]
    for split in dict.fromkeys(map(frames.split_words, runs)):
        members = [one for one in runs if frames.split_words(one) == split]
        tested = every["suspected"] & ((every["split"] == "test") | (split != frames.ORIGINAL))  # of any split there
        if suspected := set(every.loc[tested, "id"]):
            own = stem.with_name(f"{stem.name}__ranks{frames.split_suffix(split)}")
            outputs.append(_write_ranks(ranks(members, suspected), own, split))
    return outputs


def compute(sets: Sequence[store.FeatureSet], *, folds: int = 5, seed: int = 0) -> pd.DataFrame:
    """Score every label by probes that were not fitted on the sample.

    All splits of a feature set are learned from together, each fold scored by the others.

    Returns:
        A row per labeled sample, the most suspect first: ``id split given suggested quality suspected``. ``given`` and
        ``suggested`` are class names, several separated by ``; ``; ``quality`` is cleanlab's label quality score (0 is
        worst; single-label: the probability of the given class); ``suspected`` is cleanlab's decision. A sample with a
        class that no other fold shows has no quality and is not suspected. Spatial cells stay in one fold, where
        locations are known and there are at least as many cells as folds: otherwise neighbors would confirm each other.

    Raises:
        RequestError: too few labeled samples, or no two classes of at least two samples.
    """
    names = np.array(sets[0].class_names, dtype=object)
    labels = np.concatenate([s.labels for s in sets])
    multilabel = labels.ndim == 2
    labelled = np.ones(len(labels), bool) if multilabel else labels >= 0
    own = np.split(labelled, np.cumsum([len(s.labels) for s in sets])[:-1])
    features = np.concatenate([s.features[:][rows] for s, rows in zip(sets, own, strict=True)])
    ids = np.array([name for s in sets for name in s.ids], dtype=object)[labelled]
    split = np.repeat([s.identity["split"]["name"] for s in sets], [len(s.ids) for s in sets])[labelled]
    truth = metrics.label_matrix(labels[labelled], len(names))
    occurs, repeated = np.flatnonzero(truth.any(axis=0)), np.count_nonzero(truth.sum(axis=0) > 1)
    if len(truth) < 2 * folds or repeated < (1 if multilabel else 2):
        raise RequestError(
            f"{len(truth)} labeled samples, {repeated} classes with at least 2: label checks need 2 samples per fold "
            f"({folds} folds) and " + ("a class" if multilabel else "two classes") + " with at least 2 samples"
        )
    truth, names = truth[:, occurs], names[occurs]
    located = [one.lonlat for one in sets if one.lonlat is not None]
    cells = spatial.cells(np.concatenate(located)[labelled]) if len(located) == len(sets) else None
    if cells is not None and int(cells.max()) + 1 < folds:
        cells = None
    scores, learnt = out_of_fold(features, truth, folds=folds, seed=seed, multilabel=multilabel, cells=cells)
    suspected, quality = _judged(truth, scores, multilabel)
    able = (learnt | ~truth).all(axis=1)
    suspected, quality = suspected & able, np.where(able, quality, np.nan)
    if multilabel:
        suggested = np.where(suspected[:, None], scores >= 0.5, truth)
    else:
        suggested = metrics.one_hot(scores.argmax(axis=1), len(names))
    frame = pd.DataFrame(
        {
            "id": ids,
            "split": split,
            "given": frames.class_words(list(names), truth),
            "suggested": frames.class_words(list(names), suggested),
            "quality": quality,
            "suspected": suspected,
        }
    )
    return frame.sort_values(["suspected", "quality", "id"], ascending=[False, True, True], ignore_index=True)


def _judged(truth: np.ndarray, scores: np.ndarray, multilabel: bool) -> tuple[np.ndarray, np.ndarray]:
    """Whether cleanlab suspects each sample (N,), and its quality score (N,)."""
    # deferred: an extra, see `run`
    if multilabel:
        from cleanlab.multilabel_classification import get_label_quality_scores
        from cleanlab.multilabel_classification.filter import find_label_issues

        given = [np.flatnonzero(row).tolist() for row in truth]
        return find_label_issues(given, scores, n_jobs=1), get_label_quality_scores(given, scores)
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    given = truth.argmax(axis=1)
    return find_label_issues(given, scores, n_jobs=1), get_label_quality_scores(given, scores)


def ranks(runs: Sequence[Run], suspected: Set[str]) -> pd.DataFrame:
    """Runs of one dataset and test split ranked on all of test and without the suspected samples.

    Returns:
        A row per setting, the best on all samples first: the columns of `analysis.ranking.rankings`, then
        ``samples_without value_without rank_without left_out``.

    Raises:
        RequestError: every test sample is suspected, or as `analysis.ranking.rankings`.
    """
    rules = ("tuned" if runs[0].multilabel else "half",)
    frame, _, _ = ranking.rankings(runs, rules)
    kept, _, _ = ranking.rankings(runs, rules, without=suspected)
    keys, columns = ["dataset", "encoder", "run"], ["samples", "value", "rank"]
    frame = frame.merge(kept[[*keys, *columns]], on=keys, suffixes=("", "_without"))
    return frame.assign(left_out=frame["samples"] - frame["samples_without"])


def _images(shown: pd.DataFrame, first: store.FeatureSet, data_root: str) -> tuple[dict[str, np.ndarray], str]:
    """Images by id, and why there are none where they cannot be opened: the table is useful without."""
    images: dict[str, np.ndarray] = {}
    try:
        for split, part in shown.groupby("split"):
            images |= samples.pictures(first.identity["dataset"], str(split), list(part["id"]), data_root)
    except RequestError as error:
        if data_root:
            raise
        return {}, f"no images: {error}"
    return images, ""


def readable(frame: pd.DataFrame) -> Table:
    """The table of the suspected samples."""
    columns = {"Sample": "{id}", "Split": "{split}", "Given label": "{given}", "Suggested": "{suggested}"}
    shown = frame.loc[frame["suspected"]].replace({"given": {"": "none"}, "suggested": {"": "none"}})
    return Table.of(shown, columns | {"Quality": "{quality:.3f}"})


def _write(
    frame: pd.DataFrame, shown: pd.DataFrame, images: dict[str, np.ndarray], stem: Path, *, note: str, split: str
) -> Output:
    first: Any = frame.iloc[0]
    found = int(np.count_nonzero(frame["suspected"]))
    where = "all splits" if split == "all" else split
    said = f"{found:,} of {len(frame):,} labels suspected in {where} of {first['dataset']}"
    if unable := np.count_nonzero(frame["quality"].isna()):
        said += f"; {unable:,} not checked (a class that no other fold has)"
    return write_view(
        frame, (lambda _: draw_figure(shown, images)) if len(shown) and images else None, stem,
        title="Suspected labels", heading=f"Suspected labels, {first['dataset']}, {first['model']}",
        drawn=f"Suspected labels: the {len(shown)} of lowest quality", reading=METHOD,
        shown=[readable(frame)], left=4, note=f"{said}, lowest quality first. {METHOD}",
        alt=f"{len(shown)} images with the given and the suggested label.",
        summary=said + (f"; {note}" if note else ""),
    )  # fmt: skip


def _write_ranks(frame: pd.DataFrame, stem: Path, split: str) -> Output:
    first = frame.iloc[0]
    metric = frames.metric_of(frame)
    columns: dict[str, Any] = {"Model": "{model}", "Probe": "{probe}"}
    for of, what in (("", ""), ("_without", ", without suspected")):
        columns[f"{metric}{what}"] = lambda row, of=of: figures.number(row[f"value{of}"])
        columns[f"Rank{what}"] = f"{{rank{of}}}"
    moved = int(np.count_nonzero(frame["rank"] != frame["rank_without"]))
    note = (
        f"Test samples: {split}. {frame['left_out'].max()} suspected test samples excluded; the rank of {moved} of "
        f"{len(frame)} runs changes. The encoder whose features found the suspected labels gains most, since they are "
        f"samples that it gets wrong. {ranking.RANK} {ranking.COMPARED}"
    )
    return write_view(
        ranking.worded(frame), None, stem, title=frames.with_split("Ranks without suspected labels", split),
        heading=f"Ranks without suspected labels, {frames.with_split(str(first['dataset']), split)}",
        shown=[Table.of(frame, columns)], left=2, note=note, of=["dataset"], summary=note,
        alt=f"Table of {len(frame)} runs with and without suspected labels.",
    )  # fmt: skip


def draw_figure(shown: pd.DataFrame, images: dict[str, UInt8[np.ndarray, "_ _ 3"]]) -> Figure:
    """The most suspect samples (rows of `compute`) with their given and suggested labels."""
    lines = -(-len(shown) // COLUMNS)
    height = 3.5 if shown["given"].str.contains("; ").any() else 2.75
    figure = figures.new_figure(10.5, 1.2 + height * lines)
    for ax, row in zip(figures.panels(figure, len(shown), COLUMNS), shown.to_dict("records"), strict=True):
        draw(row, images[row["id"]], ax)
    return figure


def draw(row: dict, pixels: UInt8[np.ndarray, "height width 3"], ax: Axes) -> None:
    """One suspected sample."""
    given, suggested = (set(filter(None, row[side].split("; "))) for side in ("given", "suggested"))
    if len(given) == len(suggested) == 1:
        parts = {"label": given, "suggested": suggested}
    else:
        parts = {"suspected": given - suggested, "suggested": suggested - given}
    lines = []
    for what, names in parts.items():
        if names:
            short = [figures.wrapped(name, NAME_WIDTH).replace("\n", "\n  ") for name in sorted(names)[:2]]
            lines += [
                f"{what}:",
                *(f"  {name}" for name in short),
                *[f"  and {len(names) - 2} more"] * (len(names) > 2),
            ]
    text = "\n".join([*(lines or ["label suspected"]), f"quality {row['quality']:.3f}"])
    figures.draw_sample(ax, pixels, text)
