"""GEO-Bench v1: real samples, sets made in its layouts, band names put right, and metadata that cannot run code."""

import io
import json
import os
import pickle
import shutil
import signal
import sys
import tarfile
import time
import types
import zipfile
from datetime import date

import h5py
import numpy as np
import pytest
from opening import open_split

from data import inert_pickle
from data.errors import RequestError
from data.geobench_samples import Samples
from data.seen import stamp
from data.sources import geobench


@pytest.fixture
def published_classes(monkeypatch):
    """Stand-ins of the package geobench, so that pickles can name its classes as the real ones do."""
    package, module = types.ModuleType("geobench"), types.ModuleType("geobench.dataset")
    module.Sentinel2 = type("Sentinel2", (), {"__module__": "geobench.dataset"})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "geobench", package)
    monkeypatch.setitem(sys.modules, "geobench.dataset", module)
    return module


def metadata(module, names, label):
    """What the benchmark pickles for a sample."""
    about = {"label": label, "bands_order": list(names)}
    for name in names:
        info = module.Sentinel2()
        info.name = name
        about[name] = {"date": date(2017, 5, 1), "band_info": info, "spatial_resolution": 10, "meta_info": None}
    return pickle.dumps(about)


def write_sample(folder, name, bands, payload):
    with h5py.File(folder / f"{name}.hdf5", "w") as file:
        for band, pixels in bands.items():
            file[band] = pixels
        file.attrs["pickle"] = str(payload)


def make_set(root, name, module, *, label=lambda number: number % 2, samples=6, side=8, suffix="", kind=np.uint16):
    """A whole set in the true layout; returns its pixels by sample and stored band."""
    folder = root / "classification_v1.0" / name
    folder.mkdir(parents=True)
    names = [stored + suffix for stored in geobench.channels(name, band_names="published")]
    rng, pixels = np.random.default_rng(0), {}
    for number in range(samples):
        sample = f"id_{number:04d}"
        pixels[sample] = {band: rng.integers(1, 250, (side, side)).astype(kind) for band in names}
        write_sample(folder, sample, pixels[sample], metadata(module, names, label(number)))
    ids = sorted(pixels)
    (folder / "default_partition.json").write_text(json.dumps({"train": ids[:3], "valid": ids[3:5], "test": ids[5:]}))
    (folder / "0.01x_train_partition.json").write_text(
        json.dumps({"train": ids[:1], "valid": ids[3:5], "test": ids[5:]})
    )
    stats = {band: {"mean": 100.0, "std": 50.0, "max": 249.0} for band in names}
    (folder / "band_stats.json").write_text(json.dumps(stats))
    return pixels


def opened(root, name, split="train", tmp=None, **more):
    return open_split(geobench, split, root, cache_dir=tmp, dataset_variant=name, **more)


def forty_three(number):
    labels = np.zeros(43, np.int64)
    labels[[number, 42]] = 1
    return labels


LABELS = {"m-bigearthnet": forty_three, "m-eurosat": lambda n: np.int64(n)}


@pytest.mark.parametrize("name", geobench.CARD.variants)
def test_every_set_opens_in_its_true_layout(tmp_path, published_classes, name):
    suffix = "_2015-01-01" if name == "m-forestnet" else ""
    label = LABELS.get(name, lambda number: number % 2)
    pixels = make_set(tmp_path, name, published_classes, label=label, suffix=suffix)
    train, test = opened(tmp_path, name), opened(tmp_path, name, "test")
    assert train.ids == ["id_0000", "id_0001", "id_0002"] and test.ids == ["id_0005"]
    assert np.array_equal(train.labels, np.stack([label(number) for number in range(3)]))
    assert train.multilabel == (name == "m-bigearthnet")
    for band, (stored, factor) in zip(train.bands, train.channels.values(), strict=True):
        read = train.read(1, [band])[0]
        assert np.allclose(read, pixels["id_0001"][stored + suffix] * factor, rtol=1e-6)
        assert np.isclose(train.statistics[band.name].mean, 100 * factor)


def test_m_so2sat_gives_digital_numbers(tmp_path, published_classes):
    pixels = make_set(tmp_path, "m-so2sat", published_classes, kind=np.float32)
    train = opened(tmp_path, "m-so2sat")
    blue, radar = (next(b for b in train.bands if b.name == name) for name in ("B02", "VH_real"))
    assert blue.sensor == "S2" and radar.sensor == "other"
    assert np.allclose(train.read(0, [blue])[0], pixels["id_0000"]["02 - Blue"] * 10_000)
    assert np.allclose(train.read(0, [radar])[0], pixels["id_0000"]["01 - VH.Real"])


def test_real_samples_equal_the_files(shared, tmp_path):
    folder = shared / "data" / "geobench-v1"
    train = opened(folder, "m-brick-kiln", tmp=tmp_path)
    assert len(train) == 5 and set(train.labels.tolist()) <= {0, 1}
    for row, sample in enumerate(train.ids):
        with h5py.File(folder / "m-brick-kiln" / f"{sample}.hdf5", locking=False) as file:
            for (stored, _), read in zip(train.channels.values(), train.read(row, train.bands), strict=True):
                assert np.array_equal(read, file[stored][:].astype(np.float32))


def test_the_colours_of_m_brick_kiln_are_told_by_the_real_pixels(shared, tmp_path):
    """The last three bands, published as cirrus and SWIR, follow B04, B03 and B02 and end at 255."""
    train = opened(shared / "data" / "geobench-v1", "m-brick-kiln", tmp=tmp_path)
    bands = {band.name: band for band in train.bands}
    for row in range(len(train)):
        for colour, like in (("red", "B04"), ("green", "B03"), ("blue", "B02")):
            picture, band = train.read(row, [bands[colour], bands[like]])
            assert picture.max() <= 255
            follows = {b: np.corrcoef(picture.ravel(), train.read(row, [bands[b]])[0].ravel())[0, 1] for b in bands}
            assert max((b for b in follows if b not in ("red", "green", "blue")), key=follows.get) == like
            assert np.corrcoef(picture.ravel(), band.ravel())[0, 1] > 0.98


def test_published_names_are_kept_on_request(shared, tmp_path, capsys):
    folder = shared / "data" / "geobench-v1"
    published = opened(folder, "m-brick-kiln", tmp=tmp_path, band_names="published")
    assert [band.name for band in published.bands][-5:] == ["B8A", "B09", "B10", "B11", "B12"]
    assert "published" not in capsys.readouterr().err
    true = opened(folder, "m-brick-kiln", tmp=tmp_path)
    assert [band.name for band in true.bands][-5:] == ["B11", "B12", "red", "green", "blue"]
    assert true.provenance != published.provenance


def test_shifted_names_of_m_eurosat_are_put_right(shared, tmp_path, published_classes):
    """Real tiles, whose band order is known, written under the names that m-eurosat gave that order."""
    from data.sources import eurosat

    real = open_split(eurosat, "val", shared / "data" / "eurosat-ms", cache_dir=tmp_path)
    folder = tmp_path / "m-eurosat"
    folder.mkdir()
    names = list(geobench.channels("m-eurosat", band_names="published"))
    rows, ids = range(0, 120, 12), []
    for row in rows:
        bands = dict(zip(names, real.read(row, real.bands), strict=True))  # file order: B8A comes last
        ids.append(real.ids[row])
        write_sample(folder, real.ids[row], bands, metadata(published_classes, names, int(real.labels[row])))
    (folder / "default_partition.json").write_text(json.dumps({"train": ids, "valid": ids[:1], "test": ids[:1]}))
    stats = dict(zip(names, ({"mean": m, "std": 1.0, "max": 9e3} for m in eurosat.MEANS), strict=True))
    (folder / "band_stats.json").write_text(json.dumps(stats))
    train = opened(tmp_path, "m-eurosat")
    for place, row in enumerate(rows):
        for band in real.bands:
            assert np.array_equal(train.read(place, [band])[0], real.read(row, [band])[0]), band.name
    assert train.labels.tolist() == real.labels[list(rows)].tolist()


def test_names_that_fit_the_statistics_are_left_alone(tmp_path, published_classes):
    """A set whose names somebody has put right is not shifted once more."""
    make_set(tmp_path, "m-eurosat", published_classes)
    file = tmp_path / "classification_v1.0" / "m-eurosat" / "band_stats.json"
    stats = json.loads(file.read_text())
    stats["09 - Water vapour"]["mean"], stats["10 - SWIR - Cirrus"]["mean"] = 732.1, 12.1
    file.write_text(json.dumps(stats))
    channels = opened(tmp_path, "m-eurosat").channels
    assert channels["B10"][0] == "10 - SWIR - Cirrus" and channels["B8A"][0] == "08A - Vegetation Red Edge"


def test_folder_zip_and_shards_are_the_same_samples(tmp_path, published_classes):
    make_set(tmp_path, "m-pv4ger", published_classes, kind=np.uint8)
    folder = tmp_path / "classification_v1.0" / "m-pv4ger"
    packed, sharded = tmp_path / "zip", tmp_path / "wds" / "m-pv4ger"
    packed.mkdir()
    sharded.mkdir(parents=True)
    with zipfile.ZipFile(packed / "m-pv4ger.zip", "w") as archive:
        for file in folder.iterdir():
            archive.write(file, f"m-pv4ger/{file.name}")
    with tarfile.open(sharded / "shard_00000.tar", "w") as archive:
        for file in sorted(folder.glob("*.hdf5")):
            with h5py.File(file) as source:
                arrays, payload = io.BytesIO(), source.attrs["pickle"]
                np.savez(arrays, **{name: source[name][:] for name in source})
            import ast

            for ending, content in (("bands.npz", arrays.getvalue()), ("meta.pkl", ast.literal_eval(payload))):
                member = tarfile.TarInfo(f"{file.stem}.{ending}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    for file in folder.glob("*.json"):
        shutil.copy(file, sharded)
    one, two, three = (opened(root, "m-pv4ger", tmp=tmp_path / "c") for root in (tmp_path, packed, tmp_path / "wds"))
    for other in (two, three):
        assert other.ids == one.ids and np.array_equal(other.labels, one.labels)
        for left, right in zip(one.read(2, one.bands), other.read(2, other.bands), strict=True):
            assert np.array_equal(left, right) and left.dtype == right.dtype


def test_a_partition_has_its_own_samples(tmp_path, published_classes):
    make_set(tmp_path, "m-pv4ger", published_classes)
    small = opened(tmp_path, "m-pv4ger", partition="0.01x_train")
    assert small.ids == ["id_0000"] and small.provenance["partition"] == "0.01x_train"
    with pytest.raises(RequestError, match=r"partition '0.1x_train'.*0.01x_train"):
        opened(tmp_path, "m-pv4ger", partition="0.1x_train")


class Hostile:
    """A pickle that runs a command when it is loaded."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


def test_pickled_code_does_not_run(tmp_path, published_classes):
    make_set(tmp_path, "m-pv4ger", published_classes)
    proof = tmp_path / "ran"
    payload = pickle.dumps({"label": Hostile(f"touch {proof}")})
    pickle.loads(payload)
    assert proof.exists()  # it would run
    proof.unlink()
    file = tmp_path / "classification_v1.0" / "m-pv4ger" / "id_0002.hdf5"
    with h5py.File(file, "a") as target:
        target.attrs["pickle"] = str(payload)
    with pytest.raises(RequestError, match=r"id_0002.hdf5.*system"):
        opened(tmp_path, "m-pv4ger")
    with h5py.File(file, "a") as target:
        target.attrs["pickle"] = f"__import__('os').system('touch {proof}')"
    with pytest.raises(RequestError, match=r"id_0002.hdf5"):
        opened(tmp_path, "m-pv4ger")
    assert not proof.exists()


@pytest.mark.parametrize("label", [3, np.int64(3), np.array([0, 1, 1]), [0, 1], np.array([[1, 2], [3, 4]], ">i2")])
def test_whole_numbers_are_read_as_pickled(label):
    read = inert_pickle.loads(pickle.dumps(label), modules=inert_pickle.NUMPY)
    assert np.array_equal(inert_pickle.integers(read), label)


@pytest.mark.parametrize("label", ["three", None, np.array([0.5]), np.array(["a"])])
def test_other_labels_are_refused(label):
    read = inert_pickle.loads(pickle.dumps(label), modules=inert_pickle.NUMPY)
    with pytest.raises(ValueError, match="whole|plain"):
        inert_pickle.integers(read)


@pytest.mark.parametrize("payload", [b"", b"\x80\x04", b"cos\nsystem\n(S'true'\ntR.", b"garbage"])
def test_damaged_or_foreign_pickles_are_one_error(payload):
    with pytest.raises(pickle.UnpicklingError):
        inert_pickle.loads(payload, modules=())


def damage_partition(folder):
    (folder / "default_partition.json").write_text('{"train": [')


def lose_sample(folder):
    (folder / "id_0001.hdf5").unlink()


def truncate_sample(folder):
    file = folder / "id_0001.hdf5"
    file.write_bytes(file.read_bytes()[:300])


def wrong_label(folder):
    with h5py.File(folder / "id_0001.hdf5", "a") as file:
        file.attrs["pickle"] = str(pickle.dumps({"label": 7}))


def escape(folder):
    (folder / "default_partition.json").write_text('{"train": ["../x"], "valid": [], "test": []}')


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (damage_partition, "default_partition.json"),
        (lose_sample, "1 of 3 samples.*id_0001"),
        (truncate_sample, "id_0001.hdf5"),
        (wrong_label, "id_0001.hdf5.*label 7"),
        (escape, r"\.\./x"),
    ],
)
def test_damage_is_one_line_that_names_the_file(tmp_path, published_classes, damage, told):
    make_set(tmp_path, "m-pv4ger", published_classes)
    damage(tmp_path / "classification_v1.0" / "m-pv4ger")
    with pytest.raises(RequestError, match=told):
        opened(tmp_path, "m-pv4ger")


@pytest.mark.parametrize("label", [[1, 2], "text", None, {"lab": 1}])
def test_metadata_of_another_form_are_one_line(tmp_path, published_classes, label):
    make_set(tmp_path, "m-pv4ger", published_classes)
    with h5py.File(tmp_path / "classification_v1.0" / "m-pv4ger" / "id_0001.hdf5", "a") as file:
        file.attrs["pickle"] = str(pickle.dumps(label))
    with pytest.raises(RequestError, match=r"id_0001.hdf5: .*no label"):
        opened(tmp_path, "m-pv4ger")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("failure", ["ends", "hangs"])
def test_a_sample_that_ends_or_hangs_hdf5_is_one_line(tmp_path, published_classes, monkeypatch, failure):
    make_set(tmp_path, "m-pv4ger", published_classes)
    label = Samples.label

    def badly(self, sample):
        if sample == "id_0001":
            os.kill(os.getpid(), signal.SIGKILL) if failure == "ends" else time.sleep(1000)
        return label(self, sample)

    monkeypatch.setattr(Samples, "label", badly)
    monkeypatch.setattr("data.geobench_samples.PATIENCE_S", 1.0)
    with pytest.raises(RequestError, match=r"id_0001.hdf5 is damaged.*HDF5"):
        opened(tmp_path, "m-pv4ger")


def test_a_set_without_statistics_that_ends_hdf5_is_one_line(tmp_path, published_classes, monkeypatch):
    make_set(tmp_path, "m-pv4ger", published_classes)
    folder = tmp_path / "classification_v1.0" / "m-pv4ger"
    (folder / "band_stats.json").unlink()
    assert opened(tmp_path, "m-pv4ger").statistics["red"].mean > 1
    monkeypatch.setattr(Samples, "pixels", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(RequestError, match="m-pv4ger: .*HDF5"):
        opened(tmp_path, "m-pv4ger")


def test_samples_have_files_and_stamps_as_other_datasets_do(tmp_path, published_classes):
    make_set(tmp_path, "m-pv4ger", published_classes)
    folder = tmp_path / "classification_v1.0" / "m-pv4ger"
    dataset = opened(tmp_path, "m-pv4ger")
    assert dataset.digest_of_times and dataset.files(1, dataset.bands) == [str(folder / "id_0001.hdf5")]
    assert [stamp(dataset, row, dataset.bands) for row in range(3)] == dataset.looked.tolist()
    os.utime(folder / "id_0001.hdf5", (1, 1))
    same = [stamp(dataset, row, dataset.bands) == dataset.looked[row] for row in range(3)]
    assert same == [True, False, True]
    assert opened(tmp_path, "m-pv4ger").files_digest != dataset.files_digest


def test_a_wrong_set_or_an_empty_folder_says_what_to_put_where(tmp_path):
    with pytest.raises(RequestError, match="unknown variant of geobench 'm-eurosats'.*m-eurosat"):
        opened(tmp_path, "m-eurosats")
    with pytest.raises(RequestError, match=r"no m-eurosat/.*m-eurosat\.zip.*--data-root"):
        opened(tmp_path, "m-eurosat")
    with pytest.raises(RequestError, match="band-names"):
        opened(tmp_path, "m-eurosat", band_names="right")
