"""Self-contained HTML report of all runs: interactive samples, tables, figures and the commands to reproduce them."""

import webbrowser
from typing import Any

from analysis.card import Option, ViewCard
from analysis.contract import Output, ViewRequest
from analysis.report.build import build
from data.command import say

CARD = ViewCard(
    input="runs",
    options={
        "points": Option(default=20_000, help="Maximum number of test samples per dataset, chosen at random."),
        "pictures": Option(default=2000, help="Number of thumbnails; 0 for none."),
        "data_root": Option(default="", help="Folder of the images. Default: EO_DATA_ROOT, else datasets."),
        "fit_on": Option(default=0, help="Fit UMAP on this many samples and transform the others; 0 fits on all."),
        "atlas": Option(default=False, help="Also write Parquet files with pictures for Embedding Atlas (atlas/)."),
        "open": Option(default=False, help="Open the page in the default browser."),
        "fast": Option(default=False, help="Run UMAP on all cores: faster, but not reproducible."),
    },
)


def run(request: ViewRequest, **options: Any) -> list[Output]:
    """Draw every view that belongs in the report and write the page that shows them."""
    page = build(request, options)
    if options["open"] and not webbrowser.open(page.as_uri()):
        say(f"report: found no browser to open {page} with")
    return [Output(title="Report", files=(page,))]
