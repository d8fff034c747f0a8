"""`analyze report --atlas`: what Embedding Atlas opens agrees with the runs and the samples."""

import io

import numpy as np
import pyarrow.parquet as pq
import pytest
from made_runs import EUROSAT, made_up, make_run
from PIL import Image

from analysis import samples
from analysis.report.atlas import write_atlas
from analysis.report.explorer import Shown
from data.errors import RequestError
from data.runs import find_runs
from probes.metrics import label_matrix

ROWS = 40


@pytest.fixture
def shown(tmp_path):
    """One encoder with a UMAP, of 30 of its 40 test samples in another order."""
    labels, scores = made_up(EUROSAT, multilabel=False, rows=ROWS, skill=1.0)
    make_run(tmp_path, labels, scores, EUROSAT, dataset="eurosat-rgb")
    (run,) = find_runs(tmp_path)
    rows = np.random.default_rng(0).permutation(ROWS)[:30]
    return Shown(
        dataset="eurosat-rgb", words="stats RGB", simulated=False, identity={"name": "eurosat_rgb"},
        split={"name": "test"}, class_names=EUROSAT, ids=[f"test-{row}" for row in rows],
        labels=label_matrix(labels, len(EUROSAT))[rows], total=ROWS,
        points=rows[:, None] * np.array([1, -1], np.float32), lonlat=np.column_stack([rows / 10, rows / 20]),
        neighbours=None, note="", runs=[run],
    )  # fmt: skip


def test_rows_hold_place_class_decision_and_picture(shown, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "open_samples", lambda *_, ids, **__: dict.fromkeys(ids))
    monkeypatch.setattr(samples, "picture", lambda _, name: np.full((8, 8, 3), 5 * int(name[5:]), np.uint8))
    (file,), notes = write_atlas([shown], "tuned", tmp_path / "atlas", pictures=12, root=None)
    assert not notes
    frame = pq.read_table(file).to_pandas().set_index("id")
    predictions = shown.runs[0].predictions("test")
    decided = dict(zip(predictions.ids, predictions.scores.argmax(axis=1), strict=True))
    truth = dict(zip(predictions.ids, predictions.labels, strict=True))
    (predicted,) = [name for name in frame if name.startswith("predicted by")]
    (right,) = [name for name in frame if name.endswith("is right")]
    for name, row in frame.iterrows():
        number = int(name[5:])
        assert (row["projection_x"], row["projection_y"], row["lon"]) == (number, -number, number / 10)
        assert row["class"] == EUROSAT[truth[name]] and row[predicted] == EUROSAT[decided[name]]
        assert row[right] == (truth[name] == decided[name])
    pictured = frame["image"].dropna()
    assert len(pictured) == 12
    for name, image in pictured.items():
        assert np.asarray(Image.open(io.BytesIO(image["bytes"])))[0, 0, 0] == 5 * int(name[5:])


def test_without_the_images_the_file_has_no_pictures_and_a_note(shown, tmp_path, monkeypatch):
    def gone(*_, **__):
        raise RequestError("no images here")

    monkeypatch.setattr(samples, "open_samples", gone)
    (file,), notes = write_atlas([shown], "half", tmp_path, pictures=5, root=None)
    assert pq.read_table(file).column("image").null_count == 30 and "no images here" in notes[0]
