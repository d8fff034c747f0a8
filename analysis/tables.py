"""Tables as files: CSV with every digit, Markdown and LaTeX as they are read."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from data.files import published, write_text

TEX = str.maketrans(
    {char: rf"\{char}" for char in "&%#_${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "–": "--", "\u2212": "$-$", "…": r"\ldots{}"}
)


def write_csv(frame: pd.DataFrame, stem: Path) -> Path:
    """Write ``<stem>.csv`` with full precision."""
    file = stem.with_name(f"{stem.name}.csv")
    with published(file) as temporary:
        frame.to_csv(temporary, index=False)
    return file


def write_markdown(text: str, stem: Path) -> Path:
    """Write ``<stem>.md``."""
    file = stem.with_name(f"{stem.name}.md")
    write_text(file, text)
    return file


def write_latex(text: str, stem: Path) -> Path:
    """Write ``<stem>.tex``."""
    file = stem.with_name(f"{stem.name}.tex")
    write_text(file, text)
    return file


def write_all(
    frame: pd.DataFrame,
    stem: Path,
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int,
    note: str = "",
) -> tuple[Path, Path, Path]:
    """Write a table as CSV, Markdown and LaTeX.

    Args:
        frame: with full precision, for the CSV.
        stem: of the files.
        title: heading, and caption in LaTeX.
        header: column names, as read.
        rows: cells, as read.
        left: see `markdown_table`.
        note: a sentence below the heading and at the end of the caption.
    """
    lead = f"# {title}\n\n" + (f"{note}\n\n" if note else "")
    caption = f"{title}. {note}" if note else title
    return (
        write_csv(frame, stem),
        write_markdown(lead + markdown_table(header, rows, left=left), stem),
        write_latex(latex_table(header, rows, left=left, caption=caption), stem),
    )


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """A Markdown table whose source is aligned too.

    Args:
        header: column names.
        rows: cells.
        left: how many columns, from the left, are text; the others are right-aligned.
    """
    lines = [[cell.replace("|", r"\|") for cell in line] for line in (header, *rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(header))]
    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    padded = [
        [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in (padded[0], rule, *padded[1:])) + "\n"


def latex_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int, caption: str) -> str:
    """A LaTeX table with booktabs rules; cells are escaped, except for ``**bold**``, which becomes bold."""
    body = [" & ".join(_tex(cell) for cell in line) + r" \\" for line in rows]
    return "\n".join(
        [
            r"\begin{table}",
            rf"\caption{{{_tex(caption)}}}",
            r"\centering\small",
            rf"\begin{{tabular}}{{{'l' * left}{'r' * (len(header) - left)}}}",
            r"\toprule",
            " & ".join(_tex(cell) for cell in header) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _tex(cell: str) -> str:
    parts = cell.translate(TEX).split("**")
    return "".join(rf"\textbf{{{part}}}" if i % 2 else part for i, part in enumerate(parts))
