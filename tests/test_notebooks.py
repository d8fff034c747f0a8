"""The notebooks run as they are; here in this process, by `make docs` in Jupyter."""

import json
import warnings
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "docs" / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_is_kept_without_outputs(notebook, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("analysis.projection.project", lambda features, **_: features[:, :2])  # takes seconds
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict = {}
    with warnings.catch_warnings():
        for number, cell in enumerate(cells):
            assert cell["outputs"] == [] and cell["execution_count"] is None
            exec(compile("".join(cell["source"]), f"{notebook.stem}:{number}", "exec"), names)
    assert list((tmp_path / "runs").rglob("run.json"))
