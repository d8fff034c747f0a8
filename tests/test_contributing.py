"""The examples of CONTRIBUTING.md: one file each, and the commands find and run them."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TOP = Path(__file__).parent.parent
EXAMPLES = re.findall(r"```python\n# (\S+\.py)\n(.*?)```", (TOP / "CONTRIBUTING.md").read_text(), re.DOTALL)


@pytest.fixture
def project(tmp_path):
    """A copy of the packages with the examples added, and the images that the example dataset reads."""
    for package in ("data", "featurize", "probes", "analysis"):
        shutil.copytree(TOP / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name, code in EXAMPLES:
        assert not (tmp_path / name).exists(), f"{name} is there already"
        (tmp_path / name).write_text(code)
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for split in ("train", "val", "test"):
        labels = np.arange(24) % 2
        noise = rng.integers(0, 40, (24, 16, 16, 3))
        images = (80 + 30 * labels[:, None, None, None] + noise).astype(np.uint8)
        np.savez(tmp_path / "images" / f"{split}.npz", images=images, labels=labels)
    return tmp_path


def test_there_is_an_example_of_each_kind():
    folders = ["featurize/models", "data/sources", "probes/kinds", "analysis/views"]
    assert [str(Path(name).parent) for name, _ in EXAMPLES] == folders


def test_the_examples_run_as_they_are(project):
    for words in (
        "featurize --model quantiles --dataset arrays --data-root images --workers 0",
        "probes --kind extra-trees --n-jobs 1",
        "analysis support",
    ):
        environment = os.environ | {"PYTHONPATH": str(project), "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", *words.split()]
        done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}\n{done.stderr}"
    assert len(list(project.glob("runs/probes/arrays/*/extra-trees-*/run.json"))) == 1
    (table,) = project.glob("runs/analysis/support/*.csv")
    assert "forest" in table.read_text()
