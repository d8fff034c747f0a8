"""The walk along a grid: where it stops, where it goes on, and what is warned of."""

from dataclasses import dataclass, replace
from typing import Any

import pytest

from probes import selection
from probes.grid import PATIENCE, Walk, at_edge, log_grid


@dataclass(frozen=True)
class Trial:
    value: float | None
    log_loss: float = 0.0
    params: Any = None
    estimator: Any = None
    scores: Any = None

    def without_model(self):
        return self


def walked(values, metric, bounds=(1e-8, 1e6)):
    """The values a walk tries where val says `metric(value)`."""
    walk = Walk(values, bounds, lambda one, other: selection.better(one, other, "accuracy"))
    for value in walk:
        walk.tell(Trial(metric(value)))
    return walk.tried


def test_the_walk_ends_some_values_after_the_best():
    grid = log_grid(1e-6, 1e4, 21)
    assert grid[0] == 1e-6 and grid[-1] == 1e4 and len(grid) == 21
    tried = walked(grid, lambda c: -abs(c - 1e-3))
    assert tried == grid[: grid.index(1e-3) + 1 + PATIENCE]
    assert walked(grid, lambda c: -abs(c - 1e-3), bounds=None) == grid


@pytest.mark.parametrize(("rises_until", "last"), [(1e5, 316000.0), (1e9, 1e6)])
def test_beyond_the_upper_edge_the_walk_goes_on_while_val_rises_and_is_bounded(rises_until, last):
    tried = walked(log_grid(1e-6, 1e4, 21), lambda c: min(c, rises_until) if c <= rises_until else 0.0)
    assert max(tried) == last


def test_beyond_the_lower_edge_too():
    tried = walked([1e-2, 1e-1, 1.0], lambda c: -abs(c - 1e-5))
    assert min(tried) == 1e-6 and tried[:3] == [1e-2, 1e-1, 1.0]


def test_a_flat_metric_is_no_rise():
    assert walked([1.0, 10.0, 100.0], lambda c: 0.5) == [1.0, 10.0, 100.0]


def test_only_a_choice_at_an_edge_with_a_rise_is_warned_of():
    trials = [Trial(v, params={"k": k}) for k, v in ((1, 0.9), (3, 0.8), (5, 0.9))]
    assert at_edge(trials[0], trials, {}) == at_edge(trials[2], trials, {}) == []  # as good at the other end
    trials[0] = replace(trials[0], value=0.95)
    assert "k=1 is the smallest value tried (1 to 5)" in at_edge(trials[0], trials, {})[0]
    assert at_edge(trials[0], trials, {"k": (1,)}) == []  # there is nothing below one neighbor
    assert at_edge(trials[0], trials[:2], {}) == []  # of two values, each is at the edge
    assert at_edge(trials[0], trials[:1], {}) == []


def test_a_depth_without_limit_has_nothing_beyond():
    shallow, middle, deep = (
        Trial(value, params={"depth": depth}) for depth, value in ((8, 0.9), (16, 0.85), (None, 0.8))
    )
    assert "depth=8 is the smallest value tried (8 to no limit)" in at_edge(shallow, [shallow, middle, deep], {})[0]
    deep = replace(deep, value=0.95)
    assert at_edge(deep, [shallow, middle, deep], {}) == []


def test_of_equals_the_lower_log_loss_wins_and_undefined_loses():
    assert selection.better(Trial(0.5, 0.1), Trial(0.5 + 1e-12, 0.2), "accuracy")
    assert not selection.better(Trial(0.5, 0.2), Trial(0.5, 0.2), "accuracy")
    assert selection.better(Trial(0.1, 9.0), Trial(None, 0.0), "map_macro")
    assert selection.better(Trial(0.1, 9.0), Trial(0.2, 0.0), "hamming_loss")
