"""What an unfinished split will become: ``plan.json`` in its parts folder, with a checksum.

Each line of a journal repeats the plan's digest and the size of a part, so that sound parts outlive a damaged plan. It
names the versions that make the parts: other code or another torch may give slightly other values.
"""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data.errors import RequestError
from data.files import canonical_json, published

PLAN_FILE = "plan.json"
MADE_BY = "made_by"  # versions: recorded, never compared
PACKAGES = ("frozen-earth", "torch", "torchgeo", "transformers", "timm", "numpy")
TOP = Path(__file__).parent.parent.parent
SIZES = {"rows": int, "dim": int, "dtype": str, "part_rows": int}


def plan_digest(plan: Mapping[str, Any]) -> str:
    """sha256 of a plan, whatever the size of its parts."""
    compared = {name: value for name, value in plan.items() if name not in ("part_rows", MADE_BY)}
    return hashlib.sha256(canonical_json(compared).encode()).hexdigest()


def write_plan(parts: Path, plan: Mapping[str, Any]) -> None:
    """Publish the plan of a parts folder."""
    with published(parts / PLAN_FILE) as temporary:
        temporary.write_text(canonical_json({**plan, "sha256": _digest(plan)}), encoding="utf-8")


def read_plan(parts: Path) -> dict[str, Any] | None:
    """The plan of a parts folder; None where there is none.

    Raises:
        DamagedPlan: it is not what was written.
    """
    file = parts / PLAN_FILE
    if not file.exists():
        return None
    try:
        plan = json.loads(file.read_bytes())
        recorded = plan.pop("sha256", None)  # absent in v0.1's
        known = plan.keys() == {"identity", *SIZES} if recorded is None else recorded == _digest(plan)
        sound = known and isinstance(plan["identity"], dict)
        sound = sound and all(type(plan[name]) is kind for name, kind in SIZES.items())
        sound = sound and plan["dtype"] in ("float16", "float32") and min(plan["dim"], plan["part_rows"]) > 0
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        sound = False
    if not sound:
        raise DamagedPlan(f"{file} is damaged")
    return plan


class DamagedPlan(RequestError):
    """A plan that is not what was written: nothing in it can be relied on."""


def _digest(plan: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical_json(plan).encode()).hexdigest()


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
