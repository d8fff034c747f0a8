"""The `probe` command: classical classifiers on stored features, each a run on disk."""

# Only light imports here, so that --help is quick; numpy, h5py and scikit-learn are imported inside functions.
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from data import command
from data.errors import RequestError
from data.pairs import run_pairs, several
from data.paths import DEFAULT_OUT, probe_root
from data.rules import check_rule, rule_name, rules_of
from probes import protocols
from probes.card import PROBES
from probes.flags import FitFlags, ProbeFlags, Switch

if TYPE_CHECKING:
    from data.runs import Run

app = command.new_app(
    "probe",
    "Fit classical probes on stored features: fit on train, choose on val, score test.\n\n"
    "Each run is a folder with run.json, predictions.h5 and model.skops under OUT/probes.",
)

NOTHING, EVERYTHING = FitFlags(), ProbeFlags()  # no flag given
COLUMNS = {
    True: ("f2_macro", "f2_micro", "f1_micro", "precision_micro", "recall_micro", "hamming_loss", "map_macro"),
    False: ("accuracy", "balanced_accuracy", "f1_macro", "precision_macro", "recall_macro", "f2_macro"),
}


@app.default
def probe(*, flags: ProbeFlags = EVERYTHING) -> int:
    """Fit classical probes on stored features: fit on train, choose on val, score test.

    Each run is a folder with run.json, predictions.h5 and model.skops under OUT/probes; a run that exists is reused.
    --model and --dataset accept lists: every pair is fitted in turn, and one that fails does not stop the others.

    Args:
        flags: Which probes, and how.
    """
    flags = flags.planned()

    def one(model: str | None, dataset: str | None) -> None:
        runs = replace(flags, model=model, dataset=dataset).fit()
        for run in runs:
            command.record(run=run.folder, kind=run.kind, seed=run.record["seed"], test=run.record["metrics"]["test"])
        if flags.seeds in (None, 1):
            _print_results(runs)
        else:
            _print_summary(runs, flags.out)

    if several(flags.model, flags.dataset):
        return run_pairs(
            "probe", flags.model, flags.dataset, one, lambda: [*probe_root(flags.out).glob("*/*/*/run.json")]
        )
    one(flags.model, flags.dataset)
    return 0


@app.command
def sweep(
    *, fit: FitFlags = NOTHING, shots: str | None = None, train_fractions: str | None = None, seeds: int | None = None
) -> None:
    """Learning curves: fit on growing subsets of train with several seeds; tables go to OUT/sweeps.

    Existing runs are reused, so an interrupted sweep resumes.

    Args:
        fit: Which probes, and how.
        shots: Numbers of training samples per class, comma-separated; all is the whole of train. Smaller subsets are
            contained in larger ones. Default: 1,5,10,50,all, or those of the protocol.
        train_fractions: Fractions of train instead of --shots, comma-separated, such as 0.01,0.1,1.
        seeds: Number of seeds, starting at --seed; each draws its own subsets. Default: 5.
    """
    cuts = _cuts(fit, shots, train_fractions)
    fit, more = fit.with_protocol(seeds=seeds)
    kinds, numbers = fit.kinds(), fit.seeds_from(5 if more["seeds"] is None else more["seeds"])
    fit.check_val(any(cut.get("shots") for cut in cuts))
    splits = fit.splits()
    fit.check(kinds, splits)
    runs = []
    for cut in cuts:
        for seed in numbers:
            part = f"{cut['fraction']:g} of train" if "fraction" in cut else f"{cut['shots'] or 'all'} per class"
            print(f"{'all of train' if cut == {'shots': None} else part}, seed {seed}:", file=sys.stderr)
            runs += [fit.run(kind, splits, seed=seed, cut=cut) for kind in kinds]
    _print_summary(runs, fit.out)


def _cuts(fit: FitFlags, shots: str | None, train_fractions: str | None) -> list[dict[str, Any]]:
    """The parts of train of a learning curve, as ``shots`` or ``fraction`` of `probes.settings.Settings`."""
    if shots is not None and train_fractions is not None:
        raise RequestError("--shots and --train-fractions cannot be combined; give one of them")
    protocol = protocols.get(fit.protocol)
    if not protocol.any_part and (shots or train_fractions):
        raise RequestError(f"--protocol {fit.protocol} sets the parts of train; drop --shots and --train-fractions")
    if protocol.fractions:
        return [{"fraction": fraction} for fraction in protocol.fractions]
    if not protocol.any_part:
        return [{"shots": protocol.shots}]
    if train_fractions is not None:
        return [{"fraction": _fraction(word.strip())} for word in train_fractions.split(",")]
    words = "1,5,10,50,all" if shots is None else shots
    return [{"shots": count} for count in dict.fromkeys(_shots(word.strip()) for word in words.split(","))]


def _shots(word: str) -> int | None:
    if word == "all":
        return None
    if not word.isdecimal() or int(word) < 1:
        raise RequestError(f"--shots {word or 'is empty'}: give numbers of at least 1, or all, such as 1,5,10,all")
    return int(word)


def _fraction(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise RequestError(
            f"--train-fractions {word or 'is empty'}: give shares above 0 and at most 1, such as 0.01,0.1,1"
        )
    return value


@app.command
def predict(
    run: Path,
    *features: Path,
    to: Path,
    rule: str = "tuned",
    other_dataset: Annotated[bool, Switch] = False,
    n_jobs: Annotated[int, Parameter(name="--n-jobs")] = -1,
    overwrite: Annotated[bool, Switch] = False,
) -> None:
    """Score other features with a finished run: a table of ids, predicted labels and scores; or map a scene.

    The features must come from the same encoder as the run's, with the same settings. A map covers all windows of the
    scene that the run was trained on: classes in map.tif, probabilities in map-probability.tif; where windows overlap,
    probabilities are averaged.

    Args:
        run: Folder of the run.
        features: Feature file, such as test.h5; for a run on joined features, one per encoder.
        to: Table to write, .csv or .parquet; or the map: .tif, .vrt (a mosaic of several scenes), or polygons in .gpkg,
            .geojson or, without features, .parquet.
        rule: tuned (the run's thresholds) or half (0.5); single-label runs use the argmax for both.
        other_dataset: Accept features of a dataset that the run was not trained on.
        n_jobs: Blocks scored in parallel, -1 for one per core; does not change the result.
        overwrite: Replace the table or map if it exists.
    """
    check_rule(rule)
    if not features and to.suffix == ".csv":
        raise RequestError("predict needs a feature file after the run, such as test.h5")
    if features and to.suffix in (".tif", ".vrt", ".gpkg", ".geojson"):
        raise RequestError(f"--to {to}: a map is of the run's own scene; leave the feature files out")
    if to.exists() and not overwrite:
        raise RequestError(f"{to} exists; give --overwrite to replace it, or choose another name")

    from data import runs  # deferred, as all below: h5py, pyarrow and scikit-learn
    from probes import prediction

    done = runs.read_run(run)
    if not features:
        from probes.map_files import map_run

        print(f"wrote {', '.join(map(str, map_run(done, to, n_jobs=n_jobs)))}")
        return
    rows, notes = prediction.predict(done, features, to, rule=rule, other_dataset=other_dataset, n_jobs=n_jobs)
    for line in notes:
        print(f"probe: note: {line}", file=sys.stderr)
    how = f"rule {rule}" if done.multilabel else "argmax"
    simulated = "; trained on simulated data" if done.simulated else ""
    print(f"wrote {to} ({rows:,} samples, {len(done.class_names)} classes, {how}{simulated})")


@app.command
def suggest(
    run: Path,
    *,
    to: Path,
    count: int = 20,
    n_jobs: Annotated[int, Parameter(name="--n-jobs")] = -1,
    overwrite: Annotated[bool, Switch] = False,
) -> None:
    """Suggest windows of a scene to label next: the least certain ones that differ from each other.

    The file has one point per window and an empty column for the class. Fill it in, add the points to the file given as
    featurize --labels, and run probe again; features are not recomputed.

    Args:
        run: Folder of a run with --protocol map.
        to: File to write: .gpkg, .geojson, .parquet or .csv.
        count: Number of windows.
        n_jobs: Blocks of windows scored at a time, -1 for one per core; does not change the result.
        overwrite: Replace the file if it exists.
    """
    if to.exists() and not overwrite:
        raise RequestError(f"{to} exists; give --overwrite to replace it, or another name")

    from data import runs  # deferred, as below: h5py and scikit-learn
    from probes import suggest as suggesting

    written = suggesting.suggest(runs.read_run(run), to, count=count, n_jobs=n_jobs)
    print(f"wrote {to} ({written} windows to label)")


@app.command
def compare(
    run: Path,
    other: Path,
    *,
    rule: str = "tuned",
    other_rule: str | None = None,
    to: Path | None = None,
) -> None:
    """Compare two runs on the same test samples: paired differences with 95% intervals and p-values.

    Intervals and p-values are computed over spatial cells of 0.25 degrees where locations are known, otherwise over
    images; p-values are also given with Holm's correction for testing several metrics. For single-label runs,
    McNemar's exact test is added, which assumes independent samples.

    Args:
        run: Folder of the first run.
        other: Folder of the second run. To compare two decision rules of one run, give the same folder twice.
        rule: tuned (the run's thresholds) or half (0.5); single-label runs use the argmax for both.
        other_rule: Decision rule of the second run. Default: the same as --rule.
        to: JSON file for the comparison; replaced if it exists.
    """
    for name in (rule, other_rule or rule):
        check_rule(name)

    import json  # deferred, as all below: h5py, scipy and scikit-learn

    from data import runs
    from data.files import write_text

    if to:
        _check_comparison(to)
    from probes import compare as comparing

    first, second = runs.read_run(run), runs.read_run(other)
    found = comparing.compare(first, second, rule=rule, other_rule=other_rule)
    _print_comparison(found, first, second)
    if to:
        about = {"run": str(run), "other": str(other), "rule": rule, "other_rule": other_rule or rule}
        write_text(to, json.dumps(about | found, indent=1))
        print(to)


def _check_comparison(to: Path) -> None:
    """Raise a RequestError if the file exists and is no comparison, such as features or a run's record."""
    import json

    if to.suffix != ".json":
        raise RequestError(f"--to {to}: name a file that ends in .json")
    if not to.exists():
        return
    try:
        known = json.loads(to.read_text(encoding="utf-8"))
        replaceable = {"run", "other", "rule", "metrics"} <= known.keys()
    except (OSError, ValueError, AttributeError):
        replaceable = False
    if not replaceable:
        raise RequestError(f"--to {to}: exists and is not a comparison of runs; choose another file")


@app.command(name="list")
def list_() -> None:
    """List the probe kinds with their hyper-parameters, and the evaluation protocols with their sources."""
    width = max(len(name) for name in (*PROBES.names(), *protocols.PROTOCOLS))
    for name in PROBES.names():
        print(f"{name:{width}}  {PROBES.summary(name)}")
    print("\nprotocols (--protocol):")
    for name, protocol in protocols.PROTOCOLS.items():
        print(f"{name:{width}}  {protocol.title}\n{'':{width}}  {protocol.citation}")


@app.command
def verify(*run: Path, out: Path = DEFAULT_OUT) -> int:
    """Verify the checksums of runs, maps and tables of predictions; exits with 1 if a file is damaged or missing.

    Runs of version 0.1 have no checksums: they count as unverified, and fail only if they cannot be read.

    Args:
        run: Folders of runs, or folders that contain runs or maps; or maps and tables that predict wrote. Default: all
            below --out.
        out: Output folder.
    """
    from data import checksums, runs  # deferred: numpy and h5py

    folders, signed = runs.folders_of_runs(run or (out,)), checksums.signed_files(run or (out,))
    if not folders and not signed:
        named = ", ".join(map(str, run)) or out
        raise RequestError(f"no runs, and no maps with checksums, below {named}; make some with probe")
    wrong = runs.report_verified(folders)
    if folders:
        print(f"{len(folders) - wrong} of {len(folders)} runs passed")
    damaged = checksums.report_signed(signed)
    if signed:
        print(f"{len(signed) - damaged} of {len(signed)} maps and tables passed")
    return 1 if wrong + damaged else 0


def _print_summary(runs: "list[Run]", out: Path) -> None:
    """Mean over seeds and its interval as a table, then warnings and the folder of the tables."""
    from tabulate import tabulate

    from probes import sweep as sweeping

    first, rows = runs[0], sweeping.summary(runs)
    groups: dict[tuple, dict] = {}
    for row in rows:
        groups.setdefault(tuple(row[name] for name in sweeping.GROUP), {})[row["metric"]] = row
    columns = COLUMNS[first.multilabel]
    table = []
    for (kind, shots, fraction, rule), by_metric in groups.items():
        part = f"{shots} per class" if shots else f"{fraction:g} of train" if fraction else "all"
        table.append([kind, part, rule, *(_mean_and_interval(by_metric[column]) for column in columns)])
    seeds = sorted({run.record["seed"] for run in runs})
    _print_heading(first.encoder, first, first.record["rows"]["test"])
    print(f"mean over {len(seeds)} seeds ({seeds[0]} to {seeds[-1]}) and its 95% interval {rows[0]['by']}")
    print(tabulate(table, headers=["kind", "train", "rule", *columns], disable_numparse=True))
    _print_warnings(runs)
    print(sweeping.write(out, runs, rows))


def _print_results(runs: "list[Run]") -> None:
    """Test metrics as a table, then warnings and folders."""
    from tabulate import tabulate

    first = runs[0]
    columns = COLUMNS[first.multilabel]
    rows = [
        [run.kind, rule_name(rule, first.multilabel)]
        + [_number(run.record["metrics"]["test"][rule][column]) for column in columns]
        for run in runs
        for rule in rules_of(first.multilabel)
    ]
    _print_heading(first.encoder, first, first.record["rows"]["test"])
    print(tabulate(rows, headers=["kind", "rule", *columns], disable_numparse=True))
    _print_warnings(runs)
    for run in runs:
        print(run.folder)


def _print_heading(what: str, run: "Run", samples: int) -> None:
    simulated = " (simulated data)" if run.simulated else ""
    print(f"{what} on {run.dataset}{simulated}, {samples} test samples")


def _mean_and_interval(row: dict) -> str:
    return _number(row["mean"]) + ("" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]")


def _print_comparison(found: dict, first: "Run", second: "Run") -> None:
    """One row per metric, with a star where a p-value is below 0.05."""
    from tabulate import tabulate

    by = "by image" if found["by"] == "image" else f"by {found['units']} spatial cells"
    table = [
        [name, *(_number(row[column]) for column in ("one", "other", "difference")), _span(row["interval"])]
        + [_p(row["p"]), _p(row["p_holm"])]
        for name, row in found["metrics"].items()
    ]
    _print_heading(f"{first.folder.name} and {second.folder.name}", first, found["samples"])
    headers = ["metric", "first", "second", "difference", f"95% interval, {by}", "p", "p (Holm)"]
    print(tabulate(table, headers=headers, disable_numparse=True))
    print("p: paired test; Holm: corrected for testing every metric; *: below 0.05")
    if test := found["mcnemar"]:
        print(
            f"McNemar's exact test: only first correct {test['only_one']}, only second correct {test['only_other']}, "
            f"p = {test['p']:.3g}; assumes independent samples"
        )
    if found["warning"]:
        print(f"warning: {found['warning']}", file=sys.stderr)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _span(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:+.3f} ... {interval[1]:+.3f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" + (" *" if value < 0.05 else "")


def _print_warnings(runs: "list[Run]") -> None:
    for line in dict.fromkeys(line for run in runs for line in run.record["warnings"]):
        print(f"warning: {line}", file=sys.stderr)


def main() -> None:
    """Entry point of the console script."""
    sys.exit(command.run(app))


if __name__ == "__main__":
    main()
