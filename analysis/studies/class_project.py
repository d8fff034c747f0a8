"""The class project on DINOv2 and EuroSAT: its tables, curves, confusion, cases, CPU and GPU, DINOv2 and a CNN."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import figures, frames, tables
from analysis.contract import Output, ViewRequest, run_view
from analysis.studies import cases as study_cases
from analysis.studies import protocol, reference
from analysis.views import classes
from data import paths, store
from data.dataset import SPLITS
from data.errors import RequestError
from data.runs import Run, all_runs

HEAD = "head"  # the class project's probe
SIDES = {"dinov2": "DINOv2", "resnet": "CNN"}
JOINED = {"dinov2+resnet": "DINOv2 + CNN", "resnet+dinov2": "DINOv2 + CNN"}  # what it proposed as future work
STUDY = reference.STUDIES["class-project"]
TABLE2 = ["Class", "TP", "FP", "TN", "FN", "Precision", "Recall", "Specificity", "F1"]
TABLE2_RATES = ["precision", "recall", "specificity", "f1"]
MODEL_METRICS = ("accuracy", "balanced_accuracy", "f1_macro")


def write(request: ViewRequest, *, count: int, data_root: str, other_out: str) -> list[Output]:
    """Write every table and figure of the study that there is something for, and a page that holds them together."""
    runs = chosen_runs(request)
    place = replace(request, folder=request.target("eurosat"), rule="half", dataset=runs[0].dataset, kind=runs[0].kind)
    folder, notes = place.target("eurosat"), []
    outputs = [_write_distribution(distribution(runs[0], request.out), runs[0], folder, notes)]
    outputs += _named("Loss and accuracy by epoch", _if_possible("curves", place, notes))
    outputs += _named("Confusion matrix", run_view("confusion", place))
    outputs += _write_table2(runs, folder)
    outputs += study_cases.write(runs, folder)
    outputs += _named("Case study", _if_possible("cases", place, notes, count=count, data_root=data_root))
    outputs += _write_devices(runs, request.out, other_out, folder, notes)
    outputs.append(_write_models(runs, folder, notes))
    for note in notes:
        print(f"eurosat: {note}", file=sys.stderr)
    _write_page(runs, outputs, notes, folder)
    return outputs


def chosen_runs(request: ViewRequest) -> list[Run]:
    """The runs of the study: one single-label dataset, one kind of probe, the head where there is one.

    Raises:
        RequestError: there are none, or several datasets fit.
    """
    fitting = all_runs(request.out, model=request.model, dataset=request.dataset, kind=request.kind)
    runs = [one for one in fitting if not one.multilabel]
    if not runs:
        raise RequestError(
            f"the class project is about samples with one label; those of {fitting[0].dataset} have several (see "
            "analyze seminar)"
        )
    datasets = list(dict.fromkeys(one.dataset for one in runs))
    if len(datasets) > 1:
        raise RequestError(f"runs on {len(datasets)} datasets fit; choose with --dataset: {', '.join(datasets)}")
    kinds = list(dict.fromkeys(one.kind for one in runs))
    kind = HEAD if HEAD in kinds else "linear" if "linear" in kinds else kinds[0]
    return [one for one in runs if one.kind == kind]


def _named(what: str, outputs: list[Output]) -> list[Output]:
    """Outputs of another view, whose titles name the run only, with what they show."""
    return [replace(one, title=f"{what}: {one.title}") for one in outputs]


def _if_possible(view: str, place: ViewRequest, notes: list[str], **options: Any) -> list[Output]:
    """The outputs of another view; why there are none becomes a note."""
    try:
        return run_view(view, place, **options)
    except RequestError as error:
        notes.append(f"no {view}: {error}")
        return []


# ------------------------------------------------------------------------------------ Table 1: the classes


def distribution(run: Run, out: Path) -> pd.DataFrame:
    """Samples of each class in each split.

    Args:
        run: a run.
        out: where its features are looked for; without them the labels of train are not known.

    Returns:
        A row a class x split: ``dataset class split count published simulated``; ``count`` is NaN where unknown,
        ``published`` the class project's number a class where the classes are EuroSAT's.
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


def _is_eurosat(run: Run) -> bool:
    return set(run.class_names) == {row.name for row in reference.CLASS_PROJECT}


def _is_four(run: Run) -> bool:
    return set(run.class_names) == set(reference.CLASS_PROJECT_TABLE1)


def _published(run: Run, name: str, split: str) -> float:
    """The class project's images of a class in a split; NaN where it does not say."""
    if _is_eurosat(run):
        return reference.CLASS_PROJECT_SPLIT[split]
    if _is_four(run) and split != "val":
        return reference.CLASS_PROJECT_TABLE1[name][split == "test"]
    return np.nan


def _published_note(run: Run) -> str:
    """What the class project says of its samples, contradictions included."""
    if _is_eurosat(run):
        counts = ", ".join(f"{split} {count}" for split, count in reference.CLASS_PROJECT_SPLIT.items())
        return f"Class project: {counts} images per class. {reference.CLASS_PROJECT_NOTE}"
    if _is_four(run):
        tests = [count for _, count in reference.CLASS_PROJECT_TABLE1.values()]
        return (
            f"Class project: 200 train images per class; {' / '.join(map(str, tests))} test images, which sum to "
            f"{sum(tests)} where it prints {reference.CLASS_PROJECT_TABLE1_TOTAL}."
        )
    return ""


def readable_distribution(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells: a row a class and one of all."""
    wide = frame.pivot(index="class", columns="split", values="count").reindex(
        index=list(dict.fromkeys(frame["class"])), columns=list(SPLITS)
    )
    wide.loc["All classes"] = wide.sum(skipna=False)
    rows = [
        [str(name), *map(_count, line), _count(line.sum())]
        for name, line in zip(wide.index, wide.to_numpy(), strict=True)
    ]
    return ["Class", *(split.capitalize() for split in SPLITS), "All"], rows


def _count(value: float) -> str:
    return "–" if np.isnan(value) else f"{int(value):,}"


def _write_distribution(frame: pd.DataFrame, run: Run, folder: Path, notes: list[str]) -> Output:
    header, rows = readable_distribution(frame)
    unknown = [split for split, part in frame.groupby("split") if all(part["count"].isna())]
    if unknown:
        notes.append(f"class counts of {', '.join(map(str, unknown))} are not known: the run's features are not there")
    note = _published_note(run)
    figure = figures.new_figure(9, 2.0 + 0.26 * len(run.class_names))
    draw_distribution(frame, figure.subplots())
    figures.put_title(figure, "Class distribution", run.dataset, simulated=run.simulated, note=note)
    return _output(
        "Table 1: class distribution", frame, figure, [(header, rows)], run, note or "Samples of each class by split.",
        folder / f"eurosat__{run.dataset}__table1", alt=f"Samples of {len(run.class_names)} classes in each split.",
    )  # fmt: skip


def draw_distribution(frame: pd.DataFrame, ax: Axes) -> None:
    """Bars of each class, the splits end to end.

    Args:
        frame: of `distribution`.
        ax: where to draw.
    """
    names = list(dict.fromkeys(frame["class"]))
    left = np.zeros(len(names))
    colours = dict(zip(SPLITS, (figures.PALETTE[0], figures.PALETTE[1], figures.PALETTE[2]), strict=True))
    for split in SPLITS:
        counts = frame.loc[frame["split"] == split, "count"].to_numpy()
        if np.isnan(counts).all():
            continue
        ax.barh(range(len(names)), counts, left=left, color=colours[split], height=0.72, label=split)
        left += counts
    ax.set_yticks(range(len(names)), [figures.wrapped(name, 44) for name in names])
    ax.set_ylim(len(names) - 0.4, -0.6)
    ax.set_xlabel("Samples")
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figures.without_frame(ax)


# ------------------------------------------------------------------------------- Table 2: every class's counts


def _write_table2(runs: Sequence[Run], folder: Path) -> list[Output]:
    frame = classes.compute(runs, ("half",))
    outputs = []
    for run in runs:
        part = frame.loc[(frame["run"] == run.folder.name) & (frame["encoder"] == run.encoder)].reset_index(drop=True)
        ours = readable_table2(part)
        shown, note = [ours], f"Ours: {_said(run)}."
        if _is_eurosat(run):
            shown.append(readable_table2(published_table2()))
            total = reference.CLASS_PROJECT_IMAGES
            right = sum(row.tp for row in reference.CLASS_PROJECT)
            note += f" Below: the class project's, {right} of {total} right. {reference.CLASS_PROJECT_NOTE}"
        note += f" {study_cases.protocol_note(run)}"
        outputs.append(
            _output(
                f"Table 2: {part['model'].iloc[0]}, {part['probe'].iloc[0]}", part, _draw_table2(part, run), shown, run,
                note, folder / f"eurosat__{run.dataset}__table2__{run.encoder}__{run.folder.name}",
                alt=f"Counts and rates of {len(part)} classes, ours and published.",
            )
        )  # fmt: skip
    return outputs


def published_table2() -> pd.DataFrame:
    """The class project's table, rates worked out from its counts, in the columns that `classes.draw` asks for."""
    frame = pd.DataFrame(reference.class_project_rows())
    tp, fp, fn = frame["tp"], frame["fp"], frame["fn"]
    return frame.assign(f2=5 * tp / (5 * tp + 4 * fn + fp))


def readable_table2(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells of one run or of the published table."""
    rows = [
        [row["class"], *(f"{row[c]:,}" for c in frames.COUNTS), *(figures.number(row[r]) for r in TABLE2_RATES)]
        for row in frame.to_dict("records")
    ]
    return TABLE2, rows


def _draw_table2(frame: pd.DataFrame, run: Run) -> Figure:
    parts = {"Ours": frame} | ({"Class project (published)": published_table2()} if _is_eurosat(run) else {})
    lines = sum(len(part) for part in parts.values())
    figure = figures.new_figure(10.5, 1.7 + 0.29 * lines + 0.5 * len(parts))
    axes = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[len(part) for part in parts.values()]).ravel()
    for ax, (heading, part) in zip(axes, parts.items(), strict=True):
        classes.draw(part, ax)
        ax.set_title(heading, loc="left", fontweight="bold")
    where = f"{run.dataset}: {frame['model'].iloc[0]}, {frame['probe'].iloc[0]}"
    note = f"Every class against the rest, on test. {reference.CLASS_PROJECT_NOTE if len(parts) > 1 else ''}"
    figures.put_title(figure, "Table 2: counts and rates", where, simulated=run.simulated, note=note)
    return figure


# ------------------------------------------------------------------------------------------- CPU against GPU


def devices(runs: Sequence[Run], outs: Sequence[Path]) -> pd.DataFrame:
    """Images per second that featurize recorded, of every feature set of these runs' dataset.

    Args:
        runs: of one dataset.
        outs: output folders to look in.

    Returns:
        A row a model x precision x device: ``dataset model precision device gpu images images_per_s simulated``;
        of several splits the largest counts. No rows where there are no features.
    """
    rows = []
    for out in outs:
        for folder in paths.feature_folders(out):
            if folder.parent.name != runs[0].dataset:
                continue
            for split in store.splits_in(folder):
                identity, environment = store.read_identity(paths.feature_file(folder, split))
                if not environment.get("images_per_s"):
                    continue
                device = str(environment.get("device", "unknown"))
                rows.append(
                    {
                        "dataset": runs[0].dataset,
                        "model": frames.model_words(identity["encoder"]),
                        "precision": identity["encoder"]["precision"],
                        "device": device,
                        "gpu": device != "cpu",
                        "images": identity["split"]["rows"],
                        "images_per_s": float(environment["images_per_s"]),
                        "simulated": runs[0].simulated,
                    }
                )
    frame = pd.DataFrame(rows, columns=list(DEVICE_COLUMNS))
    largest = frame.sort_values("images", ascending=False, kind="stable")
    return largest.drop_duplicates(["model", "precision", "device"]).sort_values(
        ["model", "gpu", "precision", "device"], ignore_index=True
    )


DEVICE_COLUMNS = ("dataset", "model", "precision", "device", "gpu", "images", "images_per_s", "simulated")


def readable_devices(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells; the last column is how many times the model's slowest CPU rate."""
    slowest = frame.loc[~frame["gpu"].astype(bool)].groupby("model")["images_per_s"].min()
    rows = []
    for row in frame.to_dict("records"):
        times = row["images_per_s"] / slowest[row["model"]] if row["model"] in slowest else np.nan
        times = "–" if np.isnan(times) else f"{times:.1f}"
        rate = f"{row['images_per_s']:,.1f}"
        rows.append([row["model"], row["device"], row["precision"], f"{row['images']:,}", rate, times])
    return ["Model", "Device", "Precision", "Images", "Images/s", "Times the CPU"], rows


def _write_devices(runs: Sequence[Run], out: Path, other_out: str, folder: Path, notes: list[str]) -> list[Output]:
    if other_out and not Path(other_out).is_dir():
        raise RequestError(f"--other-out {other_out}: no such folder")
    frame = devices(runs, [out, *([Path(other_out)] if other_out else [])])
    if frame.empty:
        notes.append("no CPU against GPU: the features that tell the speeds are not there")
        return []
    absent = [name for name, wanted in (("a CPU", False), ("a GPU", True)) if wanted not in set(frame["gpu"])]
    note = "Images per second end to end, as featurize recorded them."
    if absent:
        sentence = f"no features made on {absent[0]} are there, so nothing is compared"
        note += f" {sentence[0].upper()}{sentence[1:]}."
        notes.append(f"CPU against GPU: {sentence}; make them elsewhere and name that folder with --other-out")
    figure = figures.new_figure(9, 1.9 + 0.36 * len(frame))
    draw_devices(frame, figure.subplots())
    figures.put_title(figure, "CPU against GPU", runs[0].dataset, simulated=runs[0].simulated, note=note)
    return [
        _output(
            "CPU against GPU", frame, figure, [readable_devices(frame)], runs[0], note,
            folder / f"eurosat__{runs[0].dataset}__devices", alt=f"Images per second of {len(frame)} feature sets.",
        )
    ]  # fmt: skip


def draw_devices(frame: pd.DataFrame, ax: Axes) -> None:
    """A bar a model and device.

    Args:
        frame: of `devices`.
        ax: where to draw.
    """
    rates = frame["images_per_s"].to_numpy()
    colours = [figures.PALETTE[2] if gpu else figures.GREY for gpu in frame["gpu"]]
    ax.barh(range(len(frame)), rates, color=colours, height=0.66)
    for y, rate in enumerate(rates):
        ax.text(rate, y, f" {rate:,.1f}", va="center", fontsize=8)
    words = [f"{row['model']}\n{row['device']}, {row['precision']}" for row in frame.to_dict("records")]
    ax.set_yticks(range(len(frame)), words)
    ax.set_ylim(len(frame) - 0.4, -0.6)
    ax.set(xlabel="Images per second", xlim=(0, rates.max() * 1.15))
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    figures.without_frame(ax)


# ------------------------------------------------------------------------------------------ DINOv2 and a CNN


def models(runs: Sequence[Run]) -> pd.DataFrame:
    """The models of these runs side by side, with the class project's accuracy.

    Returns:
        A row a run x metric: the columns of `frames.run_columns`, then ``probe side metric value low high``; ``side``
        is ``DINOv2``, ``CNN``, ``DINOv2 + CNN`` (their features joined) or ``other``.
    """
    frame = frames.with_names(frames.metrics_frame(runs), runs)
    frame = frame.loc[
        (frame["split"] == "test") & (frame["rule"] == "half") & frame["metric"].isin(MODEL_METRICS)
    ].reset_index(drop=True)
    names = {(run.dataset, run.encoder): run.record["features"]["encoder"]["name"] for run in runs}
    sides = [(SIDES | JOINED).get(names[key], "other") for key in zip(frame["dataset"], frame["encoder"], strict=True)]
    return frame.assign(side=sides).drop(columns=["split", "rule"])


def readable_models(frame: pd.DataFrame, *, published: bool) -> tuple[list[str], list[list[str]]]:
    """Header and cells: a row a run, and the class project's where the classes are EuroSAT's."""
    rows = []
    for _, part in frame.groupby(["encoder", "run"], sort=False):
        first, values = part.iloc[0], {row["metric"]: row for row in part.to_dict("records")}
        ours = [values[metric] for metric in MODEL_METRICS]
        cells = [figures.with_interval(row["value"], row["low"], row["high"]) for row in ours]
        rows.append([first["side"], first["model"], first["probe"], *cells])
    if published:
        row = ["published", "class project: DINOv2 base, 224 px", "head", f"{reference.CLASS_PROJECT_ACCURACY:.3f}"]
        rows.append([*row, *["–"] * (len(MODEL_METRICS) - 1)])
    return ["", "Model", "Probe", *(frames.SINGLE_LABEL_METRICS[metric] for metric in MODEL_METRICS)], rows


def _write_models(runs: Sequence[Run], folder: Path, notes: list[str]) -> Output:
    frame = models(runs)
    for name, side in SIDES.items():
        if side not in set(frame["side"]):
            notes.append(f"no {side} to compare: featurize --model {name}, then probe --kind {runs[0].kind}")
    published = _is_eurosat(runs[0])
    note = f"Ours: {_splits(runs[0])} samples of {runs[0].dataset}, scored on test."
    if len({_splits(one) for one in runs}) > 1:
        note += " Not all runs saw as many: the difference is not of models alone (see analyze compare)."
    if published:
        note += (
            f" Published: {reference.CLASS_PROJECT_IMAGES} test images of the class project's own choice, other splits "
            "than ours, so the difference is not of models alone."
        )
    random = [one for one in runs if one.record["features"]["encoder"]["weights"]["source"] == "random"]
    if random:
        note += " Models with random weights were never trained: their rows show that the tool works, no more."
    count = frame.groupby(["encoder", "run"]).ngroups
    figure = figures.new_figure(9.5, 2.1 + 0.42 * count)
    draw_models(frame.loc[frame["metric"] == "accuracy"], figure.subplots(), published=published)
    title = "DINOv2 and a CNN" if set(SIDES.values()) <= set(frame["side"]) else "Models side by side"
    figures.put_title(figure, title, runs[0].dataset, simulated=runs[0].simulated, note=note)
    return _output(
        title, frame, figure, [readable_models(frame, published=published)], runs[0], note,
        folder / f"eurosat__{runs[0].dataset}__models", alt=f"Accuracy of {count} models.", left=3,
    )  # fmt: skip


def draw_models(frame: pd.DataFrame, ax: Axes, *, published: bool) -> None:
    """Accuracy of each model with its interval, and the published one as a line.

    Args:
        frame: of `models`, accuracy.
        ax: where to draw.
        published: whether to draw the class project's accuracy.
    """
    palette = {"DINOv2": figures.PALETTE[0], "CNN": figures.PALETTE[1], "DINOv2 + CNN": figures.PALETTE[2]}
    palette["other"] = figures.GREY
    rows = frame.to_dict("records")
    for y, row in enumerate(rows):
        if not np.isnan(row["low"]):
            ax.plot([row["low"], row["high"]], [y, y], color=palette[row["side"]], lw=2, solid_capstyle="butt")
        ax.plot(row["value"], y, "o", color=palette[row["side"]], ms=6)
        ax.annotate(
            f"{row['value']:.3f}", (row["value"], y), (0, 6), textcoords="offset points", ha="center", fontsize=8
        )
    if published:
        ax.axvline(reference.CLASS_PROJECT_ACCURACY, color=figures.WRONG, lw=1.2, ls="--", zorder=0)
    ax.set_yticks(range(len(rows)), [f"{row['model']}\n{row['probe']}" for row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.75)
    ax.set_xlabel(f"Accuracy on test, {frames.interval_words(frame)}")
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    shown = [side for side in palette if side in set(frame["side"])]
    handles = [Line2D([], [], marker="o", lw=2, color=palette[side]) for side in shown]
    if published:
        handles.append(Line2D([], [], ls="--", lw=1.2, color=figures.WRONG))
        shown.append(f"class project ({reference.CLASS_PROJECT_ACCURACY:.3f}, published)")
    ax.legend(handles, shown, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figures.without_frame(ax)


# ------------------------------------------------------------------------------------------------- the page


def _said(run: Run) -> str:
    """What a run was made on."""
    return (
        f"{run.dataset} ({_splits(run)} samples), {frames.model_words(run.record['features']['encoder'])}, {run.kind}"
    )


def _splits(run: Run) -> str:
    return ", ".join(f"{split} {count:,}" for split, count in protocol.rows_of(run.record).items())


def _output(
    title: str, frame: pd.DataFrame, figure: Figure, shown: list[tuple[list[str], list[list[str]]]], run: Run,
    note: str, stem: Path, *, alt: str, left: int = 1,
) -> Output:  # fmt: skip
    """Write one table and its picture."""
    heading = f"{title}, {run.dataset}{' (simulated data)' if run.simulated else ''}"
    text = f"# {heading}\n\n{note}\n"
    tex = ""
    for header, rows in shown:
        text += "\n" + tables.markdown_table(header, rows, left=left)
        tex += tables.latex_table(header, rows, left=left, caption=f"{heading}. {note}")
    return Output(
        title=title,
        files=(
            *figures.save(figure, stem),
            tables.write_csv(frame, stem),
            tables.write_markdown(text, stem),
            tables.write_latex(tex, stem),
        ),
        dataset=run.dataset,
        caption=note,
        alt=alt,
        tables=tuple(shown),
    )


def _write_page(runs: Sequence[Run], outputs: Sequence[Output], notes: Sequence[str], folder: Path) -> None:
    """One Markdown page with every table and figure."""
    run = runs[0]
    simulated = " (simulated data)" if run.simulated else ""
    text = f"# The class project on DINOv2 and EuroSAT, ours beside it{simulated}\n\n"
    text += f"Published: {STUDY.text()}\n\nOurs: {run.dataset} ({_splits(run)} samples), "
    text += f"probe {run.kind}, {len(runs)} run{'s' * (len(runs) > 1)}.\n"
    for output in outputs:
        png = output.file("png")
        assert png is not None
        text += f"\n## {output.title}\n\n![{output.alt}]({png.name})\n\n{output.caption}\n"
        if output.tables and output.title.startswith("Table"):
            text += "".join("\n" + tables.markdown_table(header, rows, left=1) for header, rows in output.tables)
    if notes:
        text += "\n## Not here\n\n" + "".join(f"- {note}\n" for note in notes)
    tables.write_markdown(text, folder / f"eurosat__{run.dataset}__page")
