"""Start of all three commands: our packages take precedence over the user's own modules of the same names.

`data`, `probes` and `analysis` are common names. A user's ``data/`` or ``data.py`` in the working directory or on
``PYTHONPATH`` would be imported in place of ours; here ours are looked up first, in the process of a command and in
every process that it starts. Python sessions and scripts that do not start a command are left alone.
"""

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

OWN = ("data", "featurize", "probes", "analysis")
TOP = Path(__file__).resolve().parent.parent


class _OwnFirst:
    """Finds our packages beside this one, wherever else modules of those names may be."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return PathFinder.find_spec(name, [str(TOP)]) if name in OWN else None


def own_packages_first() -> None:
    """Look our packages up before all others, also where one of another project is imported already."""
    if _OwnFirst not in sys.meta_path:
        sys.meta_path.insert(0, _OwnFirst)
    for name in OWN:
        file = getattr(sys.modules.get(name), "__file__", None)
        if name in sys.modules and (not file or Path(file).resolve().parent != TOP / name):
            for module in [one for one in sys.modules if one == name or one.startswith(f"{name}.")]:
                del sys.modules[module]


# On import: a process that multiprocessing spawns imports the command's start again before it unpickles anything.
own_packages_first()


def offered(package: str, name: str, modules: Mapping[str, str]) -> Any:
    """A name that a package exports, from the module that defines it, which is imported now.

    Args:
        package: name of the package.
        name: what is asked for.
        modules: by name of what it offers, the module.
    """
    if name not in modules:
        raise AttributeError(f"module '{package}' has no attribute '{name}'")
    own_packages_first()
    return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)


def featurize() -> None:
    """Run `featurize`."""
    _launch("featurize", "featurize")


def probe() -> None:
    """Run `probe`."""
    _launch("probe", "probes")


def analyze() -> None:
    """Run `analyze`."""
    _launch("analyze", "analysis")


def _launch(name: str, package: str) -> None:
    try:
        from data.launch import launch  # here: only now is it certain to be ours

        launch(package)
    except KeyboardInterrupt:  # while libraries are imported; later ones are handled by the command
        print(f"\n{name}: stopped", file=sys.stderr)
        sys.exit(130)
