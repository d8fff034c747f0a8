"""Several models on several datasets by one command each."""

import numpy as np
import pytest
from PIL import Image

from analysis.cli import app as analyze
from data import command, runs
from data.errors import DiskError, RequestError
from data.pairs import names_in, own_values, run_pairs
from featurize.cli import app as featurize
from probes.cli import app as probe


@pytest.fixture
def folder_of_images(tmp_path):
    """Two classes of eight small pictures per split."""
    rng = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name, level in (("forest", 40), ("river", 160)):
            folder = tmp_path / "data" / "folder" / split / name
            folder.mkdir(parents=True)
            for number in range(8):
                Image.fromarray(rng.integers(level, level + 40, (9, 9, 3), np.uint8)).save(folder / f"{number}.png")
    return tmp_path / "data"


def test_every_pair_is_made_reused_or_reported_as_failed(tmp_path, monkeypatch, capsys, folder_of_images):
    monkeypatch.chdir(tmp_path)
    words = ["--model", "stats,galileo", "--dataset", "simulated,folder", "--limit", "24", "--workers", "0"]
    words += ["--data-root", str(folder_of_images), "--weights", "random", "--variant", "none", "--out", "out"]
    assert command.run(featurize, words) == 1  # neither has a variant of that name
    assert "made" not in capsys.readouterr().out and not list((tmp_path / "out").rglob("*.h5"))

    words = ["--model", "stats,galileo", "--dataset", "simulated,folder", "--limit", "24", "--workers", "0"]
    words += ["--data-root", str(folder_of_images), "--weights", "galileo=none.pt", "--out", "out"]
    assert command.run(featurize, words) == 1  # galileo has no weights here
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines if "made, 3 files" in line] == [
        ["stats", "simulated", "made,"],
        ["stats", "folder", "made,"],
    ]
    assert sum("galileo" in line and "failed" in line for line in lines) == 2

    words = [word.replace(",galileo", "") for word in words if not word.endswith("none.pt") and word != "--weights"]
    assert command.run(featurize, words) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:3] == ["stats", "folder", "reused"]

    fit = ["--kind", "prior", "--model", "stats,galileo", "--dataset", "simulated,folder", "--out", "out"]
    assert command.run(probe, fit) == 1
    names = [run.record["features"]["dataset"]["name"] for run in runs.find_runs(tmp_path / "out")]
    assert names == ["folder", "simulated"]
    assert runs.find_runs(tmp_path / "out")[0].command == "probe --kind prior --model stats --dataset folder --out out"
    assert len(runs.find_runs(tmp_path / "out", dataset="folder,simulated")) == 2
    assert len(runs.find_runs(tmp_path / "out", dataset="folder,none", model="stats,rcf")) == 1
    assert command.run(analyze, ["table", "--dataset", "folder,simulated", "--out", "out"]) == 0


def test_an_unknown_name_in_a_list_stops_before_anything_is_made(tmp_path, capsys):
    for words in (
        ["--model", "stats,statz"],
        ["--model", "stats", "--dataset", "simulated,folders"],
        ["--model", "a,"],
    ):
        assert command.run(featurize, [*words, "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    assert "statz" in capsys.readouterr().err


def test_a_full_disk_ends_the_list():
    def full(model, dataset):
        raise DiskError("no space")

    with pytest.raises(DiskError):
        run_pairs("featurize", "a,b", None, full, list)


def test_names_of_a_list():
    assert names_in("a, b,a") == ["a", "b"] and names_in(None) == [None]


def test_each_name_of_a_list_may_have_its_own_values():
    given = {"variant": "a=small,c=b=c", "bands": "a=B02,B03,b=rgb", "weights": "random", "layer": None}
    assert own_values("--model", "a,b,c", given) == {
        "a": {"variant": "small", "bands": "B02,B03", "weights": "random", "layer": None},
        "b": {"variant": None, "bands": "rgb", "weights": "random", "layer": None},
        "c": {"variant": "b=c", "bands": None, "weights": "random", "layer": None},
    }
    with pytest.raises(RequestError, match="--variant d=small: d is not in --model a,b"):
        own_values("--model", "a,b", {"variant": "d=small"})
    with pytest.raises(RequestError, match="--variant a=small,a=base: .*two values"):
        own_values("--model", "a,b", {"variant": "a=small,a=base"})
