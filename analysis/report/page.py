"""The page as HTML: facts, sections of every view's figures and tables, and the interactive part."""

import base64
import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis import ranking
from analysis.card import VIEWS
from analysis.contract import Output, ViewRequest, together
from analysis.report import thumbnails
from analysis.report.answer import Answer
from analysis.report.commands import commands, missing
from analysis.report.explorer import Explorer
from analysis.report.folder import MARK
from analysis.report.inventory import EncoderResults
from data.dataset import SPLITS

SCRIPTS = ("page.js", "scatter.js", "curves.js", "groups.js", "explorer.js")
PACKAGES = ("frozen-earth", "numpy", "pandas", "scikit-learn", "umap-learn", "matplotlib", "torch")


def render(
    request: ViewRequest,
    found: list[EncoderResults],
    answers: list[Answer],
    outputs: list[tuple[str, Output]],
    explorer: Explorer,
    failures: list[str],
    folder: Path,
    *,
    command: str,
) -> str:
    """The page as HTML.

    Outputs come by the name of their view, in the order of the page. The page will be in `folder`: files beside it are
    named relative to it. `command` makes it again.
    """
    environment = Environment(
        loader=PackageLoader("analysis.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    environment.filters["marked"] = _marked
    environment.filters["shade"] = _shade
    environment.filters["inline"] = lambda file: _inline(file.read_bytes(), "svg+xml")
    environment.filters["together"] = lambda files: together([file.relative_to(folder) for file in files])
    here = files("analysis.report")
    return environment.get_template("page.html").render(
        mark=Markup(MARK),
        datasets=[_dataset(name, found, outputs, request) for name in dict.fromkeys(one.dataset for one in found)],
        answers=answers,
        ranking=ranking.RANK,
        compared=ranking.COMPARED,
        text=("Probe", "Decision rule", "Run", "Published"),  # columns of words
        failures=failures,
        panels=explorer.panels,
        notes=explorer.notes,
        columns=thumbnails.COLUMNS,
        sprites=[(name, _inline(image, "webp")) for name, image in explorer.sprites.items()],
        blobs=explorer.blobs.texts.items(),
        data=Markup(json.dumps(explorer.data, allow_nan=False).replace("<", "\\u003c")),  # no name ends the script
        css=Markup((here / "page.css").read_text("utf-8")),
        scripts=[Markup((here / script).read_text("utf-8")) for script in SCRIPTS],
        simulated=any(features.simulated for features in found),
        runs=sum(len(features.runs) for features in found),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions=[(package, version(package)) for package in PACKAGES],
        again=command,
    )


def _dataset(
    name: str, found: list[EncoderResults], outputs: list[tuple[str, Output]], request: ViewRequest
) -> dict[str, Any]:
    """The facts, sections and commands of one dataset."""
    members = [features for features in found if features.dataset == name]
    return {
        "name": name,
        "simulated": members[0].simulated,
        "facts": dataset_facts(members),
        "encoders": [encoder_facts(features) for features in members],
        "warnings": list(dict.fromkeys(w for f in members for r in f.runs for w in r.record["warnings"])),
        "sections": _sections(name, outputs),
        "runs": sum(len(features.runs) for features in members),
        "words": {features.encoder: features.words for features in members},
        "commands": [line for features in members for line in commands(features, request.out)],
        # --kind leaves runs out: what it hides is not missing
        "missing": [] if request.kind else [gap for f in members for gap in missing(f, request.out)],
    }


def _sections(dataset: str, outputs: Iterable[tuple[str, Output]]) -> list[dict[str, Any]]:
    """The views of one dataset, each with its outputs by encoder."""
    found: dict[str, dict[str, list[Output]]] = {}
    for view, output in outputs:
        if output.dataset == dataset:
            found.setdefault(view, {}).setdefault(output.encoder or "", []).append(output)
    return [{"view": view, "card": VIEWS.card(view).section, "outputs": of_view} for view, of_view in found.items()]


def dataset_facts(members: Sequence[EncoderResults]) -> list[tuple[str, str]]:
    """What a dataset is, as pairs of name and value."""
    dataset = members[0].shared["dataset"]
    splits = {split: identity for features in members for split, identity in features.splits.items()}
    rows = [
        f"{split} {splits[split]['rows']:,} (SHA-256 of ids {splits[split]['ids_sha256'][:12]})"
        for split in SPLITS
        if split in splits
    ]
    runs = [run for features in members for run in features.runs]
    facts = {
        "Variant": dataset["variant"],
        "Task": ("multi-label" if runs[0].multilabel else "single-label") if runs else None,
        "Samples": "; ".join(rows),
        "Classes": f"{len(dataset['class_names'])}: {'; '.join(dataset['class_names'])}",
        "Limit": f"{dataset['limit']} samples per split" if dataset["limit"] else None,
        "Provenance": provenance_words(dataset["provenance"]) or None,
    }
    return [(word, value) for word, value in facts.items() if value]


def provenance_words(value: Any) -> str:
    """Where samples are from, as it is read: nested values in brackets, counts in place of records and digests."""
    if isinstance(value, dict):
        parts = [(key.replace("_", " "), one) for key, one in value.items() if key != "sha256" and one is not None]
        nested = [(word, provenance_words(one), isinstance(one, dict)) for word, one in parts if one is not True]
        worded = [f"{word} ({text})" if deep else f"{word}: {text}" for word, text, deep in nested]
        return "; ".join([*(word for word, one in parts if one is True), *worded])
    if isinstance(value, list):
        return f"{len(value)}" if any(isinstance(one, dict) for one in value) else ", ".join(map(str, value))
    return str(value)


def encoder_facts(features: EncoderResults) -> dict[str, Any]:
    """What an encoder is: its words, its folder, and pairs of a word and a value."""
    encoder, environment = features.shared["encoder"], features.environment
    weights = encoder["weights"]
    sha256 = weights.get("sha256")
    rate, origin = environment.get("images_per_s"), environment.get("weights_origin")
    facts = {
        "Bands": f"{encoder['bands_name']}: {' '.join(encoder['bands'])}",
        "Input": f"{encoder['image_size']} px" if encoder["image_size"] else "native size",
        "Pooling": encoder["pooling"],
        "Normalization": encoder["normalization"]["method"],
        "Weights": f"{weights['source']} from {origin}" if origin else weights["source"],
        "Weights sha256": sha256 if sha256 and sha256.strip("0") else None,
        "Precision": encoder["precision"],
        "Extracted on": ", ".join(
            part for part in (str(environment.get("device") or ""), f"{rate:,.0f} images/s" if rate else "") if part
        ),
        "Features": f"{features.folder}" if features.present else None,
        "Probes": ", ".join(sorted({run.kind for run in features.runs})) or "none yet",
    }
    return {
        "words": features.words,
        "folder": features.encoder,
        "facts": [(word, value) for word, value in facts.items() if value],
    }


def _inline(content: bytes, kind: str) -> str:
    """An image as the page holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _shade(cell: str) -> Markup:
    """A style that colors a cell which is a rate, by its value."""
    return Markup(f' class="rate" style="--share: {cell}"') if re.fullmatch(r"[01]\.\d{3}", cell) else Markup()


def _marked(cell: str) -> Markup:
    """A table cell as HTML: ``**bold**`` is bold and an interval in brackets stands smaller."""
    text = escape(cell)
    if "**" in text:
        before, bold, after = text.split("**", 2)
        text = Markup(f"{before}<strong>{bold}</strong>{after}")
    value, bracket, interval = text.partition(" [")
    return Markup(f'{value} <span class="interval">[{interval}</span>') if bracket else text
