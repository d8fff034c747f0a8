"""Packed files: the source's own values, every kind of damage seen, and nothing half-written however a run ends."""

import hashlib
import json
import os
import pickle
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
import xxhash
from helpers import make_features
from pixels import PixelDataset

from data import command, packed, store
from data.bands import choose_bands
from data.dataset import limited
from data.errors import RequestError
from data.lock import Lock
from data.packed import PackedSplit, checksums, verify_packed
from data.packing import pack
from featurize.cli import app
from featurize.encoder import EncoderRequest, build_encoder
from featurize.pipeline import featurize_split
from featurize.runtime import Runtime, choose_workers
from featurize.task import Task

ROWS = 150  # more than two blocks
SPLITS = ("train", "val")


@pytest.fixture(scope="module")
def source():
    return {split: PixelDataset(split, ROWS) for split in SPLITS}


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """Every band of the source in one file."""
    file = tmp_path_factory.mktemp("packed") / "pixels.h5"
    pack(file, source, source["train"].bands)
    return file


@pytest.fixture
def copy(whole, tmp_path):
    file = tmp_path / "pixels.h5"
    file.write_bytes(whole.read_bytes())
    return file


@pytest.fixture
def featurize(capsys):
    """Run the command in this process; returns exit code, output and errors."""

    def run(*words):
        code = command.run(app, [str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def one_line(error):
    return error.startswith("featurize: ") and error.count("\n") == 1 and "Traceback" not in error


def flip(file: Path, offset: int) -> None:
    content = bytearray(file.read_bytes())
    content[offset] ^= 4
    file.write_bytes(content)


# --------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("spec", ["all", "s2-12", "rgb", "B12,VH,B01,B02"])
def test_a_packed_split_gives_the_sources_values_types_and_resolutions(whole, source, spec):
    ours, theirs = PackedSplit(whole, "val"), source["val"]
    bands = choose_bands(theirs.bands, spec)
    for index in (0, 63, 64, ROWS - 1):
        for mine, expected in zip(ours.read(index, bands), theirs.read(index, bands), strict=True):
            assert mine.dtype == expected.dtype
            np.testing.assert_array_equal(mine, expected)


def test_a_packed_split_has_all_that_the_source_says_of_itself(whole, source):
    ours, theirs = PackedSplit(whole, "train"), source["train"]
    for name in ("name", "variant", "split", "ids", "class_names", "bands", "statistics", "provenance", "files_digest"):
        assert getattr(ours, name) == getattr(theirs, name), name
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    np.testing.assert_array_equal(ours.lonlat, theirs.lonlat)
    assert store.make_identity(ours, {}) == store.make_identity(theirs, {})


@pytest.mark.parametrize("rows", [range(3, 90), [5, 6, 7, 30, 2, 149], [0]], ids=["a block", "scattered", "one"])
@pytest.mark.parametrize("spec", ["all", "B11,B03,VV,B12"])
def test_many_samples_read_at_once_are_those_read_one_by_one(whole, rows, spec):
    ours = PackedSplit(whole, "train")
    bands = choose_bands(ours.bands, spec)
    seen = []
    for channels, pixels in ours.read_stacks(rows, bands):
        seen += channels
        for place, row in enumerate(rows):
            for channel, image in zip(channels, pixels[place], strict=True):
                np.testing.assert_array_equal(image, ours.read(row, [bands[channel]])[0])
    assert sorted(seen) == list(range(len(bands)))


@pytest.mark.parametrize("workers", [0, 2])
def test_features_and_identity_are_those_of_the_source(whole, source, tmp_path, workers):
    """Reader processes included: HDF5 handles shared by processes give wrong data."""
    plan = Runtime(device=torch.device("cpu"), precision="fp32", batch_size=16, workers=workers, part_rows=64)
    ours, theirs = limited(PackedSplit(whole, "val"), 140), limited(source["val"], 140)
    files = []
    for name, samples in (("ours", ours), ("theirs", theirs)):
        request = EncoderRequest((), samples.statistics, lambda samples=samples: samples)
        encoder = build_encoder("stats", samples, "s2-10", request)
        files.append(
            featurize_split(
                Task(dataset=samples, encoder=encoder, runtime=plan, limit=140), tmp_path / name / "val.h5"
            ).file
        )
    mine, expected = map(store.read_features, files)
    np.testing.assert_array_equal(mine.features, expected.features)
    assert mine.identity == expected.identity
    assert mine.environment["packed"] == "pixels.h5" and "packed" not in expected.environment


def test_bands_that_a_file_has_only_named_take_what_the_tables_say_now(tmp_path, monkeypatch):
    """Packed before a wavelength was corrected, it must give the identity that the source gives today."""
    source = PixelDataset(rows=3)
    bands = choose_bands(source.bands, "s2-10")
    pack(tmp_path / "p.h5", {"train": source}, bands)
    corrected = packed.Band("B02", "S2", 0.5, 10, "blue")
    monkeypatch.setitem(packed.KNOWN, "B02", corrected)
    assert PackedSplit(tmp_path / "p.h5", "train").bands[0] == corrected


def test_any_tool_can_open_it(whole, source):
    with h5py.File(whole) as file:
        red = file["train/48x48-uint8"]
        np.testing.assert_array_equal(red[7, 0], source["train"].read(7, choose_bands(source["train"].bands, "red"))[0])
        assert file["train/ids"][7] == b"train-7" and "wavelength" not in file["header"][:].tobytes().decode()


def test_it_survives_pickling_with_its_file_open(whole):
    """Reader processes that are started anew, as on macOS, get the dataset pickled."""
    ours = PackedSplit(whole, "train")
    first = ours.read(1, ours.bands)
    again = pickle.loads(pickle.dumps(ours))
    np.testing.assert_array_equal(again.read(1, ours.bands)[0], first[0])


def test_no_reader_processes_are_started_for_a_packed_file(source, whole):
    assert choose_workers(None, source["train"], 10_000) > 0
    assert choose_workers(None, PackedSplit(whole, "train"), 10_000) == 0
    assert choose_workers(3, PackedSplit(whole, "train"), 10_000) == 3


# --------------------------------------------------------------------------------------------- damage


def test_a_checksum_is_xxh3_of_the_bytes():
    """Each band of each image on its own."""
    pixels = np.arange(2 * 3 * 4 * 5, dtype="<u2").reshape(2, 3, 4, 5)
    expected = [[xxhash.xxh3_64_intdigest(band.tobytes()) for band in image] for image in pixels]
    assert checksums(pixels).tolist() == expected


@pytest.mark.parametrize(("shape", "dtype"), [((8, 8), "uint16"), ((5, 7), "uint8"), ((3, 5), "uint16")])
def test_a_checksum_sees_every_flipped_bit_and_words_that_change_places(shape, dtype):
    pixels = np.random.default_rng(0).integers(1, 200, (2, *shape)).astype(dtype)
    before = checksums(pixels)
    seen = {tuple(before)}
    for byte in range(pixels[1].nbytes):
        for bit in range(8):
            damaged = pixels.copy()
            damaged[1].reshape(-1).view(np.uint8)[byte] ^= 1 << bit
            after = checksums(damaged)
            assert after[0] == before[0] and after[1] != before[1]
            seen.add(tuple(after))
    assert len(seen) == 8 * pixels[1].nbytes + 1
    assert (checksums(pixels[:, ::-1]) != before).all()


def test_zeros_where_pixels_and_checksums_were_lost_do_not_pass():
    assert checksums(np.zeros((1, 4, 4), np.uint16)).all()


def test_two_flips_do_not_cancel_out():
    """As they would in a sum of the words, or their exclusive or."""
    pixels = np.zeros((64, 8, 8), np.uint16)
    for row, flipped in enumerate(pixels.reshape(64, -1)):
        flipped[[3, 63 - row]] ^= 1 << 15
    assert len(set(checksums(pixels).tolist())) == len({(3, 63 - row) for row in range(64)})


@pytest.mark.parametrize("place", ["48x48-uint16", "8x8-uint16", "checksums"])
def test_a_damaged_sample_stops_with_file_band_and_name(copy, featurize, tmp_path, place):
    with h5py.File(copy) as file:
        array = file["train"][place]
        offset, row_bytes = array.id.get_offset(), array[0].nbytes
    flip(copy, offset + 70 * row_bytes + 1)
    ours = PackedSplit(copy, "train")
    bands = choose_bands(ours.bands, "s2-12")
    ours.read(69, bands)
    if place != "checksums":
        message = f"{copy} is damaged: 1 bands do not match their checksum, first B0. of 'train-70' \\(train\\)"
        with pytest.raises(RequestError, match=message):
            ours.read_stacks(range(60, 80), bands)
    code, out, _ = featurize("verify", copy)
    assert code == 1 and "train-70" in out and "0 of 1 files" in out


@pytest.mark.parametrize("name", ["labels", "ids", "lonlat", "header"])
def test_damage_beside_the_pixels_is_seen_on_opening(copy, name):
    with h5py.File(copy) as file:
        array = file["header"] if name == "header" else file["train"][name]
        offset = array.id.get_offset()
    flip(copy, offset + 10)
    with pytest.raises(RequestError, match=f"pixels.h5 is damaged: .*{name}"):
        PackedSplit(copy, "train")


@pytest.mark.parametrize("name", ["48x48-uint16", "ids"])
def test_a_file_that_was_repacked_with_compression_is_one_line(copy, featurize, name):
    """As h5repack -f GZIP=1 does: arrays in chunks have no one place to read from."""
    with h5py.File(copy, "r+") as file:
        pixels = file["train"][name][:]
        del file["train"][name]
        file["train"].create_dataset(name, data=pixels, compression=1)
    if name == "ids":
        assert PackedSplit(copy, "train").ids[0] == "train-0"
        return
    for words in (["--model", "stats", "--packed", copy], ["verify", copy]):
        code, out, err = featurize(*words)
        assert code in (1, 2) and "chunked" in out + err and "Traceback" not in out + err


def with_header(file, change):
    """Another header with the right checksum."""
    with h5py.File(file, "r+") as target:
        header = json.loads(target["header"][:].tobytes())
        text = json.dumps(change(header)).encode()
        del target["header"]
        target.create_dataset("header", data=np.frombuffer(text, np.uint8))
        target.attrs["header_sha256"] = hashlib.sha256(text).hexdigest()


WRONG_HEADERS = {
    "a list": lambda header: [1],
    "a number": lambda header: 3,
    "no bands": lambda header: header | {"bands": None},
    "unknown band": lambda header: header | {"bands": ["B99"]},
    "stacks of text": lambda header: header | {"stacks": ["x"]},
    "stack of no type": lambda header: header | {"stacks": [header["stacks"][0] | {"dtype": "x"}]},
    "no splits": lambda header: header | {"splits": 3},
    "rows of text": lambda header: header | {"splits": {"train": header["splits"]["train"] | {"rows": "x"}}},
    "other rows": lambda header: header | {"splits": {"train": header["splits"]["train"] | {"rows": 3}}},
    "statistics of text": lambda header: header | {"statistics": {name: "x" for name in header["statistics"]}},
    "no dataset": lambda header: header | {"dataset": {}},
    "classes that are a number": lambda header: header | {"dataset": header["dataset"] | {"class_names": 4}},
    "dates": lambda header: header | {"made": "today"},
}


@pytest.mark.parametrize("change", WRONG_HEADERS.values(), ids=WRONG_HEADERS)
def test_a_header_of_another_form_is_one_line(copy, change):
    with_header(copy, change)
    with pytest.raises(RequestError, match="pixels.h5 is not a (readable )?packed file"):
        PackedSplit(copy, "train")


@pytest.mark.parametrize("keep", [0.9, 0.5, 0.001])
def test_a_truncated_file_is_named(copy, featurize, keep):
    content = copy.read_bytes()
    copy.write_bytes(content[: int(keep * len(content))])
    code, _, err = featurize("--model", "stats", "--packed", copy)
    assert code == 2 and one_line(err) and "pixels.h5" in err and "featurize pack" in err


def test_a_file_cut_while_it_is_read_is_named(copy):
    ours = PackedSplit(copy, "val")
    ours.read(0, ours.bands)
    os.truncate(copy, 1000)
    with pytest.raises(RequestError, match="pixels.h5 is not a readable packed file .*ends too early"):
        ours.read(ROWS - 1, ours.bands)


# --------------------------------------------------------------------------------------------- requests


WRONG = {
    "absent": (["--packed", "{tmp}/gone.h5"], "no packed file at {tmp}/gone.h5"),
    "features": (["--packed", "{features}"], "is a feature file, not a packed dataset"),
    "text": (["--packed", "{tmp}/notes.h5"], "notes.h5 is damaged"),
    "other dataset": (
        ["--packed", "{file}", "--dataset", "simulated"],
        "--dataset simulated cannot be combined with --packed",
    ),
    "data root": (["--packed", "{file}", "--data-root", "{tmp}"], "--data-root {tmp} cannot be combined with --packed"),
    "download": (["--packed", "{file}", "--download"], "--download cannot be combined with --packed"),
    "other split": (["--packed", "{file}", "--split", "test"], "holds no split test; it holds train, val"),
    "absent band": (["--packed", "{file}", "--bands", "B02,nir"], "{file} has no nir; it has VV, VH, B01"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_one_clear_line(copy, tmp_path, featurize, case):
    words, message = WRONG[case]
    (tmp_path / "notes.h5").write_text("notes")
    features = make_features(tmp_path / "made", multilabel=False, rows=(9, 9, 9)) / "train.h5"

    def filled(word):
        return word.replace("{tmp}", str(tmp_path)).replace("{file}", str(copy)).replace("{features}", str(features))

    code, _, err = featurize("--model", "stats", *map(filled, words), "--out", tmp_path / "runs")
    assert code == 2 and one_line(err), err
    assert filled(message) in err
    assert not list((tmp_path / "runs").rglob("*.h5"))


def test_features_of_a_limited_pack_are_reused_from_the_source_and_the_other_way(featurize, tmp_path):
    data = ["--dataset", "simulated", "--split", "val", "--limit", 9]
    file, model = tmp_path / "p.h5", ["--model", "stats", "--bands", "rgb", "--out", tmp_path / "runs"]
    code, out, _ = featurize("pack", *data, "--bands", "B04,B03,B02,B08", "--to", file)
    assert code == 0 and "9 images of 4 bands, 115,200 bytes each" in out
    code, out, _ = featurize(*model, "--packed", file)
    assert code == 0 and "wrote " in out and "val.h5" in out
    code, out, _ = featurize(*model, *data)
    assert code == 0 and out.startswith("reused ")
    code, _, err = featurize(*model, "--packed", file, "--limit", 4)
    assert code == 2 and "--limit 4 cannot be combined with --packed" in err
    code, out, _ = featurize("pack", *data, "--bands", "B04,B03,B02,B08", "--to", file)
    assert code == 0 and out.startswith("reused ")
    code, _, err = featurize("pack", *data, "--bands", "rgb", "--to", file)
    assert code == 2 and one_line(err) and "bands" in err and "--overwrite" in err
    assert featurize("pack", *data, "--bands", "rgb", "--to", file, "--overwrite")[0] == 0
    assert [band.name for band in PackedSplit(file, "val").bands] == ["B04", "B03", "B02"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.h5", "runs"]


def test_a_command_reads_the_header_once(whole, featurize, tmp_path, monkeypatch):
    read, kept = [], packed.read_header
    monkeypatch.setattr(packed, "read_header", lambda file: read.append(file) or kept(file))
    code, _, err = featurize("--model", "stats", "--packed", whole, "--out", tmp_path)
    assert code == 0 and read == [whole], err


def test_a_pack_can_be_packed_again_with_fewer_bands(whole, featurize, tmp_path):
    again = tmp_path / "again.h5"
    pack(again, {"val": PackedSplit(whole, "val")}, choose_bands(PackedSplit(whole, "val").bands, "s1"))
    np.testing.assert_array_equal(
        PackedSplit(again, "val").read(9, PackedSplit(again, "val").bands)[1],
        PackedSplit(whole, "val").read(9, choose_bands(PackedSplit(whole, "val").bands, "VH"))[0],
    )


def test_a_name_that_does_not_end_in_h5(tmp_path, source):
    with pytest.raises(RequestError, match=r"--to .*\.h5"):
        pack(tmp_path / "pixels.zip", source, source["train"].bands)


# --------------------------------------------------------------------------------------------- how a run ends


@pytest.mark.parametrize("workers", [0, 2])
def test_images_of_several_sizes_are_refused_by_name(tmp_path, workers):
    ragged = PixelDataset(rows=6, sizes=[20, 20, 20, 40, 30, 20])
    message = "'train-3' has red as 40 x 40 uint8, the first image as 20 x 20 uint8; .* images of one size"
    with pytest.raises(RequestError, match=message):
        pack(tmp_path / "p.h5", {"train": ragged}, choose_bands(ragged.bands, "rgb"), workers=workers)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_sample_stops_with_its_name_and_nothing_is_left(tmp_path, workers):
    broken = PixelDataset(rows=100, broken=[70])
    with pytest.raises(RequestError, match="sample train-70 is truncated"):
        pack(tmp_path / "p.h5", {"train": broken}, choose_bands(broken.bands, "rgb"), workers=workers)
    assert list(tmp_path.iterdir()) == []


def test_worker_processes_write_the_same_bytes(source, tmp_path):
    bands = choose_bands(source["train"].bands, "s1s2")
    for workers in (0, 3):
        pack(tmp_path / f"{workers}.h5", source, bands, workers=workers)
    for split in SPLITS:
        ours = [PackedSplit(tmp_path / f"{workers}.h5", split) for workers in (0, 3)]
        np.testing.assert_array_equal(ours[0].sums, ours[1].sums)
    assert verify_packed(tmp_path / "3.h5") == ()


def test_a_second_writer_is_told_of_the_first(source, tmp_path):
    with (
        Lock(tmp_path / "p.lock"),
        pytest.raises(RequestError, match=r"p.h5 is being written by process \d+"),
    ):
        pack(tmp_path / "p.h5", source, choose_bands(source["train"].bands, "rgb"))


def packing(file: Path, *extra: str, **options) -> subprocess.Popen:
    words = ["--dataset", "simulated", "--split", "train", "--bands", "rgb", "--to", str(file), *extra]
    return subprocess.Popen(
        [sys.executable, "-m", "featurize", "pack", *words], stderr=subprocess.PIPE, text=True, **options
    )


def test_a_disk_that_fills_up_is_one_clear_line(tmp_path):
    """A real limit of the operating system on file sizes."""

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, resource.RLIM_INFINITY))

    process = packing(tmp_path / "p.h5", "--limit", "60", preexec_fn=small_files)
    error = process.communicate()[1]
    assert process.returncode == 2 and one_line(error), error
    assert f"no space left to write {tmp_path / 'p.h5'}, 5 MB" in error and "--to" in error
    assert list(tmp_path.iterdir()) == []


def at_work(process: subprocess.Popen, folder: Path) -> None:
    """Return once the process has laid out its file."""
    deadline = time.monotonic() + 60
    while process.poll() is None and not any(path.stat().st_size > 1e6 for path in folder.glob("p.h5.tmp-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def readers(process: subprocess.Popen, count: int) -> list[int]:
    """The reader processes, once so many have begun."""
    deadline = time.monotonic() + 60
    while len(found := children(process.pid)) < count and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see worker processes")
def test_a_killed_run_leaves_no_file_and_no_process_and_the_next_starts_cleanly(tmp_path):
    process = packing(tmp_path / "p.h5", "--workers", "2")
    at_work(process, tmp_path)
    workers = readers(process, 2)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert len(workers) == 2 and not (tmp_path / "p.h5").exists()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/stat").exists() and "Z" not in state(pid) for pid in workers):
        assert time.monotonic() < deadline, "worker processes outlive their parent"
        time.sleep(0.05)
    again = packing(tmp_path / "p.h5", "--limit", "20")
    assert again.wait() == 0, again.communicate()[1]
    assert [path.name for path in tmp_path.iterdir()] == ["p.h5"] and verify_packed(tmp_path / "p.h5") == ()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc to see worker processes")
def test_a_killed_reader_process_is_one_clear_line(tmp_path):
    """The others used to take the request to end for an error of their work, and the pool waited for ever."""
    process = packing(tmp_path / "p.h5", "--workers", "2")
    at_work(process, tmp_path)
    workers = readers(process, 2)
    while not all(map(ignores_interrupts, workers)):
        time.sleep(0.01)
    time.sleep(0.5)  # until they have said that they are ready: of one that cannot start the work is done without
    os.kill(workers[0], signal.SIGKILL)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 2 and "a reader process was killed" in error and one_line(error), error
    assert list(tmp_path.iterdir()) == []


def ignores_interrupts(pid: int) -> bool:
    """Whether a reader process has got so far as to leave Ctrl-C to its parent."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    mask = int(status.partition("SigIgn:")[2].split()[0], 16)
    return bool(mask >> (signal.SIGINT - 1) & 1)


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "Z"


@pytest.mark.parametrize("kind, exit_code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_leaves_nothing(tmp_path, kind, exit_code):
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # which tests run in the background ignore
    process = packing(tmp_path / "p.h5", "--workers", "1", start_new_session=True, preexec_fn=heeding)
    at_work(process, tmp_path)
    deadline = time.monotonic() + 60
    while not any(map(ignores_interrupts, children(process.pid))) and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)  # Python loses an interrupt that comes in the very moment of starting a reader process
    # Ctrl-C reaches the workers too
    (os.killpg if kind == signal.SIGINT else os.kill)(process.pid, kind)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == exit_code and "p.h5 was not written" in error and "Traceback" not in error, error
    assert list(tmp_path.iterdir()) == []
