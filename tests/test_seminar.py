"""The seminar's study: its table with ours and the difference, and never against other data without saying so."""

import h5py
import numpy as np
import pandas as pd
import pytest
from helpers import encoder_identity, make_features
from made_runs import BIGEARTHNET, EUROSAT, made_up, make_run, rewrite
from PIL import Image

from analysis import cli, figures
from analysis.contract import ViewRequest, run_view
from analysis.studies import reference
from analysis.views import seminar
from data import command
from data.errors import RequestError
from data.runs import find_runs

KINDS = ("rf", "linear", "mlp")
TRAINED = {"source": "loaded", "sha256": "1" * 64}


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    """Pictures of few dots, which are written sooner."""
    monkeypatch.setattr(figures, "LEAST_DPI", 60)
    monkeypatch.setattr(figures, "PRINT_DPI", 60)


def make_runs(out, *, names=BIGEARTHNET, dataset="bigearthnet", model="dofa", kinds=KINDS, rows=200, **about):
    encoder = encoder_identity(model, **{"weights": TRAINED} | about.pop("encoder", {}))
    shares = None if len(names) == 19 else np.full(len(names), 0.3)
    for seed, kind in enumerate(kinds):
        labels, scores = made_up(names, multilabel=True, rows=rows, skill=1.0 + seed, shares=shares)
        thresholds = np.full(len(names), 0.25)
        make_run(
            out, labels, scores, names, kind=kind, dataset=dataset, encoder=encoder, thresholds=thresholds, **about
        )
    return find_runs(out)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seminar")
    make_runs(folder)
    return folder


def as_the_seminars(runs):
    """The same runs with the splits of the whole of BigEarthNet."""
    for run in runs:
        run.record["features"]["dataset"]["variant"] = "v2"
        run.record["rows"] = dict(reference.BIGEARTHNET_SPLITS["v2"])
    return runs


# -------------------------------------------------------------------------------------------- by value


def test_the_table_has_published_ours_and_the_difference_of_every_probe_metric_and_rule(out):
    frame = seminar.compute(find_runs(out))
    assert len(frame) == 3 * 5 * 2 and list(dict.fromkeys(frame["kind"])) == list(reference.SEMINAR)
    for run in find_runs(out):
        for rule in ("half", "tuned"):
            part = frame[(frame["run"] == run.folder.name) & (frame["rule"] == rule)].set_index("metric")
            for metric, published in reference.SEMINAR[run.kind].items():
                ours = run.record["metrics"]["test"][rule][metric]
                assert part.loc[metric, "value"] == ours and part.loc[metric, "published"] == published
                assert part.loc[metric, "difference"] == pytest.approx(ours - published, abs=1e-12)


def test_the_readable_table_shows_the_published_digits_and_signed_differences(out):
    runs = as_the_seminars(find_runs(out, kind="rf"))
    header, rows = seminar.readable(seminar.compute(runs))
    assert header == ["Probe", "", "F2 macro", "F2 micro", "Hamming loss", "Precision macro", "Precision micro"]
    assert rows[0] == ["rf", "published (threshold 0.5)", "0.214", "0.358", "0.123", "0.52", "0.72"]
    ours = runs[0].record["metrics"]["test"]["half"]["f2_macro"]
    assert rows[1][1] == "ours, threshold 0.5" and rows[1][2].startswith(f"{ours:.3f}")
    assert rows[2][1] == "ours minus published, threshold 0.5"
    assert rows[2][2] == f"{ours - 0.214:+.3f}".replace("-", "\u2212")
    assert [row[1] for row in rows[3:]] == [
        "ours, thresholds tuned on val", "ours minus published, thresholds tuned on val",
    ]  # fmt: skip


# ------------------------------------------------------------------------------- against other data, it says so


def test_the_whole_of_bigearthnet_with_dofa_is_compared_without_caveat(out):
    run = as_the_seminars(find_runs(out))[0]
    assert seminar.caveats(run) == {}
    assert "NOT COMPARABLE" not in seminar.statement(run) and "train 237,871" in seminar.statement(run)


def test_a_run_with_other_settings_than_the_seminars_says_so(out):
    run = as_the_seminars(find_runs(out))[0]
    run.record["arguments"] = {"calibrate": "platt", "refit": True}
    assert list(seminar.caveats(run)) == ["other protocol"]
    assert "calibration: published none, here platt; refitted" in seminar.statement(run)


def test_mosaics_in_bigearthnets_layout_are_not_taken_for_bigearthnet(out):
    run = find_runs(out)[0]
    run.record["features"]["dataset"]["variant"] = "v2"
    assert list(seminar.caveats(run)) == ["other samples"]
    said = seminar.statement(run)
    assert "train 200, val 200, test 200 samples" in said and "v2 has train 237,871" in said


def test_a_run_on_part_of_train_is_not_compared_although_another_run_may_be(out):
    whole, part = as_the_seminars(find_runs(out))[:2]
    part.record["rows"] = {"train": 190}
    frame = seminar.compute([whole, part])
    why = frame.groupby("run")["caveats"].first()
    assert why[whole.folder.name] == "" and why[part.folder.name] == "other samples"
    lines = [row[1] for row in seminar.readable(frame)[1] if row[1].startswith("ours minus")]
    assert sum("not comparable: other samples" in line for line in lines) == len(lines) / 2


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        ({"dataset": "folder-mosaic"}, "other data"),
        ({"model": "stats"}, "other model"),
        ({"encoder": {"weights": {"source": "random", "sha256": None}}}, "random weights"),
        ({"names": BIGEARTHNET[:7]}, "other classes"),
        ({"simulated": True}, "simulated data"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_difference_to_other_data_or_models_says_so_wherever_it_stands(about, reason, tmp_path):
    make_runs(tmp_path, kinds=("rf",), **about)
    output = seminar.run(ViewRequest(out=tmp_path))[0]
    header, rows = output.tables[0]
    differences = [row for row in rows if row[1].startswith("ours minus published")]
    assert len(differences) == 2
    assert all("not comparable: " in row[1] and reason in row[1] for row in differences)
    for suffix in ("md", "tex"):
        assert "NOT COMPARABLE" in output.file(suffix).read_text()
    assert "NOT COMPARABLE" in output.caption
    assert all(reason in text for text in pd.read_csv(output.file("csv"))["caveats"])
    page = next(output.file("md").parent.glob("*__page.md")).read_text()
    assert "NOT COMPARABLE" in page and reason in page


def test_the_pictures_title_says_that_it_is_not_comparable(out):
    runs = find_runs(out)
    assert "not comparable: other samples" in seminar.draw_figure(seminar.compute(runs), runs[0]).get_suptitle()
    runs = as_the_seminars(runs)
    assert "not comparable" not in seminar.draw_figure(seminar.compute(runs), runs[0]).get_suptitle()


# ------------------------------------------------------------------------------------------ the command


def analyze(*words):
    return command.run(cli.new_app(), [str(word) for word in words])


def test_the_command_writes_table_panels_and_bars(tmp_path, capsys):
    make_features(tmp_path, multilabel=True, rows=(60, 40, 60), dataset="multi", class_names=BIGEARTHNET[5:9])
    from probes import fit, inputs

    source = next((tmp_path / "features").glob("*/*"))
    splits = inputs.read_splits(source)
    for kind in ("linear", "mlp"):
        fit.run_probe(fit.plan_probe(kind, splits, tmp_path, seed=0), splits, n_jobs=1)
    capsys.readouterr()
    assert analyze("seminar", "--out", tmp_path, "--folder", tmp_path / "here") == 0
    told = capsys.readouterr()
    assert "seminar: no run of rf: make it with probe --kind rf" in told.err
    names = {file.name.split("__")[0] for file in (tmp_path / "here").glob("*.png")}
    assert names == {"seminar", "umap", "f2"}
    page = next((tmp_path / "here").glob("*__page.md"))
    links = [line.split("](")[1][:-1] for line in page.read_text().splitlines() if line.startswith("![")]
    assert len(links) == 3 and all((page.parent / link).is_file() for link in links)


def test_without_features_the_panels_are_missing_and_it_says_so(out, tmp_path, capsys):
    outputs = seminar.run(ViewRequest(out=out, folder=tmp_path))
    assert [output.title for output in outputs] == [seminar.TITLE, "F2 per class"]
    assert "no UMAP panels" in capsys.readouterr().err
    bars = pd.read_csv(outputs[1].file("csv"))
    assert set(bars["kind"]) == {"linear", "mlp"}  # as the seminar shows them


def test_the_bars_show_the_recorded_f2(out, tmp_path):
    outputs = seminar.run(ViewRequest(out=out, folder=tmp_path))
    bars = pd.read_csv(outputs[1].file("csv"), float_precision="round_trip").set_index(["run", "rule", "class"])["f2"]
    for run in find_runs(out):
        for rule, values in run.record["per_class"].items():
            for value in values if run.kind != "rf" else ():
                assert bars[run.folder.name, rule, value["name"]] == value["f2"]


@pytest.mark.parametrize("count", [1, 43])
def test_one_class_and_forty_three_are_drawn(count, tmp_path):
    make_runs(tmp_path, names=[f"{BIGEARTHNET[k % 19]} {k}" for k in range(count)], rows=60)
    for output in seminar.run(ViewRequest(out=tmp_path)):
        with Image.open(output.file("png")) as image:
            assert image.width > 250 and image.height > 80


def test_a_run_without_val_and_without_positives_in_test_is_drawn(tmp_path):
    run = make_run(tmp_path, np.zeros((20, 2), np.uint8), np.full((20, 2), 0.1, np.float32), ["a", "b"], kind="mlp")
    del run.record["features"]["splits"]["val"], run.record["metrics"]["val"]
    with h5py.File(run.folder / "predictions.h5", "r+") as file:
        del file["val"]
    rewrite(run)
    outputs = seminar.run(ViewRequest(out=tmp_path))
    assert len(outputs) == 2 and "val" not in seminar.statement(run).split("samples")[0]


def test_what_it_cannot_show_is_one_line(tmp_path, capsys):
    labels, scores = made_up(EUROSAT, multilabel=False, rows=40)
    make_run(tmp_path / "single", labels, scores, EUROSAT)
    assert analyze("seminar", "--out", tmp_path / "single") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "have several labels" not in error and "see analyze eurosat" in error
    make_runs(tmp_path / "knn", kinds=("knn",))
    with pytest.raises(RequestError, match="probe --kind rf,linear,mlp"):
        run_view("seminar", ViewRequest(out=tmp_path / "knn"))
    make_runs(tmp_path / "two", kinds=("rf",))
    make_runs(tmp_path / "two", kinds=("rf",), model="stats")
    with pytest.raises(RequestError, match="runs of 2 feature sets fit; choose with --model and --dataset"):
        run_view("seminar", ViewRequest(out=tmp_path / "two"))
