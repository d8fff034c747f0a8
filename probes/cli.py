"""The `probe` command: classical classifiers on kept features, each a run on disk."""

# Only light imports here, so that --help answers at once; numpy, h5py and scikit-learn wait inside functions.
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from data import command, paths
from data.errors import RequestError
from data.registry import PROBES

app = command.new_app(
    "probe",
    "Fit classical probes on kept features: fit on train, choose on val, score test.\n\n"
    "Each run is a folder with run.json, predictions.h5 and model.skops under OUT/probes.",
)

COLUMNS = {
    True: ("f2_macro", "f2_micro", "f1_micro", "precision_micro", "recall_micro", "hamming_loss", "map_macro"),
    False: ("accuracy", "balanced_accuracy", "f1_macro", "precision_macro", "recall_macro", "f2_macro"),
}


@app.default
def probe(
    *,
    kind: str,
    model: str | None = None,
    dataset: str | None = None,
    features: Path | None = None,
    out: Path = paths.DEFAULT_OUT,
    seed: int = 0,
    n_jobs: Annotated[int, Parameter(name="--n-jobs")] = -1,
    overwrite: bool = False,
) -> None:
    """Fit classical probes on kept features: fit on train, choose on val, score test.

    Each run is a folder with run.json, predictions.h5 and model.skops under OUT/probes; the same request again
    reuses it.

    Args:
        kind: Probe kinds, comma-separated, or 'all'; see probe list.
        model: Model whose features to use; needed where several feature sets exist.
        dataset: Dataset whose features to use; needed where several feature sets exist.
        features: Folder with train.h5, val.h5 and test.h5, in place of --model and --dataset.
        out: Output folder; features are looked for here too.
        seed: Random seed.
        n_jobs: Trees or candidates fitted at a time, -1 for one a core; does not change the result.
        overwrite: Fit again where the run exists.
    """
    kinds = PROBES.names() if kind == "all" else list(dict.fromkeys(PROBES.check(k.strip()) for k in kind.split(",")))
    if features and (model or dataset):
        raise RequestError("--features names the folder already; drop --model and --dataset")
    if n_jobs == 0:
        raise RequestError("--n-jobs 0: give a number of jobs, or -1 for one a core")
    if not 0 <= seed < 2**32:
        raise RequestError(f"--seed {seed}: must be from 0 to {2**32 - 1}")

    from data import store  # deferred, as `probes.fit`: numpy, h5py and scikit-learn cost a second of start-up

    folder = features or store.find_features(out, model=model, dataset=dataset)
    from probes import fit, inputs

    splits = inputs.read_splits(folder)
    _print_results(
        [
            fit.fit_run(name, splits, out, seed=seed, n_jobs=n_jobs, overwrite=overwrite, report=_report)
            for name in kinds
        ]
    )


@app.command(name="list")
def list_() -> None:
    """List the probe kinds and what val chooses for each."""
    width = max(len(name) for name in PROBES.names())
    for name in PROBES.names():
        print(f"{name:{width}}  {PROBES.summary(name)}")


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _print_results(finished: list) -> None:
    """Test metrics as a table, then warnings and folders."""
    from tabulate import tabulate

    first = finished[0]
    columns = COLUMNS[first.multilabel]
    rules = ("half", "tuned") if first.multilabel else ("half",)
    rows = [
        [run.kind, rule if first.multilabel else "argmax"]
        + ["-" if (v := run.record["metrics"]["test"][rule][c]) is None else f"{v:.3f}" for c in columns]
        for run in finished
        for rule in rules
    ]
    simulated = " (simulated data)" if first.simulated else ""
    print(f"{first.encoder} on {first.dataset}{simulated}, {first.record['rows']['test']} test samples")
    print(tabulate(rows, headers=["kind", "rule", *columns], disable_numparse=True))
    for line in dict.fromkeys(line for run in finished for line in run.record["warnings"]):
        print(f"warning: {line}", file=sys.stderr)
    for run in finished:
        print(run.folder)


def main() -> None:
    """Entry point of the console script."""
    sys.exit(command.run(app))


if __name__ == "__main__":
    main()
