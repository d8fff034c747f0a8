"""What a run of the class project's study was made on, in words."""

from analysis import frames
from analysis.studies import protocol, reference
from data.runs import Run


def is_eurosat(run: Run) -> bool:
    """Whether the classes are those of the class project's Table 2."""
    return set(run.class_names) == {row.name for row in reference.CLASS_PROJECT}


def is_four(run: Run) -> bool:
    """Whether the classes are those of its Table 1."""
    return set(run.class_names) == set(reference.CLASS_PROJECT_TABLE1)


def split_sizes(run: Run) -> str:
    """Samples of each split, such as ``train 100, val 20, test 10``."""
    return ", ".join(f"{split} {count:,}" for split, count in protocol.rows_of(run.record).items())


def said(run: Run) -> str:
    """Dataset, model and probe of a run."""
    encoder = frames.model_words(run.record["features"]["encoder"])
    return f"{run.dataset} ({split_sizes(run)} samples), {encoder}, {run.kind}"


def protocol_note(run: Run) -> str:
    """How a run's protocol differs from the class project's."""
    unlike = protocol.differences(run.record, reference.CLASS_PROJECT_PROTOCOL)
    if not unlike:
        return "Same model, training and input as the class project's; which images it used is unknown."
    return f"Nearest protocol, not the class project's own: {'; '.join(unlike)}."
