"""Collect the wheels that `make gpu` needs on a bare machine with PyTorch and no network.

    python -m tests.gpu --device cpu                         writes which packages the checks import
    python -m tests.gpu.wheels --to wheels                   all but PyTorch and what it requires
    python -m tests.gpu.wheels --to wheels --have list.txt   without what `pip list --format freeze` printed there

Then copy the folder beside a checkout on that machine: make gpu WHEELS=wheels. It needs the same version of Python and
the same processor architecture as this one. Prints the size of every wheel.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = Path(__file__).parent.parent.parent
LIMIT_MB = 60
# Imported by other packages if they are there, and not needed; the last is this project, added as a wheel of its own.
NOT_NEEDED = {"pyogrio", "pytest", "iniconfig", "pluggy", "coverage", "cuda-bindings", "cuda-pathfinder", "triton",
              "pip", "setuptools", "frozen-earth"}  # fmt: skip


def plain(name: str) -> str:
    """A distribution's name as all spellings of it are compared."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def required(name: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
    """A distribution and all that it requires, as installed here."""
    seen |= {plain(name)}
    try:
        wanted = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        return seen  # for another platform
    for one in wanted:
        if plain(one.name) not in seen and (one.marker is None or one.marker.evaluate({"extra": ""})):
            seen = required(one.name, seen)
    return seen


def missing(imported: dict[str, str], have: Iterable[str]) -> list[str]:
    """Requirements that a machine lacks.

    Args:
        imported: version by distribution, as the dry run wrote it.
        have: names, with or without ``==`` and a version.
    """
    there = {plain(re.split(r"[=<>@ \t]", line.strip(), maxsplit=1)[0]) for line in have if line.strip()}
    return sorted(f"{name}=={v}" for name, v in imported.items() if plain(name) not in there | NOT_NEEDED)


def main() -> int:
    """Download the wheels, and build one of this project for its version."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="folder of the wheels")
    parser.add_argument("--have", type=Path, help="names of the packages on that machine, one per line or by commas")
    parser.add_argument("--results", type=Path, default=Path("runs/gpu/dry-run.json"), help="of the dry run")
    arguments = parser.parse_args()
    if not arguments.results.exists():
        parser.error(f"no {arguments.results}; run python -m tests.gpu --device cpu first")
    imported = json.loads(arguments.results.read_text())["packages"]
    have = re.split(r"[,\n]", arguments.have.read_text()) if arguments.have else []
    wanted = missing(imported, [*have, *required("torch")])
    arguments.to.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    into = ["--quiet", "--no-deps"]
    subprocess.run([*pip, "download", *into, "--only-binary=:all:", "--dest", arguments.to, *wanted], check=True)
    with tempfile.TemporaryDirectory() as copy:  # as setuptools leaves a folder in the project that it builds
        for name in ("pyproject.toml", "README.md", "LICENSE", "data", "featurize", "probes", "analysis"):
            path = PROJECT / name
            (shutil.copytree if path.is_dir() else shutil.copy)(path, Path(copy) / name)
        subprocess.run([*pip, "wheel", *into, "--wheel-dir", arguments.to, copy], check=True)
    sizes = {file.name: file.stat().st_size / 1e6 for file in arguments.to.glob("*.whl")}
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        print(f"{sizes[name]:6.1f} MB  {name}")
    total = sum(sizes.values())
    print(f"{total:6.1f} MB in {len(sizes)} wheels")
    if total > LIMIT_MB:
        print(f"over {LIMIT_MB} MB: give --have the list of that machine's packages")
    return int(total > LIMIT_MB)


if __name__ == "__main__":
    sys.exit(main())
