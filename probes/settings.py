"""The settings of a run that hold for any probe kind, and what each kind can do with them."""

from dataclasses import asdict, dataclass, field
from typing import Any

from data.errors import RequestError
from data.registry import PROBES
from probes import oversample
from probes.scores import SHRINKAGE
from probes.selection import TIE_BREAKER, check_metric, default_metric


@dataclass(frozen=True)
class Settings:
    """What a user may choose for any kind; all of it decides the result and is recorded.

    Args:
        protocol: name, see `probes.protocols`.
        select: metric on val that chooses among the candidates, see `probes.selection`; None is the headline metric.
        tie_breaker: metric that decides between equals; None takes the first, the simplest.
        refit: fit the chosen candidate once more on train and val.
        folds: choose by so many folds of train and val together; None chooses on val.
        standardise: z-score features by the mean and standard deviation of train; None leaves it to the kind.
        extend: leave a grid where val has long fallen, and go beyond its edge where val rises; False tries exactly the
            grid.
        beta: of the F-beta that the ``tuned`` thresholds aim at.
        balanced: weigh samples so that rare classes count as much as common ones.
        calibrate: ``platt``, ``isotonic`` or ``temperature``: scores are calibrated on val, see `probes.calibration`.
        oversample: ``smote``: synthetic training samples of rare classes, see `probes.oversample`; None makes none.
        fraction: share of train to learn from, stratified; None is all.
        shots: samples per class to learn from; None is all.
        val: with shots, ``matched`` chooses on as many samples per class of val, ``all`` on all of val.
        budget_s: start no further candidate, and grow no more trees, after so many seconds; None tries all.
        device: ``cpu``, ``cuda`` or ``cuda:1``; for the kinds that can use it.
        views: of each training image to learn from; 1 is the image itself, see featurize --augment.
        options: what else a kind's `candidates` takes, by name.
    """

    protocol: str = "default"
    select: str | None = None
    tie_breaker: str | None = TIE_BREAKER
    refit: bool = False
    folds: int | None = None
    standardise: bool | None = None
    extend: bool = True
    beta: float = 2
    balanced: bool = False
    calibrate: str | None = None
    oversample: str | None = None
    fraction: float | None = None
    shots: int | None = None
    val: str = "matched"
    budget_s: float | None = None
    device: str = "cpu"
    views: int = 1
    options: dict[str, Any] = field(default_factory=dict)


DEFAULT = Settings()


def selection_metric(settings: Settings, multilabel: bool) -> str:
    """The metric on val that chooses."""
    return settings.select or default_metric(multilabel)


def candidates_of(kind: str, rows: int, settings: Settings) -> list[dict[str, Any]]:
    """The hyper-parameters that a kind tries, the simplest first.

    Args:
        kind: probe kind.
        rows: training rows.
        settings: see `Settings`.
    """
    options = dict(settings.options)
    if settings.standardise is not None and PROBES.card(kind).get("standardises") == "candidates":
        options["zscore"] = settings.standardise
    return PROBES.load(kind).candidates(rows, **options)


def recorded(multilabel: bool, settings: Settings, candidates: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings as a run records them (``arguments``); they are hashed into the name of its folder."""
    rule: dict[str, Any] = {"shrinkage": SHRINKAGE} if multilabel else {}
    if settings.calibrate == "platt":
        rule["calibrate_on"] = "log odds"  # version 0.1 calibrated the probabilities: those runs are other runs
    if settings.fraction is not None:
        rule["partition"] = "stratified"  # version 0.1 drew rows at random: those runs are other runs
    given = asdict(settings)
    if settings.shots is None or settings.val == "all":
        given.pop("val")  # as version 0.1
    if settings.oversample is None:
        given.pop("oversample")
    return {"selection": selection_metric(settings, multilabel), **given, **rule, "candidates": candidates}


def check_settings(kind: str, settings: Settings, multilabel: bool) -> None:
    """Raise a RequestError for a setting that a kind of probe does not have."""
    if settings.select is not None:
        check_metric(settings.select, multilabel)
    if settings.folds is not None and settings.budget_s is not None:
        raise RequestError("--folds cannot end early: drop --budget")
    for flag, given in (("--folds", settings.folds is not None), ("--refit", settings.refit)):
        if given and settings.views > 1:
            raise RequestError(f"{flag} and --augment do not go together: val has no altered views; drop one of them")
    labels = "multi-label" if multilabel else "single-label"
    able = [name for name in PROBES.names() if labels in PROBES.card(name).get("balanced", ())]
    if settings.balanced and kind not in able:
        raise RequestError(f"--balanced: {kind} cannot weigh {labels} classes; kinds that can: {', '.join(able)}")
    able = [name for name in PROBES.names() if PROBES.card(name).get("standardises")]
    if settings.standardise is not None and kind not in able:
        flag = "--standardize" if settings.standardise else "--no-standardize"
        raise RequestError(f"{flag}: {kind} has no such step; kinds that do: {', '.join(able)}")
    able = [name for name in PROBES.names() if PROBES.card(name).get("device")]
    if settings.device != "cpu" and kind not in able:
        raise RequestError(f"--device {settings.device}: {kind} runs on the CPU; kinds for a GPU: {', '.join(able)}")
    if settings.oversample:
        oversample.check(settings.oversample, multilabel=multilabel, views=settings.views)
    if settings.beta != DEFAULT.beta and not multilabel:
        raise RequestError(
            f"--beta {settings.beta:g}: single-label decisions are the argmax, without thresholds; drop the flag"
        )
