"""Two runs on the same samples: paired differences, McNemar's test; intervals by spatial cell."""

import json

import numpy as np
import pytest
from helpers import make_split
from made_runs import EUROSAT, made_up, make_run

from data import command, runs
from data.dataset import SPLITS
from data.errors import RequestError
from probes import compare, fit, inputs, metrics, spatial
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
    assert found["samples"] == 300 and found["cells"] is None
    for name, values in found["metrics"].items():
        if name in one.record["metrics"]["test"]["tuned"]:
            wanted = [run.record["metrics"]["test"]["tuned"][name] for run in pair]
            assert [values["one"], values["other"]] == pytest.approx(wanted)
        low, high = values["interval"]
        assert low <= values["difference"] <= high and values["cell_interval"] is None
    headline = "f2_macro" if one.multilabel else "accuracy"
    low, high = found["metrics"][headline]["interval"]
    assert low > 0
    back = compare.compare(other, one)["metrics"][headline]
    assert back["difference"] == -found["metrics"][headline]["difference"]
    assert back["interval"] == pytest.approx([-high, -low], abs=1e-12)


def test_a_paired_interval_is_narrower_than_that_of_unpaired_resamples(pair):
    one, other = pair
    found = compare.compare(one, other)["metrics"]["f1_macro"]["interval"]
    truth = one.predictions("test").labels
    truth = truth.astype(bool) if one.multilabel else metrics.one_hot(truth, 4)
    drawn = [
        metrics.resampled_counts(truth, decided, names=("f1_macro",), seed=seed)["f1_macro"]
        for seed, run in enumerate(pair)
        for decided in [compare.decide(run.predictions("test").scores, compare.thresholds_of(run, "tuned"))]
    ]
    low, high = metrics.interval(drawn[1] - drawn[0])
    assert found[1] - found[0] < 0.8 * (high - low)


def test_a_run_does_not_differ_from_itself(pair):
    found = compare.compare(pair[0], pair[0])
    assert {tuple(row["interval"]) for row in found["metrics"].values()} == {(0.0, 0.0)}
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
    with pytest.raises(RequestError, match="tested on other samples: 300 and 299, 299 of them shared"):
        compare.compare(one, again(other, tmp_path / "a", np.arange(299)))
    with pytest.raises(RequestError, match="differ in the labels of test samples"):
        compare.compare(one, again(other, tmp_path / "b", labels=1 - one.predictions("test").labels.clip(0, 1)))
    labels, scores = made_up(NAMES[:3], multilabel=one.multilabel, rows=300, shares=np.full(3, 0.3))
    with pytest.raises(RequestError, match="are of other classes"):
        compare.compare(one, make_run(tmp_path, labels, scores, NAMES[:3]))


def test_the_command_prints_and_writes_the_comparison(pair, tmp_path, capsys):
    one, other = (str(run.folder) for run in pair)
    assert command.run(app, ["compare", one, other, "--to", str(tmp_path / "c.json")]) == 0
    printed = capsys.readouterr().out
    assert "300 test samples" in printed and " *" in printed and "95 %, by image" in printed
    assert ("McNemar, exact" in printed) is (not pair[0].multilabel)
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


def test_unknown_places_and_too_few_cells_give_none():
    many = np.stack([np.arange(12.0), np.zeros(12)], axis=1)
    assert spatial.cells(many) is not None and spatial.cells(many[:9]) is None and spatial.cells(None) is None
    assert spatial.cells(np.vstack([many, [[np.nan, 0]]])) is None


def test_drawing_groups_equals_resampling_their_rows():
    rng = np.random.default_rng(3)
    truth, scores = rng.random((40, 3)) < 0.4, rng.random((40, 3)).round(1)
    groups = rng.permutation(np.arange(40) % 7)
    counted = metrics.bootstrap_counts(
        truth, scores >= 0.5, names=metrics.MULTILABEL, seed=7, resamples=60, groups=groups
    )
    ranked = metrics.bootstrap_average_precision(truth, scores, seed=7, resamples=60, groups=groups)
    drawing, slow = np.random.default_rng(7), []
    for _ in range(60):
        rows = np.concatenate([np.flatnonzero(groups == group) for group in drawing.integers(7, size=7)])
        slow.append(metrics.multilabel_metrics(truth[rows], scores[rows] >= 0.5, scores[rows]))
    for name, interval in (counted | ranked).items():
        np.testing.assert_allclose(interval, np.percentile([row[name] for row in slow], [2.5, 97.5]), err_msg=name)


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
    assert run.record["bootstrap"]["cells"] == {"degrees": 0.25, "count": 60}
    spans = [run.record[key]["test"]["half"]["accuracy"] for key in ("intervals", "cell_intervals")]
    one, nine = (high - low for low, high in spans)
    assert 2.3 < nine / one < 3.7
    np.testing.assert_array_equal(run.predictions("test").lonlat, splits["test"].lonlat)
    found = compare.compare(run, run, rule="half", other_rule="tuned")
    assert found["cells"] == 60 and found["metrics"]["accuracy"]["cell_interval"] == [0.0, 0.0]
