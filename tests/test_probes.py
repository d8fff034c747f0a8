"""Every probe kind from features to a run on disk, and the inputs that must stop it."""

import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import make_features, make_split
from made_runs import rewrite
from sklearn.ensemble import IsolationForest, RandomForestClassifier

from data import runs, store
from data.dataset import SPLITS
from data.errors import RequestError
from data.store import reader
from probes import fit, inputs, metrics, models, probabilities
from probes.card import PROBES
from probes.kinds import rf
from probes.scores import score, shrunk_thresholds
from probes.settings import Settings

KINDS = PROBES.names()
LEARNING = [kind for kind in KINDS if kind != "prior"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    out = tmp_path_factory.mktemp("features")
    return {
        True: make_features(out, multilabel=True, dataset="many"),
        False: make_features(out, multilabel=False, dataset="one", dtype="float16", simulated=True),
    }


@pytest.fixture
def quick(monkeypatch):
    """Two candidates a kind: the search is the same, only shorter."""
    for name in KINDS:
        module = PROBES.load(name)
        few = module.candidates(1000)[1::4][:2] or module.candidates(1000)
        monkeypatch.setattr(module, "candidates", lambda rows, few=few: [c for c in few if c.get("k", 0) <= rows])


def _run(folder, out, kind="linear", *, seed=0, n_jobs=1, **settings):
    splits = inputs.read_splits(folder)
    return fit.run_probe(
        fit.plan_probe(kind, splits, out, seed=seed, settings=Settings(**settings)), splits, n_jobs=n_jobs
    )


def _write(folder, split, labels, features, **changes):
    names = changes.pop("names", ["a", "b", "c"])
    return make_split(folder / f"{split}.h5", labels, features, names, **changes)


def _three(folder, labels, *, dim=6, seed=0, **changes):
    """Features that carry their labels, for labels given by split."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((3, dim)) * 2
    for split in SPLITS:
        signal = labels[split] if labels[split].ndim == 2 else np.eye(3)[labels[split]]
        features = (signal @ directions + rng.standard_normal((len(signal), dim))).astype(np.float32)
        _write(folder, split, labels[split], features, **changes)
    return folder


def _random_labels(rows=(60, 30, 30), seed=0):
    rng = np.random.default_rng(seed)
    return {split: (rng.random((count, 3)) < 0.4).astype(np.uint8) for split, count in zip(SPLITS, rows, strict=True)}


# ---------------------------------------------------------------------------------------- shared contract


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_describes_itself_and_lists_distinct_candidates(kind):
    module = PROBES.load(kind)
    assert PROBES.summary(kind).endswith(".")
    assert PROBES.card(kind) == module.CARD
    candidates = module.candidates(1000)
    assert len({json.dumps(c, sort_keys=True) for c in candidates}) == len(candidates)
    assert len(candidates) == 1 if kind == "prior" else len(candidates) >= 2
    assert hasattr(module, "build") or hasattr(module, "search")
    for params in candidates if hasattr(module, "build") else ():
        module.build(params, seed=0, multilabel=True, n_jobs=1)


@pytest.mark.parametrize("kind", LEARNING)
@pytest.mark.parametrize("multilabel", [True, False], ids=["multi-label", "single-label"])
def test_a_probe_learns_the_signal_and_fulfils_the_run_contract(kind, multilabel, folders, tmp_path):
    run = _run(folders[multilabel], tmp_path, kind, n_jobs=2)
    record = json.loads((run.folder / "run.json").read_text())
    assert record == run.record == runs.read_run(run.folder).record
    assert run.folder.name.startswith(f"{kind}-") and run.simulated is (not multilabel)
    names = metrics.MULTILABEL if multilabel else metrics.SINGLE_LABEL
    for split in ("val", "test"):
        for rule in fit.RULES:
            assert list(record["metrics"][split][rule]) == [*names, *probabilities.NAMES]
    assert record["rows"] == {"train": 200, "val": 80, "test": 80}
    test = record["metrics"]["test"]["tuned"]
    assert test["map_macro" if multilabel else "accuracy"] > 0.85
    for rule in fit.RULES:
        assert set(record["intervals"]["test"][rule]) == {*names, *probabilities.NAMES}
        for name, found in record["intervals"]["test"][rule].items():
            assert (found["interval"] is None) is (found["reason"] is not None) and found["by"] == "image"
            low, high = found["interval"] or (0, 1)
            assert low <= record["metrics"]["test"][rule][name] <= high
        rows = record["per_class"][rule]
        assert [row["name"] for row in rows] == record["class_names"]
        assert all(row["tp"] + row["fp"] + row["tn"] + row["fn"] == 80 for row in rows)
    if multilabel:
        assert {row["threshold"] for row in record["per_class"]["half"]} == {0.5}
        val = record["metrics"]["val"]
        assert val["tuned"]["f2_macro"] >= val["half"]["f2_macro"]  # chosen there for just this
    else:
        assert record["metrics"]["test"]["half"] == test  # a threshold cannot promise exactly one class
        assert {row["threshold"] for row in record["per_class"]["tuned"]} == {None}
    # the stored scores reproduce the stored metrics
    stored = run.predictions("test")
    truth = stored.labels.astype(bool) if multilabel else metrics.one_hot(stored.labels, 5)
    wanted = metrics.average_precision(truth, stored.scores)
    np.testing.assert_array_equal([row["ap"] for row in record["per_class"]["half"]], wanted)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("multilabel", [True, False], ids=["multi-label", "single-label"])
def test_a_saved_model_is_loaded_through_the_whitelist_and_scores_the_same(kind, multilabel, folders, tmp_path, quick):
    run = _run(folders[multilabel], tmp_path, kind)
    features = store.read_features(folders[multilabel] / "test.h5").features.astype(np.float32)
    model = models.load_model(run.folder / "model.skops")
    again = score(model, features, classes=5, multilabel=multilabel)
    np.testing.assert_array_equal(again, run.predictions("test").scores)


def test_a_model_file_with_another_type_is_refused(tmp_path):
    class Foreign:
        pass

    Foreign.__qualname__ = "Foreign"
    globals()["Foreign"] = Foreign
    forest = IsolationForest()
    forest.extra = Foreign()
    models.save_model(forest, tmp_path / "model.skops")
    with pytest.raises(RequestError, match=r"holds types that no probe writes \(.*Foreign"):
        models.load_model(tmp_path / "model.skops")
    with pytest.raises(RequestError, match="run the probe again"):
        models.load_model(tmp_path / "absent.skops")


@pytest.mark.parametrize("field", ["left_child", "right_child", "feature"])
def test_a_forest_file_whose_trees_point_outside_themselves_is_refused(field, tmp_path):
    """scikit-learn walks trees without bounds checks: predicting with such a file would read foreign memory."""
    labels = np.arange(40) % 2
    forest = RandomForestClassifier(3, random_state=0).fit(labels[:, None] + np.eye(40)[:, :3], labels)
    models.save_model(forest, tmp_path / "good.skops")
    assert models.load_model(tmp_path / "good.skops").predict([[1, 1, 1]]) == 1
    tree = forest.estimators_[1].tree_
    state = tree.__getstate__()
    state["nodes"] = state["nodes"].copy()
    state["nodes"][field][0] = 10**6
    tree.__setstate__(state)
    models.save_model(forest, tmp_path / "bad.skops")
    with pytest.raises(RequestError, match="bad.skops: a tree"):
        models.load_model(tmp_path / "bad.skops")


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_seed_gives_the_same_run_byte_for_byte_whatever_n_jobs(kind, folders, tmp_path, quick):
    texts = []
    for n_jobs in (1, 2):
        run = _run(folders[True], tmp_path / str(n_jobs), kind, seed=3, n_jobs=n_jobs)
        record = json.loads((run.folder / "run.json").read_text())
        for changing in ("seconds", "created", "versions", "checksums"):
            del record[changing]
        texts.append(json.dumps(record))
    assert texts[0] == texts[1]


def test_another_seed_is_another_run(folders, tmp_path):
    splits = inputs.read_splits(folders[True])
    one, two = (fit.plan_probe("mlp", splits, tmp_path, seed=seed) for seed in (0, 1))
    assert one.folder != two.folder


def test_val_chooses_and_of_equals_the_simplest(folders, tmp_path, monkeypatch):
    module = PROBES.load("linear")
    monkeypatch.setattr(module, "C_VALUES", (0.01, 0.01 + 1e-12, 1e-9))
    record = _run(folders[True], tmp_path, extend=False).record
    tried = {c["C"]: c["map_macro"] for c in record["candidates"]}
    assert record["chosen"] == {"C": 0.01} and tried[0.01] == max(tried.values())


def test_a_perfect_ranking_is_no_reason_to_choose_probabilities_that_decide_nothing(tmp_path):
    """A named bug: with mAP 1 at every C the smallest was chosen, whose scores are all below 0.5: F2 was 0."""
    record = _run(make_features(tmp_path, multilabel=True, dim=64), tmp_path).record
    tried = {c["C"]: c for c in record["candidates"]}
    ties = [c for c, each in tried.items() if each["map_macro"] == 1]
    assert len(ties) > 2 and record["metrics"]["test"]["half"]["f2_macro"] > 0.9
    assert record["chosen"]["C"] == min(ties, key=lambda c: tried[c]["log_loss"]) > min(ties)


@pytest.mark.parametrize(
    ("multilabel", "metric"),
    [(True, "f2_macro"), (True, "f2_macro@half"), (True, "hamming_loss"), (True, "log_loss"), (False, "f1_macro")],
)
def test_any_metric_can_choose(multilabel, metric, folders, tmp_path, quick):
    run = _run(folders[multilabel], tmp_path, "mlp", select=metric)
    base = metric.removesuffix("@half")
    values = [each[metric] for each in run.record["candidates"]]
    best = min(values) if base in ("hamming_loss", "log_loss") else max(values)
    rule = "half" if metric.endswith("@half") else "tuned"
    assert run.record["arguments"]["selection"] == metric
    chosen = [each for each in run.record["candidates"] if run.record["chosen"].items() <= each.items()]
    assert [each[metric] for each in chosen] == [best]
    if base != "log_loss":
        assert run.record["metrics"]["val"][rule][base] == pytest.approx(best)


def test_a_metric_of_other_labels_or_none_cannot_choose(folders, tmp_path):
    for multilabel, metric, told in (
        (False, "map_macro", "--select map_macro: not a metric of single-label probes; choose from accuracy, "),
        (True, "f2_makro", "unknown metric of multi-label probes 'f2_makro'; .*did you mean 'f2_macro'"),
        (True, "map_macro@half", "drop @half"),
    ):
        with pytest.raises(RequestError, match=told):
            _run(folders[multilabel], tmp_path, select=metric)


def test_the_path_goes_on_where_val_rises_and_a_choice_at_the_edge_is_a_warning(tmp_path, monkeypatch):
    folder = make_features(tmp_path, multilabel=True, classes=3, dim=8)
    module = PROBES.load("linear")
    monkeypatch.setattr(module, "C_VALUES", (1e-5, 1e-4, 1e-3))
    run = _run(folder, tmp_path)
    tried = [each["C"] for each in run.record["candidates"]]
    assert tried[:3] == [1e-5, 1e-4, 1e-3] and len(tried) > 3 and run.record["chosen"]["C"] > 1e-3
    monkeypatch.setattr(module, "C_BOUNDS", (1e-5, 1e-3))
    warned = "C=0.001 is the largest value tried (1e-05 to 0.001): the best may lie beyond"
    assert warned in _run(folder, tmp_path).record["warnings"]
    assert warned in _run(folder, tmp_path, extend=False).record["warnings"]


def test_a_finished_run_is_found_only_for_the_same_plan(folders, tmp_path, quick):
    splits = inputs.read_splits(folders[True])
    plan = fit.plan_probe("knn", splits, tmp_path, seed=0)
    assert fit.finished(plan) is None
    fit.run_probe(plan, splits)
    assert fit.finished(plan) is not None
    run = runs.read_run(plan.folder)
    run.record["seed"] = 5  # a folder of that name is not enough: what it records must match
    rewrite(run)
    assert fit.finished(plan) is None


@pytest.mark.parametrize("multilabel", [True, False], ids=["multi-label", "single-label"])
def test_the_prior_scores_every_sample_with_the_shares_of_train(multilabel, folders, tmp_path):
    """Ranking by it is chance: average precision is the share of positives; single-label, the most frequent wins."""
    run = _run(folders[multilabel], tmp_path, "prior")
    train = store.read_features(folders[multilabel] / "train.h5").labels
    share = train.mean(axis=0) if multilabel else np.bincount(train) / len(train)
    test = run.predictions("test")
    np.testing.assert_array_equal(test.scores, np.tile(share.astype(np.float32), (80, 1)))
    if multilabel:
        wanted = test.labels.mean(axis=0)
        np.testing.assert_allclose([row["ap"] for row in run.record["per_class"]["half"]], wanted)
    else:
        assert run.record["metrics"]["test"]["half"]["accuracy"] == (test.labels == share.argmax()).mean()


# ---------------------------------------------------------------------------------------------- decisions


def test_the_run_records_how_thresholds_came_about(folders, tmp_path):
    record = _run(folders[True], tmp_path, "prior", beta=1.0).record
    assert record["arguments"]["beta"] == record["thresholds"]["beta"] == 1 and record["thresholds"]["shrinkage"] == 3
    assert len(record["thresholds"]["own"]) == 5 and record["calibration"] is None
    assert _run(folders[False], tmp_path, "prior").record["thresholds"] is None


@pytest.mark.parametrize("multilabel", [True, False], ids=["multi-label", "single-label"])
def test_balanced_weights_raise_the_recall_of_a_rare_class(multilabel, tmp_path, quick):
    rng = np.random.default_rng(0)
    labels = {split: rng.choice(3, 300, p=[0.62, 0.3, 0.08]) for split in SPLITS}
    if multilabel:
        labels = {split: np.eye(3, dtype=np.uint8)[given] for split, given in labels.items()}
    for split, given in labels.items():
        signal = given if multilabel else np.eye(3)[given]
        features = (signal * 1.5 + np.random.default_rng(len(split)).standard_normal((300, 3))).astype(np.float32)
        _write(tmp_path, split, given, features)
    for kind in ["linear"] if multilabel else ["linear", "rf", "mlp"]:
        plain, weighed = (_run(tmp_path, tmp_path, kind, balanced=balanced).record for balanced in (False, True))
        assert weighed["arguments"]["balanced"]
        one, two = (record["per_class"]["half"][2]["recall"] for record in (plain, weighed))
        assert two > one + 0.1, kind


def test_calibration_is_fitted_on_val_recorded_and_part_of_the_saved_model(folders, tmp_path, quick):
    for multilabel, kind, method in ((True, "rf", "platt"), (False, "knn", "isotonic"), (False, "knn", "temperature")):
        run = _run(folders[multilabel], tmp_path, kind, calibrate=method)
        told = run.record["calibration"]
        assert told["method"] == method and (told["temperature"] is None) == (method != "temperature")
        for name in ("log_loss", "brier", "ece"):
            assert told["after"]["val"][name] < told["before"]["val"][name] + 0.02
            assert run.record["metrics"]["test"]["half"][name] == told["after"]["test"][name]
        assert told["left_as_they_are"] == []
        features = store.read_features(folders[multilabel] / "test.h5").features.astype(np.float32)
        model = models.load_model(run.folder / "model.skops")
        again = score(model, features, classes=5, multilabel=multilabel)
        np.testing.assert_array_equal(again, run.predictions("test").scores)
        truth = metrics.one_hot(run.predictions("val").labels, 5) if not multilabel else run.predictions("val").labels
        squares = (run.predictions("val").scores - truth) ** 2
        expected = squares.mean() if multilabel else squares.sum(axis=1).mean()
        assert expected == pytest.approx(told["after"]["val"]["brier"])


@pytest.mark.parametrize("kind", ["mlp", "linear"])
def test_a_budget_leaves_candidates_untried_and_says_so(kind, folders, tmp_path, quick):
    record = _run(folders[True], tmp_path, kind, budget_s=1e-9).record
    assert len(record["candidates"]) == 1 and len(record["arguments"]["candidates"]) == 2
    assert any(line.startswith("1 of 2 candidates") and "1e-09 s" in line for line in record["warnings"])
    whole = _run(folders[True], tmp_path, kind, budget_s=1e9, extend=False)
    assert len(whole.record["candidates"]) == 2


def test_a_large_forest_is_the_same_grown_in_steps_and_is_cut_by_the_budget(folders, tmp_path, quick, monkeypatch):
    one = _run(folders[True], tmp_path / "one", "rf")
    monkeypatch.setattr(rf, "LARGE", 10)
    monkeypatch.setattr(rf, "TREES_PER_STEP", 2)
    two = _run(folders[True], tmp_path / "two", "rf")
    np.testing.assert_array_equal(one.predictions("test").scores, two.predictions("test").scores)
    cut = _run(folders[True], tmp_path / "cut", "rf", budget_s=1e-9)
    trees = cut.record["history"]["trees"]
    assert trees < one.record["chosen"]["n_estimators"] and two.record["history"] == {}
    assert any(f" {trees} trees " in line for line in cut.record["warnings"])
    assert len(models.load_model(cut.folder / "model.skops").estimators_) == trees


def test_a_tree_draws_no_more_rows_than_a_fold_has():
    forest = rf.build({"n_estimators": 2, "max_samples": 50}, seed=0, multilabel=False, n_jobs=1)
    rf.fit(forest, np.eye(6), np.arange(6) % 2, label="", out_of_time=lambda: False)
    assert forest.max_samples == 6 and len(forest.estimators_) == 2


@pytest.mark.parametrize(
    ("kind", "multilabel", "settings", "told"),
    [
        ("rf", True, {"balanced": True}, "--balanced: rf .* multi-label .*: linear$"),
        ("knn", False, {"balanced": True}, "--balanced: knn .* single-label .*: linear, mlp, rf$"),
        ("rf", True, {"device": "cuda"}, "--device cuda: rf .*: head, knn, linear, mlp$"),
        ("rf", False, {"beta": 1.0}, "--beta 1: "),
    ],
)
def test_a_setting_that_would_have_no_effect_is_refused(kind, multilabel, settings, told, folders, tmp_path):
    with pytest.raises(RequestError, match=told):
        _run(folders[multilabel], tmp_path, kind, **settings)


# --------------------------------------------------------------------------------------------- edge cases


@pytest.mark.parametrize("kind", KINDS)
def test_classes_absent_or_constant_in_a_split_are_scored_and_told(kind, tmp_path, quick):
    labels = _random_labels()
    labels["train"][:, 0] = 0
    labels["train"][:, 1] = 1
    labels["val"][:, 2] = 0
    labels["test"][:, 2] = 0
    run = _run(_three(tmp_path, labels), tmp_path, kind)
    record = run.record
    for name, split in (("'a'", "not occur in train"), ("'b'", "every train sample"), ("'c'", "not occur in test")):
        assert any(name in line and split in line for line in record["warnings"])
    assert record["per_class"]["tuned"][2]["threshold"] == 0.5  # no positives on val to choose by
    assert record["per_class"]["half"][2]["ap"] is None
    assert (run.predictions("test").scores[:, 0] < 0.5).all() and (run.predictions("test").scores[:, 1] > 0.5).all()
    assert "NaN" not in (run.folder / "run.json").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_single_label_classes_may_be_absent_from_train_and_test(kind, tmp_path, quick):
    rng = np.random.default_rng(0)
    labels = {"train": rng.integers(0, 2, 60), "val": rng.integers(0, 3, 30), "test": rng.integers(1, 3, 30)}
    run = _run(_three(tmp_path, labels), tmp_path, kind)
    assert (run.predictions("test").scores[:, 2] == 0).all()
    rows = run.record["per_class"]["half"]
    assert rows[2]["tp"] == 0 and rows[2]["recall"] == 0 and rows[0]["support"] == 0 and rows[0]["ap"] is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_may_have_one_sample(kind, tmp_path, quick):
    labels = _random_labels((40, 1, 1))
    record = _run(_three(tmp_path, labels), tmp_path, kind).record
    assert record["rows"]["test"] == 1
    found = record["intervals"]["test"]["half"]
    assert found["hamming_loss"]["reason"] == "test has 1 samples, fewer than 10"
    low, high = found["subset_accuracy"]["interval"]
    assert high - low > 0.7  # one sample says little


def test_nearest_neighbours_never_ask_for_more_than_there_are(tmp_path):
    record = _run(_three(tmp_path, _random_labels((7, 5, 5))), tmp_path, "knn").record
    assert {c["k"] for c in record["candidates"]} == {5, 3, 1}


def test_val_without_any_positive_chooses_by_log_loss(tmp_path, quick):
    labels = _random_labels()
    labels["val"][:] = 0
    record = _run(_three(tmp_path, labels), tmp_path, "linear").record
    best = min(record["candidates"], key=lambda tried: tried["log_loss"])  # all that is left to choose by
    assert record["chosen"] == {"C": best["C"]}
    assert record["metrics"]["val"]["half"]["map_macro"] is None


def test_no_prediction_at_all_counts_as_zero(tmp_path, monkeypatch):
    monkeypatch.setattr(PROBES.load("linear"), "C_VALUES", (1e-9, 1e-8))  # so weak a fit that all scores are the share
    labels = {split: (np.arange(60)[:, None] % 4 == np.arange(3)).astype(np.uint8) for split in SPLITS}
    record = _run(_three(tmp_path, labels), tmp_path).record
    half = record["metrics"]["test"]["half"]
    assert half["precision_macro"] == half["recall_micro"] == half["f2_macro"] == 0
    assert record["metrics"]["test"]["tuned"]["f2_macro"] > 0.5


def test_an_unconverged_candidate_is_named(folders, tmp_path, monkeypatch):
    module = PROBES.load("linear")
    monkeypatch.setattr(module.logistic, "solve_path", partial(module.logistic.solve_path, max_rounds=2))
    monkeypatch.setattr(module, "C_VALUES", (100.0,))
    told = ["C=100.0 stopped before it converged"]
    assert _run(folders[True], tmp_path / "many").record["warnings"] == told
    assert _run(folders[False], tmp_path / "one").record["warnings"] == told


def test_ids_shared_between_splits_are_told(tmp_path, quick):
    folder = _three(tmp_path, _random_labels((40, 20, 20)))
    train = store.read_features(folder / "train.h5")
    (folder / "test.h5").unlink()
    _write(folder, "test", train.labels[:10], train.features[:10], ids=train.ids[:10])
    record = _run(folder, tmp_path).record
    assert any(line.startswith("10 of 10 test ids are also in train") for line in record["warnings"])


# --------------------------------------------------------------------------------------- refused requests


def test_nan_features_are_refused_with_file_and_count(tmp_path):
    labels = _random_labels()
    folder = _three(tmp_path, labels)
    bad = np.ones((30, 6), np.float32)
    bad[[3, 9], 2] = np.nan, np.inf
    (folder / "val.h5").unlink()
    file = _write(folder, "val", labels["val"], bad)
    with pytest.raises(RequestError, match="2 of 30 rows hold NaN or infinity; see featurize verify") as error:
        inputs.read_splits(folder)
    assert str(file) in str(error.value)


def test_labels_and_features_that_differ_in_number_are_refused(tmp_path):
    folder = _three(tmp_path, _random_labels())
    with h5py.File(folder / "test.h5", "r+") as file:
        short = file["labels"][:-1]
        del file["labels"]
        file["labels"] = short
    with pytest.raises(RequestError, match="test.h5 is damaged.*checksum of 'labels'"):
        inputs.read_splits(folder)


def test_labels_out_of_range_are_refused(tmp_path):
    labels = {split: np.arange(10) % 3 for split in SPLITS}
    folder = _three(tmp_path, labels)
    (folder / "test.h5").unlink()
    _write(folder, "test", np.arange(10) % 4, np.ones((10, 6), np.float32))
    with pytest.raises(RequestError, match=r"labels outside 0 \.\.\. 2"):
        inputs.read_splits(folder)


def test_an_absent_split_is_told_with_the_command_that_makes_it(tmp_path):
    folder = _three(tmp_path, _random_labels())
    (folder / "val.h5").unlink()
    with pytest.raises(RequestError, match="no val features .* --split val"):
        inputs.read_splits(folder)
    with pytest.raises(RequestError, match="make them with featurize"):
        inputs.read_splits(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"names": ["a", "b", "x"]}, "dataset.class_names"),
        ({"model": "rcf"}, "encoder.name"),
        ({"seed": 9}, "dataset.provenance.seed"),
    ],
)
def test_splits_that_differ_in_what_they_share_are_refused(changes, field, tmp_path):
    labels = _random_labels()
    folder = _three(tmp_path, labels)
    (folder / "test.h5").unlink()
    _write(folder, "test", labels["test"], np.ones((30, 6), np.float32), **changes)
    with pytest.raises(RequestError, match=rf"differ in {field}; make them with the same settings"):
        inputs.read_splits(folder)


def test_splits_of_another_width_or_another_name_are_refused(tmp_path):
    labels = _random_labels()
    folder = _three(tmp_path, labels)
    (folder / "test.h5").unlink()
    _write(folder, "test", labels["test"], np.ones((30, 7), np.float32))
    with pytest.raises(RequestError, match="has 7 features per row"):
        inputs.read_splits(folder)
    (folder / "val.h5").rename(folder / "test.h5")
    _write(folder, "val", labels["val"], np.ones((30, 6), np.float32))
    with pytest.raises(RequestError, match="holds split 'val'"):
        inputs.read_splits(folder)


def test_one_class_in_train_is_refused(tmp_path):
    labels = {split: np.zeros(10, int) for split in SPLITS}
    with pytest.raises(RequestError, match="one class only"):
        inputs.read_splits(_three(tmp_path, labels))


def test_thresholds_are_those_that_val_asks_for_and_test_chooses_nothing(folders, tmp_path):
    run = _run(folders[True], tmp_path / "one", "linear", n_jobs=1)
    val = run.predictions("val")
    wanted, _, _ = shrunk_thresholds(val.labels.astype(bool), val.scores, beta=2)
    assert [row["threshold"] for row in run.record["per_class"]["tuned"]] == pytest.approx(list(wanted))

    splits = inputs.read_splits(folders[True])
    test = splits["test"]
    shuffled = np.random.default_rng(0).permutation(len(test.ids))
    splits["test"] = replace(test, features=test.features[:][shuffled], labels=test.labels[shuffled[::-1]])
    other = fit.run_probe(fit.plan_probe("linear", splits, tmp_path / "other", seed=0), splits, n_jobs=1)
    for key in ("chosen", "candidates"):
        assert other.record[key] == run.record[key]
    assert [row["threshold"] for row in other.record["per_class"]["tuned"]] == pytest.approx(list(wanted))
    assert other.record["metrics"]["val"] == run.record["metrics"]["val"]
    assert other.record["metrics"]["test"] != run.record["metrics"]["test"]


def test_a_run_on_other_feature_values_or_with_a_file_gone_is_not_reused(folders, tmp_path):
    run = _run(folders[True], tmp_path, "knn", n_jobs=1)
    splits = inputs.read_splits(folders[True])
    assert fit.finished(fit.plan_probe("knn", splits, tmp_path, seed=0)) == run
    changed = splits | {
        "train": replace(splits["train"], features=splits["train"].features[:] + 1, features_sha256=None)
    }
    assert fit.finished(fit.plan_probe("knn", changed, tmp_path, seed=0)) is None
    (run.folder / "predictions.h5").unlink()
    assert fit.finished(fit.plan_probe("knn", splits, tmp_path, seed=0)) is None


def test_features_are_hashed_once_for_all_probes_seeds_and_shots(folders, monkeypatch):
    """Those of whole files not at all: their digest is stored with them."""
    hashed = []
    monkeypatch.setattr(reader, "_digest", lambda features: hashed.append(len(features)) or "0" * 64)

    def plan_all(splits):
        for kind, seed, shots in itertools.product(("linear", "knn"), (0, 1), (None, 5)):
            fit.plan_probe(kind, splits, Path("out"), seed=seed, settings=Settings(shots=shots))

    splits = inputs.read_splits(folders[True])
    plan_all(splits)
    assert hashed == []
    rows = {name: np.arange(len(features.ids)) for name, features in splits.items()}
    plan_all({name: inputs.only_rows(features, rows[name]) for name, features in splits.items()})
    assert hashed == [len(one) for one in rows.values()]


@pytest.mark.parametrize("content", ["[]", '{"schema": 1}', "{"])
def test_a_damaged_run_is_one_clear_error(tmp_path, content):
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RequestError, match="run.json is damaged"):
        runs.read_run(tmp_path)
