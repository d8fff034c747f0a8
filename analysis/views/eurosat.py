"""Class project on DINOv2 and EuroSAT: tables, curves, confusion matrix, cases, CPU vs. GPU, DINOv2 vs. CNN."""

from analysis.card import Option, ViewCard
from analysis.contract import Output, ViewRequest
from analysis.studies import class_project

CARD = ViewCard(
    input="runs",
    options={
        "count": Option(default=10, help="Number of correct predictions in the case study, and of errors."),
        "data_root": Option(default="", help="Folder of the images. Default: EO_DATA_ROOT, else datasets."),
        "other_out": Option(default="", help="Second output folder, with features computed on another device."),
    },
)


def run(request: ViewRequest, *, count: int, data_root: str, other_out: str) -> list[Output]:
    """Write every table and figure of the study that there is something for, and a page that holds them together."""
    return class_project.write(request, count=count, data_root=data_root, other_out=other_out)
