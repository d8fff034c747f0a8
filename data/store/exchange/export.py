"""Feature files as tables and arrays for other tools."""

from pathlib import Path

import numpy as np

from data.command import note
from data.errors import RequestError
from data.files import canonical_json, published
from data.store.exchange.compact import compacted
from data.store.exchange.geoparquet import write_geoparquet
from data.store.exchange.stac import Origin, write_stac
from data.store.reader import read_features


def export(
    file: Path,
    to: str,
    *,
    pca: int | None = None,
    quantize: str | None = None,
    origins: tuple[Origin, Origin] | None = None,
) -> list[Path]:
    """Write a feature file as ``parquet``, ``geoparquet`` or ``npz`` beside it, for other tools.

    Args:
        file: the feature file.
        to: the format.
        pca: dimensions to keep, for GeoParquet; None keeps all.
        quantize: ``int8``, for GeoParquet, or None.
        origins: of the model and of the dataset, to write STAC records beside the GeoParquet.

    Returns:
        The files written.

    Raises:
        RequestError: as `read_features`, the disk is full, or an option that the format does not have.
    """
    if to != "geoparquet" and (pca or quantize or origins):
        raise RequestError("--pca, --quantize and --stac are for --to geoparquet; remove them or change --to")
    features = read_features(file)
    target = file.with_suffix(f".{to}")
    if to == "geoparquet":
        compact = compacted(features, pca, quantize)
        with published(target) as temporary:
            emb, bbox = write_geoparquet(features, temporary, compact)
        if scores := compact.scores:
            kind = ", ".join([*([f"{pca} dimensions"] if pca else []), *([quantize] if quantize else [])])
            note(
                f"linear probe on {scores['split']}: {scores['metric']} {scores['before']:.3f} -> {scores['after']:.3f}"
                f" ({kind}; ridge regression on {scores['train_samples']:,} training samples)"
            )
        more = write_stac(features, target, emb, bbox, *origins) if origins else []
        return [target, *more]
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
            return [target]
        features.to_pandas().to_parquet(temporary, index=False, write_page_checksum=True)
    return [target]
