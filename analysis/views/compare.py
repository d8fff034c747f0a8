"""Runs against each other: paired bootstrap on shared test samples, and ranks that tie where chance decides."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import figures, frames, protocol, reference, tables
from analysis.view import Output, ViewRequest
from data.errors import RequestError, unknown
from data.runs import Run, all_runs
from probes import metrics

CARD = {
    "input": "runs",
    "options": {
        "metric": {"default": "", "help": "What to compare by. Default: f2_macro for multi-label data, accuracy else."},
        "resamples": {"default": 1000, "help": "Bootstrap resamples."},
        "seed": {"default": 0, "help": "Seed of the bootstrap."},
    },
}

HEADLINE = {True: "f2_macro", False: "accuracy"}
# What follows from counts; average precision would need a walk through the ranking for every resample.
COMPARABLE = {
    multilabel: [
        name
        for name in frames.metric_names(multilabel)
        if not name.startswith("map_") and name not in frames.PROBABILITY_METRICS
    ]
    for multilabel in (True, False)
}
BLOCK = 32  # resamples drawn at once: a matrix product instead of a sum each
UNCORRECTED = (
    "Pairs differ where the 95 % interval of their paired difference excludes 0; not corrected for many pairs."
)


@dataclass(frozen=True)
class Contender:
    """One run under one rule, on the test samples that all contenders share.

    Args:
        run: the run.
        rule: its decision rule.
        value: the metric on the shared samples.
        samples: (R,) the metric on every resample; the same resamples for all contenders.
    """

    run: Run
    rule: str
    value: float
    samples: np.ndarray


def run(request: ViewRequest, *, metric: str, resamples: int, seed: int) -> list[Output]:
    """Rank all runs of each dataset and write the table, the pairs and a figure."""
    if resamples < 100:
        raise RequestError(f"--resamples {resamples}: an interval needs at least 100")
    if not 0 <= seed < 2**32:
        raise RequestError(f"--seed {seed}: must be from 0 to {2**32 - 1}")
    runs = all_runs(request.out, model=request.model, dataset=request.dataset, kind=request.kind)
    _check_metric(metric, runs)
    frame, pairs = compute(runs, request.rules, metric=metric, resamples=resamples, seed=seed)
    folder = request.target("compare")
    outputs = []
    for _, part in frame.groupby(["dataset", "rule"], sort=False):
        dataset, rule = part["dataset"].iloc[0], part["rule"].iloc[0]
        of_part = pairs.loc[(pairs["dataset"] == dataset) & (pairs["rule"] == rule)]
        stem = folder / f"compare__{dataset}__{rule if bool(part['multilabel'].iloc[0]) else 'highest'}"
        outputs.append(_write(part.reset_index(drop=True), of_part, stem))
    if len(set(frame["dataset"])) > 1:
        outputs += _write_overall(frame, folder / "compare")
    return outputs


def _check_metric(metric: str, runs: Sequence[Run]) -> None:
    choices = list(dict.fromkeys(name for one in runs for name in COMPARABLE[one.multilabel]))
    if metric and metric not in choices:
        raise unknown("metric", metric, choices)


# ---------------------------------------------------------------------------------------------- compute


def compute(
    runs: Sequence[Run], rules: Sequence[str], *, metric: str = "", resamples: int = 1000, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Values, intervals and ranks of every run, and every pair.

    Args:
        runs: of any datasets; those of one dataset are ranked together, each rule by itself.
        rules: see `ViewRequest.rules`; single-label runs have one.
        metric: see ``CARD``; datasets that do not have it are left out.
        resamples: R.
        seed: of the resamples.

    Returns:
        A row a dataset x rule x run, best first: the columns of `frames.run_columns`, then ``probe rule metric
        samples value low high rank tied published``. ``rank`` is 1 and the number of runs that are significantly
        better; ``tied`` says that the run ties with the best; ``published`` lists `protocol.matching`,
        ``protocol`` how each differs. And a row a
        pair of them, the better first: ``dataset rule a b difference low high significant simulated``.

    Raises:
        RequestError: runs of one dataset share no test samples, or predictions do not agree with their run.
    """
    rows, pairs = [], []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        members = [run for run in runs if run.dataset == dataset]
        multilabel = members[0].multilabel
        chosen = metric or HEADLINE[multilabel]
        if chosen not in COMPARABLE[multilabel]:
            continue
        for rule in rules if multilabel else ("half",):
            contenders, shared = _contend(members, rule, chosen, resamples=resamples, seed=seed)
            ranked, of_rule = _ranked(contenders, chosen)
            rows += [row | {"metric": chosen, "samples": shared} for row in ranked]
            pairs += of_rule
    frame = frames.with_names(pd.DataFrame(rows), runs)
    names = {(row["dataset"], row["encoder"], row["run"]): _name(row) for row in frame.to_dict("records")}
    table = pd.DataFrame(pairs, columns=["dataset", "rule", "a", "b", *PAIR_VALUES, "simulated"])
    return frame, table.assign(**{side: [names[key] for key in table[side]] for side in ("a", "b")})


PAIR_VALUES = ["difference", "low", "high", "significant"]


def _contend(runs: Sequence[Run], rule: str, metric: str, *, resamples: int, seed: int) -> tuple[list[Contender], int]:
    predictions = [run.predictions("test") for run in runs]
    sets = [set(p.ids) for p in predictions]
    shared = [name for name in predictions[0].ids if all(name in ids for ids in sets)]
    if not shared:
        raise RequestError(
            f"the runs on {runs[0].dataset} share no test samples; choose runs of one split with --model or --kind"
        )
    contenders, first = [], None
    for run, given in zip(runs, predictions, strict=True):
        truth, decided = frames.truth(given, len(run.class_names)), frames.decisions(run, given, rule)
        _check_counts(run, rule, truth, decided)
        place = {name: row for row, name in enumerate(given.ids)}
        rows = [place[name] for name in shared]
        truth, decided = truth[rows], decided[rows]
        first = truth if first is None else first
        if truth.shape != first.shape or (truth != first).any():
            raise RequestError(
                f"{run.folder} and {runs[0].folder} have other labels for the same test samples; compare runs of one "
                "version of the data"
            )
        value, samples = bootstrapped(truth, decided, metric, resamples=resamples, seed=seed)
        contenders.append(Contender(run, rule, value, samples))
    return contenders, len(shared)


def _check_counts(run: Run, rule: str, truth: np.ndarray, decided: np.ndarray) -> None:
    recorded = [(c["tp"], c["fp"], c["fn"]) for c in run.record["per_class"][rule]]
    tp, fp, _, fn = metrics.confusion_counts(truth, decided)
    if [tuple(map(int, counts)) for counts in zip(tp, fp, fn, strict=True)] != recorded:
        raise RequestError(f"{run.folder}: predictions.h5 does not agree with run.json; run the probe again")


def bootstrapped(
    truth: np.ndarray, decided: np.ndarray, metric: str, *, resamples: int, seed: int
) -> tuple[float, np.ndarray]:
    """A metric that follows from counts, on all samples and on every resample.

    Args:
        truth: (N, K) booleans.
        decided: (N, K) booleans.
        metric: a name of the run contract, not average precision.
        resamples: R.
        seed: the same seed and N draw the same samples, which pairs the resamples of several runs.

    Returns:
        The value, and (R,) values.
    """
    rows, classes = truth.shape
    exact = (truth == decided).all(axis=1, keepdims=True)
    each = np.hstack([truth & decided, ~truth & decided, truth & ~decided, exact]).astype(np.float32)
    rng = np.random.default_rng(seed)
    sums = [each.sum(axis=0, dtype=np.float64)[None]]
    for start in range(0, resamples, BLOCK):
        count = min(BLOCK, resamples - start)
        drawn = [np.bincount(rng.integers(rows, size=rows), minlength=rows) for _ in range(count)]
        sums.append((np.array(drawn, np.float32) @ each).astype(np.float64))  # float32 holds these integers exactly
    values = _from_counts(np.vstack(sums), metric, rows=rows, classes=classes)
    return float(values[0]), values[1:]


def _from_counts(sums: np.ndarray, metric: str, *, rows: int, classes: int) -> np.ndarray:
    """(B,) values of a metric from (B, 3 K + 1) sums: TP, FP and FN of every class, and rows all right."""
    tp, fp, fn = np.split(sums[:, :-1], 3, axis=1)
    name, _, scope = metric.rpartition("_")
    if metric == "hamming_loss":
        return (fp + fn).sum(axis=1) / (rows * classes)
    if metric == "subset_accuracy":
        return sums[:, -1] / rows
    if metric == "accuracy":
        return tp.sum(axis=1) / rows
    if metric == "balanced_accuracy":
        return metrics.recall(tp, fn).sum(axis=1) / np.maximum(((tp + fn) > 0).sum(axis=1), 1)
    if scope == "micro":
        tp, fp, fn = (count.sum(axis=1, keepdims=True) for count in (tp, fp, fn))
    values = {
        "f2": lambda: metrics.f_beta(tp, fp, fn, 2),
        "f1": lambda: metrics.f_beta(tp, fp, fn, 1),
        "precision": lambda: metrics.precision(tp, fp),
        "recall": lambda: metrics.recall(tp, fn),
    }[name]()
    return values.mean(axis=1)


def _ranked(contenders: list[Contender], metric: str) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    sign = -1 if metric in frames.LOWER_IS_BETTER else 1
    contenders = sorted(contenders, key=lambda one: -sign * one.value)
    better = np.zeros(len(contenders), int)  # how many are significantly better
    tied = [True] + [False] * (len(contenders) - 1)
    pairs = []
    for i, one in enumerate(contenders):
        for j in range(i + 1, len(contenders)):
            other = contenders[j]
            low, high = np.percentile(sign * (one.samples - other.samples), [2.5, 97.5])
            better[j] += low > 0
            tied[j] |= bool(i == 0 and low <= 0)
            a, b = ((c.run.dataset, c.run.encoder, c.run.folder.name) for c in (one, other))
            low, high = (low, high) if sign > 0 else (-high, -low)  # as one - other, whichever is better
            values = (one.value - other.value, float(low), float(high), bool(low > 0 or high < 0))
            about = {"dataset": one.run.dataset, "rule": one.rule, "a": a, "b": b, "simulated": one.run.simulated}
            pairs.append(about | dict(zip(PAIR_VALUES, values, strict=True)))
    rows = []
    for place, one in enumerate(contenders):
        low, high = np.percentile(one.samples, [2.5, 97.5])
        published = protocol.matching(one.run.record, metric)
        rows.append(
            frames.run_columns(one.run)
            | {"rule": one.rule, "value": one.value, "low": float(low), "high": float(high)}
            | {"rank": 1 + int(better[place]), "tied": tied[place]}
            | {"published": "; ".join(match.words() for match in published)}
            | {"protocol": " | ".join(f"{m.published.value:.3f}: {'; '.join(m.differences)}" for m in published)}
        )
    return rows, pairs


# ------------------------------------------------------------------------------------------------ write


def readable(frame: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Header and cells of one dataset and rule, best first; bold: ties with the best."""
    metric, multilabel = frame["metric"].iloc[0], bool(frame["multilabel"].iloc[0])
    with_published = any(frame["published"] != "")
    rows = []
    for row in frame.to_dict("records"):
        value = figures.number(row["value"])
        cell = (
            f"{f'**{value}**' if row['tied'] else value} [{figures.number(row['low'])}, {figures.number(row['high'])}]"
        )
        rows.append([row["model"], row["probe"], f"{row['rank']}", cell, *([row["published"]] * with_published)])
    header = ["Model", "Probe", "Rank", frames.metric_names(multilabel)[metric], *(["Published"] * with_published)]
    return header, rows


def _write(frame: pd.DataFrame, pairs: pd.DataFrame, stem: Path) -> Output:
    first = frame.iloc[0]
    header, rows = readable(frame)
    words = frames.rule_words(first["rule"], first["multilabel"])
    metric = frames.metric_names(first["multilabel"])[first["metric"]]
    title = f"{metric} compared, {first['dataset']}, {words}"
    note = " ".join([_caption(frame), *_references(frame)])
    if first["simulated"]:
        title += " (simulated data)"
    text = f"# {title}\n\n{note}\n\n" + tables.markdown_table(header, rows, left=2)
    return Output(
        title=f"{metric}, {words}",
        files=(
            *figures.save(draw_figure(frame), stem),
            tables.write_csv(frame, stem),
            tables.write_markdown(text, stem),
            tables.write_latex(tables.latex_table(header, rows, left=2, caption=f"{title}. {note}"), stem),
            tables.write_csv(pairs, stem.with_name(f"{stem.name}__pairs")),
        ),
        dataset=str(first["dataset"]),
        caption=note,
        alt=f"{len(frame)} probe runs ranked by {metric}.",
        tables=((header, rows),),
    )


def _caption(frame: pd.DataFrame) -> str:
    shared = f"{int(frame['samples'].iloc[0]):,} test samples that all runs share, bootstrap 95 % intervals."
    return f"{shared} Rank: 1 and the number of runs significantly better; bold: ties with the best. {UNCORRECTED}"


def _references(frame: pd.DataFrame) -> list[str]:
    """What the published numbers beside ours are and how their protocols differ, or that there are none."""
    studies = {word for text in frame["published"] for word in reference.STUDIES if word in text}
    if not studies:
        return ["No published number is of the data, model, bands and probe of these runs."]
    words = [f"{name}: {reference.STUDIES[name].text()}" for name in sorted(studies)]
    for row in frame.loc[frame["published"] != ""].to_dict("records"):
        for text in row["protocol"].split(" | "):
            value, _, listed = text.partition(": ")
            if listed:
                words.append(f"{row['model']}, {row['probe']}, beside {value}: {listed}.")
    return list(dict.fromkeys(words))


def overall(frame: pd.DataFrame) -> pd.DataFrame:
    """Ranks of every model and probe on every dataset, the best first.

    Returns:
        A row a rule x model x probe: ``rule name <dataset> ... mean_rank simulated``; ``mean_rank`` is NaN unless it
        ran on all datasets. Single-label datasets have one rule and count under each.
    """
    datasets = list(dict.fromkeys(frame["dataset"]))
    frame = frame.assign(name=[_name(row) for row in frame.to_dict("records")])
    rows = []
    for rule in dict.fromkeys(frame["rule"]):
        part = frame.loc[(frame["rule"] == rule) | ~frame["multilabel"].astype(bool)]
        for name, one in part.groupby("name", sort=False):
            ranks = one.groupby("dataset")["rank"].min().reindex(datasets)
            mean = ranks.mean() if ranks.notna().all() else np.nan
            about = {"simulated": bool(one["simulated"].any())}
            rows.append({"rule": rule, "name": name} | ranks.to_dict() | {"mean_rank": mean} | about)
    return pd.DataFrame(rows).sort_values(["rule", "mean_rank"], kind="stable", ignore_index=True)


def _write_overall(frame: pd.DataFrame, stem: Path) -> list[Output]:
    ranks, datasets = overall(frame), list(dict.fromkeys(frame["dataset"]))
    outputs = []
    for rule, part in ranks.groupby("rule", sort=False):
        header = ["Model and probe", *datasets, "Mean rank"]
        rows = [
            [row["name"], *("–" if pd.isna(row[d]) else f"{int(row[d])}" for d in datasets)]
            + [figures.number(row["mean_rank"], 1)]
            for row in part.to_dict("records")
        ]
        simulated = " Some of the data are simulated." if any(part["simulated"]) else ""
        note = f"Ranks within each dataset; a mean where it ran on all of them. {UNCORRECTED}{simulated}"
        title = f"Ranks over {len(datasets)} datasets, {frames.RULE_WORDS[str(rule)]}"
        own = stem.with_name(f"{stem.name}__all__{rule}")
        text = f"# {title}\n\n{note}\n\n" + tables.markdown_table(header, rows, left=1)
        outputs.append(
            Output(
                title=title,
                files=(
                    *figures.save(_draw_overall(part, datasets, title, note), own),
                    tables.write_csv(part, own),
                    tables.write_markdown(text, own),
                    tables.write_latex(tables.latex_table(header, rows, left=1, caption=f"{title}. {note}"), own),
                ),
                caption=note,
                alt=f"Ranks of {len(rows)} models and probes on {len(datasets)} datasets.",
                tables=((header, rows),),
            )
        )
    return outputs


def _name(row: dict[str, Any]) -> str:
    return f"{row['model']}; {row['probe']}"


# ------------------------------------------------------------------------------------------------- draw


def draw_figure(frame: pd.DataFrame) -> Figure:
    """One dataset and rule, best on top.

    Args:
        frame: of `compute`, one dataset and rule.
    """
    first = frame.iloc[0]
    figure = figures.new_figure(10, 1.9 + 0.3 * len(frame))
    ax = figure.subplots()
    draw(frame, ax)
    metric = frames.metric_names(first["multilabel"])[first["metric"]]
    lower = " (lower is better)" if first["metric"] in frames.LOWER_IS_BETTER else ""
    ax.set_xlabel(metric + lower)
    handles = [Line2D([], [], marker="o", lw=1.6, ms=5, color=figures.GREY)]
    words = ["value, bootstrap 95 %"]
    if any(frame["published"] != ""):
        handles.append(Line2D([], [], marker="D", lw=0, ms=5, mfc="white", color=figures.INK))
        words.append("published, same protocol")
    figure.legend(handles, words, loc="outside upper right", ncols=2, frameon=False)
    rule = frames.rule_words(first["rule"], first["multilabel"])
    note = f"{int(first['samples']):,} shared test samples. Number: rank; on grey: ties with the best."
    figures.put_title(
        figure, f"{metric} compared: {rule}", str(first["dataset"]), simulated=bool(first["simulated"]), note=note
    )
    return figure


def draw(frame: pd.DataFrame, ax: Axes) -> None:
    """A row a run: value, interval, rank, published numbers that match.

    Args:
        frame: of `compute`, one dataset and rule.
        ax: where to draw.
    """
    kinds = list(dict.fromkeys(frame["kind"]))
    palette = dict(zip(kinds, figures.kind_colours(kinds), strict=True))
    labels = []
    for y, row in enumerate(frame.to_dict("records")):
        colour = palette[row["kind"]]
        if row["tied"]:
            ax.axhspan(y - 0.5, y + 0.5, color=figures.FAINT, alpha=0.45, lw=0, zorder=0)
        ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=1.8, solid_capstyle="butt")
        ax.plot(row["value"], y, "o", color=colour, ms=5)
        for text in filter(None, row["published"].split("; ")):
            ax.plot(float(text.split()[0]), y, "D", mfc="white", color=figures.INK, ms=5)
        labels.append(f"{row['probe']}  ·  {row['model']}   {row['rank']:>2}")
    ax.set_yticks(range(len(labels)), labels)
    ax.set_ylim(len(labels) - 0.4, -0.6)
    ax.grid(axis="x")
    ax.set_axisbelow(True)
    figures.without_frame(ax)


def _draw_overall(ranks: pd.DataFrame, datasets: Sequence[str], title: str, note: str) -> Figure:
    figure = figures.new_figure(5 + 1.1 * len(datasets), 2.2 + 0.3 * len(ranks))
    ax = figure.subplots()
    values = ranks[[*datasets, "mean_rank"]].to_numpy(float)
    shares = np.nan_to_num(1 / values) ** 0.5  # the first ranks are what is looked for
    columns = [figures.wrapped(name, 14) for name in (*datasets, "mean rank")]
    rows = [figures.wrapped(name, 60) for name in ranks["name"]]
    figures.heatmap(ax, shares, columns=columns, rows=rows, cmap=figures.shades(), top=1.2)
    digits = [0] * len(datasets) + [1]
    figures.write_values(
        ax, shares, [[figures.number(v, d) for v, d in zip(line, digits, strict=True)] for line in values]
    )
    ax.xaxis.tick_top()
    ax.tick_params(length=0, rotation=0)
    figures.put_title(figure, title, "", simulated=bool(ranks["simulated"].any()), note=note)
    return figure
