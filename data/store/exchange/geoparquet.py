"""Feature files as GeoParquet 1.1: one list column of vectors, points, and what the vectors are, for other tools."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import RequestError
from data.scene.grid import grids_of
from data.store.exchange.compact import Compact, compacted
from data.store.reader import FeatureSet, read_geometries

ROW_GROUP = 8192


def write_geoparquet(
    features: FeatureSet, target: Path, compact: Compact | None = None
) -> tuple[dict[str, Any], list[float]]:
    """Write one split: ``id``, ``split``, ``class`` or ``classes``, ``embedding``, ``geometry`` (WKB).

    Rows are in Hilbert order, so that readers of a region skip most row groups; the file is compressed by ZSTD. The
    key ``geo`` of its metadata follows GeoParquet 1.1 (longitude and latitude, OGC:CRS84); ``emb`` describes the
    vectors with the fields of STAC's embedding extension. A geometry is a footprint where known, else a point.

    Args:
        features: one split, with locations.
        target: the file to write.
        compact: vectors to write in place of its own, which are float32.

    Returns:
        What `describe` says of the vectors; west, south, east and north in degrees.
    """
    if features.lonlat is None:
        raise RequestError(f"{features.file} has no locations; export it with --to parquet")
    try:
        import geopandas  # deferred: an extra
    except ImportError as error:
        raise RequestError("--to geoparquet needs geopandas: pip install 'frozen-earth[geo]'") from error

    compact = compact or compacted(features, None, None)
    shapes = geopandas.GeoSeries(read_geometries(features), crs="OGC:CRS84")
    order = np.argsort(shapes.hilbert_distance().to_numpy(), kind="stable")
    vectors = compact.vectors[order]
    columns: dict[str, Any] = {
        "id": pa.array([features.ids[row] for row in order]),
        "split": pa.array([features.identity["split"]["name"]] * len(order)).dictionary_encode(),
        **_classes(features, order),
        "embedding": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        "geometry": pa.array(shapes.iloc[order].to_wkb().tolist(), pa.binary()),
    }
    bbox = [float(value) for value in shapes.total_bounds]
    geometry = {"encoding": "WKB", "geometry_types": sorted(shapes.geom_type.unique()), "bbox": bbox}
    emb = describe(features, compact)
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    table = pa.table(columns).replace_schema_metadata({"geo": json.dumps(geo), "emb": json.dumps(emb)})
    pq.write_table(table, target, compression="zstd", row_group_size=ROW_GROUP, write_page_checksum=True)
    return emb, bbox


def describe(features: FeatureSet, compact: Compact) -> dict[str, Any]:
    """What vectors are and how they were made, with the names of STAC's embedding extension 0.0.1 where it has them."""
    encoder, dataset = features.identity["encoder"], features.identity["dataset"]
    grids = grids_of(dataset["provenance"])
    layout: dict[str, Any] = {"layout_type": "variable_grid"}
    if grids:
        layout = {"layout_type": "regular_grid", "chip_size": [grids[0].tile] * 2, "stride": [grids[0].stride] * 2}
    after = {"pca": compact.pca, "probe_score": compact.scores}
    return {
        "emb:type": "chip",
        "emb:dimensions": int(compact.vectors.shape[1]),
        "emb:chip_layout": layout,
        "emb:preprocessing": {key: encoder.get(key) for key in ("bands", "normalization", "image_size", "pooling")},
        **({"emb:quantization": compact.quantization} if compact.quantization else {}),
        **({"emb:postprocessing": after} if any(after.values()) else {}),
        "data_type": str(compact.vectors.dtype),
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
