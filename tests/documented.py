"""Runs what the pages tell people to type: every block of commands and Python, page by page, in a scratch folder.

    python -m tests.documented [PAGE ...]

Commands run as written, in this process, on the data of `documented_data`. Three things differ from a reader's
machine: ``/data`` is a folder of the scratch folder, words in capitals (``RUN``, ``FEATURES``) are the newest such
files, and models whose weights come from a hub are small and untrained (`untrained`). A block that a test cannot run
has a mark above it with the reason:

    <!-- not run: needs a GPU -->        its commands are only parsed
    <!-- dry run: needs a cluster -->    its commands run with --dry-run
"""

import contextlib
import importlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

TOP = Path(__file__).parent.parent
sys.path.insert(0, str(TOP / "tests"))
COMMANDS = {"featurize": "featurize.cli", "probe": "probes.cli", "analyze": "analysis.cli"}
FENCE = re.compile(r"(?:<!-- (not|dry) run: ([^\n]+) -->\n)?```(bash|sh|python)\n(.*?)```", re.DOTALL)
# Python tested elsewhere: test_contributing.py and test_file_format.py
PAGES = [TOP / "README.md", *sorted((TOP / "docs" / "guide").glob("*.md")), TOP / "docs" / "studies.md"]
# Models of these names, asked for without a variant or size, are as small as they come.
SMALL = {
    "dinov2": {"variant": "small", "image_size": 28},
    "dofa": {"variant": "small"},
    "presto": {"image_size": 4},
    "resnet": {"image_size": 32},
}


@dataclass(frozen=True)
class Block:
    """One block of a page: its language and text, and the mark above it."""

    language: str
    text: str
    mark: str = ""  # "not", "dry", or empty where it runs
    reason: str = ""

    def lines(self) -> list[str]:
        """Commands, one per line; a backslash joins two lines."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if shlex.split(line, comments=True)]


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, in order."""
    return [Block(language, text, mark, reason) for mark, reason, language, text in FENCE.findall(page.read_text())]


@contextlib.contextmanager
def untrained() -> Iterator[None]:
    """Models that would fetch weights are small and untrained while this lasts."""
    from featurize.card import MODELS
    from featurize.flags import ModelFlags

    usual = ModelFlags.build

    def build(self: ModelFlags, *given):
        if not self.weights and "random" in MODELS.card(self.model).weights:
            small = {name: value for name, value in SMALL.get(self.model, {}).items() if not getattr(self, name)}
            self = replace(self, weights="random", **small)
        return usual(self, *given)

    ModelFlags.build = build  # type: ignore[method-assign]
    try:
        yield
    finally:
        ModelFlags.build = usual  # type: ignore[method-assign]


def newest(pattern: str) -> list[Path]:
    """Files or folders below the working folder, the newest first."""
    return sorted(Path().glob(pattern), key=lambda path: path.stat().st_mtime, reverse=True)


def filled(line: str) -> list[str]:
    """The words of a command with its placeholders filled in."""
    words = [re.sub(r"(^|=)/data\b", r"\1data", word) for word in shlex.split(line, comments=True)]
    runs = [path.parent for path in newest("runs/probes/**/run.json")]
    files = newest("runs*/**/features/**/test.h5") + newest("runs/features/**/test.h5")
    tested = [json.loads((run / "run.json").read_text())["features"]["dataset"] for run in runs]
    other = [run for run, about in list(zip(runs, tested, strict=True))[1:] if about == tested[0]]
    trained = [path.parent for path in newest("runs/features/**/train.h5")]
    found = {
        "TRAINED": trained[:1],
        "RUN": runs[:1],
        "OTHER": other[:1],
        "FEATURES": files[:1],
        "ID": ["test-00001"],
        "DIR": ["data"],
    }
    words = [str(found[word][0]) if found.get(word) else word for word in words]
    return [str(newest(word.replace("ENCODER", "*"))[0]) if "ENCODER" in word else word for word in words]


def planned(target: str, *settings: str) -> list[list[str]]:
    """The commands of the three programs that make would run."""
    words = ["make", "--no-print-directory", "-n", "-C", str(TOP), target, *settings]
    made = subprocess.run(words, capture_output=True, text=True, check=True).stdout.replace("\\\n", " ")
    lines = [shlex.split(line) for line in made.splitlines() if line.startswith(".venv/bin/")]
    return [[Path(words[0]).name, *words[1:]] for words in lines if Path(words[0]).name in COMMANDS]


def run_command(words: list[str], line: str) -> None:
    """Run one command of the three in this process; raise an AssertionError with its output unless it exits with 0."""
    from data import command

    out, err, started = io.StringIO(), io.StringIO(), time.process_time()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        code = command.run(importlib.import_module(COMMANDS[words[0]]).app, words[1:])
    if os.environ.get("SHOW_SECONDS"):
        print(f"  {time.process_time() - started:6.1f} CPU s  {line}", file=sys.stderr)
    if code:
        raise AssertionError(f"{line}\nran as: {shlex.join(words)}\nexit code {code}\n{out.getvalue()}{err.getvalue()}")


def run_block(block: Block) -> None:
    """Run a block in the working folder."""
    if block.language == "python":
        text = re.sub(r'"([^"]*ENCODER[^"]*)"', lambda found: repr(filled(found[1])[0]), block.text)
        code = compile(text, "a page", "exec")
        if block.mark != "not":
            exec(code, {"__name__": "page"})
        return
    if block.mark == "not":
        subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
        return
    for line in block.lines():
        words = filled(line)
        if words[0] == "make":
            for one in planned(*words[1:]):
                run_command(one, line)
        else:
            if words[0] not in COMMANDS:
                raise AssertionError(
                    f"{line}: not a command of this project; mark the block as not run, with the reason"
                )
            run_command([*words, *(["--dry-run"] if block.mark == "dry" else [])], line)


def run_page(page: Path, folder: Path) -> None:
    """Run a page's blocks one after the other in an empty folder."""
    import documented_data

    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.chdir(folder), untrained():
        documented_data.prepare(page.stem)
        for block in blocks(page):
            run_block(block)


def main(names: list[str]) -> int:
    """Run the pages of these names, or all; print the seconds of each and what failed."""
    os.environ |= {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"}
    failed = 0
    for page in PAGES:
        if names and page.stem not in names:
            continue
        started, problem = time.monotonic(), ""
        with tempfile.TemporaryDirectory() as folder:
            try:
                run_page(page, Path(folder))
            except Exception as error:
                problem = str(error) if isinstance(error, AssertionError) else traceback.format_exc()
        print(f"{page.relative_to(TOP)}: {time.monotonic() - started:.1f} s {problem or 'ok'}", flush=True)
        failed += bool(problem)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
