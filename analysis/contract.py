"""What a view is asked for and what it returns: the contract of every file in `analysis/views`.

A view is a module whose docstring's first line is its help, with a literal `analysis.card.ViewCard` and ``run``::

    CARD = ViewCard(input="runs", options={"bins": Option(10, "Bins on each axis.")})

    def run(request: ViewRequest, *, bins: int) -> list[Output]: ...
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from analysis.card import VIEWS
from data import paths
from data.errors import DiskError, RequestError
from data.flags import ANY, DataFlags
from data.rules import RULES
from probes.card import PROBES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import pandas as pd

    from data.runs import Run

Rule = Literal["half", "tuned", "both"]
Style = Literal["paper", "slides"]


class Table(NamedTuple):
    """A table as it is read: column names and cells; ``**bold**`` is bold."""

    header: list[str]
    rows: list[list[str]]

    @classmethod
    def of(cls, frame: "pd.DataFrame", columns: "Mapping[str, str | Callable[[dict[str, Any]], str]]") -> "Table":
        """A row per row of a frame; by heading, what makes a cell: a template such as ``{count:,}`` or a function."""
        rows = [
            [column.format_map(row) if isinstance(column, str) else column(row) for column in columns.values()]
            for row in frame.to_dict("records")
        ]
        return cls(list(columns), rows)


@dataclass(frozen=True)
class ViewRequest:
    """What a command, or the report, asks of a view.

    Fields that are not described here are flags: see `analysis.cli.COMMON`.

    Args:
        runs: the runs that fit, where they are open already.
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
    runs: "tuple[Run, ...] | None" = None

    def target(self, view: str) -> Path:
        """Folder to write in."""
        return self.folder or paths.analysis_folder(self.out, view)

    @property
    def rules(self) -> tuple[str, ...]:
        """The decision rules asked for."""
        return RULES if self.rule == "both" else (self.rule,)

    def find_runs(self) -> "list[Run]":
        """The runs that fit, perhaps none; see `data.runs.find_runs`."""
        from data.runs import find_runs  # deferred, as below: h5py

        if self.runs is not None:
            return list(self.runs)
        return find_runs(self.out, model=self.model, dataset=self.dataset, kind=self.kind)

    def all_runs(self) -> "list[Run]":
        """The runs that fit.

        Raises:
            RequestError: none does.
        """
        if not (runs := self.find_runs()):
            raise RequestError(f"no matching probe runs under {paths.probe_root(self.out)}; make some with probe")
        return runs

    def feature_folder(self) -> Path:
        """The folder of the features asked for.

        Raises:
            RequestError: none fits, several do, or the flags contradict each other.
        """
        if not self.features:
            from data import store

            return store.find_features(self.out, model=self.model, dataset=self.dataset)
        if self.model or self.dataset:
            raise RequestError("--features already names the folder; drop --model and --dataset")
        return self.features


@dataclass(frozen=True)
class Output:
    """One figure with its numbers, as written.

    Args:
        title: what it shows.
        files: what was written for it: PNG, SVG, CSV and for tables Markdown and LaTeX.
        dataset: folder name of the dataset; None when it covers several.
        encoder: folder name of the encoder, where it belongs to one.
        caption: how to read it.
        alt: text alternative of the figure.
        tables: the numbers as they are read, the first column a name.
        summary: what the command prints beside the files.
        wrong: the view found a problem: the command's exit code is 1.
    """

    title: str
    files: tuple[Path, ...]
    dataset: str | None = None
    encoder: str | None = None
    caption: str = ""
    alt: str = ""
    tables: tuple[Table, ...] = ()
    summary: str = ""
    wrong: bool = False

    def _repr_png_(self) -> bytes | None:
        """How notebooks show it."""
        picture = self.file("png")
        return picture and picture.read_bytes()

    def file(self, suffix: str) -> Path | None:
        """The file with that suffix, if there is one."""
        return next((file for file in self.files if file.suffix == f".{suffix}"), None)


def together(files: Sequence[Path]) -> str:
    """Files in one line; those that differ in their suffix only as one: ``folder/name.{png,svg,csv}``."""
    suffixes: dict[Path, list[str]] = {}
    for file in files:
        suffixes.setdefault(file.with_suffix(""), []).append(file.suffix)
    return " ".join(
        f"{stem}{found[0]}" if len(found) == 1 else f"{stem}.{{{','.join(suffix[1:] for suffix in found)}}}"
        for stem, found in suffixes.items()
    )


def with_simulated(title: str, simulated: bool) -> str:
    """A title, marked where the samples were generated and not observed."""
    return f"{title} (simulated data)" if simulated else title


def check_seed(seed: int) -> None:
    """Raise a RequestError for a ``--seed`` that numpy does not take."""
    if not 0 <= seed < 2**32:
        raise RequestError(f"--seed {seed}: must be from 0 to {2**32 - 1}")


def default_options(name: str) -> dict[str, Any]:
    """A view's own options at their defaults."""
    return {option: spec.default for option, spec in VIEWS.card(name).options.items()}


def run_view(name: str, request: ViewRequest, **options: Any) -> list[Output]:
    """Import a view and run it; options that are not given take their defaults.

    Raises:
        RequestError: no such view or kind of probe; or what the view raises.
    """
    if request.kind:
        PROBES.check(request.kind)
    from analysis.figures import styled  # deferred: the commands import this module for their flags

    with styled(request.style):
        return VIEWS.load(name).run(request, **default_options(name) | options)


def run_or_note(name: str, request: ViewRequest, notes: list[str], *, what: str, **options: Any) -> list[Output]:
    """As `run_view`, but an error becomes a note, see `noted`."""
    with noted(notes, what):
        return run_view(name, request, **options)
    return []


@contextmanager
def noted(notes: list[str], what: str) -> Iterator[None]:
    """Turn a RequestError inside the block into a note, ``<what>: <why>``, and continue.

    Raises:
        DiskError: the disk is full or fails, so that what would be left of the whole could not be trusted.
    """
    try:
        yield
    except DiskError:
        raise
    except RequestError as error:
        notes.append(f"{what}: {error}")
