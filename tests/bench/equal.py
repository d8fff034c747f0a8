"""Compares features, run identities and metrics with another version's, on the same commands and the same data.

python -m tests.bench.equal ../v0.1                     a checkout with its own .venv
python -m tests.bench.equal ../v0.1 --only demo mosaics --keep DIR

Cases: the demo (simulated scenes), EuroSAT RGB (2,001 real JPEGs) and multi-label mosaics of real 13-band tiles in
BigEarthNet's layout. Prints one line per feature file (compared byte by byte) and one per run: equal, or how many
metrics differ and which recorded settings of the run explain it. Version 0.1 searched other grids, shrank thresholds
more and named runs by fewer settings. Exit code 1 if a feature file differs, or a metric without such a setting and,
of a linear probe, by more than its solver's tolerance.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from tests.bench.pairs import PROJECT, SHARED

MODULES = {"featurize": "featurize", "probe": "probes"}
KINDS = "linear,knn,rf,prior"
ARRAYS = ("features", "ids", "labels", "lonlat")
# Fields of a run that decide its metrics and that versions after 0.1 changed on purpose.
CHANGED = ("chosen", "calibration")
ROUNDING = 1e-12  # sums in another order
SOLVED = 1e-3  # of a linear probe, whose optimum is found to a tolerance: another way there has other last digits


@dataclass(frozen=True)
class Case:
    """Commands to run with both versions; ``{data}`` is the folder of the data."""

    name: str
    commands: tuple[str, ...]
    data: Path | None = None


def cases(scratch: Path) -> Iterator[Case]:
    """Every case whose data are at hand."""
    simulated = "featurize --dataset simulated --limit 600 --model"
    yield Case(
        "demo",
        (
            f"{simulated} stats",
            f"{simulated} rcf --image-size 40",
            f"probe --kind {KINDS} --model stats",
            f"probe --kind {KINDS} --model rcf",
        ),
    )
    jpegs = "featurize --dataset eurosat-rgb --data-root {data} --limit 667 --model"
    probing = (f"probe --kind {KINDS} --model stats", f"probe --kind {KINDS} --model rcf")
    yield Case("eurosat-rgb", (f"{jpegs} stats", f"{jpegs} rcf", *probing), SHARED / "data" / "eurosat-rgb")
    mosaics = "featurize --dataset bigearthnet --bands s2-12 --data-root {data} --model"
    yield Case(
        "mosaics",
        (
            f"{mosaics} stats",
            f"{mosaics} rcf --image-size 40",
            f"probe --kind {KINDS} --model stats",
            f"probe --kind {KINDS} --model rcf",
        ),
        scratch / "mosaics",
    )


def build_mosaics(folder: Path) -> None:
    """Mosaics of real tiles, in BigEarthNet v2's layout."""
    tiles = SHARED / "data" / "eurosat-ms" / "EuroSATallBands.zip"
    tool = [sys.executable, SHARED / "tools" / "mosaic_bigearthnet.py", "--zip", tiles, "--out", folder]
    subprocess.run([*map(str, tool), "--count", "600"], check=True, stdout=subprocess.DEVNULL)


def run(checkout: Path, case: Case, out: Path) -> None:
    """Run the commands of a case with one version."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    for command in case.commands:
        name, *words = command.format(data=case.data).split()
        python = checkout / ".venv" / "bin" / "python"
        arguments = [str(python), "-m", MODULES[name], *words, "--out", str(out)]
        subprocess.run(arguments, cwd=checkout, env=environment, check=True, capture_output=True)


def differing_arrays(old: Path, new: Path) -> list[str]:
    """Names of the arrays whose bytes differ between two feature files."""
    with h5py.File(old) as one, h5py.File(new) as other:
        return [name for name in ARRAYS if _content(one, name) != _content(other, name)]


def _content(file: h5py.File, name: str) -> tuple[Any, ...] | None:
    if name not in file:
        return None
    values = file[name][()]
    return values.dtype.str, values.shape, values.tobytes()


def compare_features(old: Path, new: Path) -> Iterator[tuple[bool, str]]:
    """Whether all is well, and a line, for each feature file of either version."""
    files = {path.relative_to(out) for out in (old, new) for path in (out / "features").rglob("*.h5")}
    for file in sorted(files):
        absent = [name for name, out in (("old", old), ("new", new)) if not (out / file).exists()]
        if absent:
            yield False, f"{file}: missing from {absent[0]}"
        elif different := differing_arrays(old / file, new / file):
            yield False, f"{file}: differs in {', '.join(different)}"
        else:
            yield True, f"{file}: equal"


def runs_of(out: Path) -> dict[tuple[str, ...], tuple[str, dict[str, Any]]]:
    """Name and record of every run, by dataset, encoder and kind."""
    records = {}
    for file in (out / "probes").rglob("run.json"):
        record = json.loads(file.read_text())
        records[record["dataset"], record["encoder"], record["kind"]] = (file.parent.name, record)
    return records


def metrics_of(record: dict[str, Any]) -> dict[str, float | None]:
    """Every metric of a run, by split/rule/name."""
    return {
        f"{split}/{rule}/{name}": value
        for split, rules in record["metrics"].items()
        for rule, values in rules.items()
        for name, value in values.items()
    }


def differing_metrics(old: dict[str, Any], new: dict[str, Any]) -> dict[str, float]:
    """How much the metrics that both runs have differ, by name, where that is more than `ROUNDING`."""
    one, other = metrics_of(old), metrics_of(new)
    apart = {name: _apart(one[name], other[name]) for name in sorted(one.keys() & other.keys())}
    return {name: value for name, value in apart.items() if value > ROUNDING}


def _apart(one: float | None, other: float | None) -> float:
    if one is None or other is None:
        return 0.0 if one is other else float("inf")
    return abs(one - other)


def causes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Settings that decide metrics and that differ between two runs."""
    found = [f"{name} {old.get(name)} -> {new.get(name)}" for name in CHANGED if old.get(name) != new.get(name)]
    shrinkage = [(record.get("thresholds") or {}).get("shrinkage") for record in (old, new)]
    return [*found, *([f"shrinkage {shrinkage[0]} -> {shrinkage[1]}"] if shrinkage[0] != shrinkage[1] else [])]


def compare_runs(old: Path, new: Path) -> Iterator[tuple[bool, str]]:
    """Whether all is well, and a line, for each run of either version."""
    before, after = runs_of(old), runs_of(new)
    for key in sorted(before | after):
        label = " / ".join(key)
        if key not in before or key not in after:
            yield False, f"{label}: missing from {'old' if key in after else 'new'}"
            continue
        (old_name, one), (new_name, other) = before[key], after[key]
        names = "same name" if old_name == new_name else f"name {old_name} -> {new_name}"
        different, why = differing_metrics(one, other), causes(one, other)
        if not different:
            exact = all(value == metrics_of(other).get(name, value) for name, value in metrics_of(one).items())
            yield True, f"{label}: metrics equal{'' if exact else f' to {ROUNDING}'}; {names}"
            continue
        tuned = sum("/tuned/" in name for name in different)
        explained = any(not cause.startswith("shrinkage") for cause in why) or (bool(why) and tuned == len(different))
        most = max(different, key=lambda name: different[name])
        count = f"{len(different)} of {len(metrics_of(one))} metrics differ, {tuned} of them under tuned thresholds"
        count += f", {most} the most, by {different[most]:.1g}"
        if "linear" in key and different[most] <= SOLVED:
            explained, why = True, [*why, "within the solver's tolerance"]
        yield explained, f"{label}: {count}; {names}; {'; '.join(why) or 'no recorded cause'}"


def main() -> None:
    """Run both versions and print what is equal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="the other version, with its own .venv")
    parser.add_argument("--only", nargs="*", choices=["demo", "eurosat-rgb", "mosaics"])
    parser.add_argument("--keep", type=Path, help="keep the outputs in this folder; the other version's are reused")
    arguments = parser.parse_args()
    other, wrong = arguments.checkout.resolve(), 0
    with tempfile.TemporaryDirectory() as temporary:
        scratch = (arguments.keep or Path(temporary)).resolve()
        for case in cases(scratch):
            if arguments.only and case.name not in arguments.only:
                continue
            if case.name == "mosaics" and SHARED.exists() and case.data and not case.data.exists():
                build_mosaics(case.data)
            if case.data and not case.data.exists():
                print(f"{case.name}: skipped, no data at {case.data}")
                continue
            old, new = scratch / case.name / "old", scratch / case.name / "new"
            shutil.rmtree(new, ignore_errors=True)  # of an earlier state of this version
            run(other, case, old)
            run(PROJECT, case, new)
            for fine, line in (*compare_features(old, new), *compare_runs(old, new)):
                wrong += not fine
                print(f"{case.name}: {line}", flush=True)
    print(f"{wrong} unexplained differences" if wrong else "no unexplained difference")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
