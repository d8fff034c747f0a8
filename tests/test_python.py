"""The Python interface: the commands' flags and errors, features as frames, encoders as scikit-learn transformers."""

import doctest
import inspect
import pickle
import re
import tomllib
import warnings
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import estimator_checks_generator

import analysis
import featurize
import probes
from analysis.card import VIEWS
from analysis.contract import ViewRequest
from data import RequestError, command, read_run
from featurize.cli import app as featurize_app
from featurize.flags import FeaturizeFlags, ModelFlags, RunFlags
from probes.cli import app as probe_app
from probes.cli import predict as predict_command
from probes.flags import ProbeFlags

OF = {featurize.featurize: FeaturizeFlags, probes.probe: ProbeFlags, probes.probe_all: ProbeFlags}


def parameters(function):
    return {name: one.default for name, one in inspect.signature(function).parameters.items()}


@pytest.mark.parametrize("function", OF, ids=lambda function: function.__name__)
def test_a_function_has_the_flags_of_its_command_and_their_descriptions(function):
    declared = parameters(OF[function])
    assert parameters(function) == declared | {"progress": False}
    assert all(f"    {name}: " in function.__doc__ for name in declared)


def test_the_other_functions_have_the_defaults_of_their_commands():
    encoder = {one.name: one.default for one in (*fields(ModelFlags), *fields(RunFlags))}
    given = parameters(featurize.Encoder)
    assert given.keys() >= {one.name for one in fields(ModelFlags)} - {"dense", "normalize_like"}
    del given["model"]  # which the command has no default for
    assert given == {name: encoder[name] for name in given}
    common = {one.name: one.default for one in fields(ViewRequest)}
    umap = common | {name: option.default for name, option in VIEWS.card("umap").options.items()}
    for function, declared in ((analysis.umap, umap), (analysis.table, common)):
        own = {
            name: value for name, value in parameters(function).items() if name not in ("runs", "features", "progress")
        }
        assert own == {name: declared[name] for name in own}
    declared = parameters(predict_command)
    assert {name: declared[name] for name in ("rule", "other_dataset", "n_jobs")}.items() <= parameters(
        probes.predict
    ).items()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Features of a few simulated images and two runs, made by Python; nothing is printed."""
    out = tmp_path_factory.mktemp("python") / "runs"
    sets = featurize.featurize(model="stats", dataset="simulated", bands=["B04", "B03", "B02"], limit=60, out=str(out))
    with warnings.catch_warnings(action="ignore"):
        runs = probes.probe_all(kind=("prior", "linear"), model="stats", out=out)
    return out, sets, runs


def test_python_and_the_command_line_make_the_same(made, capsys):
    out, sets, runs = made
    words = ["--model", "stats", "--dataset", "simulated", "--bands", "B04,B03,B02", "--limit", "60", "--out", str(out)]
    assert command.run(featurize_app, words) == 0
    assert capsys.readouterr().out.count("reused") == len(sets) == 3
    again = runs[1].command.split()[1:]
    assert again[:4] == ["--kind", "prior,linear", "--model", "stats"]
    assert command.run(probe_app, again) == 0 and "linear: reused" in capsys.readouterr().err
    assert read_run(runs[1].folder).record == runs[1].record


def test_nothing_is_printed_unless_asked(made, capsys):
    out, _, _ = made
    request = {"model": "stats", "dataset": "simulated", "split": "val", "limit": 4, "out": out / "four"}
    featurize.featurize(**request)
    assert capsys.readouterr() == ("", "")
    featurize.featurize(**request, overwrite=True, progress=True)
    told = capsys.readouterr()
    assert "wrote" in told.out and "4/4" in told.err


def test_errors_are_exceptions_with_the_text_of_the_command(tmp_path, capsys):
    for given, words in (
        ({"model": "statz"}, ["--model", "statz"]),
        ({"model": "stats", "nodata": "drop"}, ["--model", "stats", "--nodata", "drop"]),
        ({"model": "stats", "limit": 0}, ["--model", "stats", "--limit", "0"]),
    ):
        assert command.run(featurize_app, [*words, "--out", str(tmp_path)]) == 2
        told = capsys.readouterr().err
        with pytest.raises(RequestError) as error:
            featurize.featurize(**given, out=tmp_path)
        assert " ".join(str(error.value).split()) in told
    with pytest.raises(TypeError, match="modell"):
        featurize.featurize(model="stats", modell="stats")
    with pytest.raises(RequestError, match="2 runs.*probe_all"):
        probes.probe(kind="prior,linear", out=tmp_path)
    with pytest.raises(RequestError, match="once for each pair"):
        featurize.featurize(model="stats,rcf", out=tmp_path)


def test_features_as_arrays_and_frames(made):
    _, sets, _ = made
    test = sets["test"]
    assert test.X.shape == (60, 12) and test.X.dtype == np.float32 and test.y is test.labels
    frame = test.to_pandas()
    assert list(frame["id"]) == test.ids and np.array_equal(frame[[f"f{d:04d}" for d in range(12)]], test.X)
    assert np.array_equal(frame[f"class: {test.class_names[3]}"], test.y[:, 3])


def test_predictions_and_tables_of_python_are_those_on_disk(made, monkeypatch):
    out, sets, runs = made
    with warnings.catch_warnings(action="ignore"):
        frame = probes.predict(runs[1], sets["test"])
    scores = runs[1].predictions("test")
    assert list(frame.index) == scores.ids and np.allclose(frame.iloc[:, 1:], scores.scores)
    table = analysis.table(runs, rule="tuned")
    assert list(table["f2_macro"]) == [run.record["metrics"]["test"]["tuned"]["f2_macro"] for run in runs]
    assert analysis.table(out=out, kind="linear", rule="tuned")["run"].tolist() == [runs[1].folder.name]
    monkeypatch.setattr("analysis.projection.project", lambda features, **_: features[:, :2])  # takes seconds
    figure = analysis.umap(sets, split="all", points=30, out=out)
    assert len(figure.axes) >= len(sets["test"].class_names)
    (output,) = analysis.view("f2", kind="linear", out=out)
    assert output._repr_png_()[:4] == b"\x89PNG"


# scikit-learn


def test_the_encoder_passes_the_checks_of_scikit_learn():
    """All that apply pass; the array API needs an environment variable. 2-D arrays count as images of one pixel."""
    for estimator, check in estimator_checks_generator(featurize.Encoder("stats")):
        if check.func.__name__ != "check_array_api_input":
            check(estimator)


@pytest.fixture(scope="module")
def images():
    """Two classes that differ in brightness: (24, 3, 12, 12) digital numbers."""
    y = np.arange(24) % 2
    rng = np.random.default_rng(0)
    return rng.normal(800 + 900 * y[:, None, None, None], 300, (24, 3, 12, 12)).clip(1, 9999).astype(np.uint16), y


@pytest.mark.parametrize(("model", "size"), [("stats", 1_000), ("rcf", 200_000)])
def test_copies_and_pickles_hold_the_request_and_embed_the_same(images, model, size):
    X, _ = images
    encoder = featurize.Encoder(model, bands=["B04", "B03", "B02"]).fit(X)
    features = encoder.transform(X)
    assert features.shape == (24, len(encoder.get_feature_names_out())) and features.dtype == np.float32
    kept = pickle.dumps(encoder)
    assert len(kept) < size
    assert np.array_equal(pickle.loads(kept).transform(X), features)
    assert np.array_equal(clone(encoder).fit(X).transform(X), features)
    assert np.array_equal(encoder.transform(X[:5]), features[:5])


def test_the_encoder_in_a_pipeline_and_its_refusals(images):
    X, y = images
    pipeline = make_pipeline(featurize.Encoder("stats", bands="rgb"), LogisticRegression())
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.9
    for encoder, said in (
        (featurize.Encoder("stats", bands="rgb", device="cuda:9"), "--device cuda:9: this machine has"),
        (featurize.Encoder("stats", bands=["B04"]), "1 names, but the images have 3 bands"),
        (featurize.Encoder("dofa"), "dofa"),
        (featurize.Encoder("statz"), "did you mean 'stats'"),
    ):
        with pytest.raises(RequestError, match=said):
            encoder.fit(X)
    with pytest.raises(ValueError, match="samples, bands, height, width"):
        featurize.Encoder("stats").fit(X[0])


def test_the_encoder_embeds_as_the_command_does(made):
    """The pixels that featurize reads, as an array, give the features that it keeps."""
    from data.flags import DataFlags

    _, sets, _ = made
    dataset = DataFlags(dataset="simulated", split="val", limit=60).open()["val"]
    bands = [band for name in ("B04", "B03", "B02") for band in dataset.bands if band.name == name]
    X = np.stack([np.stack(dataset.read(row, bands)) for row in range(len(dataset))])
    encoder = featurize.Encoder("stats", bands=["B04", "B03", "B02"])
    assert np.allclose(encoder.fit_transform(X), sets["val"].X, rtol=1e-5)


def test_examples_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for package in (featurize, probes, analysis):
        for name in package.__all__:
            for test in doctest.DocTestFinder(recurse=False).find(getattr(package, name), name, module=False):
                with warnings.catch_warnings(action="ignore"):
                    assert doctest.DocTestRunner().run(test).failed == 0


def test_the_code_of_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("analysis.projection.project", lambda features, **_: features[:, :2])  # takes seconds
    page = Path(__file__).parent.parent / "docs" / "guide" / "python.md"
    for code in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        with warnings.catch_warnings(action="ignore"):
            exec(code.replace("limit=150", "limit=30"), {})


def test_the_conda_recipe_has_the_dependencies_and_commands_of_the_project():
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    recipe = (Path(__file__).parent.parent / "docs" / "packaging" / "recipe.yaml").read_text()
    renamed = {"torch": "pytorch", "matplotlib": "matplotlib-base", "xxhash": "python-xxhash"}
    for one in project["dependencies"]:
        name, _, least = one.partition(">=")
        assert f"    - {renamed.get(name, name)} >={least}\n" in recipe, one
    assert all(f"      - {name} = {start}\n" in recipe for name, start in project["scripts"].items())
    assert f"  version: {project['version']}\n" in recipe
