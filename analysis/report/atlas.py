"""The report's samples as Parquet for Embedding Atlas: coordinates, classes, decisions, locations and pictures."""

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from analysis import frames, samples
from analysis.contract import noted
from analysis.report import thumbnails
from analysis.report.explorer import Shown
from data.files import published
from data.paths import slug
from probes import pooling

NONE = "none"  # a sample without a class
OPEN = "embedding-atlas {file} --x projection_x --y projection_y --image image"


def write_atlas(
    shown: Sequence[Shown], rule: str, folder: Path, *, pictures: int, root: Path | None
) -> tuple[list[Path], list[str]]:
    """Write one file for each encoder that has a UMAP, its decisions under one rule of multi-label runs.

    So many samples have a picture, spread evenly; `root` is the folder of the data.

    Returns:
        The files, and a line for each dataset whose pictures cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files, notes, read = [], [], {}
    for one in shown:
        if one.points is None:
            continue
        same = one.dataset, tuple(one.ids)  # encoders share their samples' pictures
        with noted(notes, f"no pictures of {one.dataset}"):
            if same not in read:
                read[same] = _pictures(one, pictures, root)
        images = read.get(same, {})
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        columns = {"id": one.ids, "image": pa.array([images.get(name) for name in one.ids], kind)}
        columns |= {"class": frames.class_words(one.class_names, one.labels, NONE), **_decisions(one, rule)}
        columns |= {"projection_x": one.points[:, 0], "projection_y": one.points[:, 1]}
        if one.lonlat is not None:
            columns |= {"lon": one.lonlat[:, 0], "lat": one.lonlat[:, 1]}
        file = folder / f"{slug(f'{one.dataset}_{one.words}'.replace(', ', '_'))}.parquet"
        with published(file) as temporary:
            pq.write_table(pa.table(columns), temporary, compression="zstd")
        files.append(file)
    return files, notes


def _decisions(one: Shown, rule: str) -> dict[str, list[str | None]]:
    """What each run predicts, and whether that is right, by column; None for samples it was not tested on."""
    found: dict[str, list] = {}
    labels = frames.run_labels(one.runs)
    for run in one.runs:
        predictions = run.predictions("test")
        rows = pd.Index(predictions.ids).get_indexer(one.ids)
        decided = pooling.judge(run, predictions, rule if run.multilabel else "half").decided
        label = labels[run.dataset, run.encoder, run.folder.name]
        words = frames.class_words(one.class_names, decided, NONE)
        right = (decided[rows] == one.labels).all(axis=1)
        found[f"predicted by {label}"] = [words[row] if row >= 0 else None for row in rows]
        found[f"{label} is right"] = [bool(ok) if row >= 0 else None for row, ok in zip(rows, right, strict=True)]
    return found


def _pictures(one: Shown, count: int, root: Path | None) -> dict[str, dict[str, bytes | str]]:
    """PNG pictures by id, in the form that Embedding Atlas and Hugging Face read."""
    if not count:
        return {}
    wanted = thumbnails.chosen(one.ids, (), count)
    found = {}
    for name, pixels in samples.pictures(one.identity, one.split["name"], wanted, root).items():
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "png")
        found[name] = {"bytes": buffer.getvalue(), "path": f"{name}.png"}
    return found
