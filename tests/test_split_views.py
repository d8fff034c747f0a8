"""Runs on other test splits beside those on the dataset's own: ranked by themselves, and their samples are found."""

from pathlib import Path

import numpy as np
import pytest
from made_runs import make_run, rewrite

from analysis import figures, samples
from analysis.contract import ViewRequest, run_view
from data.errors import RequestError
from data.flags import DatasetRequest
from data.registry import DATASETS

NAMES = ["a", "b"]


@pytest.fixture
def out(tmp_path, monkeypatch):
    """Two kinds on the dataset's own split, and two, better ones, on one by cells."""
    monkeypatch.setattr(figures, "LEAST_DPI", 60)
    labels = np.arange(60) % 2
    for resplit in (False, True):
        for number, kind in enumerate(("knn", "linear")):
            scores = np.eye(2, dtype=np.float32)[labels]
            wrong = slice(0, (0 if resplit else 10) + 5 * number)
            scores[wrong] = scores[wrong][:, ::-1]
            run = make_run(tmp_path, labels, scores, NAMES, kind=kind, arguments={"beta": 2.0 + resplit})
            if resplit:
                how = {"by": "cells", "buffer_km": 10.0, "seed": 0, "dropped": 3}
                run.record["features"]["splits"]["test"] |= {"resplit": how, "ids_sha256": "1" * 64}
                rewrite(run)
    return tmp_path


@pytest.mark.parametrize("view", ["table", "compare"])
def test_each_test_split_is_ranked_by_itself(view, out):
    outputs = run_view(view, ViewRequest(out=out, rule="half"))
    assert [output.title.rpartition(", split by ")[2] for output in outputs][1] == "cells, 10 km apart, seed 0"
    assert "original split" in outputs[0].caption and "split by cells, 10 km apart" in outputs[1].caption
    for output in outputs:
        (best, *_), *_ = output.tables[0][1], None
        assert any("**" in cell for cell in best), "the best of each split is bold"
    assert [file.name for file in outputs[1].files if "10-km-apart" in file.name]
    if view == "compare":
        assert all(len(Path(output.files[-1]).read_text().splitlines()) == 2 for output in outputs), "a pair in each"


def test_samples_of_a_run_with_its_own_split_are_found_in_all_splits(tmp_path):
    sources = DATASETS.load("simulated").open_dataset(DatasetRequest(tmp_path, ("train", "test"), ("rgb", "all")))
    identity = {
        "name": "simulated", "variant": sources["test"].variant, "class_names": list(sources["test"].class_names),
        "provenance": sources["test"].provenance,
    }  # fmt: skip
    ids = [sources["test"].ids[0], sources["train"].ids[1]]
    found = samples.open_samples(identity, "test", data_root=tmp_path, ids=ids)
    for name, split in zip(ids, ("test", "train"), strict=True):
        np.testing.assert_array_equal(samples.picture(found[name], name), samples.picture(sources[split], name))
    with pytest.raises(RequestError, match="1 of 1 samples .*'nowhere'.*--data-root"):
        samples.open_samples(identity, "test", data_root=tmp_path, ids=["nowhere"])
