"""The featurize command: what it prints, and one clear line with exit code 2 for each wrong request."""

import resource
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data import command, store
from data.asked import recorded_command
from data.registry import DATASETS
from featurize.card import MODELS
from featurize.cli import app

RUN = ["--model", "stats", "--dataset", "simulated", "--bands", "rgb", "--limit", "8"]


@pytest.fixture
def featurize(tmp_path, capsys):
    """Run the command in this process; returns exit code, output and errors."""

    def run(*words):
        code = command.run(app, [str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def one_line(error):
    return error.startswith("featurize: ") and error.count("\n") == 1 and "Traceback" not in error


def images(folder: Path, count=4):
    for split in ("train", "val", "test"):
        for name in ("field", "wood"):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng(i).integers(0, 255, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.jpg")
    return folder


def test_all_splits_are_written_then_reused_then_overwritten(featurize, tmp_path):
    code, out, _ = featurize(*RUN, "--out", tmp_path)
    assert code == 0 and out.count("wrote ") == 3
    code, out, _ = featurize(*RUN, "--out", tmp_path)
    assert code == 0 and out.count("reused ") == 3 and "wrote" not in out
    code, out, _ = featurize(*RUN, "--out", tmp_path, "--split", "val", "--overwrite")
    assert code == 0 and out.count("wrote ") == 1
    code, out, _ = featurize("verify", "--out", tmp_path)
    assert code == 0 and "3 of 3 files" in out
    (file,) = tmp_path.rglob("val.h5")
    content = bytearray(file.read_bytes())
    content[-40] ^= 1
    file.write_bytes(content[:-30])
    code, out, _ = featurize("verify", file)
    assert code == 1 and str(file) in out and "0 of 1 files" in out
    code, _, err = featurize(*RUN, "--out", tmp_path)
    assert code == 2 and one_line(err) and "is damaged" in err


def test_export(featurize, tmp_path):
    import pandas as pd

    featurize(*RUN, "--out", tmp_path, "--split", "val")
    (file,) = tmp_path.rglob("val.h5")
    assert featurize("export", file)[0] == 0
    table = pd.read_parquet(file.with_suffix(".parquet"))
    assert len(table) == 8 and "class: Arable land" in table and "f0011" in table
    assert featurize("export", file, "--to", "npz")[0] == 0
    assert np.load(file.with_suffix(".npz"))["features"].shape == (8, 12)
    code, _, err = featurize("export", file, "--to", "csv")
    assert code == 2 and one_line(err) and "unknown format 'csv'" in err


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_list_says_all_of_every_model_and_dataset_within_the_terminal(featurize, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    code, out, _ = featurize("list")
    assert code == 0
    urls = ("https://", "torchgeo/copernicus-fm:", "_224_", "_fmow_")  # names that are not cut
    assert all(len(line) <= columns or any(url in line for url in urls) for line in out.splitlines())
    words = " ".join(out.split())
    for name in MODELS.names():
        card = MODELS.card(name)
        block = words[words.index(f" {name} {MODELS.summary(name)}") :]
        said = [*card.variant, *card.pooling, *card.normalize, *card.weights]
        said += [card.dim, card.bands, card.sizes, card.files, card.license, card.citation]
        for text in said:
            assert text in block[: block.index(card.citation) + len(card.citation)], (name, text)
        assert str(card.image_size or "") in block
    for name in DATASETS.names():
        card = DATASETS.card(name)
        for text in (card.title, card.bands, card.license, card.citation, card.source):
            assert text in words[words.index(f" {name} {card.title}") :]


def test_list_of_one_and_of_none_such(featurize):
    code, out, _ = featurize("list", "dinov2")
    assert code == 0 and "giant-registers" in out and "dofa" not in out and "DATASETS" not in out
    code, _, err = featurize("list", "dinov22")
    assert code == 2 and one_line(err) and "did you mean 'dinov2'" in err


def test_a_reader_that_has_had_enough_is_no_error():
    """As in `featurize list | head -1`."""
    words = [sys.executable, "-m", "featurize", "list"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout and process.stderr
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 0


WRONG = {
    "no model": ([], "--model"),
    "unknown model": (["--model", "dofaa"], "(did you mean 'dofa'?)"),
    "unknown dataset": (["--model", "stats", "--dataset", "eurosatt"], "did you mean 'eurosat'?"),
    "unknown split": ([*RUN, "--split", "dev"], "unknown split 'dev'"),
    "unknown flag": ([*RUN, "--modle", "x"], "--modle"),
    "unknown band set": (["--model", "stats", "--limit", "8", "--bands", "s2-8"], "did you mean 's2-9'?"),
    "no number": ([*RUN[:-1], "many"], "--limit"),
    "limit of nothing": ([*RUN[:-1], "0"], "--limit 0"),
    "batch of nothing": ([*RUN, "--batch-size", "0"], "--batch-size 0"),
    "negative workers": ([*RUN, "--workers", "-1"], "--workers"),
    "unknown device": ([*RUN, "--device", "tpu"], "--device tpu"),
    "unknown precision": ([*RUN, "--precision", "int8"], "--precision int8"),
    "absent weights": (["--model", "presto", "--weights", "gone.pt", "--limit", "2"], "gone.pt: no such file"),
    "no such variant": ([*RUN, "--variant", "large"], "stats has no variant to choose"),
    "missing data": (["--model", "stats", "--dataset", "eurosat-rgb", "--data-root", "{tmp}"], "no EuroSAT.zip"),
    "missing folder": (["--model", "stats", "--dataset", "folder", "--data-root", "{tmp}/nowhere"], "nowhere"),
    "empty folder": (["--model", "stats", "--dataset", "folder", "--data-root", "{tmp}"], "{tmp}"),
    "verify nothing": (["verify", "{tmp}/nowhere"], "nothing at"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_one_clear_line_and_exit_code_2(featurize, tmp_path, case):
    words, message = WRONG[case]
    out = tmp_path / "runs"
    data = tmp_path / "data"
    data.mkdir()
    words = [word.replace("{tmp}", str(data)) for word in words]
    extra = [] if words[:1] == ["verify"] else ["--out", out]
    code, _, err = featurize(*words, *extra)
    assert code == 2 and one_line(err), err
    assert message.replace("{tmp}", str(data)) in err
    assert not list(out.rglob("*.h5")), "nothing may be left behind"


def test_a_truncated_jpeg_is_named_and_nothing_is_published(featurize, tmp_path):
    broken = images(tmp_path / "data") / "val" / "wood" / "2.jpg"
    broken.write_bytes(broken.read_bytes()[:-150])
    words = ["--model", "stats", "--dataset", "folder", "--data-root", tmp_path / "data", "--out", tmp_path / "runs"]
    code, out, err = featurize(*words)
    assert code == 2 and one_line(err) and "2.jpg" in err
    assert "train.h5" in out and not list((tmp_path / "runs").rglob("val.h5"))


def test_a_label_table_that_names_absent_files(featurize, tmp_path):
    data = images(tmp_path / "data")
    table = "path,labels,split\ntrain/wood/0.jpg,a;b,train\ntrain/wood/gone.jpg,a,val\n"
    (data / "labels.csv").write_text(table)
    code, _, err = featurize("--model", "stats", "--dataset", "folder", "--data-root", data, "--out", tmp_path / "runs")
    assert code == 2 and one_line(err) and "gone.jpg" in err


def test_a_damaged_archive(featurize, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    with zipfile.ZipFile(data / "EuroSAT.zip", "w") as archive:
        archive.writestr("2750/Forest/Forest_1.jpg", b"x" * 1000)
    (data / "EuroSAT.zip").write_bytes((data / "EuroSAT.zip").read_bytes()[:500])
    for split in ("train", "val", "test"):
        (data / f"eurosat-{split}.txt").write_text("Forest_1.jpg\n")
    words = ["--model", "stats", "--dataset", "eurosat-rgb", "--data-root", data, "--cache-dir", tmp_path / "cache"]
    code, _, err = featurize(*words, "--out", tmp_path / "runs")
    assert code == 2 and one_line(err) and "EuroSAT.zip" in err


def test_a_disk_that_fills_up_is_one_clear_line(tmp_path):
    """A real limit of the operating system on file sizes, met while a part is written; then with room it goes on."""

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))

    words = [sys.executable, "-m", "featurize", *RUN[:-1], "400", "--part-rows", "256", "--out", str(tmp_path)]
    full = subprocess.run([*words, "--split", "val"], capture_output=True, text=True, preexec_fn=small_files)
    assert full.returncode == 2, full.stderr
    assert "no space left to write" in full.stderr and "Traceback" not in full.stderr
    assert not list(tmp_path.rglob("val.h5")) and not list(tmp_path.rglob("*.tmp-*"))
    again = subprocess.run([*words, "--split", "val"], capture_output=True, text=True)
    assert again.returncode == 0, again.stderr


def test_an_output_folder_that_cannot_be_made(featurize, tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    code, _, err = featurize(*RUN, "--out", tmp_path / "runs")
    assert code == 2 and one_line(err) and "runs" in err


def test_a_flag_of_another_dataset_is_refused_even_if_it_is_zero(featurize):
    code, _, err = featurize("--model", "stats", "--dataset", "simulated", "--min-valid", "0")
    assert code == 2 and one_line(err) and "--min-valid" in err


def test_a_recorded_command_can_be_given_as_it_is():
    asked = {"model": {"model": "dinov2", "layer": "-4,-1", "dense": False}, "data": {"limit": 5, "download": True}}
    line = recorded_command(asked, {"encoder": {"precision": "fp32"}}, Path("out/features/a/b"), "all")
    flags = app.parse_args(shlex.split(str(line))[1:], exit_on_error=False)[1].arguments["flags"]
    assert (flags.model, flags.layer, flags.dense, flags.precision, flags.out) == (
        "dinov2", "-4,-1", False, "fp32", Path("out"),
    )  # fmt: skip
    assert flags.limit == 5 and flags.download


def test_new_images_are_scaled_like_those_of_the_features_named(tmp_path, featurize):
    images(tmp_path / "old")
    new = tmp_path / "new"
    new.mkdir()
    Image.new("RGB", (8, 8), (200, 10, 90)).save(new / "a.png")
    Image.new("RGB", (8, 8), (20, 100, 9)).save(new / "b.png")
    words = ["--model", "stats", "--dataset", "folder", "--normalize", "zscore", "--out", tmp_path / "runs"]
    assert featurize(*words, "--data-root", tmp_path / "old")[0] == 0
    (folder,) = {file.parent for file in (tmp_path / "runs").rglob("*.h5")}
    asked = [*words, "--data-root", new, "--split", "test", "--normalize-like", folder]
    assert featurize(*asked)[0] == 0
    (file,) = (tmp_path / "runs" / "features" / "folder-new").rglob("test.h5")
    encoders = [store.read_identity(one)[0]["encoder"] for one in (folder / "train.h5", file)]
    assert encoders[0] == encoders[1]
    first = store.read_features(file).features[0]  # the mean of red comes first
    normalization = encoders[0]["normalization"]
    assert first[0] == pytest.approx((200 - normalization["mean"][0]) / normalization["std"][0], rel=1e-5)
    code, _, error = featurize(*("none" if word == "zscore" else word for word in asked))
    assert code == 2 and one_line(error) and "normalization.method" in error
