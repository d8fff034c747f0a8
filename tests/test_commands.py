"""The commands beside a user's own modules called data, probes and analysis: ours are found, theirs are left alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from featurize import commands

BIN = Path(sys.executable).parent
# Fails wherever a module of the user's is imported in place of ours.
TRAP = "raise SystemExit('a module of the user was imported')\n"


@pytest.fixture
def project(tmp_path):
    """A folder with packages and modules of our names, such as research projects have."""
    for name in ("data", "probes", "analysis"):
        (tmp_path / "packages" / name).mkdir(parents=True)
        (tmp_path / "packages" / name / "__init__.py").write_text(TRAP)
        (tmp_path / "packages" / name / "cli.py").write_text(TRAP)
        (tmp_path / "modules").mkdir(exist_ok=True)
        (tmp_path / "modules" / f"{name}.py").write_text(TRAP)
    return tmp_path


@pytest.mark.parametrize("name", ["featurize", "probe", "analyze"])
def test_an_interrupt_while_libraries_are_imported_is_one_line(name, monkeypatch, capsys):
    def interrupted(package):
        raise KeyboardInterrupt

    monkeypatch.setattr("data.launch.launch", interrupted)
    with pytest.raises(SystemExit) as ended:
        getattr(commands, name)()
    assert ended.value.code == 130
    assert capsys.readouterr().err.split() == [f"{name}:", "stopped"]


def run(folder, *words, **more):
    environment = os.environ | {"PYTHONPATH": str(folder), "XDG_CACHE_HOME": str(folder)} | more
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("kind", ["packages", "modules"])
@pytest.mark.parametrize("command", ["featurize", "probe", "analyze"])
def test_console_scripts_find_our_packages(project, kind, command):
    done = run(project / kind, BIN / command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"Usage: {command}" in done.stdout


@pytest.mark.parametrize("kind", ["packages", "modules"])
def test_python_m_finds_our_packages(project, kind):
    done = run(project / kind, sys.executable, "-m", "featurize", "list", "stats")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_trap_works(project):
    done = run(project / "modules", sys.executable, "-c", "import data.bands")
    assert "a module of the user was imported" in done.stderr


SPAWNED = """
import multiprocessing, sys
from featurize.commands import own_packages_first
def file_of_data(_):
    import data
    return data.__file__
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(file_of_data, [0])[0])
"""


def test_spawned_processes_find_our_packages(project):
    (project / "modules" / "start.py").write_text(SPAWNED)
    done = run(project / "modules", sys.executable, "start.py")
    assert Path(done.stdout.strip()) == Path(__file__).parent.parent / "data" / "__init__.py", done.stderr


PYTHON = """
import featurize
try:
    featurize.featurize(model="statz")
except Exception as error:
    import data
    print(isinstance(error, data.RequestError), error)
"""


@pytest.mark.parametrize("before", ["", "import data\n"])
def test_the_python_interface_finds_our_packages(project, before):
    if before:  # the user's own works and is in use already
        (project / "modules" / "data.py").write_text("mine = 1\n")
    done = run(project / "modules", sys.executable, "-c", before + PYTHON)
    assert done.stdout.startswith("True unknown model 'statz'"), done.stderr


def test_scripts_that_use_nothing_of_ours_keep_their_own_modules(project):
    (project / "modules" / "data.py").write_text("mine = 1\n")
    done = run(project / "modules", sys.executable, "-c", "import featurize, data; print(data.mine)")
    assert done.stdout == "1\n"
