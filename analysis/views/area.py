"""Map accuracy and error-adjusted area of each class with 95% intervals, from a reference sample.

Estimators: `analysis.map_accuracy`. The sample is a table with the columns ``map`` and ``reference``, and ``stratum``
where it was not drawn by map class; without one, the test samples of a single-label run stand in for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis import figures, tables
from analysis.card import Option, ViewCard
from analysis.contract import Output, Table, ViewRequest, with_simulated
from analysis.map_accuracy import Z95, MapAccuracy, allocate, estimate, sample_size
from analysis.writing import write_view
from data.errors import RequestError, unknown
from data.runs import Run

CARD = ViewCard(
    input="runs",
    options={
        "sample": Option(
            default="", help="Reference sample: CSV or Parquet with the columns map, reference and stratum."
        ),
        "areas": Option(
            default="",
            help="Mapped area of each class, or size of each stratum: CSV with name and area, or A=200,B=150.",
        ),
        "design": Option(default="stratified", help="Sampling design: stratified or simple (random)."),
        "unit": Option(default="", help="Unit of the areas, such as ha."),
        "finite": Option(default=False, help="Areas are pixel counts: apply the finite population correction."),
        "plan": Option(
            default=False, help="Plan a sample instead: its size for --target-se and its allocation to strata."
        ),
        "target_se": Option(default=0.01, help="Target standard error of overall accuracy for --plan."),
        "expected": Option(
            default="", help="Expected user's accuracies for --plan, such as A=0.7,B=0.9. Default: 0.8 each."
        ),
        "least": Option(default=50, help="Minimum number of samples per class for --plan."),
    },
)

DESIGNS = ("stratified", "simple")
NO_PROBABILITY_SAMPLE = (
    "The run's test samples are not a probability sample of the map: the intervals hold only for locations like them."
)


def run(
    request: ViewRequest,
    *,
    sample: str,
    areas: str,
    design: str,
    unit: str,
    finite: bool,
    plan: bool,
    target_se: float,
    expected: str,
    least: int,
) -> list[Output]:
    """Estimate accuracy and area, or plan a sample."""
    if design not in DESIGNS:
        raise unknown("design", design, DESIGNS)
    folder = request.target("area")
    sizes = read_sizes(areas, "--areas") if areas else None
    if plan:
        return [_write_plan(planned(sizes, expected, target_se, least), folder)]
    if sample:
        return [_write(_from_table(Path(sample), sizes, design, unit, finite=finite), folder, simulated=False)]
    single = [one for one in request.all_runs() if not one.multilabel]
    if not single:
        raise RequestError("analyze area: the runs found are multi-label; name a reference sample with --sample")
    return [_write(_from_run(one, sizes, unit), folder, simulated=one.simulated) for one in single]


@dataclass(frozen=True)
class Result:
    """An estimate and how to present it.

    Args:
        name: of the files.
        title: what was sampled.
        found: the estimate.
        mapped: mapped share of each class, NaN where unknown.
        total: the whole area in `unit`; 1 where unknown.
        unit: of the areas; empty for shares.
        note: how far the intervals can be trusted.
        dataset: folder name of the dataset, of a run.
        encoder: folder name of the encoder, of a run.
    """

    name: str
    title: str
    found: MapAccuracy
    mapped: np.ndarray
    total: float
    unit: str
    note: str
    dataset: str | None = None
    encoder: str | None = None


def _from_table(file: Path, sizes: dict[str, float] | None, design: str, unit: str, *, finite: bool) -> Result:
    frame = read_table(file, ("map", "reference"))
    by_class = "stratum" not in frame
    if design == "stratified" and sizes is None:
        needed = "mapped area of each class" if by_class else "size of each stratum"
        raise RequestError(
            f"--design stratified needs the {needed}: give --areas, or --design simple for a simple random sample"
        )
    if design == "simple" and not by_class:
        raise RequestError(f"{file} has a column stratum, but --design simple has no strata; drop one of them")
    strata = None if design == "simple" else frame["map" if by_class else "stratum"].tolist()
    try:
        found = estimate(
            frame["map"].tolist(),
            frame["reference"].tolist(),
            strata=strata,
            sizes=None if strata is None else sizes,
            finite=finite and strata is not None,
        )
    except ValueError as error:
        raise RequestError(f"{file}: {error}") from error
    mapped = [sizes.get(name, 0.0) if sizes and by_class else np.nan for name in found.classes]
    total = sum(sizes.values()) if sizes else 1.0
    sampled = "simple random" if design == "simple" else f"stratified by {'map class' if by_class else 'stratum'}"
    note = f"n = {found.samples:,}, {sampled}. Intervals assume that it was drawn at random by that design."
    return Result(file.stem, file.name, found, np.array(mapped) / total, total, unit if sizes else "", note)


def _from_run(run: Run, sizes: dict[str, float] | None, unit: str) -> Result:
    predictions, names = run.predictions("test"), np.array(run.class_names, object)
    mapped, reference = names[predictions.scores.argmax(axis=1)], names[predictions.labels]
    try:
        found = estimate(
            mapped.tolist(),
            reference.tolist(),
            strata=mapped.tolist() if sizes else None,
            sizes=sizes,
            classes=run.class_names,
        )
    except ValueError as error:
        raise RequestError(f"{run.folder}: {error}; --areas must name the classes that are predicted") from error
    total = sum(sizes.values()) if sizes else 1.0
    share = [sizes.get(name, 0.0) / total if sizes else (mapped == name).mean() for name in run.class_names]
    title = f"{run.dataset}, {run.record['features']['encoder']['name']}, {run.kind}"
    stem = "__".join([run.dataset, run.encoder, run.folder.name])
    note = f"n = {found.samples:,}. {NO_PROBABILITY_SAMPLE}"
    return Result(stem, title, found, np.array(share), total, unit if sizes else "", note, run.dataset, run.encoder)


def compute(result: Result) -> pd.DataFrame:
    """A row per class: mapped and adjusted area, user's and producer's accuracy, each with its standard error."""
    found, area = result.found, result.found.area.scaled(result.total)
    return pd.DataFrame(
        {
            "class": found.classes,
            "mapped_area": result.mapped * result.total,
            "area": area.value,
            "area_se": area.se,
            "area_low": found.area_interval[:, 0] * result.total,
            "area_high": found.area_interval[:, 1] * result.total,
            "users_accuracy": found.users.value,
            "users_accuracy_se": found.users.se,
            "producers_accuracy": found.producers.value,
            "producers_accuracy_se": found.producers.se,
        }
    )


def _write(result: Result, folder: Path, *, simulated: bool) -> Output:
    frame, stem = compute(result).assign(simulated=simulated), folder / f"area__{result.name}"
    shown, names = readable(frame, result), result.found.classes
    title = f"Map accuracy and area, {result.title}"
    overall = _plus_minus(float(result.found.overall.value), float(result.found.overall.se))
    note = (
        f"Overall accuracy {overall} (95% CI). {result.note} ± is 1.96 standard errors; for "
        "a class that is rare in a large stratum use the interval instead."
    )
    matrix = pd.DataFrame(result.found.matrix, names, names).rename_axis("map").reset_index()
    heading = with_simulated(title, simulated)
    lines = sum(figures.wrapped(name, 30).count("\n") + 1 for name in names)
    return write_view(
        frame, partial(draw, unit=result.unit), stem, title=heading, heading=title, shown=[shown],
        note=note, of=(), dataset=result.dataset, encoder=result.encoder,
        size=(7.0, 1.9 + max(0.32 * len(names), 0.19 * lines)),
        drawn="Mapped and error-adjusted area", where=result.title, reading=result.note,
        alt=f"Mapped and error-adjusted area of {len(frame)} classes with 95% CI.",
        summary=f"{heading}\n{note}\n{tables.markdown_table(*shown, left=1)}",
        files=[tables.write_csv(matrix, stem.with_name(f"{stem.name}__matrix"))],
    )  # fmt: skip


def readable(frame: pd.DataFrame, result: Result) -> Table:
    """The table of `compute`: a row per class."""
    of, amount = f" ({result.unit or 'share'})", partial(_amount, total=result.total)
    columns = {
        "Class": "{class}",
        f"Mapped area{of}": lambda row: amount(row["mapped_area"]),
        f"Adjusted area{of}": lambda row: f"{amount(row['area'])} ± {amount(Z95 * row['area_se'])}",
        "95% CI": lambda row: f"{amount(row['area_low'])} to {amount(row['area_high'])}",
        "User's accuracy": lambda row: _plus_minus(row["users_accuracy"], row["users_accuracy_se"]),
        "Producer's accuracy": lambda row: _plus_minus(row["producers_accuracy"], row["producers_accuracy_se"]),
    }
    return Table.of(frame, columns)


def _plus_minus(value: float, se: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f} ± {Z95 * se:.3f}"


def _amount(value: float, total: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:,.0f}" if total >= 1000 else f"{value:.4g}" if total > 1 else f"{value:.3f}"


def draw(frame: pd.DataFrame, ax: Axes, *, unit: str) -> None:
    """Mapped area as marks and adjusted area as bars with their intervals, the first class on top.

    An empty `unit` means shares of the map.
    """
    rows = np.arange(len(frame))
    # The interval of a rare class may lie above an estimate of 0.
    reach = np.maximum([frame["area"] - frame["area_low"], frame["area_high"] - frame["area"]], 0)
    ax.barh(rows, frame["area"], height=0.6, color=figures.PALETTE[4], label="error-adjusted, 95% CI")
    ax.errorbar(frame["area"], rows, xerr=reach, fmt="none", ecolor=figures.INK, capsize=3, linewidth=1)
    mapped = frame["mapped_area"].to_numpy()
    if not np.isnan(mapped).all():
        ax.plot(mapped, rows, "|", color=figures.WRONG, markersize=16, markeredgewidth=2, label="mapped")
    ax.set_yticks(rows, [figures.wrapped(name, 30) for name in frame["class"]])
    ax.invert_yaxis()
    ax.set_xlim(left=0)
    ax.set_xlabel(f"area ({unit})" if unit else "share of the map")
    ax.grid(axis="x")
    if frame["area"].to_numpy().sum() >= 1000:
        ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)


# --------------------------------------------------------------------------------------------- planning


def planned(sizes: dict[str, float] | None, expected: str, target_se: float, least: int) -> pd.DataFrame:
    """A row per class of the map: its share, the expected user's accuracy and the samples to draw."""
    if not sizes:
        raise RequestError("--plan needs the mapped area of each class: give --areas")
    if not 0 < target_se < 0.5:
        raise RequestError(f"--target-se {target_se:g}: must be above 0 and below 0.5, such as 0.01")
    if least < 2:
        raise RequestError(f"--least {least}: must be at least 2, so that a standard error can be estimated")
    given = read_sizes(expected, "--expected") if expected else {}
    if foreign := given.keys() - sizes.keys():
        raise RequestError(f"--expected names {', '.join(sorted(foreign))}, which --areas does not")
    users = [given.get(name, 0.8) for name in sizes]
    if not all(0 < value <= 1 for value in users):
        raise RequestError("--expected: user's accuracies must be above 0 and at most 1, such as A=0.7")
    shares = [size / sum(sizes.values()) for size in sizes.values()]
    count = allocate(sample_size(shares, users, se=target_se), shares, least=least)
    return pd.DataFrame({"class": list(sizes), "share": shares, "expected_users_accuracy": users, "samples": count})


def _write_plan(frame: pd.DataFrame, folder: Path) -> Output:
    columns = {"Class": "{class}", "Share of the map": "{share:.4f}"}
    columns |= {"Expected user's accuracy": "{expected_users_accuracy:.2f}", "Samples": "{samples:,}"}
    shown = Table.of(frame, columns)
    title = f"Sample of {frame['samples'].sum():,} locations, stratified by map class"
    note = "Draw each class's locations at random within it. Sample size: Olofsson et al. 2014, equation 13."
    summary = f"{title}. {note}\n{tables.markdown_table(*shown, left=1)}"
    return write_view(frame, None, folder / "plan", title=title, shown=[shown], note=note, of=(), summary=summary)


# --------------------------------------------------------------------------------------------- reading


def read_table(file: Path, wanted: Sequence[str]) -> pd.DataFrame:
    """A CSV or Parquet table as text.

    Raises:
        RequestError: absent, unreadable, a column is missing, or a cell of these columns is empty.
    """
    if not file.is_file():
        raise RequestError(f"no table at {file}; give a CSV or Parquet file with the columns {', '.join(wanted)}")
    try:
        frame = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, dtype=str)
    except (OSError, ValueError) as error:  # pandas' and pyarrow's, of damaged files
        raise RequestError(f"{file} cannot be read as {file.suffix[1:] or 'CSV'}: {error}") from error
    if missing := [name for name in wanted if name not in frame]:
        raise RequestError(f"{file} has no column {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    used = [*wanted, *(["stratum"] if "stratum" in frame else [])]
    empty = frame[used].isna().to_numpy().any(axis=1)
    if empty.any():
        raise RequestError(
            f"{file}: {int(empty.sum())} rows have empty cells, the first is row {int(np.argmax(empty)) + 2}"
        )
    if not len(frame):
        raise RequestError(f"{file} has no rows")
    return frame.assign(**{name: frame[name].astype(str).str.strip() for name in used})


def read_sizes(text: str, flag: str) -> dict[str, float]:
    """Numbers by name: of a CSV or Parquet file with the columns name (or class) and area, or of ``A=200,B=150``.

    Raises:
        RequestError: unreadable, a name occurs twice, or a number is negative or none.
    """
    if "=" in text and not Path(text).exists():
        pairs = [tuple(part.rpartition("=")[::2]) for part in text.split(",")]
    else:
        frame = read_table(Path(text), ())
        name = next((column for column in ("name", "class", "stratum") if column in frame), None)
        if name is None or "area" not in frame:
            raise RequestError(f"{text} needs the columns name and area; it has {', '.join(map(str, frame.columns))}")
        pairs = list(zip(frame[name].astype(str), frame["area"].astype(str), strict=True))
    sizes: dict[str, float] = {}
    for name, value in pairs:
        try:
            number = float(value)
        except ValueError:
            number = np.nan
        if not name.strip() or not np.isfinite(number) or number < 0:
            raise RequestError(f"{flag}: '{name}={value}' is not a name with a number of 0 or more")
        if name.strip() in sizes:
            raise RequestError(f"{flag}: {name.strip()} is named twice")
        sizes[name.strip()] = number
    if sum(sizes.values()) <= 0:
        raise RequestError(f"{flag}: the numbers add up to 0")
    return sizes
