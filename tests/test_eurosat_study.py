"""The class project's study: tables by value, curves, cases with their images, devices, models; and slides."""

import contextlib
import io
import json

import h5py
import numpy as np
import pandas as pd
import pytest
from helpers import encoder_identity, make_features
from made_runs import BIGEARTHNET, EUROSAT, made_up, make_run, rewrite
from opening import open_split
from PIL import Image

from analysis import cli, figures, samples
from analysis.contract import ViewRequest, run_or_note, run_view
from analysis.studies import cases as study_cases
from analysis.studies import devices, distribution, models, reference
from analysis.views import cases, curves
from data import command
from data.bands import shown_bands
from data.errors import RequestError
from data.runs import find_runs
from data.store.checks import digest_attributes

TRAINED = {"source": "loaded", "sha256": "1" * 64}


def make_runs(
    out, *, names=EUROSAT, models=("dinov2", "resnet"), kind="head", rows=200, dataset="eurosat-rgb", **about
):
    for seed, model in enumerate(models):
        labels, scores = made_up(names, multilabel=False, rows=rows, skill=2.5 + seed)
        encoder = encoder_identity(model, weights=TRAINED)
        make_run(out, labels, scores, names, kind=kind, dataset=dataset, encoder=encoder, **about)
    return find_runs(out)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    make_runs(folder)
    return folder


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Pictures of few dots, which are written sooner."""
    monkeypatch.setattr(figures, "LEAST_DPI", 60)
    monkeypatch.setattr(figures, "PRINT_DPI", 60)


def make_grey(monkeypatch):
    """Every sample has an image, all of them gray."""
    monkeypatch.setattr(samples, "open_samples", lambda *_, ids, **__: dict.fromkeys(ids))
    monkeypatch.setattr(samples, "picture", lambda *_: np.full((8, 8, 3), 128, np.uint8))


@pytest.fixture
def grey_images(monkeypatch):
    make_grey(monkeypatch)


@pytest.fixture(scope="module")
def study(out, tmp_path_factory):
    """The whole study, written once: its outputs, its folder and what was said."""
    folder, said = tmp_path_factory.mktemp("written"), io.StringIO()
    with pytest.MonkeyPatch.context() as monkeypatch, contextlib.redirect_stderr(said):
        make_grey(monkeypatch)
        outputs = run_view("eurosat", ViewRequest(out=out, folder=folder), count=3)
    return outputs, folder, said.getvalue()


def analyze(*words):
    return command.run(cli.new_app(), [str(word) for word in words])


# ------------------------------------------------------------------------------------------------ tables


def test_table_1_counts_the_classes_of_every_split(tmp_path):
    from probes import fit, inputs

    source = make_features(tmp_path, multilabel=False, rows=(50, 30, 20), class_names=EUROSAT, dataset="eurosat-rgb")
    splits = inputs.read_splits(source)
    run = fit.run_probe(fit.plan_probe("knn", splits, tmp_path, seed=0), splits, n_jobs=1)
    frame = distribution.compute(run, tmp_path)
    assert frame.groupby("split")["count"].sum().to_dict() == {"train": 50, "val": 30, "test": 20}
    header, rows = distribution.readable(frame)
    assert header == ["Class", "Train", "Val", "Test", "All"]
    assert rows[0] == ["AnnualCrop", "5", "3", "2", "10"] and rows[-1] == ["All classes", "50", "30", "20", "100"]
    assert set(frame.loc[frame["split"] == "train", "published"]) == {100}


def test_table_1_does_not_count_train_from_features_that_are_gone_or_others(out, tmp_path):
    run = make_runs(tmp_path, models=("stats",), names=EUROSAT[:5], rows=60)[0]
    header, rows = distribution.readable(distribution.compute(run, tmp_path))
    assert rows[0][1] == "–" and rows[0][-1] == "–" and rows[0][2] == rows[0][3] != "–"
    # features in the place of the run's, of other labels
    identity = run.record["features"]["splits"]["train"]
    make_features(tmp_path, multilabel=False, rows=(60, 60, 60), class_names=EUROSAT[:5], dataset="eurosat-rgb")
    made = next((tmp_path / "features" / "eurosat-rgb").iterdir())
    made.rename(made.with_name(run.encoder))
    assert identity["rows"] == 60 and distribution.compute(run, tmp_path)["count"].isna().sum() == 5


def test_table_3_shows_the_published_cases_beside_ours(tmp_path):
    names = EUROSAT
    labels = np.repeat(np.arange(10), 4)
    wrong = labels.copy()
    wrong[labels == names.index("River")] = [names.index(n) for n in ("Pasture", "Pasture", "Pasture", "River")]
    run = make_run(tmp_path, labels, np.eye(10)[wrong], names, kind="head", dataset="eurosat-rgb")
    frame = study_cases.compute(run)
    assert len(frame) == 10 and frame["true"].tolist()[7:] == ["River", "Industrial", "Forest"]
    river = frame.iloc[7]
    assert (river["published"], river["samples"], river["mostly"]) == ("Pasture", 4, "Pasture")
    assert (river["as_published"], river["correct"]) == (0.75, 0.25)
    assert frame.iloc[8]["as_published"] == 0 and frame.iloc[0]["as_published"] == 1
    header, rows = study_cases.readable(frame)
    assert rows[7] == ["8", "River", "Pasture", "4", "25%", "75%", "Pasture"]
    (output,) = study_cases.write([run], tmp_path / "figures")
    assert output.file("png").stat().st_size > 1000 and "Industrial" in output.file("md").read_text()


def test_the_four_class_set_up_has_its_own_published_counts(tmp_path):
    names = list(reference.CLASS_PROJECT_TABLE1)
    labels = np.repeat(np.arange(4), 5)
    run = make_run(tmp_path, labels, np.eye(4)[labels], names, kind="head", dataset="eurosat-rgb")
    frame = distribution.compute(run, tmp_path).set_index(["split", "class"])["published"]
    assert frame["test"].to_dict() == {
        "AnnualCrop": 30, "Forest": 40, "HerbaceousVegetation": 30, "Industrial": 40,
    } and frame["train"].unique() == [200]  # fmt: skip
    assert frame["val"].isna().all()


def test_table_2_shows_the_recorded_values_to_the_last_digit_and_the_published_below(out, study):
    tables = [output for output in study[0] if output.title.startswith("Table 2")]
    assert len(tables) == 2
    for output, run in zip(tables, find_runs(out), strict=True):
        ours, published = output.tables
        assert ours[0] == ["Class", "TP", "FP", "TN", "FN", "Precision", "Recall", "Specificity", "F1"] == published[0]
        for row, recorded in zip(ours[1], run.record["per_class"]["half"], strict=True):
            expected = [f"{recorded[key]}" for key in ("tp", "fp", "tn", "fn")]
            expected += [f"{recorded[key]:.3f}" for key in ("precision", "recall", "specificity", "f1")]
            assert row == [recorded["name"], *expected]
        assert published[1][0] == ["AnnualCrop", "18", "1", "268", "12", "0.947", "0.600", "0.996", "0.735"]
        assert reference.CLASS_PROJECT_NOTE in output.file("md").read_text()


def test_other_classes_are_not_held_against_the_class_projects(tmp_path):
    make_runs(tmp_path, names=["a", "b", "c"])
    outputs = run_view("eurosat", ViewRequest(out=tmp_path))
    text = "".join(file.read_text() for output in outputs for file in output.files if file.suffix == ".md")
    assert "Class project" not in text and "lass project: DINOv2" not in text and "0.729" not in text


def test_models_stand_side_by_side_with_the_published_accuracy(out, tmp_path):
    frame = models.compute(find_runs(out))
    assert dict(zip(frame["model"].str.split(",").str[0], frame["side"], strict=True)) == {
        "dinov2": "DINOv2", "resnet": "CNN",
    }  # fmt: skip
    header, rows = models.readable(frame, published=True)
    for row, run in zip(rows, find_runs(out), strict=False):
        accuracy = run.record["metrics"]["test"]["half"]["accuracy"]
        assert row[3].startswith(f"{accuracy:.3f} [")
    assert rows[-1][0] == "published" and rows[-1][3] == "0.729"
    output = models.write(find_runs(out), tmp_path, [])
    assert f"{reference.CLASS_PROJECT_IMAGES} test images" in output.caption


def test_random_weights_are_told_beside_the_models(tmp_path):
    labels, scores = made_up(EUROSAT, multilabel=False, rows=50)
    encoder = encoder_identity("dinov2", weights={"source": "random", "sha256": None})
    make_run(tmp_path, labels, scores, EUROSAT, kind="head", encoder=encoder)
    notes = []
    output = models.write(find_runs(tmp_path), tmp_path, notes)
    assert (
        "random weights were never trained" in output.caption and "dinov2 random weights" in output.tables[0][1][0][1]
    )
    assert any("no CNN to compare: featurize --model resnet" in note for note in notes)


# ----------------------------------------------------------------------------------------------- devices


def on_device(out, device, rate):
    """Features whose environment names another device and rate."""
    for file in out.glob("features/*/*/*.h5"):
        with h5py.File(file, "r+") as source:
            environment = json.loads(source.attrs["environment"]) | {"device": device, "images_per_s": rate}
            source.attrs["environment"] = json.dumps(environment)
            source.attrs["attributes_sha256"] = digest_attributes(source)


def test_cpu_and_gpu_are_compared_where_both_are_there(tmp_path):
    for name, device, rate in (("cpu", "cpu", 10.0), ("gpu", "NVIDIA H100", 2500.0)):
        make_features(tmp_path / name, multilabel=False, rows=(30, 20, 20), class_names=EUROSAT, dataset="eurosat-rgb")
        on_device(tmp_path / name, device, rate)
    run = make_runs(tmp_path / "cpu", models=("stats",))[0]
    notes = []
    folder = tmp_path / "written"
    output = devices.write([run], tmp_path / "cpu", str(tmp_path / "gpu"), folder, notes)[0]
    header, rows = output.tables[0]
    assert [row[1:2] + row[3:] for row in rows] == [
        ["cpu", "30", "10.0", "1.0"], ["NVIDIA H100", "30", "2,500.0", "250.0"],
    ]  # fmt: skip
    assert not notes and "No features" not in output.caption
    alone = devices.write([run], tmp_path / "gpu", "", folder, notes)[0]
    assert "No features were made on a CPU" in alone.caption and len(notes) == 1
    assert alone.tables[0][1][0][-1] == "–"
    with pytest.raises(RequestError, match="--other-out .*nowhere: no such folder"):
        devices.write([run], tmp_path / "cpu", str(tmp_path / "nowhere"), folder, notes)


# ------------------------------------------------------------------------------------------------ curves


def test_curves_show_what_the_head_recorded(out):
    run = find_runs(out)[0]
    frame = curves.compute([run])
    assert len(frame) == 20 and set(frame.loc[frame["chosen"], "epoch"]) == {8}
    for row in frame.to_dict("records"):
        recorded = run.record["history"]["curves"][row["epoch"] - 1]
        assert row["loss"] == recorded[f"{row['split']}_loss"]
        assert row["accuracy"] == recorded[f"{row['split']}_accuracy"]
    header, rows = curves.readable(frame)
    assert header == ["Epoch", "Loss, train", "Loss, val", "Accuracy, train", "Accuracy, val"]
    assert rows[7][0] == "**8**" and rows[0][1:] == ["2.300", "2.320", "0.100", "0.050"]


def test_curves_of_a_real_head(tmp_path):
    from probes import fit, inputs

    splits = inputs.read_splits(make_features(tmp_path, multilabel=False, rows=(60, 30, 30), dataset="single"))
    run = fit.run_probe(fit.plan_probe("head", splits, tmp_path, seed=0), splits, n_jobs=1)
    frame = curves.compute([run])
    assert frame["epoch"].max() == 10 and frame["chosen"].sum() == 2
    assert set(frame.loc[frame["chosen"], "epoch"]) == {run.record["chosen"]["epoch"]}


def test_runs_without_epochs_are_told_how_to_get_some(tmp_path, capsys):
    make_runs(tmp_path, kind="linear")
    assert analyze("curves", "--out", tmp_path) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "linear" in error and "probe --kind head" in error


# ------------------------------------------------------------------------------------------------- cases


def test_cases_are_the_surest_rights_one_a_class_and_the_worst_mistakes(tmp_path):
    # samples 0 to 3 are class a, right with 0.9 0.8 0.7 0.6; 4 is class b, right with 0.55; 5 and 6 are class b, wrong
    truth = np.array([0, 0, 0, 0, 1, 1, 1])
    a = np.array([0.9, 0.8, 0.7, 0.6, 0.45, 0.51, 0.95])
    run = make_run(tmp_path, truth, np.stack([a, 1 - a], axis=1).astype(np.float32), ["a", "b"])
    frame = cases.compute(run, count=3)
    rights, mistakes = frame[frame["case"] == "correct"], frame[frame["case"] == "error"]
    assert rights["id"].tolist() == ["test-0", "test-4", "test-1"]  # class a, class b, then class a again
    assert mistakes["id"].tolist() == ["test-6", "test-5"]
    assert mistakes[["true", "predicted"]].to_numpy().tolist() == [["b", "a"], ["b", "a"]]
    assert mistakes["score"].tolist() == pytest.approx([0.95, 0.51])
    assert mistakes["loss"].tolist() == pytest.approx([-np.log(0.05), -np.log(0.49)], rel=1e-5)


def test_multilabel_cases_by_hand(tmp_path):
    labels = np.array([[1, 0], [1, 1], [0, 0]], np.uint8)
    scores = np.array([[0.9, 0.2], [0.8, 0.1], [0.3, 0.4]], np.float32)
    frame = cases.compute(make_run(tmp_path, labels, scores, ["a", "b"]), "half", count=5).set_index("id")
    assert frame["case"].to_dict() == {"test-0": "correct", "test-2": "correct", "test-1": "error"}
    assert frame.loc["test-1", ["true", "predicted"]].tolist() == ["a; b", "a"]
    assert frame.loc["test-2", "predicted"] == "" and np.isnan(frame.loc["test-2", "score"])
    assert frame.loc["test-0", "loss"] == pytest.approx(-(np.log(0.9) + np.log(0.8)) / 2, rel=1e-5)


@pytest.mark.parametrize("multilabel", [True, False], ids=["multi-label", "single-label"])
@pytest.mark.parametrize("count", [1, 43])
def test_cases_of_one_class_and_forty_three_are_drawn(multilabel, count, tmp_path, grey_images):
    names = [f"{BIGEARTHNET[k % 19]} {k}" for k in range(count)]
    labels, scores = made_up(names, multilabel=multilabel, rows=60, shares=np.full(count, 0.3))
    make_run(tmp_path, labels, scores, names)
    for output in run_view("cases", ViewRequest(out=tmp_path), count=7):
        with Image.open(output.file("png")) as image:
            assert image.width > 250 and image.height > 80


def test_cases_read_the_very_images(tmp_path):
    home = tmp_path / "data"
    colours = {"red": (200, 10, 10), "green": (10, 200, 10)}
    for split in ("train", "val", "test"):
        for name, colour in colours.items():
            for number in range(8):
                file = home / split / name / f"{number}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 8), tuple(np.clip(np.array(colour) + number, 0, 255))).save(file)
    words = ["--dataset", "folder", "--data-root", home]
    from featurize import cli as featurize_cli
    from probes import cli as probe_cli

    out = tmp_path / "out"
    assert command.run(featurize_cli.app, ["--model", "stats", *map(str, words), "--out", str(out)]) == 0
    assert command.run(probe_cli.app, ["--kind", "knn", "--out", str(out)]) == 0
    run = find_runs(out)[0]
    frame = cases.compute(run)
    sources = samples.open_samples(run.record["features"]["dataset"], "test", data_root=home, ids=list(frame["id"]))
    for row in frame.to_dict("records"):
        pixel = samples.picture(sources[row["id"]], row["id"])[0, 0]
        number = int(row["id"].rpartition("/")[2].removesuffix(".png"))
        assert pixel.tolist() == [value + number for value in colours[row["true"]]]
    assert analyze("cases", "--out", out, "--data-root", home) == 0


def test_cases_without_the_images_or_with_others_are_refused_in_one_line(tmp_path, capsys):
    make_runs(tmp_path, models=("dinov2",))
    assert analyze("cases", "--out", tmp_path, "--data-root", tmp_path / "nowhere") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "--data-root" in error and "eurosat-rgb" in error
    make_runs(tmp_path / "made", models=("dinov2",), dataset="simulated", names=BIGEARTHNET)
    assert analyze("cases", "--out", tmp_path / "made") == 2
    assert "--data-root" in capsys.readouterr().err


def test_values_other_than_8_bit_are_scaled_alike_for_all_pictures(tmp_path):
    from data.registry import DATASETS

    source = open_split(DATASETS.load("simulated"), "test", tmp_path)
    bands = shown_bands(source.bands)
    assert [band.colour for band in bands] == ["red", "green", "blue"]
    red = source.read(0, bands[:1])[0].astype(float)
    known = [source.statistics[band.name] for band in bands]  # one scale for the three bands: natural colors
    low, high = min(one.mean - 2 * one.std for one in known), max(one.mean + 2 * one.std for one in known)
    expected = np.clip((red - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    shown = samples.picture(source, source.ids[0])
    assert shown.dtype == np.uint8 and np.abs(shown[..., 0].astype(int) - expected).max() <= 1


# --------------------------------------------------------------------------------------------- the study


def test_the_whole_study_is_written_with_a_page_that_links_it(study):
    outputs, folder, said = study
    assert {file.name.split("__")[0] for file in folder.glob("*.png")} == {"eurosat", "curves", "confusion", "cases"}
    page = next(folder.glob("*__page.md"))
    links = [line.split("](")[1][:-1] for line in page.read_text().splitlines() if line.startswith("![")]
    assert len(links) == len(set(links)) == len(outputs) and all((folder / link).is_file() for link in links)
    missing = page.read_text().partition("## Missing")[2]
    assert "CPU and GPU" in missing and "CPU and GPU" in said


def test_without_images_the_rest_of_the_study_goes_on_and_it_says_so(out, tmp_path):
    notes = []
    place = ViewRequest(out=out, folder=tmp_path, model="dinov2")
    options = {"count": 3, "data_root": str(tmp_path / "nowhere")}
    assert run_or_note("cases", place, notes, what="no cases", **options) == []
    assert len(notes) == 1 and notes[0].startswith("no cases: the images of eurosat-rgb are needed")


def test_every_output_of_the_study_says_simulated(tmp_path, grey_images, monkeypatch):
    make_runs(tmp_path, simulated=True, models=("dinov2",))
    drawn, put_title = [], figures.put_title

    def kept(figure, what, where, *, simulated, note=""):
        drawn.append(simulated)
        put_title(figure, what, where, simulated=simulated, note=note)

    monkeypatch.setattr(figures, "put_title", kept)
    for output in run_view("eurosat", ViewRequest(out=tmp_path), count=1):
        assert {".png", ".svg", ".csv"} <= {file.suffix for file in output.files} and output.alt and output.caption
        assert pd.read_csv(output.file("csv"))["simulated"].all()
        for file in output.files:
            assert file.suffix not in (".md", ".tex") or "imulated" in file.read_text()
    assert drawn and all(drawn)
    assert "(simulated data)" in next(tmp_path.rglob("*__page.md")).read_text()


@pytest.mark.parametrize("count", [1, 43])
def test_a_study_of_one_class_and_forty_three_is_drawn(count, tmp_path, grey_images):
    make_runs(tmp_path, names=[f"{BIGEARTHNET[k % 19]} {k}" for k in range(count)], rows=86, models=("stats",))
    for output in run_view("eurosat", ViewRequest(out=tmp_path), count=1):
        with Image.open(output.file("png")) as image:
            assert image.width > 250 and image.height > 80


def test_a_run_without_val_and_with_a_class_absent_from_test_is_drawn(tmp_path, grey_images):
    names = EUROSAT[:4]
    labels, scores = made_up(names, multilabel=False, rows=60)
    labels[labels == 3] = 0
    run = make_run(tmp_path, labels, scores, names, kind="head")
    del run.record["features"]["splits"]["val"], run.record["metrics"]["val"]
    with h5py.File(run.folder / "predictions.h5", "r+") as file:
        del file["val"]
    rewrite(run)
    outputs = run_view("eurosat", ViewRequest(out=tmp_path), count=1)
    assert outputs[0].tables[0][1][0][2] == "–"
    assert "val" not in outputs[-1].caption.split("samples")[0]
    table = next(output for output in outputs if output.title.startswith("Table 2"))
    assert table.tables[0][1][3][1] == "0" and table.tables[0][1][3][6] == "0.000"


def test_what_it_cannot_show_is_one_line(tmp_path):
    labels, scores = made_up(["a", "b"], multilabel=True, rows=40, shares=np.array([0.5, 0.3]))
    make_run(tmp_path / "multi", labels, scores, ["a", "b"])
    with pytest.raises(RequestError, match="see analyze seminar"):
        run_view("eurosat", ViewRequest(out=tmp_path / "multi"))
    for dataset in ("eurosat", "eurosat-rgb"):
        make_runs(tmp_path / "two", dataset=dataset, models=("stats",), rows=40)
    with pytest.raises(RequestError, match="2 datasets; choose with --dataset: eurosat, eurosat-rgb"):
        run_view("eurosat", ViewRequest(out=tmp_path / "two"))


# ------------------------------------------------------------------------------------------------ slides


@pytest.mark.parametrize("view", ["table", "classes", "f2", "confusion", "curves", "compare"])
def test_slides_have_larger_letters_and_change_nothing_else(view, out, tmp_path):
    """The canvas is smaller, so that letters of the same size take more of it; tables and names stay the same."""
    found = {}
    for style in ("paper", "slides"):
        folder = tmp_path / style
        assert analyze(view, "--out", out, "--folder", folder, "--style", style, "--model", "dinov2") == 0
        found[style] = {file.name: file.read_bytes() for file in folder.iterdir()}
    assert found["paper"].keys() == found["slides"].keys()
    for name, content in found["paper"].items():
        assert (content == found["slides"][name]) != name.endswith((".png", ".svg")), name


def test_slides_are_a_smaller_canvas_with_as_many_dots(tmp_path):
    sizes = {}
    for style in ("paper", "slides"):
        with figures.styled(style):
            figure = figures.new_figure(8, 4)
            png, _ = figures.save(figure, tmp_path / style)
        with Image.open(png) as image:
            sizes[style] = (figure.get_figwidth(), image.width)
    assert sizes["slides"][0] < 0.8 * sizes["paper"][0] and abs(sizes["slides"][1] - sizes["paper"][1]) <= 2
    assert figures.new_figure(8, 4).get_figwidth() == 8  # the style ends with its block


@pytest.mark.parametrize("width", [4, 7, 12])
def test_a_picture_has_three_hundred_dots_an_inch_on_the_page(width, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "PRINT_DPI", 300)
    png, _ = figures.save(figures.new_figure(width, 3), tmp_path / "one")
    with Image.open(png) as image:
        assert image.width / min(width, figures.PAGE_WIDTH) >= 299
