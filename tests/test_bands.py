"""Band tables and choosing bands."""

import pytest

from data.bands import BAND_SETS, RGB, SENTINEL1, SENTINEL2, Band, band_of_file, choose_bands, known_band, name_bands
from data.errors import RequestError

ALL_S2 = tuple(SENTINEL2.values())


def names(bands):
    return tuple(band.name for band in bands)


@pytest.mark.parametrize("spec", ["s2-9", "s2-10", "s2-12", "s2-13"])
def test_a_set_gives_its_bands_in_its_order_and_gets_its_name_back(spec):
    chosen = choose_bands(ALL_S2, spec)
    assert names(chosen) == BAND_SETS[spec]
    assert name_bands(chosen) == spec


def test_rgb_finds_colours_in_pictures_and_in_sentinel2():
    assert names(choose_bands(tuple(RGB.values()), "rgb")) == ("red", "green", "blue")
    assert names(choose_bands(ALL_S2, "rgb")) == ("B04", "B03", "B02")
    assert name_bands(choose_bands(ALL_S2, "rgb")) == "rgb"


def test_a_list_keeps_the_order_asked_for():
    assert names(choose_bands(ALL_S2, "B12, B02")) == ("B12", "B02")


def test_s1s2_puts_radar_first():
    both = (*ALL_S2, *SENTINEL1.values())
    assert names(choose_bands(both, "s1s2"))[:2] == ("VV", "VH")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("s2-8", "did you mean 's2-9'"),
        ("B44", "unknown band or band set 'B44'"),
        ("B02,B99", "has no B99; it has B01"),
        ("s1", "has no VV, VH"),
        ("B02,B02", "named twice"),
    ],
)
def test_a_wrong_choice_says_what_there_is(spec, message):
    with pytest.raises(RequestError, match=message.replace("(", r"\(")):
        choose_bands(ALL_S2, spec)


def test_nine_bands_are_those_dofa_was_trained_with():
    assert set(BAND_SETS["s2-12"]) - set(BAND_SETS["s2-9"]) == {"B01", "B8A", "B09"}
    assert all(band.wavelength_um for band in ALL_S2)


@pytest.mark.parametrize(
    ("name", "band"),
    [
        ("B02", "B02"), ("b2", "B02"), ("B2", "B02"), (" B12 ", "B12"), ("b8a", "B8A"), ("B08A", "B8A"), ("vv", "VV"),
        ("Red", "red"), ("B02_10m", "B02"), ("b8A_20M", "B8A"),
        ("B13", None), ("B", None), ("nir", None), ("B02_mask", None), ("", None), (None, None),
    ],
)  # fmt: skip
def test_one_rule_names_bands(name, band):
    known = known_band(name)
    assert (known and known.name) == band


@pytest.mark.parametrize(
    ("file", "band"),
    [
        ("B02.tif", "B02"), ("p_1_B02.tif", "B02"), ("p_B2.TIF", "B02"), ("p_b8a_20m.tiff", "B8A"),
        ("x.B11.tif", "B11"), ("x-vh.TIFF", "VH"), ("S2_B02_B03.tif", "B03"), ("p_nir2.tif", "nir2"),
        ("p_NIR2_10m.tif", "nir2"),
        ("p_B02_mask.tif", None), ("AB02.tif", None), ("p_B02_10m_copy.tif", None), ("B022.tif", None),
    ],
)  # fmt: skip
def test_one_rule_finds_the_band_of_a_file(file, band):
    found = band_of_file(file, [Band("nir2", "other", 0.85)])
    assert (found and found.name) == band


def test_flags_take_other_spellings_of_a_band():
    assert names(choose_bands(ALL_S2, "b4,B3,B02")) == ("B04", "B03", "B02")
    with pytest.raises(RequestError, match="named twice"):
        choose_bands(ALL_S2, "B4,b04")
