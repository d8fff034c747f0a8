"""One self-contained page of every run found: samples to explore, tables, figures, and how to repeat it all."""

import base64
import dataclasses
import json
import re
import shlex
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from analysis import frames, page, thumbnails
from analysis.view import Output, ViewRequest, default_options, run_view, together
from analysis.views import umap
from data import paths, store
from data.bands import BAND_SETS
from data.dataset import SPLITS
from data.errors import DamageWarning, RequestError
from data.files import write_text
from data.folders import clear_left, published_folder
from data.lock import Lock
from data.registry import DATASETS, PROBES, VIEWS
from data.runs import Run, find_runs
from probes import protocols
from probes.flags import FitFlags

CARD = {
    "input": "runs",
    "options": {
        "points": {"default": 20_000, "help": "Show at most this many test samples of each dataset, chosen at random."},
        "pictures": {"default": 2000, "help": "Keep small pictures of so many of them; 0 keeps none."},
        "data_root": {"default": "", "help": "Folder of the images. Default: EO_DATA_ROOT, then datasets."},
        "fit_on": {"default": 0, "help": "Fit UMAP on so many samples and place the others among them; 0 fits on all."},
        "fast": {"default": False, "help": "UMAP on every core: sooner done, but never twice the same layout."},
    },
}

MARK = '<meta name="generator" content="frozen-earth report">'  # what tells a report from a folder of the user's
LISTED = "files.json"  # what of a report's folder a later report may delete
V1_SUFFIXES = (".png", ".svg", ".csv", ".md", ".tex")
WEIGHT_FILES = (".pt", ".pth", ".safetensors")
LIVE = ("classes", "confusion")  # views that the page's interactive part shows as tables of its own
PLOTLY = Path("package_data", "plotly.min.js")
PACKAGES = ("frozen-earth", "numpy", "pandas", "scikit-learn", "umap-learn", "matplotlib", "plotly", "torch")


@dataclass(frozen=True)
class Features:
    """One encoder on one dataset, known from its features, its runs or both.

    Args:
        dataset: folder name.
        encoder: folder name.
        words: the encoder in a few words, unique in the report.
        folder: where its features are or would be.
        shared: ``dataset`` and ``encoder`` identity.
        splits: identity of each split known.
        environment: what featurize recorded, where the features are there.
        present: splits whose features are there.
        runs: its runs.
    """

    dataset: str
    encoder: str
    words: str
    folder: Path
    shared: dict[str, Any]
    splits: dict[str, dict[str, Any]]
    environment: dict[str, Any]
    present: list[str]
    runs: list[Run]

    @property
    def simulated(self) -> bool:
        """Whether the samples were generated."""
        return bool(self.shared["dataset"]["provenance"].get("simulated"))


@dataclass
class Section:
    """One view of one dataset: its outputs, by encoder."""

    view: str
    heading: str
    show: str
    outputs: dict[str, list[Output]] = field(default_factory=dict)


# ------------------------------------------------------------------------------------------------- view


def run(request: ViewRequest, *, points: int, pictures: int, data_root: str, fit_on: int, fast: bool) -> list[Output]:
    """Draw everything there is and write the page that shows it."""
    if points < 1 or pictures < 0:
        raise RequestError("--points must be at least 1, --pictures at least 0")
    folder = request.folder.resolve() if request.folder else paths.report_folder(request.out)  # "." has no name
    found = find(request)
    layouts = {"points": points, "fit_on": fit_on, "fast": fast}
    with Lock(folder.with_name(f".{folder.name}.lock"), what=folder):
        clear_left(folder, ours=_written)  # the lock says that nobody is at work
        _check_replaceable(folder)
        _make(request, found, folder, layouts, pictures=pictures, data_root=data_root)
    return [Output(title="Report", files=(folder / "index.html",))]


def _make(
    request: ViewRequest,
    found: list[Features],
    folder: Path,
    layouts: dict[str, Any],
    *,
    pictures: int,
    data_root: str,
) -> None:
    """Make the report beside the old one and put it in its place."""
    root = Path(data_root) if data_root else None
    with published_folder(folder, ours=_written) as building:
        outputs, complaints = _draw_all(request, found, building / "figures", layouts)
        print("report: the page ...", file=sys.stderr)
        shown, more = shown_samples(request, found, layouts)
        explorer = page.explorer(
            shown, request.rules, pictures=pictures, root=root, cache=paths.layout_cache(request.out)
        )
        options = {**layouts, "pictures": pictures, "data_root": data_root or None}
        again = report_command(request, options)
        text = render(request, found, outputs, explorer, [*complaints, *more], building, again=again)
        write_text(building / "index.html", text)
        names = sorted(str(path.relative_to(building)) for path in building.rglob("*") if path.is_file())
        write_text(building / LISTED, json.dumps(names, indent=1))


def find(request: ViewRequest) -> list[Features]:
    """Every encoder x dataset that has features or runs, sorted by folder.

    Raises:
        RequestError: there is nothing at all, or a run is damaged.
    """
    grouped = frames.grouped(find_runs(request.out, model=request.model, dataset=request.dataset, kind=request.kind))
    folders = {(folder.parent.name, folder.name): folder for folder in paths.feature_folders(request.out)}
    found = []
    for key in sorted(grouped.keys() | folders.keys()):
        features = _features(request.out, key, folders.get(key), grouped.get(key, []))
        shared = features.shared
        if request.model not in (None, shared["encoder"]["name"], features.encoder):
            continue
        if request.dataset in (None, shared["dataset"]["name"], features.dataset):
            found.append(features)
    if not found:
        raise RequestError(
            f"nothing to report under {request.out}; make features with featurize, then runs with probe --kind all"
        )
    words = frames.distinct_words(
        {(features.dataset, features.encoder): features.shared["encoder"] for features in found}
    )
    return [replace(features, words=words[features.dataset, features.encoder]) for features in found]


def _features(out: Path, key: tuple[str, str], folder: Path | None, runs: list[Run]) -> Features:
    dataset, encoder = key
    present = store.splits_in(folder) if folder else []
    splits, environment = {}, {}
    if runs:
        shared = runs[0].record["features"]
        splits |= shared["splits"]
    for split in list(present):
        try:
            shared, environment = store.read_identity(paths.feature_file(folder, split))  # type: ignore[arg-type]
        except store.Damaged as error:
            if not runs and len(present) == 1:
                raise  # nothing of this set can be told
            warnings.warn(DamageWarning(f"left out: {error}"), stacklevel=2)
            present.remove(split)
            continue
        splits[split] = shared["split"]
    where = paths.feature_folder(out, dataset, encoder)
    words = frames.model_words(shared["encoder"])
    return Features(dataset, encoder, words, where, shared, splits, environment, present, runs)


def _draw_all(
    request: ViewRequest, found: list[Features], folder: Path, layouts: dict[str, Any]
) -> tuple[list[tuple[str, Output]], list[str]]:
    """Run every view that belongs in the report; what cannot be drawn becomes a line, not an end."""
    outputs: list[tuple[str, Output]] = []
    complaints: list[str] = []
    for name in report_views():
        place = replace(request, folder=folder / name, pictures=VIEWS.card(name)["report"]["show"] != "table")
        requests, options = [place], {}
        if VIEWS.card(name)["input"] == "features":
            requests = [_of_test(place, features) for features in found if "test" in features.present]
            options = layouts
        elif not any(features.runs for features in found):
            continue
        print(f"report: {name} ...", file=sys.stderr)
        for one in requests:
            try:
                outputs += [(name, output) for output in run_view(name, one, **options)]
            except RequestError as error:
                complaints.append(f"{name}: {error}")
    return outputs, complaints


def _of_test(request: ViewRequest, features: Features) -> ViewRequest:
    """The request of a view of these features' test split."""
    return replace(request, features=features.folder, model=None, dataset=None, split="test")


def shown_samples(
    request: ViewRequest, found: list[Features], layouts: dict[str, Any]
) -> tuple[list[page.Shown], list[str]]:
    """The samples of every encoder for the interactive part, and what could not be had, a line each."""
    shown, complaints = [], []
    for features in found:
        about = {"words": features.words, "runs": features.runs}
        try:
            if "test" in features.present:
                sets, frame = umap.place(_of_test(request, features), **default_options("umap") | layouts)
                shown.append(page.from_features(sets[0], frame, dataset=features.dataset, **about))
                continue
            note = f"The test features of {features.words} are not there, so there is nothing to place."
        except RequestError as error:
            note = f"The features of {features.words} cannot be laid out: {error}"
            complaints.append(f"{features.dataset}, {features.words}: {error}")
        if features.runs:
            shown.append(page.from_runs(**about, most=layouts["points"], note=note))
    return shown, complaints


def report_views() -> list[str]:
    """The views whose figures or tables the report shows as they are, in order."""
    shown = [name for name in VIEWS.names() if "report" in VIEWS.card(name) and name not in LIVE]
    return sorted(shown, key=lambda name: VIEWS.card(name)["report"]["order"])


def _check_replaceable(folder: Path) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    index = folder / "index.html"
    if not index.is_file() or MARK not in index.read_text(encoding="utf-8", errors="replace")[:2000]:
        raise RequestError(f"{folder} is there and is no report; choose another --folder, or remove it")
    written = _written(folder)
    strange = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    if strange := [name for name in strange if name not in written]:
        raise RequestError(
            f"{folder} holds {len(strange)} files that no report wrote, first {strange[0]}; move them away, or choose "
            "another --folder"
        )


def _written(folder: Path) -> set[str]:
    """Relative paths of the files that the report in a folder wrote; a report of v0.1 has no list of them."""
    try:
        return set(json.loads((folder / LISTED).read_text(encoding="utf-8"))) | {LISTED}
    except FileNotFoundError:
        figures = [path for path in (folder / "figures").rglob("*") if path.suffix in V1_SUFFIXES]
        return {"index.html", *(str(path.relative_to(folder)) for path in figures)}
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"{folder / LISTED} is damaged; choose another --folder, or move {folder} away") from error


# ------------------------------------------------------------------------------------------------- page


def render(
    request: ViewRequest,
    found: list[Features],
    outputs: list[tuple[str, Output]],
    explorer: page.Explorer,
    complaints: list[str],
    folder: Path,
    *,
    again: str,
) -> str:
    """The page as HTML.

    Args:
        request: what was asked.
        found: what there is.
        outputs: by view name, in the order of the page.
        explorer: the interactive part.
        complaints: what could not be drawn, and why.
        folder: where the page will be; the files beside it are named relative to it.
        again: the command that makes it again.
    """
    environment = Environment(
        loader=PackageLoader("analysis", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=StrictUndefined,
    )  # fmt: skip
    environment.filters["marked"] = _marked
    environment.filters["shade"] = _shade
    environment.filters["inline"] = lambda file: _inline(file.read_bytes(), "svg+xml")
    environment.filters["together"] = lambda files: together([file.relative_to(folder) for file in files])
    here = files("analysis")
    datasets = []
    for dataset in dict.fromkeys(features.dataset for features in found):
        members = [features for features in found if features.dataset == dataset]
        datasets.append(
            {
                "name": dataset,
                "simulated": members[0].simulated,
                "facts": dataset_facts(members),
                "encoders": [encoder_facts(features) for features in members],
                "warnings": list(dict.fromkeys(w for f in members for r in f.runs for w in r.record["warnings"])),
                "sections": _sections(dataset, outputs),
                "runs": sum(len(features.runs) for features in members),
                "words": {features.encoder: features.words for features in members},
                "commands": [line for features in members for line in commands(features, request.out)],
                # --kind leaves runs out: what it hides is not missing
                "missing": [] if request.kind else [gap for f in members for gap in missing(f, request.out)],
            }
        )
    return environment.get_template("report.html").render(
        mark=Markup(MARK),
        datasets=datasets,
        complaints=complaints,
        panels=explorer.panels,
        notes=explorer.notes,
        columns=thumbnails.COLUMNS,
        sprites=[(name, _inline(image, "webp")) for name, image in explorer.sprites.items()],
        blobs=explorer.blobs.texts.items(),
        data=_script(json.dumps(explorer.data, allow_nan=False)),
        css=Markup((here / "report.css").read_text("utf-8")),
        script=Markup((here / "report.js").read_text("utf-8")),
        plotly=Markup(files("plotly").joinpath(PLOTLY).read_text("utf-8")),
        explorer=Markup((here / "explorer.js").read_text("utf-8")),
        simulated=any(features.simulated for features in found),
        runs=sum(len(features.runs) for features in found),
        created=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        versions=[(package, version(package)) for package in PACKAGES],
        again=again,
    )


def _sections(dataset: str, outputs: Iterable[tuple[str, Output]]) -> list[Section]:
    sections: dict[str, Section] = {}
    for view, output in outputs:
        if output.dataset == dataset:
            place = VIEWS.card(view)["report"]
            section = sections.setdefault(view, Section(view, place["heading"], place["show"]))
            section.outputs.setdefault(output.encoder or "", []).append(output)
    return list(sections.values())


def dataset_facts(members: Sequence[Features]) -> list[tuple[str, str]]:
    """What a dataset is, as pairs of a word and a value."""
    dataset = members[0].shared["dataset"]
    splits = {split: identity for features in members for split, identity in features.splits.items()}
    rows = [
        f"{split} {splits[split]['rows']:,} (ids {splits[split]['ids_sha256'][:12]})"
        for split in SPLITS
        if split in splits
    ]
    runs = [run for features in members for run in features.runs]
    provenance = ", ".join(f"{key} {value}" for key, value in dataset["provenance"].items())
    facts = {
        "Variant": dataset["variant"],
        "Task": ("multi-label" if runs[0].multilabel else "single-label") if runs else None,
        "Samples": "; ".join(rows),
        "Classes": f"{len(dataset['class_names'])}: {'; '.join(dataset['class_names'])}",
        "Limit": f"{dataset['limit']} samples a split" if dataset["limit"] else None,
        "Provenance": provenance or None,
    }
    return [(word, value) for word, value in facts.items() if value]


def encoder_facts(features: Features) -> dict[str, Any]:
    """What an encoder is: its words, its folder, and pairs of a word and a value."""
    encoder, environment = features.shared["encoder"], features.environment
    weights = encoder["weights"]
    sha256 = weights.get("sha256")
    rate, origin = environment.get("images_per_s"), environment.get("weights_origin")
    facts = {
        "Bands": f"{encoder['bands_name']}: {' '.join(encoder['bands'])}",
        "Input": f"{encoder['image_size']} px" if encoder["image_size"] else "native size",
        "Pooling": encoder["pooling"],
        "Normalisation": encoder["normalization"]["method"],
        "Weights": f"{weights['source']} from {origin}" if origin else weights["source"],
        "Weights sha256": sha256 if sha256 and sha256.strip("0") else None,
        "Precision": encoder["precision"],
        "Made on": " at ".join(
            part for part in (str(environment.get("device") or ""), f"{rate:,.0f} images/s" if rate else "") if part
        ),
        "Features": f"{features.folder}" if features.present else None,
        "Probes": ", ".join(sorted({run.kind for run in features.runs})) or "none yet",
    }
    return {
        "words": features.words,
        "folder": features.encoder,
        "facts": [(word, value) for word, value in facts.items() if value],
    }


def commands(features: Features, out: Path) -> list[str]:
    """The commands that make these features and runs again."""
    lines = [featurize_command(features, out)]
    alike: dict[str, tuple[dict[str, Any], dict[str, set[int]]]] = {}
    for one in features.runs:
        settings = probe_flags(one.record["arguments"], one.kind, _resplit(one))
        key = json.dumps([settings, _resplit(one)])
        alike.setdefault(key, (settings, {}))[1].setdefault(one.kind, set()).add(one.record["seed"])
    for key, (settings, seeds_of) in alike.items():
        for seeds in dict.fromkeys(tuple(sorted(seeds)) for seeds in seeds_of.values()):
            kinds = sorted(kind for kind, own in seeds_of.items() if tuple(sorted(own)) == seeds)
            for which in _seed_flags(seeds, json.loads(key)[1], settings["protocol"]):
                lines.append(probe_command(features, out, kinds, which | settings))
    return lines


def _resplit(run: Run) -> dict[str, Any]:
    return run.record["features"].get("splits", {}).get("test", {}).get("resplit") or {}


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
    card, style, rule = CARD["options"], request.style, request.rule
    flags = {
        "model": request.model,
        "dataset": request.dataset,
        "kind": request.kind,
        "rule": None if rule == "both" else rule,
        "style": None if style == "paper" else style,
        "out": request.out,
        "folder": request.folder,
        **{name.replace("_", "-"): None if v == card[name]["default"] else v for name, v in options.items()},
    }
    return _line("analyze", "report", *_flags(flags))


def missing(features: Features, out: Path) -> list[tuple[str, str]]:
    """What is not there yet, each with the command that makes it."""
    gaps = []
    absent = [split for split in SPLITS if split not in features.present]
    if absent:
        gaps.append((f"no {' and '.join(absent)} features of {features.words}", featurize_command(features, out)))
    kinds = [kind for kind in PROBES.names() if kind not in {run.kind for run in features.runs}]
    if kinds:
        gaps.append((f"{features.words} has no run of {', '.join(kinds)}", probe_command(features, out, kinds)))
    return gaps


def featurize_command(features: Features, out: Path) -> str:
    """The command that makes these features; the word ``DATA_ROOT`` stands for the folder of the data."""
    dataset, encoder = features.shared["dataset"], features.shared["encoder"]
    if "imported" in dataset["provenance"]:
        file = features.environment.get("imported_from", "FILE")
        return shlex.join(["featurize", "import", file, "--name", dataset["name"], "--model", encoder["name"]])
    views = max((run.record["arguments"].get("views", 1) for run in features.runs), default=1)
    has_variants = dataset["name"] in DATASETS.names() and DATASETS.card(dataset["name"]).variants
    flags = {
        "model": encoder["name"],
        "variant": encoder["variant"],
        "dataset": dataset["name"],
        "dataset-variant": dataset["variant"] if has_variants else None,
        "data-root": None if dataset["name"] == "simulated" else "DATA_ROOT",
        "split": "all",
        "bands": encoder["bands_name"] if encoder["bands_name"] in BAND_SETS else ",".join(encoder["bands"]),
        "image-size": encoder["image_size"],
        "pooling": encoder["pooling"],
        "normalize": encoder["normalization"]["method"],
        "weights": weights_flag(encoder["weights"]["source"], features.environment.get("weights_origin")),
        "precision": encoder["precision"],
        "limit": dataset["limit"],
        **_left_out(dataset),
        "augment": views if views > 1 else None,
        "out": out,
    }
    return _line("featurize", *_flags(flags))


def _left_out(dataset: dict[str, Any]) -> dict[str, Any]:
    """Flags of a dataset that its provenance tells of."""
    known = DATASETS.card(dataset["name"]).options if dataset["name"] in DATASETS.names() else ()
    flags = {
        "classes": dataset["provenance"].get("classes"),
        "allow_missing": "absent" in dataset["provenance"],
        "drop_snow_cloud": "snow_cloud" in dataset["provenance"],
    }
    return {name.replace("_", "-"): value for name, value in flags.items() if name in known}


def weights_flag(source: str, origin: str | None) -> str | None:
    """``--weights`` as it was given: the identity holds only what the weights are, the environment whence they came."""
    if source == "loaded":
        file = origin and "://" not in origin and (Path(origin).exists() or Path(origin).suffix in WEIGHT_FILES)
        return origin if file else "pretrained"
    return "random" if source == "random" else None


def probe_command(features: Features, out: Path, kinds: Sequence[str], settings: dict[str, Any] | None = None) -> str:
    """The command that runs these probes on these features, with these flags."""
    every = list(kinds) == PROBES.names()
    flags = {"kind": "all" if every else ",".join(kinds), "features": features.folder, **(settings or {}), "out": out}
    return _line("probe", *_flags(flags))


def _flags(values: dict[str, Any]) -> list[str]:
    """``--flag value`` for every value that is set, ``--flag`` for True; the default output folder need not be said."""
    set_ = {flag: v for flag, v in values.items() if v is not None and v is not False and v != paths.DEFAULT_OUT}
    return [word for flag, v in set_.items() for word in (f"--{flag}", *([] if v is True else [str(v)]))]


def _line(*words: str) -> str:
    return shlex.join(words)


def _inline(content: bytes, kind: str) -> str:
    """An image as the page holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _script(text: str) -> Markup:
    """JSON that may stand in a page: no name in it can end the script."""
    return Markup(text.replace("<", "\\u003c"))


def _shade(cell: str) -> Markup:
    """A style that colours a cell which is a rate, by its value."""
    return Markup(f' class="rate" style="--share: {cell}"') if re.fullmatch(r"[01]\.\d{3}", cell) else Markup()


def _marked(cell: str) -> Markup:
    """A table cell as HTML: ``**bold**`` is bold and an interval in brackets stands smaller."""
    text = escape(cell)
    if "**" in text:
        before, bold, after = text.split("**", 2)
        text = Markup(f"{before}<strong>{bold}</strong>{after}")
    value, bracket, interval = text.partition(" [")
    return Markup(f'{value} <span class="interval">[{interval}</span>') if bracket else text
