"""Every kind of damage is found, and repair makes again only what was damaged."""

import json

import h5py
import numpy as np
import pytest
from made_runs import made_up, make_run
from PIL import Image

from data import command, store
from data.errors import RequestError
from data.processes import place
from data.store import child
from data.store.checks import digest_attributes
from featurize.cli import app
from featurize.flags import RunFlags
from featurize.job import Job

DEAD = {"host": "h", "pid": 2**22 + 1, "started": "1", "name": ""}  # no process has this number
SPLIT = ["--model", "stats", "--dataset", "simulated", "--split", "val", "--bands", "B04,B08", "--workers", "0"]


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A whole feature file, as bytes, and the flags' names for its place."""
    out = tmp_path_factory.mktemp("sound")
    assert command.run(app, [*SPLIT, "--limit", "40", "--out", str(out)]) == 0
    (file,) = out.rglob("val.h5")
    return file.relative_to(out), file.read_bytes()


@pytest.fixture
def file(sound, tmp_path, monkeypatch):
    """A copy to damage, of which several chunks make one file."""
    place, content = sound
    copy = tmp_path / place
    copy.parent.mkdir(parents=True)
    copy.write_bytes(content)
    return copy


def flip(file, name, at=0):
    """Flip one bit of the stored bytes of an array, behind HDF5's back."""
    with h5py.File(file) as source:
        array = source[name]
        chunk = array.id.get_chunk_info(at)
    content = bytearray(file.read_bytes())
    content[chunk.byte_offset + 3] ^= 4
    file.write_bytes(content)


def test_flags_of_a_later_version_are_named():
    asked = {"model": {"model": "stats"}, "data": {"dataset": "simulated", "colour_space": "lab"}}
    with pytest.raises(RequestError, match="--colour-space"):
        Job.from_asked(asked, "val", run=RunFlags())


@pytest.mark.parametrize("name", ["features", "labels", "ids"])
def test_one_flipped_bit_is_found_and_repaired(file, sound, name, capsys):
    flip(file, name)
    assert store.verify_features(file).problems, "the damage must be found"
    assert command.run(app, ["verify", str(file)]) == 1
    assert command.run(app, ["verify", str(file), "--repair"]) == 0
    assert "1 of 1 files" in capsys.readouterr().out
    fresh = file.with_name("sound.h5")
    fresh.write_bytes(sound[1])
    with h5py.File(file) as repaired, h5py.File(fresh) as whole:
        for array in ("features", "labels", "ids"):
            assert repaired[array][:].tobytes() == whole[array][:].tobytes()


def test_a_reused_file_is_not_hashed_again(file, monkeypatch, capsys):
    asked, ask = [], child._Child.ask
    monkeypatch.setattr(child._Child, "ask", lambda self, *question: asked.append(question[1]) or ask(self, *question))
    words = [*SPLIT, "--limit", "40", "--out", str(file.parents[3])]
    assert command.run(app, words) == 0 and "reused" in capsys.readouterr().out
    assert set(asked) == {"identity"}
    assert command.run(app, [*words, "--overwrite"]) == 0
    assert "verify" in asked, "what is written is verified"


def test_repair_leaves_the_parts_of_another_run_alone(file):
    """It used to drop the parts folder before it looked at the lock."""
    identity, _ = store.read_identity(file)
    with h5py.File(file) as source:
        features = source["features"][:]
    flip(file, "features")
    size = {"rows": 40, "dim": features.shape[1], "dtype": features.dtype.name, "part_rows": 8}
    with store.FeatureWriter(file, identity, **size, overwrite=True) as writer:
        writer.write_part(0, features[:8])
        with pytest.raises(RequestError, match="is being written by process"):
            store.salvage(file)
        assert writer.missing() == [1, 2, 3, 4]
    assert store.salvage(file) == (8, 40), "its only chunk is damaged, but that part is sound"


def test_only_the_damaged_chunk_is_made_again(file, capsys):
    with h5py.File(file) as source:
        arrays = {name: source[name][:] for name in source}
        attributes = dict(source.attrs)
    file.unlink()
    with h5py.File(file, "w") as target:
        for name, array in arrays.items():
            chunks = (16, *array.shape[1:])
            target.create_dataset(name, data=array, chunks=chunks, fletcher32=True)
        target.attrs.update(attributes)
    assert store.verify_features(file).problems == ()
    flip(file, "features", at=1)
    assert command.run(app, ["verify", str(file), "--repair"]) == 0
    assert "24 of 40 images" in capsys.readouterr().out
    with h5py.File(file) as repaired:
        np.testing.assert_array_equal(repaired["features"][:], arrays["features"])


def test_a_value_changed_with_a_good_chunk_checksum_makes_all_again(file, capsys):
    with h5py.File(file, "r+") as target:
        target["features"][5, 0] += 1
    assert "'features'" in store.verify_features(file).problems[0].text
    assert command.run(app, ["verify", str(file), "--repair"]) == 0
    assert "0 of 40 images" in capsys.readouterr().out


@pytest.mark.parametrize("at", [100, 2000, 5000, -1])
def test_a_file_cut_short_is_found_and_repair_says_what_to_do(file, capsys, at):
    content = file.read_bytes()
    file.write_bytes(content[:at])
    assert store.verify_features(file).problems
    assert command.run(app, ["verify", str(file), "--repair"]) == 1
    assert "--overwrite" in capsys.readouterr().out


def test_a_repair_against_other_data_is_refused(file, capsys):
    with h5py.File(file, "r+") as target:
        identity = target.attrs["identity"].replace('"limit":40', '"limit":41')
        target.attrs["identity"] = identity
        target["features"][5, 0] += 1
        target.attrs["attributes_sha256"] = digest_attributes(target)
    assert command.run(app, ["verify", str(file), "--repair"]) == 1
    assert " dataset.limit " in capsys.readouterr().out


def test_a_repair_that_was_killed_and_is_given_again_ends_well(file, sound, capsys):
    """It used to end with exit code 1, for the parts folder that the repair itself had finished with."""
    flip(file, "features")
    store.salvage(file)  # the first half: what is sound is kept as parts, and then it was killed
    assert command.run(app, ["verify", str(file.parent), "--repair"]) == 0
    assert "1 of 1 files" in capsys.readouterr().out
    assert [path.name for path in file.parent.iterdir()] == ["val.h5"]
    assert command.run(app, ["verify", str(file.parent), "--repair"]) == 0


@pytest.mark.parametrize("with_plan", [True, False])
def test_what_a_repair_killed_after_publishing_left_goes_with_the_next_one(file, with_plan):
    """The parts and the lock used to stay until the next featurize."""
    identity, _ = store.read_identity(file)
    with h5py.File(file) as source:
        features = source["features"][:]
    size = {"rows": 40, "dim": features.shape[1], "dtype": features.dtype.name, "part_rows": 8}
    with store.FeatureWriter(file, identity, **size) as writer:
        writer.write_part(0, features[:8])
    file.with_suffix(".lock").write_text(json.dumps(DEAD | {"place": place()}))
    if not with_plan:
        (writer.parts / "plan.json").unlink()
    assert command.run(app, ["verify", str(file.parent)]) == 0 and writer.parts.exists(), "verify alone changes nothing"
    assert command.run(app, ["verify", str(file.parent), "--repair"]) == 0
    assert [path.name for path in file.parent.iterdir()] == ["val.h5"]


def test_a_repair_keeps_the_parts_of_a_command_that_is_to_replace_a_sound_file(file):
    identity, _ = store.read_identity(file)
    other = identity | {"encoder": identity["encoder"] | {"pooling": "max"}}
    with store.FeatureWriter(file, other, rows=40, dim=3, dtype="float32", part_rows=8) as writer:
        writer.write_part(0, np.zeros((8, 3), np.float32))
    assert command.run(app, ["verify", str(file.parent), "--repair"]) == 0
    assert writer.missing() == [1, 2, 3, 4]


def test_one_file_beyond_repair_does_not_keep_the_next_from_it(file, sound, capsys):
    lost = file.with_name("test.h5")
    lost.write_bytes(sound[1][:100])
    flip(file, "features")
    assert command.run(app, ["verify", str(file.parent), "--repair"]) == 1
    told = capsys.readouterr().out
    assert "test.h5 is damaged" in told and "1 of 2 files" in told
    assert store.verify_features(file).problems == ()


def with_sources(out):
    """A feature file of pictures, which says what it was made from."""
    rng = np.random.default_rng(0)
    for number in range(8):
        picture = out / "images" / "train" / "ab"[number % 2] / f"{number}.png"
        picture.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(picture)
    words = ["--model", "stats", "--dataset", "folder", "--data-root", str(out / "images"), "--split", "train"]
    assert command.run(app, [*words, "--workers", "0", "--out", str(out / "runs")]) == 0
    (file,) = out.rglob("train.h5")
    return file


def test_a_damaged_record_of_the_images_is_found_and_the_file_repaired(tmp_path, capsys):
    """Its advice used to be to repair, and repair's too."""
    file = with_sources(tmp_path)
    features = store.read_features(file).features
    flip(file, "sources")
    assert store.verify_features(file).problems
    with pytest.raises(RequestError, match="verify --repair"):
        store.read_sources(file)
    assert command.run(app, ["verify", str(file), "--repair"]) == 0
    out = capsys.readouterr().out
    assert "record of the source images is damaged" in out and "8 of 8 images" in out
    np.testing.assert_array_equal(store.read_features(file).features, features)
    assert store.read_sources(file) is None


def test_salvage_leaves_out_a_record_of_the_images_that_was_changed(tmp_path):
    file = with_sources(tmp_path)
    with h5py.File(file, "r+") as target:
        target["sources"][2, 1] += 1  # HDF5's own checksum is right then
    assert not store.inspected(file, "sound")["sources"]
    assert store.salvage(file) == (8, 8)
    with h5py.File(file.with_suffix(".parts") / "part-00000.h5") as part:
        assert "sources" not in part


def test_verify_checks_runs_as_runs_wherever_they_are_given(tmp_path, capsys):
    """Predictions are HDF5 files too, and no features."""
    file = with_sources(tmp_path)
    run = make_run(tmp_path / "runs", *made_up(["a", "b"], multilabel=True, rows=40), ["a", "b"]).folder
    for given in ([str(tmp_path / "runs")], ["--out", str(tmp_path / "runs")]):
        capsys.readouterr()
        assert command.run(app, ["verify", *given]) == 0
        out = capsys.readouterr().out
        assert "1 of 1 files" in out and "1 of 1 runs" in out and "effective rank" in out
    assert command.run(app, ["verify", str(run)]) == 0 == command.run(app, ["verify", str(run / "predictions.h5")])
    content = (run / "predictions.h5").read_bytes()
    (run / "predictions.h5").write_bytes(content[:-1])
    assert command.run(app, ["verify", str(run)]) == 1
    assert "predictions.h5 does not match the checksum in run.json" in capsys.readouterr().out
    assert command.run(app, ["verify", str(file)]) == 0
