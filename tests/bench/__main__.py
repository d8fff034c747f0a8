"""Benchmarks: each measures ours beside a peer or a plain baseline in one run, and keeps both and their ratio.

make bench                                   all of them, to tests/bench/results/<machine>.json
python -m tests.bench --only help_page       one of them; the others' results are kept

A benchmark is a function `bench_<name>() -> dict` in a file `tests/bench/bench_*.py`; its docstring says what it
measures.
"""

import argparse
import importlib
import json
import os
import platform
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import torch

FOLDER = Path(__file__).parent


def benchmarks() -> Iterator[tuple[str, Callable[..., dict]]]:
    """Name and function of every benchmark, in the order of their files."""
    for file in sorted(FOLDER.glob("bench_*.py")):
        for name, function in vars(importlib.import_module(f"tests.bench.{file.stem}")).items():
            if name.startswith("bench_"):
                yield name.removeprefix("bench_"), function


def machine_facts() -> dict:
    """What the figures depend on."""
    return {
        "cpu": torch.cpu.get_capabilities().get("cpu_name", platform.processor()),
        "cores": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("torch", "torchgeo", "h5py", "numpy", "scikit-learn")},
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    """Run benchmarks and keep the figures with the facts of the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=FOLDER / "results")
    parser.add_argument("--only", nargs="*", help="names of benchmarks")
    parser.add_argument("--patches", type=int, help="size of the rehearsal; default: all of BigEarthNet v2")
    arguments = parser.parse_args()
    facts, today = machine_facts(), datetime.now(UTC).date().isoformat()
    target = arguments.out / f"{facts['gpu'] or 'cpu'}-{facts['cores']}-cores.json".replace(" ", "-").lower()
    known = dict(benchmarks())
    if unknown := set(arguments.only or ()) - known.keys():
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name, function in known.items():
        if arguments.only and name not in arguments.only:
            continue
        load = os.getloadavg()[0]
        size = {"patches": arguments.patches} if name == "rehearsal" and arguments.patches else {}
        measured = {"what": function.__doc__, **function(**size)}
        measured |= {"threads": facts["threads"], "load_before": round(load, 2), "date": today}
        print(json.dumps({name: measured}, indent=1), flush=True)
        results = json.loads(target.read_text())["results"] if target.exists() else {}  # now: others may have written
        if "skipped" in measured and name in results:
            continue  # keep what was measured where the data was at hand
        results[name] = measured
        target.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: results[name] for name in sorted(results) if name in known}
        target.write_text(json.dumps({"machine": facts, "results": kept}, indent=1) + "\n")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
