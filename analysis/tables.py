"""Tables as files: CSV with every digit, Markdown and LaTeX as they are read."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.contract import Output, Table
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


def write_document(text: str, stem: Path, suffix: str) -> Path:
    """Write ``<stem>.<suffix>``."""
    file = stem.with_name(f"{stem.name}.{suffix}")
    write_text(file, text)
    return file


def write_documents(shown: Sequence[Table], stem: Path, title: str, *, left: int, note: str = "") -> tuple[Path, Path]:
    """Write tables as Markdown and LaTeX, with a title and a note below it; both are the caption in LaTeX."""
    parts = [f"# {title}\n", *([f"{note}\n"] if note else []), *(markdown_table(*table, left=left) for table in shown)]
    caption = f"{title}. {note}" if note else title
    tex = "".join(latex_table(*table, left=left, caption=caption) for table in shown)
    return write_document("\n".join(parts), stem, "md"), write_document(tex, stem, "tex")


def markdown_page(outputs: Sequence[Output], with_tables: Sequence[Output], notes: Sequence[str]) -> str:
    """Sections of a page beside the figures of outputs: figure, caption and for some their tables; then the notes."""
    text = ""
    for output in outputs:
        png = output.file("png")
        assert png is not None
        text += f"\n## {output.title}\n\n![{output.alt}]({png.name})\n\n{output.caption}\n"
        if output in with_tables:
            text += "".join("\n" + markdown_table(*table, left=1) for table in output.tables)
    return text + ("\n## Missing\n\n" + "".join(f"- {note}\n" for note in notes) if notes else "")


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int) -> str:
    """A Markdown table whose source is aligned too: the `left` columns to the left, the others to the right."""
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
