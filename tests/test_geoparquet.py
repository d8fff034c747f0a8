"""Features exported as GeoParquet: read by geopandas and pyarrow, and imported again."""

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import make_features

from data import command, store
from data.errors import RequestError
from data.store.exchange.geoparquet import write_geoparquet
from featurize.cli import app

geopandas = pytest.importorskip("geopandas", reason="needs the extra geo")


@pytest.fixture(params=[True, False])
def features(request, tmp_path):
    folder = make_features(tmp_path, multilabel=request.param, classes=3, rows=(40, 20, 30), dim=5)
    found = store.read_features(folder / "train.h5")
    lonlat = np.random.default_rng(0).uniform((5, 40), (15, 50), (40, 2))
    return dataclasses.replace(found, lonlat=lonlat)


def test_geopandas_reads_the_same_rows_places_and_classes(features, tmp_path):
    write_geoparquet(features, tmp_path / "a.parquet")
    frame = geopandas.read_parquet(tmp_path / "a.parquet").set_index("id").loc[features.ids]
    assert frame.crs == "OGC:CRS84"
    np.testing.assert_array_equal(np.column_stack([frame.geometry.x, frame.geometry.y]), features.lonlat)
    np.testing.assert_array_equal(np.stack(frame["embedding"]), features.features.astype(np.float32))
    if features.multilabel:
        wanted = [{features.class_names[k] for k in np.flatnonzero(row)} for row in features.labels]
        assert [set(names) for names in frame["classes"]] == wanted
    else:
        assert frame["class"].tolist() == [features.class_names[label] for label in features.labels]


def test_the_metadata_is_geoparquet_and_says_what_the_vectors_are(features, tmp_path):
    write_geoparquet(features, tmp_path / "a.parquet")
    file = pq.ParquetFile(tmp_path / "a.parquet")
    geo, emb = (json.loads(file.schema_arrow.metadata[key]) for key in (b"geo", b"emb"))
    assert geo["version"] == "1.1.0" and geo["columns"][geo["primary_column"]]["encoding"] == "WKB"
    np.testing.assert_allclose(
        geo["columns"]["geometry"]["bbox"], [*features.lonlat.min(axis=0), *features.lonlat.max(axis=0)]
    )
    assert emb["emb:dimensions"] == 5 and emb["identity"] == features.identity
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"


def test_neighbouring_rows_are_neighbouring_places(features, tmp_path):
    write_geoparquet(features, tmp_path / "a.parquet")
    frame = geopandas.read_parquet(tmp_path / "a.parquet")

    def steps(points):
        return np.linalg.norm(np.diff(points, axis=0), axis=1).mean()

    assert steps(np.column_stack([frame.geometry.x, frame.geometry.y])) < 0.6 * steps(features.lonlat)


def test_what_is_exported_is_imported_again(features, tmp_path):
    write_geoparquet(features, tmp_path / "a.geoparquet")
    label = "classes" if features.multilabel else "class"
    words = [
        "import",
        str(tmp_path / "a.geoparquet"),
        "--name",
        "back",
        "--label",
        label,
        "--out",
        str(tmp_path / "out"),
    ]
    assert command.run(app, words) == 0
    rows = dict(zip(features.ids, zip(features.features, features.lonlat, strict=True), strict=True))
    read = [store.read_features(file) for file in (tmp_path / "out").rglob("*.h5")]
    assert sorted(name for one in read for name in one.ids) == sorted(features.ids)
    for one in read:
        assert set(one.class_names) == set(features.class_names)
        for name, vector, place in zip(one.ids, one.features, one.lonlat, strict=True):
            np.testing.assert_array_equal(vector, rows[name][0].astype(vector.dtype))
            np.testing.assert_array_equal(place, rows[name][1])


def test_samples_without_locations_are_refused(features, tmp_path):
    with pytest.raises(RequestError, match="--to parquet"):
        write_geoparquet(dataclasses.replace(features, lonlat=None), tmp_path / "a.parquet")
