"""Views by value: what compute gives is what the runs recorded; and all of them draw at awkward sizes."""

import csv
import inspect
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import encoder_identity, make_features, make_split
from made_runs import BIGEARTHNET, EUROSAT, made_up, make_run
from matplotlib.colors import to_hex
from PIL import Image

from analysis import figures, frames, projection, samples
from analysis.card import VIEWS
from analysis.contract import Output, ViewRequest, default_options, run_view
from analysis.report import build, commands, explorer, inventory
from analysis.views import classes, confusion, f2, table, umap
from data import command, paths
from data.errors import DamageWarning, RequestError
from data.runs import find_runs
from featurize import cli as featurize_cli
from probes import fit, inputs
from probes.card import PROBES

TOGETHER = ("report", "eurosat", "seminar", "map")  # of several views, or of a scene; they have tests of their own
OF_ONE_KIND = ("curves", "distance", "area")  # of runs of head, with locations, of single-label data
RUN_VIEWS = [name for name in VIEWS.names() if VIEWS.card(name).input == "runs" and name not in TOGETHER]
WITHOUT_NEEDS = [name for name in RUN_VIEWS if name not in ("curves", "distance")]
OF_ANY_LABELS = [name for name in RUN_VIEWS if name not in OF_ONE_KIND]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """Two encoders x two probes on multi-label data, simulated, and one run of single-label data."""
    folder = tmp_path_factory.mktemp("out")
    for model, skill in (("dofa", 2.0), ("stats", 1.0)):
        for kind in ("linear", "rf"):
            labels, scores = made_up(BIGEARTHNET, multilabel=True, rows=300, skill=skill)
            thresholds = np.full(len(BIGEARTHNET), 0.2)
            make_run(
                folder, labels, scores, BIGEARTHNET, kind=kind, model=model, dataset="ben", simulated=True,
                thresholds=thresholds,
            )  # fmt: skip
    labels, scores = made_up(EUROSAT, multilabel=False, rows=300)
    rows = np.arange(300)
    make_run(
        folder, labels, scores, EUROSAT, dataset="eurosat", kind="head", simulated=True,
        lonlat=np.stack([rows % 50 / 1.0, np.zeros(300)], axis=1), train_km=rows.astype(np.float32),
    )  # fmt: skip
    return folder


@pytest.fixture(autouse=True)
def coarse(request, monkeypatch):
    """Pictures of few dots, which are written sooner, and gray images where a view asks for some."""
    if "full_size" not in request.fixturenames:
        monkeypatch.setattr(figures, "LEAST_DPI", 60)
        monkeypatch.setattr(figures, "PRINT_DPI", 60)
    monkeypatch.setattr(samples, "open_samples", lambda *_, ids, **__: dict.fromkeys(ids))
    monkeypatch.setattr(samples, "picture", lambda *_: np.full((8, 8, 3), 128, np.uint8))


@pytest.fixture
def full_size():
    """Pictures as users get them."""


def fitting(name):
    """Which of the runs of `out` a view is for."""
    if name in OF_ONE_KIND:
        return {"dataset": "eurosat", "kind": "head"}
    return {"dataset": "ben", "kind": "rf", "model": "dofa"}


@pytest.fixture
def titles(monkeypatch):
    """What is drawn above figures: (title, simulated) of each."""
    drawn, put_title = [], figures.put_title

    def kept(figure, what, where, *, simulated, note=""):
        drawn.append((f"{what}, {where}", simulated))
        put_title(figure, what, where, simulated=simulated, note=note)

    monkeypatch.setattr(figures, "put_title", kept)
    return drawn


def files_of(outputs: list[Output]) -> list:
    return [file for output in outputs for file in output.files]


# ---------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("name", VIEWS.names())
def test_every_view_has_a_card_that_is_read_as_it_is_imported(name):
    card, module = VIEWS.card(name), VIEWS.load(name)
    assert card == module.CARD
    given = inspect.signature(module.run).parameters
    assert set(card.options) <= set(given) or any(one.kind is one.VAR_KEYWORD for one in given.values())


@pytest.mark.parametrize("name", RUN_VIEWS)
def test_every_view_writes_png_svg_and_csv_that_say_simulated_and_the_same_bytes_again(name, out, tmp_path, titles):
    about = fitting(name)
    request = ViewRequest(out=out, **about)
    first, again = (run_view(name, replace(request, folder=tmp_path / folder)) for folder in "ab")
    assert [file.read_bytes() for file in files_of(first)] == [file.read_bytes() for file in files_of(again)]
    for output in first:
        endings = {file.suffix for file in output.files}
        assert {".png", ".svg", ".csv"} <= endings
        assert not output.tables or {".md", ".tex"} <= endings
        assert all(file.stat().st_size > 40 for file in output.files)
        assert output.dataset == about["dataset"] and output.alt and output.caption
        for file in output.files:
            if file.suffix in (".md", ".tex"):
                assert "imulated" in file.read_text()
        assert pd.read_csv(output.file("csv"))["simulated"].all()
    assert titles and all(simulated for _, simulated in titles)
    assert not list(tmp_path.rglob("*.tmp*"))


def test_figures_say_simulated_only_when_they_are():
    for simulated in (True, False):
        figure = figures.new_figure(4, 3)
        figures.put_title(figure, "Classes", "somewhere", simulated=simulated, note="a note")
        words = figure.get_suptitle() + figure.get_supxlabel()
        assert ("simulated" in words.lower()) == simulated


@pytest.mark.parametrize(("count", "multilabel"), [(1, True), (43, True), (43, False)])
def test_every_view_draws_one_class_and_forty_three(multilabel, count, tmp_path):
    names = [f"{BIGEARTHNET[k % 19]} {k}" for k in range(count)]
    labels, scores = made_up(names, multilabel=multilabel, rows=60, shares=np.full(count, 0.3))
    make_run(tmp_path, labels, scores, names)
    for name in OF_ANY_LABELS if multilabel else WITHOUT_NEEDS:
        for output in run_view(name, ViewRequest(out=tmp_path, rule="half")):
            with Image.open(output.file("png")) as image:
                assert image.width > 250 and image.height > 80


def test_every_view_draws_when_test_has_no_positives_at_all(tmp_path):
    names = ["Arable land", "Pastures"]
    scores = np.full((20, 2), 0.1, np.float32)
    run = make_run(tmp_path, np.zeros((20, 2), np.uint8), scores, names)
    for name in OF_ANY_LABELS:
        assert files_of(run_view(name, ViewRequest(out=tmp_path)))
    frame = confusion.compute(run, "half")
    assert frame[frame["outcome"].isin(["tp", "fn"])]["share"].isna().all()


# -------------------------------------------------------------------------------------------- by value


def test_classes_shows_the_recorded_values_to_the_last_digit(out):
    runs = find_runs(out, dataset="ben", model="dofa", kind="rf")
    frame = classes.compute(runs, ("tuned",))
    header, rows = classes.readable(frame)
    assert header[:6] == ["Class", "Support", "TP", "FP", "TN", "FN"]
    for row, recorded in zip(rows, runs[0].record["per_class"]["tuned"], strict=True):
        expected = [f"{recorded[key]}" for key in ("support", "tp", "fp", "tn", "fn")]
        expected += [f"{recorded[key]:.3f}" for key in ("precision", "recall", "specificity", "f1", "f2")]
        assert row == [recorded["name"], *expected]


@pytest.mark.parametrize("rule", ["half", "tuned"])
def test_every_view_shows_the_per_class_values_of_the_run_to_the_last_digit(rule, out):
    run = find_runs(out, dataset="ben", model="dofa", kind="rf")[0]
    recorded = {values["name"]: values for values in run.record["per_class"][rule]}
    digits = {name: {rate: f"{values[rate]:.3f}" for rate in frames.RATES} for name, values in recorded.items()}
    _, bars = f2.readable(f2.compute([run], (rule,)))
    assert {row[0]: row[2] for row in bars[1:]} == {name: rates["f2"] for name, rates in digits.items()}
    _, outcomes = confusion.readable(confusion.compute(run, rule))
    for name, found, _, _, absent in outcomes:
        values = recorded[name]
        assert found == (f"{digits[name]['recall']} ({values['tp']})" if values["support"] else "–")
        assert absent == f"{digits[name]['specificity']} ({values['tn']})"
    shown = explorer.from_runs([run], words="words", most=1000, note="")
    panel = explorer._panel(run, shown, rule, "rf", "0-0")
    header, rows = panel["classes"]
    assert {row[0]: dict(zip(header, row, strict=True))["F2"] for row in rows} == {
        n: d["f2"] for n, d in digits.items()
    }
    assert [cells[0][0] for _, cells in panel["confusion"][1]] == [row[1] for row in outcomes]
    # the page's curves pass through what was recorded: this run's thresholds are 0.5 and 0.2
    at = {"half": 50, "tuned": 20}[rule]
    for curve, values in zip(explorer.threshold_curves(run, run.predictions("test")), recorded.values(), strict=True):
        assert curve[:, at].tolist() == pytest.approx([values["precision"], values["recall"], values["f2"]], abs=1e-6)


def test_f2_lists_the_macro_mean_then_classes_by_falling_support(out):
    runs = find_runs(out, dataset="ben", model="dofa")
    frame = f2.compute(runs)
    one = frame[(frame["probe"] == "rf") & (frame["rule"] == "half")]
    record = next(run for run in runs if run.kind == "rf").record
    assert one["class"].iloc[0] == f2.MACRO
    assert one["f2"].iloc[0] == record["metrics"]["test"]["half"]["f2_macro"]
    assert one["support"].iloc[1:].is_monotonic_decreasing
    recorded = {values["name"]: values["f2"] for values in record["per_class"]["half"]}
    assert dict(zip(one["class"].iloc[1:], one["f2"].iloc[1:], strict=True)) == recorded
    header, rows = f2.readable(frame)
    assert header[2:] == [
        "linear, threshold 0.5", "rf, threshold 0.5", "linear, thresholds tuned on val", "rf, thresholds tuned on val",
    ]  # fmt: skip
    assert len(rows) == 1 + len(BIGEARTHNET)


def test_a_confusion_matrix_worked_out_by_hand(tmp_path):
    # truth 0 0 0 1 1 2; the highest scores are 0 0 1 1 1 0
    labels = np.array([0, 0, 0, 1, 1, 2])
    scores = np.eye(4, dtype=np.float32)[[0, 0, 1, 1, 1, 0]]
    run = make_run(tmp_path, labels, scores, ["a", "b", "c", "d"])
    frame = confusion.compute(run)
    counts = frame["count"].to_numpy().reshape(4, 4)
    assert counts.tolist() == [[2, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert confusion.readable(frame) == (
        ["True", "a", "b", "c", "d"],
        [["a", "2", "1", "", ""], ["b", "", "2", "", ""], ["c", "1", "", "", ""], ["d", "", "", "", ""]],
    )
    shares = frame["share"].to_numpy().reshape(4, 4)
    assert shares[0].tolist() == pytest.approx([2 / 3, 1 / 3, 0, 0])
    assert np.isnan(shares[3]).all()  # class d has no sample


def test_a_confusion_matrix_agrees_with_the_recorded_counts(out):
    run = find_runs(out, dataset="eurosat")[0]
    counts = confusion.compute(run)["count"].to_numpy().reshape(10, 10)
    assert np.diag(counts).tolist() == [values["tp"] for values in run.record["per_class"]["half"]]
    assert (counts.sum(axis=0) - np.diag(counts)).tolist() == [v["fp"] for v in run.record["per_class"]["half"]]


def test_multilabel_outcomes_are_shares_of_those_that_have_or_lack_the_class(tmp_path):
    # class a: 3 samples have it, 2 of them found; 1 of the 2 that lack it is a false alarm
    labels = np.array([[1], [1], [1], [0], [0]], np.uint8)
    scores = np.array([[0.9], [0.8], [0.1], [0.7], [0.2]], np.float32)
    frame = confusion.compute(make_run(tmp_path, labels, scores, ["a"]), "half").set_index("outcome")
    assert frame["count"].to_dict() == {"tp": 2, "fn": 1, "fp": 1, "tn": 1}
    assert frame["share"].to_dict() == pytest.approx({"tp": 2 / 3, "fn": 1 / 3, "fp": 1 / 2, "tn": 1 / 2})


def test_the_table_marks_the_best_and_the_lowest_hamming_loss_is_best(out):
    frame = table.compute(find_runs(out, dataset="ben"))
    header, rows = table.readable(frame, ["f2_macro", "hamming_loss"])
    assert header == ["Model", "Probe", "Decision rule", "F2 macro", "Hamming loss"]
    values = frame[(frame["split"] == "test") & (frame["metric"] == "hamming_loss")]["value"]
    marked = [row[4] for row in rows if "**" in row[4]]
    assert marked and all(cell.startswith(f"**{values.min():.3f}** [") for cell in marked)


def test_the_csv_keeps_every_digit_and_every_split(out, tmp_path):
    outputs = run_view("table", ViewRequest(out=out, folder=tmp_path))
    frame = pd.read_csv(outputs[0].file("csv"), float_precision="round_trip")
    for run in find_runs(out):
        for split in ("val", "test"):
            rows = frame[(frame["run"] == run.folder.name) & (frame["encoder"] == run.encoder)]
            row = rows[(rows["split"] == split) & (rows["rule"] == "half")].iloc[0]
            for metric, value in run.record["metrics"][split]["half"].items():
                assert row[metric] == value


def test_names_with_special_characters_survive_markdown_and_latex(tmp_path):
    names = ["a|b & 50%_#", "{$x^2$} ~ \\cmd"]
    labels, scores = made_up(names, multilabel=True, rows=40, shares=np.array([0.5, 0.5]))
    make_run(tmp_path, labels, scores, names)
    output = classes.run(ViewRequest(out=tmp_path, rule="half"))[0]
    assert r"a\|b & 50%_#" in output.file("md").read_text()
    assert r"a|b \& 50\%\_\#" in output.file("tex").read_text()
    assert r"\{\$x\textasciicircum{}2\$\} \textasciitilde{} \textbackslash{}cmd" in output.file("tex").read_text()
    with output.file("csv").open() as file:
        assert next(csv.DictReader(file))["class"] == names[0]


def test_a_kind_has_one_colour_in_every_figure():
    kinds = PROBES.names()
    assert figures.kind_colours(kinds[1:2]) == figures.kind_colours(kinds)[1:2]
    assert len(set(figures.kind_colours(["rf", "rf", "linear", "knn", "rf"]))) == 5
    assert figures.kind_colours(["knn", "knn", "linear"])[2] == figures.kind_colours(["linear"])[0]


@pytest.mark.parametrize("name", ["classes", "confusion"])
def test_runs_that_differ_in_their_seed_have_titles_of_their_own(name, tmp_path, titles):
    labels, scores = made_up(["a", "b"], multilabel=True, rows=40, shares=np.array([0.5, 0.3]))
    for seed in (0, 1):
        make_run(tmp_path, labels, scores, ["a", "b"], seed=seed)
    outputs = run_view(name, ViewRequest(out=tmp_path, rule="half"))
    assert len({output.title for output in outputs}) == len(set(titles)) == 2


@pytest.mark.parametrize("name", ["f2", "classes", "confusion"])
def test_encoders_that_differ_in_their_weights_alone_have_titles_of_their_own(name, tmp_path, titles):
    labels, scores = made_up(["a", "b"], multilabel=True, rows=40, shares=np.array([0.5, 0.3]))
    for sha256 in ("1" * 64, "2" * 64):
        encoder = encoder_identity(weights={"source": "loaded", "sha256": sha256})
        make_run(tmp_path, labels, scores, ["a", "b"], encoder=encoder)
    run_view(name, ViewRequest(out=tmp_path, rule="half"))
    assert len(set(titles)) == 2


def test_a_misspelt_kind_of_probe_is_put_right(out):
    with pytest.raises(RequestError, match="did you mean 'linear'"):
        run_view("f2", ViewRequest(out=out, kind="liner"))


# ------------------------------------------------------------------------------------------------ umap


def options(**changes):
    return default_options("umap") | changes


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    folder = tmp_path_factory.mktemp("umap")
    make_features(folder, multilabel=True, rows=(60, 40, 60), dataset="multi", simulated=True)
    make_features(folder, multilabel=False, rows=(60, 40, 60), dataset="single")
    return folder


def test_umap_draws_panels_and_for_single_label_data_one_by_class(features, tmp_path, titles):
    for dataset, count in (("multi", 1), ("single", 2)):
        outputs = run_view("umap", ViewRequest(out=features, dataset=dataset, folder=tmp_path))
        assert len(outputs) == count
        for output in outputs:
            assert {file.suffix for file in output.files} == {".png", ".svg", ".csv"}
        frame = pd.read_csv(outputs[0].file("csv"))
        assert len(frame) == 60 and list(frame.columns[:5]) == ["id", "split", "x", "y", "simulated"]
        assert all(frame["simulated"] == (dataset == "multi"))
        assert [name for name in frame.columns if name.startswith(umap.CLASS)] == [
            f"class: class {k}" for k in range(5)
        ]
    assert [simulated for _, simulated in titles] == [True, False, False]


def test_a_layout_is_kept_and_used_again_and_another_seed_makes_another(features, tmp_path, capsys, monkeypatch):
    values = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32)
    settings = {"neighbors": 5, "min_dist": 0.1, "cache": tmp_path}
    first = projection.project(values, seed=0, **settings)
    assert "40 x 8 features" in capsys.readouterr().err
    other = projection.project(values, seed=1, **settings)
    capsys.readouterr()
    assert not np.allclose(first, other)
    monkeypatch.setattr(projection, "_compute", lambda *_, **__: pytest.fail("the layout was computed again"))
    assert np.array_equal(projection.project(values, seed=0, **settings), first)
    said = capsys.readouterr().err
    assert "40 x 8" not in said and any(str(file) in said for file in tmp_path.glob("*.npz"))


def test_the_same_features_and_seed_give_the_same_layout(tmp_path):
    values = np.random.default_rng(0).standard_normal((60, 70)).astype(np.float32)  # wide enough for PCA
    settings = {"neighbors": 5, "min_dist": 0.1, "seed": 3}
    one, other = (projection.project(values, cache=tmp_path / name, **settings) for name in "ab")
    assert np.array_equal(one, other)


def test_a_damaged_layout_is_made_again(tmp_path, capsys):
    values = np.random.default_rng(0).standard_normal((30, 8)).astype(np.float32)
    settings = {"neighbors": 5, "min_dist": 0.1, "seed": 0, "cache": tmp_path}
    first = projection.project(values, **settings)
    file = next(tmp_path.glob("*.npz"))
    file.write_bytes(file.read_bytes()[:200])
    assert np.array_equal(projection.project(values, **settings), first)
    assert "damaged" in capsys.readouterr().err


def test_umap_draws_at_most_the_points_asked_for_and_says_of_how_many(features, tmp_path):
    outputs = run_view("umap", ViewRequest(out=features, dataset="multi", split="all", folder=tmp_path), points=50)
    frame = pd.read_csv(outputs[0].file("csv"))
    assert len(frame) == 50 and set(frame["split"]) == {"train", "val", "test"}
    assert "50 of 160 samples" in outputs[0].caption


@pytest.mark.parametrize(
    ("values", "message"),
    [(np.zeros((3, 4)), "at least 5 samples, found 3"), (np.full((20, 4), np.nan), "featurize verify")],
)
def test_umap_refuses_what_it_cannot_lay_out(values, message, tmp_path):
    with pytest.raises(RequestError, match=message):
        projection.project(values, neighbors=5, min_dist=0.1, seed=0, cache=tmp_path)


def test_umap_lays_out_few_samples_and_features_that_are_all_equal(tmp_path):
    for rows in (5, 9, 25):
        for values in (np.random.default_rng(0).standard_normal((rows, 3)), np.zeros((rows, 3))):
            points = projection.project(values, neighbors=15, min_dist=0.1, seed=0, cache=tmp_path)
            assert points.shape == (rows, 2) and np.isfinite(points).all()


def test_umap_refuses_splits_whose_features_differ_in_length(tmp_path):
    rng = np.random.default_rng(0)
    for split, dim in (("train", 4), ("test", 6)):
        file = paths.feature_file(tmp_path / "features" / "odd" / "stats", split)
        make_split(file, np.arange(20) % 2, rng.standard_normal((20, dim)).astype(np.float32), ["a", "b"])
    with pytest.raises(RequestError, match=r"different lengths .*\(train 4, test 6\)"):
        run_view("umap", ViewRequest(out=tmp_path, split="all"))


def test_a_hundred_thousand_points_make_a_small_svg(tmp_path, full_size):
    rng = np.random.default_rng(0)
    rows, names = 100_000, EUROSAT
    frame = pd.DataFrame({"x": rng.standard_normal(rows), "y": rng.standard_normal(rows)})
    member = rng.integers(0, len(names), rows)[:, None] == np.arange(len(names))
    frame = pd.concat([frame, pd.DataFrame(member, columns=[umap.CLASS + name for name in names])], axis=1)
    figure = figures.new_figure(6, 4)
    umap.draw(frame, figure.subplots(), names)
    _, svg = figures.save(figure, tmp_path / "many")
    assert svg.stat().st_size < 3_000_000  # drawn as one picture, not as 100,000 circles


def test_a_class_may_be_named_like_a_coordinate(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 30)
    file = paths.feature_file(tmp_path / "features" / "odd" / "stats", "test")
    make_split(file, labels, rng.standard_normal((30, 4)).astype(np.float32), ["x", "id"], dataset="odd")
    frame = pd.read_csv(run_view("umap", ViewRequest(out=tmp_path))[0].file("csv"))
    assert frame["class: x"].to_numpy().tolist() == (labels == 0).astype(int).tolist()


# ---------------------------------------------------------------------------------------------- report


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Features and two probes each, multi-label and simulated, and single-label; and their report."""
    folder = tmp_path_factory.mktemp("whole")
    for multilabel, dataset in ((True, "multi"), (False, "single")):
        source = make_features(
            folder, multilabel=multilabel, rows=(80, 50, 50), dataset=dataset, simulated=multilabel,
            class_names=BIGEARTHNET[5:9],
        )  # fmt: skip
        splits = inputs.read_splits(source)
        for kind in ("knn", "rf"):
            fit.run_probe(fit.plan_probe(kind, splits, folder, seed=0), splits, n_jobs=1)
    run_view("report", ViewRequest(out=folder))
    return folder


def page(out):
    return (paths.report_folder(out) / "index.html").read_text()


def test_the_report_is_one_page_that_needs_no_other_file(whole):
    text = re.sub(r"<script.*?</script>", "", page(whole), flags=re.DOTALL)
    links = re.findall(r'(?:src|href)="([^"]+)"', text) + re.findall(r"url\((\S+?)\)", text)
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert "<script src" not in page(whole)
    named = re.findall(r"Files: (\S+)\.\{", text)
    assert named and all(any(paths.report_folder(whole).glob(f"{stem}.*")) for stem in named)


def test_the_report_shows_every_view_of_every_dataset(whole):
    for name in set(build.report_views()) - {"map"}:  # of scenes only
        for dataset in ("multi", "single"):
            assert f'id="{dataset}-{name}"' in page(whole)


def test_the_report_says_simulated_and_whose_data_are(whole):
    text = page(whole)
    first, second = re.findall(r'<section class="card answer">.*?</section>', text, re.S)
    assert "simulated data: not a result on real imagery" in first and "imulated" not in second
    assert (
        text.index('id="multi">') < text.index("simulated data", text.index('id="multi">')) < text.index('id="single">')
    )
    assert "simulated data" not in text[text.index('id="single">') : text.index('id="explore">')]


def test_the_report_holds_the_recorded_values(whole):
    text = page(whole)
    for run in find_runs(whole):
        rule = "tuned" if run.multilabel else "half"
        value = run.record["metrics"]["test"][rule]["f2_macro"]
        span = run.record["intervals"]["test"][rule]["f2_macro"]["interval"]
        after = "" if span is None else rf' <span class="interval">\[{span[0]:.3f}, {span[1]:.3f}\]'
        assert re.search(rf"{value:.3f}(</strong>)?{after}", text)


def test_the_report_names_the_commands_that_repeat_it_and_what_is_missing(whole):
    text = page(whole)
    assert f"featurize --model stats --dataset multi --out {whole}" in text  # no flags were recorded
    for kind in ("knn", "rf"):  # made by a Python function, which records no command
        assert re.search(rf"probe --kind {kind} --features \S+multi/stats\S+ --out", text)
    missing = ",".join(kind for kind in PROBES.names() if kind not in ("knn", "rf"))
    assert re.search(rf"probe --kind {missing} --features", text)
    assert f"analyze report --out {whole}" in text


@pytest.mark.parametrize(
    "words",
    [
        "--model stats --dataset simulated",
        "--model rcf --variant gaussian --dataset simulated --bands B02,B03,B04,B08,B11",
        "--model stats --dataset folder --data-root {images}",
    ],
)
def test_the_printed_featurize_command_finds_the_features_it_says_it_makes(words, tmp_path, capsys):
    images = tmp_path / "my images"
    for row in range(12):
        file = images / ("train", "val", "test")[row % 3] / ("a", "b")[row % 2] / f"{row}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(row).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(file)
    given = [word.format(images=images) for word in words.split()]
    flags = ["--limit", "4", "--workers", "0", "--device", "cpu", "--out", str(tmp_path)]
    assert command.run(featurize_cli.app, [*given, *flags]) == 0
    (found,) = inventory.find(ViewRequest(out=tmp_path), [])
    printed = shlex.split(commands.featurize_command(found, tmp_path))
    capsys.readouterr()
    assert command.run(featurize_cli.app, [*printed[1:], "--workers", "0", "--device", "cpu"]) == 0
    assert capsys.readouterr().out.count("reused") == 3
    assert len(paths.feature_folders(tmp_path)) == 1


def test_a_report_on_one_kind_of_probe_does_not_call_the_others_missing(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "report_views", lambda: ["table"])
    run_view("report", ViewRequest(out=whole, kind="rf", folder=tmp_path / "page"))
    text = (tmp_path / "page" / "index.html").read_text()
    assert "has no run of" not in text and "2 probe runs" in text


def test_a_damaged_run_is_named_and_not_left_out_of_the_report(tmp_path):
    labels, scores = made_up(["a", "b"], multilabel=True, rows=40, shares=np.array([0.5, 0.5]))
    run = make_run(tmp_path, labels, scores, ["a", "b"])
    make_features(tmp_path, multilabel=True, rows=(40, 30, 30))
    (run.folder / "run.json").write_text("{")
    with pytest.warns(DamageWarning, match="left out: .*run.json is damaged"):
        run_view("report", ViewRequest(out=tmp_path))


def test_a_report_fills_the_folder_it_is_called_in(out, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "report_views", lambda: ["table"])
    (tmp_path / "page").mkdir()
    monkeypatch.chdir(tmp_path / "page")
    run_view("report", ViewRequest(out=out, dataset="eurosat", kind="head", folder=Path(".")))
    assert (tmp_path / "page" / "index.html").is_file()


def test_a_report_without_runs_shows_the_features_and_says_what_to_do(tmp_path, capsys):
    make_features(tmp_path, multilabel=True, rows=(40, 30, 30), simulated=True)
    run_view("report", ViewRequest(out=tmp_path))
    text = page(tmp_path)
    assert json.loads(re.search(r'id="data">(.*?)</script>', text)[1])["sets"][0]["points"]
    assert "probe --kind all --features" in text
    assert "0 probe runs on 1 dataset." in text


def test_a_report_without_features_shows_the_runs_and_says_how_to_make_them(out, tmp_path):
    run_view("report", ViewRequest(out=out, dataset="eurosat", folder=tmp_path / "page"))
    text = (tmp_path / "page" / "index.html").read_text()
    assert 'id="eurosat-table"' in text
    assert "no train or val or test features of stats" in text and "featurize --model stats --dataset eurosat" in text


def test_a_report_of_nothing_says_where_to_start(tmp_path):
    with pytest.raises(RequestError, match="make features with featurize"):
        run_view("report", ViewRequest(out=tmp_path))


def test_a_report_replaces_a_report_but_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "report_views", lambda: ["table"])
    labels, scores = made_up(["a", "b"], multilabel=True, rows=40, shares=np.array([0.5, 0.5]))
    make_run(tmp_path, labels, scores, ["a", "b"])
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "index.html").write_text("my own page")
    with pytest.raises(RequestError, match=str(mine)):
        run_view("report", ViewRequest(out=tmp_path, folder=mine))
    assert (mine / "index.html").read_text() == "my own page"
    request = ViewRequest(out=tmp_path, folder=tmp_path / "page")
    run_view("report", request)
    own = tmp_path / "page" / "figures" / "own.png"
    own.write_bytes(b"mine")
    with pytest.raises(RequestError, match="figures/own.png"):
        run_view("report", request)
    assert own.read_bytes() == b"mine"
    own.rename(tmp_path / "own.png")
    run_view("report", request)
    assert (tmp_path / "page" / "index.html").exists() and not list(tmp_path.glob(".page*"))


def test_class_names_are_escaped_in_the_report(tmp_path):
    names = ["<script>alert(1)</script>", "a & b"]
    labels, scores = made_up(names, multilabel=True, rows=40, shares=np.array([0.5, 0.5]))
    make_run(tmp_path, labels, scores, names)
    run_view("report", ViewRequest(out=tmp_path))
    assert "<script>alert" not in page(tmp_path) and "&lt;script&gt;alert" in page(tmp_path)


def test_a_class_has_the_same_colour_in_the_umap_panels_as_in_the_report():
    names = ["field", "forest", "town"]
    member = {f"{umap.CLASS}{name}": [k == number for k in range(3)] for number, name in enumerate(names)}
    figure = umap.draw_panels(pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [0.0, 2.0, 1.0]} | member), names)
    drawn = [{to_hex(dots.get_facecolor()[0]) for dots in ax.collections} for ax in figure.axes[:3]]
    wanted = [colour.lower() for colour in figures.colours(3)]  # what the explorer's data hold
    assert [{colour} & set(wanted) for colour in wanted] == [found & set(wanted) for found in drawn]
