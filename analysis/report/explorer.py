"""Data for the report's interactive part, prepared in Python: values packed for the page, tables as read.

Arrays travel as gzipped bytes in base64, each once however often it is used: a hundred thousand samples as JSON would
be too much for a browser. Everything that is counted (tables, curves, decisions) is counted here from all test samples,
so that the page always agrees with the runs; scores are sent as bytes, which is precise enough to display.
"""

import base64
import gzip
import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Integer, UInt32

from analysis import figures, frames
from analysis.contract import noted
from analysis.report import thumbnails
from analysis.views import cases, classes, confusion, similar
from data import store
from data.cached import array_for, keep_array
from data.files import short_hash
from data.runs import Predictions, Run
from probes import metrics, pooling

NEIGHBOURS = 6  # of a sample, by cosine similarity
MOST_NEIGHBOURS = 20_000  # samples: beyond, all pairs take too long and their numbers too much room
CASES = 6  # correct predictions of a run, and as many errors
THRESHOLDS = np.linspace(0, 1, 101)
# Outlines of the world's countries: Natural Earth, 1:110m (public domain), packed by tests/write_coastline.py.
COASTLINE = Path(__file__).with_name("coastline.npz")
MOST_BYTES = 80_000_000  # of arrays before compression: beyond, a page is slow to open and to send


class Blobs:
    """Arrays for the page, each kept once under a name."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.bytes = 0  # before compression

    def add(self, content: np.ndarray | bytes) -> str:
        """Keep an array's bytes (little-endian) or bytes; return the name to find them by."""
        raw = content if isinstance(content, bytes) else np.ascontiguousarray(content).tobytes()
        name = f"blob-{hashlib.sha256(raw).hexdigest()[:12]}"
        if name not in self.texts:
            self.bytes += len(raw)
            self.texts[name] = base64.b64encode(gzip.compress(raw, 6, mtime=0)).decode()
        return name


@dataclass(frozen=True)
class Shown:
    """One encoder on one dataset, as the page shows it.

    Args:
        dataset: folder name.
        words: the encoder in a few words.
        simulated: whether the samples were generated.
        identity: ``dataset`` identity of the features.
        split: ``split`` identity of test.
        class_names: K names.
        ids: the samples shown.
        labels: (N, K) booleans of these.
        lonlat: (N, 2) degrees, or None.
        total: samples of the split.
        runs: its runs.
        points: (N, 2) float32 UMAP coordinates, or None.
        neighbours: (N, NEIGHBORS) uint32 indices of the samples shown, or None.
        note: why there are no points, else empty.
    """

    dataset: str
    words: str
    simulated: bool
    identity: dict[str, Any]
    split: dict[str, Any]
    class_names: Sequence[str]
    ids: list[str]
    labels: np.ndarray
    lonlat: np.ndarray | None
    total: int
    runs: list[Run]
    points: np.ndarray | None = None
    neighbours: np.ndarray | None = None
    note: str = ""


@dataclass
class Explorer:
    """All of the interactive part.

    Args:
        data: for the page's script, JSON-able.
        blobs: arrays that `data` names.
        sprites: images that `data` names.
        panels: one for each run and rule: see `_panel`.
        notes: what is left out, and why.
    """

    data: dict[str, Any] = field(default_factory=dict)
    blobs: Blobs = field(default_factory=Blobs)
    sprites: dict[str, bytes] = field(default_factory=dict)
    panels: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def from_features(
    features: store.FeatureSet, frame: pd.DataFrame, *, dataset: str, words: str, runs: list[Run], cache: Path
) -> Shown:
    """One encoder's test features at the coordinates of `frame`, of `analysis.views.umap.compute`."""
    rows = pd.Index(features.ids).get_indexer(list(frame["id"]))
    return Shown(
        dataset=dataset,
        words=words,
        simulated=features.simulated,
        identity=features.identity["dataset"],
        split=features.identity["split"],
        class_names=features.class_names,
        runs=runs,
        points=frame[["x", "y"]].to_numpy(np.float32),
        neighbours=nearest_neighbours(features, rows, cache),
        **_samples(features, rows, features.class_names),
    )


def _samples(source: store.FeatureSet | Predictions, rows: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """``ids labels lonlat total`` of `Shown` for some samples of a split."""
    return {
        "ids": [source.ids[row] for row in rows],
        "labels": metrics.label_matrix(source.labels, len(class_names))[rows],
        "lonlat": None if source.lonlat is None else source.lonlat[rows],
        "total": len(source.ids),
    }


def nearest_neighbours(
    features: store.FeatureSet, rows: Integer[np.ndarray, " shown"], cache: Path
) -> UInt32[np.ndarray, "shown k"] | None:
    """Each sample's nearest ones among those shown, by the similarity of `analysis.views.similar`, the nearest first.

    Returns:
        (M, k) indices of `rows`; None if there are more than `MOST_NEIGHBOURS`, or fewer than two.
    """
    if not 2 <= len(rows) <= MOST_NEIGHBOURS:
        return None
    identity = short_hash([NEIGHBOURS, features.digest, store.digest_array(rows)], 16)
    file = cache / f"neighbours-{identity}.npz"
    if (kept := array_for(file, "near", digest=identity)) is not None:
        return kept
    from sklearn.neighbors import NearestNeighbors  # deferred: only where none are kept

    mean = features.features.mean(axis=0, dtype=np.float32)
    unit, count = similar.directions(features.features[rows].astype(np.float32), mean), min(NEIGHBOURS + 1, len(rows))
    near = NearestNeighbors(n_neighbors=count, algorithm="brute", n_jobs=-1).fit(unit).kneighbors(unit)[1]
    others = near != np.arange(len(rows))[:, None]
    others[others.all(axis=1), -1] = False  # of many equal samples, its own number may not be among the first
    near = near[others].reshape(len(rows), count - 1).astype(np.uint32)
    keep_array(file, "near", near, digest=identity)
    return near


def from_runs(runs: list[Run], *, words: str, most: int, note: str) -> Shown:
    """One encoder whose test features are not there: what its runs know of the samples."""
    # the dataset's own split if any run has it
    first = min(runs, key=lambda run: frames.split_words(run) != frames.ORIGINAL)
    predictions, shared = first.predictions("test"), first.record["features"]
    rows = np.linspace(0, len(predictions.ids) - 1, min(most, len(predictions.ids))).round().astype(int)
    return Shown(
        dataset=first.dataset,
        words=words,
        simulated=first.simulated,
        identity=shared["dataset"],
        split=shared["splits"]["test"],
        class_names=first.class_names,
        runs=runs,
        note=note,
        **_samples(predictions, rows, first.class_names),
    )


def explorer(
    shown: Sequence[Shown],
    rules: Sequence[str],
    *,
    pictures: int,
    root: Path | None,
    cache: Path,
    best: Run | None = None,
) -> Explorer:
    """The interactive part of every encoder on every dataset.

    The rules are those of multi-label runs. It opens with the best run under the last rule, or with the first run.
    Each dataset has so many pictures besides those of the cases; sprites of them are kept in `cache`.
    """
    made, sets = Explorer(), []
    for number, one in enumerate(shown):
        sets.append(_one_set(one, rules, made, key=f"{number}"))
        if one.points is not None and one.neighbours is None:
            made.notes.append(f"{one.words}: nearest neighbors, which are found for 2 to {MOST_NEIGHBOURS:,} samples")
    located = any(one.lonlat is not None for one in shown)
    places = {run.folder: (number, at) for number, one in enumerate(shown) for at, run in enumerate(one.runs)}
    number, at = places.get(best.folder, (0, 0)) if best else (0, 0)
    opened = {"set": number, "run": at, "rule": len(rules) - 1 if best and best.multilabel else 0}
    made.data |= {"sets": sets, "open": opened, "coast": made.blobs.add(coastline()) if located else None}
    _add_pictures(made, shown, pictures=pictures, root=root, cache=cache)
    return made


def coastline() -> Float32[np.ndarray, "points 2"]:
    """Longitude and latitude in degrees of the countries' outlines, (N, 2) float32, NaN after each ring."""
    with np.load(COASTLINE) as kept:
        points, ends = kept["hundredths"].astype(np.float32) / 100, np.cumsum(kept["lengths"])
    return np.insert(points, ends, np.nan, axis=0)


def _one_set(one: Shown, rules: Sequence[str], made: Explorer, *, key: str) -> dict[str, Any]:
    names, blobs, labels = list(one.class_names), made.blobs, frames.run_labels(one.runs)
    multilabel = one.runs[0].multilabel if one.runs else bool((one.labels.sum(axis=1) != 1).any())
    runs = [
        _one_run(run, one, labels[run.dataset, run.encoder, run.folder.name], rules, made, key=f"{key}-{number}")
        for number, run in enumerate(one.runs)
    ]
    return {
        "title": f"{one.dataset}: {one.words}",
        "simulated": one.simulated,
        "multilabel": multilabel,
        "classes": names,
        "colours": figures.colours(len(names)),
        "count": len(one.ids),
        "total": one.total,
        "note": one.note,
        "ids": blobs.add("\n".join(one.ids).encode()),
        "labels": blobs.add(np.packbits(one.labels, axis=1)),
        "points": None if one.points is None else blobs.add(one.points),
        "lonlat": None if one.lonlat is None else blobs.add(one.lonlat.astype(np.float32)),
        "neighbours": None if one.neighbours is None else blobs.add(one.neighbours),
        "pictures": None,
        "runs": runs,
    }


def _one_run(run: Run, one: Shown, label: str, rules: Sequence[str], made: Explorer, *, key: str) -> dict[str, Any]:
    predictions, blobs, notes = run.predictions("test"), made.blobs, made.notes
    rows = pd.Index(predictions.ids).get_indexer(one.ids)
    tested = rows >= 0
    if not tested.all() and (split := frames.split_words(run)) != frames.ORIGINAL:
        notes.append(
            f"{one.words}, {label}: tested on its own split ({split}), which has {tested.sum():,} of the "
            f"{len(tested):,} samples shown; its tables and curves are of all its test samples"
        )
    elif not tested.all():
        notes.append(
            f"{one.words}, {label}: {(~tested).sum():,} of the samples shown are not in its test split; the "
            "features have changed since: run probe again"
        )
    linked = bool(tested.any())
    entry: dict[str, Any] = {
        "label": label,
        "rules": [],
        "scores": None,
        "curves": blobs.add(threshold_curves(run, predictions)),
        "tested": None if tested.all() else blobs.add(tested.astype(np.uint8)),
    }
    if linked and blobs.bytes + one.labels.size <= MOST_BYTES:
        entry["scores"] = blobs.add(np.round(predictions.scores[rows] * 255).astype(np.uint8))
    elif linked:
        notes.append(
            f"{one.words}, {label}: scores of individual samples are omitted, because the page would become too large"
        )
    for rule in rules if run.multilabel else ("half",):
        decided = pooling.judge(run, predictions, rule).decided
        values = run.record["per_class"][rule]
        entry["rules"].append(
            {
                "words": frames.rule_words(rule, run.multilabel),
                "panel": f"{key}-{rule}",
                "thresholds": [value["threshold"] for value in values],
                "decisions": blobs.add(np.packbits(decided[rows], axis=1)) if linked else None,
            }
        )
        made.panels.append(_panel(run, one, rule, label, f"{key}-{rule}"))
    return entry


def threshold_curves(run: Run, predictions: Predictions) -> Float32[np.ndarray, "classes 3 101"]:
    """Precision, recall and F2 of every class at thresholds from 0 to 1, over all samples of the split.

    Returns:
        (K, 3, 101) float32. A class is predicted where its score is at least the threshold.
    """
    truth = metrics.label_matrix(predictions.labels, len(run.class_names))
    scores = predictions.scores.astype(np.float64)
    curves = []
    for has, score in zip(truth.T, scores.T, strict=True):
        correct, predicted = (
            len(part) - np.searchsorted(np.sort(part), THRESHOLDS, side="left") for part in (score[has], score)
        )
        tp, fp, fn = correct, predicted - correct, has.sum() - correct
        curves.append([metrics.precision(tp, fp), metrics.recall(tp, fn), metrics.f_beta(tp, fp, fn, 2)])
    return np.array(curves, np.float32)


def _panel(run: Run, one: Shown, rule: str, label: str, key: str) -> dict[str, Any]:
    """Tables of one run under one rule: what the page shows when that run is chosen, known to its script by the key."""
    chosen = cases.compute(run, rule, count=CASES)
    return {
        "key": key,
        "title": f"{one.dataset}: {one.words}, {label}",
        "note": frames.rule_words(rule, run.multilabel),
        "classes": classes.readable(classes.compute([run], (rule,))),
        "confusion": confusion_table(confusion.compute(run, rule)),
        "square": not run.multilabel,  # classes against classes
        "cases": {
            case: [
                row | {"picture": None, "outcomes": cases.outcomes(row) if run.multilabel else {}}
                for row in chosen.loc[chosen["case"] == case].to_dict("records")
            ]
            for case in (cases.CORRECT, cases.ERROR)
        },
    }


def confusion_table(frame: pd.DataFrame) -> tuple[list[str], list[tuple[str, list[tuple[str, float | None, bool]]]]]:
    """A confusion of `analysis.views.confusion.compute` as the page shows it.

    Returns:
        Header; and rows of a name and cells: text, share of the row's samples (None: undefined), whether an error.
    """
    header, lines = confusion.readable(frame)
    outcomes, width = "outcome" in frame, len(header) - 1
    shares = [None if np.isnan(share) else float(share) for share in frame["share"]]
    rows = []
    for i, (name, *texts) in enumerate(lines):
        errors = (head in ("fn", "fp") for head in confusion.OUTCOMES) if outcomes else (h != name for h in header[1:])
        rows.append((name, list(zip(texts, shares[i * width : (i + 1) * width], errors, strict=True))))
    return header, rows


def _add_pictures(made: Explorer, shown: Sequence[Shown], *, pictures: int, root: Path | None, cache: Path) -> None:
    """A sprite for each set of samples; where the data cannot be reached, a note that says why."""
    if not pictures:
        return
    groups: dict[str, list[int]] = defaultdict(list)
    for number, one in enumerate(shown):
        groups[f"{one.dataset} {store.digest_ids(one.ids)}"].append(number)
    for numbers in groups.values():
        one = shown[numbers[0]]
        panels = [panel for panel in made.panels if int(panel["key"].partition("-")[0]) in numbers]
        shown_cases = [case for panel in panels for part in panel["cases"].values() for case in part]
        of_cases = [case["id"] for case in shown_cases]
        every = list(dict.fromkeys([*one.ids, *of_cases]))  # a case may lie outside the samples drawn
        wanted = thumbnails.chosen(every, of_cases, pictures)
        sprite = None
        with noted(made.notes, f"no thumbnails of {one.dataset}"):
            sprite = thumbnails.sprite(one.identity, one.split, wanted, root=root, cache=cache)
        if sprite is None:
            continue
        name = f"sprite-{len(made.sprites)}"
        made.sprites[name] = sprite
        slots = pd.Index(wanted).get_indexer(one.ids).astype(np.int32)
        about = {
            "sprite": name,
            "columns": thumbnails.COLUMNS,
            "slots": made.blobs.add(slots),
            "count": int((slots >= 0).sum()),
        }
        for number in numbers:
            made.data["sets"][number]["pictures"] = about
        place = {id_: slot for slot, id_ in enumerate(wanted)}
        for case in shown_cases:
            y, x = divmod(place[case["id"]], thumbnails.COLUMNS)
            case["picture"] = {"sprite": name, "x": x, "y": y}
