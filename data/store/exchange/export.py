"""Feature files as tables and arrays for other tools."""

from pathlib import Path

import numpy as np

from data.files import canonical_json, published
from data.store.exchange.geoparquet import write_geoparquet
from data.store.reader import FeatureSet, read_features


def export(file: Path, to: str) -> Path:
    """Write a feature file as ``parquet``, ``geoparquet`` or ``npz`` beside it, for other tools.

    Raises:
        RequestError: as `read_features`, or the disk is full.
    """
    features = read_features(file)
    target = file.with_suffix(f".{to}")
    with published(target) as temporary:
        if to == "npz":
            with temporary.open("wb") as stream:
                np.savez(
                    stream,
                    features=features.features,
                    labels=features.labels,
                    ids=np.array(features.ids),
                    lonlat=np.empty((0, 2)) if features.lonlat is None else features.lonlat,
                    class_names=np.array(features.class_names),
                    identity=canonical_json(features.identity),
                )
            return target
        if to == "geoparquet":
            write_geoparquet(features, temporary)
            return target
        import pandas as pd  # deferred: only this format needs it

        truth: dict[str, np.ndarray] = {}
        if features.lonlat is not None:
            truth = {"lon": features.lonlat[:, 0], "lat": features.lonlat[:, 1]}
        truth |= (
            {f"class: {name}": features.labels[:, k] for k, name in enumerate(features.class_names)}
            if features.multilabel
            else {"label": features.labels, "class": _class_of(features)}
        )
        values = {f"f{d:04d}": column for d, column in enumerate(features.features.T)}
        pd.DataFrame({"id": features.ids, **truth, **values}).to_parquet(temporary, index=False)
    return target


def _class_of(features: FeatureSet) -> np.ndarray:
    """(N,) class names; None for an unlabelled sample."""
    names = np.array([*features.class_names, None], dtype=object)  # None is last: the label -1
    return names[features.labels]
