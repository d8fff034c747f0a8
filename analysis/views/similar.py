"""Samples most similar to positive and least similar to negative examples, by cosine similarity, with pictures."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Float32, Integer
from matplotlib.figure import Figure

from analysis import figures, samples
from analysis.card import Option, ViewCard
from analysis.contract import Output, Table, ViewRequest
from analysis.writing import write_view
from data import paths, store
from data.asked import recorded_flag
from data.errors import RequestError, unknown
from data.files import short_hash
from probes.spatial import nearest_km

CARD = ViewCard(
    input="features",
    options={
        "like": Option(
            default="", help="Positive examples: sample ids, or locations as lon,lat; separate several by ';'."
        ),
        "unlike": Option(default="", help="Negative examples, in the same form."),
        "count": Option(default=12, help="Number of samples to show."),
        "data_root": Option(
            default="", help="Folder of the images. Default: the folder that the features were computed from."
        ),
    },
)

FARTHEST_KM = 5.0  # from a place to the center of the sample that stands for it
COLUMNS = 6
COLUMNS_OF_TABLE = {"Rank": "{rank}", "Sample": "{id}", "Similarity": "{similarity:.3f}"}
NOTE = (
    "Similarity: mean cosine similarity to the positive examples minus that to the negative ones, after subtracting "
    "the mean over the split from the features."
)


def run(request: ViewRequest, *, like: str, unlike: str, count: int, data_root: str) -> list[Output]:
    """Rank the samples of one split and draw the best."""
    if not like:
        raise RequestError("--like is missing; give one or more sample ids or locations (lon,lat), separated by ';'")
    if count < 1:
        raise RequestError(f"--count {count}: must be at least 1")
    if request.split == "all":
        raise RequestError("--split all: similarity is computed within one split; use train, val or test")
    folder = request.feature_folder().resolve()
    features = store.read_features(paths.feature_file(folder, request.split), lazy=True)
    examples = [find(features, like, "--like"), find(features, unlike, "--unlike")]
    frame = compute(features, *examples, count=count)
    if frame.empty:
        raise RequestError(f"{features.file}: every sample is an example; name fewer with --like and --unlike")
    frame = frame.assign(dataset=folder.parent.name, encoder=folder.name, simulated=features.simulated)
    pictures = _pictures(features, [features.ids[row] for row in examples[0]] + list(frame["id"]), data_root)
    stem = (
        request.target("similar") / f"similar__{folder.parent.name}__{short_hash([folder.name, like, unlike, count])}"
    )
    names = [features.ids[row] for row in examples[0]]
    return [
        write_view(
            frame, partial(draw_figure, pictures=pictures, examples=names), stem,
            title=f"Similar to {', '.join(names)}", shown=[Table.of(frame, COLUMNS_OF_TABLE)], left=2,
            note=NOTE, reading="", drawn="Similar samples", where=folder.parent.name,
            alt=f"The examples and the {len(frame)} samples most similar to them.",
        )
    ]  # fmt: skip


def find(features: store.FeatureSet, text: str, flag: str) -> Integer[np.ndarray, " examples"]:
    """Rows of the examples that a flag names: ids, or places as ``lon,lat``, separated by ``;``.

    Raises:
        RequestError: an id that is not there, or a place without a sample nearby.
    """
    places = {name: row for row, name in enumerate(features.ids)}
    rows = []
    for word in filter(None, (word.strip() for word in text.split(";"))):
        if word in places:
            rows.append(places[word])
        elif (place := _place(word)) is not None:
            rows.append(_nearest(features, place, f"{flag} {word}"))
        else:
            near = [name for name in features.ids if word in name][:20] or features.ids[:20]
            raise unknown(f"sample of {flag}", word, near)
    return np.array(rows, np.int64)


def _place(word: str) -> tuple[float, float] | None:
    try:
        lon, lat = map(float, word.split(","))
    except ValueError:
        return None
    return lon, lat


def _nearest(features: store.FeatureSet, place: tuple[float, float], given: str) -> int:
    if features.lonlat is None:
        raise RequestError(f"{given}: {features.file} holds no locations; name samples by id")
    km = nearest_km(features.lonlat, np.array([place]))
    if not km.min() <= FARTHEST_KM:
        raise RequestError(f"{given}: the nearest sample is {km.min():,.0f} km away; give lon,lat within the data")
    return int(km.argmin())


def compute(
    features: store.FeatureSet,
    like: Integer[np.ndarray, " examples"],
    unlike: Integer[np.ndarray, " others"],
    *,
    count: int,
) -> pd.DataFrame:
    """At most `count` samples, the most similar first, without the examples, which are rows of the features.

    Returns:
        A row per sample: ``rank id similarity lon lat``.
    """
    values = features.features[:].astype(np.float32)
    similarity = similarities(values, like, unlike)
    similarity[np.concatenate([like, unlike])] = -np.inf
    best = np.argsort(-similarity, kind="stable")[: min(count, int(np.isfinite(similarity).sum()))]
    lonlat = np.full((len(values), 2), np.nan) if features.lonlat is None else features.lonlat
    return pd.DataFrame(
        {
            "rank": np.arange(1, len(best) + 1),
            "id": [features.ids[row] for row in best],
            "similarity": similarity[best],
            "lon": lonlat[best, 0],
            "lat": lonlat[best, 1],
        }
    )


def similarities(
    values: Float32[np.ndarray, "samples dim"],
    like: Integer[np.ndarray, " examples"],
    unlike: Integer[np.ndarray, " others"],
) -> Float[np.ndarray, " samples"]:
    """Mean cosine of every sample to positive examples minus that to negative ones; features are centered first."""
    unit = directions(values, values.mean(axis=0))
    wanted = unit[like].mean(axis=0) - (unit[unlike].mean(axis=0) if len(unlike) else 0)
    return (unit @ wanted).astype(np.float64)


def directions(
    values: Float32[np.ndarray, "samples dim"], mean: Float32[np.ndarray, " dim"]
) -> Float32[np.ndarray, "samples dim"]:
    """Features after subtracting the mean of the split, as rows of length 1: their products are cosine similarities."""
    centred = values - mean
    return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)


def _pictures(features: store.FeatureSet, ids: list[str], data_root: str) -> dict[str, np.ndarray]:
    """Pictures by id; none where the images are not available."""
    root = data_root or recorded_flag(features.environment, "data", "data_root")
    try:
        return samples.pictures(features.identity["dataset"], features.identity["split"]["name"], ids, root)
    except RequestError:
        if data_root:
            raise
        return {}


def draw_figure(frame: pd.DataFrame, *, pictures: dict[str, np.ndarray], examples: list[str]) -> Figure:
    """The examples by id, then the samples most similar to them; gray boxes where there are no pictures."""
    shown: list[tuple[str, str, Any]] = [(name, f"example\n{name}", figures.RIGHT) for name in examples]
    shown += [(row["id"], f"{row['similarity']:.3f}\n{row['id']}", figures.INK) for row in frame.to_dict("records")]
    rows = -(-len(shown) // COLUMNS)
    figure = figures.new_figure(1.9 * COLUMNS, 2.3 * rows + 0.9)
    blank = np.full((8, 8, 3), 235, np.uint8)
    for ax, (name, text, colour) in zip(figures.panels(figure, len(shown), COLUMNS), shown, strict=True):
        figures.draw_sample(ax, pictures.get(name, blank), text, colour=colour)
    return figure
