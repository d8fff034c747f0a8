"""Published numbers: what can be worked out from each other is, to the digits they were printed with."""

from fractions import Fraction

import numpy as np
import pytest
from helpers import encoder_identity
from made_runs import EUROSAT, made_up, make_run

from analysis import reference
from data.registry import DATASETS, MODELS, PROBES


def printed(value, digits):
    """The two values that a number may be printed as: half up and half to even differ on a tie."""
    scaled = Fraction(value) * 10**digits
    return {float(Fraction(round(scaled), 10**digits)), float(Fraction(int(scaled + Fraction(1, 2)), 10**digits))}


@pytest.mark.parametrize("row", reference.CLASS_PROJECT, ids=lambda row: row.name)
def test_a_row_of_the_class_project_adds_up(row):
    assert row.tp + row.fp + row.tn + row.fn == reference.CLASS_PROJECT_IMAGES
    assert row.precision in printed(Fraction(row.tp, row.tp + row.fp), 2)
    assert row.recall in printed(Fraction(row.tp, row.tp + row.fn), 2)
    assert row.specificity in printed(Fraction(row.tn, row.tn + row.fp), 2)
    assert row.f1 in printed(Fraction(2 * row.tp, 2 * row.tp + row.fp + row.fn), 2)


def test_the_class_project_is_right_218_times_of_299():
    rows = reference.CLASS_PROJECT
    right = sum(row.tp for row in rows)
    assert right == 218 and sum(row.fp for row in rows) == sum(row.fn for row in rows) == 299 - right
    assert printed(Fraction(right, 299), 3) == {reference.CLASS_PROJECT_ACCURACY}


def test_the_class_projects_table_does_not_fit_its_split_and_the_note_says_so():
    positives = {row.name: row.tp + row.fn for row in reference.CLASS_PROJECT}
    assert positives.pop("Highway") == 29 and set(positives.values()) == {30}
    assert reference.CLASS_PROJECT_SPLIT["test"] == 10
    assert "29 of Highway" in reference.CLASS_PROJECT_NOTE and "30 test images a class" in reference.CLASS_PROJECT_NOTE


def test_the_worked_out_rates_of_the_class_project_round_to_the_printed_ones():
    for row, worked in zip(reference.CLASS_PROJECT, reference.class_project_rows(), strict=True):
        assert worked["support"] == row.tp + row.fn
        for rate in ("precision", "recall", "specificity", "f1"):
            assert worked[rate] == pytest.approx(getattr(row, rate), abs=0.0051)


@pytest.mark.parametrize(("kind", "recall"), [("rf", 0.319), ("linear", 0.314), ("mlp", 0.442)])
def test_the_seminars_micro_precision_and_f2_give_recall_and_with_the_hamming_loss_the_labels_a_patch(kind, recall):
    row = reference.SEMINAR[kind]
    worked = reference.recall_of(row["precision_micro"], row["f2_micro"])
    assert round(worked, 3) == recall
    labels = reference.labels_of(row["precision_micro"], worked, row["hamming_loss"], classes=19)
    assert 2.855 < labels < 2.915  # BigEarthNet v2 has 2.95 labels a patch
    # the same from 1,000 patches counted one by one: L labels each, R found, precision as published
    positives = 1000 * labels
    found = worked * positives
    wrong = (positives - found) + found * (1 - row["precision_micro"]) / row["precision_micro"]
    assert wrong / (1000 * 19) == pytest.approx(row["hamming_loss"])


def test_recall_from_f2_by_hand():
    # TP 6, FP 2, FN 4: precision 6/8, recall 6/10, F2 = 5 * 6 / (5 * 6 + 4 * 4 + 2) = 30/48
    assert reference.recall_of(6 / 8, 30 / 48) == pytest.approx(6 / 10)
    # 10 labels on 5 samples of 4 classes: 6 of 20 cells are wrong
    assert reference.hamming_of(6 / 8, 6 / 10, labels_a_sample=2, classes=4) == pytest.approx(6 / 20)


def test_the_published_neighbours_on_image_statistics_give_their_published_f1_and_an_f2_of_067():
    values = {
        one.metric: one.value
        for one in reference.PUBLISHED
        if one.study == "resize" and "statistics" in one.what and "BigEarthNet" in one.what
    }
    p, r = values["precision_micro"], values["recall_micro"]
    assert 2 * p * r / (p + r) == pytest.approx(values["f1_micro"], abs=0.0005)
    assert round(5 * p * r / (4 * p + r), 2) == 0.67


def test_every_published_number_is_a_share_and_names_its_study():
    for one in reference.PUBLISHED:
        assert 0 < one.value < 1 and one.study in reference.STUDIES and one.probe in PROBES.names()
        if one.match:
            assert one.match["dataset"] in DATASETS.names() and one.match["model"] in MODELS.names()
    assert all(study.citation and study.protocol for study in reference.STUDIES.values())
    assert all(0 < value < 1 for row in reference.SEMINAR.values() for value in row.values())


# ---------------------------------------------------------------------------------------------- matching


@pytest.fixture
def record(tmp_path):
    """A linear run with the identity of torchgeo-bench's DOFA-B on the spatial split."""
    labels, scores = made_up(EUROSAT, multilabel=False, rows=30)
    encoder = encoder_identity(
        "dofa", variant="base", bands_name="rgb", image_size=224, weights={"source": "loaded", "sha256": "1" * 64}
    )
    record = make_run(tmp_path, labels, scores, EUROSAT, dataset="eurosat", encoder=encoder).record
    record["features"]["dataset"]["variant"] = "spatial"
    record["rows"] = dict(reference.EUROSAT_SPLITS)
    return record


def test_a_run_of_the_same_protocol_gets_the_published_number(record):
    assert [one.value for one in reference.matching(record, "accuracy")] == [0.952]
    record["kind"] = "knn"
    assert [one.value for one in reference.matching(record, "accuracy")] == [0.900]


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["rows"].update(train=12_960),
        lambda r: r["features"]["dataset"].update(variant="random"),
        lambda r: r["features"]["dataset"].update(name="eurosat-rgb"),
        lambda r: r["features"]["encoder"].update(variant="large", image_size=64),
        lambda r: r["features"]["encoder"].update(bands_name="s2-9"),
        lambda r: r["features"]["encoder"]["normalization"].update(method="none"),
        lambda r: r["features"]["encoder"]["weights"].update(source="random"),
        lambda r: r.update(kind="mlp"),
        lambda r: r.update(class_names=r["class_names"][:9]),
    ],
    ids=["split", "variant", "data", "size", "bands", "normalisation", "random weights", "probe", "classes"],
)
def test_a_run_of_another_protocol_gets_none(record, change):
    change(record)
    assert reference.matching(record, "accuracy") == []


def test_another_metric_gets_none(record):
    assert reference.matching(record, "f1_macro") == []


def test_rows_of_a_run_on_part_of_train_are_those_it_was_fitted_on(record):
    record["rows"] = {"train": 160}
    assert reference.rows_of(record)["train"] == 160 and reference.rows_of(record)["test"] == 30
    assert np.isfinite(list(reference.rows_of(record).values())).all()
