"""The runner of the GPU checks, and the list of wheels: what can be tested in a moment without a GPU."""

import pytest
import torch

from tests.gpu import running, wheels
from tests.gpu.machine import SMALL, Machine, Pool, apart


def test_the_runner_reports_checks_that_fail_die_and_hang():
    assert running.runner(None)["errors"] == ["ValueError: as it should", "ended with exit code 3", "out of time"]


def test_every_check_says_what_it_checks_and_has_a_budget():
    from tests.gpu import correct, speed  # noqa: F401 - their checks register themselves

    assert len(running.CHECKS) > 10
    assert all(one.function.__doc__ and 0 < one.seconds <= 120 for one in running.CHECKS.values())


def test_only_what_a_machine_lacks_is_collected():
    imported = {"Jinja2": "3.1", "torchgeo": "0.9", "segmentation_models_pytorch": "0.6", "frozen-earth": "0.2"}
    assert wheels.missing(imported, ["jinja2==3.0", "torch"]) == ["segmentation_models_pytorch==0.6", "torchgeo==0.9"]
    assert {"torch", "jinja2"} <= wheels.required("torch")


def test_packed_noise_has_the_bands_of_bigearthnet(tmp_path):
    from tests.gpu.correct import pack

    machine = Machine(torch.device("cpu"), tmp_path, SMALL)
    assert pack(machine)["images"] == SMALL.images
    samples = machine.samples()
    read, made = samples.read(3, samples.bands), Pool(4).read(3, samples.bands)
    assert sorted({band.shape for band in read}) == [(20, 20), (60, 60), (120, 120)]
    assert all((one == other).all() for one, other in zip(read, made, strict=True))


def test_the_distance_of_features_is_seen():
    one = torch.eye(3).numpy()
    assert apart(one, one) == {"relative": 0.0, "least_cosine": 1.0}
    assert apart(one[::-1], one)["least_cosine"] == pytest.approx(0.0)
