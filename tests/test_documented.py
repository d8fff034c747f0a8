"""What the pages tell people to type runs: the quickest pages here, all of them by make docs."""

import pytest
from documented import PAGES, TOP, Block, blocks, run_block, run_page

QUICK = ("import-export", "predict")


@pytest.mark.parametrize("page", [page for page in PAGES if page.stem in QUICK], ids=lambda page: page.stem)
def test_a_page_runs_as_written(page, tmp_path):
    run_page(page, tmp_path)


def test_what_cannot_run_is_marked_with_its_reason():
    found = [block for page in PAGES for block in blocks(page)]
    assert len(found) > 40 and sum(not block.mark for block in found) > 30
    assert all(block.reason.strip() for block in found if block.mark)
    fences = sum(page.read_text().count(f"```{language}\n") for page in PAGES for language in ("bash", "sh", "python"))
    assert fences == len(found)


@pytest.mark.parametrize("line", ["featurize --model stat --dataset simulated", "probe predict RUN FEATURES", "false"])
def test_a_command_that_does_not_work_fails(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AssertionError, match="exit code|not a command"):
        run_block(Block("bash", line))


def test_a_site_is_built_from_these_pages():
    assert "documented.main" in (TOP / "tests" / "build_docs.py").read_text()
