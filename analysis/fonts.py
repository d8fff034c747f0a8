"""Fonts for class names in any script: matplotlib's own first, then what the machine has for other letters."""

from functools import cache

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.text import Text

from data.command import note

FIRST = "DejaVu Sans"  # comes with matplotlib: the same letters on every machine
# One per script, where it is installed, in this order: Chinese, Japanese and Korean, then others.
OTHERS = (
    ("Noto Sans CJK SC", "Noto Sans SC", "Source Han Sans SC", "WenQuanYi Zen Hei", "WenQuanYi Micro Hei")
    + ("Droid Sans Fallback", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Arial Unicode MS")
    + ("Noto Sans CJK JP", "Noto Sans JP", "IPAexGothic", "Hiragino Sans", "Yu Gothic")
    + ("Noto Sans CJK KR", "Noto Sans KR", "NanumGothic", "Apple SD Gothic Neo", "Malgun Gothic")
    + ("Noto Sans Arabic", "Noto Naskh Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari", "Noto Sans Bengali")
    + ("Noto Sans Tamil", "Noto Sans Telugu", "Noto Sans Thai", "Noto Sans Ethiopic", "Noto Sans Khmer")
)
SHOWN = 12  # letters that a note names


@cache
def families() -> list[str]:
    """Font families for figures: each letter is taken from the first that has it."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [FIRST, *(name for name in OTHERS if name in installed)]


def report_missing_letters(figure: Figure) -> None:
    """Note the letters of a figure that no font has: boxes take their place."""
    letters = {letter for text in figure.findobj(Text) for letter in text.get_text() if ord(letter) > 127}
    missing = sorted(
        letter for letter in letters if letter.isprintable() and not any(ord(letter) in c for c in _charmaps())
    )
    if missing:
        shown = "".join(missing[:SHOWN]) + ("…" if len(missing) > SHOWN else "")
        note(
            f"no installed font has the letters {shown}; figures show boxes instead; tables and the text of the "
            "report are not affected: install a font such as Noto Sans CJK (fonts-noto-cjk) and run the command again"
        )


@cache
def _charmaps() -> list[frozenset[int]]:
    files = [font_manager.findfont(font_manager.FontProperties(family=[name])) for name in families()]
    return [frozenset(FT2Font(file).get_charmap()) for file in files]
