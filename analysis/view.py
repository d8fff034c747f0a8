"""What a view is asked and what it gives back: the contract of every file in `analysis/views`.

A view module has a docstring whose first line is its help, a literal ``CARD`` and ``run``::

    CARD = {
        "input": "runs",
        "report": {"order": 60, "heading": "Calibration", "show": "figure"},
        "options": {"bins": {"default": 10, "help": "Bins on each axis."}},
    }

    def run(request: ViewRequest, *, bins: int) -> list[Output]: ...

``input`` says which flags the command has: ``runs`` (--model --dataset --kind --rule), ``features`` (--model
--dataset --features --split), ``dataset`` (those of `data.flags.DataFlags`, and --features) or ``speed`` (none: what
`featurize bench` measured). ``report`` is the view's place in the report, and whether its ``figure``, its ``table`` or
``both`` are shown there; without it the view is not in the report. ``options`` are the view's own flags. The card is
read without importing the view, so ``--help`` is quick.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data import paths
from data.flags import ANY, DataFlags
from data.registry import PROBES, VIEWS
from data.rules import RULES

Rule = Literal["half", "tuned", "both"]
Style = Literal["paper", "slides"]


@dataclass(frozen=True)
class ViewRequest:
    """What a command, or the report, asks of a view.

    Args:
        out: output folder of all commands; runs and features are looked up here.
        folder: where to write; None means ``<out>/analysis/<view>``.
        model: only this model, or this encoder folder.
        dataset: only this dataset, or this dataset folder.
        kind: only this probe kind.
        rule: only this decision rule: ``half`` (0.5, or argmax) or ``tuned`` (thresholds chosen on val).
        features: a feature folder, instead of looking one up.
        data: which samples, for views of a dataset itself.
        split: the split whose features are drawn, or ``all``.
        style: pictures for ``paper``, or with larger letters for ``slides``.
        pictures: False lets a view whose table is all that is wanted leave its pictures out.
    """

    out: Path = paths.DEFAULT_OUT
    folder: Path | None = None
    model: str | None = None
    dataset: str | None = None
    kind: str | None = None
    rule: Rule = "both"
    features: Path | None = None
    data: DataFlags = ANY
    split: str = "test"
    style: Style = "paper"
    pictures: bool = True

    def target(self, view: str) -> Path:
        """Folder to write in."""
        return self.folder or paths.analysis_folder(self.out, view)

    @property
    def rules(self) -> tuple[str, ...]:
        """The decision rules asked for."""
        return RULES if self.rule == "both" else (self.rule,)


@dataclass(frozen=True)
class Output:
    """One picture with its numbers, as written.

    Args:
        title: what it shows.
        files: what was written for it: PNG, SVG, CSV and for tables Markdown and LaTeX.
        dataset: folder name of the dataset; None when it covers several.
        encoder: folder name of the encoder, where it belongs to one.
        caption: how to read it.
        alt: what the picture says, for those who cannot see it.
        tables: header and rows of the numbers as they are read, the first column a name; ``**bold**`` marks.
        summary: what the command prints beside the files.
        wrong: the work found something wrong: the command's exit code is 1.
    """

    title: str
    files: tuple[Path, ...]
    dataset: str | None = None
    encoder: str | None = None
    caption: str = ""
    alt: str = ""
    tables: tuple[tuple[list[str], list[list[str]]], ...] = ()
    summary: str = ""
    wrong: bool = False

    def file(self, suffix: str) -> Path | None:
        """The file of that ending, if there is one."""
        return next((file for file in self.files if file.suffix == f".{suffix}"), None)


def together(files: Sequence[Path]) -> str:
    """Files in one line, those that differ in their ending only as one: ``folder/name.{png,svg,csv}``."""
    endings: dict[Path, list[str]] = {}
    for file in files:
        endings.setdefault(file.with_suffix(""), []).append(file.suffix)
    return " ".join(
        f"{stem}{found[0]}" if len(found) == 1 else f"{stem}.{{{','.join(ending[1:] for ending in found)}}}"
        for stem, found in endings.items()
    )


def default_options(name: str) -> dict[str, Any]:
    """A view's own options at their defaults."""
    return {option: spec["default"] for option, spec in VIEWS.card(name).get("options", {}).items()}


def run_view(name: str, request: ViewRequest, **options: Any) -> list[Output]:
    """Import a view and run it; options that are not given take their defaults.

    Raises:
        RequestError: no such view or kind of probe; or what the view raises.
    """
    if request.kind:
        PROBES.check(request.kind)
    from analysis.figures import styled  # deferred: the commands import this module before they know what is wanted

    with styled(request.style):
        return VIEWS.load(name).run(request, **default_options(name) | options)
