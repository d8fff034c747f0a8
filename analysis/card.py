"""What a view's card says: a literal that is read without importing the view, so that ``--help`` is quick."""

from dataclasses import dataclass, field
from typing import Literal

from data.registry import Registry

# Which flags the command has: of runs (--model --dataset --kind --rule), of features (--model --dataset --features
# --split), of a dataset (those of `data.flags.DataFlags`, and --features), or none (what `featurize bench` measured).
Input = Literal["runs", "features", "dataset", "speed"]


@dataclass(frozen=True, kw_only=True)
class Option:
    """A flag of one view only.

    Args:
        default: its value where it is not given, whose type is the flag's.
        help: its line on the help page.
    """

    default: bool | int | float | str
    help: str


@dataclass(frozen=True, kw_only=True)
class Section:
    """A view's section in the report.

    Args:
        order: sections come by rising order.
        heading: of the section.
        table: whether its table is shown beside the figure, not folded away.
    """

    order: int
    heading: str
    table: bool = False


@dataclass(frozen=True, kw_only=True)
class ViewCard:
    """How a view is called and where the report shows it.

    Args:
        input: what the view reads, which decides the flags that it shares with other views.
        section: where the report shows it; None leaves it out.
        options: its own flags, by name.
    """

    input: Input
    section: Section | None = None
    options: dict[str, Option] = field(default_factory=dict)


VIEWS = Registry("analysis.views", "view", ViewCard)
