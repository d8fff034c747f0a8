"""Write docs/results/references.md, the published numbers and how each is known: python -m tests.write_references."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from analysis.studies import reference
from analysis.tables import markdown_table

PAGE = Path(__file__).parent.parent / "docs" / "results" / "references.md"
Origin = Literal["printed", "derived", "assumed"]


@dataclass(frozen=True)
class Value:
    """One fact about a study and how it is known.

    Args:
        what: what it is.
        value: a number, or words.
        origin: ``printed`` in the source, ``derived`` from what is printed there, or ``assumed`` here because the
            source does not state it.
        note: how it was derived, or why it is assumed.
    """

    what: str
    value: float | str
    origin: Origin
    note: str = ""


def recall_of(precision: float, f_beta: float, *, beta: float = 2) -> float:
    """Recall from precision and F-beta: F = (1 + b²) P R / (b² P + R), solved for R."""
    weight = beta**2
    return f_beta * weight * precision / ((1 + weight) * precision - f_beta)


def hamming_of(precision: float, recall: float, *, labels_a_sample: float, classes: int) -> float:
    """Hamming loss from micro precision and recall.

    Of L labels per sample, R L are true positives, (1 - R) L false negatives and R L (1 - P) / P false positives; the
    loss is the sum of the last two over K classes.
    """
    return labels_a_sample * ((1 - recall) + recall * (1 - precision) / precision) / classes


def labels_of(precision: float, recall: float, hamming: float, *, classes: int) -> float:
    """Labels per sample that make `hamming_of` this hamming loss."""
    return hamming / hamming_of(precision, recall, labels_a_sample=1, classes=classes)


def values() -> dict[str, tuple[Value, ...]]:
    """Every value of the two studies that this project reproduces, by study, and how each is known."""
    seminar = [
        Value(f"{kind}: {metric}", row[metric], "printed") for kind, row in reference.SEMINAR.items() for metric in row
    ]
    for kind, row in reference.SEMINAR.items():
        recall = recall_of(row["precision_micro"], row["f2_micro"])
        labels = labels_of(row["precision_micro"], recall, row["hamming_loss"], classes=reference.SEMINAR_CLASSES)
        seminar.append(Value(f"{kind}: recall_micro", round(recall, 3), "derived", "from micro precision and F2"))
        seminar.append(
            Value(f"{kind}: labels per patch", round(labels, 2), "derived", "from these and the hamming loss")
        )
    project = [
        Value(f"Table 1, {name}: {split}", float(count), "printed")
        for name, counts in reference.CLASS_PROJECT_TABLE1.items()
        for split, count in zip(("train", "test"), counts, strict=True)
    ]
    project.append(
        Value("Table 1: total of test", float(reference.CLASS_PROJECT_TABLE1_TOTAL), "printed", "the rows sum to 140")
    )
    project.append(
        Value(
            "Table 1: sum of test",
            float(sum(n for _, n in reference.CLASS_PROJECT_TABLE1.values())),
            "derived",
            "of its rows",
        )
    )
    project += [
        Value(f"Table 2, {row.name}: {name}", float(getattr(row, name)), "printed")
        for row in reference.CLASS_PROJECT
        for name in ("tp", "fp", "tn", "fn", "precision", "recall", "specificity", "f1")
    ]
    project.append(Value("Table 2: accuracy", reference.CLASS_PROJECT_ACCURACY, "derived", "218 of 299 right"))
    project += [
        Value(f"Table 3, case {number}: {case.true}", f"predicted {case.predicted}", "printed")
        for number, case in enumerate(reference.CLASS_PROJECT_CASES, 1)
    ]
    known = {"seminar": seminar, "class-project": project}
    return {
        study: (
            *found,
            *(Value("protocol", words, "assumed", "not stated there") for words in reference.STUDIES[study].assumed),
        )
        for study, found in known.items()
    }


def markdown() -> str:
    """All reference values as a page."""
    text = "# Published numbers and how each is known\n\nWritten by `python -m tests.write_references`.\n"
    for study, found in values().items():
        about = reference.STUDIES[study]
        text += f"\n## {study}\n\n{about.citation}. As stated there: {about.protocol}.\n\n"
        text += "".join(f"- It contradicts itself: {words}.\n" for words in about.contradictions)
        text += "\n" * bool(about.contradictions)
        rows = [[one.what, f"{one.value:g}" if isinstance(one.value, float) else one.value] for one in found]
        rows = [[*row, one.origin, one.note] for row, one in zip(rows, found, strict=True)]
        text += markdown_table(["What", "Value", "Origin", "Note"], rows, left=4)
    text += "\n## Other published numbers (all printed)\n\n"
    header = ["Study", "Model and data", "Probe", "Metric", "Value"]
    rows = [[one.study, one.what, one.probe, one.metric, f"{one.value:.3f}"] for one in reference.PUBLISHED]
    text += markdown_table(header, rows, left=4) + "\n"
    return text + "".join(
        f"- {name}: {about.text()}\n" for name, about in reference.STUDIES.items() if name not in values()
    )


if __name__ == "__main__":
    PAGE.write_text(markdown(), encoding="utf-8")
