"""Two runs on the same test samples: paired differences, and McNemar's test for single-label runs.

Both runs are evaluated with the same images or spatial cells left out (`probes.jackknife`), so that difficulty common
to both cancels out: differences much smaller than the runs' own intervals can be significant.
"""

from typing import Any

import numpy as np
from jaxtyping import Bool
from scipy.stats import binomtest

from data.errors import RequestError
from data.runs import Predictions, Run
from probes import intervals, jackknife, metrics, pooling


def compare(one: Run, other: Run, *, rule: str = "tuned", other_rule: str | None = None) -> dict[str, Any]:
    """The paired differences of two runs on test, the second minus the first.

    Args:
        one: the first run.
        other: the second run; the same run compares two rules.
        rule: ``tuned`` or ``half``; single-label runs use the argmax for both.
        other_rule: of the second run; None for the same.

    Returns:
        ``samples``; ``by`` (``image`` or ``cell``), ``units`` (how many) and ``warning`` (few cells, or None);
        ``metrics``: by name ``one``, ``other``, ``difference`` (other - one), its 95% ``interval`` and ``p``, and
        ``p_holm``, p corrected by Holm for testing all the metrics; None where undefined; and ``mcnemar`` (None for
        multi-label runs), see `mcnemar`.

    Raises:
        RequestError: different classes, test samples or labels; a run without predictions.
    """
    if one.class_names != other.class_names or one.multilabel != other.multilabel:
        raise RequestError(f"{one.folder} and {other.folder} have different classes; compare runs of the same dataset")
    given = one.predictions("test")
    first = pooling.judge(one, given, rule)
    second = pooling.judge(other, _in_order(one, other), other_rule or rule)
    truth = first.truth
    if not np.array_equal(truth, second.truth):
        raise RequestError(
            f"{one.folder} and {other.folder} differ in the labels of the test samples; run the probes again"
        )
    units = pooling.units_of(one, given.lonlat, len(truth))
    values = [
        jackknife.estimates(truth, judged.decided, judged.scores, units, multilabel=one.multilabel)
        for judged in (first, second)
    ]
    right = [(judged.decided & truth).any(axis=1) for judged in (first, second)]
    of_pairs = {name: intervals.difference(values[1][name] - values[0][name], units) for name in values[0]}
    corrected = intervals.holm([one.p for one in of_pairs.values()])
    found = {
        name: {
            "one": metrics.number(values[0][name].value),
            "other": metrics.number(values[1][name].value),
            "difference": metrics.number(difference.value),
            "interval": None if difference.interval is None else list(difference.interval),
            "p": metrics.number(difference.p),
            "p_holm": metrics.number(p_holm),
        }
        for (name, difference), p_holm in zip(of_pairs.items(), corrected, strict=True)
    }
    return {
        "samples": len(truth),
        "by": units.by,
        "units": units.count,
        "warning": units.warning,
        "metrics": found,
        "mcnemar": None if one.multilabel else mcnemar(*right),
    }


def mcnemar(one: Bool[np.ndarray, " samples"], other: Bool[np.ndarray, " samples"]) -> dict[str, float | int]:
    """McNemar's exact test: whether two classifiers have the same accuracy.

    Under this hypothesis, a sample that only one of them classifies correctly is as likely to be the first's as the
    second's, so the first's number is binomial with probability 0.5 (McNemar 1947). The test assumes independent
    samples: with spatial correlation its p-value is too small (equal models differ in 27% of simulations, where 5% is
    nominal); then use the interval by cells.

    Returns:
        ``only_one`` and ``only_other``, samples that only one classifies correctly, and ``p``, two-sided.
    """
    only_one, only_other = int((one & ~other).sum()), int((~one & other).sum())
    discordant = only_one + only_other
    p = float(binomtest(only_one, discordant).pvalue) if discordant else 1.0
    return {"only_one": only_one, "only_other": only_other, "p": p}


def _in_order(one: Run, other: Run) -> Predictions:
    """The second run's predictions of test in the order of the first one's samples."""
    wanted, given = one.predictions("test").ids, other.predictions("test")
    row = {name: number for number, name in enumerate(given.ids)}
    if row.keys() != set(wanted):
        raise RequestError(
            f"{one.folder} and {other.folder} were tested on different samples: {len(wanted)} and {len(given.ids)}, "
            f"{len(row.keys() & set(wanted))} of them in common; compare runs with the same test split"
        )
    rows = [row[name] for name in wanted]
    return Predictions(ids=wanted, labels=given.labels[rows], scores=given.scores[rows])
