"""Reading speed beside another version of this program, in turns, so that a machine that slows down slows both.

python -m tests.bench.versions ../v0.1                a checkout with its own .venv
python -m tests.bench.versions ../v0.1 --rounds 21

Prints, for BigEarthNet (12 bands of real pixels in v2's layout) and EuroSAT (13 bands), patches/s of both versions and
the ratio; the median of the ratios of all rounds is what counts.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.bench.bench_bigearthnet import patches
from tests.bench.pairs import PROJECT, SHARED

# Opens a dataset, then reads all of it for every line on standard input and prints the seconds.
READER = """
import importlib, sys, time
from pathlib import Path
name, root, cache = sys.argv[1:]
source = importlib.import_module("data.sources." + name)
try:
    from data.flags import DataFlags, DatasetRequest
    samples = source.open_dataset(DatasetRequest(Path(root), ("train",), (), DataFlags(cache_dir=Path(cache))))["train"]
except ImportError:  # versions up to 0.1
    from data.dataset import DatasetRequest
    samples = source.open_dataset(DatasetRequest("train", Path(root), Path(cache)))
print(len(samples), flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    for index in range(len(samples)):
        samples.read(index, samples.bands)
    print(time.perf_counter() - start, flush=True)
"""
COUNT = 400


class Reader:
    """A version's process that reads a dataset when asked to."""

    def __init__(self, checkout: Path, name: str, root: Path, cache: Path) -> None:
        command = [checkout / ".venv" / "bin" / "python", "-c", READER, name, root, cache]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(checkout)}
        self.process = subprocess.Popen(
            list(map(str, command)),
            cwd=checkout,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.count = int(self._line())

    def _line(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended with {self.process.wait()}")
        return line

    def rate(self) -> float:
        """Patches per second of one reading of all."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.count / float(self._line())

    def close(self) -> None:
        """End the process."""
        self.process.communicate()


def compare(other: Path, name: str, root: Path, cache: Path, rounds: int) -> dict:
    """Rates of both versions, round by round."""
    ours, theirs = (Reader(checkout, name, root, cache) for checkout in (PROJECT, other))
    for reader in (ours, theirs):
        reader.rate()
    pairs = []
    for number in range(rounds):
        first, second = (ours, theirs) if number % 2 else (theirs, ours)
        rates = {id(reader): reader.rate() for reader in (first, second)}
        pairs.append((rates[id(ours)], rates[id(theirs)]))
    ours.close()
    theirs.close()
    ratios = [mine / theirs for mine, theirs in pairs]
    return {
        "patches": ours.count,
        "now": round(statistics.median(mine for mine, _ in pairs), 1),
        "other": round(statistics.median(theirs for _, theirs in pairs), 1),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_quartiles": [round(value, 3) for value in statistics.quantiles(ratios, n=4)[::2]],
        "rounds": rounds,
    }


def main() -> None:
    """Measure both datasets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="checkout of the other version, with its .venv")
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    other = arguments.other.resolve()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root = stack.enter_context(patches(COUNT, shutil.copy))
        sets = {"bigearthnet": root}
        if (SHARED / "data" / "eurosat-ms").is_dir():
            sets["eurosat"] = folder / "eurosat"
            shutil.copytree(SHARED / "data" / "eurosat-ms", sets["eurosat"])
        for name, place in sets.items():
            measured = compare(other, name, place, folder / f"cache-{name}", arguments.rounds)
            print(json.dumps({name: measured}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
