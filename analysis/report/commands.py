"""The commands that reproduce what a report shows, or make what it lacks."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.report.inventory import EncoderResults
from data import paths
from data.asked import recorded_command, words_of
from data.dataset import SPLITS
from data.scene.grid import grids_of
from probes import protocols
from probes.card import PROBES


def commands(one: EncoderResults, out: Path) -> list[str]:
    """The commands that make these features and runs again: as recorded, or the flags that are known."""
    made = []
    for run in one.runs:
        protocol = run.record["arguments"].get("protocol")
        flags = {"protocol": None if protocol == "default" else protocol, "seed": run.record["seed"] or None}
        made.append(run.command or probe_command(one, out, [run.kind], flags))
    return [featurize_command(one, out), *dict.fromkeys(made)]


def missing(one: EncoderResults, out: Path) -> list[tuple[str, str]]:
    """What is missing, each with the command that makes it."""
    gaps = []
    scene = bool(grids_of(one.shared["dataset"]["provenance"]))  # its windows are one split, labels come later
    absent = [split for split in (["test"] if scene else SPLITS) if split not in one.present]
    if absent:
        gaps.append((f"no {' or '.join(absent)} features of {one.words}", featurize_command(one, out)))
    kinds_of: dict[str, set[str]] = {}
    for run in one.runs:
        kinds_of.setdefault(run.record["arguments"].get("protocol") or "default", set()).add(run.kind)
    for name, done in (kinds_of or {"map" if scene else "default": set()}).items():
        of_protocol = protocols.PROTOCOLS[name].kinds if name in protocols.PROTOCOLS else ()
        if kinds := [kind for kind in of_protocol or PROBES.names() if kind not in done]:
            protocol = {} if name == "default" else {"protocol": name}
            words = f" by the {name} protocol" if protocol else ""
            gaps.append(
                (f"{one.words} has no run of {', '.join(kinds)}{words}", probe_command(one, out, kinds, protocol))
            )
    return gaps


def featurize_command(one: EncoderResults, out: Path) -> str:
    """The command that makes these features: as recorded, else the flags that name model and dataset."""
    dataset, encoder = one.shared["dataset"], one.shared["encoder"]
    if "imported" in dataset["provenance"]:
        file = one.environment.get("imported_from", "FILE")
        return shlex.join(["featurize", "import", file, "--name", dataset["name"], "--model", encoder["name"]])
    recorded = recorded_command(one.environment.get("asked"), one.shared, one.folder, "all")
    names = {"model": encoder["name"], "variant": encoder["variant"], "dataset": dataset["name"], "out": out}
    return recorded or shlex.join(["featurize", *_flags(names)])


def probe_command(one: EncoderResults, out: Path, kinds: Sequence[str], settings: dict[str, Any]) -> str:
    """The command that runs these probes on these features, with these flags."""
    every = list(kinds) == PROBES.names()
    flags = {"kind": "all" if every else ",".join(kinds), "features": one.folder, **settings, "out": out}
    return shlex.join(["probe", *_flags(flags)])


def _flags(values: dict[str, Any]) -> list[str]:
    """``--flag value`` for every value that is set, without the default output folder."""
    return words_of({flag: value for flag, value in values.items() if value != paths.DEFAULT_OUT})
