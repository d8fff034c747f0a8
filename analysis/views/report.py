"""Self-contained HTML report of all runs: interactive samples, tables, figures and the commands to reproduce them."""

from typing import Any

from analysis.card import Option, ViewCard
from analysis.contract import Output, ViewRequest
from analysis.report.build import build

CARD = ViewCard(
    input="runs",
    options={
        "points": Option(default=20_000, help="Maximum number of test samples per dataset, chosen at random."),
        "pictures": Option(default=2000, help="Number of thumbnails; 0 for none."),
        "data_root": Option(default="", help="Folder of the images. Default: EO_DATA_ROOT, else datasets."),
        "fit_on": Option(default=0, help="Fit UMAP on this many samples and transform the others; 0 fits on all."),
        "atlas": Option(default=False, help="Also write Parquet files with pictures for Embedding Atlas (atlas/)."),
        "fast": Option(default=False, help="Run UMAP on all cores: faster, but not reproducible."),
    },
)


def run(request: ViewRequest, **options: Any) -> list[Output]:
    """Draw every view that belongs in the report and write the page that shows them."""
    return [Output(title="Report", files=(build(request, options),))]
