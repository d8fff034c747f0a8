"""Which versions made the parts of a split: other code or another torch may give slightly other values."""

import hashlib
from functools import cache
from importlib.metadata import version
from pathlib import Path

PACKAGES = ("frozen-earth", "torch", "torchgeo", "transformers", "timm", "numpy")
TOP = Path(__file__).parent.parent.parent


@cache
def maker() -> dict[str, str]:
    """Versions of what computes features, and a digest of this program's own code, which may change between them."""
    digest = hashlib.sha256()
    for package in ("data", "featurize"):
        for file in sorted((TOP / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return {name: version(name) for name in PACKAGES} | {"code": digest.hexdigest()[:12]}


def described(one: dict[str, str], other: dict[str, str]) -> str:
    """In what two makers differ, in words."""
    differing = [name for name in other if one.get(name) != other[name]]
    return ", ".join(f"{name} {one.get(name, 'unknown')}, now {other[name]}" for name in differing)
