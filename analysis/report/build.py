"""Draw everything there is and write the page that shows it, in place of an older report."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.card import VIEWS
from analysis.contract import Output, ViewRequest, default_options, run_or_note
from analysis.report import answer, atlas, explorer, inventory, page
from analysis.report.folder import LISTED, check_replaceable, written_files
from analysis.report.inventory import EncoderResults
from analysis.views import umap
from data import paths
from data.asked import current_command
from data.command import say
from data.errors import DiskError, RequestError
from data.files import write_text
from data.folders import clear_left, published_folder
from data.lock import Lock


def build(request: ViewRequest, options: dict[str, Any]) -> Path:
    """Write a report, by its own options, and return its ``index.html``.

    Raises:
        RequestError: there is nothing to report, or the folder holds something else than a report.
    """
    if options["points"] < 1 or options["pictures"] < 0:
        raise RequestError("--points must be at least 1, --pictures at least 0")
    folder = request.folder.resolve() if request.folder else paths.report_folder(request.out)  # "." has no name
    runs = request.find_runs()
    found = inventory.find(request, runs)
    with Lock(folder.with_name(f".{folder.name}.lock"), what=folder):
        clear_left(folder, ours=written_files)  # the lock says that nobody is at work
        check_replaceable(folder)
        with published_folder(folder, ours=written_files) as building:
            _write(replace(request, runs=tuple(runs)), found, building, options)
    return folder / "index.html"


def _write(request: ViewRequest, found: list[EncoderResults], folder: Path, options: dict[str, Any]) -> None:
    root = Path(options["data_root"]) if options["data_root"] else None
    layouts = {name: options[name] for name in ("points", "fit_on", "fast")}
    outputs, failures = _draw_views(request, folder / "figures")
    say("report: writing the page ...")
    shown, more = shown_samples(request, found, layouts)
    answers = answer.answers(request.find_runs(), request.rules[-1], failures)
    interactive = explorer.explorer(
        shown, request.rules, pictures=options["pictures"], best=answers[0].best if answers else None,
        root=root, cache=paths.layout_cache(request.out),
    )  # fmt: skip
    if options["atlas"]:
        files, notes = atlas.write_atlas(
            shown, request.rules[-1], folder / "atlas", pictures=options["pictures"], root=root
        )
        more += notes
        for file in files:
            say(f"report: {atlas.OPEN.format(file=Path('atlas', file.name))}")
    command = current_command() or shlex.join(["analyze", "report", "--out", str(request.out)])
    text = page.render(request, found, answers, outputs, interactive, [*failures, *more], folder, command=command)
    write_text(folder / "index.html", text)
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    write_text(folder / LISTED, json.dumps(names, indent=1))


def report_views() -> list[str]:
    """The views whose figures or tables the report shows as they are, in order."""
    sections = {name: section for name in VIEWS.names() if (section := VIEWS.card(name).section)}
    return sorted(sections, key=lambda name: sections[name].order)


def _draw_views(request: ViewRequest, folder: Path) -> tuple[list[tuple[str, Output]], list[str]]:
    """Outputs of every view that belongs in the report, by name, and a line for each one that failed."""
    outputs, failures = [], []
    for name in report_views() if request.runs else ():
        say(f"report: {name} ...")
        drawn = run_or_note(name, replace(request, folder=folder / name), failures, what=name)
        outputs += [(name, output) for output in drawn]
    return outputs, failures


def shown_samples(
    request: ViewRequest, found: Sequence[EncoderResults], layouts: dict[str, Any]
) -> tuple[list[explorer.Shown], list[str]]:
    """The samples of every encoder for the interactive part, and a line for each encoder that has no UMAP."""
    shown, failures, cache = [], [], paths.layout_cache(request.out)
    for one in found:
        about = {"words": one.words, "runs": one.runs}
        try:
            if "test" in one.present:
                of_test = replace(request, features=one.folder, model=None, dataset=None, split="test")
                sets, frame = umap.project(of_test, **default_options("umap") | layouts)
                shown.append(explorer.from_features(sets[0], frame, dataset=one.dataset, cache=cache, **about))
                continue
            note = f"No UMAP: the test features of {one.words} are missing."
        except DiskError:
            raise
        except RequestError as error:
            note = f"No UMAP of the features of {one.words}: {error}"
            failures.append(f"{one.dataset}, {one.words}: {error}")
        if one.runs:
            shown.append(explorer.from_runs(**about, most=layouts["points"], note=note))
    return shown, failures
