"""Models and probes across datasets: normalized scores, their interquartile mean, ranks and how stable they are.

Scores of a dataset are normalized to 0 for the worst and 1 for the best of those compared, and the interquartile mean
over datasets leaves out the lowest and highest quarter (Agarwal et al. 2021; GEO-Bench, Lacoste et al. 2023). Its
interval is a bootstrap stratified by dataset: in each, test units (images or spatial cells) are drawn, the same for all
models, and the change of a metric is added up from what leaving out each unit changes (infinitesimal jackknife); the
spread between seeds is added as a normal deviate. Whether ranks differ at all is Friedman's test over datasets; models
joined by a bar in the critical-difference diagram do not differ by Nemenyi's (Demsar 2006), drawn by scikit-posthocs.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from analysis import figures, frames, tables
from analysis.contract import Output, Table
from analysis.ranking import COMPARED, Contender, name_of
from analysis.writing import write_view
from data.files import canonical_json, short_hash

BLOCK_ENTRIES = 4_000_000  # of the largest array of the bootstrap
OF_DATASET = {"candidates", "shrinkage", "selection"}  # arguments that follow from the dataset (`select` is asked for)
NOTHING = (
    "No normalized scores: fewer than two models and probes ran on every dataset with the same settings; run the same "
    "probe commands on each."
)
OVERALL = "Ranks within each dataset; mean rank of those that ran on all datasets."
SOME_SIMULATED = "Some of the data are simulated."
LEAST_RANKED = 3  # models, for a test of ranks


@dataclass(frozen=True)
class Across:
    """Models and probes that ran on every dataset, under one rule.

    Args:
        values: (M, D) frame of the metric, by name and dataset.
        scores: (M, D) frame, normalized: 1 is the dataset's best, 0 its worst.
        table: a row per name, the best first: ``name iqm low high rank_low rank_high first lowest_rank highest_rank``:
            the interquartile mean and its 95% interval; the 95% range of its rank and how often it is first among
            resamples; its lowest and highest rank when one dataset is left out.
        friedman: chi squared and p of Friedman's test; None for fewer than `LEAST_RANKED` names or 2 datasets.
        nemenyi: (M, M) frame of p values of pairs; None likewise.
        left_out: names that did not run on every dataset.
    """

    values: pd.DataFrame
    scores: pd.DataFrame
    table: pd.DataFrame
    friedman: tuple[float, float] | None
    nemenyi: pd.DataFrame | None
    left_out: tuple[str, ...] = ()


def write(
    frame: pd.DataFrame, contenders: Sequence[Contender], stem: Path, *, resamples: int, seed: int
) -> list[Output]:
    """Write ranks on every dataset, and what they say together."""
    frame = named(frame, contenders)
    outputs = _write_overall(frame, stem)
    for how in [how for how, part in frame.groupby("design", sort=False) if len(set(part["dataset"])) > 1]:
        part = frame.loc[frame["design"] == how]
        of_part = [contenders[row] for row in part.index]
        own = stem.with_name(stem.name + frames.split_suffix(str(how)))
        for rule in dict.fromkeys(part["rule"]):
            found = compute(part, of_part, str(rule), resamples=resamples, seed=seed)
            if found is not None:
                outputs.append(_write(found, str(rule), bool(part["simulated"].any()), resamples, own, str(how)))
    return outputs


def match_key(contender: Contender) -> str:
    """What must be equal for runs on different datasets to be the same model and probe.

    That is the encoder without what was measured on the dataset (statistics, generated weights), the kind, what was
    asked of it without candidates, which depend on the size of train, and how the splits were made, without the seed.
    """
    record = contender.run.record
    encoder = dict(record["features"]["encoder"])
    encoder["normalization"] = {"method": encoder["normalization"]["method"]}
    if encoder["weights"]["source"] != "loaded":
        encoder["weights"] = {"source": encoder["weights"]["source"]}
    asked = {name: value for name, value in record.get("arguments", {}).items() if name not in OF_DATASET}
    return canonical_json([encoder, contender.run.kind, asked, frames.split_words(contender.run, seed=False)])


def named(frame: pd.DataFrame, contenders: Sequence[Contender]) -> pd.DataFrame:
    """The frame with ``key`` (`match_key`), ``design`` of the splits and ``name``, one for each key, to be shown."""
    frame = frame.assign(
        key=[match_key(one) for one in contenders],
        design=[frames.split_words(one.run, seed=False) for one in contenders],
        name=[name_of(row) for row in frame.to_dict("records")],
    ).reset_index(drop=True)
    names: dict[str, tuple[str, str]] = {}
    for key, part in frame.groupby("key", sort=False):
        words = str(part["name"].iloc[0])
        if len(set(part["seeds"])) > 1:
            words = words.removesuffix(frames.seeds_words("", int(part["seeds"].iloc[0])))
        names[str(key)] = (words, str(part["dataset"].iloc[0]))
    counts = Counter(words for words, _ in names.values())
    shown = {key: words if counts[words] == 1 else f"{words} ({first})" for key, (words, first) in names.items()}
    if len(set(shown.values())) < len(shown):  # several within a dataset
        shown = {key: f"{words} [{short_hash(key, 6)}]" for key, words in shown.items()}
    return frame.assign(name=[shown[key] for key in frame["key"]])


def _matched(frame: pd.DataFrame, rule: str) -> tuple[list[str], list[str], pd.DataFrame]:
    """Names that ran on all datasets and those that did not, and the rows under a rule, a test split per dataset."""
    part = frame.loc[(frame["rule"] == rule) | ~frame["multilabel"].astype(bool)]
    first = {dataset: rows["test_split"].iloc[0] for dataset, rows in part.groupby("dataset", sort=False)}
    part = part.loc[part["test_split"] == part["dataset"].map(first)].drop_duplicates(["dataset", "name"])
    counts = part.groupby("name", sort=False)["dataset"].nunique()
    names = [str(name) for name in counts.index if counts[name] == frame["dataset"].nunique()]
    return names, [name for name in dict.fromkeys(frame["name"]) if name not in names], part


def compute(
    frame: pd.DataFrame, contenders: Sequence[Contender], rule: str, *, resamples: int, seed: int
) -> Across | None:
    """What datasets say together of those that ran on all of them; None for fewer than two.

    The frame, whose rows are the contenders', is of one way to split; single-label datasets count under each rule.
    """
    frame = frame.reset_index(drop=True) if "key" in frame else named(frame, contenders)
    names, left_out, rows = _matched(frame, rule)
    if len(names) < 2:
        return None
    members = {}
    for dataset, part in rows.groupby("dataset", sort=False):
        row_of = dict(zip(part["name"], part.index, strict=True))
        members[str(dataset)] = [contenders[row_of[name]] for name in names]
    values = pd.DataFrame({d: [one.value for one in ones] for d, ones in members.items()}, index=names)
    signed = values * pd.Series({d: _sign(ones[0]) for d, ones in members.items()})
    low, high = signed.min(), signed.max()
    spread = (high - low).where(high > low, 1.0)
    scores = (signed - low) / spread
    rng = np.random.default_rng(seed)
    drawn = [(_resampled(ones, resamples, rng) - low[d]) / spread[d] for d, ones in members.items()]  # as the data are
    table = _table(scores, interquartile_mean(np.stack(drawn, axis=2)))
    return Across(values, scores, table, *_tests(scores), tuple(left_out))


def _table(scores: pd.DataFrame, means: Float[np.ndarray, "resamples models"]) -> pd.DataFrame:
    """The table of `Across`, from scores and the interquartile means of resamples."""
    iqm = interquartile_mean(scores.to_numpy())
    upper, lower = np.quantile(means, [0.975, 0.025], axis=0)
    ranks = stats.rankdata(-means, axis=1, method="min")
    left_out = (interquartile_mean(scores.drop(columns=dataset).to_numpy()) for dataset in scores)
    without = [stats.rankdata(-each, method="min") for each in left_out]
    table = pd.DataFrame(
        {
            "name": scores.index,
            "iqm": iqm,
            "low": 2 * iqm - upper,  # basic bootstrap
            "high": 2 * iqm - lower,
            "rank_low": np.quantile(ranks, 0.025, axis=0, method="lower").astype(int),
            "rank_high": np.quantile(ranks, 0.975, axis=0, method="higher").astype(int),
            "first": (ranks == 1).mean(axis=0),
            "lowest_rank": np.min(without, axis=0).astype(int),
            "highest_rank": np.max(without, axis=0).astype(int),
        }
    )
    return table.sort_values("iqm", ascending=False, kind="stable", ignore_index=True)


def _tests(scores: pd.DataFrame) -> tuple[tuple[float, float] | None, pd.DataFrame | None]:
    """``friedman`` and ``nemenyi`` of `Across`."""
    if len(scores) < LEAST_RANKED:
        return None, None
    from scikit_posthocs import posthoc_nemenyi_friedman  # deferred: statsmodels takes a second to import

    test = stats.friedmanchisquare(*scores.to_numpy())
    nemenyi = posthoc_nemenyi_friedman(scores.to_numpy().T).set_axis(scores.index, axis=0)
    return (float(test.statistic), float(test.pvalue)), nemenyi.set_axis(scores.index, axis=1)


def interquartile_mean(values: Float[np.ndarray, "*leading datasets"]) -> Float[np.ndarray, "*leading"]:
    """Mean over the last axis without its lowest and highest quarter; of fewer than four values the mean."""
    return np.asarray(stats.trim_mean(values, 0.25, axis=-1))


def _sign(contender: Contender) -> int:
    return -1 if contender.metric in frames.LOWER_IS_BETTER else 1


def _resampled(contenders: Sequence[Contender], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """(R, M) signed values of the contenders of one dataset on the same resamples of its test units."""
    estimates = [one.pooled.estimates[one.metric] for one in contenders]
    left_out = np.stack([one.left_out for one in estimates], axis=1)
    count = len(left_out)
    effects = (left_out.mean(axis=0) - left_out) * (count - 1) / count
    values, found = np.array([one.value for one in estimates]), []
    block = max(1, BLOCK_ENTRIES // count)
    for start in range(0, resamples, block):
        weights = rng.multinomial(count, np.full(count, 1 / count), size=min(block, resamples - start))
        found.append(values + weights @ effects)
    seeds = np.sqrt([one.pooled.seed_variance[one.metric] for one in contenders])
    noise = rng.standard_normal((resamples, len(contenders))) * seeds
    return _sign(contenders[0]) * (np.concatenate(found) + noise)


def overall(frame: pd.DataFrame) -> pd.DataFrame:
    """Ranks of every model and probe on every dataset, the best first.

    Returns:
        A row per rule x model x probe: ``rule name <dataset> ... mean_rank simulated``; ``mean_rank`` is NaN unless it
        ran on all datasets. The frame is one of `named`. Single-label datasets have one rule and count under each.
    """
    datasets, rows = list(dict.fromkeys(frame["dataset"])), []
    for rule in dict.fromkeys(frame["rule"]):
        part = frame.loc[(frame["rule"] == rule) | ~frame["multilabel"].astype(bool)]
        for name, one in part.groupby("name", sort=False):
            ranks = one.groupby("dataset")["rank"].min().reindex(datasets)
            mean = ranks.mean() if ranks.notna().all() else np.nan
            about = {"simulated": bool(one["simulated"].any())}
            rows.append({"rule": rule, "name": name} | ranks.to_dict() | {"mean_rank": mean} | about)
    return pd.DataFrame(rows).sort_values(["rule", "mean_rank"], kind="stable", ignore_index=True)


def readable(found: Across) -> Table:
    """The table, the best first."""
    columns: dict[str, Any] = {"Model and probe": "{name}"}
    columns |= {dataset: lambda row, of=dataset: f"{row[of]:.2f}" for dataset in found.scores}
    columns |= {"IQM": figures.span, "First": "{first:.0%}", "Rank, 95%": "{rank_low} to {rank_high}"}
    columns["Rank, leave one dataset out"] = "{lowest_rank} to {highest_rank}"
    return Table.of(found.table.rename(columns={"iqm": "value"}).join(found.scores, on="name"), columns)


def _write(found: Across, rule: str, simulated: bool, resamples: int, stem: Path, design: str) -> Output:
    datasets = list(found.scores.columns)
    note = (
        "Scores of each dataset from 0, the worst of these, to 1, the best; IQM: interquartile mean over "
        f"{len(datasets)} datasets (the mean of fewer than four) with 95% CI, {resamples:,} resamples stratified by "
        "dataset. First: share of resamples in which it has the highest IQM."
    )
    if found.friedman:
        statistic, p = found.friedman
        note += f" Friedman's test over datasets: chi squared {statistic:.2f}, p = {p:.3g}"
        note += "; with few datasets its power is low." if len(datasets) < 10 else "."
    if found.left_out:
        note += f" Omitted, not on every dataset: {'; '.join(found.left_out)}."
    if simulated:
        note += f" {SOME_SIMULATED}"
    title = frames.with_split(f"Normalized scores over {len(datasets)} datasets, {frames.RULE_WORDS[rule]}", design)
    own = stem.with_name(f"{stem.name}__all__{rule}__normalised")
    files = []
    if found.nemenyi is not None:
        named = found.nemenyi.rename_axis("name").reset_index()
        files.append(tables.write_csv(named, own.with_name(f"{own.name}__nemenyi")))
    return write_view(
        found.table.join(found.scores, on="name").assign(simulated=simulated),
        lambda _: _draw(found), own, title=title, drawn=title, where="", shown=[readable(found)], note=note, of=(),
        alt=f"Interquartile means of {len(found.table)} models and probes, and which of their ranks differ.",
        files=files,
    )  # fmt: skip


def _draw(found: Across) -> Figure:
    count = len(found.table)
    heights = [0.34 * count + 0.6, *([0.3 * count + 1.2] if found.nemenyi is not None else [])]
    figure = figures.new_figure(10, 1.9 + sum(heights))
    axes = figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    draw(found.table, axes[0])
    if found.nemenyi is not None:
        draw_ranks(found, axes[1])
    return figure


def draw(table: pd.DataFrame, ax: Axes) -> None:
    """A row per model and probe: the interquartile mean and its interval, the best on top."""
    for y, row in enumerate(table.rename(columns={"iqm": "value"}).to_dict("records")):
        figures.draw_value(ax, row, y, figures.PALETTE[0])
    ax.set_xlabel("Interquartile mean of normalized scores")
    figures.label_rows(ax, [figures.wrapped(name, 60) for name in table["name"]])


def draw_ranks(found: Across, ax: Axes) -> None:
    """The critical-difference diagram: mean ranks over datasets; bars join those that do not differ significantly."""
    from scikit_posthocs import critical_difference_diagram  # deferred, as in `compute`

    assert found.nemenyi is not None
    ranks = found.scores.rank(ascending=False).mean(axis=1)
    labels = {name: figures.wrapped(str(name), 60) for name in ranks.index}
    p_values = found.nemenyi.rename(index=labels, columns=labels)
    critical_difference_diagram(
        ranks.rename(index=labels), p_values, ax=ax, left_only=True, label_props={"fontsize": 8},
        label_fmt_left="{label}  ({rank:.1f})", crossbar_props={"color": figures.INK},
    )  # fmt: skip
    ax.set_title(
        "Mean rank over datasets; bars join those that do not differ significantly (Nemenyi, 5%)", fontsize=8.5
    )


def _write_overall(frame: pd.DataFrame, stem: Path) -> list[Output]:
    ranks, datasets = overall(frame), list(dict.fromkeys(frame["dataset"]))
    outputs = []
    for rule, part in ranks.groupby("rule", sort=False):
        rows = [
            [row["name"], *(figures.number(row[d], 0) for d in datasets), figures.number(row["mean_rank"], 1)]
            for row in part.to_dict("records")
        ]
        matched = [_matched(group, str(rule))[0] for _, group in frame.groupby("design", sort=False)]
        nothing = "" if max(map(len, matched)) > 1 else NOTHING
        note = " ".join(filter(None, [OVERALL, COMPARED, nothing, SOME_SIMULATED if any(part["simulated"]) else ""]))
        title = f"Ranks over {len(datasets)} datasets, {frames.RULE_WORDS[str(rule)]}"
        outputs.append(
            write_view(
                part, lambda part, ax: _draw_overall(part, datasets, ax), stem.with_name(f"{stem.name}__all__{rule}"),
                title=title, size=(5 + 1.1 * len(datasets), 2.2 + 0.3 * len(part)), where="",
                shown=[Table(["Model and probe", *datasets, "Mean rank"], rows)], note=note, of=(),
                alt=f"Ranks of {len(rows)} models and probes on {len(datasets)} datasets.", summary=nothing,
            )
        )  # fmt: skip
    return outputs


def _draw_overall(ranks: pd.DataFrame, datasets: Sequence[str], ax: Axes) -> None:
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
