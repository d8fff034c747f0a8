"""Values that the shell completes after a flag: names, also in lists separated by commas."""

from collections.abc import Callable, Iterable
from typing import Any

from cyclopts import Parameter

from data import paths


def completed(names: Callable[[], Iterable[str]]) -> Parameter:
    """The completion of a flag that takes one of these names, or several separated by commas."""

    def complete(context: Any) -> list[str]:
        before, comma, _ = context.incomplete.rpartition(",")
        return [f"{before}{comma}{name}" for name in names()]

    return Parameter(completer=complete)


def stored_models() -> list[str]:
    """Models that have features in the default output folder."""
    return sorted(
        {folder.name.partition("_")[0].partition("-")[0] for folder in paths.feature_folders(paths.DEFAULT_OUT)}
    )


def stored_datasets() -> list[str]:
    """Datasets that have features in the default output folder."""
    return sorted({folder.parent.name for folder in paths.feature_folders(paths.DEFAULT_OUT)})
