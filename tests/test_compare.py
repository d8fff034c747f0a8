"""Runs against each other: paired resamples, ranks that tie by significance, published numbers only where they fit."""

import re

import numpy as np
import pandas as pd
import pytest
from helpers import encoder_identity
from made_runs import BIGEARTHNET, EUROSAT, made_up, make_run, rewrite

from analysis import cli, figures
from analysis.contract import ViewRequest, run_view
from analysis.ranking import rankings
from analysis.studies import protocol, reference
from analysis.views import compare
from data import command
from data.errors import RequestError
from data.runs import find_runs
from probes import pooling


def multilabel_runs(out, skills, *, rows=300, names=BIGEARTHNET[:5], seed=0, **about):
    """One run a skill, on the very same test samples; the scores of all come from one draw of noise each."""
    labels, _ = made_up(names, multilabel=True, rows=rows, seed=seed, shares=np.linspace(0.5, 0.1, len(names)))
    for number, (kind, skill) in enumerate(skills):
        noise = np.random.default_rng(100 + number).standard_normal(labels.shape)
        scores = 1 / (1 + np.exp(-(skill * (labels * 2.0 - 1) + noise)))
        make_run(out, labels, scores.astype(np.float32), names, kind=kind, **about)
    return find_runs(out)


# ---------------------------------------------------------------------------------------- by value


def test_equal_runs_tie_and_a_clearly_better_one_is_first_alone(tmp_path):
    labels = np.arange(200) % 2
    good, poor = np.eye(2)[labels], np.eye(2)[np.where(np.arange(200) % 5 < 2, 1 - labels, labels)]  # 1 and 0.6 right
    for kind, scores in (("knn", poor), ("rf", poor), ("linear", good)):
        make_run(tmp_path, labels, scores.astype(np.float32), ["a", "b"], kind=kind)
    frame, pairs, _ = rankings(find_runs(tmp_path), ("half",))
    assert frame[["kind", "rank", "tied"]].to_numpy().tolist()[0] == ["linear", 1, True]
    assert frame["rank"].tolist() == [1, 2, 2] and frame["tied"].tolist() == [True, False, False]
    assert frame["value"].tolist() == pytest.approx([1, 0.6, 0.6])
    for run in find_runs(tmp_path):
        row = frame[frame["kind"] == run.kind].iloc[0]
        own = pooling.of_run(run, "test", "half")["accuracy"]
        assert own.method == "wilson" and (row["low"], row["high"]) == pytest.approx(own.interval, abs=1e-12)
    assert pairs["significant"].tolist() == [True, True, False]
    assert pairs["difference"].tolist() == pytest.approx([0.4, 0.4, 0.0])


def test_pairing_finds_a_small_difference_that_two_intervals_would_hide(tmp_path):
    # 1,000 samples; one run is right on 700, the other on the same 700 and 20 more
    labels = np.arange(1000) % 2
    right = np.arange(1000) < 700
    more = np.arange(1000) < 720
    for kind, mask in (("knn", right), ("linear", more)):
        scores = np.eye(2, dtype=np.float32)[np.where(mask, labels, 1 - labels)]
        make_run(tmp_path, labels, scores, ["a", "b"], kind=kind)
    frame, pairs, _ = rankings(find_runs(tmp_path), ("half",))
    assert frame["low"].iloc[0] < frame["value"].iloc[1]  # the intervals overlap
    assert frame["rank"].tolist() == [1, 2] and pairs["low"].iloc[0] > 0


def test_a_lower_hamming_loss_is_better(tmp_path):
    runs = multilabel_runs(tmp_path, [("knn", 0.3), ("linear", 4.0)])
    frame, pairs, _ = rankings(runs, ("half",), metric="hamming_loss")
    assert frame["kind"].tolist() == ["linear", "knn"] and frame["rank"].tolist() == [1, 2]
    row = pairs.iloc[0]
    assert row["low"] < row["difference"] < row["high"] < 0 and row["significant"]


def test_values_equal_the_record_and_rules_are_ranked_apart(tmp_path):
    runs = multilabel_runs(tmp_path, [("knn", 0.5), ("linear", 2.0), ("rf", 1.0)], thresholds=np.full(5, 0.3))
    frame, _, _ = rankings(runs, ("half", "tuned"))
    assert len(frame) == 6 and frame.groupby("rule")["rank"].min().tolist() == [1, 1]
    for row in frame.to_dict("records"):
        record = next(run for run in runs if run.folder.name == row["run"]).record
        assert row["value"] == pytest.approx(record["metrics"]["test"][row["rule"]]["f2_macro"], abs=1e-12)


# ------------------------------------------------------------------------------------ shared samples


def test_runs_on_part_of_the_test_split_are_compared_on_what_they_share(tmp_path):
    names = ["a", "b"]
    labels, scores = made_up(names, multilabel=False, rows=100)
    make_run(tmp_path, labels, scores, names, kind="knn")
    make_run(tmp_path, labels[:60], scores[:60], names, kind="linear")
    frame, _, _ = rankings(find_runs(tmp_path), ("half",))
    assert set(frame["samples"]) == {60}
    assert frame["value"].nunique() == 1  # the same decisions on the same samples


def test_runs_that_share_nothing_or_disagree_about_labels_are_refused(tmp_path):
    names = ["a", "b"]
    labels, scores = made_up(names, multilabel=False, rows=40)
    make_run(tmp_path, labels, scores, names, kind="knn")
    make_run(tmp_path, 1 - labels, scores, names, kind="linear")
    with pytest.raises(RequestError, match="labels of the same test samples"):
        rankings(find_runs(tmp_path), ("half",))
    runs = find_runs(tmp_path, kind="knn")

    class Elsewhere:
        folder, record, dataset, encoder, kind, multilabel, class_names = (
            tmp_path / "elsewhere", runs[0].record, runs[0].dataset, runs[0].encoder, "rf", False, names,
        )  # fmt: skip

        def predictions(self, split):
            given = runs[0].predictions(split)
            return type(given)([f"other {name}" for name in given.ids], given.labels, given.scores)

    with pytest.raises(RequestError, match="share no test samples; choose some with --kind: knn, rf"):
        rankings([runs[0], Elsewhere()], ("half",))  # type: ignore[list-item]


def test_predictions_that_do_not_agree_with_their_run_are_refused(tmp_path):
    labels, scores = made_up(["a", "b"], multilabel=False, rows=40)
    run = make_run(tmp_path, labels, scores, ["a", "b"])
    run.record["per_class"]["half"][0]["tp"] += 1
    rewrite(run)
    with pytest.raises(RequestError, match="does not agree with run.json"):
        rankings(find_runs(tmp_path), ("half",))


# ---------------------------------------------------------------------------------------- the command


def analyze(*words):
    return command.run(cli.new_app(), [str(word) for word in words])


def test_published_numbers_stand_beside_runs_of_their_protocol_only(tmp_path):
    labels, scores = made_up(EUROSAT, multilabel=False, rows=60)
    about = {"bands_name": "rgb", "image_size": 224, "weights": {"source": "loaded", "sha256": "1" * 64}}
    for variant in ("base", "large"):
        make_run(
            tmp_path,
            labels,
            scores,
            EUROSAT,
            dataset="eurosat",
            encoder=encoder_identity("dofa", variant=variant, **about),
        )
    runs = find_runs(tmp_path)
    text = run_view("compare", ViewRequest(out=tmp_path))[0].file("md").read_text()
    assert "torchgeo-bench" not in text and "| Published" not in text
    base = next(run for run in runs if run.record["features"]["encoder"]["variant"] == "base")
    base.record["features"]["dataset"]["variant"] = "spatial"
    base.record["rows"] = dict(reference.EUROSAT_SPLITS)
    rewrite(base)
    output = run_view("compare", ViewRequest(out=tmp_path))[0]
    header, rows = output.tables[0]
    assert header[-1] == "Published"
    assert {row[0].split(",")[0]: row[-1] for row in rows} == {
        "dofa base": "0.952 torchgeo-bench (nearest protocol)", "dofa large": "",
    }  # fmt: skip
    text = output.file("md").read_text()
    assert reference.STUDIES["torchgeo-bench"].protocol in text
    assert re.search(r"dofa base, rgb, 224 px, mean, linear, .*0\.952: refitted on train and val: published yes", text)


@pytest.mark.parametrize(("how", "differences", "fill"), [("same", (), figures.INK), ("nearest", ("C",), "white")])
def test_the_figure_tells_the_same_protocol_from_the_nearest(how, differences, fill, tmp_path):
    multilabel_runs(tmp_path, [("knn", 0.5), ("linear", 2.0)])
    frame, _, _ = rankings(find_runs(tmp_path), ("half",))
    published = protocol.Match(reference.Published("resize", "model", "knn", "f2_macro", 0.5), differences)
    drawn = compare.draw_figure(frame.assign(published=[(published,), ()]))
    assert [text.get_text() for text in drawn.legends[0].get_texts()][1:] == [f"published, {how} protocol"]
    marks = [line for line in drawn.axes[0].lines if line.get_marker() == "D"]
    assert [(line.get_markerfacecolor(), line.get_xdata()[0]) for line in marks] == [(fill, 0.5)]


def test_several_datasets_get_an_overall_table_with_mean_ranks(tmp_path):
    for dataset, skills in (
        ("one", [("knn", 0.2), ("linear", 1.0)]),
        ("two", [("knn", 0.2), ("linear", 1.0), ("rf", 9.0)]),
    ):
        multilabel_runs(tmp_path, skills, dataset=dataset)
    outputs = run_view("compare", ViewRequest(out=tmp_path, rule="half"))
    assert [output.dataset for output in outputs] == ["one", "two", None, None]
    header, rows = outputs[2].tables[0]
    assert header == ["Model and probe", "one", "two", "Mean rank"]
    ranks = {row[0].split("; ")[1]: row[1:] for row in rows}
    assert ranks == {"linear": ["1", "2", "1.5"], "knn": ["2", "3", "2.5"], "rf": ["–", "1", "–"]}


def test_pairs_are_written_beside_the_table(tmp_path):
    multilabel_runs(tmp_path, [("knn", 0.5), ("linear", 2.0), ("rf", 1.0)])
    output = run_view("compare", ViewRequest(out=tmp_path, rule="half"))[0]
    pairs = pd.read_csv(output.files[-1])
    assert len(pairs) == 3 and set(pairs["a"]) | set(pairs["b"]) == {
        f"stats, s2-12, native size, mean; {kind}" for kind in ("knn", "linear", "rf")
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "acuracy"], "unknown metric 'acuracy'"),
        (["--resamples", "10"], "--resamples 10: an interval needs at least 1000"),
        (["--seed", "-1"], "--seed -1: must be from 0"),
    ],
)
def test_a_wrong_request_is_one_line(words, message, tmp_path, capsys):
    multilabel_runs(tmp_path, [("knn", 0.5)], rows=40)
    assert analyze("compare", "--out", tmp_path, *words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
