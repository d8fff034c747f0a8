"""The Python interface of probe: the command as a function, and predictions as a DataFrame."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from data.command import warn
from data.errors import RequestError
from data.pairs import several
from data.python import Shown, taking, working
from data.rules import check_rule
from data.runs import Run, read_run
from data.store import FeatureSet
from probes import prediction
from probes.cli import app
from probes.flags import ProbeFlags


@dataclass(frozen=True, kw_only=True)
class _Flags(Shown, ProbeFlags):
    """The parameters of `probe`."""


@taking(app, _Flags)
def probe(flags: ProbeFlags) -> Run:
    """Fit one probe on stored features, or reuse its run: fit on train, choose on val, score test.

    Returns:
        The run.

    Raises:
        RequestError: the request is wrong, or asks for several runs; see `probe_all`.

    Examples:
        >>> import featurize, probes
        >>> sets = featurize.featurize(model="stats", dataset="simulated", limit=60)
        >>> run = probes.probe(kind="linear", model="stats")
        >>> run.record["metrics"]["test"]["tuned"]["f2_macro"]  # doctest: +SKIP
        0.41
    """
    planned = flags.planned()
    if (count := len(planned.kinds()) * (planned.seeds or 1)) > 1:
        raise RequestError(f"--kind {flags.kind}: this makes {count} runs; name one kind and seed, or use probe_all")
    return _fitted(planned)[0]


@taking(app, _Flags)
def probe_all(flags: ProbeFlags) -> list[Run]:
    """Fit several probes on stored features, as the command does: every kind of --kind with every seed.

    Returns:
        The runs, by seed and kind.

    Raises:
        RequestError: the request is wrong.
    """
    return _fitted(flags.planned())


def predict(
    run: Run | Path | str,
    *features: FeatureSet | Path | str,
    rule: str = "tuned",
    other_dataset: bool = False,
    n_jobs: int = -1,
    progress: bool = False,
) -> pd.DataFrame:
    """Score other features with a finished run.

    Args:
        run: A run, or its folder.
        features: Features of the run's encoder, or their file; for a run on joined features, one per encoder.
        rule: tuned (the run's thresholds) or half (0.5); single-label runs use the argmax for both.
        other_dataset: Accept features of a dataset that the run was not trained on.
        n_jobs: Blocks scored in parallel, -1 for one per core; does not change the result.
        progress: Show progress and notes, as the command does.

    Returns:
        A row per sample, in the features' order, indexed by ``id``: ``label``, the predicted class (for multi-label
        runs ``labels``, joined by ``;``), and ``score: <class>`` for every class.

    Raises:
        RequestError: the features do not go with the run.
    """
    check_rule(rule)
    if not features:
        raise RequestError("predict needs features after the run, such as those of test")
    files = [one.file if isinstance(one, FeatureSet) else Path(one) for one in features]
    with working(["probe", "predict"], progress=progress):
        done = run if isinstance(run, Run) else read_run(Path(run))
        scoring = prediction.prepare(done, files, rule=rule, other_dataset=other_dataset, n_jobs=n_jobs)
        for line in scoring.notes:
            warn("probe", line)
        return pa.concat_tables(scoring.tables()).to_pandas().set_index("id")


def predict_map(run: Run | Path | str, to: Path | str, *, n_jobs: int = -1, progress: bool = False) -> list[Path]:
    """Map the scene that a run with the protocol map was trained on.

    Args:
        run: A run, or its folder.
        to: Map to write: .tif, .vrt (a mosaic of several scenes), or polygons in .gpkg, .geojson or .parquet.
        n_jobs: Blocks scored in parallel, -1 for one per core; does not change the result.
        progress: Show progress and notes, as the command does.

    Returns:
        The files written.

    Raises:
        RequestError: the run is not of a scene, or its features are gone.
    """
    from probes.map_files import map_run  # deferred: rasterio

    with working(["probe", "predict"], progress=progress):
        return map_run(run if isinstance(run, Run) else read_run(Path(run)), Path(to), n_jobs=n_jobs)


def _fitted(flags: ProbeFlags) -> list[Run]:
    if several(flags.model, flags.dataset):
        raise RequestError("one model and one dataset per call; call the function once for each pair")
    runs = flags.fit()
    for line in dict.fromkeys(line for run in runs for line in run.record["warnings"]):
        warn("probe", line)
    return runs
