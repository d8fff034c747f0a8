"""`analyze area`: from a table of reference samples to areas with intervals, and what it refuses."""

import csv

import pandas as pd
import pytest
from made_runs import made_up, make_run
from test_map_accuracy import CHANGE, TABLE_8, sample

from analysis.contract import ViewRequest, run_view
from data.errors import RequestError

HECTARES = "Deforestation=18000,Forest gain=13500,Stable forest=288000,Stable non-forest=580500"


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "sample.csv"
    with file.open("w", newline="") as target:
        csv.writer(target).writerows([("map", "reference"), *zip(*sample(TABLE_8, CHANGE), strict=True)])
    return file


def area(tmp_path, **options):
    return run_view("area", ViewRequest(out=tmp_path / "runs"), **options)


def test_a_table_gives_the_areas_of_olofsson_2014(tmp_path, table):
    (output,) = area(tmp_path, sample=str(table), areas=HECTARES, unit="ha")
    cells = {row[0]: row[1:] for row in output.tables[0][1]}
    assert cells["Deforestation"] == [
        "18,000",
        "21,158 ± 6,158",
        cells["Deforestation"][2],
        "0.880 ± 0.074",
        "0.749 ± 0.213",
    ]
    assert cells["Forest gain"][1] == "11,686 ± 3,756" and cells["Stable forest"][1] == "285,770 ± 15,510"
    assert cells["Stable non-forest"][1] == "581,386 ± 16,282" and "0.947 ± 0.018" in output.summary
    assert all(file.stat().st_size for file in output.files)
    frame = pd.read_csv(output.file("csv"))
    assert frame["area"].sum() == pytest.approx(900_000)


def test_areas_and_strata_come_from_tables_too(tmp_path, table):
    areas = tmp_path / "areas.csv"
    areas.write_text("name,area\n" + HECTARES.replace("=", ",").replace("00,", "00\n"))
    (output,) = area(tmp_path, sample=str(table), areas=str(areas))
    assert output.tables[0][1][0][2] == "21,158 ± 6,158"
    strata = pd.read_csv(table)
    strata["stratum"] = "all"
    strata.to_csv(table, index=False)
    (one,) = area(tmp_path, sample=str(table), areas="all=1000")
    strata.drop(columns="stratum").to_csv(table, index=False)
    (simple,) = area(tmp_path, sample=str(table), design="simple")
    assert [row[4:] for row in one.tables[0][1]] == [row[4:] for row in simple.tables[0][1]]


def test_a_run_says_that_its_test_samples_are_no_probability_sample(tmp_path):
    labels, scores = made_up(["Forest", "Water", "Town"], multilabel=False, rows=300)
    make_run(tmp_path / "runs", labels, scores, ["Forest", "Water", "Town"], simulated=True)
    (output,) = area(tmp_path)
    right = (scores.argmax(axis=1) == labels).mean()
    assert f"Overall accuracy {right:.3f}" in output.summary and "not a probability sample" in output.summary
    assert "(simulated data)" in output.title
    (weighted,) = area(tmp_path, areas="Forest=600,Water=300,Town=100", unit="ha")
    assert [row[1] for row in weighted.tables[0][1]] == ["600", "300", "100"]


def test_a_plan_gives_the_sample_size_of_olofsson_2014(tmp_path):
    expected = "Deforestation=.7,Forest gain=.6,Stable forest=.9,Stable non-forest=.95"
    (output,) = area(tmp_path, plan=True, areas=HECTARES, expected=expected, least=75)
    assert "641" in output.title and [row[3] for row in output.tables[0][1]] == ["75", "75", "163", "328"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"design": "cluster"}, "design 'cluster'.*simple, stratified"),
        ({}, "--areas.*--design simple"),
        ({"areas": "Deforestation=18000"}, "no size for stratum Forest gain"),
        ({"areas": "A=x"}, "A=x"),
        ({"areas": "A=1,A=2"}, "A is named twice"),
        ({"areas": HECTARES + ",Water=5"}, "stratum Water has fewer than 2"),
        ({"plan": True}, "--areas"),
        ({"plan": True, "areas": "A=1", "target_se": 0.0}, "--target-se 0"),
        ({"plan": True, "areas": "A=1", "expected": "B=0.5"}, "--expected names B"),
    ],
)
def test_bad_requests_are_one_line(tmp_path, table, options, told):
    with pytest.raises(RequestError, match=told):
        area(tmp_path, sample=str(table), **options)


def test_a_table_without_its_columns_or_cells_is_refused(tmp_path):
    file = tmp_path / "s.csv"
    file.write_text("map,truth\na,b\n")
    with pytest.raises(RequestError, match="no column reference; it has map, truth"):
        area(tmp_path, sample=str(file), design="simple")
    file.write_text("map,reference\na,b\na,\n")
    with pytest.raises(RequestError, match="1 rows .* row 3"):
        area(tmp_path, sample=str(file), design="simple")
    with pytest.raises(RequestError, match="no table at"):
        area(tmp_path, sample=str(tmp_path / "absent.csv"), design="simple")
