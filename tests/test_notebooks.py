"""The quicker notebooks run as they are; `make docs` runs all of them in Jupyter."""

import json
import warnings
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
QUICK = ("your-images", "labels-to-map")


def code_of(name):
    """The code cells of a notebook."""
    return [cell for cell in json.loads((FOLDER / f"{name}.ipynb").read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.ipynb")))
def test_notebooks_are_kept_without_outputs(name):
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code_of(name))


@pytest.mark.parametrize("name", QUICK)
def test_a_notebook_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    with warnings.catch_warnings():
        for number, cell in enumerate(code_of(name)):
            exec(compile("".join(cell["source"]), f"{name}:{number}", "exec"), names)
    assert list((tmp_path / "runs").rglob("run.json"))
