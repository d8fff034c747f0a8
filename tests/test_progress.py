"""Progress of a step within another: one display, and totals that were only expected."""

import io
import sys

import rich.progress

from data import command


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_step_within_another_shares_its_display(monkeypatch):
    displays = []

    class Counted(rich.progress.Progress):
        def __init__(self, *columns, **more):
            displays.append(self)
            super().__init__(*columns, **more)

    monkeypatch.setattr(rich.progress, "Progress", Counted)
    monkeypatch.setattr(sys, "stderr", Terminal())
    with command.progress("rf", 1, "candidates") as outer:
        with command.progress("rf 1/1", 100, "trees") as inner:
            inner(40)
            assert [(task.description, task.completed) for task in displays[0].tasks] == [("rf", 0), ("rf 1/1", 40)]
        outer(1)
        outer(1)  # a grid may go beyond its edge
        (task,) = displays[0].tasks
        assert (task.completed, task.total) == (2, 2)
    with command.progress("again", 1, "trees"):
        pass
    assert len(displays) == 2


def test_more_units_than_expected_leave_no_negative_time(monkeypatch, capsys):
    monkeypatch.setattr(command, "PLAIN_LINE_EVERY_S", 0)
    with command.progress("linear", 2, "candidates") as advance:
        advance(3)
    assert "3/3 candidates" in (line := capsys.readouterr().err) and ", 0 s left" in line
