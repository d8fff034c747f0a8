"""Stages overlap, keep order, hand on errors and stop when the work around them stops."""

import sys
import threading
import time
from contextlib import ExitStack, suppress
from functools import partial

import pytest

from featurize.stages import DEPTH, Meter, ahead, behind


def test_stages_work_at_the_same_time_and_order_is_kept():
    """While one item is worked on, the next is read and the one before is written."""
    spans, done = {"read": [], "work": [], "write": []}, []

    def during(stage):
        start = time.perf_counter()
        time.sleep(0.02)
        spans[stage].append((start, time.perf_counter()))

    def read():
        for item in range(20):
            during("read")
            yield item

    def write(item):
        during("write")
        done.append(item)

    with behind(write) as put, ahead(read()) as ready:
        for item in ready:
            during("work")
            put(item)
    assert done == list(range(20))
    for stage in ("read", "write"):
        together = sum(
            any(start < end_of_work and start_of_work < end for start, end in spans[stage])
            for start_of_work, end_of_work in spans["work"]
        )
        assert together >= 10, f"{stage} went on during {together} of 20 steps of work"


def test_the_reader_stays_at_most_a_few_items_ahead():
    drawn = []

    def read():
        for item in range(100):
            drawn.append(item)
            yield item

    with ahead(read()) as ready:
        assert next(ready) == 0
        time.sleep(0.2)
        assert len(drawn) <= 1 + DEPTH + 1  # handed over, waiting, and one in its hands


def test_an_error_of_the_reader_comes_where_its_item_would_have():
    def read():
        yield 1
        raise ValueError("broken tile")

    seen = []
    with pytest.raises(ValueError, match="broken tile"), ahead(read()) as ready:
        for item in ready:
            seen.append(item)
    assert seen == [1]


def test_an_error_of_the_writer_stops_the_work_and_is_raised():
    def write(item):
        if item == 1:
            raise OSError("disk full")

    handed = 0
    with pytest.raises(OSError, match="disk full"), behind(write) as put:
        for item in range(100):
            put(item)
            handed += 1
            time.sleep(0.002)
    assert handed < 100


def test_an_error_of_the_last_item_is_not_lost():
    def write(item):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), behind(write) as put:
        put(1)


def test_an_error_of_the_writer_is_told_in_place_of_an_interrupt():
    def write(item):
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"), behind(write) as put:
        put(1)
        raise KeyboardInterrupt


def test_what_was_handed_over_is_written_although_the_work_failed():
    done = []
    with pytest.raises(KeyError), behind(done.append) as put:
        put(1)
        put(2)
        raise KeyError
    assert done == [1, 2]


def test_no_thread_is_left_behind():
    before = threading.active_count()
    with pytest.raises(KeyError), behind(lambda item: None) as put, ahead(iter(range(1000))) as ready:
        for item in ready:
            put(item)
            raise KeyError
    assert threading.active_count() == before


def test_the_bottleneck_is_the_stage_that_worked_longest():
    meter = Meter()
    assert meter.bottleneck() is None
    with meter.at("read"):
        pass
    with meter.at("embed"):
        time.sleep(0.01)
    assert meter.bottleneck() == "embed"


@pytest.mark.parametrize("stage", ["ahead", "behind"])
def test_an_interrupt_anywhere_in_handing_over_leaves_no_thread_waiting(stage):
    """SIGTERM between the two halves of a notification once left the writer asleep, and the process waiting for it."""

    def use(stack):
        """What hands over one item."""
        if stage == "ahead":
            return partial(next, stack.enter_context(ahead(map(time.sleep, [0.002] * 9))))
        return partial(stack.enter_context(behind(lambda _: None)), 1)

    def reached(step):
        """Whether handing over one item takes that many steps of Python; the last of them is interrupted."""
        left, done = [step], threading.Event()

        def trace(*_):  # called at each line, entry and exit of a function
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt
            return trace

        def main():
            with suppress(KeyboardInterrupt), ExitStack() as stack:
                hand_over = use(stack)
                time.sleep(0.002)  # the other thread waits, or is at work
                sys.settrace(trace)
                try:
                    hand_over()
                finally:
                    sys.settrace(None)
                    time.sleep(0.002)  # the other thread has taken what there is, and waits again
            done.set()

        threading.Thread(target=main, daemon=True).start()
        assert done.wait(5), f"still waiting after an interrupt at step {step}"
        return left[0] <= 0

    steps = next(step for step in range(1, 1000) if not reached(step))
    assert steps > 4
