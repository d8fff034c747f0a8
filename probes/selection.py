"""The selection metric: the candidate with the best value on val is chosen; log loss breaks ties.

A metric that needs decisions uses the ``tuned`` thresholds of multi-label probes, or 0.5 if its name ends in ``@half``;
single-label decisions are always the argmax.
"""

from typing import Any, NamedTuple

import numpy as np

from data.errors import RequestError, unknown
from probes import metrics, probabilities
from probes.grid import EQUAL
from probes.scores import decide, half_thresholds, shrunk_thresholds
from probes.shapes import Scores, Truth

TIE_BREAKER = "log_loss"
LOSSES = ("hamming_loss", *probabilities.NAMES)  # the lower the better
OF_SCORES = ("map_macro", "map_micro", *probabilities.NAMES)  # need no decisions
AT_HALF = "@half"


class Judgement(NamedTuple):
    """Selection metric (None where undefined) and log loss of a candidate on val."""

    value: float | None
    log_loss: float


def selectable(multilabel: bool) -> tuple[str, ...]:
    """Names of the possible selection metrics."""
    return tuple(dict.fromkeys((*(metrics.MULTILABEL if multilabel else metrics.SINGLE_LABEL), *probabilities.NAMES)))


def check_metric(name: str, multilabel: bool) -> None:
    """Raise a RequestError unless this is a selection metric for these labels."""
    base = name.removesuffix(AT_HALF)
    labels = "multi-label" if multilabel else "single-label"
    if base not in (names := selectable(multilabel)):
        if base in selectable(not multilabel):
            raise RequestError(f"--select {name}: not a metric of {labels} probes; choose from {', '.join(names)}")
        raise unknown(f"metric of {labels} probes", base, names)
    if base != name and (not multilabel or base in OF_SCORES):
        raise RequestError(f"--select {name}: {base} does not depend on a threshold here; drop {AT_HALF}")


def judge(truth: Truth, scores: Scores, name: str, *, multilabel: bool, beta: float = 2) -> Judgement:
    """Selection metric and log loss of scores; ``tuned`` thresholds maximize the F-beta of `beta`."""
    log_loss = probabilities.log_loss(truth, scores, multilabel=multilabel)
    base = name.removesuffix(AT_HALF)
    if base in probabilities.NAMES:
        return Judgement(getattr(probabilities, base)(truth, scores, multilabel=multilabel), log_loss)
    if base == "map_macro":
        each = metrics.average_precision(truth, scores)
        return Judgement(None if np.isnan(each).all() else float(np.nanmean(each)), log_loss)
    if not multilabel:
        labels, argmax = truth.argmax(axis=1), scores.argmax(axis=1)
        if base == "accuracy":
            return Judgement(float((labels == argmax).mean()), log_loss)
        return Judgement(metrics.single_label_metrics(labels, argmax, truth.shape[1])[base], log_loss)
    if base == name and base not in OF_SCORES:
        thresholds, *_ = shrunk_thresholds(truth, scores, beta=beta)
    else:
        thresholds = half_thresholds(truth.shape[1])
    return Judgement(metrics.multilabel_metrics(truth, decide(scores, thresholds), scores)[base], log_loss)


def better(one: Any, other: Any, name: str, *, tie_breaker: str | None = TIE_BREAKER) -> bool:
    """Whether a candidate (see `Judgement`) is better than another; without tie breaker, the first of equals is."""
    if one.value is None or other.value is None:
        if (one.value is None) != (other.value is None):
            return other.value is None
    elif abs(gain := one.value - other.value) > EQUAL:
        return (gain < 0) == (name.removesuffix(AT_HALF) in LOSSES)
    return tie_breaker is not None and one.log_loss < other.log_loss - EQUAL
