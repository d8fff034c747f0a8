"""Paired timing: ours and a peer in turn in one process, so that a machine that slows down slows both."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

PROJECT = Path(__file__).parent.parent.parent
SHARED = Path(os.environ.get("EO_SHARED", PROJECT.parent / "shared"))
REPEATS = 5


def paired(ours: Callable[[], object], peer: Callable[[], object], count: int, unit: str) -> dict:
    """Run both in turn after one warm-up each; medians of the rates, and the median of the paired ratios."""
    ours()
    peer()
    pairs = []
    for _ in range(REPEATS):
        pairs.append([count / seconds(ours), count / seconds(peer)])
    ratios = [mine / theirs for mine, theirs in pairs]
    return {
        "unit": f"{unit}/s",
        "ours": round(statistics.median(mine for mine, _ in pairs), 1),
        "peer": round(statistics.median(theirs for _, theirs in pairs), 1),
        "ratio": round(statistics.median(ratios), 2),
        "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
    }


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
