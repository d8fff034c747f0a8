"""Galileo: features of the real nano weights equal those of the authors' code; patches of every size; wrong bands."""

import numpy as np
import pytest
import torch

from data.bands import BAND_SETS, SENTINEL1, SENTINEL2
from data.errors import RequestError
from featurize.encoder import EncoderRequest
from featurize.models import galileo

BANDS = SENTINEL1 | SENTINEL2
S2 = BAND_SETS["s2-10"]


def build(names, weights="random", pooling="mean"):
    bands = tuple(BANDS[name] for name in names)
    request = EncoderRequest(
        bands=bands, statistics={}, training=None, variant="nano", pooling=pooling, normalize="galileo", weights=weights
    )
    return galileo.build(request).eval().requires_grad_(False)


def images(names, side, count=2):
    """Values that any program can make again: dB from -25 to 0, digital numbers from 200 to 4,000."""
    place = torch.arange(count * len(names) * side * side, dtype=torch.float64).reshape(count, len(names), side, side)
    share = (place * 0.7548776662466927) % 1
    radar = torch.tensor([name in SENTINEL1 for name in names]).reshape(1, -1, 1, 1)
    return torch.where(radar, -25 + 25 * share, 200 + 3800 * share).float()


# First six numbers of the second image's features: single_file_galileo.py of nasaharvest/galileo with the nano weights,
# month 5, 10 m, bands scaled by config/normalization.json, mean of the visible tokens after the norm.
PUBLISHED = [
    (S2, 64, [-0.0247, -0.08089, 0.17158, 0.07338, -0.0057, 0.02787]),
    (("VV", "VH", *S2), 32, [-0.02781, -0.08164, 0.12622, 0.08154, 0.04016, -0.00079]),
    (("VV", "VH"), 30, [0.0129, 0.00899, 0.09744, 0.04412, 0.06341, -0.01195]),
    (("B02", "B03", "B04"), 25, [0.01032, 0.00425, 0.13245, -0.00825, 0.04507, 0.0158]),
    (S2, 7, [-0.01809, -0.10779, 0.04591, 0.10347, 0.0337, -0.04209]),
]


@pytest.mark.parametrize(("names", "side", "published"), PUBLISHED)
def test_features_equal_the_authors_code(shared, names, side, published):
    encoder = build(names, str(shared / "weights" / "galileo-nano" / "encoder.pt"))
    features = encoder(images(names, side))
    assert features.shape == (2, 128)
    assert np.abs(features[1, :6].numpy() - published).max() < 1e-4


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
