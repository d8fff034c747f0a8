"""The class project on DINOv2 and EuroSAT: its tables, curves, confusion, cases, CPU and GPU, DINOv2 and a CNN."""

from analysis.card import Option, ViewCard
from analysis.contract import Output, ViewRequest
from analysis.studies import class_project

CARD = ViewCard(
    input="runs",
    options={
        "count": Option(default=10, help="Correct predictions, and as many mistakes, in the case study."),
        "data_root": Option(default="", help="Folder of the images. Default: EO_DATA_ROOT, then datasets."),
        "other_out": Option(default="", help="A second output folder, with features made on another device."),
    },
)


def run(request: ViewRequest, *, count: int, data_root: str, other_out: str) -> list[Output]:
    """Write every table and figure of the study that there is something for, and a page that holds them together."""
    return class_project.write(request, count=count, data_root=data_root, other_out=other_out)
