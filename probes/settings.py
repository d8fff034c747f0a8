"""The settings of a run that hold for any probe kind, and which kinds support them."""

from dataclasses import asdict, dataclass, field
from typing import Any

from data.errors import RequestError
from probes import oversample
from probes.card import PROBES
from probes.scores import SHRINKAGE
from probes.selection import TIE_BREAKER, check_metric


@dataclass(frozen=True)
class Settings:
    """What a user may choose for any kind; all of it decides the result and is recorded.

    Fields that are not described here are as the flags of `probes.flags.FitFlags`.

    Args:
        tie_breaker: metric that breaks ties; None takes the first candidate, the simplest.
        standardise: as ``--standardize``.
        extend: stop a grid early where val keeps falling, and go beyond its edge where val rises; False tries exactly
            the grid.
        fraction: share of train to learn from, stratified; None is all.
        shots: samples per class to learn from; None is all.
        budget_s: start no further candidate, and grow no more trees, after this many seconds; None tries all.
        views: as ``--augment``.
        options: further arguments of a kind's `candidates`, by name.
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
    """The metric on val that chooses; by default accuracy, for multi-label data macro mAP (without thresholds)."""
    return settings.select or ("map_macro" if multilabel else "accuracy")


def candidates_of(kind: str, rows: int, settings: Settings) -> list[dict[str, Any]]:
    """The hyper-parameters that a kind tries, the simplest first."""
    options = dict(settings.options)
    if settings.standardise is not None and PROBES.card(kind).standardize == "candidates":
        options["zscore"] = settings.standardise
    return PROBES.load(kind).candidates(rows, **options)


def recorded(multilabel: bool, settings: Settings, candidates: list[dict[str, Any]]) -> dict[str, Any]:
    """The settings as a run records them (``arguments``); the name of its folder contains their hash."""
    rule: dict[str, Any] = {"shrinkage": SHRINKAGE} if multilabel else {}
    if settings.calibrate == "platt":
        rule["calibrate_on"] = "log odds"  # version 0.1 calibrated the probabilities: those runs are different
    if settings.fraction is not None:
        rule["partition"] = "stratified"  # version 0.1 drew rows at random: those runs are different
    given = asdict(settings)
    if settings.shots is None or settings.val == "all":
        given.pop("val")  # as version 0.1
    if settings.oversample is None:
        given.pop("oversample")
    return {"selection": selection_metric(settings, multilabel), **given, **rule, "candidates": candidates}


def check_settings(kind: str, settings: Settings, multilabel: bool) -> None:
    """Raise a RequestError for a setting that this kind of probe does not support."""
    cards = {name: PROBES.card(name) for name in PROBES.names()}
    labels = "multi-label" if multilabel else "single-label"

    def require(flag: str, problem: str, able: list[str]) -> None:
        if kind not in able:
            raise RequestError(f"{flag}: {kind} {problem}; kinds that do: {', '.join(able)}")

    if settings.select is not None:
        check_metric(settings.select, multilabel)
    if settings.folds is not None and settings.budget_s is not None:
        raise RequestError("--folds cannot stop early: drop --budget")
    for flag, given in (("--folds", settings.folds is not None), ("--refit", settings.refit)):
        if given and settings.views > 1:
            raise RequestError(f"{flag} and --augment cannot be combined: val has no augmented views; drop one of them")
    if settings.balanced:
        able = [name for name, card in cards.items() if labels in card.class_weights]
        require("--balanced", f"does not weight {labels} classes", able)
    if settings.standardise is not None:
        flag = "--standardize" if settings.standardise else "--no-standardize"
        require(flag, "does not standardize", [n for n, card in cards.items() if card.standardize != "never"])
    if settings.device != "cpu":
        require(f"--device {settings.device}", "does not run on a GPU", [n for n, card in cards.items() if card.gpu])
    if settings.oversample:
        oversample.check(settings.oversample, multilabel=multilabel, views=settings.views)
    if settings.beta != DEFAULT.beta and not multilabel:
        raise RequestError(
            f"--beta {settings.beta:g}: single-label decisions are the argmax, without thresholds; drop the flag"
        )
