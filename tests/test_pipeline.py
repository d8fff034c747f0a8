"""One split through an encoder: order, resuming, ragged images, errors that name the sample."""

import json
import os
import signal
import threading
import time

import h5py
import numpy as np
import pytest
import torch
from pixels import PixelDataset

from data import store
from data.errors import RequestError
from featurize.batches import collate, prepare
from featurize.embedder import Embedder
from featurize.encoder import EncoderRequest, FrozenModel, build_encoder
from featurize.normalization import scaled
from featurize.pipeline import embed_parts, featurize_split, unfinished_parts
from featurize.runtime import Runtime, choose_device, choose_precision
from featurize.stages import Meter
from featurize.task import Task
from featurize.weights import NO_WEIGHTS

CPU = torch.device("cpu")


def plan(**changes):
    return Runtime(**{"device": CPU, "precision": "fp32", "batch_size": 4, "workers": 0, "part_rows": 8, **changes})


def stats(dataset, *, bands="rgb", **settings):
    return build_encoder("stats", dataset, bands, EncoderRequest((), dataset.statistics, lambda: dataset, **settings))


def run(dataset, file, **changes):
    return featurize_split(task(dataset, stats(dataset), **changes), file)


def task(dataset, encoder, **changes):
    return Task(dataset=dataset, encoder=encoder, runtime=plan(**changes))


def test_rows_are_in_the_datasets_order(tmp_path):
    dataset = PixelDataset(rows=21)
    summary = run(dataset, tmp_path / "train.h5")
    got = store.read_features(summary.file)
    assert got.ids == dataset.ids and "21 images x 12" in str(summary)
    assert (summary.images, summary.embedded, summary.dim, summary.reused) == (21, 21, 12, False)
    red = [dataset.read(i, dataset.bands[-3:-2])[0].mean() for i in range(21)]
    np.testing.assert_allclose(got.features[:, 0], red, rtol=1e-6)
    np.testing.assert_array_equal(got.labels, dataset.labels)
    np.testing.assert_array_equal(got.lonlat, dataset.lonlat)
    assert got.environment["images_per_s"] > 0 and got.environment["device"] == "cpu"


def test_a_damaged_part_is_not_taken_for_done_while_another_process_makes_it(tmp_path):
    made = task(PixelDataset(rows=21), stats(PixelDataset(rows=21)))
    with store.FeatureWriter(tmp_path / "train.h5", made.identity, **made.shape, part_rows=8) as writer:
        embed_parts(made, writer, [0, 1], Meter())
        (writer.parts / "part-00001.h5").write_bytes(b"damaged")
        assert unfinished_parts(made, writer) == [1, 2] and writer.recorded() == {0}


@pytest.mark.parametrize("changes", [{"workers": 2}, {"batch_size": 3}, {"part_rows": 100}])
def test_how_it_runs_does_not_change_the_features(tmp_path, changes):
    dataset = PixelDataset(rows=21)
    one = run(dataset, tmp_path / "one" / "train.h5").file
    other = run(dataset, tmp_path / "other" / "train.h5", **changes).file
    np.testing.assert_allclose(store.read_features(one).features, store.read_features(other).features, rtol=1e-6)


def test_a_second_run_reuses_and_another_identity_is_an_error(tmp_path):
    dataset = PixelDataset()
    file = run(dataset, tmp_path / "train.h5").file
    before = file.stat().st_mtime_ns
    assert run(dataset, file).reused
    assert file.stat().st_mtime_ns == before
    encoder = stats(dataset, normalize="zscore")
    with pytest.raises(RequestError, match=" encoder.normalization.*--overwrite"):
        featurize_split(task(dataset, encoder), file)


def test_a_broken_sample_stops_with_its_name_and_keeps_finished_parts(tmp_path):
    file = tmp_path / "train.h5"
    for workers in (0, 1):
        with pytest.raises(RequestError, match="sample train-13 is truncated"):
            run(PixelDataset(rows=21, broken=[13]), file, workers=workers)
    assert not file.exists()
    journal = (tmp_path / "train.parts" / "journal.jsonl").read_text().split()
    assert [json.loads(line)["part"] for line in journal] == [0]
    summary = run(PixelDataset(rows=21), file)
    assert summary.embedded == 13 and "8 already done" in str(summary)
    assert store.verify_features(file).problems == ()


def test_resumed_features_are_those_of_an_uninterrupted_run(tmp_path):
    whole = run(PixelDataset(rows=21), tmp_path / "whole" / "train.h5").file
    with pytest.raises(RequestError):
        run(PixelDataset(rows=21, broken=[20]), tmp_path / "cut" / "train.h5")
    cut = run(PixelDataset(rows=21), tmp_path / "cut" / "train.h5").file
    with h5py.File(whole) as one, h5py.File(cut) as other:
        for name in ("features", "labels", "ids"):
            assert one[name][:].tobytes() == other[name][:].tobytes()


def test_images_of_several_sizes_keep_their_places():
    dataset = PixelDataset(rows=6, sizes=[20, 30, 20, 40, 30, 20])
    encoder = stats(dataset)
    batches = collate([dataset.read(i, encoder.request.bands) for i in range(6)])
    assert [batch.rows for batch in batches] == [[0, 2, 5], [1, 4], [3]]
    native = prepare(batches, encoder, CPU)
    assert [tuple(images.shape[-2:]) for _, images in native] == [(20, 20), (30, 30), (40, 40)]
    ((rows, images),) = prepare(batches, stats(dataset, image_size=16), CPU)
    assert rows == [0, 2, 5, 1, 4, 3] and images.shape == (6, 3, 16, 16)


def test_bands_of_several_resolutions_meet_at_the_finest():
    dataset = PixelDataset(rows=2)
    encoder = stats(dataset, bands="s2-12")
    batches = collate([dataset.read(i, encoder.request.bands) for i in range(2)])
    assert [tuple(pixels.shape) for _, pixels in batches[0].stacks] == [(2, 2, 8, 8), (2, 4, 48, 48), (2, 6, 24, 24)]
    ((_, images),) = prepare(batches, encoder, CPU)
    assert images.shape == (2, 12, 48, 48)
    fine = encoder.request.bands.index(next(b for b in dataset.bands if b.name == "B04"))
    np.testing.assert_array_equal(images[1, fine], dataset.read(1, [encoder.request.bands[fine]])[0])


def test_resizing_is_bilinear_with_half_pixel_centres():
    """Two pixels 0 and 4 become four: centers fall at -1/4, 1/4, 3/4, 5/4 of the way: 0, 1, 3, 4."""
    encoder = stats(PixelDataset())
    row = encoder.resize(torch.tensor([[[[0.0, 4.0], [0.0, 4.0]]]]), (4, 4))[0, 0, 0]
    assert row.tolist() == [0.0, 1.0, 3.0, 4.0]


def test_an_embedding_that_is_not_finite_names_the_sample(tmp_path):
    dataset = PixelDataset()
    encoder = stats(dataset)
    encoder.embed = lambda images, lonlat: torch.full((len(images), encoder.dim), float("nan"))  # type: ignore
    with pytest.raises(RequestError, match="stats .*NaN or infinity for 4 images, first 'train-0'"):
        featurize_split(task(dataset, encoder), tmp_path / "train.h5")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(RequestError, match=f"--device {name}"):
        choose_device(name)


def test_precision():
    encoder = stats(PixelDataset())
    assert choose_precision("auto", CPU, encoder) == "fp32"
    with pytest.raises(RequestError, match="stats runs in fp32 only"):
        choose_precision("bf16", CPU, encoder)
    with pytest.raises(RequestError, match="use auto, fp32"):
        choose_precision("fp8", CPU, encoder)


class Greedy(FrozenModel):
    """Stats of one band that runs out of memory above a number of images at once."""

    fits = 3
    expects = None

    def embed(self, images, lonlat):
        if len(images) > self.fits:
            raise torch.OutOfMemoryError("pretend")
        return images.mean(dim=(1, 2, 3))[:, None]


def greedy(dataset):
    request = EncoderRequest(dataset.bands[-1:], dataset.statistics, lambda: dataset)
    return Greedy(request, dim=1, normalization=scaled("none", request.bands), weights=NO_WEIGHTS, dtype="float32")


@pytest.mark.parametrize("sizes", [None, [20, 30, 20, 40, 30, 20, 20, 20, 20, 30]])
def test_out_of_memory_halves_the_batch_and_loses_nothing(tmp_path, capsys, sizes):
    dataset = PixelDataset(rows=10, sizes=sizes)
    file = featurize_split(task(dataset, greedy(dataset), batch_size=8), tmp_path / "a.h5").file
    assert "out of memory: continuing with 2" in capsys.readouterr().err
    blue = [dataset.read(i, dataset.bands[-1:])[0].mean() for i in range(10)]
    np.testing.assert_allclose(store.read_features(file).features[:, 0], blue, rtol=1e-6)


def test_a_compiled_model_gets_batches_of_one_size_and_makes_the_same_features(tmp_path, monkeypatch):
    """Of another size it would be compiled anew; no compiler is run here, torch's takes a minute."""
    sizes = []

    def compiled(function):
        def call(images, lonlat):
            sizes.append(len(images))
            return function(images, lonlat)

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    dataset = PixelDataset(rows=21)
    one = run(dataset, tmp_path / "one" / "train.h5", batch_size=16).file
    two = run(dataset, tmp_path / "two" / "train.h5", batch_size=16, compile=True).file
    np.testing.assert_allclose(store.read_features(one).features, store.read_features(two).features, rtol=1e-6)
    assert sizes == [8, 8, 8], "no batch is larger than a part, and the last one is filled up"


@pytest.fixture
def threads():
    """Sets torch's number of threads, and puts it back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_the_cores_of_a_cpu_share_a_batch_and_make_the_same_features(threads, cores):
    dataset = PixelDataset(rows=10)
    request = EncoderRequest((), dataset.statistics, lambda: dataset, image_size=32, weights="random")
    encoder = build_encoder("resnet", dataset, "rgb", request)
    raw = collate([dataset.read(row, encoder.request.bands) for row in range(10)])
    with torch.inference_mode():
        ((_, images),) = prepare(raw, encoder, CPU)
        whole = encoder(images, None).numpy()
    forward, seen = encoder.embed, []

    def embed(images, lonlat):
        seen.append((len(images), torch.get_num_threads(), threading.current_thread().name))
        return forward(images, lonlat)

    encoder.embed = embed  # type: ignore
    threads(cores)
    features = Embedder(encoder, plan(batch_size=10)).embed(raw, 10, None, Meter()).features.numpy()
    np.testing.assert_allclose(features, whole, atol=1e-5)
    assert sorted(count for count, *_ in seen) == [2, 4, 4]
    assert {own for _, own, _ in seen} == {1}
    assert all(name.startswith("embed") == (cores > 1) for *_, name in seen)
    assert torch.get_num_threads() == cores, "this thread has as many as before"


def test_no_memory_for_one_image_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(Greedy, "fits", 0)
    dataset = PixelDataset(rows=10)
    with pytest.raises(RequestError, match="too little memory for one image"):
        featurize_split(task(dataset, greedy(dataset)), tmp_path / "a.h5")


def test_an_interrupt_finishes_the_part_at_hand(tmp_path):
    class Interrupting(PixelDataset):
        def read(self, index, bands):
            if index == 9:
                os.kill(os.getpid(), signal.SIGINT)
            return super().read(index, bands)

    before = signal.getsignal(signal.SIGINT)
    dataset = Interrupting(rows=60)
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "train.h5", batch_size=2)
    journal = (tmp_path / "train.parts" / "journal.jsonl").read_text().split()
    assert 1 <= len(journal) < 7, "a part was finished, the rest not begun"
    assert signal.getsignal(signal.SIGINT) is before
    assert run(PixelDataset(rows=60), tmp_path / "train.h5").embedded < 60


def test_the_summary_names_the_stage_that_held_the_others_up(tmp_path):
    class Slow(PixelDataset):
        def read(self, index, bands):
            time.sleep(0.02)
            return super().read(index, bands)

    summary = run(Slow(rows=12), tmp_path / "train.h5")
    assert summary.bottleneck == "read" and summary.images_per_s > 0
    assert store.read_features(summary.file).environment["bottleneck"] == "read"
