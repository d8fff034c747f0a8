"""Builds the documentation site into build/site: python -m tests.build_docs. Needs the extra docs."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

import analysis
import data
import featurize
import probes
from tests import documented

TOP = Path(__file__).parent.parent
OUTSIDE = re.compile(r"\[([^\]]*)\]\((?:\.\./)+tests/[^)]*\)")  # links to files that are not part of the site


def build() -> int:
    """Run notebooks and the pages' commands, list the Python interface, build strictly; returns MkDocs' exit code."""
    pages = TOP / "build" / "docs"
    shutil.rmtree(pages, ignore_errors=True)
    shutil.copytree(TOP / "docs", pages)
    for page in pages.rglob("*.md"):
        page.write_text(OUTSIDE.sub(r"\1", page.read_text()))
    for file in sorted((pages / "notebooks").glob("*.ipynb")):
        print(f"running {file.name}", file=sys.stderr)
        notebook = nbformat.read(file, 4)
        with tempfile.TemporaryDirectory() as folder:
            NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
        nbformat.write(notebook, file)
    if documented.main([]):
        return 1
    names = [
        f"{package.__name__}.{name}" for package in (featurize, probes, analysis, data) for name in package.__all__
    ]
    (pages / "python.md").write_text("# Python\n\n" + "\n".join(f"::: {name}\n" for name in names))
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", ".github/mkdocs.yml"]
    return subprocess.run(command, cwd=TOP, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}).returncode


if __name__ == "__main__":
    sys.exit(build())
