"""The class project's Table 1: samples of each class in each split."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import figures
from analysis.contract import Output, Table
from analysis.studies import reference
from analysis.studies.protocol import is_eurosat, is_four
from analysis.writing import write_view
from data import paths, store
from data.dataset import SPLITS
from data.errors import RequestError
from data.runs import Run


def compute(run: Run, out: Path) -> pd.DataFrame:
    """Samples of each class in each split of a run; without its features in `out`, the labels of train are unknown.

    Returns:
        A row per class x split: ``dataset class split count published simulated``; ``count`` is NaN where unknown,
        ``published`` the class project's number per class where the classes are EuroSAT's.
    """
    names = run.class_names
    rows = []
    for split in SPLITS:
        labels = _labels(run, split, out)
        counts = np.full(len(names), np.nan) if labels is None else np.bincount(labels, minlength=len(names))
        for name, count in zip(names, counts, strict=True):
            about = {"dataset": run.dataset, "class": name, "split": split}
            rows.append(about | {"count": count, "published": _published(run, name, split), "simulated": run.simulated})
    return pd.DataFrame(rows).astype({"count": "float64", "published": "float64"})


def _labels(run: Run, split: str, out: Path) -> np.ndarray | None:
    """(N,) labels of a split, from the predictions or the very features that the run was made from."""
    if split != "train":
        try:
            return run.predictions(split).labels
        except RequestError:
            if split == "test":
                raise
            return None  # a run without val
    file = paths.feature_file(paths.feature_folder(out, run.dataset, run.encoder), split)
    if not file.is_file():
        return None
    features = store.read_features(file, lazy=True)
    if features.identity["split"]["labels_sha256"] != run.record["features"]["splits"][split]["labels_sha256"]:
        return None
    return features.labels


def _published(run: Run, name: str, split: str) -> float:
    """The class project's images of a class in a split; NaN where it does not say."""
    if is_eurosat(run):
        return reference.CLASS_PROJECT_SPLIT[split]
    if is_four(run) and split != "val":
        return reference.CLASS_PROJECT_TABLE1[name][split == "test"]
    return np.nan


def _published_note(run: Run) -> str:
    """What the class project says of its samples, contradictions included."""
    if is_eurosat(run):
        counts = ", ".join(f"{split} {count}" for split, count in reference.CLASS_PROJECT_SPLIT.items())
        return f"Class project: {counts} images per class. {reference.CLASS_PROJECT_NOTE}"
    if is_four(run):
        tests = [count for _, count in reference.CLASS_PROJECT_TABLE1.values()]
        return (
            f"Class project: 200 train images per class; {' / '.join(map(str, tests))} test images, which sum to "
            f"{sum(tests)} where it prints {reference.CLASS_PROJECT_TABLE1_TOTAL}."
        )
    return ""


def readable(frame: pd.DataFrame) -> Table:
    """A row per class and one of all."""
    wide = frame.pivot_table("count", "class", "split", dropna=False, sort=False)[list(SPLITS)]
    wide.loc["All classes"] = wide.sum(skipna=False)
    wide["all"] = wide.sum(axis=1, skipna=False)
    rows = [[str(name), *("–" if np.isnan(n) else f"{n:,.0f}" for n in line)] for name, *line in wide.itertuples()]
    return Table(["Class", *(column.capitalize() for column in wide)], rows)


def write(run: Run, out: Path, folder: Path, notes: list[str]) -> Output:
    """Write the table and its figure; what is unknown is added to `notes`."""
    frame = compute(run, out)
    if unknown := [str(split) for split, part in frame.groupby("split") if all(part["count"].isna())]:
        notes.append(f"class counts of {', '.join(unknown)} are unknown: the features of the run are missing")
    title = "Table 1: class distribution"
    return write_view(
        frame, draw, folder / f"eurosat__{run.dataset}__table1", title=title, heading=f"{title}, {run.dataset}",
        size=(9, 2.0 + 0.26 * len(run.class_names)), drawn="Class distribution", where=run.dataset,
        shown=[readable(frame)], note=_published_note(run) or "Samples per class and split.", of=["dataset"],
        alt=f"Samples of {len(run.class_names)} classes in each split.",
    )  # fmt: skip


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """Bars of each class, the splits end to end."""
    names = list(dict.fromkeys(frame["class"]))
    left = np.zeros(len(names))
    colours = dict(zip(SPLITS, (figures.PALETTE[0], figures.PALETTE[1], figures.PALETTE[2]), strict=True))
    for split in SPLITS:
        counts = frame.loc[frame["split"] == split, "count"].to_numpy()
        if np.isnan(counts).all():
            continue
        ax.barh(range(len(names)), counts, left=left, color=colours[split], height=0.72, label=split)
        left += counts
    ax.set_xlabel("Samples")
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figures.label_rows(ax, [figures.wrapped(name, 44) for name in names])
