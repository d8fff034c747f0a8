"""The folder is the registry: every file has a help line and a card, and listing imports none."""

import subprocess
import sys

import pytest

from data.errors import RequestError
from data.registry import DATASETS, MODELS, PROBES, VIEWS

REGISTRIES = [MODELS, DATASETS, PROBES, VIEWS]
ENTRIES = [pytest.param(r, name, id=f"{r.noun}-{name}") for r in REGISTRIES for name in r.names()]


@pytest.mark.parametrize(("registry", "name"), ENTRIES)
def test_every_entry_has_a_help_line(registry, name):
    assert 15 < len(registry.summary(name)) < 150


@pytest.mark.parametrize("name", MODELS.names())
def test_every_model_has_a_whole_card(name):
    keys = "title variant pooling normalize weights files image_size sizes default_bands dim bands licence citation"
    card = MODELS.card(name)
    assert set(card) - {"door"} == set(keys.split())  # door: an example of a name behind the colon
    assert all(len(card[key]) > 2 for key in ("title", "files", "sizes", "dim", "bands", "licence", "citation"))
    assert all(card[key] for key in ("pooling", "normalize", "default_bands"))


@pytest.mark.parametrize("name", DATASETS.names())
def test_every_dataset_has_a_whole_card(name):
    keys = "title classes labels bands variants licence citation source"
    assert set(DATASETS.card(name)) >= set(keys.split())


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda r: r.noun)
def test_an_unknown_name_lists_the_choices(registry):
    near = registry.names()[0] + "x"
    with pytest.raises(RequestError, match=f"unknown {registry.noun} '{near}'.*did you mean '{registry.names()[0]}'"):
        registry.check(near)


def test_listing_imports_no_entry():
    code = (
        "import sys; from data.registry import MODELS; [MODELS.card(n) for n in MODELS.names()];"
        "sys.exit(any(m.startswith(('featurize.models.', 'torch')) for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
