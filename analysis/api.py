"""The Python interface of analyze: results as a DataFrame, UMAP as a figure, and any view with its files."""

import io
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import matplotlib
import pandas as pd
from matplotlib.figure import Figure

from analysis.card import VIEWS
from analysis.cli import app, outputs_of
from analysis.contract import Output, Rule, Style, ViewRequest
from analysis.figures import styled
from analysis.views import table as table_view
from analysis.views import umap as umap_view
from data import paths
from data.asked import words_of
from data.python import parsed, working
from data.runs import Run
from data.store import FeatureSet

Split = Literal["train", "val", "test", "all"]


def table(
    runs: Iterable[Run] | Run | None = None,
    *,
    model: str | None = None,
    dataset: str | None = None,
    kind: str | None = None,
    rule: Rule = "both",
    out: Path | str = paths.DEFAULT_OUT,
) -> pd.DataFrame:
    """Test metrics of runs with 95% intervals; runs that differ only in their seed are one row, their mean.

    Args:
        runs: Runs of `probes.probe`. Default: all below `out` that fit.
        model: Use only this model, or these, separated by commas.
        dataset: Use only this dataset, or these, separated by commas.
        kind: Use only this probe kind.
        rule: Decision rule: half (threshold 0.5), tuned (thresholds chosen on val) or both.
        out: Output folder of all commands.

    Returns:
        A row per run and decision rule: ``dataset model probe rule ...``, and ``<metric>``, ``<metric>_low`` and
        ``<metric>_high`` for every metric; the columns of ``analyze table``'s CSV file.

    Raises:
        RequestError: there are no such runs.

    Examples:
        >>> import analysis, featurize, probes
        >>> sets = featurize.featurize(model="stats", dataset="simulated", limit=60)
        >>> runs = probes.probe_all(kind="prior,linear", model="stats")
        >>> list(analysis.table(runs, rule="half")["probe"])
        ['prior', 'linear']
    """
    given = None if runs is None else (runs,) if isinstance(runs, Run) else tuple(runs)
    request = ViewRequest(out=Path(out), model=model, dataset=dataset, kind=kind, rule=rule, runs=given)
    with working(["analyze", "table"], progress=False):
        frame = table_view.compute(request.all_runs(), request.rules)
        return table_view.wide(frame.loc[frame["split"] == "test"])


def umap(
    features: FeatureSet | Mapping[str, FeatureSet] | None = None,
    *,
    model: str | None = None,
    dataset: str | None = None,
    split: Split = "test",
    points: int = 20_000,
    seed: int = 0,
    neighbors: int = 15,
    min_dist: float = 0.1,
    fit_on: int = 0,
    fast: bool = False,
    style: Style = "paper",
    out: Path | str = paths.DEFAULT_OUT,
    progress: bool = False,
) -> Figure:
    """UMAP of features: all classes in one panel for single-label data, one panel per class for multi-label data.

    Args:
        features: Features, or those of several splits by name. Default: those below `out` that fit.
        model: Use only this model.
        dataset: Use only this dataset.
        split: Split to use; with several splits given, also all.
        points: Maximum number of samples, chosen at random.
        seed: Seed for choosing samples and for UMAP.
        neighbors: UMAP's n_neighbors.
        min_dist: UMAP's min_dist.
        fit_on: Fit UMAP on this many samples and transform the others; 0 fits on all.
        fast: Run UMAP on all cores: faster, but not reproducible.
        style: Figure style: paper, or slides with larger text.
        out: Output folder of all commands, where projections are cached.
        progress: Show progress and notes, as the command does.

    Raises:
        RequestError: there are no such features, several fit, or an option is out of range.
    """
    if features is not None:
        sets = [features] if isinstance(features, FeatureSet) else list(features.values())
        folder, split = sets[0].file.parent, sets[0].file.stem if isinstance(features, FeatureSet) else split  # type: ignore[assignment]
        request = ViewRequest(out=Path(out), features=folder, split=split)
    else:
        request = ViewRequest(out=Path(out), model=model, dataset=dataset, split=split)
    options = {"neighbors": neighbors, "min_dist": min_dist, "fit_on": fit_on, "fast": fast}
    with working(["analyze", "umap"], progress=progress), styled(style), matplotlib.rc_context():
        sets, frame = umap_view.project(request, points=points, seed=seed, **options)
        figure: Any = umap_view.draw_figure(frame, sets[0])
    figure._repr_png_ = partial(_png, figure)  # notebooks show only figures of pyplot, which keeps them alive
    return figure


def _png(figure: Figure) -> bytes:
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=100)
    return picture.getvalue()


def view(name: str, *, progress: bool = False, **flags: Any) -> list[Output]:
    """Any view of `analyze`, with the files that it writes; a notebook shows an output as its figure.

    Args:
        name: Name of the view, such as confusion; ``analyze --help`` lists them.
        progress: Show progress and notes, as the command does.
        flags: Those of the command, such as ``model="dofa"``.

    Returns:
        An output for every figure: its files, title, caption and tables.

    Raises:
        RequestError: no such view or flag, or nothing to show.
    """
    words = [VIEWS.check(name), *words_of(flags)]
    with working(["analyze", *words], progress=progress), matplotlib.rc_context():
        return outputs_of(name, parsed(app, words))
