"""The file format's own examples: an independent reader and writer, h5py alone, whose files the commands take."""

import re
from pathlib import Path

import numpy as np
import pytest

from data import command, read_features, runs
from featurize.cli import app as featurize
from probes.cli import app as probe

PAGE = Path(__file__).parent.parent / "docs" / "file-format.md"


@pytest.fixture(scope="module")
def others():
    """What the code on the page defines: read and write."""
    names: dict = {}
    for code in re.findall(r"```python\n(# a .*?)```", PAGE.read_text(), re.DOTALL):
        assert not {"data", "featurize"} & set(re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE))
        exec(code, names)
    return names


def test_files_of_another_program_are_verified_and_probed(others, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        labels = np.arange(40) % 2
        features, ids = rng.normal(labels[:, None], 0.5, (40, 6)), [f"{split}-{row}" for row in range(40)]
        about = {"dataset": "mine", "model": "elsewhere"}
        others["write"](tmp_path / f"{split}.h5", split, features, labels, ids, ["dry", "wet"], **about)
    assert command.run(featurize, ["verify", str(tmp_path)]) == 0, capsys.readouterr()
    out = tmp_path / "runs"
    assert command.run(probe, ["--kind", "linear", "--features", str(tmp_path), "--out", str(out)]) == 0
    (run,) = runs.find_runs(out)
    assert run.record["metrics"]["test"]["half"]["accuracy"] > 0.8
    found, arrays = read_features(tmp_path / "test.h5"), others["read"](tmp_path / "test.h5")[0]
    assert np.array_equal(found.X, arrays["features"]) and found.ids == [i.decode() for i in arrays["ids"]]


def test_our_files_are_read_by_another_program(others, tmp_path):
    words = ["--model", "stats", "--dataset", "simulated", "--split", "val", "--limit", "5", "--out", str(tmp_path)]
    assert command.run(featurize, words) == 0
    (file,) = tmp_path.rglob("val.h5")
    arrays, about = others["read"](file)
    ours = read_features(file)
    assert np.array_equal(arrays["features"], ours.features) and tuple(about["class_names"]) == ours.class_names
    content = bytearray(file.read_bytes())
    place = content.find(arrays["features"].tobytes()[:40])
    content[place + 8] ^= 1
    (tmp_path / "damaged.h5").write_bytes(content)
    with pytest.raises((AssertionError, OSError)):
        others["read"](tmp_path / "damaged.h5")
