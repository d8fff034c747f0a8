"""Galileo: features of the real nano weights equal those of the authors' code; patches of every size; wrong bands."""

import numpy as np
import pytest
import torch

from data.bands import SENTINEL1, SENTINEL2
from data.errors import RequestError
from featurize.encoder import EncoderRequest
from featurize.models import galileo
from tests import galileo_cases as cases
from tests.galileo_cases import S2

BANDS = SENTINEL1 | SENTINEL2


def build(names, weights="random", pooling="mean"):
    bands = tuple(BANDS[name] for name in names)
    request = EncoderRequest(
        bands=bands, statistics={}, training=None, variant="nano", pooling=pooling, normalize="galileo", weights=weights
    )
    return galileo.build(request).eval().requires_grad_(False)


def images(names, side):
    return torch.from_numpy(cases.made(names, side))


@pytest.mark.parametrize("case", [*cases.MADE, *cases.REAL])
def test_features_equal_the_authors_code(shared, case):
    if case in cases.MADE:
        bands, side = cases.MADE[case]
        pixels = cases.made(bands, side)
    else:
        bands = cases.REAL[case]
        pixels = cases.tiles(shared, cases.first_of_each_class(cases.tile_names(shared)), bands)
    encoder = build(bands, str(shared / "weights" / "galileo-nano" / "encoder.pt"))
    with np.load(cases.VECTORS) as file:
        published = file[case]
    features = encoder(torch.from_numpy(pixels)).numpy()
    assert features.shape == published.shape == (len(pixels), 128)
    assert np.abs(features - published).max() < 1e-5


def test_a_folder_of_weights_will_do(shared):
    assert build(S2, str(shared / "weights" / "galileo-nano")).weights.source == "loaded"


def test_patches_are_the_largest_that_divide_the_side():
    assert [galileo.patch_size(side) for side in (64, 120, 30, 25, 7, 11)] == [8, 8, 6, 5, 7, 1]


def test_mean_and_std_join_two_poolings():
    one, two = build(S2), build(S2, pooling="mean+std")
    x = images(S2, 16)
    assert two(x).shape == (2, 256) and torch.allclose(two(x)[:, :128], one(x))


def test_ndvi_is_of_digital_numbers():
    encoder = build(S2)
    x = images(S2, 8)
    near, red = x[:, S2.index("B08")], x[:, S2.index("B04")]
    assert torch.allclose(encoder.ndvi(encoder.normalization(x))[:, 0], (near - red) / (near + red), atol=1e-4)


def test_half_a_group_and_foreign_bands_are_refused():
    with pytest.raises(RequestError, match="galileo takes B02, B03, B04 .*B03"):
        build(("B02", "B04"))
    with pytest.raises(RequestError, match="does not take B09"):
        build((*S2, "B09"))
    with pytest.raises(RequestError, match="square images, not 8 x 16"):
        build(S2)(torch.zeros(1, 10, 8, 16))
