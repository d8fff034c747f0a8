"""Commands and flags that messages tell to use: they exist, and those given in full are executed."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from analysis.cli import app as analyze
from data import command, store
from featurize.cli import app as featurize
from probes.cli import app as probe

APPS = {"featurize": featurize, "probe": probe, "analyze": analyze}
TOP = Path(__file__).parent.parent
# Flags of other programs that messages name (convmv, embedding-atlas), of texts about flags, and beginnings of ours.
OTHERS = {"--notest", "--ray", "--flag", "--only", "--share", "--shm-size", "--no", "--x", "--y", "--image"}


def texts():
    """(file, line, text) of every text in the packages, with what is filled in left out."""
    for package in ("data", "featurize", "probes", "analysis"):
        for file in sorted((TOP / package).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield f"{file.relative_to(TOP)}:{node.lineno}", node.value


def flags_of(app):
    """Every flag of an application and its subcommands."""
    apps = [*([app] if app.default_command else []), *(app[name] for name in app if not name.startswith("-"))]
    return {name for one in apps for argument in one.assemble_argument_collection() for name in argument.names}


KNOWN = {flag for app in APPS.values() for flag in flags_of(app)} | {"--help", "--version", *command.SHELL_FLAGS}


def test_every_flag_that_a_text_names_exists():
    named = {}
    for where, text in texts():
        for flag in re.findall(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*", text):
            named.setdefault(flag, where)
    assert len(named) > 40, "the test could not fail"
    assert not {flag: where for flag, where in named.items() if flag not in KNOWN | OTHERS}


def test_every_subcommand_that_a_text_names_exists():
    subcommands = {name: {one for one in app if not one.startswith("-")} for name, app in APPS.items()}
    words = "|".join(sorted({one for known in subcommands.values() for one in known}, key=len, reverse=True))
    named = {(name, one) for _, text in texts() for name, one in re.findall(rf"\b({'|'.join(APPS)}) ({words})\b", text)}
    assert {("featurize", "verify"), ("featurize", "pack"), ("probe", "list")} <= named
    assert not {(name, one) for name, one in named if one not in subcommands[name]}


def run(words, capsys):
    """Exit code and what was written, of one command line."""
    name, *rest = words
    code = command.run(APPS[name], rest)
    return code, "".join(capsys.readouterr())


@pytest.fixture
def made(tmp_path, capsys):
    """Features of train and val, not of test."""
    words = "featurize --model stats --dataset simulated --limit 40 --bands B04,B08 --workers 0 --split"
    for split in ("train", "val"):
        code, told = run([*words.split(), split, "--out", str(tmp_path)], capsys)
        assert code == 0, told
    return tmp_path


def test_the_command_that_makes_an_absent_split_makes_it(made, capsys):
    probing = ["probe", "--kind", "prior", "--out", str(made)]
    code, told = run(probing, capsys)
    assert code == 2
    hint = shlex.split(told.strip()[told.strip().rindex("featurize --") :])
    code, told = run(hint, capsys)
    assert code == 0, told
    code, told = run(probing, capsys)
    assert code == 0, told


def test_the_command_that_mends_damage_mends_it(made, capsys):
    (file,) = made.rglob("train.h5")
    content = bytearray(file.read_bytes())
    place = content.index(store.read_features(file).features[3].tobytes())
    content[place + 1] ^= 64
    file.write_bytes(content)
    code, told = run(["featurize", "export", str(file)], capsys)
    assert code in (1, 2)
    hints = re.findall(r"(featurize verify (?:--repair )?\S+\.h5)", told)
    assert hints, told
    for hint in [*hints, f"featurize verify --repair {file}"]:
        code, told = run(shlex.split(hint), capsys)
        assert code == ("--repair" not in hint), told
    assert store.verify_features(file).problems == ()
