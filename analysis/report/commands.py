"""The commands that make what a report shows again, or what it lacks."""

import dataclasses
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis import frames
from analysis.contract import ViewRequest, default_options
from analysis.report.inventory import EncoderResults
from data import paths
from data.asked import recorded_command
from data.dataset import SPLITS
from probes import protocols
from probes.card import PROBES
from probes.flags import FitFlags


def commands(one: EncoderResults, out: Path) -> list[str]:
    """The commands that make these features and runs again."""
    lines = [featurize_command(one, out)]
    alike: dict[str, tuple[dict[str, Any], dict[str, set[int]]]] = {}
    for run in one.runs:
        settings = probe_flags(run.record["arguments"], run.kind, frames.resplit(run))
        key = json.dumps([settings, frames.resplit(run)])
        alike.setdefault(key, (settings, {}))[1].setdefault(run.kind, set()).add(run.record["seed"])
    for key, (settings, seeds_of) in alike.items():
        for seeds in dict.fromkeys(tuple(sorted(seeds)) for seeds in seeds_of.values()):
            kinds = sorted(kind for kind, own in seeds_of.items() if tuple(sorted(own)) == seeds)
            for which in _seed_flags(seeds, json.loads(key)[1], settings["protocol"]):
                lines.append(probe_command(one, out, kinds, which | settings))
    return lines


def _seed_flags(seeds: Sequence[int], resplit: dict[str, Any], protocol: str | None) -> list[dict[str, Any]]:
    """``--seed`` and ``--seeds`` of the commands that make runs of all these seeds (sorted).

    ``--split-by`` draws its splits by ``--seed``, so that its runs start there; some protocols set how many seeds.
    """
    fixed = protocols.PROTOCOLS[protocol].seeds if protocol in protocols.PROTOCOLS else None
    if resplit:
        first = resplit.get("seed", 0)
        spans = [(first, max(seeds) - first + 1)]
    else:
        spans = []
        for seed in seeds:
            start, count = spans[-1] if spans else (seed, 0)
            if not fixed and count and seed == start + count:
                spans[-1] = (start, count + 1)
            elif seed >= start + count:
                spans.append((seed, fixed or 1))
    return [{"seed": start or None, "seeds": None if fixed or count == 1 else count} for start, count in spans]


def probe_flags(arguments: dict[str, Any], kind: str, resplit: dict[str, Any]) -> dict[str, Any]:
    """The flags of probe that a run was made with, without its seed; None or False where the default was taken.

    Args:
        arguments: as the run recorded them.
        kind: of probe.
        resplit: how its splits were drawn anew, empty for the dataset's own.
    """
    name = arguments.get("protocol") or "default"
    sets = protocols.PROTOCOLS[name].sets(kind) if name in protocols.PROTOCOLS else set()
    given = {setting: value for setting, value in arguments.items() if setting not in sets}
    views, device, standardise = given.get("views", 1), given.get("device", "cpu"), given.get("standardise")
    possible = {field.name for field in dataclasses.fields(FitFlags)}
    options = {option: value for option, value in arguments.get("options", {}).items() if option not in sets}
    return {
        "protocol": None if name == "default" else name,
        "shots": given.get("shots"),
        "val": "all" if arguments.get("shots") and "val" not in arguments else None,
        "train-fraction": _exact(given.get("fraction")),
        "select": given.get("select"),
        "folds": given.get("folds"),
        "refit": given.get("refit", False),
        "standardize": standardise is True,
        "no-standardize": standardise is False,
        "beta": None if given.get("beta", 2) == 2 else _exact(given["beta"]),
        "balanced": given.get("balanced", False),
        "oversample": given.get("oversample"),
        "calibrate": given.get("calibrate"),
        "budget": None if given.get("budget_s") is None else f"{_exact(given['budget_s'])}s",
        "device": None if device == "cpu" else device,
        "augment": None if views == 1 else views,
        "split-by": resplit.get("by"),
        "buffer-km": _exact(resplit.get("buffer_km") or None),
        **{option.replace("_", "-"): _exact(value) for option, value in options.items() if option in possible},
    }


def _exact(value: float | None) -> str | None:
    """A number in few digits that reads back as the same number."""
    if value is None:
        return None
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def report_command(request: ViewRequest, options: dict[str, Any]) -> str:
    """The command that makes this report again.

    Args:
        request: as it was given.
        options: the report's own, by name.
    """
    default = ViewRequest()
    given = {name: getattr(request, name) for name in ("model", "dataset", "kind", "rule", "style", "out", "folder")}
    changed = {name: value for name, value in given.items() if value != getattr(default, name)}
    changed |= {name: value for name, value in options.items() if value != default_options("report")[name]}
    return shlex.join(["analyze", "report", *_flags({name.replace("_", "-"): v for name, v in changed.items()})])


def missing(one: EncoderResults, out: Path) -> list[tuple[str, str]]:
    """What is missing, each with the command that makes it."""
    gaps = []
    absent = [split for split in SPLITS if split not in one.present]
    if absent:
        gaps.append((f"no {' or '.join(absent)} features of {one.words}", featurize_command(one, out)))
    kinds_of: dict[str, set[str]] = {}
    for run in one.runs:
        kinds_of.setdefault(run.record["arguments"].get("protocol") or "default", set()).add(run.kind)
    for name, done in (kinds_of or {"default": set()}).items():
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


def probe_command(one: EncoderResults, out: Path, kinds: Sequence[str], settings: dict[str, Any] | None = None) -> str:
    """The command that runs these probes on these features, with these flags."""
    every = list(kinds) == PROBES.names()
    flags = {"kind": "all" if every else ",".join(kinds), "features": one.folder, **(settings or {}), "out": out}
    return shlex.join(["probe", *_flags(flags)])


def _flags(values: dict[str, Any]) -> list[str]:
    """``--flag value`` for every value that is set, ``--flag`` for True; the default output folder need not be said."""
    set_ = {flag: v for flag, v in values.items() if v is not None and v is not False and v != paths.DEFAULT_OUT}
    return [word for flag, v in set_.items() for word in (f"--{flag}", *([] if v is True else [str(v)]))]
