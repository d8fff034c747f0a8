"""Checks the shapes and types of arrays at run time: jaxtyping's import hook with beartype, in the tests only.

`install` comes before the first import of a module that it should check. Annotations without an array are left to
pyright.
"""

import re
from pathlib import Path
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook

PROJECT = Path(__file__).parent.parent
PACKAGES = ("data", "featurize", "probes", "analysis")
NAMED = re.compile(r"jaxtyping|(probes|featurize)\.shapes")


def annotated_modules() -> list[str]:
    """Dotted names of the modules that annotate arrays with jaxtyping."""
    files = (file for package in PACKAGES for file in sorted((PROJECT / package).rglob("*.py")))
    parts = (file.relative_to(PROJECT).with_suffix("").parts for file in files if NAMED.search(file.read_text()))
    return [".".join(part for part in name if part != "__init__") for name in parts]


def install() -> None:
    """Check every function and dataclass of the annotated modules from now on, in this process."""
    install_import_hook(annotated_modules(), "shapes.check_arrays")


def has_array(annotation: Any) -> bool:
    """Whether an annotation is an array with a shape, or contains one."""
    if isinstance(annotation, type) and issubclass(annotation, AbstractArray):
        return True
    return any(has_array(part) for part in get_args(annotation))


def check_arrays(function):
    """The function with beartype's check of those arguments and results that are arrays."""
    arrays = {name: hint for name, hint in function.__annotations__.items() if has_array(hint)}
    if not arrays:
        return function
    function.__annotations__ = arrays
    return beartype(function)
