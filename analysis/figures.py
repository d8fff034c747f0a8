"""Drawing helpers that all views share: style, colors, names that fit, titles that say 'simulated', saving."""

import itertools
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from unicodedata import east_asian_width

import matplotlib
import numpy as np
from jaxtyping import Float, UInt8
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure

from analysis.contract import with_simulated
from analysis.fonts import families, report_missing_letters
from data.files import published
from probes.card import PROBES

PRINT_DPI, LEAST_DPI = 300, 200
MOST_DOTS, MOST_PIXELS = 30_000, 50e6  # of a side and in all: what has hundreds of rows is drawn coarser
PAGE_WIDTH = 7.0  # inches of text on a page: wider figures are printed smaller, which makes their dots finer
INK, GREY, FAINT = "#1b1f24", "#5f6873", "#d5dade"

# Okabe and Ito (2008), "Color Universal Design", less black; distinguishable with every common color blindness.
PALETTE = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F", "#F0E442"]
RIGHT, WRONG = PALETTE[0], PALETTE[5]

# Beyond eight, shades of the same hues: a plot that uses them names its classes beside the colors.
MORE = ["#003F63", "#8A5F00", "#00543D", "#7A3F60", "#1F6E97", "#7A3400", "#3F3F3F", "#8C8510"]

STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # names of classes may hold dollars; no text of ours is mathematics
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "text.color": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.edgecolor": FAINT,
    "axes.axisbelow": True,
    "axes.linewidth": 1.25,
    "lines.solid_capstyle": "round",
    "xtick.bottom": False,
    "ytick.left": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "svg.hashsalt": "frozen-earth",  # equal data give equal bytes
    "svg.fonttype": "path",
}


# Width and height of the canvas that letters of one size stand on: on a smaller one they are larger in the picture.
CANVAS = {"paper": (1.0, 1.0), "slides": (0.76, 0.84)}
_style: ContextVar[str] = ContextVar("style", default="paper")


@contextmanager
def styled(style: str) -> Iterator[None]:
    """Use the style ``paper``, or ``slides`` with larger text, for figures drawn inside this block only."""
    token = _style.set(style)
    try:
        yield
    finally:
        _style.reset(token)


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in the house style, in inches; outside pyplot, so that nothing keeps it alive."""
    matplotlib.rcdefaults()  # whatever the reader's own settings are
    matplotlib.rcParams.update(STYLE)
    matplotlib.rcParams["font.family"] = families()
    wide, high = CANVAS[_style.get()]
    return Figure(figsize=(width * wide, height * high), layout="constrained")


def panels(figure: Any, count: int, columns: int, **options: Any) -> list[Axes]:
    """`count` axes in rows of `columns`; the rest of the last row stays empty."""
    axes = figure.subplots(max(1, -(-count // columns)), columns, squeeze=False, **options).ravel()
    for ax in axes[count:]:
        ax.set_axis_off()
    return list(axes[:count])


def colours(count: int) -> list[str]:
    """`count` colors; the first eight are color-blind safe, and after sixteen they repeat."""
    return list(itertools.islice(itertools.cycle(PALETTE + MORE), count))


def kind_colours(kinds: Sequence[str]) -> list[str]:
    """A color for each run by its probe kind, the same in every figure; runs of one kind get different ones."""
    registered = PROBES.names()
    spare = itertools.count(len(registered))  # a repeated kind must not take the color of another one
    taken: list[int] = []
    for kind in kinds:
        own = registered.index(kind) if kind in registered else None
        taken.append(next(spare) if own is None or own in taken else own)
    available = colours(max(taken, default=0) + 1)
    return [available[i] for i in taken]


def shades(colour: str = RIGHT) -> Colormap:
    """White to a color, for shares from 0 to 1."""
    return LinearSegmentedColormap.from_list("shades", ["white", colour])


def wrapped(name: str, width: int = 34, *, most_lines: int = 3) -> str:
    """A long class name wrapped to lines of limited length; the middle of an even longer one is left out.

    Chinese, Japanese and Korean letters count as two.
    """
    if any(east_asian_width(letter) in "WF" for letter in name):
        width = max(4, width // 2)
    return "\n".join(textwrap.wrap(shortened(name, width * most_lines - width // 2), width)) or name


def shortened(name: str, most: int) -> str:
    """A name of at most `most` letters: its start and its end, which distinguish it from others."""
    if len(name) <= most:
        return name
    end = most // 3
    return f"{name[: most - end - 1]}…{name[-end:]}"


def put_title(figure: Figure, what: str, where: str, *, simulated: bool, note: str = "") -> None:
    """Title of two lines above (what is shown, and of which dataset and model), a note below; both say "simulated"."""
    width = max(30, int(figure.get_figwidth() * 11))
    lines = [*textwrap.wrap(with_simulated(what, simulated), width), *textwrap.wrap(where, width)]
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10.5, linespacing=1.35)
    if simulated:
        note = "   ".join(filter(None, ("SIMULATED DATA: not a result on real imagery.", note)))
    if note:
        wrapped_note = "\n".join(textwrap.wrap(note, int(figure.get_figwidth() * 14.5)))
        figure.supxlabel(wrapped_note, x=0.01, ha="left", fontsize=7.5, color=GREY)


def label_rows(ax: Axes, labels: Sequence[str], *, top: float = -0.6) -> None:
    """Finish a chart with a row per label, the first one on top: names, limits, vertical grid lines and no frame."""
    ax.set_yticks(range(len(labels)), list(labels))
    ax.set_ylim(len(labels) - 0.4, top)
    ax.grid(axis="x")
    without_frame(ax)


def draw_value(ax: Axes, row: Any, y: float, colour: str, *, filled: bool = True, size: float = 5) -> None:
    """A dot at the ``value`` of a row, and a line from ``low`` to ``high``; nothing where they are NaN."""
    ax.plot([row["low"], row["high"]], [y, y], color=colour, lw=1.7, solid_capstyle="butt")
    ax.plot(row["value"], y, "o", color=colour, mfc=colour if filled else "white", ms=size, mew=1.4)


def without_frame(ax: Axes) -> None:
    """Remove the box and ticks around a panel."""
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)


def heatmap(
    ax: Axes, shares: Float[np.ndarray, "rows columns"], *, columns: Sequence[str], rows: Sequence[str], cmap: Colormap,
    top: float = 1.0, gap: float = 1.5,
) -> None:  # fmt: skip
    """Colored cells, the first row above; cell (row, column) is centered at (column + 0.5, row + 0.5).

    Colors are those of shares from 0 to `top`; NaN or masked cells stay empty. The gap between cells is in points.
    """
    # seaborn.heatmap draws the same, but takes 1.5 GB to find out whether the labels of 45 columns overlap
    ax.pcolormesh(np.ma.masked_invalid(shares), cmap=cmap, vmin=0, vmax=top, linewidths=gap, edgecolor="white")
    ax.set(xlim=(0, len(columns)), ylim=(len(rows), 0))
    ax.set_xticks(np.arange(len(columns)) + 0.5, list(columns))
    ax.set_yticks(np.arange(len(rows)) + 0.5, list(rows))
    without_frame(ax)


def write_values(
    ax: Axes, shares: Float[np.ndarray, "rows columns"], texts: Sequence[Sequence[str]], *, fontsize: float = 8
) -> None:
    """Write a text in every cell of a `heatmap`, white on dark cells."""
    for row, line in enumerate(texts):
        for column, text in enumerate(line):
            colour = "white" if shares[row, column] > 0.85 else INK  # the better contrast of the two
            ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", fontsize=fontsize, color=colour)


def draw_sample(ax: Axes, pixels: UInt8[np.ndarray, "height width 3"], text: str, *, colour: str = INK) -> None:
    """One image with lines of text below."""
    ax.imshow(pixels, interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(text, fontsize=7.5, color=colour, loc="left", y=0, va="top", pad=-4, linespacing=1.25)


def span(row: dict[str, Any], *, bold: bool = False) -> str:
    """`with_interval` of a row's ``value``, ``low`` and ``high``."""
    return with_interval(row["value"], row["low"], row["high"], bold=bold)


def number(value: float, digits: int = 3) -> str:
    """A rate as text; an undefined one as a dash."""
    return "–" if np.isnan(value) else f"{value:.{digits}f}"


def with_interval(value: float, low: float, high: float, *, bold: bool = False) -> str:
    """A rate, perhaps in ``**bold**``, and its interval in brackets if there is one."""
    text = f"**{number(value)}**" if bold else number(value)
    return text if np.isnan(low) else f"{text} [{number(low)}, {number(high)}]"


def save(figure: Figure, stem: Path) -> tuple[Path, Path]:
    """Write a figure as ``<stem>.png``, at least 300 dots per inch on a page, and ``<stem>.svg``; return both paths."""
    report_missing_letters(figure)
    width = figure.get_figwidth() / CANVAS[_style.get()][0]  # as on paper: a smaller canvas gets as many dots
    dpi = max(LEAST_DPI, PRINT_DPI * min(1.0, PAGE_WIDTH / width)) * width / figure.get_figwidth()
    dpi = min(dpi, *(MOST_DOTS / side for side in figure.get_size_inches()))
    dpi = min(dpi, (MOST_PIXELS / np.prod(figure.get_size_inches())) ** 0.5)
    files = (stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.svg"))
    png = {"format": "png", "pil_kwargs": {"compress_level": 4}}  # larger files, written sooner
    settings: Any = (png, {"format": "svg", "metadata": {"Date": None}})
    for file, options in zip(files, settings, strict=True):
        with published(file) as temporary, warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")  # reported once, above
            figure.savefig(temporary, dpi=dpi, facecolor="white", **options)
        figure.set_layout_engine("none")  # the layout is settled by the first file, and slow to compute
    return files
