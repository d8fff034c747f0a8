"""The report's commands make the runs they stand beside: given again, every one finds its run done."""

import shlex

import numpy as np
import pytest
from helpers import make_split

from analysis.contract import ViewRequest
from analysis.report import commands, inventory
from data import command, runs
from data.dataset import SPLITS
from probes import cli as probe

ASKED = (
    ["--kind", "linear,knn", "--protocol", "torchgeo-bench"],
    ["--kind", "linear", "--select", "log_loss", "--folds", "2", "--no-standardize"],
    ["--kind", "linear", "--refit", "--standardize", "--seed", "3"],
    ["--kind", "prior", "--seed", "1", "--seeds", "2", "--split-by", "cells", "--buffer-km", "0.5"],
    ["--kind", "prior", "--shots", "5", "--val", "all"],
    ["--kind", "prior", "--shots", "5"],
    ["--kind", "prior", "--protocol", "geo-bench", "--train-fraction", "0.5"],
    ["--kind", "head", "--learning-rate", "0.0123456789", "--epochs", "1", "--budget", "100000.5s"],
    ["--protocol", "mieb"],
)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """Features with locations."""
    folder = tmp_path_factory.mktemp("features")
    rng = np.random.default_rng(0)
    for split in SPLITS:
        labels = np.arange(60) % 3
        values = (np.eye(3)[labels] + rng.standard_normal((60, 3))).astype(np.float32)
        make_split(
            folder / f"{split}.h5", labels, values, ["a", "b", "c"], ids=[f"{split}-{row}" for row in range(60)],
            lonlat=rng.uniform((5, 45), (15, 55), (60, 2)),
        )  # fmt: skip
    return folder


@pytest.mark.parametrize("words", ASKED, ids=" ".join)
def test_the_printed_commands_make_the_same_runs(words, features, tmp_path, capsys):
    flags = ["--features", str(features), "--out", str(tmp_path)]
    assert command.run(probe.app, [*words, *flags]) == 0
    made = runs.find_runs(tmp_path)
    (found,) = inventory.find(ViewRequest(out=tmp_path), made)
    capsys.readouterr()
    reused = 0
    for line in commands.commands(found, tmp_path)[1:]:
        _, *again = shlex.split(line)
        again[again.index("--features") + 1] = str(features)
        assert command.run(probe.app, again) == 0
        reused += capsys.readouterr().err.count("reused ")
    assert reused >= len(made) and {run.folder for run in runs.find_runs(tmp_path)} == {run.folder for run in made}
