"""What the README and the guide tell a newcomer to type works, and the command-line reference is the commands' own."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from write_help import COMMANDS, FOLDER, reference

from data import command

TOP = Path(__file__).parent.parent
PAGES = [TOP / "README.md", TOP / "CONTRIBUTING.md", TOP / "CHANGELOG.md", *sorted((TOP / "docs").rglob("*.md"))]
BLOCKS = [block for page in PAGES for block in re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)]
LINES = [line for block in BLOCKS for line in block.splitlines() if shlex.split(line, comments=True)]
ANCHOR = re.compile(r"\]\(([^)#:]*)#([^)]+)\)")


def test_the_readme_has_at_most_200_lines():
    assert len((TOP / "README.md").read_text().splitlines()) <= 200


def words(line: str) -> list[str]:
    return shlex.split(line, comments=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_is_the_commands_own(name):
    assert (FOLDER / f"{name}.md").read_text() == reference(name), "write it again with: python -m tests.write_help"


@pytest.mark.parametrize("name", COMMANDS)
def test_the_version_is_the_same_everywhere(name, capsys):
    app = importlib.import_module(f"{COMMANDS[name]}.cli").app
    assert command.run(app, ["--version"]) == 0
    printed = capsys.readouterr().out.strip()
    assert f'version = "{printed}"' in (TOP / "pyproject.toml").read_text()
    assert f"version: {printed}\n" in (TOP / "CITATION.cff").read_text()


OURS = [line for line in LINES if words(line)[0] in (*COMMANDS, "torchrun")]


@pytest.mark.parametrize("line", OURS)
def test_every_command_line_parses(line):
    name, *arguments = words(line)
    if name == "torchrun":  # its own flags come first
        name, *arguments = arguments[arguments.index("-m") + 1 :]
    app = importlib.import_module(f"{COMMANDS[name]}.cli").app
    app.parse_args(arguments, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("line", [line for line in LINES if words(line)[0] == "make"])
def test_every_make_target_exists(line):
    assert re.search(rf"^{words(line)[1]}:", (TOP / "Makefile").read_text(), re.MULTILINE)


def test_a_command_line_that_does_not_parse_is_seen():
    with pytest.raises(Exception, match="bogus"):
        test_every_command_line_parses("featurize --model stats --bogus 1")


def test_the_main_job_runs_as_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    block = next(block for block in BLOCKS if block.startswith("featurize --model stats"))
    for line in block.splitlines():
        name, *arguments = words(line)
        app = importlib.import_module(f"{COMMANDS[name]}.cli").app
        assert command.run(app, arguments) == 0, f"{line}\n{capsys.readouterr()}"
    assert (tmp_path / "runs" / "report" / "index.html").stat().st_size > 5000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_anchors_are_headings(page):
    for target, anchor in ANCHOR.findall(page.read_text()):
        text = (page.parent / target).read_text() if target else page.read_text()
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings], anchor


def test_every_page_of_the_guide_is_linked_from_the_readme():
    linked = set(re.findall(r"\]\((docs/[^)#]+)\)", (TOP / "README.md").read_text()))
    guide = {str(page.relative_to(TOP)) for page in (TOP / "docs" / "guide").glob("*.md")}
    assert len(guide) > 5 and guide <= linked
