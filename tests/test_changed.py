"""Images that changed after features were made of them, while they were made, and parts made by other versions."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image
from test_bigearthnet import made_v2, v2  # noqa: F401 - fixtures

from data import command, packed, packing, store
from data.seen import PIXELS, STAMP, stamps
from data.sources import folder as folder_source
from data.store.plan import maker
from featurize import changes as changes_module
from featurize import pipeline
from featurize.cli import app

IMAGES = 20


@pytest.fixture
def images(tmp_path):
    """Class folders of small pictures of noise."""
    rng = np.random.default_rng(0)
    for split, count in (("train", IMAGES), ("val", 4), ("test", 4)):
        for number in range(count):
            file = tmp_path / "images" / split / "ab"[number % 2] / f"{number:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(file)
    return tmp_path / "images"


def featurize(root, *more, out="out", dataset="folder", bands="rgb", part_rows=8):
    words = ["--model", "stats", "--dataset", dataset, "--data-root", str(root), "--split", "train", "--bands", bands]
    words += [
        "--out",
        str(root.parent / out),
        "--workers",
        "0",
        "--part-rows",
        str(part_rows),
        "--batch-size",
        "4",
        *more,
    ]
    return command.run(app, words)


def made(root, out="out"):
    (file,) = (root.parent / out).rglob("train.h5")
    return file


def repaint(file, *, keep_times):
    about = file.stat()
    pixels = np.asarray(Image.open(file)).copy()
    pixels[0, 0] ^= 1
    before = file.read_bytes()
    for level in range(10):  # a picture of the same size
        Image.fromarray(pixels).save(file, compress_level=level)
        if len(file.read_bytes()) == len(before):
            break
    if keep_times:
        os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_a_copy_with_new_times_is_reused_with_a_note_and_read_only_once(images, capsys, monkeypatch):
    assert featurize(images) == 0, capsys.readouterr().err
    before = made(images).read_bytes()
    shutil.copytree(images, images.parent / "copy" / "images", copy_function=shutil.copyfile)
    shutil.rmtree(images)
    (images.parent / "copy" / "images").rename(images)
    assert featurize(images) == 0
    out, err = capsys.readouterr()
    assert "reused" in out and f"times of {IMAGES} images changed" in err and "pixels are identical" in err
    assert made(images).read_bytes() == before
    compared = []
    monkeypatch.setattr(changes_module, "_compare", lambda *about: compared.append(len(about[-1])))
    assert featurize(images) == 0 and compared == [0], "what was found the same is not read again"


@pytest.mark.parametrize("image", ["train/a/00.png", "train/b/13.png"])
def test_other_pixels_are_noticed_and_named(images, capsys, image):
    assert featurize(images) == 0
    before = made(images).read_bytes()
    repaint(images / image, keep_times=False)
    assert featurize(images) == 2
    assert f"1 images changed since {made(images)} was made, first '{image}'" in capsys.readouterr().err
    assert made(images).read_bytes() == before
    assert featurize(images, "--overwrite") == 0 and featurize(images) == 0


def test_pixels_replaced_with_the_same_size_and_time_are_noticed_where_they_are_read_again(images, capsys):
    """Reuse reads a few images again; repair reads those that it makes again."""
    assert featurize(images) == 0
    repaint(images / "train/a/00.png", keep_times=True)
    assert featurize(images) == 2
    assert "'train/a/00.png'" in capsys.readouterr().err


def test_a_repair_does_not_mix_in_other_pixels(images, capsys):
    assert featurize(images) == 0
    file = made(images)
    content = bytearray(file.read_bytes())
    place = content.index(store.read_features(file).features[3].tobytes())
    content[place + 1] ^= 64
    file.write_bytes(content)
    for image in sorted((images / "train").rglob("*.png")):
        repaint(image, keep_times=True)
    assert command.run(app, ["verify", "--repair", str(file)]) == 1
    assert "images changed since" in "".join(capsys.readouterr()) and store.verify_features(file).problems


def test_an_image_replaced_between_look_and_read_is_noticed(images, capsys, monkeypatch):
    check = pipeline.check_inputs

    def then_replace(*about):
        check(*about)
        repaint(images / "train/b/01.png", keep_times=False)

    monkeypatch.setattr(pipeline, "check_inputs", then_replace)
    assert featurize(images) == 2
    assert "'train/b/01.png'" in capsys.readouterr().err


def test_a_packed_file_does_not_vouch_for_pixels_replaced_between_look_and_read(images, tmp_path, capsys, monkeypatch):
    """Its header carries the digest of the files as they were opened."""
    header = packing._make_header

    def then_replace(*about, **more):
        made = header(*about, **more)
        repaint(images / "train/b/01.png", keep_times=False)
        return made

    monkeypatch.setattr(packing, "_make_header", then_replace)
    file = tmp_path / "images.h5"
    words = ["pack", "--dataset", "folder", "--data-root", str(images), "--bands", "rgb", "--to", str(file)]
    assert command.run(app, words) == 2
    assert "'train/b/01.png'" in capsys.readouterr().err
    assert not file.exists()


def interrupted(root, monkeypatch, **more):
    """Features of which one part is done."""
    write = store.PartWriter.write_part

    def once(self, part, *about):
        write(self, part, *about)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(store.PartWriter, "write_part", once)
        assert featurize(root, **more) == 130


def test_a_finished_part_of_images_that_changed_is_made_again(v2, capsys, monkeypatch):  # noqa: F811
    """BigEarthNet's identity has the content of a few patches and no times."""
    from data.sources import bigearthnet

    look = bigearthnet._sample
    monkeypatch.setattr(bigearthnet, "_sample", lambda *about: ("a digest of other patches", look(*about)[1]))
    about = {"dataset": "bigearthnet", "bands": "B02", "part_rows": 1}
    interrupted(v2, monkeypatch, **about)
    for file in v2.rglob("*_B02.tif"):
        os.utime(file, (1, 1))
    capsys.readouterr()
    interrupted(v2, monkeypatch, **about)
    assert "changed" not in capsys.readouterr().out, "the pixels are the same"
    for file in v2.rglob("*_B02.tif"):
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
    assert featurize(v2, **about) == 0
    assert "images of 2 finished parts changed" in capsys.readouterr().out


def retime(root):
    for file in root.rglob("*.png"):
        os.utime(file, (1, 1))


def test_finished_parts_are_kept_where_only_the_times_of_the_images_changed(images, capsys, monkeypatch):
    """As of a copy of the data, or another checkout of it."""
    interrupted(images, monkeypatch)
    retime(images)
    assert featurize(images) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "8 of 20 images already done" in out and "changed" not in out
    assert featurize(images) == 0 and "identical" in capsys.readouterr().err


def test_a_finished_part_is_made_again_where_the_pixels_changed_too(images, capsys, monkeypatch):
    interrupted(images, monkeypatch)
    retime(images)
    repaint(images / "train/a/00.png", keep_times=False)
    assert featurize(images) == 0, capsys.readouterr().err
    assert "images of 1 finished parts changed" in capsys.readouterr().out
    assert store.verify_features(made(images)).problems == () and featurize(images) == 0


def test_parts_that_do_not_say_what_they_are_of_are_made_again_where_the_times_changed(images, capsys, monkeypatch):
    """Parts of v0.1: only the digest in the identity vouched for them."""
    write = store.PartWriter.write_part
    with monkeypatch.context() as old:
        old.setattr(store.PartWriter, "write_part", lambda self, part, features, _: write(self, part, features))
        interrupted(images, old)
    capsys.readouterr()
    retime(images)
    assert featurize(images) == 0
    assert "images of 1 finished parts changed" in capsys.readouterr().out


@pytest.mark.parametrize("changed", [False, True])
def test_a_damaged_file_is_repaired_where_only_the_times_of_the_images_changed(images, capsys, changed):
    assert featurize(images) == 0
    file = made(images)
    content = bytearray(file.read_bytes())
    place = content.index(store.read_features(file).features[3].tobytes())
    content[place + 1] ^= 64
    file.write_bytes(content)
    retime(images)
    if changed:
        repaint(images / "train/b/13.png", keep_times=False)
    assert command.run(app, ["verify", "--repair", str(file)]) == int(changed)
    assert ("images changed since" in "".join(capsys.readouterr())) is changed
    assert bool(store.verify_features(file).problems) is changed


def test_a_run_killed_before_its_first_part_leaves_no_trace_of_its_versions(images, capsys, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as then:
        then.setattr("data.store.writer.maker", lambda: maker() | {"torch": "2.0.1"})
        then.setattr(store.PartWriter, "write_part", killed)
        assert featurize(images) == 130
    interrupted(images, monkeypatch)
    (plan,) = images.parent.rglob("plan.json")
    assert json.loads(plan.read_text())["made_by"] == [maker()]
    assert featurize(images) == 0
    assert "other versions" not in capsys.readouterr().err
    assert "parts_made_by" not in store.read_identity(made(images))[1]


def test_bigearthnet_pixels_replaced_after_features_were_made_are_noticed(v2, capsys, monkeypatch):  # noqa: F811
    """By sizes and times: the digest in the identity is of the content of 16 patches, here of none."""
    from data.sources import bigearthnet

    look = bigearthnet._sample
    monkeypatch.setattr(bigearthnet, "_sample", lambda *about: ("a digest of other patches", look(*about)[1]))
    assert featurize(v2, dataset="bigearthnet", bands="B02") == 0, capsys.readouterr().err
    file = made(v2)
    recorded = store.read_sources(file)
    assert recorded is not None and recorded.dtype == np.uint64 and (recorded != 0).all()
    (changed, *_) = [
        path for path in sorted(v2.rglob("*_B02.tif")) if path.parent.name in store.read_features(file).ids
    ]
    content = bytearray(changed.read_bytes())
    content[-1] ^= 1
    changed.write_bytes(content)
    opened = []
    monkeypatch.setattr(changes_module, "SAMPLED", 0)
    read = bigearthnet.read_bands
    monkeypatch.setattr(bigearthnet, "read_bands", lambda *a, **k: opened.append(a[0]) or read(*a, **k))
    assert featurize(v2, dataset="bigearthnet", bands="B02") == 2
    assert f"first '{changed.parent.name}'" in capsys.readouterr().err
    assert len(opened) == 1, "only the file with another time is read"


def test_packed_images_have_the_checksums_of_the_files(images, capsys):
    """Features of one are reused for the other, so what they were made from must be comparable."""
    assert featurize(images) == 0
    words = ["pack", "--dataset", "folder", "--data-root", str(images), "--split", "train", "--workers", "0"]
    assert command.run(app, [*words, "--to", str(images.parent / "p.h5")]) == 0
    assert (
        command.run(
            app,
            [
                "--model",
                "stats",
                "--packed",
                str(images.parent / "p.h5"),
                "--out",
                str(images.parent / "packed"),
                "--workers",
                "0",
            ],
        )
        == 0
    )
    plain, of_pack = (store.read_sources(made(images, out)) for out in ("out", "packed"))
    assert plain is not None and of_pack is not None
    assert (plain[:, PIXELS] == of_pack[:, PIXELS]).all() and not of_pack[:, STAMP].any()
    split = packed.PackedSplit(images.parent / "p.h5", "train")
    assert stamps(split, split.bands) is None


def test_images_that_changed_since_they_were_packed_are_noticed(images, capsys):
    """Features of a packed file have no stamps of the files that it was packed from, only checksums."""
    pack = str(images.parent / "p.h5")
    words = ["--dataset", "folder", "--data-root", str(images), "--split", "train", "--workers", "0"]
    assert command.run(app, ["pack", *words, "--to", pack]) == 0
    where = ["--out", str(images.parent / "out"), "--workers", "0"]
    assert command.run(app, ["--model", "stats", "--packed", pack, *where]) == 0
    assert featurize(images) == 0, capsys.readouterr().err
    retime(images)
    capsys.readouterr()
    assert featurize(images) == 0 and "pixels are identical" in capsys.readouterr().err
    repaint(images / "train/b/13.png", keep_times=False)
    assert featurize(images) == 2
    assert "1 images changed since" in capsys.readouterr().err


def test_one_image_of_unknown_pixels_leaves_the_word_to_the_digest(images, capsys, monkeypatch):
    write = store.PartWriter.write_part

    def partly(self, part, features, sources):
        write(self, part, features, None if part == 1 else sources)

    monkeypatch.setattr(store.PartWriter, "write_part", partly)
    assert featurize(images) == 0 and featurize(images) == 0
    retime(images)
    assert featurize(images) == 2 and " split.files_sha256" in capsys.readouterr().err


def test_features_of_v0_1_are_reused_as_before(images, capsys):
    """They have no record of what they were made from."""
    assert featurize(images) == 0
    file = made(images)
    features, identity = store.read_features(file), store.read_identity(file)[0]

    class Source:
        labels, ids, lonlat, class_names = features.labels, features.ids, None, features.class_names
        footprint = geometry = None

    with store.FeatureWriter(
        file, identity, rows=IMAGES, dim=features.features.shape[1], dtype="float32", part_rows=8
    ) as writer:
        for part in writer.missing():
            writer.write_part(part, features.features[slice(*writer.bounds(part))])
        writer.finish(Source(), {})  # type: ignore[arg-type]
    assert store.read_sources(file) is None and featurize(images) == 0
    repaint(images / "train/a/00.png", keep_times=False)
    assert featurize(images) == 2 and "split.files_sha256" in capsys.readouterr().err


def test_parts_of_another_version_are_joined_with_a_word_and_a_record(images, capsys, monkeypatch):
    old = maker() | {"torch": "2.0.1", "code": "0123456789ab"}
    with monkeypatch.context() as then:
        then.setattr("data.store.writer.maker", lambda: old)
        interrupted(images, then)
    (plan,) = images.parent.rglob("plan.json")
    assert json.loads(plan.read_text())["made_by"] == [old]
    assert featurize(images) == 0
    err = capsys.readouterr().err
    assert f"torch 2.0.1, now {maker()['torch']}" in err and "code 0123456789ab" in err
    assert store.read_identity(made(images))[1]["parts_made_by"] == [old, maker()]


def test_parts_of_the_same_version_are_joined_without_a_word(images, capsys, monkeypatch):
    interrupted(images, monkeypatch)
    capsys.readouterr()
    assert featurize(images) == 0
    assert "other versions" not in capsys.readouterr().err
    assert "parts_made_by" not in store.read_identity(made(images))[1]


def test_a_disk_that_fails_while_images_are_read_is_one_line(images, capsys, monkeypatch):
    def failing(*_, **__):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(folder_source.Folder, "read", failing)
    monkeypatch.setattr(pipeline, "check_inputs", lambda *_: None)
    monkeypatch.setattr(folder_source, "measured_statistics", lambda *_: {})
    assert featurize(images, "--normalize", "none") == 2
    assert "input/output error" in capsys.readouterr().err
