"""Audit a dataset: leaks between splits, labels per split, missing classes, constant or duplicate features."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Bool

from analysis import leaks, spectra, tables
from analysis.card import Option, ViewCard
from analysis.contract import Output, Table, ViewRequest, with_simulated
from data import paths, store
from data.bands import Band, choose_bands
from data.command import progress
from data.dataset import EODataset
from data.errors import RequestError
from probes import spatial
from probes.metrics import label_matrix

CARD = ViewCard(
    input="dataset",
    options={
        "pixels": Option(default=True, help="Read all images and search for identical ones."),
        "bands": Option(default="all", help="Band set such as rgb or s2-12, or names such as B04,B08."),
    },
)

# What a finding means. Anything WRONG makes the command exit with 1: scores on these splits are not what they claim to
# be. A NOTE is worth knowing and often intended; UNKNOWN could not be checked.
WRONG, NOTE, GOOD, UNKNOWN = "wrong", "note", "good", "unknown"
QUANTILES = (0, 5, 25, 50, 75, 95, 100)
DISTANCE_COLUMNS = [f"km_{quantile}" for quantile in QUANTILES]
COLUMNS = ["verdict", "check", "where", "count", "of", "example"]


@dataclass(frozen=True)
class Material:
    """What is known of one split: from the dataset, whose bands are to be read, from its features, or both."""

    name: str
    ids: list[str]
    labels: np.ndarray
    class_names: tuple[str, ...]
    lonlat: np.ndarray | None
    dataset: EODataset | None = None
    bands: tuple[Band, ...] = ()
    features: np.ndarray | None = None

    def of_class(self) -> Bool[np.ndarray, "samples classes"]:
        """Which classes each sample has."""
        return label_matrix(self.labels, len(self.class_names))


def run(request: ViewRequest, *, pixels: bool, bands: str) -> list[Output]:
    """Audit the splits of a dataset, of a feature set, or of both."""
    splits, slug, simulated = gather(request, bands=bands)
    frames = {"audit": compute(splits, pixels=pixels), "audit-labels": label_counts(splits)}
    found, far = readable(frames["audit"]), distances(splits)
    shown = {"": (found, 5), "Labels": (readable_labels(frames["audit-labels"]), 1)}
    if len(far):
        frames["audit-distances"] = far
        shown["Distance to the nearest training sample in km, by quantile"] = readable_distances(far), 1
    title, folder = with_simulated(f"Audit of {slug}", simulated), request.target("audit")
    text = f"# {title}\n\n{_sizes(splits)}\n"
    for heading, (table, left) in shown.items():
        text += (f"\n## {heading}\n" if heading else "") + "\n" + tables.markdown_table(*table, left=left)
    wrong, unknown = (list(frames["audit"]["verdict"]).count(verdict) for verdict in (WRONG, UNKNOWN))
    verdict = f"{wrong} of {len(found.rows)} checks found a problem" if wrong else "no problems found"
    verdict += f"; {unknown} could not be run" if unknown else ""
    stems = {name: folder / f"{name}__{slug}" for name in frames}
    csv = [tables.write_csv(frame.assign(simulated=simulated), stems[name]) for name, frame in frames.items()]
    return [
        Output(
            title=title,
            files=(tables.write_document(text, stems["audit"], "md"), *csv),
            dataset=slug,
            caption="Wrong: makes scores on these splits unreliable. Note: often intended.",
            tables=tuple(table for table, _ in shown.values()),
            summary="\n".join([f"{title}: {_sizes(splits)}", *summary(frames["audit"]), verdict]),
            wrong=bool(wrong),
        )
    ]


def gather(request: ViewRequest, *, bands: str = "all") -> tuple[list[Material], str, bool]:
    """Open what the request names.

    Returns:
        The splits in their usual order, the dataset's folder name, and whether it is simulated.

    Raises:
        RequestError: nothing named, and not one feature set to be found; or dataset and features differ in samples.
    """
    chosen, sets = request.data, {}
    named = bool(chosen.dataset or chosen.packed)
    if request.features or not named:
        folder = request.features or store.find_features(request.out)
        present = [split for split in store.splits_in(folder) if chosen.split in ("all", split)]
        if not present:
            raise RequestError(f"no features in {folder}; make them with featurize")
        sets = {split: store.read_features(paths.feature_file(folder, split)) for split in present}
    if not named:
        first = next(iter(sets.values()))
        splits = [
            Material(name, one.ids, one.labels, one.class_names, one.lonlat, features=one.features)
            for name, one in sets.items()
        ]
        return splits, store.dataset_slug(first.identity), first.simulated
    splits = []
    for name, samples in chosen.open(bands=[bands]).items():
        features = sets[name].features if name in sets else None
        if name in sets and sets[name].ids != samples.ids:
            raise RequestError(f"{sets[name].file} was made from different samples from those in {samples.name} {name}")
        about = samples.ids, samples.labels, samples.class_names, samples.lonlat
        read = choose_bands(samples.bands, bands, where=samples.where)
        splits.append(Material(name, *about, dataset=samples, bands=read, features=features))
    first = splits[0].dataset
    assert first is not None
    return splits, store.dataset_slug(store.make_identity(first, {})), bool(first.provenance.get("simulated"))


def compute(splits: Sequence[Material], *, pixels: bool = True) -> pd.DataFrame:
    """Look at everything, at every image too if `pixels`.

    Returns:
        A row per check and split, or pair of splits: ``verdict check where count of example``; ``count`` of ``of``
        samples, classes or dimensions were found, and ``example`` names the first.
    """
    rows = [_count(WRONG, "same id", at, _among(new.ids, old.ids), new.ids) for old, new, at in _pairs(splits)]
    rows += [*_pixels(splits, wanted=pixels), *_places(splits), *_scenes(splits), *_classes(splits)]
    rows += _spectra(splits[0]) if pixels else []
    rows += _features(splits)
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype({"count": "Int64", "of": "Int64"})


def distances(splits: Sequence[Material]) -> pd.DataFrame:
    """Great-circle distance of the samples of val and test to their nearest training sample.

    Returns:
        A row per split: ``split samples``, then the quantiles `QUANTILES` in km, such as ``km_50``; no rows where
        locations are unknown or there is no train.
    """
    train = next((split.lonlat for split in splits if split.name == "train"), None)
    rows = []
    for split in splits:
        if train is None or split.name == "train" or split.lonlat is None:
            continue
        found = np.quantile(spatial.nearest_km(split.lonlat, train), np.array(QUANTILES) / 100)
        rows.append({"split": split.name, "samples": len(split.ids)} | dict(zip(DISTANCE_COLUMNS, found, strict=True)))
    return pd.DataFrame(rows, columns=["split", "samples", *DISTANCE_COLUMNS])


def readable_distances(frame: pd.DataFrame) -> Table:
    """The table of `distances`."""
    columns = {"Split": "{split}", "Samples": "{samples:,}"}
    return Table.of(frame, columns | {f"{quantile}%": f"{{km_{quantile}:,.2f}}" for quantile in QUANTILES})


def label_counts(splits: Sequence[Material]) -> pd.DataFrame:
    """Samples of each class.

    Returns:
        A row per class: ``class``, then for every split ``<split>`` and ``<split>_share``, of all its samples.
    """
    columns = {"class": list(splits[0].class_names)}
    for split in splits:
        has = split.of_class()
        columns |= {split.name: has.sum(axis=0), f"{split.name}_share": has.mean(axis=0)}
    return pd.DataFrame(columns)


Row = tuple[str, str, str, int | None, int | None, str]


def _pairs(splits: Sequence[Material]) -> Iterator[tuple[Material, Material, str]]:
    """Each later split with each earlier one: samples in both were seen in training."""
    for earlier, later in combinations(splits, 2):
        yield earlier, later, f"{later.name} in {earlier.name}"


def _count(verdict: str, check: str, where: str, found: np.ndarray, example: str | Sequence[str] = "") -> Row:
    """A finding, good if nothing was found; the example is given, or the first found of so many."""
    if not found.any():
        return GOOD, check, where, 0, len(found), ""
    first = example if isinstance(example, str) else example[int(np.argmax(found))]
    return verdict, check, where, int(found.sum()), len(found), first


def _twins(earlier: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which of the later values are among the earlier ones, and the place there of each that is."""
    order = np.argsort(earlier, kind="stable")
    indices = np.searchsorted(earlier, later, sorter=order)
    twin = order[np.minimum(indices, len(order) - 1)]
    return earlier[twin] == later, twin


def _example(earlier: Material, later: Material, found: np.ndarray, twin: np.ndarray) -> str:
    row = int(np.argmax(found))
    return f"{later.ids[row]} and {earlier.ids[twin[row]]}"


def _among(names: Sequence[str], known: Sequence[str]) -> np.ndarray:
    return pd.Series(names).isin(known).to_numpy()


def _pixels(splits: Sequence[Material], *, wanted: bool) -> Iterator[Row]:
    if not wanted or any(split.dataset is None for split in splits):
        why = "skipped by --no-pixels" if not wanted else "name the dataset with --dataset"
        yield UNKNOWN, "identical pixels", "all splits", None, None, why
        return
    hashed = {}
    for split in splits:
        assert split.dataset is not None
        with progress(f"reading {split.dataset.name} {split.name}", len(split.ids), "images") as advance:
            hashed[split.name] = leaks.hash_pixels(split.dataset, split.bands, advance)
    for earlier, later, where in _pairs(splits):
        found, twin = _twins(hashed[earlier.name].digests, hashed[later.name].digests)
        example = _example(earlier, later, found, twin)
        yield _count(WRONG, "identical pixels", where, found, example)
        if found.any():
            differ = found & (earlier.of_class()[twin] != later.of_class()).any(axis=1)
            example = _example(earlier, later, differ, twin)
            yield _count(WRONG, "identical pixels with other labels", where, differ, example)
    for split in splits:
        yield _repeats("identical pixels", split, hashed[split.name].digests)
        yield _count(NOTE, "blank images", f"in {split.name}", hashed[split.name].blank, split.ids)


def _spectra(split: Material) -> Iterator[Row]:
    """Sentinel bands of the first split that do not look like what their names say."""
    if split.dataset is None or not any(band.sensor in ("S1", "S2") for band in split.bands):
        return
    found = spectra.mismatches(split.dataset, split.bands)
    strange = {one.band for one in found}
    wrong = np.array([band.name in strange for band in split.bands])
    reasons = "; ".join(f"{one.band}: {one.reason}" for one in found)
    yield _count(WRONG, "bands unlike their names", f"in {split.name}", wrong, reasons)


def _repeats(check: str, split: Material, digests: np.ndarray) -> Row:
    """Samples that repeat an earlier one of the same split."""
    repeated = pd.Series(digests).duplicated().to_numpy()
    row = int(np.argmax(repeated))
    example = f"{split.ids[row]} and {split.ids[int(np.argmax(digests == digests[row]))]}"
    return _count(NOTE, check, f"within {split.name}", repeated, example)


def _places(splits: Sequence[Material]) -> Iterator[Row]:
    if any(split.lonlat is None for split in splits):
        yield UNKNOWN, "overlapping footprints", "all splits", None, None, "no locations"
        return
    size_m = leaks.footprint_m(splits[0].dataset, splits[0].bands) if splits[0].dataset else None
    for earlier, later, where in _pairs(splits):
        assert earlier.lonlat is not None and later.lonlat is not None
        near = leaks.nearness(later.lonlat, earlier.lonlat, size_m)
        overlapping, same = near.share > leaks.OVERLAP, near.share > leaks.SAME_PLACE
        example = _example(earlier, later, same, near.covered_by)
        yield _count(WRONG, "same footprint", where, same, example)
        if size_m:
            worst = np.zeros_like(overlapping)
            worst[np.argmax(near.share)] = True
            example = _example(earlier, later, worst, near.covered_by)
            yield _count(WRONG, "overlapping footprints", where, overlapping, f"{near.share.max():.0%}: {example}")
            yield _count(NOTE, "next to each other, or overlapping", where, near.touches)
        else:
            yield UNKNOWN, "overlapping footprints", where, None, None, "size unknown: name the dataset with --dataset"
        few, half, most = np.quantile(spatial.nearest_km(later.lonlat, earlier.lonlat), [0.05, 0.5, 0.95])
        words = f"5% are within {few:,.2f} km of one, half within {half:,.2f} km, 95% within {most:,.2f} km"
        yield NOTE, "nearest center", where, None, None, words


def _scenes(splits: Sequence[Material]) -> Iterator[Row]:
    words = {split.name: leaks.scenes(split.ids) or {} for split in splits}
    for earlier, later, where in _pairs(splits):
        for check, word, verdict in (
            ("same place by id", "cell", WRONG),
            ("same scene", "scene", NOTE),
            ("same tile", "tile", NOTE),
        ):
            if word in words[earlier.name] and word in words[later.name]:
                mine = words[later.name][word]
                yield _count(verdict, check, where, _among(mine, words[earlier.name][word]), mine)


def _classes(splits: Sequence[Material]) -> Iterator[Row]:
    has = {split.name: split.of_class().any(axis=0) for split in splits}
    anywhere = np.any(list(has.values()), axis=0)
    names = np.array(splits[0].class_names)
    for split in splits:
        absent = anywhere & ~has[split.name]
        yield _count(WRONG, "class absent", f"from {split.name}", absent, ", ".join(names[absent]))
    yield _count(NOTE, "class absent", "from all splits", ~anywhere, ", ".join(names[~anywhere]))
    for split in splits:
        bare = ~split.of_class().any(axis=1)
        yield _count(NOTE, "images without any label", f"in {split.name}", bare, split.ids)


def _features(splits: Sequence[Material]) -> Iterator[Row]:
    known = [split for split in splits if split.features is not None]
    digests = {}
    for split in known:
        assert split.features is not None
        digests[split.name] = leaks.hash_rows(split.features)
        constant = (split.features == split.features[0]).all(axis=0)
        verdict = WRONG if constant.all() and len(split.ids) > 1 else NOTE
        first = f"dimension {int(np.argmax(constant))}"
        yield _count(verdict, "constant features", f"in {split.name}", constant, first)
        columns = leaks.hash_rows(split.features.T)
        repeated = pd.Series(columns).duplicated().to_numpy() & ~constant
        row = int(np.argmax(repeated))
        pair = f"dimensions {int(np.argmax(columns == columns[row]))} and {row}"
        yield _count(NOTE, "duplicate features", f"in {split.name}", repeated, pair)
        yield _repeats("identical features", split, digests[split.name])
    for earlier, later, where in _pairs(known):
        found, twin = _twins(digests[earlier.name], digests[later.name])
        yield _count(WRONG, "identical features", where, found, _example(earlier, later, found, twin))


def readable(findings: pd.DataFrame) -> Table:
    """The table of the findings, the wrong ones first."""
    order = {verdict: place for place, verdict in enumerate((WRONG, NOTE, UNKNOWN, GOOD))}
    rows = []
    for verdict, check, where, count, of, example in zip(*(findings[name].tolist() for name in COLUMNS), strict=True):
        found = "–"
        if isinstance(count, int):  # else there was nothing to count
            found = f"{count:,} of {of:,}" + (f" ({count / of:.1%})" if count else "")
        rows.append([verdict, check, where, found, example])
    rows.sort(key=lambda row: order[row[0]])
    return Table(["Verdict", "Check", "Where", "Found", "Example or reason"], rows)


def summary(findings: pd.DataFrame) -> list[str]:
    """What the command prints: a line per finding, then one line of the checks that found nothing."""
    _, rows = readable(findings)
    lines = []
    for verdict, check, where, found, example in rows:
        if verdict != GOOD:
            text = example if found == "–" else f"{found} ({example})" if example else found
            lines.append(f"{verdict:7}  {check}, {where}: {text}")
    clean = [
        check for check in dict.fromkeys(row[1] for row in rows) if {r[0] for r in rows if r[1] == check} == {GOOD}
    ]
    return [*lines, f"{GOOD:7}  not found: {', '.join(clean)}"] if clean else lines


def readable_labels(labels: pd.DataFrame) -> Table:
    """The table of the label counts, with the share of a split's images that have the class."""
    splits = [column for column in labels.columns if f"{column}_share" in labels]
    return Table.of(labels, {"Class": "{class}"} | {name: f"{{{name}:,}} ({{{name}_share:.1%}})" for name in splits})


def _sizes(splits: Sequence[Material]) -> str:
    return ", ".join(f"{split.name} {len(split.ids):,}" for split in splits) + " images"
