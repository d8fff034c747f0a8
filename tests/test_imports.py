"""Import guards: quick help pages, and rooms that only look downwards."""

import ast
import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
HEAVY = (
    "numpy",
    "jaxtyping",
    "torch",
    "torchgeo",
    "transformers",
    "sklearn",
    "matplotlib",
    "umap",
    "pandas",
    "seaborn",
    "scipy",
    "pytest",
)
MAY_IMPORT = {
    "data": {"data"},
    "featurize": {"data", "featurize"},
    "probes": {"data", "probes", "featurize.commands"},
    "analysis": {
        "data",
        "analysis",
        "featurize.commands",
        *(
            f"probes.{name}"
            for name in (
                "card",
                "map_files",
                "maps",
                "metrics",
                "probabilities",
                "out_of_fold",
                "pooling",
                "protocols",
                "flags",
                "sweep",
                "intervals",
                "jackknife",
                "scores",
                "spatial",
                "shapes",
            )
        ),
    },
}


def heavy_modules_after(statement: str, tmp_path: Path) -> set[str]:
    """Heavy packages that a statement imports, in a process of its own."""
    code = (
        f"import sys\n{statement}\nprint('HEAVY', *sorted({{m.partition('.')[0] for m in sys.modules}} & set({HEAVY})))"
    )
    environment = {"PATH": "/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, env=environment, check=True
    )
    return set(done.stdout.rpartition("HEAVY")[2].split())


@pytest.mark.parametrize("package", ["featurize", "probes", "analysis"])
def test_a_help_page_imports_nothing_heavy(package, tmp_path):
    statement = f"import {package}.cli\n{package}.cli.app.help_print([])"
    assert heavy_modules_after(statement, tmp_path) == set()


def test_importing_the_packages_imports_nothing_heavy(tmp_path):
    statement = "import data, featurize, probes, analysis\ndata.RequestError"
    assert heavy_modules_after(statement, tmp_path) == set()


def test_the_guard_sees_a_heavy_import(tmp_path):
    assert "pandas" in heavy_modules_after("import pandas", tmp_path)


def test_annotated_shapes_do_not_import_torch(tmp_path):
    assert heavy_modules_after("import probes.metrics", tmp_path) == {"numpy", "jaxtyping"}


def test_a_probe_on_the_cpu_imports_no_torch(tmp_path):
    statement = (
        "import numpy as np, pathlib\n"
        "import probes.fit, probes.kinds.linear, probes.kinds.knn, probes.kinds.rf, probes.kinds.mlp\n"
        "from probes.kinds.prior import Prior\n"
        "from probes.models import load_model, save_model\n"
        f"path = pathlib.Path({str(tmp_path)!r}) / 'model.skops'\n"
        "save_model(Prior().fit(np.zeros((2, 3)), np.array([0, 1])), path)\n"
        "load_model(path)"
    )
    assert {"sklearn", "torch", "pytest"} & heavy_modules_after(statement, tmp_path) == {"sklearn"}


def test_the_page_of_a_subcommand_is_kept_too(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def page(*words: str) -> str:
        command = [sys.executable, "-m", "analysis", *words, "--help"]
        return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT).stdout

    first = page("f2")
    assert "f2" in first and first != page("table")
    kept = {file.name.rpartition("-")[0]: file for file in (tmp_path / "frozen-earth" / "help").iterdir()}
    assert kept.keys() == {"help-analysis.f2", "help-analysis.table"}
    kept["help-analysis.table"].rename(tmp_path / "gone")
    kept["help-analysis.f2"].write_text(f"{hashlib.sha256(b'cached').hexdigest()}\ncached")
    assert page() and page("f2") == "cached", "the main page leaves the others in place"
    assert page("f3") == ""


@pytest.mark.parametrize("package", ["featurize", "probes", "analysis"])
def test_a_help_page_is_kept_and_made_anew_when_a_source_changes(package, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def page() -> str:
        command = [sys.executable, "-m", package, "--help"]
        return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, check=True).stdout

    first = page()
    kept = list((tmp_path / "frozen-earth" / "help").iterdir())
    digest, _, text = kept[0].read_text().partition("\n")
    assert len(kept) == 1 and text == first and "Usage:" in first
    cached = "from the cache"
    kept[0].write_text(f"{hashlib.sha256(cached.encode()).hexdigest()}\n{cached}")
    assert page() == cached
    kept[0].write_text(f"{digest}\n{cached}")
    assert page() == first, "a damaged page is made anew"
    kept[0].rename(kept[0].with_name(f"help-{package}-of-other-sources.txt"))
    assert page() == first


def imports_of(file: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def forbidden(room: str, imports: set[str]) -> set[str]:
    """Those imports of our own rooms that a room may not make."""
    ours = {name for name in imports if name.partition(".")[0] in MAY_IMPORT}
    return {name for name in ours if not any(name == ok or name.startswith(f"{ok}.") for ok in MAY_IMPORT[room])}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_they_may(room):
    wrong = {str(file): bad for file in (PROJECT / room).rglob("*.py") if (bad := forbidden(room, imports_of(file)))}
    assert wrong == {}


def test_the_rule_sees_a_forbidden_import():
    assert forbidden("data", {"featurize.encoder.FrozenModel", "numpy"}) == {"featurize.encoder.FrozenModel"}
    assert forbidden("analysis", {"probes.metrics.recall", "probes.fit"}) == {"probes.fit"}


def test_tests_have_no_package_that_shadows_data():
    assert not (PROJECT / "tests" / "data").exists()
