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
        licence: SPDX identifier, or ``other``.
    """

    title: str
    href: str
    licence: str = "other"


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
    folder, split = parquet.parent, features.identity["split"]["name"]
    name = slug(f"{features.identity['dataset']['name']}_{emb['model']}")
    west, south, east, north = bbox
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    written = datetime.fromtimestamp(features.file.stat().st_mtime, UTC).isoformat(timespec="seconds")
    made = features.environment.get("created", written)
    sources = [{"rel": "emb:source-data", "href": dataset.href, "title": dataset.title}]
    item = {
        "type": "Feature",
        "stac_version": VERSION,
        "stac_extensions": [EXTENSION],
        "id": f"{name}_{split}",
        "collection": name,
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": bbox,
        "properties": {
            "datetime": made,
            "description": "The date is when the embeddings were made; dates of the images are not recorded.",
            **{key: value for key, value in emb.items() if key.startswith("emb:") or key in COLLECTION_FIELDS},
        },
        "links": [
            {"rel": "collection", "href": f"./{COLLECTION}", "type": "application/json"},
            {"rel": "parent", "href": f"./{COLLECTION}", "type": "application/json"},
            *sources,
        ],
        "assets": {
            "embeddings": {
                "href": f"./{parquet.name}",
                "type": "application/vnd.apache.parquet",
                "roles": ["data"],
            }
        },
    }
    target = folder / ITEM.format(split=split)
    _write(target, item)
    items = {file: json.loads(file.read_text()) for file in sorted(folder.glob(ITEM.format(split="*")))}
    boxes = [one["bbox"] for one in items.values()]
    whole = [min(box[k] for box in boxes) for k in (0, 1)] + [max(box[k] for box in boxes) for k in (2, 3)]
    dates = sorted(one["properties"]["datetime"] for one in items.values())
    collection = {
        "type": "Collection",
        "stac_version": VERSION,
        "stac_extensions": [EXTENSION],
        "id": name,
        "title": f"{model.title} embeddings of {dataset.title}",
        "description": f"Embeddings of {dataset.title} (licence: {dataset.licence}) by {model.title} "
        f"(licence: {model.licence}), a vector for each image.",
        "license": "other",
        "extent": {"spatial": {"bbox": [whole]}, "temporal": {"interval": [[dates[0], dates[-1]]]}},
        **{key: emb[key] for key in COLLECTION_FIELDS if key in emb},
        "links": [
            {"rel": "emb:model", "href": model.href, "title": model.title},
            *sources,
            *({"rel": "item", "href": f"./{file.name}", "type": "application/geo+json"} for file in items),
        ],
    }
    _write(folder / COLLECTION, collection)
    return [target, folder / COLLECTION]


def _write(target: Path, record: dict[str, Any]) -> None:
    with published(target) as temporary:
        temporary.write_text(json.dumps(json.loads(canonical_json(record)), indent=2) + "\n")
