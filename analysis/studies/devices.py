"""The class project's comparison of CPU and GPU: images per second that featurize recorded."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes

from analysis import figures, frames
from analysis.contract import Output, Table
from analysis.writing import write_view
from data import paths, store
from data.errors import RequestError
from data.runs import Run


def compute(runs: Sequence[Run], outs: Sequence[Path]) -> pd.DataFrame:
    """Images per second that featurize recorded, of every feature set of these runs' dataset in some output folders.

    Returns:
        A row per model x precision x device: ``dataset model precision device gpu images images_per_s simulated``;
        of several splits the largest counts. No rows where there are no features.
    """
    folders = [one for out in outs for one in paths.feature_folders(out) if one.parent.name == runs[0].dataset]
    files = [paths.feature_file(folder, split) for folder in folders for split in store.splits_in(folder)]
    rows = [
        {
            "dataset": runs[0].dataset,
            "model": frames.model_words(identity["encoder"]),
            "precision": identity["encoder"]["precision"],
            "device": environment.get("device", "unknown"),
            "gpu": environment.get("device") != "cpu",
            "images": identity["split"]["rows"],
            "images_per_s": float(environment["images_per_s"]),
            "simulated": runs[0].simulated,
        }
        for identity, environment in map(store.read_identity, files)
        if environment.get("images_per_s")
    ]
    if not rows:
        return pd.DataFrame()
    largest = pd.DataFrame(rows).sort_values("images", ascending=False, kind="stable")
    largest = largest.drop_duplicates(["model", "precision", "device"])
    return largest.sort_values(["model", "gpu", "precision", "device"], ignore_index=True)


def readable(frame: pd.DataFrame) -> Table:
    """The table; the last column is the ratio to the model's slowest CPU rate."""
    slowest = frame.loc[~frame["gpu"].astype(bool)].groupby("model")["images_per_s"].min()
    columns = {"Model": "{model}", "Device": "{device}", "Precision": "{precision}", "Images": "{images:,}"}
    columns |= {"Images/s": "{images_per_s:,.1f}", "Speedup over CPU": lambda row: figures.number(row["times"], 1)}
    return Table.of(frame.assign(times=frame["images_per_s"] / frame["model"].map(slowest)), columns)


def write(runs: Sequence[Run], out: Path, other_out: str, folder: Path, notes: list[str]) -> list[Output]:
    """Write the table and its figure; what is missing is added to `notes`."""
    if other_out and not Path(other_out).is_dir():
        raise RequestError(f"--other-out {other_out}: no such folder")
    frame = compute(runs, [out, *([Path(other_out)] if other_out else [])])
    if frame.empty:
        notes.append("no comparison of CPU and GPU: the features, which record the rates, are missing")
        return []
    note = "Images per second end to end, as featurize recorded them."
    if absent := [name for name, gpu in (("a CPU", False), ("a GPU", True)) if gpu not in set(frame["gpu"])]:
        note += f" No features were made on {absent[0]}, so nothing is compared."
        notes.append(f"no features made on {absent[0]}; make them there and name that output folder with --other-out")
    title, dataset = "CPU and GPU", runs[0].dataset
    return [
        write_view(
            frame, draw, folder / f"eurosat__{dataset}__devices", title=title, heading=f"{title}, {dataset}",
            size=(9, 1.9 + 0.36 * len(frame)), where=dataset,
            shown=[readable(frame)], note=note, of=["dataset"], alt=f"Images per second of {len(frame)} feature sets.",
        )
    ]  # fmt: skip


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """A bar per model and device."""
    rates = frame["images_per_s"].to_numpy()
    colours = [figures.PALETTE[2] if gpu else figures.GREY for gpu in frame["gpu"]]
    ax.barh(range(len(frame)), rates, color=colours, height=0.66)
    for y, rate in enumerate(rates):
        ax.text(rate, y, f" {rate:,.1f}", va="center", fontsize=8)
    words = [f"{row['model']}\n{row['device']}, {row['precision']}" for row in frame.to_dict("records")]
    ax.set(xlabel="Images per second", xlim=(0, rates.max() * 1.15))
    figures.label_rows(ax, words)
