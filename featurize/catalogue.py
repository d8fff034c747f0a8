"""Models and datasets as text, a block each, for `featurize list`; made of their cards, so none is imported."""

import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from data.errors import unknown
from data.registry import DATASETS
from featurize.card import MODELS

WIDEST = 120
LABEL = 12  # columns of what a line is about
MODELS_TITLE = "MODELS (--model; the first variant, input size, pooling, scaling and weights are the defaults)"
DATASETS_TITLE = "DATASETS (--dataset; the first variant is the default)"


def catalogue(names: Sequence[str] = (), *, width: int | None = None) -> str:
    """All models and datasets, or those named."""
    models, datasets = MODELS.names(), DATASETS.names()
    for name in names:
        if name not in (*models, *datasets):
            raise unknown("model or dataset", name, (*models, *datasets))
    columns = width or min(shutil.get_terminal_size((100, 24)).columns, WIDEST)
    lines: list[str] = []
    for title, registered, of in ((MODELS_TITLE, models, model_lines), (DATASETS_TITLE, datasets, dataset_lines)):
        chosen = [name for name in registered if not names or name in names]
        lines += textwrap.wrap(title, columns) * bool(chosen)
        for name in chosen:
            lines += ["", *_wrapped(of(name), columns)]
        lines += [""] * bool(chosen)
    return "\n".join(lines[:-1])


def model_lines(name: str) -> Iterator[tuple[str, str]]:
    """Facts about one model, each with its label."""
    card = MODELS.card(name)
    usual = f"{card.image_size} x {card.image_size}; " if card.image_size else ""
    several = len(card.pooling) > 1  # which may be joined, and chosen layers too
    yield name, MODELS.summary(name)
    yield "variants", _choices(card.variant)
    yield "dimensions", card.dim + several * (" per pooling" + card.layers * " and layer")
    yield "bands", card.bands
    yield "input size", f"{usual}{card.sizes}"
    yield "pooling", _choices(card.pooling) + several * ", or several joined by +"
    yield "scaling", _choices(card.normalize)
    yield "weights", _choices(card.weights)
    yield "files", card.files
    yield "license", card.license
    yield "citation", card.citation


def dataset_lines(name: str) -> Iterator[tuple[str, str]]:
    """Facts about one dataset, each with its label."""
    card = DATASETS.card(name)
    yield name, card.title
    yield "classes", f"{card.classes}, {card.labels}"
    yield "bands", card.bands
    yield "variants", "see its documentation" if card.example else _choices(card.variants)
    if card.example:
        yield "example", card.example
    yield "license", card.license
    yield "citation", card.citation
    yield "source", card.source


def _choices(values: Sequence[Any]) -> str:
    """The default is the first."""
    return ", ".join(map(str, values)) or "none"


def _wrapped(lines: Iterator[tuple[str, str]], columns: int) -> Iterator[str]:
    name, what = next(lines)
    yield from textwrap.wrap(f"{name}  {what}", columns, subsequent_indent="    ", break_on_hyphens=False)
    for label, text in lines:
        yield from textwrap.wrap(
            text,
            columns,
            initial_indent=f"  {label:{LABEL}}",
            subsequent_indent=" " * (LABEL + 2),
            break_on_hyphens=False,
            break_long_words=False,
        )
