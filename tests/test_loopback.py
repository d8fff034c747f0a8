"""Ranks open no port; hub repositories run no code here."""

import json
import os
import subprocess
import sys

import pytest

# A rank that finds the other and reports on what it listens.
RANK = """
import os
import sys
from contextlib import suppress
from pathlib import Path
from featurize.ranks import Ranks

with Ranks(Path(sys.argv[1]), "token", int(os.environ["RANK"]), 2) as ranks:
    own = set()
    for handle in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # the listing's own
            own.add(os.readlink(f"/proc/self/fd/{handle}"))
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
                print("listens", fields[1].partition(":")[0], flush=True)
    print("met", flush=True)
    if ranks.rank == 0:
        ranks.wait_for_start()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ranks_find_each_other_without_a_socket(tmp_path):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path)],
            env=os.environ | {"RANK": str(rank)}, stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    lines = [line for rank in ranks for line in rank.communicate(timeout=200)[0].splitlines()]
    assert all(rank.returncode == 0 for rank in ranks) and lines == ["met", "met"]


def test_a_repository_that_brings_code_runs_none_of_it(tmp_path, capsys):
    """transformers runs such code only with trust_remote_code, which is never given."""
    from data import command
    from featurize.cli import app

    mark = tmp_path / "mark"
    repository = tmp_path / "repository"
    repository.mkdir()
    code = f"import pathlib; pathlib.Path({str(mark)!r}).touch()\nclass C: pass\nclass M: pass\n"
    for name in ("configuration_x", "modeling_x", "image_processing_x"):
        (repository / f"{name}.py").write_text(code)
    auto = {"AutoConfig": "configuration_x.C", "AutoModel": "modeling_x.M"}
    for kind in ("x", "vit"):
        config = {"model_type": kind, "auto_map": auto, "hidden_size": 12, "num_attention_heads": 2}
        (repository / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 1, "image_size": 32}))
        processor = {
            "auto_map": {"AutoImageProcessor": "image_processing_x.C"},
            "image_mean": [0] * 3,
            "image_std": [1] * 3,
        }
        (repository / "preprocessor_config.json").write_text(json.dumps(processor | {"size": 32}))
        words = ["--model", f"hf:{repository}", "--weights", "random", "--dataset", "simulated", "--limit", "2"]
        command.run(app, [*words, "--bands", "rgb", "--out", str(tmp_path / "out"), "--workers", "0"])
        assert not mark.exists(), capsys.readouterr().err
