"""Ranks and workers of one machine listen to that machine alone; hub repositories run no code here."""

import json
import os
import socket
import subprocess
import sys

import pytest

from featurize.engines import torchrun

# A rank that meets the other and says where this process listens.
RANK = """
import os
from contextlib import suppress
from pathlib import Path
from featurize.engines import torchrun

torchrun.meet()
own = set()
for handle in os.listdir("/proc/self/fd"):
    with suppress(OSError):  # the listing's own
        own.add(os.readlink(f"/proc/self/fd/{handle}"))
for table in ("tcp", "tcp6"):
    for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in own:
            print("listens", fields[1].partition(":")[0], flush=True)
torchrun.gather(None)
"""
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ranks_of_one_machine_listen_on_loopback():
    with socket.socket() as meeting:
        meeting.bind(("127.0.0.1", 0))
        meeting.listen(2)
        about = {
            torchrun.PORT: str(meeting.getsockname()[1]),
            torchrun.HANDLE: str(meeting.fileno()),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "OMP_NUM_THREADS": "1",
        }
        ranks = [
            subprocess.Popen(
                [sys.executable, "-c", RANK],
                env=os.environ | about | {"RANK": str(rank)},
                pass_fds=() if rank else (meeting.fileno(),),
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        lines = [line for rank in ranks for line in rank.communicate(timeout=200)[0].splitlines()]
    assert all(rank.returncode == 0 for rank in ranks)
    assert len(lines) >= 2 and {line.split()[1] for line in lines} <= LOOPBACK, lines


def test_the_loopback_interface_is_one_of_this_machine():
    assert torchrun.loopback() in [name for _, name in socket.if_nameindex()]


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
