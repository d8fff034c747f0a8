"""Writes the help pages of the three commands into README.md: python -m tests.write_help."""

import importlib
import io
import re
from pathlib import Path

from rich.console import Console

README = Path(__file__).parent.parent / "README.md"
COMMANDS = {"featurize": "featurize", "probe": "probes", "analyze": "analysis"}
SECTION = re.compile(r"<!-- help featurize -->.*<!-- end of help -->", re.DOTALL)


def help_page(package: str) -> str:
    """Help page of a command, 100 columns wide."""
    buffer = io.StringIO()
    console = Console(file=buffer, force_terminal=False, width=100)
    importlib.import_module(f"{package}.cli").app.help_print([], console=console)
    return "\n".join(line.rstrip() for line in buffer.getvalue().strip().splitlines())


def help_section() -> str:
    """All three pages as they stand in the README."""
    pages = [f"<!-- help {name} -->\n```\n{help_page(package)}\n```\n" for name, package in COMMANDS.items()]
    return "\n".join(pages) + "\n<!-- end of help -->"


if __name__ == "__main__":
    README.write_text(SECTION.sub(lambda _: help_section(), README.read_text()))
