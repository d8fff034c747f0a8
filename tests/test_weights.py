"""Weights: the hub's cache, folders, files and what is wrong with them, mostly as the command says it."""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import time
import zipfile

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file
from torch import nn

from data import command
from data.errors import RequestError
from featurize import weights
from featurize.cli import app
from featurize.models import dinov2
from featurize.weights import hub_file, hub_state, load_weights, random_module, read_state, url_file

PRESTO = ["--model", "presto", "--dataset", "simulated", "--limit", "2", "--split", "val"]
DINO = ["--model", "dinov2", "--variant", "small", "--dataset", "simulated", "--limit", "2", "--split", "val"]
PUBLISHED = "https://huggingface.co/facebook/dinov2-small/resolve/main/model.safetensors"


def linear(seed=0):
    torch.manual_seed(seed)
    return nn.Linear(3, 2)


@pytest.fixture
def refused(tmp_path, capsys):
    """Run a command that must end with one line, exit code 2 and nothing written; returns the line."""

    def run(*words):
        out = tmp_path / "runs"
        code = command.run(app, [*map(str, words), "--out", str(out)])
        error = capsys.readouterr().err
        assert code == 2 and error.count("\n") == 1 and "Traceback" not in error, error
        assert not out.exists()
        return error

    return run


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub; returns a function that puts files of a repository there as the hub's client does."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(repository, **files):
        return put_in_cache(tmp_path / "hub", repository, **files)

    return put


def put_in_cache(hub, repository, **files):
    folder = hub / f"models--{repository.replace('/', '--')}"
    snapshot = folder / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("a" * 40)
    for name, write in files.items():
        write(snapshot / name.replace("__", "."))
    return snapshot


# the hub and its cache


def test_pretrained_comes_from_the_cache_without_network(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(
        dinov2, "SIZES", {"small": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}}
    )
    wanted = dinov2.architecture("small")
    made = wanted.model(wanted.config)
    made.save_pretrained(tmp_path / "folder")
    cache("facebook/dinov2-small", model__safetensors=lambda path: path.symlink_to(tmp_path / "folder" / path.name))
    _, found = dinov2.load_model(wanted, "pretrained")
    _, local = dinov2.load_model(wanted, str(tmp_path / "folder"))
    assert found.sha256 == local.sha256 and found.source == "loaded"
    assert found.origin == "facebook/dinov2-small/model.safetensors"


def test_hf_home_and_hf_hub_offline_are_honoured(tmp_path):
    put_in_cache(tmp_path / "hub", "some/model", config__json=lambda path: path.write_text("{}"))
    code = (
        "import sys; from featurize.weights import hub_file; from data.errors import RequestError\n"
        "print(hub_file('some/model', 'config.json'))\n"
        "try: hub_file('some/model', 'model.safetensors')\n"
        "except RequestError as error: print(error)"
    )
    environment = os.environ | {"HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    found, absent = done.stdout.splitlines()
    assert found.startswith(str(tmp_path)) and found.endswith("config.json")
    assert "HF_HUB_OFFLINE" in absent and f"{tmp_path}/hub" in absent


def test_without_network_it_asks_once_and_names_the_file(cache, monkeypatch, refused):
    """The hub's client by itself tries for half a minute."""
    asked = []

    def no_network(url, **_):
        asked.append(url)
        raise ConnectionError("Name or service not known")

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", no_network)
    start = time.monotonic()
    line = refused(*DINO)
    assert time.monotonic() - start < 10 and asked == [PUBLISHED]
    assert f"cannot download {PUBLISHED} (Name or service not known; not in" in line
    assert "pass it with --weights PATH/model.safetensors" in line


def test_offline_with_nothing_cached_is_one_line_for_every_kind_of_weights(cache, refused):
    assert f"cannot download {PUBLISHED} (HF_HUB_OFFLINE is set" in refused(*DINO, "--weights", "pretrained")
    assert "cannot download https://huggingface.co/torchgeo/presto/resolve/" in refused(*PRESTO)


def test_a_repository_without_safetensors_or_in_shards(cache, tmp_path):
    state = dict(linear().state_dict())
    cache("some/pickled", pytorch_model__bin=lambda path: torch.save(state, path))
    assert hub_state("some/pickled")[1] == "some/pickled/pytorch_model.bin"
    index = {"weight_map": {"weight": "one.safetensors", "bias": "two.safetensors"}}
    cache(
        "some/shards",
        **{
            "model.safetensors.index.json": lambda path: path.write_text(json.dumps(index)),
            "one.safetensors": lambda path: save_file({"weight": state["weight"]}, path),
            "two.safetensors": lambda path: save_file({"bias": state["bias"]}, path),
        },
    )
    found, _ = hub_state("some/shards")
    assert all(torch.equal(found[key], state[key]) for key in state)


def test_a_url_of_the_hub_is_looked_up_in_its_cache_and_checked_against_its_hash(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    url = f"https://hf.co/some/model/resolve/{'a' * 40}/net-01234567.pth"
    snapshot = cache("some/model", **{"net-01234567.pth": lambda path: torch.save(dict(linear().state_dict()), path)})
    with pytest.raises(RequestError, match="net-01234567.pth is damaged: its sha256 begins .*, not 01234567"):
        url_file(url)
    digest = hashlib.sha256((snapshot / "net-01234567.pth").read_bytes()).hexdigest()[:8]
    (snapshot / "net-01234567.pth").rename(snapshot / f"net-{digest}.pth")
    module = random_module(linear)
    loaded = load_weights(module, "pretrained", hub_name=url.replace("01234567", digest))
    assert loaded.origin == url.replace("01234567", digest)
    kept = tmp_path / "torch" / "hub" / "checkpoints"
    kept.mkdir(parents=True)
    (kept / "other.pth").write_bytes(b"kept by torchgeo")
    assert url_file("https://hf.co/some/model/resolve/main/other.pth") == kept / "other.pth"


def test_a_missing_repository_and_a_gated_one_say_so(cache, monkeypatch):
    from huggingface_hub import errors

    def answer(kind):
        def refuse(url, **_):
            error = kind.__new__(kind)
            Exception.__init__(error, "refused")
            raise error

        return refuse

    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for kind, message in (
        (errors.RepositoryNotFoundError, "no repository 'some/model'"),
        (errors.GatedRepoError, "is gated: accept its terms on the hub"),
        (errors.RemoteEntryNotFoundError, "some/model has no config.json"),
    ):
        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer(kind))
        with pytest.raises(RequestError, match=message):
            hub_file("some/model", "config.json")


# files and folders


def test_wrong_files_are_one_clear_line(refused, tmp_path):
    def weights_line(name, content):
        (tmp_path / name).write_bytes(content)
        return refused(*PRESTO, "--weights", tmp_path / name)

    save_file({"weight": torch.zeros(100)}, tmp_path / "whole.safetensors")
    whole = (tmp_path / "whole.safetensors").read_bytes()
    torch.save({"weight": torch.zeros(100)}, tmp_path / "whole.pth")
    assert "cut.safetensors is not readable as weights" in weights_line("cut.safetensors", whole[:-40])
    assert "cut.pth is not readable as weights" in weights_line("cut.pth", (tmp_path / "whole.pth").read_bytes()[:-200])
    assert "page.safetensors is not readable" in weights_line("page.safetensors", b"<!DOCTYPE html><html></html>")
    assert "Git LFS pointer" in weights_line("lfs.safetensors", b"version https://git-lfs.github.com/spec/v1\noid x")
    assert "unexpected (weight)" in refused(*PRESTO, "--weights", tmp_path / "whole.pth")
    torch.save({"epoch": 3, "loss": [1.0]}, tmp_path / "log.pth")
    assert "log.pth holds no weights" in refused(*PRESTO, "--weights", tmp_path / "log.pth")
    assert "gone.pth: no such file" in refused(*PRESTO, "--weights", "gone.pth")


def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(refused, tmp_path):
    class Dangerous:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    plain, zipped = tmp_path / "plain.pth", tmp_path / "zipped.pth"
    plain.write_bytes(pickle.dumps(Dangerous()))
    torch.save({"weight": Dangerous()}, zipped)
    assert zipfile.is_zipfile(zipped)
    for file in (plain, zipped):
        assert f"{file.name} is not a file of plain tensors" in refused(*PRESTO, "--weights", file)
        assert not (tmp_path / "ran").exists()
    torch.load(zipped, weights_only=False)
    assert (tmp_path / "ran").exists(), "the test could not fail"


def test_a_checkpoint_of_another_size_names_the_keys(refused, tmp_path):
    state = random_module(lambda: nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))).state_dict()
    small = random_module(lambda: nn.Sequential(nn.Linear(5, 2), nn.Linear(2, 2)))
    torch.save(state, tmp_path / "big.pth")
    with pytest.raises(RequestError, match=r"big.pth does not fit this model: keys 1 of another shape \(0.weight\)"):
        load_weights(small, str(tmp_path / "big.pth"), hub_name="")
    with pytest.raises(RequestError, match=r"4 missing \(a, b, c, d\); 5 unexpected \(e, f, g, h, ...\)"):
        weights.check_keys("x", missing=["d", "c", "b", "a"], unexpected=list("ihgfe"), shapes=[])


def test_known_absent_and_unused_keys_are_the_only_ones_forgiven(tmp_path):
    state = linear(1).state_dict()
    torch.save({"weight": state["weight"], "head.weight": torch.zeros(2)}, tmp_path / "one.pth")
    module = random_module(linear)
    loaded = load_weights(module, str(tmp_path / "one.pth"), hub_name="", may_miss=("bias",), unused=("head.",))
    assert loaded.source == "loaded" and torch.equal(module.state_dict()["weight"], state["weight"])
    with pytest.raises(RequestError, match=r"1 missing \(bias\); 1 unexpected \(head.weight\)"):
        load_weights(module, str(tmp_path / "one.pth"), hub_name="", unused=("head",))


def test_a_folder_with_one_file_and_one_with_several(tmp_path):
    torch.save({"state_dict": dict(linear(1).state_dict())}, tmp_path / "net.pt")
    digest = load_weights(random_module(linear), str(tmp_path), hub_name="").sha256
    assert digest == load_weights(random_module(linear), str(tmp_path / "net.pt"), hub_name="").sha256
    torch.save({}, tmp_path / "other.pth")
    with pytest.raises(RequestError, match="expected model.safetensors or .*, found net.pt, oth"):
        read_state(tmp_path)
    save_file(dict(linear(1).state_dict()), tmp_path / "model.safetensors")
    assert load_weights(random_module(linear), str(tmp_path), hub_name="").sha256 == digest


def test_random_is_the_same_each_time_and_leaves_the_generator_alone():
    before = torch.random.get_rng_state()
    one, two = (load_weights(random_module(lambda: nn.Linear(3, 2)), "random", hub_name="") for _ in range(2))
    assert one == two and one.source == "random" and one.origin == "seed 0"
    assert torch.equal(torch.random.get_rng_state(), before)
