"""The folder is the registry: a file's name is its command-line name, its docstring's first line the help."""

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from data.errors import RequestError, unknown


@dataclass(frozen=True)
class Registry:
    """All modules of one package, listed without importing any of them.

    Args:
        package: dotted package name, such as ``featurize.models``.
        noun: what one entry is called in messages, such as ``model``.
    """

    package: str
    noun: str

    def names(self) -> list[str]:
        """Command-line names (dashes for underscores), sorted; files that start with '_' are helpers."""
        return sorted(path.stem.replace("_", "-") for path in self._folder().glob("[!_]*.py"))

    def summary(self, name: str) -> str:
        """First line of the module's docstring."""
        docstring = ast.get_docstring(_parsed(self._file(name))) or ""
        return docstring.partition("\n")[0]

    def card(self, name: str) -> dict[str, Any]:
        """The module's ``CARD``: a dictionary written as a literal, so that listing needs no import."""
        for node in _parsed(self._file(name)).body:
            if isinstance(node, ast.Assign) and any(getattr(t, "id", None) == "CARD" for t in node.targets):
                return ast.literal_eval(node.value)
        return {}

    def load(self, name: str) -> ModuleType:
        """Import the module of that name.

        Raises:
            RequestError: no such name; the message lists the choices and suggests the nearest.
        """
        return importlib.import_module(f"{self.package}.{self._file(name).stem}")

    def check(self, name: str) -> str:
        """Return the name if it is registered, else raise as `load` does, without importing anything.

        A door, whose card has ``door``, takes a name of the library behind it after a colon: ``timm:resnet50``.
        """
        own, _, inner = name.partition(":")
        door = self.card(name).get("door")
        if door and not inner:
            raise RequestError(f"--{self.noun} {own}: say which, as {own}:NAME, such as {door}")
        if inner and not door:
            raise RequestError(f"--{self.noun} {name}: {own} takes no name behind a colon; leave ':{inner}' out")
        return name

    def _file(self, name: str) -> Path:
        own = name.partition(":")[0]
        if own not in self.names():
            raise unknown(self.noun, own, self.names())
        return self._folder() / f"{own.replace('-', '_')}.py"

    def _folder(self) -> Path:
        return _package_folder(self.package)


@cache
def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec and spec.submodule_search_locations, f"{package} is not a package"
    return Path(next(iter(spec.submodule_search_locations)))


@cache
def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


MODELS = Registry("featurize.models", "model")
DATASETS = Registry("data.sources", "dataset")
PROBES = Registry("probes.kinds", "probe")
VIEWS = Registry("analysis.views", "view")
