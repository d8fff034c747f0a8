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
    keys = "title variant pooling normalize weights image_size default_bands dim bands licence citation"
    optional = {"files", "door"}  # what pretrained weights are called; an example of a name behind the colon
    assert set(MODELS.card(name)) - optional == set(keys.split())


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
