"""Overlapping stages: each runs in its own thread and passes items on through a short queue."""

import queue
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

DEPTH = 2  # items that may wait between two stages: one being handed over, one ready


def _unseen(images: int, bottleneck: str | None) -> None:
    """Show progress to nobody."""


@dataclass
class Meter:
    """Counts images, and the seconds for which each stage worked instead of waiting for another."""

    # called with the number of images just written and the bottleneck so far
    shown: Callable[[int, str | None], None] = _unseen
    # by stage, in the order in which work passes through them
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """Count the time inside the block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def bottleneck(self) -> str | None:
        """The stage that worked longest: the others waited for it. None before any has worked."""
        return max(self.seconds, key=lambda stage: self.seconds[stage], default=None)

    def advance(self, images: int) -> None:
        """Report images just written."""
        self.shown(images, self.bottleneck())


_END = object()


@contextmanager
def ahead[T](items: Iterable[T]) -> Iterator[Iterator[T]]:
    """Draw items in a thread of its own, at most `DEPTH` before they are asked for.

    Args:
        items: drawn in order; an error in it is raised where the item would have come.

    Yields:
        The same items; leaving the block stops the thread, whatever is left.
    """
    # No executor, nor a Queue of that size: an interrupt in the middle of their Python code can leave a lock held, and
    # all that want it waiting for ever.
    source, drawn, wanted, left = iter(items), queue.SimpleQueue[Any](), queue.SimpleQueue[bool](), []

    def run() -> None:
        try:
            while wanted.get() and not left:
                drawn.put((next(source, _END), None))
        except BaseException as error:  # raised again in the calling thread
            drawn.put((_END, error))

    def taken() -> Iterator[T]:
        while True:
            wanted.put(True)
            item, error = drawn.get()
            if error:
                raise error
            if item is _END:
                return
            yield item

    for _ in range(DEPTH):
        wanted.put(True)
    thread = threading.Thread(target=run, name="ahead", daemon=True)
    thread.start()
    try:
        yield taken()
    finally:
        left.append(True)
        wanted.put(True)
        thread.join()


@contextmanager
def behind[T](work: Callable[[T], None]) -> Iterator[Callable[[T], None]]:
    """Do work on what is handed over in a thread of its own, at most `DEPTH` items late; handing over more blocks.

    Args:
        work: called on each item in order; after it has failed the rest is dropped.

    Yields:
        ``put(item)``, which raises what `work` raised on an earlier item. Leaving the block waits until all is done,
        also when the block itself failed: what was handed over is not lost.
    """
    waiting, free = queue.SimpleQueue[Any](), queue.SimpleQueue[None]()  # as in `ahead`
    for _ in range(DEPTH):
        free.put(None)
    errors: list[BaseException] = []

    def run() -> None:
        while (item := waiting.get()) is not _END:
            free.put(None)
            if not errors:
                try:
                    work(item)
                except BaseException as error:  # raised again in the calling thread
                    errors.append(error)

    def put(item: T) -> None:
        if errors:
            raise errors[0]
        free.get()
        waiting.put(item)

    thread = threading.Thread(target=run, name="behind", daemon=True)
    thread.start()
    try:
        yield put
    finally:
        waiting.put(_END)
        thread.join()
        if errors and sys.exception() is not errors[0]:  # also in place of an interrupt: this is what went wrong
            raise errors[0]
