"""Every run as tidy tables: one row per number, with all that distinguishes the runs."""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped

from data.errors import unknown
from data.runs import Run
from probes import pooling, protocols
from probes.intervals import Interval

# What a reader is shown, in this order; a record may hold more.
PROBABILITY_METRICS = {"log_loss": "Log loss", "brier": "Brier score", "ece": "ECE"}
MULTILABEL_METRICS = {
    "f2_macro": "F2 macro",
    "f2_micro": "F2 micro",
    "map_macro": "mAP macro",
    "hamming_loss": "Hamming loss",
    "precision_macro": "Precision macro",
    "precision_micro": "Precision micro",
    "recall_macro": "Recall macro",
    "recall_micro": "Recall micro",
    "f1_macro": "F1 macro",
    "f1_micro": "F1 micro",
    "map_micro": "mAP micro",
    "subset_accuracy": "Subset accuracy",
    "f2_macro_occurring": "F2 macro (present classes)",
    "f1_macro_occurring": "F1 macro (present classes)",
    "precision_macro_occurring": "Precision macro (present classes)",
    "recall_macro_occurring": "Recall macro (present classes)",
    **PROBABILITY_METRICS,
}
_BOTH = ("f2_macro", "f1_macro", "precision_macro", "recall_macro")
_BOTH += ("f2_macro_occurring", "f1_macro_occurring", "precision_macro_occurring")
SINGLE_LABEL_METRICS = {
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    **{name: MULTILABEL_METRICS[name] for name in _BOTH},
    **PROBABILITY_METRICS,
}
OCCURRING = "_occurring"  # macro averages over the classes that occur in test
LOWER_IS_BETTER = {"hamming_loss", *PROBABILITY_METRICS}
COUNTS = ["tp", "fp", "tn", "fn"]
RATES = ["precision", "recall", "specificity", "f1", "f2"]
# Arguments that distinguish runs of one kind, in the order in which they are named.
SETTINGS = (
    "select", "folds", "refit", "standardise", "shots", "val", "fraction", "views", "balanced", "oversample",
    "calibrate", "beta", "budget_s", "device",
)  # fmt: skip
ORIGINAL = "original split"  # the dataset's own
RULE_WORDS = {"half": "threshold 0.5", "tuned": "thresholds tuned on val"}


def metric_names(multilabel: bool) -> dict[str, str]:
    """Metrics in the order they are shown, with the words they are shown by."""
    return MULTILABEL_METRICS if multilabel else SINGLE_LABEL_METRICS


def metric_of(frame: pd.DataFrame) -> str:
    """The name to show of the one metric of a frame with ``metric`` and ``multilabel``."""
    return metric_names(bool(frame["multilabel"].iloc[0]))[str(frame["metric"].iloc[0])]


def check_metric(metric: str, runs: Sequence[Run]) -> None:
    """Raise a RequestError for a metric, if one is given, that none of the runs can be compared by."""
    choices = list(dict.fromkeys(name for run in runs for name in metric_names(run.multilabel) if name != "ece"))
    if metric and metric not in choices:
        raise unknown("metric", metric, choices)


def rule_words(rule: str, multilabel: bool) -> str:
    """A decision rule as figures and tables name it."""
    return RULE_WORDS[rule] if multilabel else "argmax"


def run_title(row: Any) -> str:
    """Probe and decision rule of a row with the columns of `run_columns`, ``probe`` and ``rule``."""
    return f"{row['probe']}, {rule_words(row['rule'], row['multilabel'])}"


def metrics_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """Every metric of every run.

    Returns:
        A row per run x split x rule x metric: the columns of `run_columns`, then ``split rule metric value low high by
        reason``; ``low`` and ``high`` bound the 95% interval and are NaN where there is none; ``by`` says what it
        takes as independent, such as ``by image`` or ``by 43 spatial cells``, ``reason`` why there is none.
    """
    rows = []
    for run in runs:
        columns = run_columns(run)
        for split, rules in run.record["metrics"].items():
            for rule, metrics in rules.items():
                intervals = pooling.of_run(run, split, rule)
                for metric, value in metrics.items():
                    key = {"split": split, "rule": rule, "metric": metric, "value": value}
                    rows.append(columns | key | interval_columns(intervals.get(metric)))
    return _frame(rows, ["value", "low", "high"])


def interval_columns(found: Interval | None) -> dict[str, Any]:
    """``low high by reason`` of `metrics_frame`."""
    if found is None:
        return {"low": None, "high": None, "by": "", "reason": ""}
    low, high = found.interval or (None, None)
    by = "by image" if found.by == "image" else f"by {found.units:,} spatial cells"
    return {"low": low, "high": high, "by": by, "reason": found.reason or ""}


def per_class_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """Counts and rates of every class of every run, on test, as the runs recorded them.

    Returns:
        A row per run x rule x class: the columns of `run_columns`, then ``rule index class support tp fp tn fn
        precision recall specificity f1 f2 ap threshold``; what a run left undefined is NaN.
    """
    rows = []
    for run in runs:
        columns = run_columns(run)
        for rule, classes in run.record["per_class"].items():
            for index, values in enumerate(classes):
                values = {**values}
                key = {"rule": rule, "index": index, "class": values.pop("name"), "support": values.pop("support")}
                rows.append(columns | key | values)
    return _frame(rows, [*RATES, "ap", "threshold"])


def under_rules(frame: pd.DataFrame, rules: Sequence[str]) -> pd.DataFrame:
    """The rows decided under these rules; single-label runs have one, argmax, recorded under both names."""
    single_label = ~frame["multilabel"].astype(bool)
    return frame.loc[(frame["rule"].isin(rules) & ~single_label) | (single_label & (frame["rule"] == "half"))]


def class_words(
    names: Sequence[str], has: Bool[np.ndarray, "samples classes"], none: str = ""
) -> Shaped[np.ndarray, " samples"]:
    """Names of each sample's classes, separated by ``; ``, or `none`; one string for all that have the same classes."""
    rows, which = np.unique(np.packbits(has, axis=1), axis=0, return_inverse=True)
    present = np.unpackbits(rows, axis=1, count=len(names)).astype(bool)
    words = ["; ".join(np.array(names, dtype=object)[row]) or none for row in present]
    return np.array(words, dtype=object)[which.ravel()]


def run_columns(run: Run) -> dict[str, Any]:
    """What identifies a run: ``dataset encoder run model kind seed multilabel simulated test_split``."""
    return {
        "dataset": run.dataset,
        "encoder": run.encoder,
        "run": run.folder.name,
        "model": model_words(run.record["features"]["encoder"]),
        "kind": run.kind,
        "seed": run.record["seed"],
        "multilabel": run.multilabel,
        "simulated": run.simulated,
        "test_split": split_words(run),
    }


def split_words(run: Run, *, seed: bool = True) -> str:
    """How the splits of a run were made: `ORIGINAL`, or such as ``split by cells, 10 km apart, seed 0``."""
    how = resplit(run)
    if not how:
        return ORIGINAL
    apart = f", {how['buffer_km']:g} km apart" if how.get("buffer_km") else ""
    return f"split by {how['by']}{apart}" + (f", seed {how.get('seed', 0)}" if seed else "")


def split_suffix(split: str) -> str:
    """What file names end in for runs of this split; nothing for the dataset's own."""
    return "" if split == ORIGINAL else "__" + re.sub(r"[^a-z0-9.]+", "-", split.lower()).strip("-")


def with_split(dataset: str, split: str) -> str:
    """A dataset and, where it is not the dataset's own, the split."""
    return dataset if split == ORIGINAL else f"{dataset}, {split}"


def resplit(run: Run) -> dict[str, Any]:
    """How the splits of a run were drawn anew by location; empty for the dataset's own."""
    return run.record["features"].get("splits", {}).get("test", {}).get("resplit") or {}


def model_words(encoder: dict[str, Any]) -> str:
    """An encoder in a few words: model, variant, bands, size and pooling; random weights are named."""
    random = "random weights" if encoder["weights"]["source"] == "random" else None
    words = [encoder["name"], encoder["variant"], random]
    size = f"{encoder['image_size']} px" if encoder["image_size"] else "native size"
    return ", ".join([" ".join(w for w in words if w), encoder["bands_name"], size, encoder["pooling"]])


def encoder_labels(runs: Sequence[Run]) -> dict[tuple[str, str], str]:
    """`distinct_words` of these runs' encoders."""
    return distinct_words({(run.dataset, run.encoder): run.record["features"]["encoder"] for run in runs})


def distinct_words(encoders: Mapping[tuple[str, str], dict[str, Any]]) -> dict[tuple[str, str], str]:
    """Words for each (dataset, encoder folder), with the folder's hash where the words alone would be the same."""
    words = {key: model_words(encoder) for key, encoder in encoders.items()}
    counts = Counter((dataset, text) for (dataset, _), text in words.items())
    return {
        (dataset, encoder): text if counts[dataset, text] == 1 else f"{text}, {encoder.rpartition('_')[2]}"
        for (dataset, encoder), text in words.items()
    }


def run_labels(runs: Sequence[Run]) -> dict[tuple[str, str, str], str]:
    """A short name for each (dataset, encoder, run folder): the kind, and the settings in which runs of it differ.

    Runs that this does not distinguish, such as after features were recomputed, are named by their folders.
    """
    groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.dataset, run.encoder, run.kind].append(run)
    labels = {}
    for (dataset, encoder, kind), group in groups.items():
        settings = [_settings(run) for run in group]
        differing = [name for name in settings[0] if len({str(values.get(name)) for values in settings}) > 1]
        said = [[_setting_words(name, values.get(name)) for name in differing] for values in settings]
        names = [", ".join([kind, *filter(None, words)]) for words in said]
        if len(set(names)) < len(names):
            names = [run.folder.name for run in group]
        labels |= {(dataset, encoder, run.folder.name): name for run, name in zip(group, names, strict=True)}
    return labels


def _settings(run: Run) -> dict[str, Any]:
    """What a user may have chosen, in the order in which it is named, without what the protocol sets."""
    asked = run.record.get("arguments", {})
    how = resplit(run)
    protocol = asked.get("protocol") or "default"
    fixed = protocols.PROTOCOLS[protocol].sets(run.kind) if protocol in protocols.PROTOCOLS else set()
    values = {"protocol": protocol} | {name: asked.get(name) for name in SETTINGS if name not in fixed}
    options = {name: value for name, value in (asked.get("options") or {}).items() if name not in fixed}
    splits = {"split_by": how.get("by"), "buffer_km": how.get("buffer_km"), "split_seed": how.get("seed")}
    return values | splits | {"seed": run.record["seed"], "options": options}


def _setting_words(name: str, value: Any) -> str:
    if name == "seed":
        return f"seed {value}"
    if name == "standardise" and value is not None:
        return "standardized" if value else "not standardized"
    if not value or (name, value) == ("protocol", "default"):
        return ""  # the default
    if name == "options":
        return ", ".join(f"{option} {_option_words(chosen)}" for option, chosen in value.items())
    worded = {
        "protocol": f"{value} protocol",
        "shots": f"{value} shot{'s' * (value != 1)}",
        "select": f"selected by {value}",
        "folds": f"{value} folds",
        "refit": "refitted on train and val",
        "views": f"{value} views",
        "fraction": f"{value} of train",
        "balanced": "balanced",
        "calibrate": value,
        "oversample": value,
        "split_by": f"split by {value}",
        "buffer_km": f"{value} km apart",
        "split_seed": f"split seed {value}",
    }
    return worded.get(name, f"{name.removesuffix('_s')} {value}")


def _option_words(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"{len(value)} values"
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def seeds_words(probe: str, seeds: int) -> str:
    """The name of a probe, with how many seeds its value is the mean of."""
    return probe if seeds == 1 else f"{probe}, mean of {seeds} seeds"


def interval_words(frame: pd.DataFrame) -> str:
    """How the intervals of a frame are made, such as ``95% CI, by 43 spatial cells``, or that there are none."""
    made = list(dict.fromkeys(by for by in frame["by"] if by))
    return f"95% CI, {' or '.join(made)}" if made else "no confidence intervals"


def without_interval(frame: pd.DataFrame) -> list[str]:
    """Why metrics have no interval, each reason once with the metrics it holds for."""
    words = MULTILABEL_METRICS | SINGLE_LABEL_METRICS
    reasons: dict[str, list[str]] = {}
    for metric, reason in zip(frame["metric"], frame["reason"], strict=True):
        name = words.get(metric) or metric
        if reason and name not in (known := reasons.setdefault(reason, [])):
            known.append(name)
    return [f"No confidence interval for {', '.join(metrics)}: {reason}." for reason, metrics in reasons.items()]


def with_names(frame: pd.DataFrame, runs: Sequence[Run]) -> pd.DataFrame:
    """A frame with the columns of `run_columns`, of runs shown together, with names to show.

    Returns:
        The frame with ``model`` unique among the dataset's encoders and ``probe`` among the encoder's runs.
    """
    models, probes = encoder_labels(runs), run_labels(runs)
    return frame.assign(
        model=[models[key] for key in zip(frame["dataset"], frame["encoder"], strict=True)],
        probe=[probes[key] for key in zip(frame["dataset"], frame["encoder"], frame["run"], strict=True)],
    )


def grouped(runs: Sequence[Run]) -> dict[tuple[str, str], list[Run]]:
    """Runs by dataset and encoder folder."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.dataset, run.encoder), []).append(run)
    return groups


def _frame(rows: list[dict[str, Any]], floats: list[str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    return frame.astype({column: "float64" for column in floats if column in frame})
