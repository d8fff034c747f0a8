"""The headings of the troubleshooting page are texts of the program's own errors and warnings."""

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
PAGE = (TOP / "docs" / "guide" / "troubleshooting.md").read_text()
HEADINGS = re.findall(r"^### (.*)$", PAGE, re.MULTILINE)


def texts():
    """Every text of the program but docstrings, each value that is filled in as a space."""
    for package in ("featurize", "data", "probes", "analysis"):
        for file in (TOP / package).rglob("*.py"):
            tree = ast.parse(file.read_text())
            docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(one.value if isinstance(one, ast.Constant) else " " for one in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
                    yield node.value


@pytest.fixture(scope="module")
def program():
    return [" ".join(text.split()) for text in texts()]


def said(heading, program):
    """Whether one text of the program has all parts of a heading, in order."""
    pattern = re.compile(".*".join(re.escape(part.strip()) for part in heading.split("...")))
    return any(pattern.search(text) for text in program)


@pytest.mark.parametrize("heading", HEADINGS)
def test_the_program_says_it(heading, program):
    assert said(heading, program)


def test_a_text_that_is_gone_is_seen(program):
    assert len(HEADINGS) > 20 and not said("cannot download ... because the moon is full", program)
