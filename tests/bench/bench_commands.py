"""Commands: how long a user waits for a page of help."""

import os
import subprocess
import sys
import tempfile

from tests.bench.pairs import PROJECT, paired


def bench_help_page() -> dict:
    """Help pages a second: from the cache against made anew by the command-line library."""
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"XDG_CACHE_HOME": cache}
        cached = [sys.executable, "-m", "featurize", "--help"]
        anew = [sys.executable, "-c", "from featurize.cli import app; app.help_print([])"]

        def run(command: list[str]) -> None:
            subprocess.run(command, env=environment, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)

        return paired(lambda: run(cached), lambda: run(anew), 1, "pages")
