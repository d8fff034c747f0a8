"""A grid of one hyper-parameter: the search stops where val keeps falling and goes beyond an edge where it rises."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import inf
from typing import Any

EQUAL = 1e-9  # values of a metric closer than this are equal
PATIENCE = 6  # values without a new best after which the search stops


class Walk:
    """The values to try; each depends on the results of those before it.

    Args:
        values: ascending, evenly spaced on a logarithmic scale.
        bounds: how far the search may go beyond the values; None tries exactly the values.
        better: whether one trial is better than another.
    """

    def __init__(
        self, values: Sequence[float], bounds: tuple[float, float] | None, better: Callable[[Any, Any], bool]
    ) -> None:
        self.values, self.bounds, self.better = list(values), bounds, better
        self.tried: list[float] = []
        self.trials: list[Any] = []
        self.best: Any = None
        self.since = 0  # values tried after the best one

    def __iter__(self) -> Iterator[float]:
        for value in self.values:
            if self.bounds and self.since >= PATIENCE:
                return
            yield self._try(value)
        if self.bounds is None or len(self.values) < 2:
            return
        least, most = self.bounds
        ratio = self.values[-1] / self.values[-2]
        while self._rises_to(max(self.tried)) and (value := rounded(max(self.tried) * ratio)) <= most:
            yield self._try(value)
        while self._rises_to(min(self.tried)) and (value := rounded(min(self.tried) / ratio)) >= least:
            yield self._try(value)

    def _try(self, value: float) -> float:
        self.tried.append(value)
        return value

    def _rises_to(self, value: float) -> bool:
        """Whether the metric on val is best at this value alone."""
        return self.trials[self.tried.index(value)] is self.best and sum(equals(self.best, t) for t in self.trials) == 1

    def tell(self, trial: Any) -> None:
        """Record the result of the last value."""
        trial = trial.without_model()
        self.trials.append(trial)
        if self.best is None or self.better(trial, self.best):
            self.best, self.since = trial, 0
        else:
            self.since += 1


def equals(one: Any, other: Any) -> bool:
    """Whether two trials have the same value of the metric that chooses."""
    if one.value is None or other.value is None:
        return one.value is other.value
    return abs(one.value - other.value) <= EQUAL


def log_grid(low: float, high: float, count: int, *, digits: int = 3) -> list[float]:
    """`count` values from `low` to `high`, evenly spaced on a logarithmic scale, rounded to that many digits."""
    ratio = (high / low) ** (1 / (count - 1))
    return [rounded(low * ratio**step, digits) for step in range(count)]


def rounded(value: float, digits: int = 3) -> float:
    """The value with few digits, as people write it."""
    return float(f"{value:.{digits}g}")


def at_edge(chosen: Any, tried: Sequence[Any], limits: Mapping[str, Sequence[Any]]) -> list[str]:
    """Warnings about parameters chosen at the edge of the values tried.

    There is a line for each number with at least three values tried, where the metric is best at the edge alone. Of two
    values both are at the edge: that is a choice between alternatives, and says nothing about a trend. None is a number
    without limit, such as of a tree's depth, and has nothing beyond, as have the ``limits`` of a parameter.
    """
    lines = []
    for name, value in chosen.params.items():
        known = {t.params[name] for t in tried if type(t.params.get(name, "")) in (int, float, type(None))}
        values = sorted(inf if one is None else one for one in known)
        if len(values) < 3 or value not in (values[0], values[-1]) or value in limits.get(name, ()):
            continue
        if any(equals(t, chosen) for t in tried if t.params[name] != value):
            continue  # flat: an inner value is as good
        edge = "smallest" if value == values[0] else "largest"
        most = "no limit" if values[-1] == inf else f"{values[-1]:g}"
        lines.append(f"{name}={value:g} is the {edge} value tried ({values[0]:g} to {most}): the best may lie beyond")
    return lines
