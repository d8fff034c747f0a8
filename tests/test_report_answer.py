"""The top of the report says what the runs recorded, and the samples that it calls similar are the nearest."""

import html
import re
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import encoder_identity
from made_runs import EUROSAT, made_up, make_run, rewrite

from analysis import ranking
from analysis.contract import ViewRequest, run_view
from analysis.report import answer, build, explorer
from analysis.views import similar
from data import paths
from data.runs import find_runs


def runs_of(out, *, multilabel=True, names=tuple("abc"), shares=None, skills=(("linear", 2.0), ("prior", 0.0))):
    """Runs of the model rcf, and one of stats."""
    for kind, skill in skills:
        labels, scores = made_up(names, multilabel=multilabel, skill=skill, shares=shares)
        make_run(out, labels, scores, names, kind=kind, model="rcf", encoder=encoder_identity("rcf"))
    labels, scores = made_up(names, multilabel=multilabel, skill=1.0, shares=shares)
    make_run(out, labels, scores, names, kind="rf")
    return find_runs(out)


def cells(text, number=0):
    """Rows of a table of the page as lists of text."""
    rows = re.findall(r"<tr>(.*?)</tr>", re.findall(r"<table.*?</table>", text, re.S)[number], re.S)
    found = [re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[html.unescape(re.sub("<.*?>", "", cell)) for cell in row] for row in found]


@pytest.mark.parametrize("multilabel", [True, False])
def test_best_run_interval_and_gap_to_the_baselines_are_those_of_the_runs(multilabel, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "report_views", lambda: [])
    names = tuple("abc") if multilabel else tuple(EUROSAT)
    runs = runs_of(tmp_path, multilabel=multilabel, names=names, shares=np.array([0.5, 0.4, 0.3]))
    run_view("report", ViewRequest(out=tmp_path))
    text = (paths.report_folder(tmp_path) / "index.html").read_text()
    rule, metric = ("tuned", "f2_macro") if multilabel else ("half", "accuracy")
    values = {run.kind: run.record["metrics"]["test"][rule][metric] for run in runs}
    low, high = next(r for r in runs if r.kind == "linear").record["intervals"]["test"][rule][metric]["interval"]
    header, best, *rest = cells(text)
    assert best[0] == "Best" and best[1].endswith("; linear") and best[1].startswith("rcf")
    assert best[2] == f"{values['linear']:.3f} [{low:.3f}, {high:.3f}]"
    pairs = ranking.rankings(runs, (rule,))[1]
    pairs = pairs.loc[pairs["a"] == best[1]].set_index("b")
    for kind, name in (("rf", "Baseline stats"), ("prior", "Baseline prior")):
        (row,) = (row for row in rest if row[0] == name)
        assert row[1].endswith(f"; {kind}") and row[2].startswith(f"{values[kind]:.3f} [")
        gap = pairs.loc[row[1]]
        assert float(row[3].split()[0]) == pytest.approx(values["linear"] - values[kind], abs=6e-4)
        assert row[3] == f"{gap['difference']:.3f} [{gap['low']:.3f}, {gap['high']:.3f}]" and gap["significant"]
    assert "different from it: 0 of 2 other runs" in text


@pytest.mark.parametrize("found", [True, False])
def test_open_shows_the_page_in_a_browser(found, tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(build, "report_views", lambda: [])
    monkeypatch.setattr("webbrowser.open", lambda url: opened.append(url) or found)
    runs_of(tmp_path)
    run_view("report", ViewRequest(out=tmp_path), pictures=0, open=True)
    assert opened == [(paths.report_folder(tmp_path) / "index.html").as_uri()]
    assert ("found no browser" in capsys.readouterr().err) != found


def test_ties_weak_classes_and_warnings_are_named(tmp_path):
    runs = runs_of(tmp_path, shares=np.array([0.5, 0.4, 0.02]), skills=(("linear", 2.0), ("knn", 2.0)))
    runs[0].record["warnings"] = ["C=1 stopped before it converged"]
    rewrite(runs[0])
    (found,) = answer.answers(find_runs(tmp_path), "tuned", [])
    assert [row[0] for row in found.table.rows] == ["Best", "Baseline stats", "Tied with the best"]
    assert "no run of the baseline prior" in found.lead and "1 of 2 other runs" in found.lead
    per_class = found.best.record["per_class"]["tuned"]
    weakest = min(per_class, key=lambda row: row["f2"])
    assert found.weakest.startswith(f"{weakest['name']} (F2 {weakest['f2']:.3f}, {weakest['support']} positives)")
    assert ("stopped before it converged" in str(found.warnings)) == (found.best.folder == runs[0].folder)


def test_too_few_positives_for_macro_rank_by_micro_and_say_so(tmp_path):
    runs_of(tmp_path, shares=np.array([0.5, 0.4, 0.004]))
    (found,) = answer.answers(find_runs(tmp_path), "tuned", [])
    assert found.table.header[2] == "F2 micro" and "F2 macro has no interval" in found.sentence


def test_runs_that_cannot_be_compared_are_a_failure_and_not_the_end(tmp_path):
    runs = runs_of(tmp_path)
    other = runs[0].predictions("test")
    other.ids[:] = [f"other-{row}" for row in range(len(other.ids))]
    object.__setattr__(runs[0], "predictions", lambda split: other)
    failures = []
    assert answer.answers(runs, "tuned", failures) == [] and "share no test samples" in failures[0]


def test_neighbours_are_those_of_the_similar_view_and_never_the_sample_itself(tmp_path, monkeypatch):
    values = np.random.default_rng(0).standard_normal((40, 5)).astype(np.float16)
    values[7:17] = values[7]  # more equal ones than neighbors are shown
    features, rows = SimpleNamespace(features=values, digest="x"), np.arange(0, 40)
    near = explorer.nearest_neighbours(features, rows, tmp_path)
    assert near.shape == (40, explorer.NEIGHBOURS) and not (near == rows[:, None]).any()
    for row in (0, 20, 39):
        cosine = similar.similarities(values.astype(np.float32), np.array([row]), np.array([], int))
        cosine[row] = -np.inf
        assert cosine[near[row]] == pytest.approx(np.sort(cosine)[::-1][: explorer.NEIGHBOURS], abs=1e-6)
    monkeypatch.setattr(similar, "directions", None)  # what is kept is not computed again
    assert np.array_equal(explorer.nearest_neighbours(features, rows, tmp_path), near)
    assert explorer.nearest_neighbours(features, np.zeros(explorer.MOST_NEIGHBOURS + 1, int), tmp_path) is None
