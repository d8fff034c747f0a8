"""The folder is the registry: every file has a help line and a card, and listing imports none."""

import subprocess
import sys
from dataclasses import dataclass, field, fields
from typing import Literal

import pytest

from analysis.card import VIEWS
from data.cards import read_card
from data.errors import RequestError
from data.flags import DataFlags
from data.registry import DATASETS, Registry
from featurize.card import MODELS
from probes.card import PROBES

REGISTRIES = [MODELS, DATASETS, PROBES, VIEWS]
ENTRIES = [pytest.param(r, name, id=f"{r.noun}-{name}") for r in REGISTRIES for name in r.names()]


@pytest.mark.parametrize(("registry", "name"), ENTRIES)
def test_every_entry_has_a_help_line(registry, name):
    assert 15 < len(registry.summary(name)) < 150


@pytest.mark.parametrize("name", MODELS.names())
def test_every_model_has_a_whole_card(name):
    card = MODELS.card(name)
    assert card == MODELS.load(name).CARD  # read as text, and imported
    assert all(len(text) > 2 for text in (card.files, card.sizes, card.dim, card.bands, card.license, card.citation))
    assert card.pooling and card.normalize and card.default_bands


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_dataset_has_a_whole_card(name):
    card = DATASETS.card(name)
    assert card == DATASETS.load(name).CARD  # read as text, and imported
    assert all(len(text) > 2 for text in (card.title, card.bands, card.license, card.citation, card.source))
    assert set(card.options) <= {field.name for field in fields(DataFlags)}


@dataclass(frozen=True, kw_only=True)
class _Size:
    pixels: int


@dataclass(frozen=True, kw_only=True)
class _Card:
    title: str
    rank: Literal[1, 2] = 1
    share: float | None = None
    bands: tuple[str, ...] = ()
    sizes: dict[str, _Size] = field(default_factory=dict)


def test_a_card_is_read_as_it_would_be_imported(tmp_path):
    file = tmp_path / "one.py"
    file.write_text(
        "import absent\nCARD = _Card(title='a' 'b', share=-1, bands=('x', 'y'), sizes={'s': _Size(pixels=3)})"
    )
    assert read_card(file, _Card) == _Card(title="ab", share=-1, bands=("x", "y"), sizes={"s": _Size(pixels=3)})


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "CARD"),
        ("CARD = {'title': 'x'}", "dict.*_Card"),
        ("CARD = _Card()", "title"),
        ("CARD = _Card('x')", "keyword"),
        ("CARD = _Card(title='x', titel='y')", "titel.*title"),
        ("CARD = _Card(title=3)", "title: 3 .*str"),
        ("CARD = _Card(title='x', rank=3)", "rank: 3"),
        ("CARD = _Card(title='x', rank=True)", "rank: True"),
        ("CARD = _Card(title='x', bands=['a'])", "bands: .*list.*tuple"),
        ("CARD = _Card(title='x', bands=('a', 1))", r"bands\[1\]: 1 .*str"),
        ("CARD = _Card(title=other)", "title: 'other'"),
        ("CARD = _Card(title='x', sizes={'s': _Size(pixels='3')})", r"sizes\['s'\].pixels: '3' .*int"),
        ("CARD = _Card(title='x', sizes={'s': other.Size(pixels=3)})", "other.Size"),
    ],
)
def test_a_wrong_card_names_its_file_and_field(tmp_path, text, named):
    file = tmp_path / "one.py"
    file.write_text(text)
    with pytest.raises(RequestError, match=f"one.py: .*{named}"):
        read_card(file, _Card)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda r: r.noun)
def test_an_unknown_name_lists_the_choices(registry):
    near = registry.names()[0] + "x"
    with pytest.raises(RequestError, match=f"unknown {registry.noun} '{near}'.*did you mean '{registry.names()[0]}'"):
        registry.check(near)


def test_listing_imports_no_entry():
    code = (
        "import sys; from featurize.card import MODELS; [MODELS.card(n) for n in MODELS.names()];"
        "sys.exit(any(m.startswith(('featurize.models.', 'torch')) for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("from torchgeo import Absent", "torchgeo>=0.10: torchgeo .* is installed .*'Absent'.*pip install"),
        ("import torchgeo.absent", "torchgeo>=0.10: torchgeo .* is installed"),
        ("from PIL.Image import Absent", "pillow: pillow .* is installed"),
        ("import absent.models", "absent: absent is not installed .*pip install -U 'absent'"),
    ],
)
def test_a_library_that_lacks_what_a_module_imports_is_named_with_the_version_that_has_it(
    line, expected, tmp_path, monkeypatch
):
    package = tmp_path / f"package{abs(hash(line))}"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.py").write_text(f"{line}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(RequestError, match=f"^model one needs {expected}[^\n/]*$"):
        Registry(package.name, "model").load("one")
