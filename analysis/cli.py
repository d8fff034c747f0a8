"""The `analyze` command: one subcommand for every file in `analysis/views`; light imports only."""

import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from analysis.card import VIEWS
from analysis.contract import Output, Rule, Style, ViewRequest, run_view, together
from data import command
from data.completion import completed, stored_datasets, stored_models
from data.flags import DataFlags
from probes.card import PROBES

HELP = "Tables, figures and a report from probe runs and features."

EVERY = ("runs", "features", "dataset", "speed")
ONLY = "Use only this {0}, or (for views of runs) these, separated by commas."

# name: (type, help, the inputs whose views have it); defaults are those of `ViewRequest`
COMMON: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "model": (Annotated[str | None, completed(stored_models)], ONLY.format("model"), ("runs", "features")),
    "dataset": (Annotated[str | None, completed(stored_datasets)], ONLY.format("dataset"), ("runs", "features")),
    "kind": (Annotated[str | None, completed(PROBES.names)], "Use only this probe kind.", ("runs",)),
    "rule": (Rule, "Decision rule: half (threshold 0.5), tuned (thresholds chosen on val) or both.", ("runs",)),
    "features": (Path | None, "Feature folder, instead of --model and --dataset.", ("features", "dataset")),
    "split": (Literal["train", "val", "test", "all"], "Split to use.", ("features",)),
    "style": (Style, "Figure style: paper, or slides with larger text.", ("runs", "features", "speed")),
    "data": (DataFlags, "Which samples.", ("dataset",)),
    "out": (Path, "Output folder of all commands.", EVERY),
    "folder": (Path | None, "Write to this folder instead of OUT/analysis.", EVERY),
}


def new_app() -> App:
    """The application, with every view as a subcommand; no view is imported until it runs."""
    app = command.new_app("analyze", HELP)
    for name in VIEWS.names():
        app.command(_subcommand(name), name=name, help=VIEWS.summary(name))
    return app


def _subcommand(name: str) -> Any:
    """A function with the flags that the view's card asks for."""
    card = VIEWS.card(name)

    def subcommand(**given: Any) -> int:
        outputs = outputs_of(name, given)
        for output in outputs:
            if output.summary:
                print(output.summary)
            print(together(output.files))
            command.record(title=output.title, dataset=output.dataset, files=output.files, wrong=output.wrong)
        return int(any(output.wrong for output in outputs))

    flags = [_flag(name, type(option.default), option.default, option.help) for name, option in card.options.items()]
    usual = vars(ViewRequest())
    flags += [_flag(flag, kind, usual[flag], text) for flag, (kind, text, of) in COMMON.items() if card.input in of]
    subcommand.__signature__ = inspect.Signature(flags)  # type: ignore[attr-defined]
    return subcommand


def outputs_of(name: str, given: Mapping[str, Any]) -> list[Output]:
    """What a view writes, by the flags of its command."""
    options = VIEWS.card(name).options
    request = ViewRequest(**{flag: value for flag, value in given.items() if flag not in options})
    return run_view(name, request, **{option: value for option, value in given.items() if option in options})


def _flag(name: str, kind: Any, default: Any, text: str) -> inspect.Parameter:
    annotation = Annotated[kind, Parameter(help=text, show_default=False if default == "" else None)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


app = new_app()


def main() -> None:
    """Entry point of the console script."""
    sys.exit(command.run(app))
