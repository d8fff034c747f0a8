"""Feature files as GeoParquet 1.1: one list column of vectors, points, and what the vectors are, for other tools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import RequestError
from data.store.reader import FeatureSet, read_geometries

ROW_GROUP = 8192


def write_geoparquet(features: FeatureSet, target: Path) -> None:
    """Write one split: ``id``, ``split``, ``class`` or ``classes``, ``embedding`` (float32), ``geometry`` (WKB: a
    footprint where known, else a point).

    Rows are in Hilbert order, so that readers of a region skip most row groups; the file is compressed by ZSTD. The
    key ``geo`` of its metadata follows GeoParquet 1.1 (longitude and latitude, OGC:CRS84); ``emb`` describes the
    vectors with the fields of STAC's embedding extension.

    Args:
        features: one split, with locations.
        target: the file to write.

    Raises:
        RequestError: the samples have no locations, or the extra ``geo`` is not installed.
    """
    if features.lonlat is None:
        raise RequestError(f"{features.file} has no locations; export it with --to parquet")
    try:
        import geopandas  # deferred: an extra
    except ImportError as error:
        raise RequestError("--to geoparquet needs geopandas: pip install 'frozen-earth[geo]'") from error

    shapes = geopandas.GeoSeries(read_geometries(features), crs="OGC:CRS84")
    order = np.argsort(shapes.hilbert_distance().to_numpy(), kind="stable")
    vectors = features.features[order].astype(np.float32)
    columns: dict[str, Any] = {
        "id": pa.array([features.ids[row] for row in order]),
        "split": pa.array([features.identity["split"]["name"]] * len(order)).dictionary_encode(),
        **_classes(features, order),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        "geometry": pa.array(shapes.iloc[order].to_wkb().tolist(), pa.binary()),
    }
    geometry = {
        "encoding": "WKB",
        "geometry_types": sorted(shapes.geom_type.unique()),
        "bbox": [float(value) for value in shapes.total_bounds],
    }
    metadata = {
        "geo": {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}},
        "emb": describe(features),
    }
    table = pa.table(columns).replace_schema_metadata({key: json.dumps(value) for key, value in metadata.items()})
    pq.write_table(table, target, compression="zstd", row_group_size=ROW_GROUP)


def describe(features: FeatureSet) -> dict[str, Any]:
    """What vectors are and how they were made, with the names of STAC's embedding extension 0.0.1 where it has them."""
    encoder, dataset = features.identity["encoder"], features.identity["dataset"]
    return {
        "emb:type": "chip",
        "emb:dimensions": int(features.features.shape[1]),
        "emb:chip_layout": {"layout_type": "irregular"},
        "emb:preprocessing": {
            "bands": encoder.get("bands"),
            "normalization": encoder.get("normalization"),
            "image_size": encoder.get("image_size"),
            "pooling": encoder.get("pooling"),
        },
        "data_type": "float32",
        "stored_as": str(features.features.dtype),
        "model": encoder["name"],
        "variant": encoder.get("variant"),
        "weights": encoder.get("weights"),
        "dataset": dataset["name"],
        "class_names": list(features.class_names),
        "identity": features.identity,
    }


def _classes(features: FeatureSet, order: np.ndarray) -> dict[str, pa.Array]:
    """The names of a sample's classes: one column of lists if it may have several."""
    names = features.class_names
    if features.multilabel:
        present = [[names[k] for k in np.flatnonzero(row)] for row in features.labels[order]]
        return {"classes": pa.array(present, pa.list_(pa.string()))}
    return {"class": pa.array([names[label] if label >= 0 else None for label in features.labels[order]], pa.string())}
