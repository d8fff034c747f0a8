"""Frozen foundation models over satellite patches: the `featurize` command and its Python interface."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from featurize.api import featurize
    from featurize.transformer import Encoder

__all__ = ["Encoder", "featurize"]


def __getattr__(name: str) -> Any:  # torch and the like are imported when something is used
    from featurize.commands import offered

    return offered(__name__, name, {"Encoder": "transformer", "featurize": "api"})


def __dir__() -> list[str]:
    return __all__
