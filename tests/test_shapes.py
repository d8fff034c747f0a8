"""Shapes of arrays are checked in the tests, and only there."""

import subprocess
import sys

import numpy as np
import pytest
from jaxtyping import TypeCheckError
from shapes import PROJECT, annotated_modules

from probes.metrics import average_precision, one_hot

WRONG = "import numpy as np; from probes.metrics import one_hot; one_hot(np.zeros(4), 3)"  # floats


def test_a_wrong_shape_is_an_error_in_the_tests():
    assert one_hot(np.array([0, 2]), 3).tolist() == [[True, False, False], [False, False, True]]
    with pytest.raises(TypeCheckError, match="labels"):
        one_hot(np.zeros((4, 2), np.int64), 3)


def test_two_arrays_must_agree_on_an_axis_of_one_name():
    with pytest.raises(TypeCheckError, match="scores"):
        average_precision(np.zeros((4, 2), bool), np.zeros((5, 2)))


def test_a_wrong_type_is_an_error_in_the_tests():
    with pytest.raises(TypeCheckError, match="truth"):
        average_precision(np.zeros((4, 2)), np.zeros((4, 2)))


def test_nothing_is_checked_outside_of_the_tests():
    subprocess.run([sys.executable, "-c", WRONG], cwd=PROJECT, check=True)


def test_the_annotated_modules_are_found():
    assert "probes.metrics" in annotated_modules()
