"""The feature contract: identity, parts and journal, locks, publication, verify."""

import errno
import json
import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from helpers import TinyDataset, encoder_identity, flips

from data import command, files, paths, store
from data import lock as lock_module
from data.bands import SENTINEL1, SENTINEL2
from data.errors import RequestError
from data.lock import Lock
from data.problems import Kind
from featurize.cli import app

ROWS, DIM, PART = 50, 6, 16


@pytest.fixture
def dataset():
    labels = (np.random.default_rng(0).random((ROWS, 3)) < 0.4).astype(np.uint8)
    return TinyDataset("train", labels, ["a", "b", "c"], lonlat=np.zeros((ROWS, 2)))


@pytest.fixture
def features():
    return np.random.default_rng(1).normal(size=(ROWS, DIM)).astype(np.float32)


def writer_for(file, dataset, **changes):
    identity = store.make_identity(dataset, encoder_identity(**changes))
    return store.FeatureWriter(file, identity, rows=ROWS, dim=DIM, dtype="float32", part_rows=PART)


def write_all(file, dataset, features):
    with writer_for(file, dataset) as writer:
        for part in writer.missing():
            writer.write_part(part, features[slice(*writer.bounds(part))])
        return writer.finish(dataset, {"device": "cpu"})


def test_what_is_written_is_read_back(tmp_path, dataset, features):
    got = store.read_features(write_all(tmp_path / "train.h5", dataset, features))
    np.testing.assert_array_equal(got.features, features)
    np.testing.assert_array_equal(got.labels, dataset.labels)
    assert got.ids == dataset.ids and got.class_names == ("a", "b", "c") and got.multilabel
    assert store.verify_features(got.file).problems == ()
    with h5py.File(got.file) as file:
        assert file["features"].chunks == (ROWS, DIM) and file["features"].fletcher32
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.h5"]


def test_interrupted_write_resumes_where_it_stopped(tmp_path, dataset, features):
    file = tmp_path / "train.h5"
    with writer_for(file, dataset) as writer:
        assert writer.missing() == [0, 1, 2, 3]
        writer.write_part(0, features[:16])
        writer.write_part(2, features[32:48])
    with writer_for(file, dataset) as writer:
        assert writer.missing() == [1, 3]
    with pytest.raises(RequestError, match="2 parts are missing"), writer_for(file, dataset) as writer:
        writer.finish(dataset, {})
    np.testing.assert_array_equal(store.read_features(write_all(file, dataset, features)).features, features)


def test_a_part_that_exists_but_is_not_in_the_journal_is_not_trusted(tmp_path, dataset, features):
    with writer_for(tmp_path / "train.h5", dataset) as writer:
        writer.write_part(0, features[:16])
        writer.journal.write_text("")
        assert 0 in writer.missing()


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove"])
def test_a_damaged_part_is_computed_again(tmp_path, dataset, features, damage):
    with writer_for(tmp_path / "train.h5", dataset) as writer:
        writer.write_part(0, features[:16])
        part = writer.parts / "part-00000.h5"
        content = bytearray(part.read_bytes())
        content[len(content) // 2] ^= 1
        if damage == "remove":
            part.unlink()
        else:
            part.write_bytes(content if damage == "flip" else content[:-10])
        assert writer.missing() == [0, 1, 2, 3]


def test_a_journal_line_cut_short_loses_one_part_only(tmp_path, dataset, features):
    with writer_for(tmp_path / "train.h5", dataset) as writer:
        writer.write_part(0, features[:16])
        writer.write_part(1, features[16:32])
        writer.journal.write_text(writer.journal.read_text()[:-20])
        assert writer.missing() == [1, 2, 3]
        writer.write_part(1, features[16:32])  # the new line must not grow onto the torn one
        assert writer.missing() == [2, 3]


def test_parts_of_another_identity_are_not_mixed_in(tmp_path, dataset, features):
    with writer_for(tmp_path / "train.h5", dataset) as writer:
        writer.write_part(0, features[:16])
    with pytest.raises(RequestError, match=" identity.encoder.pooling"):
        writer_for(tmp_path / "train.h5", dataset, pooling="cls").__enter__()
    assert not paths.lock_file(tmp_path / "train.h5").exists()


def test_parts_that_a_killed_runs_process_still_writes_do_not_count(tmp_path, dataset, features):
    file = tmp_path / "train.h5"
    size = {"rows": ROWS, "dim": DIM, "dtype": "float32", "part_rows": PART}
    with writer_for(file, dataset) as killed:
        left = [store.PartWriter(file, **size, writer=f"rank-{n}", plan=killed.plan_sha256) for n in (1, 2)]
        left[0].write_part(0, features[slice(*killed.bounds(0))])  # read the plan before the next run; rank 2 has not
    identity = store.make_identity(dataset, encoder_identity(pooling="cls"))
    with store.FeatureWriter(file, identity, **size, overwrite=True) as writer:
        for part, rank in enumerate(left):
            rank.write_part(part, features[slice(*writer.bounds(part))])
        assert writer.recorded() == set() and writer.missing() == list(range(writer.parts_in_all))


def test_a_second_writer_stops(tmp_path, dataset):
    with (
        writer_for(tmp_path / "train.h5", dataset),
        pytest.raises(RequestError, match=f"being written by process {os.getpid()}"),
    ):
        writer_for(tmp_path / "train.h5", dataset).__enter__()


def test_a_dead_writers_lock_is_taken_over(tmp_path, dataset, features):
    file = tmp_path / "train.h5"
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    lock = {"host": "here", "place": lock_module.place(), "pid": int(dead.stdout), "started": "1"}
    paths.lock_file(file).write_text(json.dumps(lock))
    assert write_all(file, dataset, features) == file
    lock["pid"] = os.getpid()  # the number given to another process since
    paths.lock_file(file).write_text(json.dumps(lock))
    with Lock(paths.lock_file(file)):
        pass


def test_another_hosts_lock_is_respected(tmp_path, dataset):
    owner = {"host": "elsewhere", "place": "another", "pid": 1, "started": "1"}
    paths.lock_file(tmp_path / "train.h5").write_text(json.dumps(owner))
    with pytest.raises(RequestError, match="process 1 on elsewhere.*delete .*train.lock"):
        writer_for(tmp_path / "train.h5", dataset).__enter__()


@pytest.mark.parametrize("where", ["part", "finish", "plan"])
def test_a_full_disk_is_one_clear_error_and_loses_no_part(tmp_path, dataset, features, monkeypatch, where):
    file = tmp_path / "train.h5"

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def run():
        with writer_for(file, dataset) as writer:
            writer.write_part(0, features[:16])
            if where == "part":
                monkeypatch.setattr(files.os, "fsync", full)
            writer.write_part(1, features[16:32])
            for part in (2, 3):
                writer.write_part(part, features[slice(*writer.bounds(part))])
            monkeypatch.setattr(files.os, "fsync", full)
            writer.finish(dataset, {})

    if where == "plan":
        monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RequestError, match="no space left to write"):
        run()
    monkeypatch.undo()
    assert not file.exists() and not list(tmp_path.rglob("*.tmp-*"))
    if where == "part":
        with writer_for(file, dataset) as writer:
            assert writer.missing() == [1, 2, 3]
    np.testing.assert_array_equal(store.read_features(write_all(file, dataset, features)).features, features)


def test_too_little_space_is_known_before_work_starts(tmp_path, dataset, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(RequestError, match="no space left: .* needs"):
        writer_for(tmp_path / "train.h5", dataset).__enter__()


def break_flip(path):
    with h5py.File(path, "r+") as file:
        file["features"][3, 2] += 1


def break_labels(path):
    with h5py.File(path, "r+") as file:
        file["labels"][0, 0] ^= 1


def break_ids(path):
    with h5py.File(path, "r+") as file:
        file["ids"][1] = file["ids"][0]


def break_nan(path):
    with h5py.File(path, "r+") as file:
        file["features"][5, 0] = np.nan


def break_truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def break_text(path):
    path.write_text("not HDF5")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (break_flip, [(Kind.DAMAGED, "'features'")]),
        (break_labels, [(Kind.DAMAGED, "'labels'"), (Kind.DAMAGED, "labels")]),
        (break_ids, [(Kind.DAMAGED, "'ids'"), (Kind.DAMAGED, "ids"), (Kind.DUPLICATE_IDS, "1 ids")]),
        (break_nan, [(Kind.DAMAGED, "'features'"), (Kind.NOT_FINITE, "row 5")]),
        (break_truncate, [(Kind.UNREADABLE, "train.h5")]),
        (break_text, [(Kind.UNREADABLE, "train.h5")]),
    ],
)
def test_verify_finds_damage(tmp_path, dataset, features, damage, expected):
    file = write_all(tmp_path / "train.h5", dataset, features)
    damage(file)
    problems = store.verify_features(file).problems
    assert [problem.kind for problem in problems] == [kind for kind, _ in expected]
    assert all(told in problem.text for problem, (_, told) in zip(problems, expected, strict=True))


def test_verify_finds_a_changed_identity_and_a_damaged_one(tmp_path, dataset, features):
    file = write_all(tmp_path / "train.h5", dataset, features)
    for old, new in (('"pooling":', '"pooling!":'), ("ids_sha256", "ids_sha257")):
        with h5py.File(file, "r+") as opened:
            before = opened.attrs["identity"]
            assert old in before
            opened.attrs["identity"] = before.replace(old, new, 1)
        assert len(store.verify_features(file).problems) == 1, old
        with h5py.File(file, "r+") as opened:
            opened.attrs["identity"] = before
    assert store.verify_features(file).problems == ()


def test_the_digest_of_files_is_of_the_sensors_that_are_read(dataset):
    dataset.bands = [SENTINEL1["VV"], SENTINEL2["B02"]]
    dataset.files_digest = {"S1": "1", "S2": "2"}
    digests = [
        store.make_identity(dataset, encoder_identity(bands=bands))["split"]["files_sha256"]
        for bands in (["VV"], ["B02"], ["VV", "B02"])
    ]
    assert digests == ["1", "2", {"S1": "1", "S2": "2"}]


def test_verify_finds_collapse(tmp_path, dataset):
    file = write_all(tmp_path / "train.h5", dataset, np.ones((ROWS, DIM), np.float32))
    assert [problem.kind for problem in store.verify_features(file).problems] == [Kind.COLLAPSED]


def test_a_reader_keeps_what_it_opened_while_another_run_publishes(tmp_path, dataset, features):
    file = write_all(tmp_path / "train.h5", dataset, features)
    before = store.read_features(file, lazy=True)
    np.testing.assert_array_equal(before.features[:10], features[:10])
    file.rename(tmp_path / "old.h5")
    write_all(file, dataset, features + 1)
    np.testing.assert_array_equal(before.features[:], features)
    os.replace(file, tmp_path / "old.h5")  # the name taken over, as --overwrite does: nothing is left of the first
    np.testing.assert_array_equal(before.features[:], features)
    np.testing.assert_array_equal(store.read_features(tmp_path / "old.h5").features, features + 1)


def test_verify_tells_of_unfinished_splits_and_their_damage(tmp_path, dataset, features, capsys):
    file = tmp_path / "train.h5"
    with writer_for(file, dataset) as writer:
        for part in (0, 2):
            writer.write_part(part, features[slice(*writer.bounds(part))])
    assert command.run(app, ["verify", str(tmp_path)]) == 0
    assert "train.parts: unfinished, 2 of 4 parts done" in capsys.readouterr().out
    os.truncate(paths.parts_folder(file) / "part-00002.h5", 100)
    assert command.run(app, ["verify", str(paths.parts_folder(file))]) == 1
    out = capsys.readouterr().out
    assert "part 2 does not match the journal" in out and "1 of 4 parts done" in out
    (paths.parts_folder(file) / "plan.json").write_text("{")
    assert command.run(app, ["verify", str(tmp_path)]) == 1
    assert "plan.json is damaged" in capsys.readouterr().out


def test_no_damage_of_a_plan_costs_a_part_that_is_in_the_journal(tmp_path, dataset, features):
    """It used to be a traceback for ever, or advice that would drop sound parts."""
    file = tmp_path / "train.h5"
    with writer_for(file, dataset) as writer:
        for part in (0, 2):
            writer.write_part(part, features[slice(*writer.bounds(part))])
    plan = paths.parts_folder(file) / "plan.json"
    whole = plan.read_bytes()
    for damaged in [b"", b"[]", b"{", whole[:-9], whole.replace(b'"rows":50', b'"rows":40'), *flips(whole, 60)]:
        plan.write_bytes(damaged)
        with writer_for(file, dataset) as writer:
            assert (writer.part_rows, writer.missing()) == (PART, [1, 3])
        assert plan.read_bytes() == whole
    plan.unlink()
    with writer_for(file, dataset) as writer:
        assert writer.missing() == [1, 3]


def test_parts_under_a_damaged_plan_are_not_taken_for_those_of_other_settings(tmp_path, dataset, features):
    file = tmp_path / "train.h5"
    with writer_for(file, dataset) as writer:
        writer.write_part(0, features[:PART])
    (paths.parts_folder(file) / "plan.json").write_text("{")
    with pytest.raises(RequestError, match="--overwrite"), writer_for(file, dataset, pooling="max"):
        pass
    with writer_for(file, dataset) as writer:
        assert 0 not in writer.missing(), "a refused request changes nothing"


def test_every_raw_byte_of_the_arrays_is_guarded(tmp_path, dataset, features):
    """A bit flipped on the disk, not through HDF5, is seen too."""
    file = write_all(tmp_path / "train.h5", dataset, features)
    with h5py.File(file) as source:
        where = {name: source[name].id.get_chunk_info(0).byte_offset for name in source}
    content = file.read_bytes()
    for name, offset in where.items():
        flipped = bytearray(content)
        flipped[offset + 5] ^= 16
        file.write_bytes(flipped)
        assert store.verify_features(file).problems, name


def test_an_unreadable_file_is_one_clear_error(tmp_path):
    (tmp_path / "train.h5").write_text("nonsense")
    with pytest.raises(RequestError, match="train.h5 is damaged"):
        store.read_features(tmp_path / "train.h5")
    with pytest.raises(RequestError, match="no feature file at"):
        store.read_features(tmp_path / "absent.h5")


def test_another_setting_is_another_folder_and_the_split_is_not(dataset):
    other = TinyDataset("test", dataset.labels, ["a", "b", "c"])
    one = store.encoder_slug(store.make_identity(dataset, encoder_identity()))
    assert one == store.encoder_slug(store.make_identity(other, encoder_identity()))
    assert one.startswith("stats_s2-12_native_mean_")
    changed = [encoder_identity(pooling="cls"), encoder_identity(weights={"source": "random", "sha256": "1"})]
    assert len({one, *(store.encoder_slug(store.make_identity(dataset, e)) for e in changed)}) == 3
    assert "random" in store.encoder_slug(store.make_identity(dataset, changed[1]))
    assert one != store.encoder_slug(store.make_identity(dataset, encoder_identity(), limit=10))


def test_differing_fields_are_named():
    assert store.differing_fields({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}, "d": 4}) == ["a.c", "d"]


def test_several_feature_sets_are_listed(tmp_path, dataset, features):
    for model in ("stats", "rcf"):
        identity = store.make_identity(dataset, encoder_identity(model))
        folder = paths.feature_folder(tmp_path, store.dataset_slug(identity), store.encoder_slug(identity))
        with store.FeatureWriter(
            paths.feature_file(folder, "train"), identity, rows=ROWS, dim=DIM, dtype="float32"
        ) as writer:
            writer.write_part(0, features)
            writer.finish(dataset, {})
    with pytest.raises(RequestError, match="2 feature sets match; .*--model"):
        store.find_features(tmp_path)
    assert store.find_features(tmp_path, model="rcf").name.startswith("rcf_")
    with pytest.raises(RequestError, match="no features for --model dofa"):
        store.find_features(tmp_path, model="dofa")


def test_a_taken_over_lock_is_not_taken_again(tmp_path, monkeypatch):
    """Two find a dead lock; one takes it over; the other, late, must not rename the new one away."""
    lock = tmp_path / "train.lock"
    lock.write_text(json.dumps({"host": "h", "place": lock_module.place(), "pid": 2**22 + 1, "started": "1"}))
    first, second = Lock(lock), Lock(lock)
    started = lock_module.started

    def late(pid):
        if pid == 2**22 + 1 and not hasattr(first, "text"):
            first.acquire()  # between the second's look at the lock and its taking it
        return started(pid)

    monkeypatch.setattr(lock_module, "started", late)
    with pytest.raises(RequestError, match=f"being written by process {os.getpid()}"):
        second.acquire()
    assert lock.read_text() == first.text
    second.release()
    assert lock.exists(), "another's lock must stay"
    first.release()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_runs_left_is_cleared(tmp_path, dataset, features):
    file = tmp_path / "train.h5"
    (tmp_path / "train.h5.tmp-0123").write_bytes(b"torn")
    write_all(file, dataset, features)
    paths.parts_folder(file).mkdir()
    store.tidy(file)
    assert [path.name for path in tmp_path.iterdir()] == ["train.h5"]


def test_a_disk_that_fills_while_joining_does_not_crash(tmp_path):
    """Whole chunks are reserved: 1,025 rows take two of 1,024; the limit lies between the rows and the chunks."""
    code = """
import resource, sys
from pathlib import Path
import numpy as np
from data import store
from data.command import run, new_app
from helpers import TinyDataset, encoder_identity
labels = np.zeros((1025, 3), np.uint8)
dataset = TinyDataset("train", labels, ["a", "b", "c"])
file = Path(sys.argv[1]) / "train.h5"
app = new_app("featurize", "")
@app.default
def work():
    with store.FeatureWriter(
        file, store.make_identity(dataset, encoder_identity()), rows=1025, dim=1024, dtype="float32"
    ) as writer:
        for part in writer.missing():
            start, stop = writer.bounds(part)
            writer.write_part(part, np.ones((stop - start, 1024), np.float32))
        resource.setrlimit(resource.RLIMIT_FSIZE, (6_000_000, resource.RLIM_INFINITY))
        writer.finish(dataset, {})
sys.exit(run(app, []))
"""
    search = os.pathsep.join([os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))])
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": search},
    )  # fmt: skip
    assert done.returncode == 2 and "no space left to write" in done.stderr, (done.returncode, done.stderr)
    assert not (tmp_path / "train.h5").exists() and not list(tmp_path.glob("*.tmp-*"))


def test_moved_samples_are_another_identity(dataset):
    before = store.make_identity(dataset, encoder_identity())
    dataset.lonlat = dataset.lonlat + 1
    fields = store.differing_fields(before, store.make_identity(dataset, encoder_identity()))
    assert fields == ["split.lonlat_sha256"]


def test_verify_names_an_absent_array_and_goes_on(tmp_path, dataset, features):
    file = write_all(tmp_path / "train.h5", dataset, features)
    with h5py.File(file, "r+") as source:
        del source["labels"]
        source.create_group("more")
    (problem,) = store.verify_features(file).problems
    assert problem.kind is Kind.DAMAGED and "'labels'" in problem.text
