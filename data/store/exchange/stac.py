"""STAC records of exported embeddings: an item for each split and a collection, with the embedding extension 0.0.1."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from data.files import canonical_json, published
from data.paths import slug
from data.store.reader import FeatureSet

VERSION = "1.1.0"
EXTENSION = "https://stac-extensions.github.io/embedding/v0.0.1/schema.json"
COLLECTION = "collection.json"
ITEM = "{split}.stac.json"
COLLECTION_FIELDS = ("emb:type", "emb:dimensions", "emb:chip_layout", "data_type", "gsd")


@dataclass(frozen=True)
class Origin:
    """Where a model or a dataset comes from.

    Args:
        title: its name.
        href: its paper or page.
        license: SPDX identifier, or ``other``.
    """

    title: str
    href: str
    license: str = "other"


def write_stac(
    features: FeatureSet, parquet: Path, emb: dict[str, Any], bbox: list[float], model: Origin, dataset: Origin
) -> list[Path]:
    """Write the item of a split beside its GeoParquet, and the collection of all items in that folder.

    The dates of the images are not recorded in feature files: an item's date is when its embeddings were made.

    Args:
        features: one split.
        parquet: what was exported of it.
        emb: the fields of the embedding extension, as `geoparquet.describe` gives them.
        bbox: west, south, east and north in degrees.
        model: what made the vectors.
        dataset: what they were made from.

    Returns:
        The item and the collection.
    """
    folder, name = parquet.parent, slug(f"{features.identity['dataset']['name']}_{emb['model']}")
    target = folder / ITEM.format(split=features.identity["split"]["name"])
    _write(target, _item(features, parquet.name, name, emb, bbox, dataset))
    items = {file.name: json.loads(file.read_text()) for file in sorted(folder.glob(ITEM.format(split="*")))}
    _write(folder / COLLECTION, _collection(items, name, emb, model, dataset))
    return [target, folder / COLLECTION]


def _item(
    features: FeatureSet, parquet: str, name: str, emb: dict[str, Any], bbox: list[float], dataset: Origin
) -> dict[str, Any]:
    """The item of a split; `name` is its collection's."""
    west, south, east, north = bbox
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    written = datetime.fromtimestamp(features.file.stat().st_mtime, UTC).isoformat(timespec="seconds")
    return {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": [EXTENSION],
        "id": f"{name}_{features.identity['split']['name']}",
        "collection": name,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": bbox,
        "properties": {
            "datetime": features.environment.get("created", written),
            "description": "The date is when the embeddings were made; dates of the images are not recorded.",
            **{key: value for key, value in emb.items() if key.startswith("emb:") or key in COLLECTION_FIELDS},
        },
        "links": [
            {"rel": "collection", "href": f"./{COLLECTION}", "type": "application/json"},
            {"rel": "parent", "href": f"./{COLLECTION}", "type": "application/json"},
            _source(dataset),
        ],
        "assets": {"embeddings": {"href": f"./{parquet}", "type": "application/vnd.apache.parquet", "roles": ["data"]}},
    }


def _collection(
    items: dict[str, dict[str, Any]], name: str, emb: dict[str, Any], model: Origin, dataset: Origin
) -> dict[str, Any]:
    """The collection of items by file name."""
    boxes = [one["bbox"] for one in items.values()]
    whole = [min(box[k] for box in boxes) for k in (0, 1)] + [max(box[k] for box in boxes) for k in (2, 3)]
    dates = sorted(one["properties"]["datetime"] for one in items.values())
    return {
        "type": "Collection",
        "stac_version": VERSION,
        "stac_extensions": [EXTENSION],
        "id": name,
        "title": f"{model.title} embeddings of {dataset.title}",
        "description": f"Embeddings of {dataset.title} (license: {dataset.license}) by {model.title} "
        f"(license: {model.license}), one vector per image.",
        "license": "other",
        "extent": {"spatial": {"bbox": [whole]}, "temporal": {"interval": [[dates[0], dates[-1]]]}},
        **{key: emb[key] for key in COLLECTION_FIELDS if key in emb},
        "links": [
            {"rel": "emb:model", "href": model.href, "title": model.title},
            _source(dataset),
            *({"rel": "item", "href": f"./{file}", "type": "application/geo+json"} for file in items),
        ],
    }


def _source(dataset: Origin) -> dict[str, str]:
    return {"rel": "emb:source-data", "href": dataset.href, "title": dataset.title}


def _write(target: Path, record: dict[str, Any]) -> None:
    with published(target) as temporary:
        temporary.write_text(json.dumps(json.loads(canonical_json(record)), indent=2) + "\n")
