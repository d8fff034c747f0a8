"""Stages overlap, keep order, hand on errors and stop when the work around them stops."""

import threading
import time

import pytest

from featurize.stages import DEPTH, Busy, ahead, behind


def run(items, work, read_s=0.0, model_s=0.0, write_s=0.0):
    def read():
        for item in items:
            time.sleep(read_s)
            yield item

    def write(item):
        time.sleep(write_s)
        work(item)

    start = time.perf_counter()
    with behind(write) as put, ahead(read()) as ready:
        for item in ready:
            time.sleep(model_s)
            put(item)
    return time.perf_counter() - start


@pytest.mark.parametrize("slow", ["read_s", "model_s", "write_s"])
def test_one_slow_stage_sets_the_pace_and_order_is_kept(slow):
    done, quick = [], {"read_s": 0.004, "model_s": 0.004, "write_s": 0.004}
    elapsed = run(range(40), done.append, **(quick | {slow: 0.02}))
    assert done == list(range(40))
    assert elapsed < 40 * (0.02 + 0.004)  # one after the other would take 40 x 0.028 s


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
    busy = Busy()
    assert busy.bottleneck() is None
    with busy.at("read"):
        pass
    with busy.at("embed"):
        time.sleep(0.01)
    assert busy.bottleneck() == "embed"
