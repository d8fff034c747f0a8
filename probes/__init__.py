"""Classical classifiers on stored embeddings: the `probe` command and its Python interface."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from probes.api import predict, predict_map, probe, probe_all

__all__ = ["predict", "predict_map", "probe", "probe_all"]


def __getattr__(name: str) -> Any:  # numpy and the like are imported when something is used
    from featurize.commands import offered

    return offered(__name__, name, {name: "api" for name in __all__})


def __dir__() -> list[str]:
    return __all__
