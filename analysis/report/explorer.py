"""What the report's interactive part shows, made ready in Python: values packed for the page, tables as read.

Arrays travel as gzipped bytes in base64, each once however often it is used: a hundred thousand samples as JSON would
be too much for a browser. Everything that is counted (tables, curves, decisions) is counted here from all test samples,
so that the page can only agree with the runs; scores go as bytes, which is enough to look at.
"""

import base64
import gzip
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float32, Integer, UInt32

from analysis import figures, frames
from analysis.report import coastline, thumbnails
from analysis.views import cases, classes, confusion, similar
from data import store
from data.cached import array_for, keep_array
from data.errors import DiskError, RequestError
from data.files import short_hash
from data.runs import Predictions, Run
from probes import metrics, pooling

NEIGHBOURS = 6  # of a sample, by cosine similarity
MOST_NEIGHBOURS = 20_000  # samples: beyond, all pairs take too long and their numbers too much room
CASES = 6  # correct predictions of a run, and as many errors
THRESHOLDS = np.linspace(0, 1, 101)
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
        total: samples of the split.
        points: (N, 2) float32 UMAP coordinates, or None.
        lonlat: (N, 2) degrees, or None.
        neighbours: (N, NEIGHBOURS) uint32 indices of the samples shown, or None.
        note: why there are no points, else empty.
        runs: its runs.
    """

    dataset: str
    words: str
    simulated: bool
    identity: dict[str, Any]
    split: dict[str, Any]
    class_names: Sequence[str]
    ids: list[str]
    labels: np.ndarray
    total: int
    points: np.ndarray | None
    lonlat: np.ndarray | None
    neighbours: np.ndarray | None
    note: str
    runs: list[Run]


@dataclass
class Panel:
    """Tables of one run under one rule: what the page shows when that run is chosen.

    Args:
        key: of the panel, as the page's script knows it.
        title: what it is of.
        note: how the decisions were made.
        classes: header and cells.
        confusion: header, and rows of a name and cells (text, share or None, whether it is an error).
        square: whether confusion is of classes against classes.
        cases: right decisions and mistakes, each a list of cases.
    """

    key: str
    title: str
    note: str
    classes: tuple[list[str], list[list[str]]]
    confusion: tuple[list[str], list[tuple[str, list[tuple[str, float | None, bool]]]]]
    square: bool
    cases: dict[str, list[dict[str, Any]]]


@dataclass
class Explorer:
    """All of the interactive part.

    Args:
        data: for the page's script, JSON-able.
        blobs: arrays that `data` names.
        sprites: images that `data` names.
        panels: one a run and rule.
        notes: what is left out, and why.
    """

    data: dict[str, Any]
    blobs: Blobs
    sprites: dict[str, bytes]
    panels: list[Panel]
    notes: list[str] = field(default_factory=list)


def from_features(
    features: store.FeatureSet, frame: pd.DataFrame, *, dataset: str, words: str, runs: list[Run], cache: Path
) -> Shown:
    """One encoder's test features, laid out.

    Args:
        features: of test.
        frame: their coordinates, of `analysis.views.umap.compute`.
        dataset: folder name.
        words: the encoder in a few words.
        runs: its runs.
        cache: folder of kept neighbours.
    """
    rows = pd.Index(features.ids).get_indexer(list(frame["id"]))
    truth = metrics.label_matrix(features.labels, len(features.class_names))
    return Shown(
        dataset=dataset,
        words=words,
        simulated=features.simulated,
        identity=features.identity["dataset"],
        split=features.identity["split"],
        class_names=features.class_names,
        ids=list(frame["id"]),
        labels=truth[rows],
        total=len(features.ids),
        points=frame[["x", "y"]].to_numpy(np.float32),
        lonlat=None if features.lonlat is None else features.lonlat[rows],
        neighbours=nearest_neighbours(features, rows, cache),
        note="",
        runs=runs,
    )


def nearest_neighbours(
    features: store.FeatureSet, rows: Integer[np.ndarray, " shown"], cache: Path
) -> UInt32[np.ndarray, "shown k"] | None:
    """Each sample's nearest ones among those shown, by the similarity of `analysis.views.similar`, the nearest first.

    Args:
        features: of the split.
        rows: of those shown.
        cache: folder of kept results.

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
    first = min(
        runs, key=lambda run: frames.split_words(run) != frames.ORIGINAL
    )  # the dataset's own split if any has it
    predictions, shared = first.predictions("test"), first.record["features"]
    rows = np.linspace(0, len(predictions.ids) - 1, min(most, len(predictions.ids))).round().astype(int)
    return Shown(
        dataset=first.dataset,
        words=words,
        simulated=first.simulated,
        identity=shared["dataset"],
        split=shared["splits"]["test"],
        class_names=first.class_names,
        ids=[predictions.ids[row] for row in rows],
        labels=metrics.label_matrix(predictions.labels, len(first.class_names))[rows],
        total=len(predictions.ids),
        points=None,
        lonlat=None if predictions.lonlat is None else predictions.lonlat[rows],
        neighbours=None,
        note=note,
        runs=runs,
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
    """The interactive part.

    Args:
        shown: every encoder on every dataset.
        rules: decision rules of multi-label runs.
        best: the run to open with, under the last rule; None opens the first one.
        pictures: number of thumbnails per dataset, besides those of the cases.
        root: folder of the data.
        cache: where sprites are kept.
    """
    blobs, sets, panels, notes = Blobs(), [], [], []
    for number, one in enumerate(shown):
        sets.append(_one_set(one, rules, blobs, panels, notes, key=f"{number}"))
        if one.points is not None and one.neighbours is None:
            notes.append(f"{one.words}: nearest neighbours, which are found for 2 to {MOST_NEIGHBOURS:,} samples")
    located = any(one.lonlat is not None for one in shown)
    places = {run.folder: (number, at) for number, one in enumerate(shown) for at, run in enumerate(one.runs)}
    number, at = places.get(best.folder, (0, 0)) if best else (0, 0)
    opened = {"set": number, "run": at, "rule": len(rules) - 1 if best and best.multilabel else 0}
    data = {"sets": sets, "open": opened, "coast": blobs.add(coastline.outlines()) if located else None}
    made = Explorer(data, blobs, {}, panels, notes)
    _add_pictures(made, shown, pictures=pictures, root=root, cache=cache)
    return made


def _one_set(
    one: Shown, rules: Sequence[str], blobs: Blobs, panels: list[Panel], notes: list[str], *, key: str
) -> dict[str, Any]:
    names = list(one.class_names)
    labels = frames.run_labels(one.runs)
    multilabel = one.runs[0].multilabel if one.runs else bool((one.labels.sum(axis=1) != 1).any())
    runs = [
        _one_run(
            run, one, labels[run.dataset, run.encoder, run.folder.name], rules, blobs, panels, notes,
            key=f"{key}-{number}",
        )
        for number, run in enumerate(one.runs)
    ]  # fmt: skip
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


def _one_run(
    run: Run, one: Shown, label: str, rules: Sequence[str], blobs: Blobs, panels: list[Panel], notes: list[str], *,
    key: str,
) -> dict[str, Any]:  # fmt: skip
    predictions = run.predictions("test")
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
    entry: dict[str, Any] = {"label": label, "rules": [], "scores": None}
    entry["curves"] = blobs.add(threshold_curves(run, predictions))
    entry["tested"] = None if tested.all() else blobs.add(tested.astype(np.uint8))
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
        panels.append(_panel(run, one, rule, label, f"{key}-{rule}"))
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


def _panel(run: Run, one: Shown, rule: str, label: str, key: str) -> Panel:
    words = frames.rule_words(rule, run.multilabel)
    header, rows = classes.readable(classes.compute([run], (rule,)))
    chosen = cases.compute(run, rule, count=CASES)
    return Panel(
        key=key,
        title=f"{one.dataset}: {one.words}, {label}",
        note=words,
        classes=(header, rows),
        confusion=confusion_table(confusion.compute(run, rule)),
        square=not run.multilabel,
        cases={
            case: [
                row | {"picture": None, "outcomes": cases.outcomes(row) if run.multilabel else {}}
                for row in chosen.loc[chosen["case"] == case].to_dict("records")
            ]
            for case in (cases.CORRECT, cases.ERROR)
        },
    )


def confusion_table(frame: pd.DataFrame) -> tuple[list[str], list[tuple[str, list[tuple[str, float | None, bool]]]]]:
    """A confusion as the page shows it.

    Args:
        frame: of `analysis.views.confusion.compute`.

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
    groups: dict[str, list[int]] = {}
    for number, one in enumerate(shown):
        groups.setdefault(f"{one.dataset} {store.digest_ids(one.ids)}", []).append(number)
    for numbers in groups.values():
        one = shown[numbers[0]]
        panels = [panel for panel in made.panels if int(panel.key.partition("-")[0]) in numbers]
        of_cases = [case["id"] for panel in panels for part in panel.cases.values() for case in part]
        every = list(dict.fromkeys([*one.ids, *of_cases]))  # a case may lie outside the samples drawn
        wanted = thumbnails.chosen(every, of_cases, pictures)
        try:
            sprite = thumbnails.sprite(one.identity, one.split, wanted, root=root, cache=cache)
        except DiskError:
            raise
        except RequestError as error:
            made.notes.append(f"no thumbnails of {one.dataset}: {error}")
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
        place = {name_: slot for slot, name_ in enumerate(wanted)}
        for panel in panels:
            for case in (case for part in panel.cases.values() for case in part):
                slot = place[case["id"]]
                case["picture"] = {
                    "sprite": name, "x": slot % thumbnails.COLUMNS, "y": slot // thumbnails.COLUMNS,
                }  # fmt: skip
