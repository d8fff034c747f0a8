"""Guards against silent nonsense: each stops with the measured numbers and what mends it, and lets real data pass."""

import numpy as np
import pytest
import torch
from helpers import make_split
from opening import open_split
from pixels import PixelDataset

from data import command, store
from data.bands import Band
from data.dataset import Statistic
from data.errors import RequestError
from featurize.cli import app
from featurize.encoder import EncoderRequest, Expected, FrozenModel, build_encoder
from featurize.engines import local
from featurize.guards import check_inputs
from featurize.models.dofa import training_wavelength_um
from featurize.normalization import make_normalization
from featurize.pipeline import Summary, featurize_split
from featurize.runtime import Runtime
from featurize.task import Task
from featurize.weights import NO_WEIGHTS

ROWS = 20


class Altered(PixelDataset):
    """The test's dataset with every band's pixels changed: alter(row, name, pixels)."""

    def __init__(self, alter=lambda row, name, pixels: pixels, rows=ROWS, **settings):
        super().__init__(rows=rows, **settings)
        self.alter = alter

    def read(self, index, bands):
        return [
            self.alter(index, band.name, pixels) for band, pixels in zip(bands, super().read(index, bands), strict=True)
        ]


class Plain(FrozenModel):
    """The mean of every scaled band: takes any bands and any scaling, as quick as can be."""

    def embed(self, images, lonlat):
        return images.mean((2, 3))


def plain(dataset, bands, normalize, *, expects=Expected(), statistics=None):  # noqa: B008  # it is frozen
    from data.bands import choose_bands

    chosen = choose_bands(dataset.bands, bands)
    # Named after a model whose card says which other scalings there are.
    request = EncoderRequest(chosen, dataset.statistics, lambda: dataset, normalize=normalize, name="dofa")
    scaling = make_normalization(normalize, chosen, statistics or dataset.statistics)
    encoder = Plain(request, dim=len(chosen), normalization=scaling, weights=NO_WEIGHTS, dtype="float32")
    encoder.expects = expects
    return encoder


def check(alter=None, *, bands="s2-12", normalize="zscore", rows=ROWS, expects=Expected()):  # noqa: B008
    dataset = Altered(alter, rows=rows) if alter else Altered(rows=rows)
    check_inputs(dataset, plain(dataset, bands, normalize, expects=expects))


def only(wanted, change):
    """Change one band, or one image, and leave the others as they are."""
    return lambda row, name, pixels: change(pixels) if wanted in (row, name) else pixels


# what passes

FITTING = [
    ("s1s2", "zscore"), ("s1s2", "ssl4eo"), ("s1s2", "stretch"), ("rgb", "imagenet"), ("rgb", "zscore"),
    ("rgb", "satlas"), ("B04,B03,B02", "imagenet"), ("s2-12", "satlas"), ("s2-12", "reflectance"),
]  # fmt: skip


@pytest.mark.parametrize(("bands", "normalize"), FITTING)
def test_native_values_under_every_scaling_pass(bands, normalize, capsys):
    check(bands=bands, normalize=normalize)
    assert capsys.readouterr().err == ""


def levels(values, spread=0.02):
    """Images about one level, or of two: what a sea, a field of snow or a night of radar is like."""

    def make(row, name, pixels):
        rng = np.random.default_rng(row)
        level = values[name] if isinstance(values, dict) else values
        return (level * (1 + spread * rng.standard_normal(pixels.shape))).astype(pixels.dtype)

    return make


SEA = {
    "B01": 1100, "B02": 900, "B03": 600, "B04": 350, "B05": 300, "B06": 200, "B07": 190, "B08": 160, "B8A": 140,
    "B09": 60, "B11": 40, "B12": 25, "VV": -18.0, "VH": -27.0,
}  # fmt: skip


@pytest.mark.parametrize("rows", [1, 2, ROWS])
@pytest.mark.parametrize("normalize", ["zscore", "satlas", "reflectance", "ssl4eo"])
def test_an_open_sea_is_no_mistake(rows, normalize, capsys):
    check(levels(SEA), normalize=normalize, rows=rows)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("rows", [1, 3])
def test_a_few_images_of_snow_pass(rows):
    """Ten standard deviations out and clipped to white: real, and stopped for only where all the images are so."""
    for bands, normalize in (("s2-12", "zscore"), ("s2-12", "reflectance"), ("B04,B03,B02", "imagenet")):
        check(levels(11_000), bands=bands, normalize=normalize, rows=rows)


def test_a_few_images_that_are_clipped_away_are_a_warning_and_many_an_error(capsys):
    check(levels(11_000), bands="B04,B03,B02", normalize="imagenet", rows=3)
    error = capsys.readouterr().err
    assert "warning" in error and "clips 100.0% of B04 (" in error and error.count("\n") == 1
    with pytest.raises(RequestError, match=r"clips 100.0% of B04 \(.*\(so B03, B02\) in 16 images.*--normalize zscore"):
        check(levels(11_000), bands="B04,B03,B02", normalize="imagenet")


def test_dark_water_with_one_value_in_most_pixels_passes():
    """Level-2A has short-wave infrared of 1 over water nearly everywhere, and a little noise."""

    def calm(row, name, pixels):
        rng = np.random.default_rng(row)
        if name not in ("B11", "B12"):
            return levels(SEA)(row, name, pixels)
        return np.where(rng.random(pixels.shape) < 0.99, 1, rng.integers(2, 40, pixels.shape)).astype(pixels.dtype)

    check(calm)


# numbers


@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_nan_and_infinity_stop_with_the_share_and_the_image(value):
    def holed(pixels):
        pixels[: len(pixels) // 2] = value
        return pixels

    with pytest.raises(RequestError) as caught:
        check(only("VH", holed), bands="s1")
    told = str(caught.value)
    assert "16 of 16 images sampled hold NaN or infinity, 50.0% of the pixels of VH, first in 'train-0'" in told
    assert "leave the band out with --bands" in told
    with pytest.raises(RequestError, match="1 of 2 images .* NaN"):
        check(only(1, lambda pixels: pixels * np.float32(value)), bands="s1", rows=2)


def test_a_band_that_never_changes_stops():
    with pytest.raises(RequestError, match=r"pixels train: 100.0% of B09 is 7 in 16 images .*--bands"):
        check(only("B09", lambda pixels: np.full_like(pixels, 7)))
    with pytest.raises(RequestError, match=r"98.\d% of red is 255 .*--bands"):
        check(
            only("red", lambda pixels: np.where(np.arange(pixels.size).reshape(pixels.shape) % 64, 255, pixels)),
            bands="rgb",
        )


def test_a_band_that_never_changes_in_few_images_is_a_warning(capsys):
    check(only("B09", lambda pixels: np.full_like(pixels, 7)), rows=3)
    assert "warning: pixels train: 100.0% of B09 is 7 in 3 images" in capsys.readouterr().err


# units and scale


def scaled_by(factor, dtype=np.float32):
    return lambda row, name, pixels: (pixels.astype(np.float64) * factor).astype(dtype)


WRONG_SCALE = {
    "reflectance for digital numbers": (
        scaled_by(1e-4), "s2-12", "satlas",
        r"small values of B01, .* from 0\S* to 0\.\d+ in .*takes digital numbers.*zscore",
    ),
    "raw numbers into a model that wants them scaled": (
        scaled_by(1), "s2-9", "none", r"B02 has mean 1\.\d\de\+03 and std \d+ \(9 of 9 bands.*--normalize zscore",
    ),
    "reflectance with statistics of digital numbers": (
        scaled_by(1e-4), "s2-12", "zscore",
        r"about 10,\d00 times smaller than its statistics; measured over 16 images: .* mean -3 .*--dataset folder",
    ),
    "16 bits for 8": (
        scaled_by(20, np.uint16), "rgb", "imagenet", r"values beyond 8 bits of red, green, blue .*--normalize zscore",
    ),
    "fractions for 8 bits": (
        scaled_by(1 / 255), "rgb", "imagenet", r"fractions of red, green, blue from 0 to .*8-bit values \(0 to 255\)",
    ),
    "power for decibels": (
        lambda row, name, pixels: 10 ** (pixels / 10), "s1", "ssl4eo", r"of VV, VH from .* takes decibels .*zscore",
    ),
    "power for decibels beside good digital numbers": (
        lambda row, name, pixels: 10 ** (pixels / 10) if name in ("VV", "VH") else pixels, "s1s2", "ssl4eo",
        "of VV, VH",
    ),
    "radar a thousand times too large beside good digital numbers": (
        lambda row, name, pixels: pixels * 1000 if name in ("VV", "VH") else pixels, "s1s2", "zscore",
        r"VV has mean .* \(2 of 14 bands",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_SCALE)
def test_a_scale_that_does_not_fit_stops_with_the_numbers_and_the_flag(case):
    alter, bands, normalize, message = WRONG_SCALE[case]
    check(bands=bands, normalize="zscore")  # the same bands as they should be
    with pytest.raises(RequestError, match=message) as caught:
        check(alter, bands=bands, normalize=normalize)
    assert "\n" not in str(caught.value)


# real tiles in other units


def tiles(shared, cache, *, source="eurosat", alter=lambda name, pixels: pixels):
    """Real tiles with every band's pixels changed: alter(name, pixels)."""
    from data.dataset import Subset
    from data.registry import DATASETS

    folder = shared / "data" / {"eurosat": "eurosat-ms", "bigearthnet": "bigearthnet-v1"}[source]
    variant = "v1" if source == "bigearthnet" else None
    bands = ("s1",) if source == "bigearthnet" else ()
    flags = {"cache_dir": cache, "dataset_variant": variant, "allow_missing": source == "bigearthnet"}
    whole = open_split(DATASETS.load(source), "val", folder, bands=bands, **flags)

    class Changed(Subset):
        def read(self, index, bands):
            return [alter(b.name, p) for b, p in zip(bands, self.whole.read(index, bands), strict=True)]

    return Changed(whole, range(len(whole)))


def as_type(factor, offset=0.0, dtype=np.uint16, top=65_535.0):
    return lambda name, pixels: np.rint(np.clip(pixels.astype(np.float64) * factor + offset, 0, top)).astype(dtype)


REAL_MISTAKES = {
    "8 bits, white at 2750": (as_type(255 / 2750, dtype=np.uint8, top=255), r"about \d+(\.\d)? times smaller .*8-bit"),
    "8 bits, white at 10000": (as_type(255 / 10_000, dtype=np.uint8, top=255), "times smaller .*8-bit"),
    "DN / 10": (as_type(0.1), r"about (9\.\d+|1\d(\.\d+)?) times smaller than its statistics"),
    "reflectance": (as_type(1e-4, dtype=np.float32), "times smaller"),
    "offset of baseline 04.00": (as_type(1, 1000), r"about 1,0\d\d above its statistics .*baseline 04.00"),
}


@pytest.mark.parametrize("bands", ["s2-13", "s2-12", "rgb"])
@pytest.mark.parametrize("case", REAL_MISTAKES)
def test_real_tiles_in_other_units_stop_under_zscore(case, bands, shared, tmp_path_factory):
    alter, message = REAL_MISTAKES[case]
    cache = tmp_path_factory.getbasetemp() / "guard-tiles"
    whole = tiles(shared, cache)
    check_inputs(whole, plain(whole, bands, "zscore"))  # as they are they pass
    if case == "reflectance":

        def alter(name, pixels):
            return pixels.astype(np.float32) / 10_000

    changed = tiles(shared, cache, alter=alter)
    with pytest.raises(RequestError, match=message) as caught:
        check_inputs(changed, plain(changed, bands, "zscore"))
    told = str(caught.value)
    assert "measured over 16 images" in told and "z-score has mean" in told and "--dataset folder" in told


def test_linear_radar_power_stops_under_statistics_in_decibels():
    for bands in ("s1", "VV", "s1s2"):
        with pytest.raises(RequestError, match=r"all positive, like linear power, .*decibels.*z-score has mean"):
            check(
                lambda row, name, pixels: 10 ** (pixels / 10) if name in ("VV", "VH") else pixels,
                bands=bands, normalize="zscore",
            )  # fmt: skip


def test_fractions_stop_under_statistics_of_8_bits():
    with pytest.raises(RequestError, match=r"fractions \(0 to 1\), .*0 to 255.*z-score has mean -2.99 and std"):
        check(scaled_by(1 / 255), bands="rgb", normalize="zscore")


def test_a_model_that_takes_any_values_is_not_stopped_for_their_size():
    check(bands="s2-9", normalize="none", expects=None)


def test_few_images_are_stopped_for_a_wrong_unit_all_the_same():
    for alter, bands, normalize, message in (
        WRONG_SCALE["reflectance for digital numbers"],
        WRONG_SCALE["raw numbers into a model that wants them scaled"],
        WRONG_SCALE["16 bits for 8"],
        WRONG_SCALE["power for decibels"],
    ):
        with pytest.raises(RequestError, match=message):
            check(alter, bands=bands, normalize=normalize, rows=2)


def test_a_dark_picture_of_8_bits_is_not_taken_for_fractions():
    check(lambda row, name, pixels: (pixels > 120).astype(np.uint8), bands="rgb", normalize="imagenet", rows=1)


# requests


def test_a_band_without_wavelength_or_statistic_is_an_error():
    with pytest.raises(RequestError, match="pan has none"):
        training_wavelength_um(Band("pan", "other"))
    dataset = Altered()
    some = {name: value for name, value in dataset.statistics.items() if name != "B05"}
    with pytest.raises(RequestError, match="B05.*--normalize"):
        plain(dataset, "s2-9", "zscore", statistics=some)
    with pytest.raises(RequestError, match="B05"):
        plain(dataset, "s2-9", "stretch", statistics=some | {"B05": Statistic(float("nan"), float("nan"))})


def test_a_requested_scaling_that_changes_nothing_is_an_error():
    dataset = Altered()
    standard = {name: Statistic(0.001, 1.01) for name in dataset.statistics}

    def build(normalize, statistics):
        request = EncoderRequest((), statistics, lambda: dataset, normalize=normalize, variant="gaussian")
        return build_encoder("rcf", dataset, "rgb", request)

    with pytest.raises(RequestError, match="--normalize zscore changes nothing.*--normalize none, or leave it out"):
        build("zscore", standard)
    build("none", standard)  # says that nothing is to change
    build(None, standard)  # the model's own choice, not a request
    build("zscore", dataset.statistics)


# where they stand


def test_nothing_is_written_for_pixels_that_do_not_fit(tmp_path):
    dataset = Altered(scaled_by(1e-4))
    plan = Runtime(torch.device("cpu"), "fp32", 4, 0, 8)
    with pytest.raises(RequestError, match="times smaller than its statistics"):
        featurize_split(
            Task(dataset=dataset, encoder=plain(dataset, "s2-9", "zscore"), runtime=plan), tmp_path / "train.h5"
        )
    assert not list(tmp_path.iterdir())


def test_an_image_that_cannot_be_read_is_left_to_the_run_which_names_it():
    """Parts before it are kept, so the guard must not stop first."""
    check_inputs(PixelDataset(rows=3, broken=[0, 1, 2]), plain(PixelDataset(), "rgb", "imagenet"))
    check_inputs(PixelDataset(rows=20, broken=[0]), plain(PixelDataset(), "rgb", "imagenet"))


def test_it_looks_at_16_images_however_many_there_are():
    seen = []
    dataset = Altered(lambda row, name, pixels: seen.append(row) or pixels, rows=3000)
    check_inputs(dataset, plain(dataset, "red", "zscore"))
    assert len(seen) == 16 and {0, 2999} <= set(seen)


def test_the_command_stops_with_one_line(tmp_path, capsys):
    words = ["--model", "rcf", "--variant", "gaussian", "--dataset", "simulated", "--bands", "s2-9", "--limit", "2"]
    assert command.run(app, [*words, "--image-size", "16", "--split", "val", "--out", str(tmp_path / "a")]) == 0
    capsys.readouterr()
    words = ["--model", "timm:test_vit", "--dataset", "simulated", "--limit", "9", "--split", "val"]
    words += ["--weights", "random", "--normalize", "none", "--out", str(tmp_path / "b")]
    code, error = command.run(app, words), capsys.readouterr().err
    assert code == 2 and error.count("\n") == 1 and "Traceback" not in error
    assert "scaled by --normalize none, B04 has mean" in error and error.endswith("use --normalize zscore\n")
    assert not (tmp_path / "b").exists()


# collapsed features


def test_effective_rank_is_that_of_roy_and_vetterli():
    """Their definition by hand: exp of the entropy of the singular values' shares of their sum."""
    axes = np.eye(4)  # float64: rounding hides nothing
    equal = np.concatenate((axes, -axes))  # mean 0, four directions of equal deviation: 4
    assert store.effective_rank(equal) == pytest.approx(4)
    assert store.effective_rank(equal + 1000) == pytest.approx(4), "the mean is no direction"
    # Two directions of deviations 3 and 1: shares 3/4 and 1/4, entropy .5623, exp(.5623) = 1.7548
    unequal = np.array([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]])
    assert store.effective_rank(unequal) == pytest.approx(1.7548, abs=1e-4)
    assert store.effective_rank(np.outer(np.arange(5.0), np.ones(7))) == pytest.approx(1)
    assert store.effective_rank(np.ones((5, 7))) == 0
    wide, tall = np.random.default_rng(0).standard_normal((2, 30, 400)), None
    tall = wide[0].T
    singular = np.linalg.svd(wide[0] - wide[0].mean(0), compute_uv=False)[:-1]
    shares = singular / singular.sum()
    assert store.effective_rank(wide[0]) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))
    singular = np.linalg.svd(tall - tall.mean(0), compute_uv=False)
    shares = singular / singular.sum()
    assert store.effective_rank(tall) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_collapse_is_told_from_small_and_simple_features():
    rng = np.random.default_rng(0)
    healthy = rng.standard_normal((200, 32)).astype(np.float16)
    assert store.collapse(healthy) is None
    assert store.collapse((healthy * 1e-3).astype(np.float32)) is None, "small is not collapsed"
    assert store.collapse(healthy[:5]) is None, "few samples have few directions"
    assert store.collapse(rng.standard_normal((200, 2))) is None, "so have few dimensions"
    assert store.collapse(healthy[:1]) is None, "one sample does not vary"
    nearly = 5 + healthy * 1e-4
    assert "no dimension varies" in str(store.collapse(nearly))
    line = np.outer(rng.standard_normal(200), rng.standard_normal(32)) + 1e-2 * rng.standard_normal((200, 32))
    assert "of their variance in 32 dimensions lies in two directions" in str(store.collapse(line))


@pytest.mark.parametrize("dim", [32, 768])
def test_one_direction_with_one_per_cent_of_noise_is_collapsed_and_one_large_dimension_is_not(dim):
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((400, dim))
    line = np.outer(rng.standard_normal(400), rng.standard_normal(dim)) + 0.01 * noise
    assert "lies in two directions" in str(store.collapse(line.astype(np.float32)))
    assert "lies in two directions" in str(store.collapse((5 + line).astype(np.float16)))
    dwarfing = noise.copy()
    dwarfing[:, 3] *= 1e5
    assert store.collapse(dwarfing.astype(np.float32)) is None
    dwarfing[:, 4] *= 1e4
    assert store.collapse(dwarfing.astype(np.float32)) is None


def test_rounding_to_float16_does_not_hide_a_collapse():
    """One direction about a large constant: rounding alone fills the other 199, a fifth as large as it is."""
    rng = np.random.default_rng(0)
    line = 1 + 0.002 * np.outer(rng.standard_normal(300), rng.standard_normal(200))
    rounded = line.astype(np.float16)
    assert store.collapse(rounded.astype(np.float64)) is None, "the test could not fail"
    assert "lies in two directions" in str(store.collapse(rounded))


def test_featurize_warns_of_collapsed_features_and_verify_fails(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.arange(50) % 3
    good = make_split(
        tmp_path / "a" / "train.h5", labels, rng.standard_normal((50, 24)).astype(np.float32), ["a", "b", "c"]
    )
    line = np.outer(rng.standard_normal(50), np.ones(24)).astype(np.float32)
    bad = make_split(tmp_path / "b" / "train.h5", labels, line, ["a", "b", "c"])
    code, out = command.run(app, ["verify", str(tmp_path)]), capsys.readouterr().out
    assert code == 1 and "1 of 2 files" in out
    assert f"{good}: good; effective rank 2" in out and "of 24" in out
    assert f"{bad}: features have collapsed: 100.000% of their variance in 24 dimensions" in out
    monkeypatch.setattr(local, "featurize_split", lambda *_, **__: Summary(file=bad, images=50, dim=24))
    monkeypatch.setattr(local.Job, "file", lambda *_: bad)
    words = ["--model", "stats", "--dataset", "simulated", "--limit", "1", "--split", "val"]
    assert command.run(app, [*words, "--out", str(tmp_path / "c")]) == 0
    error = capsys.readouterr().err
    assert "featurize: warning:" in error and "collapsed" in error
