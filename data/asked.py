"""The command that makes features again, from the flags that were recorded with them."""

import shlex
from pathlib import Path
from typing import Any


def recorded_command(asked: Any, identity: dict[str, Any], folder: Path, split: str) -> str | None:
    """A whole featurize command, to be given as it is; None where no flags were recorded.

    Args:
        asked: what `featurize.job.Job.asked` recorded, ``model`` and ``data`` flags by name.
        identity: of the features, for the precision that was chosen.
        folder: of the features, ``out/features/<dataset>/<encoder>``.
        split: train, val, test or all.
    """
    if not isinstance(asked, dict) or not all(isinstance(asked.get(group), dict) for group in ("model", "data")):
        return None
    flags = asked["model"] | asked["data"] | {"split": split, "precision": identity["encoder"].get("precision")}
    if len(folder.parents) > 2:
        flags["out"] = str(folder.parents[2])
    words = ["featurize"]
    for name, value in flags.items():
        if value is not None and value is not False:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)
