"""Case study: the most confident correct predictions and the worst errors, with true and predicted classes."""

import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import figures, frames, samples
from analysis.card import Option, ViewCard
from analysis.contract import Output, Table, ViewRequest
from analysis.writing import stem_of, write_view
from data.errors import RequestError
from data.runs import Run
from probes import pooling

CARD = ViewCard(
    input="runs",
    options={
        "count": Option(default=10, help="Number of correct predictions to show, and of errors."),
        "data_root": Option(default="", help="Folder of the images. Default: EO_DATA_ROOT, else datasets."),
    },
)

CORRECT, ERROR = "correct", "error"
COLUMNS = 5
NAME_WIDTH = 27  # letters of a class name below a picture
SHOWN = 3  # classes listed below a picture; the rest is counted


def run(request: ViewRequest, *, count: int, data_root: str) -> list[Output]:
    """Write the cases of every run and rule asked for; single-label runs have one rule."""
    if count < 1:
        raise RequestError(f"--count {count}: must be at least 1")
    runs, folder, outputs = request.all_runs(), request.target("cases"), []
    for one in runs:
        rules = request.rules if one.multilabel else ("half",)
        chosen = [frames.with_names(compute(one, rule, count=count), runs) for rule in rules]
        ids = list(dict.fromkeys(name for frame in chosen for name in frame["id"]))
        images = samples.pictures(one.record["features"]["dataset"], "test", ids, data_root)
        outputs += [_write(frame, images, folder) for frame in chosen]
    return outputs


def compute(run: Run, rule: str = "half", *, count: int = 10) -> pd.DataFrame:
    """Choose at most so many correct predictions of the test split, and errors.

    Returns:
        A row per case: the columns of `frames.run_columns`, then ``rule case rank id true predicted score loss``.
        ``true`` and ``predicted`` are class names, several separated by ``; ``. ``loss`` is the negative log-likelihood
        of the true labels (mean over classes for multi-label data); ``score`` is that of the highest predicted class,
        NaN where none was predicted. Correct predictions come by rising loss, of single-label data one per class before
        any class comes again; errors by falling loss. There may be fewer than `count`.
    """
    predictions = run.predictions("test")
    judged = pooling.judge(run, predictions, rule)
    truth, decided = judged.truth, judged.decided
    scores = np.clip(predictions.scores.astype(np.float64), 1e-12, 1 - 1e-12)
    if run.multilabel:
        loss = -np.where(truth, np.log(scores), np.log1p(-scores)).mean(axis=1)
    else:
        loss = -np.log(scores[truth])
    highest = np.where(decided, predictions.scores, -np.inf).max(axis=1)
    right = (truth == decided).all(axis=1)
    by_id = np.argsort(np.array(predictions.ids))  # ties: the same choice whatever the order of the rows
    corrects = by_id[np.argsort(loss[by_id], kind="stable")]
    corrects = corrects[right[corrects]]
    if not run.multilabel:
        turn = pd.Series(truth[corrects].argmax(axis=1)).groupby(truth[corrects].argmax(axis=1)).cumcount()
        corrects = corrects[np.argsort(turn.to_numpy(), kind="stable")]
    errors = by_id[np.lexsort((-highest[by_id], -loss[by_id]))]
    errors = errors[~right[errors]]
    columns, rows = frames.run_columns(run) | {"rule": rule}, []
    for case, chosen in ((CORRECT, corrects[:count]), (ERROR, errors[:count])):
        for rank, row in enumerate(chosen, 1):
            about = {"case": case, "rank": rank, "id": predictions.ids[row]}
            true, predicted = frames.class_words(run.class_names, np.stack([truth[row], decided[row]]))
            about |= {"true": true, "predicted": predicted}
            score = float(highest[row]) if decided[row].any() else np.nan
            rows.append(columns | about | {"score": score, "loss": float(loss[row])})
    return pd.DataFrame(rows)


def readable(frame: pd.DataFrame) -> Table:
    """The table of one run's cases."""
    columns = {"Sample": "{id}", "Case": "{case}", "True": "{true}", "Predicted": "{predicted}"}
    columns |= {"Score": lambda row: figures.number(row["score"]), "Loss": "{loss:.3f}"}
    return Table.of(frame.replace({"true": {"": "none"}, "predicted": {"": "none"}}), columns)


def _write(frame: pd.DataFrame, images: dict[str, np.ndarray], folder: Path) -> Output:
    first = frame.iloc[0]
    return write_view(
        frame, partial(draw_figure, images=images), what="Cases", title=frames.run_title(first),
        stem=stem_of(folder, "cases", first, "dataset", "encoder", "run", "rule"), shown=[readable(frame)], left=4,
        note="Test samples: the most confident correct predictions and the errors with the highest loss.",
        reading="Test samples; in parentheses: the score of the predicted class. Errors: lowest score of the true "
        "class first.",
        alt=f"{len(frame)} images with their true and predicted classes.",
    )  # fmt: skip


def draw_figure(frame: pd.DataFrame, images: dict[str, UInt8[np.ndarray, "_ _ 3"]]) -> Figure:
    """Correct predictions above, errors below."""
    first = frame.iloc[0]
    groups = [(case, frame.loc[frame["case"] == case]) for case in (CORRECT, ERROR)]
    lines = [max(1, -(-len(part) // COLUMNS)) for _, part in groups]
    figure = figures.new_figure(10.5, 1.45 + sum((3.3 if first["multilabel"] else 2.45) * n + 0.25 for n in lines))
    blocks: Any = figure.subfigures(2, 1, height_ratios=lines)
    headings = {
        CORRECT: "Most confident correct predictions" + ("" if first["multilabel"] else ", one per class in turn"),
        ERROR: "Errors with the highest loss",
    }
    for block, (case, part) in zip(blocks, groups, strict=True):
        block.suptitle(headings[case] if len(part) else f"{headings[case]}: none", x=0.01, ha="left", fontweight="bold")
        for ax, row in zip(figures.panels(block, len(part), COLUMNS), part.to_dict("records"), strict=True):
            draw(row, images[row["id"]], ax)
    return figure


def outcomes(row: dict[str, Any]) -> dict[str, list[str]]:
    """The classes of a multi-label case by outcome, sorted; outcomes without classes are left out."""
    true, predicted = (set(filter(None, row[side].split("; "))) for side in ("true", "predicted"))
    found = {"TP": true & predicted, "FN": true - predicted, "FP": predicted - true}
    return {outcome: sorted(names) for outcome, names in found.items() if names}


def draw(row: dict[str, Any], pixels: UInt8[np.ndarray, "height width 3"], ax: Axes) -> None:
    """One case."""
    score = "" if np.isnan(row["score"]) else f" ({row['score']:.2f})"
    if row["multilabel"]:
        text = "\n".join(line for outcome, names in outcomes(row).items() for line in _listed(outcome, names))
        text = text or "no class, none predicted"
    elif row["case"] == CORRECT:
        text = f"{figures.wrapped(row['true'], NAME_WIDTH)}{score}"
    else:
        text = (
            f"true: {figures.wrapped(row['true'], NAME_WIDTH)}\n"
            f"predicted: {figures.wrapped(row['predicted'], NAME_WIDTH)}{score}"
        )
    figures.draw_sample(ax, pixels, text, colour=figures.RIGHT if row["case"] == CORRECT else figures.WRONG)


def _listed(outcome: str, names: list[str]) -> list[str]:
    """Lines such as ``FN:`` and ``  Pastures``, at most a few."""
    shown = [textwrap.shorten(name, NAME_WIDTH + 3, placeholder=" …") for name in names[:SHOWN]]
    more = [f"and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return [f"{outcome}:", *(f"  {name}" for name in (*shown, *more))]
