"""Class project on DINOv2 and EuroSAT: tables, curves, confusion matrix, cases, CPU vs. GPU, DINOv2 vs. CNN."""

import sys
from dataclasses import replace

from analysis import tables
from analysis.card import Option, ViewCard
from analysis.contract import Output, ViewRequest, run_or_note, run_view, with_simulated
from analysis.studies import cases, devices, distribution, models, reference, table2
from analysis.studies.protocol import split_sizes
from data.errors import RequestError
from data.runs import Run

CARD = ViewCard(
    input="runs",
    options={
        "count": Option(default=10, help="Number of correct predictions in the case study, and of errors."),
        "data_root": Option(default="", help="Folder of the images. Default: EO_DATA_ROOT, else datasets."),
        "other_out": Option(default="", help="Second output folder, with features computed on another device."),
    },
)

HEAD = "head"  # the class project's probe
STUDY = reference.STUDIES["class-project"]


def run(request: ViewRequest, *, count: int, data_root: str, other_out: str) -> list[Output]:
    """Write every table and figure of the study that there is something for, and a page that holds them together."""
    runs, folder, notes = chosen_runs(request), request.target("eurosat"), []
    own = replace(request, folder=folder, rule="half", dataset=runs[0].dataset, kind=runs[0].kind)
    outputs = [distribution.write(runs[0], request.out, folder, notes)]
    outputs += _named("Loss and accuracy by epoch", run_or_note("curves", own, notes, what="no curves"))
    outputs += _named("Confusion matrix", run_view("confusion", own))
    outputs += table2.write(runs, folder)
    outputs += cases.write(runs, folder)
    shown = run_or_note("cases", own, notes, what="no cases", count=count, data_root=data_root)
    outputs += _named("Case study", shown)
    outputs += devices.write(runs, request.out, other_out, folder, notes)
    outputs.append(models.write(runs, folder, notes))
    for note in notes:
        print(f"eurosat: {note}", file=sys.stderr)
    first = runs[0]
    text = f"# {with_simulated('The class project on DINOv2 and EuroSAT, published and ours', first.simulated)}\n\n"
    text += f"Published: {STUDY.text()}\n\nOurs: {first.dataset} ({split_sizes(first)} samples), "
    text += f"probe {first.kind}, {len(runs)} run{'s' * (len(runs) > 1)}.\n"
    with_tables = [output for output in outputs if output.title.startswith("Table")]
    text += tables.markdown_page(outputs, with_tables, notes)
    tables.write_document(text, folder / f"eurosat__{first.dataset}__page", "md")
    return outputs


def chosen_runs(request: ViewRequest) -> list[Run]:
    """The runs of the study: one single-label dataset, one kind of probe, the head where there is one.

    Raises:
        RequestError: there are none, or several datasets fit.
    """
    fitting = request.all_runs()
    runs = [one for one in fitting if not one.multilabel]
    if not runs:
        raise RequestError(
            f"the class project is about single-label data; {fitting[0].dataset} is multi-label (see analyze seminar)"
        )
    datasets = list(dict.fromkeys(one.dataset for one in runs))
    if len(datasets) > 1:
        raise RequestError(f"there are runs on {len(datasets)} datasets; choose with --dataset: {', '.join(datasets)}")
    kinds = list(dict.fromkeys(one.kind for one in runs))
    kind = HEAD if HEAD in kinds else "linear" if "linear" in kinds else kinds[0]
    return [one for one in runs if one.kind == kind]


def _named(what: str, outputs: list[Output]) -> list[Output]:
    """Outputs of another view, whose titles name the run only, with what they show."""
    return [replace(one, title=f"{what}: {one.title}") for one in outputs]
