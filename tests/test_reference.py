"""Published numbers: what can be worked out from each other is, to the digits they were printed with."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import write_references
from helpers import encoder_identity
from made_runs import EUROSAT, made_up, make_run

from analysis.studies import protocol, reference, table2
from data import command
from data.registry import DATASETS
from data.runs import find_runs
from featurize.card import MODELS
from featurize.cli import app as featurize_app
from probes.card import PROBES
from probes.cli import app as probe_app


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
    assert (
        "29 of Highway" in reference.CLASS_PROJECT_NOTE and "30 test images per class" in reference.CLASS_PROJECT_NOTE
    )


def test_the_worked_out_rates_of_the_class_project_round_to_the_printed_ones():
    for row, worked in zip(reference.CLASS_PROJECT, table2.published().to_dict("records"), strict=True):
        assert worked["support"] == row.tp + row.fn
        for rate in ("precision", "recall", "specificity", "f1"):
            assert worked[rate] == pytest.approx(getattr(row, rate), abs=0.0051)


# ------------------------------------------------------------------------- every value against its source

# As the seminar's document prints them: F2 macro %, F2 micro %, hamming loss, precision macro %, precision micro %.
SEMINAR_PRINTED = {
    "rf": (21.4, 35.8, 0.123, 52, 72),
    "linear": (22.9, 35.3, 0.124, 49, 70),
    "mlp": (34.5, 47.8, 0.113, 58, 71),
}
# As the class project's Table 2 prints them: TP, FP, TN, FN, precision, recall, specificity, F1.
TABLE2_PRINTED = """
AnnualCrop            18  1 268 12  .95  .60 1.00 .73
Forest                16  1 268 14  .94  .53 1.00 .68
HerbaceousVegetation  30 29 240  0  .51 1.00  .89 .67
Highway               27  3 267  2  .90  .93  .99 .92
Industrial            29 11 258  1  .72  .97  .96 .83
Pasture               20  8 261 10  .71  .67  .97 .69
PermanentCrop         27 16 253  3  .63  .90  .94 .74
Residential           14  2 267 16  .88  .47  .99 .61
River                 19 10 259 11  .66  .63  .96 .64
SeaLake               18  0 269 12 1.00  .60 1.00 .75
"""
# torchgeo-bench: kNN / linear on m-eurosat, EuroSAT spatial, m-bigearthnet, benv2.
BENCH_PRINTED = {
    "DOFA-B, RGB": ".921/.962 .900/.952 .549/.680 .669/.800",
    "DOFA-L, RGB": ".936/.973 .924/.965 .565/.699 .680/.813",
    "RCF-512, RGB": ".614/.769 .498/.617 .348/.486 .541/.652",
    "Image statistics, all bands": ".783/.865 .732/.884 .421/.490 .612/.703",
}
BENCH_SETS = (
    ("m-eurosat", "accuracy"), ("EuroSAT, spatial split", "accuracy"), ("m-bigearthnet, 43 classes", "map_micro"),
    ("GEO-Bench 2's benv2, 19 classes", "map_micro"),
)  # fmt: skip
OTHERS_PRINTED = {
    ("resize", "ResNet-50 (ImageNet), 64 px, RGB, on EuroSAT", "knn", "accuracy"): 0.821,
    ("resize", "ResNet-50 (ImageNet), 224 px, RGB, on EuroSAT", "knn", "accuracy"): 0.912,
    ("resize", "MOSAIKS (512 filters of 3 x 3 from the data, ZCA), RGB, on EuroSAT", "knn", "accuracy"): 0.814,
    ("resize", "MOSAIKS (512 filters of 3 x 3 from the data, ZCA), 13 bands, on EuroSAT", "knn", "accuracy"): 0.905,
    ("resize", "Image statistics, scaled, RGB, on EuroSAT", "knn", "accuracy"): 0.772,
    ("resize", "Image statistics, scaled, 13 bands, on EuroSAT", "knn", "accuracy"): 0.894,
    ("resize", "Image statistics, scaled, 12 bands, on BigEarthNet v1, 19 classes", "knn", "f1_macro"): 0.585,
    ("resize", "Image statistics, scaled, 12 bands, on BigEarthNet v1, 19 classes", "knn", "f1_micro"): 0.694,
    ("resize", "Image statistics, scaled, 12 bands, on BigEarthNet v1, 19 classes", "knn", "precision_micro"): 0.734,
    ("resize", "Image statistics, scaled, 12 bands, on BigEarthNet v1, 19 classes", "knn", "recall_micro"): 0.658,
    ("resize", "MOSAIKS, ZCA, 12 bands, on BigEarthNet v1, 19 classes", "knn", "f1_macro"): 0.645,
    ("resize", "MOSAIKS, ZCA, 12 bands, on BigEarthNet v1, 19 classes", "knn", "f1_micro"): 0.732,
    ("copernicus-bench", "DOFA on EuroSAT-S2", "linear", "accuracy"): 0.972,
    ("copernicus-bench", "DOFA on BigEarthNet-S2 (v2)", "linear", "map"): 0.755,
    ("dofa", "DOFA-B on m-bigearthnet", "linear", "as published"): 0.657,
    ("dofa", "DOFA-L on m-bigearthnet", "linear", "as published"): 0.675,
    ("dofa", "DOFA-B on m-eurosat", "linear", "as published"): 0.939,
    ("dofa", "DOFA-L on m-eurosat", "linear", "as published"): 0.971,
}


def test_every_value_of_the_seminar_is_the_printed_one():
    for kind, printed_row in SEMINAR_PRINTED.items():
        row = tuple(reference.SEMINAR[kind].values())
        percent = [round(100 * value, 1) for value in row]
        assert (percent[0], percent[1], row[2], percent[3], percent[4]) == printed_row
    assert reference.SEMINAR.keys() == SEMINAR_PRINTED.keys()


def test_every_value_of_the_class_project_is_the_printed_one():
    lines = [line.split() for line in TABLE2_PRINTED.strip().splitlines()]
    assert [(row.name, row.tp, row.fp, row.tn, row.fn) for row in reference.CLASS_PROJECT] == [
        (line[0], *map(int, line[1:5])) for line in lines
    ]
    assert [(row.precision, row.recall, row.specificity, row.f1) for row in reference.CLASS_PROJECT] == [
        tuple(map(float, line[5:])) for line in lines
    ]
    assert reference.CLASS_PROJECT_SPLIT == {"train": 100, "val": 20, "test": 10}


def test_table_1_prints_100_where_its_rows_sum_to_140_and_both_stay_visible():
    assert reference.CLASS_PROJECT_TABLE1 == {
        "AnnualCrop": (200, 30), "Forest": (200, 40), "HerbaceousVegetation": (200, 30), "Industrial": (200, 40),
    }  # fmt: skip
    assert reference.CLASS_PROJECT_TABLE1_TOTAL == 100
    assert sum(test for _, test in reference.CLASS_PROJECT_TABLE1.values()) == 140
    told = " ".join(reference.STUDIES["class-project"].contradictions)
    assert "100" in told and "140" in told and "29 of Highway" in told


def test_table_3_has_seven_right_cases_and_three_mistakes():
    cases = [(case.true, case.predicted) for case in reference.CLASS_PROJECT_CASES]
    right = ["SeaLake", "Residential", "PermanentCrop", "Pasture", "AnnualCrop", "Highway", "HerbaceousVegetation"]
    assert cases[:7] == [(name, name) for name in right]
    assert cases[7:] == [("River", "Pasture"), ("Industrial", "Residential"), ("Forest", "SeaLake")]


def test_every_other_published_value_is_the_printed_one():
    expected = dict(OTHERS_PRINTED)
    for model, line in BENCH_PRINTED.items():
        for (data, metric), pair in zip(BENCH_SETS, line.split(), strict=True):
            for probe, value in zip(("knn", "linear"), pair.split("/"), strict=True):
                expected["torchgeo-bench", f"{model} on {data}", probe, metric] = float(value)
    assert {(one.study, one.what, one.probe, one.metric): one.value for one in reference.PUBLISHED} == expected
    assert len(reference.PUBLISHED) == len(expected)


def test_printed_derived_and_assumed_are_told_apart():
    found = {study: {one.what: one for one in values} for study, values in write_references.values().items()}
    seminar, project = found["seminar"], found["class-project"]
    assert (seminar["rf: precision_micro"].value, seminar["rf: precision_micro"].origin) == (0.72, "printed")
    assert (seminar["rf: recall_micro"].value, seminar["rf: recall_micro"].origin) == (0.318, "derived")
    assert (project["Table 2: accuracy"].value, project["Table 2: accuracy"].origin) == (0.729, "derived")
    assumed = {
        study: [v.value for v in values if v.origin == "assumed"] for study, values in write_references.values().items()
    }
    assert "0.5" in str(assumed["seminar"]) and "frozen" in str(assumed["class-project"])


def test_the_page_of_references_is_what_the_program_writes():
    page = Path(__file__).parent.parent / "docs" / "results" / "references.md"
    assert page.read_text() == write_references.markdown(), "run: python -m tests.write_references"


@pytest.mark.parametrize(
    ("kind", "recall", "labels"), [("rf", 0.318, 2.90), ("linear", 0.314, 2.87), ("mlp", 0.442, 2.91)]
)
def test_the_seminars_micro_precision_and_f2_give_recall_and_with_the_hamming_loss_the_labels_a_patch(
    kind, recall, labels
):
    row = reference.SEMINAR[kind]
    worked = write_references.recall_of(row["precision_micro"], row["f2_micro"])
    assert round(worked, 3) == recall
    each = write_references.labels_of(row["precision_micro"], worked, row["hamming_loss"], classes=19)
    assert round(each, 2) == labels  # BigEarthNet v2 has 2.95 labels per patch
    # the same from 1,000 patches counted one by one: L labels each, R found, precision as published
    positives = 1000 * each
    found = worked * positives
    wrong = (positives - found) + found * (1 - row["precision_micro"]) / row["precision_micro"]
    assert wrong / (1000 * 19) == pytest.approx(row["hamming_loss"])


def test_recall_from_f2_by_hand():
    # TP 6, FP 2, FN 4: precision 6/8, recall 6/10, F2 = 5 * 6 / (5 * 6 + 4 * 4 + 2) = 30/48
    assert write_references.recall_of(6 / 8, 30 / 48) == pytest.approx(6 / 10)
    # 10 labels on 5 samples of 4 classes: 6 of 20 cells are wrong
    assert write_references.hamming_of(6 / 8, 6 / 10, labels_a_sample=2, classes=4) == pytest.approx(6 / 20)


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
    """A linear run made exactly as torchgeo-bench made its number of DOFA-B on the spatial split."""
    labels, scores = made_up(EUROSAT, multilabel=False, rows=30)
    encoder = encoder_identity(
        "dofa", variant="base", bands_name="rgb", image_size=224, weights={"source": "loaded", "sha256": "1" * 64}
    )
    record = make_run(tmp_path, labels, scores, EUROSAT, dataset="eurosat", encoder=encoder).record
    record["features"]["dataset"] |= {
        "variant": "spatial", "provenance": {"split": "eurosat-spatial-{train,val,test}.txt"},
    }  # fmt: skip
    record["rows"] = dict(reference.EUROSAT_SPLITS)
    grid = np.logspace(-6, 4, 40)
    record["arguments"] = {
        "selection": "accuracy", "refit": True, "standardise": False, "candidates": [{"C": float(c)} for c in grid],
    }  # fmt: skip
    return record


def test_a_run_of_the_same_protocol_gets_the_published_number(record):
    (match,) = protocol.matching(record, "accuracy")
    assert (match.published.value, match.same, match.words()) == (0.952, True, "0.952 torchgeo-bench (same protocol)")
    record |= {"kind": "knn", "chosen": {"k": 5, "distance": "euclidean", "zscore": False}, "arguments": {}}
    (match,) = protocol.matching(record, "accuracy")
    assert (match.published.value, match.differences) == (0.900, ())


DIFFERENT = {
    "split": (lambda r: r["rows"].update(train=12_960), "samples: published train 16,200"),
    "lists": (lambda r: r["features"]["dataset"]["provenance"].update(split="by longitude"), "split: published"),
    "size": (lambda r: r["features"]["encoder"].update(image_size=64), "image size: published 224, here 64"),
    "normalization": (
        lambda r: r["features"]["encoder"]["normalization"].update(method="none"),
        "normalization: published zscore, here none",
    ),
    "random weights": (
        lambda r: r["features"]["encoder"]["weights"].update(source="random"),
        "weights: published pretrained, here random",
    ),
    "calibration": (lambda r: r["arguments"].update(calibrate="platt"), "calibration: published none, here platt"),
    "views": (lambda r: r["arguments"].update(views=4), "views of each training image: published 1, here 4"),
    "C": (lambda r: r["arguments"].update(candidates=[{"C": 1.0}]), "C: published 40 values, 1e-06 to 10000, here 1"),
    "standardized": (
        lambda r: r["arguments"].update(standardise=True),
        "features standardized: published no, here yes",
    ),
    "refit": (lambda r: r["arguments"].update(refit=False), "refitted on train and val: published yes, here no"),
    "shots": (lambda r: r["arguments"].update(shots=16), "shots: published none, here 16"),
    "limit": (lambda r: r["features"]["dataset"].update(limit=500), "limit: published none, here 500"),
    "budget": (lambda r: r["arguments"].update(budget_s=90), "time budget in seconds: published none, here 90"),
    "pooling": (lambda r: r["features"]["encoder"].update(pooling="cls"), "pooling: published mean, here cls"),
    "anything new": (lambda r: r["arguments"].update(oversample="smote"), "oversample: published none, here smote"),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_run_that_differs_in_what_matters_is_the_nearest_protocol_with_the_difference(record, name):
    change, told = DIFFERENT[name]
    change(record)
    (match,) = protocol.matching(record, "accuracy")
    assert not match.same and "nearest protocol" in match.words()
    assert len(match.differences) == 1 and match.differences[0].startswith(told)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: r["features"]["dataset"].update(variant=None),
        lambda r: r["features"]["dataset"].update(name="eurosat-rgb"),
        lambda r: r["features"]["encoder"].update(variant="small"),
        lambda r: r["features"]["encoder"].update(bands_name="s2-9"),
        lambda r: r.update(kind="mlp"),
        lambda r: r.update(class_names=r["class_names"][:9]),
    ],
    ids=["variant", "data", "model", "bands", "probe", "classes"],
)
def test_a_run_of_other_data_or_another_model_gets_none(record, change):
    change(record)
    assert protocol.matching(record, "accuracy") == []


def test_another_metric_gets_none(record):
    assert protocol.matching(record, "f1_macro") == []


def test_a_real_run_on_eurosats_random_split_finds_its_published_number(shared, tmp_path, capsys):
    """What featurize and probe record, not what a test writes: the published numbers must find it."""
    data = ["--dataset", "eurosat", "--data-root", str(shared / "data" / "eurosat-ms"), "--bands", "rgb"]
    data += ["--cache-dir", str(tmp_path / "cache"), "--model", "stats", "--out", str(tmp_path)]
    assert command.run(featurize_app, data) == 0
    assert command.run(probe_app, ["--kind", "knn", "--out", str(tmp_path)]) == 0
    (run,) = find_runs(tmp_path)
    (match,) = protocol.matching(run.record, "accuracy")
    assert (match.published.study, match.published.value) == ("resize", 0.772)
    assert "samples: published train 16,200" in match.differences[-1] or "samples" in str(match.differences)
    assert not any(line.startswith(("image size", "split:")) for line in match.differences)


def test_a_set_of_geobench_finds_its_number(record):
    about = {"name": "geobench", "variant": "m-eurosat", "provenance": {"partition": "default"}}
    record["features"]["dataset"] |= about
    record["rows"] = {"train": 2000, "val": 1000, "test": 1000}
    (match,) = protocol.matching(record, "accuracy")
    assert (match.published.value, match.same) == (0.962, True)
    about["provenance"]["partition"], record["rows"]["train"] = "0.05x_train", 100
    (match,) = protocol.matching(record, "accuracy")
    assert [line.split(":")[0] for line in match.differences] == ["samples", "partition"]


@pytest.mark.parametrize(
    ("variant", "classes", "metric", "names"),
    [("m-eurosat", 10, "accuracy", ("s2-13", "13bands")), ("m-bigearthnet", 43, "map_micro", ("s2-12", "12bands"))],
)
def test_all_bands_of_a_set_go_by_either_name(record, variant, classes, metric, names):
    record["features"]["dataset"] |= {"name": "geobench", "variant": variant, "provenance": {"partition": "default"}}
    record["class_names"] = [str(number) for number in range(classes)]
    record["features"]["encoder"] |= {"name": "stats", "variant": None, "pooling": "mean+std+min+max"}
    for name in names:
        record["features"]["encoder"]["bands_name"] = name
        (match,) = protocol.matching(record, metric)
        assert match.published.what.startswith("Image statistics, all bands on " + variant)
    record["features"]["encoder"]["bands_name"] = {"13bands": "12bands", "12bands": "13bands"}[names[1]]
    assert protocol.matching(record, metric) == []


def test_random_features_are_the_published_ones_only_with_their_number_and_filters(record):
    encoder = record["features"]["encoder"]
    encoder |= {"name": "rcf", "variant": "gaussian", "settings": {"features": 512, "kernel": 3}}
    (match,) = protocol.matching(record, "accuracy")
    assert (match.published.value, match.same) == (0.617, True)
    encoder |= {"variant": "empirical", "settings": {"features": 1024, "kernel": 4}}
    (match,) = protocol.matching(record, "accuracy")
    assert sorted(line.split(":")[0] for line in match.differences) == ["kernel size", "number of features", "variant"]


def test_every_number_that_a_run_can_match_says_how_features_were_pooled():
    assert all("pooling" in one.protocol for one in reference.PUBLISHED if one.match)


def test_of_two_published_sizes_the_runs_own_is_the_nearest(record):
    encoder = record["features"]["encoder"]
    encoder |= {"name": "resnet", "variant": "imagenet", "image_size": 64}
    record["features"]["dataset"] |= {"variant": None, "provenance": {"split": "eurosat-{train,val,test}.txt"}}
    record |= {"kind": "knn", "chosen": {"k": 5, "distance": "euclidean", "zscore": False}, "arguments": {}}
    (match,) = protocol.matching(record, "accuracy")
    assert (match.published.value, match.same) == (0.821, True)
    encoder["image_size"] = 224
    assert [(m.published.value, m.same) for m in protocol.matching(record, "accuracy")] == [(0.912, True)]
    encoder["normalization"]["method"] = "imagenet"
    (match,) = protocol.matching(record, "accuracy")
    assert match.published.value == 0.912 and match.differences == (
        "normalization: published zscore, here imagenet",
    )  # fmt: skip


def test_rows_of_a_run_on_part_of_train_are_those_it_was_fitted_on(record):
    record["rows"] = {"train": 160}
    assert protocol.rows_of(record)["train"] == 160 and protocol.rows_of(record)["test"] == 30
