"""The recipes of the two studies: what make would run is accepted by the commands, set-ups as the studies describe."""

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from analysis import cli as analyze_cli
from data.subset import parse_classes, parse_counts
from featurize.cli import app as featurize
from probes.cli import app as probe

PROJECT = Path(__file__).parent.parent
pytestmark = pytest.mark.skipif(not shutil.which("make"), reason="make is not installed")


def commands(*words):
    """The commands of this project that make would run, as lists of words."""
    made = subprocess.run(
        ["make", "--no-print-directory", "-n", *words], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    lines = made.stdout.replace("\\\n", " ").splitlines()
    found = [shlex.split(line) for line in lines if line.startswith(".venv/bin/")]
    return [words for words in found if Path(words[0]).name in ("featurize", "probe", "analyze")]


def parsed(words):
    """Parse one command; an unknown flag or value raises."""
    name, *rest = words
    app = {"featurize": featurize, "probe": probe, "analyze": analyze_cli.new_app()}[Path(name).name]
    app.parse_args(rest, exit_on_error=False, print_error=False)
    return dict(zip(rest, rest[1:], strict=False))


@pytest.mark.parametrize(
    "words",
    [
        ["seminar", "DATA=/data/bigearthnet"],
        ["seminar", "DATA=/data/bigearthnet", "SEMINAR_BANDS=s1s2"],
        ["seminar", "DATA=/data/bigearthnet", "SEMINAR_RELEASE=v1", "SEMINAR_CLASSES=43"],
    ],
)
def test_the_seminar_goes_from_features_to_its_table(words):
    flags = [parsed(command) for command in commands(*words)]
    assert len(flags) == 3 and flags[1]["--protocol"] == "seminar"
    assert flags[0]["--bands"] == ("s1s2" if "SEMINAR_BANDS=s1s2" in words else "s2-9")
    assert flags[0].get("--classes") == ("43" if "SEMINAR_CLASSES=43" in words else None)
    assert len({one["--out"] for one in flags}) == 1


def test_both_set_ups_of_the_class_project_are_as_it_describes():
    flags = [parsed(command) for command in commands("class-project", "DATA=/data/eurosat")]
    features = [one for one in flags if "--per-class" in one]
    assert [one["--model"] for one in features] == ["dinov2", "resnet"] * 2
    ten, four = features[0], features[2]
    assert "--only-classes" not in ten
    assert [parse_counts(ten["--per-class"], split, 10) for split in ("train", "val", "test")] == [
        [100] * 10, [20] * 10, [10] * 10,
    ]  # fmt: skip
    from data.nomenclature import EUROSAT_CLASSES as CLASSES

    kept = parse_classes(four["--only-classes"], CLASSES, "eurosat-rgb")
    assert kept == ["AnnualCrop", "Forest", "HerbaceousVegetation", "Industrial"]
    assert parse_counts(four["--per-class"], "train", 4) == [200] * 4
    assert parse_counts(four["--per-class"], "test", 4) == [30, 40, 30, 40]
    assert (ten["--variant"], ten["--image-size"]) == ("base-imagenet1k-1-layer", "224")
    assert [one["--model"] for one in flags if one.get("--protocol") == "class-project"] == [
        "dinov2",
        "resnet",
        "dinov2+resnet",
    ] * 2
