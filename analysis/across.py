"""Models and probes across several datasets."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import figures, frames, tables
from analysis.ranking import COMPARED, Contender, name_of
from analysis.view import Output


def write(
    frame: pd.DataFrame, contenders: Sequence[Contender], stem: Path, *, resamples: int, seed: int
) -> list[Output]:
    """Write the overall tables."""
    return _write_overall(frame, stem)


def overall(frame: pd.DataFrame) -> pd.DataFrame:
    """Ranks of every model and probe on every dataset, the best first.

    Returns:
        A row a rule x model x probe: ``rule name <dataset> ... mean_rank simulated``; ``mean_rank`` is NaN unless it
        ran on all datasets. Single-label datasets have one rule and count under each.
    """
    datasets = list(dict.fromkeys(frame["dataset"]))
    frame = frame.assign(name=[name_of(row) for row in frame.to_dict("records")])
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
        note = f"Ranks within each dataset; a mean where it ran on all of them. {COMPARED}{simulated}"
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
