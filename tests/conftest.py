"""Where the tests find real data, and what they must not touch."""

import os
from pathlib import Path

import pytest
import shapes
from forked import forks

shapes.install()  # before anything imports our packages

PROJECT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of the real data and weights, from EO_SHARED; tests that need it are skipped where it is absent."""
    folder = Path(os.environ.get("EO_SHARED", PROJECT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real data at {folder}; set EO_SHARED to its folder")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what is unpacked and cached out of the user's home, shared by the tests of one process."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def fork(tmp_path_factory: pytest.TempPathFactory):
    """Starts featurize commands in a moment; see `forked.Forks`."""
    with forks(tmp_path_factory.mktemp("forks")) as started:
        yield started


LONG = ("test_readme.py", "test_kill.py", "test_engines.py", "test_ray.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, so that two processes end at about the same time."""
    items.sort(key=lambda item: item.path.name not in LONG)
