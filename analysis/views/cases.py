"""Case study: the surest right decisions and the worst mistakes, each image with its true and predicted classes."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures, frames, samples, tables
from analysis.contract import Output, ViewRequest
from data.errors import RequestError
from data.runs import Run, all_runs

CARD = {
    "input": "runs",
    "images": True,
    "options": {
        "count": {"default": 10, "help": "Right decisions, and as many mistakes, to show."},
        "data_root": {"default": "", "help": "Folder of the images. Default: EO_DATA_ROOT, then datasets."},
    },
}

RIGHT, MISTAKE = "right", "mistake"
COLUMNS = 5
NAME_WIDTH = 27  # letters of a class name below a picture
SHOWN = 3  # classes listed below a picture; the rest is counted


def run(request: ViewRequest, *, count: int, data_root: str) -> list[Output]:
    """Write the cases of every run and rule asked for; single-label runs have one rule."""
    if count < 1:
        raise RequestError(f"--count {count}: must be at least 1")
    runs = all_runs(request.out, model=request.model, dataset=request.dataset, kind=request.kind)
    folder, outputs = request.target("cases"), []
    for one in runs:
        rules = request.rules if one.multilabel else ("half",)
        chosen = [frames.with_names(compute(one, rule, count=count), runs) for rule in rules]
        ids = list(dict.fromkeys(name for frame in chosen for name in frame["id"]))
        identity = one.record["features"]["dataset"]
        source = samples.open_samples(identity, "test", data_root=Path(data_root) if data_root else None, ids=ids)
        pictures = {name: samples.picture(source, name) for name in ids}
        for rule, frame in zip(rules, chosen, strict=True):
            stem = folder / f"cases__{one.dataset}__{one.encoder}__{one.folder.name}__{rule}"
            outputs.append(_write(frame, pictures, stem))
    return outputs


def compute(run: Run, rule: str = "half", *, count: int = 10) -> pd.DataFrame:
    """Choose samples of the test split.

    Args:
        run: the run.
        rule: decision rule.
        count: of each sort.

    Returns:
        A row a case: the columns of `frames.run_columns`, then ``rule case place id true predicted score loss``.
        ``true`` and ``predicted`` are class names, several separated by ``; ``. ``loss`` is the negative logarithm of
        the probability that the run gave to the truth (mean over classes for multi-label data); ``score`` is that of
        the highest predicted class, NaN where none was predicted. Right decisions come by rising loss, of single-label
        data one a class before any class comes again; mistakes by falling loss. There may be fewer than `count`.
    """
    predictions, names = run.predictions("test"), np.array(run.class_names, dtype=object)
    truth, decided = frames.truth(predictions, len(names)), frames.decisions(run, predictions, rule)
    scores = np.clip(predictions.scores.astype(np.float64), 1e-12, 1 - 1e-12)
    if run.multilabel:
        loss = -np.where(truth, np.log(scores), np.log1p(-scores)).mean(axis=1)
    else:
        loss = -np.log(scores[truth])
    highest = np.where(decided, predictions.scores, -np.inf).max(axis=1)
    right = (truth == decided).all(axis=1)
    by_id = np.argsort(np.array(predictions.ids))  # ties: the same choice whatever the order of the rows
    rights = by_id[np.argsort(loss[by_id], kind="stable")]
    rights = rights[right[rights]]
    if not run.multilabel:
        turn = pd.Series(truth[rights].argmax(axis=1)).groupby(truth[rights].argmax(axis=1)).cumcount()
        rights = rights[np.argsort(turn.to_numpy(), kind="stable")]
    mistakes = by_id[np.lexsort((-highest[by_id], -loss[by_id]))]
    mistakes = mistakes[~right[mistakes]]
    columns, rows = frames.run_columns(run) | {"rule": rule}, []
    for case, chosen in ((RIGHT, rights[:count]), (MISTAKE, mistakes[:count])):
        for place, row in enumerate(chosen, 1):
            about = {"case": case, "place": place, "id": predictions.ids[row]}
            about |= {"true": "; ".join(names[truth[row]]), "predicted": "; ".join(names[decided[row]])}
            score = float(highest[row]) if decided[row].any() else np.nan
            rows.append(columns | about | {"score": score, "loss": float(loss[row])})
    return pd.DataFrame(rows)


def readable(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells of one run's cases."""
    rows = [
        [row["id"], row["case"], row["true"] or "none", row["predicted"] or "none"]
        + [figures.number(row[value]) for value in ("score", "loss")]
        for row in frame.to_dict("records")
    ]
    return ["Sample", "Case", "True", "Predicted", "Score", "Loss"], rows


def _write(frame: pd.DataFrame, pictures: dict[str, np.ndarray], stem: Path) -> Output:
    first = frame.iloc[0]
    header, rows = readable(frame)
    words = frames.rule_words(first["rule"], first["multilabel"])
    title = f"Cases, {first['dataset']}, {first['model']}, {first['probe']}, {words}"
    if first["simulated"]:
        title += " (simulated data)"
    return Output(
        title=f"{first['probe']}, {words}",
        files=(
            *figures.save(draw_figure(frame, pictures), stem),
            *tables.write_all(frame, stem, title, header, rows, left=4),
        ),
        dataset=first["dataset"],
        encoder=first["encoder"],
        caption="Test samples, surest right decisions and worst mistakes by the run's own probabilities.",
        alt=f"{len(frame)} images with their true and predicted classes.",
        tables=((header, rows),),
    )


def draw_figure(frame: pd.DataFrame, pictures: dict[str, np.ndarray]) -> Figure:
    """Right decisions above, mistakes below.

    Args:
        frame: of `compute`, `frames.with_names`, one run and rule.
        pictures: by id, (H, W, 3) uint8.
    """
    first = frame.iloc[0]
    groups = [(case, frame.loc[frame["case"] == case]) for case in (RIGHT, MISTAKE)]
    lines = [max(1, -(-len(part) // COLUMNS)) for _, part in groups]
    figure = figures.new_figure(10.5, 1.45 + sum((3.3 if first["multilabel"] else 2.45) * n + 0.25 for n in lines))
    blocks: Any = figure.subfigures(2, 1, height_ratios=lines)
    headings = {
        RIGHT: "Surest right decisions" + ("" if first["multilabel"] else ", classes in turn"),
        MISTAKE: "Worst mistakes",
    }
    for block, (case, part), count in zip(blocks, groups, lines, strict=True):
        block.suptitle(headings[case] if len(part) else f"{headings[case]}: none", x=0.01, ha="left", fontweight="bold")
        axes = block.subplots(count, COLUMNS, squeeze=False).ravel()
        for ax in axes:
            ax.set_axis_off()
        for ax, row in zip(axes, part.to_dict("records"), strict=False):
            draw(row, pictures[row["id"]], ax)
    words = frames.rule_words(first["rule"], first["multilabel"])
    note = (
        "Test samples; in brackets the probability of the predicted class. Mistakes: least probable true class first."
    )
    where = f"{first['dataset']}: {first['model']}"
    figures.put_title(figure, f"Cases: {first['probe']}, {words}", where, simulated=bool(first["simulated"]), note=note)
    return figure


def draw(row: dict, pixels: np.ndarray, ax: Axes) -> None:
    """One case.

    Args:
        row: of `compute`.
        pixels: (H, W, 3) uint8.
        ax: where to draw.
    """
    ax.imshow(pixels, interpolation="nearest")
    ax.set_axis_off()
    colour = figures.RIGHT if row["case"] == RIGHT else figures.WRONG
    score = "" if np.isnan(row["score"]) else f" ({row['score']:.2f})"
    if row["multilabel"]:
        true, predicted = (set(filter(None, row[side].split("; "))) for side in ("true", "predicted"))
        parts = [
            ("true positives", true & predicted), ("false negatives", true - predicted),
            ("false positives", predicted - true),
        ]  # fmt: skip
        text = "\n".join(line for what, names in parts for line in _listed(what, sorted(names)))
        text = text or "no class, none predicted"
    elif row["case"] == RIGHT:
        text = f"{figures.wrapped(row['true'], NAME_WIDTH)}{score}"
    else:
        text = (
            f"true: {figures.wrapped(row['true'], NAME_WIDTH)}\n"
            f"predicted: {figures.wrapped(row['predicted'], NAME_WIDTH)}{score}"
        )
    ax.set_title(text, fontsize=7.5, color=colour, loc="left", y=0, va="top", pad=-4, linespacing=1.25)


def _listed(what: str, names: list[str]) -> list[str]:
    """Lines such as ``false negatives: Pastures``, at most a few."""
    if not names:
        return []
    shown = [textwrap.shorten(name, NAME_WIDTH + 3, placeholder=" …") for name in names[:SHOWN]]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [f"{what}:", *(f"  {name}" for name in (*shown, *more))]
