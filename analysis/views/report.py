"""One self-contained page of every run found: samples to explore, tables, figures, and how to repeat it all."""

from typing import Any

from analysis.card import Option, ViewCard
from analysis.contract import Output, ViewRequest
from analysis.report.build import build

CARD = ViewCard(
    input="runs",
    options={
        "points": Option(default=20_000, help="Show at most this many test samples per dataset, chosen at random."),
        "pictures": Option(default=2000, help="Include thumbnails of so many of them; 0 includes none."),
        "data_root": Option(default="", help="Folder of the images. Default: EO_DATA_ROOT, then datasets."),
        "fit_on": Option(default=0, help="Fit UMAP on so many samples and transform the others; 0 fits on all."),
        "fast": Option(default=False, help="Run UMAP on all cores: faster, but not reproducible."),
    },
)


def run(request: ViewRequest, **options: Any) -> list[Output]:
    """Draw every view that belongs in the report and write the page that shows them."""
    return [Output(title="Report", files=(build(request, options),))]
