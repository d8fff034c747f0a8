"""GPU tests and benchmarks in ten minutes: parity with the CPU, memory, streams, processes, precisions, speed, probes.

make gpu                                 on the GPU of this machine; without one, a dry run at small size on the CPU
make gpu WHEELS=FOLDER                   on a bare machine with PyTorch; see tests/gpu/wheels.py
python -m tests.gpu --only parity dofa   some checks (`pack` and `signal` make what others read)

Results go to a JSON file with the card's name, after each check: a run that is cut off keeps what it has. Exit code 1
if a check failed.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch

from data.files import write_text
from featurize.card import MODELS
from probes import fit  # noqa: F401 - as below
from probes.card import PROBES
from tests.gpu import correct, speed  # noqa: F401 - their checks register themselves
from tests.gpu.machine import FULL, SMALL, Machine
from tests.gpu.running import CHECKS, run


def find_gpu(device: str) -> dict[str, Any]:
    """Name, memory and CUDA version of the GPU; None where there is none, or it is not wanted."""
    about = torch.cuda.get_device_properties(0) if device != "cpu" and torch.cuda.is_available() else None
    return {"gpu": about and about.name, "gpu_gb": about and about.total_memory / 1e9, "cuda": torch.version.cuda}


def distributions(packages: set[str]) -> dict[str, str]:
    """Versions of the distributions that hold imported packages."""
    known = packages_distributions()
    return {name: version(name) for name in sorted({name for one in packages for name in known.get(one, [])})}


def main() -> int:
    """Run the checks and keep what they find."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("auto", "cpu"), default="auto", help="cpu: a dry run even with a GPU")
    parser.add_argument("--only", nargs="+", choices=list(CHECKS), metavar="CHECK", help=", ".join(CHECKS))
    parser.add_argument("--minutes", type=float, default=10.0, help="for all checks together")
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), help="folder of the results")
    arguments = parser.parse_args()
    started = time.monotonic()
    for name in correct.PARITY:  # imported once: the checks are forks of this process
        MODELS.load(name)
    for name in ("linear", "knn", "mlp"):
        PROBES.load(name)
    found, packages = run(find_gpu, arguments.device, seconds=60.0)
    if not (name := found.get("gpu")):
        why = found.get("error", "torch finds none" if arguments.device == "auto" else "not asked for")
        print(f"no GPU ({why}): a dry run of every check at small size on the CPU", flush=True)
    facts = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "torch": torch.__version__}
    facts |= {key: found.get(key) for key in ("gpu", "gpu_gb", "cuda")}
    report: dict[str, Any] = {"machine": facts, "dry_run": not name, "date": datetime.now(UTC).isoformat()[:19]}
    report["checks"] = {}
    target = arguments.out / f"{(name or 'dry-run').replace(' ', '-').lower()}.json"
    with tempfile.TemporaryDirectory(prefix="frozen-earth-gpu-") as folder:
        machine = Machine(torch.device("cuda:0" if name else "cpu"), Path(folder), FULL if name else SMALL)
        for title in arguments.only or CHECKS:
            one = CHECKS[title]
            left = 60 * arguments.minutes - (time.monotonic() - started)
            result, seen = run(one.function, machine, seconds=min(one.seconds * machine.sizes.patience, left))
            packages |= seen
            report["checks"][title] = {"what": one.function.__doc__, **result}
            print(json.dumps({title: result}), flush=True)
            report |= {"seconds": round(time.monotonic() - started, 1), "packages": distributions(packages)}
            write_text(target, json.dumps(report, indent=1) + "\n")
    failed = [title for title, result in report["checks"].items() if not result["ok"]]
    print(f"wrote {target}; {len(report['checks']) - len(failed)} checks passed, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
