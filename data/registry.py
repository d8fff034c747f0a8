"""The folder is the registry: a file's name is its command-line name, its docstring's first line the help."""

import ast
import importlib
import importlib.util
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType

from data.cards import parsed, read_card
from data.errors import RequestError, unknown

PACKAGES = ("data", "featurize", "probes", "analysis")
# Libraries of which an older version is allowed too, for those who need it for another package, and the first version
# that has all that is imported from it here.
WHOLE = {"torchgeo": "0.10"}


@dataclass(frozen=True)
class Registry[Card]:
    """All modules of one package, listed without importing any of them.

    Args:
        package: dotted package name, such as ``featurize.models``.
        noun: what one entry is called in messages, such as ``model``.
        card_class: the frozen dataclass of the modules' ``CARD``; None if they have none.
    """

    package: str
    noun: str
    card_class: type[Card] | None = None

    def names(self) -> list[str]:
        """Command-line names (dashes for underscores), sorted; files that start with '_' are helpers."""
        return sorted(path.stem.replace("_", "-") for path in self._folder().glob("[!_]*.py"))

    def summary(self, name: str) -> str:
        """First line of the module's docstring."""
        return (ast.get_docstring(parsed(self._file(name))) or "").partition("\n")[0]

    def card(self, name: str) -> Card:
        """The module's ``CARD``, read without importing the module."""
        assert self.card_class, f"{self.package} has no cards"
        return _card(self._file(name), self.card_class)

    def load(self, name: str) -> ModuleType:
        """Import the module of that name.

        Raises:
            RequestError: no such name; the message lists the choices and suggests the nearest. Or a library is absent
                or too old for this module.
        """
        module = f"{self.package}.{self._file(name).stem}"
        try:
            return importlib.import_module(module)
        except ImportError as error:
            library = (error.name or "").partition(".")[0]
            if not library or library in PACKAGES:  # a mistake here
                raise
            raise lacking(f"{self.noun} {name}", library, error.msg) from error

    def check(self, name: str) -> str:
        """Return the name if it is registered, else raise as `load` does, without importing anything.

        An adapter, whose card has an ``example``, takes a name of the wrapped library after a colon: ``timm:resnet50``.
        """
        own, _, inner = name.partition(":")
        file = self._file(name)
        example = getattr(_card(file, self.card_class), "example", None) if self.card_class else None
        if example and not inner:
            raise RequestError(f"--{self.noun} {own}: expected {own}:NAME, such as {example}")
        if inner and not example:
            raise RequestError(f"--{self.noun} {name}: {own} takes no name after a colon; remove ':{inner}'")
        return name

    def _file(self, name: str) -> Path:
        own = name.partition(":")[0]
        if own not in self.names():
            raise unknown(self.noun, own, self.names())
        return self._folder() / f"{own.replace('-', '_')}.py"

    def _folder(self) -> Path:
        return _package_folder(self.package)


def lacking(what: str, library: str, why: str) -> RequestError:
    """The error for a library that is absent, or whose installed version lacks what is imported from it.

    Args:
        what: needs the library.
        library: as it is imported.
        why: what is lacking.
    """
    name = metadata.packages_distributions().get(library, [library])[0]
    wanted = f"{name}>={WHOLE[name]}" if name in WHOLE else name
    try:
        found = f"{name} {metadata.version(name)} is installed"
    except metadata.PackageNotFoundError:
        found = f"{name} is not installed"
    reason = why.partition(" (/")[0]  # without the library's path
    return RequestError(f"{what} needs {wanted}: {found} ({reason}); pip install -U '{wanted}'")


@cache
def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    assert spec and spec.submodule_search_locations, f"{package} is not a package"
    return Path(next(iter(spec.submodule_search_locations)))


_card = cache(read_card)


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """What `featurize list` shows of a dataset, and what its command-line options are.

    Args:
        title: full name.
        classes: how many.
        labels: ``single-label``, ``multi-label`` or either.
        bands: sensors, levels, units and sizes in pixels.
        variants: names for ``--dataset-variant``; the first is the default.
        license: of the images.
        citation: of the paper, with its DOI or arXiv number.
        source: how to obtain the files, or where to put them.
        options: flags that only some datasets have: fields of `data.flags.DataFlags`.
        splits: those it has.
        example: of an adapter, which takes a name of the wrapped library after a colon.
    """

    title: str
    classes: str
    labels: str
    bands: str
    variants: tuple[str, ...] = ()
    license: str
    citation: str
    source: str
    options: tuple[str, ...] = ()
    splits: tuple[str, ...] = ("train", "val", "test")
    example: str | None = None


DATASETS = Registry("data.sources", "dataset", DatasetCard)
