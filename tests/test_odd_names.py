"""Class names in any script and of any length, and hundreds of classes: every figure and table is made, and bounded."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers import make_features
from made_runs import made_up, make_run
from PIL import Image

from analysis import figures, fonts, projection
from analysis.contract import ViewRequest, default_options, run_view
from analysis.views import confusion
from data import command

ODD = [
    "class_$a_$", "US$/ha^ to US$/m", "rent <$500_month", "_hidden", "50 % {wet} & dry \\ #1 ~",
    "耕地と森林", "أرض زراعية", "יער", "Quercus " * 25, "x" * 200,
]  # fmt: skip


@pytest.fixture(autouse=True)
def coarse(monkeypatch):
    monkeypatch.setattr(figures, "LEAST_DPI", 60)
    monkeypatch.setattr(figures, "PRINT_DPI", 60)
    command.note.cache_clear()


def views(out, name):
    return run_view(name, ViewRequest(out=out), **default_options(name))


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    labels, scores = made_up(ODD, multilabel=False, rows=120)
    make_run(folder, labels, scores, ODD, dataset="odd", kind="linear")
    make_features(folder, multilabel=False, rows=(30, 20, 20), class_names=ODD, dataset="odd")
    return folder


@pytest.mark.parametrize("name", ["f2", "classes", "confusion", "table", "umap"])
def test_every_figure_is_drawn_with_any_names(name, out, monkeypatch, recwarn):
    places = np.random.default_rng(0).random((20, 2), np.float32)
    monkeypatch.setattr(projection, "_compute", lambda *_, **__: places)
    for output in views(out, name):
        for file in output.files:
            if file.suffix == ".png":
                assert np.asarray(Image.open(file).convert("L")).std() > 1
    assert not [warning for warning in recwarn if "missing from font" in str(warning.message)]


def test_tables_keep_whole_names_and_latex_escapes_them(out):
    (output,) = views(out, "classes")
    files = {file.suffix: file for file in output.files}
    assert set(pd.read_csv(files[".csv"])["class"]) == set(ODD)
    tex = files[".tex"].read_text(encoding="utf-8")
    assert r"class\_\$a\_\$" in tex
    assert r"US\$/ha\textasciicircum{} to US\$/m" in tex
    assert "x" * 200 in tex


def test_letters_that_no_font_has_are_reported_once(out, monkeypatch, capsys):
    monkeypatch.setattr(fonts, "_charmaps", lambda: [frozenset(range(0x3000))])
    views(out, "classes")
    views(out, "f2")
    told = [line for line in capsys.readouterr().err.splitlines() if "耕" in line]
    assert len(told) == 1
    assert all(letter in told[0] for letter in (*"耕地森林", "Noto Sans CJK"))


def test_long_names_are_cut_in_their_middle_in_figures():
    name = "Quercus pyrenaica and " * 20 + "the end"
    assert figures.shortened(name, 40).startswith("Quercus pyrenaica and")
    assert figures.shortened(name, 40).endswith("the end")
    assert len(figures.shortened(name, 40)) == 40
    assert figures.wrapped(name, 30).count("\n") <= 3
    assert figures.wrapped("Forest") == "Forest"


def test_a_confusion_matrix_of_a_hundred_classes_is_an_image_with_a_table_of_the_largest(tmp_path):
    names = [f"species {k:03d}" for k in range(100)]
    labels, scores = made_up(names, multilabel=False, rows=600)
    run = make_run(tmp_path, labels, scores, names, dataset="many", kind="knn")
    (output,) = views(tmp_path, "confusion")
    ((header, rows),) = output.tables
    frame = confusion.compute(run)
    assert len(frame) == 10_000
    wrong = frame[frame["true"] != frame["predicted"]]
    assert header[:4] == ["Numbers", "True", "Predicted", "Count"]
    assert len(rows) == min(100, (wrong["count"] > 0).sum())
    assert int(rows[0][3]) == wrong["count"].max()
    (picture,) = [file for file in output.files if file.suffix == ".png"]
    assert max(Image.open(picture).size) < 5000


MEASURED = """
import resource, sys
import numpy as np
from analysis import figures
shares = np.random.default_rng(0).random((45, 45))
figure = figures.new_figure(10, 10)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
ax = figure.subplots()
figures.heatmap(ax, shares, columns=range(45), rows=range(45), cmap=figures.shades())
figure.canvas.draw()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in other units elsewhere")
def test_a_heat_map_takes_little_memory():
    """seaborn's took 1,500 MB for 45 columns."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent
    )
    assert int(done.stdout) < 100
