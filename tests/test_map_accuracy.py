"""Map accuracy and area against the worked examples of Olofsson et al. 2013, 2014 and Stehman 2014."""

import numpy as np
import pytest

from analysis.map_accuracy import allocate, estimate, sample_size


def sample(matrix, classes):
    """The sample of a confusion matrix: rows are the map, columns the reference."""
    pairs = [(classes[i], classes[j], count) for i, row in enumerate(matrix) for j, count in enumerate(row)]
    mapped = [m for m, _, count in pairs for _ in range(count)]
    reference = [r for _, r, count in pairs for _ in range(count)]
    return mapped, reference


CHANGE = ("Deforestation", "Forest gain", "Stable forest", "Stable non-forest")
TABLE_8 = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]


@pytest.fixture
def olofsson2014():
    mapped, reference = sample(TABLE_8, CHANGE)
    pixels = dict(zip(CHANGE, (200_000, 150_000, 3_200_000, 6_450_000), strict=True))
    return estimate(mapped, reference, strata=mapped, sizes=pixels, classes=CHANGE)


def test_accuracies_of_olofsson_2014(olofsson2014):
    """Page 54, left column, with the half widths of its 95% intervals.

    The paper prints 0.23 and 0.01 for the producer's accuracies of forest gain and stable non-forest; its own
    equation 7 gives 0.254 and 0.018.
    """
    found = olofsson2014
    assert np.round(found.users.value, 2).tolist() == [0.88, 0.73, 0.93, 0.96]
    assert np.round(found.users.half_width, 2).tolist() == [0.07, 0.10, 0.04, 0.02]
    assert np.round(found.producers.value, 2).tolist() == [0.75, 0.85, 0.93, 0.96]
    assert np.round(found.producers.half_width, 2).tolist() == [0.21, 0.25, 0.03, 0.02]
    assert round(float(found.overall.value), 2) == 0.95 and round(float(found.overall.half_width), 2) == 0.02


def test_areas_of_olofsson_2014(olofsson2014):
    """Page 54, right column: hectares of Landsat pixels of 30 m."""
    hectares = olofsson2014.area.scaled(10_000_000 * 0.09)
    assert np.round(hectares.value).tolist() == [21158, 11686, 285770, 581386]
    assert np.round(hectares.half_width).tolist() == [6158, 3756, 15510, 16282]
    assert np.isclose(olofsson2014.matrix.sum(), 1)
    assert np.allclose(olofsson2014.matrix.sum(axis=0), olofsson2014.area.value)


def test_area_of_olofsson_2013():
    """Example 1: equations 9 to 16 of Remote Sensing of Environment 129, 122-131."""
    mapped, reference = sample([[97, 0, 3], [3, 279, 18], [2, 1, 97]], ("1", "2", "3"))
    found = estimate(mapped, reference, strata=mapped, sizes={"1": 22353, "2": 1122543, "3": 610228})
    pixels = found.area.scaled(22353 + 1122543 + 610228)
    assert round(float(pixels.value[0])) == 45112 and round(float(pixels.se[0])) == 10751
    assert round(float(found.users.value[0]), 2) == 0.97 and round(float(found.producers.value[0]), 2) == 0.48


@pytest.fixture
def stehman2014():
    strata = [s for s in "ABCD" for _ in range(10)]
    mapped = list("AAAAAAABBB" + "A" + "B" * 11 + "CCCCCCBB" + "D" * 10)
    reference = list("AAAAACBABC" + "ABBBBBAABB" + "CCCCCDDBBA" + "DDDDDDDCCB")
    sizes = {"A": 40_000, "B": 30_000, "C": 20_000, "D": 10_000}
    return estimate(mapped, reference, strata=strata, sizes=sizes, finite=True)


def test_strata_that_are_not_map_classes(stehman2014):
    """The numerical example of Stehman 2014, pages 4932 to 4936."""
    found = stehman2014
    assert found.classes == ("A", "B", "C", "D")
    assert np.isclose(found.area.value[0], 0.35) and np.isclose(found.area.value[2], 0.20)
    assert np.isclose(found.overall.value, 0.63)
    assert round(float(found.users.value[1]), 3) == 0.574 and round(float(found.producers.value[1]), 3) == 0.794
    assert np.isclose(found.matrix[1, 2], 0.08)
    assert round(float(found.area.se[0]), 3) == 0.082 and round(float(found.area.se[2]), 3) == 0.064
    assert round(float(found.overall.se), 3) == 0.085
    assert round(float(found.users.se[1]), 3) == 0.125 and round(float(found.producers.se[1]), 3) == 0.117


def test_a_simple_random_sample_is_the_plain_proportion():
    mapped, reference = sample([[40, 10], [5, 45]], ("a", "b"))
    found = estimate(mapped, reference)
    assert np.isclose(found.overall.value, 0.85) and np.isclose(found.overall.se, np.sqrt(0.85 * 0.15 / 99))
    assert np.allclose(found.users.value, [0.8, 0.9]) and np.allclose(found.producers.value, [40 / 45, 45 / 55])
    assert np.allclose(found.area.value, [0.45, 0.55])


def test_a_class_that_the_map_or_the_reference_lacks_is_undefined():
    found = estimate(list("aabb"), list("aabc"), classes=tuple("abcd"))
    assert np.isnan(found.users.value[2]) and np.isnan(found.producers.value[3])
    assert found.producers.value[2] == 0 and found.area.value[2] == 0.25


def test_wrong_samples_are_refused():
    with pytest.raises(ValueError, match="no size for stratum b"):
        estimate(list("aabb"), list("aabb"), strata=list("aabb"), sizes={"a": 1.0})
    with pytest.raises(ValueError, match="stratum b has fewer than 2"):
        estimate(list("aab"), list("aab"), strata=list("aab"), sizes={"a": 1.0, "b": 1.0})
    with pytest.raises(ValueError, match="lengths differ"):
        estimate(list("aa"), list("aab"))
    with pytest.raises(ValueError, match="classes c "):
        estimate(list("aac"), list("aab"), classes=("a", "b"))


def test_sample_size_of_olofsson_2014():
    """Section 5.1.1: a standard error of 0.01 needs 641 samples; 75 for each of the rare classes leave 491."""
    shares = (0.02, 0.015, 0.32, 0.645)
    assert sample_size(shares, (0.7, 0.6, 0.9, 0.95), se=0.01) == 641
    given = allocate(641, shares, least=75)
    assert given.tolist() == [75, 75, 163, 328]


def test_the_interval_of_a_class_without_omissions_is_not_too_narrow():
    """No rare sample among 300 of the large stratum: standard errors say its area is known; the interval does not."""
    mapped = ["rare"] * 50 + ["most"] * 300
    truth = ["rare"] * 45 + ["most"] * 5 + ["most"] * 300
    found = estimate(mapped, truth, strata=mapped, sizes={"rare": 0.02, "most": 0.98}, classes=("rare", "most"))
    low, high = found.area_interval[0]
    assert np.isclose(found.area.value[0], 0.018) and found.area.half_width[0] < 0.002
    assert low < 0.018 and 0.98 * 0.004 < high - 0.018 < 0.98 * 0.012  # three in 300 at most, roughly: rule of three


def test_intervals_agree_with_standard_errors_where_counts_are_large():
    mapped, reference = sample([[800, 200], [150, 850]], ("a", "b"))
    found = estimate(mapped, reference, strata=mapped, sizes={"a": 0.3, "b": 0.7})
    assert np.allclose(found.area_interval[:, 1] - found.area_interval[:, 0], 2 * found.area.half_width, rtol=0.03)
