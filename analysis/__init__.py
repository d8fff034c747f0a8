"""Tables, figures and the report from runs on disk: the `analyze` command and its Python interface."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from analysis.api import table, umap, view

__all__ = ["table", "umap", "view"]


def __getattr__(name: str) -> Any:  # matplotlib and the like are imported when something is used
    from featurize.commands import offered

    return offered(__name__, name, {name: "api" for name in __all__})


def __dir__() -> list[str]:
    return __all__
