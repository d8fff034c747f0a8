"""The page's points are of one test split; runs on another say so, and none is told to be made again."""

import numpy as np
from made_runs import make_run, rewrite

from analysis.report import explorer
from data.runs import find_runs


def test_runs_on_another_split_say_so_and_none_is_told_to_be_made_again(tmp_path):
    labels = np.arange(40) % 2
    for kind in ("knn", "rf"):
        run = make_run(tmp_path, labels, np.eye(2, dtype=np.float32)[labels], ["a", "b"], kind=kind)
    run.record["features"]["splits"]["test"]["resplit"] = {"by": "cells", "buffer_km": 0.0, "seed": 0}
    rewrite(run)
    runs = find_runs(tmp_path)
    other = runs[-1].predictions("test")
    other.ids[:] = [f"train-{number}" for number in range(40)]
    object.__setattr__(runs[-1], "predictions", lambda split: other)
    shown = explorer.from_runs(runs[::-1], words="stats", most=40, note="")
    assert shown.ids[0].startswith("test-"), "the dataset's own split is shown"
    made = explorer.explorer([shown], ("half",), pictures=0, root=None, cache=tmp_path)
    assert (
        len(made.notes) == 1
        and "tested on its own split (split by cells, seed 0), which has 0 of the 40 samples" in made.notes[0]
    )
