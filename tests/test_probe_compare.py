"""Two runs on the same samples: paired differences, McNemar's test; intervals by spatial cell."""

import json

import numpy as np
import pytest
from helpers import make_split
from made_runs import EUROSAT, made_up, make_run

from data import command, runs
from data.dataset import SPLITS
from data.errors import RequestError
from probes import compare, fit, inputs, intervals, spatial
from probes.cli import app

NAMES = EUROSAT[:4]


@pytest.fixture(scope="module", params=[True, False], ids=["multi-label", "single-label"])
def pair(request, tmp_path_factory):
    """Two runs of which the second has a little less noise."""
    out = tmp_path_factory.mktemp("runs")
    labels, scores = made_up(NAMES, multilabel=request.param, rows=300, shares=np.array([0.5, 0.3, 0.2, 0.1]))
    truth = labels if request.param else np.eye(4)[labels]
    return [
        make_run(out, labels, np.clip(scores + gain * (truth - 0.5), 0.01, 1).astype(np.float32), NAMES, kind=kind)
        for gain, kind in ((0, "rf"), (0.15, "linear"))
    ]


def again(run, folder, rows=None, **changes):
    """A copy of a run elsewhere, with its samples in another order or others in their place."""
    test = run.predictions("test")
    rows = np.arange(len(test.ids)) if rows is None else rows
    given = {"ids": [test.ids[row] for row in rows], "labels": test.labels[rows], "scores": test.scores[rows]} | changes
    record = {key: value for key, value in run.record.items() if key != "schema"}
    return runs.write_run(folder, record, {"test": runs.Predictions(**given)}, lambda path: path.touch())


def test_differences_are_those_of_the_records_and_the_order_of_samples_does_not_matter(pair, tmp_path):
    one, other = pair
    found = compare.compare(one, other)
    rows = np.random.default_rng(0).permutation(300)
    assert compare.compare(one, again(other, tmp_path / "x", rows)) == found
    assert found["samples"] == found["units"] == 300 and found["by"] == "image"
    for name, values in found["metrics"].items():
        if name in one.record["metrics"]["test"]["tuned"]:
            wanted = [run.record["metrics"]["test"]["tuned"][name] for run in pair]
            assert [values["one"], values["other"]] == pytest.approx(wanted)
        low, high = values["interval"]
        assert low <= values["difference"] <= high and values["p"] <= values["p_holm"] <= 1
    headline = "f2_macro" if one.multilabel else "accuracy"
    low, high = found["metrics"][headline]["interval"]
    assert low > 0
    back = compare.compare(other, one)["metrics"][headline]
    assert back["difference"] == -found["metrics"][headline]["difference"]
    assert back["interval"] == pytest.approx([-high, -low], abs=1e-12) and back["p"] < 0.05


def test_a_paired_interval_is_narrower_than_that_of_the_two_runs_apart(pair):
    low, high = compare.compare(*pair)["metrics"]["f1_micro" if pair[0].multilabel else "accuracy"]["interval"]
    apart = [run.record["intervals"]["test"]["tuned"] for run in pair]
    widths = [np.diff(one["f1_micro" if pair[0].multilabel else "accuracy"]["interval"])[0] for one in apart]
    assert high - low < 0.8 * np.hypot(*widths)


def test_a_run_does_not_differ_from_itself(pair):
    found = compare.compare(pair[0], pair[0])
    assert {(row["interval"], row["p"], row["difference"]) for row in found["metrics"].values()} == {(None, 1.0, 0.0)}
    if not pair[0].multilabel:
        assert found["mcnemar"] == {"only_one": 0, "only_other": 0, "p": 1.0}


@pytest.mark.parametrize(
    ("only_one", "only_other", "p"),
    [
        (1, 9, 2 * (1 + 10) / 2**10),  # two tails of 0 or 1 of 10: C(10, 0) + C(10, 1) of 2^10
        (2, 6, 2 * (1 + 8 + 28) / 2**8),
        (5, 5, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemars_p_by_hand(only_one, only_other, p):
    one = np.repeat([True, False, True, False], [only_one, only_other, 20, 7])
    other = np.repeat([False, True, True, False], [only_one, only_other, 20, 7])
    assert compare.mcnemar(one, other) == {"only_one": only_one, "only_other": only_other, "p": pytest.approx(p)}


def test_runs_that_cannot_be_compared_are_refused(pair, tmp_path):
    one, other = pair
    with pytest.raises(RequestError, match="300 and 299, 299 of them"):
        compare.compare(one, again(other, tmp_path / "a", np.arange(299)))
    with pytest.raises(RequestError, match="labels"):
        compare.compare(one, again(other, tmp_path / "b", labels=1 - one.predictions("test").labels.clip(0, 1)))
    labels, scores = made_up(NAMES[:3], multilabel=one.multilabel, rows=300, shares=np.full(3, 0.3))
    with pytest.raises(RequestError, match="classes"):
        compare.compare(one, make_run(tmp_path, labels, scores, NAMES[:3]))


def test_the_command_prints_and_writes_the_comparison(pair, tmp_path, capsys):
    one, other = (str(run.folder) for run in pair)
    assert command.run(app, ["compare", one, other, "--to", str(tmp_path / "c.json")]) == 0
    printed = capsys.readouterr().out
    assert "300 test samples" in printed and " *" in printed and "95% interval, by image" in printed
    assert ("assumes independent samples" in printed) is (not pair[0].multilabel)
    assert ("McNemar" in printed) is (not pair[0].multilabel)
    assert json.loads((tmp_path / "c.json").read_text())["metrics"] == compare.compare(*pair)["metrics"]
    assert command.run(app, ["compare", one, str(tmp_path)]) == 2
    assert capsys.readouterr().err == f"probe: no run at {tmp_path}; make one with probe\n"
    assert command.run(app, ["compare", one, other, "--rule", "best"]) == 2


# ------------------------------------------------------------------------------------------ spatial cells


def test_cells_by_hand():
    """Quarters of a degree in latitude; at 60 degrees north a degree of longitude is half as long."""
    lonlat = [(10.00, 45.01), (10.01, 45.20), (10.00, 45.26), (20.1, 60.1), (20.5, 60.1), (20.6, 60.1)]
    far = [(lon, 10.1) for lon in range(30, 40)]
    numbers = spatial.cells(np.array(lonlat + far, float))
    assert numbers is not None
    assert numbers[0] == numbers[1] != numbers[2]
    assert numbers[3] == numbers[4] != numbers[5]  # 0.25 / cos(60.125) = 0.502 wide there: 20.08 to 20.58
    assert len(set(numbers[6:])) == 10


def test_an_unknown_place_gives_no_cells_and_few_cells_a_warning():
    many = np.stack([np.arange(12.0), np.zeros(12)], axis=1)
    assert spatial.cells(many) is not None and spatial.cells(None) is None
    assert spatial.cells(np.vstack([many, [[np.nan, 0]]])) is None
    assert spatial.units(None, 5).words == "by image" and spatial.units(None, 5).warning is None
    assert (
        spatial.units(many, 12).words == "by 12 spatial cells" and "12 spatial cells" in spatial.units(many, 12).warning
    )
    wide = np.stack([np.arange(30.0), np.zeros(30)], axis=1)
    assert spatial.units(wide, 30).warning is None


def test_a_run_with_locations_tells_intervals_by_cell_which_neighbours_make_wider(tmp_path):
    """Each test sample is there nine times in its cell: three times wider, as nine copies are one piece of evidence."""
    rng = np.random.default_rng(0)
    for split in SPLITS:
        labels = np.repeat(rng.integers(0, 2, 60), 9)
        features = np.repeat(rng.standard_normal((60, 2)), 9, axis=0).astype(np.float32) + labels[:, None]
        lonlat = np.stack([np.repeat(np.arange(60.0), 9), np.zeros(540)], axis=1)
        make_split(tmp_path / f"{split}.h5", labels, features.astype(np.float32), ["a", "b"], lonlat=lonlat)
    splits = inputs.read_splits(tmp_path)
    run = fit.run_probe(fit.plan_probe("prior", splits, tmp_path, seed=0), splits)
    assert run.record["interval_units"] == {
        "level": 0.95, "by": "cell", "count": 60, "effective": 60.0, "degrees": 0.25,
    }  # fmt: skip
    found = run.record["intervals"]["test"]["half"]["accuracy"]
    assert (found["by"], found["units"], found["method"]) == ("cell", 60, "jackknife")
    by_image = intervals.wilson(run.record["metrics"]["test"]["half"]["accuracy"], 540)
    assert 2.3 < np.diff(found["interval"])[0] / np.diff(by_image)[0] < 3.7
    np.testing.assert_array_equal(run.predictions("test").lonlat, splits["test"].lonlat)
    found = compare.compare(run, run, rule="half", other_rule="tuned")
    assert (found["by"], found["units"]) == ("cell", 60) and found["metrics"]["accuracy"]["p"] == 1
