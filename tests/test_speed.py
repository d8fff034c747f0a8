"""featurize bench measures what it says, and analyze speed shows it."""

import json

import pandas as pd
import pytest
import torch
from torch import nn

from analysis import cli as analyze
from data import command
from featurize import bench
from featurize.batches import collate
from featurize.cli import app

FLAGS = ["bench", "--dataset", "simulated", "--split", "val", "--limit", "4"]


@pytest.fixture(autouse=True)
def brief(monkeypatch):
    monkeypatch.setattr(bench, "SECONDS", 0.01)
    monkeypatch.setitem(bench.MATRIX, "cpu", 64)


def test_models_are_measured_kept_and_drawn(tmp_path, capsys):
    words = [*FLAGS, "--model", "stats,timm:test_vit", "--bands", "rgb", "--out", str(tmp_path)]
    assert command.run(app, [*words, "--batch-size", "2"]) == 0
    assert "stats fp32 on cpu:" in capsys.readouterr().out
    (file,) = (tmp_path / "bench").glob("*.json")
    found = json.loads(file.read_text())
    stats, vit = found["rates"]
    assert found["dataset"] == {"name": "simulated", "split": "val", "images": 4}
    assert stats["model"] == "stats" and stats["gflop"] == 0 and stats["bound"] == stats["read"]
    assert vit["model"] == "timm:test_vit" and vit["bands"] == 3 and vit["image_size"] == 160
    assert vit["bound"] == pytest.approx(min(vit["read"], vit["peak"] * 1000 / vit["gflop"]))
    assert vit["share_of_peak"] == pytest.approx(vit["forward"] * vit["gflop"] / vit["peak"] / 1000)
    assert stats["megabytes"] == pytest.approx(3 * 120 * 120 * 2 / 1e6)  # three bands of uint16 at 10 m
    assert not list(tmp_path.rglob("*.h5")), "what is measured is not kept"

    assert command.run(analyze.app, ["speed", "--out", str(tmp_path)]) == 0
    (table,) = tmp_path.rglob("speed__*.csv")
    assert pd.read_csv(table)["whole"].tolist() == pytest.approx([stats["whole"], vit["whole"]])
    assert {path.suffix for path in table.parent.iterdir()} == {".png", ".svg", ".csv", ".md", ".tex"}


def test_operations_are_those_counted_by_hand():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3 * 4 * 4, 10)
            self.request = type("Request", (), {"image_size": 4, "bands": (1, 2, 3)})

        def resize(self, images, size):
            return images

        def forward(self, images, lonlat):
            return self.layer(images.flatten(1))

    raw = collate([[torch.zeros(4, 4).numpy()] * 3] * 5)
    assert bench.operations(raw, Linear(), None, 5) == 2 * 48 * 10  # a multiply-add is two


@pytest.mark.parametrize(("extra", "message"), [
    (["--model", "stats,dinov9"], "unknown model 'dinov9'"),
    (["--model", "stats", "--engine", "ray"], "measures one process"),
    (["--model", "stats", "--device", "cuda:99"], "GPUs"),
])  # fmt: skip
def test_a_wrong_request_is_one_clear_line(tmp_path, capsys, extra, message):
    assert command.run(app, [*FLAGS, *extra, "--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_a_model_of_fp32_only_is_left_out_of_other_precisions_by_name(tmp_path, capsys):
    words = [*FLAGS, "--model", "stats", "--precision", "fp32,bf16", "--out", str(tmp_path)]
    assert command.run(app, words) == 0
    assert "stats: bf16 " in capsys.readouterr().out


def test_nothing_measured_is_one_clear_line(tmp_path, capsys):
    assert command.run(analyze.app, ["speed", "--out", str(tmp_path)]) == 2
    assert "featurize bench --out" in capsys.readouterr().err
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "x.json").write_text("{}")
    assert command.run(analyze.app, ["speed", "--out", str(tmp_path)]) == 2
    assert str(tmp_path / "bench" / "x.json") in capsys.readouterr().err
