"""HDF5 that damage or strangers made: one line, bounded memory and time, and the interpreter lives on."""

import os
import resource
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
from helpers import make_features

from data import command, packed, store
from data.errors import RequestError
from data.problems import Kind
from data.store import child as child_process
from featurize.cli import app as featurize
from probes import inputs

ROWS = (40, 20, 20)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of sound features."""
    return make_features(tmp_path_factory.mktemp("made"), multilabel=True, rows=ROWS, dim=8)


@pytest.fixture
def file(made, tmp_path):
    """A copy of one feature file, to be changed."""
    copy = tmp_path / "train.h5"
    copy.write_bytes((made / "train.h5").read_bytes())
    return copy


def replaced(name):
    """A change that puts another array in the place of one."""

    def changing(make):
        def change(file):
            with h5py.File(file, "r+") as target:
                del target[name]
                make(target, name)

        return change

    return changing


def external_storage(target, name):
    target.create_dataset(name, (40, 8), "f4", external=[("/etc/passwd", 0, 1280)])


def virtual(target, name):
    layout = h5py.VirtualLayout((40, 8), "f4")
    layout[:] = h5py.VirtualSource("/nowhere/else.h5", "features", (40, 8))
    target.create_virtual_dataset(name, layout)


def external_link(target, name):
    target[name] = h5py.ExternalLink("/nowhere/else.h5", "features")


def soft_link(target, name):
    target[name] = h5py.SoftLink("/labels")


def huge(target, name):
    target.create_dataset(name, (10**9, 10**6), "f4", chunks=(1024, 8))


def huge_contiguous(target, name):
    target.create_dataset(name, (10**9, 1000), "f4")


def scalar(target, name):
    target.create_dataset(name, data=1.0)


def cube(target, name):
    target.create_dataset(name, data=np.zeros((40, 8, 2), "f4"))


def objects(target, name):
    target.create_dataset(name, data=["a"] * 40, dtype=h5py.string_dtype())


def compound(target, name):
    target.create_dataset(name, data=np.zeros(40, [("a", "f4"), ("b", "i8")]))


def whole_numbers(target, name):
    target.create_dataset(name, data=np.zeros((40, 8), np.int64))


def group(target, name):
    target.create_group(name)


def empty(target, name):
    target.create_dataset(name, data=h5py.Empty("f4"))


STRANGE = [
    external_storage, virtual, external_link, soft_link, huge, huge_contiguous, scalar, cube, objects, compound,
    whole_numbers, group, empty,
]  # fmt: skip


@pytest.mark.parametrize("make", STRANGE, ids=lambda make: make.__name__)
def test_strange_arrays_are_one_line_before_anything_is_read(file, make, capsys):
    replaced("features")(make)(file)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(RequestError, match="train.h5 is damaged") as error:
        store.read_features(file)
    assert "\n" not in str(error.value)
    assert store.verify_features(file).problems and command.run(featurize, ["verify", str(file)]) == 1
    with pytest.raises(RequestError):
        packed.read_header(file)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "kB"


@pytest.mark.parametrize(
    "value",
    [3, b"\xff\xfe", "[]", "{", "x" * 100, np.zeros(3), ["a", "b"], h5py.Empty("S1"), "[" * 100_000],
    ids=["number", "bytes", "list", "cut", "words", "array", "texts", "nothing", "deep"],
)
@pytest.mark.parametrize("name", ["identity", "checksums", "attributes_sha256"])
def test_odd_attributes_are_one_line(file, name, value):
    with h5py.File(file, "r+") as target:
        try:
            target.attrs[name] = value
        except (RuntimeError, OSError):  # too large for an attribute: the library itself says so
            pytest.skip("HDF5 keeps no such attribute")
    for read in (store.read_features, store.read_identity, store.salvage):
        with pytest.raises(RequestError, match="damaged") as error:
            read(file)
        assert "\n" not in str(error.value)


def test_a_member_nobody_wrote_is_refused(file):
    with h5py.File(file, "r+") as target:
        target["more"] = np.zeros(40)
    assert "'more' has no checksum" in " ".join(map(str, store.verify_features(file).problems))


@pytest.mark.parametrize("name", ["features", "labels", "ids"])
def test_probe_never_takes_values_that_are_not_what_was_written(made, tmp_path, name):
    """HDF5's own checksum of the chunk is right here: only ours can tell."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for one in made.glob("*.h5"):
        (folder / one.name).write_bytes(one.read_bytes())
    with h5py.File(folder / "test.h5", "r+") as target:
        target[name][...] = target[name][:][::-1]
    with pytest.raises(RequestError, match=f"test.h5 is damaged.*checksum of '{name}' does not match"):
        inputs.read_splits(folder)


def test_the_recorded_digest_is_that_of_the_values(made):
    one = store.read_features(made / "train.h5", lazy=True)
    kept = inputs.split_identity(one)["features_sha256"]
    assert kept == store.digest_array(one.features[:])


# -------------------------------------------------------------------------------------- what the child does


@pytest.fixture
def child(monkeypatch):
    """Sets what the child process runs; each test has a child of its own."""

    def start(script):
        monkeypatch.setattr(child_process, "COMMAND", "import sys, os, signal, time\n" + script + "\n#{root}{memory}")

    child_process._child.stop()
    child_process._known.clear()
    yield start
    child_process._child.stop()
    child_process._known.clear()


def test_a_file_that_kills_hdf5_is_one_line_and_the_next_file_is_looked_into(file, child, monkeypatch, capsys):
    child("sys.stdin.readline(); os.kill(os.getpid(), signal.SIGSEGV)")
    with pytest.raises(RequestError, match="SIGSEGV"):
        store.read_features(file)
    assert command.run(featurize, ["verify", str(file)]) == 1
    assert "SIGSEGV" in capsys.readouterr().out
    monkeypatch.undo()
    child_process._known.clear()
    assert store.read_features(file).labels.shape == (40, 5)


def test_a_file_that_does_not_answer_is_one_line_and_not_called_damaged(file, child, monkeypatch):
    """The disk may be slow: the next question asks again."""
    with monkeypatch.context() as slow:
        slow.setattr(child_process, "PATIENCE_S", 0.5)
        child("print('.', flush=True); time.sleep(600)")
        with pytest.raises(RequestError, match="no block was read") as error:
            store.read_features(file)
        assert not isinstance(error.value, store.Damaged)
        assert [problem.kind for problem in store.verify_features(file).problems] == [Kind.UNREADABLE]
    monkeypatch.undo()
    assert store.read_features(file).labels.shape == (40, 5)


def test_a_child_that_hangs_ends_by_itself_where_no_parent_is_left():
    hang = (
        "import time; from data.store import checks as i; i.ALARM_S = 1\n"
        "def hanging(file, wanted, beat):\n    beat(); time.sleep(600)\n"
        "i.inspect = hanging; i.serve(2**33)"
    )
    with subprocess.Popen([sys.executable, "-c", hang], stdin=subprocess.PIPE, cwd=child_process.ROOT) as process:
        assert process.stdin is not None
        process.stdin.write(b'{"file": "f", "wanted": "kind"}\n')
        process.stdin.flush()
        assert process.wait(60) == -signal.SIGALRM


def test_one_child_serves_a_command_and_a_known_file_asks_nothing(file, made, child):
    for path in (*made.glob("*.h5"), file, file):
        store.read_features(path)
    process = child_process._child._process
    assert process is not None and process.poll() is None
    asked = len(child_process._known)
    store.read_features(file)
    assert child_process._child._process is process and len(child_process._known) == asked == 4


def test_a_file_that_changed_is_looked_into_again(file):
    store.read_features(file)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) // 2)
    os.replace(file, file.with_name("old.h5"))
    file.write_bytes(content)
    with pytest.raises(RequestError):
        store.read_features(file)


def test_a_damaged_set_stands_in_the_way_only_of_who_means_it(tmp_path):
    good = make_features(tmp_path, multilabel=True, rows=ROWS, dim=8)
    bad = make_features(tmp_path, multilabel=True, rows=ROWS, dim=8, model="rcf")
    for file in bad.glob("*.h5"):
        file.write_bytes(file.read_bytes()[:3000])
    assert store.find_features(tmp_path, model="stats") == good
    for model in ("rcf", None):
        with pytest.raises(RequestError, match="rcf.*is damaged"):
            store.find_features(tmp_path, model=model)
